"""Planted defects: found by the bit of what measured them, and nothing else."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from tests.truth.defaults import mask_of_constants

from hklflow.base.errors import HklflowError
from hklflow.constants import files, simulate
from hklflow.constants.combine import combine
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.masking import range_names
from hklflow.constants.status import Bit, bad
from hklflow.experiment.config import flags
from hklflow.images.masks import MaskBit
from hklflow.stage import command
from hklflow.stages import mask_constants as stage

SHAPE = (64, 64)
CELLS = 4


def _asic(seed: int = 1, gain: bool = True) -> Constants:
    """Combined constants of an ASIC as it is, with the errors that measurements have."""
    rng = np.random.default_rng(seed)
    truth = simulate.agipd(rng, CELLS, SHAPE)
    size = (CELLS, *SHAPE)

    def known(values: Any) -> Quantity:
        return Quantity(np.asarray(values, np.float32))

    about = {"detector": "agipd", "module": 0, "asic": 1, "digital": "level"}
    about |= {"cell_ids": list(range(CELLS)), "measures": [], "runs": []}

    def part(**values: Any) -> Constants:
        status = Quantity(np.zeros((3, *size), np.uint32))
        return Constants(
            about, {name: known(v) for name, v in values.items()} | {"constants_status": status}
        )

    dark = part(
        offset=truth.offset, offset_errors=np.full((3, *size), 0.2), noise=truth.noise,
        gain_threshold=0.5 * (truth.level[1:] + truth.level[:-1]),
    )  # fmt: skip
    high = part(gain_high=truth.gain[0], gain_high_errors=0.002 * truth.gain[0])
    ratios = part(
        gain_ratio_mh=truth.gain[1] / truth.gain[0], gain_ratio_mh_errors=np.full(size, 5e-5),
        gain_ratio_lm=truth.gain[2] / truth.gain[1], gain_ratio_lm_errors=np.full(size, 5e-4),
        chosen_current=np.ones(size),
    )  # fmt: skip
    return combine(dark, high, None, ratios) if gain else combine(dark)


def _plant(rng: np.random.Generator, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = np.unravel_index(rng.choice(SHAPE[0] * SHAPE[1], n, replace=False), SHAPE)
    return rows, columns


def test_a_good_asic_has_no_bad_pixel() -> None:
    """5 sigma of 150 000 values: 0.1 by chance."""
    found = mask_of_constants(_asic())
    assert (found["constants_status"] != 0).sum() <= 2
    assert not found["pixel_mask"].any()


DEFECTS = {
    "offset": ("offset", 1, lambda v: v + 1500.0, Bit.OFFSET_OUT_OF_THRESHOLD, MaskBit.DEAD),
    "noisy": ("noise", 0, lambda v: 3.5 * v, Bit.NOISE_OUT_OF_THRESHOLD, MaskBit.NOISY),
    "quiet": ("noise", 2, lambda v: 0.4 * v, Bit.NOISE_OUT_OF_THRESHOLD, MaskBit.NOISY),
    "weak": ("gain", 0, lambda v: 0.6 * v, Bit.FF_GAIN_DEVIATION, MaskBit.UNDER_RESPONDING),
    "strong": ("gain", 1, lambda v: 1.8 * v, Bit.CI_GAIN_OUT_OF_THRESHOLD, MaskBit.OVER_RESPONDING),
    "unknown": ("gain", 2, lambda v: v * np.nan, Bit.VALUE_IS_NAN, MaskBit.DEAD),
    "zero": ("gain", 0, lambda v: v * 0, Bit.VALUE_OUT_OF_RANGE, MaskBit.DEAD),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_planted_defects(name: str) -> None:
    """60 pixels of each kind: all are found, with their bit, and no others."""
    quantity, which, change, bit, mask_bit = DEFECTS[name]
    constants = _asic(2)
    before = mask_of_constants(constants)
    pixels = _plant(np.random.default_rng(3), 60)
    values = constants[quantity]
    values[which][:, *pixels] = change(values[which][:, *pixels])
    found = mask_of_constants(constants)
    planted = np.zeros(SHAPE, bool)
    planted[pixels] = True
    status = found["constants_status"] & ~before["constants_status"]
    assert ((status[which] & bit) != 0)[:, planted].all()
    status[which][:, planted] = 0
    assert not status.any()
    np.testing.assert_array_equal(found["pixel_mask"] != 0, planted)
    assert (found["pixel_mask"][planted] == mask_bit).mean() > 0.9


def test_a_bad_cell_becomes_a_bad_pixel_if_there_are_many() -> None:
    constants = _asic()
    constants["noise"][0, 0, 5, 5] = 30
    constants["noise"][0, :3, 6, 6] = 30
    found = mask_of_constants(constants)
    assert np.argwhere(found["pixel_mask"]).tolist() == [[6, 6]]
    assert found["constants_status"][0, 0, 5, 5] == Bit.NOISE_OUT_OF_THRESHOLD
    found = mask_of_constants(constants, max_bad_cells=0.2)
    assert np.argwhere(found["pixel_mask"]).tolist() == [[5, 5], [6, 6]]
    found = mask_of_constants(constants, max_bad_cells=0.75)
    assert not found["pixel_mask"].any()


def test_what_is_bad_in_all_cells_is_bad_whatever_the_fraction() -> None:
    constants = _asic()
    constants["noise"][0, :, 5, 5] = 30
    constants["noise"][0, 1:, 6, 6] = 30
    user = np.zeros((CELLS, *SHAPE), bool)
    user[:, 7, 7] = user[1:, 8, 8] = True
    found = mask_of_constants(constants, user=user, edges=1, max_bad_cells=1)["pixel_mask"]
    assert (np.argwhere(found[1:-1, 1:-1]) + 1).tolist() == [[5, 5], [7, 7]]
    assert found[7, 7] == MaskBit.USER
    assert (found[0] == MaskBit.USER).all()


def test_if_no_stage_that_is_needed_is_known_no_pixel_is_good() -> None:
    """Others do not stand in for it."""
    constants = _asic()
    constants["offset"][1] = np.nan
    found = mask_of_constants(constants, stages=["medium"])
    assert ((found["pixel_mask"] & MaskBit.DEAD) != 0).all()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"stages": ("hihg",)}, "'high', 'medium' or 'low'"),
        ({"stages": ()}, "at least 1"),
        ({"gain_high": (8.0, 1.0)}, r"gain_high \[8.0, 1.0\] is not a range"),
        ({"offset_low": (5.0, 5.0)}, "offset_low"),
        ({"noise_medium": (float("nan"), 5.0)}, "noise_medium"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        stage.Settings(**given)


@pytest.mark.parametrize("stage_of_gain", ["high", "medium", "low"])
@pytest.mark.parametrize("quantity", ["offset", "noise", "gain"])
def test_every_range_is_checked(quantity: str, stage_of_gain: str) -> None:
    name = f"{quantity}_{stage_of_gain}"
    assert name in range_names()
    assert len(range_names()) == 9
    with pytest.raises(ValidationError, match=name):
        stage.Settings(**{name: (2.0, 1.0)})


def test_jungfrau_with_the_gains_of_the_factory() -> None:
    """Negative gains and its own ranges mask nothing; a pixel that the map lacks is masked."""
    truth = simulate.jungfrau(np.random.default_rng(5), 1, SHAPE)
    about = {"detector": "jungfrau", "module": 0, "asic": 0, "digital": "stage"}
    values = {"offset": truth.offset, "offset_errors": truth.noise / 30, "noise": truth.noise}
    values["gain_threshold"] = np.broadcast_to(
        np.array([0.5, 1.5])[:, None, None, None], (2, 1, *SHAPE)
    )
    dark = {name: Quantity(np.asarray(v, np.float32)) for name, v in values.items()}
    dark["constants_status"] = Quantity(np.zeros(truth.offset.shape, np.uint32))
    gains = truth.gain[:, 0].copy()
    gains[1, 7, 8] = np.nan
    found = mask_of_constants(combine(Constants(about | {"cell_ids": [0]}, dark), gain_map=gains))
    assert np.argwhere(found["pixel_mask"]).tolist() == [[7, 8]]
    assert (found["gain"][1:][np.isfinite(found["gain"][1:])] < 0).all()


def test_only_stages_that_are_needed_count() -> None:
    constants = _asic()
    constants["noise"][2, :, 5, 5] = 30
    assert mask_of_constants(constants)["pixel_mask"].sum() == MaskBit.NOISY
    found = mask_of_constants(constants, stages=["high", "medium"])
    assert not found["pixel_mask"].any()
    assert bad(found["constants_status"])[2, :, 5, 5].all()


def test_a_stage_that_nobody_measured_masks_no_pixel() -> None:
    """But its values stay bad."""
    found = mask_of_constants(_asic(gain=False))
    assert (found["constants_status"] & Bit.VALUE_IS_NAN).all()
    # Of high gain, which every measurement needs, it does.
    assert found["pixel_mask"].all()
    constants = _asic()
    constants["offset"][2] = np.nan
    found = mask_of_constants(constants)
    assert bad(found["constants_status"])[2].all()
    assert not found["pixel_mask"].any()


def test_gains_that_were_given_have_no_outliers() -> None:
    constants = _asic()
    constants["gain"][0] = 8.0
    constants["gain"][0, 0, 0, 0] = 8.001
    assert not (mask_of_constants(constants)["constants_status"] & Bit.FF_GAIN_DEVIATION).any()


def test_ranges() -> None:
    """Those of the detector hold unless others are given."""
    constants = _asic()
    constants["offset"][0] += 5000  # the whole ASIC: no outlier
    found = mask_of_constants(constants)
    above = constants["offset"][0] > 9000
    marked = (found["constants_status"][0] & Bit.OFFSET_OUT_OF_THRESHOLD) != 0
    np.testing.assert_array_equal(marked, above)
    found = mask_of_constants(constants, ranges={"gain_medium": (0.0, 0.25)})
    assert not (found["constants_status"][0] & Bit.OFFSET_OUT_OF_THRESHOLD).any()
    marked = (found["constants_status"][1] & Bit.CI_GAIN_OUT_OF_THRESHOLD) != 0
    np.testing.assert_array_equal(marked, constants["gain"][1] > np.float32(0.25))
    with pytest.raises(HklflowError, match="unknown range gain_hihg"):
        mask_of_constants(constants, ranges={"gain_hihg": (0, 1)})


def test_bits_that_were_there_stay_and_harmless_ones_mask_nothing() -> None:
    constants = _asic()
    constants["constants_status"][:, :, 1, 1] = Bit.FF_GAIN_EVAL_ERROR
    constants["constants_status"][:, :, 2, 2] = Bit.INTERPOLATED
    before = {name: item.values.copy() for name, item in constants.quantities.items()}
    found = mask_of_constants(constants)
    assert np.argwhere(found["pixel_mask"]).tolist() == [[1, 1]]
    assert (found["constants_status"][:, :, 2, 2] == Bit.INTERPOLATED).all()
    for name, values in before.items():
        np.testing.assert_array_equal(constants[name], values)
        if name != "constants_status":
            np.testing.assert_array_equal(found[name], values)
    assert set(found.quantities) == {*before, "pixel_mask"}


def test_edges_and_the_users_mask(tmp_path: Path) -> None:
    """An image of the module, of which the ASIC's part counts, or cell by cell."""
    constants = _asic()
    files.write_part(tmp_path / "all.nxs", "combined", constants)
    module = np.zeros((512, 128), np.int8)
    module[10, 64 + 20] = 1  # ASIC 1 begins at column 64
    module[12, 30] = 1  # of ASIC 0
    cells = np.zeros((CELLS, *SHAPE), bool)
    cells[:3, 11, 21] = True
    cells[0, 30, 30] = True
    np.save(tmp_path / "module.npy", module)
    np.save(tmp_path / "cells.npy", cells)

    def run(user: str, **params: Any) -> Constants:
        stage.main(
            inputs=stage.Inputs(combined=tmp_path / "all.nxs", user=tmp_path / user),
            outputs=stage.Outputs(constants=tmp_path / "masked.nxs"),
            params=stage.Params(**params),
        )
        return files.read_part(tmp_path / "masked.nxs")

    found = run("module.npy")
    assert np.argwhere(found["pixel_mask"]).tolist() == [[10, 20]]
    assert found["pixel_mask"][10, 20] == MaskBit.USER
    assert bad(found["constants_status"])[:, :, 10, 20].all()
    found = run("cells.npy", edges=2)
    inner = found["pixel_mask"][2:-2, 2:-2]
    assert (np.argwhere(inner) + 2).tolist() == [[11, 21]]
    assert (found["pixel_mask"] == MaskBit.USER).sum() == 64**2 - 60**2 + 1
    assert bad(found["constants_status"])[0, :, 30, 30].tolist() == [True, False, False, False]
    # What is at the border is larger, not bad.
    assert not bad(found["constants_status"])[..., 0, :].any()
    assert (found["constants_status"][..., 0, :] & Bit.NON_STANDARD_SIZE).all()
    np.save(tmp_path / "other.npy", cells[:, 1:])
    with pytest.raises(HklflowError, match="the user's mask has shape"):
        run("other.npy")
    (tmp_path / "no.npy").write_text("not an array")
    with pytest.raises(HklflowError, match="is not a numeric array"):
        run("no.npy")


def test_ranges_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As rules say them."""
    constants = _asic()
    constants["offset"][0] += 5000  # by default too much
    files.write_part(tmp_path / "all.nxs", "combined", constants)
    params = stage.Params(gain_high=(1.0, 8.0), n_sigma=50, default_ranges=False, stages=("high",))
    words = ["mask_constants", f"--combined={tmp_path / 'all.nxs'}"]
    words += [f"--constants={tmp_path / 'masked.nxs'}", *shlex.split(flags(params))]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        command(stage.main)
    assert ended.value.code == 0
    found = files.read_part(tmp_path / "masked.nxs")
    expected = np.where(constants["gain"][0] > 8, Bit.FF_GAIN_DEVIATION, 0)
    np.testing.assert_array_equal(found["constants_status"][0], expected)
