"""Powder rings of the surroundings in the frames of a crystal.

A ring is sharp in |Q|, and it is on all frames and at all azimuths, with a texture that changes
slowly along the ring. Diffuse scattering of the crystal is sharp in some directions only: the
median over ranges of frames and sectors of the detector does not see it.

In the range of a ring, each bin of |Q| has its own texture: harmonics of the azimuth, above a
smooth level that the bins outside of the ranges determine. So neighbouring rings may overlap, and
no shape is assumed.
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SECTORS = 24
GROUPS = 10  # ranges of frames
BINS = 2  # of |Q|, for each pixel
_TEXTURE = 6  # harmonics along a ring
_SMOOTH = 2  # harmonics of the level below the rings
_NEXT, _WINDOW = 4, 15  # pixels: nearest and farthest neighbours that a bin is compared with
_SIGNIFICANT, _SHARP_SIGNIFICANT = 8.0, 4.0
"""Least height over its error as if cells were independent; of a ring that is not wider than
`_SHARP`.

Cells are not independent: equivalent and neighbouring ones see the same scattering of the crystal.
In simulations without rings its shells of |Q| are up to 7.3 errors high. They are 4 to 16 pixels
wide: diffuse scattering is rarely as sharp in |Q| as a powder.
"""
_SHARP = 3.0  # pixels
_COARSE = 0.2
"""1/Å; with larger pixels rings are not found: the first two rings of Al are 0.42 1/Å apart."""
_LEAST = 0.02  # of the level
_WIDEST = 6.5  # pixels, full width at half maximum; two rings that overlap are so wide
_SPACING = 16.0  # pixels between the splines of the level below the rings
_END = 1.3  # of the width, from the centre to the end of a ring
_CONTRAST = 0.3  # standard deviation of a harmonic of the texture, before it is found
_FEWEST = 30  # cells of a median


class Cells(NamedTuple):
    """Sums by range of frames, sector, and bin of |Q|: (GROUPS, SECTORS, bins) arrays.

    Attributes
    ----------
    edges : (bins + 1,) array
        Edges in |Q|, 1/Å; a pixel has `BINS` of them.
    counts, unit : arrays
        Counts, and norms without transmission of the crystal.
    """

    edges: Floats
    counts: Floats
    unit: Floats

    @property
    def middles(self) -> Floats:
        """Middles of the bins, 1/Å."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    @property
    def pixel(self) -> float:
        """Size of a pixel, 1/Å."""
        return BINS * float(self.edges[1] - self.edges[0])


class Ring(NamedTuple):
    """A powder ring: centre and full width at half maximum (1/Å), height in units of S."""

    q: float
    width: float
    height: float


class Rings(NamedTuple):
    """Powder rings.

    Attributes
    ----------
    rings : list of Ring
    ranges : list of (float, float)
        Ranges of |Q| with rings, 1/Å.
    q, azimuth : (n,), (m,) arrays
        Places of the tables.
    table, variance : (n, m) arrays
        Rings in units of S, and the variance.
    coarse : bool
        Pixels are too large to tell rings from a smooth background.
    """

    rings: list[Ring]
    ranges: list[tuple[float, float]]
    q: Floats
    azimuth: Floats
    table: Floats
    variance: Floats
    coarse: bool = False

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


def bins(q: Floats, pixel: float) -> Floats:
    """Return edges of bins over the range of q, for pixels of the size ``pixel`` in 1/Å."""
    low, high = float(q.min()), float(q.max())
    return np.linspace(low, high * (1 + 1e-9), max(int((high - low) / pixel * BINS), 2) + 1)


def find(cells: Cells) -> Rings:
    """Return the powder rings, their textures and errors."""
    excess, error = _excess(cells)
    total = [x.sum(axis=(0, 1)) for x in (cells.counts, cells.unit)]
    level = total[0] / np.maximum(total[1], 1e-300)
    found, ranges = _peaks(cells, excess, error, level)
    azimuth = np.linspace(-np.pi, np.pi, 73)
    q, shape = cells.middles, (len(level), len(azimuth))
    table, variance = np.zeros((2, *shape))
    if found:
        table, variance = _textures(cells, ranges, azimuth)
    return Rings(found, ranges, q, azimuth, table, variance, cells.pixel > _COARSE)


def _excess(cells: Cells) -> tuple[Floats, Floats]:
    """Return the median over all cells of a bin's level above its neighbours', and its error."""
    rate = np.full(cells.counts.shape, np.nan)
    np.divide(cells.counts, cells.unit, out=rate, where=cells.unit > 0)
    n = len(cells.middles)
    excess, error = np.full((2, n), np.nan)
    measured = np.flatnonzero((cells.unit > 0).any(axis=(0, 1)))
    ends = (int(measured[0]), int(measured[-1])) if len(measured) else (0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # cells without a measured neighbour
        for i in range(n):
            # As far on both sides, so that a slope is no excess, next to the beam stop neither.
            reach = min(_WINDOW * BINS, i - ends[0], ends[1] - i)
            if reach <= _NEXT * BINS:
                continue
            sides = [
                np.nanmedian(rate[:, :, i + a : i + b], axis=2)
                for a, b in ((-reach, -_NEXT * BINS), (_NEXT * BINS + 1, reach + 1))
            ]
            difference = (rate[:, :, i] - (sides[0] + sides[1]) / 2).ravel()
            difference = difference[np.isfinite(difference)]
            if len(difference) < _FEWEST:
                continue
            excess[i] = np.median(difference)
            spread = 1.4826 * np.median(np.abs(difference - excess[i]))
            error[i] = 1.2533 * spread / np.sqrt(len(difference))
    return excess, error


def _peaks(
    cells: Cells, excess: Floats, error: Floats, level: Floats
) -> tuple[list[Ring], list[tuple[float, float]]]:
    """Return the rings, and the ranges of |Q| that they cover."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks, peak_widths

    known = np.flatnonzero(np.isfinite(excess))
    if len(known) < 3 * _WINDOW:
        return [], []
    q, step = cells.middles[known], float(cells.edges[1] - cells.edges[0])
    curve = gaussian_filter1d(excess[known], BINS / 2)
    reach = 2 * _WINDOW * BINS + 1
    at, facts = find_peaks(curve, prominence=0.0, wlen=reach)
    widths = peak_widths(curve, at, 0.5, wlen=reach)[0]
    errors = np.where(widths > _SHARP * BINS, _SIGNIFICANT, _SHARP_SIGNIFICANT)
    limit = np.maximum(errors * error[known][at], _LEAST * level[known][at])
    large = (facts["prominences"] > limit) & (widths <= _WIDEST * BINS)
    at, height, widths = at[large], facts["prominences"][large], widths[large]
    _, _, left, right = peak_widths(curve, at, 0.97, wlen=reach)
    found: list[Ring] = []
    ranges: list[tuple[float, float]] = []
    for i, h, w, a, b in zip(at, height, widths, left, right, strict=True):
        found.append(Ring(float(q[i]), float(w * step), float(h)))
        more = BINS / 2
        # A Gaussian ends at 1.3 times its width.
        reach_of = _END * w + more
        low = float(q[0] + max(a - more, i - reach_of) * step)
        high = float(q[0] + min(b + more, i + reach_of) * step)
        if ranges and low <= ranges[-1][1]:
            ranges[-1] = ranges[-1][0], max(high, ranges[-1][1])
        else:
            ranges.append((low, high))
    return found, ranges


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
