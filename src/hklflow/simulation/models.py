"""Models of a simulation: crystal, diffuse scattering, background, goniometer, scan.

Models are frozen dataclasses; `simulation.frames` calculates counts from them. Units are metres, Å,
1/Å, radians and kelvin; pixel coordinates are defined in `geometry.frames`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from hklflow.base.errors import HklflowError
from hklflow.simulation import geometry as sg

Floats = NDArray[np.float64]
Vector = tuple[float, float, float]


def allowed(centring: str, hkl: ArrayLike) -> NDArray[np.bool_]:
    """Return True for integer hkl (..., 3) allowed by a centring P A B C I F R (obverse)."""
    h, k, l = np.moveaxis(np.rint(np.asarray(hkl)).astype(np.int64), -1, 0)  # noqa: E741
    rules = {
        "P": np.ones(h.shape, dtype=bool),
        "A": (k + l) % 2 == 0,
        "B": (h + l) % 2 == 0,
        "C": (h + k) % 2 == 0,
        "I": (h + k + l) % 2 == 0,
        "F": ((h + k) % 2 == 0) & ((k + l) % 2 == 0),
        "R": (-h + k + l) % 3 == 0,
    }
    if centring not in rules:
        raise HklflowError(f"unknown centring {centring!r}; use one of {' '.join(rules)}")
    result: NDArray[np.bool_] = rules[centring]
    return result


@dataclass(frozen=True)
class Superlattice:
    """Satellites at ± `vector` from every allowed reflection, below a phase transition.

    The intensity of the satellites is `ratio` times ``(Σ f)²`` of the atoms times the square of the
    order parameter ``(1 - T / t_c) ** beta``.
    """

    vector: Vector
    t_c: float
    ratio: float = 0.01
    beta: float = 0.33

    def strength(self, temperature: float) -> float:
        """Return the intensity factor at a temperature in kelvin; 0 above `t_c`."""
        return float(self.ratio * max(0.0, 1 - temperature / self.t_c) ** (2 * self.beta))


@dataclass(frozen=True)
class Distortion:
    """A phase transition at `t_c` that strains the cell and moves the atoms below `t_c`.

    Below `t_c` the order parameter η follows ``η² = f + (1 - f) (1 - T / t_c) ** (2 beta)`` with
    ``f = first_order``: 0 is a continuous transition, 1 a step. The atomic shifts are proportional
    to η. The strain is proportional to η², because no strain couples to η if η breaks the symmetry.

    Attributes
    ----------
    t_c : float
        Transition temperature, K.
    strain : (3,) tuple
        Relative changes of a, b, c at η = 1.
    angles : (3,) tuple
        Changes of alpha, beta, gamma in degrees at η = 1.
    beta : float
    first_order : float
        Discontinuous part of η², 0 to 1.
    shifts : tuple of (x, y, z, f)
        Changes of position and scattering power of each atom at η = 1; empty: no changes.
        Reflections that are extinct above `t_c`, for example by a glide plane, then appear.
    """

    t_c: float
    strain: Vector = (0.0, 0.0, 0.0)
    angles: Vector = (0.0, 0.0, 0.0)
    beta: float = 0.5
    first_order: float = 0.0
    shifts: tuple[tuple[float, float, float, float], ...] = ()

    def order_squared(self, temperature: float) -> float:
        """Return η² at a temperature in kelvin; 0 at `t_c` and above."""
        if temperature >= self.t_c:
            return 0.0
        grown = float((1 - temperature / self.t_c) ** (2 * self.beta))
        return self.first_order + (1 - self.first_order) * grown


@dataclass(frozen=True)
class CrystalModel:
    """A crystal with Bragg reflections of known position, shape and intensity.

    Attributes
    ----------
    cell : (6,) tuple
        Cell in Å and degrees at `temperature`, including distortions.
    orientation : (3,) tuple
        Rotation vector of U in radians (crystal to goniometer frame).
    turn : (3,) tuple
        Rotation vector in degrees, in the goniometer frame, of a rotation after `orientation`. It
        simulates a drift of the crystal between two scans.
    centring : str
        Letter of the centring.
    atoms : tuple of (x, y, z, f)
        Fractional positions and scattering power; ``I ∝ |Σ f exp(2πi h·x)|²``.
    b_iso : float
        B of the Debye-Waller factor ``exp(-2 b_iso (sin θ / λ)²)`` on intensities, Å².
    scale : float
        Integral of S over the Q volume of a reflection with ``|F|² = 1``, 1/Å³.
    mosaic : float
        Standard deviation of the mosaic blocks about the scan axis at ζ = 1, radians.
    spot_sigma : (slow, fast)
        Standard deviations of a spot on the detector, pixels.
    expansion : (3,) tuple
        Linear thermal expansion of a, b, c in 1/K.
    temperature : float
        Temperature, K.
    superlattice : tuple of Superlattice
    distortions : tuple of Distortion
    """

    cell: tuple[float, float, float, float, float, float]
    orientation: Vector = (0.0, 0.0, 0.0)
    centring: str = "P"
    atoms: tuple[tuple[float, float, float, float], ...] = ((0.0, 0.0, 0.0, 1.0),)
    b_iso: float = 0.5
    scale: float = 0.0
    mosaic: float = 1e-3
    spot_sigma: tuple[float, float] = (1.0, 1.0)
    expansion: Vector = (0.0, 0.0, 0.0)
    temperature: float = 300.0
    superlattice: tuple[Superlattice, ...] = ()
    turn: Vector = (0.0, 0.0, 0.0)
    distortions: tuple[Distortion, ...] = ()

    def __post_init__(self) -> None:
        for distortion in self.distortions:
            if len(distortion.shifts) not in (0, len(self.atoms)):
                raise HklflowError(
                    f"the distortion below {distortion.t_c:g} K has {len(distortion.shifts)} "
                    f"shifts for {len(self.atoms)} atoms; use one per atom, or none"
                )

    def at_temperature(self, temperature: float) -> "CrystalModel":
        """Return the crystal at another temperature in kelvin.

        The cell expands linearly, and its strain changes with the distortions.
        """
        cell = np.asarray(self.cell, dtype=np.float64)
        for distortion in self.distortions:
            now, then = (distortion.order_squared(t) for t in (self.temperature, temperature))
            strain = np.asarray(distortion.strain)
            cell[:3] *= (1 + strain * then) / (1 + strain * now)
            cell[3:] += np.asarray(distortion.angles) * (then - now)
        cell[:3] *= 1 + np.asarray(self.expansion) * (temperature - self.temperature)
        a, b, c, alpha, beta, gamma = (float(x) for x in cell)
        return replace(self, cell=(a, b, c, alpha, beta, gamma), temperature=temperature)

    @cached_property
    def current_atoms(self) -> Floats:
        """Atoms (n, 4) at `temperature`: positions and scattering power, including distortions."""
        atoms = np.asarray(self.atoms, dtype=np.float64)
        for distortion in self.distortions:
            if distortion.shifts:
                order = np.sqrt(distortion.order_squared(self.temperature))
                atoms = atoms + order * np.asarray(distortion.shifts)
        return atoms

    @cached_property
    def u(self) -> Floats:
        """U (3, 3), crystal Cartesian to goniometer frame, including `turn`."""
        drift = Rotation.from_rotvec(np.radians(self.turn))
        mounted = Rotation.from_rotvec(self.orientation)
        return np.asarray((drift * mounted).as_matrix(), dtype=np.float64)

    @cached_property
    def ub(self) -> Floats:
        """UB (3, 3) in 1/Å with 2π."""
        ub: Floats = self.u @ sg.reciprocal_basis(self.cell)
        return ub

    def reflections(self, q_max: float) -> tuple[Floats, Floats]:
        """Return all hkl (n, 3) with 0 < |Q| <= q_max (1/Å) and their intensities (n,) in 1/Å³.

        Satellites of the superlattice have fractional hkl.
        """
        lengths = np.linalg.norm(sg.real_axes(self.cell), axis=1)
        # The limit is one index higher, to include satellites of reflections just outside.
        limit = np.ceil(q_max * lengths / (2 * np.pi)).astype(int) + 1
        grid = np.meshgrid(*(np.arange(-n, n + 1) for n in limit), indexing="ij")
        main = np.stack(grid, axis=-1).reshape(-1, 3).astype(np.float64)
        main = main[allowed(self.centring, main)]
        xyz, f = self.current_atoms[:, :3], self.current_atoms[:, 3]
        power = [np.abs(np.exp(2j * np.pi * main @ xyz.T) @ f) ** 2]
        # Remove the rounding errors of extinct reflections.
        power[0][power[0] < 1e-20 * np.abs(f).sum() ** 2] = 0
        hkl = [main]
        for satellite in self.superlattice:
            strength = satellite.strength(self.temperature)
            q = np.asarray(satellite.vector)
            rows = np.unique(np.round(np.concatenate([main + q, main - q]), 9), axis=0)
            on_main = np.all(np.abs(rows - np.rint(rows)) < 1e-6, axis=1)
            rows = rows[~(on_main & allowed(self.centring, rows))]
            hkl.append(rows)
            power.append(np.full(len(rows), strength * f.sum() ** 2))
        rows, strengths = np.concatenate(hkl), np.concatenate(power)
        q2 = np.sum((rows @ self.ub.T) ** 2, axis=1)
        intensity = self.scale * strengths * np.exp(-2 * self.b_iso * q2 / (4 * np.pi) ** 2)
        keep = (q2 > 1e-12) & (q2 <= q_max**2) & (intensity > 0)
        return rows[keep], intensity[keep]


@dataclass(frozen=True)
class Cosine:
    """Short-range order: ``amplitude * cos(2π h·vector)`` with integer or half-integer vectors."""

    amplitude: float
    vector: Vector


@dataclass(frozen=True)
class Ridge:
    """Periodic diffuse maxima around lattice points, rods or sheets.

    With ``u = Σ_t (1 - cos 2π (h - centre)·t) / (2π² width²)`` the profile is
    ``amplitude / (1 + u)`` (lorentzian) or ``amplitude * exp(-u / 2)`` (gaussian). u is the
    acoustic dispersion of a lattice with springs along the vectors t. Three independent lattice
    vectors give maxima at the lattice points; with centring vectors, only at the allowed points.
    Two vectors give rods along the third direction, one vector gives sheets. Near a sheet of unit
    spacing ``u = (δh / width)²``.

    Attributes
    ----------
    thermal : bool
        True: the intensity is proportional to the temperature.
    q_squared : bool
        True: the intensity is multiplied by ``|Q|²`` in 1/Å².
    """

    amplitude: float
    vectors: tuple[Vector, ...]
    width: float
    profile: Literal["lorentzian", "gaussian"] = "lorentzian"
    centre: Vector = (0.0, 0.0, 0.0)
    thermal: bool = False
    q_squared: bool = False


@dataclass(frozen=True)
class Diffuse:
    """Analytic S(hkl) without Bragg reflections; thermal ridges refer to `temperature`."""

    flat: float = 0.0
    cosines: tuple[Cosine, ...] = ()
    ridges: tuple[Ridge, ...] = ()
    temperature: float = 300.0

    def at_temperature(self, temperature: float) -> "Diffuse":
        """Scale the thermal ridges to another temperature in kelvin."""
        factor = temperature / self.temperature
        ridges = tuple(
            replace(r, amplitude=r.amplitude * factor) if r.thermal else r for r in self.ridges
        )
        return replace(self, ridges=ridges, temperature=temperature)

    def s(self, hkl: ArrayLike, q_squared: ArrayLike) -> Floats:
        """Return S (...) at hkl (..., 3); `q_squared` (...) is |Q|² in 1/Å²."""
        h = np.asarray(hkl, dtype=np.float64)
        total = np.full(h.shape[:-1], self.flat)
        for term in self.cosines:
            total = total + term.amplitude * np.cos(2 * np.pi * h @ np.asarray(term.vector))
        for ridge in self.ridges:
            phase = 2 * np.pi * (h - np.asarray(ridge.centre)) @ np.asarray(ridge.vectors).T
            u = np.sum(1 - np.cos(phase), axis=-1) / (2 * np.pi**2 * ridge.width**2)
            profile = 1 / (1 + u) if ridge.profile == "lorentzian" else np.exp(-u / 2)
            weight = np.asarray(q_squared) if ridge.q_squared else 1.0
            total = total + ridge.amplitude * weight * profile
        return total


@dataclass(frozen=True)
class Background:
    """Isotropic background in units of S: air decreases with 2θ, Compton increases with Q.

    ``air * exp(-2θ / air_angle) + compton * (1 - exp(-(Q / compton_q)²))``
    """

    air: float = 0.0
    air_angle: float = 0.15
    compton: float = 0.0
    compton_q: float = 5.0

    def level(self, two_theta: Floats, k: float) -> Floats:
        """Return the level (...) at scattering angles (...) in radians, wavenumber k in 1/Å."""
        q = 2 * k * np.sin(two_theta / 2)
        return self.air * np.exp(-two_theta / self.air_angle) + self.compton * (
            1 - np.exp(-((q / self.compton_q) ** 2))
        )


@dataclass(frozen=True)
class GoniometerModel:
    """Goniometer: lab vectors of the axes at angle zero, fixed axis first; angles in radians."""

    axes: tuple[Vector, ...] = ((-1.0, 0.0, 0.0),)
    angles: tuple[float, ...] = (0.0,)
    names: tuple[str, ...] = ("phi",)
    scan: int = 0

    def rotation(self, angle: ArrayLike) -> Floats:
        """Return goniometer-to-lab matrices (n, 3, 3) for angles (n,) of the scan axis."""
        outer = sg.chain(self.axes[: self.scan], self.angles[: self.scan])
        inner = sg.chain(self.axes[self.scan + 1 :], self.angles[self.scan + 1 :])
        scanned = sg.turn(self.axes[self.scan], np.atleast_1d(np.asarray(angle)))
        return np.asarray((outer * scanned * inner).as_matrix())


@dataclass(frozen=True)
class ScanModel:
    """One rotation scan and its beam.

    Attributes
    ----------
    start, step : float
        First angle, and angle per frame, radians.
    wavelength : float
        Wavelength, Å.
    polarization : float or None
        Fraction of the intensity with the electric vector along lab x. None: no polarisation
        factor.
    flux : float
        Counts per second for S = 1 in the pixel that is nearest to the sample.
    exposure : float
        Exposure time of a frame, s.
    drift : float
        Relative change of the monitor from the first to the last frame.
    transmission : tuple of n_frames floats or None
        Transmission of the sample, frame by frame.
    attenuator : float
        Transmission of the attenuators, a factor of N that the monitor does not measure.
    solid_angle : bool
        False: N does not contain the solid angle.
    """

    start: float
    step: float
    n_frames: int
    wavelength: float
    polarization: float | None = 0.99
    flux: float = 1.0
    exposure: float = 1.0
    drift: float = 0.0
    transmission: tuple[float, ...] | None = None
    attenuator: float = 1.0
    solid_angle: bool = True
    temperature: float = 300.0
    seed: int = 0

    @property
    def k(self) -> float:
        """Wavenumber 2π/λ in 1/Å."""
        return 2 * np.pi / self.wavelength

    @cached_property
    def monitor(self) -> Floats:
        """Monitor counts (n_frames,): ``flux * exposure`` with the drift."""
        relative = 1 + self.drift * (np.arange(self.n_frames) + 0.5) / self.n_frames
        return self.flux * self.exposure * relative

    @cached_property
    def frame_factor(self) -> Floats:
        """Factor (n_frames,) of N that depends only on the frame."""
        factor = self.monitor * self.attenuator
        if self.transmission is None:
            return factor
        if len(self.transmission) != self.n_frames:
            raise HklflowError(
                f"the simulated scan has {self.n_frames} frames but {len(self.transmission)} "
                "values of transmission; use one per frame"
            )
        result: Floats = factor * np.asarray(self.transmission)
        return result

    def angle(self, frame: ArrayLike) -> Floats:
        """Return the angle of the scan axis in radians at frame coordinates."""
        return self.start + np.asarray(frame, dtype=np.float64) * self.step
