"""Figures and gates of constants, and their proposal to the store."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import stage
from hklflow.calibration.states import read_schema, state_of
from hklflow.calibration.store import Store
from hklflow.constants import files
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.gates import Gates, figures, judge
from hklflow.errors import HklflowError
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
) -> Path:
    """Two modules with so many masked pixels each."""
    with files.create_detector(path, "constants", {"detector": "agipd"}) as group:
        for number, n in enumerate(masked):
            mask = np.zeros(SIZE, np.uint32)
            mask.flat[:n] = 2
            status = np.zeros((3, 2, *SIZE), np.uint32)
            status[:, :, mask > 0] = 1
            files.add_quantities(
                group.create_group(files.module_name(number)),
                Constants(
                    {"module": number},
                    {
                        "offset": Quantity(np.full((3, 2, *SIZE), offset, np.float32)),
                        "noise": Quantity(np.full((3, 2, *SIZE), 10.0, np.float32)),
                        "gain": Quantity(
                            np.full((3, 2, *SIZE), gain, np.float32),
                            attrs={"source": [source, "combined", "combined"]},
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
    assert found["modules"]["1"]["gain"] == [8.0, 8.0, 8.0]
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
    assert _failed(unknown, before=good) == {"gain_change"}


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
