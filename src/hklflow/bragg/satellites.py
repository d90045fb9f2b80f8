"""Measure where the satellites of a vector are in volumes of several scans."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.bragg import satellite_course
from hklflow.bragg.satellite_course import Course
from hklflow.geometry.grid import Grid
from hklflow.volumes import satellite_voxels, star_boxes
from hklflow.volumes.satellite_voxels import Place, Read, Star, Voxels

Floats = NDArray[np.float64]

MOST = 60
"""Largest number of reflections whose positions are fitted, the strongest ones of all scans."""
_FEWEST = 12
_VOXELS = 100_000  # of all boxes of a scan, for memory and time


def course_of(
    temperature: ArrayLike,
    grid: Grid,
    reads: Sequence[Read],
    star: Star,
    places: Sequence[Place],
    counted: star_boxes.Counted,
    half_width: ArrayLike,
    shell: int,
    least: float,
) -> Course:
    """Return the course of a vector over the scans, from cold to warm.

    Parameters
    ----------
    reads : sequence of functions
        For each scan: counts, norm and variance of the counts of a part of its volume.
    places : sequence of Place
        Reflections of the star.
    counted : Counted
        Their counts (rows) in boxes on the vector of the star, in all scans.
    half_width, shell, least
        See `volumes.star_boxes`.
    """
    strengths = relative(counted)
    voxels = float(np.prod(2 * np.asarray(half_width) / grid.step + 1))
    most = int(np.clip(_VOXELS / voxels, _FEWEST, MOST))
    rows = np.argsort(-strengths, kind="stable")[:most]
    strongest = [places[row] for row in rows]
    weights = [float(strengths[row]) for row in rows]
    net = np.nansum(counted.counts - counted.background, axis=0)
    error = np.sqrt(np.nansum(np.maximum(counted.counts, 1) + counted.background_var, axis=0))

    def gatherer(read: Read) -> Callable[[Floats], Voxels | None]:
        def gather(vector: Floats) -> Voxels | None:
            return satellite_voxels.gather(
                grid,
                read,
                star,
                strongest,
                weights,
                vector,
                half_width,
                shell,
                least,
            )

        return gather

    gathers = [gatherer(read) for read in reads]
    positions = satellite_course.follow(gathers, star, net / np.maximum(error, 1e-300), half_width)
    return satellite_course.course(temperature, positions, star)


def relative(counted: star_boxes.Counted) -> Floats:
    """Return the relative intensities (r,) of reflections in the sum over all scans.

    Intensities are drawn to their mean by as much as counts make them scatter; the highest is 1.
    """
    factor = np.nansum(counted.factor, axis=1)
    known = factor > 0
    net = np.nansum(counted.counts - counted.background, axis=1)
    var = np.nansum(np.maximum(counted.counts, 1) + counted.background_var, axis=1)
    intensity = np.divide(net, factor, out=np.zeros_like(net), where=known)
    noise = np.divide(var, factor**2, out=np.full_like(net, np.inf), where=known)
    if not known.any():
        return np.ones_like(net)
    mean = float(intensity[known].mean())
    spread = max(float(intensity[known].var() - noise[known].mean()), 0.0)
    drawn = mean + (intensity - mean) * spread / (spread + noise + 1e-300)
    highest = float(drawn.max())
    if not highest > 0:
        return np.ones_like(net)
    return np.asarray(np.maximum(drawn / highest, 0.0))


def reach(half_width: ArrayLike, shell: int, step: ArrayLike) -> Floats:
    """Return the distance (3,) from a reflection at which another is not in its box and shell.

    A box extends to four standard deviations; two of the other reflection are left out.
    """
    half = np.asarray(half_width, np.float64)
    return np.asarray(1.5 * half + shell * np.asarray(step, np.float64))
