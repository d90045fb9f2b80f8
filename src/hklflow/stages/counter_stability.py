"""Find pixels of a photon counter that are strong in most frames of a rotation."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw HDF5 file of a rotation, or first and last image of a series."""


class Outputs(stage.Outputs):
    constants: Path
    """Fraction of the frames in which each pixel is strong, and the mask."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    often: float = Field(0.5, gt=0, le=1)
    """Fraction of the frames above which a strong pixel is bad."""
    n_sigma: float = Field(3.0, ge=2)
    """Threshold for a strong pixel, in standard deviations above the local background."""
    every: int = Field(1, ge=1)
    """Use every n-th frame; some hundred frames are enough."""
    block: int = Field(8, gt=0, le=512)
    """Number of frames in memory at a time."""


class Params(Settings):
    """Settings of the stage, and the image series."""

    pattern: str | None = None
    """Pattern of an image series (`name_####.cbf`); None: one HDF5 file."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Count the frames in which each pixel is strong."""
    import math

    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.constants import counters, files
    from hklflow.constants.stability import MIN_FRAMES, Stability
    from hklflow.formats import raw
    from hklflow.images.masks import flag_value

    source = params.pattern or str(inputs.raw[0])
    with raw.open_frames(source) as frames:
        n = frames.shape[0]
        known = counters.known_bits(source, frames)
        looked = range(0, n, params.every)
        if len(looked) < MIN_FRAMES:
            raise HklflowError(
                f"only {len(looked)} frames of {source} are used; at least {MIN_FRAMES} are needed "
                "to distinguish bad pixels from reflections; use more frames or lower `every`"
            )
        flag = flag_value(frames.dtype) or math.inf
        stability = Stability(known != 0, flag_from=flag, n_sigma=params.n_sigma)
        if params.every == 1:
            blocks = frames.stream(params.block, threads=threads)
        else:
            blocks = (frames.read(k, k + 1) for k in looked)
        for block in stage.progress(blocks, len(looked), "frames", len):
            stability.add(block)
    result = stability.result(often=params.often)
    quantities = {
        "pixel_mask": counters.mask_quantity(known | result.bits),
        "strong_fraction": files.Quantity(result.fraction.astype(np.float32)),
    }
    about = {"measure": "stability", "raw": source, "frames": len(looked), "often": params.often}
    files.write_part(
        outputs.constants, f"stability of {source}", files.Constants(about, quantities)
    )
    print(f"{int((result.bits != 0).sum())} pixels are strong in {params.often:.0%} of the frames")


if __name__ == "__main__":
    stage.command(main)
