"""The stage `converge` from frames of displaced modules, and what the calibration makes of it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.cli import main
from hklflow.cli.calibration.build import converged_modules
from hklflow.cli.calibration.target import target
from hklflow.geometry import detector_to_dict, from_dict
from tests.truth import convergence as made

pytestmark = [pytest.mark.slow, pytest.mark.pictures]

STATE = {
    "detector": "simulated", "serial": "1", "shape": list(made.SHAPE),
    "pixel_size": [made.PIXEL, made.PIXEL], "material": "Si", "thickness": 1e-3,
    "distance": 0.11, "two_theta": 0, "stage": [0, 0, 0],
    "energy": 12398.419843320026 / 0.6, "threshold": 10000, "binning": 1,
}  # fmt: skip
BY = ("--author", "A. Person")
SHIFTS = made.shifts_of(1, 0.35)


def hklflow(*words: str | Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0


@dataclass(frozen=True)
class Reduced:
    """An experiment with a store, whose scan quartz/300K is reduced up to the loop."""

    base: Path
    products: dict[str, Any]

    @property
    def scan(self) -> Path:
        return self.base / "results/quartz/300K"

    def calibration(self, *words: str | Path) -> None:
        hklflow("calibration", *words, *BY, "--directory", self.base)

    def version(self, number: int) -> Path:
        (path,) = self.base.glob(f"calibration/geometry/*/v_{number:04d}/geometry.json")
        return path


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Reduced:
    base = tmp_path_factory.mktemp("converge") / "experiment"
    hklflow("init", base)
    hklflow("sample", "add", "quartz", "--space-group", "P 6/m m m", "--directory", base)
    config = yaml.safe_load((base / "config/config.yaml").read_text())
    entry = {"store": "calibration", "state": STATE, "polarization": 0.99}
    config["calibrations"] = {"near": entry}
    (base / "config/config.yaml").write_text(yaml.safe_dump(config))
    result = Reduced(base, {})
    lines = [f"quartz\t300K\t\t\tr{i}\traw/r{i}.nxs\tphi=0:0.5\tnear\t\t{i}\n" for i in (1, 2)]
    with (base / "config/scans.tsv").open("a") as table:
        table.writelines(lines)
    for i in (1, 2):
        (result.scan / f"r{i}").mkdir(parents=True)
        made._raw(result.scan / f"r{i}/raw.nxs", made.SETTINGS[i - 1], SHIFTS, i)
        (base / f"raw/r{i}.nxs").symlink_to(result.scan / f"r{i}/raw.nxs")
    rotation = made.rotation_of(made.simulation("P 6/m m m", 0.0))
    first = base / "first.json"
    beam = {"wavelength_A": 0.6, "polarization": 0.99}
    first.write_text(json.dumps({"detector": detector_to_dict(rotation.detector), "beam": beam}))
    result.calibration("init")
    result.calibration("propose", "first", "--geometry", first)
    result.calibration(
        "accept", "first", "--applies-to", ">=0", "--comments", "a test",
        "--override-gate", "measured", "--reason", "a test",
    )  # fmt: skip
    made.reduced(result.scan, geometry=result.version(1))
    result.products.update(made.converge_files(result.scan))
    return result


def test_the_stage_integrates_comes_to_rest_and_tells_the_displaced_modules(
    reduced: Reduced,
) -> None:
    found, history = reduced.products["converged"], reduced.products["history"]
    section = found["converged"]
    assert section["converged"]
    assert section["integrations"] == 1
    assert section["passes over the frames"] == 1
    assert history["kept"] == section["kept"]
    assert [item["iteration"] for item in history["iterations"]] == [0, 1, 2, 3]
    last = history["iterations"][-1]
    assert last["reflections"]["used"] > 0
    peaks = reduced.scan / "orientation.json"
    start = stage.read_json(peaks)
    assert sum(section["peaks"].values()) == start["metrics"]["peaks found"]
    assert section["unindexed peaks"]["number"] == 0
    # All that reads an orientation finds what it knows.
    assert set(start) < set(found)
    assert from_dict(found["rotations"]["r2"]).detector.modules is None
    assert found["grid"] == start["grid"]
    assert made.turned(np.array(found["UB"]), made.simulation("P 6/m m m", 0).ub) < 0.02
    assert (reduced.scan / "convergence.png").stat().st_size > 30_000
    told = reduced.products["modules"]
    assert any("hklflow calibration propose" in word for word in found["warnings"])
    assert len(told["displaced"]) >= 2
    off = np.array([row["median_px"] for row in told["residuals"][1:]])
    assert np.abs(off + SHIFTS).max() < 0.15  # the model took up a part


def test_modules_found_from_frames_are_those_that_made_them(reduced: Reduced) -> None:
    fit = reduced.products["modules"]["fit"]
    shift = np.array(fit["modules"]["shift_px"])
    assert np.sqrt(np.mean(SHIFTS**2)) > 0.15
    assert np.sqrt(np.mean((shift - SHIFTS) ** 2)) < 0.01
    before, after = (
        np.hypot(*fit[f"rmsd of held-out peaks {when} (slow, fast, frame)"][:2])
        for when in ("before", "after")
    )
    assert after < 0.4 * before
    rows = fit["module_metrics"]["modules"]
    assert all(row["rms_after_px"] < row["rms_before_px"] for row in rows)
    assert fit["module_metrics"]["improvement"] < 0.8
    assert 0.3 < fit["odd and even frames"]["figure"] < 2.5
    # Small displacements in the true model: the cell comes right with the modules.
    sigma = np.array(fit["cell_sigma"])
    pull = (np.array(fit["cell"]) - np.array(made.CELLS["P 6/m m m"]))[sigma > 0] / sigma[sigma > 0]
    assert np.abs(pull).max() < 4


def test_the_candidate_reaches_the_store_and_improves_what_is_made_with_it(
    reduced: Reduced, capsys: pytest.CaptureFixture[str]
) -> None:
    command = reduced.products["modules"]["propose with"].split()
    assert command[:5] == ["hklflow", "calibration", "propose", "quartz-300K", "--level"]
    reduced.calibration(*command[2 : command.index("--author")])
    told = capsys.readouterr().out
    assert "3 of 3 gates passed" in told
    (candidate,) = reduced.base.glob("calibration/geometry/*/candidates/quartz-300K/01")
    data = stage.read_json(candidate / "geometry.json")
    assert data["source"].startswith("modules of the converged refinement")
    fit = reduced.products["modules"]["fit"]
    assert data["detector"]["modules"] == fit["modules"]
    record = stage.read_json(candidate / "record.json")
    assert record["inputs"][0]["path"].endswith("modules.json")
    reduced.calibration(
        "accept", "quartz-300K", "--applies-to", ">=0", "--supersede", "1", "--comments", "a test"
    )
    again = reduced.base / "again"
    for name in ("r1", "r2"):
        (again / name).mkdir(parents=True)
        shutil.copy(reduced.scan / name / "raw.nxs", again / name / "raw.nxs")
    made.reduced(again, geometry=reduced.version(2))
    after = made.converge_files(again, max_integrations=0)
    first = stage.read_json(reduced.scan / "orientation.json")
    second = stage.read_json(again / "orientation.json")
    assert second["metrics"]["reduced chi2"] < 0.2 * first["metrics"]["reduced chi2"]
    held = "rmsd of held-out peaks (slow, fast, frame)"
    assert np.all(
        np.array(after["converged"]["converged"][held][:2])
        < 0.5 * np.array(reduced.products["converged"]["converged"][held][:2])
    )
    # Displaced modules that are known ask for no more.
    assert after["modules"]["displaced"] == []
    assert after["modules"]["fit"] is None
    assert after["modules"]["start"] == fit["modules"]


def test_a_proposal_from_another_orientation_is_refused(reduced: Reduced, tmp_path: Path) -> None:
    to = target(reduced.base, None)
    path = reduced.scan / "orientation.json"
    version = to.version("v_0001")
    assert converged_modules(to, version, path, "quartz/300K") == reduced.scan / "modules.json"
    other = tmp_path / "orientation.json"
    other.write_text(path.read_text() + "\n")
    with pytest.raises(HklflowError, match="was made before"):
        converged_modules(to, version, other, "quartz/300K")


def test_it_integrates_as_the_section_of_the_integration_says(reduced: Reduced) -> None:
    """The cure that its own sentence names must reach it."""
    with pytest.raises(HklflowError, match="set a lower `strong`"):
        made.converge_files(reduced.scan, integrate={"strong": 1e6})


def test_a_wrong_start_and_a_missing_index_are_told(reduced: Reduced, tmp_path: Path) -> None:
    data = stage.read_json(reduced.scan / "orientation.json")
    turn = made.Turn.from_rotvec(np.radians(5) * np.array([0.48, -0.6, 0.64])).as_matrix()
    wrong = tmp_path / "orientation.json"
    stage.write_json(wrong, data | {"UB": turn @ np.array(data["UB"])})
    with pytest.raises(HklflowError, match="index again"):
        made.converge_files(reduced.scan, wrong, max_integrations=0)
