"""Verdicts on worlds of known truth: passed, doubtful and failed, each with its reasons."""

import json
from pathlib import Path
from typing import Any

import pytest

from hklflow import geometry, stage
from hklflow.base.errors import HklflowError
from hklflow.page.gates import table as table_of_gates
from hklflow.stages import accept
from tests.test_fixed_orientation import UB, made, rotation, table
from tests.truth import worlds
from tests.truth.world_scans import answered


def judged(orientation: Path, parent: Path, **params: Any) -> dict[str, Any]:
    output = orientation.parent / "accepted.json"
    accept.main(
        inputs=accept.Inputs(orientation=orientation, parent=parent),
        outputs=accept.Outputs(accepted=output),
        params=accept.Params(**{"on_failure": "warn"} | params),
    )
    return stage.read_json(output)


def of_world(folder: Path, kind: str, system: str, seed: int, *size: float, **more: Any) -> Any:
    """Verdict on a parent in a world."""
    assert not answered(worlds.world(kind, system, seed, *size, **more), folder).refusal
    return judged(folder / "parent.json", folder / "parent.json")


@pytest.mark.parametrize(("system", "seed"), [("monoclinic", 61), ("cubic", 21)])
def test_a_crystal_at_rest_passes(tmp_path: Path, system: str, seed: int) -> None:
    found = of_world(tmp_path, "plain", system, seed)
    assert (found["verdict"], found["accepted"]) == ("passed", True)
    assert found["sentences"] == found["doubts"] == []


def test_a_small_slip_is_doubtful_and_says_what_to_do(tmp_path: Path) -> None:
    found = of_world(tmp_path, "slip", "monoclinic", 61, 0.03)
    assert (found["verdict"], found["accepted"]) == ("doubtful", True)
    (doubt,) = found["doubts"]
    assert doubt.startswith("r0: the crystal slipped by 0.03")
    assert "`per_scan: {s/a: {import_scan: {leave_out: [r0:" in doubt
    assert found["sentences"] == []


def test_a_slip_of_more_than_half_a_frame_has_failed(tmp_path: Path) -> None:
    """Of frames of 0.1°: a slip of 0.3° leaves the spots before and after it 1.5 frames off."""
    fine = {"step": 0.1, "n_frames": 900}
    found = of_world(tmp_path, "slip", "monoclinic", 61, 0.3, **fine)
    assert (found["verdict"], found["accepted"]) == ("failed", False)
    assert "the crystal slipped by 0." in found["sentences"][0]
    assert found["doubts"] == []
    missed = [gate for gate in table_of_gates(found) if not gate.passed]
    assert [gate.name for gate in missed] == ["Motion (pixel, frame)"]
    with pytest.raises(HklflowError, match="the crystal slipped by"):
        judged(tmp_path / "parent.json", tmp_path / "parent.json", on_failure="stop")


@pytest.mark.parametrize(
    ("size", "verdict"), [pytest.param(0.3, "failed", marks=pytest.mark.slow), (0.05, "doubtful")]
)
def test_a_second_crystal_fails_by_its_share(tmp_path: Path, size: float, verdict: str) -> None:
    found = of_world(tmp_path, "second_lattice", "cubic", 21, size)
    assert found["verdict"] == verdict
    (sentence,) = [*found["sentences"], *found["doubts"]]
    assert "on the lattice of a second crystal" in sentence
    missed = [gate.name for gate in table_of_gates(found) if not gate.passed]
    assert missed == (["Second crystal"] if size > 0.1 else [])


def fixed(folder: Path, number: int, wrong: int = 0, shift: float = 0.0, **more: Any) -> Any:
    """Verdict on a fixed orientation; header and start have the detector so many pixels off."""
    moved = rotation().detector.moved([shift * 172e-6, 0.0, 0.0], [0.0, 0.0, 0.0])
    start = geometry.to_dict(rotation()) | {"detector": geometry.detector_to_dict(moved)}
    described = {"space_group": None, "UB": UB.tolist(), "rotations": {"r1": start}}
    (folder / "own.json").write_text(json.dumps(described))
    made(folder, table(number, wrong=wrong), header=moved, start=folder / "own.json")
    return judged(folder / "o.json", folder / "p.json", **more)


def test_few_peaks_of_a_fixed_orientation_are_doubtful(tmp_path: Path) -> None:
    found = fixed(tmp_path, 5)
    assert (found["verdict"], found["accepted"]) == ("doubtful", True)
    assert ["of the 20 peaks that the gates need" in x for x in found["doubts"]] == [True]


@pytest.mark.slow
def test_spots_beside_a_fixed_orientation_are_doubtful(tmp_path: Path) -> None:
    found = fixed(tmp_path, 25, shift=4.0)
    assert (found["verdict"], found["accepted"]) == ("doubtful", True)
    (doubt,) = found["doubts"]
    # Four pixels, but for the part along the Ewald sphere, which looks like another angle.
    assert found["figures"]["misfit"]["rms in pixels"] == pytest.approx(4, rel=0.2)
    assert doubt.startswith("25 indexed peaks are ")
    assert "`orientation: {fixed: false}`" in doubt
    # One pixel is below the limit; the table says 0.1 pixels, which would explain less.
    assert fixed(tmp_path, 25, shift=1.0)["verdict"] == "passed"
    assert fixed(tmp_path, 25, shift=1.0, told_rmsd=(0.5, 1.0))["verdict"] == "doubtful"


def test_noise_that_is_indexed_by_chance_is_no_deviation(tmp_path: Path) -> None:
    """Of 24 random peaks an eighth is indexed by 0.25, many pixels beside their reflections."""
    fixed(tmp_path, 25, wrong=24, shift=1.0)
    found = judged(tmp_path / "p.json", tmp_path / "p.json")
    assert found["figures"]["misfit"]["peaks"] > 25
    assert found["figures"]["misfit"]["fraction indexed"] > 25 / 49
    assert found["verdict"] == "passed"


@pytest.mark.slow
def test_a_fixed_orientation_that_indexes_little_is_doubtful(tmp_path: Path) -> None:
    found = fixed(tmp_path, 25, wrong=60, shift=1.0)
    assert found["verdict"] == "doubtful"
    (doubt,) = found["doubts"]
    assert "the fixed orientation indexes" in doubt
    assert "(limit 50%)" in doubt


@pytest.mark.slow
def test_residuals_far_below_the_errors_are_doubtful(tmp_path: Path) -> None:
    """The table says 0.1 pixels and frames, the spots are right to a hundredth of that."""
    found = fixed(tmp_path, 25)
    assert (found["verdict"], found["accepted"]) == ("doubtful", True)
    (doubt,) = found["doubts"]
    assert "(reduced chi² " in doubt
    assert "lower `find_peaks: sigma_floor`" in doubt
    assert fixed(tmp_path, 25, min_chi2=0)["verdict"] == "passed"
