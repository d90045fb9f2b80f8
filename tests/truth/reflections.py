"""Integrated reflections of a crystal with known intensities, scales and errors."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow import nexus
from hklflow.bragg.groups import Groups
from hklflow.bragg.reflections import ReflectionFlag, Reflections
from hklflow.bragg.scale_model import real_harmonics
from hklflow.geometry import (
    BEAM,
    Beam,
    Detector,
    Goniometer,
    Rotation,
    Scan,
    directions,
    lattice,
    prediction,
    symmetry,
)
from tests.truth.orientations import write_orientation

Floats = NDArray[np.float64]
CELL = (7.2, 8.3, 9.1, 90.0, 90.0, 90.0)
PER_COUNT = 0.02  # 1/Å³


class Files(NamedTuple):
    """What `Truth.write` wrote."""

    reflections: list[Path]
    orientation: Path
    rotations: list[str]


def rotation(
    start: float = 0.0, span: float = 180.0, kappa: float = 0.0, wavelength: float = 0.4
) -> Rotation:
    """A large detector behind the crystal; degrees."""
    detector = Detector(
        (400, 400),
        (0.5e-3, 0.5e-3),
        np.array([-0.1, -0.1, 0.1]),
        np.array([0.0, 1.0, 0.0]),
        np.array([1.0, 0.0, 0.0]),
    )
    goniometer = Goniometer(
        ("phi", "kappa"),
        np.array([[1.0, 0.0, 0.0], [0.0, 0.8, 0.6]]),
        np.radians([0.0, kappa]),
        0,
    )
    n = max(round(span / 0.5), 1)
    scan = Scan(np.radians(start), np.radians(span / n), n)
    return Rotation(Beam(wavelength), detector, goniometer, scan)


def turned(cell: tuple[float, ...]) -> Floats:
    """UB of a crystal in a general orientation."""
    from hklflow.geometry import rotation_matrix

    tilt = rotation_matrix(np.array([0.3, -0.5, 0.8]) / np.linalg.norm([0.3, -0.5, 0.8]), 1.1)
    return tilt @ lattice.b_matrix(cell)


@dataclass
class Truth:
    """What is simulated; scales as functions of the angle in degrees, per rotation.

    ``noise``: (a, b) of the errors, ``outliers`` the fraction and size in σ.
    """

    group: str = "P 2 2 2"
    cell: tuple[float, ...] = CELL
    d_min: float = 0.7
    rotations: list[Rotation] = field(default_factory=lambda: [rotation()])
    scale: list[Callable[[Floats], Floats]] = field(default_factory=list)
    decay: list[Callable[[Floats], Floats]] = field(default_factory=list)
    harmonics: Floats | None = None
    noise: tuple[float, float] = (1.0, 0.0)
    outliers: tuple[float, float] = (0.0, 0.0)
    strength: float = 20.0  # mean intensity in 1/Å³; over PER_COUNT: counts
    background: float = 50.0  # counts under a reflection
    anomalous: float = 0.0  # relative difference of Friedel mates
    seed: int = 1
    real_group: str | None = None  # that the intensities obey

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.space_group = symmetry.space_group(self.real_group or self.group)
        hkl = lattice.indices_within(self.cell, 2 * np.pi / self.d_min)
        hkl = hkl[np.any(hkl != 0, axis=1)]
        ub = turned(self.cell)
        parts = []
        for number, one in enumerate(self.rotations):
            seen = prediction.predict(one, ub, hkl)
            keep = seen.zeta > 0.15
            parts.append((number, hkl[seen.index[keep]], seen, keep))
        every = np.concatenate([part[1] for part in parts])
        groups = Groups.of(self.space_group.asymmetric(every))
        s2 = 0.25 / lattice.d_spacing(self.cell, groups.hkl) ** 2
        centric = self.space_group.is_centric(groups.hkl)
        wilson = np.where(
            centric, rng.standard_normal(len(groups)) ** 2, rng.exponential(size=len(groups))
        )
        unique = self.strength * wilson * np.exp(-2 * 1.0 * s2)
        unique[self.space_group.is_absent(groups.hkl)] = 0.0
        self.unique = {tuple(h): i for h, i in zip(groups.hkl.tolist(), unique, strict=True)}
        true = unique[groups.index]
        if self.anomalous:
            apart = self.space_group.asymmetric(every, anomalous=True)
            minus = np.any(apart != groups.hkl[groups.index], axis=1)
            true = true * np.where(minus, 1 - self.anomalous / 2, 1 + self.anomalous / 2)
        self.true: list[Floats] = []
        self.tables: list[Reflections] = []
        self.g: list[Floats] = []
        start = 0
        for number, rows, seen, keep in parts:
            mine = true[start : start + len(rows)]
            start += len(rows)
            g = self._scale(number, rows, seen, keep)
            self.true.append(mine)
            self.g.append(g)
            self.tables.append(self._table(rng, rows, seen, keep, mine * g))

    def write(self, folder: Path, name: str = "T300", temperature: float | None = 300.0) -> Files:
        """Files of integration and orientation, as the stage reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"r{number}" for number in range(len(self.rotations))]
        paths = []
        for number, table in enumerate(self.tables):
            paths.append(folder / f"{names[number]}.nxs")
            nexus.write_reflections(paths[-1], table, "t")
        where = write_orientation(
            folder / "converged.json",
            dict(zip(names, self.rotations, strict=True)),
            lattice.b_matrix(self.cell),
            self.group,
            sample="salt",
            scan=name,
            parent="T300",
            temperature=temperature,
            cell=np.asarray(self.cell),
            cell_sigma=np.full(6, 0.001),
        )
        return Files(paths, where, names)

    def _scale(self, number: int, rows: NDArray[np.int64], seen: object, keep: Floats) -> Floats:
        one = self.rotations[number]
        angle = np.degrees(seen.angle[keep])  # type: ignore[attr-defined]
        s2 = 0.25 / lattice.d_spacing(self.cell, rows) ** 2
        g = np.ones(len(rows))
        if self.scale:
            g *= self.scale[number](angle)
        if self.decay:
            g *= np.exp(-2 * self.decay[number](angle) * s2)
        if self.harmonics is not None:
            degree = round(np.sqrt(len(self.harmonics) + 1)) - 1
            back = one.goniometer.rotation(np.radians(angle)).transpose(0, 2, 1)
            place = one.detector.lab(seen.slow[keep], seen.fast[keep])  # type: ignore[attr-defined]
            out = np.einsum("nij,nj->ni", back, directions(place))
            both = real_harmonics(-back @ BEAM, degree) + real_harmonics(out, degree)
            g *= np.exp(0.5 * both @ self.harmonics)
        return g

    def _table(
        self,
        rng: np.random.Generator,
        rows: NDArray[np.int64],
        seen: object,
        keep: Floats,
        expected: Floats,
    ) -> Reflections:
        n = len(rows)
        counts = rng.poisson(expected / PER_COUNT + self.background) - self.background
        a, b = self.noise
        # As integration does: the variance of what the model of the reflection expects.
        sigma = PER_COUNT * np.sqrt(np.maximum(counts, 0) + self.background)
        value = counts * PER_COUNT
        # Errors beyond counting: σ'² = a² (σ² + (b I)²).
        true_sigma2 = PER_COUNT**2 * (expected / PER_COUNT + self.background)
        beyond = a**2 * (true_sigma2 + (b * expected) ** 2) - true_sigma2
        if a < 1:
            # The errors told are too large.
            sigma, beyond = sigma / a, (b * expected * a) ** 2
        value = value + rng.standard_normal(n) * np.sqrt(np.maximum(beyond, 0))
        self.is_outlier = rng.random(n) < self.outliers[0]
        value = value + np.where(
            self.is_outlier, self.outliers[1] * np.sqrt(true_sigma2 + beyond), 0.0
        )
        none = np.full(n, np.nan)
        ones = np.ones(n)
        fields = dict.fromkeys(Reflections.__dataclass_fields__, none)
        fields |= {
            "hkl": rows,
            "frame": seen.frame[keep],  # type: ignore[attr-defined]
            "slow": seen.slow[keep],  # type: ignore[attr-defined]
            "fast": seen.fast[keep],  # type: ignore[attr-defined]
            "zeta": seen.zeta[keep],  # type: ignore[attr-defined]
            "volume": PER_COUNT * ones,
            "norm": ones,
            "recorded": ones,
            "d": lattice.d_spacing(self.cell, rows),
            "intensity_sum": value,
            "sigma_sum": sigma,
            "intensity_profile": value,
            "sigma_profile": sigma,
            "counts": counts.astype(float),
            "n_foreground": np.full(n, 50),
            "n_background": np.full(n, 200),
            "flags": np.where(
                symmetry.space_group(self.group).is_absent(rows), int(ReflectionFlag.ABSENT), 0
            ),
        }
        return Reflections(**fields)
