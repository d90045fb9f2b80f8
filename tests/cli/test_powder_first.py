"""At a beamline the calibrant comes first: what works before the table of scans has a row."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from hklflow.experiment.config import load
from hklflow.experiment.jobs import Plan
from hklflow.experiment.rules import Rules

from .conftest import Hklflow
from .test_calibration import STATE

CONFIG = """\
calibrations:
  ceo2:
    image: raw/ceo2.h5::/scan/images
    wavelength: 0.5
    pixel_size: [1.0e-4, 1.0e-4]
    polarization: 0.99
"""


@pytest.fixture
def powder(folder: Path) -> Path:
    """A new experiment without scans, with a calibrant image in HDF5."""
    config = yaml.safe_load(CONFIG)
    stored = {"store": "calibration", "state": STATE, "polarization": 0.99}
    config["calibrations"]["stored"] = stored
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    with h5py.File(folder / "raw/ceo2.h5", "w") as file:
        file["scan/images"] = np.random.default_rng(2).poisson(5, (2, 40, 30)).astype(np.uint16)
    return folder


def test_the_calibration_is_a_job(powder: Path) -> None:
    experiment = load(yaml.safe_load((powder / "config/config.yaml").read_text()), powder)
    plan = Plan(experiment)
    (job,) = plan.jobs
    assert job.rule == "powder_calibration"
    assert job.files("image") == ["raw/ceo2.h5"]
    assert job.params.model_dump()["dataset"] == "/scan/images"
    assert "results/calibration/ceo2/geometry.json" in plan.goals()
    rules = Rules(experiment, is_main=True)
    assert "--dataset=/scan/images" in rules.words("powder_calibration")["flags"](
        "powder_calibration", {"calibration": "ceo2"}
    )


@pytest.mark.parametrize(
    "command",
    [
        ("check",),
        ("status",),
        ("config", "explain", "find_peaks.n_sigma"),
        ("verify",),
        ("calibration", "list"),
        ("calibration", "states"),
        ("calibration", "init", "--author", "A. Person"),
    ],
)
def test_commands_that_look_things_up(powder: Path, hklflow: Hklflow, command: list[str]) -> None:
    where = ["--directory"] * (command[0] in ("config", "calibration"))
    if command[-1] == "states":
        where, powder = [], Path()  # of no experiment
    done = hklflow(*command, *where, *([str(powder)] if powder != Path() else []))
    assert done.code == 0, done.err
    if command[0] in ("check", "status"):
        assert "config/scans.tsv has no row yet" in done.out


def test_a_scan_to_tune_is_asked_for(powder: Path, hklflow: Hklflow) -> None:
    done = hklflow("peaks", "tune", "quartz/300K", "--directory", powder)
    assert done.code == 2
    assert "there is no scan 'quartz/300K'" in done.err
