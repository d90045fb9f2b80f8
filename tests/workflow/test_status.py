"""`hklflow status` against snakemake itself: the same jobs, and what a failing run leaves."""

import base64
import copy
import csv
import io
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hklflow.experiment.config import flags, load, read_yaml
from hklflow.experiment.freshness import Freshness
from hklflow.experiment.jobs import Job, Plan

from ..cli.conftest import Hklflow, hklflow
from .conftest import CONFIG, scans, snakemake, write_experiment

__all__ = ["hklflow"]

pytestmark = pytest.mark.workflow


def jobs(base: Path, **config: Any) -> list[Job]:
    return Plan(load(read_yaml(base / "config/config.yaml") | config, base, config)).of_status


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {
            "bragg": True,
            "crystals": {"both": {"scans": ["hexa/300K", "hexa/100K"]}},
            "delta_pdf": ["transform", "masked_transform"],
        },
        {"delta_pdf": ["transform"], "binning": 2},
        {"delta_pdf": [], "frame_blocks": 2},
    ],
    ids=["everything", "quick look", "blocks"],
)
def test_the_jobs_are_those_of_the_workflow(config: dict[str, Any], tmp_path: Path) -> None:
    table = scans([300, 100], {"r1": 0, "r2": 40}, parent=300, repeated=((100, "r2"),))
    folder = write_experiment(tmp_path / "e", copy.deepcopy(CONFIG) | config, table)
    run = snakemake(folder, "--summary")
    assert run.returncode == 0, run.stderr
    told = csv.DictReader(
        io.StringIO(run.stdout[run.stdout.index("output_file") :]), delimiter="\t"
    )
    theirs = {row["output_file"]: row["rule"] for row in told}
    ours = {product: job.rule for job in jobs(folder) for product in job.products}
    # Of blocks of frames the job is one.
    parts = {part for job in jobs(folder) for part in job.parts}
    assert {name for name, rule in theirs.items() if name not in ours} == parts
    assert ours == {name: rule for name, rule in theirs.items() if name in ours}


def test_inputs_and_logs_are_those_of_the_workflow(finished: Path) -> None:
    makers = {product: job for job in jobs(finished) for product in job.products}
    seen = set()
    records = finished / ".snakemake/metadata"
    for path in records.rglob("*"):
        if path.is_dir():
            continue
        parts = [part.removeprefix("@") for part in path.relative_to(records).parts]
        product = base64.urlsafe_b64decode("".join(parts)).decode()
        record = json.loads(path.read_text())
        job = makers[product]
        assert job.rule == record["rule"]
        assert list(job.logs) == record["log"]
        assert set(job.inputs) == {name for name in record["input"] if name in makers}
        seen.add(product)
    assert seen == set(makers)


def test_a_finished_experiment_is_not_out_of_date(finished: Path) -> None:
    """Parameters and inputs of every job in the table are those that its products hold."""
    freshness = Freshness(load(read_yaml(finished / "config/config.yaml"), finished, {}), full=True)
    verdicts = freshness.verdicts()
    assert len(verdicts) == len(freshness.jobs)
    assert [v for v in verdicts if v.reasons or v.doubts] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {
            "bragg": True,
            "crystals": {"both": {"scans": ["hexa/300K", "hexa/100K"]}},
            "delta_pdf": ["transform", "masked_transform"],
        },
        {"delta_pdf": ["transform"], "binning": 2, "mask_3d": {"model": True}},
        {"delta_pdf": [], "frame_blocks": 2, "orientation": {"start": "config/config.yaml"}},
    ],
    ids=["everything", "quick look", "blocks"],
)
def test_commands_are_those_of_the_recipes(config: dict[str, Any], tmp_path: Path) -> None:
    """Each command names the inputs, outputs and parameters of a recipe, and nothing else."""
    table = scans([300, 100], {"r1": 0, "r2": 40}, parent=300, repeated=((100, "r2"),))
    folder = write_experiment(tmp_path / "e", copy.deepcopy(CONFIG) | config, table)
    run = snakemake(folder, "--dry-run", "--printshellcmds")
    assert run.returncode == 0, run.stderr
    pattern = re.compile(r"python -m hklflow\.stages\.(\w+) (.*?) > \S+ 2>&1")
    theirs = Counter(
        (stage, frozenset(words))
        for stage, words in _expanded(pattern.findall(run.stdout + run.stderr))
    )
    ours: Counter[tuple[str, frozenset[str]]] = Counter()
    for job in jobs(folder):
        recipes = job.recipes()
        for i, recipe in enumerate(recipes):
            products = list(job.products)
            if len(recipes) > 1 and recipe is not recipes[-1]:  # a block of frames
                products = [part for part in job.parts if f"/part_{i}/" in part]
            told = [word for words in _expanded([("", flags(recipe.params))]) for word in words[1]]
            ours[recipe.stage, frozenset([*recipe.inputs, *products, *told])] += 1
    assert sum(ours.values()) > 20
    assert [(rule, sorted(words)) for rule, words in ours - theirs] == []
    assert [(rule, sorted(words)) for rule, words in theirs - ours] == []


def _expanded(commands: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Words of commands as the shell makes them, without flags and the number of threads."""
    script = "\n".join(f"printf '%s\\0' {command}; printf '\\1\\0'" for _, command in commands)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    lines = [part.split("\0")[:-1] for part in done.stdout.split("\1\0")[:-1]]
    found = []
    for (stage, _), words in zip(commands, lines, strict=True):
        kept: list[str] = []
        for before, word in zip(["", *words], words, strict=False):
            if before != "--threads" and not word.startswith("--"):
                kept.append(word)
            elif word.startswith("--") and "=" in word:
                kept.append(word.split("=", 1)[1])
        found.append((stage, [word for word in kept if word]))  # printf of nothing is one
    return found


@pytest.mark.slow
def test_a_failing_run(hklflow: Hklflow, tmp_path: Path) -> None:
    """And snakemake says the same of what is to be done."""
    settings = copy.deepcopy(CONFIG)
    del settings["simulation"]
    settings["calibrations"] = {"powder": {"poni": "raw/a.poni", "polarization": 0.99}}
    settings["delta_pdf"] = []
    folder = write_experiment(tmp_path / "e", settings, scans([300, 100], {"r1": 0}, parent=300))
    (folder / "raw").mkdir()
    for name in ("300K_r1.nxs", "100K_r1.nxs"):
        (folder / "raw" / name).write_text("no HDF5")
    (folder / "raw/a.poni").write_text(
        "poni_version: 2.1\nDetector: Detector\n"
        'Detector_config: {"pixel1": 4e-4, "pixel2": 4e-4, "max_shape": [150, 150]}\n'
        "Distance: 0.08\nPoni1: 0.03\nPoni2: 0.03\nRot1: 0\nRot2: 0\nRot3: 0\n"
        "Wavelength: 6e-11\n"
    )
    goal = "results/hexa/100K/r1/scan.nxs"
    run = snakemake(folder, goal, "--cores", "1")
    assert run.returncode == 1, run.stderr
    done = hklflow("status", folder)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert "powder: calibration done" in lines
    (failure,) = [i for i, line in enumerate(lines) if line.startswith("fail ")]
    assert lines[failure].startswith("fail  hexa 100K r1 import_scan: raw/100K_r1.nxs ")
    log = lines[failure + 1].removeprefix("      log: ")
    assert (folder / log).read_text().startswith("hklflow import_scan: raw/100K_r1.nxs ")
    assert lines[-1].startswith("1 job failed")
    found = json.loads(hklflow("status", folder, "--json").out)
    left = [job for job in found["jobs"] if job["state"] != "done"]
    dry = snakemake(folder, "--dry-run", "--quiet", "rules")
    (total,) = {
        line.split()[1]
        for line in (dry.stdout + dry.stderr).splitlines()
        if line.startswith("total")
    }
    assert int(total) == len(left) + 1  # and `all`
    assert (found["running"], found["locked"]) == (False, False)
