"""Add the volumes of the frame blocks of a rotation, which separate jobs transformed.

Counts and norms of the blocks are stored without rounding, so their sums are exact: the result is
equal to a transform in one block.
"""

from pathlib import Path

from hklflow import stage

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
    """Add the volumes, a group of planes at a time."""
    from collections.abc import Iterator
    from contextlib import ExitStack
    from itertools import product
    from typing import Any

    import numpy as np

    from hklflow import nexus
    from hklflow.base.errors import HklflowError
    from hklflow.transform.binning import Box

    with ExitStack() as stack:
        kinds = [
            [stack.enter_context(nexus.open_volume(path)) for path in paths]
            for paths in (inputs.parts, inputs.masked_parts)
        ]
        first_part = kinds[0][0]
        for path, volume in zip(
            inputs.parts + inputs.masked_parts, kinds[0] + kinds[1], strict=True
        ):
            if not volume.grid.same_as(first_part.grid):
                raise HklflowError(
                    f"{path} has another grid than {inputs.parts[0]}; transform the parts again"
                )
        counts_type = first_part.group["counts"].dtype
        largest = np.iinfo(counts_type).max if counts_type.kind == "u" else np.inf

        noisy = first_part.has_variance

        def added(volumes: list[nexus.OpenVolume], first: int, last: int) -> list[Any]:
            slabs = [volume.slab(first, last) for volume in volumes]
            counts, norm = (np.sum([slab[i] for slab in slabs], axis=0) for i in (0, 1))
            if counts.max() > largest:
                raise HklflowError(
                    f"a voxel of {outputs.transform} has more than {largest} counts; mask the "
                    "direct beam or use a finer grid"
                )
            if not noisy:
                return [counts, norm]
            return [counts, norm, sum(v.variance(slice(first, last)) for v in volumes)]

        def boxes() -> Iterator[Box]:
            planes = first_part.grid.shape[2]
            starts = range(0, planes, nexus.PLANES)
            for first in stage.progress(starts, len(starts), "added planes"):
                last = min(first + nexus.PLANES, planes)
                sums = (*added(kinds[0], first, last), *added(kinds[1], first, last))
                for k, h in product(*(range(0, n, 64) for n in sums[0].shape[1:])):
                    box = [volume[:, k : k + 64, h : h + 64] for volume in sums]
                    if noisy:
                        box = [box[0], box[1], box[3], box[4], box[2], box[5]]
                    if box[1].any():
                        yield Box((first, k, h), *box)

        writer = stack.enter_context(
            nexus.TransformWriter(
                outputs.transform,
                outputs.masked_transform,
                first_part.grid,
                first_part.cell,
                counts_type,
                noisy,
            )
        )
        writer.write(boxes())
        notes = [part.notes for part in kinds[0]]
        sums = {name: sum(note[name] for note in notes) for name in _SUMS}
        # A block without frames has a larger unit.
        sums["unit of the norms"] = min(note["unit of the norms"] for note in notes)
        writer.note({**notes[0], **sums, "blocks of frames": len(notes)})
    print(f"{len(inputs.parts)} blocks of frames added")


if __name__ == "__main__":
    stage.command(main)
