"""The calibration store in the workflow: which jobs run when a version is proposed or accepted."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import h5py
import pytest

from hklflow.cli import main
from hklflow.nexus import read_provenance

from .conftest import CONFIG, scans, snakemake, write_experiment

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

STATE = {
    "detector": "simulated", "serial": "1", "shape": [150, 150], "pixel_size": [400e-6, 400e-6],
    "material": "Si", "thickness": 1e-3, "distance": 0.08, "two_theta": 0, "stage": [0, 0, 0],
    "energy": 12398.419843320026 / 0.6, "threshold": 10000, "binning": 1,
}  # fmt: skip
STORED = {"store": "calibration", "state": STATE, "polarization": 0.99}
RUNS = {"300K": 1001, "100K": 1050}


def experiment(folder: Path, **entry: Any) -> Path:
    """Two scans of one rotation; their geometry is of the store."""
    config = copy.deepcopy(CONFIG)
    config["calibrations"]["beamline"] = STORED | entry
    config["delta_pdf"] = []
    del config["simulation"]["rotations"]
    lines = scans([300, 100], {"r1": 0}, parent=300).splitlines()
    rows = [line.replace("\tpowder", "\tbeamline").split("\t") for line in lines]
    table = ["\t".join([*rows[0], "run"])]
    table += ["\t".join([*row, str(RUNS[row[1]])]) for row in rows[1:]]
    return write_experiment(folder, config, "\n".join(table) + "\n")


def hklflow(folder: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["calibration", *arguments, "--directory", str(folder)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def jobs(folder: Path) -> tuple[dict[str, int], list[str]]:
    """What a dry run would do: number of jobs of each rule, and every job's message."""
    told = snakemake(folder, "--dry-run").stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", told, flags=re.MULTILINE))
    messages = re.findall(r"^Job \d+: (.*)$", told, flags=re.MULTILINE)
    return {rule: int(n) for rule, n in counts.items() if rule not in ("all", "total")}, messages


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that was reduced with version 1 of its store."""
    folder = experiment(tmp_path_factory.mktemp("store") / "experiment")
    powder = "results/calibration/powder/geometry.json"
    assert snakemake(folder, "--cores", "2", powder).returncode == 0
    assert hklflow(folder, "init", "--author", "A") == 0
    image = str(folder / "raw/CeO2.tif")
    start = ("--set", "beam_centre=[75,80]", "--set", "distance=0.0808")
    assert hklflow(folder, "propose", "first", "--image", image, *start, "--author", "A") == 0
    accept = ("accept", "first", "--applies-to", ">=1000", "--author", "A", "--comments", "first")
    assert hklflow(folder, *accept) == 0
    run = snakemake(folder, "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_products_name_their_version(finished: Path) -> None:
    for name in ("r1/scan.nxs", "r1/peaks.nxs", "transform.nxs"):
        path = finished / "results/hexa/100K" / name
        with h5py.File(path) as file:
            entry = file["entry"]
            assert entry.attrs["hklflow_quality"] == "reduced"
            (group,) = entry["calibration"].values()
            assert group["version"][()] == 1
            assert group["status"][()].decode() == "accepted"
            assert group["kind"][()].decode() == "geometry"
            assert group["applies_to"][()].decode() == ">=1000"
            record = json.loads((_version(finished, 1) / "record.json").read_text())
            sha = {item["file"]: item["sha256"] for item in record["artefacts"]}
            assert group["sha256"][()].decode() == sha["geometry.json"]


def test_proposing_reruns_nothing_and_accepting_what_it_applies_to(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads((_version(finished, 1) / "geometry.json").read_text())
    data["detector"]["origin_m"][0] += 40e-6  # a tenth of a pixel
    moved = finished / "moved.json"
    moved.write_text(json.dumps(data))
    assert hklflow(finished, "propose", "second", "--geometry", str(moved), "--author", "A") == 0
    idle = snakemake(finished, "--dry-run")
    assert "Nothing to be done" in idle.stdout + idle.stderr

    accept = ("accept", "second", "--applies-to", ">=1040", "--author", "A", "--comments", "moved",
              "--override-gate", "measured", "--reason", "a test")  # fmt: skip
    assert hklflow(finished, *accept[:-4]) == 2  # it has no figures of its own
    assert "measured" in capsys.readouterr().err
    assert hklflow(finished, *accept) == 2
    assert "overlap" in capsys.readouterr().err
    assert hklflow(finished, *accept, "--allow-overlap") == 0
    assert "hexa 100K r1: v_0001 -> v_0002" in capsys.readouterr().out

    counts, messages = jobs(finished)
    assert counts == {
        "import_scan": 1, "pixel_mask": 1, "find_peaks": 1, "frame_scale": 1, "refine": 1,
        "accept": 1, "mask_3d": 1, "transform": 1, "merge": 2, "scan_file": 1,
        "temperature_series": 1, "order_parameters": 1, "stack": 2, "overview": 1, "sample_page": 1,
    }  # fmt: skip
    assert not any("hexa 300K" in message for message in messages)

    run = snakemake(finished, "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    assert hklflow(finished, "affected", "2") == 0
    listed = capsys.readouterr().out
    assert "results/hexa/100K/transform.nxs\taccepted" in listed
    assert "results/hexa/300K/transform.nxs" not in listed
    # The parent has the first version, the child both: its orientation starts from the parent's.
    versions = {
        item["version"]
        for record in read_provenance(finished / "results/hexa/100K/transform.nxs")
        for item in record.get("calibrations", [])
    }
    assert versions == {1, 2}

    withdraw = ("withdraw", "2", "--author", "A", "--comments", "a test")
    assert hklflow(finished, *withdraw) == 0
    assert "import hexa 100K r1" in jobs(finished)[1]


def test_the_children_of_a_parent_follow_it(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(_version(finished, 1) / "geometry.json")
    assert hklflow(finished, "propose", "third", "--geometry", file, "--author", "A") == 0
    accept = ("accept", "third", "--applies-to", "hexa/300K", "--author", "A", "--comments", "x",
              "--override-gate", "measured", "--reason", "a test", "--allow-overlap")  # fmt: skip
    assert hklflow(finished, *accept) == 0
    told = capsys.readouterr().out
    assert "hexa 300K r1: v_0001 -> " in told
    assert "100K" not in told
    counts, messages = jobs(finished)
    assert "import hexa 300K r1" in messages
    assert counts["refine"] == counts["transform"] == 2
    number = told.split("is accepted as v_")[1][:4]
    withdraw = ("withdraw", number, "--author", "A", "--comments", "a test")
    assert hklflow(finished, *withdraw) == 0


def test_a_file_that_was_changed_is_refused(finished: Path) -> None:
    path = _version(finished, 1) / "geometry.json"
    before = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(before.replace(b"0.99", b"0.98"))
    try:
        scan = finished / "results/hexa/300K/r1/scan.nxs"
        run = snakemake(finished, "--cores", "1", "--force", str(scan.relative_to(finished)))
        assert run.returncode == 1
        assert str(path.relative_to(finished)) in run.stdout + run.stderr
        assert "was changed after it was published" in run.stdout + run.stderr
    finally:
        path.write_bytes(before)


def test_without_an_accepted_version_the_commands_are_named(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "e")
    run = snakemake(folder, "--dry-run")
    assert run.returncode == 1
    assert "hklflow calibration" in run.stdout + run.stderr
    assert "Traceback (most recent call last)" not in run.stdout + run.stderr


def test_the_default_is_used_on_request_and_marked(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "e", on_missing="diagnostic")
    assert hklflow(folder, "init", "--author", "A") == 0
    product = "results/hexa/300K/r1/scan.nxs"
    run = snakemake(folder, "--cores", "1", product)
    assert run.returncode == 0, run.stdout + run.stderr
    with h5py.File(folder / product) as file:
        assert file["entry"].attrs["hklflow_quality"] == "diagnostic"


def _version(folder: Path, number: int) -> Path:
    (path,) = (folder / "calibration/geometry").glob(f"*/v_{number:04d}")
    return path
