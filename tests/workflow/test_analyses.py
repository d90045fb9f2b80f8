"""Analyses of a scan side by side, from raw frames to the comparison."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from hklflow.experiment import config
from hklflow.geometry.symmetry import space_group
from hklflow.stages.simulate import build
from tests.truth import forks

from .conftest import snakemake
from .faults import copy_experiment

pytestmark = pytest.mark.workflow

ANALYSES = {
    "hexa/300K@tight": {"find_peaks": {"n_sigma": 9}},
    "hexa/300K@p1": {"refine_parent": {"space_group": "P 1"}},
}


@pytest.mark.slow
def test_two_analyses_side_by_side(finished: Path, tmp_path: Path) -> None:
    folder = copy_experiment(finished, tmp_path / "e")
    file = folder / "config/config.yaml"
    content = yaml.safe_load(file.read_text()) | {"per_scan": ANALYSES}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    goals = [f"results/hexa/300K@{name}/transform.nxs" for name in ("tight", "p1")]
    plan = snakemake(folder, *goals, "--dry-run")
    told = plan.stdout + plan.stderr
    assert plan.returncode == 0, told
    # The scan itself is finished and stays so; nothing is simulated or calibrated again.
    assert "simulate" not in told.split("Reasons:")[0]
    assert "of hexa 300K r1" not in told
    run = snakemake(folder, *goals, "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    words = [forks.python(), "-m", "hklflow.cli", "compare", "hexa/300K", "--json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["scans"] == ["hexa/300K", "hexa/300K@tight", "hexa/300K@p1"]
    assert set(found["parameters"]) == {"find_peaks.n_sigma", "refine_parent.space_group"}
    truth = _cell(folder)
    for one in found["lattice"]:
        pulls = (np.array(one["cell"]) - truth)[:3] / np.array(one["cell_sigma"])[:3]
        assert np.abs(pulls).max() < 4
    assert [one["space group"] for one in found["lattice"]] == ["P 6/m m m", "P 6/m m m", "P 1"]
    # In P 1, any of the equivalent settings may be found: an operation of the true group.
    allowed = space_group("P 6/m m m").laue_operations
    for relation in found["to the first"]:
        matrix = np.array(relation["matrix"])
        assert any(np.array_equal(matrix, op) for op in allowed)
        assert relation["angle_deg"] < 0.02
    peaks = found["figures"]["peaks found"]
    assert peaks[1] < peaks[0] == peaks[2]
    for one in found["correlation"]:
        used = [row for row in one["all"] if row["voxels"] > 1000]
        assert len(used) > 5
        assert min(row["cc"] for row in used) > 0.99
        assert all(abs(row["ratio"] - 1) < 0.01 for row in used)


def _cell(folder: Path) -> np.ndarray:
    """The simulated cell at 300 K."""
    experiment = config.load(yaml.safe_load((folder / "config/config.yaml").read_text()), folder)
    described = config.simulation_description(experiment, "raw/300K_r1.nxs")
    return np.asarray(build(described).cell)
