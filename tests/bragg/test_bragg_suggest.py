"""Suggested lattices, Laue groups and space groups, against crystals of known symmetry."""

import numpy as np
import pytest

from hklflow.bragg.bravais_ranking import TYPES
from hklflow.bragg.suggest import Measured, suggest
from hklflow.geometry import lattice, symmetry
from tests.truth.symmetries import CASES, Case, make

# One conventional cell of each Bravais type.
CELLS = {
    "aP": ("P 1", (5.1, 6.2, 7.3, 81, 96, 103)),
    "mP": ("P 1 2 1", (5.1, 6.2, 7.3, 90, 103, 90)),
    "mC": ("C 1 2 1", (9.1, 6.2, 7.3, 90, 103, 90)),
    "oP": ("P 2 2 2", (5.1, 6.2, 7.3, 90, 90, 90)),
    "oC": ("C 2 2 2", (5.1, 6.7, 7.3, 90, 90, 90)),
    "oI": ("I 2 2 2", (5.1, 6.2, 7.9, 90, 90, 90)),
    "oF": ("F 2 2 2", (5.1, 6.9, 8.3, 90, 90, 90)),
    "tP": ("P 4", (5.1, 5.1, 7.3, 90, 90, 90)),
    "tI": ("I 4", (5.1, 5.1, 8.1, 90, 90, 90)),
    "hR": ("R 3 :H", (5.1, 5.1, 17.3, 90, 90, 120)),
    "hP": ("P 6", (5.1, 5.1, 7.3, 90, 90, 120)),
    "cP": ("P 2 3", (5.1, 5.1, 5.1, 90, 90, 90)),
    "cI": ("I 2 3", (5.1, 5.1, 5.1, 90, 90, 90)),
    "cF": ("F 2 3", (5.1, 5.1, 5.1, 90, 90, 90)),
}
QUICK = ("P 1 21/n 1, as it is", "C 1 2/c 1, primitive", "P 42/n :2, as it is")


def case(name: str) -> Case:
    return next(c for c in CASES if c.name.startswith(name))


@pytest.mark.parametrize("bravais", TYPES)
def test_the_lattice_of_a_primitive_cell_with_errors_is_found(bravais: str) -> None:
    symbol, conventional = CELLS[bravais]
    primitive, _ = symmetry.niggli(conventional, symmetry.space_group(symbol))
    rng = np.random.default_rng(TYPES.index(bravais))
    sigma = 2e-4 * np.array([*primitive[:3] / 3, 30, 30, 30])
    cell = primitive + sigma * rng.standard_normal(6)
    found = suggest(Measured(cell, sigma, symmetry.space_group("P 1")))
    assert len(found.lattices) == 14
    fit = next(f for f in found.lattices if f.bravais == bravais)
    assert fit.verdict == "compatible"
    assert fit.setting is not None
    assert fit.matrix is not None
    # The volume is that of the conventional cell, and the matrix gives the cell.
    assert lattice.volume(fit.setting.cell) == pytest.approx(lattice.volume(conventional), rel=2e-3)
    metric = fit.matrix @ lattice.metric(cell) @ fit.matrix.T
    np.testing.assert_allclose(lattice.cell_from_metric(metric), fit.setting.cell, rtol=3e-3)
    order = len(symmetry.space_group(found.laue[0].group.symbol).laue_operations)
    assert order == len(fit.setting.group.laue_operations)


def test_a_monoclinic_angle_of_90_02_is_told_in_sigma() -> None:
    cell, p1 = (8.1, 9.4, 11.7, 90, 90.02, 90), symmetry.space_group("P 1")
    exact = suggest(Measured(np.array(cell), np.full(6, 1e-3), p1))
    sigmas = {fit.bravais: fit.sigmas for fit in exact.lattices}
    assert sigmas["oP"] == pytest.approx(20, rel=0.01)
    assert sigmas["mP"] < 1e-6
    verdicts = {fit.bravais: fit.verdict for fit in exact.lattices}
    assert (verdicts["oP"], verdicts["mP"], verdicts["cF"]) == ("nearly", "compatible", "excluded")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(c.name, marks=[] if c.name in QUICK else pytest.mark.slow)
        for c in CASES
        if not c.twin
    ],
)
def test_the_true_symmetry_is_first_or_listed(name: str) -> None:
    chosen = next(c for c in CASES if c.name == name)
    truth = make(chosen, 0)
    found = suggest(truth.measured)
    assert truth.group.laue in [item.laue for item in found.possible]
    if len(found.possible) == 1:
        numbers = {g.number for item in found.undecided for g in item.groups}
        assert truth.group.number in numbers


def test_few_reflections_determine_nothing() -> None:
    found = suggest(make(case("P 21 21 21, as it is, 40"), 0).measured)
    assert not found.determined
    assert len(found.possible) > 1


def test_a_perfect_twin_is_suspected() -> None:
    """Intensities of P 4/n, twinned 1:1, have the symmetry 4/mmm: only their moment is low."""
    twin = suggest(make(case("P 4/n :2, as it is, twin"), 0).measured)
    single = suggest(make(case("P 4/n :2"), 0).measured)
    assert twin.laue[0].laue == "4/mmm"
    assert "4/m" in twin.twins
    assert "suspect" in twin.twin_verdict
    assert single.laue[0].laue == "4/m"
    assert single.moment > twin.moment + 0.5


def test_weak_reflections_of_a_superlattice_lower_the_symmetry() -> None:
    found = suggest(make(next(c for c in CASES if c.superlattice), 0).measured)
    assert found.laue[0].laue == "mmm"
    assert any("superlattice" in note for note in found.notes)


def test_reflections_merged_in_a_group_cannot_test_it() -> None:
    truth = make(case("P 1 21/n 1, as it is"), 0)
    measured = truth.measured
    assert measured.hkl is not None
    merged = Measured(
        measured.cell,
        measured.sigma,
        measured.group,
        truth.group.asymmetric(measured.hkl),
        measured.intensity,
        measured.sigma_intensity,
        merged_in=truth.group,
    )
    found = suggest(merged)
    assert found.laue[0].laue == "2/m"
    assert any(a.assumed and a.pairs == 0 for a in found.rotations)


def test_centring_contradicted_by_reflections_is_not_used() -> None:
    truth = make(case("P 1 21/n 1, as it is"), 0)
    measured = truth.measured
    wrong = Measured(
        measured.cell,
        measured.sigma,
        symmetry.space_group("C 1 2 1"),
        measured.hkl,
        measured.intensity,
        measured.sigma_intensity,
    )
    found = suggest(wrong)
    assert any("contradicted" in note for note in found.notes)
    assert found.space_group.symbol == "P 1 21/n 1"


def test_a_doubled_cell_is_halved() -> None:
    """Odd h have noise alone: lattice, space group and axes are those of half the cell."""
    truth = make(case("P n m a"), 4)
    m = truth.measured
    assert m.hkl is not None
    assert m.intensity is not None
    assert m.sigma_intensity is not None
    even = m.hkl * [2, 1, 1]
    n = len(even)
    noise = 10 * np.random.default_rng(4).standard_normal(n)
    doubled = Measured(
        m.cell * [2, 1, 1, 1, 1, 1],
        m.sigma,
        m.group,
        np.concatenate([even, even + np.array([1, 0, 0])]),
        np.concatenate([m.intensity, noise]),
        np.concatenate([m.sigma_intensity, np.full(n, 10.0)]),
    )
    found = suggest(doubled)
    assert found.space_group.number == truth.group.number
    assert lattice.volume(found.laue[0].cell) == pytest.approx(lattice.volume(m.cell), rel=1e-3)
    assert any("h ≠ 2n have no intensity" in note for note in found.notes)


def test_noise_suggests_no_absences() -> None:
    m = make(case("P n m a"), 4).measured
    assert m.hkl is not None
    noise = np.random.default_rng(5).standard_normal(len(m.hkl))
    found = suggest(Measured(m.cell, m.sigma, m.group, m.hkl, noise, np.ones(len(m.hkl))))
    assert not found.determined
    assert found.extinctions == []
    assert "the intensities are not significant, and are not used" in found.notes
