"""Settings for the integration of reflections: section `integrate` of the configuration."""

from typing import TYPE_CHECKING

from pydantic import Field, PositiveFloat

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.bragg.scene import IntegrationParams


class IntegrationSettings(stage.Params):
    """Settings of hklflow's own integration."""

    n_sigma: float = Field(3.5, ge=2, le=8)
    """Half axes of the summed region, in standard deviations of the spot."""
    mosaic: float | None = Field(None, gt=0)
    """Starting value of the standard deviation of the rocking curve, in degrees; None: from the
    peaks.
    """
    spot: tuple[PositiveFloat, PositiveFloat] | None = None
    """Starting value of the standard deviation of spots in pixels (slow, fast); None: from the
    peaks.
    """
    strong: float = Field(20.0, ge=5)
    """Smallest I/σ of reflections from which widths and profiles are learned."""
    references: int = Field(1000, ge=50)
    """Largest number of reflections from which widths and profiles are learned. 1000 are enough for
    nine regions of the detector with 100 each.
    """
    max_frames: int = Field(100, ge=3)
    """Largest number of frames of an integrated reflection."""
    min_zeta: float = Field(0.1, ge=0, le=1)
    """Smallest |ζ| of a scaled reflection; reflections with a smaller value are flagged LONG."""
    overlap: float = Field(0.05, ge=0, le=1)
    """Fraction of a reflection in the foreground of others, above which it is flagged OVERLAP."""
    min_recorded: float = Field(0.5, gt=0, le=1)
    """Smallest fraction of a reflection on good pixels that gives an intensity."""
    memory: PositiveFloat = 1000.0
    """Memory in MB for the voxels of reflections; larger data need several passes over the frames.
    """

    def chosen(self, threads: int = 1) -> "IntegrationParams":
        """Return the parameters of the integration."""
        import numpy as np

        from hklflow.bragg.scene import IntegrationParams

        values = {name: getattr(self, name) for name in IntegrationSettings.model_fields}
        values["mosaic"] = None if self.mosaic is None else float(np.radians(self.mosaic))
        return IntegrationParams(**values, threads=threads)
