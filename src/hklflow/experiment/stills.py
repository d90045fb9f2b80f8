"""Still frames in the configuration: the section `stills`."""

from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

import hklflow.stages.index_stills
import hklflow.stages.merge_stills
import hklflow.stages.refine_stills_detector  # noqa: F401  (used as `stages...`)
from hklflow import stages
from hklflow.base.described import Described
from hklflow.experiment.tables import is_series


class StillSample(Described):
    """Still frames of crystals of one sample, with a known cell."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    raw: str
    """Raw HDF5 file, or pattern of a series of images; every frame is a still."""
    calibration: str | None = None
    """Entry of `calibrations` with the geometry of the detector; None: from the raw file."""
    cell: tuple[float, float, float, float, float, float]
    """Known cell: a, b, c in Å, α, β, γ in degrees."""
    space_group: str
    """Space group with its setting."""
    batches: int = Field(1, ge=1, le=10000)
    """Number of batches into which the frames are divided. Each batch is a separate job; some 50 to
    500 frames in a batch are a good size."""
    index_stills: stages.index_stills.Settings = stages.index_stills.Settings()
    """Spots, indexing and integration with DIALS, and limits of an accepted frame."""
    refine_stills_detector: stages.refine_stills_detector.Settings | None = None
    """Refinement of the detector over all frames with DIALS; None: the detector is not refined."""
    merge_stills: stages.merge_stills.Settings = stages.merge_stills.Settings()
    """Scaling with partialities, and merging to structure factors."""


def shared(entry: StillSample, prefix: Path | None) -> dict[str, Any]:
    """Return the parameters of `index_stills` that are no settings."""
    return {
        "cell": entry.cell,
        "space_group": entry.space_group,
        "batches": entry.batches,
        "pattern": entry.raw if is_series(entry.raw) else None,
        "prefix": prefix,
    }
