"""Common mode: what was injected is found, and the photons are left alone."""

import numpy as np
import pytest
from tests.constants.true_constants import constants_of
from tests.truth.defaults import correction

from hklflow.constants import common_mode, simulate
from hklflow.constants.correct import Correction
from hklflow.constants.detectors import integrating

ENERGY = 12.0
DETECTOR = integrating("jungfrau", (64, 128), (32, 64))
TRUTH = simulate.jungfrau(np.random.default_rng(1), 1, DETECTOR.module)
CODES = np.array([0, 1, 3], np.uint16)
N = 12


def frames(photons: np.ndarray, shift: np.ndarray, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Raw frames of photons (n, ss, fs), stage high shifted by ADU (n, ss, fs)."""
    analog, stage = TRUTH.respond(photons * ENERGY, 0, np.random.default_rng(seed))
    shifted = analog + np.where(stage == 0, np.rint(shift), 0)
    return shifted.astype(np.uint16), CODES[stage]


def of_kind(kind: common_mode.Kind, **more: float) -> Correction:
    return correction(constants_of(TRUTH, "jungfrau"), DETECTOR, ENERGY, shared=kind, **more)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "parts"), [("module", 1), ("asic", 4), ("row", 128)])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_injected_shifts_are_found_under_photons(
    kind: common_mode.Kind, parts: int, rate: float
) -> None:
    """0.9 photons per pixel: two of three pixels are lit, some by a thousand photons."""
    rng = np.random.default_rng(3)
    photons = rng.poisson(rate, (N, *DETECTOR.module)).astype(float)
    if rate > 0:
        photons[:, 10:14, 20:30] += 1000
    boxes = common_mode.boxes(kind, DETECTOR)
    assert len(boxes) == parts
    group = common_mode.groups(boxes, DETECTOR.module)
    sizes = np.bincount(group.ravel())
    injected = np.rint(rng.normal(0, 30, (N, parts)))
    raw = frames(photons, injected[:, group])
    found = of_kind(kind, least=0.1).correct(*raw, 0)
    assert found.shift.shape == injected.shape
    off = found.shift - injected
    dark = sizes * np.exp(-rate)
    # Of few dark pixels some are off by more, where a neighbour's photon is near.
    error = 1.2 * np.median(TRUTH.noise[0]) / np.sqrt(dark)
    known = np.isfinite(off)
    assert known.mean() > 0.98
    assert np.std((off / error)[known]) < 1.25
    assert abs(np.mean((off / error)[known])) < 4 / np.sqrt(known.sum())
    # Photons stay: their mean is off by no more than the noise lets it.
    one = (photons == 1) & np.isfinite(found.shift)[:, group]
    if rate > 0:
        mean = found.photons[one].mean()
        photon = 41 * ENERGY
        spread = (
            TRUTH.noise[0].mean() / photon / np.sqrt(one.sum()) + abs(off[known].mean()) / photon
        )
        assert mean == pytest.approx(1, abs=4 * spread)


def test_shifted_frames_without_correction_are_off() -> None:
    photons = np.zeros((N, *DETECTOR.module))
    raw = frames(photons, np.full(photons.shape, 40.0))
    plain, corrected = (of_kind(kind).correct(*raw, 0).photons for kind in ("none", "asic"))
    assert plain.mean() == pytest.approx(40 / (41 * ENERGY), rel=0.01)
    assert abs(corrected.mean()) < 0.002


def test_only_stage_high_is_shifted() -> None:
    photons = np.zeros((2, *DETECTOR.module))
    photons[:, ::2, ::7] = 200  # stage medium
    raw = frames(photons, np.full(photons.shape, 40.0))
    plain, corrected = (of_kind(kind).correct(*raw, 0) for kind in ("none", "module"))
    medium = plain.stage == 1
    np.testing.assert_array_equal(corrected.photons[medium], plain.photons[medium])


def test_no_shift_where_too_few_pixels_are_dark_or_all_have_a_photon() -> None:
    rng = np.random.default_rng(5)
    bright = rng.poisson(6, (2, *DETECTOR.module)).astype(float)
    lit = np.ones((2, *DETECTOR.module))
    switched = np.full((2, *DETECTOR.module), 200.0)
    for photons in (bright, lit, switched):
        raw = frames(photons, np.zeros(photons.shape))
        found = of_kind("asic").correct(*raw, 0)
        assert np.isnan(found.shift).all()
        # Nothing is taken off.
        np.testing.assert_array_equal(found.photons, of_kind("none").correct(*raw, 0).photons)
    some = bright.copy()
    some[:, :, ::2] = 0  # half of the pixels are dark
    raw = frames(some, np.zeros(some.shape))
    assert np.isfinite(of_kind("asic").correct(*raw, 0).shift).all()
    assert np.isnan(of_kind("asic", least=0.6).correct(*raw, 0).shift).all()


def test_pixels_without_constants_say_nothing() -> None:
    status = np.zeros(TRUTH.offset.shape, np.uint32)
    status[:, :, :, :100] = 1
    photons = np.zeros((1, *DETECTOR.module))
    shift = np.full(photons.shape, 500.0)
    shift[:, :, 100:] = 20
    constants = constants_of(TRUTH, "jungfrau", constants_status=status)
    found = correction(constants, DETECTOR, ENERGY, shared="module").correct(
        *frames(photons, shift), 0
    )
    assert found.shift[0, 0] == pytest.approx(20, abs=1.5)
