"""Measure a slip by refining the frames before and after it as two rotations.

`orientation.steadiness` detects a slip by a linear approximation, `orientation.leftover` by the
lattice of the unexplained peaks. Above 0.1° the linear approximation gives a wrong size: some peaks
of both parts were rejected as outliers, and the others were fitted by a compromise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation, symmetry
from hklflow.geometry.parameters import rotation_vector, with_head
from hklflow.orientation.refinement import Refined, RefinementLimits, refine
from hklflow.orientation.residuals import Peaks

Floats = NDArray[np.float64]

_TOLERANCE = 0.25  # largest deviation of h, k, l from integers
_LEAST = 0.5  # smallest fraction of the peaks of both parts that must be indexed


@dataclass(frozen=True)
class Slip:
    """Position and approximate size of a slip.

    Attributes
    ----------
    rotation : int
    interval : (float, float)
        Frames between which the slip happened; their peaks are left out.
    turn : (3,) array
        Starting value for the rotation vector in radians, in the goniometer's frame.
    late : bool
        True if the part after the slip is rotated relative to the refined crystal.
    """

    rotation: int
    interval: tuple[float, float]
    turn: Floats
    late: bool = True


def measured(
    slip: Slip,
    refined: Refined,
    peaks: Sequence[Peaks],
    group: symmetry.SpaceGroup,
    free: Sequence[str],
) -> tuple[Floats, Floats] | None:
    """Return rotation vector (3,) in degrees and covariance (3, 3) of the rotated part.

    Return None if the two parts cannot be refined as one crystal.
    """
    number, peaks_of_rotation = slip.rotation, peaks[slip.rotation]
    parts = [
        peaks_of_rotation.select(peaks_of_rotation.frame < slip.interval[0]),
        peaks_of_rotation.select(peaks_of_rotation.frame > slip.interval[1]),
    ]
    whole = refined.rotations[number]
    turned = replace(whole, goniometer=with_head(whole.goniometer, slip.turn))
    # Head rotations are relative to the first rotation: the part with the known orientation is
    # first.
    others = [i for i in range(len(peaks)) if i != number]
    try:
        refinement = refine(
            [whole, turned, *(refined.rotations[i] for i in others)],
            [*(parts if slip.late else parts[::-1]), *(peaks[i] for i in others)],
            refined.ub,
            group,
            free=_groups(free, [number, number, *others]),
            limits=RefinementLimits(hkl=_TOLERANCE, min_fraction=_LEAST),
        )
    except HklflowError:
        return None
    rows = [refinement.names.index(f"misorientation_1_{axis}") for axis in "xyz"]
    before, after = (_setting(refinement.rotations[i]) for i in (0, 1))
    turn = np.degrees(rotation_vector(before.T @ after))
    return turn, np.degrees(1.0) ** 2 * refinement.covariance[np.ix_(rows, rows)]


def _groups(free: Sequence[str], order: Sequence[int]) -> list[str]:
    """Return the refined groups for rotations in another order, with free head rotations."""
    kept = [g for g in free if not g.startswith("off_centre_") and g != "scan_offset"]
    off = [f"off_centre_{n}" for n, i in enumerate(order) if f"off_centre_{i}" in free]
    return [*dict.fromkeys([*kept, "misorientation"]), *off]


def _setting(rotation: Rotation) -> Floats:
    """Return the rotation of the crystal's frame at scan angle 0."""
    setting: Floats = rotation.goniometer.rotation(0.0)
    return setting
