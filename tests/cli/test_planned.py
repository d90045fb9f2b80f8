"""Rows of planned.tsv with placeholders, and what the names of files make of them."""

from pathlib import Path

import pytest

from hklflow.base.errors import HklflowError
from hklflow.cli.folder import Row, Table, read_table
from hklflow.cli.planned import pending

COLUMNS = ("sample", "scan", "temperature", "parent", "rotation", "raw", "frames")


def _table(path: Path, *rows: str) -> Table:
    lines = ["\t".join(COLUMNS), *("\t".join(row.split("|")) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return read_table(path)


def _planned(base: Path, *rows: str, present: tuple[str, ...] = ()) -> list[list[str]]:
    """Each scan's rows as `sample|scan|...`, without the number of the row."""
    found = pending(_table(base / "planned.tsv", *rows), _table(base / "scans.tsv", *present), base)
    return [[_text(row) for row in scan.rows] for scan in found]


def _text(row: Row) -> str:
    return "|".join(row[name] for name in COLUMNS)


def _touch(base: Path, *names: str) -> None:
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).touch()


def test_rows_as_they_are_need_no_file(tmp_path: Path) -> None:
    rows = ("q|300K|300||r1|a.h5|5", "q|300K|300||r2|b.h5|5", "q|100K|100|300K|r1|c.h5|")
    assert _planned(tmp_path, *rows) == [[rows[0], rows[1]], [rows[2]]]
    # What stands in the table of scans is no longer pending, rotation by rotation.
    assert _planned(tmp_path, *rows, present=(rows[0], rows[2])) == [[rows[1]]]


def test_the_names_of_files_fill_the_columns(tmp_path: Path) -> None:
    _touch(tmp_path, "raw/q_300K.h5", "raw/q_12.5K.h5", "raw/q_12.5K.h5.tmp", "raw/q_xK.h5")
    template = "q|{temperature}K|{temperature}|300K|r1|raw/q_{temperature}K.h5|5"
    assert _planned(tmp_path, template) == [
        ["q|12.5K|12.5|300K|r1|raw/q_12.5K.h5|5"],
        ["q|300K|300|300K|r1|raw/q_300K.h5|5"],
    ]


def test_one_rotations_file_plans_all_rotations(tmp_path: Path) -> None:
    _touch(tmp_path, "raw/100K_r2.h5")
    rows = [f"q|{{scan}}|||r{n}|raw/{{scan}}_r{n}.h5|" for n in (1, 2)]
    assert _planned(tmp_path, *rows) == [
        ["q|100K|||r1|raw/100K_r1.h5|", "q|100K|||r2|raw/100K_r2.h5|"]
    ]


def test_placeholders_in_folders_series_and_sums(tmp_path: Path) -> None:
    _touch(tmp_path, "raw/100K/f1_00001.cbf", "raw/100K/f1_00002.cbf", "raw/100K/f1_no.cbf")
    _touch(tmp_path, "raw/50K/other.cbf", "raw/file")
    series = "q|{scan}|||f1|raw/{scan}/f1_#####.cbf|"
    assert _planned(tmp_path, series) == [["q|100K|||f1|raw/100K/f1_#####.cbf|"]]
    printf = "q|{scan}|||f1|raw/{scan}/f1_%05d.cbf|"
    assert _planned(tmp_path, printf) == [["q|100K|||f1|raw/100K/f1_%05d.cbf|"]]
    shell = "q|{scan}|||f1|raw/{scan}/f1_*.cbf|"
    assert _planned(tmp_path, shell) == [["q|100K|||f1|raw/100K/f1_*.cbf|"]]
    _touch(tmp_path, "raw/a_100K.h5")
    summed = "q|{scan}|||f1|raw/a_{scan}.h5 + raw/b_{scan}.h5|"
    assert _planned(tmp_path, summed) == [["q|100K|||f1|raw/a_100K.h5 + raw/b_100K.h5|"]]


def test_the_same_placeholder_twice_is_the_same_text(tmp_path: Path) -> None:
    _touch(tmp_path, "100K/q_100K_100K.h5", "50K/q_100K_100K.h5", "20K/q_20K_30K.h5")
    rows = _planned(tmp_path, "q|{scan}|||r1|{scan}/q_{scan}_{scan}.h5|")
    assert rows == [["q|100K|||r1|100K/q_100K_100K.h5|"]]
    _touch(tmp_path, "x/q_5_5.h5", "x/q_5_6.h5")
    twice = "q|{scan}|||r1|x/q_{scan}_{scan}.h5|"
    assert _planned(tmp_path, twice) == [["q|5|||r1|x/q_5_5.h5|"]]


def test_both_placeholders_and_absolute_paths(tmp_path: Path) -> None:
    _touch(tmp_path, "data/up-1_300.5.h5")
    template = f"q|{{scan}}|{{temperature}}||r1|{tmp_path}/data/{{scan}}_{{temperature}}.h5|"
    assert _planned(tmp_path, template) == [[f"q|up-1|300.5||r1|{tmp_path}/data/up-1_300.5.h5|"]]


def test_a_row_of_its_own_goes_before_a_template(tmp_path: Path) -> None:
    _touch(tmp_path, "300K.h5", "100K.h5")
    rows = ("q|{scan}|||r1|{scan}.h5|", "q|300K|299.8||r1|300K.h5|7")
    assert _planned(tmp_path, *rows) == [["q|300K|299.8||r1|300K.h5|7"], ["q|100K|||r1|100K.h5|"]]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (("q|{scan}|||r1|{scn}.h5|",), "{scn} is not one of"),
        (("q|{scan}|{temperature}||r1|{scan}.h5|",), "{temperature} is not in the raw"),
        (("q|all|||r1|{scan}.h5|",), "would be scan 'all'"),
        (("q|{temperature}K|{temperature}||r1|{scan}_{temperature}.h5|",), "the same rotation of"),
        (("q|{scan}|||r1|{scan}.h5|many",), "'many'"),
        (("q|300K|||r1||",), "no raw file"),
        (
            ("q|{scan}|||r1|{scan}.h5|", "q|{scan}|||r2|{scan}_{temperature}.h5|"),
            "rows 1, 2",
        ),
        (("q|{scan}|||r1|a.h5 + b_{scan}.h5|",), "same placeholders"),
    ],
)
def test_templates_that_cannot_be_meant(tmp_path: Path, rows: tuple[str, ...], told: str) -> None:
    with pytest.raises(HklflowError) as error:
        _planned(tmp_path, *rows)
    assert told in str(error.value)


def test_a_column_that_the_table_of_scans_lacks(tmp_path: Path) -> None:
    planned = tmp_path / "planned.tsv"
    planned.write_text("sample\tscan\trotation\traw\tcalibration\nq\t1\tr1\ta.h5\tlab\n")
    scans = tmp_path / "scans.tsv"
    scans.write_text("sample\tscan\trotation\traw\n")
    with pytest.raises(HklflowError, match="'calibration'"):
        pending(read_table(planned), read_table(scans), tmp_path)
