"""What can happen in a simulated world: each kind changes the draft; see worlds.py."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import gemmi
import numpy as np

from tests.truth.worlds_draft import (
    BRAGG,
    DIFFUSE,
    HALF,
    SECOND,
    SUPER,
    SYSTEMS,
    Draft,
    Record,
    allowed_change,
    debye_waller,
    finish,
    random_direction,
    strength_of,
)
from tests.truth.worlds_physics import (
    SPOT,
    Array,
    Family,
    Motion,
    Rows,
    aluminium_rings,
    busing_levy,
    cell_of_axes,
    copper_rings,
    diamond_rings,
    direct_basis,
    ice_rings,
    is_absent,
    loose_spots,
    powder_spots,
    reflections,
    rotation,
    wilson,
)
from tests.truth.worlds_transitions import EVERY_TRANSITION, MORE_TRANSITIONS, TRANSITIONS

# The kinds. Each changes the draft and returns a record of what was done.
Kind = Callable[[Draft, np.random.Generator, float, str], Record]


def _plain(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    return {}


def _broad(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
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


def _slip(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    r = int(rng.integers(len(d.sample.scans)))
    frame = float(rng.uniform(0.1, 0.9) * d.sample.scans[r].n_frames)
    axis = random_direction(rng)
    d.sample.motion.slips.append((r, frame, axis * size))
    return {"rotation": r, "frame": frame, "axis": axis}


def _drift(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    axis = random_direction(rng)
    d.sample.motion.drifts.append(axis * size)
    return {"axis": axis}


def _wobble(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    """Rotate the crystal by size·sin(n φ + phase) about a lab axis (a third: the scan axis)."""
    axis = d.sample.scans[0].axis if rng.random() < 1 / 3 else random_direction(rng)
    periods, phase = int(rng.integers(1, 4)), float(rng.uniform(0, 360))
    d.sample.motion.wobbles.append((axis, size, periods, phase))
    return {"axis": axis, "periods": periods, "phase": phase}


def _off_centre(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    scan = d.sample.scans[0]
    across = np.cross(scan.setting.T @ scan.axis, random_direction(rng))
    d.sample.motion.offset = size * across / np.linalg.norm(across)
    return {"offset": d.sample.motion.offset}


def _beam_moves(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    """Turn the beam (degrees) or shift the illuminated point (m), linearly, across the beam."""
    angle = rng.uniform(0, 2 * np.pi)
    vector = size * np.array([np.cos(angle), np.sin(angle), 0])
    if what == "direction":
        d.sample.motion.beam_turn = vector
    else:
        d.sample.motion.beam_shift = vector
    return {"vector": vector}


def _cell_changes(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    change = size * np.r_[rng.uniform(0.3, 1, 3), rng.uniform(-0.5, 0.5, 3)]
    d.sample.motion.strain = allowed_change(d.system, change)
    return {"strain": d.sample.motion.strain}


def _add_crystal(d: Draft, T: Array, share: float) -> Record:
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


def _second_lattice(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    axis, angle = random_direction(rng), rng.uniform(1, 40)
    return _add_crystal(d, rotation(axis, angle), size) | {"axis": axis, "angle": angle}


def _two_fold(d: Draft, uvw: Array, share: float) -> Record:
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


def pseudo_cubic_cell(system: str, rng: np.random.Generator, size: float) -> Array:
    """Return a cell that departs from a cubic lattice by `size` (relative)."""
    a = np.exp(rng.uniform(np.log(4), np.log(12)))
    e = size * rng.choice([-1, 1]) * np.array([0, 1, -1, 1, 1, 1]) * rng.uniform(0.7, 1, 6)
    if system == "trigonal":  # a rhombohedron with α near 90°
        return np.array([np.sqrt(2) * a, np.sqrt(2) * a, np.sqrt(3) * a * (1 + e[2]), 90, 90, 120])
    cell = np.array([a, a, a, 90, 90, 90]) * (1 + allowed_change(system, e))
    cell[4] = 90 + abs(cell[4] - 90)
    return cell


def _nonmerohedral(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    axes = TWIN_AXES[d.system]
    return _two_fold(d, np.array(axes[rng.integers(len(axes))]), size)


def _pseudomerohedral(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    return _two_fold(d, np.array(PSEUDO_AXES[d.system][0]), rng.uniform(0.2, 0.5))


def _half_wavelength(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    """Add the reflections of λ/2, of strength `size` relative to λ.

    With k' = 2k, H diffracts where |2k z + Q_H| = 2k, along s = z + Q_H / 2k: where a point at
    H/2 would for k. Even H coincide with reflections of λ and are left out.
    """
    H = reflections(busing_levy(d.sample.cell), 2 * d.q_max)
    H = H[np.any(H % 2 != 0, axis=1)]
    strength = size * strength_of(d, H)
    H, strength = H[strength > 0], strength[strength > 0]
    d.families.append(Family(H / 2, H / 2, strength, HALF))
    return {}


def _add_satellites(d: Draft, q: Array, ratio: float) -> Record:
    """Add first-order satellites h ± q of mean strength `ratio` relative to the main ones."""
    h = reflections(busing_levy(d.sample.cell), 1.1 * d.q_max)
    h = np.r_[h, np.zeros((1, 3))]
    h = h[~is_absent(d.space_group, h, centring=True)]
    position = np.unique(np.round(np.r_[h + q, h - q], 9), axis=0)
    strength = ratio * wilson("P-1", np.round(1000 * position), d.seed + 1)
    strength *= debye_waller(d, position)
    d.families.append(Family(position, position, strength, SUPER))
    return {"q": q}


def _superlattice(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    if what == "incommensurate":
        q = rng.uniform(0.12, 0.45) * np.eye(3)[rng.integers(3)]
    else:
        q = np.array([_fraction(x) for x in what.split(",")])
    return _add_satellites(d, q, size)


def _fraction(text: str) -> float:
    """Return 0.5 for "1/2" and 0.0 for "0"."""
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def _rings(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    if what == "copper":  # a holder between 80 and 300 K
        q, strength = copper_rings(rng.uniform(0, 0.0033))
    else:
        rings = {"ice": ice_rings, "aluminium": aluminium_rings, "diamond": diamond_rings}
        q, strength = rings[what]()
    d.contaminants.append((size, lambda n: powder_spots(d.sample, q, strength, n, rng)))
    return {"q": q}


def _noise(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    def spots(n: int) -> Rows:
        slow, fast = (rng.uniform(0, m, n) for m in d.sample.instrument.shape)
        return loose_spots(d.sample, slow, fast, rng.integers(len(d.sample.scans), size=n), rng)

    d.contaminants.append((size, spots))
    return {}


def _wrong_header(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
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
    elif what == "arm":
        return _arm_in_header(d, rng, size)
    elif what == "mirrored":
        return _mirrored_in_header(d, rng)
    elif what == "row":
        return _row_in_header(d)
    elif what == "nanometre":
        d.header = replace(inst, wavelength=inst.wavelength / 10)
    elif what == "keV":
        d.header = replace(inst, wavelength=12.39842 / inst.wavelength)
    elif what == "setting":
        d.expected, symbol = other_setting(d.space_group, d.sample.cell)
        return {"setting": symbol}
    else:
        angle = rng.uniform(0, 2 * np.pi)
        shift = size * inst.pixel_size * (np.cos(angle) * inst.fast + np.sin(angle) * inst.slow)
        d.header = replace(inst, origin=inst.origin + shift)
    return {"sign": sign}


def _arm_in_header(d: Draft, rng: np.random.Generator, size: float) -> Record:
    """State a detector `size` degrees nearer to the beam than it is: an arm that was dropped.

    A detector that is near the beam is stated that far from it.
    """
    inst = d.header
    normal = np.cross(inst.fast, inst.slow)
    normal = normal * np.sign(normal @ inst.origin)
    axis = np.eye(3)[1] if abs(normal[0]) > abs(normal[1]) else np.eye(3)[0]
    vector = size * axis * np.sign(np.cross([0, 0, 1], normal) @ axis)
    back = rotation(vector, -size)
    d.header = replace(
        inst, origin=back @ inst.origin, fast=back @ inst.fast, slow=back @ inst.slow
    )
    return {"arm": vector}


def _mirrored_in_header(d: Draft, rng: np.random.Generator) -> Record:
    """State the geometry of the image that is stored with reversed columns or rows.

    The side is the one across the rotation axis; the other one does not change the lattice.
    """
    inst, (n_slow, n_fast) = d.header, d.header.shape
    axis = d.header_scans[0].axis
    if abs(axis @ inst.fast) < abs(axis @ inst.slow):
        origin = inst.origin + n_fast * inst.pixel_size * inst.fast
        d.header = replace(inst, origin=origin, fast=-inst.fast)
        return {"side": "fast"}
    origin = inst.origin + n_slow * inst.pixel_size * inst.slow
    d.header = replace(inst, origin=origin, slow=-inst.slow)
    return {"side": "slow"}


def _row_in_header(d: Draft) -> Record:
    """State the beam centre where a reflection next to the beam is, at the middle of the scan."""
    inst, scan = d.header, d.header_scans[0]
    middle = scan.R(np.array([scan.n_frames / 2]))[0] @ d.UB
    rows = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    rows = np.r_[rows, -rows]
    lab = rows @ middle.T
    row = int(np.argmin(np.abs(lab[:, 2]) / np.linalg.norm(lab, axis=1)))
    q = lab[row, :2]
    towards = np.array([*q, np.sqrt(inst.k**2 - q @ q)])
    at = [
        np.array(inst.pixel(np.zeros(3), v[None])[:2]).ravel()
        for v in (towards, [0, 0, 1.0] + 0 * towards)
    ]
    slow, fast = at[0] - at[1]
    shift = inst.pixel_size * (slow * inst.slow + fast * inst.fast)
    d.header = replace(inst, origin=inst.origin - shift)
    return {"row": rows[row], "shift": (float(slow), float(fast))}


# Axes of other settings, as columns in units of the standard axes (International Tables A).
OTHER_SETTINGS = {
    "C2/m": ("I 1 2/m 1", ((1, 0, 0), (0, -1, 0), (1, 0, -1))),
    "Cmcm": ("B b m m", ((0, 0, 1), (1, 0, 0), (0, 1, 0))),
    "R-3c:H": ("R -3 c :R", ((2, -1, -1), (1, 1, -2), (1, 1, 1))),
    "R-3m:H": ("R -3 m :R", ((2, -1, -1), (1, 1, -2), (1, 1, 1))),
}


def other_setting(group: str, cell: Array) -> tuple[Array, str]:
    """Return a cell in another setting of its space group, and the setting's symbol."""
    symbol, columns = OTHER_SETTINGS[group]
    P = np.array(columns, float) / (3 if symbol.endswith(":R") else 1)
    other = cell_of_axes(direct_basis(busing_levy(cell)) @ P)
    return np.round(other, 6), symbol


def _wrong_cell(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    change = np.r_[size * rng.choice([-1, 1], 3), np.zeros(3)]
    system = d.parent.system if d.parent else d.system
    d.expected = d.expected * (1 + allowed_change(system, change))
    return {"expected": d.expected}


def _transition(d: Draft, rng: np.random.Generator, size: float, what: str) -> Record:
    """Turn the draft into the child at 100 K, a single domain remounted within 0.2°."""
    t = EVERY_TRANSITION[what]
    d.parent, d.before = finish(d, f"parent of {what}", ()), replace(d, families=[*d.families])
    P, before = np.array(t.P, float), replace(d)
    axes0 = direct_basis(busing_levy(d.sample.cell))
    contraction = rng.uniform(0.9975, 1)
    axes = contraction * (np.eye(3) + size * np.array(t.form)) @ axes0 @ P
    cell = cell_of_axes(axes)
    cell[3:] = np.round(cell[3:], 9)
    frame = 2 * np.pi * np.linalg.inv(axes).T @ np.linalg.inv(busing_levy(cell))
    misset = rotation(random_direction(rng), rng.uniform(0, 0.2))
    d.sample = replace(d.sample, cell=cell, U=misset @ d.sample.U @ frame, motion=Motion())
    d.space_group, d.temperature = t.child, 100.0
    d.system = gemmi.SpaceGroup(t.child).crystal_system_str()
    weak = rng.uniform(0.02, 0.2)
    h = reflections(busing_levy(cell), d.q_max)
    in_parent = h @ np.linalg.inv(P)
    fundamental = np.all(np.abs(in_parent - np.round(in_parent)) < 1e-6, axis=1)
    strength = weak * strength_of(d, h, "child")
    before_strength = strength_of(before, np.round(in_parent[fundamental]))
    fundamental[fundamental] = before_strength > 0  # what the parent forbids is weak
    strength[fundamental] = before_strength[before_strength > 0]
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
class Rule:
    make: Kind
    low: float = 0.0  # range of size, drawn logarithmically
    high: float = 0.0
    variants: tuple[str, ...] = ("",)
    systems: tuple[str, ...] = SYSTEMS
    by_name: tuple[str, ...] = ()  # variants that are not drawn


KINDS = {
    "plain": Rule(_plain),
    "broad": Rule(_broad, 0.2, 0.8),  # share of the reflections
    "slip": Rule(_slip, 0.1, 5),  # degrees
    "drift": Rule(_drift, 0.1, 2),  # degrees, over all scans
    "wobble": Rule(_wobble, 0.02, 0.3),  # degrees
    "off_centre": Rule(_off_centre, 2e-5, 3e-4),  # m
    "beam_moves": Rule(_beam_moves, 2e-5, 2e-4, ("direction", "position")),  # m; × 500: degrees
    "cell_changes": Rule(_cell_changes, 5e-4, 5e-3),  # relative, over all scans
    "second_lattice": Rule(_second_lattice, 0.05, 0.45),  # share of the crystal
    "twin_nonmerohedral": Rule(_nonmerohedral, 0.05, 0.5),  # share of the crystal
    "twin_pseudomerohedral": Rule(  # relative departure from the cubic metric
        _pseudomerohedral, 0.004, 0.04, systems=tuple(PSEUDO_AXES)
    ),
    "half_wavelength": Rule(_half_wavelength, 0.003, 0.03),  # relative |F|²
    "superlattice": Rule(  # relative |F|²
        _superlattice, 0.02, 0.3, ("1/2,1/2,1/2", "1/2,0,0", "1/3,1/3,0", "incommensurate")
    ),
    "rings": Rule(  # share of the peaks
        _rings, 0.05, 0.3, ("ice", "aluminium"), by_name=("copper", "diamond")
    ),
    "noise": Rule(_noise, 0.05, 0.5),  # share of the peaks
    "wrong_header": Rule(  # see HEADER_SIZES
        _wrong_header,
        variants=("axis", "distance", "start", "beam", "wavelength"),
        by_name=("arm", "mirrored", "row", "nanometre", "keV", "setting"),
    ),
    "wrong_cell": Rule(_wrong_cell, 0.03, 0.03),  # relative
    "transition": Rule(  # strain
        _transition, 0.002, 0.02, tuple(TRANSITIONS), by_name=tuple(MORE_TRANSITIONS)
    ),
}
HEADER_SIZES = {
    "axis": 0.0,
    "distance": 0.03,
    "start": 5.0,
    "beam": 5.0,
    "wavelength": 0.01,
    "arm": 20.0,
}
CELL_KINDS = ("transition", "twin_pseudomerohedral")  # kinds that choose the cell
EXCLUSIVE = (*CELL_KINDS, "half_wavelength")


def systems_of(kind: str, variant: str = "") -> tuple[str, ...]:
    """Return the crystal systems in which a kind exists."""
    if kind == "transition":
        known = [EVERY_TRANSITION[variant]] if variant else TRANSITIONS.values()
        systems = {t.system for t in known}
        return tuple(s for s in SYSTEMS if s in systems)
    return KINDS[kind].systems
