"""Lines of diffuse features in maps of the average over zones: fits and images.

`thermal` is what falls from the reflections; `fitted_line` fits a maximum of a map.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from hklflow.series.feature_maps import Projection, filled
from hklflow.series.zone_average import Cell, ZoneAverage

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_SAME = 2.5  # largest distance of images that are the same maximum, bins


@dataclass(frozen=True)
class Line:
    """Fitted line of a feature in its map.

    Attributes
    ----------
    place, width : (m,) arrays
        In the coordinates of the map, r.l.u.
    height : float
        Height above the background.
    lorentzian : bool
        True for 1/(1 + x²); False for a Gaussian.
    """

    place: Floats
    width: Floats
    height: float
    lorentzian: bool


def mean_of(values: Floats) -> float:
    """Return the mean of the values that are known; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan


def wrapped_bins(off: Floats, shape: Integers) -> Floats:
    """Return the shortest offsets in bins of a periodic map."""
    return np.asarray(off - shape * np.rint(off / shape))


def images_of(projection: Projection, cell: Cell, place: Floats) -> Floats:
    """Return the nearest images of a place by all operations; NaN if the direction changes."""
    c = projection.columns
    inverse = np.linalg.pinv(c.T)
    found = np.full((len(cell.operations), len(place)), np.nan)
    for i, (operation, shift) in enumerate(zip(cell.operations, cell.translations, strict=True)):
        mixed = c.T @ operation
        if np.allclose(mixed @ inverse @ c.T, mixed, atol=1e-6):
            image = mixed @ inverse @ place + c.T @ shift
            found[i] = place + wrapped(image - place, cell.period)
    return found


def wrapped(off: Floats, period: int) -> Floats:
    """Return the shortest offsets in a periodic cell."""
    return np.asarray(off - period * np.rint(off / period))


def profile(off: Floats, width: Floats, angles: Floats, lorentzian: bool) -> Floats:
    """Return the line, 1 at its maximum, at offsets (n, m) from it.

    Parameters
    ----------
    width : (m,) array
        Half widths at half maximum along the axes of the map.
    angles : (m, m) array
        Cosines between these axes: equal widths of equal axes have the symmetry of the lattice.
    """
    scaled = off / width
    square = np.einsum("ni,ij,nj->n", scaled, angles, scaled)
    return np.asarray(1 / (1 + square) if lorentzian else np.exp(-np.log(2) * square))


def angles_of(projection: Projection, cell: Cell) -> Floats:
    """Return the cosines (m, m) between the axes of a map."""
    c = projection.columns
    metric = np.linalg.inv(c.T @ np.linalg.inv(cell.lattice.metric) @ c)
    length = np.sqrt(np.diag(metric))
    return np.asarray(metric / np.outer(length, length))


def fitted_line(
    values: Floats, projection: Projection, cell: Cell, i: int, scale: float
) -> Line | None:
    """Return the more likely of two lines around a bin of a map; None if it is no maximum.

    Bins that are nearer to an image of this bin are left out.
    """
    period, angles = cell.period, angles_of(projection, cell)
    shape = np.array(projection.shape)
    middle = np.array(np.unravel_index(i, projection.shape))
    reach = np.minimum(int(np.ceil(2 * scale + 2)), (shape - 1) // 2)
    steps = np.stack(
        np.meshgrid(*(np.arange(-r, r + 1) for r in np.broadcast_to(reach, shape.shape)),
                    indexing="ij"), axis=-1
    ).reshape(-1, len(shape))  # fmt: skip
    bins = (middle + steps) % shape
    heights = values[tuple(bins.T)]
    images = images_of(projection, cell, middle * cell.period / shape) * shape / cell.period
    # Images next to it belong to the same maximum.
    images = images[np.sum(wrapped_bins(images - middle, shape) ** 2, axis=1) > _SAME**2]
    away = wrapped_bins(steps[:, None] + middle - images, shape)
    nearest = np.sum(away**2, axis=2).min(axis=1, initial=np.inf)
    known = np.isfinite(heights) & (np.sum(steps**2, axis=1) <= nearest + 0.1)
    if known.sum() < 3 * len(shape) + 3:
        return None
    each = period / shape
    off, heights = (steps * each)[known], heights[known]
    base = float(np.median(heights))
    top = float(filled(values).ravel()[i]) - base
    size = max(float(np.std(heights)), 1e-12)
    m = len(shape)
    low = [*(-1.5 * each * max(scale, 1)), *(0.5 * each), 0.0, *[-np.inf] * (m + 1)]
    high = [*(1.5 * each * max(scale, 1)), *(np.maximum(0.45 * period, each)), np.inf]
    high += [np.inf] * (m + 1)
    best: tuple[float, Line] | None = None
    for lorentzian in (False, True):

        def residuals(p: Floats, lorentzian: bool = lorentzian) -> Floats:
            line = profile(off - p[:m], p[m : 2 * m], angles, lorentzian)
            return (
                np.asarray(p[2 * m] * line + p[2 * m + 1] + off @ p[2 * m + 2 :] - heights) / size
            )

        start = np.array([*np.zeros(m), *(1.2 * scale * each), max(top, size), base, *np.zeros(m)])
        start = np.clip(start, np.array(low) + 1e-12, np.array(high) - 1e-12)
        fit = least_squares(residuals, start, bounds=(low, high), max_nfev=60)
        place = middle * each + fit.x[:m]
        line = Line(place, fit.x[m : 2 * m], float(fit.x[2 * m]), lorentzian)
        if line.height > 0 and (best is None or fit.cost < best[0]):
            best = float(fit.cost), line
    return None if best is None else best[1]


def thermal(average: ZoneAverage, known: NDArray[np.bool_]) -> Floats:
    """Return what falls from the reflections in the bins of the cell."""
    cell = average.cell
    metric = cell.lattice.metric
    grid = np.stack(np.meshgrid(*[np.arange(-3.0, 4.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    nodes = grid[cell.lattice.allowed(grid)]
    floor = (0.05 * np.sqrt(np.diag(metric)).min()) ** 2
    sums = np.zeros((2, len(cell.points)))
    for node in nodes:
        off = cell.nearest - node
        square = np.einsum("ni,ij,nj->n", off, metric, off) + floor
        sums += np.array([1 / square, (np.diag(metric).min() / square) ** 2 / 10])
    design = np.stack([np.ones(sums.shape[1]), *sums], axis=1)
    kept = known.copy()
    coefficients = np.zeros(3)
    for _ in range(6):
        weight = np.sqrt(1 / average.variance[kept])
        used = [0, 1, 2]
        coefficients = np.zeros(3)
        solved = np.linalg.lstsq(design[kept] * weight[:, None], average.mean[kept] * weight)[0]
        if np.any(solved[1:] < 0):
            # Scattering that falls is positive.
            used = [0, 1] if solved[2] < 0 else [0, 2]
            solved = np.linalg.lstsq(
                design[kept][:, used] * weight[:, None], average.mean[kept] * weight
            )[0]
            solved[1:] = np.maximum(solved[1:], 0)
        coefficients[used] = solved
        rest = average.mean - design @ coefficients
        spread = 1.4826 * np.median(np.abs(rest[known] - np.median(rest[known])))
        kept = known & (rest < np.median(rest[known]) + 2 * spread)
    return np.asarray(design @ coefficients)
