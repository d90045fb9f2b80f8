"""Compare the size of a cell with the expected cell, and the distance with the calibration.

A relative error of the distance or of the wavelength changes the cell by about the same factor, but
not the positions of the spots. The distance can be refined, because tan 2θ differs from 2θ. An
error of the wavelength is visible only in the cell.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.orientation.refinement import Refined

_SIGNIFICANT = 5.0  # σ above which a difference of distances is reported


def sizes(
    refined: Refined,
    expected: ArrayLike | None,
    free: Sequence[str],
    again: Callable[[Sequence[str]], Refined],
) -> list[Mapping[str, Any]]:
    """Compare the cell with the expected cell, and the distance with the calibration.

    Parameters
    ----------
    refined : Refined
    expected : (6,) array or None
        Cell in the table of samples.
    free : sequence of str
        Groups of parameters that were refined.
    again : callable
        Function that repeats the refinement with other groups of parameters.

    Returns
    -------
    list of dict
        ``what`` (``cell``, ``distance``), ``relative`` (relative difference), and ``sentence``. A
        distance has ``bias in sigma``, too: the change of the cell in its standard deviations.
    """
    differences: list[Mapping[str, Any]] = []
    if expected is not None:
        ratio = lattice.volume(refined.cell) / lattice.volume(np.asarray(expected, np.float64))
        relative = float(np.cbrt(ratio) - 1)
        sentence = (
            f"the cell is {abs(relative):.2%} {_larger(relative)} than the cell of the table of "
            "samples (mean of its lengths): if it is not the temperature, the wavelength or the "
            "detector's distance is wrong by as much"
        )
        differences.append({"what": "cell", "relative": relative, "sentence": sentence})
    if "detector_z" not in free:
        differences += _distance(refined, [*free, "detector_z"], again)
    return differences


def _distance(
    refined: Refined, free: Sequence[str], again: Callable[[Sequence[str]], Refined]
) -> list[Mapping[str, Any]]:
    try:
        other = again(free)
    except HklflowError:  # the distance cannot be determined
        return []
    index = other.names.index("detector_z")
    moved, sigma = float(other.values[index]), float(other.sigma[index])
    distance = refined.rotations[0].detector.distance
    if abs(moved) < _SIGNIFICANT * sigma:
        return []
    change = float(np.cbrt(lattice.volume(other.cell) / lattice.volume(refined.cell)) - 1)
    precision = np.max(refined.cell[:3] / np.maximum(refined.cell_sigma[:3], np.finfo(float).tiny))
    bias = abs(change) * float(precision)
    sentence = (
        f"the detector seems to be {1e3 * moved:+.3f} ± {1e3 * sigma:.1g} mm along its normal "
        f"from where the calibration has it ({100 * moved / distance:+.2g}% of its distance): "
        f"the cell would be {100 * abs(change):.2g}% {_larger(change)}, {bias:.2g} of its errors; "
        "check the calibration, or set `refine_parent: {refine_distance: true}`"
    )
    relative = moved / distance
    found = {"what": "distance", "relative": relative, "bias in sigma": bias, "sentence": sentence}
    return [found]


def _larger(difference: float) -> str:
    return "larger" if difference > 0 else "smaller"
