"""The orientation as a type: its file, and what is said of files that are no whole orientation."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.test_temperature_series import rotation
from tests.truth.orientations import orientation, write_orientation

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.orientation.product import Orientation, Parameter


def whole() -> Orientation:
    return orientation(
        {"r1": rotation(10.0), "r2": rotation(40.0)},
        np.diag([1.0, 2.0, 3.0]),
        "P 2 2 2",
        temperature=100.0,
        refined_parameters={"a": Parameter(0.5, 0.01)},
        figures={"fraction unindexed": 0.25},
        warnings=["a"],
    )


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    made = replace(whole(), started_from={"program": "x"}, converged={"reason": "rests"})
    stage.write_json(tmp_path / "a.json", made.to_dict())
    found = stage.read_orientation(tmp_path / "a.json")
    stage.write_json(tmp_path / "b.json", found.to_dict())
    text = (tmp_path / "a.json").read_text()
    first, second = json.loads(text), json.loads((tmp_path / "b.json").read_text())
    for data in (first, second):  # degrees of angles that are radians in between
        for one in data["rotations"].values():
            one["goniometer"]["angles_deg"] = np.round(one["goniometer"]["angles_deg"], 9).tolist()
            one["scan"]["step_deg"] = round(one["scan"]["step_deg"], 9)
    assert list(first) == list(second)
    assert first == second
    np.testing.assert_array_equal(found.ub, np.diag([1.0, 2.0, 3.0]))
    assert found.refined_parameters == {"a": (0.5, 0.01)}
    assert found.volume == pytest.approx((2 * np.pi) ** 3 / 6)
    assert found.fraction_indexed == 0.75
    assert found.group.symbol == found.constraints.symbol == "P 2 2 2"
    detector = found.rotation("r1").detector
    np.testing.assert_array_equal(found.reference_detector.origin, detector.origin)


def test_without_constraints_and_peaks() -> None:
    found = orientation(cell_constraints=None)
    assert found.constraints.symbol == "P 1"
    assert np.isnan(found.fraction_indexed)


def test_a_rotation_that_is_not_there() -> None:
    with pytest.raises(HklflowError, match=r"of s 300K has no rotation 'r3' \(it has r1, r2\); "):
        whole().rotation("r3")


@pytest.mark.parametrize("absent", list(whole().to_dict()))
def test_an_absent_key_is_said_with_its_cure(tmp_path: Path, absent: str) -> None:
    path = tmp_path / "o.json"
    data = whole().to_dict()
    del data[absent]
    stage.write_json(path, data)
    with pytest.raises(HklflowError, match=rf"o.json has no '{absent}': .*refine that scan again$"):
        stage.read_orientation(path)


@pytest.mark.parametrize(
    "wrong", [{"UB": "none"}, {"rotations": []}, {"grid": {"shape": [1]}}, {"cell": {"a": 1}}]
)
def test_an_entry_that_is_none_of_its_kind(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / "o.json"
    stage.write_json(path, whole().to_dict() | wrong)
    with pytest.raises(
        HklflowError, match=r"o.json is not an orientation \(.*refine that scan again$"
    ):
        stage.read_orientation(path)


def test_the_verdict_is_read_or_was_not_made(tmp_path: Path) -> None:
    path = tmp_path / "accepted.json"
    stage.write_json(path, {"accepted": False})
    assert stage.read_accepted(path) is False
    assert stage.read_accepted(None) == "not judged"


def test_a_written_orientation_is_whole(tmp_path: Path) -> None:
    assert stage.read_orientation(write_orientation(tmp_path / "o.json")).scan == "300K"
