"""Current source ramps of simulated ASICs against what their gains are, and made faults."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow.constants import files, simulate, simulate_ramps
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.ramp_process import FitStatus
from hklflow.constants.simulate import Truth
from hklflow.constants.simulate_ramps import Source
from hklflow.constants.status import Bit, bad
from hklflow.stages import process_current_source as stage

# As at the European XFEL: the increment becomes ten times as large.
SEGMENTS = ((200, 1.0), (400, 10.0))
SHAPE = (16, 16)
FAULTY = (5, 7)


def _run(folder: Path, truth: Truth, source: Source, with_dark: bool, **params: Any) -> Constants:
    rng = np.random.default_rng(100)
    simulate_ramps.write_ramp(
        folder / "ramp.h5", truth, source, "current_source_80", SEGMENTS, rng, lost=range(300, 310)
    )
    dark = None
    if with_dark:
        dark = folder / "dark.nxs"
        threshold = 0.5 * (truth.level[1:] + truth.level[:-1])
        about = {"detector": "agipd", "module": 0, "asic": 0, "digital": "level"}
        about["cell_ids"] = list(range(truth.cells))
        known = {"gain_threshold": Quantity(threshold.astype(np.float32), "ADU")}
        files.write_part(dark, "dark", Constants(about, known))
    stage.main(
        inputs=stage.Inputs(gathered=folder / "ramp.h5", dark=dark),
        outputs=stage.Outputs(constants=folder / "cs.nxs"),
        params=stage.Params(**({"ramp": SEGMENTS} | params)),
    )
    return files.read_part(folder / "cs.nxs")


def _agipd(seed: int, cells: int) -> tuple[np.random.Generator, Truth]:
    rng = np.random.default_rng(seed)
    return rng, simulate.agipd(rng, cells, SHAPE)


@pytest.mark.parametrize("with_dark", [True, False])
def test_ratios_of_every_pixel_and_cell(tmp_path: Path, with_dark: bool) -> None:
    rng, truth = _agipd(1, 2)
    found = _run(tmp_path, truth, simulate_ramps.current_source(truth, rng, 11), with_dark)
    assert not found["fit_status"].any()
    assert not found["constants_status"].any()
    for upper, name in enumerate(("gain_ratio_mh", "gain_ratio_lm"), 1):
        true = truth.gain[upper] / truth.gain[upper - 1]
        off = found[name] / true - 1
        pull = (found[name] - true) / found[f"{name}_errors"]
        assert off.std() < 0.005
        assert abs(off.mean()) < 4 * off.std() / np.sqrt(off.size)
        assert 0.9 < pull.std() < 1.2


Made = Callable[[Truth, Source], tuple[Truth, Source]]


def _at(values: Any, value: float, stages: Any = slice(None)) -> Any:
    """Copy with another value at the faulty pixel of the second cell."""
    changed = np.array(values)
    changed[stages, 1, *FAULTY] = value
    return changed


def _slow(truth: Truth, source: Source, rate: float) -> tuple[Truth, Source]:
    changed = np.array(source.rate)
    changed[1, *FAULTY] = rate
    return truth, replace(source, rate=changed)


def _few_high(truth: Truth, source: Source) -> tuple[Truth, Source]:
    """The switch comes after 15 frames."""
    return replace(truth, switch=_at(truth.switch, 15.5 * source.rate[1, *FAULTY], 0)), source


def _few_medium(truth: Truth, source: Source) -> tuple[Truth, Source]:
    """High lasts as ever, and low comes 15 frames later."""
    end = truth.switch[0, 1, *FAULTY] + 15 * source.rate[1, *FAULTY]
    return replace(truth, switch=_at(truth.switch, end, 1)), source


def _few_low(truth: Truth, source: Source) -> tuple[Truth, Source]:
    """Low comes 15 frames before the end."""
    end = (4200 - 155) * source.rate[1, *FAULTY]
    return replace(truth, switch=_at(truth.switch, end, 1)), source


def _saturated(truth: Truth, source: Source) -> tuple[Truth, Source]:
    """High begins so high that its last quarter is cut off."""
    start = truth.saturation - 0.75 * (truth.gain[0] * truth.switch[0])[1, *FAULTY]
    return replace(truth, offset=_at(truth.offset, start, 0)), source


def _saturated_low(truth: Truth, source: Source) -> tuple[Truth, Source]:
    """Low begins 2 ADU below where values are believed."""
    at_switch = (truth.gain[2] * truth.switch[1])[1, *FAULTY]
    start = truth.saturation - 52 - at_switch
    return replace(truth, offset=_at(truth.offset, start, 2)), source


def _ratio(truth: Truth, source: Source) -> tuple[Truth, Source]:
    """Half as much medium gain again."""
    gain = _at(truth.gain, 1.5 * truth.gain[1, 1, *FAULTY], 1)
    return replace(truth, gain=gain), source


FAULTS: dict[FitStatus, Made] = {
    FitStatus.NO_SWITCH_HM: lambda truth, source: _slow(truth, source, 0.12),
    FitStatus.NO_SWITCH_ML: lambda truth, source: _slow(truth, source, 4.0),
    FitStatus.TOO_FEW_H: _few_high,
    FitStatus.TOO_FEW_M: _few_medium,
    FitStatus.TOO_FEW_L: _few_low,
    FitStatus.SATURATED_EARLY: _saturated,
    FitStatus.RATIO_OUTLIER: _ratio,
}


@pytest.mark.parametrize("bit", FAULTS, ids=lambda bit: str(bit.name))
def test_a_made_fault_raises_its_bit_there_and_no_other(tmp_path: Path, bit: FitStatus) -> None:
    rng, truth = _agipd(2, 2)
    truth, source = FAULTS[bit](truth, simulate_ramps.current_source(truth, rng, 11))
    found = _run(tmp_path, truth, source, True)
    expected = np.zeros((2, *SHAPE), np.uint32)
    expected[1, *FAULTY] = bit
    np.testing.assert_array_equal(found["fit_status"], expected)
    status = bad(found["constants_status"])
    assert status[1:, 1, *FAULTY].any()
    assert status.sum() == status[1:, 1, *FAULTY].sum()


def test_a_low_stage_at_its_end_is_saturated_early(tmp_path: Path) -> None:
    rng, truth = _agipd(2, 2)
    truth, source = _saturated_low(truth, simulate_ramps.current_source(truth, rng, 11))
    found = _run(tmp_path, truth, source, True)
    assert found["fit_status"][1, *FAULTY] == FitStatus.SATURATED_EARLY
    assert (found["fit_status"] != 0).sum() == 1
    # The ratio of the other stages is there all the same.
    assert np.isfinite(found["gain_ratio_mh"]).all()
    assert np.isnan(found["gain_ratio_lm"]).sum() == 1


def test_a_bent_ramp_is_not_linear(tmp_path: Path) -> None:
    """Charge that gets lost bends the lines."""
    rng, truth = _agipd(3, 1)
    source = simulate_ramps.current_source(truth, rng, 11)
    straight = _run(tmp_path, truth, source, True)
    bent = _run(tmp_path, truth, replace(source, bend=0.006), True)
    assert not (straight["fit_status"] & FitStatus.NON_LINEAR).any()
    assert (bent["fit_status"] & FitStatus.NON_LINEAR).all()
    assert ((bent["constants_status"][2] & Bit.CI_LINEAR_DEVIATION) != 0).all()
    assert not bent["constants_status"][0].any()


def test_noise_alone_is_never_bent(tmp_path: Path) -> None:
    """However strict the limit, what is no more than noise is no deviation."""
    rng, truth = _agipd(4, 2)
    source = simulate_ramps.current_source(truth, rng, 11)
    found = _run(tmp_path, truth, source, True, linearity=1e-6)
    assert not (found["fit_status"] & FitStatus.NON_LINEAR).any()


def test_a_dead_pixel_is_told(tmp_path: Path) -> None:
    rng, truth = _agipd(5, 2)
    gain = truth.gain.copy()
    gain[..., 3, 3] = 0
    found = _run(tmp_path, replace(truth, gain=gain), simulate_ramps.current_source(truth, rng, 11),
                 True)  # fmt: skip
    assert (found["fit_status"][:, 3, 3] & FitStatus.RATIO_OUTLIER).all()
    assert bad(found["constants_status"])[1:, :, 3, 3].all()


def test_limits_of_ratios(tmp_path: Path) -> None:
    rng, truth = _agipd(6, 1)
    source = simulate_ramps.current_source(truth, rng, 11)
    found = _run(tmp_path, truth, source, True, limits_lm=(0.2, 1.0))
    low = found["gain_ratio_lm"] < 0.2
    assert low.any()
    np.testing.assert_array_equal(found["fit_status"] == FitStatus.RATIO_OUTLIER, low)
    np.testing.assert_array_equal(found["constants_status"][2] != 0, low)
    assert not found["constants_status"][1].any()
