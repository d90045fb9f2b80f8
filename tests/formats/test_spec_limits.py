"""Files at the limits of the C reader of silx are read; beyond them they are refused in a sentence.

Without the refusal most of them end the process (SIGSEGV, SIGABRT), the others give other numbers.
"""

import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats import spec_limits as limits
from hklflow.formats.spec import read_spec_scan, read_spec_scans

MOTORS = "#O0 mu  eta\n"
SCAN = "#S 1  ascan eta 0 1 1 1\n"
POSITIONS = "#P0 5 6\n"
LABELS = "#N 2\n#L a  b\n"
ROWS = "1 2\n3 4\n"


def text(motors=MOTORS, scan=SCAN, positions=POSITIONS, labels=LABELS, rows=ROWS):
    return f"#F a.spec\n{motors}\n{scan}{positions}{labels}{rows}"


def columns(n):
    labels = "  ".join(f"c{i}" for i in range(n))
    return text(labels=f"#N {n}\n#L {labels}\n", rows=("1 " * (n - 1) + "1\n") * 2)


def motors(n, each=4):
    """`n` motors, so many in a line."""
    lines = [range(i, min(i + each, n)) for i in range(0, n, each)]
    return text(
        motors="".join(
            f"#O{i} {'  '.join(f'm{j}' for j in line)}\n" for i, line in enumerate(lines)
        ),
        positions="".join(
            f"#P{i} {' '.join(str(j) for j in line)}\n" for i, line in enumerate(lines)
        ),
    )


def positions(n):
    return text(motors="", positions="".join(f"#P{i % 100} 0\n" for i in range(n)))


CASES = [
    (columns, limits.COLUMNS, "line 8 has 511 columns"),
    (lambda n: text(rows=f"1 {'2' * n}\n"), limits.NUMBER, "line 8 has 100 bytes in a number"),
    (lambda n: text(rows=f"1 2\n#C {'x' * (n - 3)}\n"), limits.HEADER_LINE, "line 9 has 5000 byt"),
    (lambda n: text(labels=f"#L a  {'b' * n}\n"), limits.NAME, "line 6 has 255 bytes in a name"),
    (lambda n: text(motors=f"#O0 mu  {'e' * n}\n"), limits.NAME, "line 2 has 255 bytes in a na"),
    (lambda n: text(positions=f"#P0 5 {'6' * n}\n"), limits.POSITION, "line 5 has 40 bytes in a"),
    (motors, limits.MOTORS, "line 77 has 301 motors so far"),
    (lambda n: motors(n, 1), limits.MOTOR_LINES, "line 102 has 101 lines #O"),
    (positions, limits.MOTOR_LINES, "line 104 has 101 lines #P"),
    (
        lambda n: text(scan=f"#S {'0' * (n - 5)}1 ascan\n"),
        limits.SCAN_NUMBER,
        "line 4 begins a scan without number",
    ),
]


@pytest.mark.parametrize(("make", "limit", "sentence"), CASES)
def test_limits(tmp_path, make, limit, sentence):
    path = tmp_path / "a.spec"
    path.write_text(make(limit))
    scan = read_spec_scan(path, 1)
    assert scan.n_points in (1, 2)
    assert all(column[0] > 0 for column in scan.columns.values())
    path.write_text(make(limit + 1))
    with pytest.raises(HklflowError, match=sentence):
        read_spec_scan(path, 1)


def test_motors_at_the_limit_are_all_there(tmp_path):
    path = tmp_path / "a.spec"
    path.write_text(motors(limits.MOTORS))
    scan = read_spec_scan(path, 1)
    assert scan.motors == {f"m{i}": i for i in range(limits.MOTORS)}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (text(motors="#O0\n"), r"line 2 \(#O0\) is empty"),
        (text(positions="#P\n"), r"line 5 \(#P\) is empty"),
        (text(labels="#L\n"), r"line 6 \(#L\) is empty"),
        ("#S 1\n", "line 1 begins a scan without number and command"),
        (text() + "\n#S 2", "line 11 begins a scan without number and command"),
        (text() + "#F next\n#E 7\n", r"line 10 is a file header \(#F\) without a scan"),
        (text(motors="#O\0" + "a" * 300 + "\n"), "line 2 contains zero bytes"),
        (text(rows="1 2\n" + "\t1" * 600 + "\n"), "line 9 has 600 columns"),
        # A backslash and a carriage return do not continue a spectrum.
        (text(rows="@A 1\\\r\n" + "1 " * 600 + "\r\n1 2\n"), "line 9 has 600 columns"),
    ],
)
def test_files_that_end_the_process(tmp_path, content, sentence):
    path = tmp_path / "a.spec"
    path.write_bytes(content.encode())
    with pytest.raises(HklflowError, match=sentence):
        read_spec_scans(path)


def test_too_many_scans(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "SCANS", 2)
    path = tmp_path / "a.spec"
    path.write_text("".join(text().replace("#S 1", f"#S {i}") for i in range(1, 4)))
    with pytest.raises(HklflowError, match="line 22 has 3 scans so far, but only 2"):
        read_spec_scans(path)


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ROW", 1000)
    path = tmp_path / "a.spec"
    path.write_text(text(rows="@A" + " 1" * 1000 + "\n"))
    with pytest.raises(HklflowError, match="line 8 is longer than 1000 bytes"):
        read_spec_scans(path)


def test_spectra_have_any_number_of_channels(tmp_path):
    path = tmp_path / "a.spec"
    channels = " 1" * 2000
    path.write_text(
        text(rows=f"@A{channels}\\\n{channels}\\\n{channels}\n1 2\n@A{channels}\n3 4\n")
    )
    assert read_spec_scan(path, 1).column("b").tolist() == [2, 4]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (text(positions="#P0 1 2 3\n"), r"2 names of motors \(#O\) for 3 positions \(#P\)"),
        (text(motors="#O0 \xb5  eta\n"), "a header that is not UTF-8"),
        (text().replace("#S 1", "#S -1"), "scan -1 of .* cannot be read"),
    ],
)
def test_scans_that_cannot_be_read_do_not_hide_the_others(tmp_path, content, sentence):
    path = tmp_path / "a.spec"
    path.write_bytes((content + text().replace("#S 1", "#S 2")).encode("latin-1"))
    (_, error), good = read_spec_scans(path)
    assert good.n_points == 2
    with pytest.raises(HklflowError, match=sentence):
        raise error
