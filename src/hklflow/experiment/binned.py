"""Parameters that are lengths in pixels or counts of a pixel, for frames of block sums.

The configuration says them for frames as measured, whatever `binning` is. Lengths on the sensor
are divided, and counts of a pixel multiplied by the pixels of a block; what a picture needs to be
read at all (a window to find a background in, a spot to fit) has a least size.

Two lengths of `converge` stay, in blocks. `reintegrate` is a part of the voxels that are
integrated, also along frames. A module's offset is judged by centroids, whose errors grow with the
block: an eighth of `module_offset` would be noise, and no version of a store comes from a quick
look. So does `mask_3d.seed_counts`: it is of all counts of a spot above background in a cell, and a
cell is as large on the sensor (a block at least).
"""

import math

import hklflow.stages.find_peaks
import hklflow.stages.integrate
import hklflow.stages.mask_3d
import hklflow.stages.pixel_mask  # noqa: F401  (used as `stages.pixel_mask`)
from hklflow import stages


def find_peaks(given: stages.find_peaks.Params, factor: int) -> stages.find_peaks.Params:
    """Parameters of the peak search: a spot has fewer, larger pixels.

    The floor of the centroids' errors is that of a fit to a spot of a pixel or two, in whatever
    pixels, and stays. Counts that are strong whatever the background are above that of a block.
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
    """Parameters of the 3-D mask: halos are as large on the sensor as they were."""
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
    """Parameters of the pixel mask: limits of counts are for sums of so many pixels.

    Shapes, edges and images are drawn on the frames as measured, by the stage.
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
    """Parameters of the integration: the size of a spot, if it is given."""
    if factor == 1 or given.spot is None:
        return given
    slow, fast = given.spot
    return given.model_copy(update={"spot": (slow / factor, fast / factor)})
