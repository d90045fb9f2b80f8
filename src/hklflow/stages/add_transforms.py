"""Add the volumes of the frame blocks of a rotation, which separate jobs transformed.

Counts and norms of the blocks are stored without rounding, so their sums are exact: the result is
equal to a transform in one block.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow import stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hklflow.nexus import OpenVolume
    from hklflow.transform.binning import Box

VERSION = 2


class Inputs(stage.Inputs):
    parts: list[Path]
    """Counts and norm of all good pixels, one volume for each block, in the order of the blocks."""
    masked_parts: list[Path]
    """Counts and norm without the pixels of the 3-D mask, one volume for each block."""


class Outputs(stage.Outputs):
    transform: Path
    """Counts and norm of all good pixels."""
    masked_transform: Path
    """Counts and norm without the pixels of the 3-D mask."""


class Params(stage.Params):
    pass


#: Notes of the blocks that are summed.
_SUMS = (
    "pixel-frames used",
    "pixel-frames flagged or saturated",
    "sub-samples outside the grid",
)


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Add planes by planes."""
    from contextlib import ExitStack

    from hklflow import nexus

    with ExitStack() as stack:
        parts, masked_parts = (
            [stack.enter_context(nexus.open_volume(path)) for path in paths]
            for paths in (inputs.parts, inputs.masked_parts)
        )
        nexus.require_one_grid([*parts, *masked_parts], "transform the parts again")
        writer = stack.enter_context(
            nexus.TransformWriter(
                outputs.transform,
                outputs.masked_transform,
                parts[0].grid,
                parts[0].cell,
                parts[0].group["counts"].dtype,
                parts[0].has_variance,
                background=parts[0].has_background,
            )
        )
        writer.write(_boxes(parts, masked_parts, outputs.transform))
        notes = [part.notes for part in parts]
        sums = {name: sum(note[name] for note in notes) for name in _SUMS}
        # A block without frames has a larger unit.
        sums["unit of the norms"] = min(note["unit of the norms"] for note in notes)
        writer.note({**notes[0], **sums, "blocks of frames": len(notes)})
    print(f"{len(inputs.parts)} blocks of frames added")


def _boxes(
    parts: "list[OpenVolume]", masked_parts: "list[OpenVolume]", target: Path
) -> "Iterator[Box]":
    """Yield the sums of the parts in boxes; boxes without measured voxels are left out."""
    from itertools import product

    from hklflow.nexus import PLANES
    from hklflow.transform.binning import Box

    planes = parts[0].grid.shape[2]
    starts = range(0, planes, PLANES)
    for first in stage.progress(starts, len(starts), "added planes"):
        region = slice(first, min(first + PLANES, planes))
        total, clean = (_added(volumes, region, target) for volumes in (parts, masked_parts))
        for k, h in product(*(range(0, n, 64) for n in total[0].shape[1:])):
            box, without = (
                [array[:, k : k + 64, h : h + 64] for array in sums] for sums in (total, clean)
            )
            if box[1].any():
                more = (pair[i] for i in range(2, len(box)) for pair in (box, without))
                yield Box((first, k, h), *box[:2], *without[:2], *more)


def _added(volumes: "list[OpenVolume]", planes: slice, target: Path) -> "list[Any]":
    """Return the sums of counts, norm and, if stored, variance and background on some planes."""
    import numpy as np

    from hklflow.base.errors import HklflowError

    counts_type = volumes[0].group["counts"].dtype
    largest = np.iinfo(counts_type).max if counts_type.kind == "u" else np.inf
    slabs = [volume.slab(planes.start, planes.stop) for volume in volumes]
    counts, norm = (np.sum([slab[i] for slab in slabs], axis=0) for i in (0, 1))
    if counts.max() > largest:
        raise HklflowError(
            f"a voxel of {target} has more than {largest} counts; mask the direct beam or use a "
            "finer grid"
        )
    if not volumes[0].has_variance:
        return [counts, norm]
    sums = [counts, norm, sum(volume.variance(planes) for volume in volumes)]
    if volumes[0].has_background:
        sums.append(sum(volume.background(planes) for volume in volumes))
    return sums


if __name__ == "__main__":
    stage.command(main)
