"""`hklflow calibrant`: rings of powders, against Bragg's law."""

import math
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.patience import PATIENCE

from .conftest import Hklflow

FILES = ("mine.D", "ours.yaml")
A_LAB6 = 4.156826  # Å, NIST SRM 660c


def _rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines() if not line.startswith("#")][1:]


def test_the_list_has_what_pyfai_has(hklflow: Hklflow) -> None:
    done = hklflow("calibrant", "list")
    assert done.code == 0, done.err
    largest = {row[0]: float(row[2]) for row in _rows(done.out)}
    assert largest["LaB6"] == pytest.approx(A_LAB6, rel=1e-4)
    assert {"CeO2", "Si", "Cr2O3"} <= set(largest)


def test_rings_of_a_primitive_cubic_calibrant(hklflow: Hklflow) -> None:
    rows = _rows(hklflow("calibrant", "check", "LaB6", "--wavelength", "0.2").out)
    sums = sorted({h * h + k * k + m * m for h in range(9) for k in range(9) for m in range(9)})[1:]
    for row, n in zip(rows[:30], sums[:30], strict=True):
        d = A_LAB6 / math.sqrt(n)
        assert float(row[1]) == pytest.approx(d, rel=1e-4)
        assert float(row[2]) == pytest.approx(2 * math.degrees(math.asin(0.1 / d)), rel=1e-4)


def test_a_file_of_ones_own(hklflow: Hklflow, tmp_path: Path) -> None:
    file = tmp_path / "mine.D"
    file.write_text("# of a powder of ours\n3.0\n2.0\n1.0 # weak\n")
    done = hklflow("calibrant", "check", file, "--purge-rings", "1")
    assert [row[1] for row in _rows(done.out)] == ["3.000000", "2.000000", "1.000000"]
    assert [row[3] for row in _rows(done.out)] == ["yes", "no", "yes"]


def test_a_folder_is_listed_with_what_is_not_used(hklflow: Hklflow, tmp_path: Path) -> None:
    (tmp_path / "mine.D").write_text("3.0\n2.0\n1.0\n")
    (tmp_path / "ours.yaml").write_text("calibrant: LaB6\nmax_rings: 9\npurge_rings: [1, 3]\n")
    (tmp_path / "notes.txt").write_text("not a calibrant\n")
    done = hklflow("calibrant", "list", tmp_path)
    assert done.code == 0, done.err
    rows = {row[0]: row[1:] for row in _rows(done.out)}
    digest = {name: sha256((tmp_path / name).read_bytes()).hexdigest() for name in FILES}
    assert rows["mine"] == ["3", "3", "", "", digest["mine.D"]]
    assert rows["ours"][2:] == ["9", "1,3", digest["ours.yaml"]]
    used = _rows(hklflow("calibrant", "check", tmp_path / "ours.yaml").out)
    assert [row[0] for row in used if row[3] == "yes"] == ["0", "2", "4", "5", "6", "7", "8"]
    (tmp_path / "ours.D").write_text("3.0\n")
    done = hklflow("calibrant", "list", tmp_path)
    assert (done.code, "2 files of the calibrant ours" in done.err) == (2, True)
    assert hklflow("calibrant", "list", tmp_path / "none").code == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1.0\n2.0\n", "is not below"),
        ("1.0\nx\n", "line 2"),
        ("-1\n", "not positive"),
        ("nan\n", "not positive"),
        ("# nothing\n", "no d-spacings"),
    ],
)
def test_a_wrong_file_is_told(hklflow: Hklflow, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "mine.D"
    file.write_text(text)
    done = hklflow("calibrant", "check", file)
    assert done.code == 2
    assert told in done.err
    assert str(file) in done.err


def test_an_unknown_name_is_told(hklflow: Hklflow) -> None:
    done = hklflow("calibrant", "check", "LaB7")
    assert done.code == 2
    assert "LaB7" in done.err
    assert "LaB6" in done.err


@pytest.mark.slow
def test_a_reader_that_has_had_enough_is_no_error() -> None:
    command = [sys.executable, "-c", "from hklflow.cli import main; main(['calibrant', 'list'])"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.close()
    assert "BrokenPipeError" not in run.stderr.read()
    run.stderr.close()
    assert run.wait(timeout=PATIENCE) == 0
