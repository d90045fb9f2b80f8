"""Module level of the calibration: positions of the modules, from rings and Bragg peaks.

All displacements are fitted together with the geometry of each powder image (distance, beam centre,
two tilts) and of each rotation scan (shift, rotation, distance) by linearised least squares.

Some common motions of all modules are motions of the whole detector. Constraints exclude these
motions: the modules, with equal weight, have zero mean shift, zero net rotation and zero radial
expansion. If some modules are held, the others as a whole stay where they were. Quadrants are large
enough to show the distance, so the distance of quadrants from each other is free.

Rings do not measure the rotation of a module about the beam. With one beam centre, at any distance,
a small rotation of a module cannot be distinguished from a large tangential shift, and such a fit
is refused. Beam centres that differ by a large fraction of the detector's size separate the two.
If the distance of the beam centres is a fraction f of the detector's size, the error of the modules
is proportional to 1/f, and the condition number to 1/f².
"""

from collections.abc import Collection, Sequence
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
from hklflow.calibration.module_parts import Parts, common_motions
from hklflow.calibration.module_table import ModuleFit, ModuleRow, table
from hklflow.geometry.modules import Modules

__all__ = [
    "LEVELS",
    "BraggPeaks",
    "ModuleFit",
    "ModuleRow",
    "Parts",
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
_UNCERTAIN = 0.5  # pixels
_OUTLIER = 5.0  # robust standard deviations
_MAX_CYCLES = 20


def fit_modules(
    modules: Modules,
    images: Sequence[RingImage] = (),
    bragg: Sequence[BraggPeaks] = (),
    *,
    levels: Collection[str] = LEVELS,
    parts: Parts | None = None,
    keep_common: bool = False,
    larger: Parts | None = None,
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
    parts : Parts, optional
        Modules that move together. None: each module moves alone.
    keep_common : bool
        Keep the common motions of all modules as before the fit; they are 0 otherwise.
    larger : Parts, optional
        Larger parts, whose displacements were fitted before. Parts with too few points for a
        rotation of their own then have one rotation within a larger part. Parts whose shift would
        be uncertain by more than 0.5 pixels keep their place, and their points are not used.
    min_points : int
        Least number of points; parts with fewer points are held.
    min_rotation_points : int
        The rotation of a part is held unless it has more points than this.

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
    fit = _Fit(
        modules,
        images,
        bragg,
        levels,
        parts or Parts.single(modules),
        min_points,
        min_rotation_points,
    )
    if larger is not None:
        fit.follow(larger, min_points, min_rotation_points)
    if keep_common:
        fit.keep_common()
    # With rings alone, a fixed rotation would seem to determine the tangential shift. The data are
    # therefore judged as if all rotations were free.
    fit.as_held = larger is not None or bool(bragg)
    return fit.run()


class _Fit:
    """Fit of the shift along slow, the shift along fast and the rotation of each part.

    The geometry of each image and scan is fitted, too.
    """

    def __init__(
        self,
        modules: Modules,
        images: Sequence[RingImage],
        bragg: Sequence[BraggPeaks],
        levels: Collection[str],
        parts: Parts,
        min_points: int,
        min_rotation_points: int,
    ) -> None:
        self.modules, self.levels, self.parts = modules, levels, parts
        self.as_held = False
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
        self.use = np.ones(self.n_points, dtype=np.bool_)
        self.good = self.use
        of_point = np.concatenate([d.number for d in data])
        self.counts = np.bincount(of_point, minlength=len(modules))
        counts = np.bincount(parts.number, self.counts)
        self.fitted = (counts >= min_points) & ("module" in levels)
        self.turning = self.fitted & (counts > min_rotation_points)
        self._check_enough(f"{min_points} points or more")
        self.common = np.zeros(len(common_motions(modules, self.fitted[parts.number], parts)))
        if not self.fitted.all():
            self.keep_common()

    def follow(self, larger: Parts, min_points: int, min_rotation_points: int) -> None:
        """Hold parts whose shift is uncertain, and tie rotations within larger parts."""
        normal, tied = self._normal()[0], self.fitted & ~self.turning
        for part in np.flatnonzero(self.fitted):
            n = 2 if tied[part] else 3
            block = normal[3 * part : 3 * part + n, 3 * part : 3 * part + n]
            scale = np.sqrt(np.diag(block))
            values, vectors = np.linalg.eigh(block / np.outer(scale, scale))
            # Smaller eigenvalues are rounding errors of 0.
            variance = (vectors**2 @ (1 / np.maximum(values, 1e-12))) / scale**2
            self.fitted[part] = bool(np.all(variance[:2] <= _UNCERTAIN**2))
        self._check_enough(f"{min_points} points or more that determine them")
        # The place of the held parts is not known, so their points say nothing of the others.
        of_point = np.concatenate([d.number for d in self.data])
        self.use = self.good = self.fitted[self.parts.number[of_point]]
        tied &= self.fitted
        self.parts = self.parts.tied(larger, tied)
        counts = np.bincount(self.parts.number, self.counts)
        assert self.parts.turns is not None
        together = np.bincount(self.parts.turns, np.where(tied, counts, 0), len(counts))
        self.turning = (self.turning & self.fitted) | (together > min_rotation_points)
        if not self.fitted.all():
            self.keep_common()

    def keep_common(self) -> None:
        """Keep the common motions of the modules as they are."""
        self.common = self._common()[1]

    def _check_enough(self, points: str) -> None:
        n, level = int(self.fitted.sum()), self.parts.level
        if "module" in self.levels and 2 * n <= 4:
            raise HklflowError(
                f"only {n} {level}s have {points}; the {level} level needs 3, "
                f"because common motions of fewer {level}s are motions of the detector"
            )

    def _check_condition(self) -> None:
        turning = self.turning if self.as_held else self.fitted
        condition = self._solve(self._normal()[0], self._active(turning)).condition
        if condition > _MAX_CONDITION:
            names = sorted({"module": self.parts.level}.get(x, x) for x in self.levels)
            raise HklflowError(
                f"the points cannot determine the {' and '.join(names)} level "
                f"(powder images and scans: {len(self.data)}): condition number {condition:.1e} "
                f"(limit {_MAX_CONDITION:.0e}); with one beam centre the tangential directions are "
                "free: use powder images at displaced beam centres, or Bragg peaks; for small "
                "parts, refine larger parts in the same command, too"
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
        good = self.use.copy()
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
        by_part = np.stack([self.fitted, self.fitted, turning], axis=1).ravel()
        n = sum(d.free for d in self.data)
        return np.concatenate([by_part, np.full(n, "detector" in self.levels)])

    def _jacobian(self, rows: list[Rows]) -> sparse.csr_matrix:
        n, n_modules = len(self.number), len(self.modules)
        columns = 3 * self.number[:, None] + np.arange(3)
        values = np.concatenate([r.by_module for r in rows]).ravel()
        places = np.repeat(np.arange(n), 3), columns.ravel()
        by_module = sparse.csr_matrix((values, places), shape=(n, 3 * n_modules))
        by_part: Any = by_module @ self.parts.by_part(self.modules)
        by_detector: Any = sparse.block_diag([r.by_detector for r in rows])
        return sparse.csr_matrix(sparse.hstack([by_part, by_detector]))

    def _normal(self) -> tuple[Floats, Floats]:
        """Return the normal matrix of all parameters, and the gradient."""
        rows = self._rows()
        use = self.good[self.point]
        jacobian = self._jacobian(rows)[use]
        residual = np.concatenate([r.residual for r in rows])[use]
        return np.asarray((jacobian.T @ jacobian).todense()), np.asarray(jacobian.T @ residual)

    def _common(self) -> tuple[Floats, Floats]:
        """Return the weights of the parts' displacements in common motions, and these motions."""
        matrix = common_motions(self.modules, self.fitted[self.parts.number], self.parts)
        now = np.column_stack([self.modules.shift, self.modules.rotation]).ravel()
        return np.asarray(matrix @ self.parts.by_part(self.modules)), matrix @ now

    def _constraints(self) -> tuple[Floats, Floats]:
        """Return the constraint matrix (n, parameters) and its required product with a step."""
        matrix, total = self._common()
        free = sum(d.free for d in self.data)
        return np.hstack([matrix, np.zeros((len(matrix), free))]), self.common - total

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
        n = 3 * len(self.parts)
        self.modules = self.parts.moved(self.modules, step[:n].reshape(-1, 3))
        for d in self.data:
            d.move(self.modules, step[n : n + d.free])
            n += d.free

    def _result(self, before: list[Rows]) -> ModuleFit:
        rows = self._rows()
        use = self.good[self.point]
        _, covariance = self._step()
        residual = np.concatenate([r.residual for r in rows])[use]
        constraints = len(self.common) if self.fitted.any() else 0
        active = self._active(self.turning)
        condition = self._solve(self._normal()[0], active).condition
        free = int(active.sum()) - constraints
        chi2 = float(residual @ residual) / max(len(residual) - free, 1)
        spread = self.parts.by_part(self.modules)
        n = spread.shape[1]
        # Of shift along slow, shift along fast and rotation of each module.
        covariance = np.asarray(spread @ (spread @ covariance[:n, :n]).T) * max(chi2, 1.0)
        variances = np.maximum(np.diag(covariance), 0).reshape(-1, 3)
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
                covariance,
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
