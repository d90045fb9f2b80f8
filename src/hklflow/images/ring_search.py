"""Search of powder rings of the surroundings in the frames of a crystal.

A ring is sharp in |Q| and at all azimuths, on all frames or in a part of the rotation. Diffuse
scattering of the crystal is sharp in some directions only: the median over ranges of frames and
sectors of the detector does not see it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.images import ice
from hklflow.images.ice import Ice

Floats = NDArray[np.float64]

SECTORS = 24
GROUPS = 10  # ranges of frames
BINS = 2  # of |Q|, for each pixel
PARTS = ((0, 4), (2, 6), (4, 8), (6, 10))
"""Parts of the rotation that are also searched alone, as ranges of frames. They overlap, so that a
ring in half of the frames fills at least one of them.
"""
_NEXT, _WINDOW = 4, 15  # pixels: nearest and farthest neighbours that a bin is compared with
_SIGNIFICANT, _SHARP_SIGNIFICANT, _SHARP_IN_PART = 8.0, 4.0, 6.0
"""Least height over its error as if cells were independent; of a ring that is not wider than
`_SHARP`. A part of the rotation has less scattering of the crystal to average, and needs more for
a sharp ring.

Cells are not independent: equivalent and neighbouring ones see the same scattering of the crystal.
In simulations without rings its shells of |Q| are up to 7.3 errors high. They are 4 to 16 pixels
wide: diffuse scattering is rarely as sharp in |Q| as a powder.
"""
_SHARP = 3.0  # pixels
_TURN = 120.0
"""Degrees of rotation below which ranges of frames see the same scattering of the crystal: its
shells are up to 12 errors high in rotations of 40° to 60°, and a ring must be higher in proportion.
"""
_CHANGE, _CHANGED = 2.5, 0.5
"""Least difference of a ring between parts of the rotation over its error, and largest ratio of its
heights, of a ring that changes. Constant rings in simulations: up to 1.6 errors, ratio above 0.7.
"""
_LEAST = 0.02  # of the level
_WIDEST = 6.5  # pixels, full width at half maximum; two rings that overlap are so wide
_END = 1.3  # of the width, from the centre to the end of a ring
_FWHM = 2.355  # of a Gaussian, over its standard deviation
_FEWEST = 30  # cells of a median
_MEDIAN = np.pi / 2  # variance of a median over the variance of a mean


class Cells(NamedTuple):
    """Sums by range of frames, sector, and bin of |Q|: (GROUPS, SECTORS, bins) arrays.

    Attributes
    ----------
    edges : (bins + 1,) array
        Edges in |Q|, 1/Å; a pixel has `BINS` of them.
    counts, unit : arrays
        Counts, and norms without transmission of the crystal.
    turn : float
        Degrees of rotation of all frames.
    """

    edges: Floats
    counts: Floats
    unit: Floats
    turn: float = 360.0

    @property
    def middles(self) -> Floats:
        """Middles of the bins, 1/Å."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    @property
    def pixel(self) -> float:
        """Size of a pixel, 1/Å."""
        return BINS * float(self.edges[1] - self.edges[0])

    @property
    def level(self) -> Floats:
        """Mean level of each bin."""
        counts, unit = self.counts.sum(axis=(0, 1)), self.unit.sum(axis=(0, 1))
        return np.asarray(counts / np.maximum(unit, 1e-300))

    @property
    def between(self) -> Floats:
        """Median level of the cells of each bin, without reflections."""
        rate = np.full(self.counts.shape, np.nan)
        np.divide(self.counts, self.unit, out=rate, where=self.unit > 0)
        return np.nan_to_num(_median(rate.reshape(-1, len(self.middles)).T))

    def part(self, first: int, end: int) -> "Cells":
        """Return the cells of some ranges of frames."""
        return self._replace(counts=self.counts[first:end], unit=self.unit[first:end])


class Ring(NamedTuple):
    """A powder ring.

    Attributes
    ----------
    q, width : float
        Centre and full width at half maximum, 1/Å.
    height : float
        Height in units of the level, of all frames or of the part where it was found.
    share : float
        Height over the level below the ring, between the reflections.
    """

    q: float
    width: float
    height: float
    share: float = 0.0


class Search(NamedTuple):
    """Powder rings.

    Attributes
    ----------
    rings : list of Ring
    ranges : list of (float, float)
        Ranges of |Q| with rings, 1/Å.
    changing : list of Ring
        Rings that are in a part of the rotation only, or twice as strong there as in another.
    frozen : Ice or None
        Ice, if its rings together are significant in the rotation or in a part of it.
    least : float
        Height over S of a ring wider than `_SHARP` that would just be found, median over |Q|.
    """

    rings: list[Ring]
    ranges: list[tuple[float, float]]
    changing: list[Ring]
    frozen: Ice | None = None
    least: float = np.inf


def bins(q: Floats, pixel: float) -> Floats:
    """Return edges of bins over the range of q, for pixels of the size ``pixel`` in 1/Å."""
    low, high = float(q.min()), float(q.max())
    return np.linspace(low, high * (1 + 1e-9), max(int((high - low) / pixel * BINS), 2) + 1)


def numbers(q: Floats, azimuth: Floats, edges: Floats) -> NDArray[np.int64]:
    """Return the number of the cell of each pixel, within a range of frames."""
    n = len(edges) - 1
    sector = ((azimuth + np.pi) / (2 * np.pi) * SECTORS).astype(np.int64)
    return np.clip(sector, 0, SECTORS - 1) * n + np.clip(np.digitize(q, edges) - 1, 0, n - 1)


def search(cells: Cells, variance: Floats | float = 0.0) -> Search:
    """Return powder rings on all frames, and those that stand out in a part of the rotation.

    Parameters
    ----------
    variance : (bins,) array, optional
        Variance of the level of each bin that is the same in all frames: noise of a background
        that was subtracted.
    """
    whole = _excess(cells, variance)
    rings, ranges = _peaks(cells, *whole, _SHARP_SIGNIFICANT)
    parts = [cells.part(*ends) for ends in PARTS]
    curves = [_excess(part, variance) for part in parts]
    changing = [ring for ring in rings if _changes(cells, ring, curves)]
    for part, (excess, error), (first, last) in zip(parts, curves, PARTS, strict=True):
        # A part turns less: its shells of the crystal's scattering are higher in proportion.
        less = min(cells.turn, _TURN) / min(cells.turn * (last - first) / GROUPS, _TURN)
        own, covered = _peaks(part, excess, error * less, _SHARP_IN_PART)
        new = [ring for ring in own if not _near(ring.q, ranges)]
        rings, changing, ranges = rings + new, changing + new, joined(ranges + covered)
    found = _ice(cells, [(cells, whole), *zip(parts, curves, strict=True)])
    return Search(sorted(rings), ranges, sorted(changing), found, _least(cells, whole[1]))


def _least(cells: Cells, error: Floats) -> float:
    """Return the height over S of a ring that would just be found, infinite if none would be."""
    between = cells.between
    use = np.isfinite(error) & (between > 0)
    if np.count_nonzero(use) < 3 * _WINDOW:
        return np.inf
    limit = np.maximum(_SIGNIFICANT * error[use], _LEAST * cells.level[use])
    return float(np.median(limit / between[use]))


def _ice(cells: Cells, curves: list[tuple[Cells, tuple[Floats, Floats]]]) -> Ice | None:
    """Return the ice from the curves of all frames and of parts of the rotation."""
    seen = (cells.unit.sum(axis=(0, 1), keepdims=True) > 0).astype(float)
    rings = ice.pattern(cells.middles, cells.pixel)
    expected = _excess(Cells(cells.edges, seen * rings, seen), 0.0, fewest=1)[0]
    found = [ice.height(expected, *curve, part.between) for part, curve in curves]
    if max(deviations for _, deviations in found) < ice.SIGNIFICANT:
        return None
    reach = _END * _FWHM * ice.width(cells.pixel)
    ranges = joined([(float(q - reach), float(q + reach)) for q in ice.Q])
    return Ice([height for height, _ in found[1:]], ranges)


def _changes(cells: Cells, ring: Ring, curves: list[tuple[Floats, Floats]]) -> bool:
    """Return True if a ring is not equally strong in all parts of the rotation."""
    i = int(np.argmin(np.abs(cells.middles - ring.q)))
    found = [(float(np.mean(e[i - 1 : i + 2])), float(error[i])) for e, error in curves]
    known = [pair for pair in found if np.isfinite(pair).all()]
    if len(known) < 2:
        return False
    (low, low_error), (high, high_error) = min(known), max(known)
    differ = high - low > _CHANGE * np.hypot(low_error, high_error)
    return bool(differ and low < _CHANGED * high)


def _near(q: float, ranges: Sequence[tuple[float, float]]) -> bool:
    return any(low < q < high for low, high in ranges)


def joined(ranges: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Join ranges that overlap."""
    joined: list[tuple[float, float]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(high, joined[-1][1])
        else:
            joined.append((low, high))
    return joined


def _excess(cells: Cells, variance: Floats | float, fewest: int = _FEWEST) -> tuple[Floats, Floats]:
    """Return the median over all cells of a bin's level above its neighbours', and its error."""
    rate = np.full(cells.counts.shape, np.nan)
    np.divide(cells.counts, cells.unit, out=rate, where=cells.unit > 0)
    n = len(cells.middles)
    excess, error = np.full((2, n), np.nan)
    measured = np.flatnonzero((cells.unit > 0).any(axis=(0, 1)))
    ends = (int(measured[0]), int(measured[-1])) if len(measured) else (0, 0)
    for i in range(n):
        # As far on both sides, so that a slope is no excess, next to the beam stop neither.
        reach = min(_WINDOW * BINS, i - ends[0], ends[1] - i)
        if reach <= _NEXT * BINS:
            continue
        sides = [
            _median(rate[:, :, i + a : i + b])
            for a, b in ((-reach, -_NEXT * BINS), (_NEXT * BINS + 1, reach + 1))
        ]
        difference = (rate[:, :, i] - (sides[0] + sides[1]) / 2).ravel()
        difference = difference[np.isfinite(difference)]
        if len(difference) < fewest:
            continue
        excess[i] = np.median(difference)
        spread = 1.4826 * np.median(np.abs(difference - excess[i]))
        error[i] = np.sqrt(_MEDIAN / len(difference)) * spread
    error /= np.clip(cells.turn / _TURN, 0.01, 1.0)
    return excess, np.sqrt(error**2 + _MEDIAN * variance)


def _median(values: Floats) -> Floats:
    """Return the median along the last axis without NaN; `np.nanmedian` takes 10 times longer."""
    ordered = np.sort(values, axis=-1)  # NaN come last
    n = np.isfinite(values).sum(axis=-1)[..., None]
    places = np.maximum(n - 1, 0) // 2, n // 2
    middle = [np.take_along_axis(ordered, place, axis=-1)[..., 0] for place in places]
    return np.asarray((middle[0] + middle[1]) / 2)


def _peaks(
    cells: Cells, excess: Floats, error: Floats, sharp: float
) -> tuple[list[Ring], list[tuple[float, float]]]:
    """Return the rings, and the ranges of |Q| that they cover."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks, peak_widths

    known = np.flatnonzero(np.isfinite(excess))
    if len(known) < 3 * _WINDOW:
        return [], []
    q, step = cells.middles[known], float(cells.edges[1] - cells.edges[0])
    level, between = cells.level[known], cells.between[known]
    curve = gaussian_filter1d(excess[known], BINS / 2)
    reach = 2 * _WINDOW * BINS + 1
    at, facts = find_peaks(curve, prominence=0.0, wlen=reach)
    widths = peak_widths(curve, at, 0.5, wlen=reach)[0]
    errors = np.where(widths > _SHARP * BINS, _SIGNIFICANT, sharp)
    limit = np.maximum(errors * error[known][at], _LEAST * level[at])
    large = (facts["prominences"] > limit) & (widths <= _WIDEST * BINS)
    at, height, widths = at[large], facts["prominences"][large], widths[large]
    _, _, left, right = peak_widths(curve, at, 0.97, wlen=reach)
    rings: list[Ring] = []
    ranges: list[tuple[float, float]] = []
    for i, h, w, a, b in zip(at, height, widths, left, right, strict=True):
        below = between[i] - h if between[i] > h else level[i]
        share = float(h / max(below, 1e-300))
        rings.append(Ring(float(q[i]), float(w * step), float(h), share))
        more = BINS / 2
        # A Gaussian ends at 1.3 times its width.
        reach_of = _END * w + more
        low = float(q[0] + max(a - more, i - reach_of) * step)
        high = float(q[0] + min(b + more, i + reach_of) * step)
        ranges.append((low, high))
    return rings, joined(ranges)
