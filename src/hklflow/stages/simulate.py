"""Simulate a raw file: one rotation scan (NXmx or CBF series) or a powder image.

Simulations serve the demo and the tests, and let you test a strategy before the beamtime. The
description contains the true parameters, and `build` makes the simulation from it.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, TypeAdapter

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.simulation.frames import DetectorModel, Simulation

VERSION = 1


class Inputs(stage.Inputs):
    """No input files."""


class Outputs(stage.Outputs):
    raw: Path
    """Raw file: `.nxs` for a scan, an image format for a powder pattern."""


class Detector(stage.Params):
    """The simulated detector; lengths in m, angles in degrees, positions in pixels (slow, fast)."""

    modules: tuple[int, int] = (1, 1)
    module_shape: tuple[int, int]
    gap: tuple[int, int] = (0, 0)
    pixel_size: tuple[float, float]
    distance: float = Field(gt=0)
    foot: tuple[float, float]
    tilt: tuple[float, float] = (0.0, 0.0)
    in_plane: float = 0.0
    n_dead: int = 0
    n_hot: int = 0
    hot_counts: float = 100.0
    sensor_thickness: float | None = None
    sensor_attenuation: float | None = None
    halo_fraction: float = 0.0
    halo_sigma: float = 12.0
    halo_minimum: float = 0.0
    seed: int = 0


class Powder(stage.Params):
    """Parameters of a calibrant image."""

    calibrant: str = "CeO2"
    ring_width: float = Field(0.05, gt=0)
    """Standard deviation in 2θ, degrees."""
    peak_counts: float = Field(1000.0, gt=0)
    background: float = Field(5.0, ge=0)
    """Air scatter near the beam in counts."""


class Description(stage.Params):
    """Description of a simulation."""

    detector: Detector
    wavelength: float = Field(gt=0)
    """Wavelength in Å."""
    polarization: float = 0.99
    axes: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    """Goniometer axes as lab vectors; the axis fixed to the laboratory comes first."""
    angles: dict[str, float] = Field(default_factory=dict)
    """Angles of the axes in degrees."""
    scan_axis: str = ""
    start: float = 0.0
    """Start angle of the scan in degrees."""
    step: float = 0.1
    """Angle of one frame in degrees."""
    n_frames: int = Field(1, ge=1)
    flux: float = 1.0
    """Counts in one frame for S = 1 in a pixel at normal incidence."""
    drift: float = 0.0
    transmission_swing: float = Field(0.0, ge=0, lt=1)
    """Relative amplitude by which the transmission of the sample varies over the scan."""
    transmission_level: float = Field(1.0, gt=0, le=1)
    """Largest transmission of the sample in the scan."""
    temperature: float = 300.0
    """Temperature in K."""
    crystal: dict[str, Any] = Field(default_factory=dict)
    """Fields of `hklflow.simulation.frames.CrystalModel`."""
    diffuse: dict[str, Any] = Field(default_factory=dict)
    """Fields of `hklflow.simulation.frames.Diffuse`."""
    background: dict[str, float] = Field(default_factory=dict)
    """Fields of `hklflow.simulation.frames.Background`."""
    powder: Powder | None = None
    """Make a powder image instead of a scan."""
    seed: int = 0


class Params(stage.Params):
    description: str
    """Description of the simulation: a `Description` as JSON."""


def build(description: Description) -> "Simulation":
    """Make the simulation from a description; tests also use it to know the true values."""
    from hklflow.simulation import frames as simulate

    swing = description.transmission_swing
    turn = 2 * math.pi / description.n_frames
    transmission = tuple(
        description.transmission_level * (1 + swing * math.cos(turn * (z + 0.5))) / (1 + swing)
        for z in range(description.n_frames)
    )
    names = tuple(description.axes)
    return simulate.Simulation(
        detector=_detector(description.detector),
        goniometer=simulate.GoniometerModel(
            axes=tuple(description.axes.values()),
            angles=tuple(math.radians(description.angles.get(name, 0.0)) for name in names),
            names=names,
            scan=names.index(description.scan_axis),
        ),
        scan=simulate.ScanModel(
            start=math.radians(description.start),
            step=math.radians(description.step),
            n_frames=description.n_frames,
            wavelength=description.wavelength,
            polarization=description.polarization,
            flux=description.flux,
            drift=description.drift,
            transmission=transmission,
            temperature=description.temperature,
            seed=description.seed,
        ),
        crystal=TypeAdapter(simulate.CrystalModel).validate_python(description.crystal),
        diffuse=TypeAdapter(simulate.Diffuse).validate_python(description.diffuse),
        background=TypeAdapter(simulate.Background).validate_python(description.background),
    )


def _detector(detector: Detector) -> "DetectorModel":
    from hklflow.simulation import frames as simulate

    shape, gaps = simulate.module_gaps(detector.modules, detector.module_shape, detector.gap)
    rest = detector.model_dump(exclude={"modules", "module_shape", "gap", "tilt", "in_plane"})
    return simulate.DetectorModel(
        shape=shape,
        gaps=gaps,
        tilt=(math.radians(detector.tilt[0]), math.radians(detector.tilt[1])),
        in_plane=math.radians(detector.in_plane),
        **rest,
    )


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Simulate the data and write the raw file."""
    from hklflow.formats import write_images, write_raw
    from hklflow.simulation import frames as simulate
    from hklflow.simulation.powder import powder_image

    description = Description.model_validate_json(params.description)
    if description.powder is not None:
        powder = description.powder
        image = powder_image(
            _detector(description.detector),
            description.wavelength,
            powder.calibrant,
            ring_width=math.radians(powder.ring_width),
            peak_counts=powder.peak_counts,
            background=simulate.Background(air=powder.background),
            polarization=description.polarization,
            seed=description.seed,
        )
        write_images.write_image(outputs.raw, image)
        return
    simulation = build(description)
    n = description.n_frames
    header = write_raw.NXmxHeader(**simulation.raw_header())
    with write_raw.NXmxWriter(outputs.raw, header) as writer:
        for block in stage.progress(simulation.frames(block=16), n, "simulated frames", len):
            writer.append(block)


if __name__ == "__main__":
    stage.command(main)
