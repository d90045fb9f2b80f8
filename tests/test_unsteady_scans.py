"""A parent that slips, from scan file and peak table to the verdict."""

from pathlib import Path

import pytest

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.stages import accept, refine
from tests.truth import worlds
from tests.truth.world_scans import answered, written


def judged(folder: Path, orientation: Path) -> None:
    accept.main(
        inputs=accept.Inputs(orientation=orientation, parent=folder / "parent.json"),
        outputs=accept.Outputs(accepted=folder / "accepted.json"),
        params=accept.Params(),
    )


@pytest.mark.slow
def test_a_slip_of_the_parent_is_told_and_a_large_one_not_accepted(tmp_path: Path) -> None:
    told = answered(worlds.world("slip", "monoclinic", 61, 0.1), tmp_path / "small")
    (sentence,) = told.said
    assert "r0: the crystal slipped by 0.09" in sentence
    assert "`per_scan: {s/a: {import_scan: {leave_out: [r0:1" in sentence
    assert told.data["symmetry"]["motions"][0]["kind"] == "slip"
    judged(tmp_path / "small", tmp_path / "small/parent.json")
    answered(worlds.world("slip", "monoclinic", 61, 1.5), tmp_path / "large")
    with pytest.raises(HklflowError, match=r"the crystal slipped by 1\.5"):
        judged(tmp_path / "large", tmp_path / "large/parent.json")


def test_a_child_that_slips_is_judged_as_its_parent_is(tmp_path: Path) -> None:
    parent = answered(worlds.world("plain", "monoclinic", 61), tmp_path)
    assert parent.said == []
    slips = worlds.world("slip", "monoclinic", 61, 1.5)
    refine.main(
        inputs=refine.Inputs(parent=tmp_path / "parent.json", **written(slips, tmp_path / "child")),
        outputs=refine.Outputs(orientation=tmp_path / "o.json", picture=tmp_path / "o.png"),
        params=refine.Params(sample="s", scan="b", rotations=["r0"]),
    )
    assert stage.read_json(tmp_path / "o.json")["symmetry"]["motions"][0]["kind"] == "slip"
    with pytest.raises(HklflowError, match="s b at 300 K: r0: the crystal slipped by"):
        judged(tmp_path, tmp_path / "o.json")


@pytest.mark.slow
def test_a_second_crystal_of_the_parent_is_not_accepted(tmp_path: Path) -> None:
    """The parent is compared with itself: what it has anew has a limit of its own."""
    told = answered(worlds.world("second_lattice", "cubic", 21), tmp_path)
    assert "of the intensity are on the lattice of a second crystal" in told.said[0]
    with pytest.raises(
        HklflowError, match=r"second crystal with the same cell, rotated by 37[.]88°"
    ):
        judged(tmp_path, tmp_path / "parent.json")
