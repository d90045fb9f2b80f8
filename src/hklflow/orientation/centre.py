"""Refine the offset of a crystal that is not centred on the rotation axis.

The offset moves the spots periodically with the rotation. Cell, orientation and detector absorb a
part of this motion. The offset is therefore refined together with them, but only if the residuals
show it: otherwise it cannot be determined and is not needed.
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
    """Refine the offset of the crystal from the axis, in rotations whose residuals show an offset.

    Parameters
    ----------
    refined : Refined
        Refinement without offsets.
    free : sequence of str
        Groups of parameters that were refined.
    again : callable
        Function that repeats the first refinement with other groups of parameters.

    Returns
    -------
    refined : Refined
        Refinement with offsets; the input, if no rotation shows an offset.
    free : list of str
        Groups of parameters of the returned refinement.
    """
    moved = steadiness.motions(refined, peaks, group, free)
    off = sorted({m.rotation for m in moved if m.kind == steadiness.OFF_CENTRE})
    if not off:
        return refined, list(free)
    more = [*free, *(f"off_centre_{i}" for i in off)]
    try:
        best = again(more)
    except HklflowError:
        return refined, list(free)  # the offset is still reported, as a motion
    return (best, more) if best.chi2 < refined.chi2 else (refined, list(free))
