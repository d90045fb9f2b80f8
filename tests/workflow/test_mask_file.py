"""The workflow depends on the mask file and on the images that it names."""

import copy
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from hklflow import nexus
from hklflow.images.masks import MaskBit

from .conftest import CONFIG, scans, snakemake, write_experiment

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def _experiment(folder: Path) -> Path:
    data = copy.deepcopy(CONFIG)
    data["pixel_mask"] = {"mask_file": "masks/mask.yaml"}
    folder = write_experiment(folder, data, scans([300], {"r1": 0, "r2": 40}, 300))
    (folder / "masks").mkdir()
    np.save(folder / "masks/hole.npy", np.zeros((150, 150)))
    with h5py.File(folder / "free.h5", "w") as file:
        file["entry/mask"] = np.zeros((150, 150))
    text = "- {image: hole.npy}\n- {image: ../free.h5:/entry/mask, op: subtract}\n- {edges: 1}\n"
    (folder / "masks/mask.yaml").write_text(text)
    return folder


def test_the_rule_reads_the_mask_file_and_its_images(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "e")
    target = "results/hexa/300K/r1/mask.nxs"
    run = snakemake(folder, "--cores", "1", target)
    assert run.returncode == 0, run.stdout + run.stderr
    # The edge of the mask file; nothing of the images.
    drawn = nexus.read_mask(folder / target) & MaskBit.USER != 0
    assert drawn.sum() == 150**2 - 148**2
    assert "Nothing to be done" in snakemake(folder, "--dry-run", target).stdout
    np.save(folder / "masks/hole.npy", np.ones((150, 150)))
    run = snakemake(folder, "--dry-run", target)
    assert "pixel_mask: masks/hole.npy has changed" in run.stdout + run.stderr
    assert re.search(r"^pixel_mask +1$", run.stdout + run.stderr, re.MULTILINE)


def test_problems_of_the_mask_file_are_told_before_anything_runs(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "e")
    (folder / "masks/mask.yaml").write_text("- {edges: 0}\n- {image: gone.tif}\n- 3\n")
    run = snakemake(folder, "--dry-run")
    assert run.returncode != 0
    assert "step 1 (line 1): edges: " in run.stderr
    assert "step 3 (line 3): " in run.stderr
    (folder / "masks/mask.yaml").write_text("- {image: gone.tif}\n")
    run = snakemake(folder, "--dry-run")
    assert run.returncode != 0
    assert "config: pixel_mask: masks/gone.tif does not exist" in run.stderr
