"""Gains in ADU/keV from all measurements, by hand and end to end from simulated frames."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from hklflow.base.errors import HklflowError
from hklflow.constants import files, simulate, simulate_ramps
from hklflow.constants.combine import combine
from hklflow.constants.detectors import STAGES, integrating
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.gain_maps import read_gain_map
from hklflow.constants.gathered import About, GatheredWriter
from hklflow.constants.simulate import Truth
from hklflow.constants.simulate_photons import Foil, deposit
from hklflow.constants.status import Bit, bad
from hklflow.images.masks import MaskBit
from hklflow.stages import (
    combine_constants,
    mask_constants,
    merge_current_source,
    process_current_source,
    process_dark,
    process_pulse_capacitor,
    process_xray,
)

SHAPE = (3, 4)
SEGMENTS = ((200, 1.0), (400, 10.0))
MO = 17.444


def _constants(cell_ids: list[int], shape: tuple[int, int] = SHAPE, **values: Any) -> Constants:
    """Constants of an ASIC; numbers stand for arrays of them."""
    size = (len(cell_ids), *shape)
    leading = {"offset": 3, "offset_errors": 3, "noise": 3, "gain_threshold": 2}
    quantities = {}
    for name, value in values.items():
        n = leading.get(name)
        full = (n, *size) if n else size
        quantities[name] = Quantity(np.broadcast_to(np.float32(value), full).copy())
    quantities["constants_status"] = Quantity(np.zeros((3, *size), np.uint32))
    about = {"detector": "agipd", "module": 1, "asic": 0, "digital": "level"}
    return Constants(
        about | {"cell_ids": cell_ids, "measures": ["m"], "runs": [["r"]], "frames": []}, quantities
    )


def _dark(cell_ids: list[int] = [0, 1], shape: tuple[int, int] = SHAPE) -> Constants:  # noqa: B006
    return _constants(cell_ids, shape, offset=5000, offset_errors=0.1, noise=8, gain_threshold=7000)


def _xray(cell_ids: list[int] = [0, 1], gain: Any = 8.0) -> Constants:  # noqa: B006
    return _constants(cell_ids, gain_high=gain, gain_high_errors=0.08)


def _capacitor(ratio: Any = 0.03, error: float = 0.0003) -> Constants:
    return _constants([0, 1], gain_ratio_mh=ratio, gain_ratio_mh_errors=error)


def _current(ratio: Any = 0.031, error: float = 0.0006) -> Constants:
    return _constants(
        [0, 1], gain_ratio_mh=ratio, gain_ratio_mh_errors=error, gain_ratio_lm=0.2,
        gain_ratio_lm_errors=0.004, chosen_current=1,
    )  # fmt: skip


def _sources(found: Constants) -> list[str]:
    return list(found.quantities["gain"].attrs["source"])


def test_gains_are_products_and_errors_add_in_squares() -> None:
    found = combine(_dark(), _xray(), _capacitor(), _current())
    weights = np.array([1 / 0.0003**2, 1 / 0.0006**2])
    ratio = (weights @ [0.03, 0.031]) / weights.sum()
    relative = np.array([0.01, weights.sum() ** -0.5 / ratio, 0.02])
    for stage, gain in enumerate((8.0, 8 * ratio, 8 * ratio * 0.2)):
        assert found["gain"][stage] == pytest.approx(gain, rel=1e-5)
        error = gain * np.sqrt((relative[: stage + 1] ** 2).sum())
        assert found["gain_errors"][stage] == pytest.approx(error, rel=1e-4)
    assert found["gain_ratio_mh"] == pytest.approx(ratio, rel=1e-5)
    assert found["gain_ratio_mh_difference"] == pytest.approx(
        -0.001 / np.hypot(3e-4, 6e-4), rel=1e-3
    )
    assert found["gain_ratio_mh_pulse_capacitor"] == pytest.approx(0.03)
    assert found["gain_ratio_mh_current_source"] == pytest.approx(0.031)
    assert _sources(found) == ["xray", "combined", "current_source"]
    assert not found["constants_status"].any()
    np.testing.assert_array_equal(found["offset"], _dark()["offset"])


def test_the_good_ratio_is_taken_where_the_other_is_bad() -> None:
    capacitor, current = _capacitor(), _current()
    capacitor["constants_status"][1, 0, 0, 0] = Bit.CI_EVAL_ERROR
    capacitor["gain_ratio_mh"][0, 0, 0] = np.nan
    current["constants_status"][1, 0, 1, 1] = Bit.CI2_EVAL_ERROR | Bit.INTERPOLATED
    for part in (capacitor, current):
        part["constants_status"][1, 0, 2, 2] = Bit.CI_LINEAR_DEVIATION
    found = combine(_dark(), _xray(), capacitor, current)
    assert found["gain_ratio_mh"][0, 0, 0] == pytest.approx(0.031)
    assert found["gain_ratio_mh"][0, 1, 1] == pytest.approx(0.03)
    assert not found["constants_status"][:, 0, [0, 1], [0, 1]].any()
    expected = [0, Bit.CI_LINEAR_DEVIATION, Bit.CI_LINEAR_DEVIATION]
    assert found["constants_status"][:, 0, 2, 2].tolist() == expected
    assert np.isnan(found["gain_ratio_mh_difference"][0, [0, 1, 2], [0, 1, 2]]).all()


def test_bits_of_a_stage_pass_to_those_that_build_on_it() -> None:
    xray = _xray()
    xray["constants_status"][0, 1, 0, 0] = Bit.FF_GAIN_EVAL_ERROR
    current = _current()
    current["constants_status"][2, 1, 1, 1] = Bit.CI2_EVAL_ERROR
    dark = _dark()
    dark["constants_status"][1, 0, 2, 3] = Bit.NOISE_OUT_OF_THRESHOLD
    status = combine(dark, xray, None, current)["constants_status"]
    assert status[:, 1, 0, 0].tolist() == [Bit.FF_GAIN_EVAL_ERROR] * 3
    assert status[:, 1, 1, 1].tolist() == [0, 0, Bit.CI2_EVAL_ERROR]
    assert status[:, 0, 2, 3].tolist() == [0, Bit.NOISE_OUT_OF_THRESHOLD, 0]
    assert (status != 0).sum() == 5


def test_what_was_not_measured_says_so() -> None:
    """Given numbers are marked as such; without them the gain is unknown and the value bad."""
    default = (8.0, 0.25, 0.05)
    alone = combine(_dark())
    assert _sources(alone) == ["none"] * 3
    assert np.isnan(alone["gain"]).all()
    assert (alone["constants_status"] == Bit.VALUE_IS_NAN).all()
    given = combine(_dark(), default_gain=default)
    assert _sources(given) == ["default"] * 3
    assert np.isnan(given["gain_errors"]).all()
    assert given["gain"][:, 0, 0, 0].tolist() == pytest.approx(default)
    part = combine(_dark(), _xray(), _capacitor(), default_gain=default)
    assert _sources(part) == ["xray", "pulse_capacitor", "default"]
    assert part["gain"][1] == pytest.approx(8 * 0.03, rel=1e-5)
    assert part["gain"][2] == pytest.approx(0.05)
    scaled = combine(_dark(), None, None, _current(), default_gain=default)
    assert _sources(scaled) == ["default", "current_source", "current_source"]
    assert np.isnan(scaled["gain_errors"]).all()
    # Without a scale ratios give no gain.
    assert _sources(combine(_dark(), None, _capacitor(), _current())) == ["none"] * 3
    gains = np.broadcast_to(np.array([9.0, 0.3, 0.06])[:, None, None], (3, *SHAPE))
    mapped = combine(_dark(), _xray(), gain_map=gains, default_gain=default)
    assert _sources(mapped) == ["xray", "gain_map", "gain_map"]
    assert mapped["gain"][2] == pytest.approx(0.06)


def test_cells_without_a_gain_of_their_own_take_the_mean() -> None:
    gain = np.array([8.0, 8.4, 99.0])[:, None, None]
    xray = _xray([1, 4, 6], gain)
    xray["constants_status"][0, 2] = Bit.FF_GAIN_DEVIATION
    xray["constants_status"][0, :, 0, 1] = Bit.FF_GAIN_EVAL_ERROR
    found = combine(_dark([0, 1, 4, 6, 7]), xray)
    assert found["gain"][0, :, 0, 0].tolist() == pytest.approx([8.2, 8.0, 8.4, 99, 8.2], rel=1e-5)
    scatter = np.std([8.0, 8.4], ddof=1) * np.sqrt(1.5)
    assert found["gain_errors"][0, [0, 4], 0, 0] == pytest.approx(scatter, rel=1e-4)
    status = found["constants_status"][0, :, 0, 0]
    assert status.tolist() == [Bit.INTERPOLATED, 0, 0, Bit.FF_GAIN_DEVIATION, Bit.INTERPOLATED]
    assert bad(found["constants_status"])[0, :, 0, 1].all()
    # One cell tells no scatter.
    one = combine(_dark([0, 1]), _xray([1]))
    assert one["gain_errors"][0] == pytest.approx(0.08)
    assert (one["constants_status"][0, 0] == Bit.INTERPOLATED).all()


@pytest.mark.parametrize("kind", ["npy", "bin", "h5"])
def test_gain_maps_of_the_factory(tmp_path: Path, kind: str) -> None:
    """Each pixel's number says where it is from: stage, row of the stacked modules, column."""
    detector = integrating("jungfrau", (8, 12), (4, 4))
    stage, row, column = np.indices((3, 24, 12))
    planes = 1.0 + stage * 1e4 + row * 100 + column
    planes[1, 8 + 4 + 1, 4 + 2] = 0  # module 1, ASIC 4
    path = tmp_path / f"gains.{kind}"

    def write(values: NDArray[np.float64]) -> None:
        if kind == "npy":
            np.save(path, values)
        elif kind == "bin":
            values.tofile(path)
        else:
            with h5py.File(path, "w") as file:
                file["some/gains"] = values
                file["pixels"] = values[0]

    write(planes)
    found = read_gain_map(path, detector, 1, 4)
    expected = planes[:, 12:16, 4:8]
    assert np.isnan(found[1, 1, 2])
    np.testing.assert_array_equal(np.nan_to_num(found), expected)
    with pytest.raises(HklflowError, match="there is no module 3"):
        read_gain_map(path, detector, 3, 0)
    write(planes[:, 8:16])  # a map of one module is this module's
    np.testing.assert_array_equal(np.nan_to_num(read_gain_map(path, detector, 5, 4)), expected)
    write(planes[:, :7])
    with pytest.raises(HklflowError, match="7 rows, and a module has 8; there is no module 0"):
        read_gain_map(path, detector, 0, 0)


def test_gain_maps_of_no_numbers_are_refused(tmp_path: Path) -> None:
    detector = integrating("jungfrau", (8, 12), (4, 4))
    np.save(tmp_path / "texts.npy", np.full((3, 8, 12), "x"))
    with pytest.raises(HklflowError, match="not numbers"):
        read_gain_map(tmp_path / "texts.npy", detector, 0, 0)
    with h5py.File(tmp_path / "map.h5", "w") as file:
        file["labels"] = np.full((3, 8, 12), b"x")
    with pytest.raises(HklflowError, match="has 0 numeric datasets"):
        read_gain_map(tmp_path / "map.h5", detector, 0, 0)
    with h5py.File(tmp_path / "map.h5", "a") as file:
        file["gains"] = np.ones((3, 8, 12))
    assert (read_gain_map(tmp_path / "map.h5", detector, 0, 0) == 1).all()
    with pytest.raises(HklflowError, match=r"none\.bin cannot be read"):
        read_gain_map(tmp_path / "none.bin", detector, 0, 0)


@pytest.mark.parametrize("wrong", [0.0, float("nan"), float("inf")])
def test_default_gains_are_gains(wrong: float) -> None:
    with pytest.raises(ValidationError, match=r"are not gains|a finite number"):
        combine_constants.Settings(default_gain=(8.0, wrong, -0.01))
    combine_constants.Settings(default_gain=(8.0, -0.2, -0.01))


def test_a_gain_map_of_the_stage(tmp_path: Path) -> None:
    detector = integrating("agipd", (6, 8), SHAPE)
    planes = np.random.default_rng(1).uniform(1, 2, (3, *detector.module))
    np.save(tmp_path / "map.npy", planes)
    dark = _dark()
    files.write_part(tmp_path / "dark.nxs", "dark", dark)
    dark.about["asic"] = 3
    files.write_part(tmp_path / "dark.nxs", "dark", dark)
    combine_constants.main(
        inputs=combine_constants.Inputs(dark=tmp_path / "dark.nxs", gain_map=tmp_path / "map.npy"),
        outputs=combine_constants.Outputs(constants=tmp_path / "all.nxs"),
        params=combine_constants.Params(module_size=detector.module),
    )
    found = files.read_part(tmp_path / "all.nxs")
    np.testing.assert_allclose(found["gain"][:, 1], planes[:, 3:, 4:], rtol=1e-6)
    assert _sources(found) == ["gain_map"] * 3


def test_other_asics_are_refused() -> None:
    other = _xray()
    other.about["module"] = 2
    with pytest.raises(HklflowError, match="module 2 does not go with module 1"):
        combine(_dark(), other)


# ------------------------------------------------------------------------------ end to end


def _write(
    path: Path, measure: str, truth: Truth, energy: NDArray[np.float64],
    rng: np.random.Generator, stage: int | None = None,
) -> Path:  # fmt: skip
    """Gathered frames of energies (n, ss, fs) in all cells."""
    about = About("agipd", measure, 0, 0, "level", ("r0001",))
    step = np.arange(len(energy))
    counts = np.full(truth.cells, len(energy))
    with GatheredWriter(path, about, np.arange(truth.cells), counts, truth.shape) as writer:
        for cell in range(truth.cells):
            frames = truth.respond(energy, cell, rng, stage)
            writer.append(np.full(len(step), cell), step, step, *frames)
    return path


def _reduce(folder: Path, truth: Truth, rng: np.random.Generator) -> Constants:
    """Frames of all measurements -> masked constants."""
    none = np.zeros((400, *truth.shape))
    high, medium, low = (
        _write(folder / f"dark_{name}.h5", f"dark_{name}", truth, none, rng, stage)
        for stage, name in enumerate(STAGES)
    )
    dark = folder / "dark.nxs"
    process_dark.main(
        inputs=process_dark.Inputs(high=high, medium=medium, low=low),
        outputs=process_dark.Outputs(constants=dark),
        params=process_dark.Params(),
    )
    capacitor = folder / "pulse_capacitor.nxs"
    simulate_ramps.write_ramp(
        folder / "ramp.h5", truth, simulate_ramps.pulse_capacitor(truth, rng), "pulse_capacitor",
        ((600, 1.0),), rng,
    )  # fmt: skip
    process_pulse_capacitor.main(
        inputs=process_pulse_capacitor.Inputs(gathered=folder / "ramp.h5", dark=dark),
        outputs=process_pulse_capacitor.Outputs(constants=capacitor),
        params=process_pulse_capacitor.Params(),
    )
    currents = []
    for name, rate in (("80", 10.0), ("150", 13.0)):
        simulate_ramps.write_ramp(
            folder / "ramp.h5", truth, simulate_ramps.current_source(truth, rng, rate),
            f"current_source_{name}", SEGMENTS, rng,
        )  # fmt: skip
        currents.append(folder / f"current_{name}.nxs")
        process_current_source.main(
            inputs=process_current_source.Inputs(gathered=folder / "ramp.h5", dark=dark),
            outputs=process_current_source.Outputs(constants=currents[-1]),
            params=process_current_source.Params(ramp=SEGMENTS),
        )
    merge_current_source.main(
        inputs=merge_current_source.Inputs(currents=currents),
        outputs=merge_current_source.Outputs(constants=folder / "merged.nxs"),
        params=merge_current_source.Params(names=("80", "150")),
    )
    photons = deposit(Foil(MO), 6000, truth.shape, rng)
    process_xray.main(
        inputs=process_xray.Inputs(
            gathered=_write(folder / "xray.h5", "xray", truth, photons, rng), dark=dark
        ),
        outputs=process_xray.Outputs(constants=folder / "xray.nxs"),
        params=process_xray.Params(energy=MO),
    )
    combine_constants.main(
        inputs=combine_constants.Inputs(
            dark=dark, xray=folder / "xray.nxs", pulse_capacitor=capacitor,
            current_source=folder / "merged.nxs",
        ),
        outputs=combine_constants.Outputs(constants=folder / "combined.nxs"),
        params=combine_constants.Params(),
    )  # fmt: skip
    mask_constants.main(
        inputs=mask_constants.Inputs(combined=folder / "combined.nxs"),
        outputs=mask_constants.Outputs(constants=folder / "constants.nxs"),
        params=mask_constants.Params(),
    )
    return files.read_part(folder / "constants.nxs")


def _measure(
    found: Constants, truth: Truth, energy: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean energy (ss, fs) in the last cell, and the stage."""
    cell = truth.cells - 1
    analog, digital = truth.respond(energy, cell, rng)
    stage = (digital > found["gain_threshold"][:, None, cell]).sum(axis=0)
    offset, gain = (
        np.take_along_axis(found[name][:, cell].astype(float), stage, axis=0)
        for name in ("offset", "gain")
    )
    return ((analog - offset) / gain).mean(axis=0), np.median(stage, axis=0).astype(int)


def test_photons_come_back_in_every_stage_and_across_the_switches(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    truth = simulate.agipd(rng, 2, (16, 16))
    found = _reduce(tmp_path, truth, rng)
    good = found["pixel_mask"] == 0
    assert good.mean() > 0.99
    assert (found["constants_status"][:, -1][:, good] != 0).mean() < 0.01
    good &= ~bad(found["constants_status"])[:, -1].any(axis=0)
    assert _sources(found) == ["xray", "combined", "current_source"]
    assert np.nanstd(found["gain_ratio_mh_difference"]) == pytest.approx(1, abs=0.1)
    for stage, energy in enumerate((400.0, 8000.0, 80000.0)):
        measured, taken = _measure(found, truth, np.full((60, *truth.shape), energy), rng)
        off = measured[good] / energy - 1
        assert (taken == stage).all()
        assert abs(off.mean()) < 1.5e-3
        assert off.std() < 5e-3
        pull = (found["gain"] - truth.gain)[stage, -1][good] / found["gain_errors"][stage, -1][good]
        assert 0.9 < pull.std() < 1.2
    # Just below and just above each pixel's switch.
    for upper in (1, 2):
        switch = truth.switch[upper - 1, -1]
        below, above = (
            _measure(found, truth, np.broadcast_to(switch + d, (300, *truth.shape)), rng)
            for d in (-1e-6, 1e-6)
        )
        assert (above[1] - below[1] == 1).all()
        step = ((above[0] - below[0]) / switch)[good]
        assert abs(step.mean()) < 1e-3
        assert step.std() < 5e-3


def test_a_dead_asic_is_masked(tmp_path: Path) -> None:
    """It gives zeros whatever happens; nothing crashes, everything is masked."""
    rng = np.random.default_rng(2)
    truth = simulate.agipd(rng, 2, (8, 8))
    for values in (truth.offset, truth.gain, truth.noise, truth.level, truth.level_noise):
        values[:] = 0
    found = _reduce(tmp_path, truth, rng)
    assert (found["pixel_mask"] & MaskBit.DEAD).all()
    assert bad(found["constants_status"]).all()


def test_a_few_dead_pixels_do_not_touch_their_neighbours(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    truth = simulate.agipd(rng, 2, (16, 16))
    for values in (truth.offset, truth.gain, truth.noise):
        values[..., 4, 5] = 0
    truth.gain[..., 7, 8] = 0  # charge never arrives
    found = _reduce(tmp_path, truth, rng)
    assert np.argwhere(found["pixel_mask"]).tolist() == [[4, 5], [7, 8]]
    assert (found["pixel_mask"][[4, 7], [5, 8]] & MaskBit.DEAD).all()
