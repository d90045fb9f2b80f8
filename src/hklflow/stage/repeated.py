"""Frames of a rotation, and orbits of voxels, to compare repeated measurements of S(Q)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hklflow import stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hklflow.formats.raw_frames import Frames
    from hklflow.images.scan import RotationScan
    from hklflow.nexus.masks import FrameMask
    from hklflow.orientation.product import Orientation
    from hklflow.transform.repeat_grid import RepeatGrid
    from hklflow.transform.repeats import Orbits
    from hklflow.transform.sums import Readout

    Range = tuple[NDArray[Any], int, NDArray[Any] | None]


class Ranges(NamedTuple):
    """Ranges of frames of a rotation.

    Attributes
    ----------
    readout : Readout
        Limits of valid counts.
    each : iterator
        Counts (n, slow, fast), first frame, and pixels in the 3-D mask (uint8, above 0) or None.
    """

    readout: "Readout"
    each: "Iterator[Range]"


@contextmanager
def ranges(scan: "RotationScan", frame_mask: Path, name: str, every: int) -> Iterator[Ranges]:
    """Open the frames of a rotation with its 3-D mask, to read ``every`` frames at a time."""
    import numpy as np

    from hklflow import nexus
    from hklflow.formats import raw
    from hklflow.images import masks
    from hklflow.transform.sums import Readout

    with raw.open_scan(scan) as frames, nexus.open_frame_mask(frame_mask) as excluded:
        flag = masks.flag_value(frames.dtype) or np.inf
        readout = Readout(min(flag, scan.saturation or np.inf), scan.underload)
        yield Ranges(readout, _each(scan, frames, excluded, name, every))


def _each(
    scan: "RotationScan", frames: "Frames", excluded: "FrameMask", name: str, every: int
) -> "Iterator[Range]":
    import numpy as np

    n, fast = scan.rotation.scan.n_frames, scan.rotation.detector.shape[1]
    blocks = frames.blocks(every, scan.first, scan.first + n)
    first = 0
    for counts in stage.progress(blocks, n, f"sum frames of {name}", len):
        last = first + len(counts)
        mask = None
        if excluded.any(first, last):
            mask = np.unpackbits(excluded[first:last], axis=2, count=fast)
        yield counts, first, mask
        first = last


def orbits(orientation: "Orientation", plan: "RepeatGrid", punch: float, friedel: bool) -> "Orbits":
    """Return the orbits of the voxels under the Laue group; without Friedel the point group.

    Parameters
    ----------
    punch : float
        Voxels whose middles differ from a reflection by less than this in h, k and l are not used.
    """
    import numpy as np

    from hklflow.geometry import symmetry
    from hklflow.transform import repeats
    from hklflow.volumes.symmetrise import images

    group = symmetry.space_group(orientation.space_group)
    operations = group.laue_operations
    if not friedel:
        # hkl are rows of the operations of coordinates.
        of_hkl = np.transpose(group.operations[0], (0, 2, 1))
        operations = np.unique(np.concatenate([np.eye(3, dtype=int)[None], of_hkl]), axis=0)
    maps = images(plan.grid, operations)
    return repeats.orbits(plan.grid, maps.turns, maps.shifts, punch, plan.share)
