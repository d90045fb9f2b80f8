"""Fill holes of S(Q) with what is most likely for the pair distribution that the rest of S has.

T = w (S − μ) is S without its mean μ(|Q|), times a taper w, so that it is known everywhere but in
the holes h; its transform D(r) is a pair distribution. D of each r is taken for Gaussian with mean
0 and variance V(r), which contains the noise. With Λ = F* V⁻¹ F (F: Fourier transform) and m for
the measured voxels, the holes are then most likely

    T_h = −(Λ_hh)⁻¹ Λ_hm T_m,  with the covariance (Λ_hh)⁻¹,

which conjugate gradients find with two transforms per step. V is learnt by expectation and
maximisation (Dempster et al., J. R. Stat. Soc. B 39, 1, 1977): V ← <|D|² + var D> over a
neighbourhood of r, where var D is what the holes leave open, from random fields that are punched
and filled likewise. No structure is assumed. Where distances between atoms have weight, V is large.
Far from the origin V is noise, so that an offset that all holes share, which would stand at each
lattice vector, is removed.
"""

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.volumes import fill_kernels, pdf_kernels
from hklflow.volumes.fill import MEASURED, PUNCHED, UNMEASURED, Target, plane_radii
from hklflow.volumes.pdf import unit_of
from hklflow.volumes.tapers import Taper

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Indices = NDArray[np.int64]

#: Name of this fill among the interpolants.
NAME = "spectrum of the pair distribution"

#: Rounds of `SpectrumFill.learn`: more change the result by less than its noise.
ROUNDS = 3

#: Bytes per voxel that `SpectrumFill` needs at most.
BYTES_PER_VOXEL = 24

# Standard deviation of the neighbourhood of r, Å: D is not sharper than 2π/q_max.
_WIDTH = 0.8
_ORDER = 4  # of the mean of S, a polynomial of |Q|²
_TOLERANCE = 1e-4  # of the residual of the conjugate gradients
# Variance above that near holes, in its units, from which a voxel is noisy.
_MORE = 0.2
# Largest number of steps while V is learnt, and at the end. Holes of reflections take some 20; wide
# gaps, to which only long waves reach, hundreds.
_STEPS, _LAST_STEPS = 40, 120
# T/w is not used where the taper is smaller, because the taper would be divided out of its noise.
_LEAST = 0.05


class SpectrumFill:
    """Fill of the holes of a volume that are filled by other means already.

    Parameters
    ----------
    target : Target
        S with values in its holes, which are the start; errors in the holes are not used.
    q_max : float
        End of the taper, 1/Å; voxels near it and beyond are not changed.
    threads : int

    Attributes
    ----------
    steps : int
        Steps of conjugate gradients so far.
    converged : bool
        False if the last system needed more steps than are allowed.
    """

    def __init__(self, target: Target, q_max: float, threads: int = 1) -> None:
        self._target, self._threads = target, threads
        self._taper = Taper("tukey", q_max, 0.5)
        self._shape = tuple(scipy.fft.next_fast_len(n, real=True) for n in target.data.shape)
        self._random = np.random.default_rng(0)
        self.steps, self.converged = 0, True
        # Squares of S and its waves keep all digits in float32, whatever the monitor counts.
        known = target.errors[target.code == MEASURED]
        self._unit = unit_of(known) or 1.0
        del known
        self._mean = self._fit_mean()
        self._t, noise = self._tapered()
        self._holes = np.flatnonzero(noise.reshape(-1) < 0)
        self._noise, noisy = self._levels(noise)
        self._soft = np.flatnonzero(noise.reshape(-1) > noisy)
        self._excess = noise.reshape(-1)[self._soft].astype(np.float64) - self._noise
        del noise
        self._twins = self._equivalents()
        self._variance = self._learnt(self._power(self._t))

    def learn(self) -> None:
        """Fill the holes with V as it is known, and learn V from the result."""
        lost = self._power(self._missed())
        field = self._t.copy()
        self._complete(field, self._holes, _STEPS)
        self._variance = self._learnt(self._power(field) + lost)
        self._t.reshape(-1)[self._holes] = field.reshape(-1)[self._holes]

    def write(self) -> int:
        """Replace S in the holes of the target; return the number of voxels."""
        target, holes = self._target, self._holes
        self._complete(self._t, holes, _LAST_STEPS)
        target.data[np.unravel_index(holes, self._shape)] = self._s_of(self._t, holes)
        fill_kernels.average(target.data, target.errors, target.code, target.images)
        return len(holes)

    def predicted(self, voxels: Indices) -> Floats:
        """Return S that measured voxels (n, 3), (l, k, h), get if they are holes, too.

        Their equivalents, which tell their values, are then holes as well. NaN near q_max and
        beyond.
        """
        mask = np.zeros(self._target.data.shape, np.uint8)
        mask[tuple(voxels.T)] = 1
        fill_kernels.symmetric_mask(mask, self._target.images)
        more = np.ravel_multi_index(np.nonzero(mask), self._shape)
        more = more[self._taper(self._lengths(more)) >= _LEAST]
        field = self._t.copy()
        self._complete(field, np.union1d(self._holes, more), _LAST_STEPS)
        numbers = np.ravel_multi_index(tuple(voxels.T), self._shape)
        return self._s_of(field, numbers)

    # -------------------------------------------------------------------------- S, T

    def _weights(self, l: int) -> tuple[Floats, Floats]:  # noqa: E741
        """Return the taper (k, h) of a plane, and (|Q|/q_max)²."""
        q = plane_radii(self._target, l)
        return self._taper(q), (q / self._taper.q_max) ** 2

    def _fit_mean(self) -> np.polynomial.Polynomial:
        """Return μ of (|Q|/q_max)² in units, from the measured voxels within q_max."""
        normal, right = np.zeros((_ORDER + 1, _ORDER + 1)), np.zeros(_ORDER + 1)
        for l, values in enumerate(self._target.data):  # noqa: E741
            w, t = self._weights(l)
            known = (w > 0) & (self._target.code[l] == MEASURED) & np.isfinite(values)
            powers = np.vander(t[known], _ORDER + 1, increasing=True)
            normal += powers.T @ powers
            right += powers.T @ (values[known] / self._unit)
        return np.polynomial.Polynomial(np.linalg.lstsq(normal, right, rcond=None)[0])

    def _tapered(self) -> tuple[Singles, Singles]:
        """Return T and its variance for independent voxels; both are zero beyond q_max.

        The variance is −1 in holes. Both in units.
        """
        target = self._target
        t, variance = np.zeros((2, *self._shape), np.float32)
        for l, values in enumerate(target.data):  # noqa: E741
            w, squares = self._weights(l)
            code = target.code[l]
            inside = (w > 0) & np.isfinite(values)
            own = np.s_[l, : values.shape[0], : values.shape[1]]
            t[own][inside] = (w * (values / self._unit - self._mean(squares)))[inside]
            known = inside & (code == MEASURED)
            # Equivalent voxels have the same noise, so that their waves add up.
            noise = len(target.images) * (w * target.errors[l] / self._unit) ** 2
            variance[own][known] = noise[known]
            hole = inside & ((code == PUNCHED) | (code == UNMEASURED)) & (w >= _LEAST)
            variance[own][hole] = -1
        return t, variance

    def _levels(self, variance: Singles) -> tuple[float, float]:
        """Return the variance of the noise, and the variance from which voxels are noisy.

        Where S is low near holes, its noise is low, too: noisy voxels must not tell as much of the
        holes as those near them. Where S has its maxima in the holes, all voxels count alike:
        trusting those near the holes less would lower the maxima, because V does not know that
        neighbouring distances have the same sign.
        """
        from scipy.ndimage import binary_dilation

        mean = float(np.sum(variance, where=variance > 0)) / variance.size
        near = binary_dilation(variance < 0) & (variance > 0)
        at_holes = float(np.median(variance[near])) if near.any() else mean
        return (at_holes, (1 + _MORE) * at_holes) if at_holes < mean else (mean, np.inf)

    # -------------------------------------------------------------------------- V

    def _forward(self, x: Singles) -> NDArray[np.complex64]:
        waves: NDArray[np.complex64] = scipy.fft.rfftn(x, workers=self._threads)
        return waves

    def _backward(self, waves: NDArray[np.complex64]) -> Singles:
        x: Singles = scipy.fft.irfftn(waves, self._shape, workers=self._threads, overwrite_x=True)
        return x

    def _power(self, x: Singles) -> Singles:
        """Return |D|² per voxel for x >= 0, times the number of different equivalents of r."""
        waves = self._forward(x)
        power = (waves.real**2 + waves.imag**2) / np.float32(np.prod(self._shape))
        power *= self._twins
        return power

    def _learnt(self, power: Singles) -> Singles:
        """Return V: the mean of |D|² around each r, at least the noise."""
        product = self._backward(power.astype(np.complex64))
        # A Gaussian of r in Å is a Gaussian of Q, on the periodic grid of T.
        index = [scipy.fft.fftfreq(n, 1 / n) for n in self._shape]
        b = lattice.b_matrix(self._target.cell) * self._target.grid.step
        l, k, h = index[0], index[1][:, None], index[2]  # noqa: E741
        for i in range(self._shape[0]):
            q2 = sum((b[j, 0] * h + b[j, 1] * k + b[j, 2] * l[i]) ** 2 for j in range(3))
            product[i] *= np.exp(-0.5 * _WIDTH**2 * q2)
        around = self._forward(product).real
        return np.maximum(around, np.float32(self._noise))

    def _equivalents(self) -> NDArray[np.uint8]:
        """Return the number of different equivalents of each r, in the order of `rfftn`.

        The noise of equivalent voxels is the same, so that its power is larger where r stands on
        elements of symmetry.
        """
        target = self._target
        n_z, n_y, n_x = self._shape
        steps = 1 / (np.array(self._shape[::-1]) * target.grid.step)
        operations = _of_images(target)
        moved = (operations.transpose(0, 2, 1) - np.eye(3)) * steps
        twins = np.empty((n_z, n_y, n_x // 2 + 1), np.uint8)
        stays = np.empty((n_y | 1, n_x // 2 + 1), np.int64)
        for z in range(n_z):
            pdf_kernels.stabilisers(z if z <= n_z // 2 else z - n_z, moved, stays)
            twins[z, (np.arange(n_y) - n_y // 2) % n_y] = len(operations) // stays[:n_y]
        return twins

    # -------------------------------------------------------------------------- holes

    def _precision(self, x: Singles) -> Singles:
        """Return Λ x."""
        waves = self._forward(x)
        waves /= self._variance
        return self._backward(waves)

    def _complete(self, field: Singles, holes: Indices, most: int) -> None:
        """Replace values in holes, which are the start, and noisy values by the most likely ones.

        Parameters
        ----------
        field : (l, k, h) array
            Field on the padded grid.
        holes : (n,) int array
        most : int
            Largest number of steps.
        """
        flat = field.reshape(-1)
        soft = np.isin(self._soft, holes, assume_unique=True, invert=True)
        free = np.concatenate([holes, self._soft[soft]])
        weights = np.concatenate([np.zeros(len(holes)), 1 / self._excess[soft]])
        measured = flat[free] * weights
        diagonal = float(np.mean(1 / self._variance)) + weights
        x = flat[free].astype(np.float64)
        left = measured - self._at(field, free) - weights * x
        flat[free] = 0
        right = measured - self._at(field, free)
        end = _TOLERANCE**2 * float(right @ (right / diagonal))
        moved = left / diagonal
        step, size = moved.copy(), float(left @ moved)
        full = np.zeros(self._shape, np.float32)
        for _ in range(most):
            if size <= end:
                break
            full.reshape(-1)[free] = step
            moved = self._at(full, free) + weights * step
            length = size / float(step @ moved)
            x += length * step
            left -= length * moved
            moved = left / diagonal
            size, before = float(left @ moved), size
            step = moved + size / before * step
            self.steps += 1
        self.converged = size <= end
        flat[free] = x

    def _at(self, field: Singles, free: Indices) -> Floats:
        """Return Λ of a field in some voxels."""
        return self._precision(field).reshape(-1)[free].astype(np.float64)

    def _white(self) -> Singles:
        """Return a random field with the symmetry of S, of variance 1 per independent voxel."""
        target = self._target
        field = self._random.standard_normal(self._shape, np.float32)
        own = tuple(slice(n) for n in target.data.shape)
        inner = np.ascontiguousarray(field[own])
        fill_kernels.average(inner, inner, np.full_like(target.code, PUNCHED), target.images)
        field[own] = inner
        return field

    def _missed(self) -> Singles:
        """Return what the fill of a random field misses, zero where it is known."""
        waves = self._forward(self._white())
        waves *= np.sqrt(self._variance)
        field = self._backward(waves)
        flat = field.reshape(-1)
        free = np.concatenate([self._holes, self._soft])
        truth = flat[free]
        flat[self._soft] += self._white().reshape(-1)[self._soft] * np.sqrt(self._excess)
        flat[self._holes] = 0
        self._complete(field, self._holes, _STEPS)
        missed = truth - flat[free]
        flat[:] = 0
        flat[free] = missed
        return field

    def _lengths(self, numbers: Indices) -> Floats:
        """Return |Q| in 1/Å; ``numbers`` count voxels of the padded grid."""
        place = np.stack(np.unravel_index(numbers, self._shape), axis=1)[:, ::-1]
        grid = self._target.grid
        q = (grid.first + place * grid.step) @ lattice.b_matrix(self._target.cell).T
        length: Floats = np.linalg.norm(q, axis=1)
        return length

    def _s_of(self, field: Singles, numbers: Indices) -> Floats:
        """Return S from T; NaN where the taper is too small."""
        length = self._lengths(numbers)
        w = self._taper(length)
        s = np.full(len(w), np.nan)
        np.divide(field.reshape(-1)[numbers], w, out=s, where=w >= _LEAST)
        s += self._mean((length / self._taper.q_max) ** 2)
        return s * self._unit


def _of_images(target: Target) -> NDArray[np.int64]:
    """Return the operations on hkl that map voxel centres onto voxel centres."""
    step = target.grid.step
    return np.rint(target.images[:, :, :3] * step[:, None] / step).astype(np.int64)
