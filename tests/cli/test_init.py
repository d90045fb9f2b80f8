"""`hklflow init`: what is made, and that nothing is overwritten."""

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from hklflow import templates
from hklflow.experiment.config import Config

from ..privilege import without_privilege_to_read_all
from .conftest import REPOSITORY, Hklflow, shell, write_raw

TREE = {
    ".gitignore",
    "Snakefile",
    "config/README.md",
    "config/config.yaml",
    "config/samples.tsv",
    "config/scans.tsv",
    "profiles/default/config.yaml",
    "profiles/slurm/config.yaml",
    "raw/",
}


def _tree(base: Path) -> set[str]:
    """Files, and folders that are empty."""
    found = set()
    for path in base.rglob("*"):
        if path.is_file():
            found.add(str(path.relative_to(base)))
        elif not any(path.iterdir()):
            found.add(f"{path.relative_to(base)}/")
    return found


def _contents(base: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in base.rglob("*") if path.is_file()}


def test_tree(tmp_path: Path, hklflow: Hklflow) -> None:
    done = hklflow("init", tmp_path / "new" / "experiment")
    base = tmp_path / "new" / "experiment"
    assert done.code == 0
    assert _tree(base) == TREE
    for name in TREE - {"raw/"}:
        assert f"{name} made" in done.out
    # The place where hklflow is installed is in no file: the folder may be moved.
    for text in _contents(base).values():
        assert str(REPOSITORY).encode() not in text


def test_a_second_time_changes_nothing_and_says_so(tmp_path: Path, hklflow: Hklflow) -> None:
    hklflow("init", tmp_path)
    mine = tmp_path / "config/scans.tsv"
    mine.write_text("mine")
    (tmp_path / "Snakefile").unlink()
    before = _contents(tmp_path)
    done = hklflow("init", tmp_path)
    assert done.code == 0
    assert "config/scans.tsv exists already" in done.out
    assert "Snakefile made" in done.out
    assert mine.read_text() == "mine"
    assert {k: v for k, v in _contents(tmp_path).items() if not k.endswith("Snakefile")} == before


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/hklflow"])
def test_a_place_that_cannot_be_a_folder_is_refused(
    tmp_path: Path, hklflow: Hklflow, where: str
) -> None:
    (tmp_path / "file").write_text("mine")
    done = hklflow("init", tmp_path / where)
    assert done.code == 2
    assert where in done.err
    assert len(done.err.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for folder in (tmp_path / "experiment", tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "hklflow.cli", "init", str(folder)],
            capture_output=True,
            text=True,
            preexec_fn=without_privilege_to_read_all if os.geteuid() == 0 else None,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_facility_file_is_named_from_the_folder(tmp_path: Path, hklflow: Hklflow) -> None:
    (tmp_path / "beam line.yaml").write_text("import_scan: {polarization: 0.97}\n")
    base = tmp_path / "experiment"
    assert hklflow("init", base, "--facility", tmp_path / "beam line.yaml").code == 0
    given = yaml.safe_load((base / "config/config.yaml").read_text())["facility"]
    assert (base / given).samefile(tmp_path / "beam line.yaml")
    # Again with the same is fine, with another it is not what the file says.
    assert hklflow("init", base, "--facility", tmp_path / "beam line.yaml").code == 0
    (tmp_path / "other.yaml").write_text("")
    done = hklflow("init", base, "--facility", tmp_path / "other.yaml")
    assert done.code == 2
    assert "other.yaml" in done.err


def test_a_facility_file_that_is_not_there_leaves_nothing(tmp_path: Path, hklflow: Hklflow) -> None:
    done = hklflow("init", tmp_path / "experiment", "--facility", tmp_path / "none.yaml")
    assert done.code == 2
    assert "none.yaml" in done.err
    assert not (tmp_path / "experiment").exists()


def test_the_templates_examples_are_valid(tmp_path: Path) -> None:
    """Take the "#" away from all examples of config.yaml: the keys must be known."""
    text = (templates.root() / "config/config.yaml").read_text()
    given = yaml.safe_load(re.sub("^#(?! [^ ])", "", text, flags=re.MULTILINE))
    assert {"facility", "calibrations", "per_sample", "per_scan"} <= set(given)
    Config.model_validate(given)


@pytest.mark.slow
@pytest.mark.workflow
def test_the_slurm_profile_asks_for_its_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plugin, snakemake's own message is that `slurm` is an invalid choice."""
    from snakemake.profiles import ProfileConfigFileParser

    path = REPOSITORY / "profiles/slurm/config.yaml"
    known, installed = importlib.util.find_spec, True

    def find(name: str, *package: str) -> object:
        if name == "snakemake_executor_plugin_slurm":
            return object() if installed else None
        return known(name, *package)

    monkeypatch.setattr("importlib.util.find_spec", find)
    with path.open() as file:
        settings = ProfileConfigFileParser().parse(file)
    assert settings["executor"] == "slurm"
    assert not [name for name in settings if name.startswith("__")]
    installed = False
    with path.open() as file, pytest.raises(SystemExit, match="run `make setup-slurm`"):
        ProfileConfigFileParser().parse(file)


def test_snakemake_runs_in_a_new_folder(folder: Path, hklflow: Hklflow) -> None:
    """Without rows it says what is missing, with rows it shows the jobs."""
    done = shell("snakemake", "--dry-run", cwd=folder)
    assert done.returncode == 0
    assert "config/scans.tsv has no row yet" in done.stderr
    assert "Traceback" not in done.stderr
    write_raw(folder / "raw/300K_r1.h5")
    row = ("scan", "add", "quartz", "300K", "--rotation", "r1", "--raw", "raw/300K_r1.h5")
    added = hklflow(*row, "--goniometer", "phi=0:0.1", "--frames", "5", "--directory", folder)
    assert added.code == 0, added.err
    done = shell("snakemake", "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "profiles/default" in done.stderr
    assert "import quartz 300K r1" in done.stdout


@pytest.mark.slow
@pytest.mark.workflow
def test_a_built_wheel_brings_the_workflow(tmp_path: Path) -> None:
    built = shell(
        "python", "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=REPOSITORY
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        (points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "hklflow = hklflow.cli:main" in archive.read(points).decode()
    # First on the path, so that it is the one that is imported.
    where = {"PYTHONPATH": str(tmp_path / "site")}
    base = tmp_path / "experiment"
    done = shell("python", "-m", "hklflow.cli", "init", base, cwd=tmp_path, **where)
    assert done.returncode == 0, done.stderr
    assert _tree(base) == TREE
    done = shell("snakemake", "--dry-run", cwd=base, **where)
    assert done.returncode == 0
    assert "config/scans.tsv has no row yet" in done.stderr
    where_from = "import hklflow.templates as t; print(t.snakefile())"
    told = shell("python", "-c", where_from, cwd=tmp_path, **where)
    assert told.stdout.startswith(str(tmp_path / "site/hklflow/_workflow"))
