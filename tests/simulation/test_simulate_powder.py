from dataclasses import replace

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.simulation.frames import Background, DetectorModel
from hklflow.simulation.powder import calibrant_rings, powder_expected, powder_image

DETECTOR = DetectorModel((260, 240), 0.1, (120.0, 118.0), tilt=(0.05, 0.02))


@pytest.mark.parametrize("name", ["CeO2", "LaB6", "Si"])
def test_rings_agree_with_pyfai(name):
    from pyFAI import calibrant as calibrant_module

    d, _ = calibrant_rings(name, 1.0)
    oracle = calibrant_module.get_calibrant(name)
    oracle.wavelength = 0.3e-10
    wanted = np.array([x for x in oracle.dspacing if x > 1.0])
    # Other certificates of the same powder differ by some 1e-5.
    np.testing.assert_allclose(d, wanted, rtol=5e-5)


def test_multiplicities_of_simple_cubic():
    d, multiplicity = calibrant_rings("LaB6", 4.156826 / np.sqrt(9.01))
    np.testing.assert_allclose(4.156826**2 / d**2, [1, 2, 3, 4, 5, 6, 8, 9])
    # {300} and {221} share a ring: 6 + 24.
    np.testing.assert_array_equal(multiplicity, [6, 12, 8, 6, 24, 24, 12, 30])


def test_unknown_calibrant():
    with pytest.raises(HklflowError, match="unknown calibrant"):
        calibrant_rings("NaCl", 1.0)


def test_ring_profile_is_a_gaussian_in_two_theta():
    d, wavelength, width = 3.0, 0.4, 4e-3
    image = powder_expected(
        DETECTOR, wavelength, [d], [100.0], ring_width=width, polarization=None, n_sub=4
    )
    rays = DETECTOR.pixel_rays()
    top = image / (rays @ DETECTOR.normal) ** 3
    two_theta = np.arccos(rays[..., 2])
    centre = 2 * np.arcsin(wavelength / (2 * d))
    near = abs(two_theta - centre) < 5 * width
    assert top[near].max() == pytest.approx(100.0, rel=0.02)
    # The image has the solid angle in it, so that pixels sum to sin 2θ d2θ.
    weight = image[near] / np.sin(two_theta[near])
    mean = np.sum(weight * two_theta[near]) / weight.sum()
    variance = np.sum(weight * (two_theta[near] - mean) ** 2) / weight.sum()
    assert mean == pytest.approx(centre, abs=0.02 * width)
    # A pixel of 1.7 mrad averages over 1.7²/12 more.
    assert np.sqrt(variance) == pytest.approx(np.hypot(width, 1.72e-3 / np.sqrt(12)), rel=0.02)


def test_image_is_poisson_with_gaps_and_hot_pixels():
    detector = replace(
        DETECTOR, gaps=((100, 107, 0, 240),), n_hot=5, hot_counts=1e5, n_dead=4, seed=2
    )
    image = powder_image(
        detector, 0.4, "CeO2", ring_width=4e-3, background=Background(air=50.0), seed=4
    )
    again = powder_image(
        detector, 0.4, "CeO2", ring_width=4e-3, background=Background(air=50.0), seed=4
    )
    np.testing.assert_array_equal(image, again)
    assert np.all(image[100:107] == -1)
    assert np.all(image[detector.dead_mask] == 0)
    assert np.all(image[detector.hot_mask] > 9e4)
    rest = image[~(detector.gap_mask | detector.hot_mask)]
    assert rest.min() >= 0
    assert 500 < rest.max() < 1400
