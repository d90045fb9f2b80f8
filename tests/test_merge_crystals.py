"""The stage that merges several crystals: its files, its sentences, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.geometry import Beam
from hklflow.nexus import structure_factors as files
from hklflow.stages import merge_crystals
from tests.truth.several_crystals import World

NAMES = ("factors", "mtz", "hkl", "table", "scaled", "picture", "comparison", "metrics")
SUFFIXES = (".nxs", ".mtz", ".hkl", ".tsv", ".nxs", ".png", ".png", ".json")


def run(folder: Path, world: World, **more: Any) -> merge_crystals.Outputs:
    written = [one.write(folder / one.name) for one in world.crystals]
    names = [f"{one.name}/100K" for one in world.crystals]
    outputs = merge_crystals.Outputs(
        **{n: folder / f"{n}{suffix}" for n, suffix in zip(NAMES, SUFFIXES, strict=True)}
    )
    given = {"name": "all", "scans": names, "rotations": [f"{name}/r1" for name in names]}
    stage.run(
        merge_crystals.main,
        inputs=merge_crystals.Inputs(
            reflections=[path for one in written for path in one.reflections],
            orientations=[one.orientation for one in written],
        ),
        outputs=outputs,
        params=merge_crystals.Params(**given | more),
        threads=1,
    )
    return outputs


@pytest.fixture(scope="module")
def twinned(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, merge_crystals.Outputs]:
    world = World(3, "twin")
    return world, run(tmp_path_factory.mktemp("twin"), world)


def test_files_hold_the_scans_that_agree(twinned: tuple[World, merge_crystals.Outputs]) -> None:
    world, outputs = twinned
    metrics = json.loads(outputs.metrics.read_text())
    rows = {row["scan"]: row for row in metrics["scans"]}
    bad = f"{world.bad}/100K"
    assert [name for name, row in rows.items() if not row["merged"]] == [bad]
    assert rows[bad]["scale"] is None
    assert rows[bad]["delta CC1/2"] < 0
    assert metrics["scans merged"] == 4
    assert metrics["warnings"].count(rows[bad]["reason"]) == 1
    file = files.read_scaled(outputs.scaled)
    assert set(file.rotations) == {f"{name}/r1" for name in rows if name != bad}
    factors = files.read_factors(outputs.factors)
    assert factors.crystal.space_group.startswith("I 41/a")
    assert np.allclose(factors.crystal.cell[0], factors.crystal.cell[1])
    mtz = gemmi.read_mtz_file(str(outputs.mtz))
    assert len(mtz.array) == len(factors.factors) == metrics["unique"]
    assert mtz.spacegroup.xhm() == "I 41/a:2"
    assert outputs.comparison.stat().st_size > 10_000


def test_scales_are_those_of_the_crystals(twinned: tuple[World, merge_crystals.Outputs]) -> None:
    """Relative to the first merged one, with the drifts of 20 % and the absorption."""
    world, outputs = twinned
    rows = [row for row in json.loads(outputs.metrics.read_text())["scans"] if row["merged"]]
    truth = {f"{one.name}/100K": one for one in world.crystals}
    first = truth[rows[0]["scan"]]
    for row in rows:
        one = truth[row["scan"]]
        assert row["scale"] == pytest.approx(one.scale / first.scale, rel=0.1)
        assert row["B"] == pytest.approx(one.b - first.b, abs=0.15)


def test_conditions_that_differ_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(0, n=3)
    world.crystals[0].temperature = 250.0
    world.crystals[1].rotation = replace(world.crystals[1].rotation, beam=Beam(0.52))
    run(tmp_path, world)
    said = capsys.readouterr().out
    assert "the merged scans have temperatures from 100 to 250 K" in said
    assert "the merged scans have wavelengths from 0.5 to 0.52 Å" in said
    assert "make a set of each" in said


def test_lists_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    world = World(0, n=2)
    with pytest.raises(HklflowError, match="leave_out names c9/100K; the scans are c0/100K"):
        run(tmp_path, world, leave_out=["c9/100K"])
    with pytest.raises(HklflowError, match="1 rotations with 2 files; give one for each"):
        run(tmp_path, world, rotations=["c0/100K/r1"])
    assert not list(tmp_path.glob("*.nxs"))
