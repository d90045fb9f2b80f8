"""Crystals of known symmetry: intensities that cctbx calculates from random atoms.

Errors: counting, 3 % of the intensity, 1 % of outliers, 0.2 % of half the wavelength, and one
rotation of 150°, which leaves a part of reciprocal space out.
"""

import random
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from cctbx import miller, sgtbx
from cctbx.array_family import flex
from cctbx.development import random_structure

from hklflow.bragg.suggest import Measured
from hklflow.geometry import lattice, symmetry

Given = Literal["as it is", "primitive", "without centring"]
WAVELENGTH = 0.7
D_MIN = 0.8
RANGE = np.radians(150)


@dataclass(frozen=True)
class Case:
    """A space group, what is special about the crystal, and how the cell is given."""

    symbol: str
    given: Given = "as it is"
    cell: tuple[float, ...] | None = None
    twin: bool = False
    superlattice: bool = False
    """Reflections with l = 2n have the symmetry 4/mmm, the others 2 % of the intensity."""
    mean: float = 1500.0
    """Mean counts of a reflection, with a background of 100."""
    fewest: int | None = None
    """Number of observations, if not all are used."""
    sigma: float = 3e-4
    """Relative σ of the cell (in degrees / 90 for angles)."""

    @property
    def name(self) -> str:
        """Name for lists."""
        extra = ["twin"] if self.twin else []
        extra += ["superlattice"] if self.superlattice else []
        extra += [f"mean {self.mean:g} counts"] if self.mean != 1500 else []
        extra += [f"{self.fewest} observations"] if self.fewest else []
        extra += [str(self.cell)] if self.cell else []
        return ", ".join([self.symbol, self.given, *extra])


_PLAIN = """P 1|P -1|P 1 2 1|P 1 21 1|P 1 21/c 1|P 1 21/n 1|I 1 2/a 1|C 1 2/c 1|C 1 c 1|P 1 1 21/b
P 21 21 21|P b c a|P n m a|P b n m|C m c m|F d d 2|I b a m|P m m n :1|P c a 21
P 41|P 42/n :2|I 41/a m d :2|P 4/m m m|P 41 21 2|I -4 2 d|P 4/n :2|I 41/a :2
P 3|R -3 :H|R -3 c :R|R 3 m :H|P 31 2 1|P 3 1 m|P -3 m 1|P 63/m|P 61 2 2|P 63/m m c|P 6/m
P a -3|F d -3 m :2|I a -3 d|P 21 3|F m -3 m|I 2 3"""
CASES = (
    *(Case(symbol) for symbol in _PLAIN.replace("\n", "|").split("|")),
    Case("P 1 21/n 1", cell=(8.1, 9.4, 11.7, 90, 90.02, 90), sigma=3e-5),
    Case("P 1 21/c 1", cell=(7.9, 9.9, 11.3, 90, 90.02, 90)),
    Case("P 4/n m m :2", cell=(8.0, 8.0, 8.0 * 2**0.5, 90, 90, 90)),
    Case("I 4/m m m", cell=(8.0, 8.0, 8.0 * 2**0.5 * 1.0002, 90, 90, 90)),
    Case("P m m n :1", cell=(8.0, 8.0, 11.0, 90, 90, 90)),
    Case("P -1", cell=(8.2, 9.1, 10.3, 90.01, 89.99, 90.0)),
    Case("C 1 2/c 1", "primitive"),
    Case("F d d 2", "primitive"),
    Case("I 41/a :2", "primitive"),
    Case("R -3 :H", "primitive"),
    Case("F m -3 m", "primitive"),
    Case("I b a m", "without centring"),
    Case("C m c m", "without centring"),
    Case("R 3 m :H", "without centring"),
    Case("P 4/n :2", twin=True),
    Case("P m m m", cell=(8.0, 8.0, 12.0, 90, 90, 90), superlattice=True),
    Case("P b c a", mean=20.0),
    Case("P 42/n :2", mean=20.0),
    Case("C 1 2/c 1", mean=5.0),
    Case("P 21 21 21", fewest=40),
    Case("P 1 21/c 1", fewest=15),
)


@dataclass(frozen=True)
class Truth:
    """Measured data of a crystal, and its space group in the standard setting."""

    case: Case
    measured: Measured
    group: symmetry.SpaceGroup
    crystal: Any


def make(case: Case, seed: int) -> Truth:
    """Return the observations of a crystal with random atoms."""
    rng = np.random.default_rng([seed, *case.name.encode()])
    flex.set_random_seed(seed)
    random.seed(seed)
    info = sgtbx.space_group_info(case.symbol)
    n = 3 if len(info.group().all_ops()) > 16 else 8
    given = {} if case.cell is None else {"unit_cell": case.cell}
    structure = random_structure.xray_structure(
        info,
        elements=["Si"] * (n // 3) + ["O"] * (n - n // 3),
        volume_per_atom=28.0,
        min_distance=1.0,
        general_positions_only=n == 8,
        u_iso=0.01,
        **given,
    )
    hkl, intensity = _calculated(structure)
    if case.twin:
        other = lattice_twin(hkl)
        intensity = 0.5 * (intensity + _lookup(hkl, intensity, other))
    if case.superlattice:
        main = 0.5 * (intensity + _lookup(hkl, intensity, hkl[:, [1, 0, 2]]))
        intensity = np.where(hkl[:, 2] % 2 == 0, main, 0.02 * intensity)
    cell = np.array(structure.unit_cell().parameters())
    measured = _measured(cell, hkl, intensity, case.mean, rng)
    if case.fewest:
        rows = rng.choice(len(measured[0]), case.fewest, replace=False)
        measured = tuple(column[rows] for column in measured)
    group = symmetry.space_group(case.symbol)
    return Truth(case, _given(case, cell, group, measured, rng), group, structure)


def lattice_twin(hkl: np.ndarray) -> np.ndarray:
    """Return the hkl of the second crystal of a tetragonal merohedral twin."""
    return hkl[:, [1, 0, 2]] * [1, 1, -1]


def _calculated(structure: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return all hkl with whole indices up to D_MIN (absent ones too), and intensities."""
    cell = structure.unit_cell().parameters()
    hkl = lattice.indices_within(cell, 2 * np.pi / D_MIN)
    hkl = hkl[np.any(hkl != 0, axis=1)]
    # Of equivalent reflections cctbx calculates one.
    asu = _set(structure, hkl).map_to_asu().indices().as_vec3_double().as_numpy_array()
    unique, which = np.unique(np.rint(asu).astype(np.int64), axis=0, return_inverse=True)
    one = _set(structure, unique).structure_factors_from_scatterers(structure, algorithm="direct")
    intensity = np.abs(one.f_calc().data().as_numpy_array()) ** 2
    absent = structure.space_group().is_sys_absent(_set(structure, hkl).indices())
    return hkl, np.where(absent.as_numpy_array(), 0.0, intensity[which.ravel()])


def _set(structure: Any, hkl: np.ndarray) -> Any:
    columns = (flex.int(np.ascontiguousarray(column, np.int32)) for column in hkl.T)
    return miller.set(
        structure.crystal_symmetry(), flex.miller_index(*columns), anomalous_flag=False
    )


def _lookup(hkl: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the values of the wanted hkl; 0 where there is none."""
    mine, others = ((h + 500) @ [1_000_000, 1000, 1] for h in (hkl, wanted))
    order = np.argsort(mine)
    at = order[np.searchsorted(mine[order], others).clip(max=len(order) - 1)]
    return np.where(mine[at] == others, values[at], 0.0)


def _measured(
    cell: np.ndarray,
    hkl: np.ndarray,
    intensity: np.ndarray,
    mean: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, ...]:
    """Return hkl, I and σ of all crossings of the Ewald sphere in the rotation."""
    half_wave = 0.002 * _lookup(hkl, intensity, 2 * hkl)
    random_u = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    q = hkl @ (random_u @ lattice.b_matrix(cell)).T
    k = 2 * np.pi / WAVELENGTH
    flat = np.hypot(q[:, 0], q[:, 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = -np.sum(q**2, axis=1) / (2 * k * flat)
    zero = np.arctan2(q[:, 1], q[:, 0])
    rows = []
    for sign in (1, -1):
        angle = (sign * np.arccos(np.clip(cosine, -1, 1)) - zero) % (2 * np.pi)
        rows.append(np.flatnonzero((np.abs(cosine) < 1) & (angle < RANGE)))
    chosen = np.concatenate(rows)
    scale = mean / intensity.mean()
    true = scale * (intensity + half_wave)[chosen]
    noise = np.sqrt(true + 100.0)
    value = true * (1 + 0.03 * rng.standard_normal(len(true))) + noise * rng.standard_normal(
        len(true)
    )
    wrong = rng.random(len(true)) < 0.01
    value[wrong] = rng.exponential(mean, int(wrong.sum()))
    return hkl[chosen], value, noise


def _given(
    case: Case,
    cell: np.ndarray,
    group: symmetry.SpaceGroup,
    measured: tuple[np.ndarray, ...],
    rng: np.random.Generator,
) -> Measured:
    hkl, value, noise = measured
    error = case.sigma * np.array([*cell[:3] / 3, 30, 30, 30])
    if case.given == "as it is":
        keep = ~np.any(_forbidden(hkl, group), axis=1)
        hkl, value, noise = hkl[keep], value[keep], noise[keep]
        own = symmetry.group_of_operations(_lattice_operations(group))
    elif case.given == "without centring":
        own = symmetry.space_group("P 1")
    else:
        cell, matrix = symmetry.niggli(cell, group)
        moved = hkl @ matrix.T
        keep = np.abs(moved - np.rint(moved)).max(axis=1) < 1e-6
        hkl, value, noise = np.rint(moved[keep]).astype(np.int64), value[keep], noise[keep]
        own = symmetry.space_group("P 1")
    found = cell + error * rng.standard_normal(6)
    return Measured(found, error, own, hkl, value, noise)


def _forbidden(hkl: np.ndarray, group: symmetry.SpaceGroup) -> np.ndarray:
    rotations, shifts = group.operations
    pure = np.all(rotations == np.eye(3, dtype=np.int64), axis=(1, 2))
    phase = hkl @ shifts[pure].T
    return np.abs(phase - np.rint(phase)) > 1e-6


def _lattice_operations(group: symmetry.SpaceGroup) -> list[str]:
    rotations, shifts = group.operations
    pure = np.all(rotations == np.eye(3, dtype=np.int64), axis=(1, 2))
    return [
        ", ".join(f"{x}+{round(12 * t)}/12" for x, t in zip("xyz", shift, strict=True))
        for shift in shifts[pure]
    ]
