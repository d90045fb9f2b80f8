"""Find offset, noise, gain levels and thresholds of one ASIC from its dark frames."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1
KERNELS = "constants"


class Inputs(stage.Inputs):
    high: Path
    """Gathered frames of the dark run with all pixels in high gain."""
    medium: Path
    """Gathered frames of the dark run in medium gain."""
    low: Path
    """Gathered frames of the dark run in low gain."""


class Outputs(stage.Outputs):
    constants: Path
    """Constants of the ASIC from the dark runs."""


class Settings(stage.Params):
    clip: float = Field(5.0, ge=3, le=20)
    """Largest distance of a value from the median of its pixel, in standard deviations; values
    farther away are left out.
    """
    max_clipped: float = Field(0.2, gt=0, lt=1)
    """Largest fraction of left-out values; above it, offset and noise of the pixel are not used."""
    min_frames: int = Field(10, ge=2)
    """Smallest number of frames of a memory cell."""
    min_separation: float = Field(6.0, gt=0)
    """Smallest distance of the gain levels of neighbouring stages, in standard deviations."""


class Params(Settings):
    memory: float = Field(500.0, gt=0)
    """Memory for the frames, in MB."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Process all memory cells; stop if dark runs were interchanged."""
    from contextlib import ExitStack

    from hklflow.constants import dark
    from hklflow.constants.base import process
    from hklflow.constants.files import write_part
    from hklflow.constants.gathered import open_gathered

    limits = dark.DarkLimits(**params.model_dump(exclude={"memory"}))
    with ExitStack() as stack:
        runs = [
            stack.enter_context(open_gathered(path))
            for path in (inputs.high, inputs.medium, inputs.low)
        ]
        digital = runs[0].about.digital
        constants = process(
            dark.Dark(digital, limits),
            runs,
            params.memory,
            lambda parts, total: stage.progress(parts, total, "dark: parts of memory cells"),
        )
    dark.require_order(constants, params.min_separation)
    about = constants.about
    write_part(
        outputs.constants,
        f"dark of module {about['module']}, ASIC {about['asic']} of {about['detector']}",
        constants,
    )


if __name__ == "__main__":
    stage.command(main)
