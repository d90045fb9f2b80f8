"""Convert parameters (lengths in pixels, counts per pixel) to parameters of binned frames.

The configuration gives these parameters for the measured frames, whatever `binning` is. Lengths are
divided by the side of a block, and counts per pixel are multiplied by the number of pixels in a
block. Some lengths have a minimum: the window of a background, and the size of a fitted spot.

Three parameters are not converted. `converge.reintegrate` is a fraction of the integrated voxels.
`converge.module_offset` is compared with centroids, whose errors grow with the block; a smaller
limit would be below these errors. `mask_3d.seed_counts` is the number of counts above background in
a cell, and the cell keeps its size on the sensor (at least one block).
"""

import math

import hklflow.stages.find_peaks
import hklflow.stages.integrate
import hklflow.stages.mask_3d
import hklflow.stages.pixel_mask  # noqa: F401  (used as `stages.pixel_mask`)
from hklflow import stages


def find_peaks(given: stages.find_peaks.Settings, factor: int) -> stages.find_peaks.Settings:
    """Return the parameters of the peak search for binned frames: a spot has fewer, larger pixels.

    The smallest error of a centroid is not converted: it is the error of a fit to a spot of one or
    two pixels, whatever their size. The threshold in counts applies to the sum over a block.
    """
    if factor == 1:
        return given
    return given.model_copy(
        update={
            "window": max(math.ceil(given.window / factor), min(given.window, 5)),
            "min_pixels": max(math.ceil(given.min_pixels / factor), min(given.min_pixels, 2)),
            "max_pixels": math.ceil(given.max_pixels / factor),
            "margin_pixels": max(
                math.ceil(given.margin_pixels / factor), min(given.margin_pixels, 3)
            ),
            "threshold": given.threshold and given.threshold * factor**2,
        }
    )


def mask_3d(given: stages.mask_3d.Settings, factor: int) -> stages.mask_3d.Settings:
    """Return the parameters of the 3-D mask: halos keep their size on the sensor."""
    if factor == 1:
        return given
    return given.model_copy(
        update={
            "cell": max(given.cell // factor, 1),
            "reach": given.reach / factor,
            "margin": given.margin / factor,
        }
    )


def pixel_mask(given: stages.pixel_mask.Params, factor: int) -> stages.pixel_mask.Params:
    """Return the parameters of the pixel mask: limits of counts apply to the sum over a block.

    The stage draws shapes, edges and images on the measured frames.
    """
    if factor == 1:
        return given
    by = {"mean": factor**2, "maximum": factor**2, "std": factor}

    def scaled(limit: stages.pixel_mask.Limit) -> stages.pixel_mask.Limit:
        ends = {"below": limit.below, "above": limit.above}
        update = {end: value and value * by[limit.of] for end, value in ends.items()}
        return limit.model_copy(update=update)

    return given.model_copy(update={"limits": tuple(map(scaled, given.limits))})


def integrate(given: stages.integrate.Settings, factor: int) -> stages.integrate.Settings:
    """Return the parameters of the integration; only a given spot size is converted."""
    if factor == 1 or given.spot is None:
        return given
    slow, fast = given.spot
    return given.model_copy(update={"spot": (slow / factor, fast / factor)})
