"""The size of a slip, by refining what was before and after it as two rotations.

`orientation.steadiness` tells a slip by what is linear in it, and `orientation.leftover` by the
lattice that is left. Beyond 0.1° the first no longer is enough for its size: some peaks of both
parts were outliers, and the others were fitted between the two.
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

_TOLERANCE = 0.25  # of h, k, l
_LEAST = 0.5  # of the peaks of both parts must be indexed


@dataclass(frozen=True)
class Slip:
    """Where a crystal slipped, and about how.

    Attributes
    ----------
    rotation : int
    interval : (float, float)
        Frames within which it did; their peaks are left out.
    turn : (3,) array
        Rotation vector in radians, in the goniometer's frame, from which to start.
    late : bool
        Whether the part after it is the one that is turned against the refined crystal.
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
    """Rotation vector (3,) in degrees and its covariance (3, 3), of the turned part.

    None, if the two parts cannot be refined as one crystal.
    """
    at, own = slip.rotation, peaks[slip.rotation]
    parts = [own.select(own.frame < slip.interval[0]), own.select(own.frame > slip.interval[1])]
    whole = refined.rotations[at]
    turned = replace(whole, goniometer=with_head(whole.goniometer, slip.turn))
    # Heads are relative to the first rotation: to the part of which the orientation is known.
    others = [i for i in range(len(peaks)) if i != at]
    try:
        found = refine(
            [whole, turned, *(refined.rotations[i] for i in others)],
            [*(parts if slip.late else parts[::-1]), *(peaks[i] for i in others)],
            refined.ub,
            group,
            free=_groups(free, [at, at, *others]),
            limits=RefinementLimits(hkl=_TOLERANCE, min_fraction=_LEAST),
        )
    except HklflowError:
        return None
    rows = [found.names.index(f"misorientation_1_{axis}") for axis in "xyz"]
    before, after = (_setting(found.rotations[i]) for i in (0, 1))
    turn = np.degrees(rotation_vector(before.T @ after))
    return turn, np.degrees(1.0) ** 2 * found.covariance[np.ix_(rows, rows)]


def _groups(free: Sequence[str], order: Sequence[int]) -> list[str]:
    """What is refined with the rotations in another order, their heads too."""
    kept = [g for g in free if not g.startswith("off_centre_") and g != "scan_offset"]
    off = [f"off_centre_{n}" for n, i in enumerate(order) if f"off_centre_{i}" in free]
    return [*dict.fromkeys([*kept, "misorientation"]), *off]


def _setting(rotation: Rotation) -> Floats:
    """What turns the crystal's frame, at the scan's angle 0."""
    setting: Floats = rotation.goniometer.rotation(0.0)
    return setting
