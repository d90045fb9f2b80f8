"""Sum repeated scans, measured under identical conditions, into one raw file.

Counts are added frame by frame as integers; monitors and exposures are added, too. A pixel that is
masked, flagged or saturated in one of the scans has the same state in the sum. Scans that differ in
anything else are refused, and the message names every difference.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.stage.rehearsal import Known

VERSION = 4


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw HDF5 files, or first and last image of each series."""


class Outputs(stage.Outputs):
    sum: Path
    """Sum as NXmx (`.nxs`), which is imported like any raw file."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    temperature_tolerance: float = Field(0.5, ge=0)
    """Largest temperature difference between the scans in K; the sum has the mean temperature."""
    saturation: float | None = Field(None, gt=0)
    """Counts from which a pixel of one scan is saturated; None: the value in the raw files."""
    block: int = Field(4, gt=0, le=512)
    """Number of frames in memory at a time."""


class Params(Settings):
    """Settings of the stage, and the image series."""

    patterns: tuple[str, ...] = ()
    """Patterns of the image series (`name_####.cbf`); empty: HDF5 files."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Compare the scans, add them and write the sum."""
    from contextlib import ExitStack

    from hklflow.formats import sum_raw

    names = _names(inputs, params)
    with ExitStack() as stack:
        repeats = sum_raw.open_repeats(names, stack)
        sum_raw.require_alike(repeats, params.temperature_tolerance)
        sum_raw.require_distinct(repeats)
        n = repeats[0].frames.shape[0]
        stored = sum_raw.write_sum(
            outputs.sum,
            repeats,
            params.saturation or repeats[0].header.saturation,
            params.block,
            lambda blocks: stage.progress(blocks, n, "summed frames", lambda b: len(b[0])),
        )
        print(f"{n} frames of {len(names)} scans summed as {stored.dtype}")
        if repeats[0].header.exposure_time is None:
            print("note: the raw files state no exposure: set `import_scan: exposure` to the sum's")
    if stored.dtype.itemsize > 4:
        print("note: later stages cannot process sums above 32 bits; sum fewer scans")


def _names(inputs: Inputs, params: Params) -> list[str]:
    """Return the names of the scans, which must be of one format."""
    from hklflow.base.errors import HklflowError
    from hklflow.formats import raw

    hdf5 = [str(path) for path in inputs.raw if raw.is_hdf5(path)]
    if params.patterns and hdf5:
        raise HklflowError(
            f"{hdf5[0]} is an HDF5 file, but there are also patterns of image series "
            f"({', '.join(params.patterns)}); sum scans of one format"
        )
    return list(params.patterns) or [str(path) for path in inputs.raw]


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Compare the headers of the scans."""
    from contextlib import ExitStack

    from hklflow.formats import sum_raw
    from hklflow.stage.rehearsal import FrameFacts

    if any(path in known.products for path in inputs.raw):  # they are simulated first
        return
    with ExitStack() as stack:
        repeats = sum_raw.open_repeats(_names(inputs, params), stack)
        sum_raw.require_alike(repeats, params.temperature_tolerance)
        saturation = params.saturation or repeats[0].header.saturation
        kind = sum_raw.types_of_sum(repeats, saturation)[0]
        n, slow, fast = repeats[0].frames.shape
        header = sum_raw.header_of_sum(repeats, kind)
        known.products[outputs.sum] = FrameFacts((n, slow, fast), kind.dtype, header)


if __name__ == "__main__":
    stage.command(main)
