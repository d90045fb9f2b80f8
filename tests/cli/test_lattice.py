"""`hklflow lattice suggest`: what it prints, and one sentence for wrong input."""

import json
from pathlib import Path

import numpy as np
import pytest

from hklflow.bragg.structure_factors import Crystal, Scaled
from hklflow.nexus.structure_factors import write_scaled
from tests.cli.conftest import Hklflow
from tests.truth.symmetries import Case, make


@pytest.fixture
def scaled(tmp_path: Path) -> Path:
    """Scaled reflections of a crystal of P 1 21/n 1, reduced in P 1."""
    measured = make(Case("P 1 21/n 1"), 2).measured
    assert measured.hkl is not None
    assert measured.intensity is not None
    assert measured.sigma_intensity is not None
    assert measured.sigma is not None
    n = len(measured.hkl)
    table = Scaled(
        hkl=measured.hkl,
        rotation=np.zeros(n, np.int64),
        frame=np.zeros(n),
        angle=np.arange(n, dtype=np.float64),
        d=np.ones(n),
        intensity=measured.intensity,
        sigma=measured.sigma_intensity,
        sigma_counting=measured.sigma_intensity,
        scale=np.ones(n),
        flags=np.zeros(n, np.int64),
    )
    cell, sigma = (tuple(float(x) for x in v) for v in (measured.cell, measured.sigma))
    crystal = Crystal("quartz", "300K", "300K", "P 1", cell, sigma, 0.7, 300.0)  # type: ignore[arg-type]
    path = tmp_path / "scaled.nxs"
    write_scaled(path, table, ["r1"], crystal, {})
    return path


def test_the_table_names_the_space_group_and_the_line(hklflow: Hklflow, scaled: Path) -> None:
    before = sorted(scaled.parent.iterdir())
    done = hklflow("lattice", "suggest", scaled)
    assert done.code == 0
    assert "recommended: space group P 1 21/n 1, Laue group 2/m" in done.out
    assert 'per_sample: {quartz: {refine_parent: {space_group: "P 1 21/n 1", cell: [' in done.out
    assert "2_1 axis along [0 1 0]" in done.out
    assert sorted(scaled.parent.iterdir()) == before


def test_json_has_the_figures(hklflow: Hklflow, scaled: Path) -> None:
    done = hklflow("lattice", "suggest", scaled, "--json")
    found = json.loads(done.out)
    assert found["space group"] == "P 1 21/n 1"
    assert found["determined"] is True
    assert len(found["lattices"]) == 14
    screw = next(c for c in found["classes"] if c["name"].startswith("2_1"))
    assert screw["probability"] > 0.95
    assert screw["number"] > 0
    assert abs(screw["ratio_sigma"]) < 1 < screw["rest_ratio_sigma"]


def test_a_cell_alone_gives_lattices(hklflow: Hklflow) -> None:
    done = hklflow("lattice", "suggest", "--cell", 5.43, 5.43, 7.68, 90, 90, 90.02)
    assert done.code == 0
    assert "without intensities" in done.out
    assert "not determined" in done.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "no cell is given"),
        (("--sigma", 1, 1, 1, 1, 1, 1), "give --cell too"),
        (("--cell", 5, 5, 5, 90, 90, 200), "0 and 180"),
        (("--cell", 5, 5, 5, 30, 30, 170), "has no volume"),
        (("--cell", 5, 5, 5, 90, 90, 90, "--sigma", -1, 1, 1, 1, 1, 1), "from 0 on"),
        (("missing.nxs",), "does not exist"),
        (("{scaled}", "{scaled}"), "different kinds or scans"),
        (("{text}",), "not a readable HDF5 file"),
    ],
)
def test_wrong_input_is_one_sentence(
    hklflow: Hklflow, scaled: Path, words: tuple[object, ...], sentence: str
) -> None:
    text = scaled.with_name("text.nxs")
    text.write_text("no HDF5")
    filled = [str(word).format(scaled=scaled, text=text) for word in words]
    done = hklflow("lattice", "suggest", *filled)
    assert done.code == 2
    assert sentence in done.err
    assert len(done.err.strip().splitlines()) == 1
