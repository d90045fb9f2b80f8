"""Textures of the powder rings of the surroundings, in the frames of a crystal.

In the range of a ring, each bin of |Q| has its own texture: harmonics of the azimuth, above a
smooth level that the bins outside of the ranges determine. So neighbouring rings may overlap, and
no shape is assumed.
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.images.ice import Ice
from hklflow.images.ring_search import BINS, SECTORS, Cells, Ring, joined, search

Floats = NDArray[np.float64]

_TEXTURE = 6  # harmonics along a ring
_SMOOTH = 2  # harmonics of the level below the rings
_COARSE = 0.2
"""1/Å; with larger pixels rings are not found: the first two rings of Al are 0.42 1/Å apart."""
_SPACING = 16.0  # pixels between the splines of the level below the rings
_CONTRAST = 0.3  # standard deviation of a harmonic of the texture, before it is found


class Rings(NamedTuple):
    """Powder rings.

    Attributes
    ----------
    rings : list of Ring
    changing : list of Ring
        Those that are not equally strong in all parts of the rotation.
    ranges : list of (float, float)
        Ranges of |Q| with rings, 1/Å.
    q, azimuth : (n,), (m,) arrays
        Places of the tables.
    table, variance : (n, m) arrays
        Rings in units of S, and the variance.
    coarse : bool
        Pixels are too large to tell rings from a smooth background.
    frozen : Ice or None
        Ice, all of whose rings are among the ranges.
    """

    rings: list[Ring]
    changing: list[Ring]
    ranges: list[tuple[float, float]]
    q: Floats
    azimuth: Floats
    table: Floats
    variance: Floats
    coarse: bool = False
    frozen: Ice | None = None

    def near(self, q: Floats, more: float = 0.0) -> NDArray[np.bool_]:
        """Mark values of |Q| in a range, or nearer to it than ``more``."""
        marked = np.zeros(np.shape(q), np.bool_)
        for low, high in self.ranges:
            marked |= (q > low - more) & (q < high + more)
        return marked

    def image(self, q: Floats, azimuth: Floats) -> tuple[Floats, Floats]:
        """Return the sum of the rings and its variance; arrays of any shape."""
        from scipy.ndimage import map_coordinates

        total, variance = np.zeros((2, *np.shape(q)))
        use = self.near(q)
        if use.any():
            at = [
                np.interp(q[use], self.q, np.arange(len(self.q))),
                np.interp(azimuth[use], self.azimuth, np.arange(len(self.azimuth))),
            ]
            total[use] = np.maximum(map_coordinates(self.table, at, order=3, mode="nearest"), 0)
            variance[use] = map_coordinates(self.variance, at, order=1, mode="nearest")
        return total, variance


def find(cells: Cells) -> Rings:
    """Return the powder rings, their textures and errors."""
    found = search(cells)
    ranges = joined(found.ranges + (found.frozen.ranges if found.frozen else []))
    azimuth, q = np.linspace(-np.pi, np.pi, 73), cells.middles
    table, variance = np.zeros((2, len(q), len(azimuth)))
    if ranges:
        table, variance = _textures(cells, ranges, azimuth)
    return Rings(
        found.rings, found.changing, ranges, q, azimuth, table, variance,
        cells.pixel > _COARSE, found.frozen,
    )  # fmt: skip


def _waves(azimuth: Floats, most: int) -> Floats:
    waves = [np.ones(np.shape(azimuth))]
    for n in range(1, most + 1):
        waves += [np.cos(n * azimuth), np.sin(n * azimuth)]
    return np.stack(waves, axis=-1)


def _textures(
    cells: Cells, ranges: list[tuple[float, float]], azimuth: Floats
) -> tuple[Floats, Floats]:
    """Return rings and variance (bins, azimuths), above a smooth level."""
    counts, unit = _steady(cells)
    middles = cells.middles
    in_range = np.any([(middles > a) & (middles < b) for a, b in ranges], axis=0)
    at = (np.arange(SECTORS) + 0.5) / SECTORS * 2 * np.pi - np.pi
    step = float(cells.edges[1] - cells.edges[0])
    below = _below(cells, in_range, at, _SPACING * BINS * step)
    table, variance = np.zeros((2, len(middles), len(azimuth)))
    to_table = _waves(azimuth, _TEXTURE)
    for i in np.flatnonzero(in_range):
        use = unit[:, i] > 0
        if np.count_nonzero(use) < 3:
            continue
        most = min(_TEXTURE, (int(np.count_nonzero(use)) - 1) // 3)
        waves = _waves(at[use], most)
        weight = unit[use, i] ** 2 / np.maximum(counts[use, i], 1)
        rest = counts[use, i] / unit[use, i] - below[use, i]
        # Where sectors are missing, harmonics must not invent a texture.
        mean = max(float(weight @ rest / weight.sum()), 1e-6 * float(below[use, i].mean()))
        prior = np.full(waves.shape[1], (_CONTRAST * mean) ** -2.0)
        prior[0] = 0.0
        inverse = np.linalg.inv(waves.T @ (weight[:, None] * waves) + np.diag(prior))
        solution = inverse @ (waves.T @ (weight * rest))
        own = to_table[:, : waves.shape[1]]
        table[i] = np.maximum(own @ solution, 0)
        variance[i] = np.pi / 2 * np.einsum("ij,jk,ik->i", own, inverse, own)  # of a median
    return table, variance


def _steady(cells: Cells) -> tuple[Floats, Floats]:
    """Return counts and norms (sectors, bins) by the median over ranges of frames.

    The tails of a strong reflection are in a few ranges only.
    """
    rate = np.full(cells.counts.shape, np.nan)
    np.divide(cells.counts, cells.unit, out=rate, where=cells.unit > 0)
    unit = cells.unit.sum(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # cells without a measurement
        return np.nan_to_num(np.nanmedian(rate, axis=0)) * unit, unit


def _below(cells: Cells, in_range: NDArray[np.bool_], azimuth: Floats, spacing: float) -> Floats:
    """Return the level without rings (sectors, bins): splines in |Q| times few harmonics."""
    from scipy.interpolate import BSpline

    (counts, unit), q = _steady(cells), cells.middles
    low, high = cells.edges[0], cells.edges[-1]
    edges = np.linspace(low, high, max(int((high - low) / spacing), 2) + 1)
    knots = np.concatenate([[low] * 3, edges, [high] * 3])
    splines = BSpline.design_matrix(q, knots, 3).toarray()
    waves = _waves(azimuth, _SMOOTH)
    design = np.einsum("qi,am->aqim", splines, waves).reshape(*counts.shape, -1)
    use = (unit > 0) & ~in_range
    weight = unit[use] / np.sqrt(np.maximum(counts[use], 1))
    D = design[use] * weight[:, None]
    normal = D.T @ D
    # Splines that lie within a range are joined smoothly by their neighbours.
    n, m = splines.shape[1], waves.shape[1]
    second = np.kron(np.diff(np.eye(n), 2, axis=0), np.eye(m))
    normal += 1e-3 * np.trace(normal) / len(normal) * second.T @ second
    level = counts[use] / unit[use]
    solution = np.linalg.lstsq(normal, D.T @ (level * weight), rcond=None)[0]
    return np.asarray(design @ solution)
