"""`geometry.corrections` against pyFAI, plain formulas and the simulator's norm."""

import numpy as np
import pytest
from pyFAI.detectors import Detector as PyfaiDetector
from pyFAI.geometry import Geometry

from hklflow import geometry
from hklflow.formats.poni import detector_from_poni
from hklflow.geometry import corrections
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    GoniometerModel,
    ScanModel,
    Simulation,
)

SHAPE = (37, 45)


def random_poni(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {
        "dist": rng.uniform(0.1, 0.4),
        "poni1": rng.uniform(-0.05, 0.05),
        "poni2": rng.uniform(-0.05, 0.05),
        "rot1": rng.uniform(-0.5, 0.5),
        "rot2": rng.uniform(-0.5, 0.5),
        "rot3": rng.uniform(-1.0, 1.0),
        "pixel1": 2e-3,
        "pixel2": 3e-3,
    }


def both(seed: int) -> tuple[geometry.Detector, Geometry]:
    p = random_poni(seed)
    names = ("dist", "poni1", "poni2", "rot1", "rot2", "rot3")
    oracle = Geometry(
        **{name: p[name] for name in names},
        detector=PyfaiDetector(p["pixel1"], p["pixel2"], max_shape=SHAPE),
    )
    return detector_from_poni(**p, shape=SHAPE), oracle


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_polarization_is_pyfais(seed: int, fraction: float) -> None:
    ours, oracle = both(seed)
    # pyFAI's factor is (I_horizontal - I_vertical) / (I_horizontal + I_vertical); it
    # returns single precision.
    expected = oracle.polarization(SHAPE, factor=2 * fraction - 1)
    assert np.abs(corrections.polarization(ours, fraction) - expected).max() < 1e-6


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_solid_angle_is_pyfais(seed: int) -> None:
    ours, oracle = both(seed)
    # pyFAI's array (order 3) comes from pixel positions in single precision; the cosine
    # it is the cube of can be had in double.
    expected = oracle.solidAngleArray(SHAPE, order=3, absolute=False)
    assert np.abs(corrections.solid_angle(ours) - expected).max() < 3e-7
    cosine = Geometry.cos_incidence(oracle, *np.indices(SHAPE, dtype=np.float64), path="numpy")
    assert np.abs(corrections.solid_angle(ours) - cosine**3).max() < 1e-9


def test_solid_angle_is_that_of_the_pixels_corners() -> None:
    # Exact solid angle of a rectangle from four arctangents of its corners, seen from the
    # sample; small pixels, so that the centre stands for the whole to (pixel / distance)².
    ours = geometry.Detector(
        (9, 11),
        (1e-4, 1e-4),
        np.array([0.03, 0.02, 0.1]),
        np.array([0, -1, 0]),
        np.array([-1, 0, 0]),
    )
    y = 0.02 - 1e-4 * np.arange(10)
    x = 0.03 - 1e-4 * np.arange(12)
    corner = np.arctan(y[:, None] * x / (0.1 * np.sqrt(y[:, None] ** 2 + x**2 + 0.1**2)))
    exact = corner[:-1, :-1] - corner[1:, :-1] - corner[:-1, 1:] + corner[1:, 1:]
    assert corrections.solid_angle(ours) * 1e-6 == pytest.approx(exact, rel=2e-6)


@pytest.mark.parametrize("degrees", [0.0, 20.0, 45.0, 70.0])
def test_sensor_efficiency_at_known_angles(degrees: float) -> None:
    # One pixel whose centre is seen at the angle of incidence; Si at 60 keV and thick CdTe.
    angle = np.radians(degrees)
    for thickness, attenuation in ((450e-6, 74.0), (1e-3, 3500.0)):
        one = geometry.Detector(
            (1, 1),
            (1e-6, 1e-6),
            np.array([np.tan(angle) + 0.5e-6, 0.5e-6, 1.0]),
            np.array([0, -1, 0]),
            np.array([-1, 0, 0]),
            thickness,
            attenuation,
        )
        expected = 1 - np.exp(-attenuation * thickness / np.cos(angle))
        assert corrections.sensor_efficiency(one)[0, 0] == pytest.approx(expected, rel=1e-12)


def test_without_a_sensor_every_photon_counts() -> None:
    ours, _ = both(1)
    assert np.all(corrections.sensor_efficiency(ours) == 1)


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.3, -0.2), (-0.4, 0.35)])
def test_all_factors_are_the_simulators_norm(tilt: tuple[float, float]) -> None:
    model = DetectorModel(
        SHAPE,
        distance=0.11,
        foot=(12.0, 30.0),
        pixel_size=(2e-3, 1.5e-3),
        tilt=tilt,
        in_plane=0.4,
        gaps=((10, 13, 0, 45),),
        sensor_thickness=320e-6,
        sensor_attenuation=1700.0,
    )
    scan = ScanModel(
        start=0.0,
        step=0.01,
        n_frames=4,
        wavelength=0.7,
        polarization=0.93,
        flux=7.0,
        exposure=0.2,
        drift=-0.2,
        transmission=(1.0, 0.9, 0.8, 0.95),
        attenuator=0.3,
    )
    crystal = CrystalModel((4.0, 4.0, 4.0, 90.0, 90.0, 90.0))
    simulation = Simulation(model, GoniometerModel(), scan, crystal)
    header = simulation.raw_header()
    ours = geometry.Detector(
        header["shape"],
        header["pixel_size"],
        header["origin"],
        header["slow"],
        header["fast"],
        header["sensor_thickness"],
        model.sensor_attenuation,
    )
    pixel = corrections.solid_angle(ours)
    pixel = pixel * corrections.polarization(ours, header["polarization"])
    pixel = pixel * corrections.sensor_efficiency(ours) * (header["pixel_mask"] == 0)
    frame = header["monitor"] * header["attenuator_transmission"] * np.array(scan.transmission)
    assert frame[:, None, None] * pixel == pytest.approx(simulation.norm(), rel=1e-9)
    # The factors do vary: leaving one out would be seen.
    for factor in (corrections.solid_angle(ours), corrections.sensor_efficiency(ours)):
        assert np.ptp(factor) > 0.05
