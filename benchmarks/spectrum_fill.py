"""A candidate for filling holes: the spectrum of the pair distribution is learnt from the data.

T = w (S − μ) is S without its mean μ(|Q|), times the taper w of the transform, so that it is known
everywhere but in holes, and its transform D(r) is the pair distribution. D of each r is taken for
Gaussian with mean 0 and a variance V(r) = n + p(r): n is the noise, p the signal. Given V, the
holes h have the mean and covariance

    T_h = −(Λ_hh)⁻¹ Λ_hm T_m,   cov = (Λ_hh)⁻¹,   Λ = F* V⁻¹ F,

which conjugate gradients find with two transforms per step. V is learnt (expectation and
maximisation): V ← <|D|² + var D> over a Gaussian neighbourhood of r, where var D is that by
the holes, from random fields that are punched and filled likewise. No lattice is assumed: where
distances between atoms have weight, p becomes large; at far r, p becomes 0, so that an offset that
all holes share is removed there.

The covariance of the pair distribution at r, r' is that of independent voxels plus
(1 − n/V(r) − n/V(r')) g_h(r)ᵀ (Λ_hh)⁻¹ g_h(r'), with g = cos(Q·r): of the noise of the neighbours,
and of what the holes lost.
"""

import numpy as np
from scipy import fft
from tests.truth import hole_judge, hole_worlds

Array = np.ndarray

_WIDTH = 0.8  # Å, standard deviation of the neighbourhood; the resolution is 2π/q_max
_ROUNDS, _FIELDS = 8, 2
_TOLERANCE = 1e-4


class SpectrumFill:
    """Fill of a volume of a world.

    Attributes
    ----------
    filled : (l, k, h) array
        S with holes filled within q_max.
    variance : (l, k, h) array
        V(r), in the order of `numpy.fft`.
    """

    def __init__(
        self, values: Array, sigma: Array, punched: Array, world: hole_worlds.World
    ) -> None:
        self.world = world
        hkl = hole_worlds.hkl_of(world.grid)
        q = np.linalg.norm(hkl @ world.lattice.reciprocal.T, axis=-1)
        w = hole_judge.taper(q, world.q_max)
        measured = np.isfinite(values) & (punched == hole_worlds.MEASURED)
        inside = w > 1e-6
        self.holes = inside & ~measured
        known = measured & inside
        mean = np.polynomial.Polynomial.fit(q[known] ** 2, values[known], 4)(q**2)
        self._t = np.where(known, w * (np.where(known, values, 0.0) - mean), 0.0)
        r = np.meshgrid(
            *(
                fft.fftfreq(n, world.grid.step[2 - i])  # cells
                for i, n in enumerate(values.shape)
            ),
            indexing="ij",
        )
        self._cells = np.stack(r[::-1], axis=-1)
        distance = np.linalg.norm(self._cells @ world.lattice.direct.T, axis=-1)
        near = np.exp(-0.5 * (distance / _WIDTH) ** 2)
        self._near = fft.rfftn(near / near.sum())
        # Equivalent voxels have the same noise: its variance at r is divided among fewer
        # independent terms where r stands on elements of symmetry.
        self._equivalent = _equivalent(self._cells, world)
        noise = np.where(known, w * np.where(known, sigma, 0.0), 0.0)
        self.noise = float(np.sum(noise**2)) / values.size * len(world.lattice.operations)
        self._random = np.random.default_rng(0)
        self.variance = self._learnt(_start(self._t, known, self.holes))
        for _ in range(_ROUNDS):
            fields = [self._of_holes(self._drawn()) for _ in range(_FIELDS)]
            lost = np.mean([np.abs(_forward(x)) ** 2 for x in fields], axis=0)
            self.variance = self._learnt(self._completed(self._t), lost)
        whole = self._completed(self._t)
        filled = np.where(self.holes, whole / np.where(inside, w, 1.0) + mean, values)
        self.filled = np.where(inside, filled, values)

    def _learnt(self, whole: Array, lost: Array | float = 0.0) -> Array:
        """Return V(r), for the full grid of equivalent terms, of a volume without holes."""
        power = (np.abs(_forward(whole)) ** 2 + lost) * self._equivalent
        around = fft.irfftn(fft.rfftn(power) * self._near, s=power.shape)
        return np.maximum(around, self.noise)

    def _precision(self, x: Array) -> Array:
        return fft.ifftn(fft.fftn(x) / self.variance).real

    def _solved(self, right: Array) -> Array:
        """Return (Λ_hh)⁻¹ times values in the holes."""
        x, left = np.zeros_like(right), right.copy()
        step, size, full = left.copy(), left @ left, np.zeros(self.holes.shape)
        end = _TOLERANCE**2 * size
        while size > end:
            full[self.holes] = step
            moved = self._precision(full)[self.holes]
            length = size / (step @ moved)
            x += length * step
            left -= length * moved
            size, before = left @ left, size
            step = left + size / before * step
        return x

    def _completed(self, t: Array) -> Array:
        """Return a field with the mean of its holes."""
        known = np.where(self.holes, 0.0, t)
        whole = known.copy()
        whole[self.holes] = self._solved(-self._precision(known)[self.holes])
        return whole

    def _drawn(self) -> Array:
        """Return a random symmetric field with the variances V."""
        orbits = self.world.orbits.ravel()
        white = self._random.standard_normal(self.holes.shape).ravel()
        mean = (np.bincount(orbits, white) / np.bincount(orbits))[orbits]
        waves = fft.fftn(mean.reshape(self.holes.shape)) * np.sqrt(self.variance)
        return fft.ifftn(waves).real

    def _of_holes(self, field: Array) -> Array:
        """Return what the fill of the holes of a field misses."""
        return np.where(self.holes, field - self._completed(field), 0.0)

    def covariance(self, judge: hole_judge.Judge) -> Array:
        """Return the covariance by the holes of the pair distribution at vectors of a judge."""
        world = self.world
        hkl = hole_worlds.hkl_of(world.grid)
        orbits, count = world.orbits.ravel(), np.bincount(world.orbits.ravel())
        rows, solved, weights = [], [], []
        for vector in judge.vectors:
            wave = np.cos(2 * np.pi * (hkl @ vector)).ravel()
            wave = (np.bincount(orbits, wave) / count)[orbits].reshape(self.holes.shape)
            rows.append(wave[self.holes])
            solved.append(self._solved(rows[-1]))
            place = np.rint(vector * np.array(world.grid.step) * world.grid.shape).astype(int)
            weights.append(self.noise / self.variance[tuple(place[::-1])])
        voxel = abs(np.linalg.det(world.lattice.reciprocal)) * np.prod(world.grid.step)
        lost = (voxel / (2 * np.pi) ** 3) ** 2 * (np.array(rows) @ np.array(solved).T)
        share = np.array(weights)
        return np.asarray((1 - share[:, None] - share) * lost)


def _forward(x: Array) -> Array:
    return np.asarray(fft.fftn(x, norm="ortho"))


def _start(t: Array, known: Array, holes: Array) -> Array:
    from scipy.ndimage import gaussian_filter

    weight = np.maximum(gaussian_filter(known.astype(float), 1.5), 1e-9)
    return np.where(holes, gaussian_filter(t, 1.5) / weight, t)


def _equivalent(cells: Array, world: hole_worlds.World) -> Array:
    """Return the number of different equivalents of each r."""
    steps = np.array(world.grid.step) * np.array(world.grid.shape)
    places = np.rint(cells * steps).astype(np.int64).reshape(-1, 3)
    keys = np.stack(
        [
            np.rint(places @ np.linalg.inv(w)).astype(np.int64) @ np.array([1, 10_000, 10**8])
            for w in world.lattice.operations
        ]
    )
    keys.sort(axis=0)
    number = 1 + np.count_nonzero(np.diff(keys, axis=0), axis=0)
    return np.asarray(number.reshape(cells.shape[:3]), dtype=np.float64)
