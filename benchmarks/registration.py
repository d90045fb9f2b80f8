"""Where a volume's features are: phases of a cosine phantom after the whole reduction.

S = 1 + small cosines along h, k and l, a tilted detector, a hexagonal cell, two settings of
the goniometer merged. Cosine and sine terms of the same periods are fitted to S = C / M in the
voxels that were measured (weights M); the phase is the shift of the volume against its axes.

    python -m benchmarks.registration
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from hklflow import geometry
from hklflow.geometry import corrections
from hklflow.simulation.frames import (
    Cosine,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.transform import binning

CELL = (4.5, 4.5, 7.0, 90.0, 90.0, 120.0)
PERIODS = (0.5, 0.5, 1.0)
VECTORS = ((2.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 1.0))


def two_settings(shape: tuple[int, int], n_frames: int, flux: float = 1.0) -> list[Simulation]:
    """One crystal, two settings of a kappa goniometer, everything in N that there is."""
    pixel = 0.1 / shape[0]
    detector = DetectorModel(
        shape,
        distance=0.2,
        foot=(0.42 * shape[0], 0.56 * shape[1]),
        pixel_size=(pixel, 0.9 * pixel),
        tilt=(0.11, -0.07),
        in_plane=0.2,
        gaps=((shape[0] // 2, shape[0] // 2 + 3, 0, shape[1]),),
        sensor_thickness=450e-6,
        sensor_attenuation=2300.0,
    )
    tilt = np.radians(50)
    axes = ((0.0, 1.0, 0.0), (0.0, float(np.cos(tilt)), float(np.sin(tilt))), (0.0, 1.0, 0.0))
    first = ScanModel(
        start=-0.4,
        step=np.radians(240) / n_frames,
        n_frames=n_frames,
        wavelength=0.8,
        polarization=0.95,
        flux=flux,
        drift=-0.3,
        transmission=tuple(1 + 0.25 * np.sin(np.arange(n_frames) / n_frames * 2 * np.pi)),
        attenuator=0.7,
        seed=1,
    )
    scans = [first, replace(first, start=2.0, drift=0.2, attenuator=1.0, seed=2)]
    return [
        Simulation(
            detector,
            GoniometerModel(axes, angles, ("omega", "kappa", "phi"), scan=2),
            scan,
            CrystalModel(CELL, orientation=(0.3, -0.5, 0.8)),
            Diffuse(flat=1.0, cosines=tuple(Cosine(0.15, v) for v in VECTORS)),
        )
        for scan, angles in zip(scans, ((0.1, 0.0, 0.0), (0.5, 1.2, 0.0)), strict=True)
    ]


def rotation_of(simulation: Simulation) -> geometry.Rotation:
    """Geometry for the reduction, from what the raw file says."""
    header = simulation.raw_header()
    return geometry.Rotation(
        geometry.Beam(header["wavelength"], header["polarization"]),
        geometry.Detector(
            header["shape"],
            header["pixel_size"],
            header["origin"],
            header["slow"],
            header["fast"],
            simulation.detector.sensor_thickness,
            simulation.detector.sensor_attenuation,
        ),
        geometry.Goniometer(
            header["axis_names"], header["axes"], header["angles"], header["scan_axis"]
        ),
        geometry.Scan(header["start"], header["step"], header["n_frames"]),
    )


def accumulator(
    simulation: Simulation,
    grid: binning.Grid,
    samples: tuple[int, int, int] = (1, 1, 1),
) -> binning.Accumulator:
    """Empty sums with N from `geometry.corrections`; monitor and transmission as handed over."""
    rotation = rotation_of(simulation)
    pixel_norm = simulation.live * corrections.solid_angle(rotation.detector)
    pixel_norm *= corrections.polarization(rotation.detector, rotation.beam.polarization)
    pixel_norm *= corrections.sensor_efficiency(rotation.detector)
    scan = simulation.scan
    frame_norm = scan.monitor * scan.attenuator * np.asarray(scan.transmission)
    return binning.Accumulator(
        rotation,
        simulation.ub,
        grid,
        pixel_norm,
        frame_norm,
        samples,
        binning.Readout(float(0xFFFFFFFF)),
        seed=scan.seed,
    )


def expected_blocks(simulation: Simulation, block: int = 8) -> Iterable[np.ndarray]:
    """Noise-free counts."""
    n = simulation.scan.n_frames
    for first in range(0, n, block):
        yield simulation.expected(first, min(first + block, n))


def merged(
    simulations: list[Simulation],
    grid: binning.Grid,
    samples: tuple[int, int, int] = (1, 1, 1),
    noise: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(C, M) of all settings."""
    counts, norm = np.zeros(grid.array_shape), np.zeros(grid.array_shape)
    for simulation in simulations:
        sums = accumulator(simulation, grid, samples)
        done = 0
        for block in simulation.frames(8) if noise else expected_blocks(simulation):
            sums.add(block, done)
            done += len(block)
        c, m = sums.total()
        counts += c
        norm += m
    return counts, norm


def fit(
    counts: np.ndarray, norm: np.ndarray, grid: binning.Grid
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift in voxels, its standard deviation, and amplitude of the cosine along each axis."""
    where = np.nonzero(norm > 0)
    weight = norm[where]
    columns = [np.ones(len(weight))]
    for i, period in enumerate(PERIODS):
        phase = 2 * np.pi * grid.axis(i)[where[2 - i]] / period
        columns += [np.cos(phase), np.sin(phase)]
    design = np.stack(columns, axis=1)
    inverse = np.linalg.inv(design.T @ (weight[:, None] * design))
    solution = inverse @ (design.T @ counts[where])
    cos, sin = solution[1::2], solution[2::2]
    amplitude = np.hypot(cos, sin)
    per_voxel = np.array(PERIODS) / grid.step / (2 * np.pi)
    sigma = np.sqrt(solution[0] * np.diag(inverse)[2::2]) / amplitude * per_voxel
    return np.arctan2(sin, cos) * per_voxel, sigma, amplitude


def main() -> None:
    """Print shifts for three reductions."""
    cases = (
        ("noise-free, 1 sub-sample", (0.06, 0.06, 0.1), (1, 1, 1), False),
        ("noise-free, (2, 2, 2) sub-samples", (0.04, 0.04, 0.07), (2, 2, 2), False),
        ("100 counts per pixel, (2, 2, 2)", (0.04, 0.04, 0.07), (2, 2, 2), True),
    )
    print(f"{'case':36s} {'shift along h, k, l in voxels':32s} {'its sigma':>9s}   amplitude")
    for name, step, samples, noise in cases:
        simulations = two_settings((160, 180), 480, flux=100.0 if noise else 1.0)
        grid = binning.Grid.covering(CELL, geometry.q_max(rotation_of(simulations[0])), step)
        shift, sigma, amplitude = fit(*merged(simulations, grid, samples, noise), grid)
        print(
            f"{name:36s} {' '.join(f'{x:+.5f}' for x in shift):32s} "
            f"{sigma.max() if noise else 0:9.5f}   {' '.join(f'{x:.4f}' for x in amplitude)}"
        )


if __name__ == "__main__":
    main()
