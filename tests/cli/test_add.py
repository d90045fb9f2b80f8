"""`hklflow sample add`, `hklflow scan add`: one row more, all else as it was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hklflow.cli.folder import read_table
from hklflow.experiment import config
from tests.patience import PATIENCE

from .conftest import REPOSITORY, Hklflow, environment, write_raw

ROW = ("--rotation", "r1", "--goniometer", "phi=0:0.1")


def _load(folder: Path) -> config.Experiment:
    return config.load(yaml.safe_load((folder / "config/config.yaml").read_text()), folder)


@pytest.fixture
def raws(folder: Path) -> Path:
    for name in ("300K", "100K"):
        write_raw(folder / f"raw/{name}.h5")
    return folder


def _tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "config").glob("*.tsv")}


def test_rows_mean_what_was_said(raws: Path, hklflow: Hklflow) -> None:
    at = ("--directory", raws)
    cell = ("--cell", "4.9134", "4.9134", "5.4052", "90", "90", "120")
    more = ("--formula", "SiO2", "--parents", "300K=200:400")
    done = hklflow("sample", "add", "ice-1.h", "--space-group", "P 63/m m c", *cell, *more, *at)
    assert done.code == 0, done.err
    scan = ("scan", "add", "ice-1.h", "300K", "--raw", "raw/300K.h5", "--temperature", "300.25")
    done = hklflow(*scan, *ROW, "--frames", "5", *at)
    assert done.code == 0, done.err
    child = ("scan", "add", "ice-1.h", "cold", "--raw", "raw/100K.h5", "--parent", "300K")
    assert hklflow(*child, *ROW, *at).code == 0
    experiment = _load(raws)
    sample = experiment.samples["ice-1.h"]
    assert sample.cell == (4.9134, 4.9134, 5.4052, 90, 90, 120)
    assert (sample.space_group, sample.formula) == ("P 63/m m c", "SiO2")
    assert sample.parents == {"300K": (200, 400)}
    warm, cold = experiment.scans["ice-1.h", "300K"], experiment.scans["ice-1.h", "cold"]
    assert (warm.temperature, warm.parent) == (300.25, "300K")
    assert (cold.temperature, cold.parent) == (None, "300K")
    assert warm.rotations["r1"].frames == 5
    assert warm.rotations["r1"].goniometer == {"phi": (0, 0.1)}


QUARTZ = """\
data_quartz
_cell_length_a 4.9134(2)
_cell_length_b 4.9134(2)
_cell_length_c 5.4052(3)
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_chemical_formula_sum 'O2 Si'
"""
SYMBOL = "_space_group_name_H-M_alt 'P 32 2 1'\n"


def test_a_sample_from_a_cif(folder: Path, hklflow: Hklflow) -> None:
    cif = folder / "quartz.cif"
    cif.write_text(QUARTZ + SYMBOL)
    add = ("sample", "add", "low", "--cif", cif, "--directory", folder)
    done = hklflow(*add)
    assert done.code == 0, done.err
    assert "data block quartz: cell 4.9134 4.9134 5.4052 90 90 120, P 32 2 1" in done.out
    row = (folder / "config/samples.tsv").read_text().splitlines()[-1]
    cell = ["4.9134", "4.9134", "5.4052", "90", "90", "120"]
    assert row.split("\t") == ["low", "O2 Si", "P 32 2 1", *cell, "", ""]
    before = _tables(folder)
    both = hklflow(*add, "--cell", "1", "1", "1", "90", "90", "90")
    assert both.code == 2
    assert "both state the cell" in both.err
    cif.write_text(QUARTZ)
    silent = hklflow(*add)
    assert silent.code == 2
    assert "no space group; enter --space-group" in silent.err
    assert _tables(folder) == before


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_was_there_is_kept_byte_for_byte(raws: Path, hklflow: Hklflow, newline: str) -> None:
    """A spreadsheet's mark and line ends, any order of columns, blanks, remarks."""
    table = raws / "config/scans.tsv"
    lines = [
        "# mine  ",
        "raw\tsample\tscan\tparent\trotation\ttemperature",
        "",
        "#raw/x.h5\tquartz",
        "raw/300K.h5\tquartz \t300K\t\tr1\t300",
        "# last",
    ]
    before = b"\xef\xbb\xbf" + newline.join(lines).encode()
    table.write_bytes(before)
    done = hklflow(
        *("scan", "add", "quartz", "100K", "--rotation", "r1", "--raw", "raw/100K.h5"),
        *("--parent", "300K", "--directory", raws),
    )
    assert done.code == 0, done.err
    row = "raw/100K.h5\tquartz\t100K\t300K\tr1\t"
    assert table.read_bytes() == before + f"{newline}{row}{newline}".encode()
    assert set(_load(raws).scans) == {("quartz", "300K"), ("quartz", "100K")}


SAMPLE = ("sample", "add")
SCAN = ("scan", "add", "quartz")
RAW = ("--raw", "raw/300K.h5")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*SAMPLE, "quartz", "--space-group", "P1"), "quartz occurs twice"),
        ((*SAMPLE, "a_b", "--space-group", "P1"), "'a_b'"),
        ((*SAMPLE, "a/b", "--space-group", "P1"), "'a/b'"),
        ((*SAMPLE, "#a", "--space-group", "P1"), "comment"),
        ((*SAMPLE, "", "--space-group", "P1"), "sample ''"),
        ((*SAMPLE, "a", "--space-group", "P 77"), "'P 77'"),
        ((*SAMPLE, "a", "--space-group", "P1", "--formula", "Si\tO"), "tab"),
        ((*SAMPLE, "a", "--space-group", "P1", "--formula", '"SiO'), "quotation mark"),
        ((*SAMPLE, "a", "--space-group", "P1", "--cell", "1", "1", "9", "10", "10", "90"), "cell"),
        ((*SAMPLE, "a", "--space-group", "P1", "--cell", "1", "2", "3"), "--cell"),
        ((*SAMPLE, "a", "--space-group", "P1", "--parents", "300K"), "300K"),
        ((*SAMPLE, "a"), "--space-group"),
        ((*SCAN, "300K", *ROW, "--raw", "raw/none.h5"), "raw/none.h5 does not exist"),
        ((*SCAN, "300K", *ROW, "--raw", ""), "--raw is empty"),
        ((*SCAN, "3_0", *ROW, *RAW), "'3_0'"),
        ((*SCAN, "300K", "--rotation", "r 1", *RAW), "'r 1'"),
        ((*SCAN, "300K", *ROW, *RAW, "--temperature", "-1"), "absolute zero"),
        ((*SCAN, "300K", *ROW, *RAW, "--temperature", "warm"), "warm"),
        ((*SCAN, "300K", *ROW, *RAW, "--parent", "200K"), "'200K' is not a scan"),
        ((*SCAN, "300K", *ROW, *RAW, "--calibration", "lab"), "'lab'"),
        ((*SCAN, "300K", *ROW, *RAW, "--frames", "0"), "frames '0'"),
        ((*SCAN, "300K", "--rotation", "r1", *RAW, "--goniometer", "phi=0:0"), "step of 0"),
        (("scan", "add", "ice", "300K", *ROW, *RAW), "'ice' is not in the table"),
    ],
)
def test_a_wrong_row_is_refused_in_one_line(
    raws: Path, hklflow: Hklflow, words: tuple[str, ...], told: str
) -> None:
    before = _tables(raws)
    done = hklflow(*words, "--directory", raws)
    assert done.code == 2
    assert told in done.err
    assert len(done.err.splitlines()) == 1
    assert _tables(raws) == before
    assert not list((raws / "config").glob("*.partial"))


def test_a_row_that_stands_already_is_refused(raws: Path, hklflow: Hklflow) -> None:
    add = (*SCAN, "300K", *ROW, *RAW, "--directory", raws)
    assert hklflow(*add).code == 0
    before = _tables(raws)
    done = hklflow(*add)
    assert done.code == 2
    assert "rotation r1 of 300K occurs twice" in done.err
    assert _tables(raws) == before


def test_old_problems_do_not_hold_up_a_good_row(raws: Path, hklflow: Hklflow) -> None:
    """Somebody else's raw file is gone: that is for `hklflow check` to tell."""
    assert hklflow(*SCAN, "300K", *ROW, *RAW, "--directory", raws).code == 0
    (raws / "raw/300K.h5").unlink()
    child = ("100K", *ROW, "--raw", "raw/100K.h5", "--parent", "300K")
    assert hklflow(*SCAN, *child, "--directory", raws).code == 0


def test_a_disk_that_fails_leaves_the_table_as_it_was(
    raws: Path, hklflow: Hklflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _tables(raws)

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = hklflow(*SCAN, "300K", *ROW, *RAW, "--directory", raws)
    assert done.code == 2
    assert "no space left" in done.err
    assert _tables(raws) == before
    assert not list((raws / "config").glob("*.partial"))


def test_a_command_that_is_killed_leaves_the_table_as_it_was(raws: Path, hklflow: Hklflow) -> None:
    """Killed when the new table is written, but not yet in its place."""
    before = _tables(raws)
    add = [*SCAN, "300K", *ROW, *RAW, "--directory", str(raws)]
    code = "import os, signal; from hklflow.cli import main\n"
    code += "os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)\n"
    killed = subprocess.run([sys.executable, "-c", f"{code}main({add!r})"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert _tables(raws) == before
    # What it left lies in nobody's way.
    assert hklflow(*add).code == 0
    assert not list((raws / "config").glob(".*.partial"))


@pytest.mark.slow
def test_commands_at_the_same_time_lose_no_row(folder: Path) -> None:
    names = ["a", "b", "c"]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "hklflow.cli", "sample", "add", name, "--space-group", "P1"],
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
        )
        for name in names
    ]
    assert [process.wait(timeout=PATIENCE) for process in running] == [0, 0, 0]
    lines = (folder / "config/samples.tsv").read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in lines[-3:]) == names


def test_what_an_editor_saves_meanwhile_is_not_overwritten(
    raws: Path, hklflow: Hklflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor knows nothing of the lock; the row waits, what was typed stays."""
    table = raws / "config/scans.tsv"
    sync = os.fsync

    def saved(file: int) -> None:
        sync(file)
        with table.open("a") as typed:
            typed.write("# typed by hand\n")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", saved)
        done = hklflow(*SCAN, "300K", *ROW, *RAW, "--directory", raws)
    assert done.code == 2
    assert "try again" in done.err
    assert table.read_text().endswith("# typed by hand\n")
    assert hklflow(*SCAN, "300K", *ROW, *RAW, "--directory", raws).code == 0
    assert "# typed by hand\nquartz\t300K" in table.read_text()


def test_without_an_experiment(tmp_path: Path, hklflow: Hklflow) -> None:
    done = hklflow("sample", "add", "a", "--space-group", "P1", "--directory", tmp_path)
    assert done.code == 2
    assert "hklflow init" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ("init",),
        ("sample", "add"),
        ("scan", "add"),
        ("watch",),
        ("config", "import-ini"),
    ],
)
def test_help_has_an_example(hklflow: Hklflow, words: tuple[str, ...]) -> None:
    done = hklflow(*words, "--help")
    assert done.code == 0
    assert f"Example: hklflow {' '.join(words)}" in " ".join(done.out.split())


def test_the_command_imports_nothing_heavy() -> None:
    """Except numpy, which the package itself imports for the sake of cctbx."""
    heavy = ["cctbx", "fabio", "h5py", "hklflow.experiment.config", "hklflow.stages", "matplotlib"]
    heavy += ["pydantic", "scipy", "yaml"]
    code = f"import sys, hklflow.cli; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_another_crystal_of_a_sample(folder: Path, hklflow: Hklflow) -> None:
    words = ("sample", "add", "quartz-b", "--crystal-of", "quartz", "--directory", folder)
    done = hklflow(*words)
    assert done.code == 0, done.err
    row = read_table(folder / "config/samples.tsv").rows[-1]
    assert (row["sample"], row["crystal_of"], row["space_group"]) == ("quartz-b", "quartz", "")
    samples = _load(folder).samples
    assert samples["quartz-b"].space_group == samples["quartz"].space_group == "P 32 2 1"
    wrong = hklflow("sample", "add", "other", "--crystal-of", "cristobalite", "--directory", folder)
    assert wrong.code == 2
    assert "other is a crystal of 'cristobalite', which is not a sample of its own" in wrong.err
