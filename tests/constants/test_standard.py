"""Response and absolute factor from a standard; solid angle and polarisation are written here."""

from dataclasses import replace

import numpy as np
import pytest
from pyFAI.geometry import Geometry

from hklflow.base.errors import HklflowError
from hklflow.constants import standard
from hklflow.geometry import Beam, Detector
from hklflow.images.pixel_moments import Moments, PixelMoments

SHAPE, PIXEL, DISTANCE, CENTRE = (90, 110), 500e-6, 0.12, (40.0, 60.0)
AREA = (PIXEL / DISTANCE) ** 2
BEAM = Beam(0.6, 0.97)
FRAMES = 12
LEVEL = 700.0
"""Scattering of the standard: counts per monitor of a pixel at the foot of the normal."""


def detector(distance: float = DISTANCE) -> Detector:
    fast, slow = np.array([-1.0, 0, 0]), np.array([0, -1.0, 0])
    origin = np.array([0, 0, distance]) - PIXEL * (CENTRE[0] * slow + CENTRE[1] * fast)
    return Detector(SHAPE, (PIXEL, PIXEL), origin, slow, fast)


def seen() -> np.ndarray:
    """What an ideal pixel sees of an isotropic elastic scatterer, from pyFAI."""
    poni = {"poni1": CENTRE[0] * PIXEL, "poni2": CENTRE[1] * PIXEL}
    geometry = Geometry(dist=DISTANCE, **poni, pixel1=PIXEL, pixel2=PIXEL, wavelength=0.6e-10)
    i, j = np.indices(SHAPE) + 0.5
    x, y = (CENTRE[1] - j) * PIXEL, (CENTRE[0] - i) * PIXEL
    r2 = x**2 + y**2 + DISTANCE**2
    polarised = 0.97 * (1 - x**2 / r2) + 0.03 * (1 - y**2 / r2)
    return np.asarray(geometry.solidAngleArray(SHAPE)) * polarised


def pattern() -> np.ndarray:
    """A response with pixels that differ, two halves that differ, and the mean 1."""
    rng = np.random.default_rng(1)
    made = rng.normal(1, 0.04, SHAPE)
    made[:, 55:] *= 1.1
    return made / made.mean()


def measured(rate: np.ndarray, seed: int, gain: int = 1) -> Moments:
    """Frames at a monitor that decays, summed relative to the monitor."""
    rng, summed = np.random.default_rng(seed), PixelMoments(np.zeros(SHAPE, bool))
    for level in np.linspace(1.2, 0.6, FRAMES):
        summed.add((gain * rng.poisson(level * rate))[None], [level])
    return summed.result()


def test_the_response_and_the_factor_have_honest_errors() -> None:
    """The background is half as strong as the standard, and its monitor is another."""
    truth, air = pattern(), np.linspace(200, 500, SHAPE[1])[None] * np.ones(SHAPE)
    carbon = measured(LEVEL * seen() * truth + 0.8 * air, 2)
    empty = measured(air, 3)
    expected, factors = standard.expected_elastic(detector(), BEAM)
    assert factors == ["solid angle", "polarisation"]
    bits = np.zeros(SHAPE, np.uint32)
    bits[7, 9] = 1
    found = standard.normalization(carbon, expected, bits, AREA, (empty, 0.8))
    good = bits == 0
    pull = ((found.flat - truth) / found.errors)[good]
    assert abs(pull.mean()) < 4 / np.sqrt(pull.size)
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1, abs=0.03)
    assert np.isnan(found.flat[7, 9])
    factor = LEVEL * truth[good].mean() / AREA
    assert abs(found.about["absolute"] - factor) < 4 * found.about["absolute_error"]
    assert found.about["absolute_error"] < 1e-3 * factor
    share = (0.8 * air).mean() / (LEVEL * seen() * truth + 0.8 * air).mean()
    assert found.about["background"] == pytest.approx(share, rel=0.01)
    # Without the empty measurement the response is wrong by far more than its errors.
    without = standard.normalization(carbon, expected, bits, AREA)
    assert np.sqrt(np.mean(((without.flat - truth) / without.errors)[good] ** 2)) > 3


def test_errors_of_values_that_are_not_photons() -> None:
    truth = pattern()
    expected, _ = standard.expected_elastic(detector(), BEAM)
    summed = measured(LEVEL * seen() * truth, 4, gain=5)
    found = standard.normalization(summed, expected, np.zeros(SHAPE, np.uint32), AREA)
    pull = (found.flat - truth) / found.errors
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1, abs=0.05)
    assert found.about["dispersion"] == pytest.approx(5, rel=0.05)


def test_a_standard_with_known_rings() -> None:
    """Glassy carbon has broad maxima: the table of its scattering is divided out."""
    i, j = np.indices(SHAPE) + 0.5
    r = PIXEL * np.hypot(i - CENTRE[0], j - CENTRE[1])
    q = 4 * np.pi / 0.6 * np.sin(np.arctan2(r, DISTANCE) / 2)
    grid = np.linspace(0, 8, 400)
    table = np.stack([grid, 1 + 0.5 * np.cos(1.5 * grid)], axis=1)
    truth = pattern()
    expected, _ = standard.expected_elastic(detector(), BEAM, table)
    summed = measured(LEVEL * seen() * (1 + 0.5 * np.cos(1.5 * q)) * truth, 5)
    found = standard.normalization(summed, expected, np.zeros(SHAPE, np.uint32), AREA)
    pull = (found.flat - truth) / found.errors
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1, abs=0.03)
    with pytest.raises(HklflowError, match=r"covers \|Q\| from 0 to 3\.0\d* 1/Å"):
        standard.expected_elastic(detector(), BEAM, table[grid < 3.01])


def test_pixels_without_a_usable_response() -> None:
    rate = LEVEL * seen() * pattern()
    rate[3, 4], rate[5, 6] = 0, 3 * rate[5, 6]
    expected, _ = standard.expected_elastic(detector(), BEAM)
    found = standard.normalization(measured(rate, 6), expected, np.zeros(SHAPE, np.uint32), AREA)
    assert set(zip(*np.nonzero(np.isnan(found.flat)), strict=True)) == {(3, 4), (5, 6)}
    assert found.about["unusable"] == 2
    assert found.flat[np.isfinite(found.flat)].mean() == pytest.approx(1, abs=1e-12)


def test_good_pixels_with_few_counts_keep_their_response() -> None:
    """Rows at 20 counts, whose responses scatter by a quarter, and a pixel that is too strong."""
    rate = LEVEL * seen() * pattern()
    expected, _ = standard.expected_elastic(detector(), BEAM)
    weak = 20 / (FRAMES * 0.9 * rate[:4])
    rate[:4] *= weak
    expected[:4] *= weak
    rate[2, 7] *= 5
    found = standard.normalization(measured(rate, 6), expected, np.zeros(SHAPE, np.uint32), AREA)
    assert list(zip(*np.nonzero(np.isnan(found.flat)), strict=True)) == [(2, 7)]


def test_measurements_that_tell_nothing_are_refused() -> None:
    expected, _ = standard.expected_elastic(detector(), BEAM)
    bits, summed = np.zeros(SHAPE, np.uint32), measured(LEVEL * seen(), 7)
    with pytest.raises(HklflowError, match="at least 400 are needed, and 10000 for 1 %"):
        standard.normalization(measured(np.full(SHAPE, 3.0), 8), expected, bits, AREA)
    strong = measured(2 * LEVEL * seen(), 9)
    with pytest.raises(HklflowError, match="not stronger than the empty measurement"):
        standard.normalization(summed, expected, bits, AREA, (strong, 1.0))
    with pytest.raises(HklflowError, match=r"the geometry has \(9, 9\) pixels"):
        standard.normalization(summed, np.ones((9, 9)), bits, AREA)


def test_the_change_by_another_distance() -> None:
    """cos³ of the angle to the normal, at the corners."""
    about = {"detector": {**_described(detector())}}
    assert standard.response_change(about, detector()) < 1e-12
    moved = detector(DISTANCE * 1.05)
    r2 = PIXEL**2 * ((np.arange(90) + 0.5 - 40)[:, None] ** 2 + (np.arange(110) + 0.5 - 60) ** 2)
    near, far = ((d / np.sqrt(r2 + d**2)) ** 3 for d in (DISTANCE, 1.05 * DISTANCE))
    ratio = far / near
    expected = np.abs(ratio / ratio.mean() - 1).max()
    assert standard.response_change(about, moved) == pytest.approx(expected, rel=1e-9)
    assert standard.response_change({}, moved) == 0
    assert standard.response_change(about, replace(moved, shape=(9, 9))) == 0


def _described(one: Detector) -> dict[str, object]:
    from hklflow.geometry import detector_to_dict

    return detector_to_dict(one)
