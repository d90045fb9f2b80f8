"""`geometry.rotation` and PONI conversion against pyFAI, which computes both on its own."""

import numpy as np
import pytest
from pyFAI.detectors import Detector as PyfaiDetector
from pyFAI.geometry import Geometry

from hklflow import geometry
from hklflow.formats.poni import detector_from_poni, poni_from_detector

SHAPE = (23, 31)
NAMES = ("dist", "poni1", "poni2", "rot1", "rot2", "rot3")


def random_parameters(rng):
    rot1, rot2 = rng.uniform(-0.6, 0.6, 2)
    return {
        "dist": rng.uniform(0.05, 1.0),
        "poni1": rng.uniform(-0.1, 0.1),
        "poni2": rng.uniform(-0.1, 0.1),
        "rot1": rot1,
        "rot2": rot2,
        "rot3": rng.uniform(-1.4, 1.4),
        "pixel1": rng.uniform(1e-4, 2e-3),
        "pixel2": rng.uniform(1e-4, 2e-3),
    }


def difference_of_angles(a, b):
    return np.abs((a - b + np.pi) % (2 * np.pi) - np.pi)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_two_theta_and_azimuth_of_all_pixels(orientation):
    rng = np.random.default_rng(20 + orientation)
    for _ in range(25):
        p = random_parameters(rng)
        oracle = Geometry(
            **{name: p[name] for name in NAMES},
            detector=PyfaiDetector(
                p["pixel1"], p["pixel2"], max_shape=SHAPE, orientation=orientation
            ),
        )
        ours = detector_from_poni(**p, shape=SHAPE, orientation=orientation)
        two_theta = geometry.two_theta(ours)
        assert np.abs(two_theta - oracle.center_array(SHAPE, unit="2th_rad")).max() < 1e-9
        # Near the beam a rounding error of the position is a large error of azimuth.
        far = two_theta > 1e-4
        chi = difference_of_angles(
            geometry.azimuth(ours), oracle.center_array(SHAPE, unit="chi_rad")
        )
        assert chi[far].max() < 1e-9
        z, y, x = oracle.calc_pos_zyx(corners=False)
        # pyFAI's (z, y, x) are its axes (3, 1, 2); pixel positions are in single precision.
        lab = np.stack([-x, y, z], axis=-1)
        assert np.abs(lab - ours.pixel_centres()).max() < 1e-8


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_round_trip(orientation):
    rng = np.random.default_rng(30 + orientation)
    for _ in range(50):
        p = random_parameters(rng)
        detector = detector_from_poni(**p, shape=SHAPE, orientation=orientation)
        back = poni_from_detector(detector, orientation)
        for name, value in p.items():
            assert getattr(back, name) == pytest.approx(value, abs=1e-12)
        assert back.orientation == orientation
        again = back.detector()
        assert np.abs(again.origin - detector.origin).max() < 1e-12


def test_the_orientation_found_describes_the_same_pixels():
    rng = np.random.default_rng(5)
    for orientation in (1, 2, 3, 4):
        p = random_parameters(rng)
        detector = detector_from_poni(**p, shape=SHAPE, orientation=orientation)
        found = poni_from_detector(detector)
        assert abs(found.rot3) <= np.pi / 2 + 1e-12
        positions = found.detector().pixel_centres()
        assert np.abs(positions - detector.pixel_centres()).max() < 1e-12
