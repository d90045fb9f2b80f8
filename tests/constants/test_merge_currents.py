"""Currents merged: the valid one of least error, everywhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.truth.defaults import merge_of_currents

from hklflow.base.errors import HklflowError
from hklflow.constants import files, simulate, simulate_ramps
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.ramp_process import RATIOS, FitStatus
from hklflow.constants.status import Bit, bad
from hklflow.stages import merge_current_source as stage
from hklflow.stages import process_current_source

SIZE = (2, 3, 4)


def _part(
    errors: Any, status: Any, ratio: Any = 0.2, cell_ids: tuple[int, ...] = (0, 1), **about: Any
) -> Constants:
    """What one current gave; slopes are 1, so that their errors are relative ones."""
    size = (len(cell_ids), *SIZE[1:])
    errors = np.broadcast_to(errors, size)
    known = {"detector": "agipd", "module": 0, "asic": 0, "digital": "level"}
    known |= {"cell_ids": list(cell_ids), "measures": ["current_source"], "runs": [["r1"]]}
    quantities = {
        "slope": Quantity(np.ones((3, *size), np.float32)),
        "slope_errors": Quantity(
            (errors * np.array([1.0, 0.5, 0.2])[:, None, None, None]).astype(np.float32)
        ),
        "fit_status": Quantity(np.broadcast_to(np.uint32(status), size).copy()),
        "constants_status": Quantity(np.zeros((3, *size), np.uint32)),
    }
    for name in RATIOS:
        quantities[name] = Quantity(np.broadcast_to(np.float32(ratio), size).copy())
        quantities[f"{name}_errors"] = Quantity(errors.astype(np.float32))
    return Constants(known | about, quantities)


@settings(max_examples=60, deadline=None)
@given(
    errors=arrays(np.float32, (3, *SIZE), elements=st.floats(2**-10, 0.5, width=32), unique=True),
    status=arrays(np.uint32, (3, *SIZE), elements=st.sampled_from([0, 0, 1, 64, 128])),
)
def test_the_valid_one_of_least_error_is_chosen(errors: Any, status: Any) -> None:
    values = [0.1, 0.2, 0.3]
    parts = [_part(*one) for one in zip(errors, status, values, strict=True)]
    merged = merge_of_currents(parts, ["20", "80", "150"])
    chosen = merged["chosen_current"]
    for place in np.ndindex(*SIZE):
        valid = [n for n in range(3) if status[n][place] == 0]
        best = min(valid, key=lambda n: errors[n][place]) + 1 if valid else 0
        assert chosen[place] == best
        if best:
            assert merged["gain_ratio_mh"][place] == np.float32(values[best - 1])
            assert not merged["constants_status"][:, *place].any()
            assert merged["fit_status"][place] == 0
    known = chosen > 0
    for name in RATIOS:
        middle = np.median(merged[name][known]) if known.any() else np.nan
        np.testing.assert_allclose(merged[name][~known], middle, rtol=1e-6)
    expected = Bit.CI2_EVAL_ERROR | (Bit.INTERPOLATED if known.any() else 0)
    assert (merged["constants_status"][1:, ~known] == expected).all()
    assert not merged["constants_status"][0].any()
    assert bad(merged["constants_status"])[1:, ~known].all()
    assert merged.quantities["chosen_current"].attrs["currents"] == ["20", "80", "150"]
    assert chosen.dtype == np.uint16


def test_the_largest_error_of_a_stage_decides() -> None:
    """The second current has the better high gain, but a bad low one."""
    one, two = _part(0.01, 0), _part(0.002, 0)
    two["slope_errors"][2] = 0.02
    assert (merge_of_currents([one, two], ["a", "b"])["chosen_current"] == 1).all()


def test_weighted_mean_and_consistency() -> None:
    parts = [_part(0.01, 0, 0.20), _part(0.02, 0, 0.23), _part(0.001, 4, 5.0)]
    merged = merge_of_currents(parts, "abc", weighted=True)
    mean = (0.20 / 0.01**2 + 0.23 / 0.02**2) / (0.01**-2 + 0.02**-2)
    chi2 = ((0.20 - mean) / 0.01) ** 2 + ((0.23 - mean) / 0.02) ** 2
    assert merged["gain_ratio_lm"] == pytest.approx(mean, rel=1e-5)
    assert merged["gain_ratio_lm_errors"] == pytest.approx((0.01**-2 + 0.02**-2) ** -0.5, rel=1e-5)
    assert merged["ratio_chi2"] == pytest.approx(chi2, rel=1e-4)  # both ratios alike: reduced
    assert (merged["chosen_current"] == 1).all()
    single = merge_of_currents(parts[1:], "bc")
    assert np.isnan(single["ratio_chi2"]).all()


def test_cells_that_a_current_lacks_are_from_the_others() -> None:
    parts = [_part(0.01, 0, 0.1, (0, 2)), _part(0.02, 0, 0.2, (2, 5))]
    merged = merge_of_currents(parts, "ab")
    assert merged.about["cell_ids"] == [0, 2, 5]
    assert merged["chosen_current"][:, 0, 0].tolist() == [1, 1, 2]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(HklflowError, match="2 files of currents have 1 names"):
        merge_of_currents([_part(1, 0), _part(1, 0)], ["20"])
    with pytest.raises(HklflowError, match="module 4 does not go with module 0"):
        merge_of_currents([_part(1, 0), _part(1, 0, module=4)], "ab")


def test_currents_of_one_asic(tmp_path: Path) -> None:
    """A small current never reaches low gain, a large one leaves too few frames of high gain."""
    rng = np.random.default_rng(1)
    truth = simulate.agipd(rng, 2, (16, 16))
    segments = ((200, 1.0), (400, 10.0))
    paths = []
    for name, rate in (("20", 4.7), ("80", 12.0), ("150", 22.0)):
        source = simulate_ramps.current_source(truth, rng, rate)
        ramp, path = tmp_path / f"ramp_{name}.h5", tmp_path / f"cs_{name}.nxs"
        simulate_ramps.write_ramp(ramp, truth, source, f"current_source_{name}", segments, rng)
        process_current_source.main(
            inputs=process_current_source.Inputs(gathered=ramp),
            outputs=process_current_source.Outputs(constants=path),
            params=process_current_source.Params(ramp=segments),
        )
        paths.append(path)
    stage.main(
        inputs=stage.Inputs(currents=paths),
        outputs=stage.Outputs(constants=tmp_path / "merged.nxs"),
        params=stage.Params(names=("20", "80", "150")),
    )
    merged = files.read_part(tmp_path / "merged.nxs")
    status = np.stack([files.read_part(path)["fit_status"] for path in paths])
    assert ((status[0] & FitStatus.NO_SWITCH_ML) != 0).any()
    assert ((status[2] & FitStatus.TOO_FEW_H) != 0).any()
    np.testing.assert_array_equal(merged["chosen_current"] == 0, (status != 0).all(axis=0))
    known = merged["chosen_current"] > 0
    assert known.mean() > 0.98
    for upper, name in enumerate(RATIOS, 1):
        true = (truth.gain[upper] / truth.gain[upper - 1])[known]
        pull = (merged[name][known] - true) / merged[f"{name}_errors"][known]
        assert 0.85 < pull.std() < 1.15
        assert (merged[name][known] / true - 1).std() < 0.005
    assert np.nanmean(merged["ratio_chi2"]) == pytest.approx(1, abs=0.15)
    assert merged.about["measures"] == [f"current_source_{n}" for n in ("20", "80", "150")]
