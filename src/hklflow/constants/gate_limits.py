"""Limits for accepting constants (light imports, because the configuration imports them)."""

from pydantic import ConfigDict, Field

from hklflow.base.described import Described


class Gates(Described):
    """Limits that constants must meet to be accepted; None: not checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_masked: float | None = Field(0.05, ge=0, le=1)
    """Largest fraction of masked pixels of the detector; gaps and virtual pixels do not count."""
    max_masked_module: float | None = Field(0.2, ge=0, le=1)
    """Largest fraction of masked pixels of one module."""
    max_bad_constants: float | None = Field(0.1, ge=0, le=1)
    """Largest fraction of constants (stages and memory cells) with a status bit; stages without a
    measured gain do not count, see `measured_gains`."""
    measured_gains: bool = True
    """Require that every gain was measured or is in a gain map: unknown gains and gains from
    `default_gain` fail."""
    max_gain_change: float | None = Field(0.03, gt=0)
    """Largest median change of a module's gain, as a fraction of the gain in the accepted
    constants."""
    max_offset_change: float | None = Field(None, gt=0)
    """Largest median difference between a module's offset and the offset in the accepted
    constants, in units of the noise. Offsets change with temperature."""


class NormalizationGates(Described):
    """Limits that a normalisation must meet to be accepted; None: not checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_error: float | None = Field(0.01, gt=0)
    """Largest median standard error of the response of a pixel."""
    max_unusable: float | None = Field(0.05, ge=0, le=1)
    """Largest fraction of pixels without a usable response; pixels that the raw file masks do not
    count."""
    max_large_scale: float | None = Field(0.1, gt=0)
    """Largest range of the smooth part of the response. A larger range has another cause than the
    pixels: absorption in the standard, a wrong geometry, scattering that is not isotropic."""
    max_background: float | None = Field(0.5, gt=0, le=1)
    """Largest fraction of the counts that comes from the empty measurement."""
