"""The detector from still frames: modules and distance of rays, and the candidate in the store."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from hklflow.calibration.module_gaps import modules_from_gaps
from hklflow.cli import main
from hklflow.dials.programs import Dials
from hklflow.experiment.config import load
from hklflow.experiment.jobs import Plan
from hklflow.geometry import detector_from_dict
from hklflow.geometry.modules import Modules
from hklflow.nexus.stills import write_stills
from hklflow.stages import refine_stills_detector
from tests.truth import still_files
from tests.truth.still_rays import Rays
from tests.truth.still_tables import cell_of, detector_of, indexed, moved

pytestmark = pytest.mark.slow

WORLD = Rays(stated=1.003)
STATE = {
    "detector": "simulated", "serial": "1", "shape": list(WORLD.shape),
    "pixel_size": [WORLD.pixel * 1e-3] * 2, "material": "Si", "thickness": 1e-3,
    "distance": 0.0782, "two_theta": 0, "stage": [0, 0, 0],
    "energy": 12398.42 / WORLD.wavelength, "threshold": 10000, "binning": 1,
}  # fmt: skip


def hklflow(folder: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["calibration", *arguments, "--directory", str(folder)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def truth() -> Modules:
    """Modules that moved by up to a pixel."""
    ideal = Modules.ideal(modules_from_gaps(WORLD.gaps()))
    shift = np.random.default_rng(5).normal(0, 0.4, (len(ideal), 2))
    return replace(ideal, shift=shift)


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory, dials: Dials, truth: Modules) -> Path:
    """An experiment whose job of the detector has run."""
    folder = tmp_path_factory.mktemp("stills")
    store = {
        "store": "calibration",
        "state": STATE,
        "polarization": 0.98,
        "on_missing": "diagnostic",
    }
    stills = {
        "raw": "raw.nxs", "cell": list(cell_of(WORLD)), "space_group": "P 6/m m m",
        "calibration": "beamline", "refine_stills_detector": {"author": "A"},
    }  # fmt: skip
    config = still_files.experiment(folder, "hex", stills, calibrations={"beamline": store})
    (folder / "raw.nxs").touch()
    assert hklflow(folder, "init", "--author", "A") == 0
    job = Plan(load(config, folder)).job("refine_stills_detector", stills="hex")
    frames = moved(indexed(WORLD, 14, 0.1, blur=0.12), detector_of(WORLD, truth))
    # The stage knows the stated detector only, and finds the modules by the gaps.
    write_stills(
        folder / "indexed.nxs", replace(frames, detector=detector_of(WORLD, stated=True)), {}, "b"
    )
    assert isinstance(job.params, refine_stills_detector.Params)
    refine_stills_detector.main(
        inputs=refine_stills_detector.Inputs(batches=[folder / "indexed.nxs"]),
        outputs=refine_stills_detector.Outputs(
            geometry=folder / "geometry.json",
            picture=folder / "detector.png",
            metrics=folder / "detector.json",
        ),
        params=job.params.model_copy(update={"store": folder / "calibration"}),
    )
    return folder


def test_modules_and_distance_are_those_of_the_rays(refined: Path, truth: Modules) -> None:
    metrics = json.loads((refined / "detector.json").read_text())
    found = detector_from_dict(json.loads((refined / "geometry.json").read_text())["detector"])
    right = detector_of(WORLD, truth)
    axes = np.stack([right.slow, right.fast]) / right.pixel_size[0]
    centres = truth.centres.T
    away = (found.lab(*centres) - right.lab(*centres)) @ axes.T
    sigma = np.array([[row["sigma slow"], row["sigma fast"]] for row in metrics["modules"]])
    distance = 1e3 * (found.distance - right.distance) / metrics["sigma of the distance (mm)"]
    pulls = np.append(away / sigma, distance)
    assert 0.4 < np.sqrt(np.mean(pulls**2)) < 1.6
    assert np.max(np.abs(away)) < 0.1
    assert abs(distance) < 4
    assert metrics["rmsd in pixels after"] < 0.4 * metrics["rmsd in pixels before"]


def test_the_detector_is_a_candidate_that_a_person_accepts(refined: Path) -> None:
    metrics = json.loads((refined / "detector.json").read_text())
    assert metrics["candidate"]["name"] == "hex"
    accept = ("accept", "hex", "--applies-to", ">=1", "--author", "A", "--comments", "stills")
    assert hklflow(refined, *accept) == 0
    experiment = load(yaml.safe_load((refined / "config/config.yaml").read_text()), refined)
    geometry = refined / experiment.calibration_file("beamline")
    version = detector_from_dict(json.loads(geometry.read_text())["detector"])
    found = detector_from_dict(json.loads((refined / "geometry.json").read_text())["detector"])
    np.testing.assert_allclose(version.origin, found.origin)
    assert version.modules is not None
    assert found.modules is not None
    np.testing.assert_allclose(version.modules.shift, found.modules.shift)


def test_too_few_frames_are_an_error(tmp_path: Path) -> None:
    frames = indexed(WORLD, 3, 0.1)
    write_stills(tmp_path / "indexed.nxs", frames, {}, "batch")
    with pytest.raises(Exception, match="3 indexed frames of hex cannot refine a detector"):
        refine_stills_detector._chosen(
            [tmp_path / "indexed.nxs"], refine_stills_detector.Params(name="hex")
        )
