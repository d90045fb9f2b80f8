"""What reaches the detector and is not the crystal's scattering; see quantitative.py.

Sources lie on the beam at places z (mm, downstream positive): a pixel sees each under its own
scattering angle and solid angle. Images are for an incident beam of 1 and an attenuator of 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.truth.quantitative_absorption import Array
from tests.truth.quantitative_elements import air_molecules, polystyrene_like
from tests.truth.worlds_physics import Instrument, busing_levy, ice_rings

Profile = Callable[[Array, Array], Array]  # of |Q| (1/Å) and azimuth (rad), any scale


@dataclass(frozen=True)
class Air:
    """Air on the path of the beam, from a collimator to a beam stop."""

    level: float  # of the mean diffuse scattering
    upstream: float = 20.0  # mm
    downstream: float = 25.0


@dataclass(frozen=True)
class Walls:
    """Walls of a furnace or cryostat: powder rings from two places on the beam."""

    level: float  # largest ring over mean diffuse scattering
    material: str  # Al or Be
    radius: float = 12.0  # mm
    texture: float = 0.0  # relative modulation along the ring


@dataclass(frozen=True)
class Ice:
    """Ice on the crystal, that grows during the measurement and sees the crystal's absorption."""

    level: float
    texture: float = 0.0


@dataclass(frozen=True)
class Capillary:
    """Amorphous capillary around the crystal; its walls are in the absorber's tube."""

    level: float


@dataclass(frozen=True)
class Diamonds:
    """Two diamonds that turn with the crystal: strong spots of their own lattices."""

    strength: float  # |F|², electron units of the crystal's cell


@dataclass(frozen=True)
class EmptyRun:
    """Run without the crystal, all else as it was."""

    n_frames: int
    exposure: float  # over that of a frame
    beam: float = 1.0
    attenuator: float = 1.0


@dataclass(frozen=True)
class Surroundings:
    """Everything besides the crystal. Levels are over the mean diffuse scattering on the frames."""

    air: Air | None = None
    walls: Walls | None = None
    ice: Ice | None = None
    capillary: Capillary | None = None
    diamonds: Diamonds | None = None
    fluorescence: float = 0.0
    fluorescence_mu: float = 0.0  # 1/mm, on the way out
    leaks: dict[tuple[int, int], float] = field(default_factory=dict)  # rotation, frame: level
    empty: EmptyRun | None = None


def rings(material: str) -> tuple[Array, Array]:
    """Return |Q| (1/Å) and strengths of powder rings of Al, Be or ice."""
    if material == "ice":
        return ice_rings()
    cells = {
        "Al": (4.0495, 4.0495, 4.0495, 90, 90, 90),
        "Be": (2.2858, 2.2858, 3.5843, 90, 90, 120),
    }
    lists = {
        "Al": ([(1, 1, 1), (2, 0, 0), (2, 2, 0), (3, 1, 1), (2, 2, 2), (3, 3, 1), (4, 2, 0)],
               [100, 47, 22, 24, 7, 8, 8]),
        "Be": ([(1, 0, 0), (0, 0, 2), (1, 0, 1), (1, 0, 2), (1, 1, 0), (1, 0, 3), (1, 1, 2)],
               [29, 27, 100, 11, 10, 10, 9]),
    }  # fmt: skip
    hkl, strength = lists[material]
    q = np.linalg.norm(np.array(hkl, float) @ busing_levy(np.array(cells[material])).T, axis=1)
    return q, np.array(strength, float) / 100


def ring_profile(material: str, texture: float, phase: float, width: float) -> Profile:
    """Return a profile of powder rings, Gaussian of standard deviation `width` (1/Å)."""
    positions, strengths = rings(material)

    def profile(q: Array, azimuth: Array) -> Array:
        image = np.zeros(np.shape(q))
        for i, (x, strength) in enumerate(zip(positions, strengths, strict=True)):
            uneven = 1 + texture * np.cos(2 * (azimuth - phase - i))
            uneven = uneven + 0.5 * texture * np.cos(6 * azimuth + 2 * i)
            image = image + strength * uneven * np.exp(-(((q - x) / width) ** 2) / 2)
        return image

    return profile


def smooth_profile(function: Callable[[Array], Array]) -> Profile:
    return lambda q, azimuth: function(q)


AIR, GLASS = smooth_profile(air_molecules), smooth_profile(polystyrene_like)


@dataclass(frozen=True)
class Optics:
    """What a detector makes of a ray: polarisation, efficiency of the sensor, solid angle."""

    instrument: Instrument
    polarization: float
    sensor: tuple[float, float]  # thickness (m), attenuation (1/m)

    @property
    def normal(self) -> Array:
        return np.cross(self.instrument.fast, self.instrument.slow)

    def rays(self, z: float = 0.0, at: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
        """Return directions (slow, fast, 3) and relative solid angles of pixels seen from z (mm).

        `at` has other continuous pixel coordinates, slow and fast.
        """
        inst = self.instrument
        slow, fast = (np.indices(inst.shape) + 0.5) if at is None else at
        r = inst.point(slow, fast) - np.array([0, 0, z * 1e-3])
        length = np.linalg.norm(r, axis=-1)
        s = r / length[..., None]
        distance = abs(inst.origin @ self.normal)
        return s, distance**2 * abs(s @ self.normal) / length**2

    def efficiency(self, s: Array) -> Array:
        depth = self.sensor[0] * self.sensor[1]
        return -np.expm1(-depth / abs(s @ self.normal)) / -np.expm1(-depth)

    def weight(self, s: Array) -> Array:
        """Return polarisation times efficiency of directions s (..., 3)."""
        p = self.polarization
        return (p * (1 - s[..., 0] ** 2) + (1 - p) * (1 - s[..., 1] ** 2)) * self.efficiency(s)

    @property
    def ring_width(self) -> float:
        """Standard deviation of powder rings, 1/Å: that of 0.8 pixels at the beam."""
        inst = self.instrument
        return max(0.02, 0.8 * inst.k * inst.pixel_size / abs(float(inst.origin @ self.normal)))

    def q(self, s: Array) -> Array:
        return self.instrument.k * np.sqrt(2 - 2 * s[..., 2])

    def image(self, profile: Profile, places: Array) -> Array:
        """Return what a pixel gets from sources spread evenly over places (mm) on the beam."""
        total = np.zeros(self.instrument.shape)
        for z in places:
            s, omega = self.rays(z)
            azimuth = np.arctan2(s[..., 1], s[..., 0])
            total += profile(self.q(s), azimuth) * self.weight(s) * omega
        return total / len(places)


def air_images(optics: Optics, air: Air) -> tuple[Array, Array]:
    """Return images of the air before and behind the crystal."""
    n, length = 12, air.upstream + air.downstream
    before = -air.upstream * (np.arange(n) + 0.5) / n
    behind = air.downstream * (np.arange(n) + 0.5) / n
    return (
        optics.image(AIR, before) * air.upstream / length,
        optics.image(AIR, behind) * air.downstream / length,
    )


def wall_images(optics: Optics, walls: Walls, phase: float) -> tuple[Array, Array]:
    """Return images of the wall before and of the wall behind the crystal."""
    profile = ring_profile(walls.material, walls.texture, phase, optics.ring_width)
    return (
        optics.image(profile, np.array([-walls.radius])) / 2,
        optics.image(profile, np.array([walls.radius])) / 2,
    )
