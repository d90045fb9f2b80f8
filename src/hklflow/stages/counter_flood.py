"""Find flat field and bad pixels (dead, weak, too strong, noisy) of a photon counter from a flood.

For a flood, a fluorescent sample replaces the crystal. Fluorescence is isotropic, so the counts of
a pixel are proportional to its solid angle times its response.
"""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 2


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw HDF5 file, or first and last image of a series."""
    geometry: Path | None = None
    """Calibrated geometry; None: the raw file must contain a detector geometry."""
    dark: Path | None = None
    """Constants from the dark frames, to leave out hot pixels; None: no dark."""


class Outputs(stage.Outputs):
    constants: Path
    """Flat field with errors, dispersion and mask of every pixel."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    attenuation: float | None = Field(None, gt=0)
    """Attenuation of the fluorescence in the sensor, 1/m: at oblique incidence the sensor absorbs
    more. None: the sensor absorbs all photons."""
    block: int = Field(8, gt=0, le=512)
    """Number of frames in memory at a time."""
    groups: Path | None = None
    """Groups of pixels (`hklflow groups make`): the flat field is one factor for each group, with
    an error far below that of a pixel. None: one factor for each pixel."""


class Params(Settings):
    """Settings, and the raw series."""

    pattern: str | None = None
    """Pattern of an image series (`name_####.cbf`); None: one HDF5 file."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Sum the frames, divide by the response of an ideal pixel, find bad pixels."""
    from dataclasses import replace

    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.constants import counters, files, flood
    from hklflow.constants.grouped import grouped
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
            f"{run.source} has no detector geometry, which is needed for the solid angle of the "
            "pixels; add a calibrated geometry (a rough one is enough: 5 pixels or 1 % of the "
            "distance change the flat field by 0.15 %)"
        )
    bits = run.bits
    if inputs.dark is not None:
        bits = bits | counters.part_mask(inputs.dark, bits.shape)
    relative = flood.illumination(detector, params.attenuation)
    result = flood.flat_field(run.moments, relative, bits)
    of_groups = None
    if params.groups is not None:
        weights = run.moments.light * relative
        flat, errors, of_groups = grouped(
            params.groups, result.flat, result.errors, weights, result.bits, detector
        )
        result = replace(result, flat=flat, errors=errors)
    quantities = {
        "flatfield": files.Quantity(result.flat.astype(np.float32)),
        "flatfield_errors": files.Quantity(result.errors.astype(np.float32)),
        "dispersion": files.Quantity(result.dispersion.astype(np.float32)),
        "counts": files.Quantity(run.moments.total.astype(np.float32), "counts"),
        "pixel_mask": counters.mask_quantity(result.bits),
    }
    left_out = int((run.levels == 0).sum())
    about = run.about | {
        "measure": "flood",
        "large_scale": result.large_scale,
        "noise_judged": result.noise_judged,
        "weak": result.weak,
        "frames_without_light": left_out,
        "attenuation": params.attenuation,
        **({} if of_groups is None else {"groups": of_groups}),
    }
    files.write_part(
        outputs.constants, f"flood of {run.source}", files.Constants(about, quantities)
    )
    if left_out:
        print(f"warning: {left_out} frames without light are left out")
    if sentence := flood.told_weak(result.weak):
        print(f"warning: {sentence}")
    if not result.noise_judged:
        print(
            f"note: noisy pixels are not flagged; this needs at least {flood.MIN_FRAMES} frames "
            f"with {flood.MIN_PER_FRAME:g} counts or more per pixel"
        )
    print(
        f"note: the smooth part of the flat field has a range of {100 * result.large_scale:.2f} %: "
        "it may be the detector's response, or absorption in the fluorescent sample"
    )
    print(", ".join(f"{n} {name}" for name, n in counters.numbers(result.bits).items()))


if __name__ == "__main__":
    stage.command(main)
