"""Compute how far the indexed peaks are from their predicted positions.

`quality.verdict` judges the deviations. They are most important for a fixed orientation, because
there is no refinement that would show wrong predicted positions.
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
    """Return the deviations of the peaks that the model indexes.

    Parameters
    ----------
    refined : Refined
    peaks : sequence of Peaks
        Peaks of each rotation, which are compared with the model.
    tolerance : float
        Largest deviation of h, k and l of an indexed peak from integers.
    least : float
        Smallest fraction of peaks that should be indexed.
    fixed : bool
        True if the orientation was not refined.

    Returns
    -------
    dict
        ``fixed``; ``peaks``: number of compared peaks; ``rms in pixels``, ``rms in frames``:
        deviations beyond the errors of the peaks, see `_excess`; ``reduced chi2``;
        ``fraction indexed`` and ``least fraction``. Values are None if no peak is indexed.
    """
    rows = np.flatnonzero(refined.held_out if fixed else refined.used)
    figures: dict[str, Any] = {
        "fixed": fixed,
        "peaks": len(rows),
        "rms in pixels": None,
        "rms in frames": None,
        "reduced chi2": None,
        "fraction indexed": refined.fraction_indexed if len(refined.indexed) else None,
        "least fraction": least,
    }
    if not len(rows):
        return figures
    squares = refined.residuals[rows] ** 2
    variances = np.concatenate([peaks_of_rotation.sigma for peaks_of_rotation in peaks])[rows] ** 2
    if fixed:
        near = _without_chance(refined, np.sum(squares / variances, axis=1), tolerance)
        squares, variances = squares[near], variances[near]
    slow, fast, frame = (_excess(*pair) for pair in zip(squares.T, variances.T, strict=True))
    return figures | {
        "rms in pixels": float(np.sqrt(slow + fast)),
        "rms in frames": float(np.sqrt(frame)),
        "reduced chi2": refined.chi2,
    }


def _excess(squares: NDArray[Any], variances: NDArray[Any]) -> float:
    """Return the part of the variance of deviations (n,) that their variances (n,) do not explain.

    The excess is common to all peaks: the sum of ``squares / (variances + excess)`` is n (Paule and
    Mandel, J. Res. Natl. Bur. Stand. 87, 377, 1982). A simple mean of the differences would be
    dominated by the few peaks near the rotation axis, whose positions are uncertain by some ten
    frames.
    """

    def beyond(excess: float) -> float:
        return float(np.mean(squares / (variances + excess))) - 1

    if beyond(0.0) <= 0:
        return 0.0
    # If all variances are 0, the excess is the mean square.
    return float(brentq(beyond, 0.0, 1.001 * float(np.mean(squares))))


def _without_chance(refined: Refined, size: NDArray[Any], tolerance: float) -> NDArray[Any]:
    """Return the rows without the farthest peaks.

    As many peaks are removed as are indexed by chance, at most half. Peaks that are not reflections
    have random hkl: a fraction (2 tolerance)³ of them is indexed, far from predicted positions. A
    refinement rejects such peaks itself.
    """
    chance = (2 * tolerance) ** 3
    n_chance = round(float(np.sum(~refined.indexed)) * chance / (1 - chance))
    return np.argsort(size, kind="stable")[: len(size) - min(n_chance, len(size) // 2)]
