"""Observations for scaling: integrated reflections with the data that scaling needs."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.reflections import UNFIT, Estimate, ReflectionFlag, Reflections
from hklflow.geometry import BEAM, Rotation, directions
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Observations:
    """Reflections of all rotations that have an intensity; arrays (n,) unless stated otherwise.

    Attributes
    ----------
    hkl : (n, 3) int array
    rotation : int array
        Number of the rotation.
    frame, angle : array
        Position in the scan, and angle of the scanned axis in degrees.
    d : array
        d-spacing, Å.
    intensity, sigma : array
        Intensity and its error, 1/Å³.
    per_count : array
        Intensity that corresponds to one photon; 0 if this value is unknown.
    incident, diffracted : (n, 3) arrays
        Unit vectors from the crystal towards the source and along the diffracted beam, in the
        frame of the goniometer at zero angles, which is fixed to the crystal.
    flags : int array
        Bits of `ReflectionFlag`.
    """

    hkl: Integers
    rotation: Integers
    frame: Floats
    angle: Floats
    d: Floats
    intensity: Floats
    sigma: Floats
    per_count: Floats
    incident: Floats
    diffracted: Floats
    flags: Integers

    def __len__(self) -> int:
        return len(self.hkl)

    @property
    def s2(self) -> Floats:
        """``(sin θ / λ)²`` (n,) in 1/Å²."""
        return 0.25 / self.d**2

    def expected_variance(self, mean: Floats) -> Floats:
        """Return the counting variances (n,) for the expected intensities.

        Variances from the observed counts would be too small for observations that are too weak by
        chance. A weighted mean would give these observations too much weight.

        Parameters
        ----------
        mean : (n,) array
            Expected intensity on the scale of the observed intensity.
        """
        other = np.maximum(self.sigma**2 - self.per_count * np.maximum(self.intensity, 0.0), 0.0)
        expected = other + self.per_count * np.maximum(mean, 0.0)
        known = self.per_count > 0
        return np.where(known, np.maximum(expected, self.per_count**2), self.sigma**2)


def span(rotation: Rotation) -> tuple[float, float]:
    """Return the lowest and highest angle of the scanned axis in degrees."""
    ends = np.degrees(rotation.scan.angle(np.array([0.0, rotation.scan.n_frames])))
    return float(ends.min()), float(ends.max())


def gather(
    tables: list[Reflections],
    rotations: list[Rotation],
    group: SpaceGroup,
    estimate: Estimate,
    d_min: float,
) -> tuple[Observations, dict[str, int]]:
    """Collect, from the tables of all rotations, the reflections that can be scaled.

    Returns
    -------
    Observations
        Observations, with systematically absent reflections flagged.
    dict
        Number of reflections left out, for each reason. Every reflection is either returned or
        counted once here.
    """
    parts, left_out = [], dict.fromkeys([*(_named(f) for f in UNFIT), *_OTHER], 0)
    for number, (table, rotation) in enumerate(zip(tables, rotations, strict=True)):
        intensity, sigma = table.intensity(estimate)
        reasons = [(_named(flag), table.has(flag)) for flag in UNFIT]
        reasons.append((_OTHER[0], ~(np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0))))
        reasons.append((_OTHER[1], table.d < d_min))
        use = np.ones(len(table), dtype=np.bool_)
        for reason, hit in reasons:
            left_out[reason] += int((use & hit).sum())
            use &= ~hit
        parts.append(_observations(number, table.select(use), rotation, estimate))
    joined = {
        c.name: np.concatenate([getattr(part, c.name) for part in parts])
        for c in fields(Observations)
    }
    absent = group.is_absent(joined["hkl"])
    flags = joined["flags"] & ~int(ReflectionFlag.ABSENT | ReflectionFlag.OUTLIER)
    joined["flags"] = flags | np.where(absent, int(ReflectionFlag.ABSENT), 0)
    return Observations(**joined), left_out


_OTHER = ("no intensity", "beyond d_min")


def _named(flag: ReflectionFlag) -> str:
    return str(flag.name).lower().replace("_", " ")


def described(left_out: dict[str, int]) -> str:
    """Return a text with the counters that are not 0."""
    return ", ".join(f"{n} {reason}" for reason, n in left_out.items() if n)


def _observations(
    number: int, table: Reflections, rotation: Rotation, estimate: Estimate
) -> Observations:
    intensity, sigma = table.intensity(estimate)
    angle = rotation.scan.angle(table.frame)
    to_crystal = rotation.goniometer.rotation(angle).transpose(0, 2, 1)
    diffracted = directions(rotation.detector.lab(table.slow, table.fast))
    with np.errstate(divide="ignore", invalid="ignore"):
        per_count = table.volume / (table.norm * table.recorded)
    return Observations(
        hkl=table.hkl,
        rotation=np.full(len(table), number),
        frame=table.frame,
        angle=np.degrees(angle),
        d=table.d,
        intensity=intensity,
        sigma=sigma,
        per_count=np.where(np.isfinite(per_count) & (per_count > 0), per_count, 0.0),
        incident=-to_crystal @ BEAM,
        diffracted=np.einsum("nij,nj->ni", to_crystal, diffracted),
        flags=table.flags,
    )
