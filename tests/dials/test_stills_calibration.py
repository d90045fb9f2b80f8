"""Still frames with a geometry of the calibration store, a second indexing, and a wrong cell."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.calibration.module_gaps import modules_from_gaps
from hklflow.calibration.store import calibration_of
from hklflow.cli import main
from hklflow.dials.programs import Dials
from hklflow.experiment.config import load
from hklflow.experiment.jobs import Job, Plan
from hklflow.geometry import Detector, detector_from_dict, detector_to_dict
from hklflow.geometry.modules import Modules
from hklflow.nexus.stills import read_stills
from hklflow.stages import index_stills, merge_stills
from tests.truth import still_files, stills
from tests.truth.stills import World

WORLD = World(shifts=np.array([[0.8, -0.6], [-0.7, 0.5], [0.6, 0.9], [-0.9, -0.7]]))
STATE = {
    "detector": "simulated", "serial": "1", "shape": list(WORLD.shape),
    "pixel_size": [WORLD.pixel] * 2, "material": "Si", "thickness": 1e-3,
    "distance": WORLD.distance, "two_theta": 0, "stage": [0, 0, 0],
    "energy": 12398.42 / WORLD.wavelength, "threshold": 10000, "binning": 1,
}  # fmt: skip
BY = ("--author", "A", "--comments", "a test")


def command(folder: Path, *arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["calibration", *arguments, "--directory", str(folder), "--calibration", "beamline"])
    assert ended.value.code == 0


def experiment(folder: Path, **store: Any) -> dict[str, Any]:
    """Write an experiment with a store that has version 0 only."""
    entry = {
        "raw": "raw/stills.nxs", "cell": [*WORLD.cell, 90, 90, 90], "space_group": "P m m m",
        "calibration": "beamline",
    }  # fmt: skip
    store = {"store": "calibration", "state": STATE, "polarization": WORLD.polarization, **store}
    runs = {"flood": "raw/flood.nxs"}
    counter = {"detector": "counter", "runs": runs, "geometry": "beamline"}
    sections = {"calibrations": {"beamline": store}, "constants": {"counter": counter}}
    config = still_files.experiment(folder, "ortho", entry, **sections)
    for name in ("stills", "flood"):
        (folder / f"raw/{name}.nxs").touch()
    command(folder, "init", "--author", "A")
    return config


def jobs(config: dict[str, Any], folder: Path) -> list[Job]:
    """Return the jobs of still frames and of detector constants that read the geometry."""
    plan = Plan(load(config, folder))
    return [
        plan.job("index_stills", stills="ortho", batch="0"),
        plan.job("counter_flood", constants="counter"),
    ]


def accept(folder: Path) -> None:
    """Accept the geometry of the world as version 1."""
    modules = replace(Modules.ideal(modules_from_gaps(WORLD.gaps())), shift=WORLD.shifts)
    size = WORLD.pixel
    corner = np.array([*(size * np.array(WORLD.shape[::-1]) / 2), WORLD.distance])
    down, right = np.array([0, -1.0, 0]), np.array([-1.0, 0, 0])
    detector = Detector(WORLD.shape, (size, size), corner, down, right, modules=modules)
    beam = {"wavelength_A": WORLD.wavelength, "polarization": WORLD.polarization}
    path = folder / "geometry.json"
    path.write_text(json.dumps({"detector": detector_to_dict(detector), "beam": beam}))
    command(folder, "propose", "moved", "--geometry", str(path), "--author", "A")
    reason = ("--override-gate", "measured", "--reason", "a test")
    command(folder, "accept", "moved", "--applies-to", ">=1", *BY, *reason)


def test_version_0_is_used_only_if_the_configuration_allows_it(tmp_path: Path) -> None:
    config = experiment(tmp_path, on_missing="diagnostic")
    for job in jobs(config, tmp_path):
        (path,) = job.files("geometry")
        known = calibration_of(tmp_path / path)
        assert known is not None
        assert (known["version"], known["quality"]) == (0, "diagnostic")
    config["calibrations"]["beamline"]["on_missing"] = "error"
    for job in jobs(config, tmp_path):
        with pytest.raises(HklflowError, match="beamline has no accepted version; accept one"):
            job.files("geometry")


@pytest.mark.parametrize("pin", [None, 0, 1])
def test_an_accepted_version_replaces_version_0(tmp_path: Path, pin: int | None) -> None:
    config = experiment(tmp_path, on_missing="diagnostic")
    accept(tmp_path)
    config["calibrations"]["beamline"]["pin"] = pin
    for job in jobs(config, tmp_path):
        (path,) = job.files("geometry")
        detector = detector_from_dict(json.loads((tmp_path / path).read_text())["detector"])
        if pin == 0:
            assert detector.modules is None
        else:
            assert detector.modules is not None
            np.testing.assert_allclose(detector.modules.shift, WORLD.shifts)


@pytest.mark.slow
def test_the_second_indexing_is_better(tmp_path: Path, dials: Dials) -> None:
    """With the modules at their places, spots are closer to their predictions."""
    config = experiment(tmp_path, on_missing="diagnostic")
    stills.write(tmp_path / "raw/stills.nxs", WORLD, [stills.frame(WORLD, 0)])
    first = index(config, tmp_path)
    accept(tmp_path)
    second = index(config, tmp_path)
    assert len(first) == len(second) == 1
    assert np.all(second < 0.6 * first)


@pytest.mark.slow
def test_a_wrong_cell_is_refused(tmp_path: Path, dials: Dials) -> None:
    """DIALS finds the true cell from the spots; the known cell has an axis that is 4 % longer."""
    config = experiment(tmp_path, on_missing="diagnostic")
    stills.write(tmp_path / "raw/stills.nxs", WORLD, [stills.frame(WORLD, 0)])
    config["stills"]["ortho"]["cell"][0] *= 1.04
    assert len(index(config, tmp_path)) == 0
    _, rejected = read_stills(tmp_path / "indexed.indexed")
    assert set(rejected.values()) <= {"cell differs from the known cell", "not indexed"}
    job = Plan(load(config, tmp_path)).job("merge_stills", stills="ortho")
    names = merge_stills.Outputs.model_fields
    assert isinstance(job.params, merge_stills.Params)
    with pytest.raises(HklflowError, match=r"none of the 1 frames of ortho is indexed"):
        merge_stills.main(
            inputs=merge_stills.Inputs(batches=[tmp_path / "indexed.indexed"]),
            outputs=merge_stills.Outputs(**{name: tmp_path / name for name in names}),
            params=job.params,
        )


def index(config: dict[str, Any], folder: Path) -> Any:
    """Run the job; return the distances (f,) of spots from their predictions."""
    job = jobs(config, folder)[0]
    assert isinstance(job.params, index_stills.Params)
    (geometry,) = job.files("geometry")
    outputs = {name: folder / f"indexed.{name}" for name in ("indexed", "metrics")}
    index_stills.main(
        inputs=index_stills.Inputs(raw=[folder / "raw/stills.nxs"], geometry=folder / geometry),
        outputs=index_stills.Outputs(**outputs),
        params=job.params,
    )
    return read_stills(outputs["indexed"])[0].frames.rmsd
