"""`hklflow calibration`: the life of a calibration, from the set-points to a decision."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from hklflow.calibration.powder_guess import guess_poni
from hklflow.experiment.config import load
from hklflow.experiment.jobs import Plan
from hklflow.experiment.sources import POWDERS, powder_numbers
from hklflow.formats.poni import write_poni
from hklflow.formats.write_images import write_image
from hklflow.geometry import detector_to_dict
from hklflow.simulation.frames import Background, DetectorModel
from hklflow.simulation.powder import powder_image

from .conftest import Done, Hklflow, write_raw

WAVELENGTH = 0.6
STATE = {
    "detector": "simulated", "serial": "1", "shape": [150, 144], "pixel_size": [400e-6, 400e-6],
    "material": "Si", "thickness": 1e-3, "distance": 0.08, "two_theta": 0, "stage": [0, 0, 0],
    "energy": 12398.419843320026 / WAVELENGTH, "threshold": 10000, "binning": 1,
}  # fmt: skip
BY = ("--author", "A. Person")
WHY = ("--comments", "a test")

Calibration = Callable[..., Done]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A powder image with its centre at (73.2, 70.9), 80.4 mm away."""
    model = DetectorModel((150, 144), 0.0804, (73.2, 70.9), (400e-6, 400e-6), (0.0, 0.0))
    counts = powder_image(
        model, WAVELENGTH, "CeO2", ring_width=2e-3, peak_counts=3000.0,
        background=Background(air=5.0), seed=3,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("image") / "CeO2.tif"
    write_image(path, counts)
    return path


@pytest.fixture
def base(folder: Path) -> Path:
    """An experiment with three scans, whose geometry is of a store."""
    config = yaml.safe_load((folder / "config/config.yaml").read_text())
    entry = {"store": "calibration", "state": STATE, "polarization": 0.99}
    moved = copy.deepcopy(entry)
    moved["state"]["distance"] = 0.082
    config["calibrations"] = {"near": entry, "far": moved}
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    table = (folder / "config/scans.tsv").read_text()
    for scan, run in (("a", 10), ("b", 20), ("c", 30)):
        write_raw(folder / f"raw/{scan}.h5")
        table += f"quartz\t{scan}\t\t\tr1\traw/{scan}.h5\tphi=0:0.1\tnear\t\t{run}\n"
    (folder / "config/scans.tsv").write_text(table)
    return folder


@pytest.fixture
def run(hklflow: Hklflow, base: Path) -> Calibration:
    """A command on the calibration `near`."""

    def calibration(command: str, *arguments: str | Path) -> Done:
        where = ["--directory", str(base)]
        if command not in ("apply", "states"):
            where += ["--calibration", "near"]
        return hklflow("calibration", command, *arguments, *where)

    return calibration


@pytest.fixture
def initialised(run: Calibration) -> Calibration:
    assert run("init", *BY).code == 0
    return run


def _geometry(path: Path, shift: float = 0.0, **other: Any) -> Path:
    """A geometry file whose beam is `shift` pixels from the middle, along slow."""
    poni = guess_poni((150, 144), (400e-6, 400e-6), 0.08, (75.0 + shift, 72.0), 2, WAVELENGTH)
    data = {
        "detector": detector_to_dict(poni.detector()),
        "beam": {"wavelength_A": WAVELENGTH, "polarization": 0.99},
    }
    path.write_text(json.dumps(data | other))
    return path


def _propose(run: Calibration, name: str, file: Path) -> None:
    done = run("propose", name, "--geometry", file, *BY)
    assert done.code == 0, done.err


def _accept(run: Calibration, name: str, applies_to: str, *more: str) -> Done:
    override = ("--override-gate", "measured", "--reason", "a test")
    return run("accept", name, "--applies-to", applies_to, *BY, *WHY, *override, *more)


def _rows(text: str) -> list[dict[str, str]]:
    head, *rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
    return [dict(zip(head, row, strict=True)) for row in rows]


def _state(base: Path) -> Path:
    (path,) = (base / "calibration/geometry").iterdir()
    return path


def test_a_state_is_initialised_once_and_by_hand(run: Calibration, tmp_path: Path) -> None:
    file = _geometry(tmp_path / "g.json")
    early = run("propose", "first", "--geometry", file, *BY)
    assert early.code == 2
    assert "hklflow calibration init" in early.err
    assert run("init", "--author", " ").code == 2
    assert run("init", *BY).code == 0
    again = run("init", *BY)
    assert again.code == 2
    assert "was already initialised" in again.err


def test_the_default_geometry_is_that_of_the_set_points(
    initialised: Calibration, base: Path
) -> None:
    data = json.loads((_state(base) / "v_0000/geometry.json").read_text())
    assert data["beam"]["wavelength_A"] == pytest.approx(WAVELENGTH, rel=1e-12)
    same = initialised("compare", "v_0000", "v_0000")
    assert same.code == 2
    assert "the same" in same.err
    assert np.linalg.norm(data["detector"]["origin_m"]) == pytest.approx(
        np.hypot(np.hypot(75, 72) * 400e-6, 0.08), rel=1e-12
    )


def test_an_image_is_proposed_judged_and_accepted(
    initialised: Calibration, base: Path, image: Path
) -> None:
    start = ("--set", "distance=0.0805", "--set", "beam_centre=[73,71]")
    done = initialised("propose", "first", "--image", image, *start, *BY)
    assert done.code == 0, done.err
    assert "0 of" not in done.out
    candidate = _state(base) / "candidates/first/01"
    page = (candidate / "report.html").read_text()
    assert "All" in page
    assert "gates passed" in page
    assert 'src="http' not in page
    assert page.count("data:image/png;base64,") == 2
    accepted = initialised("accept", "first", "--applies-to", ">=20", *BY, *WHY)
    assert accepted.code == 0, accepted.err
    assert "quartz a r1" not in accepted.out
    assert "quartz b r1: none -> v_0001" in accepted.out
    version = json.loads(initialised("show", "v_0001", "--json").out)
    assert version["status"] == "accepted"
    assert version["metrics"]["beam_centre_px"] == pytest.approx([73.2, 70.9], abs=0.02)
    assert version["metrics"]["direct_distance_m"] == pytest.approx(0.0804, abs=2e-5)
    assert version["inputs"][0]["path"] == str(image)
    # The master file of a scan with this version links its powder image.
    experiment = load(yaml.safe_load((base / "config/config.yaml").read_text()), base)
    powder = _state(base) / "v_0001/powder.nxs"
    assert powder.is_file()
    at = {"sample": "quartz", "scan": "b"}
    assert POWDERS.files(Plan(experiment), at) == [str(powder.relative_to(base))]
    assert powder_numbers(experiment, **at) == [0]


@pytest.mark.slow
def test_the_same_inputs_give_the_same_candidate(
    initialised: Calibration, base: Path, image: Path
) -> None:
    start = ("--set", "distance=0.0805", "--set", "beam_centre=[73,71]")
    for name in ("one", "two"):
        assert initialised("propose", name, "--image", image, *start, *BY).code == 0
    one, two = (_state(base) / f"candidates/{name}/01" for name in ("one", "two"))
    for file in (
        "geometry.json",
        "geometry.poni",
        "metrics.json",
        "parameters.json",
        "rings.png",
        "powder.nxs",
    ):
        assert (one / file).read_bytes() == (two / file).read_bytes(), file


def test_the_wrong_calibrant_cannot_be_accepted(initialised: Calibration, image: Path) -> None:
    start = ("--calibrant", "Si", "--set", "max_rms=5")
    done = initialised("propose", "wrong", "--image", image, *start, *BY)
    assert done.code == 0, done.err
    done = initialised("accept", "wrong", "--applies-to", ">=1", *BY, *WHY)
    assert done.code == 2
    assert "cannot be accepted" in done.err
    record = json.loads(initialised("show", "wrong", "--json").out)
    failed = {gate["name"] for gate in record["gates"] if not gate["passed"]}
    assert failed & {"ring_pull", "trend", "unexplained", "missing"}


@pytest.mark.slow
def test_iterations_stand_beside_each_other_and_any_can_be_accepted(
    initialised: Calibration, base: Path, image: Path
) -> None:
    start = ("--set", "distance=0.0805", "--set", "beam_centre=[73,71]")
    assert initialised("propose", "many", "--image", image, *start, *BY).code == 0
    for rings in (5, 4):
        assert initialised("iterate", "many", "--set", f"max_rings={rings}", *BY).code == 0
    names = [row["name"] for row in _rows(initialised("list").out)]
    assert names == ["v_0000", "many/01", "many/02", "many/03"]
    assert initialised("accept", "many/02", "--applies-to", ">=1", *BY, *WHY).code == 0
    folder = _state(base)
    published = (folder / "v_0001/geometry.json").read_bytes()
    assert published == (folder / "candidates/many/02/geometry.json").read_bytes()
    assert published != (folder / "candidates/many/03/geometry.json").read_bytes()
    parameters = json.loads((folder / "v_0001/parameters.json").read_text())
    assert parameters["params"]["max_rings"] == 5
    assert parameters["params"]["distance"] == 0.0805
    refused = initialised("cancel", "many")
    assert refused.code == 2  # what was published stays
    assert initialised("iterate", "many", "--set", "no_such=1", *BY).code == 2


def test_compare_finds_what_was_changed(
    initialised: Calibration, base: Path, tmp_path: Path
) -> None:
    _propose(initialised, "one", _geometry(tmp_path / "1.json"))
    _propose(initialised, "two", _geometry(tmp_path / "2.json", shift=0.25))
    page = tmp_path / "compare.html"
    done = initialised("compare", "one", "two", "--json", "--output", page)
    _, two = json.loads(done.out)
    assert two["change_beam_slow_px"] == pytest.approx(0.25, abs=1e-9)
    assert two["change_beam_fast_px"] == pytest.approx(0.0, abs=1e-9)
    assert two["change_distance_mm"] == pytest.approx(0.0, abs=1e-9)
    assert "two/01" in page.read_text()


def test_an_imported_geometry_needs_a_reason(
    initialised: Calibration, base: Path, tmp_path: Path
) -> None:
    poni = guess_poni((150, 144), (400e-6, 400e-6), 0.0801, (75.0, 72.0), 2, WAVELENGTH)
    write_poni(tmp_path / "old.poni", poni)
    assert initialised("propose", "old", "--poni", tmp_path / "old.poni", *BY).code == 0
    plain = initialised("accept", "old", "--applies-to", ">=1", *BY, *WHY)
    assert plain.code == 2
    assert "--override-gate measured" in plain.err
    silent = initialised("accept", "old", "--applies-to", ">=1", *BY, *WHY,
                         "--override-gate", "measured")  # fmt: skip
    assert silent.code == 2
    assert "--reason" in silent.err
    other = initialised("accept", "old", "--applies-to", ">=1", *BY, *WHY,
                        "--override-gate", "rms", "--reason", "x")  # fmt: skip
    assert other.code == 2
    assert _accept(initialised, "old", ">=1").code == 0
    record = json.loads((_state(base) / "v_0001/record.json").read_text())
    assert record["overriddenGates"] == [{"name": "measured", "value": None, "reason": "a test"}]
    assert record["proposedBy"] == "A. Person"


def test_the_highest_number_is_used_whatever_the_clock_says(
    initialised: Calibration, tmp_path: Path
) -> None:
    for name, shift in (("one", 0.0), ("two", 0.1), ("bad", 0.2)):
        _propose(initialised, name, _geometry(tmp_path / f"{name}.json", shift))
    assert _accept(initialised, "one", "quartz/*").code == 0
    overlap = _accept(initialised, "two", ">=20")
    assert overlap.code == 2
    assert "overlaps with version 1" in overlap.err
    assert _accept(initialised, "two", ">=20", "--allow-overlap").code == 0
    assert initialised("reject", "bad", *BY, "--comments", "rings are spotty").code == 0
    used = {row["scan"]: row["version"] for row in _rows(initialised("apply").out)}
    assert used == {"a": "v_0001", "b": "v_0002", "c": "v_0002"}
    listed = {row["name"]: row for row in _rows(initialised("list").out)}
    assert listed["v_0003"]["status"] == "rejected"
    assert listed["v_0003"]["comments"] == "rings are spotty"
    assert initialised("withdraw", "2", *BY, *WHY).code == 0
    used = {row["scan"]: row["version"] for row in _rows(initialised("apply").out)}
    assert used == {"a": "v_0001", "b": "v_0001", "c": "v_0001"}
    assert initialised("verify").code == 0


def test_versions_apply_to_dates(
    initialised: Calibration, base: Path, tmp_path: Path, hklflow: Hklflow
) -> None:
    for name in ("before", "after"):
        _propose(initialised, name, _geometry(tmp_path / f"{name}.json"))
    assert _accept(initialised, "before", "<2026-11-02").code == 0
    overlap = _accept(initialised, "after", "2026-11-01..2026-11-30")
    assert overlap.code == 2
    assert "overlaps with version 1" in overlap.err
    assert _accept(initialised, "after", ">=2026-11-02").code == 0
    done = initialised("apply")
    assert "scan quartz/a has no date, but `>=2026-11-02` needs it" in done.out + done.err
    assert "add it in the column `date` of the table of scans" in done.out + done.err
    table = base / "config/scans.tsv"
    head, *rows = [line for line in table.read_text().splitlines() if not line.startswith("#")]
    days = ("2026-11-01", "2026-11-02", "2027-01-01")
    width = max(len(row.split("\t")) for row in rows)
    head = "\t".join([*head.split("\t")[:width], "date"])
    table.write_text("\n".join([head, *map("\t".join, zip(rows, days, strict=True)), ""]))
    used = {row["scan"]: row["version"] for row in _rows(initialised("apply").out)}
    assert used == {"a": "v_0001", "b": "v_0002", "c": "v_0002"}
    table.write_text(table.read_text().replace("2026-11-02", "2.11.2026"))
    done = hklflow("check", base)
    assert done.code == 2
    assert "date '2.11.2026' is not a date; write it as 2026-11-02" in done.err


def test_a_pin_goes_before_all(initialised: Calibration, base: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        _propose(initialised, name, _geometry(tmp_path / f"{name}.json"))
    assert _accept(initialised, "one", "*").code == 0
    assert _accept(initialised, "two", "*", "--supersede", "1").code == 0
    path = base / "config/config.yaml"
    config = yaml.safe_load(path.read_text())
    config["calibrations"]["near"]["pin"] = 1
    path.write_text(yaml.safe_dump(config))
    rows = _rows(initialised("apply").out)
    assert {row["version"] for row in rows} == {"v_0001"}
    assert {row["why"] for row in rows} == {"pinned in the configuration"}


def test_a_candidate_can_be_cancelled(initialised: Calibration, base: Path, tmp_path: Path) -> None:
    _propose(initialised, "one", _geometry(tmp_path / "1.json"))
    assert initialised("cancel", "one").code == 0
    assert [row["name"] for row in _rows(initialised("list").out)] == ["v_0000"]
    assert initialised("show", "one").code == 2


def test_a_version_is_copied_to_another_state_once(
    initialised: Calibration, hklflow: Hklflow, base: Path, tmp_path: Path
) -> None:
    _propose(initialised, "one", _geometry(tmp_path / "1.json"))
    assert _accept(initialised, "one", "*").code == 0
    far = ("--calibration", "far", "--directory", base)
    assert hklflow("calibration", "init", *BY, *far).code == 0
    copied = initialised("copy", "1", "--to", "far", "--applies-to", "quartz/*", *BY, *WHY)
    assert copied.code == 0, copied.err
    plain = hklflow("calibration", "accept", "v_0001", *BY, *WHY, *far)
    assert plain.code == 2  # what was overridden in its own state is not here
    assert "--override-gate copied" in plain.err
    override = ("--override-gate", "copied", "--reason", "the same stage")
    accepted = hklflow("calibration", "accept", "v_0001", *BY, *WHY, *override, *far)
    assert accepted.code == 0, accepted.err
    (path,) = (base / "calibration/geometry").glob("*/v_0001/status/0002.json")
    assert "copied overridden: the same stage" in path.read_text()
    record = json.loads(hklflow("calibration", "show", "v_0001", "--json", *far).out)
    assert record["copiedFrom"]["version"] == 1
    chain = hklflow("calibration", "copy", "1", "--to", "near", "--applies-to", "*", *BY, *WHY,
                    *far)  # fmt: skip
    assert chain.code == 2
    assert "copy" in chain.err


def test_a_geometry_of_another_state_is_refused(initialised: Calibration, tmp_path: Path) -> None:
    beam = {"wavelength_A": 0.5, "polarization": 0.99}
    wrong = initialised(
        "propose", "x", "--geometry", _geometry(tmp_path / "x.json", beam=beam), *BY
    )
    assert wrong.code == 2
    assert "eV" in wrong.err
    poni = guess_poni((100, 144), (400e-6, 400e-6), 0.08, (75.0, 72.0), 2, WAVELENGTH)
    write_poni(tmp_path / "x.poni", poni)
    assert initialised("propose", "x", "--poni", tmp_path / "x.poni", *BY).code == 2
    assert [row["name"] for row in _rows(initialised("list").out)] == ["v_0000"]


def test_figures_of_an_imported_geometry_are_not_believed(
    initialised: Calibration, tmp_path: Path
) -> None:
    good = {"module_metrics": {"improvement": 0.5, "largest_sigma_px": 0.0}}
    _propose(initialised, "x", _geometry(tmp_path / "x.json", **good))
    record = json.loads(initialised("show", "x", "--json").out)
    assert [gate["name"] for gate in record["gates"]] == ["measured"]
    for text in ("{}", '{"detector": {}, "beam": {}}', "[", '{"detector": 1, "beam": 2}'):
        (tmp_path / "bad.json").write_text(text)
        done = initialised("propose", "y", "--geometry", tmp_path / "bad.json", *BY)
        assert done.code == 2
        assert "bad.json" in done.err


def test_nothing_is_superseded_that_a_scan_needs(initialised: Calibration, tmp_path: Path) -> None:
    for name in ("one", "two"):
        _propose(initialised, name, _geometry(tmp_path / f"{name}.json"))
    assert _accept(initialised, "one", ">=1").code == 0
    lost = _accept(initialised, "two", ">=20", "--supersede", "1")
    assert lost.code == 2
    assert "quartz a r1 would be left without a version" in lost.err
    assert _accept(initialised, "two", ">=20", "--allow-overlap").code == 0


def test_a_decision_is_taken_once(initialised: Calibration, tmp_path: Path) -> None:
    _propose(initialised, "one", _geometry(tmp_path / "1.json"))
    assert _accept(initialised, "one", "*").code == 0
    refused = initialised("reject", "one", *BY, *WHY)
    assert refused.code == 2
    assert "hklflow calibration withdraw 1" in refused.err


def test_wrong_words_are_told_in_one_line(
    initialised: Calibration, tmp_path: Path, hklflow: Hklflow, base: Path
) -> None:
    file = _geometry(tmp_path / "1.json")
    _propose(initialised, "one", file)
    for words, told in (
        (("propose", "x", *BY), "--image"),
        (("propose", "../x", "--geometry", file, *BY), "'../x'"),
        (("propose", "x", "--geometry", tmp_path / "none.json", *BY), "does not exist"),
        (("propose", "x", "--geometry", file, "--set", "a=1", *BY), "--set"),
        (("propose", "x", "--geometry", file, "--author", " "), "--author"),
        (("propose", "x", "--image", file, "--set", "wavelength=1", *BY), "wavelength"),
        (("compare", "v_0000", "one", "--output", tmp_path / "no/c.html"), "no such folder"),
        (("accept", "one", *BY, *WHY), "--applies-to"),
        (("accept", "two", "--applies-to", "*", *BY, *WHY), "no candidate two"),
        (("show", "v_0009"), "9"),
        (("compare", "one"), "two or more"),
    ):
        done = initialised(*words)
        assert done.code == 2, words
        assert told in done.err
        assert len(done.err.splitlines()) == 1
    assert _accept(initialised, "one", "abc>=3").code == 2
    unnamed = hklflow("calibration", "list", "--directory", base)
    assert unnamed.code == 2
    assert "--calibration" in unnamed.err


def test_the_check_tells_which_scans_have_no_version(
    initialised: Calibration, tmp_path: Path, hklflow: Hklflow, base: Path
) -> None:
    """As the run would: nothing is accepted, then not for all, then for all.

    The raw files fit the geometry and state nothing else, which the configuration does.
    """
    for number, raw in enumerate(sorted((base / "raw").glob("*.h5"))):  # else copies
        with h5py.File(raw, "w") as file:
            file["entry/data/data"] = np.full((5, 150, 144), number, dtype=np.uint32)
    config = yaml.safe_load((base / "config/config.yaml").read_text())
    config["import_scan"] = config.get("import_scan", {}) | {
        "axes": ["phi=-1,0,0"], "exposure": 0.1, "monitor": "none",
    }  # fmt: skip
    (base / "config/config.yaml").write_text(yaml.safe_dump(config))
    _propose(initialised, "one", _geometry(tmp_path / "1.json"))
    done = hklflow("check", base)
    assert done.code == 2
    assert "config: calibrations.near: no accepted geometry calibration of state" in done.err
    assert "covers quartz/a (run 10): v_0000 is default; make one with" in done.err
    assert done.err.rstrip().endswith("(2 more rotations lack one)")
    assert _accept(initialised, "one", ">=20").code == 0
    done = hklflow("check", base)
    assert done.code == 2
    assert "covers quartz/a (run 10): v_0001 applies to `>=20`" in done.err
    assert "more rotation" not in done.err
    _propose(initialised, "two", _geometry(tmp_path / "2.json"))
    assert _accept(initialised, "two", "<20").code == 0
    done = hklflow("check", base)
    assert done.code == 0, done.err
    assert "no problem found" in done.out


@pytest.mark.parametrize("file", ["record.json", "geometry.json", "status/0001.json", "state.json"])
def test_a_pipe_in_the_store_is_not_waited_for(
    initialised: Calibration, tmp_path: Path, hklflow: Hklflow, base: Path, file: str
) -> None:
    _propose(initialised, "one", _geometry(tmp_path / "1.json"))
    assert _accept(initialised, "one", "*").code == 0
    (version,) = (base / "calibration").rglob("v_0001")
    path = (version.parent if file == "state.json" else version) / file
    assert path.is_file(), sorted(version.rglob("*"))
    path.unlink()
    os.mkfifo(path)
    told = initialised("verify")
    assert (told.code, told.err) == (1, "")
    assert str(path) in told.out
    for raw in (base / "raw").glob("[bc].h5"):  # else copies
        raw.unlink()
    table = base / "config/scans.tsv"
    kept = [line for line in table.read_text().splitlines() if "raw/b" not in line]
    table.write_text("\n".join(line for line in kept if "raw/c" not in line) + "\n")
    told = hklflow("check", base)
    assert told.code == 2
    assert "config: calibrations.near: " in told.err
    assert "Traceback" not in told.err


def test_missing_set_points_are_told_together(base: Path, hklflow: Hklflow) -> None:
    path = base / "config/config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["calibrations"]["near"]["state"]["energy"]
    del config["calibrations"]["near"]["state"]["serial"]
    config["calibrations"]["far"]["state"]["colour"] = "blue"
    path.write_text(yaml.safe_dump(config))
    done = hklflow("check", base)
    assert done.code == 2
    for word in ("calibrations.near", "energy", "serial", "calibrations.far", "colour"):
        assert word in done.err


def test_every_command_explains_itself_with_an_example(hklflow: Hklflow) -> None:
    from hklflow.cli.calibration import app

    names = [name for name in app if not name.startswith("-")]
    assert len(names) == 16
    for name in names:
        done = hklflow("calibration", name, "--help")
        assert done.code == 0
        assert f"hklflow calibration {name}" in " ".join(done.out.split())


@pytest.mark.slow
def test_binned_frames_have_versions_of_their_own(
    base: Path, run: Calibration, hklflow: Hklflow, tmp_path: Path
) -> None:
    model = DetectorModel((300, 288), 0.0804, (146.4, 141.8), (200e-6, 200e-6), (0.0, 0.0))
    counts = powder_image(
        model, WAVELENGTH, "CeO2", ring_width=2e-3, peak_counts=1000.0,
        background=Background(air=5.0), seed=3,
    )  # fmt: skip
    image = tmp_path / "CeO2.tif"
    write_image(image, counts)
    path = base / "config/config.yaml"
    config = yaml.safe_load(path.read_text())
    config["calibrations"]["near"]["state"] |= {
        "binning": 2, "shape": [300, 288], "pixel_size": [200e-6, 200e-6],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(config))
    assert run("init", *BY).code == 0
    done = run("propose", "quick", "--image", image, "--calibrant", "CeO2", *BY)
    assert done.code == 0, done.err
    (made,) = (base / "calibration/geometry").glob("*/candidates/quick/01/geometry.json")
    data = json.loads(made.read_text())
    assert data["binning"] == {"factor": 2, "unbinned": [300, 288]}
    assert data["detector"]["shape"] == [150, 144]
    off = np.subtract(data["beam_centre_px"], (73.2, 70.9))
    assert np.abs(off).max() < 0.01
    assert np.abs(off / data["beam_centre_sigma_px"]).max() < 4
    again = run("propose", "again", "--geometry", made, *BY)
    assert again.code == 0, again.err
    poni = run("propose", "poni", "--poni", made.with_suffix(".poni"), *BY)
    assert poni.code == 0, poni.err
    # Never mixed: neither way.
    whole = run("propose", "whole", "--geometry", _geometry(tmp_path / "whole.json"), *BY)
    assert whole.code == 2
    assert "pixels of frames as measured, not of frames of (300, 288) pixels binned 2" in whole.err
    far = ("--calibration", "far", "--directory", str(base), *BY)
    assert hklflow("calibration", "init", *far).code == 0
    other = hklflow("calibration", "propose", "other", "--geometry", str(made), *far)
    assert other.code == 2
    assert "pixels binned 2 x 2, not of frames as measured" in other.err
    modules = run("propose", "m", "--level", "module", "--image", image, image, *BY)
    assert modules.code == 2
    assert "modules are fitted to frames as measured only" in modules.err
