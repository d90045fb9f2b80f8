"""Short-range order whose Warren-Cowley parameters change with T at known vectors only.

A binary solid solution scatters (Laue units times the mean square of the contrast)

    S(Q, T) = k(T) [exp(−2 B(T) s²) exp(−form Q²) Σ_r α_r(T) cos(Q·r) + compton],   s = |Q|/4π

with α_0 = 1 (Warren, X-ray Diffraction, 1969, chapter 12). The ΔPDF at a lattice vector r is the
transform of α_r and of the envelope, so that it is known without noise. All α of a set of
equivalent vectors are equal. k is the scale of a scan and B its Debye-Waller factor.

Kinds of series: "change" (some α change, in a step, in a ramp or with a maximum), "null" (nothing
changes), "scale" (k drifts by 10 %), "debye" (B grows with T), "together" (all but k).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from hklflow.geometry.grid import Grid
from tests.truth import hole_judge, hole_worlds
from tests.truth.hole_worlds import Array, Lattice, World

KINDS = ("change", "null", "scale", "debye", "together")
FORM = 0.03  # Å²
COMPTON = 0.2
CELLS = ("cubic", "monoclinic", "triclinic")
_SITES = 40  # shells from which vectors with α are drawn
_CHANGED = 5


@dataclass(frozen=True)
class Series:
    """A series of volumes of one sample, from cold to warm.

    Attributes
    ----------
    temperatures : (T,) array
        K.
    vectors : (n, 3) array
        Lattice vectors in cells, one of each set of equivalents; without 000.
    share : (T, n) array
        Sum of α over each set of equivalent vectors.
    changed : (n,) bool array
        Vectors whose α changes.
    scale : (T,) array
        k.
    known_scale : (T,) array
        k with its error, as reflections give it.
    scale_error : float
        Relative standard deviation of ``known_scale``.
    b : (T,) array
        B, Å².
    norm : float
        Counts per voxel where S is 1.
    """

    seed: int
    kind: str
    cell: str
    size: int
    temperatures: Array
    vectors: Array
    share: Array
    changed: Array
    scale: Array
    known_scale: Array
    scale_error: float
    b: Array
    norm: float

    @property
    def lattice(self) -> Lattice:
        """The cell with its operations."""
        return hole_worlds.LATTICES[self.cell]

    @property
    def world(self) -> World:
        """A world without S, for its holes and its sets of equivalents."""
        return _world(self.cell, self.size)

    @property
    def grid(self) -> Grid:
        """Grid of ``size``³ voxels up to ± 2 r.l.u."""
        return self.world.grid

    @property
    def parent(self) -> int:
        """Index of the parent: the hottest scan."""
        return len(self.temperatures) - 1

    def s(self, i: int) -> Array:
        """Return S (l, k, h) of a scan, with its scale."""
        squares, waves = _waves(self.cell, self.size)
        envelope = np.exp(-2 * self.b[i] * squares / (4 * np.pi) ** 2 - FORM * squares)
        own = self.scale[i] * (envelope * (1 + waves @ self.share[i]) + COMPTON)
        assert own.min() > 0
        return np.asarray(own[self.world.orbits])

    def pdf(self) -> tuple[Array, Array]:
        """Return the true ΔPDF (T, n) at the vectors, and (T,) at 000, divided by the scale."""
        judge = _judge(self.cell, self.size)
        values = np.array([judge.transform(self.s(i) / k) for i, k in enumerate(self.scale)])
        return values[:, 1:], values[:, 0]

    def counts(self, i: int) -> tuple[Array, Array]:
        """Return counts and norm (l, k, h) of a scan, with reflections and noise."""
        rng = np.random.default_rng([self.seed, i, 77])
        norm = np.full(self.grid.array_shape, self.norm)
        return rng.poisson((self.s(i) + self.scale[i] * self.world.bragg) * norm), norm


def draw(
    seed: int,
    kind: str,
    *,
    counts: float = 30.0,
    scans: int = 5,
    cell: str | None = None,
    size: int = 41,
    scale_error: float = 0.01,
) -> Series:
    """Return a series; α, their courses and the vectors that change follow from the seed."""
    rng = np.random.default_rng([seed, 4])
    cell = cell or CELLS[seed % len(CELLS)]
    vectors = _vectors(cell, size)
    temperatures = np.sort(rng.uniform(50, 350, scans).round())
    t = (temperatures - temperatures[0]) / (temperatures[-1] - temperatures[0])
    own = np.sort(rng.choice(_SITES, 14, replace=False))
    size_of = rng.uniform(0.02, 0.12, 14) * rng.choice([-1, 1], 14)
    size_of *= 0.55 / np.abs(size_of).sum()
    share = np.zeros((scans, len(vectors)))
    share[:, own] = size_of
    changed = np.zeros(len(vectors), bool)
    if kind == "change":
        chosen = rng.choice(_SITES, _CHANGED, replace=False)
        for number, j in enumerate(chosen):
            step = 0.5 * (1 - np.tanh((t - rng.uniform(0.2, 0.8)) / 0.05))
            course = (1 - t, step, 4 * t * (1 - t))[number % 3]
            course = course / max(np.ptp(course), 1e-9)
            share[:, j] += (
                rng.choice([-1, 1]) * np.exp(rng.uniform(*np.log([0.004, 0.06]))) * course
            )
        changed[chosen] = True
    if kind == "together":
        share *= (1 - 0.4 * t)[:, None]
        changed[own] = True
    scale = np.exp(rng.uniform(-0.1, 0.1, scans)) if kind in ("scale", "change") else np.ones(scans)
    scale[-1] = 1.0
    known = scale * np.exp(scale_error * rng.normal(size=scans))
    known[-1] = 1.0
    b = 0.2 + (6.0 * t if kind == "debye" else 0 * t)
    return Series(
        seed=seed,
        kind=kind,
        cell=cell,
        size=size,
        temperatures=temperatures,
        vectors=vectors,
        share=share,
        changed=changed,
        scale=scale,
        known_scale=known,
        scale_error=scale_error,
        b=b,
        norm=counts,
    )


@cache
def _world(cell: str, size: int) -> World:
    lattice = hole_worlds.LATTICES[cell]
    step = 2.0 / (size // 2)
    grid = Grid.symmetric([2.0] * 3, [step] * 3)
    code = hole_worlds.holes(lattice, grid, hole_worlds.RADIUS, ())
    bragg = hole_worlds.reflections(lattice, grid, hole_worlds.RADIUS)
    return World(lattice, grid, np.ones(grid.array_shape), code, bragg)


@cache
def _vectors(cell: str, size: int) -> Array:
    """Return inequivalent lattice vectors within half a period, the shortest first."""
    return hole_judge.lattice_vectors(_world(cell, size), 120).astype(float)


@cache
def _judge(cell: str, size: int) -> hole_judge.Judge:
    """Return the transform to 000 and the vectors."""
    vectors = np.concatenate([np.zeros((1, 3)), _vectors(cell, size)])
    return hole_judge.Judge(_world(cell, size), vectors)


@cache
def _waves(cell: str, size: int) -> tuple[Array, Array]:
    """Return Q² of each set of equivalent voxels, and its mean cosine with each set of vectors."""
    world, vectors = _world(cell, size), _vectors(cell, size)
    _, first = np.unique(world.orbits, return_index=True)
    hkl = hole_worlds.hkl_of(world.grid).reshape(-1, 3)[first]
    total = np.zeros((len(hkl), len(vectors)))
    operations = world.lattice.operations
    for w in operations:
        total += np.cos(2 * np.pi * (hkl @ w.T) @ vectors.T)
    return np.sum((hkl @ world.lattice.reciprocal.T) ** 2, axis=1), total / len(operations)
