"""Twins, satellites and half the wavelength in whole scans: found, and called by their names."""

from pathlib import Path

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.stage.scan_limits import ScanLimits
from tests.test_verdict import judged
from tests.truth import worlds
from tests.truth.world_scans import Answer, answered


def of(
    folder: Path, kind: str, system: str, seed: int, *size: float
) -> tuple[Answer, worlds.World]:
    world = worlds.world(kind, system, seed, *size)
    return answered(world, folder), world


@pytest.mark.slow
@pytest.mark.parametrize(("system", "seed"), [("cubic", 50001), ("monoclinic", 50013)])
def test_half_the_wavelength_does_not_double_the_cell(
    tmp_path: Path, system: str, seed: int
) -> None:
    """Indexing found the doubled cell, which is not the expected one, and gave up."""
    found, world = of(tmp_path, "half_wavelength", system, seed)
    if found.refusal:
        assert "reflections of half the wavelength" in found.refusal
        return
    assert found.worst < 5
    (left,) = found.data["symmetry"]["unindexed"]
    there = np.sum(world.peaks["origin"] == worlds.HALF)
    assert left["half the wavelength"] == pytest.approx(there, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "system", "seed", "vector"),
    [
        ("superlattice:1/3,1/3,0", "cubic", 50015, "(1/3, 1/3, 0)"),
        ("superlattice:incommensurate", "cubic", 50001, "(0.277"),
    ],
)
def test_satellites_more_than_reflections_are_named_where_they_stop_indexing(
    tmp_path: Path, kind: str, system: str, seed: int, vector: str
) -> None:
    found, _ = of(tmp_path, kind, system, seed)
    assert f"are at {vector}" in found.refusal
    assert "lower `refine_parent: min_indexed`" in found.refusal


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "seed", "law"), [("cubic", 50001, "1 1 1"), ("trigonal", 50012, "0 0 1")]
)
def test_the_common_lattice_of_a_twin_is_not_a_supercell(
    tmp_path: Path, system: str, seed: int, law: str
) -> None:
    """Twins on (111), and obverse and reverse setting: a third of the lattice is common."""
    found, world = of(tmp_path, "twin_nonmerohedral", system, seed)
    (sentence,) = found.said
    assert "on the lattice of a twin (two-fold about [" in sentence
    (twin,) = found.data["symmetry"]["other crystals"]
    assert sorted(twin["law"].replace("-", "")) == sorted(f"[{law}]")
    assert twin["share"] == pytest.approx(world.effects[0]["share"], rel=0.15)
    assert found.worst < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "seed"), [("tetragonal", 50005), ("trigonal", 50014), ("orthorhombic", 80006)]
)
def test_domains_of_a_pseudo_cubic_crystal_are_told_apart(
    tmp_path: Path, system: str, seed: int
) -> None:
    """Their mean was refined: off by thousands of σ."""
    found, world = of(tmp_path, "twin_pseudomerohedral", system, seed)
    assert found.worst < 5
    assert found.data["metrics"]["reduced chi2"] < 1.5
    (twin,) = found.data["symmetry"]["other crystals"]
    assert twin["law"]
    assert twin["share"] == pytest.approx(world.effects[0]["share"], rel=0.2)
    assert judged(tmp_path / "parent.json", tmp_path / "parent.json")["verdict"] == "failed"


def test_of_two_cells_of_a_lattice_the_expected_one_stays(tmp_path: Path) -> None:
    """Another choice of c fits alike, by a change of χ² in its last digits."""
    found, world = of(tmp_path, "plain", "monoclinic", 50020)
    np.testing.assert_allclose(found.data["cell"], world.cell, rtol=1e-4)
    assert found.worst < 5


@pytest.mark.slow
def test_an_unknown_fifth_of_the_peaks_is_judged_by_the_configuration(tmp_path: Path) -> None:
    found, _ = of(tmp_path, "noise", "cubic", 21, 0.18)
    (sentence,) = found.said
    assert "17.8 ± 0.6 % of the peaks of a are not indexed" in sentence
    own = tmp_path / "parent.json"

    def verdict(**limits: float) -> str:
        return str(judged(own, own, **limits)["verdict"])

    assert verdict() == "doubtful"
    assert verdict(told_unindexed=0.2) == "passed"
    assert verdict(max_unindexed=0.15) == "failed"
    with pytest.raises(HklflowError, match=r"are not indexed.*limit 15 %"):
        judged(own, own, max_unindexed=0.15, on_failure="stop")
    assert ScanLimits().max_unindexed == 0.5


def test_of_orientations_that_the_lattice_allows_the_absences_choose(tmp_path: Path) -> None:
    """Of 25 peaks of Pa-3 three were forbidden in the first orientation, none in the other."""
    world = worlds.world("plain", "cubic", 43491, mosaic=0.20447545808, strong=41.1151327628)
    found = answered(world, tmp_path)
    assert found.data["symmetry"]["absent reflections"]["number"] == 0
