"""Find the ratios of the gains of one ASIC from the ramp of one current of the current source."""

from pathlib import Path

from pydantic import Field

from hklflow import stage
from hklflow.stage import ramp_settings

VERSION = 1
KERNELS = "constants"


class Inputs(stage.Inputs):
    gathered: Path
    """Gathered frames of the ramp."""
    dark: Path | None = None
    """Processed dark of the ASIC, for its gain thresholds; None: the digital levels of the ramp
    separate the gain stages.
    """


class Outputs(stage.Outputs):
    constants: Path
    """Fitted lines of the three gain stages, ratios of their slopes, and status."""


class Settings(ramp_settings.RampSettings):
    """Settings of this stage in the configuration file."""

    limits_lm: tuple[float, float] | None = None
    """Smallest and largest ratio of low to medium gain; None: no limits."""


class Params(Settings):
    """Settings of the stage, and the available memory."""

    memory: float = Field(500, gt=0)
    """Memory for the frames, in MB."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Fit the lines, mark outliers, report failed fits."""
    from hklflow.constants import files, ramp_process
    from hklflow.constants.current_source import CurrentSource

    limits = {"gain_ratio_mh": params.limits_mh, "gain_ratio_lm": params.limits_lm}
    lines = ramp_settings.fitted(
        CurrentSource, inputs.gathered, inputs.dark, params, params.memory, limits
    )
    files.write_part(outputs.constants, "current source", lines)
    status = lines["fit_status"]
    print(f"{(status == 0).sum()} of {status.size} pixels and cells are good")
    for bit in ramp_process.FitStatus:
        if count := int(((status & bit) != 0).sum()):
            print(f"{bit.name}: {count}")


if __name__ == "__main__":
    stage.command(main)
