"""Gain and read noise of an integrating detector, from the noise of its frames.

The variance V of a pixel grows with its mean m: ``V = gain (m - offset) + read_noise²``. A line
through many tiles of the detector gives gain and read noise. Two effects would make the gain wrong:

* The light of a photon spreads over neighbouring pixels. The variance of a pixel is then smaller
  than the gain says, and what is missing is in the covariance of neighbours. V is therefore the sum
  of the covariances of a pixel with all pixels as far as the light spreads (the variance per pixel
  of a large block, without the loss at the block's edges). Covariances are measured in square rings
  around the pixel, up to `REACH` away; outer rings are left out if they are 0 within their errors.
* Diffuse scattering and the beam change from frame to frame. The noise is white in time, and these
  changes are slow. Each pixel's series of `FRAMES` equally spaced frames is multiplied by Slepian
  sequences (Slepian 1978, Bell Syst. Tech. J. 57, 1371) that pass the fastest changes only: periods
  of less than 4 frames. They pass 1e-5 or less of the power of slower changes. A second band, of
  periods of less than 2.7 frames, must show the same gain; if it shows less, the scattering changes
  within 4 frames.

Tiles with a Bragg peak or a bad pixel are left out. They are recognised by the sum of the frames,
which is independent of the fast changes.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.images.masks import BoolImage

Floats = NDArray[np.float64]

FRAMES, FEWEST_FRAMES = 16, 8
"""Number of consecutive frames that are added together; fewest if the scan has no more."""
TILE = 32
REACH = 4
"""Largest distance of neighbours along slow and fast that share the light of a photon."""
_MOST_TILES = 1000  # of a group of frames
_FEW = 30  # tiles; fewer give no line
_OUTLIER = 6.0
_ROUNDED = 1.0  # ADU², variance of a pixel below which rounding does not just add 1/12
_FLAGS = 3  # values below 0 that a photon counter writes for pixels without a count
_LEAK = 3e-7  # power outside of its band that a Slepian sequence may pass


class Estimate(NamedTuple):
    """Gain and read noise with their errors; NaN where the frames do not show them.

    Attributes
    ----------
    gain, gain_error : float
        ADU per photon.
    noise2, noise2_error : float
        Variance without photons, ADU²; below 0 if the offset is larger than stated.
    single : float
        Ratio of the variance of a single pixel to the variance with its neighbours; 1: the
        detector does not spread the light.
    excess, excess_error : float
        Gain from changes with periods below 4 frames, less the gain from periods below 2.7 frames;
        0 unless the scattering changes as fast as that.
    coarse : bool
        True if the noise is smaller than the steps of whole numbers, so that the gain is wrong
        unless the values are photons.
    """

    gain: float
    gain_error: float
    noise2: float
    noise2_error: float
    single: float
    excess: float
    excess_error: float
    coarse: bool


class Ratio(NamedTuple):
    """Variance over mean of tiles with about the same mean, ADU.

    Attributes
    ----------
    mean : float
        Mean of the values.
    single, single_error : float
        Variance of a pixel over its mean.
    near, near_error : float
        The same with the covariance of a pixel and its 8 neighbours.
    excess, excess_error : float
        Part of ``near`` that changes with periods of 2.7 to 4 frames, less the white noise.
    """

    mean: float
    single: float
    single_error: float
    near: float
    near_error: float
    excess: float
    excess_error: float


class NoiseLine:
    """Collects mean and variance of tiles; `result` fits the line.

    Parameters
    ----------
    offset : float
        ADU.
    """

    def __init__(self, offset: float) -> None:
        self._offset = offset
        self._rows: list[Floats] = []
        self._negative: set[float] = set()
        self._most_negative = 0.0
        self.whole = True

    def add(self, frames: NDArray[Any], bad: BoolImage) -> None:
        """Add consecutive frames; ``bad`` are pixels (slow, fast) without a value."""
        self.whole = frames.dtype.kind != "f"
        tiles = _tiles(frames, bad)
        tiles -= self._offset
        if tiles.shape[1] < 2:
            return
        means = tiles.mean(axis=(2, 3))
        # The beam changes for all tiles alike.
        bright = means.sum(axis=0) >= np.median(means.sum(axis=0))
        beam = means[:, bright].sum(axis=1)
        if not (beam > 0).all():
            return
        scale = beam.mean() / beam
        tiles *= scale[:, None, None, None]
        rows = []
        for band in _bands(len(frames)):
            passed = []
            for taper in band:
                # The share of each frame in the variance, of photons and of read noise.
                norm, shares = taper**2 @ scale, (taper * scale) ** 2
                noise = np.full(len(means.T), shares.sum())
                rings = _variances(np.tensordot(taper, tiles, 1))
                passed.append(np.concatenate([[shares @ means, noise], rings]) / norm)
            rows.append(np.mean(passed, axis=0))
        self._rows.append(np.stack(rows))

    def note_negative(self, frames: NDArray[Any], masked: BoolImage) -> None:
        """Note the values below 0 of pixels (slow, fast) that are not below 0 in all frames."""
        if frames.dtype.kind == "u":
            return
        below = (frames < 0) & ~masked
        below &= ~below.all(axis=0)
        self._most_negative = max(self._most_negative, float(below.mean()))
        if len(self._negative) < _FEW:
            self._negative.update(np.unique(frames[below])[:_FEW].tolist())

    @property
    def negative(self) -> float:
        """Share of values below 0 that come and go; 0 if they are flags, which have few values."""
        return self._most_negative if len(self._negative) > _FLAGS else 0.0

    def ratios(self) -> list[Ratio]:
        """Return variance over mean of the darker and of the brighter half of the tiles."""
        rows = self._all_rows()
        rows = rows[..., (rows[:, 0] > 0).all(axis=0)]
        if rows.shape[-1] < 2 * _FEW:
            return []
        order = np.argsort(rows[0, 0])
        return [_ratio(*half) for half in np.array_split(rows[..., order], 2, axis=-1)]

    def _all_rows(self) -> Floats:
        """Return mean, share of read noise, and rings (bands, rows, tiles) of all groups."""
        return np.concatenate([np.zeros((2, REACH + 3, 0)), *self._rows], axis=-1)

    def result(self, read_noise: float | None = None, gain: float | None = None) -> Estimate:
        """Fit the line; ``read_noise`` (ADU) or ``gain`` is known, or both are fitted."""
        rows = self._all_rows()
        coarse = False
        if self.whole:
            fine = rows[0, 2] > _ROUNDED
            coarse = bool(fine.sum() < _FEW)
            rows = rows if coarse else rows[..., fine]
        if rows.shape[-1] < _FEW:
            nan = float("nan")
            return Estimate(nan, nan, nan, nan, nan, nan, nan, coarse)
        (columns, rings), (fastest, least_rings) = ((band[:2], band[2:]) for band in rows)
        reach = _reach(rings)
        # What the subtraction of the tile's mean takes from each covariance.
        lost = 1 - ((2 * reach + 1) / TILE) ** 2
        variance, least = (of[: reach + 1].sum(axis=0) / lost for of in (rings, least_rings))
        single = rings[0] + variance / TILE**2
        known = np.array([gain or 0.0, 0.0 if read_noise is None else read_noise**2])
        free = np.array([gain is None, read_noise is None])
        line = _fitted(columns, variance, known, free)
        share = float(single[line.used].sum() / variance[line.used].sum())
        off = variance - least - line.values @ (columns - fastest)
        excess, excess_error = _slope(columns, off, line)
        return Estimate(
            float(line.values[0]),
            float(line.errors[0]),
            float(line.values[1]),
            float(line.errors[1]),
            share,
            excess,
            excess_error,
            coarse,
        )


def _ratio(band: Floats, fastest: Floats) -> Ratio:
    """Return variance over mean of some tiles, from their rows in both bands."""
    lost = 1 - 9 / TILE**2
    near, least = (of[2:4].sum(axis=0) / lost / of[0] for of in (band, fastest))
    parts = band[2] / band[0] + near / TILE**2, near, near - least
    numbers = [number for part in parts for number in _clipped(part)]
    return Ratio(float(np.median(band[0])), *numbers)


def _clipped(values: Floats) -> tuple[float, float]:
    """Return the mean without outliers, and its error."""
    centre = float(np.median(values))
    scatter = 1.4826 * float(np.median(np.abs(values - centre)))
    kept = values[np.abs(values - centre) <= 4 * scatter]
    return float(kept.mean()), float(scatter / np.sqrt(len(kept)))


class _Line(NamedTuple):
    """Gain and noise with errors, the expected variance of each tile, and the tiles in use."""

    values: Floats
    errors: Floats
    expected: Floats
    used: NDArray[np.bool_]


def _fitted(columns: Floats, variance: Floats, known: Floats, free: NDArray[np.bool_]) -> _Line:
    """Fit the line without the tiles that are far off."""
    expected, used = _start(columns[0], variance)
    values, errors = known.copy(), np.zeros(2)
    rest = variance - known @ columns
    for _ in range(4):
        a = columns[free][:, used] / expected[used]
        b = rest[used] / expected[used]
        inverse = np.linalg.pinv(a @ a.T)
        values[free] = inverse @ (a @ b)
        off = (variance - values @ columns) / expected
        scatter = float(np.sqrt(np.mean(off[used] ** 2)))
        errors[free] = scatter * np.sqrt(np.diag(inverse))
        fitted = values @ columns
        expected = np.maximum(fitted, 0.05 * max(np.median(fitted), 1e-12))
        used = np.abs(variance / expected - 1) < _OUTLIER * scatter
    return _Line(values, errors, expected, used)


def _start(mean: Floats, variance: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the median variance of tiles with about the same mean, and tiles not far above it."""
    expected = np.empty(len(mean))
    for tiles in np.array_split(np.argsort(mean), max(1, len(mean) // _FEW)):
        expected[tiles] = np.median(variance[tiles])
    expected = np.maximum(expected, max(0.05 * np.median(variance), 1e-12))
    return expected, variance < 2.5 * expected


def _slope(columns: Floats, difference: Floats, line: _Line) -> tuple[float, float]:
    """Return the slope of a difference of variances through 0, and its error."""
    a, b = (part[line.used] / line.expected[line.used] for part in (columns[0], difference))
    slope = float(a @ b / (a @ a))
    return slope, float(np.sqrt((b - slope * a) ** 2 @ a**2) / (a @ a))


@cache
def _bands(frames: int) -> tuple[Floats, Floats]:
    """Return sequences (n, frames) that pass periods below 4 frames, and below 2.7 frames."""
    from scipy.signal.windows import dpss

    alternating = (-1.0) ** np.arange(frames)
    tapers, within = dpss(frames, frames / 4, min(3, frames - 1), return_ratios=True)
    pure = np.maximum(1 - within < _LEAK, np.arange(len(within)) == 0)
    return tapers[pure] * alternating, dpss(frames, frames / 8, 1) * alternating


def has_tiles(shape: tuple[int, int]) -> bool:
    """Return True if frames of a shape (slow, fast) are large enough to show their noise."""
    return (shape[0] // TILE) * (shape[1] // TILE) >= 2


def _tiles(frames: NDArray[Any], bad: BoolImage) -> Floats:
    """Return tiles (frames, tiles, TILE, TILE) without a bad pixel and without a peak."""
    rows, columns = bad.shape[0] // TILE, bad.shape[1] // TILE

    def cut(image: NDArray[Any]) -> NDArray[Any]:
        image = image[: rows * TILE, : columns * TILE]
        return image.reshape(rows, TILE, columns, TILE).swapaxes(1, 2).reshape(-1, TILE, TILE)

    good = np.flatnonzero(~cut(bad).any(axis=(1, 2)))
    good = good[_calm(cut(frames.sum(axis=0, dtype=np.float64))[good])]
    if len(good) > _MOST_TILES:
        good = good[np.linspace(0, len(good) - 1, _MOST_TILES).astype(int)]
    tiles = np.empty((len(frames), len(good), TILE, TILE))
    for number, frame in enumerate(frames):
        tiles[number] = cut(frame)[good]
    return tiles


def _calm(total: Floats) -> NDArray[np.bool_]:
    """Return True for tiles without a peak; a gradient of the background is no peak."""
    if not len(total):
        return np.zeros(0, bool)
    ramp = np.arange(TILE) - (TILE - 1) / 2
    total = total - total.mean(axis=(1, 2), keepdims=True)
    for along in ramp[:, None], ramp[None]:
        slope = (total * along).sum(axis=(1, 2)) / (TILE * (ramp**2).sum())
        total = total - slope[:, None, None] * along
    centre = np.median(total, axis=(1, 2))
    scatter = 1.4826 * np.median(np.abs(total - centre[:, None, None]), axis=(1, 2))
    return np.asarray((scatter > 0) & (total.max(axis=(1, 2)) - centre <= 5 * scatter + 4))


def _reach(rings: Floats) -> int:
    """Return the number of the outermost ring that is used."""
    # What the subtraction of the mean takes from the pixels of a ring is added again.
    areas = np.diff((2 * np.arange(REACH + 1) + 1) ** 2, prepend=0)
    total = rings.sum(axis=0) / (1 - (2 * REACH + 1) ** 2 / TILE**2)
    rings = rings + areas[:, None] * total / TILE**2
    rings = rings / np.maximum(rings[0], 0.1 * np.median(rings[0]) + 1e-12)
    errors = rings.std(axis=1) / np.sqrt(rings.shape[1])
    # The light falls off with distance: a ring behind one that is 0 is noise.
    dark = np.flatnonzero(rings.mean(axis=1)[1:] <= 3 * errors[1:]) + 1
    # The first dark ring has a part that is lost in its noise.
    return int(dark.min(initial=REACH))


def _variances(tiles: Floats) -> Floats:
    """Return sums of covariances of each tile, in rings from the pixel itself on (rings, tiles)."""
    tiles = tiles - tiles.mean(axis=(1, 2), keepdims=True)
    lags = range(-REACH, REACH + 1)
    rings = np.zeros((REACH + 1, len(tiles)))
    for slow in range(REACH + 1):
        for fast in lags if slow else range(REACH + 1):
            low, high = max(0, -fast), TILE - max(0, fast)
            first = tiles[:, : TILE - slow, low:high]
            second = tiles[:, slow:, low + fast : high + fast]
            covariance = np.einsum("tij,tij->t", first, second) / (first.shape[1] * first.shape[2])
            rings[max(slow, abs(fast))] += covariance * (1 if slow == fast == 0 else 2)
    return rings
