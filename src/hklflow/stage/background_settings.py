"""Settings of one run without the crystal."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from hklflow import stage


class Run(stage.Params):
    """One run without the crystal."""

    raw: str
    """Raw file, or pattern of images, of one or more frames."""
    seen_through: Literal["not", "crystal", "part"]
    """Part of the background that passes through the crystal with the crystal in place. `not`: none
    (air before the crystal, windows before it). `crystal`: all (air or windows behind it, where the
    direct beam passes through the crystal; an approximation for a capillary). `part`: the share
    `share`.
    """
    share: float | None = Field(None, gt=0, lt=1)
    """Share of the background that passes through the crystal, for `seen_through: part`."""
    transmission: Annotated[float, Field(gt=0, le=1)] | Path | None = None
    """Transmission of the crystal: a number (the median of the rotation, whose course is taken from
    `frame_scale`), or a text file with one number for each frame. None: not known; 0.5 is used, and
    the interval 0 to 1 is reported.
    """
    transmission_error: float = Field(0.0, ge=0, lt=1)
    """Relative error of the transmission."""
    scale: PositiveFloat | Literal["fit"] = 1.0
    """Factor of the background besides monitor, attenuators and transmission. `fit`: from the
    curve of the counts against |Q|, if the background has structure there (powder rings) that the
    crystal has not.
    """
    scale_error: float = Field(0.0, ge=0, lt=1)
    """Relative error of the factor."""
    monitor: PositiveFloat | None = None
    """Monitor of one frame of the run; None: the values in the raw file."""
    exposure: PositiveFloat | None = None
    """Exposure of one frame of the run in seconds, if the experiment has no monitor; None: the
    value in the raw file."""
    attenuation: float | None = Field(None, gt=0, le=1)
    """Transmission of the attenuators during the run; None: the value in the raw file, else 1."""
    contains: tuple[str, ...] = ()
    """Names of other runs whose background this run contains, too: a run of an empty capillary in
    air contains the air. The background of this run alone is then the difference. What these runs
    contain themselves need not be repeated.
    """
    rotations: tuple[str, ...] = ()
    """Names of the rotations that have this background; empty: all."""

    @model_validator(mode="after")
    def _share_of_part(self) -> "Run":
        if (self.seen_through == "part") != (self.share is not None):
            raise ValueError("`share` belongs to `seen_through: part`: give both or none")
        if self.seen_through == "not" and self.transmission is not None:
            raise ValueError(
                "`transmission` has no effect on a background that is `seen_through: not`; correct "
                "`seen_through`, or leave the transmission out"
            )
        return self


class Named(Run):
    """A run and its name."""

    name: str
    """Name of the run in the configuration."""
