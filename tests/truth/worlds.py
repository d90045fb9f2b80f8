"""Simulated worlds: peak tables of rotation scans with known truth.

`world(kind, system, seed)` is a pure function of its arguments. Worlds with the same system, seed
and options share crystal and instrument whatever the kind, unless the kind changes the cell, so
`world("slip", s, n)` is to be compared with `world("plain", s, n)`. A kind is `name`,
`name:variant` or several joined by "+".
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from tests.truth.worlds_physics import (
    SPOT,
    Array,
    Family,
    Instrument,
    Motion,
    Rows,
    Sample,
    Scan,
    busing_levy,
    cell_of_axes,
    direct_basis,
    is_absent,
    join,
    loose_spots,
    merge_overlaps,
    observe,
    operations,
    powder_spots,
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
class _Options:
    strong: float
    floor: tuple[float, float]
    overlaps: bool


@dataclass
class _Draft:
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
    options: _Options
    families: list[Family] = field(default_factory=list)
    contaminants: list[tuple[float, Callable[[int], Rows]]] = field(default_factory=list)
    main_share: float = 1.0
    temperature: float = 300.0
    parent: World | None = None

    @property
    def UB(self) -> Array:
        return self.sample.U @ busing_levy(self.sample.cell)


def _rng(seed: int, *names: str) -> np.random.Generator:
    return np.random.default_rng([seed, *(crc32(n.encode()) for n in names)])


def _direction(rng: np.random.Generator) -> Array:
    v = rng.normal(size=3)
    return v / np.linalg.norm(v)


def _cell(system: str, rng: np.random.Generator) -> Array:
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


def _vary(system: str, change: Array) -> Array:
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


def _instrument(
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
    tilt = rotation(_direction(rng), rng.uniform(0, 2))
    turn = rotation(np.eye(3)[rng.integers(2)], rng.choice([-1, 1]) * arm) @ tilt
    centre = np.array(shape) / 2 + rng.uniform(-0.12, 0.12, 2) * shape
    fast, slow = axes @ turn.T
    distance = half / np.tan(np.radians(opening))
    origin = turn @ [0, 0, distance] - pixel_size * (centre[0] * slow + centre[1] * fast)
    return Instrument(float(wavelength), pixel_size, shape, origin, fast, slow)


def _q_max(instrument: Instrument) -> float:
    """Return the largest |Q| at the detector's corners, 1/Å."""
    n_slow, n_fast = instrument.shape
    corners = instrument.point(np.array([0, n_slow, 0, n_slow]), np.array([0, 0, n_fast, n_fast]))
    cosine = corners[:, 2] / np.linalg.norm(corners, axis=1)
    return float(instrument.k * np.sqrt(2 - 2 * cosine.min()))


def _debye_waller(d: _Draft, h: Array) -> Array:
    """Return exp(−2 B sin²θ/λ²) at positions h."""
    q = np.linalg.norm(h @ busing_levy(d.sample.cell).T, axis=1)
    return np.exp(-d.b_factor * q**2 / (8 * np.pi**2))


def _strength(d: _Draft, h: Array, name: str = "") -> Array:
    """Return |F|² of integer h, with absences, symmetry and the Debye-Waller fall-off."""
    return wilson(d.space_group, h, crc32(f"{d.seed} {name}".encode())) * _debye_waller(d, h)


def _main_family(d: _Draft) -> Family:
    h = reflections(busing_levy(d.sample.cell), d.q_max)
    strength = _strength(d, h)
    h, strength = h[strength > 0], strength[strength > 0]
    return Family(h, h, strength, BRAGG)


# The kinds. Each changes the draft and returns a record of what was done.
Record = dict[str, object]
Kind = Callable[[_Draft, np.random.Generator, float, str], Record]


def _plain(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    return {}


def _broad(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    """Replace the spots of a share `size` of the reflections by broad, displaced maxima."""
    main, inst, UB = d.main, d.sample.instrument, d.UB
    code = np.abs(main.hkl) @ np.array([73_856_093, 19_349_663, 83_492_791])
    chance = np.modf(code * 0.6180339887498949)[0]  # equal for h and −h
    broad, sharp = chance < size, (chance >= size) | (chance < 0.1 * size)
    h = main.position[broad]  # with −h in reverse order: S(−Q) = S(Q)
    factor = np.exp(rng.uniform(0, np.log(10)))
    distance = np.linalg.norm(inst.point(inst.shape[0] / 2, inst.shape[1] / 2))
    spread = rng.normal(0, 0.15, len(h))
    gamma = SPOT * inst.pixel_size / distance * inst.k * factor * np.exp(spread + spread[::-1])
    G = h @ UB.T
    slope = rng.uniform(0.1, 0.5) * rng.choice([-1, 1])  # along Q: 1/q² or Q² of the scatterer
    odd = rng.normal(0, 0.1, h.shape)
    shift = slope * G / np.linalg.norm(G, axis=1)[:, None] + odd - odd[::-1]
    position = (G + gamma[:, None] * shift) @ np.linalg.inv(UB).T
    ratio = rng.uniform(0.5, 5, len(h))
    strength = main.strength[broad] * (ratio + ratio[::-1])
    d.families.append(Family(position, h, strength, DIFFUSE, gamma=gamma))
    d.main = replace(
        main, position=main.position[sharp], hkl=main.hkl[sharp], strength=main.strength[sharp]
    )
    return {"width_factor": factor, "slope": slope, "gamma": float(np.median(gamma))}


def _slip(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    r = int(rng.integers(len(d.sample.scans)))
    frame = float(rng.uniform(0.1, 0.9) * d.sample.scans[r].n_frames)
    axis = _direction(rng)
    d.sample.motion.slips.append((r, frame, axis * size))
    return {"rotation": r, "frame": frame, "axis": axis}


def _drift(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    axis = _direction(rng)
    d.sample.motion.drifts.append(axis * size)
    return {"axis": axis}


def _wobble(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    """Rotate the crystal by size·sin(n φ + phase) about a lab axis (a third: the scan axis)."""
    axis = d.sample.scans[0].axis if rng.random() < 1 / 3 else _direction(rng)
    periods, phase = int(rng.integers(1, 4)), float(rng.uniform(0, 360))
    d.sample.motion.wobbles.append((axis, size, periods, phase))
    return {"axis": axis, "periods": periods, "phase": phase}


def _off_centre(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    scan = d.sample.scans[0]
    across = np.cross(scan.setting.T @ scan.axis, _direction(rng))
    d.sample.motion.offset = size * across / np.linalg.norm(across)
    return {"offset": d.sample.motion.offset}


def _beam_moves(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    """Turn the beam (degrees) or shift the illuminated point (m), linearly, across the beam."""
    angle = rng.uniform(0, 2 * np.pi)
    vector = size * np.array([np.cos(angle), np.sin(angle), 0])
    if what == "direction":
        d.sample.motion.beam_turn = vector
    else:
        d.sample.motion.beam_shift = vector
    return {"vector": vector}


def _cell_changes(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    change = size * np.r_[rng.uniform(0.3, 1, 3), rng.uniform(-0.5, 0.5, 3)]
    d.sample.motion.strain = _vary(d.system, change)
    return {"strain": d.sample.motion.strain}


def _add_crystal(d: _Draft, T: Array, share: float) -> Record:
    """Add a crystal of a share of the volume, rotated by T, with all families so far."""
    second = [
        replace(f, strength=f.strength * share, origin=SECOND, T=T @ f.T)
        for f in (d.main, *d.families)
    ]
    rest = 1 - share
    d.families = [replace(f, strength=f.strength * rest) for f in d.families] + second
    d.main = replace(d.main, strength=d.main.strength * rest)
    d.main_share *= rest
    return {"rotation_matrix": T, "share": share}


def _second_lattice(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    axis, angle = _direction(rng), rng.uniform(1, 40)
    return _add_crystal(d, rotation(axis, angle), size) | {"axis": axis, "angle": angle}


def _two_fold(d: _Draft, uvw: Array, share: float) -> Record:
    """Add a twin domain by a two-fold rotation about the lattice direction [uvw]."""
    axis = direct_basis(d.UB) @ uvw
    return _add_crystal(d, rotation(axis, 180), share) | {"uvw": uvw}


TWIN_AXES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "cubic": ((1, 1, 1), (1, 1, 2)),
    "tetragonal": ((1, 0, 1), (1, 1, 1)),
    "orthorhombic": ((1, 1, 0), (0, 1, 1), (1, 0, 1)),
    "hexagonal": ((1, 0, 1), (1, 1, 1)),
    "trigonal": ((0, 0, 1), (1, 0, 1)),
    "monoclinic": ((1, 0, 0), (0, 0, 1)),
    "triclinic": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}
PSEUDO_AXES = {  # two-fold axes of the cubic lattice that the crystal has lost; its space group
    "tetragonal": ((1, 0, 1), "P4/mmm"),
    "orthorhombic": ((1, 1, 0), "Pmmm"),
    "monoclinic": ((1, 0, 0), "P2/m"),
    "triclinic": ((1, 0, 0), "P-1"),
    "trigonal": ((2, 1, 1), "R-3m:H"),
}


def _pseudo_cell(system: str, rng: np.random.Generator, size: float) -> Array:
    """Return a cell that departs from a cubic lattice by `size` (relative)."""
    a = np.exp(rng.uniform(np.log(4), np.log(12)))
    e = size * rng.choice([-1, 1]) * np.array([0, 1, -1, 1, 1, 1]) * rng.uniform(0.7, 1, 6)
    if system == "trigonal":  # a rhombohedron with α near 90°
        return np.array([np.sqrt(2) * a, np.sqrt(2) * a, np.sqrt(3) * a * (1 + e[2]), 90, 90, 120])
    cell = np.array([a, a, a, 90, 90, 90]) * (1 + _vary(system, e))
    cell[4] = 90 + abs(cell[4] - 90)
    return cell


def _nonmerohedral(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    axes = TWIN_AXES[d.system]
    return _two_fold(d, np.array(axes[rng.integers(len(axes))]), size)


def _pseudomerohedral(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    return _two_fold(d, np.array(PSEUDO_AXES[d.system][0]), rng.uniform(0.2, 0.5))


def _half_wavelength(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    """Add the reflections of λ/2, of strength `size` relative to λ.

    With k' = 2k, H diffracts where |2k z + Q_H| = 2k, along s = z + Q_H / 2k: where a point at
    H/2 would for k. Even H coincide with reflections of λ and are left out.
    """
    H = reflections(busing_levy(d.sample.cell), 2 * d.q_max)
    H = H[np.any(H % 2 != 0, axis=1)]
    strength = size * _strength(d, H)
    H, strength = H[strength > 0], strength[strength > 0]
    d.families.append(Family(H / 2, H / 2, strength, HALF))
    return {}


def _add_satellites(d: _Draft, q: Array, ratio: float) -> Record:
    """Add first-order satellites h ± q of mean strength `ratio` relative to the main ones."""
    h = reflections(busing_levy(d.sample.cell), 1.1 * d.q_max)
    h = np.r_[h, np.zeros((1, 3))]
    h = h[~is_absent(d.space_group, h, centring=True)]
    position = np.unique(np.round(np.r_[h + q, h - q], 9), axis=0)
    strength = ratio * wilson("P-1", np.round(1000 * position), d.seed + 1)
    strength *= _debye_waller(d, position)
    d.families.append(Family(position, position, strength, SUPER))
    return {"q": q}


def _superlattice(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    if what == "incommensurate":
        q = rng.uniform(0.12, 0.45) * np.eye(3)[rng.integers(3)]
    else:
        q = np.array([_fraction(x) for x in what.split(",")])
    return _add_satellites(d, q, size)


def _fraction(text: str) -> float:
    """Return 0.5 for "1/2" and 0.0 for "0"."""
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def ice_rings() -> tuple[Array, Array]:
    """Return |Q| (1/Å) and strength of the strong powder rings of ice Ih."""
    hkl = np.array(
        [[1, 0, 0], [0, 0, 2], [1, 0, 1], [1, 0, 2], [1, 1, 0], [1, 0, 3], [2, 0, 0], [1, 1, 2]]
    )
    strength = np.array([100, 54, 55, 22, 47, 35, 7, 34.0])
    B = busing_levy(np.array([4.497, 4.497, 7.322, 90, 90, 120]))
    return np.linalg.norm(hkl @ B.T, axis=1), strength


def aluminium_rings() -> tuple[Array, Array]:
    """Return |Q| (1/Å) and strength of the powder rings of aluminium."""
    hkl = np.array([[1, 1, 1], [2, 0, 0], [2, 2, 0], [3, 1, 1], [2, 2, 2], [3, 3, 1], [4, 2, 0]])
    strength = np.array([100, 47, 22, 24, 7, 8, 8.0])
    return 2 * np.pi / 4.0495 * np.linalg.norm(hkl, axis=1), strength


def _rings(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    q, strength = ice_rings() if what == "ice" else aluminium_rings()
    d.contaminants.append((size, lambda n: powder_spots(d.sample, q, strength, n, rng)))
    return {"q": q}


def _noise(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    def spots(n: int) -> Rows:
        slow, fast = (rng.uniform(0, m, n) for m in d.sample.instrument.shape)
        return loose_spots(d.sample, slow, fast, rng.integers(len(d.sample.scans), size=n), rng)

    d.contaminants.append((size, spots))
    return {}


def _wrong_header(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    inst, sign = d.header, rng.choice([-1.0, 1.0])
    if what == "axis":
        d.header_scans = tuple(replace(s, axis=-s.axis) for s in d.header_scans)
    elif what == "start":
        d.header_scans = tuple(replace(s, start=s.start + sign * size) for s in d.header_scans)
    elif what == "wavelength":
        d.header = replace(inst, wavelength=inst.wavelength * (1 + sign * size))
    elif what == "distance":
        normal = np.cross(inst.fast, inst.slow)
        shift = sign * size * (inst.origin @ normal) * normal
        d.header = replace(inst, origin=inst.origin + shift)
    else:
        angle = rng.uniform(0, 2 * np.pi)
        shift = size * inst.pixel_size * (np.cos(angle) * inst.fast + np.sin(angle) * inst.slow)
        d.header = replace(inst, origin=inst.origin + shift)
    return {"sign": sign}


def _wrong_cell(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    change = np.r_[size * rng.choice([-1, 1], 3), np.zeros(3)]
    system = d.parent.system if d.parent else d.system
    d.expected = d.expected * (1 + _vary(system, change))
    return {"expected": d.expected}


@dataclass(frozen=True)
class Transition:
    """Parent and child: axes of the child in columns P of parent axes, strain size·form."""

    system: str
    parent: str
    child: str
    P: tuple[tuple[int, int, int], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    form: tuple[tuple[float, float, float], ...] = ((0, 0, 0),) * 3  # parent's Cartesian axes
    q: tuple[float, float, float] | None = None  # incommensurate satellites


_C = ((-0.5, 0, 0), (0, -0.5, 0), (0, 0, 1.0))
_XY = ((0, 1.0, 0), (1.0, 0, 0), (0, 0, 0))
TRANSITIONS = {
    "cubic-tetragonal": Transition("cubic", "Pm-3m", "P4mm", form=_C),
    "tetragonal-orthorhombic": Transition(
        "tetragonal", "I4/mmm", "Fmmm", ((1, 1, 0), (-1, 1, 0), (0, 0, 1)), _XY
    ),
    "orthorhombic-monoclinic": Transition(
        "orthorhombic", "Pmmm", "P2/m", form=((0, 0, -1.0), (0, 0, 0), (-1.0, 0, 0))
    ),
    "cubic-rhombohedral": Transition(
        "cubic",
        "Pm-3m",
        "R3m:H",
        ((1, 0, 1), (-1, 1, 1), (0, -1, 1)),
        ((0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)),
    ),
    "doubling-111": Transition("cubic", "Pm-3m", "Fm-3m", ((2, 0, 0), (0, 2, 0), (0, 0, 2))),
    "doubling-001": Transition("tetragonal", "P4/mmm", "P4/mmm", ((1, 0, 0), (0, 1, 0), (0, 0, 2))),
    "doubling-100": Transition("orthorhombic", "Pmmm", "Pmmm", ((2, 0, 0), (0, 1, 0), (0, 0, 1))),
    "tripling": Transition("hexagonal", "P6/mmm", "P6/mmm", ((2, -1, 0), (1, 1, 0), (0, 0, 1))),
    "cubic-I4/mcm": Transition("cubic", "Pm-3m", "I4/mcm", ((1, 1, 0), (-1, 1, 0), (0, 0, 2)), _C),
    "cubic-Pnma": Transition(
        "cubic",
        "Pm-3m",
        "Pnma",
        ((1, 0, -1), (0, 2, 0), (1, 0, 1)),
        ((0.3, 0, 0.8), (0, -0.6, 0), (0.8, 0, 0.3)),
    ),
    "incommensurate": Transition("tetragonal", "P4/mmm", "P4/mmm", q=(0, 0, 1)),
    "incommensurate-a": Transition("orthorhombic", "Pnma", "Pnma", q=(1, 0, 0)),
}
SYSTEM_OF_GROUP = {
    "P4mm": "tetragonal",
    "Fmmm": "orthorhombic",
    "P2/m": "monoclinic",
    "R3m:H": "trigonal",
    "Fm-3m": "cubic",
    "P4/mmm": "tetragonal",
    "Pmmm": "orthorhombic",
    "P6/mmm": "hexagonal",
    "I4/mcm": "tetragonal",
    "Pnma": "orthorhombic",
}


def _transition(d: _Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    """Turn the draft into the child at 100 K, a single domain remounted within 0.2°."""
    t = TRANSITIONS[what]
    d.parent = _finish(d, f"parent of {what}", ())
    P, before = np.array(t.P, float), replace(d)
    axes0 = direct_basis(busing_levy(d.sample.cell))
    contraction = rng.uniform(0.9975, 1)
    axes = contraction * (np.eye(3) + size * np.array(t.form)) @ axes0 @ P
    cell = cell_of_axes(axes)
    cell[3:] = np.round(cell[3:], 9)
    frame = 2 * np.pi * np.linalg.inv(axes).T @ np.linalg.inv(busing_levy(cell))
    misset = rotation(_direction(rng), rng.uniform(0, 0.2))
    d.sample = replace(d.sample, cell=cell, U=misset @ d.sample.U @ frame, motion=Motion())
    d.space_group, d.system, d.temperature = t.child, SYSTEM_OF_GROUP[t.child], 100.0
    weak = rng.uniform(0.02, 0.2)
    h = reflections(busing_levy(cell), d.q_max)
    in_parent = h @ np.linalg.inv(P)
    fundamental = np.all(np.abs(in_parent - np.round(in_parent)) < 1e-6, axis=1)
    strength = weak * _strength(d, h, "child")
    strength[fundamental] = _strength(before, np.round(in_parent[fundamental]))
    keep = strength > 0
    main, extra = fundamental & keep, ~fundamental & keep
    d.main = Family(h[main], h[main], strength[main], BRAGG)
    if extra.any():
        d.families.append(Family(h[extra], h[extra], strength[extra], SUPER))
    record: Record = {"P": P, "strain": size * np.array(t.form), "contraction": contraction}
    if t.q is not None:
        record |= _add_satellites(d, np.array(t.q) * rng.uniform(0.12, 0.45), weak)
    return record | {"misset": misset}


@dataclass(frozen=True)
class _Rule:
    make: Kind
    low: float = 0.0  # range of size, drawn logarithmically
    high: float = 0.0
    variants: tuple[str, ...] = ("",)
    systems: tuple[str, ...] = SYSTEMS


KINDS = {
    "plain": _Rule(_plain),
    "broad": _Rule(_broad, 0.2, 0.8),  # share of the reflections
    "slip": _Rule(_slip, 0.1, 5),  # degrees
    "drift": _Rule(_drift, 0.1, 2),  # degrees, over all scans
    "wobble": _Rule(_wobble, 0.02, 0.3),  # degrees
    "off_centre": _Rule(_off_centre, 2e-5, 3e-4),  # m
    "beam_moves": _Rule(_beam_moves, 2e-5, 2e-4, ("direction", "position")),  # m; × 500: degrees
    "cell_changes": _Rule(_cell_changes, 5e-4, 5e-3),  # relative, over all scans
    "second_lattice": _Rule(_second_lattice, 0.05, 0.45),  # share of the crystal
    "twin_nonmerohedral": _Rule(_nonmerohedral, 0.05, 0.5),  # share of the crystal
    "twin_pseudomerohedral": _Rule(  # relative departure from the cubic metric
        _pseudomerohedral, 0.004, 0.04, systems=tuple(PSEUDO_AXES)
    ),
    "half_wavelength": _Rule(_half_wavelength, 0.003, 0.03),  # relative |F|²
    "superlattice": _Rule(  # relative |F|²
        _superlattice, 0.02, 0.3, ("1/2,1/2,1/2", "1/2,0,0", "1/3,1/3,0", "incommensurate")
    ),
    "rings": _Rule(_rings, 0.05, 0.3, ("ice", "aluminium")),  # share of the peaks
    "noise": _Rule(_noise, 0.05, 0.5),  # share of the peaks
    "wrong_header": _Rule(  # see HEADER_SIZES
        _wrong_header, variants=("axis", "distance", "start", "beam", "wavelength")
    ),
    "wrong_cell": _Rule(_wrong_cell, 0.03, 0.03),  # relative
    "transition": _Rule(_transition, 0.002, 0.02, tuple(TRANSITIONS)),  # strain
}
HEADER_SIZES = {"axis": 0.0, "distance": 0.03, "start": 5.0, "beam": 5.0, "wavelength": 0.01}
CELL_KINDS = ("transition", "twin_pseudomerohedral")  # kinds that choose the cell
EXCLUSIVE = (*CELL_KINDS, "half_wavelength")


def systems_of(kind: str, variant: str = "") -> tuple[str, ...]:
    """Return the crystal systems in which a kind exists."""
    if kind == "transition":
        systems = {t.system for name, t in TRANSITIONS.items() if variant in ("", name)}
        return tuple(s for s in SYSTEMS if s in systems)
    return KINDS[kind].systems


def _parse(kind: str, system: str, seed: int) -> list[tuple[str, str]]:
    """Return names and variants of a kind, with the variants left open drawn by seed."""
    parts = []
    for text in kind.split("+"):
        name, _, variant = text.partition(":")
        if name not in KINDS or (variant and variant not in KINDS[name].variants):
            raise ValueError(f"unknown kind {text!r}; the kinds are {', '.join(KINDS)}")
        choices = [v for v in KINDS[name].variants if system in systems_of(name, v)]
        if system not in systems_of(name, variant) or not choices:
            raise ValueError(f"{text} does not exist in the {system} system")
        parts.append((name, variant or str(_rng(seed, name, "variant").choice(choices))))
    if len({n for n, _ in parts}) < len(parts) or sum(n in EXCLUSIVE for n, _ in parts) > 1:
        raise ValueError(f"the kinds {kind} exclude each other")
    return parts


def world(
    kind: str,
    system: str,
    seed: int,
    size: float | None = None,
    *,
    n_frames: int = 365,
    step: float = 0.5,
    shape: tuple[int, int] = (480, 512),
    pixel_size: float = 172e-6,
    rotations: int = 1,
    mosaic: float | None = None,
    arm: float | None = None,
    strong: float = 3e4,
    floor: tuple[float, float] = (0.0, 0.0),
    overlaps: bool = True,
) -> World:
    """Return a simulated measurement.

    Parameters
    ----------
    kind
        Names of `KINDS`, with variants, joined by "+".
    system
        One of `SYSTEMS`; for a transition the parent's.
    seed
        Seed of everything that is drawn.
    size
        Size of the first kind, in the units given in `KINDS`; None draws all sizes.
    n_frames, step
        Frames of a rotation and degrees per frame.
    shape, pixel_size
        Pixels (slow, fast) and m.
    rotations
        Number of scans; later ones have the crystal at another setting of the goniometer.
    mosaic
        Standard deviation in degrees; None draws 0.05 to 1.5.
    arm
        Angle 2θ of the detector arm in degrees; None draws 0 (3 of 4) or 5 to 30.
    strong
        Counts of the reflection stronger than 99 % of the others.
    floor
        Additional standard uncertainty of the centroids, in frames and pixels.
    overlaps
        Return unresolved spots as one spot.
    """
    parts = _parse(kind, system, seed)
    sizes = {}
    for n, (name, variant) in enumerate(parts):
        rule = KINDS[name]
        drawn = HEADER_SIZES.get(variant, 0.0)
        if rule.high:
            drawn = float(np.exp(_rng(seed, name, "size").uniform(*np.log([rule.low, rule.high]))))
            drawn *= 500 if variant == "direction" else 1
        sizes[name] = drawn if size is None or n else size
    rng = _rng(seed, system)
    group = str(rng.choice(SPACE_GROUPS[system]))
    cell = _cell(system, rng)
    parts.sort(key=lambda part: part[0] not in CELL_KINDS)
    for name, variant in parts:
        if name == "transition":
            group = TRANSITIONS[variant].parent
        if name == "twin_pseudomerohedral":
            cell = _pseudo_cell(system, _rng(seed, name, system), sizes[name])
            group = PSEUDO_AXES[system][1]
    volume = np.linalg.det(direct_basis(busing_levy(cell)))
    centrings = len(np.unique(np.round(operations(group)[1][_is_identity(group)], 6), axis=0))
    instrument = _instrument(rng, volume / centrings, shape, pixel_size, arm)
    axis = np.eye(3)[rng.integers(2)] * rng.choice([-1.0, 1.0])
    tilt = rotation(_direction(rng), rng.choice([0.0, 1.0]) * rng.uniform(0, 3))
    axis, start = tilt @ axis, float(rng.uniform(-180, 180))
    chi = np.cross(axis, [0, 0, 1])
    settings = [np.eye(3)] + [
        rotation(chi, rng.choice([-1, 1]) * rng.uniform(20, 60)) for _ in range(1, rotations)
    ]
    scans = tuple(Scan(axis, start, step, n_frames, s) for s in settings)
    U = Rotation.random(rng=rng).as_matrix()
    drawn = float(np.exp(rng.uniform(*np.log([0.05, 1.5]))))
    sample = Sample(instrument, scans, Motion(), cell, U, drawn if mosaic is None else mosaic)
    q_max = _q_max(instrument)
    draft = _Draft(
        system=system,
        seed=seed,
        sample=sample,
        q_max=q_max,
        space_group=group,
        header=instrument,
        header_scans=scans,
        expected=cell,
        main=Family(np.empty((0, 3)), np.empty((0, 3)), np.empty(0), BRAGG),
        b_factor=min(rng.uniform(0.3, 2), 24 * np.pi**2 / q_max**2),
        background=float(np.exp(rng.uniform(*np.log([0.1, 3])))),
        options=_Options(strong, floor, overlaps),
    )
    draft.main = _main_family(draft)
    effects = []
    for name, variant in parts:
        record = KINDS[name].make(draft, _rng(seed, name, system), sizes[name], variant)
        effects.append({"kind": name, "variant": variant, "size": sizes[name], **record})
    return _finish(draft, kind, tuple(effects))


def _is_identity(group: str) -> NDArray[np.bool_]:
    return np.all(operations(group)[0] == np.eye(3), axis=(1, 2))


def _finish(d: _Draft, kind: str, effects: tuple[Record, ...]) -> World:
    """Return the world of a draft: spots of all families, overlaps, counts, contaminants."""
    rng = _rng(d.seed, d.system, kind, "counts")
    bragg = d.sample.spots(d.main)
    scale = d.options.strong * d.main_share / np.percentile(bragg["intensity"], 99)
    rows = join([bragg, *(d.sample.spots(f) for f in d.families)])
    rows["intensity"] = rows["intensity"] * scale
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


def catalogue(n: int, first_seed: int = 0) -> list[tuple[str, str, int]]:
    """Return n triples (kind, system, seed) with seeds from `first_seed` on.

    First every kind and variant in at least two systems (where it exists in two), the systems
    used evenly; then pairs of kinds drawn by seed. Below 64 entries kinds are left out.
    """
    use = dict.fromkeys(SYSTEMS, 0)
    entries: list[tuple[str, str]] = []
    texts = [f"{k}:{v}" if v else k for k, rule in KINDS.items() for v in rule.variants]
    for text in texts:
        name, _, variant = text.partition(":")
        choices = sorted(systems_of(name, variant), key=lambda s: use[s])
        for system in choices[: 1 if variant and len(KINDS[name].variants) > 2 else 2]:
            entries.append((text, system))
            use[system] += 1
    pairs = [t for t in texts if t.partition(":")[0] not in ("plain", *CELL_KINDS)]
    rng = _rng(first_seed, "catalogue")
    while len(entries) < n:
        first, second = rng.choice(pairs, 2, replace=False)
        if rng.random() < 0.2:
            first = f"transition:{rng.choice(list(TRANSITIONS))}"
        name, _, variant = first.partition(":")
        if name == second.partition(":")[0] or {name, second} == {"transition", "half_wavelength"}:
            continue
        system = min(systems_of(name, variant), key=lambda s: use[s])
        entries.append((f"{first}+{second}", system))
        use[system] += 1
    return [(kind, system, first_seed + i) for i, (kind, system) in enumerate(entries[:n])]
