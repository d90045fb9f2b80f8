"""Bad input, and odd input that is right, as snakemake meets them."""

import json
from pathlib import Path

import h5py
import pytest

from ..workflow.conftest import snakemake
from . import experiment
from .cases import Spoil, edited, removed, renamed, several, tree
from .unusual import ODD

pytestmark = pytest.mark.workflow

CONFIG, SCANS = "config/config.yaml", "config/scans.tsv"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            edited(CONFIG, ("n_sigma: 5", "nsigma: 5")),
            "config: find_peaks.nsigma: there is no such key (it is 5); did you mean n_sigma?",
        ),
        pytest.param(
            edited(CONFIG, ("n_sigma: 5", "n_sigma: 5\n  n_sigma: 6")),
            "is not valid YAML: the key n_sigma occurs twice; keep one, or join their items",
            marks=pytest.mark.slow,
        ),
        (removed("raw/r1.nxs"), "row 1: raw file raw/r1.nxs does not exist"),
        pytest.param(
            edited(SCANS, ("100\t300K", "100\t30K")),
            "its parent '30K' is not a scan",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["misspelt key", "key that stands twice", "raw file that is not there", "unknown parent"],
)
def test_it_is_told_before_anything_runs(tmp_path: Path, spoil: Spoil, told: str) -> None:
    experiment.make(tmp_path)
    spoil(tmp_path)
    before = tree(tmp_path)
    run = snakemake(tmp_path, "--dry-run")
    assert run.returncode == 2
    assert told in run.stderr
    assert "Traceback" not in run.stderr
    after = {name: found for name, found in tree(tmp_path).items() if ".snakemake" not in name}
    assert after == before


@pytest.mark.slow
def test_odd_paths_pass_the_shell_of_a_rule(tmp_path: Path) -> None:
    """Blanks, umlauts, quotes and commands: of a file, a series and the folder itself."""
    folder = tmp_path / "mein Versuch (β)"
    experiment.make(folder)
    several(
        renamed("raw", ODD),
        edited(SCANS, ("raw/", f"{ODD}/")),
        edited(CONFIG, ("raw/lab.poni", json.dumps(f"{ODD}/lab.poni"))),
    )(folder)
    goals = [f"results/quartz/{scan}/r1/scan.nxs" for scan in ("100K", "200K")]
    run = snakemake(folder, *goals, "--cores", "1")
    assert run.returncode == 0, run.stderr
    for goal, raw in zip(goals, ("r2_master.h5", "r3_####.cbf"), strict=True):
        with h5py.File(folder / goal) as file:
            assert file["entry/raw/path"][()].decode() == f"{ODD}/{raw}"
    # No shell has taken a part of the name for a command.
    assert not list(tmp_path.rglob("pwned"))
