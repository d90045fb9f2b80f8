"""Series of simulated peaks with and without a phase transition, without frames.

Peaks come from the simulator's own Ewald solver with Gaussian errors; each crystal has its
transition (or none) below the parent at 300 K.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from hklflow import geometry
from hklflow.geometry import symmetry
from hklflow.orientation import transition
from hklflow.orientation.refinement import Peaks, Refined, RefinementLimits
from hklflow.quality import gates
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stage.scan_limits import ScanLimits
from tests.truth.defaults import refine

SIGMA = np.array([0.1, 0.1, 0.08])  # slow, fast, frame
FREE = ("cell", "orientation")
TETRAGONAL = CrystalModel(
    (5.6, 5.6, 5.75, 90, 90, 90),
    orientation=(0.4, -0.7, 0.3),
    scale=1.0,
    expansion=(1.2e-5, 1.2e-5, 2e-5),
)
HEXAGONAL = replace(TETRAGONAL, cell=(4.75, 4.75, 7.2, 90.0, 90.0, 120.0))
BODY_CENTRED = replace(TETRAGONAL, atoms=((0, 0, 0, 1), (0.5, 0.5, 0.5, 1)))
LIMITS = ScanLimits().limits()


def simulated(crystal: CrystalModel, temperature: float) -> Simulation:
    return Simulation(
        DetectorModel(
            (150, 150),
            distance=0.08,
            foot=(75.3, 79.2),
            pixel_size=(400e-6, 400e-6),
            tilt=(0.01, -0.012),
            in_plane=0.004,
        ),
        GoniometerModel(((-1.0, 0.0, 0.0),), (0.0,), ("phi",), 0),
        ScanModel(0.0, np.radians(1.2), 150, 0.6, temperature=temperature),
        crystal,
    )


def rotation_of(simulation: Simulation) -> geometry.Rotation:
    plate, scan = simulation.detector, simulation.scan
    return geometry.Rotation(
        geometry.Beam(scan.wavelength),
        geometry.Detector(plate.shape, plate.pixel_size, plate.origin, plate.slow, plate.fast),
        geometry.Goniometer.single(simulation.goniometer.axes[0]),
        geometry.Scan(scan.start, scan.step, scan.n_frames),
    )


def observed(
    simulation: Simulation, rng: np.random.Generator, spurious: int = 0
) -> tuple[Peaks, np.ndarray]:
    """Peaks with noise, some of them at random places, and their intensities."""
    truth = simulation.true_peaks()
    seen = truth.zeta > 0.06
    position = np.stack([truth.slow, truth.fast, truth.frame], axis=1)[seen]
    position = position + rng.normal(size=position.shape) * SIGMA
    position = np.vstack([position, rng.uniform(size=(spurious, 3)) * 150])
    variance = np.broadcast_to(SIGMA**2, position.shape)
    slow, fast, frame = position.T
    peaks = Peaks(frame, slow, fast, variance[:, 2], variance[:, 0], variance[:, 1])
    return peaks, np.append(truth.intensity[seen], np.zeros(spurious))


def measured(
    crystal: CrystalModel,
    symbol: str,
    temperature: float,
    seed: int = 1,
    start: Refined | None = None,
    spurious: int = 0,
) -> tuple[Refined, dict[str, Any]]:
    """Refine a scan from its parent (or from the truth) and take its figures."""
    simulation = simulated(crystal, temperature)
    group = symmetry.space_group(symbol)
    peaks, intensity = observed(simulation, np.random.default_rng(seed), spurious)
    refined = refine(
        [rotation_of(simulation)],
        [peaks],
        simulation.ub if start is None else start.ub,
        group,
        free=FREE,
        limits=RefinementLimits(hkl=0.15, min_fraction=0.2),
    )
    figures = transition.figures(
        refined, [peaks], group, free=FREE, limits=LIMITS, intensities=[intensity]
    )
    return refined, figures


def alarms(crystal: CrystalModel, symbol: str, seed: int) -> list[float]:
    """Temperatures of a series at which a gate fails, each scan against its parent at 300 K."""
    turn = np.random.default_rng(seed).normal(scale=0.1, size=3)
    drifted = replace(crystal, turn=tuple(turn))
    parent, before = measured(crystal, symbol, 300.0, 100 * seed, spurious=15)
    found = []
    for n, temperature in enumerate((300.0, 250.0, 200.0, 150.0, 100.0, 50.0)):
        _, figures = measured(drifted, symbol, temperature, 100 * seed + n, parent, spurious=15)
        identity = {
            "sample": "perov",
            "scan": f"{temperature:g}K",
            "temperature": temperature,
            "parent": "300K",
            "parent_temperature": 300.0,
            "space_group": symbol,
        }
        if gates.failures(figures, before, LIMITS, identity):
            found.append(temperature)
    return found


KINDS = [(TETRAGONAL, "P 4/m m m"), (HEXAGONAL, "P 6/m m m"), (BODY_CENTRED, "I 4/m m m")]
