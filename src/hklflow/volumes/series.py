"""Series of cosines that describes S(Q) as far as it was measured, for gaps.

The taper lowers the maxima of S near q_max. A fill that knows S times the taper only cannot
distinguish that from a maximum that a wide gap hides, and makes it too weak. S itself is a sum of
cosines of few distance vectors r up to the end of the data:

    S(Q) − μ(|Q|) = Σ c_r <cos Q·r> + noise,

with the mean < > over equivalents. c_r are taken for Gaussian with mean 0 and variances A_r, which
are learnt by expectation and maximisation as means over neighbours, so that cosines that are not
needed die out (Tipping, J. Mach. Learn. Res. 1, 211, 2001). r are points of the grid of a transform
of the whole volume. The strongest are chosen first, then those that are left in the residual. With
the transform of the weights 1/σ² of the measured voxels, the normal equations need no sums over
voxels. What the series does not describe is left to `SpectrumFill`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.volumes.fill import Target
from hklflow.volumes.hole_waves import Singles, Waves
from hklflow.volumes.series_field import SeriesField
from hklflow.volumes.tapered import Tapered

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Largest number of sets of equivalent vectors; how many are added at a time, and rounds of learning
# each time and at the end.
_MOST, _ADDED, _ROUNDS, _LAST_ROUNDS = 1250, 250, 2, 4
# The same number, in inequivalent measured voxels.
_SHARE = 0.25
# Mean square of the residual around a vector, in its variance by noise, above which it is added.
_GAIN = 3.0
# Standard deviation of the neighbourhood of r, Å: thermal motion makes D of S no sharper.
_WIDTH = 0.5
# Largest edge of the box of differences of vectors, an odd number with small factors.
_EDGE = 243
# Bytes per voxel of that box.
_BYTES = 40
# Factor by which a period may be longer for lattice vectors to be points of the grid of r.
_LONGER = 1.3
# Rounding errors of the normal equations.
_ROUNDING = 1e-6
# Least power of a vector, in the largest power.
_NOTHING = 1e-12


def bytes_needed(shape: tuple[int, ...]) -> float:
    """Return the memory that `Series` needs for a grid of a shape (3,), without the volume."""
    return float(_BYTES * np.prod(np.minimum(shape, _EDGE), dtype=float))


class Series:
    """Series of cosines, fitted to the measured voxels of a volume with inversion symmetry.

    Parameters
    ----------
    target : Target
    tapered : Tapered
        Gives the unit, μ, and the end of the data.
    middle : (3,) tuple of int
        Voxel at the inversion centre, (l, k, h).
    threads : int

    Attributes
    ----------
    vectors : (n, 3) int array
        Chosen r, one of each set of equivalents, (x, y, z) in steps of 1/(period · step of hkl).
    coefficients : (n,) array
        c_r, in the unit of `Tapered`.
    chi2 : float
        χ² per degree of freedom of the measured voxels.
    """

    def __init__(
        self, target: Target, tapered: Tapered, middle: tuple[int, ...], threads: int
    ) -> None:
        self._waves = Waves(target.data.shape, middle, True, threads)
        step = target.grid.step
        operations = np.rint(target.images[:, :, :3] * step[:, None] / step)
        self._set_periods(operations, step)
        waves = self._waves
        waves.box = tuple(min(p, _EDGE) for p in waves.periods)
        self._box = np.array(waves.box[::-1])
        steps = 1 / (np.array(waves.periods[::-1]) * step)
        self._edges = (2 * np.pi * np.linalg.inv(lattice.b_matrix(target.cell)).T * steps).T
        # Columns of W act on rows of u, because hkl·u stays.
        self._moves = np.rint(steps[:, None] * operations / steps).astype(np.int64)
        self._reach = np.array(
            [
                (n - 1) // 2 if n == p else n // 4
                for n, p in zip(waves.box[::-1], waves.periods[::-1], strict=True)
            ]
        )
        self.vectors = np.zeros((0, 3), np.int64)
        self.coefficients = np.zeros(0)
        self.chi2 = 1.0
        self._mates = np.zeros((len(self._moves), 0, 3), np.int64)
        self._variances = np.zeros(0)
        self._normal = np.zeros((0, 0))
        self._fit(tapered)

    def _set_periods(self, operations: Floats, step: Floats) -> None:
        """Give axes that symmetry mixes the same period."""
        periods = np.array(
            [_commensurate(p, s) for p, s in zip(self._waves.periods[::-1], step, strict=True)]
        )
        mixed = (operations != 0).any(axis=0)
        for i, j in zip(*np.nonzero(mixed), strict=True):
            if i != j and np.isclose(step[i], step[j]):
                periods[[i, j]] = max(periods[i], periods[j])
        self._waves.periods = tuple(int(p) for p in periods[::-1])

    # -------------------------------------------------------------------------- fit

    def _fit(self, tapered: Tapered) -> None:
        n = len(self._moves)
        self._squares = self._number = 0.0

        def sums(taper: Singles, weights: Singles, values: Singles, twice: int) -> Singles:
            # Equivalents have the same noise.
            self._squares += twice * float(np.vdot(weights * values, values)) / n
            self._number += twice * np.count_nonzero(weights) / n
            return weights / np.float32(n)

        self._weights = self._transform(tapered, sums)
        self._data = self._transform(tapered, lambda _, w, x, __: w * x / np.float32(n))
        # The taper keeps side lobes of strong cosines from being chosen.
        known = self._transform(tapered, lambda t, w, _, __: np.where(w > 0, t, np.float32(0)))
        self._filter = scipy.fft.rfftn(known, workers=self._waves.threads)
        self._whole = float(known[0, 0, 0])
        self._left = self._transform(tapered, lambda t, _, x, __: t * x)
        self._noise = n * tapered.noise
        self._around = self._weights_around()
        most = min(_MOST, int(_SHARE * self._number))
        while len(self.vectors) < most and self._add(min(_ADDED, most - len(self.vectors))):
            self._learn(_ROUNDS)
        if len(self.vectors):
            self._learn(_LAST_ROUNDS)
        del self._weights, self._data, self._filter, self._left, self._around

    def _transform(
        self, tapered: Tapered, of: Callable[[Singles, Singles, Singles, int], Singles]
    ) -> Singles:
        """Return the waves of a function of taper, 1/σ², S − μ, and 2 (1 in the middle plane)."""
        waves, places = self._waves, self._waves.places_of_grid()

        def plane(place: int) -> Singles:
            l = (place + waves.middle[0]) % waves.periods[0]  # noqa: E741
            return waves.padded(of(*tapered.measured(l), 2 if place else 1))

        return self._full(waves.of_planes(waves.planes_of(plane, places), places))

    def _full(self, half: NDArray[Any]) -> Singles:
        """Return real waves [l, k, h] for all h from those of h >= 0."""
        n = self._waves.box[2]
        found = np.empty(self._waves.box, np.float32)
        found[:, :, : half.shape[2]] = half
        rest = np.arange(half.shape[2], n)
        back = np.ix_(*(-np.arange(m) for m in self._waves.box[:2]), n - rest)
        found[:, :, half.shape[2] :] = half[back]
        return found

    def _add(self, most: int) -> bool:
        """Choose more vectors, by what they gain; return False if there are none."""
        left = self._left
        waves, threads = self._waves, self._waves.threads
        if len(self.vectors):
            made = scipy.fft.rfftn(self._in_box(self.coefficients), workers=threads) * self._filter
            left = left - scipy.fft.irfftn(made, waves.box, workers=threads)
        least = _GAIN * self._noise
        gain = np.square(left)
        gain[0, 0, 0] = 0
        gain = scipy.fft.irfftn(
            scipy.fft.rfftn(gain, workers=threads) * self._around, waves.box, workers=threads
        )
        for axis, (n, most_far) in enumerate(zip(waves.box, self._reach[::-1], strict=True)):
            far = np.minimum(np.arange(n), n - np.arange(n)) > most_far
            np.moveaxis(gain, axis, 0)[far] = 0
        strong = np.flatnonzero(gain > least)
        number = most * len(self._moves)
        if len(strong) > number:
            kept = np.argpartition(-gain.reshape(-1)[strong], number)[:number]
            strong = strong[kept]
        index = np.stack(np.unravel_index(strong, gain.shape)[::-1], axis=1)
        index = np.where(index > self._box // 2, index - self._box, index)
        mates = index @ self._moves
        inside = (np.abs(mates) <= self._reach).all(axis=(0, 2))
        place = self._rank(mates).max(axis=0)
        own = self._rank(self._mates).max(axis=0) if len(self.vectors) else np.zeros(0, np.int64)
        same = (mates == index).all(axis=2).sum(axis=0)
        score = gain.reshape(-1)[strong] / same
        inside &= ~np.isin(place, own) & (score > least)
        rows = np.flatnonzero(inside)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        _, first = np.unique(place[rows], return_index=True)
        rows = rows[np.sort(first)][:most]
        if not len(rows):
            return False
        old = len(self.vectors)
        self.vectors = np.concatenate([self.vectors, index[rows]])
        self._mates = np.concatenate([self._mates, mates[:, rows]], axis=1)
        normal = np.zeros((len(self.vectors), len(self.vectors)))
        normal[:old, :old] = self._normal
        new = np.zeros((len(rows), len(self.vectors)))
        for moved in self._mates:
            apart = (index[rows][:, None] - moved) % self._box
            new += self._weights[apart[..., 2], apart[..., 1], apart[..., 0]]
        new /= len(self._mates)
        normal[old:], normal[:, old:] = new, new.T
        normal[old:, old:] = (new[:, old:] + new[:, old:].T) / 2
        self._normal = normal
        x, y, z = (index[rows] % self._box).T
        guess = gain[z, y, x].astype(np.float64) * (self._sites()[old:] / self._whole) ** 2
        self._variances = np.concatenate([self._variances, guess])
        self.coefficients = np.concatenate([self.coefficients, np.zeros(len(rows))])
        return True

    def _rank(self, mates: Indices) -> Indices:
        """Return a number for each vector (..., 3), different for different ones."""
        base = int(2 * self._box.max() + 1)
        ranks: Indices = mates @ np.array([1, base, base * base])
        return ranks

    def _learn(self, rounds: int) -> None:
        """Learn the variances, and the coefficients."""
        x, y, z = (self.vectors % self._box).T
        right = self._data[z, y, x].astype(np.float64)
        sites, near = self._sites(), self._near()
        for _ in range(rounds):
            root = np.sqrt(self._variances)
            matrix = root[:, None] * self._normal * root / self.chi2
            # The weights have the rounding errors of single precision.
            matrix[np.diag_indices_from(matrix)] *= 1 + _ROUNDING
            matrix[np.diag_indices_from(matrix)] += 1
            self._root, self._factor = root, np.linalg.cholesky(matrix)
            inverse = scipy.linalg.solve_triangular(
                self._factor, np.eye(len(root)), lower=True, check_finite=False
            )
            c = root * (inverse.T @ (inverse @ (root * right))) / self.chi2
            spread = np.sum(inverse**2, axis=0)
            self.coefficients = c
            power = (c**2 + root**2 * spread) / sites**2
            self._variances = sites**2 * np.maximum(near @ power, _NOTHING * power.max())
            free = self._number - (len(root) - float(spread.sum()))
            left = self._squares - 2 * float(c @ right) + float(c @ self._normal @ c)
            self.chi2 = max(left / max(free, 1.0), 1.0)

    def _sites(self) -> Floats:
        """Return the number (n,) of different equivalents of each vector."""
        same = (self._mates == self.vectors).all(axis=2).sum(axis=0)
        number: Floats = len(self._mates) / same
        return number

    def _near(self) -> Floats:
        """Return weights (n, n) of the neighbours of each vector, with a sum of 1."""
        own = self.vectors @ self._edges
        near = np.zeros((len(own), len(own)))
        for moved in self._mates @ self._edges:
            apart = np.square(own[:, None] - moved).sum(axis=-1)
            near += np.exp(-0.5 / _WIDTH**2 * apart)
        near /= near.sum(axis=1)[:, None]
        return near

    def _weights_around(self) -> NDArray[np.complex64]:
        """Return the transform of the weights of neighbours in the box."""
        x, y, z = (scipy.fft.fftfreq(n, 1 / n) for n in self._box)
        e = self._edges
        r2 = sum(
            np.square(x * e[0, i] + y[:, None] * e[1, i] + z[:, None, None] * e[2, i])
            for i in range(3)
        )
        weights = np.exp(-0.5 / _WIDTH**2 * r2).astype(np.float32)
        transform: NDArray[np.complex64] = scipy.fft.rfftn(weights / weights.sum())
        return transform

    # -------------------------------------------------------------------------- values

    def drawn(self, random: np.random.Generator) -> Floats:
        """Return a draw of the errors (n,) of the coefficients.

        Cosines that were not chosen, with up to `_GAIN` times the noise, disturb the others as
        noise does.
        """
        normal = random.standard_normal(len(self.vectors))
        x: Floats = (
            np.sqrt(_GAIN)
            * self._root
            * scipy.linalg.solve_triangular(self._factor, normal, lower=True, trans="T")
        )
        return x

    def _in_box(self, coefficients: Floats) -> Singles:
        """Return coefficients (n,) at all equivalents in the box [l, k, h]."""
        box = np.zeros(self._waves.box, np.float32)
        x, y, z = np.moveaxis(self._mates % self._box, -1, 0)
        shares = np.broadcast_to(coefficients / len(self._mates), x.shape)
        np.add.at(box, (z, y, x), shares.astype(np.float32))
        return box

    def field(self, coefficients: Floats | None = None) -> "SeriesField":
        """Return the sum of the cosines; with other coefficients (n,), of those."""
        return SeriesField(
            self._waves, self._in_box(self.coefficients if coefficients is None else coefficients)
        )


def _commensurate(period: int, step: float) -> int:
    """Return a period with small factors, whole numbers of hkl long if one is a bit longer.

    Then lattice vectors are points of the grid of r.
    """
    for longer in range(period, int(_LONGER * period) + 1):
        whole = np.isclose(longer * step, np.rint(longer * step), rtol=0, atol=1e-6)
        if whole and scipy.fft.next_fast_len(longer) == longer:
            return longer
    return period
