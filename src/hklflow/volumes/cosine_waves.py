"""Waves of a cosine of Q in a sphere, without a transform of the volume.

The transform of a taper w(|Q|) depends on |r| only, and that of w cos(Q·r₀) is the same around r₀
and −r₀. It is computed by one integral over |Q|, and needed in a few voxels of r. It must be right
to the digits of float32, because it is divided by V, which is small away from r₀. On grids of few
voxels, it is too wide for that, and the sum over voxels is transformed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.volumes.hole_waves import Waves
from hklflow.volumes.tapers import Taper

Floats = NDArray[np.float64]

_END = 110.0  # of |r| times the radius of the sphere; less than 1e-6 of the transform is beyond
_TABLE, _SAMPLES = 1500, 3000  # of the transform, and of the taper


class CosineWaves:
    """Waves of cosines times the usual taper, which ends within a grid.

    Parameters
    ----------
    waves : Waves
    grid : Grid
    cell : (6,) array
    q_max : float
        End of the taper if it is within the grid, 1/Å.
    """

    def __init__(self, waves: Waves, grid: Grid, cell: Floats, q_max: float) -> None:
        self._waves, self._grid, self._b = waves, grid, lattice.b_matrix(cell)
        last = grid.first + grid.step * (np.array(grid.shape) - 1)
        ends = np.minimum(np.abs(grid.first), np.abs(last)) + grid.step / 2
        q_max = min(q_max, float(np.min(ends * 2 * np.pi / np.asarray(cell)[:3])))
        self._taper = Taper("tukey", q_max, 0.5)
        q = (np.arange(_SAMPLES) + 0.5) * q_max / _SAMPLES
        self._r = np.linspace(0, _END / q_max, _TABLE)
        density = 4 * np.pi * q**2 * self._taper(q) * q_max / _SAMPLES
        # Voxels of the grid per volume of Q.
        density /= np.prod(grid.step) * abs(np.linalg.det(self._b))
        self._transform = CubicSpline(self._r, np.sinc(np.outer(self._r, q) / np.pi) @ density)
        # Voxels of r per Å along each axis.
        per_length = np.array(waves.periods) * grid.step[::-1] / (2 * np.pi)
        per_length *= np.linalg.norm(self._b, axis=0)[::-1]
        self._half = np.ceil(self._r[-1] * per_length).astype(int)

    def taper(self, hkl: Floats) -> Floats:
        """Return w at hkl (..., 3)."""
        return self._taper(np.linalg.norm(hkl @ self._b.T, axis=-1))

    def of(self, vectors: Floats) -> tuple[NDArray[np.inexact], float]:
        """Return the waves of the mean of cosines times w, and the sum of w times its square.

        Parameters
        ----------
        vectors : (n, 3) array
            In unit cells.
        """
        waves, n = self._waves, len(vectors)
        periods, box = np.array(waves.periods), np.array(waves.box)
        if (2 * self._half >= periods).any():
            return self._of_voxels(vectors)
        step = self._grid.step[::-1]
        found: NDArray[Any] = np.zeros(waves.box_shape, np.float32 if waves.even else np.complex64)
        ends = np.array([waves.halves(axis) for axis in range(3)])
        both = np.concatenate([vectors, -vectors])
        for vector in both:
            centre = vector[::-1] * step * periods
            axes = [
                np.arange(-m, m + 1) + int(np.rint(c))
                for m, c in zip(self._half, centre, strict=True)
            ]
            # Waves beyond half a period are those of the other sign.
            at = [(x + p // 2) % p - p // 2 for x, p in zip(axes, periods, strict=True)]
            own = [(x >= -e[1]) & (x < e[0]) for x, e in zip(at, ends, strict=True)]
            own[2] = (at[2] >= 0) & (at[2] < waves.box_shape[2])
            axes, at = ([x[o] for x, o in zip(y, own, strict=True)] for y in (axes, at))
            apart = [
                x / (p * s) - v
                for x, p, s, v in zip(axes, periods, step, vector[::-1], strict=True)
            ]
            value = self._at(np.stack(np.meshgrid(*apart, indexing="ij")[::-1], axis=-1))
            places = np.ix_(*(x % m for x, m in zip(at, box, strict=True)))
            shifted = value * self._phases(at) / (2 * n)
            found[places] += shifted.real if waves.even else shifted
        apart = vectors[:, None] - both
        squares = float(self._at(apart).sum()) / (2 * n**2)
        return found, squares

    def _of_voxels(self, vectors: Floats) -> tuple[NDArray[np.inexact], float]:
        """Return the same as `of`, from the sum over voxels."""
        waves = self._waves
        axes = [self._grid.axis(i) for i in (2, 1, 0)]
        hkl = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
        w = self.taper(hkl)
        cosine = np.mean([np.cos(2 * np.pi * hkl @ vector) for vector in vectors], axis=0)
        field = np.zeros(waves.periods)
        field[tuple(slice(n) for n in w.shape)] = w * cosine
        found = np.fft.rfftn(np.roll(field, [-m for m in waves.middle], (0, 1, 2)))
        found = waves.kept(waves.kept(found, 0), 1)[..., : waves.box_shape[2]]
        kind = np.float32 if waves.even else np.complex64
        return (found.real if waves.even else found).astype(kind), float(np.sum(w * cosine**2))

    def _at(self, r: Floats) -> Floats:
        """Return the transform of w at vectors (..., 3) in unit cells."""
        length = np.linalg.norm(r @ (2 * np.pi * np.linalg.inv(self._b)), axis=-1)
        value = np.zeros(length.shape)
        near = length <= self._r[-1]
        value[near] = self._transform(length[near])
        return value

    def _phases(self, at: list[NDArray[np.int64]]) -> NDArray[np.complex128]:
        """Return the phases of waves: fields begin at ``middle``, cosines at hkl = 0."""
        waves, grid = self._waves, self._grid
        zero = (-grid.first / grid.step)[::-1] - waves.middle
        parts = (
            np.exp(-2j * np.pi * x * z / p) for x, z, p in zip(at, zero, waves.periods, strict=True)
        )
        l, k, h = np.ix_(*parts)  # noqa: E741
        phases: NDArray[np.complex128] = l * k * h
        return phases
