"""Find hot pixels of a photon counter in frames without X-rays."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw HDF5 file, or first and last image of a series."""


class Outputs(stage.Outputs):
    constants: Path
    """Counts per frame of every pixel, and the mask with the hot pixels."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    block: int = Field(8, gt=0, le=512)
    """Number of frames in memory at a time."""


class Params(Settings):
    """Settings of the stage, and the image series."""

    pattern: str | None = None
    """Pattern of an image series (`name_####.cbf`); None: one HDF5 file."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Sum the frames and flag pixels with improbable counts."""
    import numpy as np

    from hklflow.constants import counters, files
    from hklflow.images.masks import MaskBit, combine

    run = counters.measure(
        params.pattern or str(inputs.raw[0]),
        params.block,
        threads,
        shown=lambda blocks, n: stage.progress(blocks, n, "dark frames", len),
    )
    hot, rate = counters.hot_in_the_dark(run.moments, run.bits)
    # Counts without photons are noise, even if they are the same on each frame.
    bits = combine(hot.shape, [(MaskBit.NOISY, hot)], base=run.bits)
    rates = run.moments.mean.astype(np.float32)
    quantities = {
        "pixel_mask": counters.mask_quantity(bits),
        "dark_rate": files.Quantity(rates, "counts/frame", {"typical": rate}),
    }
    about = run.about | {"measure": "dark", "typical_rate": rate}
    files.write_part(outputs.constants, f"dark of {run.source}", files.Constants(about, quantities))
    print(f"{int(hot.sum())} hot pixels; the other pixels have {rate:.3g} counts per frame")


if __name__ == "__main__":
    stage.command(main)
