"""Module level of the calibration: positions of the modules, from rings and Bragg peaks.

All displacements are fitted together with the geometry of each powder image (distance, beam centre,
two tilts) and of each rotation scan (shift, rotation, distance) by linearised least squares.

Some common motions of all modules are motions of the whole detector. Constraints exclude these
motions: the fitted modules, with equal weight, have zero mean shift, zero net rotation and zero
radial expansion.

Rings do not measure the rotation of a module about the beam. With one beam centre, at any distance,
a small rotation of a module cannot be distinguished from a large tangential shift, and such a fit
is refused. Beam centres that differ by a large fraction of the detector's size separate the two.
If the distance of the beam centres is a fraction f of the detector's size, the error of the modules
is proportional to 1/f, and the condition number to 1/f².
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hklflow.base.errors import HklflowError
from hklflow.calibration.detectors import detector_modules
from hklflow.calibration.module_data import (
    Bragg,
    BraggPeaks,
    RingImage,
    Rings,
    Rows,
    bragg_peaks,
    ring_image,
)
from hklflow.calibration.module_gaps import modules_from_gaps
from hklflow.calibration.module_table import ModuleRow, table
from hklflow.geometry import Detector
from hklflow.geometry.modules import Modules

__all__ = [
    "LEVELS",
    "BraggPeaks",
    "ModuleFit",
    "ModuleRow",
    "RingImage",
    "bragg_peaks",
    "detector_modules",
    "fit_modules",
    "modules_from_gaps",
    "ring_image",
]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Parts of the fit: the geometry of each image as a whole, and the modules.
LEVELS = ("detector", "module")

# Examples: 1e6 to 1e8 for one beam centre; 1e5 for beam centres at a distance of 2 % of the
# detector's side; 4e2 for 30 %.
_MAX_CONDITION = 1e5
_OUTLIER = 5.0  # robust standard deviations
_MAX_CYCLES = 20


@dataclass(frozen=True)
class ModuleFit:
    """Result of a fit of modules.

    Attributes
    ----------
    modules : Modules
    shift_sigma : (n, 2) array
        Pixels; 0 for parameters that were held.
    rotation_sigma : (n,) array
        Radians; 0 for parameters that were held.
    detectors : tuple of Detector
        Geometry of each powder image, with the modules.
    condition : float
        Condition number of the normal matrix, scaled to a unit diagonal, within the constraints.
    chi2 : float
        Reduced χ²; if it is above 1, the standard deviations are multiplied by its square root.
    points, rejected : int
        Number of used points, and of points left out as outliers or because they are on no module.
    table : tuple of ModuleRow
    """

    modules: Modules
    shift_sigma: Floats
    rotation_sigma: Floats
    detectors: tuple[Detector, ...]
    condition: float
    chi2: float
    points: int
    rejected: int
    table: tuple[ModuleRow, ...]

    def metrics(self) -> dict[str, Any]:
        """Return the statistics of the fit for JSON."""
        names = ("condition", "chi2", "points", "rejected")
        return {
            **{name: getattr(self, name) for name in names},
            "modules": [asdict(row) for row in self.table],
            "largest_sigma_px": float(np.max(self.shift_sigma)),
            "rms_shift_px": float(np.sqrt(np.mean(self.modules.shift**2))),
            "improvement": self.improvement,
        }

    @property
    def improvement(self) -> float:
        """Ratio of the rms residual after the fit to the rms residual before."""
        rows = [row for row in self.table if row.rms_before_px and row.rms_after_px is not None]
        before, after = (
            sum(row.points * float(getattr(row, f"rms_{when}_px")) ** 2 for row in rows)
            for when in ("before", "after")
        )
        return float(np.sqrt(after / before))


def fit_modules(
    modules: Modules,
    images: Sequence[RingImage] = (),
    bragg: Sequence[BraggPeaks] = (),
    *,
    levels: Collection[str] = LEVELS,
    min_points: int = 6,
    min_rotation_points: int = 50,
) -> ModuleFit:
    """Fit the displacements of modules, together with the geometry of each image and scan.

    Parameters
    ----------
    modules : Modules
        Modules before the fit. Modules with too few points keep their displacement and take no part
        in the constraints.
    images : sequence of RingImage
    bragg : sequence of BraggPeaks
    levels : collection of str
        A subset of `LEVELS`: "detector" alone refines each image with fixed modules, "module"
        alone refines the modules with fixed images and scans.
    min_points : int
        Least number of points; modules with fewer points are held.
    min_rotation_points : int
        The rotation of a module is held unless it has more points than this.

    Raises
    ------
    HklflowError
        If there is nothing to fit, or the data cannot determine the parameters.
    """
    unknown = sorted(set(levels) - set(LEVELS))
    if unknown or not levels or not (images or ("module" in levels and bragg)):
        raise HklflowError(
            f"calibration of levels {sorted(levels)} from {len(images)} powder images and "
            f"{len(bragg)} lists of Bragg peaks: levels are {' and '.join(LEVELS)}, the detector "
            "level needs powder images, the module level powder images or Bragg peaks"
        )
    return _Fit(modules, images, bragg, levels, min_points, min_rotation_points).run()


class _Fit:
    """Fit of the shift along slow, the shift along fast and the rotation of each module.

    The geometry of each image and scan is fitted, too.
    """

    def __init__(
        self,
        modules: Modules,
        images: Sequence[RingImage],
        bragg: Sequence[BraggPeaks],
        levels: Collection[str],
        min_points: int,
        min_rotation_points: int,
    ) -> None:
        self.modules, self.levels = modules, levels
        self.has_bragg = bool(bragg)
        rings = [Rings(image, modules) for image in images]
        data: list[Rings | Bragg] = [*rings, *(Bragg(peaks, modules) for peaks in bragg)]
        self.data = data
        self.off_module = sum(d.off_module for d in data)
        # Module and point of each residual.
        self.number = np.concatenate([np.tile(d.number, d.per_point) for d in data])
        starts = np.cumsum([0, *(len(d.number) for d in data)])
        self.point = np.concatenate(
            [
                np.tile(np.arange(first, last), d.per_point)
                for d, first, last in zip(data, starts[:-1], starts[1:], strict=True)
            ]
        )
        self.n_points = int(starts[-1])
        self.good = np.ones(self.n_points, dtype=np.bool_)
        of_point = np.concatenate([d.number for d in data])
        self.counts = np.bincount(of_point, minlength=len(modules))
        self.fitted = (self.counts >= min_points) & ("module" in levels)
        self.turning = self.fitted & (self.counts > min_rotation_points)
        self._check_enough(min_points)

    def _check_enough(self, min_points: int) -> None:
        n = int(self.fitted.sum())
        if "module" in self.levels and 2 * n <= 4:
            raise HklflowError(
                f"only {n} modules have {min_points} points or more; the module level needs 3, "
                "because common motions of fewer modules are motions of the detector"
            )

    def _check_condition(self) -> None:
        # With rings alone, a fixed rotation would seem to determine the tangential shift. The data
        # are therefore judged as if all rotations were free.
        turning = self.turning if self.has_bragg else self.fitted
        condition = self._solve(self._normal()[0], self._active(turning)).condition
        if condition > _MAX_CONDITION:
            raise HklflowError(
                f"the points cannot determine the {' and '.join(sorted(self.levels))} level "
                f"(powder images and scans: {len(self.data)}): condition number {condition:.1e} "
                f"(limit {_MAX_CONDITION:.0e}); with one beam centre the tangential directions are "
                "free: use powder images at displaced beam centres, or Bragg peaks"
            )

    def run(self) -> ModuleFit:
        self._check_condition()
        before = self._rows()
        for _ in range(_MAX_CYCLES):
            self._minimise()
            rows = self._rows()
            good = self._inliers(rows)
            if np.array_equal(good, self.good):
                break
            self.good = good
        else:
            raise HklflowError(
                f"the selection of points did not converge in {_MAX_CYCLES} cycles; check "
                "the ring points and their errors"
            )
        return self._result(before)

    def _rows(self) -> list[Rows]:
        return [d.rows() for d in self.data]

    def _inliers(self, rows: list[Rows]) -> Mask:
        off = np.abs(np.concatenate([r.residual for r in rows]))
        scatter = max(1.4826 * float(np.median(off[self.good[self.point]])), 1e-6)
        bad = self.point[off > _OUTLIER * max(scatter, 1.0)]
        good = np.ones(self.n_points, dtype=np.bool_)
        good[bad] = False
        return good

    def _minimise(self) -> None:
        for _ in range(_MAX_CYCLES):
            step, covariance = self._step()
            self._move(step)
            sigma = np.sqrt(np.maximum(np.diag(covariance), 0))
            if np.all(np.abs(step) <= 1e-3 * sigma + 1e-15):
                return
        raise HklflowError(
            "the fit of the modules did not converge; check the starting distance and beam "
            "centre of each image"
        )

    def _active(self, turning: Mask) -> Mask:
        """Return True for free parameters."""
        by_module = np.stack([self.fitted, self.fitted, turning], axis=1).ravel()
        n = sum(d.free for d in self.data)
        return np.concatenate([by_module, np.full(n, "detector" in self.levels)])

    def _jacobian(self, rows: list[Rows]) -> sparse.csr_matrix:
        n, n_modules = len(self.number), len(self.modules)
        columns = 3 * self.number[:, None] + np.arange(3)
        by_module = sparse.csr_matrix(
            (
                np.concatenate([r.by_module for r in rows]).ravel(),
                (np.repeat(np.arange(n), 3), columns.ravel()),
            ),
            shape=(n, 3 * n_modules),
        )
        by_detector: Any = sparse.block_diag([r.by_detector for r in rows])
        return sparse.csr_matrix(sparse.hstack([by_module, by_detector]))

    def _normal(self) -> tuple[Floats, Floats]:
        """Return the normal matrix of all parameters, and the gradient."""
        rows = self._rows()
        use = self.good[self.point]
        jacobian = self._jacobian(rows)[use]
        residual = np.concatenate([r.residual for r in rows])[use]
        return np.asarray((jacobian.T @ jacobian).todense()), np.asarray(jacobian.T @ residual)

    def _constraints(self) -> tuple[Floats, Floats]:
        """Return the constraint matrix (4, parameters) and its required product with a step."""
        modules, aspect = self.modules, self.modules.aspect
        n, use = len(modules), self.fitted
        size = np.array([1.0, aspect])  # lengths in pixels along slow
        positions = (
            np.where(use[:, None], modules.centres - modules.centres[use].mean(axis=0), 0) * size
        )
        sides = np.diff(modules.rectangles.reshape(n, 2, 2), axis=2)[..., 0] * size
        matrix = np.zeros((4, n, 3))
        matrix[0, use, 0] = matrix[1, use, 1] = 1.0
        matrix[2, :, 0], matrix[2, :, 1] = -positions[:, 1], positions[:, 0] * aspect
        matrix[2, use, 2] = (np.sum(sides**2, axis=1) / 12)[use]
        matrix[3, :, 0], matrix[3, :, 1] = positions[:, 0], positions[:, 1] * aspect
        now = np.column_stack([modules.shift, modules.rotation])
        total = np.tensordot(matrix, now, axes=([1, 2], [0, 1]))
        free = sum(d.free for d in self.data)
        return np.hstack([matrix.reshape(4, -1), np.zeros((4, free))]), -total

    def _solve(self, normal: Floats, active: Mask) -> "_Space":
        scale = np.sqrt(np.diag(normal)[active])
        if np.any(scale == 0):
            raise HklflowError(
                "some module displacements affect no point; leave out the points on these modules"
            )
        constraints, wanted = np.zeros((0, len(scale))), np.zeros(0)
        if self.fitted.any():
            matrix, wanted = self._constraints()
            constraints = matrix[:, active] / scale
        basis, _ = np.linalg.qr(constraints.T, mode="complete")
        inside = basis[:, len(wanted) :]
        particular: Floats = np.zeros(len(scale))
        if len(wanted):
            particular = np.asarray(np.linalg.lstsq(constraints, wanted)[0], dtype=np.float64)
        unit = normal[np.ix_(active, active)] / np.outer(scale, scale)
        values, vectors = np.linalg.eigh(inside.T @ unit @ inside)
        return _Space(scale, unit, particular, inside @ vectors, values)

    def _step(self) -> tuple[Floats, Floats]:
        """Return the step of all parameters and the covariance."""
        normal, gradient = self._normal()
        active = self._active(self.turning)
        space = self._solve(normal, active)
        fall = -gradient[active] / space.scale - space.unit @ space.particular
        step = space.particular + space.vectors @ (space.vectors.T @ fall / space.values)
        covariance = (space.vectors / space.values) @ space.vectors.T
        full_step, full = np.zeros(len(active)), np.zeros((len(active), len(active)))
        full_step[active] = step / space.scale
        full[np.ix_(active, active)] = covariance / np.outer(space.scale, space.scale)
        return full_step, full

    def _move(self, step: Floats) -> None:
        n = 3 * len(self.modules)
        by = step[:n].reshape(-1, 3)
        self.modules = replace(
            self.modules,
            shift=self.modules.shift + by[:, :2],
            rotation=self.modules.rotation + by[:, 2],
        )
        for d in self.data:
            d.move(self.modules, step[n : n + d.free])
            n += d.free

    def _result(self, before: list[Rows]) -> ModuleFit:
        rows = self._rows()
        use = self.good[self.point]
        _, covariance = self._step()
        residual = np.concatenate([r.residual for r in rows])[use]
        constraints = 4 if self.fitted.any() else 0
        active = self._active(self.turning)
        condition = self._solve(self._normal()[0], active).condition
        free = int(active.sum()) - constraints
        chi2 = float(residual @ residual) / max(len(residual) - free, 1)
        covariance = covariance * max(chi2, 1.0)
        n = len(self.modules)
        variances = np.diag(covariance)[: 3 * n].reshape(n, 3)
        return ModuleFit(
            modules=self.modules,
            shift_sigma=np.sqrt(variances[:, :2]),
            rotation_sigma=np.sqrt(variances[:, 2]),
            detectors=tuple(d.detector for d in self.data if isinstance(d, Rings)),
            condition=condition,
            chi2=chi2,
            points=int(self.good.sum()),
            rejected=int(np.sum(~self.good)) + self.off_module,
            table=table(
                self.modules,
                covariance[: 3 * n, : 3 * n],
                [d.detector for d in self.data],
                self.counts.tolist(),
                *(self._rms(r, use) for r in (before, rows)),
            ),
        )

    def _rms(self, rows: list[Rows], use: Mask) -> list[float | None]:
        off = np.concatenate([r.residual * r.pixels for r in rows])[use]
        number, n = self.number[use], len(self.modules)
        total, count = np.bincount(number, off**2, n), np.bincount(number, minlength=n)
        return [float(np.sqrt(t / c)) if c else None for t, c in zip(total, count, strict=True)]


class _Space(NamedTuple):
    """Eigenvectors of the scaled normal matrix within the constraints."""

    scale: Floats
    unit: Floats
    particular: Floats
    vectors: Floats
    values: Floats

    @property
    def condition(self) -> float:
        return float(self.values[-1] / max(self.values[0], np.finfo(float).tiny))
