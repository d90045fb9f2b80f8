"""The ten worlds of a quantitative S(Q); see quantitative.py.

A name stands for a crystal, its shape, its surroundings and a way of measuring. The seed draws
orientation, detector, drift, levels and dimensions. `SEEN` is for development, `HELD_OUT` is run
once at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial.transform import Rotation

from tests.truth.quantitative import World
from tests.truth.quantitative_absorption import (
    Absorber,
    Array,
    Beam,
    Body,
    Tube,
    cylinder,
    ellipsoid,
    facets,
    plate,
    sphere,
)
from tests.truth.quantitative_background import (
    Air,
    Capillary,
    Diamonds,
    EmptyRun,
    Ice,
    Optics,
    Surroundings,
    Walls,
)
from tests.truth.quantitative_elements import attenuation
from tests.truth.quantitative_structure import Atom, Crystal, Shares
from tests.truth.worlds_draft import rng_of
from tests.truth.worlds_physics import Instrument, Scan, rotation

SEEN = (11, 12)
HELD_OUT = (71, 72)

X, Y = np.eye(3)[:2]


@dataclass(frozen=True)
class Plan:
    """How a world is measured. Lengths of `body` are in units of 1/μ."""

    crystal: Crystal
    body: Callable[[float], Body]  # of 1/μ in mm
    counts: float  # diffuse counts per voxel
    settings: tuple[float, ...] = (0.0,)  # degrees of chi, of each rotation
    start: tuple[float, ...] = (0.0,)
    span: float = 360.0
    step: float = 1.0
    opening: float = 30.0  # degrees of 2θ to the nearer edge
    side: float = 0.0  # shift of the detector, in halves of its width
    axis: Array = field(default_factory=lambda: Y)
    monitor: str = "good"  # good, bad or none
    drift: float = 0.05
    attenuators: tuple[float, ...] = (1.0,)  # in turn along each rotation
    surroundings: Surroundings = Surroundings()  # noqa: RUF009
    beam: Beam = Beam()  # noqa: RUF009
    tube: float = 0.0  # inner radius of a capillary over the body's reach
    turn_body: bool = True
    leaks: int = 0


STO = Crystal(
    "P m -3 m", (3.905, 3.905, 3.905, 90, 90, 90), "Sr Ti O3",
    (Atom("Sr", (0.5, 0.5, 0.5), 1.3), Atom("Ti", (0, 0, 0), 1.1), Atom("O", (0.5, 0, 0), 1.6)),
    0.5,
)  # fmt: skip
RUTILE = Crystal(
    "P 42/m n m", (4.594, 4.594, 2.959, 90, 90, 90), "Ti O2",
    (Atom("Ti", (0, 0, 0), 0.9), Atom("O", (0.305, 0.305, 0), 1.2)), 0.5,
    Shares(sheet=(1, 1, 0)),
)  # fmt: skip
FORSTERITE = Crystal(
    "P n m a", (10.2, 5.98, 4.76, 90, 90, 90), "Mg2 Si O4",
    (Atom("Mg", (0, 0, 0), 0.9), Atom("Mg", (0.277, 0.25, 0.991), 0.9),
     Atom("Si", (0.094, 0.25, 0.426), 0.7), Atom("O", (0.092, 0.25, 0.766), 1.0),
     Atom("O", (0.447, 0.25, 0.222), 1.0), Atom("O", (0.163, 0.033, 0.277), 1.1)),
    0.71, Shares(sheet=(0, 1, 1)),
)  # fmt: skip
ZINCITE = Crystal(
    "P 63 m c", (3.25, 3.25, 5.207, 90, 90, 120), "Zn O",
    (Atom("Zn", (1 / 3, 2 / 3, 0), 1.0), Atom("O", (1 / 3, 2 / 3, 0.382), 1.2)), 0.5,
    Shares(0.56, 0.2, 0.24, sheet=(0, 0, 1), odd=0.03), friedel=False,
)  # fmt: skip
QUARTZ = Crystal(
    "P 32 2 1", (4.913, 4.913, 5.405, 90, 90, 120), "Si O2",
    (Atom("Si", (0.47, 0, 2 / 3), 0.9), Atom("O", (0.413, 0.267, 0.786), 1.4)), 0.71,
    Shares(0.55, 0.22, 0.23, sheet=(1, 0, 1)),
)  # fmt: skip
NAPHTHALENE = Crystal(
    "P 1 21/c 1", (7.8, 5.93, 8.65, 90, 114.5, 90), "C10 H8",
    (Atom("C", (0.082, 0.019, 0.326), 2.5), Atom("C", (0.113, 0.159, 0.222), 2.4),
     Atom("C", (0.048, 0.105, 0.036), 2.1), Atom("C", (0.075, 0.247, -0.077), 2.4),
     Atom("C", (-0.012, -0.191, 0.256), 2.6), Atom("H", (0.131, 0.064, 0.462), 3.5),
     Atom("H", (0.183, 0.312, 0.278), 3.5), Atom("H", (0.147, 0.397, -0.029), 3.5),
     Atom("H", (-0.03, -0.29, 0.34), 3.5)),
    0.71, Shares(sheet=(0, 1, 0), flat=0.5, peaks=0.2, sheets=0.3),
)  # fmt: skip
CHALCANTHITE = Crystal(
    "P -1", (5.96, 6.12, 10.74, 82.4, 107.3, 102.6), "Cu S O9 H10",
    (Atom("Cu", (0, 0, 0), 1.2), Atom("Cu", (0.5, 0.5, 0), 1.2),
     Atom("S", (0.014, 0.286, 0.625), 1.3),
     *(Atom("O", x, 1.8) for x in ((0.91, 0.15, 0.67), (0.24, 0.31, 0.8), (0.86, 0.37, 0.64),
                                   (0.05, 0.3, 0.38), (0.82, 0.07, 0.15), (0.29, 0.12, 0.15),
                                   (0.46, 0.41, 0.3), (0.76, 0.42, 0.02), (0.43, 0.12, 0.63))),
     *(Atom("H", x, 3.0) for x in ((0.72, 0.1, 0.1), (0.9, 0.2, 0.2), (0.3, 0.05, 0.2),
                                   (0.35, 0.25, 0.2), (0.4, 0.3, 0.35), (0.6, 0.4, 0.33),
                                   (0.8, 0.3, 0.05), (0.85, 0.55, 0.1), (0.4, 0.0, 0.55),
                                   (0.35, 0.15, 0.7)))),
    0.5, Shares(sheet=(1, 1, 0)),
)  # fmt: skip
POLAR = Crystal(
    "P 1", (4.91, 5.63, 6.35, 81, 97, 104), "Cu S O4",
    (Atom("Cu", (0, 0, 0), 1.2), Atom("S", (0.41, 0.37, 0.52), 1.2),
     Atom("O", (0.3, 0.2, 0.7), 1.7),
     Atom("O", (0.62, 0.3, 0.42), 1.7), Atom("O", (0.2, 0.45, 0.33), 1.7),
     Atom("O", (0.52, 0.6, 0.65), 1.7)),
    0.5, Shares(sheet=(0, 1, 1), odd=0.05), friedel=False,
)  # fmt: skip
FLUORITE = Crystal(
    "F m -3 m", (5.463, 5.463, 5.463, 90, 90, 90), "Ca F2",
    (Atom("Ca", (0, 0, 0), 0.9), Atom("F", (0.25, 0.25, 0.25), 1.2)), 0.4,
    Shares(sheet=(1, 1, 1)),
)  # fmt: skip
SCHEELITE = Crystal(
    "I 41/a:2", (5.243, 5.243, 11.376, 90, 90, 90), "Ca W O4",
    (Atom("Ca", (0, 0.25, 0.625), 1.0), Atom("W", (0, 0.25, 0.125), 0.8),
     Atom("O", (0.151, 0.0085, 0.2106), 1.3)),
    0.3, Shares(sheet=(1, 1, 0)),
)  # fmt: skip

PRISM = np.array(
    [*([np.cos(a), np.sin(a), 0] for a in np.arange(6) * np.pi / 3),
     *([0.62 * np.cos(a), 0.62 * np.sin(a), s] for a in np.arange(3) * 2 * np.pi / 3 + 0.2
       for s in (-0.78, 0.78))]
)  # fmt: skip

PLANS: dict[str, Plan] = {
    "sphere": Plan(STO, lambda u: sphere(0.7 * u), 30, step=1.0, turn_body=False),
    "plate": Plan(
        RUTILE, lambda u: plate(1.0 * u, 0.9 * u, 0.2 * u), 100, settings=(0, 40), start=(0, 30),
        span=180, drift=0.1, surroundings=Surroundings(air=Air(0.25), empty=EmptyRun(40, 1.0)),
    ),
    "capillary": Plan(
        FORSTERITE, lambda u: cylinder(0.35 * u, 0.75 * u, 1.6 * u), 10, step=1.0, tube=1.25,
        turn_body=False,
        surroundings=Surroundings(air=Air(0.15), capillary=Capillary(0.5),
                                  empty=EmptyRun(1, 100.0)),
    ),
    "polar hexagonal": Plan(
        ZINCITE, lambda u: ellipsoid(0.3 * u, 0.9 * u, 0.55 * u), 2, settings=(0, 50),
        start=(0, 60), span=180, step=0.5, monitor="good",
        surroundings=Surroundings(air=Air(0.2), empty=EmptyRun(180, 0.5)),
    ),
    "small beam": Plan(
        QUARTZ, lambda u: facets(PRISM, np.array([0.5] * 6 + [0.85] * 6) * u), 30,
        settings=(0, 35, 70), start=(0, 40, 80), span=180, monitor="bad", drift=0.2, axis=X,
        beam=Beam((1.0, 1.0)),
        surroundings=Surroundings(walls=Walls(1.5, "Be"), air=Air(0.1),
                                  empty=EmptyRun(20, 2.0, 0.9)),
    ),
    "organic": Plan(
        NAPHTHALENE, lambda u: plate(0.08 * u, 0.08 * u, 0.012 * u), 30, step=1.0, opening=40,
        surroundings=Surroundings(air=Air(0.6), ice=Ice(2.0, 0.3)),
    ),
    "needle": Plan(
        CHALCANTHITE, lambda u: cylinder(0.25 * u, 0.5 * u, 0.9 * u), 100, settings=(0, 30, 60),
        start=(0, 20, 40), span=180, monitor="none", drift=0.1, attenuators=(1.0, 0.3),
    ),
    "undetermined": Plan(
        POLAR, lambda u: plate(1.0 * u, 0.8 * u, 0.3 * u), 50, span=90, step=0.5, side=1.0,
        monitor="bad", drift=0.1, surroundings=Surroundings(air=Air(0.2)),
    ),
    "diamond cell": Plan(
        FLUORITE, lambda u: plate(0.7 * u, 0.7 * u, 0.25 * u), 300, settings=(0, 25),
        start=(-55, -55), span=110, step=0.5, drift=0.05, attenuators=(1.0,), leaks=4,
        beam=Beam((0.9, 0.9)), opening=35,
        surroundings=Surroundings(air=Air(0.5), diamonds=Diamonds(2e3), fluorescence=0.2),
    ),
    "furnace": Plan(
        SCHEELITE, lambda u: ellipsoid(0.35 * u, 0.7 * u, 0.7 * u), 100, settings=(0, 45),
        start=(0, 90), span=180, step=0.5, opening=40, attenuators=(1.0, 0.1), axis=X,
        surroundings=Surroundings(walls=Walls(1.5, "Al", texture=0.4), air=Air(0.2),
                                  fluorescence=0.15),
    ),
}  # fmt: skip

OUT = {
    "diamond cell": 9.0,
    "furnace": 3.5,
}  # μ of fluorescence on its way out over that of the beam


def sensor(wavelength: float) -> tuple[float, float]:
    """Return thickness (m) and attenuation (1/m) of a sensor of 0.45 mm of silicon."""
    return 4.5e-4, 1e3 * attenuation({"Si": 8}, 5.431**3, wavelength)


def world(name: str, seed: int, shape: tuple[int, int] = (240, 256), **changes: object) -> World:
    """Return a world of the catalogue.

    Parameters
    ----------
    shape
        Pixels, slow and fast; the detector's size stays.
    changes
        Fields of the plan to replace, such as counts, span or surroundings.
    """
    plan, rng = replace(PLANS[name], **changes), rng_of(seed, name)  # type: ignore[arg-type]
    crystal = plan.crystal
    optics = Optics(
        _instrument(plan, shape, rng), rng.uniform(0.9, 0.99), sensor(crystal.wavelength)
    )
    scans = tuple(
        Scan(
            plan.axis, start, plan.step, round(plan.span / plan.step), rotation(_across(plan), chi)
        )
        for start, chi in zip(plan.start, plan.settings, strict=True)
    )
    absorber = _absorber(plan, rng)
    surroundings = _surroundings(plan, name, scans, absorber.mu, rng)
    beam = [_beam(scan.n_frames, plan.drift, rng) for scan in scans]
    attenuator = [_steps(scan.n_frames, plan.attenuators) for scan in scans]
    made = World(
        name=name, seed=seed, crystal=crystal, U=Rotation.random(rng=rng).as_matrix(),
        optics=optics, scans=scans, absorber=absorber, surroundings=surroundings,
        blind=_blind(optics, rng), beam=beam, attenuator=attenuator,
        monitor=_monitor(beam, plan.monitor, rng), counts_per_voxel=plan.counts,
    )  # fmt: skip
    return made


def _across(plan: Plan) -> Array:
    """Return the axis of chi: across the beam and the axis of the scan."""
    return np.cross(plan.axis, [0, 0, 1.0])


def _instrument(plan: Plan, shape: tuple[int, int], rng: np.random.Generator) -> Instrument:
    width = 0.128  # m
    pixel = width / max(shape)
    size = np.array(shape) * pixel
    distance = size.min() / 2 / np.tan(np.radians(plan.opening))
    tilt = rotation(rng.normal(size=3), rng.uniform(0.5, 2.5))
    fast, slow = tilt @ X, tilt @ -Y
    shift = rng.uniform(-0.1, 0.1, 2) + np.array([0, plan.side])
    centre = np.array(shape) / 2 * (1 - shift)
    origin = tilt @ [0, 0, distance] - pixel * (centre[0] * slow + centre[1] * fast)
    return Instrument(plan.crystal.wavelength, pixel, shape, origin, fast, slow)


def _absorber(plan: Plan, rng: np.random.Generator) -> Absorber:
    mu = plan.crystal.mu
    unit = 1 / mu * rng.uniform(0.9, 1.1)
    body = plan.body(unit)
    if plan.turn_body:
        R = rotation(rng.normal(size=3), rng.uniform(10, 40))
        planes = np.c_[body.planes[:, :3] @ R.T, body.planes[:, 3]]
        body = replace(body, planes=planes, quadrics=R @ body.quadrics @ R.T)
    fwhm = plan.beam.fwhm
    beam = Beam((fwhm[0] * unit, fwhm[1] * unit)) if fwhm else plan.beam
    radius = plan.tube * max(body.size[:2])
    tube = Tube(radius, 1.12 * radius, 1.5 * body.reach, 0.3) if plan.tube else None
    return Absorber(body, mu, beam, tube)


def _surroundings(
    plan: Plan, name: str, scans: tuple[Scan, ...], mu: float, rng: np.random.Generator
) -> Surroundings:
    e = plan.surroundings
    vary = {
        part: replace(value, level=value.level * rng.uniform(0.8, 1.25))
        for part in ("air", "walls", "ice", "capillary")
        if (value := getattr(e, part)) is not None
    }
    leaks = {}
    for _ in range(plan.leaks):
        r = int(rng.integers(len(scans)))
        leaks[r, int(rng.integers(scans[r].n_frames))] = float(rng.uniform(0.1, 0.6))
    out = OUT.get(name, 1.0) * mu
    return replace(e, **vary, leaks=leaks, fluorescence_mu=out)


def _beam(n: int, drift: float, rng: np.random.Generator) -> Array:
    """Return the incident intensity: a slow drift, top-ups, and noise of the source."""
    t = np.arange(n) / n
    slow = drift * (rng.uniform(-1, 1) * t + 0.5 * np.sin(2 * np.pi * (1.3 * t + rng.uniform())))
    top_up = 0.01 * ((np.arange(n) + rng.integers(40)) % 40) / 40
    return (1 + slow - top_up) * np.exp(0.002 * rng.normal(size=n))


def _steps(n: int, values: tuple[float, ...]) -> Array:
    block = np.arange(n) * 4 // n if len(values) > 1 else np.zeros(n, int)
    return np.array(values)[block % len(values)]


def _monitor(beam: list[Array], kind: str, rng: np.random.Generator) -> list[Array] | None:
    """Return what the monitor records: well, or with noise, an offset and a drift of its own."""
    if kind == "none":
        return None
    if kind == "good":
        return [rng.poisson(4e6 * b).astype(float) for b in beam]
    found = []
    for b in beam:
        own = 1 + rng.uniform(-0.1, 0.1) * np.linspace(-1, 1, len(b))
        found.append(np.round(4e5 * own * (b + 0.05) * (1 + 0.01 * rng.normal(size=len(b)))))
    return found


def _blind(optics: Optics, rng: np.random.Generator) -> np.ndarray:
    """Return True for gaps between four modules, for the beam stop and for some pixels."""
    shape = optics.instrument.shape
    i, j = np.indices(shape)
    blind = (abs(i - shape[0] // 2) < 3) | (abs(j - shape[1] // 2) < 3)
    blind |= np.degrees(np.arccos(optics.rays()[0][..., 2])) < 2.2
    return blind | (rng.random(shape) < 0.001)
