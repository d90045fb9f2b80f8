"""Sum of cosines on the grid of S(Q), plane by plane."""

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hklflow.volumes.hole_waves import Singles, Waves

Indices = NDArray[np.int64]


class SeriesField:
    """Sum of cosines on the grid.

    Parameters
    ----------
    waves : Waves
    box : (l, k, h) array
        Coefficients at all r of the box of the waves.
    """

    def __init__(self, waves: Waves, box: Singles) -> None:
        self._waves = waves
        half = box[:, :, : waves.box_shape[2]]
        used = half.any(axis=(1, 2))
        place = np.arange(waves.box[0])
        place = np.where(place > waves.box[0] // 2, place - waves.box[0], place)
        self._l, self._half = place[used], half[used]

    def plane(self, l: int) -> Singles:  # noqa: E741
        """Return the sum on a plane (k, h) of the grid."""
        waves = self._waves
        _, n_k, n_h = waves.periods
        phase = np.exp(2j * np.pi * self._l * (l - waves.middle[0]) / waves.periods[0])
        part = np.tensordot(phase.astype(np.complex64), self._half, 1)
        low, high = waves.halves(1)
        rows = np.zeros((n_k, part.shape[1]), np.complex64)
        rows[:low], rows[n_k - high :] = part[:low], part[low:]
        back = scipy.fft.ifft(rows, axis=0, norm="forward", workers=waves.threads)
        lines = scipy.fft.irfft(back, n_h, axis=1, norm="forward", workers=waves.threads)
        k, h = (
            (np.arange(n) - c) % p
            for n, c, p in zip(waves.shape[1:], waves.middle[1:], waves.periods[1:], strict=True)
        )
        values: Singles = lines[k][:, h]
        return values

    def at(self, numbers: Indices) -> Singles:
        """Return the sum at voxels; ``numbers`` (n,) are flat numbers of [l, k, h]."""
        size = int(np.prod(self._waves.shape[1:]))
        order = np.argsort(numbers, kind="stable")
        starts = np.searchsorted(numbers[order], np.arange(self._waves.shape[0] + 1) * size)
        found = np.zeros(len(numbers), np.float32)
        for l in np.flatnonzero(np.diff(starts)):  # noqa: E741
            own = order[starts[l] : starts[l + 1]]
            found[own] = self.plane(int(l)).reshape(-1)[numbers[own] - l * size]
        return found
