"""Powder calibration against images made by a separate, plain vector formula."""

import numpy as np
import pytest
from powder_images import PIXEL, SHAPE, TRUTH, WAVELENGTH, d_spacings, simulate, true_centre
from tests.truth.defaults import calibrate_powder

from hklflow.base.errors import HklflowError
from hklflow.calibration.calibrants import read_calibrant
from hklflow.calibration.powder_guess import find_beam_centre, find_distance

# What a fit refines.
PARAMETERS = ("dist", "poni1", "poni2", "rot1", "rot2")


def calibrate(image, bad, name, **changes):
    options = {
        "calibrant": name,
        "wavelength": WAVELENGTH,
        "pixel_size": (PIXEL, PIXEL),
        "orientation": 3,
        # 1 % and some pixels off.
        "distance": 0.202,
        "beam_centre": tuple(true_centre() + np.array([3, -4])),
    }
    return calibrate_powder(image, bad, **{**options, **changes})


@pytest.fixture(scope="module")
def results():
    runs = [("CeO2", 1), ("CeO2", 2), ("LaB6", 4), ("LaB6", 5)]
    return [calibrate(*simulate(name, seed), name) for name, seed in runs]


@pytest.mark.slow
def test_recovers_the_truth(results):
    assert len(results) == 4
    for result in results:
        assert np.abs(np.array(result.beam_centre) - true_centre()).max() < 0.05
        assert result.poni.dist == pytest.approx(TRUTH["dist"], rel=5e-5)
        for name in ("rot1", "rot2"):
            assert getattr(result.poni, name) == pytest.approx(TRUTH[name], abs=2e-4)
        assert result.poni.rot3 == pytest.approx(0, abs=1e-12)
        # A ring's centre is known to a fraction of a pixel, which is 0.05°.
        assert result.rms_deg < 0.01
        assert len(result.rings) >= 6
        assert len(result.points) > 100
        assert set(result.ring_rms_deg) == set(result.two_theta_deg)


def test_errors_are_honest(results):
    pulls = np.array(
        [
            [(getattr(r.poni, name) - TRUTH[name]) / r.sigma[name] for name in PARAMETERS]
            for r in results
        ]
    )
    centre = np.array(
        [(np.array(r.beam_centre) - true_centre()) / r.beam_centre_sigma for r in results]
    )
    assert np.abs(pulls).max() < 4
    assert np.abs(centre).max() < 4
    # 20 numbers, of which about 12 are independent: the width of unit pulls is known to 20 %.
    assert 0.5 < np.sqrt(np.mean(pulls**2)) < 1.6
    assert 0.7 < np.mean([r.chi2 for r in results]) < 1.3


def test_covariance_is_consistent(results):
    result = results[0]
    sigma = np.array([result.sigma[name] for name in PARAMETERS])
    np.testing.assert_allclose(np.diag(result.covariance), sigma**2)
    np.testing.assert_allclose(np.diag(result.correlation), 1)
    assert np.abs(result.correlation).max() <= 1 + 1e-12


def test_blind():
    image, bad = simulate("CeO2", 7)
    result = calibrate(image, bad, "CeO2", distance=None, beam_centre=None)
    assert np.abs(np.array(result.beam_centre) - true_centre()).max() < 0.05
    assert result.poni.dist == pytest.approx(TRUTH["dist"], rel=5e-5)


@pytest.mark.parametrize("orientation", [1, 2])
def test_orientation_of_the_image(orientation, results):
    """The same detector with rows or columns in reverse order has the same parameters."""
    image, bad = simulate("CeO2", 1)
    rows = slice(None, None, -1) if orientation in (1, 2) else slice(None)
    columns = slice(None, None, -1) if orientation in (1, 4) else slice(None)
    slow, fast = true_centre()
    slow = SHAPE[0] - slow if orientation in (1, 2) else slow
    fast = SHAPE[1] - fast if orientation in (1, 4) else fast
    result = calibrate(
        image[rows, columns],
        bad[rows, columns],
        "CeO2",
        orientation=orientation,
        beam_centre=(slow, fast),
    )
    for name in PARAMETERS:
        # The sums run in another order and the fit stops within a tenth of σ.
        difference = getattr(result.poni, name) - getattr(results[0].poni, name)
        assert abs(difference) < 0.3 * result.sigma[name]


def test_too_little_signal_is_an_error():
    rng = np.random.default_rng(3)
    flat = rng.poisson(30, SHAPE)
    bad = np.zeros(SHAPE, bool)
    with pytest.raises(HklflowError, match=r"points .*needed|geometry still moved"):
        calibrate(flat, bad, "CeO2")
    with pytest.raises(HklflowError, match="no beam centre found"):
        find_beam_centre(flat, bad)
    rings = read_calibrant("CeO2").two_theta(WAVELENGTH)
    with pytest.raises(HklflowError, match="no distance found"):
        find_distance(flat, bad, (250.0, 240.0), (PIXEL, PIXEL), rings)


def test_too_few_rings_is_an_error():
    image, bad = simulate("CeO2", 1)
    with pytest.raises(HklflowError, match=r"on \d+ rings of CeO2 .*40 rings are needed"):
        calibrate(image, bad, "CeO2", min_rings=40)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibrant": "Cheese"}, "Cheese"),
        ({"orientation": 5}, "orientation 5"),
    ],
)
def test_bad_input(changes, message):
    image, bad = np.zeros((20, 20)), np.zeros((20, 20), bool)
    with pytest.raises(HklflowError, match=message):
        calibrate(image, bad, "CeO2", **changes)
    with pytest.raises(HklflowError, match="mask"):
        calibrate(image, bad[1:], "CeO2")


@pytest.mark.parametrize("name", ["CeO2", "LaB6"])
def test_ring_angles(name):
    """pyFAI's table against the cell; its cells are of other SRM certificates (within 1e-5)."""
    ours = read_calibrant(name).two_theta(WAVELENGTH)[:10]
    d = np.sort(d_spacings(name))[::-1][:10]
    np.testing.assert_allclose(ours, 2 * np.arcsin(WAVELENGTH / 2 / d), rtol=2e-5)
