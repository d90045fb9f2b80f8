"""Settings and fit that the stages of both ramps (pulse capacitor, current source) share."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hklflow import stage
from hklflow.constants.segments import Segments

if TYPE_CHECKING:
    from hklflow.constants.files import Constants
    from hklflow.constants.ramp_process import RampProcess


class RampSettings(stage.Params):
    """Settings from the configuration file."""

    ramp: Segments = ()
    """Segments of the ramp as [n, increment]. Each of the n frames has an increment more charge, or
    more integration time, than the frame before. After the last segment the ramp starts again.
    Empty: every frame of the run has one step more than the frame before.
    """
    trim: float = Field(0.10, ge=0, lt=0.5)
    """Fraction of the frames of a gain stage, next to a gain switch, that is left out."""
    settling: float = Field(0.0, ge=0)
    """Decay constant, in units of the ramp, of an exponential that is fitted with the line after a
    gain switch; 0: no exponential.
    """
    saturation_margin: float = Field(50, ge=0)
    """Distance from either end of the output range, in ADU, within which values are not used."""
    min_points: int = Field(20, ge=5)
    """Smallest number of frames for the line of a gain stage."""
    linearity: float = Field(0.002, gt=0)
    """Systematic rms deviation from the line, as a fraction of its rise, above which a pixel is not
    linear. The error of its slope is then about six times this fraction.
    """
    n_sigma: float = Field(5.0, gt=0)
    """Limit of an outlier: distance of a ratio from the median of the ASIC, in robust standard
    deviations.
    """
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
    """Return lines and ratios of one ASIC, with outliers marked.

    Parameters
    ----------
    process : type of RampProcess
    gathered : Path
        Gathered frames of the ramp.
    dark : Path or None
        Processed dark of the ASIC.
    params : RampSettings
    memory : float
        MB for the frames that are processed at a time.
    limits : dict
        Smallest and largest value of each ratio, by its name.
    """
    from hklflow.constants import base, files, ramp_process
    from hklflow.constants.gathered import open_gathered

    with open_gathered(gathered) as ramp:
        fit = process(
            ramp,
            None if dark is None else files.read_part(dark),
            params.ramp,
            margin=params.saturation_margin,
            trim=params.trim,
            least=params.min_points,
            settling=params.settling,
            linearity=params.linearity,
        )
        constants = base.process(
            fit,
            [ramp],
            memory,
            lambda parts, total: stage.progress(parts, total, "parts of memory cells"),
        )
    return ramp_process.mark_outliers(constants, params.n_sigma, limits)
