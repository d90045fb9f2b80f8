"""`hklflow peaks list`: the table of peaks, and its lines as the peaks that are left out."""

from pathlib import Path

import numpy as np
import pytest

from hklflow import nexus
from hklflow.images.scan import RotationScan
from hklflow.peaks.table import PeakTable
from hklflow.stage.orientation import observe
from hklflow.stage.peak_choice import PeakChoice, read_listed
from tests.truth import worlds
from tests.truth.orientations import write_orientation
from tests.truth.world_scans import rotation_of, scan_of, table_of

from .conftest import Hklflow, write_raw

WORLD = worlds.world("plain", "cubic", 21)
LIST = ("peaks", "list", "quartz/100K", "--directory")


@pytest.fixture(scope="module")
def table() -> PeakTable:
    return table_of(WORLD, 0)


@pytest.fixture(scope="module")
def scan() -> RotationScan:
    return scan_of(WORLD, 0)


@pytest.fixture
def searched(folder: Path, hklflow: Hklflow, table: PeakTable, scan: RotationScan) -> Path:
    """A scan whose peaks are searched."""
    write_raw(folder / "a.h5")
    words = ("quartz", "100K", "--rotation", "r1", "--raw", "a.h5", "--directory", folder)
    assert hklflow("scan", "add", *words).code == 0
    place = folder / "results/quartz/100K/r1"
    place.mkdir(parents=True)
    nexus.write_scan(place / "scan.nxs", scan, "scan", None)
    nexus.write_peaks(place / "peaks.nxs", table)
    return folder


def rows_of(text: str) -> list[dict[str, str]]:
    header, *lines = (line.split("\t") for line in text.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_the_table_is_that_of_the_peaks(searched: Path, hklflow: Hklflow, table: PeakTable) -> None:
    done = hklflow(*LIST, searched)
    assert done.code == 0, done.err
    rows = rows_of(done.out)
    assert len(rows) == len(table)
    assert {(row["sample"], row["scan"], row["rotation"]) for row in rows} == {
        ("quartz", "100K", "r1")
    }
    for name in ("frame", "slow", "fast", "intensity"):
        found = np.array([float(row[name]) for row in rows])
        np.testing.assert_allclose(found, getattr(table, name), rtol=1e-5, atol=6e-4)
    # Bragg's law relates the two columns.
    theta = np.radians([float(row["two_theta"]) for row in rows]) / 2
    q = 4 * np.pi / WORLD.instrument.wavelength * np.sin(theta)
    np.testing.assert_allclose([float(row["q"]) for row in rows], q, atol=2e-5)
    assert "h" not in rows[0]
    refused = hklflow(*LIST, searched, "--deviation", "0.1")
    assert refused.code == 2
    assert "so the peaks have no hkl" in refused.err


def test_lines_of_the_table_are_the_peaks_that_are_left_out(
    searched: Path, hklflow: Hklflow, table: PeakTable, scan: RotationScan
) -> None:
    place = searched / "results/quartz/100K/orientation.json"
    write_orientation(place, {"r1": rotation_of(WORLD, 0)}, WORLD.UB, "P 1")
    every = rows_of(hklflow(*LIST, searched).out)
    away = np.array([float(row["deviation"]) for row in every])
    limit = float(np.sort(away)[-8])
    file = searched / "config/odd.tsv"
    done = hklflow(*LIST, searched, "--deviation", f"{limit - 5e-4:.4f}", "-o", file)
    assert done.code == 0, done.err
    listed = rows_of(file.read_text())
    n = len(listed)
    assert 8 <= n < 100
    assert f"{n} peaks" in done.out
    choice = PeakChoice(leave_out_peaks=file)
    found = observe(["r1"], [scan], [table], None, choice, ("quartz", "100K"))
    assert found.left_out["listed in `orientation: leave_out_peaks`"] == n
    hkl = rotation_of(WORLD, 0).hkl(WORLD.UB, table.frame, table.slow, table.fast)
    far = np.abs(hkl - np.rint(hkl)).max(axis=1) > limit - 5e-4
    left = {tuple(row) for row in np.stack([table.slow, table.fast], axis=1)[~far].tolist()}
    kept = observe(["r1"], [scan], [table.select(~far)])
    np.testing.assert_array_equal(found.tables[0].slow, kept.tables[0].slow)
    assert len(left) == len(table) - n
    again = hklflow(*LIST, searched, "-o", file)
    assert again.code == 2
    assert "--force" in again.err


def test_a_list_of_a_diagnostic_scan_says_so(searched: Path, hklflow: Hklflow) -> None:
    place = searched / "results/quartz/100K/r1"
    record = {
        "stage": "find_peaks",
        "stage_version": 1,
        "version": "0",
        "started": "",
        "inputs": {},
    }
    nexus.write_provenance(place / "peaks.nxs", [record | {"diagnostic": "made of straw"}])
    done = hklflow(*LIST, searched)
    assert done.err == "warning: quartz/100K is diagnostic (made of straw)\n"
    assert "straw" not in done.out
    done = hklflow(*LIST, searched, "-o", searched / "odd.tsv")
    assert done.code == 2
    assert f"write it to {searched / 'odd_diagnostic.tsv'}" in done.err
    file = searched / "odd_diagnostic.tsv"
    assert hklflow(*LIST, searched, "-o", file).code == 0
    assert {row["quality"] for row in rows_of(file.read_text())} == {"diagnostic: made of straw"}
    assert len(read_listed(file)) == len(rows_of(file.read_text()))  # leave_out_peaks reads it
    nexus.write_provenance(place / "peaks.nxs", [record])
    assert hklflow(*LIST, searched).err == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("quartz/20K",), "there is no scan 'quartz/20K'"),
        (("quartz/100K", "--deviation", "0.7"), "--deviation is 0.7; give a number from 0"),
        (("quartz/100K",), "peaks.nxs is not there yet"),
    ],
)
def test_what_cannot_be_listed(
    searched: Path, hklflow: Hklflow, words: tuple[str, ...], told: str
) -> None:
    (searched / "results/quartz/100K/r1/peaks.nxs").unlink()
    done = hklflow("peaks", "list", *words, "--directory", searched)
    assert done.code == 2
    assert told in done.err
