"""Find the ratio of medium to high gain of one ASIC from its pulse capacitor ramp."""

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
    """Fitted lines of high and medium gain, their ratio and status."""


class Settings(ramp_settings.RampSettings):
    """Settings of this stage in the configuration file."""


class Params(Settings):
    """Settings of the stage, and the available memory."""

    memory: float = Field(500, gt=0)
    """Memory for the frames, in MB."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Fit the lines, mark outliers, report the number of ratios."""
    import numpy as np

    from hklflow.constants import files
    from hklflow.constants.pulse_capacitor import PulseCapacitor

    limits = {"gain_ratio_mh": params.limits_mh}
    lines = ramp_settings.fitted(
        PulseCapacitor, inputs.gathered, inputs.dark, params, params.memory, limits
    )
    files.write_part(outputs.constants, "pulse capacitor", lines)
    good = lines["fit_status"] == 0
    print(
        f"ratio of medium to high gain of {good.sum()} of {good.size} pixels and cells: median "
        f"{np.median(lines['gain_ratio_mh'][good]) if good.any() else np.nan:.5f}"
    )


if __name__ == "__main__":
    stage.command(main)
