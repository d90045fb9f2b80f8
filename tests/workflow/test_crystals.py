"""The rule that merges several crystals, as a user meets it: from integration to its products."""

import json
from pathlib import Path
from typing import Any

import pytest

from hklflow.experiment import config
from hklflow.experiment.jobs import Plan
from tests.truth.several_crystals import World

from .conftest import snakemake, write_experiment

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

GOAL = "results/c0/crystals_all/structure_factors.nxs"


@pytest.fixture
def world() -> World:
    return World(3, "twin")


def settings(world: World) -> dict[str, Any]:
    return {
        "bragg": True,
        "import_scan": {"axes": ["phi=-1,0,0"], "exposure": 0.1},
        "calibrations": {"lab": {"poni": "raw/lab.poni", "polarization": 0.99}},
        "crystals": {"all": {"scans": [f"{one.name}/100K" for one in world.crystals]}},
    }


@pytest.fixture
def folder(tmp_path: Path, world: World) -> Path:
    """An experiment of five crystals, one of which is a twin, whose integration is done."""
    header = "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\n"
    names = [one.name for one in world.crystals]
    rows = [f"{name}\t100K\t100\t100K\tr1\traw/{name}.nxs\tphi=0:0.5\tlab\n" for name in names]
    made = write_experiment(tmp_path / "e", settings(world), header + "".join(rows))
    samples = "".join(f"{name}\tI 41/a\t12.8\t12.8\t6.8\t90\t90\t90\n" for name in names)
    head = "sample\tspace_group\ta\tb\tc\talpha\tbeta\tgamma\n"
    (made / "config/samples.tsv").write_text(head + samples)
    (made / "raw").mkdir()
    for name in ("lab.poni", *(f"{name}.nxs" for name in names)):
        (made / "raw" / name).touch()
    for one in world.crystals:
        written = one.write(made / "results" / one.name / "100K")
        (made / "results" / one.name / "100K/r1").mkdir()
        written.reflections[0].rename(made / "results" / one.name / "100K/r1/reflections.nxs")
    return made


def test_integrated_crystals_become_one_set_of_structure_factors(
    folder: Path, world: World
) -> None:
    run = snakemake(folder, GOAL, "--cores", "1", "--allowed-rules", "merge_crystals")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "merge the scans of all to structure factors" in run.stdout + run.stderr
    (job,) = [
        job
        for job in Plan(config.load(settings(world), folder)).jobs
        if job.rule == "merge_crystals"
    ]
    assert job.outputs["factors"] == GOAL
    for path in job.outputs.values():
        assert (folder / path).stat().st_size > 0
    metrics = json.loads((folder / GOAL).with_suffix(".json").read_text())
    left_out = [row["scan"] for row in metrics["scans"] if not row["merged"]]
    assert left_out == [f"{world.bad}/100K"]
    log = (folder / job.logs[-1]).read_text()
    assert f"{world.bad}/100K contradicts the other scans" in log
