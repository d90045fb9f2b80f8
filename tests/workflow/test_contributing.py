"""A stage is added as CONTRIBUTING.md says, in a copy of the repository, and runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

from .faults import copy_experiment

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
_BLOCK = re.compile(
    r'<!-- (?P<how>new|append|before "(?P<mark>[^>]*?)"): (?P<path>\S+) -->\n'
    r"```python\n(?P<text>.*?)```",
    re.DOTALL,
)


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """Copy of the repository with the stage of the recipe."""
    copy = tmp_path / "repository"
    for name in ("src", "workflow", "profiles", "envs", "config"):
        shutil.copytree(
            REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy2(REPOSITORY / "Snakefile", copy)
    blocks = list(_BLOCK.finditer((REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert len(blocks) == 9
    for block in blocks:
        path, text = copy / block["path"], block["text"]
        if block["how"] == "new":
            assert not path.exists()
            path.write_text(text, encoding="utf-8")
        elif block["how"] == "append":
            path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
        else:
            before, mark, after = path.read_text(encoding="utf-8").partition(block["mark"])
            assert mark, f"{block['path']} has no {block['mark']!r}"
            path.write_text(before + text + mark + after, encoding="utf-8")
    return copy


def _run(repository: Path, *command: str) -> str:
    environment = os.environ | {
        "PYTHONPATH": str(repository / "src"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        cwd=repository,
        env=environment,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_stage_is_added_by_the_recipe(extended: Path, finished: Path, tmp_path: Path) -> None:
    _run(extended, "hklflow.experiment.schema")
    assert "crowding" in (extended / "config/README.md").read_text(encoding="utf-8")
    experiment = copy_experiment(finished, tmp_path / "experiment")
    snakemake = ("snakemake", "--snakefile", str(extended / "Snakefile"))
    snakemake += ("--directory", str(experiment), "--cores", "2")
    planned = _run(extended, *snakemake, "--dry-run")
    assert planned.count("crowded peaks of hexa") == 2
    _run(extended, *snakemake, "results/hexa/100K/crowding.json")
    product = json.loads((experiment / "results/hexa/100K/crowding.json").read_text())
    shares = product["crowded share of the peaks"]
    assert len(shares) == 2
    assert all(0 <= share < 1 for share in shares)
    assert "300K" in _run(extended, "hklflow.cli", "status", "--directory", str(experiment))
