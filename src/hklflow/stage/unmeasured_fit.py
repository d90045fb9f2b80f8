"""Interval of the isotropic background, and the anisotropic part, from repeated measurements."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from hklflow.stage.unmeasured_sums import Task, places_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.images.powder_rings import Rings
    from hklflow.images.ring_search import Cells
    from hklflow.transform.repeat_grid import RepeatGrid
    from hklflow.transform.repeats import Records
    from hklflow.transform.unmeasured import Fit, Places
    from hklflow.transform.unmeasured_bounds import Bounds
    from hklflow.transform.unmeasured_check import Rest

SIGNIFICANT = 5.0
"""Standard deviations of χ² above which there is an anisotropic part."""

_BLOCK = 0.3  # h, k, l; edge of the blocks whose least level bounds the background
_FEWEST = 1000  # records that determine anything


class Found(NamedTuple):
    """What repeated measurements say about the background besides powder rings.

    Attributes
    ----------
    bounds : Bounds
        Interval of the isotropic part.
    fit : Fit
        Anisotropic part.
    significance : float
        Of the anisotropic part, in standard deviations.
    rest : Rest
        What the fit leaves over.
    spots : float
        Share of the repeated measurements that spots disturb; they are not used.
    """

    bounds: "Bounds"
    fit: "Fit"
    significance: float
    rest: "Rest"
    spots: float


def bounded(
    records: "Records",
    rings: "Rings",
    task: Task,
    plan: "RepeatGrid",
    pixels: "Places",
    most: int,
    shells: int,
) -> Found | None:
    """Return the interval and the anisotropic part.

    Parameters
    ----------
    pixels : Places
        Pixels in use.
    most : int
        Largest number of records from which the anisotropic part is found.
    shells : int
        Number of shells of |Q|.

    Returns
    -------
    Found or None
        None if too few records lie between the powder rings.
    """
    import numpy as np

    from hklflow.transform import spots, unmeasured, unmeasured_bounds, unmeasured_check

    disturbed = spots.find(records, places_of_records(records, task).q, (plan.frames, *plan.block))
    records = records.take(~disturbed)
    places = places_of_records(records, task)
    # A voxel is wider than a pixel: records next to a ring contain some of it.
    between = ~rings.near(places.q, _voxel(task, plan))
    if np.count_nonzero(between) < _FEWEST:
        return None
    clear, of_clear = records.take(between), places.take(between)
    keep = np.ones(len(clear), bool)
    if len(clear) > most:
        # The golden ratio scatters the numbers of the orbits.
        keep = (clear.voxel * 4.32623792124926) % 1.0 < most / len(clear)
    sweeps = tuple(
        unmeasured.Sweep(r.scan.n_frames, float(np.degrees(abs(r.scan.step))) * r.scan.n_frames)
        for r in task.rotations
    )
    fitted = clear.take(keep), of_clear.take(keep)
    fit = unmeasured.fit(*fitted, sweeps, task.rotations[0].detector.shape)
    rest = unmeasured_check.rest(*fitted, fit, sweeps)
    size = max(1, round(_BLOCK / float(np.min(plan.grid.step))))
    l, k, h = np.unravel_index(clear.voxel, plan.grid.array_shape)  # noqa: E741
    blocks = ((l // size) * 4096 + k // size) * 4096 + h // size
    edges = np.linspace(places.q.min(), places.q.max() * (1 + 1e-6), shells + 1)
    chi2 = unmeasured.significance(fit)
    trusted = chi2 >= SIGNIFICANT and not rings.rings and not rings.coarse and not rest.contradicts
    used = fit if trusted else replace(
        fit, parameters=0 * fit.parameters, covariance=0 * fit.covariance
    )  # fmt: skip
    bounds = unmeasured_bounds.bounds(clear, of_clear, blocks, used, pixels, edges)
    bounds = _on_rings(bounds, records, places, rings)
    if rest.contradicts or rings.coarse:
        # Shadows may be darker than the background, and so may places between rings.
        bounds = bounds._replace(low=0 * bounds.low, high=np.maximum(bounds.high, bounds.level))
    return Found(bounds, fit, chi2, rest, float(disturbed.mean()))


def places_of_records(records: "Records", task: Task) -> "Places":
    """Return the places of records."""
    import numpy as np

    return places_of(
        task.rotations[0], records.slow.astype(np.float64), records.fast.astype(np.float64)
    )


def _voxel(task: Task, plan: "RepeatGrid") -> float:
    """Return the edge of a voxel in 1/Å."""
    import numpy as np

    return float(np.max(np.linalg.norm(task.orientation.ub, axis=0) * plan.grid.step))


def _on_rings(bounds: "Bounds", records: "Records", places: "Places", rings: "Rings") -> "Bounds":
    """Return the interval with shells that powder rings cover: 0 to the level without the rings."""
    import numpy as np

    shell = np.digitize(places.q, bounds.edges) - 1
    low, high, level = bounds.low.copy(), bounds.high.copy(), bounds.level.copy()
    for i in np.flatnonzero(~np.isfinite(high)):
        own = shell == i
        unit = records.background[own].astype(np.float64)
        if not unit.sum() > 0:
            continue
        ring = rings.image(places.q[own], places.azimuth[own])[0]
        level[i] = (records.counts[own].sum() - (unit * ring).sum()) / unit.sum()
        low[i], high[i] = 0.0, max(level[i], 0.0)
    return bounds._replace(low=low, high=high, level=level)


def smooth_part(
    found: Found | None, pixels: "Places", use: "NDArray[np.bool_]"
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return the least smooth background that has the anisotropic part, and its variance."""
    import numpy as np

    zero = np.zeros(pixels.q.shape), np.zeros(pixels.q.shape)
    if found is None:
        return zero
    bounds = found.bounds
    b, variance = found.fit.image(pixels)
    n = len(bounds.low)
    shell = np.clip(np.digitize(pixels.q, bounds.edges) - 1, 0, n - 1)
    sums = [np.bincount(shell[use], x, n) for x in (b[use], np.ones(np.count_nonzero(use)))]
    least = np.nan_to_num(bounds.low) - sums[0] / np.maximum(sums[1], 1)
    middles = (bounds.edges[:-1] + bounds.edges[1:]) / 2
    known = np.isfinite(bounds.low)
    if not known.any():
        return zero
    image = b + np.interp(pixels.q, middles[known], least[known])
    inside = use & (pixels.q <= bounds.edges[-1])
    return np.where(inside, np.maximum(image, 0), 0), np.where(inside, variance, 0)


def maps(
    cells: "Cells", pixels: "Places", use: "NDArray[np.bool_]", image: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    """Return measured level and background (2, sectors, bins), in units of S."""
    import numpy as np

    counts, unit = cells.counts.sum(axis=0), cells.unit.sum(axis=0)
    n_sectors, n = counts.shape
    shell = np.clip(np.digitize(pixels.q[use], cells.edges) - 1, 0, n - 1)
    sector = (pixels.azimuth[use] + np.pi) / (2 * np.pi) * n_sectors
    cell = np.clip(sector.astype(int), 0, n_sectors - 1) * n + shell
    total, number = (
        np.bincount(cell, x, n_sectors * n).reshape(n_sectors, n)
        for x in (image[use], np.ones(len(cell)))
    )
    known = (unit > 0) & (number > 0)
    found = np.full((2, n_sectors, n), np.nan)
    found[0][known] = counts[known] / unit[known]
    found[1][known] = total[known] / number[known]
    return found
