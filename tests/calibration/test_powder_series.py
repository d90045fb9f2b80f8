"""Several powder images, one geometry: distances and angles of an arm that are known."""

import numpy as np
import pytest
from powder_images import PIXEL, TRUTH, WAVELENGTH, simulate, true_centre, turned
from tests.truth.defaults import calibrate_powder, powder_settings

from hklflow.base.errors import HklflowError
from hklflow.calibration import assess
from hklflow.calibration.powder_series import PowderImage, calibrate_powder_series

WRONG = WAVELENGTH * 1.001


def placed(offset=0.0, arm_deg=0.0):
    """Displace positions (up, right, beam): along the beam, then about the upward axis."""

    def moved(x):
        return turned(np.add(x, [0, 0, offset]), [1.0, 0, 0], np.radians(arm_deg))

    return moved


def taken(seed, offset=0.0, arm_deg=0.0, name="CeO2"):
    """An image; the arm's angles go towards lab x, which is to the left."""
    counts, bad = simulate(name, seed, moved=placed(offset, arm_deg))
    return PowderImage(counts, bad, offset, arm_deg)


def calibrated(images, free_wavelength=None, **changes):
    options = {
        "calibrant": "CeO2",
        "wavelength": WAVELENGTH,
        "pixel_size": (PIXEL, PIXEL),
        "orientation": 3,
        "distance": 0.202,
        "beam_centre": tuple(true_centre() + np.array([1.5, -1.5])),
    }
    settings = powder_settings(**{**options, **changes})
    return calibrate_powder_series(images, settings, free_wavelength=free_wavelength)


@pytest.fixture(scope="module")
def steps():
    return [taken(1), taken(2, offset=0.04)]


@pytest.fixture(scope="module")
def refined(steps):
    return calibrated(steps, wavelength=WRONG)


def pulls(found):
    truth = [TRUTH[name] for name in ("dist", "poni1", "poni2", "rot1", "rot2")] + [WAVELENGTH]
    values = [getattr(found.poni, name) for name in found.free]
    return (np.array(values) - truth[: len(found.free)]) / np.sqrt(np.diag(found.covariance))


def test_two_distances_give_the_wavelength(refined):
    assert refined.free[-1] == "wavelength"
    assert np.abs(pulls(refined)).max() < 4
    # One part in 1000 off at the start; known to some parts in 100 000.
    assert refined.wavelength == pytest.approx(WAVELENGTH, rel=1e-4)
    assert refined.wavelength_sigma < 5e-5 * WAVELENGTH
    assert refined.wavelength_given == WRONG
    sigma = np.sqrt(np.diag(refined.covariance))
    np.testing.assert_allclose(
        refined.correlation * np.outer(sigma, sigma), refined.covariance, rtol=1e-9
    )


def test_each_image_has_its_geometry(refined):
    for image, offset in zip(refined.images, (0.0, 0.04), strict=True):
        centre = true_centre(moved=placed(offset))
        off = np.subtract(image.beam_centre, centre)
        assert np.abs(off).max() < 0.02
        assert np.abs(off / image.beam_centre_sigma).max() < 4
        assert len(image.points) > 80
        assert image.wavelength_sigma == refined.wavelength_sigma
    distances = [image.direct_distance for image in refined.images]
    # The step is known, whatever the distance.
    assert distances[1] - distances[0] == pytest.approx(0.04, abs=1e-9)


@pytest.mark.slow
def test_a_wrong_wavelength_is_found_by_two_distances_only(steps, refined):
    given = assess.metrics(refined.images[0], given_wavelength=WRONG)
    gates = {g["name"]: g for g in assess.judge(given, assess.GateLimits())}
    assert not gates.pop("wavelength")["passed"]
    assert all(gate["passed"] for gate in gates.values())
    # Held at the wrong value, the two images contradict each other.
    held = calibrated(steps, wavelength=WRONG, free_wavelength=False)
    assert held.wavelength_sigma is None
    assert held.wavelength == WRONG
    for image in held.images:
        failed = {
            g["name"]
            for g in assess.judge(assess.metrics(image), assess.GateLimits())
            if not g["passed"]
        }
        assert failed & {"ring_pull", "ring_rms"}


def test_one_image_takes_a_wrong_wavelength(steps):
    """It fits as well as with the right one; its distance is wrong by as much.

    The angles of this image, up to 17°, tell an error of 1 in 1000 by the trend of Δd/d.
    """
    one = calibrate_powder(
        steps[0].counts,
        steps[0].bad,
        calibrant="CeO2",
        wavelength=1.0002 * WAVELENGTH,
        pixel_size=(PIXEL, PIXEL),
        orientation=3,
        distance=0.202,
        beam_centre=tuple(true_centre()),
    )
    metrics = assess.metrics(one)
    assert all(g["passed"] for g in assess.judge(metrics, assess.GateLimits()))
    assert "not refined" in metrics["wavelength"]["source"]
    assert one.poni.dist == pytest.approx(TRUTH["dist"] / 1.0002, rel=5e-5)


@pytest.mark.slow
def test_arm():
    images = [taken(3), taken(4, arm_deg=9.0)]
    found = calibrated(images)
    # An arm alone does not free the wavelength by itself.
    assert len(found.free) == 5
    assert np.abs(pulls(found)).max() < 4
    centre = true_centre(moved=placed(arm_deg=9.0))
    assert np.abs(np.subtract(found.images[1].beam_centre, centre)).max() < 0.05
    # The wrong way round is not this geometry.
    turned_back = [images[0], PowderImage(images[1].counts, images[1].bad, arm_deg=-9.0)]
    with pytest.raises(HklflowError, match=r"image 2 of 2 \(offset 0 m, arm -9 deg\).*signs"):
        calibrated(turned_back)


def test_refusals(steps):
    first, second = steps
    with pytest.raises(HklflowError, match=r"wavelength cannot be refined .* have the same effect"):
        calibrated([first], free_wavelength=True)
    alike = [first, PowderImage(second.counts, second.bad)]
    with pytest.raises(HklflowError, match=r"2 powder image\(s\) at one distance"):
        calibrated(alike, free_wavelength=True)
    with pytest.raises(HklflowError, match="no powder images"):
        calibrated([])
    smaller = PowderImage(np.zeros((9, 9)), np.zeros((9, 9), bool), offset=0.1)
    with pytest.raises(HklflowError, match=r"shapes \(9, 9\), \(500, 480\)"):
        calibrated([first, smaller])
    with pytest.raises(HklflowError, match=r"offset 0.04 m .* reference setting"):
        calibrated([second, first], distance=None)
