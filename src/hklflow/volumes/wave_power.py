"""Variance of the pair distribution around each distance vector, from its waves."""

from collections.abc import Callable

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.volumes import pdf_kernels
from hklflow.volumes.fill import Target
from hklflow.volumes.hole_waves import Waves
from hklflow.volumes.tapers import Taper

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]

#: Standard deviation of the neighbourhood of r, Å: D is not sharper than 2π/q_max.
WIDTH = 0.8
# Steps of `WavePower.sharp`; 30 and 100 change the errors of fills by less than 10 %.
_STEPS = 10
# Least E of `WavePower.sharp` in units of the noise: from 0 it would not rise.
_WEAK = 1e-3
# The squared resolution function is tabulated up to a distance where nothing is left, in 1/q_max.
_FAR, _FINE = 300.0, 0.05
# Smaller weights are 0: arithmetic on denormal numbers takes many times longer.
_NOTHING = 1e-12


class WavePower:
    """Powers |D|² of waves, their means around each r, and the variance that is most likely.

    Parameters
    ----------
    waves : Waves
        With its box.
    target : Target
    taper : Taper, optional
        That of T; only `sharp` needs it.
    """

    def __init__(self, waves: Waves, target: Target, taper: Taper | None = None) -> None:
        self._waves, self._target = waves, target
        self._twins = equivalents(waves, target)
        self._kernel = self._transformed(_neighbours)
        if taper is not None:
            self._resolution = self._transformed(_resolution(taper))

    def of(self, waves: NDArray[np.inexact]) -> Singles:
        """Return |D|² per voxel, times the number of different equivalents of r."""
        power = np.square(waves.real)
        if np.iscomplexobj(waves):
            power += np.square(waves.imag)
        power /= np.float32(self._waves.size)
        power *= self._twins
        return np.asarray(power, dtype=np.float32)

    def total(self, power: Singles) -> float:
        """Return the sum of |D|² per voxel over all r of the box, from `of`."""
        sums = (power / self._twins).sum(axis=(0, 1), dtype=np.float64)
        # r and −r, but r = 0 and the last of an even number are their own.
        twice = np.full(len(sums), 2.0)
        twice[0] = 1
        if self._waves.box[2] % 2 == 0:
            twice[-1] = 1
        return float(sums @ twice)

    def around(self, power: Singles) -> Singles:
        """Return the mean of a power around each r of the box."""
        return self._mean(power, self._kernel)

    def sharp(self, power: Singles, noise: float) -> Singles:
        """Return the variance V of D that is most likely for a power, with no finer detail than D.

        Where D has a peak, its square is as wide as the squared resolution function K, and not as
        the neighbourhood of `around`. V = noise + K * E, and E >= 0 around each r follows from the
        likelihood of |D|², whose distribution is exponential, by the steps of Févotte, Bertin &
        Durrieu (Neural Comput. 21, 793, 2009) for it, E ← E (K * |D|²/V²) / (K * 1/V). They begin
        with `around`, and are few.

        Parameters
        ----------
        power : (l, k, h) array
            See `of`.
        noise : float
            Least variance.
        """
        least = np.float32(noise)
        strength = np.maximum(self.around(power) - least, _WEAK * least)
        for _ in range(_STEPS):
            variance = least + self._mean(strength, self._resolution)
            up = self._mean(power / variance**2, self._resolution)
            down = self._mean(np.reciprocal(variance), self._resolution)
            strength *= up
            strength /= np.maximum(down, np.float32(1e-30))
            np.maximum(strength, _WEAK * least, out=strength)
        return least + self._mean(strength, self._resolution)

    def _mean(self, values: Singles, kernel: Singles) -> Singles:
        """Return the means of values >= 0 around each r of the box, with a kernel."""
        product = self._of_even(values)
        product *= kernel
        means = self._back(product)
        # Rounding errors of the largest values exceed the smallest ones.
        return np.maximum(means, 0, out=means)

    def _transformed(self, weight: Callable[[Floats], Floats]) -> Singles:
        """Return the transform of weights of neighbours of r, with the scale of `_mean`.

        ``weight`` returns the weights of squared distances, Å².
        """
        # Weights of a Gaussian sampled at r are positive. Those of one that is sampled in Q are
        # not, if D is not wider than a voxel.
        box = self._waves.box
        index = [scipy.fft.fftfreq(n, 1 / n) for n in box]
        steps = 1 / (np.array(self._waves.periods[::-1]) * self._target.grid.step)
        a = 2 * np.pi * np.linalg.inv(lattice.b_matrix(self._target.cell)).T * steps
        z, y, x = index[0], index[1][:, None], index[2][: self._waves.box_shape[2]]
        weights = np.zeros(self._waves.box_shape, np.float32)
        for i in range(len(z)):
            r2 = sum((a[j, 0] * x + a[j, 1] * y + a[j, 2] * z[i]) ** 2 for j in range(3))
            weights[i] = weight(r2)
            weights[i][weights[i] < _NOTHING] = 0
        kernel = self._of_even(weights)
        kernel /= kernel[0, 0, 0] * np.float32(np.prod(box, dtype=float))
        return kernel

    def _of_even(self, values: Singles) -> Singles:
        """Transform values of the box that are equal at r and −r; half along k suffices."""
        threads = self._waves.threads
        moved = scipy.fft.rfft(values, axis=1, workers=threads)
        moved = scipy.fft.fft(moved, axis=0, overwrite_x=True, workers=threads)
        x: Singles = scipy.fft.hfft(moved, self._waves.box[2], axis=2, workers=threads)
        return x

    def _back(self, x: Singles) -> Singles:
        """Return the adjoint of `_of_even`."""
        threads = self._waves.threads
        moved = scipy.fft.ihfft(x, axis=2, norm="forward", workers=threads)
        moved = scipy.fft.ifft(moved, axis=0, norm="forward", overwrite_x=True, workers=threads)
        values: Singles = scipy.fft.irfft(
            moved, self._waves.box[1], axis=1, norm="forward", workers=threads
        )
        return values


def unlikeliness(power: Singles, variance: Singles) -> float:
    """Return −log of the likelihood of |D|², per r, for a variance; both are arrays (l, k, h)."""
    return float(np.mean(np.log(variance) + power / variance, dtype=np.float64))


def _neighbours(r2: Floats) -> Floats:
    """Return the weights of neighbours at squared distances, Å²."""
    return np.exp(-0.5 * r2 / WIDTH**2)


def _resolution(taper: Taper) -> Callable[[Floats], Floats]:
    """Return the squared resolution function of squared distances, Å², with its maximum 1."""
    table = np.arange(0, _FAR, _FINE) / taper.q_max
    squares = taper.resolution_function(table) ** 2
    return lambda r2: np.asarray(np.interp(np.sqrt(r2), table, squares / squares[0], right=0))


def equivalents(waves: Waves, target: Target) -> NDArray[np.uint8]:
    """Return the number of different equivalents of each r of the box.

    The noise of equivalent voxels is the same, so that its power is larger where r stands on
    elements of symmetry.
    """
    step = target.grid.step
    operations = np.rint(target.images[:, :, :3] * step[:, None] / step).astype(np.int64)
    n_z, n_y, n_x = waves.box
    steps = 1 / (np.array(waves.periods[::-1]) * step)
    moved = (operations.transpose(0, 2, 1) - np.eye(3)) * steps
    twins = np.empty((n_z, n_y, n_x // 2 + 1), np.uint8)
    stays = np.empty((n_y | 1, n_x // 2 + 1), np.int64)
    numbers = len(operations) // np.maximum(np.arange(len(operations) + 1), 1)
    for z in range(n_z):
        pdf_kernels.stabilisers(z if z <= n_z // 2 else z - n_z, moved, stays)
        twins[z, (np.arange(n_y) - n_y // 2) % n_y] = numbers[stays[:n_y]]
    return twins
