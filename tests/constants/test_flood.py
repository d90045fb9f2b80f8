"""Flat field and defects from simulated floods; the solid angle from pyFAI."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyFAI.geometry import Geometry

from hklflow.base.errors import HklflowError
from hklflow.constants import files, flood
from hklflow.constants.simulate_counters import CounterTruth, draw
from hklflow.geometry import Detector
from hklflow.images.masks import MaskBit
from hklflow.images.pixel_moments import Moments, PixelMoments

# As large as a Pilatus 300k.
SHAPE, PIXEL, DISTANCE, CENTRE = (260, 300), 340e-6, 0.3, (126.0, 152.0)
N, COUNTS, EACH = 60, 400.0, 40


def detector(centre: tuple[float, float] = CENTRE, distance: float = DISTANCE) -> Detector:
    """At right angles to the beam; centre in pixels (slow, fast)."""
    fast, slow = np.array([-1.0, 0, 0]), np.array([0, -1.0, 0])
    origin = np.array([0, 0, distance]) - PIXEL * (centre[0] * slow + centre[1] * fast)
    return Detector(SHAPE, (PIXEL, PIXEL), origin, slow, fast)


def pyfai_solid_angle(distance: float = DISTANCE) -> np.ndarray:
    poni = {"poni1": CENTRE[0] * PIXEL, "poni2": CENTRE[1] * PIXEL}
    geometry = Geometry(dist=distance, **poni, pixel1=PIXEL, pixel2=PIXEL)
    return np.asarray(geometry.solidAngleArray(SHAPE))


@pytest.fixture(scope="module")
def truth() -> CounterTruth:
    gaps = np.zeros(SHAPE, bool)
    gaps[120:127] = gaps[:, 150:153] = True
    return draw(np.random.default_rng(1), gaps, EACH, fano=8.0)


@pytest.fixture(scope="module")
def moments(truth: CounterTruth) -> Moments:
    """The beam decays to a half; pyFAI says what pixels see."""
    rng = np.random.default_rng(2)
    summed = PixelMoments(np.zeros(SHAPE, bool))
    for k, level in enumerate(np.linspace(1.5, 0.75, N)):
        (frame,) = truth.flood(level * COUNTS * pyfai_solid_angle(), 1, rng)
        summed.add(frame, [level])
        if k == 0:
            assert (frame[120:127] == -1).all()
    return summed.result()


def found(truth: CounterTruth, moments: Moments, **changed: float) -> flood.Flood:
    gaps = truth.bits & np.uint32(MaskBit.GAP)
    return flood.flat_field(moments, flood.illumination(detector(**changed)), gaps)


def test_every_defect_is_found_and_nothing_else(truth: CounterTruth, moments: Moments) -> None:
    result = found(truth, moments)
    for bit in (MaskBit.DEAD, MaskBit.UNDER_RESPONDING, MaskBit.OVER_RESPONDING, MaskBit.NOISY):
        assert int(((truth.bits & bit) != 0).sum()) == EACH
    assert np.array_equal(result.bits, truth.bits)
    assert result.noise_judged


def test_the_flat_and_its_errors(truth: CounterTruth, moments: Moments) -> None:
    result = found(truth, moments)
    good = truth.bits == 0
    pull = (result.flat - truth.response)[good] / result.errors[good]
    assert abs(pull.mean()) < 4 / np.sqrt(good.sum())
    assert 0.98 < np.sqrt(np.mean(pull**2)) < 1.02
    assert result.flat[good].mean() == pytest.approx(1.0, abs=1e-12)
    # An oracle of the error: so many counts were there.
    assert np.median(result.errors[good]) == pytest.approx(1 / np.sqrt(1.125 * N * COUNTS), rel=0.1)
    assert np.isnan(result.flat[truth.bits == MaskBit.GAP]).all()
    assert result.large_scale < 2e-3


def test_a_rough_geometry_will_do(truth: CounterTruth, moments: Moments) -> None:
    """5 pixels of 172 µm, or 1 % of the distance, wrong."""
    exact = found(truth, moments)
    good = truth.bits == 0
    for changed in (
        {"centre": (CENTRE[0] + 5 * 172 / 340, CENTRE[1])},
        {"centre": (CENTRE[0], CENTRE[1] - 5 * 172 / 340)},
        {"distance": 1.01 * DISTANCE},
    ):
        result = found(truth, moments, **changed)
        change = np.abs(result.flat[good] / exact.flat[good] - 1)
        assert 2e-4 < change.max() < 1.6e-3
        assert np.array_equal(result.bits, exact.bits)


def test_what_the_sample_absorbs_is_told(truth: CounterTruth, moments: Moments) -> None:
    slope = 1 + 0.02 * np.linspace(-1, 1, SHAPE[1]) * np.ones(SHAPE)
    tilted = replace(moments, total=moments.total * slope, squares=moments.squares * slope**2)
    assert found(truth, tilted).large_scale == pytest.approx(0.04, abs=3e-3)


def test_the_sensor_absorbs_more_where_it_is_hit_obliquely() -> None:
    """By the law of Beer and Lambert, in a corner."""
    model = replace(detector(distance=0.08), sensor_thickness=320e-6)
    attenuation = 1700.0
    seen = flood.illumination(model, attenuation) / flood.illumination(model)
    at = (np.array([0.5, 0.5]) - CENTRE) * PIXEL
    cosine = 0.08 / np.hypot(0.08, np.hypot(*at))
    absorbed = 1 - np.exp(-attenuation * 320e-6 / np.array([cosine, 1.0]))
    assert seen[0, 0] == pytest.approx(absorbed[0] / absorbed[1], rel=1e-9)
    assert seen[126, 152] == pytest.approx(1, abs=1e-4)
    with pytest.raises(HklflowError, match="thickness"):
        flood.illumination(detector(), attenuation)


def test_virtual_pixels_are_not_over_responding(truth: CounterTruth, moments: Moments) -> None:
    larger = truth.bits == MaskBit.OVER_RESPONDING
    known = truth.bits & np.uint32(MaskBit.GAP)
    known[larger] = MaskBit.VIRTUAL
    result = flood.flat_field(moments, flood.illumination(detector()), known)
    assert (result.bits[larger] == MaskBit.VIRTUAL).all()
    assert np.isnan(result.flat[larger]).all()


def test_noise_is_judged_with_frames_and_counts_enough_only() -> None:
    rng = np.random.default_rng(3)
    for n, mean, judged in ((9, 400.0, False), (200, 3.0, False), (12, 200.0, True)):
        summed = PixelMoments(np.zeros((40, 50), bool))
        frames = rng.poisson(mean, (n, 40, 50))
        frames[0, 20, 30] += int(40 * mean)
        summed.add(frames)
        ones = np.ones((40, 50))
        result = flood.flat_field(summed.result(), ones, np.zeros((40, 50), np.uint32))
        assert result.noise_judged == judged
        assert bool(result.bits[20, 30] & MaskBit.NOISY) == judged


def test_a_flood_that_tells_nothing_is_refused() -> None:
    summed = PixelMoments(np.zeros((40, 50), bool))
    summed.add(np.random.default_rng(4).poisson(10.0, (20, 40, 50)))
    bits = np.zeros((40, 50), np.uint32)
    with pytest.raises(HklflowError, match="measure longer"):
        flood.flat_field(summed.result(), np.ones((40, 50)), bits)
    with pytest.raises(HklflowError, match=r"\(50, 40\) pixels, the frames have \(40, 50\)"):
        flood.flat_field(summed.result(), np.ones((50, 40)), bits)
    with pytest.raises(HklflowError, match="0 counts per pixel"):
        flood.flat_field(summed.result(), np.ones((40, 50)), bits + np.uint32(1))


def test_a_pixel_that_hardly_counted_is_not_called_dead() -> None:
    """One frame of 10 expected counts, and none seen, has a chance of exp(-10)."""
    frames = np.random.default_rng(5).poisson(10.0, (100, 40, 50)).astype(np.int32)
    frames[1:, 3, 4] = -1
    frames[0, 3, 4] = 0
    frames[:, 5, 6] = 0
    summed = PixelMoments(np.zeros((40, 50), bool))
    summed.add(frames)
    result = flood.flat_field(summed.result(), np.ones((40, 50)), np.zeros((40, 50), np.uint32))
    assert np.argwhere(result.bits).tolist() == [[5, 6]]


def test_good_pixels_with_few_counts_are_not_called_defects() -> None:
    """A part of the detector sees 4 % of the light; its counts scatter by a quarter."""
    light = np.ones((100, 100))
    light[:, :40] = 0.04
    summed = PixelMoments(np.zeros(light.shape, bool))
    rng = np.random.default_rng(1)
    truth = np.ones(light.shape)
    truth[50, 5], truth[50, 6], truth[50, 70], truth[50, 71] = 4.0, 0.0, 0.4, 1.8
    for _ in range(25):
        summed.add(rng.poisson(20 * light * truth)[None], [1.0])
    result = flood.flat_field(summed.result(), light, np.zeros(light.shape, np.uint32))
    flagged = {tuple(at): int(result.bits[*at]) for at in np.argwhere(result.bits)}
    over, under = int(MaskBit.OVER_RESPONDING), int(MaskBit.UNDER_RESPONDING)
    assert flagged == {(50, 5): over, (50, 70): under, (50, 71): over}
    assert result.weak == 100 * 40 - 2  # without the two odd pixels
    assert "3999 pixels in use have fewer than 400 counts" in flood.told_weak(3999)
    assert flood.told_weak(0) == ""


def test_constants_of_others_have_no_flat(tmp_path: Path) -> None:
    path = tmp_path / "constants.nxs"
    mask = files.Quantity(np.zeros((4, 5), np.uint32))
    for counter, told in ((True, "no flatfield"), (False, "an integrating detector's modules")):
        with files.create_detector(path, "constants", {"counter": counter}) as group:
            module = group.create_group("module_00")
            files.add_quantities(module, files.Constants({}, {"pixel_mask": mask}))
        with pytest.raises(HklflowError, match=told):
            flood.read_flat(path)


@pytest.mark.parametrize("values", [np.full((4, 5), b"x"), np.ones((2, 4, 5)), "text"])
def test_flats_and_masks_that_are_no_images_are_refused(tmp_path: Path, values: object) -> None:
    path = tmp_path / "constants.nxs"
    with files.create_detector(path, "constants", {"counter": True}) as group:
        module = group.create_group("module_00")
        files.set_about(module, {})
        module["flatfield"] = module["pixel_mask"] = values
    for read in (flood.read_flat, flood.read_pixel_mask):
        with pytest.raises(HklflowError, match="is not a numeric image"):
            read(path)
