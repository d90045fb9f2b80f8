"""`hklflow compare`: what it says without products, and what it refuses."""

import json
from pathlib import Path

import pytest

from .conftest import Hklflow, write_raw

ANALYSES = """
per_scan:
  quartz/300K@tight: {find_peaks: {n_sigma: 9}}
  quartz/300K@p1: {refine_parent: {space_group: P 1}}
"""


@pytest.fixture
def analysed(folder: Path, hklflow: Hklflow) -> Path:
    for scan in ("300K", "100K"):
        write_raw(folder / f"{scan}.h5")
        words = ("quartz", scan, "--rotation", "r1", "--raw", f"{scan}.h5")
        assert hklflow("scan", "add", *words, "--directory", folder).code == 0
    with (folder / "config/config.yaml").open("a") as file:
        file.write(ANALYSES)
    return folder


def test_parameters_that_differ_are_listed_before_anything_is_made(
    analysed: Path, hklflow: Hklflow
) -> None:
    done = hklflow("compare", "quartz/300K", "--directory", analysed)
    assert done.code == 0, done.err
    rows = {line.split("  ")[0]: line.split() for line in done.out.splitlines() if line}
    assert rows["find_peaks.n_sigma"][1:] == ["4.5", "9.0", "4.5"]
    assert rows["refine_parent.space_group"][1:] == ["null", "null", "P", "1"]
    assert "not compared, results/quartz/300K/transform.nxs is not made yet" in done.out
    named = hklflow(
        "compare", "quartz/300K", "p1", "quartz/100K", "--json", "--directory", analysed
    )
    found = json.loads(named.out)
    assert found["scans"] == ["quartz/300K", "quartz/300K@p1", "quartz/100K"]
    assert found["lattice"] == [None, None, None]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("quartz/20K",), "there is no scan quartz/20K; the scans are quartz/300K"),
        (("quartz/300K", "loose"), "there is no scan quartz/300K@loose"),
        (("quartz/100K",), "quartz/100K has no analyses; define one"),
        (("quartz/300K", "p1", "p1"), "a scan occurs twice"),
    ],
)
def test_what_cannot_be_compared(
    analysed: Path, hklflow: Hklflow, words: tuple[str, ...], told: str
) -> None:
    done = hklflow("compare", *words, "--directory", analysed)
    assert done.code == 2
    assert told in done.err
