"""Lines of diffuse features in maps of the average over zones, their images, and TDS."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.series.feature_maps import Projection
from hklflow.series.zone_average import Cell

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

KINDS = ("gaussian", "lorentzian", "product")


@dataclass(frozen=True)
class Line:
    """Fitted line of a feature in its map.

    Attributes
    ----------
    place, width : (m,) arrays
        In the coordinates of the map, r.l.u.
    height : float
        Height above the background.
    kind : str
        One of `KINDS`.
    """

    place: Floats
    width: Floats
    height: float
    kind: str


def mean_of(values: Floats) -> float:
    """Return the mean of the values that are known; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan


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


def profile(off: Floats, width: Floats, angles: Floats, kind: str) -> Floats:
    """Return the line, 1 at its maximum, at offsets (n, m) from it.

    Parameters
    ----------
    width : (m,) array
        Half widths at half maximum along the axes of the map.
    angles : (m, m) array
        Cosines between these axes: equal widths of equal axes have the symmetry of the lattice.
    kind : str
        "gaussian"; "lorentzian", 1/(1 + x²); or "product", of a Lorentzian along each axis.
    """
    scaled = off / width
    if kind == "product":
        return np.asarray(1 / np.prod(1 + scaled**2, axis=1))
    square = np.einsum("ni,ij,nj->n", scaled, angles, scaled)
    return np.asarray(1 / (1 + square) if kind == "lorentzian" else np.exp(-np.log(2) * square))


def angles_of(projection: Projection, cell: Cell) -> Floats:
    """Return the cosines (m, m) between the axes of a map."""
    c = projection.columns
    metric = np.linalg.inv(c.T @ np.linalg.inv(cell.lattice.metric) @ c)
    length = np.sqrt(np.diag(metric))
    return np.asarray(metric / np.outer(length, length))


def falls(cell: Cell) -> Floats:
    """Return Σ 1/|q-G|² and Σ 1/|q-G|⁴ (2, n) in the bins of the cell."""
    metric = cell.lattice.metric
    grid = np.stack(np.meshgrid(*[np.arange(-3.0, 4.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    floor = (0.05 * np.sqrt(np.diag(metric)).min()) ** 2
    sums = np.zeros((2, len(cell.points)))
    for node in grid[cell.lattice.allowed(grid)]:
        off = cell.nearest - node
        square = np.einsum("ni,ij,nj->n", off, metric, off) + floor
        sums += np.array([1 / square, (np.diag(metric).min() / square) ** 2 / 10])
    return sums
