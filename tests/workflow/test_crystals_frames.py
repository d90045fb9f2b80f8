"""Three crystals, of which one has another structure, from raw frames to one set of intensities."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hklflow.experiment import config
from hklflow.nexus.structure_factors import read_factors
from hklflow.stages.simulate import build

from .conftest import CONFIG, snakemake, write_experiment

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

ORIENTATIONS = {
    "c1": [0.4, -0.3, 0.9],
    "c2": [-1.1, 0.6, 0.2],
    "c3": [0.2, 1.4, -0.7],
}
BAD = "c3"
GOAL = "results/c1/crystals_all/structure_factors.nxs"


def in_4_m(*atoms: tuple[float, float, float, float]) -> list[list[float]]:
    """Atoms (x, y, z, electrons) with their equivalents in P 4/m."""
    found = []
    for x, y, z, n in atoms:
        for s in (1, -1):
            for a, b in ((x, y), (-x, -y), (-y, x), (y, -x)):
                found.append([s * a, s * b, s * z, n])
    return found


STRUCTURE = in_4_m((0.13, 0.31, 0.12, 1.3), (0.36, 0.07, 0.33, 2.0), (0.22, 0.41, 0.41, 1.0))
ANOTHER = in_4_m((0.05, 0.22, 0.19, 1.3), (0.41, 0.28, 0.08, 2.0), (0.33, 0.12, 0.45, 1.0))


def experiment(folder: Path) -> Path:
    """Frames of three crystals; the lattice 4/mmm leaves two ways to index each of them."""
    settings: dict[str, Any] = copy.deepcopy(CONFIG)
    settings["calibrations"]["powder"]["beam_centre"] = [120.0, 119.0]
    simulation = settings["simulation"]
    scan = simulation["scan"]
    scan["detector"] |= {"module_shape": [240, 116], "foot": [120.3, 118.2]}
    scan |= {"n_frames": 160, "flux": 4.0, "background": {"air": 0.3}}
    del simulation["rotations"]
    simulation["samples"] = {
        name: {
            "crystal": {
                "cell": [7.1, 7.1, 10.3, 90, 90, 90],
                "orientation": orientation,
                "atoms": ANOTHER if name == BAD else STRUCTURE,
                "b_iso": 1.0,
                "scale": 0.004 * (1 + i),
                "mosaic": 0.006,
                "spot_sigma": [0.9, 1.1],
            },
            "diffuse": {"flat": 0.05},
        }
        for i, (name, orientation) in enumerate(ORIENTATIONS.items())
    }
    settings["crystals"] = {"all": {"scans": [f"{name}/300K" for name in ORIENTATIONS]}}
    header = "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\n"
    table = header + "".join(
        f"{name}\t300K\t300\t300K\tr1\traw/{name}.nxs\tchi={10 * i} phi=0:0.75\tpowder\n"
        for i, name in enumerate(ORIENTATIONS)
    )
    write_experiment(folder, settings, table)
    (folder / "config/samples.tsv").write_text(
        "sample\tspace_group\ta\tb\tc\talpha\tbeta\tgamma\n"
        + "".join(f"{name}\tP 4/m\t7.1\t7.1\t10.3\t90\t90\t90\n" for name in ORIENTATIONS)
    )
    return folder


def test_three_crystals_from_frames_to_one_set_of_structure_factors(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "e")
    run = snakemake(folder, GOAL, "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    metrics = json.loads((folder / GOAL).with_suffix(".json").read_text())
    rows = {row["scan"]: row for row in metrics["scans"]}
    assert [name for name, row in rows.items() if not row["merged"]] == [f"{BAD}/300K"]
    assert "contradicts the other scans" in rows[f"{BAD}/300K"]["reason"]
    assert metrics["overall"]["CC1/2"] > 0.999

    # The truth of the first crystal: hkl in its own setting, or with c reversed.
    settings = config.load(yaml.safe_load((folder / "config/config.yaml").read_text()), folder)
    truth = build(
        config.simulation_description(settings, settings.rotation("c1", "300K", "r1").raw)
    )
    factors = read_factors(folder / GOAL).factors
    hkl, true = truth.crystal.reflections(2 * np.pi / factors.d.min() + 0.01)
    known = {tuple(h): value for h, value in zip(hkl.astype(int), true, strict=True)}
    away = []
    for way in (np.eye(3, dtype=int), np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])):
        expected = np.array([known[tuple(h)] for h in factors.hkl @ way])
        scale = np.sum(factors.mean.intensity * expected) / np.sum(expected**2)
        difference = np.abs(factors.mean.intensity - scale * expected)
        away.append(difference.sum() / (scale * expected).sum())
    assert len(factors) > 100
    assert min(away) < 0.02
    assert max(away) > 0.2
