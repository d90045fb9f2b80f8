"""Crystal, instrument and peak table of a simulated world; see worlds.py."""

from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from tests.truth.worlds_physics import (
    Array,
    Family,
    Instrument,
    Rows,
    Sample,
    Scan,
    busing_levy,
    join,
    merge_overlaps,
    observe,
    operations,
    reflections,
    rotation,
    select,
    wilson,
)

BRAGG, SECOND, DIFFUSE, NOISE, RING, HALF, SUPER = range(7)  # column `origin`

SPACE_GROUPS = {
    "cubic": ("Pm-3m", "Fm-3m", "Im-3m", "Fd-3m", "Pa-3"),
    "tetragonal": ("P4/mmm", "I4/mcm", "P4/nmm", "I4/mmm"),
    "orthorhombic": ("Pnma", "Pmmm", "Cmcm", "Immm"),
    "hexagonal": ("P63/mmc", "P6/mmm"),
    "trigonal": ("R-3c:H", "R-3m:H"),
    "monoclinic": ("P21/c", "C2/m", "P2/m"),
    "triclinic": ("P-1",),
}
SYSTEMS = tuple(SPACE_GROUPS)


Record = dict[str, object]


@dataclass(frozen=True)
class World:
    """A measurement with known truth: what the header states, the peaks, and what is true.

    `peaks` has one row per spot: rotation (index into `scans`), frame, slow, fast, var_*, width_*
    (frames, pixels), intensity, var_intensity (counts), background (counts per voxel), and for
    the judge origin, hkl, true_frame, true_slow, true_fast, merged (number of unresolved spots).
    hkl is in the true lattice of the spot's own crystal; NaN without one; fractional for
    half-wavelength and modulation satellites; the lattice point for a diffuse maximum.
    """

    kind: str
    system: str
    seed: int
    instrument: Instrument  # as the header states it
    scans: tuple[Scan, ...]  # as the header states them
    cell: Array  # expected: Å, degrees
    space_group: str  # expected; for a transition the parent's
    peaks: Rows
    sample: Sample  # truth: instrument, scans, cell and U at the first frame, motion, mosaic
    true_space_group: str
    effects: tuple[dict[str, object], ...]  # one per kind: name, variant, size and vectors
    temperature: float = 300.0  # K
    parent: "World | None" = None  # the world before a phase transition

    @property
    def UB(self) -> Array:
        """True UB at the first frame in 1/Å, with 2π."""
        return self.sample.U @ busing_levy(self.sample.cell)


@dataclass(frozen=True)
class Options:
    strong: float
    floor: tuple[float, float]
    overlaps: bool


@dataclass
class Draft:
    """A world while its kinds are applied."""

    system: str
    seed: int
    sample: Sample
    q_max: float
    space_group: str
    header: Instrument
    header_scans: tuple[Scan, ...]
    expected: Array
    main: Family
    b_factor: float
    background: float  # counts per voxel near the beam
    options: Options
    families: list[Family] = field(default_factory=list)
    contaminants: list[tuple[float, Callable[[int], Rows]]] = field(default_factory=list)
    main_share: float = 1.0
    temperature: float = 300.0
    parent: World | None = None
    before: "Draft | None" = None  # the draft of the parent

    @property
    def UB(self) -> Array:
        return self.sample.U @ busing_levy(self.sample.cell)


def rng_of(seed: int, *names: str) -> np.random.Generator:
    return np.random.default_rng([seed, *(crc32(n.encode()) for n in names)])


def random_direction(rng: np.random.Generator) -> Array:
    v = rng.normal(size=3)
    return v / np.linalg.norm(v)


def draw_cell(system: str, rng: np.random.Generator) -> Array:
    """Return a cell of 4 to 15 Å of a crystal system."""
    a, b, c = np.exp(rng.uniform(np.log(4), np.log(15), 3))
    al, be, ga = 90 + rng.choice([-1, 1], 3) * rng.uniform(2, 17, 3)
    return np.array(
        {
            "cubic": (a, a, a, 90, 90, 90),
            "tetragonal": (a, a, c, 90, 90, 90),
            "orthorhombic": (a, b, c, 90, 90, 90),
            "hexagonal": (a, a, c, 90, 90, 120),
            "trigonal": (a, a, c, 90, 90, 120),
            "monoclinic": (a, b, c, 90, 90 + abs(be - 90) * 1.5, 90),
            "triclinic": (a, b, c, al, be, ga),
        }[system]
    )


def allowed_change(system: str, change: Array) -> Array:
    """Return six relative changes of a cell that keep its crystal system."""
    a, b, c, al, be, ga = change
    none = 0.0
    return np.array(
        {
            "cubic": (a, a, a, none, none, none),
            "tetragonal": (a, a, c, none, none, none),
            "orthorhombic": (a, b, c, none, none, none),
            "hexagonal": (a, a, c, none, none, none),
            "trigonal": (a, a, c, none, none, none),
            "monoclinic": (a, b, c, none, be, none),
            "triclinic": (a, b, c, al, be, ga),
        }[system]
    )


def draw_instrument(
    rng: np.random.Generator,
    volume: float,
    shape: tuple[int, int],
    pixel_size: float,
    arm: float | None,
) -> Instrument:
    """Return a tilted detector whose edge is at the Q where 500 to 3000 lattice points end."""
    drawn = rng.uniform(5, 30) if rng.random() < 0.25 else 0.0
    arm = drawn if arm is None else arm
    half = min(shape) / 2 * pixel_size
    opening = rng.uniform(15, 35)
    points = np.exp(rng.uniform(np.log(500), np.log(3000)))
    q = 2 * np.pi * (3 * points / 4 / np.pi / volume) ** (1 / 3)
    wavelength = np.clip(4 * np.pi * np.sin(np.radians(opening + arm) / 2) / q, 0.12, 1.8)
    flips = np.diag([*rng.choice([-1.0, 1.0], 2), 1.0])
    axes = (np.eye(3)[[1, 0]] if rng.random() < 0.25 else np.eye(3)[:2]) @ flips
    tilt = rotation(random_direction(rng), rng.uniform(0, 2))
    turn = rotation(np.eye(3)[rng.integers(2)], rng.choice([-1, 1]) * arm) @ tilt
    centre = np.array(shape) / 2 + rng.uniform(-0.12, 0.12, 2) * shape
    fast, slow = axes @ turn.T
    distance = half / np.tan(np.radians(opening))
    origin = turn @ [0, 0, distance] - pixel_size * (centre[0] * slow + centre[1] * fast)
    return Instrument(float(wavelength), pixel_size, shape, origin, fast, slow)


def q_at_corners(instrument: Instrument) -> float:
    """Return the largest |Q| at the detector's corners, 1/Å."""
    n_slow, n_fast = instrument.shape
    corners = instrument.point(np.array([0, n_slow, 0, n_slow]), np.array([0, 0, n_fast, n_fast]))
    cosine = corners[:, 2] / np.linalg.norm(corners, axis=1)
    return float(instrument.k * np.sqrt(2 - 2 * cosine.min()))


def debye_waller(d: Draft, h: Array) -> Array:
    """Return exp(−2 B sin²θ/λ²) at positions h."""
    q = np.linalg.norm(h @ busing_levy(d.sample.cell).T, axis=1)
    return np.exp(-d.b_factor * q**2 / (8 * np.pi**2))


def strength_of(d: Draft, h: Array, name: str = "") -> Array:
    """Return |F|² of integer h, with absences, symmetry and the Debye-Waller fall-off."""
    return wilson(d.space_group, h, crc32(f"{d.seed} {name}".encode())) * debye_waller(d, h)


def main_family(d: Draft) -> Family:
    h = reflections(busing_levy(d.sample.cell), d.q_max)
    strength = strength_of(d, h)
    h, strength = h[strength > 0], strength[strength > 0]
    return Family(h, h, strength, BRAGG)


def n_centrings(group: str) -> int:
    """Return the number of lattice points of a space group's cell."""
    W, w = operations(group)
    return len(np.unique(np.round(w[np.all(np.eye(3) == W, axis=(1, 2))], 6), axis=0))


def true_spots(d: Draft) -> tuple[Rows, float]:
    """Return all families' spots before overlaps and counting, and the counts per |F|²/Lorentz."""
    bragg = d.sample.spots(d.main)
    scale = d.options.strong * d.main_share / np.percentile(bragg["intensity"], 99)
    rows = join([bragg, *(d.sample.spots(f) for f in d.families)])
    rows["intensity"] = rows["intensity"] * scale
    return rows, float(scale)


def finish(d: Draft, kind: str, effects: tuple[Record, ...]) -> World:
    """Return the world of a draft: spots of all families, overlaps, counts, contaminants."""
    rng = rng_of(d.seed, d.system, kind, "counts")
    rows, _ = true_spots(d)
    single = {"merged": np.ones(len(rows["q"]), int)}
    rows = merge_overlaps(rows) if d.options.overlaps else rows | single

    def measured(rows: Rows) -> Rows:
        fall = 0.3 + np.exp(-2.5 * rows["q"] / d.q_max)
        return observe(rows | {"background": d.background * fall}, rng, d.options.floor)

    tables = [measured(rows)]
    for share, spots in d.contaminants:
        n = round(len(tables[0]["q"]) * share / (1 - share))
        rows = spots(10 * n)
        table = measured(rows | {"merged": np.ones(len(rows["q"]), int)})
        tables.append(select(table, np.arange(min(n, len(table["q"])))))
    peaks = join(tables)
    del peaks["q"]
    return World(
        kind=kind,
        system=d.parent.system if d.parent else d.system,
        seed=d.seed,
        instrument=d.header,
        scans=d.header_scans,
        cell=d.expected,
        space_group=d.parent.space_group if d.parent else d.space_group,
        peaks=select(peaks, np.lexsort((peaks["frame"], peaks["rotation"]))),
        sample=d.sample,
        true_space_group=d.space_group,
        effects=effects,
        temperature=d.temperature,
        parent=d.parent,
    )
