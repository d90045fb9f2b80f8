"""Simulated rotations with known intensities, and what integration needs to know of them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow import geometry
from hklflow.bragg.measurement import Measurement
from hklflow.geometry import symmetry
from hklflow.simulation.frames import (
    GAP_VALUE,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)

_X, _Z = 0.19, 0.25
#: Atoms on 2a, 2c and 6h of P 63/m m c: intensities over four decades, and absences by the screw
#: axis and the glide plane.
_HEXAGONAL = (
    *((0.0, 0.0, 0.0, 1.3), (0.0, 0.0, 0.5, 1.3)),
    *((1 / 3, 2 / 3, _Z, 2.0), (2 / 3, 1 / 3, 1 - _Z, 2.0)),
    *((_X, 2 * _X, _Z, 1.0), (-2 * _X, -_X, _Z, 1.0), (_X, -_X, _Z, 1.0)),
    *((-_X, -2 * _X, 1 - _Z, 1.0), (2 * _X, _X, 1 - _Z, 1.0), (-_X, _X, 1 - _Z, 1.0)),
)
_TRICLINIC = ((0.0, 0.0, 0.0, 1.0), (0.21, 0.37, 0.11, 2.0), (0.62, 0.14, 0.45, 1.5))

CRYSTALS = {
    "hexagonal": CrystalModel(
        (7.1, 7.1, 10.3, 90.0, 90.0, 120.0),
        orientation=(0.4, -0.3, 0.9),
        atoms=_HEXAGONAL,
        b_iso=1.2,
        scale=0.003,
        mosaic=np.radians(0.3),
        spot_sigma=(0.9, 1.1),
    ),
    "triclinic": CrystalModel(
        (6.1, 7.4, 9.0, 83.0, 97.0, 104.0),
        orientation=(0.5, 0.8, -0.2),
        atoms=_TRICLINIC,
        b_iso=1.5,
        scale=0.008,
        mosaic=np.radians(0.3),
        spot_sigma=(0.9, 1.1),
    ),
}
SPACE_GROUPS = {"hexagonal": "P 63/m m c", "triclinic": "P -1"}
#: Settings of the axis below the scanned one, radians.
SETTINGS = (0.0, 0.9)


def group(crystal: str) -> symmetry.SpaceGroup:
    """Space group of one of `CRYSTALS`."""
    return symmetry.space_group(SPACE_GROUPS[crystal])


def scan(
    crystal: str = "hexagonal",
    *,
    setting: int = 0,
    n_frames: int = 160,
    flux: float = 3.0,
    seed: int = 1,
    diffuse: Diffuse | None = None,
    detector: dict[str, Any] | None = None,
    sample: dict[str, Any] | None = None,
    **more: Any,
) -> Simulation:
    """Simulate 80 degrees in 160 frames of 200 x 200 pixels.

    Parameters
    ----------
    setting
        Number of one of `SETTINGS`.
    flux
        Counts that S = 1 gives; the diffuse S is 0.05 unless it is given.
    detector, sample
        Fields of `DetectorModel` and `CrystalModel` that differ.
    more
        Fields of `ScanModel` that differ.
    """
    described: dict[str, Any] = {
        "shape": (200, 200),
        "distance": 0.11,
        "foot": (97.0, 104.0),
        "pixel_size": (6e-4, 6e-4),
        "tilt": (0.03, -0.02),
        "sensor_thickness": 4.5e-4,
        "sensor_attenuation": 1500.0,
    }
    return Simulation(
        DetectorModel(**{**described, **(detector or {})}),
        GoniometerModel(
            ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0)),
            (SETTINGS[setting], 0.0),
            ("chi", "phi"),
            1,
        ),
        ScanModel(
            **{
                "start": -0.6,
                "step": np.radians(0.5),
                "n_frames": n_frames,
                "wavelength": 0.6,
                "polarization": 0.9,
                "flux": flux,
                "drift": 0.2,
                "seed": seed,
                **more,
            }
        ),
        replace(CRYSTALS[crystal], **(sample or {})),
        diffuse or Diffuse(flat=0.05),
    )


def rotation_of(simulation: Simulation) -> geometry.Rotation:
    """Geometry as simulated."""
    header = simulation.raw_header()
    return geometry.Rotation(
        geometry.Beam(header["wavelength"], header["polarization"]),
        geometry.Detector(
            header["shape"],
            header["pixel_size"],
            header["origin"],
            header["slow"],
            header["fast"],
            header["sensor_thickness"],
            simulation.detector.sensor_attenuation,
        ),
        geometry.Goniometer(
            header["axis_names"], header["axes"], header["angles"], header["scan_axis"]
        ),
        geometry.Scan(header["start"], header["step"], header["n_frames"]),
    )


def measurement(simulation: Simulation, read_noise: float = 0.0, block: int = 16) -> Measurement:
    """Frames and true norms; they are drawn once, however often they are asked for.

    Parameters
    ----------
    read_noise
        Standard deviation in photons; above 0 the frames are those of an integrating detector.
    """
    counts: NDArray[Any] = np.concatenate(list(simulation.frames(block=32)))
    variance = None
    if read_noise > 0:
        noise = np.random.default_rng(simulation.scan.seed + 1).normal(0, read_noise, counts.shape)
        counts = np.where(counts == GAP_VALUE, np.nan, counts + noise).astype(np.float32)
        variance = np.full(simulation.detector.shape, read_noise**2, np.float32)

    def blocks() -> Iterator[NDArray[Any]]:
        for first in range(0, len(counts), block):
            yield counts[first : first + block]

    # The simulator's norm of one frame holds the frame's factor.
    pixels = simulation.norm(0, 1)[0] / simulation.scan.frame_factor[0]
    return Measurement(
        rotation_of(simulation),
        pixels,
        simulation.scan.frame_factor,
        blocks,
        invalid_from=float(GAP_VALUE),
        valid_from=-np.inf if read_noise > 0 else 0.0,
        read_variance=variance,
    )
