"""Modules of the detector that are not where the geometry has them, as the spots tell it.

A module that is shifted by s has all of its spots at -s from their places. Cell, orientation and
the detector as a whole take up a part of that, and thereby move the spots of all other modules: a
shift is fitted next to them, as motions are in `orientation.steadiness`. What explains most is
taken first, so that one displaced module does not make the others look displaced.
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

_BY_CHANCE = 1e-3  # of the scans whose modules are in place one is told
_OUTLIER = 5.0  # robust standard deviations, as in the refinement
# All modules together are the detector: what it can do is no displacement of a module, refined or
# not.
_DETECTOR = ("detector_x", "detector_y", "detector_z", "detector_rotation")
_ALIKE = 1e-3  # part of a shift that cell, orientation and detector cannot make: less is not known


@dataclass(frozen=True)
class Displaced:
    """A module that is shifted against the others.

    Attributes
    ----------
    module : int
    rectangle : list of int
        First and last + 1 pixel along slow, then along fast.
    shift, sigma : list of float
        Where it really is, (slow, fast), pixels, as `geometry.modules.Modules` has it.
    chi2 : float
        Of 2 degrees of freedom, by which no shift is worse.
    spots : int
    """

    module: int
    rectangle: list[int]
    shift: list[float]
    sigma: list[float]
    chi2: float
    spots: int

    @property
    def size(self) -> float:
        """Length of the shift, pixels."""
        return float(np.linalg.norm(self.shift))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the sentence."""
        return asdict(self) | {"sentence": self.told()}

    def told(self) -> str:
        """Say which module is off, and by how much."""
        s0, s1, f0, f1 = self.rectangle
        # No error is told smaller than the rounding of the value.
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
    """Which modules are shifted, what explains most first.

    Parameters
    ----------
    refined : Refined
    peaks : sequence of Peaks
        That it was given.
    group : SpaceGroup
        By whose constraints the cell was refined.
    free : sequence of str
        What was refined.
    modules : Modules
        Rectangles on the image.
    least : float
        Shift in pixels from which on it matters.
    spots : int
        That a module must have to be judged.
    """
    scene = _Scene.of(refined, peaks, group, free, modules)
    counts = np.bincount(scene.module[scene.module >= 0], minlength=len(modules))
    judged = [int(m) for m in np.flatnonzero(counts >= spots)]
    if len(judged) < 2:
        return []  # one module is the detector
    scene = scene.with_excess(judged)
    found = scene.stepwise(judged)
    told = []
    for m, shift, sigma, chi2 in found:
        if np.linalg.norm(shift) >= least:
            box = modules.rectangles[m].tolist()
            told.append(Displaced(m, box, shift.tolist(), sigma.tolist(), chi2, int(counts[m])))
    return told


@dataclass(frozen=True)
class _Scene:
    """Spots (n,) with their module, weighted residuals (3n,) and what can take them up (3n, p)."""

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
        """All indexed spots: those of a displaced module are the refinement's outliers."""
        finite = np.all(np.isfinite(refined.residuals), axis=1)
        rows = np.flatnonzero(refined.indexed & finite)
        more = [*free, *(name for name in _DETECTOR if name not in free)]
        problem, nuisance, residual = taken_up(refined, peaks, group, more, rows)
        start, hkl = problem.parameters.start(), refined.hkl[rows].astype(np.float64)
        zeta = problem.residuals(start, hkl, rows)[1]
        at = modules.module_at(*problem.position[rows, :2].T)
        good = (zeta > RefinementLimits.zeta) & _of_their_module(residual.reshape(-1, 3), at)
        three = np.repeat(good, 3)
        scale = np.maximum(np.linalg.norm(nuisance[three], axis=0), np.finfo(float).tiny)
        return cls(at[good], problem.sigma[rows][good], residual[three], nuisance[three] / scale)

    def columns(self, module: int) -> Floats:
        """Derivatives (3n, 2) of the weighted residuals by the shift of a module, per pixel."""
        found = np.zeros((len(self.module), 3, 2))
        mine = self.module == module
        found[mine, 0, 0] = -1 / self.sigma[mine, 0]
        found[mine, 1, 1] = -1 / self.sigma[mine, 1]
        return found.reshape(-1, 2)

    def with_excess(self, judged: Sequence[int]) -> "_Scene":
        """The same with errors that explain what is left where all modules are free to shift.

        By its median: the few strongest spots are off by many times their errors, which merged
        spots and a wrong shape of the profile do not enter. What exceeds the errors is common to
        neighbouring spots, as in `orientation.transition`.
        """
        free = [self.nuisance, *(self.columns(m) for m in judged)]
        left = _beside(np.hstack(free), self.residual).reshape(-1, 3)
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
        """Module, shift, σ and χ² of the modules whose shift is no chance."""
        known, left = self.nuisance, list(judged)
        order: list[tuple[int, float]] = []
        while len(left) > 1:  # the last one is what the others are displaced against
            basis = _basis(known)
            rest = self.residual - basis @ (basis.T @ self.residual)
            gains = {m: _gain(self.columns(m), basis, rest) for m in left}
            best = max(left, key=lambda m: gains[m])
            # Of χ² with 2 degrees of freedom exp(-χ²/2) exceed it; Bonferroni over the modules.
            if len(judged) * np.exp(-gains[best] / 2) > _BY_CHANCE:
                break
            known = np.hstack([known, self.columns(best)])
            order.append((best, gains[best]))
            left.remove(best)
        return self._together(order)

    def _together(
        self, order: Sequence[tuple[int, float]]
    ) -> list[tuple[int, Floats, Floats, float]]:
        """Shifts of all that were found, fitted at once."""
        if not order:
            return []
        basis = _basis(self.nuisance)
        columns = np.hstack([self.columns(m) for m, _ in order])
        own = columns - basis @ (basis.T @ columns)
        inverse = np.linalg.pinv(own.T @ own)
        values = inverse @ (own.T @ self.residual)
        sigma = np.sqrt(np.diag(inverse))
        pairs = zip(order, values.reshape(-1, 2), sigma.reshape(-1, 2), strict=True)
        return [(m, shift, error, gain) for (m, gain), shift, error in pairs]


def _of_their_module(weighted: Floats, module: Integers) -> Mask:
    """Rows of weighted residuals (n, 3) that are no outliers among those of their module (n,)."""
    good = np.zeros(len(module), dtype=np.bool_)
    for m in np.unique(module):
        mine = module == m
        off = np.abs(weighted[mine] - np.median(weighted[mine], axis=0))
        scatter = np.maximum(1.4826 * np.median(off, axis=0), 0.1)  # a floor for exact data
        good[mine] = np.all(off <= _OUTLIER * scatter, axis=1)
    return good


def _basis(columns: Floats) -> Floats:
    basis: Floats = np.linalg.qr(columns / np.linalg.norm(columns, axis=0).clip(1e-300))[0]
    return basis


def _beside(columns: Floats, residual: Floats) -> Floats:
    """What is left of residuals, whatever columns make of them; these may be dependent."""
    beside: Floats = residual - columns @ np.linalg.lstsq(columns, residual, rcond=1e-9)[0]
    return beside


def _gain(columns: Floats, basis: Floats, rest: Floats) -> float:
    """Fall of χ² by two columns (3n, 2) next to a basis; 0 where nothing is known of them."""
    own = columns - basis @ (basis.T @ columns)
    gram, whole = own.T @ own, np.diag(columns.T @ columns)
    if np.linalg.eigvalsh(gram / np.sqrt(np.outer(whole, whole)))[0] < _ALIKE:
        return 0.0
    gradient = own.T @ rest
    return float(gradient @ np.linalg.solve(gram, gradient))
