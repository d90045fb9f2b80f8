"""Flat field, dead, weak, too strong and noisy pixels of a photon counter, from a flood.

The flood is fluorescence of a sample in place of the crystal: it is isotropic, so that each pixel
counts its solid angle times its response.
"""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    raw: list[Path]
    """The raw HDF5 file, or first and last image of a series."""
    geometry: Path | None = None
    """Calibrated geometry; without it the raw file must hold a detector geometry."""
    dark: Path | None = None
    """Constants of the dark, whose hot pixels are left out; None: there is none."""


class Outputs(stage.Outputs):
    constants: Path
    """Flat field with errors, dispersion and mask of every pixel."""


class Settings(stage.Params):
    """What the configuration file sets."""

    attenuation: float | None = Field(None, gt=0)
    """Of the sensor for the fluorescence, 1/m: pixels that are hit obliquely absorb more of it.
    None: the sensor absorbs all of it."""
    block: int = Field(8, gt=0, le=512)
    """Frames held in memory at a time."""


class Params(Settings):
    """Settings, and which series."""

    pattern: str | None = None
    """Pattern of an image series (`name_####.cbf`); None for one HDF5 file."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Sum the frames; divide by what an ideal pixel sees; judge pixels."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.constants import counters, files, flood
    from hklflow.formats import assemble

    run = counters.measure(
        params.pattern or str(inputs.raw[0]),
        params.block,
        threads,
        levels=True,
        shown=lambda blocks, n: stage.progress(blocks, n, "flood frames", len),
    )
    detector = run.header.detector
    if inputs.geometry is not None:
        detector, _ = assemble.calibrated(stage.read_json(inputs.geometry), inputs.geometry)
    if detector is None:
        raise HklflowError(
            f"{run.source} states no geometry of the detector, and the solid angle of its pixels "
            "must be known; give a calibrated geometry (a rough one will do: 5 pixels or 1 % of "
            "the distance change the flat by 0.15 %)"
        )
    bits = run.bits
    if inputs.dark is not None:
        bits = bits | counters.part_mask(inputs.dark, bits.shape)
    seen = flood.illumination(detector, params.attenuation)
    found = flood.flat_field(run.moments, seen, bits)
    quantities = {
        "flatfield": files.Quantity(found.flat.astype(np.float32)),
        "flatfield_errors": files.Quantity(found.errors.astype(np.float32)),
        "dispersion": files.Quantity(found.dispersion.astype(np.float32)),
        "counts": files.Quantity(run.moments.total.astype(np.float32), "counts"),
        "pixel_mask": counters.mask_quantity(found.bits),
    }
    left_out = int((run.levels == 0).sum())
    about = run.about | {
        "measure": "flood",
        "large_scale": found.large_scale,
        "noise_judged": found.noise_judged,
        "frames_without_light": left_out,
        "attenuation": params.attenuation,
    }
    files.write_part(
        outputs.constants, f"flood of {run.source}", files.Constants(about, quantities)
    )
    if left_out:
        print(f"warning: {left_out} frames have no light and are left out")
    if not found.noise_judged:
        print(
            f"note: noisy pixels are not looked for; that needs {flood.MIN_FRAMES} frames with "
            f"{flood.MIN_PER_FRAME:g} counts or more"
        )
    print(
        f"note: the flat has a smooth part that ranges over {100 * found.large_scale:.2f} %: the "
        "response, or that the flood's sample absorbs its fluorescence more on one side"
    )
    print(", ".join(f"{n} {name}" for name, n in counters.numbers(found.bits).items()))


if __name__ == "__main__":
    stage.command(main)
