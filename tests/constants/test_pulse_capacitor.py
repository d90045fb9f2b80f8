"""Pulse capacitor ramps of simulated ASICs against what their gains are."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.truth.defaults import ramp_fit

from hklflow.base.errors import HklflowError
from hklflow.constants import files, ramps, simulate, simulate_ramps
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.gathered import About, CellFrames
from hklflow.constants.ramp_process import FitStatus
from hklflow.constants.simulate import Truth
from hklflow.constants.status import Bit
from hklflow.experiment.config import flags
from hklflow.stage import command
from hklflow.stages import process_pulse_capacitor as stage

SEGMENTS = ((600, 1.0),)
SHAPE = (16, 16)


def _dark(path: Path, truth: Truth, cell_ids: list[int] | None = None, **about: Any) -> Path:
    """File with the true thresholds."""
    threshold = 0.5 * (truth.level[1:] + truth.level[:-1])
    known = {"detector": "agipd", "module": 0, "asic": 0, "digital": "level"}
    known |= {"cell_ids": cell_ids or list(range(truth.cells))} | about
    quantities = {"gain_threshold": Quantity(threshold.astype(np.float32), "ADU")}
    files.write_part(path, "dark", Constants(known, quantities))
    return path


def _run(folder: Path, dark: Path | None = None, **params: Any) -> Constants:
    stage.main(
        inputs=stage.Inputs(gathered=folder / "ramp.h5", dark=dark),
        outputs=stage.Outputs(constants=folder / "pc.nxs"),
        params=stage.Params(**({"ramp": SEGMENTS} | params)),
    )
    return files.read_part(folder / "pc.nxs")


def _agipd(seed: int, cells: int = 2) -> tuple[np.random.Generator, Truth]:
    rng = np.random.default_rng(seed)
    return rng, simulate.agipd(rng, cells, SHAPE)


def _ratio(truth: Truth) -> NDArray[np.float64]:
    return np.asarray(truth.gain[1] / truth.gain[0])


@pytest.mark.parametrize("with_dark", [True, False])
def test_ratio_of_every_pixel_and_cell(tmp_path: Path, with_dark: bool) -> None:
    rng, truth = _agipd(1)
    source = simulate_ramps.pulse_capacitor(truth, rng)
    simulate_ramps.write_ramp(
        tmp_path / "ramp.h5", truth, source, "pulse_capacitor", SEGMENTS, rng, lost=range(200, 230)
    )
    dark = _dark(tmp_path / "dark.nxs", truth) if with_dark else None
    found = _run(tmp_path, dark)
    true = _ratio(truth)
    off = found["gain_ratio_mh"] / true - 1
    pull = (found["gain_ratio_mh"] - true) / found["gain_ratio_mh_errors"]
    assert off.std() < 0.0015
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(off.size)
    assert 0.9 < pull.std() < 1.2
    assert not found["constants_status"].any()
    assert not found["fit_status"].any()
    # The slope is the gain times what a step is worth, the intercept the offset.
    slope = found["slope"][:2] / (truth.gain[:2] * source.rate)
    assert np.abs(slope - 1).max() < 0.006
    pull = (found["intercept"][0] - truth.offset[0]) / found["intercept_errors"][0]
    assert 0.9 < pull.std() < 1.2
    assert np.isnan(found["slope"][2]).all()
    assert np.median(found["residual"][0] / np.hypot(truth.noise[0], 0.29)) == pytest.approx(
        1, abs=0.03
    )


def test_a_ramp_that_is_repeated_is_one_line(tmp_path: Path) -> None:
    rng, truth = _agipd(2, cells=1)
    segments = ((100, 1.0), (50, 10.0))
    source = simulate_ramps.pulse_capacitor(truth, rng)
    simulate_ramps.write_ramp(
        tmp_path / "ramp.h5", truth, source, "pulse_capacitor", segments, rng, repeats=3,
        lost=[0, 170, 333],
    )  # fmt: skip
    found = _run(tmp_path, ramp=segments)
    pull = (found["gain_ratio_mh"] - _ratio(truth)) / found["gain_ratio_mh_errors"]
    assert 0.9 < pull.std() < 1.2
    assert abs(pull.mean()) < 0.25
    # With the abscissa of another ramp there is no line.
    wrong = _run(tmp_path, ramp=SEGMENTS)
    assert (wrong["fit_status"] != 0).all()


@pytest.mark.slow
def test_a_ramp_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments as rules say them are those of the configuration."""
    rng, truth = _agipd(2, cells=1)
    segments = ((100, 1.0), (50, 10.0))
    source = simulate_ramps.pulse_capacitor(truth, rng)
    ramp = tmp_path / "ramp.h5"
    simulate_ramps.write_ramp(ramp, truth, source, "pulse_capacitor", segments, rng, repeats=2)
    params = stage.Params(ramp=segments, limits_mh=(-1.0, 1.0), settling=3.0)
    words = ["process_pulse_capacitor", f"--gathered={ramp}", f"--constants={tmp_path / 'a.nxs'}"]
    monkeypatch.setattr("sys.argv", words + shlex.split(flags(params)))
    with pytest.raises(SystemExit) as ended:
        command(stage.main)
    assert ended.value.code == 0
    expected = _run(tmp_path, **params.model_dump())
    found = files.read_part(tmp_path / "a.nxs")
    np.testing.assert_array_equal(found["gain_ratio_mh"], expected["gain_ratio_mh"])


def test_outliers_and_stuck_bits_are_left_out(tmp_path: Path) -> None:
    """A tenth of the frames is anything: spikes, wrong gain bits."""
    rng, truth = _agipd(3, cells=1)
    x = np.arange(600.0)
    analog, digital = simulate_ramps.pulse_capacitor(truth, rng).respond(truth, 0, x, rng)
    hit = rng.random(analog.shape) < 0.05
    analog = np.where(hit, rng.integers(1000, 16000, analog.shape), analog).astype(np.uint16)
    bits = rng.random(digital.shape) < 0.05
    digital = np.where(bits, 15000 - digital, digital).astype(np.uint16)
    frames = CellFrames(analog, digital, x.astype(np.uint64), x.astype(np.int64))
    thresholds = 0.5 * (truth.level[1:, 0] + truth.level[:-1, 0])
    lines = ramps.fit_lines(frames, x, thresholds, "level", ramp_fit(2))
    value, error = ramps.ratio(lines, 1)
    pull = (value - _ratio(truth)[0]) / error
    assert 0.85 < pull.std() < 1.25
    assert abs(pull.mean()) < 0.3
    assert (value / _ratio(truth)[0] - 1).std() < 0.002


def test_settling_after_the_switch(tmp_path: Path) -> None:
    """Trimming bears a settling that is over soon; a long one needs the exponential."""
    rng, truth = _agipd(4, cells=1)
    true = _ratio(truth)

    def bias(decay: float, **params: float) -> tuple[float, float, float]:
        source = simulate_ramps.pulse_capacitor(truth, rng, settling=50.0, decay=decay)
        simulate_ramps.write_ramp(
            tmp_path / "ramp.h5", truth, source, "pulse_capacitor", SEGMENTS, rng
        )
        found = _run(tmp_path, **params)
        off = found["gain_ratio_mh"] / true - 1
        pull = (found["gain_ratio_mh"] - true) / found["gain_ratio_mh_errors"]
        bent = (found["fit_status"] & FitStatus.NON_LINEAR) != 0
        return float(off.mean()), float(pull.std()), float(bent.mean())

    short, pull, bent = bias(8.0)
    assert abs(short) < 3e-4
    assert 0.9 < pull < 1.2
    assert bent == 0
    assert abs(bias(8.0, trim=0.0)[0]) > 1e-3
    long, _, bent = bias(60.0)
    assert abs(long) > 3e-3
    assert bent > 0.5  # and that is seen
    fitted, pull, bent = bias(60.0, settling=60.0)
    assert abs(fitted) < 5e-4
    assert 0.9 < pull < 1.2
    assert bent == 0


def test_what_fails_is_marked_and_only_that(tmp_path: Path) -> None:
    rng, truth = _agipd(5)
    gain, switch = truth.gain.copy(), truth.switch.copy()
    switch[0, :, 0, 0] = 1e9  # never switches
    gain[1, 1, 2, 2] *= 1.5  # another ratio than its neighbours, in one cell
    truth = replace(truth, gain=gain, switch=switch, saturation=1e9)
    source = simulate_ramps.pulse_capacitor(truth, rng)
    path = tmp_path / "ramp.h5"
    simulate_ramps.write_ramp(path, truth, source, "pulse_capacitor", ((500, 1.0),), rng)
    found = _run(tmp_path, _dark(tmp_path / "dark.nxs", truth))
    expected = np.zeros((3, 2, *SHAPE), np.uint32)
    expected[1, :, 0, 0] = Bit.CI_EVAL_ERROR
    expected[1, 1, 2, 2] = Bit.CI_GAIN_OUT_OF_THRESHOLD
    expected_fit = np.zeros((2, *SHAPE), np.uint32)
    expected_fit[:, 0, 0] = FitStatus.NO_SWITCH_HM | FitStatus.SATURATED_EARLY
    expected_fit[1, 2, 2] = FitStatus.RATIO_OUTLIER
    np.testing.assert_array_equal(found["constants_status"], expected)
    np.testing.assert_array_equal(found["fit_status"], expected_fit)
    assert np.isnan(found["gain_ratio_mh"][:, 0, 0]).all()
    limited = _run(tmp_path, limits_mh=(0.0, 1 / 32))
    above = _ratio(truth) > 1 / 32
    marked = (limited["constants_status"][1] & Bit.CI_GAIN_OUT_OF_THRESHOLD) != 0
    sure = np.abs(_ratio(truth) * 32 - 1) > 0.005
    clear = sure & np.isfinite(found["gain_ratio_mh"])
    np.testing.assert_array_equal(marked[clear], above[clear])


def test_cells_are_matched_by_their_numbers(tmp_path: Path) -> None:
    """The dark has other cells; the thresholds of the wrong ones would leave no switch."""
    rng, truth = _agipd(6)
    level = truth.level + np.array([0.0, 5000.0])[:, None, None]
    truth = replace(truth, level=level, saturation=60000.0)
    simulate_ramps.write_ramp(
        tmp_path / "ramp.h5", truth, simulate_ramps.pulse_capacitor(truth, rng),
        "pulse_capacitor", SEGMENTS, rng, cell_ids=[3, 9],
    )  # fmt: skip
    turned = replace(truth, level=level[:, ::-1])
    found = _run(tmp_path, _dark(tmp_path / "dark.nxs", turned, [9, 3]))
    assert not found["fit_status"].any()
    assert found.about["cell_ids"] == [3, 9]
    assert _run(tmp_path, _dark(tmp_path / "dark.nxs", turned, [3, 9]))["fit_status"].all()
    # A cell without a dark has its own levels.
    assert not _run(tmp_path, _dark(tmp_path / "dark.nxs", turned, [0, 1]))["fit_status"].any()
    with pytest.raises(HklflowError, match="asic 3 does not go with asic 0"):
        _run(tmp_path, _dark(tmp_path / "dark.nxs", truth, asic=3))


def test_jungfrau_has_digital_stages_and_falls(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    truth = simulate.jungfrau(rng, 1, SHAPE)
    source = simulate_ramps.pulse_capacitor(truth, rng)
    about = About("jungfrau", "pulse_capacitor", 0, 0, "stage", ("r0001",))
    simulate_ramps.write_ramp(
        tmp_path / "ramp.h5", truth, source, "pulse_capacitor", SEGMENTS, rng, about=about
    )
    found = _run(tmp_path, min_points=15)
    true = _ratio(truth)
    pull = (found["gain_ratio_mh"] - true) / found["gain_ratio_mh_errors"]
    assert (found["gain_ratio_mh"] < 0).all()
    assert 0.9 < pull.std() < 1.2
    assert abs(pull.mean()) < 0.25


def test_no_frames_are_no_crash(tmp_path: Path) -> None:
    rng, truth = _agipd(8, cells=1)
    source = simulate_ramps.pulse_capacitor(truth, rng)
    simulate_ramps.write_ramp(
        tmp_path / "ramp.h5", truth, source, "pulse_capacitor", ((5, 1.0),), rng, lost=range(5)
    )
    found = _run(tmp_path)
    assert (found["constants_status"][1] == Bit.CI_EVAL_ERROR).all()
    assert np.isnan(found["gain_ratio_mh"]).all()


def test_only_driven_pixels_get_charge() -> None:
    rng, truth = _agipd(9, cells=1)
    driven = np.zeros(SHAPE, bool)
    driven[3::8] = True
    x = np.array([30.0])
    analog, _ = simulate_ramps.pulse_capacitor(truth, rng).respond(truth, 0, x, rng, driven)
    np.testing.assert_array_equal(analog[0] - truth.offset[0, 0] > 1000, driven)


def test_abscissa_of_segments() -> None:
    step = np.array([0, 1, 2, 3, 4, 5, 6])
    found = ramps.abscissa(((3, 1.0), (2, 10.0)), step)
    assert found.tolist() == [1, 2, 3, 13, 23, 1, 2]
    assert ramps.abscissa((), step).tolist() == step.tolist()
    with pytest.raises(HklflowError, match=r"segment \[3, 0.0\] must have frames and rise"):
        ramps.abscissa(((3, 0.0),), step)


@settings(max_examples=30, deadline=None)
@given(
    offset=st.floats(500, 4000),
    slope=st.floats(1, 20),
    ratio=st.floats(0.02, 0.6),
    switch=st.integers(60, 200),
    n=st.integers(300, 400),
)
def test_exact_lines_are_found(
    offset: float, slope: float, ratio: float, switch: int, n: int
) -> None:
    """Without noise only the rounding to ADU is left."""
    x = np.arange(float(n))
    exact = np.where(x < switch, offset + slope * x, offset + ratio * slope * x)
    analog = np.rint(exact).astype(np.uint16)[:, None, None]
    digital = np.where(x < switch, 5000, 8000).astype(np.uint16)[:, None, None]
    frames = CellFrames(analog, digital, x.astype(np.uint64), x.astype(np.int64))
    unknown = np.full((2, 1, 1), np.nan)
    lines = ramps.fit_lines(frames, x, unknown, "level", ramp_fit(2))
    # Rounding by at most half an ADU turns a line through m points by at most 1.5 / m.
    for g, true, m in ((0, slope, switch), (1, ratio * slope, n - switch)):
        assert lines.slope[g, 0, 0] == pytest.approx(true, abs=1.51 / (0.9 * m - 1))
    assert lines.reached[:, 0, 0].tolist() == [switch, n - switch, 0]
    assert not lines.curved.any()
