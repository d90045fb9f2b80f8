"""Sum the pixels of raw frames in blocks, for a quick look; the output is like a raw file.

Counts are added exactly. A block with a masked or flagged pixel is flagged. A block with a
saturated pixel is saturated, so the saturation value of the sums is above the largest sum of valid
pixels. If pixels are valid down to a negative value u, sums are valid down to b² u, and a block
with a pixel below u is flagged. The header has the detector geometry, pixel mask and read noise of
the sums.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    import numpy as np

    from hklflow.formats.header import Header
    from hklflow.formats.write_raw import NXmxHeader
    from hklflow.images.block_sum import BlockSum
    from hklflow.images.masks import Bits, BoolImage
    from hklflow.images.pixel_binning import PixelBinning
    from hklflow.stage.rehearsal import Known

VERSION = 4


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw HDF5 file, or first and last image of a series."""


class Outputs(stage.Outputs):
    binned: Path
    """Block sums as NXmx (`.nxs`)."""


class Params(stage.Params):
    binning: int = Field(ge=2, le=8)
    """Side of a block in pixels: 2, 4 or 8."""
    pattern: str | None = None
    """Pattern of an image series (`name_####.cbf`); None: one HDF5 file."""
    saturation: float | None = Field(None, gt=0)
    """Counts from which a pixel is saturated; None: the value in the raw file."""
    block: int = Field(16, gt=0, le=512)
    """Number of frames in memory at a time."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Read the frames, sum the blocks, write the sums."""
    import numpy as np

    from hklflow.formats import raw
    from hklflow.formats.write_raw import NXmxWriter

    source, b = params.pattern or str(inputs.raw[0]), params.binning
    with raw.open_frames(source) as frames:
        header = raw.read_header(source)
        n, *shape = frames.shape
        binning = _binning(source, header, (shape[0], shape[1]), b)
        bits = _mask(source, header, binning)
        bad = np.zeros(binning.shape, bool) if bits is None else bits != 0
        sums = _block_sum(bad, frames.dtype, header, params)
        facts = replace(
            _described(header, binning, n),
            pixel_mask=bits,
            saturation=sums.saturated,
            underload=_underload(header, b),
            dtype=sums.stored,
        )
        with NXmxWriter(outputs.binned, facts) as writer:
            blocks = frames.stream(params.block, threads=threads)
            for block in stage.progress(blocks, n, "binned frames", len):
                writer.append(sums(block))
    lost = [size % b for size in shape]
    print(f"{n} frames of {shape[0]} x {shape[1]} pixels summed to {binning.shape}")
    if any(lost):
        print(f"note: {lost[0]} rows and {lost[1]} columns at the far edges fill no block")


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Describe the block sums."""
    import numpy as np

    from hklflow.stage.rehearsal import FrameFacts

    source = params.pattern or str(inputs.raw[0])
    frames = known.frames(inputs.raw[0], params.pattern)
    if frames is None:
        return
    n, slow, fast = frames.shape
    binning = _binning(source, frames.header, (slow, fast), params.binning)
    sums = _block_sum(np.zeros(binning.shape, bool), frames.dtype, frames.header, params)
    header = replace(_of_sums(frames.header, binning), saturation=sums.saturated)
    known.products[outputs.binned] = FrameFacts((n, *binning.shape), sums.stored, header)


def _block_sum(
    bad: "BoolImage", dtype: "np.dtype[Any]", header: "Header", params: Params
) -> "BlockSum":
    """Return the function that sums the blocks of frames."""
    from hklflow.images.block_sum import BlockSum

    saturation = header.saturation if params.saturation is None else params.saturation
    return BlockSum(params.binning, bad, dtype, saturation, header.underload or 0.0)


def _binning(source: str, header: "Header", shape: tuple[int, int], factor: int) -> "PixelBinning":
    """Return the binning; refuse frames that are binned already, or too small."""
    from hklflow.base.errors import HklflowError
    from hklflow.images.pixel_binning import PixelBinning

    binning = PixelBinning(factor, shape)
    if header.binning is not None:
        done = header.binning.factor
        raise HklflowError(
            f"{source} is already binned {done} x {done}; enter the unbinned raw frames in "
            "the table of scans"
        )
    return binning


def _of_sums(header: "Header", binning: "PixelBinning") -> "Header":
    """Return the header of the block sums, but for the saturation and the bits of the mask."""
    from hklflow.images.pixel_binning import bin_detector, bin_mask, bin_sum

    detector, noise, b = header.detector, header.read_variance, binning.factor
    mask = header.pixel_mask
    return replace(
        header,
        detector=None if detector is None else bin_detector(detector, b),
        pixel_mask=None if mask is None else bin_mask(mask, b),
        read_variance=None if noise is None else bin_sum(noise, b),
        binning=binning,
        readouts=(header.readouts or 1) * b**2,
        underload=_underload(header, b),
    )


def _underload(header: "Header", factor: int) -> float | None:
    """Return the smallest valid sum of a block.

    Sums that contain a pixel below the valid range are flagged.
    """
    import numpy as np

    if header.underload is None or header.underload >= 0:
        return header.underload
    return max(factor**2 * header.underload, float(np.finfo(np.float32).min))


def _mask(source: str, header: "Header", binning: Any) -> "Bits | None":
    """Return the mask bits of the blocks from the raw file; None if the file has no mask."""
    import numpy as np

    from hklflow.formats.raw import is_hdf5, read_mask_bits
    from hklflow.images.pixel_binning import bin_bits

    if header.pixel_mask is None:
        return None
    bits = read_mask_bits(Path(source)) if is_hdf5(source) else None
    if bits is None:
        bits = header.pixel_mask.astype(np.uint32)
    return bin_bits(bits, binning.factor)


def _described(header: "Header", binning: "PixelBinning", n_frames: int) -> "NXmxHeader":
    """Convert the header of the raw file to the header of the binned frames."""
    from hklflow.formats.write_raw import described

    sums = _of_sums(header, binning)
    return replace(
        described(sums, binning.shape, n_frames), binning=binning, read_variance=sums.read_variance
    )


if __name__ == "__main__":
    stage.command(main)
