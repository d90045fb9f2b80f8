"""Waves of a cosine of Q in a sphere, without a transform of the volume.

The transform of a taper w(|Q|) depends on |r| only, and that of w cos(Q·r₀) is the same around r₀ and
−r₀. It is computed by one integral over |Q|, and needed in a few voxels of r.
"""

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.volumes.hole_waves import Waves
from hklflow.volumes.tapers import Taper

Floats = NDArray[np.float64]

_END = 60.0  # of |r| times the radius of the sphere; less than 1e-5 of the transform is beyond
_TABLE, _SAMPLES = 4000, 1500  # of the transform, and of the taper


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
        self._transform = np.sinc(np.outer(self._r, q) / np.pi) @ density

    def taper(self, hkl: Floats) -> Floats:
        """Return w at hkl (n, 3)."""
        return self._taper(np.linalg.norm(hkl @ self._b.T, axis=1))

    def of(self, vectors: Floats) -> tuple[NDArray[np.inexact], float]:
        """Return the waves of the mean of cosines times w, and the sum of w times its square.

        Parameters
        ----------
        vectors : (n, 3) array
            In unit cells.
        """
        waves, n = self._waves, len(vectors)
        periods, box = np.array(waves.periods), np.array(waves.box)
        step = self._grid.step[::-1]
        found = np.zeros(waves.box_shape, np.complex64)
        # Voxels of r per Å along each axis.
        per_length = periods * step * np.linalg.norm(self._b, axis=0)[::-1] / (2 * np.pi)
        half = np.minimum(np.ceil(self._r[-1] * per_length), (periods - 1) // 2).astype(int)
        ends = np.array([waves.halves(axis) for axis in range(3)])
        both = np.concatenate([vectors, -vectors])
        for vector in both:
            centre = vector[::-1] * step * periods
            axes = [np.arange(-m, m + 1) + int(np.rint(c)) for m, c in zip(half, centre, strict=True)]
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
            found[places] += value * self._phases(at) / (2 * n)
        apart = vectors[:, None] - both
        squares = float(self._at(apart).sum()) / (2 * n**2)
        return (found.real.copy() if waves.even else found), squares

    def _at(self, r: Floats) -> Floats:
        """Return the transform of w at vectors (..., 3) in unit cells."""
        length = np.linalg.norm(r @ (2 * np.pi * np.linalg.inv(self._b)), axis=-1)
        return np.interp(length, self._r, self._transform, right=0.0)

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
