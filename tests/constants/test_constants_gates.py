"""Figures and gates of constants, and their proposal to the store."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.calibration.states import read_schema, state_of
from hklflow.calibration.store import Store
from hklflow.constants import files
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.gates import Gates, figures, judge
from hklflow.constants.status import Bit
from hklflow.images.masks import MaskBit
from hklflow.stages import propose_constants

SIZE = (10, 20)
STATE = {
    "detector": "agipd", "serial": "1", "shape": [20, 20], "binning": 1, "gain_mode": "adaptive",
    "integration_time": 1e-6, "memory_cells": 2,
}  # fmt: skip


def _write(
    path: Path,
    *,
    masked: tuple[int, int] = (0, 0),
    gain: float = 8.0,
    offset: float = 5000.0,
    source: str = "xray",
    low: str = "combined",
    bit: int = MaskBit.DEAD,
    cells: tuple[int, ...] = (0, 1),
    size: tuple[int, int] = SIZE,
    absent: bool = False,
) -> Path:
    """Two modules with so many masked pixels each; of low gain "none" is unknown.

    The gain is that times one plus a tenth of the number of the cell.
    """
    shape = (3, len(cells), *size)
    gains = np.full(shape, gain, np.float32)
    gains *= 1 + 0.1 * np.array(cells, np.float32)[:, None, None]
    if low == "none":
        gains[2] = np.nan
    with files.create_detector(path, "constants", {"detector": "agipd"}) as group:
        for number, n in enumerate(masked):
            gone = absent and number == 1
            mask = np.full(size, MaskBit.DEAD if gone else 0, np.uint32)
            mask.flat[:n] = bit
            status = np.zeros(shape, np.uint32)
            status[:, :, mask > 0] = 1
            status[~np.isfinite(gains)] |= np.uint32(Bit.VALUE_IS_NAN)
            files.add_quantities(
                group.create_group(files.module_name(number)),
                Constants(
                    {"module": number, "cell_ids": list(cells)}
                    | ({"absent": True} if gone else {}),
                    {
                        "offset": Quantity(np.full(shape, np.nan if gone else offset, np.float32)),
                        "noise": Quantity(np.full(shape, 10.0, np.float32)),
                        "gain": Quantity(
                            np.full_like(gains, np.nan) if gone else gains,
                            attrs={"source": [source, "combined", low]},
                        ),
                        "constants_status": Quantity(status),
                        "pixel_mask": Quantity(mask),
                    },
                ),
            )
    return path


def _failed(path: Path, gates: Gates | None = None, before: Path | None = None) -> set[str]:
    with files.open_constants(path) as now:
        if before is None:
            found = figures(now)
        else:
            with files.open_constants(before) as then:
                found = figures(now, then)
    return {gate["name"] for gate in judge(found, gates or Gates()) if not gate["passed"]}


def test_figures_are_those_of_the_file(tmp_path: Path) -> None:
    with files.open_constants(_write(tmp_path / "c.nxs", masked=(8, 4))) as constants:
        found = figures(constants)
    assert found["masked"] == pytest.approx(12 / 400)
    assert found["modules"]["0"]["masked"] == pytest.approx(8 / 200)
    assert found["bad constants"] == pytest.approx(12 / 400)
    assert found["modules"]["1"]["gain"] == pytest.approx([8.4, 8.4, 8.4])
    assert found["gain source"] == ["xray", "combined", "combined"]


def test_each_gate_is_missed_by_its_own_fault(tmp_path: Path) -> None:
    good = _write(tmp_path / "good.nxs", masked=(2, 2))
    assert _failed(good) == set()
    assert _failed(_write(tmp_path / "a.nxs", masked=(15, 15))) == {"masked"}
    one = _write(tmp_path / "b.nxs", masked=(0, 50))
    assert _failed(one) == {"masked", "masked_module", "bad_constants"}
    assert _failed(one, Gates(max_masked=None, max_bad_constants=None)) == {"masked_module"}
    assert _failed(_write(tmp_path / "d.nxs", source="default")) == {"measured_gains"}
    assert _failed(_write(tmp_path / "e.nxs", gain=8.4), before=good) == {"gain_change"}
    moved = _write(tmp_path / "f.nxs", offset=5030.0)
    assert _failed(moved, before=good) == set()
    assert _failed(moved, Gates(max_offset_change=2.0), before=good) == {"offset_change"}
    unknown = _write(tmp_path / "g.nxs", gain=float("nan"))
    assert _failed(unknown, before=good) == {"gain_change", "bad_constants"}


def _verdict(path: Path, before: Path | None, name: str) -> dict[str, Any]:
    with files.open_constants(path) as now:
        if before is None:
            found = figures(now)
        else:
            with files.open_constants(before) as then:
                found = figures(now, then)
    (verdict,) = (gate for gate in judge(found, Gates()) if gate["name"] == name)
    return verdict


@pytest.mark.parametrize("bit", [MaskBit.GAP, MaskBit.VIRTUAL])
def test_pixels_that_never_were_are_not_masked(tmp_path: Path, bit: MaskBit) -> None:
    """A quarter of a flawless module; nor do they make the fraction of the others less."""
    assert _failed(_write(tmp_path / "a.nxs", masked=(50, 50), bit=bit)) <= {"bad_constants"}
    path = _write(tmp_path / "b.nxs", masked=(150, 150), bit=bit)
    with h5py.File(path, "r+") as file:
        for number in range(2):
            file[f"entry/instrument/detector/module_{number:02d}/pixel_mask"][9, 15:] = MaskBit.DEAD
    with files.open_constants(path) as constants:
        found = figures(constants)
    assert found["masked"] == found["modules"]["1"]["masked"] == pytest.approx(5 / 50)


def test_the_gates_of_a_counter_with_real_gaps(tmp_path: Path) -> None:
    from pyFAI.detectors import detector_factory

    mask = detector_factory("Pilatus 1M").mask.astype(np.uint32)
    assert mask.mean() > 0.05
    with files.create_detector(tmp_path / "c.nxs", "c", {"counter": True}) as group:
        values = {"pixel_mask": Quantity(mask)}
        files.add_quantities(group.create_group("module_00"), Constants({}, values))
    assert _failed(tmp_path / "c.nxs") == set()


def test_a_stage_that_nobody_measured(tmp_path: Path) -> None:
    """Its gain is told by one gate; the other stages are compared."""
    unknown = _write(tmp_path / "a.nxs", low="none")
    other = _write(tmp_path / "b.nxs", low="none", gain=8.8)
    assert _failed(unknown) == _failed(unknown, before=unknown) == {"measured_gains"}
    told = _verdict(unknown, None, "measured_gains")["sentence"]
    assert told == "the gain of low is unknown"
    assert _failed(unknown, Gates(measured_gains=False)) == set()
    assert _failed(other, before=unknown) == {"measured_gains", "gain_change"}
    assert _verdict(other, unknown, "gain_change")["value"] == pytest.approx(0.1, rel=1e-5)
    known = _write(tmp_path / "c.nxs")
    assert _failed(known, before=unknown) == set()
    assert _failed(unknown, before=known) == {"measured_gains", "gain_change"}
    assert "stage low" in _verdict(unknown, known, "gain_change")["sentence"]
    default = _verdict(_write(tmp_path / "d.nxs", source="default"), None, "measured_gains")
    assert default["sentence"] == "the gain of high is from default_gain"


def test_sources_of_all_modules_and_asics_count(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nxs")
    with h5py.File(path, "r+") as file:
        gain = file["entry/instrument/detector/module_01/gain"]
        gain.attrs["source"] = ["xray", "combined|none", "combined|default"]
    told = _verdict(path, None, "measured_gains")
    assert told["sentence"] == "the gain of medium is unknown, the gain of low is from default_gain"
    assert not told["passed"]


def test_a_module_that_was_left_out_is_not_judged(tmp_path: Path) -> None:
    """But all its pixels are masked."""
    good, without = _write(tmp_path / "a.nxs"), _write(tmp_path / "b.nxs", absent=True)
    for before in (good, without, None):
        assert _failed(without, before=before) == {"masked", "masked_module"}
    assert _failed(good, before=without) == set()


def test_the_same_memory_cells_are_compared(tmp_path: Path) -> None:
    """In the simulation each has another gain."""
    first = _write(tmp_path / "a.nxs", cells=(0, 1, 2))
    for cells in ((2, 3, 4), (1, 0), (2,)):
        same = _write(tmp_path / "b.nxs", cells=cells)
        assert _verdict(same, first, "gain_change")["value"] == 0
        changed = _write(tmp_path / "c.nxs", cells=cells, gain=8.8)
        value = _verdict(changed, first, "gain_change")["value"]
        assert value == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize(
    ("other", "why"), [({"cells": (5, 6)}, "memory cells"), ({"size": (20, 10)}, "size")]
)
def test_what_cannot_be_compared_does_not_pass(
    tmp_path: Path, other: dict[str, Any], why: str
) -> None:
    first, second = _write(tmp_path / "a.nxs"), _write(tmp_path / "b.nxs", **other)
    told = _verdict(second, first, "gain_change")
    assert (told["passed"], told["value"]) == (False, None)
    assert why in told["sentence"]
    assert "cannot be determined" in told["sentence"]
    limits = Gates(max_gain_change=None, max_offset_change=1.0)
    assert _failed(second, limits, before=first) == {"offset_change"}


def _propose(folder: Path, constants: Path, **more: Any) -> dict[str, Any]:
    picture = folder / "maps.png"
    picture.write_bytes(b"a picture")
    out = folder / f"{constants.stem}.json"
    stage.run(
        propose_constants.main,
        inputs=propose_constants.Inputs(constants=constants, report=[picture]),
        outputs=propose_constants.Outputs(proposed=out),
        params=propose_constants.Params(
            store=folder / "store", name="agipd", state=STATE, author="A. Person", **more
        ),
        threads=1,
    )
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_constants_are_proposed_and_compared_with_those_accepted(tmp_path: Path) -> None:
    first = _write(tmp_path / "first.nxs")
    with pytest.raises(HklflowError, match="hklflow calibration init"):
        _propose(tmp_path, first)
    store, state = Store(tmp_path / "store"), state_of("constants", STATE, read_schema())
    parameters = tmp_path / "parameters.json"
    parameters.write_text("{}")
    store.init(state, {"parameters.json": parameters}, author="A. Person", comments="new")

    proposed = _propose(tmp_path, first)
    assert (proposed["candidate"], proposed["iteration"]) == ("agipd", 1)
    assert all(gate["passed"] for gate in proposed["gates"])
    candidate = store.candidate("agipd")
    assert (candidate.path / "constants.nxs").read_bytes() == first.read_bytes()
    version = store.publish(
        state, candidate.files(), {"software": {}, "gates": candidate.record["gates"]},
        status="accepted", author="A. Person", comments="good", applies_to="*",
    )  # fmt: skip

    second = _propose(tmp_path, _write(tmp_path / "second.nxs", gain=8.8))
    assert (second["iteration"], second["compared with version"]) == (2, version.number)
    failed = [gate for gate in second["gates"] if not gate["passed"]]
    assert [gate["name"] for gate in failed] == ["gain_change"]
    assert failed[0]["value"] == pytest.approx(0.1, rel=1e-5)

    third = _propose(tmp_path, _write(tmp_path / "third.nxs", low="none"))
    assert third["figures"]["modules"]["0"]["gain"][2] is None
    failed = [gate["name"] for gate in third["gates"] if not gate["passed"]]
    assert failed == ["gain_change", "measured_gains"]
