"""Gain and read noise of an integrating detector, from the noise of its frames.

The variance V of a pixel grows with its mean m: ``V = gain (m - offset) + read_noise²``. A line
through many tiles of the detector gives gain and read noise. Two effects would make the gain wrong:

* The light of a photon spreads over neighbouring pixels. The variance of a pixel is then smaller
  than the gain says, and what is missing is in the covariance of neighbours. V is therefore the sum
  of the covariances of a pixel with all pixels as far as the light spreads (the variance per pixel
  of a large block, without the loss at the block's edges). Covariances are measured in square rings
  around the pixel, up to `REACH` away; outer rings are left out if they are 0 within their errors.
* Diffuse scattering and the beam change from frame to frame. The noise is measured in second
  differences of equally spaced frames, in which steady changes cancel. What is left grows with the
  fourth power of the distance of the frames: frames at twice the distance show it, and it is
  subtracted.

Tiles with a Bragg peak or a bad pixel are left out. They are recognised by the sum of the frames,
which is independent of the second difference.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.images.masks import BoolImage

Floats = NDArray[np.float64]

FRAMES = 5
"""Number of consecutive frames that are added together."""
TILE = 32
REACH = 4
"""Largest distance of neighbours along slow and fast that share the light of a photon."""
_MOST_TILES = 2000  # of a group of frames
_FEW = 30  # tiles; fewer give no line
_OUTLIER = 6.0


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
    """

    gain: float
    gain_error: float
    noise2: float
    noise2_error: float
    single: float


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

    def add(self, frames: NDArray[Any], bad: BoolImage) -> None:
        """Add `FRAMES` consecutive frames; ``bad`` are pixels (slow, fast) without a value."""
        tiles = _tiles(frames, bad) - self._offset
        tiles = tiles[:, _calm(tiles.sum(axis=0))]
        if tiles.shape[1] < 2:
            return
        keep = np.unique(np.linspace(0, tiles.shape[1] - 1, _MOST_TILES).astype(int))
        tiles = tiles[:, keep]
        means = tiles.mean(axis=(2, 3))
        # The beam changes for all tiles alike.
        bright = means.sum(axis=0) >= np.median(means.sum(axis=0))
        beam = means[:, bright].sum(axis=1)
        if not (beam > 0).all():
            return
        scale = beam.mean() / beam
        tiles *= scale[:, None, None, None]
        near, far = (_variances(tiles[chosen], scale[chosen]) for chosen in ([1, 2, 3], [0, 2, 4]))
        rings = (16 * near - far) / 15
        self._rows.append(np.concatenate([means.mean(axis=0)[None], rings]))

    def result(self, read_noise: float | None = None, gain: float | None = None) -> Estimate:
        """Fit the line; ``read_noise`` (ADU) or ``gain`` is known, or both are fitted."""
        rows = np.concatenate(self._rows, axis=1) if self._rows else np.zeros((REACH + 2, 0))
        mean, rings = rows[0], rows[1:]
        if len(mean) < _FEW:
            return Estimate(*[np.nan] * 5)
        reach = _reach(rings)
        # What the subtraction of the tile's mean takes from each covariance.
        variance = rings[: reach + 1].sum(axis=0) / (1 - ((2 * reach + 1) / TILE) ** 2)
        single = rings[0] + variance / TILE**2
        columns = np.stack([mean, np.ones(len(mean))])
        known = np.array([gain or 0.0, 0.0 if read_noise is None else read_noise**2])
        free = np.array([gain is None, read_noise is None])
        rest = variance - known @ columns
        used = np.ones(len(mean), bool)
        expected = np.full(len(mean), max(variance.mean(), 1e-12))
        values, errors = known.copy(), np.zeros(2)
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
        share = float(single[used].sum() / variance[used].sum())
        return Estimate(
            float(values[0]), float(errors[0]), float(values[1]), float(errors[1]), share
        )


def _tiles(frames: NDArray[Any], bad: BoolImage) -> Floats:
    """Return the tiles (frames, tiles, TILE, TILE) without a bad pixel."""
    n, rows, columns = len(frames), bad.shape[0] // TILE, bad.shape[1] // TILE

    def cut(images: NDArray[Any]) -> NDArray[Any]:
        images = images[..., : rows * TILE, : columns * TILE]
        cut = images.reshape(-1, rows, TILE, columns, TILE).swapaxes(2, 3)
        return cut.reshape(-1, rows * columns, TILE, TILE)

    good = ~cut(bad[None])[0].any(axis=(1, 2))
    return cut(frames)[:, good].astype(np.float64).reshape(n, -1, TILE, TILE)


def _calm(total: Floats) -> NDArray[np.bool_]:
    """Return True for tiles without a peak."""
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
    spread = np.flatnonzero(np.abs(rings.mean(axis=1)) > 3 * errors)
    # The next ring has a part that is lost in its noise.
    return int(min(REACH, spread.max(initial=0) + 1))


def _variances(tiles: Floats, scale: Floats) -> Floats:
    """Return sums of covariances of each tile, in rings from the pixel itself on (rings, tiles)."""
    difference = tiles[0] - 2 * tiles[1] + tiles[2]
    difference -= difference.mean(axis=(1, 2), keepdims=True)
    lags = range(-REACH, REACH + 1)
    rings = np.zeros((REACH + 1, len(difference)))
    for slow in range(REACH + 1):
        for fast in lags if slow else range(REACH + 1):
            low, high = max(0, -fast), TILE - max(0, fast)
            one = difference[:, : TILE - slow, low:high]
            other = difference[:, slow:, low + fast : high + fast]
            covariance = np.einsum("tij,tij->t", one, other) / (one.shape[1] * one.shape[2])
            rings[max(slow, abs(fast))] += covariance * (1 if slow == fast == 0 else 2)
    return np.asarray(rings / (scale @ np.array([1.0, 4.0, 1.0])))
