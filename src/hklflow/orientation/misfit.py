"""Figures of how far the indexed peaks are from their places, of a refined model or a fixed one.

`quality.verdict` judges them. A refinement makes its residuals small; of an orientation that is
taken as it is, nothing else says whether its spots are where it puts them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks


def misfit(
    refined: Refined, peaks: Sequence[Peaks], *, tolerance: float, least: float, fixed: bool
) -> dict[str, Any]:
    """Give the deviations of the peaks that the model indexes.

    Parameters
    ----------
    refined : Refined
    peaks : sequence of Peaks
        One for each rotation: the peaks that the model was compared with.
    tolerance : float
        Largest deviation from an integer, in each of h, k, l, of an indexed peak.
    least : float
        Least fraction of peaks that should be indexed.
    fixed : bool
        Whether the orientation was taken as it is.

    Returns
    -------
    dict
        ``fixed``; ``peaks``: how many were compared; ``rms in pixels``, ``rms in frames``: of
        what the peaks' own errors leave of their deviations; ``reduced chi2``;
        ``fraction indexed`` and ``least fraction``. None where no peak is indexed.
    """
    rows = np.flatnonzero(refined.held_out if fixed else refined.used)
    found: dict[str, Any] = {
        "fixed": fixed,
        "peaks": len(rows),
        "rms in pixels": None,
        "rms in frames": None,
        "reduced chi2": None,
        "fraction indexed": refined.fraction_indexed if len(refined.indexed) else None,
        "least fraction": least,
    }
    if not len(rows):
        return found
    squares = refined.residuals[rows] ** 2
    variances = np.concatenate([own.sigma for own in peaks])[rows] ** 2
    if fixed:
        near = _without_chance(refined, np.sum(squares / variances, axis=1), tolerance)
        squares, variances = squares[near], variances[near]
    slow, fast, frame = np.mean(squares - variances, axis=0)
    return found | {
        "rms in pixels": float(np.sqrt(max(slow + fast, 0.0))),
        "rms in frames": float(np.sqrt(max(frame, 0.0))),
        "reduced chi2": refined.chi2,
    }


def _without_chance(refined: Refined, size: NDArray[Any], tolerance: float) -> NDArray[Any]:
    """Rows without the farthest: as many as there are indexed by chance, at most half.

    Peaks that are no reflections have any hkl: of these a fraction (2 tolerance)³ is indexed, far
    from the places. A refinement leaves them out by itself.
    """
    chance = (2 * tolerance) ** 3
    n_chance = round(float(np.sum(~refined.indexed)) * chance / (1 - chance))
    return np.argsort(size, kind="stable")[: len(size) - min(n_chance, len(size) // 2)]
