"""A quick look beside the whole resolution: they share what they can, and mix nothing."""

import re
from pathlib import Path

import pytest

from hklflow import nexus

from .conftest import CONFIG, scans, snakemake, write_experiment
from .faults import copy_experiment

pytestmark = pytest.mark.slow

MISSING = re.compile(r"^Reason: Missing output files: ([^;\n]*)", re.MULTILINE)
BINNED = ("--config", "binning=4")


def _made(told: str) -> set[str]:
    return {path for paths in MISSING.findall(told) for path in paths.split(", ")}


def test_only_what_no_binning_changes_has_one_place(tmp_path: Path) -> None:
    table = scans([300, 100], {"r1": 0, "r2": 40}, parent=300, repeated=((100, "r2"),))
    folder = write_experiment(tmp_path / "experiment", CONFIG, table)
    runs = [snakemake(folder, "-n", "--quiet", "host", *more) for more in ((), BINNED)]
    for run in runs:
        assert run.returncode == 0, run.stdout + run.stderr
    full, binned = (_made(run.stdout + run.stderr) for run in runs)
    assert not any("binned" in path for path in full)
    shared = full & binned
    assert {path for path in binned if not path.startswith("results_binned4/")} == shared
    of_any = ("raw/", "results/calibration/")
    rest = {path for path in shared if not path.startswith(of_any)}
    assert rest == {"results/hexa/100K/r2/sum.nxs"}
    own = {path.removeprefix("results_binned4/") for path in binned - shared}
    assert len(own) > 50
    sums = {f"hexa/{scan}/{r}/binned.nxs" for scan in ("300K", "100K") for r in ("r1", "r2")}
    assert own - {path.removeprefix("results/") for path in full} == sums
    assert {path.removeprefix("results/") for path in full - shared} == own - sums


def test_neither_makes_anything_of_the_other_again(finished: Path, tmp_path: Path) -> None:
    folder = copy_experiment(finished, tmp_path / "e")
    scan = "results_binned4/hexa/100K/r2/scan.nxs"
    done = snakemake(folder, scan, *BINNED, "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    # It took the sum and the calibration that were there.
    told = done.stdout + done.stderr
    assert set(re.findall(r"^(\w+) +\d+$", told, re.MULTILINE)) == {
        "bin_frames",
        "import_scan",
        "total",
    }
    found = nexus.read_scan(folder / scan)
    assert found.binning is not None
    assert found.rotation.detector.shape == (37, 37)
    full = nexus.read_scan(folder / scan.replace("_binned4", ""))
    assert full.binning is None
    assert found.rotation.detector.distance == pytest.approx(full.rotation.detector.distance)
    for more in ((), (scan, *BINNED)):
        again = snakemake(folder, "-n", *more)
        assert "Nothing to be done" in again.stdout + again.stderr, again.stdout
