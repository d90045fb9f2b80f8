"""Pictures for a person to judge: functions from arrays to a `Figure`.

Figures are made without pyplot, so they work without a display and in threads.
"""

from hklflow.plots.absorption import absorption, unknown_absorption
from hklflow.plots.calibration import assessment, comparison
from hklflow.plots.common import save
from hklflow.plots.detector import (
    detector_image,
    frame_mask,
    frame_statistics,
    mask_steps,
    peaks,
    pixel_mask,
)
from hklflow.plots.features import diffuse_features
from hklflow.plots.geometry import powder, residuals
from hklflow.plots.order import order_parameters
from hklflow.plots.refined_scale import refined_scale
from hklflow.plots.scale import frame_scale
from hklflow.plots.series import intensities, series, temperature_series
from hklflow.plots.volumes import coverage, slices

__all__ = [
    "absorption",
    "assessment",
    "comparison",
    "coverage",
    "detector_image",
    "diffuse_features",
    "frame_mask",
    "frame_scale",
    "frame_statistics",
    "intensities",
    "mask_steps",
    "order_parameters",
    "peaks",
    "pixel_mask",
    "powder",
    "refined_scale",
    "residuals",
    "save",
    "series",
    "slices",
    "temperature_series",
    "unknown_absorption",
]
