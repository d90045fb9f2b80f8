"""Darks against simulated ASICs whose constants are known."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.truth.defaults import dark_limits

from hklflow.base.errors import HklflowError
from hklflow.constants import dark, files, simulate
from hklflow.constants.gathered import About, CellFrames, GatheredWriter
from hklflow.constants.status import Bit
from hklflow.stages import process_dark

N, SHAPE, CELLS = 300, (16, 16), 2
MEASURES = ("dark_high", "dark_medium", "dark_low")


def gather(path, measure, analog, digital, kind="level", cell_ids=None):
    """Write frames (cells, n, ss, fs)."""
    cells, n = analog.shape[:2]
    about = About(
        "agipd" if kind == "level" else "jungfrau", measure, 3, 5, kind, (f"r_{measure}",), (0, 7)
    )
    ids = np.arange(cells) if cell_ids is None else np.array(cell_ids)
    with GatheredWriter(path, about, ids, np.full(cells, n), analog.shape[2:]) as writer:
        for cell in range(cells):
            train = np.arange(n)
            writer.append(np.full(n, cell), train, train, analog[cell], digital[cell])
    return path


def darks(truth, rng, n=N):
    """Analogue and digital output (3, cells, n, ss, fs) of the forced stages."""
    shape = (3, truth.cells, n, *truth.shape)
    analog, digital = np.empty(shape, np.uint16), np.empty(shape, np.uint16)
    for stage in range(3):
        for cell in range(truth.cells):
            no_light = np.zeros((n, *truth.shape))
            analog[stage, cell], digital[stage, cell] = truth.respond(no_light, cell, rng, stage)
    return analog, digital


def run(folder: Path, analog, digital, kind="level", order=(0, 1, 2), **params):
    paths = {
        name: gather(folder / f"{name}.h5", f"dark_{name}", analog[k], digital[k], kind)
        for name, k in zip(("high", "medium", "low"), order, strict=True)
    }
    out = folder / "dark.nxs"
    process_dark.main(
        inputs=process_dark.Inputs(**paths),
        outputs=process_dark.Outputs(constants=out),
        params=process_dark.Params(**params),
    )
    return files.read_part(out)


@pytest.fixture(scope="module")
def agipd():
    rng = np.random.default_rng(3)
    truth = simulate.agipd(rng, CELLS, SHAPE)
    return truth, *darks(truth, rng)


@pytest.fixture(scope="module")
def jungfrau():
    rng = np.random.default_rng(4)
    truth = simulate.jungfrau(rng, CELLS, SHAPE)
    return truth, *darks(truth, rng)


@pytest.mark.parametrize("clip", [3.0, 5.0])
def test_offset_noise_and_level_are_the_true_ones(agipd, tmp_path, clip):
    truth, analog, digital = agipd
    found = run(tmp_path, analog, digital, clip=clip, memory=1.0)
    for name in ("offset", "noise", "level"):
        pull = (found[name] - getattr(truth, name)) / found[f"{name}_errors"]
        assert np.abs(pull.mean(axis=(1, 2, 3))).max() < 5 / np.sqrt(CELLS * 256), name
        # A cut at 3 sigma throws away what the noise is known by.
        assert 0.9 < pull.std() < (1.1 if name != "noise" or clip > 3 else 1.15), name
    assert np.median(found["noise"] / truth.noise) == pytest.approx(1, abs=0.005)
    assert not found["constants_status"].any()
    assert found["n_frames"].min() > (0.96 if clip == 3 else 0.99) * N
    assert found.about["runs"] == [[f"r_{measure}"] for measure in MEASURES]
    assert found.about["as_modules"] == [0, 7]


def test_rounding_is_no_part_of_the_noise(tmp_path):
    rng = np.random.default_rng(6)
    truth = simulate.agipd(rng, 1, SHAPE)
    truth.noise[:] = 1.0
    found = run(tmp_path, *darks(truth, rng))
    assert np.mean(found["noise"]) == pytest.approx(1, abs=0.006)
    pull = (found["noise"] - 1) / found["noise_errors"]
    assert 0.9 < pull.std() < 1.1


def test_thresholds_are_as_many_spreads_from_both_levels(agipd, tmp_path):
    truth, analog, digital = agipd
    found = run(tmp_path, analog, digital)
    below = (found["gain_threshold"] - truth.level[:-1]) / truth.level_noise[:-1]
    above = (truth.level[1:] - found["gain_threshold"]) / truth.level_noise[1:]
    assert below.min() > 10
    np.testing.assert_allclose(below, above, rtol=0.3)  # the spreads' own errors are 4 %
    apart = (truth.level[1:] - truth.level[:-1]) / np.hypot(
        truth.level_noise[1:], truth.level_noise[:-1]
    )
    np.testing.assert_allclose(found["separation"], apart, rtol=0.2)
    assert np.median(found["separation"] / apart) == pytest.approx(1, abs=0.01)


def test_cosmic_rays_change_neither_offset_nor_noise(agipd, tmp_path):
    truth, analog, digital = agipd
    hit = analog.copy()
    hit[:, :, ::50] += 900
    found = run(tmp_path, hit, digital)
    pull = (found["offset"] - truth.offset) / found["offset_errors"]
    assert np.abs(pull.mean(axis=(1, 2, 3))).max() < 0.25
    assert np.median(found["noise"] / truth.noise) == pytest.approx(1, abs=0.005)
    assert found["n_frames"].max() == N - N // 50


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (2, 0, 1)])
def test_interchanged_runs_are_an_error_that_names_them(agipd, jungfrau, tmp_path, order):
    for (_, analog, digital), kind in ((agipd, "level"), (jungfrau, "stage")):
        with pytest.raises(HklflowError, match=r"interchanged") as told:
            run(tmp_path, analog, digital, kind, order)
        wrong = [
            m for m, stage, own in zip(MEASURES, order, (0, 1, 2), strict=True) if stage != own
        ]
        assert all(f"r_{measure}" in str(told.value) for measure in wrong)
        assert "\n" not in str(told.value)
        assert not (tmp_path / "dark.nxs").exists()


def test_a_pixel_whose_stages_are_alike_has_no_threshold(agipd, tmp_path):
    _, analog, digital = agipd
    alike = digital.copy()
    alike[2, :, :, 4, 7] = digital[1, :, :, 4, 7]
    status = run(tmp_path, analog, alike)["constants_status"]
    wrong = (status & Bit.GAIN_THRESHOLDING_ERROR) != 0
    assert wrong[1:, :, 4, 7].all()
    assert not wrong[0].any()
    assert wrong.sum() == 2 * CELLS


@pytest.mark.parametrize("value", [0, 4711])
def test_a_dead_asic_is_marked_and_no_error(agipd, tmp_path, value):
    _, analog, digital = agipd
    found = run(tmp_path, np.full_like(analog, value), np.full_like(digital, value))
    status = found["constants_status"]
    assert (status & Bit.DATA_STD_IS_ZERO).all()
    assert (status & Bit.GAIN_THRESHOLDING_ERROR).all()
    assert (found["noise"] == 0).all()
    assert np.isnan(found["noise_errors"]).all()


def test_a_dead_jungfrau_is_marked_and_no_error(jungfrau, tmp_path):
    _, analog, digital = jungfrau
    status = run(tmp_path, np.zeros_like(analog), np.zeros_like(digital), "stage")[
        "constants_status"
    ]
    assert (status[0] == Bit.DATA_STD_IS_ZERO).all()
    assert (status[1:] & Bit.WRONG_GAIN_VALUE).all()


def test_no_frames(agipd, tmp_path):
    truth, analog, digital = agipd
    inputs = {
        "high": gather(tmp_path / "h.h5", "dark_high", analog[0], digital[0]),
        "medium": gather(tmp_path / "m.h5", "dark_medium", analog[1][:, :0], digital[1][:, :0]),
        "low": gather(tmp_path / "l.h5", "dark_low", analog[2], digital[2]),
    }
    process_dark.main(
        inputs=process_dark.Inputs(**inputs),
        outputs=process_dark.Outputs(constants=tmp_path / "d.nxs"),
        params=process_dark.Params(),
    )
    found = files.read_part(tmp_path / "d.nxs")
    assert (found["constants_status"][1] & Bit.NO_DARK_DATA).all()
    assert not found["constants_status"][[0, 2]].any()
    assert np.isnan(found["offset"][1]).all()
    assert np.isnan(found["gain_threshold"]).all()
    assert np.median(found["offset"][0] - truth.offset[0]) == pytest.approx(0, abs=0.5)


def test_two_populations_are_not_believed(agipd, tmp_path):
    _, analog, digital = agipd
    jumping = analog.copy()
    jumping[0, 0, ::3, 2, 3] += 400
    status = run(tmp_path, jumping, digital)["constants_status"]
    assert status[0, 0, 2, 3] == Bit.OFFSET_NOISE_EVAL_ERROR
    assert np.count_nonzero(status) == 1


def test_frames_of_another_stage_are_left_out_and_counted(jungfrau, tmp_path):
    truth, analog, digital = jungfrau
    mixed, codes = analog.copy(), digital.copy()
    mixed[1, 0, :60, 3, 3], codes[1, 0, :60, 3, 3] = analog[0, 0, :60, 3, 3], 0
    codes[2, 1, :200, 8, 9] = 255
    found = run(tmp_path, mixed, codes, "stage")
    pull = (found["offset"] - truth.offset) / found["offset_errors"]
    assert 0.9 < pull.std() < 1.1
    assert found["n_wrong_stage"][1, 0, 3, 3] == 60
    assert found["n_wrong_stage"][2, 1, 8, 9] == 200
    assert found["n_wrong_stage"].sum() == 260
    status = found["constants_status"]
    assert status[2, 1, 8, 9] == Bit.WRONG_GAIN_VALUE
    assert np.count_nonzero(status) == 1
    assert (found["gain_threshold"][0] == 0.5).all()
    assert (found["gain_threshold"][1] == 1.5).all()


@given(
    mean=st.floats(50, 150),
    sigma=st.floats(0.8, 12),
    clip=st.sampled_from([3.0, 4.0, 5.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_neither_rounding_nor_cut_biases(mean, sigma, clip, seed):
    rng = np.random.default_rng(seed)
    n = 40000
    values = np.rint(rng.normal(mean, sigma, (n, 1, 1))).clip(0).astype(np.uint16)
    _, kept, offset, spread = dark.clipped(values, values, -1, -1, clip)[:, 0, 0]
    assert kept >= 0.98 * n
    assert offset == pytest.approx(mean, abs=5 * sigma / np.sqrt(n))
    noise = np.sqrt(spread**2 - dark.ROUNDING)
    assert noise == pytest.approx(sigma, rel=7 / np.sqrt(2 * n) * (1 + 1 / (12 * sigma**2)))


@pytest.mark.parametrize("clip", [5.0, np.inf])
def test_a_single_value_is_a_mean_without_a_spread(clip: float) -> None:
    values = np.full((1, 1, 1), 4711, np.uint16)
    found = dark.clipped(values, values, -1, -1, clip)[:, 0, 0]
    assert found.tolist() == [1, 1, 4711, 0]


def test_too_few_frames_say_so():
    one = CellFrames(*(np.full((5, 2, 2), value, np.uint16) for value in (1, 1)), None, None)
    found = dark.Dark("level", dark_limits()).calculate([one, one, one], 0, slice(None))
    assert (found["constants_status"] & Bit.OFFSET_NOISE_EVAL_ERROR).all()
