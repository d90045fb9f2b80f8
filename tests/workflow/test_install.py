"""Ways to install and to call the workflow: conda, locks, container, from anywhere, as a module."""

import os
import re
import subprocess
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.patience import PATIENCE
from tests.truth import forks

from .conftest import CONFIG, REPOSITORY, scans, write_experiment

pytestmark = pytest.mark.slow

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
# Where conda-forge calls a package otherwise than PyPI.
CONDA = {
    "isal": "python-isal",
    "matplotlib": "matplotlib-base",
    "msgpack": "msgpack-python",
}
LOCKS = sorted((REPOSITORY / "envs").glob("requirements*.lock"))

MODULE = """\
from hklflow import templates


configfile: "config/config.yaml"


rule figure:
    input:
        "results/hexa/300K/r1/scan.nxs",
    output:
        "figure.txt",
    shell:
        "ls {input} > {output}"


module hklflow:
    snakefile:
        str(templates.root() / "Snakefile")
    config:
        config


use rule * from hklflow as hkl_*


use rule find_peaks from hklflow as hkl_find_peaks with:
    threads: 2
"""


# ------------------------------------------------------------------------------ files


def _requirements() -> dict[str, Requirement]:
    """What pyproject.toml asks for, by name."""
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_the_environment_of_conda_says_what_the_project_says() -> None:
    environment = yaml.safe_load((REPOSITORY / "envs/hklflow.yaml").read_text())
    assert environment["channels"][0] == "conda-forge"
    found = {}
    for line in environment["dependencies"]:
        requirement = Requirement(line)
        found[requirement.name] = requirement.specifier
    expected = {
        CONDA.get(name, name): requirement.specifier
        for name, requirement in _requirements().items()
    }
    expected["python"] = Requirement(f"python{PROJECT['requires-python']}").specifier
    # pip and hatchling install hklflow itself; the extra [reports] of snakemake is pygments.
    assert {name: found[name] for name in found.keys() - {"pip", "hatchling", "pygments"}} == (
        expected
    )


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_holds_all_that_the_project_needs(lock: Path) -> None:
    text = lock.read_text()
    assert "index-url" not in text
    assert "://" not in re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    entries = re.findall(r"^(\S+)==([^\s;]+)[^\n]*\\\n((?:    --hash=.*\n)+)", text, re.MULTILINE)
    assert len(entries) == len(re.findall(r"^\S+==", text, re.MULTILINE))
    versions: dict[str, list[str]] = {}
    for name, version, _ in entries:
        versions.setdefault(canonicalize_name(name.split("[")[0]), []).append(version)
    for name, requirement in _requirements().items():
        assert all(map(requirement.specifier.contains, versions[name])), name


def test_the_container_has_all_that_the_wheel_is_made_of() -> None:
    recipe = (REPOSITORY / "envs/Containerfile").read_text()
    assert "index-url" not in recipe
    assert re.findall(r"^USER (\w+)$", recipe, re.MULTILINE)[-1] != "root"
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", recipe, re.MULTILINE)
        for source in line.split()
    ]
    assert not [source for source in copied if not (REPOSITORY / source).exists()]
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel = build["targets"]["wheel"]
    needed = [*wheel["packages"], *wheel["force-include"], "pyproject.toml"]
    needed += [PROJECT["readme"], *PROJECT["license-files"]]
    for path in needed:
        assert any(Path(path).is_relative_to(source) for source in copied), path
    # What is left out of the context must not be copied.
    left_out = (REPOSITORY / ".dockerignore").read_text().split("\n")
    assert not set(copied) & set(left_out)


# -------------------------------------------------------------------------- workflow


def _snakemake(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run snakemake in a folder."""
    environment = os.environ | {"PATH": forks.path()}
    return subprocess.run(
        [forks.python(), "-m", "snakemake", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE,
        check=False,
    )


def _jobs(run: subprocess.CompletedProcess[str]) -> Counter[str]:
    """Number of jobs of each rule of a dry run."""
    assert run.returncode == 0, run.stdout + run.stderr
    text = run.stdout + run.stderr
    table = text.split("Job stats:")[1].split("\n\n")[0]
    return Counter({name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)})


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Two rotations of one scan, nothing made yet, in a folder whose name has a space."""
    table = scans([300], {"r1": 0, "r2": 40}, parent=300)
    return write_experiment(tmp_path / "an experiment", CONFIG, table)


@pytest.mark.workflow
def test_from_anywhere(experiment: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    of_top = _snakemake(elsewhere, "-s", REPOSITORY / "Snakefile", "--directory", experiment, "-n")
    jobs = _jobs(of_top)
    # The profile beside the Snakefile is found: no --cores was given.
    assert "profiles/default" in of_top.stdout + of_top.stderr
    assert jobs["import_scan"] == 2
    of_workflow = _snakemake(
        elsewhere,
        "-s",
        REPOSITORY / "workflow/Snakefile",
        "--directory",
        os.path.relpath(experiment, elsewhere),
        "--cores",
        "1",
        "-n",
    )
    assert _jobs(of_workflow) == jobs
    assert not list(elsewhere.iterdir())


@pytest.mark.workflow
def test_as_a_module(experiment: Path) -> None:
    (experiment / "Snakefile").write_text(MODULE)
    own = _jobs(_snakemake(experiment, "-n", "--cores", "2"))
    # The first rule of the workflow that has the module is made, not `all` of the module.
    assert own["figure"] == 1
    assert not own["hkl_all"]
    dry = _snakemake(experiment, "-n", "-p", "--cores", "2", "hkl_all")
    directly = _jobs(_snakemake(experiment, "-s", REPOSITORY / "Snakefile", "-n", "--cores", "2"))
    assert _jobs(dry) == {
        name if name == "total" else f"hkl_{name}": count for name, count in directly.items()
    }
    assert re.search(r"hklflow\.stages\.find_peaks .*--threads 2", dry.stdout + dry.stderr)

    run = _snakemake(experiment, "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (experiment / "figure.txt").read_text() == "results/hexa/300K/r1/scan.nxs\n"
