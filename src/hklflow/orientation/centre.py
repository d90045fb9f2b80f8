"""A crystal that is not on the rotation axis: where its spots fall, and refinement with its place.

Its spots move round and round by what it is off. Cell, orientation and detector take up a part of
that, so it is refined with them once the residuals tell it; where they do not, it is not determined
and not needed.
"""

from collections.abc import Callable, Sequence

from hklflow.base.errors import HklflowError
from hklflow.geometry import symmetry
from hklflow.orientation import steadiness
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks

__all__ = ["centred"]


def centred(
    refined: Refined,
    peaks: Sequence[Peaks],
    group: symmetry.SpaceGroup,
    free: Sequence[str],
    again: Callable[[Sequence[str]], Refined],
) -> tuple[Refined, list[str]]:
    """Refine with the crystal's offset from the axis in the rotations that tell of one.

    Parameters
    ----------
    refined : Refined
        Without offsets.
    free : sequence of str
        What was refined.
    again : callable
        Refines what it is given, as the first refinement did.

    Returns
    -------
    refined : Refined
        As given, if no rotation tells of an offset.
    free : list of str
        What was refined now.
    """
    moved = steadiness.motions(refined, peaks, group, free)
    off = sorted({m.rotation for m in moved if m.kind == steadiness.OFF_CENTRE})
    if not off:
        return refined, list(free)
    more = [*free, *(f"off_centre_{i}" for i in off)]
    try:
        best = again(more)
    except HklflowError:
        return refined, list(free)  # told as a motion all the same
    return (best, more) if best.chi2 < refined.chi2 else (refined, list(free))
