"""What the stages of both ramps (pulse capacitor, current source) share: settings and the fit."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hklflow import stage
from hklflow.constants.segments import Segments

if TYPE_CHECKING:
    from hklflow.constants.files import Constants
    from hklflow.constants.ramp_process import RampProcess


class RampSettings(stage.Params):
    """What the configuration file sets."""

    ramp: Segments = ()
    """The ramp as segments [n, increment]: each of n frames has an increment more charge, or is
    integrated an increment longer, than the one before. After the last segment the ramp starts
    again. Empty: every frame of the run has one step more than the one before."""
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


def fitted(
    process: "type[RampProcess]",
    gathered: Path,
    dark: Path | None,
    params: RampSettings,
    memory: float,
    limits: dict[str, tuple[float, float] | None],
) -> "Constants":
    """Lines and ratios of one ASIC, outliers marked.

    Parameters
    ----------
    process : type of RampProcess
    gathered : Path
        Gathered frames of the ramp.
    dark : Path or None
        Processed dark of the ASIC.
    params : RampSettings
    memory : float
        MB for the frames that are worked on at a time.
    limits : dict
        Name of a ratio -> its smallest and largest value.
    """
    from hklflow.constants import base, files, ramp_process
    from hklflow.constants.gathered import open_gathered

    with open_gathered(gathered) as ramp:
        what = process(
            ramp,
            None if dark is None else files.read_part(dark),
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
            memory,
            lambda parts, total: stage.progress(parts, total, "parts of memory cells"),
        )
    return ramp_process.mark_outliers(found, params.n_sigma, limits)
