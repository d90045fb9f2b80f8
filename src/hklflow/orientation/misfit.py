"""Figures of how far the indexed peaks are from their places, of a refined model or a fixed one.

`quality.verdict` judges them. A refinement makes its residuals small; of an orientation that is
taken as it is, nothing else says whether its spots are where it puts them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

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
        what the peaks' own errors leave of their deviations, see `_excess`; ``reduced chi2``;
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
    slow, fast, frame = (_excess(*pair) for pair in zip(squares.T, variances.T, strict=True))
    return found | {
        "rms in pixels": float(np.sqrt(slow + fast)),
        "rms in frames": float(np.sqrt(frame)),
        "reduced chi2": refined.chi2,
    }


def _excess(squares: NDArray[Any], variances: NDArray[Any]) -> float:
    """Variance that deviations (n,) have beyond their own variances (n,), common to all.

    That with which the sum of ``squares / (variances + excess)`` is n (Paule and Mandel, J. Res.
    Natl. Bur. Stand. 87, 377, 1982). The mean of the differences would be that of the few peaks
    near the rotation axis which are known to some ten frames only.
    """

    def beyond(excess: float) -> float:
        return float(np.mean(squares / (variances + excess))) - 1

    if beyond(0.0) <= 0:
        return 0.0
    # Where all variances are 0 it is the mean square.
    return float(brentq(beyond, 0.0, 1.001 * float(np.mean(squares))))


def _without_chance(refined: Refined, size: NDArray[Any], tolerance: float) -> NDArray[Any]:
    """Rows without the farthest: as many as there are indexed by chance, at most half.

    Peaks that are no reflections have any hkl: of these a fraction (2 tolerance)³ is indexed, far
    from the places. A refinement leaves them out by itself.
    """
    chance = (2 * tolerance) ** 3
    n_chance = round(float(np.sum(~refined.indexed)) * chance / (1 - chance))
    return np.argsort(size, kind="stable")[: len(size) - min(n_chance, len(size) // 2)]
