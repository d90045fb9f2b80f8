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
Reals = NDArray[np.floating]

#: Name of this fill among the interpolants.
NAME = "spectrum of the pair distribution"

#: Rounds of `SpectrumFill.learn`: more change the result by less than its noise.
ROUNDS = 3

# Bytes per voxel of the padded grid that `SpectrumFill` needs at most, measured.
_BYTES = 36

#: Standard deviation of the neighbourhood of r, Å: D is not sharper than 2π/q_max.
WIDTH = 0.8
_ORDER = 4  # of the mean of S, a polynomial of |Q|²
_TOLERANCE = 1e-4  # of the residual of the conjugate gradients
# Largest number of steps while V is learnt, and at the end. Holes of reflections take some 20; wide
# gaps, to which only long waves reach, hundreds.
_STEPS, _LAST_STEPS = 40, 120
# T/w is not used where the taper is smaller, because the taper would be divided out of its noise.
_LEAST = 0.05
# Least variance of a filled voxel, in variances of a measured one.
_LEAST_ERROR = 0.02


def bytes_needed(shape: tuple[int, ...]) -> float:
    """Return the memory that `SpectrumFill` needs at most, without the volume itself."""
    return float(_BYTES * np.prod(_padded(shape), dtype=float))


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(scipy.fft.next_fast_len(n, real=True) for n in shape)


class SpectrumFill:
    """Fill of the holes of a volume that are filled by other means already.

    Parameters
    ----------
    target : Target
        S with values in its holes, which are the start, and their errors by kriging.
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
        self._shape = _padded(target.data.shape)
        self._random = np.random.default_rng(0)
        self.steps, self.converged = 0, True
        # Squares of S and its waves keep all digits in float32, whatever the monitor counts.
        known = target.errors[target.code == MEASURED]
        self._unit = unit_of(known) or 1.0
        del known
        self._mean = self._fit_mean()
        self._t, self._holes, self._noise, self._rms_taper = self._tapered()
        self._gain: dict[int, float] = {}
        self._twins = self._equivalents()
        self._variance = self._learnt(self._power(self._t))

    def learn(self) -> None:
        """Fill the holes with V as it is known, and learn V from the result."""
        missed = self._missed()
        self._gain = self._gains(missed.reshape(-1)[self._holes])
        lost = self._power(missed)
        del missed
        self._complete(self._t, self._holes, _STEPS)
        lost += self._power(self._t)
        self._variance = self._learnt(lost)

    def write(self) -> int:
        """Replace S and σ in the holes of the target; return the number of voxels."""
        target, holes = self._target, self._holes
        self._complete(self._t, holes, _LAST_STEPS)
        places = np.unravel_index(holes, self._shape)
        target.data[places] = self._s_of(self._t, holes)
        target.errors[places] = self._errors_of(target.errors[places], holes, target.code[places])
        fill_kernels.average(target.data, target.errors, target.code, target.images)
        return len(holes)

    def predicted(self, voxels: Indices, errors: Floats) -> tuple[Floats, Floats]:
        """Return S and σ that measured voxels (n, 3), (l, k, h), get if they are punched, too.

        Their equivalents, which tell their values, are then holes as well. NaN near q_max and
        beyond. ``errors`` (n,) are those of kriging.
        """
        mask = np.zeros(self._target.data.shape, np.uint8)
        mask[tuple(voxels.T)] = 1
        fill_kernels.symmetric_mask(mask, self._target.images)
        more = np.ravel_multi_index(np.nonzero(mask), self._shape)
        more = more[self._taper(self._lengths(more)) >= _LEAST]
        field = self._t.copy()
        self._complete(field, np.union1d(self._holes, more), _LAST_STEPS)
        numbers = np.ravel_multi_index(tuple(voxels.T), self._shape)
        code = np.full(len(voxels), PUNCHED, np.uint8)
        return self._s_of(field, numbers), self._errors_of(errors, numbers, code)

    def signal(self, vectors: Floats) -> Floats:
        """Return the share of V that is not noise at vectors (n, 3), in unit cells."""
        # The noise of the waves, as if there were no holes.
        voxels = np.count_nonzero(self._t)
        noise = self._noise * voxels / (voxels - len(self._holes))
        places = vectors * self._target.grid.step * np.array(self._shape[::-1])
        whole = np.floor(places).astype(int)
        v, n = np.zeros(len(vectors)), np.array(self._shape[::-1])
        for corner in np.ndindex(2, 2, 2):
            at = whole + corner
            weights = np.prod(1 - np.abs(places - at), axis=1)
            at = np.where((at[:, :1] % n[0] > n[0] // 2), -at, at) % n
            v += weights * self._variance[at[:, 2], at[:, 1], at[:, 0]]
        share: Floats = np.maximum(1 - noise / v, 0.0)
        return share

    # -------------------------------------------------------------------------- σ

    def _gains(self, missed: Singles) -> dict[int, float]:
        """Return the ratio of the errors of T to those of kriging, for each kind of hole.

        The kriging knows where in a hole S is known least, the random field how well on average.
        """
        places = np.unravel_index(self._holes, self._shape)
        code, kriged = self._target.code[places], self._target.errors[places] / self._unit
        # What is missed contains the noise of the field, which is no error of S.
        noise = self._noise / len(self._target.images)
        gains = {}
        for kind in (PUNCHED, UNMEASURED):
            own = code == kind
            if own.any():
                variance = float(np.mean(missed[own].astype(np.float64) ** 2)) - noise
                mean = float(np.mean(kriged[own].astype(np.float64) ** 2))
                gains[kind] = float(np.sqrt(max(variance, _LEAST_ERROR * noise) / mean))
        return gains

    def _errors_of(self, kriged: Reals, numbers: Indices, code: NDArray[np.uint8]) -> Floats:
        """Return σ of S from that of kriging.

        The error of T is that of a random field, whose noise is the mean noise of T, or larger if
        the noise of T is: where the taper is larger than its rms.
        """
        w = self._taper(self._lengths(numbers))
        gain = np.array([self._gain.get(kind, np.nan) for kind in range(4)])[code]
        errors: Floats = gain * kriged / np.clip(w, _LEAST, self._rms_taper)
        errors[w < _LEAST] = np.nan
        return errors

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

    def _tapered(self) -> tuple[Singles, Indices, float, float]:
        """Return T, the numbers of its voxels in holes, the variance of its waves, and rms w.

        T is zero beyond q_max, and in units.
        """
        target = self._target
        t = np.zeros(self._shape, np.float32)
        hidden = np.zeros(self._shape, bool)
        variance = taper = 0.0
        for l, values in enumerate(target.data):  # noqa: E741
            w, squares = self._weights(l)
            code = target.code[l]
            inside = (w > 0) & np.isfinite(values)
            own = np.s_[l, : values.shape[0], : values.shape[1]]
            t[own][inside] = (w * (values / self._unit - self._mean(squares)))[inside]
            noise = (w * target.errors[l] / self._unit) ** 2
            taper += float(np.sum(w**2))
            variance += float(np.sum(noise, where=inside & (code == MEASURED)))
            hidden[own] = inside & ((code == PUNCHED) | (code == UNMEASURED)) & (w >= _LEAST)
        # Equivalent voxels have the same noise, so that their waves add up.
        noise_of_waves = len(target.images) * variance / t.size
        return t, np.flatnonzero(hidden), noise_of_waves, float(np.sqrt(taper / t.size))

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
        # Neighbours have the weights of a Gaussian sampled at r, which are positive. One that is
        # sampled in Q has not, if D is not wider than a voxel.
        index = [scipy.fft.fftfreq(n, 1 / n) for n in self._shape]
        steps = 1 / (np.array(self._shape[::-1]) * self._target.grid.step)
        a = 2 * np.pi * np.linalg.inv(lattice.b_matrix(self._target.cell)).T * steps
        z, y, x = index[0], index[1][:, None], index[2][: power.shape[2]]
        weights = np.empty(power.shape, np.complex64)
        for i in range(len(z)):
            r2 = sum((a[j, 0] * x + a[j, 1] * y + a[j, 2] * z[i]) ** 2 for j in range(3))
            weights[i] = np.exp(-0.5 * r2 / WIDTH**2)
        product = self._backward(weights)
        del weights
        product /= product[0, 0, 0]
        product *= self._backward(power.astype(np.complex64))
        around = self._forward(product).real
        del product
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
        """Replace values in holes, which are the start, by the most likely ones.

        Parameters
        ----------
        field : (l, k, h) array
            Field on the padded grid.
        holes : (n,) int array
        most : int
            Largest number of steps.
        """
        flat = field.reshape(-1)
        x = flat[holes].astype(np.float64)
        left = -self._at(field, holes)
        flat[holes] = 0
        end = _TOLERANCE**2 * float(np.sum(self._at(field, holes) ** 2))
        step, size = left.copy(), float(left @ left)
        full = np.zeros(self._shape, np.float32)
        for _ in range(most):
            if size <= end:
                break
            full.reshape(-1)[holes] = step
            moved = self._at(full, holes)
            length = size / float(step @ moved)
            x += length * step
            left -= length * moved
            size, before = float(left @ left), size
            step = left + size / before * step
            self.steps += 1
        self.converged = size <= end
        flat[holes] = x

    def _at(self, field: Singles, holes: Indices) -> Floats:
        """Return Λ of a field in some voxels."""
        return self._precision(field).reshape(-1)[holes].astype(np.float64)

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
        truth = flat[self._holes]
        flat[self._holes] = 0
        self._complete(field, self._holes, _STEPS)
        missed = truth - flat[self._holes]
        flat[:] = 0
        flat[self._holes] = missed
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
