"""Several crystals of one substance, simulated without any code of hklflow.

Structure factors are sums over the atoms of a molecule in I 4₁/a; reflections appear where the
Ewald sphere is crossed; each crystal has its own orientation, range of angles, scale, Debye-Waller
factor, shape (absorption along the two paths in an ellipsoid) and errors. The lattice has twice the
rotations of the Laue group 4/m: each crystal is indexed in one of two ways by chance. Tables
of hklflow are only containers of what results.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow import nexus
from hklflow.bragg.reflections import Reflections
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan
from tests.truth.orientations import write_orientation

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

A, C = 12.8, 6.8  # Å, the cell of erythritol
GROUP = "I 41/a"
WAVELENGTH = 0.5
D_MIN = 0.75
PER_COUNT = 0.02
BAD = ("structure", "twin", "cell", "shifted")
OTHER_WAY = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])

# Cromer-Mann coefficients (International Tables C) of carbon and oxygen: a, b, c.
_FORM = {
    "C": ([2.31, 1.02, 1.5886, 0.865], [20.8439, 10.2075, 0.5687, 51.6512], 0.2156),
    "O": ([3.0485, 2.2868, 1.5463, 0.867], [13.2771, 5.7011, 0.3239, 32.9089], 0.2508),
}
# Rotations and shifts of I 4₁/a, origin on the inversion centre, without inversion and centring.
_ROTATIONS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
        [[0, 1, 0], [-1, 0, 0], [0, 0, 1]],
    ]
)
_SHIFTS = np.array([[0, 0, 0], [0.5, 0, 0.5], [0.75, 0.25, 0.25], [0.75, 0.75, 0.75]])


def structure(rng: np.random.Generator) -> list[tuple[str, Floats, float]]:
    """Atoms of one molecule: element, position, mean squared displacement U in Å²."""
    return [
        (element, rng.random(3), 0.02 + 0.02 * rng.random()) for element in ("C", "C", "O", "O")
    ]


def squared_structure_factors(atoms: list[tuple[str, Floats, float]], hkl: Integers) -> Floats:
    """|F|² (n,) in electrons squared."""
    s2 = 0.25 * ((hkl[:, 0] ** 2 + hkl[:, 1] ** 2) / A**2 + hkl[:, 2] ** 2 / C**2)
    total = np.zeros(len(hkl), dtype=complex)
    for element, position, u in atoms:
        a, b, c = _FORM[element]
        f = c + sum(x * np.exp(-y * s2) for x, y in zip(a, b, strict=True))
        f = f * np.exp(-8 * np.pi**2 * u * s2)
        for rotation, shift in zip(_ROTATIONS, _SHIFTS, strict=True):
            for sign in (1, -1):
                for centring in (0.0, 0.5):
                    x = sign * (rotation @ position + shift) + centring
                    total += f * np.exp(2j * np.pi * (hkl @ x))
    return np.abs(total) ** 2


def representative(hkl: Integers) -> Integers:
    """One of the equivalents (n, 3) in 4/m: l ≥ 0, then h > 0 and k ≥ 0."""
    h, k, l = hkl.T.copy()  # noqa: E741
    l = np.abs(l)  # noqa: E741
    for _ in range(4):
        turn = ~((h > 0) & (k >= 0)) & ~((h == 0) & (k == 0))
        h, k = np.where(turn, -k, h), np.where(turn, h, k)
    return np.stack([h, k, l], axis=1)


def all_hkl() -> Integers:
    """All indices of the I lattice to the smallest spacing, without 000."""
    h, l = int(A / D_MIN) + 1, int(C / D_MIN) + 1  # noqa: E741
    grid = np.mgrid[-h : h + 1, -h : h + 1, -l : l + 1].reshape(3, -1).T
    d_star2 = (grid[:, 0] ** 2 + grid[:, 1] ** 2) / A**2 + grid[:, 2] ** 2 / C**2
    return grid[(d_star2 > 0) & (d_star2 <= D_MIN**-2) & (grid.sum(axis=1) % 2 == 0)]


def random_rotation(rng: np.random.Generator) -> Floats:
    """Uniformly random rotation matrix from a quaternion."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


class Files(NamedTuple):
    """What `Crystal.write` wrote."""

    reflections: list[Path]
    orientation: Path


@dataclass
class Crystal:
    """One crystal: its reflections as integration gives them, and the truth about it."""

    name: str
    kind: str  # "good", or one of `BAD`
    flipped: bool  # indexed the other way
    scale: float  # with the means of drift and absorption
    b: float
    rotation: Rotation
    table: Reflections
    cell: Floats
    ub: Floats
    temperature: float = 100.0

    def write(self, folder: Path) -> Files:
        """Write the files of integration and orientation."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "r1.nxs"
        nexus.write_reflections(path, self.table, "t")
        where = write_orientation(
            folder / "converged.json",
            {"r1": self.rotation},
            self.ub,
            GROUP,
            sample=self.name,
            scan="100K",
            parent="100K",
            temperature=self.temperature,
            cell=self.cell,
            cell_sigma=np.array([0.002, 0.002, 0.001, 0, 0, 0]),
        )
        return Files([path], where)


@dataclass
class World:
    """Five crystals, one of which is bad if ``kind`` is one of `BAD`."""

    seed: int
    kind: str = "good"
    n: int = 5
    span: tuple[float, float] = (50.0, 110.0)  # degrees
    twinned: tuple[float, float] = (0.25, 0.5)  # fraction of the twin
    crystals: list[Crystal] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 77])
        self.hkl = all_hkl()
        atoms = structure(rng)
        mean = squared_structure_factors(atoms, self.hkl).mean()
        # Counts of a medium crystal: 1000 in a mean reflection of the first.
        self.intensity = 20.0 * squared_structure_factors(atoms, self.hkl) / mean
        self.other = 20.0 * squared_structure_factors(structure(rng), self.hkl) / mean
        bad = int(rng.integers(self.n)) if self.kind != "good" else -1
        self.bad = f"c{bad}" if bad >= 0 else None
        for number in range(self.n):
            kind = self.kind if number == bad else "good"
            self.crystals.append(self._crystal(rng, number, kind))

    def truth(self, hkl: Integers) -> Floats:
        """True intensities (n,) of indices in the setting of the structure."""
        index = {tuple(h): i for h, i in zip(self.hkl.tolist(), self.intensity, strict=True)}
        return np.array([index[tuple(h)] for h in hkl.tolist()])

    def _at(self, values: Floats, hkl: Integers) -> Floats:
        index = {tuple(h): i for h, i in zip(self.hkl.tolist(), values, strict=True)}
        return np.array([index[tuple(h)] for h in hkl.tolist()])

    def _crystal(self, rng: np.random.Generator, number: int, kind: str) -> Crystal:
        stretch = 1 + rng.choice([-1, 1]) * rng.uniform(0.01, 0.02) if kind == "cell" else 1.0
        stretch *= 1 + 2e-4 * rng.standard_normal()
        cell = np.array([A * stretch, A * stretch, C * stretch, 90, 90, 90])
        b = np.diag(2 * np.pi / cell[:3])
        u = random_rotation(rng)
        scale, debye = float(np.exp(rng.uniform(-1.5, 1.5))), float(rng.uniform(0, 1.5))
        start, span = float(rng.uniform(0, 180)), float(rng.uniform(*self.span))
        seen, angle, out = _crossings(u @ b, self.hkl, start, span)
        hkl = self.hkl[seen]
        expected = self._at(self.other if kind == "structure" else self.intensity, hkl)
        if kind == "twin":
            part = rng.uniform(*self.twinned)
            mates = self._at(self.intensity, hkl @ OTHER_WAY.T)
            expected = (1 - part) * expected + part * mates
        s2 = 0.25 * (hkl**2 @ (1 / cell[:3] ** 2))
        drift = 1 + 0.2 * np.sin(np.radians(2 * angle + 360 * rng.random()))
        shape = random_rotation(rng) @ np.diag(rng.uniform(0.6, 1.4, 3))
        turn = _about_x(np.radians(angle))
        paths = [
            1 / np.linalg.norm(np.linalg.solve(shape, one.T), axis=0)
            for one in (
                np.einsum("nji,j->ni", turn, [0.0, 0.0, -1.0]),
                np.einsum("nji,nj->ni", turn, out),
            )
        ]
        absorbed = np.exp(-0.25 * (paths[0] + paths[1] - 2))
        g = scale * drift * absorbed * np.exp(-2 * debye * s2)
        value, sigma = _measured(rng, expected * g)
        flipped = bool(rng.random() < 0.5)
        indices = hkl
        if kind == "shifted":
            indices = hkl + np.array([1, 0, 1])
            origin = ~indices.any(axis=1)
            indices[origin] = hkl[origin]
        ub = u @ b
        if flipped:
            indices, ub = indices @ OTHER_WAY.T, ub @ np.linalg.inv(OTHER_WAY)
        rotation, slow, fast, on = _detector(start, span, out)
        table = _table(
            indices[on], angle[on], start, slow[on], fast[on], value[on], sigma[on], cell
        )
        mean_scale = scale * float(np.exp(np.mean(np.log(drift * absorbed))))
        return Crystal(f"c{number}", kind, flipped, mean_scale, debye, rotation, table, cell, ub)


def _about_x(angle: Floats) -> Floats:
    c, s, o, i = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([i, o, o, o, c, -s, o, s, c], axis=-1).reshape(-1, 3, 3)


def _crossings(
    ub: Floats, hkl: Integers, start: float, span: float
) -> tuple[Integers, Floats, Floats]:
    """Row, angle in degrees and direction of the diffracted beam of every crossing.

    ``|k z + R(φ) r| = k`` gives ``r_y sin φ + r_z cos φ = -r²/(2k)`` for a rotation about x.
    """
    k = 2 * np.pi / WAVELENGTH
    r = hkl @ ub.T
    size = np.hypot(r[:, 1], r[:, 2])
    cosine = -(r**2).sum(axis=1) / (2 * k * np.maximum(size, 1e-12))
    rows = np.flatnonzero(np.abs(cosine) < 1)
    phase = np.arctan2(r[rows, 1], r[rows, 2])
    found = []
    for sign in (1, -1):
        angle = np.degrees(phase + sign * np.arccos(cosine[rows]))
        angle = start + (angle - start) % 360
        keep = angle < start + span
        found.append((rows[keep], angle[keep]))
    seen = np.concatenate([x for x, _ in found])
    angle = np.concatenate([x for _, x in found])
    vector = np.einsum("nij,nj->ni", _about_x(np.radians(angle)), r[seen])
    out = (vector + np.array([0, 0, k])) / k
    # Reflections that graze the sphere are not integrated: |x · (ŝ × ẑ)| / |ŝ × ẑ|.
    cross = np.cross(out, [0, 0, 1.0])
    keep = np.abs(cross[:, 0]) > 0.15 * np.linalg.norm(cross, axis=1)
    return seen[keep], angle[keep], out[keep]


def _measured(rng: np.random.Generator, expected: Floats) -> tuple[Floats, Floats]:
    """Counts above a background with errors beyond counting, and the errors from counting."""
    background = rng.uniform(20, 100)
    counts = rng.poisson(expected / PER_COUNT + background) - background
    sigma = PER_COUNT * np.sqrt(np.maximum(counts, 0) + background)
    more, relative = rng.uniform(1.0, 1.3), rng.uniform(0.01, 0.03)
    true2 = PER_COUNT**2 * (expected / PER_COUNT + background)
    beyond = (more**2 - 1) * true2 + (relative * expected) ** 2
    value = counts * PER_COUNT + rng.standard_normal(len(expected)) * np.sqrt(beyond)
    stray = rng.random(len(expected)) < 0.003  # a shadow, a hot pixel, ice
    return np.where(stray, value + 30 * sigma * rng.standard_normal(len(value)), value), sigma


def _detector(start: float, span: float, out: Floats) -> tuple[Rotation, Floats, Floats, Floats]:
    """A flat detector 0.1 m behind the crystal, and the pixels of the beams on it."""
    n, pixel, distance = 1000, 0.2e-3, 0.1
    detector = Detector(
        (n, n),
        (pixel, pixel),
        np.array([-0.1, -0.1, distance]),
        np.array([0.0, 1.0, 0.0]),
        np.array([1.0, 0.0, 0.0]),
    )
    goniometer = Goniometer(("phi",), np.array([[1.0, 0.0, 0.0]]), np.radians([0.0]), 0)
    frames = max(round(span / 0.5), 1)
    scan = Scan(np.radians(start), np.radians(span / frames), frames)
    with np.errstate(divide="ignore", invalid="ignore"):
        place = distance * out / out[:, 2:]
    slow, fast = (place[:, 1] + 0.1) / pixel, (place[:, 0] + 0.1) / pixel
    on = (out[:, 2] > 0) & (slow > 0) & (slow < n) & (fast > 0) & (fast < n)
    return Rotation(Beam(WAVELENGTH), detector, goniometer, scan), slow, fast, on


def _table(
    hkl: Integers,
    angle: Floats,
    start: float,
    slow: Floats,
    fast: Floats,
    value: Floats,
    sigma: Floats,
    cell: Floats,
) -> Reflections:
    n = len(hkl)
    columns = dict.fromkeys(Reflections.__dataclass_fields__, np.full(n, np.nan))
    step = 0.5
    columns |= {
        "hkl": hkl,
        "frame": (angle - start) / step,
        "slow": slow,
        "fast": fast,
        "zeta": np.ones(n),
        "volume": np.full(n, PER_COUNT),
        "norm": np.ones(n),
        "recorded": np.ones(n),
        "d": (hkl**2 @ (1 / cell[:3] ** 2)) ** -0.5,
        "intensity_sum": value,
        "sigma_sum": sigma,
        "intensity_profile": value,
        "sigma_profile": sigma,
        "counts": value / PER_COUNT,
        "n_foreground": np.full(n, 50),
        "n_background": np.full(n, 200),
        "flags": np.zeros(n, np.int64),
    }
    return Reflections(**columns)
