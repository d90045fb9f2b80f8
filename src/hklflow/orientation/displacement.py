"""Test if centroids are displaced from their reflections, and estimate the error of the cell.

Maxima of diffuse scattering are displaced along Q. A spot that merges with a spot of a second
lattice is displaced towards this spot. Each effect is an additional parameter in the score test of
`orientation.steadiness`. The test gives the displacement of the centroids, and the resulting error
of cell and orientation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import symmetry
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks, Problem
from hklflow.orientation.score import Left, bias, fitted, log_chance, taken_up

Floats = NDArray[np.float64]

_OUTWARD = 5e-4  # fraction of scans without displacement along Q for which one is wrongly reported
_MERGED = 1e-4  # fraction of scans without merged spots for which merging is wrongly reported
_REACHES = (1.0, 2.0, 4.0)  # pixels and frames between spots that may merge
_STEP = 1e-4  # 1/Å
# fraction of the peaks, the narrowest ones: reflections, or slightly broader maxima
_NARROWEST = 0.05
# smallest squared width of a spot, relative to the squared width of the narrowest peaks
_OF_SPOT = 0.5
_PARTS = (0.75, 0.5, 0.35, 0.25, 0.15)  # tested fractions of the peaks, the narrowest peaks first
_ENOUGH = 20  # number of peaks that is enough to refine a crystal
_FREE_OF_IT = 2.5  # largest bias from reflections without displacement, in standard uncertainties
# σ between the displacements of narrow and of broad peaks that makes them different
_DIFFERENT = 3.0


@dataclass(frozen=True)
class Outward:
    """Displacement of the peaks from their reflections along Q, away from the origin.

    A cell that is too small moves reflections in proportion to Q. Maxima of diffuse scattering are
    displaced by a fraction of their width at any Q; the cell absorbs a part of this displacement.

    Attributes
    ----------
    size, sigma : float
        Mean displacement of the peaks, 1/Å.
    bias : float
        Resulting error of cell and orientation, in their standard deviations.
    max_width : float or None
        Width in pixels: narrower peaks are not displaced and are enough for a refinement. None if
        there is no such width.
    """

    size: float
    sigma: float
    bias: float
    max_width: float | None


@dataclass(frozen=True)
class Merged:
    """Peaks that are displaced towards the reflections of a second lattice.

    Attributes
    ----------
    peaks : int
        Number of refined peaks with a reflection of the second lattice within ``reach``.
    reach : float
        Pixels and frames.
    bias : float
        Resulting error of cell and orientation, as in `Outward`.
    """

    peaks: int
    reach: float
    bias: float


class Displacement:
    """Displacements of the peaks of a refinement.

    Parameters
    ----------
    refined : Refined
    peaks : sequence of Peaks
        Peaks of the refinement.
    group : SpaceGroup
        Space group whose constraints the cell obeyed in the refinement.
    free : sequence of str
        Groups of parameters that were refined.
    widths : sequence of (n,) arrays
        Widths of the peaks, pixels.
    """

    def __init__(
        self,
        refined: Refined,
        peaks: Sequence[Peaks],
        group: symmetry.SpaceGroup,
        free: Sequence[str],
        widths: Sequence[Floats],
    ) -> None:
        self._refined, self._group = refined, group
        self._rows = np.nonzero(refined.used | refined.held_out)[0]
        self._hkl = refined.hkl[self._rows].astype(np.float64)
        self._problem: Problem
        self._problem, self._nuisance, residual = taken_up(refined, peaks, group, free, self._rows)
        self._residual = residual
        self._width = np.concatenate(widths)[self._rows]

    def outward(self) -> Outward | None:
        """Return the displacement of the peaks along Q; None if it may be chance.

        Displacement and scatter of a maximum increase with its width in excess of the width of a
        spot.
        """
        square = self._width**2 - _OF_SPOT * np.quantile(self._width, _NARROWEST) ** 2
        beyond = np.sqrt(np.maximum(square, 0.0))
        if not beyond.any():
            return None
        ub, start = self._refined.ub, self._problem.parameters.start()
        q = self._hkl @ ub.T
        along = _STEP * (q / np.linalg.norm(q, axis=1)[:, None]) @ np.linalg.inv(ub).T
        up, down = (
            self._problem.residuals(start, self._hkl + sign * along, self._rows)[0]
            for sign in (1, -1)
        )
        moved = (beyond / beyond.mean())[:, None] * (up - down) / (2 * _STEP)
        displaced = self._score(moved)
        if displaced.chance > np.log(_OUTWARD):
            return None
        return Outward(
            displaced.size, displaced.sigma, displaced.bias, self._free_of(displaced, moved)
        )

    def _free_of(self, of_all: "_Scored", moved: Floats) -> float | None:
        """Return the largest width of peaks that do not have the displacement ``of_all`` peaks."""
        for part in _PARTS:
            limit = float(np.quantile(self._width, part))
            narrow = self._width <= limit
            if narrow.sum() < max(_ENOUGH, self._nuisance.shape[1]):
                return None
            of_narrow = self._score(moved, narrow)
            apart = abs(of_all.size - of_narrow.size) > _DIFFERENT * of_narrow.sigma > 0
            if apart and of_narrow.bias < _FREE_OF_IT:
                return limit
        return None

    def towards(self, other: Floats) -> Merged | None:
        """Return the peaks that merge with spots of a second lattice; None if it may be chance.

        Parameters
        ----------
        other : (3, 3) array
            UB of the second lattice in 1/Å with 2π.
        """
        start = self._problem.parameters.start()
        ub = self._refined.ub
        hkl = np.rint(self._problem.miller(start)[self._rows] @ (np.linalg.inv(other) @ ub).T)
        # Reciprocal axes of the second lattice in fractional indices of the first.
        fractional = hkl @ (np.linalg.inv(ub) @ other).T
        distance_first, distance_second = (
            self._problem.residuals(start, h, self._rows)[0] for h in (self._hkl, fractional)
        )
        apart = np.nan_to_num(distance_second - distance_first, nan=np.inf)
        best: tuple[float, Merged] | None = None
        for reach in _REACHES:
            near = (np.abs(apart).max(axis=1) < reach) & np.any(hkl != 0, axis=1)
            if not near.any():
                continue
            moved = np.where(near[:, None], apart, 0.0)
            scored = self._score(moved)
            # A displacement away from the second lattice is not caused by merging.
            if scored.size > 0 and (best is None or scored.chance < best[0]):
                best = scored.chance, Merged(int(near.sum()), reach, scored.bias)
        known = best is not None and best[0] <= np.log(_MERGED / len(_REACHES))
        return best[1] if best is not None and known else None

    def _score(self, moved: Floats, rows: NDArray[np.bool_] | None = None) -> "_Scored":
        """Test a displacement that changes residuals by ``moved`` (n, 3), for all or some peaks.

        The residuals beyond the errors are assumed to be independent from peak to peak, as for the
        errors of cell and orientation. If this assumption is wrong, those errors are too small as
        well.
        """
        rows = np.ones(len(moved), np.bool_) if rows is None else rows
        sigma = self._problem.sigma[self._rows][rows]
        column = (np.nan_to_num(moved[rows]) / sigma).reshape(-1, 1)
        every = np.repeat(rows, 3)
        nuisance = self._nuisance[every]
        left = Left.of(self._residual[every], nuisance, ())
        independent, residual = left.beside(column), left.residual
        fit = fitted(independent.T @ independent, independent.T @ residual, column.T @ column)
        if not fit.factor.size:  # the refined parameters absorb the whole displacement
            return _Scored(0.0, 0.0, 0.0, 0.0)
        fall, variance = left.weighed(independent, fit)
        size = float(fit.values[0])
        off = bias(self._problem, nuisance, size * column[:, 0], self._refined.chi2)
        error = float(np.sqrt(variance * fit.covariance[0, 0]))
        return _Scored(log_chance(fall, 1), size, error, off)


class _Scored(NamedTuple):
    """Result of a test: logarithm of the chance probability, size, and bias of the cell.

    Attributes
    ----------
    size, sigma : float
        Size of the displacement and its σ.
    bias : float
        Error of cell and orientation, in their σ.
    """

    chance: float
    size: float
    sigma: float
    bias: float
