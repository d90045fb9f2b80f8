"""Process the pulse capacitor ramp of one ASIC: ratio of medium to high gain."""

from pathlib import Path

from pydantic import Field

from hklflow import stage
from hklflow.constants.segments import Segments

VERSION = 1


class Inputs(stage.Inputs):
    gathered: Path
    """Gathered frames of the ramp."""
    dark: Path | None = None
    """Processed dark of the ASIC, for its gain thresholds; None: the levels of the ramp itself
    are divided."""


class Outputs(stage.Outputs):
    constants: Path
    """Lines of high and medium gain, their ratio and status."""


class Settings(stage.Params):
    """What the configuration file sets."""

    ramp: Segments = ()
    """The ramp as segments [n, increment]: each of n frames has an increment more charge than the
    one before. After the last segment the ramp starts again. Empty: every frame of the run has one
    step more than the one before."""
    trim: float = Field(0.10, ge=0, lt=0.5)
    """Fraction of a stage's frames that is left out next to a switch of gain."""
    settling: float = Field(0.0, ge=0)
    """Decay constant, in units of the ramp, of an exponential that is fitted beside the line after
    a switch; 0: none."""
    saturation_margin: float = Field(50, ge=0)
    """ADU from both ends of the output's range within which values are not used."""
    min_points: int = Field(20, ge=5)
    """Frames that the line of a stage needs."""
    linearity: float = Field(0.002, gt=0)
    """Systematic deviation from the line (rms) as a fraction of its rise, from which a pixel is not
    linear; its slope is then off by some six times as much."""
    n_sigma: float = Field(5.0, gt=0)
    """Robust standard deviations from the ASIC's median from which a ratio is an outlier."""
    limits_mh: tuple[float, float] | None = None
    """Smallest and largest ratio of medium to high gain; None: no limits."""


class Params(Settings):
    """Settings, and the room."""

    memory: float = Field(500, gt=0)
    """MB for the frames that are worked on at a time."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Fit the lines, mark outliers, tell how many ratios there are."""
    import numpy as np

    from hklflow.constants import base, files, ramp_process
    from hklflow.constants.gathered import open_gathered
    from hklflow.constants.pulse_capacitor import PulseCapacitor

    dark = None if inputs.dark is None else files.read_part(inputs.dark)
    with open_gathered(inputs.gathered) as ramp:
        what = PulseCapacitor(
            ramp,
            dark,
            params.ramp,
            margin=params.saturation_margin,
            trim=params.trim,
            least=params.min_points,
            settling=params.settling,
            linearity=params.linearity,
        )
        found = base.process(
            what,
            [ramp],
            params.memory,
            lambda parts, total: stage.progress(parts, total, "parts of memory cells"),
        )
    limits = {"gain_ratio_mh": params.limits_mh}
    found = ramp_process.mark_outliers(found, params.n_sigma, limits)
    files.write_part(outputs.constants, "pulse capacitor", found)
    good = found["fit_status"] == 0
    print(
        f"ratio of medium to high gain of {good.sum()} of {good.size} pixels and cells: median "
        f"{np.median(found['gain_ratio_mh'][good]) if good.any() else np.nan:.5f}"
    )


if __name__ == "__main__":
    stage.command(main)
