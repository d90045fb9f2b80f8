"""Products against the configuration and the inputs as they are now, without Snakemake."""

import json
import os
import shutil
from contextlib import chdir
from pathlib import Path

import h5py
import pytest

from hklflow import stage
from hklflow.base import identity
from hklflow.base.errors import HklflowError
from hklflow.cli import main
from hklflow.experiment import config
from hklflow.experiment.freshness import MEMORY, Freshness, Verdict, _changes, sentences
from hklflow.stages import import_scan, pixel_mask, refine
from tests.bad_input.experiment import make
from tests.parameters import params_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans that are imported and masked: one HDF5 file, and a master with linked files."""
    folder = tmp_path_factory.mktemp("made") / "experiment"
    folder.mkdir()
    make(folder)
    shutil.rmtree(folder / "results")
    (folder / ".snakemake").mkdir()
    experiment = load(folder)
    with chdir(folder):
        for scan, raw in (("300K", "raw/r1.nxs"), ("100K", "raw/r2_master.h5")):
            at = Path("results/quartz", scan, "r1")
            stage.run(
                import_scan.main,
                inputs=import_scan.Inputs(raw=[Path(raw)]),
                outputs=import_scan.Outputs(scan=at / "scan.nxs"),
                params=params_of(experiment, "import_scan", "quartz", scan, "r1"),
                threads=1,
            )
            stage.run(
                pixel_mask.main,
                inputs=pixel_mask.Inputs(scan=at / "scan.nxs"),
                outputs=pixel_mask.Outputs(
                    mask=at / "mask.nxs", picture=at / "mask.png", metrics=at / "mask.json"
                ),
                params=params_of(experiment, "pixel_mask", "quartz", scan, "r1"),
                threads=1,
            )
    return folder


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    """A copy of it, with all times."""
    return Path(shutil.copytree(made, tmp_path / "experiment", symlinks=True))


def load(base: Path) -> config.Experiment:
    return config.load(config.read_yaml(base / "config/config.yaml"), base, {})


def verdicts(base: Path, *, full: bool = False) -> list[Verdict]:
    return Freshness(load(base), full=full).verdicts()


def told(base: Path) -> dict[str, str]:
    """What is out of date: name of the job and its reasons."""
    found = {v.job.name: "; ".join(v.reasons) for v in verdicts(base) if v.reasons}
    # From memory it is the same.
    assert found == {v.job.name: "; ".join(v.reasons) for v in verdicts(base) if v.reasons}
    return found


def write_value(path: Path, name: str, value: float) -> None:
    """Change a number in its place, and put the time back."""
    before = path.stat()
    with h5py.File(path, "r+") as file:
        file[name][...] = value
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_nothing_is_out_of_date(made: Path, base: Path) -> None:
    for folder in (made, base):
        found = verdicts(folder)
        assert len(found) == 4
        assert not any(v.reasons or v.doubts for v in found)
        assert not any(v.reasons or v.doubts for v in verdicts(folder, full=True))


@pytest.mark.parametrize(
    "memory",
    ["none", "damaged", "odd", "pipe", "link to itself", "of another experiment", "read-only"],
)
def test_memory_is_only_a_memory(base: Path, made: Path, memory: str) -> None:
    verdicts(base)
    path = base / MEMORY
    if memory == "none":
        shutil.rmtree(path.parent)
    elif memory == "damaged":
        path.write_text("{")
    elif memory == "odd":
        head, _, content = path.read_bytes().partition(b"\n")
        path.write_bytes(head + b"\n" + content.replace(b"[", b"[1,"))
    elif memory == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif memory == "link to itself":
        path.unlink()
        path.symlink_to(path.name)
    elif memory == "of another experiment":
        verdicts(made)
        shutil.copy2(made / MEMORY, path)
    else:
        path.unlink()
        path.mkdir()
    write_value(base / "raw/r1.nxs", "entry/instrument/beam/incident_wavelength", 0.9)
    assert told(base) == {"quartz 300K r1 import_scan": "raw/r1.nxs has changed"}


def test_a_parameter_changes_and_goes_back(base: Path) -> None:
    path = base / "config/config.yaml"
    before = path.read_text()
    path.write_text(before + "import_scan: {wavelength: 0.9}\n")
    reason = "import_scan: wavelength was null and is 0.9"
    assert told(base) == {f"quartz {t} r1 import_scan": reason for t in ("300K", "100K")}
    lines = list(sentences(verdicts(base)))
    assert lines == [f"out of date: quartz 300K r1 import_scan and 1 more: {reason}"]
    path.write_text(before)
    assert told(base) == {}


def test_the_part_of_a_parameter_that_changed_is_named() -> None:
    values = {f"{i}T": float(i) for i in range(40)}
    before = {"name": "field", "unit": "T", "values": values, "box": [0.1, 0.1, 0.2]}
    now = before | {"unit": "mT", "values": values | {"39T": 40.0}, "box": [0.1, 0.1, 0.3]}
    assert list(_changes("along", before, now)) == [
        ("along.box[2]", 0.2, 0.3),
        ("along.unit", "T", "mT"),
        ("along.values.39T", 39.0, 40.0),
    ]
    assert list(_changes("along", None, now)) == [("along", None, now)]
    assert list(_changes("along", now, now)) == []


def test_linked_data_file(base: Path) -> None:
    """Nobody names it: the import finds it behind the master."""
    path = base / "raw/r2_data_000002.h5"
    data = bytearray(path.read_bytes())
    times = path.stat()
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    reason = "raw/r2_data_000002.h5 has changed"
    assert told(base) == {"quartz 100K r1 import_scan": reason}


def test_full_reads_all_whatever_is_remembered(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a change through memory that is mapped, of which a file system may say nothing."""
    assert not any(v.reasons for v in verdicts(base, full=True))
    read: list[str] = []
    whole = identity.whole
    monkeypatch.setattr(identity, "whole", lambda files: read.append(files[0].name) or whole(files))
    verdicts(base)
    assert read == []
    verdicts(base, full=True)
    assert {"r1.nxs", "r2_master.h5", "r2_data_000002.h5", "mask.yaml", "scan.nxs"} <= set(read)


def test_mask_file(base: Path) -> None:
    path = base / "config/mask.yaml"
    times = path.stat()
    path.write_text(path.read_text().replace("radius: 2", "radius: 3"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    reason = "config/mask.yaml has changed"
    assert told(base) == {f"quartz {t} r1 pixel_mask": reason for t in ("300K", "100K")}


def test_a_product_that_was_edited_is_made_again(base: Path) -> None:
    """Not only what was made of it, or its false value would be called right."""
    write_value(
        base / "results/quartz/300K/r1/scan.nxs", "entry/instrument/monochromator/wavelength", 0.9
    )
    found = told(base)
    reason = "results/quartz/300K/r1/scan.nxs was changed after it was made"
    assert found["quartz 300K r1 import_scan"] == reason
    assert set(found) == {"quartz 300K r1 import_scan", "quartz 300K r1 pixel_mask"}


def test_a_mask_that_is_linked(base: Path) -> None:
    """A dataset of a master that links it, as config/README.md has it."""
    (base / "raw/mask.h5").rename(base / "raw/inner.h5")
    with h5py.File(base / "raw/mask.h5", "w") as file:
        file["entry/mask"] = h5py.ExternalLink("inner.h5", "/entry/mask")
    (base / "config/mask.yaml").write_text('- {image: "../raw/mask.h5:/entry/mask"}\n')
    at = Path("results/quartz/300K/r1")
    with chdir(base):
        stage.run(
            pixel_mask.main,
            inputs=pixel_mask.Inputs(scan=at / "scan.nxs"),
            outputs=pixel_mask.Outputs(
                mask=at / "mask.nxs", picture=at / "mask.png", metrics=at / "mask.json"
            ),
            params=params_of(load(base), "pixel_mask", "quartz", "300K", "r1"),
            threads=1,
        )
    assert "quartz 300K r1 pixel_mask" not in told(base)
    write_value(base / "raw/inner.h5", "entry/mask", 1)
    assert "inner.h5 has changed" in told(base)["quartz 300K r1 pixel_mask"]


def test_a_path_that_is_spelt_otherwise(base: Path) -> None:
    table = base / "config/scans.tsv"
    text = table.read_text()
    for spelt in (f"{base}/raw/r1.nxs", "./raw/../raw/r1.nxs"):
        table.write_text(text.replace("raw/r1.nxs", spelt))
        assert told(base) == {}


def test_a_pipe_in_the_place_of_a_product_or_an_input(base: Path) -> None:
    product = base / "results/quartz/300K/r1/scan.nxs"
    raw = base / "raw/r2_data_000001.h5"
    for path in (product, raw):
        path.unlink()
        os.mkfifo(path)
    found = {v.job.name: (v.reasons, v.doubts) for v in verdicts(base)}
    reasons, _ = found["quartz 300K r1 import_scan"]
    assert reasons == ("results/quartz/300K/r1/scan.nxs has no record of its stage",)
    _, doubts = found["quartz 100K r1 import_scan"]
    assert doubts == ("raw/r2_data_000001.h5 cannot be compared: it may not be read",)


def test_two_raw_files_that_are_exchanged(base: Path) -> None:
    table = base / "config/scans.tsv"
    table.write_text(table.read_text().replace("raw/r1.nxs", "raw/repeated.nxs"))
    (reasons,) = told(base).values()
    assert "raw/repeated.nxs was not among its inputs" in reasons
    assert "raw/r1.nxs is no longer among its inputs" in reasons


def test_products_that_do_not_belong_together(base: Path) -> None:
    """A file of another scan in the place of one."""
    here, there = (base / f"results/quartz/{scan}/r1" for scan in ("300K", "100K"))
    shutil.copy2(there / "mask.json", here / "mask.json")
    (reason,) = told(base).values()
    assert "were not made together" in reason
    shutil.copy2(there / "mask.nxs", here / "mask.nxs")
    shutil.copy2(there / "mask.png", here / "mask.png")
    (reason,) = told(base).values()
    assert "results/quartz/300K/r1/scan.nxs was not among its inputs" in reason


@pytest.mark.parametrize("records", [["x"], [{"stage": "pixel_mask"}], [{"inputs": 3}], "x", 3])
def test_records_of_others(base: Path, records: object) -> None:
    path = base / "results/quartz/300K/r1/mask.json"
    path.write_text(json.dumps({"provenance": records}))
    assert "has no record of its stage" in told(base)["quartz 300K r1 pixel_mask"]


@pytest.mark.parametrize("damage", ["empty", "foreign"])
def test_a_product_without_a_record(base: Path, damage: str) -> None:
    path = base / "results/quartz/300K/r1/scan.nxs"
    path.unlink()
    if damage == "empty":
        path.touch()
    else:
        with h5py.File(path, "w") as file:
            file["entry/data"] = 1
    assert "has no record of its stage" in told(base)["quartz 300K r1 import_scan"]


def test_another_version_of_a_stage(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_mask, "VERSION", 99)
    assert set(told(base)) == {f"quartz {t} r1 pixel_mask" for t in ("300K", "100K")}


def test_verify_and_remove(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([*words])
        captured = capsys.readouterr()
        return int(str(ended.value.code)), captured.out + captured.err

    code, out = run("verify", str(base))
    assert (code, "4 of 4 jobs have" in out) == (0, True)
    table = base / "config/scans.tsv"
    rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join(row for row in rows if "100K" not in row))
    (base / "results/quartz/100K/notes.txt").write_text("mine")
    (base / "results/quartz/100K/residuals.png").write_bytes(b"a picture has no record")
    code, out = run("verify", str(base), "--full")
    assert code == 0
    assert "orphan: results/quartz/100K belongs to no row of the tables" in out
    assert "orphan: results/quartz/100K" in run("status", str(base))[1]
    code, out = run("remove", "results/quartz/300K", "--directory", str(base))
    assert code == 2
    assert "is not an orphan; you can remove results/quartz/100K" in out
    code, out = run("remove", "results/quartz/100K", "--directory", str(base))
    assert code == 0
    assert "notes.txt is kept" in out
    left = [path.name for path in (base / "results/quartz/100K").rglob("*") if path.is_file()]
    assert left == ["notes.txt"]
    assert "orphan" not in run("verify", str(base))[1]
    write_value(base / "raw/r1.nxs", "entry/instrument/beam/incident_wavelength", 0.9)
    code, out = run("verify", str(base))
    assert code == 1
    assert "out of date: quartz 300K r1 import_scan: raw/r1.nxs has changed" in out


def test_frames_that_were_not_imported(base: Path, tmp_path: Path) -> None:
    """A stage that reads frames stops, if they are not those of its scan file."""
    write_value(base / "raw/r1.nxs", "entry/data/data", 7)
    at = Path("results/quartz/300K/r1")
    with chdir(base), pytest.raises(HklflowError, match="has changed since"):
        stage.run(
            pixel_mask.main,
            inputs=pixel_mask.Inputs(scan=at / "scan.nxs"),
            outputs=pixel_mask.Outputs(
                mask=tmp_path / "m.nxs", picture=tmp_path / "m.png", metrics=tmp_path / "m.json"
            ),
            params=pixel_mask.Params(),
            threads=1,
        )
    assert not (tmp_path / "m.nxs").exists()


@pytest.mark.parametrize(("spots", "said"), [("dials", "has changed"), ("builtin", "no peak")])
def test_frames_of_which_dials_searches_the_peaks(
    base: Path, tmp_path: Path, spots: str, said: str
) -> None:
    """Refinement reads frames, and asks whose they are, only where DIALS searches the peaks."""
    write_value(base / "raw/r1.nxs", "entry/data/data", 7)
    scan = Path("results/quartz/300K/r1/scan.nxs")
    (tmp_path / "parent.json").write_text("{}")

    def main(**_: object) -> None:
        raise HklflowError("no peak")

    main.__module__ = refine.__name__
    with chdir(base), pytest.raises(HklflowError, match=said):
        stage.run(
            main,
            inputs=refine.Inputs(parent=tmp_path / "parent.json", scans=[scan], peaks=[scan]),
            outputs=refine.Outputs(orientation=tmp_path / "o.json", picture=tmp_path / "o.png"),
            params=refine.Params(sample="quartz", scan="300K", rotations=["r1"], spots=spots),
            threads=1,
        )


def test_an_input_that_changes_while_it_is_read(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = import_scan.main

    def slow(**given: object) -> None:
        whole(**given)  # type: ignore[arg-type]
        write_value(base / "raw/r1.nxs", "entry/instrument/beam/incident_wavelength", 0.9)
        os.utime(base / "raw/r1.nxs")

    slow.__module__ = whole.__module__
    with chdir(base), pytest.raises(HklflowError, match="changed while it was read"):
        stage.run(
            slow,
            inputs=import_scan.Inputs(raw=[Path("raw/r1.nxs")]),
            outputs=import_scan.Outputs(scan=tmp_path / "scan.nxs"),
            params=import_scan.Params(),
            threads=1,
        )
    assert not (tmp_path / "scan.nxs").exists()


def test_the_record_names_what_was_read(made: Path) -> None:
    (record,) = stage.provenance(made / "results/quartz/100K/r1/scan.nxs")
    assert [entry["path"] for entry in record["inputs"]["raw"]] == ["raw/r2_master.h5"]
    assert [entry["path"] for entry in record["sources"]] == [
        "raw/r2_data_000001.h5",
        "raw/r2_data_000002.h5",
    ]
    assert all(len(entry["standing"]) == 3 for entry in record["sources"])
    assert json.dumps(record)
