"""Sum the pixels of raw frames in blocks, for a quick look; to be imported as any raw file.

Counts are added exactly. A block of which any pixel is masked or flagged is flagged, one of which
any is saturated is saturated, so the saturation value of the sums is beyond what their pixels can
count. So it is at the other end: sums of pixels that may be as low as u are as low as b² u, and a
block of which any pixel is below u is flagged. Detector geometry, pixel mask and read noise of the
header are those of the sums.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.formats.header import Header
    from hklflow.formats.write_raw import NXmxHeader
    from hklflow.images.masks import Bits
    from hklflow.images.pixel_binning import PixelBinning

VERSION = 2


class Inputs(stage.Inputs):
    raw: list[Path]
    """The raw HDF5 file, or first and last image of a series."""


class Outputs(stage.Outputs):
    binned: Path
    """The block sums as NXmx (`.nxs`)."""


class Params(stage.Params):
    binning: int = Field(ge=2, le=8)
    """Pixels along each side of a block: 2, 4 or 8."""
    pattern: str | None = None
    """Pattern of an image series (`name_####.cbf`); None for one HDF5 file."""
    saturation: float | None = Field(None, gt=0)
    """Counts from which a pixel is not to be believed; None: from the raw file."""
    block: int = Field(16, gt=0, le=512)
    """Frames held in memory at a time."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Read, sum, write."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.formats import raw
    from hklflow.formats.write_raw import NXmxWriter
    from hklflow.images.block_sum import BlockSum
    from hklflow.images.pixel_binning import PixelBinning

    source, b = params.pattern or str(inputs.raw[0]), params.binning
    with raw.open_frames(source) as frames:
        header = raw.read_header(source)
        n, *shape = frames.shape
        binning = PixelBinning(b, (shape[0], shape[1]))
        if header.binning is not None:
            done = header.binning.factor
            raise HklflowError(
                f"{source} is binned {done} x {done} already; give the raw frames as measured in "
                "the table of scans"
            )
        bits = _mask(source, header, binning)
        sums = BlockSum(
            b,
            np.zeros(binning.shape, bool) if bits is None else bits != 0,
            frames.dtype,
            header.saturation if params.saturation is None else params.saturation,
            header.underload or 0.0,
        )
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
        print(f"note: {lost[0]} rows and {lost[1]} columns at the far ends fill no block")


def _underload(header: "Header", factor: int) -> float | None:
    """Smallest valid sum: that of the smallest valid pixels, which the sums have flagged by."""
    import numpy as np

    if header.underload is None or header.underload >= 0:
        return header.underload
    return max(factor**2 * header.underload, float(np.finfo(np.float32).min))


def _mask(source: str, header: "Header", binning: Any) -> "Bits | None":
    """Bits of the raw file's mask, of the blocks; None if it has none."""
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
    """Facts of the raw file as they are for the block sums."""
    from hklflow.formats.write_raw import described
    from hklflow.images.pixel_binning import bin_detector, bin_sum

    detector, noise, b = header.detector, header.read_variance, binning.factor
    own = replace(header, detector=None if detector is None else bin_detector(detector, b))
    return replace(
        described(own, binning.shape, n_frames),
        binning=binning,
        read_variance=None if noise is None else bin_sum(noise, b),
    )


if __name__ == "__main__":
    stage.command(main)
