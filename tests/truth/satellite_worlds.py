"""Simulate satellites whose vector moves or not, photon by photon, with plain numpy.

Nothing of hklflow is imported. Each reflection has a Poisson number of photons; their places are
drawn from a Gaussian resolution and, for domains of finite size, from a Lorentzian. Photons and a
background are counted in voxels whose norm is uneven. All reflections of a scan are displaced by a
small error of the orientation matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MOVING = ("linear", "lock-in", "step")
STILL = ("fixed", "unequal arms", "broad")
KINDS = MOVING + STILL

# Generators of the Laue groups, on hkl, and the free directions of the vector.
_MINUS = -np.eye(3)
_FOUR = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
_SIX = np.array([[0, -1, 0], [1, 1, 0], [0, 0, 1.0]])
_SWAP = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
_MIRROR = np.diag([-1.0, 1, 1])
_LAYER = np.diag([1.0, 1, -1])


@dataclass(frozen=True)
class Crystal:
    """A Laue group by its generators, and a vector q along directions that are free."""

    name: str
    generators: tuple[np.ndarray, ...]
    start: np.ndarray  # (3,): the vector at the lowest temperature if it locks in
    free: np.ndarray  # (f, 3): directions along which the vector may move
    cell: tuple[float, ...]

    def operations(self) -> np.ndarray:
        """Return all operations (n, 3, 3)."""
        found = {tuple(np.eye(3).ravel())}
        while True:
            more = {
                tuple((generator @ np.reshape(x, (3, 3))).ravel() + 0.0)
                for generator in self.generators
                for x in found
            }
            if more <= found:
                return np.array(sorted(found)).reshape(-1, 3, 3)
            found |= more


CRYSTALS = (
    Crystal(
        "tetragonal",
        (_FOUR, _MIRROR, _LAYER, _MINUS),
        np.array([1 / 3, 0, 0]),
        np.array([[1.0, 0, 0]]),
        (4.8, 4.8, 7.2, 90, 90, 90),
    ),
    Crystal(
        "hexagonal",
        (_SIX, _SWAP, _LAYER, _MINUS),
        np.array([1 / 3, 0, 0]),
        np.array([[1.0, 0, 0]]),
        (4.8, 4.8, 7.2, 90, 90, 120),
    ),
    Crystal(
        "orthorhombic",
        (_MIRROR, np.diag([1.0, -1, 1]), _LAYER, _MINUS),
        np.array([1 / 3, 1 / 4, 0]),
        np.array([[1.0, 0, 0], [0, 1.0, 0]]),
        (4.8, 5.1, 7.2, 90, 90, 90),
    ),
)

STEP = np.array([0.04, 0.04, 0.1])
HALF = np.array([35, 35, 5])  # voxels on each side of 0


@dataclass
class World:
    """A temperature series; `scan` draws the volume of one temperature.

    Attributes
    ----------
    temperature : (n,) array
        K.
    vectors : (n, 3) array
        True vector of each scan.
    counts : (n,) array
        Expected photons of a mean reflection of a scan.
    shares : (a,) array
        Part of the intensity of each arm (± together).
    arms : (a, 3) array
    width : (3,) array
        Standard deviation of the resolution, r.l.u.
    broad : (n,) array
        Half width (1/e of the exponential in space) of the Lorentzian, r.l.u.; 0: none.
    """

    crystal: Crystal
    kind: str
    temperature: np.ndarray
    vectors: np.ndarray
    counts: np.ndarray
    shares: np.ndarray
    width: np.ndarray
    broad: np.ndarray
    background: float
    locked: float | None
    seed: int

    def arms(self) -> list[np.ndarray]:
        """Return the operation of each arm; an arm and its opposite are one."""
        found: list[np.ndarray] = []
        q = self.crystal.start + np.array([0.011, 0.007, 0]) * np.any(self.crystal.free, axis=0)
        for one in self.crystal.operations():
            same = [np.allclose(one @ q, s * (x @ q)) for x in found for s in (1, -1)]
            if not any(same):
                found.append(one)
        return found

    def reflections(self) -> list[tuple[np.ndarray, np.ndarray, float]]:
        """Return main reflection, signed operation of the arm, and relative intensity of each."""
        rng = np.random.default_rng([self.seed, 1])
        strength: dict[tuple, float] = {}
        found = []
        operations, arms = self.crystal.operations(), self.arms()
        for main in np.ndindex(5, 5, 1):
            g = np.array(main, float) - [2, 2, 0]
            for arm, share in zip(arms, self.shares, strict=True):
                for sign in (1, -1):
                    place = g + sign * arm @ self.crystal.start
                    if np.any(np.abs(place) > STEP * HALF + 0.2):
                        continue
                    key = max(map(tuple, np.round(operations @ place, 4) + 0.0))
                    if key not in strength:
                        strength[key] = float(np.exp(0.6 * rng.standard_normal()))
                    found.append((g, sign * arm, strength[key] * share * len(self.shares)))
        return found

    def scan(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return counts and norm (l, k, h) of a scan."""
        rng = np.random.default_rng([self.seed, 2, i])
        shape = tuple(2 * HALF + 1)
        norm = 20 * np.exp(0.1 * rng.standard_normal(shape))
        top = float(norm.max())
        counts = rng.poisson(norm / 20 * self.background).astype(float)
        tilt = 1e-4 * rng.standard_normal((3, 3))
        for g, arm, strength in self.reflections():
            n = rng.poisson(self.counts[i] * strength * top / 20)
            # Isotropic exponential correlations of domains: a Lorentzian squared in 3-D.
            spread = self.width * rng.standard_normal((n, 3))
            if self.broad[i] > 0:
                student = rng.standard_normal((n, 3)) / np.sqrt(rng.gamma(0.5, 2, n))[:, None]
                spread = spread + self.broad[i] * student
            place = g + arm @ self.vectors[i]
            photons = place + tilt @ place + spread
            index = np.rint(np.clip(photons / STEP, -999, 999)).astype(int) + HALF
            inside = np.all((index >= 0) & (index < shape), axis=1)
            index = index[inside]
            kept = index[rng.random(len(index)) < norm[tuple(index.T)] / top]
            np.add.at(counts, tuple(kept.T), 1)
        return counts.transpose(2, 1, 0), norm.transpose(2, 1, 0)


def draw(seed: int, kind: str, strongest: float | None = None) -> World:
    """Return the world of a seed; the coldest scan has 1 to 300 photons in a mean reflection."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    crystal = CRYSTALS[int(rng.integers(len(CRYSTALS)))]
    n = int(rng.integers(6, 21))
    t = np.sort(np.linspace(rng.uniform(20, 90), rng.uniform(180, 300), n) + rng.uniform(-1, 1, n))
    t_c = float(rng.uniform(0.75, 1.1)) * t[-1]
    top = strongest or float(np.exp(rng.uniform(0, np.log(300))))
    counts = top * np.clip(1 - t / t_c, 0, None) ** float(rng.uniform(0.5, 1))
    move = rng.standard_normal(len(crystal.free))
    move = (
        move
        / np.linalg.norm(move)
        @ crystal.free
        * float(np.exp(rng.uniform(np.log(0.002), np.log(0.06))))
    )
    locked = None
    course = np.zeros(n)
    if kind == "linear":
        course = (t - t[0]) / np.ptp(t)
    elif kind in ("lock-in", "step"):
        locked = float(rng.uniform(t[0] + 0.3 * np.ptp(t), t[0] + 0.6 * np.ptp(t)))
        course = np.clip(t - locked, 0, None) / (t[-1] - locked)
        if kind == "step":
            course = (t > locked) * (0.5 + 0.5 * course)
    start = crystal.start.copy()
    if kind not in ("lock-in", "step"):
        start = start + rng.uniform(-0.03, 0.03, len(crystal.free)) @ crystal.free
    width = np.array([0.018, 0.018, 0.05]) * float(np.exp(rng.uniform(-0.3, 0.3)))
    world = World(
        crystal=crystal,
        kind=kind,
        temperature=t,
        vectors=start + course[:, None] * move,
        counts=counts,
        shares=np.ones(1),
        width=width,
        broad=np.zeros(n),
        background=float(np.exp(rng.uniform(np.log(0.02), np.log(1)))),
        locked=locked,
        seed=int(rng.integers(2**31)),
    )
    arms = len(world.arms())
    world.shares = np.full(arms, 1 / arms)
    if kind == "unequal arms":
        world.shares = np.array([0.7, *np.full(arms - 1, 0.3 / max(arms - 1, 1))])
    if kind == "broad":
        world.broad = 0.01 + 0.02 * course_of(t)
    return world


def course_of(t: np.ndarray) -> np.ndarray:
    """Return a line from 0 to 1 over the temperatures."""
    return (t - t[0]) / np.ptp(t)


def fisher(world: World, i: int, direction: np.ndarray) -> float:
    """Return the smallest σ of the vector along a direction that counts of a scan allow, r.l.u.

    Of a Gaussian on a known flat background, summed over all reflections.
    """
    axes = [np.arange(-6, 7) * s for s in STEP / 2]
    away = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    wide = world.width**2 + STEP**2 / 12
    cell = float(np.prod(STEP / 2))
    density = np.exp(-0.5 * np.sum(away**2 / wide, axis=1)) * cell
    density /= np.sqrt((2 * np.pi) ** 3 * np.prod(wide))
    level = world.background / 8
    information = 0.0
    for g, arm, strength in world.reflections():
        place = g + arm @ world.vectors[i]
        if np.any(np.abs(place) > STEP * HALF - [0.2, 0.2, 0.5] + 1e-9):
            continue
        slope = away / wide @ (arm @ direction)
        height = world.counts[i] * strength
        information += float(np.sum((height * density * slope) ** 2 / (level + height * density)))
    return 1 / np.sqrt(information) if information > 0 else np.inf


Reader = Callable[[tuple[slice, slice, slice]], tuple[np.ndarray, np.ndarray, np.ndarray]]
