"""The table of jobs of photon counters, held to the commands that snakemake would run."""

import re
import subprocess
from pathlib import Path

import pytest

from hklflow.experiment.config import flags, load, read_yaml
from hklflow.experiment.jobs import Plan

from .conftest import snakemake

pytestmark = pytest.mark.workflow

CONFIG = """\
calibrations:
  lab: {poni: raw/lab.poni, polarization: 0.99}
constants:
  pilatus:
    detector: pilatus
    geometry: lab
    runs:
      dark: raw/dark_####.cbf
      flood: raw/flood_####.cbf
      stability: raw/stability_####.cbf
      rate: [raw/rate1_####.cbf, raw/rate2_####.cbf]
      transmission: [1, 0.1]
    counter_rate: {exposure: 0.1}
"""


def test_commands_are_those_of_the_recipes(tmp_path: Path) -> None:
    for folder in ("raw", "config"):
        (tmp_path / folder).mkdir()
    (tmp_path / "config/config.yaml").write_text(CONFIG)
    (tmp_path / "config/samples.tsv").write_text("sample\tspace_group\n")
    (tmp_path / "config/scans.tsv").write_text("sample\tscan\ttemperature\tparent\trotation\traw\n")
    (tmp_path / "raw/lab.poni").touch()
    for name in ("dark", "flood", "stability", "rate1", "rate2"):
        for number in (1, 2, 3):
            (tmp_path / f"raw/{name}_000{number}.cbf").touch()
    run = snakemake(tmp_path, "constants", "--dry-run", "--printshellcmds")
    assert run.returncode == 0, run.stderr
    commands = re.findall(r"python -m hklflow\.stages\.(\w+) (.*?) > ", run.stdout + run.stderr)
    theirs = {rule: _words(command) for rule, command in commands}
    base = tmp_path
    jobs = Plan(load(read_yaml(base / "config/config.yaml"), base, {})).lasting
    assert {job.rule for job in jobs} == set(theirs)
    for job in jobs:
        (recipe,) = job.recipes()
        words = theirs[job.rule]
        told = {word for word in words if not word.startswith("--")}
        parameters = {word for word in _words(flags(recipe.params)) if not word.startswith("--")}
        assert told == {*recipe.inputs, *job.products, *parameters}, job.rule


def _words(command: str) -> list[str]:
    """Words of a command, as the shell expands them, and `--a=b` as two words."""
    printed = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True
    )
    words: list[str] = []
    for word in filter(None, printed.stdout.splitlines()):  # printf of nothing is one
        words += word.split("=", 1) if word.startswith("--") else [word]
    return words
