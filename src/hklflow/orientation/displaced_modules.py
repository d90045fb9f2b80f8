"""Find modules of the detector that are displaced from their positions in the geometry.

All spots of a module that is shifted by s are displaced by -s. Cell, orientation and the position
of the whole detector absorb a part of this shift, and thereby move the spots of all other modules.
A shift is therefore fitted together with these parameters, as in `orientation.steadiness`. The
shift with the largest decrease of χ² is fitted first: otherwise one displaced module would make the
others look displaced.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import symmetry
from hklflow.geometry.modules import Modules
from hklflow.orientation.refinement import Refined, RefinementLimits
from hklflow.orientation.residuals import Peaks
from hklflow.orientation.score import taken_up
from hklflow.orientation.transition import systematic

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

_BY_CHANCE = 1e-3  # fraction of scans with correct modules for which a module is wrongly reported
_OUTLIER = 5.0  # limit in robust standard deviations, as in the refinement
# A shift of all modules together is a shift of the detector. The parameters of the detector are
# therefore fitted here even if they were fixed in the refinement.
_DETECTOR = ("detector_x", "detector_y", "detector_z", "detector_rotation")
_ALIKE = 1e-3  # smallest part of a shift that the other parameters must leave


@dataclass(frozen=True)
class Displaced:
    """Module that is displaced relative to the other modules.

    Attributes
    ----------
    module : int
    rectangle : list of int
        First and last + 1 pixel along slow, then along fast.
    shift, sigma : list of float
        True position minus assumed position, (slow, fast), pixels; sign as in
        `geometry.modules.Modules`.
    chi2 : float
        Decrease of χ² by the shift, 2 degrees of freedom.
    spots : int
        Number of spots on the module.
    """

    module: int
    rectangle: list[int]
    shift: list[float]
    sigma: list[float]
    chi2: float
    spots: int

    @property
    def size(self) -> float:
        """Length of the shift in pixels."""
        return float(np.linalg.norm(self.shift))

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as a JSON-ready dictionary, with the sentence."""
        return asdict(self) | {"sentence": self.told()}

    def told(self) -> str:
        """Return the sentence that reports the displaced module and its displacement."""
        s0, s1, f0, f1 = self.rectangle
        # The printed error is never smaller than the rounding of the value.
        parts = [
            f"{value:+.2f} ± {max(sigma, 0.005):.1g} pixels along {axis}"
            for value, sigma, axis in zip(self.shift, self.sigma, ("slow", "fast"), strict=True)
        ]
        return (
            f"module {self.module} (slow {s0} to {s1}, fast {f0} to {f1}) is displaced by "
            f"{' and '.join(parts)} against the others ({self.spots} spots)"
        )


def displaced(
    refined: Refined,
    peaks: Sequence[Peaks],
    group: symmetry.SpaceGroup,
    free: Sequence[str],
    modules: Modules,
    *,
    least: float,
    spots: int,
) -> list[Displaced]:
    """Return the displaced modules, with the largest decrease of χ² first.

    Parameters
    ----------
    refined : Refined
    peaks : sequence of Peaks
        Peaks of the refinement.
    group : SpaceGroup
        Space group whose constraints the cell obeyed in the refinement.
    free : sequence of str
        Groups of parameters that were refined.
    modules : Modules
        Rectangles on the image.
    least : float
        Smallest shift in pixels that is reported.
    spots : int
        Smallest number of spots needed to judge a module.
    """
    scene = _Scene.of(refined, peaks, group, free, modules)
    counts = np.bincount(scene.module[scene.module >= 0], minlength=len(modules))
    judged = [int(m) for m in np.flatnonzero(counts >= spots)]
    if len(judged) < 2:
        return []  # a single module cannot be distinguished from the detector
    scene = scene.with_excess(judged)
    shifts = scene.stepwise(judged)
    reports = []
    for m, shift, sigma, chi2 in shifts:
        if np.linalg.norm(shift) >= least:
            box = modules.rectangles[m].tolist()
            reports.append(Displaced(m, box, shift.tolist(), sigma.tolist(), chi2, int(counts[m])))
    return reports


@dataclass(frozen=True)
class _Scene:
    """Spots of a refinement: module (n,), weighted residuals (3n,) and derivatives (3n, p)."""

    module: Integers
    sigma: Floats
    residual: Floats
    nuisance: Floats

    @classmethod
    def of(
        cls,
        refined: Refined,
        peaks: Sequence[Peaks],
        group: symmetry.SpaceGroup,
        free: Sequence[str],
        modules: Modules,
    ) -> "_Scene":
        """Select all indexed spots; the refinement rejects spots of displaced modules."""
        finite = np.all(np.isfinite(refined.residuals), axis=1)
        rows = np.flatnonzero(refined.indexed & finite)
        more = [*free, *(name for name in _DETECTOR if name not in free)]
        problem, nuisance, residual = taken_up(refined, peaks, group, more, rows)
        start, hkl = problem.parameters.start(), refined.hkl[rows].astype(np.float64)
        zeta = problem.residuals(start, hkl, rows)[1]
        modules_of_spots = modules.module_at(*problem.position[rows, :2].T)
        good = (zeta > RefinementLimits.zeta) & _of_their_module(
            residual.reshape(-1, 3), modules_of_spots
        )
        three = np.repeat(good, 3)
        scale = np.maximum(np.linalg.norm(nuisance[three], axis=0), np.finfo(float).tiny)
        return cls(
            modules_of_spots[good],
            problem.sigma[rows][good],
            residual[three],
            nuisance[three] / scale,
        )

    def columns(self, module: int) -> Floats:
        """Return derivatives (3n, 2) of the weighted residuals by the shift of a module."""
        derivatives = np.zeros((len(self.module), 3, 2))
        on_module = self.module == module
        derivatives[on_module, 0, 0] = -1 / self.sigma[on_module, 0]
        derivatives[on_module, 1, 1] = -1 / self.sigma[on_module, 1]
        return derivatives.reshape(-1, 2)

    def with_excess(self, judged: Sequence[int]) -> "_Scene":
        """Return the scene with errors scaled to the residuals after a fit of all shifts.

        The scale comes from the median, because a few very strong spots deviate by many times their
        errors: the errors do not include merged spots and a wrong profile shape. The excess over
        the errors is common to neighbouring spots, as in `orientation.transition`.
        """
        free = [self.nuisance, *(self.columns(m) for m in judged)]
        left = _unexplained(np.hstack(free), self.residual).reshape(-1, 3)
        excess = np.maximum((1.4826 * np.median(np.abs(left), axis=0)) ** 2, 1.0)
        common = np.array([systematic(float(x), len(left)) for x in excess])
        factor = np.sqrt(excess) * common
        all_three = np.tile(factor, len(left))
        return _Scene(
            self.module,
            self.sigma * factor,
            self.residual / all_three,
            self.nuisance / all_three[:, None],
        )

    def stepwise(self, judged: Sequence[int]) -> list[tuple[int, Floats, Floats, float]]:
        """Return module, shift, σ and decrease of χ² of each significantly shifted module."""
        known, left = self.nuisance, list(judged)
        order: list[tuple[int, float]] = []
        while len(left) > 1:  # the last module is the reference for the others
            basis = _basis(known)
            rest = self.residual - basis @ (basis.T @ self.residual)
            gains = {m: _gain(self.columns(m), basis, rest) for m in left}
            best = max(left, key=lambda m: gains[m])
            # exp(-χ²/2) is the chance to exceed χ² (2 degrees of freedom); Bonferroni over the
            # modules.
            if len(judged) * np.exp(-gains[best] / 2) > _BY_CHANCE:
                break
            known = np.hstack([known, self.columns(best)])
            order.append((best, gains[best]))
            left.remove(best)
        return self._together(order)

    def _together(
        self, order: Sequence[tuple[int, float]]
    ) -> list[tuple[int, Floats, Floats, float]]:
        """Fit the shifts of all selected modules together."""
        if not order:
            return []
        basis = _basis(self.nuisance)
        columns = np.hstack([self.columns(m) for m, _ in order])
        independent = columns - basis @ (basis.T @ columns)
        inverse = np.linalg.pinv(independent.T @ independent)
        values = inverse @ (independent.T @ self.residual)
        sigma = np.sqrt(np.diag(inverse))
        pairs = zip(order, values.reshape(-1, 2), sigma.reshape(-1, 2), strict=True)
        return [(m, shift, error, gain) for (m, gain), shift, error in pairs]


def _of_their_module(weighted: Floats, module: Integers) -> Mask:
    """Return True for weighted residuals (n, 3) of spots that are not outliers of their module."""
    good = np.zeros(len(module), dtype=np.bool_)
    for m in np.unique(module):
        on_module = module == m
        off = np.abs(weighted[on_module] - np.median(weighted[on_module], axis=0))
        scatter = np.maximum(1.4826 * np.median(off, axis=0), 0.1)  # a floor for exact data
        good[on_module] = np.all(off <= _OUTLIER * scatter, axis=1)
    return good


def _basis(columns: Floats) -> Floats:
    basis: Floats = np.linalg.qr(columns / np.linalg.norm(columns, axis=0).clip(1e-300))[0]
    return basis


def _unexplained(columns: Floats, residual: Floats) -> Floats:
    """Return the residuals after a fit of all columns, which may be linearly dependent."""
    unexplained: Floats = residual - columns @ np.linalg.lstsq(columns, residual, rcond=1e-9)[0]
    return unexplained


def _gain(columns: Floats, basis: Floats, rest: Floats) -> float:
    """Return the decrease of χ² by two columns (3n, 2) in addition to a basis.

    Return 0 if the columns are not independent of the basis.
    """
    independent = columns - basis @ (basis.T @ columns)
    gram, whole = independent.T @ independent, np.diag(columns.T @ columns)
    if np.linalg.eigvalsh(gram / np.sqrt(np.outer(whole, whole)))[0] < _ALIKE:
        return 0.0
    gradient = independent.T @ rest
    return float(gradient @ np.linalg.solve(gram, gradient))
