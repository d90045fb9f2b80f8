"""Indexing of simulated scans whose lattice is known.

``python -m benchmarks.indexing_x4`` runs 20 seeds.
"""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation as Turn
from tests.truth import lattices as made
from tests.truth.defaults import index_peaks
from tests.truth.first_contacts import draw
from tests.truth.first_contacts_peaks import observed

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.reduction import real_basis
from hklflow.orientation import lattice_search


def cloud(
    cell: list[float], symbol: str = "P1", seed: int = 0, n: int = 300, noise: float = 0.003
) -> tuple[np.ndarray, np.ndarray]:
    """G (n, 3) with noise in 1/Å, and UB; reflections from anywhere in a sphere."""
    rng = np.random.default_rng(seed)
    ub = Turn.random(rng=rng).as_matrix() @ lattice.b_matrix(cell)
    hkl = lattice.indices_within(cell, 8.0, 0.05)
    hkl = hkl[~symmetry.space_group(symbol).is_absent(hkl)]
    hkl = hkl[rng.choice(len(hkl), min(n, len(hkl)), replace=False)]
    return hkl @ ub.T + rng.normal(0, noise, (len(hkl), 3)), ub


# Cells that are good to 3 % in each length have strains of twice as much.
WIDE = {"tolerance": 0.1, "cell_tolerance": 0.06, "min_fraction": 0.3}


# Both cells of each system, each three times; the next test has seeds 0 and 1.
@pytest.mark.slow
@pytest.mark.parametrize("system", made.CASES)
def test_every_seed_of_every_system(system: str) -> None:
    """6 crystals, 30 % spurious spots, cell known to 3 % and unknown: all are right."""
    wrong: dict[str, list[int]] = {"known": [], "unknown": []}
    for seed in range(2, 8):
        symbol, cell = made.CASES[system][seed % 2]
        group = symmetry.space_group(symbol)
        g, true = made.simulate(symbol, cell, seed)
        known = index_peaks(g, cell=made.rough_cell(symbol, cell, seed), group=group, **WIDE)
        unknown = index_peaks(g, **WIDE)
        for name, found, its in (
            ("known", known, group), ("unknown", unknown, unknown.candidates[0].group)
        ):  # fmt: skip
            if not made.is_right(found.ub, its, true, symbol):
                wrong[name].append(seed)
    assert not any(wrong.values()), wrong


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("system", made.CASES)
def test_finds_the_lattice_with_and_without_a_cell(system: str, seed: int) -> None:
    symbol, cell = made.CASES[system][seed % 2]
    group = symmetry.space_group(symbol)
    g, true = made.simulate(symbol, cell, seed)
    rough = made.rough_cell(symbol, cell, seed)
    known = index_peaks(g, cell=rough, group=group, **WIDE)
    assert made.is_right(known.ub, group, true, symbol)
    # All true peaks are 70 %; chance adds at most a few per cent.
    assert 0.67 < known.fraction < 0.75
    # Which of two axes equal to 1 % is called a, a cell good to 3 % cannot tell.
    np.testing.assert_allclose(np.sort(known.cell[:3]), np.sort(cell[:3]), rtol=0.005)
    unknown = index_peaks(g, **WIDE)
    assert made.is_right(unknown.ub, unknown.candidates[0].group, true, symbol)
    for found in (known, unknown):
        np.testing.assert_allclose(found.u @ found.u.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(found.u) == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(found.u @ lattice.b_matrix(found.cell), found.ub, atol=1e-9)
        deviation = np.abs(g @ np.linalg.inv(found.ub).T - found.hkl).max(axis=1)
        assert np.array_equal(deviation < 0.1, found.indexed)
        assert found.fraction == found.indexed.mean()
        assert found.relation == ""


def test_the_judge_tells_wrong_lattices() -> None:
    # A judge that takes everything would make the test above worthless.
    _, true = cloud([5.0, 6.0, 8.0, 90, 97, 90])
    p1 = symmetry.space_group("P1")
    assert made.is_right(true, p1, true, "P1")
    assert made.is_right(true @ np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]]), p1, true, "P1")
    assert not made.is_right(true @ np.diag([2, 1, 1]), p1, true, "P1")
    assert not made.is_right(true @ np.diag([0.5, 1, 1]), p1, true, "P1")
    assert not made.is_right(true @ np.diag([-1, 1, 1]), p1, true, "P1")
    assert not made.is_right(true * 1.006, p1, true, "P1")
    small = Turn.from_rotvec([0, np.radians(0.15), 0]).as_matrix()
    assert not made.is_right(small @ true, p1, true, "P1")


def test_equal_input_gives_equal_output() -> None:
    g, _ = cloud([5.0, 6.0, 8.0, 90, 97, 90])
    first, second = index_peaks(g), index_peaks(g.copy())
    assert np.array_equal(first.ub, second.ub)


def test_half_of_the_peaks_may_be_spurious() -> None:
    cell = [5.5, 7.9, 13.2, 90, 90, 90]
    g, true = made.simulate("Immm", cell, 3, spurious=0.55)
    found = index_peaks(g, cell=[5.4, 8.0, 13.4, 90, 90, 90], group=symmetry.space_group("Immm"))
    assert made.is_right(found.ub, symmetry.space_group("Immm"), true, "Immm")


def test_weights_follow_sigma() -> None:
    # Four peaks of five are a hundred times worse; weighted, they must not matter.
    cell = [5.0, 6.0, 8.0, 90, 97, 90]
    hints = {"cell": cell, "group": symmetry.space_group("P1")}
    misses = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        exact, _ = cloud(cell, n=400, seed=seed, noise=0.0)
        sigma = np.where(np.arange(len(exact)) % 5 == 0, 0.0003, 0.03)
        g = exact + rng.normal(size=exact.shape) * sigma[:, None]
        for weights in (sigma, None):
            found = index_peaks(g, sigma=weights, **hints).ub
            nearest = np.rint(exact @ np.linalg.inv(found).T)
            misses.append(np.sqrt(np.mean((exact - nearest @ found.T) ** 2)))
    weighted, plain = np.reshape(misses, (3, 2)).T
    assert np.all(weighted < 0.3 * plain)
    with pytest.raises(HklflowError, match="400 positive numbers"):
        index_peaks(g, sigma=sigma[:5])


def test_absences_choose_between_axes_of_nearly_equal_length() -> None:
    cell = [5.42, 7.65, 5.38, 90, 90, 90]
    g, _ = cloud(cell, "Pnma", n=500)
    # The expected cell has a < c: nearer to the wrong assignment.
    found = index_peaks(g, cell=[5.36, 7.65, 5.44, 90, 90, 90], group=symmetry.space_group("Pnma"))
    np.testing.assert_allclose(found.cell[:3], cell[:3], rtol=1e-3)


def test_ambiguities_are_the_rotations_that_index_as_well() -> None:
    cell = [8.3, 8.3, 8.3, 90, 90, 90]
    g, _ = cloud(cell, "Pa-3")
    found = index_peaks(g, cell=cell, group=symmetry.space_group("Pa-3"))
    assert len(found.ambiguities) == 1
    other = g @ np.linalg.inv(found.ub).T @ found.ambiguities[0].T
    assert np.mean(np.abs(other - np.rint(other)).max(axis=1) < 0.1) == found.fraction
    unique = index_peaks(cloud(cell, "Fd-3m")[0], cell=cell, group=symmetry.space_group("Fd-3m"))
    assert unique.ambiguities == []


def test_symmetry_chooses_the_axis_that_a_rough_cell_cannot() -> None:
    # a = b = 5.00 and c = 5.06 with an expected cell that is cubic within its 3 %.
    cell = [5.0, 5.0, 5.06, 90, 90, 90]
    g, _ = cloud(cell, "P4/mmm", seed=5)
    found = index_peaks(g, cell=[5.05, 5.05, 5.0, 90, 90, 90], group=symmetry.space_group("P4/mmm"))
    np.testing.assert_allclose(found.cell[:3], cell[:3], rtol=5e-4)
    # Without symmetry the other assignments are candidates as well.
    free = index_peaks(g, cell=[5.05, 5.05, 5.0, 90, 90, 90])
    assert len(free.candidates) >= 3


def test_supercell_and_subcell_are_named() -> None:
    small, large = [4.1, 5.3, 6.2, 90, 90, 90], [4.1, 5.3, 12.4, 90, 90, 90]
    group = symmetry.space_group("Pmmm")
    g, true = cloud(small, n=400)
    found = index_peaks(g, cell=large, group=group)
    assert "subcell: 1/2 of the volume" in found.relation
    np.testing.assert_allclose(found.cell, large, rtol=2e-3)
    g, true = cloud(large, n=400)
    found = index_peaks(g, cell=small, group=group, min_fraction=0.4)
    assert "supercell: 2 times the volume" in found.relation
    np.testing.assert_allclose(found.cell, small, rtol=2e-3)
    assert found.fraction == pytest.approx(0.5, abs=0.1)
    assert made.is_right(index_peaks(g).ub, group, true, "Pmmm")


def test_weak_superlattice_reflections_are_not_passed_over() -> None:
    # One reflection in six belongs to the doubled cell only.
    rng = np.random.default_rng(2)
    g, true = cloud([4.1, 5.3, 12.4, 90, 90, 90], n=900)
    odd = np.rint(g @ np.linalg.inv(true).T)[:, 2] % 2 != 0
    g = g[~odd | (rng.random(len(g)) < 0.2)]
    found = index_peaks(g)
    assert made.is_right(found.ub, symmetry.space_group("P1"), true, "P1")


def test_candidates_are_ranked_by_symmetry() -> None:
    g, _ = cloud([5.5, 7.9, 13.2, 90, 90, 90], "Immm")
    found = index_peaks(g)
    assert found.candidates[0].group.bravais == "oI"
    assert found.candidates[-1].group.bravais == "aP"
    np.testing.assert_allclose(np.sort(found.cell[:3]), [5.5, 7.9, 13.2], rtol=2e-3)
    monoclinic = index_peaks(g, group=symmetry.space_group("C2/c"))
    assert monoclinic.candidates[0].group.symbol == "C 1 2/c 1"
    hkl = monoclinic.hkl[monoclinic.indexed]
    assert np.all((hkl[:, 0] + hkl[:, 1]) % 2 == 0)
    with pytest.raises(HklflowError, match="F d -3 m :2 needs a lattice of type cF; the peaks"):
        index_peaks(g, group=symmetry.space_group("Fd-3m"))


def test_pseudo_cubic_is_not_taken_for_cubic() -> None:
    g, _ = cloud([5.51, 5.51, 7.82, 90, 90, 90], "I4/mcm")
    assert index_peaks(g).candidates[0].group.bravais == "tI"


def test_too_few_peaks() -> None:
    g, _ = cloud([5.0, 6.0, 8.0, 90, 97, 90], n=9)
    with pytest.raises(HklflowError, match=r"9 peaks are too few to index \(at least 15\)"):
        index_peaks(g)


def test_coplanar_peaks() -> None:
    g, ub = cloud([5.0, 6.0, 8.0, 90, 97, 90])
    flat = g @ np.linalg.inv(ub).T
    flat[:, 2] = 0
    with pytest.raises(HklflowError, match="300 peaks are coplanar"):
        index_peaks(flat @ ub.T)


def test_noise_is_no_lattice() -> None:
    g = np.random.default_rng(1).uniform(-8, 8, (300, 3))
    with pytest.raises(HklflowError, match=r"of 300 peaks|in 300 peaks"):
        index_peaks(g)
    with pytest.raises(HklflowError, match=r"of 300 peaks|in 300 peaks"):
        index_peaks(g, cell=[5.0, 6.0, 8.0, 90, 97, 90])


def test_another_lattice_is_told_with_both_cells() -> None:
    g, _ = cloud([5.0, 6.0, 8.0, 90, 97, 90])
    with pytest.raises(HklflowError, match=r"5\.0\d\d 6\.0\d\d .* not the expected 7\.100 7\.100"):
        index_peaks(g, cell=[7.1, 7.1, 7.1, 90, 90, 90])


def test_bad_arrays() -> None:
    with pytest.raises(HklflowError, match=r"\(n, 3\) finite"):
        index_peaks(np.zeros((20, 2)))
    with pytest.raises(HklflowError, match=r"\(n, 3\) finite"):
        index_peaks(np.full((20, 3), np.nan))


def test_vectors_that_no_peak_supports_stay_where_they_are() -> None:
    # s · t = 1/2 for the inner ones: every cosine is -1 and every weight 0.
    s = np.array([[0.5, 0.0, 0.0], [0.5, 0.1, 0.0], [0.5, 0.0, 0.1], [1.0, 0.0, 0.0]])
    assert np.isfinite(lattice_search._refined_vectors(np.array([[1.0, 0.0, 0.0]]), s)).all()


def test_peaks_that_are_all_far_from_the_origin_show_the_lattice_by_their_differences() -> None:
    """30° on an arm at 38°: the transform of the peaks has fringes, which hide the axis of 22 Å."""
    contact = draw(5130, "cbf sparse", "")
    rotations, peaks, _ = observed(contact, most=200)
    rotation, of_arm = rotations[0], peaks[0]
    g = rotation.q_crystal(of_arm.frame, of_arm.slow, of_arm.fast)
    assert np.linalg.norm(g, axis=1).min() > 7
    found = index_peaks(g, tolerance=0.25, cell_tolerance=0.03, min_fraction=0.5)
    assert found.indexed.all()
    basis = real_basis(found.ub)
    reduced, _ = symmetry.niggli(lattice.cell_from_metric(basis.T @ basis))
    true, _ = symmetry.niggli(contact.crystal.cell, symmetry.space_group(contact.crystal.group))
    assert reduced[:3] == pytest.approx(true[:3], rel=2e-3)


def test_peaks_without_near_neighbours_have_no_lattice_of_differences() -> None:
    """Forty random peaks that are many lattice rows apart: refused in a sentence."""
    rng = np.random.default_rng(4)
    g = rng.normal(size=(40, 3))
    g *= 60 / np.linalg.norm(g, axis=1)[:, None]
    with pytest.raises(HklflowError, match="too few to find a lattice"):
        lattice_search.lattice_of_differences(g, np.ones(len(g)), 0.25, [25.0, 50.0])
