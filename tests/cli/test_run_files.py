"""Raw files by run number: a tree of a facility with decoys, and the commands that use it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from hklflow.base.errors import HklflowError
from hklflow.cli.folder import read_table
from hklflow.experiment.locate import RunFiles, planned_raw, raw_of_run

from .conftest import Hklflow, write_raw

ELSEWHERE = Path("/experiment")  # paths outside the experiment are absolute
MASTERS = "{proposal}/raw/*_{run:06d}_master.h5"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Runs 1040 and 1041 of two proposals, among files whose names look alike."""
    root = tmp_path / "facility"
    for name in (
        "p0001/raw/quartz_001040_master.h5",
        "p0001/raw/quartz_001041_master.h5",
        "p0002/raw/salt_001041_master.h5",
        # Decoys: other numbers, data files, processed files, and files that are too deep.
        "p0001/raw/quartz_0010400_master.h5",
        "p0001/raw/quartz_9001040_master.h5",
        "p0001/raw/quartz_1040_master.h5",
        "p0001/raw/quartz_001040_data_000001.h5",
        "p0001/processed/quartz_001040_master.h5",
        "p0001/raw/old/quartz_001040_master.h5",
        "p0001/raw/001040_master.h5",
        "p0001/scans/s_1040/s_1040_0001.cbf",
        "p0001/scans/s_1040/s_1040_0002.cbf",
        "p0001/scans/s_1040/s_1041_0001.cbf",
        "p0001/scans/s_21040/s_21040_0001.cbf",
        "p0001/scans/s_1040/s_1040_00001.cbf",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def of(root: Path, template: str = MASTERS, **more: str) -> RunFiles:
    return RunFiles(root=str(root), template=template, **more)


def test_a_run_is_found_among_decoys(root: Path) -> None:
    first = str(root / "p0001/raw/quartz_001040_master.h5")
    assert raw_of_run(of(root), ELSEWHERE, 1040, "") == first
    assert raw_of_run(of(root), root, 1040, "") == "p0001/raw/quartz_001040_master.h5"
    series = of(root, "{proposal}/scans/*_{run}/*_{run}_####.cbf")
    found = str(root / "p0001/scans/s_1040/s_1040_####.cbf")
    assert raw_of_run(series, ELSEWHERE, 1040, "") == found
    loose = of(root, "{proposal}/scans/s*{run}/s*{run}_####.cbf")  # not 21040
    assert raw_of_run(loose, ELSEWHERE, 1040, "") == found


def test_an_ambiguous_run_lists_the_candidates(root: Path) -> None:
    with pytest.raises(HklflowError, match="run 1041 is ambiguous") as told:
        raw_of_run(of(root), ELSEWHERE, 1041, "")
    for name in ("p0001/raw/quartz_001041_master.h5", "p0002/raw/salt_001041_master.h5"):
        assert str(root / name) in str(told.value)
    assert "give --proposal, or name one of them with --raw" in str(told.value)
    other = str(root / "p0002/raw/salt_001041_master.h5")
    assert raw_of_run(of(root), ELSEWHERE, 1041, "p0002") == other
    assert raw_of_run(of(root, proposal="p0002"), ELSEWHERE, 1041, "") == other
    with pytest.raises(HklflowError, match=r"no file of run 1040 of the proposal p0002 matches"):
        raw_of_run(of(root), ELSEWHERE, 1040, "p0002")
    with pytest.raises(HklflowError, match=r"no file of run 7 matches"):
        raw_of_run(of(root), ELSEWHERE, 7, "")
    with pytest.raises(HklflowError, match="is not a folder"):
        raw_of_run(of(root / "none"), ELSEWHERE, 7, "")


def test_a_folder_without_any_run_is_not_blamed_on_the_run_number(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(HklflowError, match=r"no file of any run matches .*/\*_\{run:06d\}\.nxs"):
        raw_of_run(of(root, "{proposal}/raw/*_{run:06d}.nxs"), ELSEWHERE, 1040, "")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(HklflowError, match="empty is empty; check that the disk of the facility"):
        raw_of_run(of(empty), ELSEWHERE, 1040, "")


def test_the_proposal_of_a_path_is_one(root: Path) -> None:
    for folder, name in (("p0003", "p0004"), ("p0003", "p0003")):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / f"{name}_9.h5").touch()
    found = raw_of_run(of(root, "{proposal}/{proposal}_{run}.h5"), ELSEWHERE, 9, "")
    assert found == str(root / "p0003/p0003_9.h5")


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("raw/x.h5", "run number is missing"),
        ("{run}/{sample}.h5", "{sample} is unknown"),
        ("{run}{.h5", "braces are for"),
        ("{run:x}.h5", "braces are for"),
        ("../{run}.h5", "below `root`"),
        ("/data/{run}.h5", "below `root`"),
        ("**/{run}.h5", "below `root`"),
        ("{run}####.cbf", "put a character between"),
        ("##/{run}_####.cbf", "can be once"),
    ],
)
def test_a_wrong_template_is_told(template: str, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RunFiles(root=".", template=template)


def test_a_run_is_planned_only_if_the_template_gives_its_path(tmp_path: Path) -> None:
    whole = of(tmp_path / "f", "{proposal}/{run:06d}.h5")
    assert planned_raw(whole, tmp_path, 12, "p1") == "f/p1/000012.h5"
    with pytest.raises(HklflowError, match="needs the proposal"):
        planned_raw(whole, tmp_path, 12, "")
    with pytest.raises(HklflowError, match=r"has \* or \?"):
        planned_raw(of(tmp_path), tmp_path, 12, "p1")


def configure(folder: Path, data: Any) -> None:
    (folder / "facility.yaml").write_text(yaml.safe_dump({"data": data}))
    config = folder / "config/config.yaml"
    config.write_text(config.read_text() + "\nfacility: facility.yaml\n")


def test_scans_are_added_by_run_number(folder: Path, root: Path, hklflow: Hklflow) -> None:
    add = ("scan", "add", "quartz", "300K", "--rotation", "r1", "--goniometer", "phi=0:0.1")
    add = (*add, "--directory", str(folder))
    done = hklflow(*add)
    assert (done.code, "give --raw" in done.err) == (2, True)
    done = hklflow(*add, "--run", "1040")
    assert (done.code, "has no section `data`" in done.err) == (2, True)
    configure(folder, {"root": str(root), "template": MASTERS})
    file = root / "p0001/raw/quartz_001040_master.h5"
    file.unlink()
    write_raw(file)
    before = (folder / "config/scans.tsv").read_bytes()
    done = hklflow(*add, "--run", "1041")
    assert (done.code, "is ambiguous" in done.err) == (2, True)
    done = hklflow(*add, "--raw", "raw/x.h5", "--proposal", "p0001")
    assert (done.code, "--proposal has no effect" in done.err) == (2, True)
    assert (folder / "config/scans.tsv").read_bytes() == before
    done = hklflow(*add, "--run", "1040")
    assert done.code == 0, done.err
    assert f"run 1040 is {file}" in done.out
    [row] = read_table(folder / "config/scans.tsv").rows
    assert (row["raw"], row["run"]) == (str(file), "1040")
