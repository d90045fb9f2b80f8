"""First contacts: folders of raw data as instruments write them, drawn from a seed, with truth.

`draw(seed)` returns a `Contact`: crystal, true instrument and rotations, what the headers say
(`stated`), what the user knows and tells (`axes`, `gain`, `cif`), and the fault, if any. `write`
makes the folder. In about half of the contacts one thing is wrong; see `FAULTS`.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tests.truth.first_contacts_crystal import (
    GROUPS,
    Array,
    Crystal,
    Detector,
    Sweep,
    b_matrix,
    cell_of,
    crossings,
    draw_cell,
    draw_crystal,
    images,
)
from tests.truth.first_contacts_hdf5 import write_master
from tests.truth.first_contacts_write import WRITERS, Stated, poni

FORMATS = ("cbf mini", "cbf sparse", "cbf full", "nxmx", "eiger", "smv", "marccd", "tiff", "edf")
CCD = ("smv", "marccd")
OFFSET, READ_NOISE = 20.0, 1.5  # of a CCD, ADU
LOGGED = ("tiff", "edf")  # formats with a log and a PONI file
# Fault and the class of faults that no data can tell apart from it.
FAULTS = {
    "beam centre": "centre",
    "arm missing": "centre",
    "stale poni": "centre",
    "distance": "scale",
    "wavelength": "scale",
    "axis reversed": "hand",
    "mirrored": "hand",
    "other crystal": "cell",
    "other setting": "cell",
    "no gain": "gain",
    "doubled frame": "doubled",
    "missing frame": "missing",
    "exposures": "exposures",
}
SETTINGS = {  # another setting of the same group: symbol, and columns of the axes a, b, c in it
    "P n m a": ("P b n m", (2, 0, 1)),
    "C m c m": ("A m a m", (2, 1, 0)),
    "P 1 21/c 1": ("P 1 21/n 1", None),
}


@dataclass
class Contact:
    seed: int
    kind: str  # format
    fault: str  # "" if nothing is wrong
    crystal: Crystal
    wavelength: float
    sweeps: list[Sweep]
    stated: list[Stated]
    axes: tuple[tuple[str, Array], ...]  # as the user states them
    cif: tuple[Array, str] | None  # cell, space group
    gain: float
    scale: float
    spot: float
    level: float
    n_spots: int
    details: str = ""
    poni: bool = False
    mirrored: str = ""
    doubled: list[tuple[int, int]] = field(default_factory=list)
    missing: list[tuple[int, int]] = field(default_factory=list)
    longer: list[tuple[int, int, float]] = field(default_factory=list)  # from a frame on, times

    @property
    def exposures(self) -> list[Array]:
        """Exposure of each frame of each sweep, in that of the sweep."""
        times = [np.ones(s.n_frames) for s in self.sweeps]
        for r, z, factor in self.longer:
            times[r][z:] = factor
        return times

    @property
    def suffix(self) -> str:
        return WRITERS[self.kind][0] if self.kind in WRITERS else "_master.h5"


def _circles(kind: str, rng: np.random.Generator) -> tuple[tuple[str, Array], ...]:
    first = np.array(((-1.0, 0, 0), (1.0, 0, 0), (0, 1.0, 0), (0, -1.0, 0)))[rng.integers(4)]
    if kind in ("cbf sparse", "smv"):
        return (("phi", first),)
    if rng.random() < 0.5:
        return (
            ("omega", first),
            ("chi", np.array([0, 0, rng.choice([-1.0, 1.0])])),
            ("phi", first),
        )
    return (("chi", np.array([0, 0, 1.0])), ("phi", first))


def _sweeps(
    kind: str, axes: tuple[tuple[str, Array], ...], detector: Detector, rng: np.random.Generator
) -> tuple[list[Sweep], Array]:
    n = int(rng.choice([1, 1, 2, 2, 3, 4]))
    step = float(rng.choice([0.1, 0.2, 0.25, 0.5, 0.5, 1.0]))
    frames = int(rng.integers(30, 201))
    names = [name for name, _ in axes]
    scanned = "omega" if "omega" in names and rng.random() < 0.5 else "phi"
    arm_axis = np.array(((-1.0, 0, 0), (0, 1.0, 0), (0, -1.0, 0)))[rng.integers(3)]
    arm = float(np.round(rng.uniform(15, 40), 2)) if rng.random() < 0.35 else 0.0
    arms = [arm] * n
    if arm and kind not in (*LOGGED, "marccd") and rng.random() < 0.4:
        arms = [0.0 if i % 2 else arm for i in range(n)]
    found = []
    for r in range(n):
        angles = {name: float(np.round(rng.uniform(-60, 60), 2)) for name in names}
        if r == 0:
            angles = {name: 0.0 if name == "chi" else angles[name] for name in names}
        exposure = float(rng.choice([0.1, 0.2, 0.5, 1.0])) * (1 if rng.random() < 0.7 else 2)
        start = float(np.round(rng.uniform(-90, 90), 1))
        turned = detector.turned(arm_axis, arms[r])
        found.append(Sweep(axes, angles, scanned, start, step, frames, exposure, turned, arms[r]))
    return found, arm_axis


def draw(seed: int, kind: str = "", fault: str | None = None) -> Contact:
    """Return a first contact; `kind` and `fault` override what the seed draws."""
    rng = np.random.default_rng([seed, 20])
    drawn = str(rng.choice(FORMATS))
    kind = kind or drawn
    possible = [
        f
        for f in FAULTS
        if (f != "no gain" or kind in CCD)
        and (f != "missing frame" or kind not in ("nxmx", "eiger"))
        and (f != "exposures" or kind not in ("nxmx", "eiger"))
        and (f != "axis reversed" or kind not in ("nxmx", "cbf full") or seed % 2)
    ]
    wrong = str(rng.choice(possible)) if rng.random() < 0.5 else ""
    fault = wrong if fault is None else fault
    for attempt in range(1000):
        contact = _attempt(seed, kind, fault, np.random.default_rng([seed, 21, attempt]))
        if contact:
            return contact
    raise ValueError(f"seed {seed} has no world with {kind} and {fault}")


def _attempt(seed: int, kind: str, fault: str, rng: np.random.Generator) -> Contact | None:
    crystal = draw_crystal(seed, rng)
    if fault == "other setting" and crystal.group not in SETTINGS:
        return None
    shape = tuple(int(n) for n in rng.integers(300, 421, 2))
    pixel = float(rng.choice([0.1, 0.12, 0.15, 0.172]))
    distance = float(np.round(rng.uniform(45, 130), 2))
    wavelength = float(np.round(np.exp(rng.uniform(*np.log([0.35, 1.3]))), 4))
    centre = tuple(float(np.round(n * rng.uniform(0.42, 0.58), 2)) for n in shape)
    if wavelength * distance / crystal.cell[:3].max() / pixel < 7:
        return None  # spots overlap
    detector = Detector.facing(shape, pixel, distance, centre)
    axes = _circles(kind, rng)
    sweeps, arm_axis = _sweeps(kind, axes, detector, rng)
    if fault in ("arm missing",) and not any(s.arm for s in sweeps):
        return None
    if sum(s.n_frames for s in sweeps) * shape[0] * shape[1] > 1.5e7:
        return None
    tables = [crossings(crystal, s, wavelength) for s in sweeps]
    strength = []
    for s, t in zip(sweeps, tables, strict=True):
        inside = (t["frame"] > 0) & (t["frame"] < s.n_frames) & (t["width"] < 6)
        for name, n in zip(("slow", "fast"), shape, strict=True):
            inside &= (t[name] > 5) & (t[name] < n - 5)
        strength.append(t["strength"][inside])
    n_spots = int(np.exp(rng.uniform(*np.log([80, 400]))))
    total = np.sort(np.concatenate(strength))[::-1]
    if len(total) < n_spots * 1.2 or min(len(x) for x in strength) < 25:
        return None
    ccd = kind in CCD
    level = float(rng.uniform(2, 8) if ccd else np.exp(rng.uniform(*np.log([0.03, 2.0]))))
    weakest = 80 + 10 * np.sqrt(level * 60)
    scale = float(weakest / total[n_spots])
    if scale * total[0] > 3e5:
        return None
    stated = [
        Stated(
            wavelength,
            distance,
            centre,
            pixel,
            shape,
            s.arm,
            arm_axis,
            detector.fast,
            detector.slow,
            s.start,
            s.step,
            s,
            axes,
            circles=kind != "cbf sparse",
            saturation=65535 if ccd else 1048575,
        )
        for s in sweeps
    ]
    cif = None
    if rng.random() < 0.6 or fault in ("distance", "wavelength", "other crystal", "other setting"):
        change = 1 + rng.normal(0, 0.0005)
        cif = (crystal.cell * np.r_[np.full(3, change), np.ones(3)], crystal.group)
    gain = float(np.round(rng.uniform(1.5, 6), 2)) if ccd else 1.0
    contact = Contact(
        seed,
        kind,
        fault,
        crystal,
        wavelength,
        sweeps,
        stated,
        axes,
        cif,
        gain,
        scale,
        float(rng.uniform(0.6, 1.2)),
        level,
        n_spots,
        poni=kind in LOGGED or (kind == "marccd" and any(s.arm for s in sweeps)),
    )
    return _spoilt(contact, rng)


def _spoilt(c: Contact, rng: np.random.Generator) -> Contact | None:
    """Put the fault in."""
    side = max(c.stated[0].shape)
    if c.fault in ("beam centre", "stale poni"):
        size = side * rng.uniform(0.012, 0.05)
        angle = rng.uniform(0, 2 * np.pi)
        shift = size * np.array([np.sin(angle), np.cos(angle)])
        x = c.stated[0].centre
        centre = (float(np.round(x[0] + shift[0], 2)), float(np.round(x[1] + shift[1], 2)))
        c.stated = [replace(s, centre=centre) for s in c.stated]
        if c.kind == "smv" and c.fault == "beam centre" and rng.random() < 0.6:
            # Programs of sites write x and y exchanged, or y from the last row.
            other = (x[1], x[0]) if rng.random() < 0.5 else (c.stated[0].shape[0] - x[0], x[1])
            if not 0.012 < np.hypot(other[0] - x[0], other[1] - x[1]) / side < 0.05:
                return None
            c.stated = [replace(s, centre=other) for s in c.stated]
            shift = np.subtract(other, x)
        c.details = f"centre off by {shift[0]:.1f}, {shift[1]:.1f} px"
        c.poni = c.poni or c.fault == "stale poni"
        if c.fault == "stale poni" and len({s.arm for s in c.sweeps}) > 1:
            return None
    elif c.fault in ("distance", "wavelength"):
        factor = 1 + rng.choice([-1, 1]) * rng.uniform(0.007, 0.02)
        c.stated = [replace(s, **{c.fault: getattr(s, c.fault) * factor}) for s in c.stated]
        c.details = f"{c.fault} times {factor:.4f}"
    elif c.fault == "axis reversed":
        wrong = tuple((n, -v if n == c.sweeps[0].scanned else v) for n, v in c.axes)
        c.axes = wrong
        c.stated = [replace(s, axes=wrong) for s in c.stated]
    elif c.fault == "mirrored":
        # Along the axis of the scan no data can tell: it is the mirror image of the lattice.
        axis = dict(c.axes)[c.sweeps[0].scanned]
        c.mirrored = "slow" if abs(axis[0]) > 0.5 else "fast"
        c.details = f"stored in reverse along {c.mirrored}"
    elif c.fault == "arm missing":
        c.details = f"arm {[s.arm for s in c.stated]} about {c.stated[0].arm_axis}"
        c.stated = [replace(s, arm=0.0) for s in c.stated]
    elif c.fault == "other crystal":
        system = str(rng.choice(list(GROUPS)))
        group = GROUPS[system][0]
        cell = draw_cell(system, rng, group)
        if abs(np.prod(cell[:3]) / np.prod(c.crystal.cell[:3]) - 1) < 0.3:
            return None
        c.cif = (cell, group)
    elif c.fault == "other setting":
        symbol, order = SETTINGS[c.crystal.group]
        if order is None:  # the cell of P 21/n with the symbol of P 21/c
            UB = b_matrix(c.crystal.cell)
            direct = 2 * np.pi * np.linalg.inv(UB)
            other = np.array([-direct[0] - direct[2], direct[1], direct[0]])
            cell = cell_of(2 * np.pi * np.linalg.inv(other))
        else:
            cell = np.r_[c.crystal.cell[:3][list(order)], 90, 90, 90]
        if np.abs(cell[:3] / c.crystal.cell[:3] - 1).max() < 0.08:
            return None
        c.cif = (cell, c.crystal.group)
        c.details = f"cell of {symbol}"
    elif c.fault == "doubled frame":
        r = int(rng.integers(len(c.sweeps)))
        c.doubled = [(r, int(rng.integers(5, c.sweeps[r].n_frames - 3)))]
        c.details = f"{c.doubled}"
    elif c.fault == "exposures":
        r = int(rng.integers(len(c.sweeps)))
        z = int(rng.integers(5, c.sweeps[r].n_frames - 3))
        c.longer = [(r, z, float(rng.choice([0.5, 2.0])))]
        c.details = f"{c.longer}"
    elif c.fault == "missing frame":
        r = int(rng.integers(len(c.sweeps)))
        c.missing = [(r, int(rng.integers(5, c.sweeps[r].n_frames - 3)))]
        c.details = f"{c.missing}"
    return c


def write(c: Contact, folder: Path) -> None:
    """Write the raw data, and a CIF, a PONI file and logs where the contact has them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([c.seed, 22])
    for r, (sweep, stated) in enumerate(zip(c.sweeps, c.stated, strict=True)):
        spots = crossings(c.crystal, sweep, c.wavelength)
        i, j = np.indices(sweep.detector.shape) + 0.5
        point = sweep.detector.corner + sweep.detector.pixel * (
            i[..., None] * sweep.detector.slow + j[..., None] * sweep.detector.fast
        )
        cosine = point[..., 2] / np.linalg.norm(point, axis=-1)
        glow = c.level * (0.4 + 0.6 * np.exp(-(1 - cosine) * 12))
        times = c.exposures[r]
        counts = images(sweep, spots, c.scale, c.spot, glow, rng, times)
        if c.gain != 1:
            noise = rng.normal(0, READ_NOISE, counts.shape[1:])  # shifted for each frame
            for z in range(len(counts)):
                sheet = np.roll(noise, rng.integers(0, 300, 2), (0, 1))
                counts[z] = np.clip(np.rint(c.gain * counts[z] + sheet + OFFSET), 0, 65535)
        for rotation, z in c.doubled:
            if rotation == r:
                counts[z] = counts[z - 1]
        if c.mirrored:
            counts = counts[:, ::-1] if c.mirrored == "slow" else counts[:, :, ::-1]
        name = f"sugar_100K_r{r + 1}"
        if c.kind in ("nxmx", "eiger"):
            write_master(stated, folder / f"{name}_master.h5", counts, c.kind == "nxmx")
        else:
            for z, image in enumerate(counts):
                if (r, z) not in c.missing:
                    exposed = replace(sweep, exposure=sweep.exposure * times[z])
                    of_frame = replace(stated, sweep=exposed)
                    WRITERS[c.kind][1](of_frame, folder / f"{name}_{z + 1:05d}{c.suffix}", z, image)
        if c.kind in LOGGED:
            _log(stated, folder / f"{name}.csv", times)
    if c.poni:
        poni(c.stated[0], folder / "lab.poni")
    if c.cif:
        (folder / "crystal.cif").write_text(_cif(*c.cif))


def _log(s: Stated, path: Path, times: Array) -> None:
    names = [n for n, _ in s.axes]
    lines = ["frame, " + ", ".join(f"{n} (deg)" for n in names) + ", exposure (s)"]
    for z in range(s.sweep.n_frames):
        angle = s.start + s.step * z
        values = [angle if n == s.sweep.scanned else s.sweep.angles[n] for n in names]
        exposure = s.sweep.exposure * times[z]
        lines.append(f"{z + 1}, " + ", ".join(f"{v:.4f}" for v in values) + f", {exposure:g}")
    path.write_text("\n".join(lines) + "\n")


def _cif(cell: Array, group: str) -> str:
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_xtal", "_chemical_formula_sum 'C4 H6 O2'"]
    lines += [f"_cell_{n} {x:.4f}" for n, x in zip(names, cell, strict=True)]
    return "\n".join([*lines, f"_symmetry_space_group_name_H-M '{group}'"]) + "\n"
