"""How reflections are integrated, wherever they are: section `integrate` of the configuration."""

from typing import TYPE_CHECKING

from pydantic import Field, PositiveFloat

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.bragg.integrate import IntegrationParams


class IntegrationSettings(stage.Params):
    """What hklflow's own integration decides by."""

    n_sigma: float = Field(3.5, ge=2, le=8)
    """Half axes of what is summed, in standard deviations of the spot."""
    mosaic: float | None = Field(None, gt=0)
    """Standard deviation of the rocking curve in degrees to begin with; None: from the peaks."""
    spot: tuple[PositiveFloat, PositiveFloat] | None = None
    """Standard deviations of a spot in pixels (slow, fast) to begin with; None: from the peaks."""
    strong: float = Field(20.0, ge=5)
    """Least I/σ of reflections from which widths and profiles are learned."""
    references: int = Field(3000, ge=50)
    """Largest number of them."""
    max_frames: int = Field(100, ge=3)
    """Reflections that last longer are not integrated."""
    min_zeta: float = Field(0.1, ge=0, le=1)
    """Reflections with a smaller |ζ| are flagged LONG, and not scaled."""
    overlap: float = Field(0.05, ge=0, le=1)
    """Share of a reflection in the foreground of others from which on it is flagged OVERLAP."""
    min_recorded: float = Field(0.5, gt=0, le=1)
    """Part of a reflection that must be on good pixels for an intensity."""
    memory: PositiveFloat = 1000.0
    """MB for the voxels of reflections; more than that takes several passes over the frames."""

    def chosen(self, threads: int = 1) -> "IntegrationParams":
        """Give them as the integration takes them."""
        import numpy as np

        from hklflow.bragg.integrate import IntegrationParams

        own = {name: getattr(self, name) for name in IntegrationSettings.model_fields}
        own["mosaic"] = None if self.mosaic is None else float(np.radians(self.mosaic))
        return IntegrationParams(**own, threads=threads)
