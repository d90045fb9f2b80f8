"""T = w (S − μ): S without its mean, times a taper, plane by plane."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.volumes import fill_kernels
from hklflow.volumes.fill import MEASURED, PUNCHED, UNMEASURED, Target
from hklflow.volumes.pdf import unit_of
from hklflow.volumes.tapers import Taper

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Indices = NDArray[np.int64]

#: T/w is not used where the taper is smaller, because the taper would be divided out of its noise.
LEAST = 0.05
#: The same in volumes with gaps, and the least taper of voxels that are no holes: kriging misses so
#: much in a gap that T with its values would count as measured, wrong by many σ, all along the rim.
LEAST_WITH_GAPS, RIM = 0.01, 0.001

_ORDER = 4  # of the mean of S, a polynomial of |Q|²
_TABLE = 1 << 16  # entries of the tables of w and μ over |Q|²
_ENOUGH = 2e6  # voxels that give the unit, the mean of S and the noise


@lru_cache(maxsize=4)
def reach(q_max: float) -> float:
    """Return |Q| in 1/Å up to which the taper is at least `LEAST`, in the table of `Tapered`."""
    part = np.arange(_TABLE) / _TABLE
    enough = taper_of(q_max)(q_max * np.sqrt(part)) >= LEAST
    # A voxel gets the entry nearest to its |Q|², in single precision.
    return q_max * float(np.sqrt(part[np.flatnonzero(enough)[-1] - 1]))


def taper_of(q_max: float) -> Taper:
    """Return the taper of T."""
    return Taper("tukey", q_max, 0.5)


class Tapered:
    """T of a volume, in units near the errors of S, and zero beyond q_max.

    Attributes
    ----------
    unit : float
        Squares of S in this unit keep all digits in float32, whatever the monitor counts.
    noise, taper : float
        Sums over voxels: variance of T where it was measured, and w².
    gaps : bool
        True if voxels that were not measured are filled.
    least : float
        T/w is not used where the taper is smaller.
    """

    def __init__(self, target: Target, q_max: float) -> None:
        self._target = target
        self.gaps = any((plane == UNMEASURED).any() for plane in target.code)
        self.least = LEAST_WITH_GAPS if self.gaps else LEAST
        self._rim = RIM if self.gaps else LEAST
        self._axes = [target.grid.axis(i).astype(np.float32) for i in range(3)]
        self._b = (lattice.b_matrix(target.cell) / q_max).astype(np.float32)
        squares = np.arange(_TABLE + 1) / _TABLE
        self._w = taper_of(q_max)(q_max * np.sqrt(squares)).astype(np.float32)
        self._w[-1] = 0
        self.unit, mean, self.noise, self.taper = self._of_lines()
        self._mean = mean(squares).astype(np.float32)

    def plane(self, l: int) -> Singles:  # noqa: E741
        """Return T (k, h) of a plane, with zero in its holes."""
        target = self._target
        h, k, at = self._axes
        place = self._place(h, k[:, None], at[l])
        w = self._w[place]
        t = target.data[l] / np.float32(self.unit)
        t -= self._mean[place]
        code = target.code[l]
        hidden = ((code == PUNCHED) | (code == UNMEASURED)) & (w >= self._rim)
        hidden |= ~np.isfinite(t)
        t *= w
        t[hidden] = 0
        return t

    def holes(self) -> Indices:
        """Return the flat numbers of the voxels of holes where the taper is large enough."""
        numbers = fill_kernels.numbers_of(self._target.code, PUNCHED, UNMEASURED)
        data = self._target.data.reshape(-1)[numbers]
        return numbers[np.isfinite(data) & (self.weights(numbers) >= self._rim)]

    def weights(self, numbers: Indices) -> Singles:
        """Return w of voxels."""
        return self._w[self._places(numbers)]

    def t_of(self, numbers: Indices) -> Singles:
        """Return T of voxels."""
        place = self._places(numbers)
        t = self._target.data.reshape(-1)[numbers] / np.float32(self.unit)
        t -= self._mean[place]
        t *= self._w[place]
        return t

    def s_of(self, t: Floats, numbers: Indices) -> Floats:
        """Return S from T (n,) of voxels; NaN where the taper is too small."""
        place = self._places(numbers)
        w = self._w[place]
        s = np.full(len(w), np.nan)
        np.divide(t, w, out=s, where=w >= self.least)
        s += self._mean[place]
        return s * self.unit

    def _place(self, h: Singles, k: Singles, l: Singles | np.float32) -> NDArray[np.int32]:  # noqa: E741
        """Return the places in the tables of hkl."""
        squares = sum((b[0] * h + b[1] * k + b[2] * l) ** 2 for b in self._b)
        place = np.minimum(squares, np.float32(1)) * np.float32(_TABLE)
        return np.asarray(np.rint(place), dtype=np.int32)

    def _places(self, numbers: Indices) -> NDArray[np.int32]:
        l, k, h = np.unravel_index(numbers, self._target.data.shape)  # noqa: E741
        return self._place(self._axes[0][h], self._axes[1][k], self._axes[2][l])

    def _of_lines(self) -> tuple[float, np.polynomial.Polynomial, float, float]:
        """Return unit, μ of (|Q|/q_max)², noise and taper, from random lines of a large volume."""
        target = self._target
        n_l, n_k, n_h = target.data.shape
        lines = np.arange(n_l * n_k)
        if target.data.size > _ENOUGH:
            lines = np.random.default_rng(0).permutation(lines)[: int(_ENOUGH / n_h)]
        at_l, at_k = np.divmod(np.sort(lines), n_k)
        data, errors, code = (x[at_l, at_k] for x in (target.data, target.errors, target.code))
        h, k, l = self._axes  # noqa: E741
        place = self._place(h, k[at_k][:, None], l[at_l][:, None])
        w = self._w[place]
        unit = unit_of(errors[code == MEASURED]) or 1.0
        known = (w > 0) & (code == MEASURED) & np.isfinite(data)
        powers = np.vander(place[known] / _TABLE, _ORDER + 1, increasing=True)
        right = powers.T @ (data[known] / unit).astype(np.float64)
        mean = np.polynomial.Polynomial(np.linalg.lstsq(powers.T @ powers, right, rcond=None)[0])
        scale = n_l * n_k / len(lines)
        noise = scale * float(np.sum((w[known] * errors[known] / unit).astype(np.float64) ** 2))
        return unit, mean, noise, scale * float(np.sum(w.astype(np.float64) ** 2))
