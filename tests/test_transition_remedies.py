"""The remedy that the gates propose at a transition, pasted and run, gives the true lattice."""

import re
from fractions import Fraction
from pathlib import Path

import gemmi
import numpy as np
import pytest

from hklflow.geometry import lattice, symmetry
from hklflow.orientation.satellites import satellites
from hklflow.orientation.superlattice import superlattice
from hklflow.quality import gates
from tests.truth.transitions import Outcome, transformed, tried

# `python -m tests.truth.transitions` tries all kinds.
KINDS = (
    "doubling-ab-shear",
    "hexagonal-doubling-strain",
    "cubic-Pnma",
    "iron-arsenide",
    "tripling-strain",
)


def outcome(kind: str, folder: Path, seed: int = 1) -> Outcome:
    found = tried(transformed(kind, seed), folder)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_remedy_indexes_the_child_with_its_true_lattice(kind: str, tmp_path: Path) -> None:
    found = outcome(kind, tmp_path)
    assert found.wrong == ""
    assert "refine_parent" in found.remedy


@pytest.mark.slow
def test_incommensurate_satellites_get_no_cell(tmp_path: Path) -> None:
    child = transformed("incommensurate", 1)
    found = tried(child, tmp_path)
    assert found is not None
    assert found.wrong == ""
    assert list(found.remedy) == ["accept"]
    assert "incommensurate: no cell indexes them" in found.sentences
    told = re.search(r"the satellites at \(0, 0, (0\.\d+)\((\d+)\)\)", found.sentences)
    assert told is not None
    digits = len(told[1]) - 2
    (effect,) = child.effects
    assert abs(float(told[1]) - effect["q"][2]) < 5 * int(told[2]) * 10.0**-digits


@pytest.mark.slow
def test_with_a_broken_cell_they_are_left_out_of_the_new_parent(tmp_path: Path) -> None:
    # The lattice of the main reflections is not found from nothing: there are too many others.
    found = outcome("incommensurate-strain", tmp_path)
    assert found.wrong == ""
    assert found.remedy["orientation"] == {"start": "b_start.json"}
    assert set(found.remedy["refine_parent"]) == {
        "space_group",
        "cell",
        "min_indexed",
        "hkl_tolerance",
    }


# ------------------------------------------------------------------------ lattices


GRID = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3), -1).reshape(-1, 3).astype(float)


def reduced(cell: np.ndarray, centring: str) -> np.ndarray:
    """Niggli-reduced cell, by gemmi."""
    vector = gemmi.GruberVector(gemmi.UnitCell(*cell), centring)
    vector.niggli_reduce()
    return np.array(vector.cell_parameters())


CELLS = {
    "P 4/m m m": (4, 4, 5, 90, 90, 90),
    "P m -3 m": (4, 4, 4, 90, 90, 90),
    "P 6/m m m": (4, 4, 5, 90, 90, 120),
    "I 4/m m m": (4, 4, 9, 90, 90, 90),
}
SHEARED = (4, 4, 5, 90, 90, 90.8)


@pytest.mark.parametrize(
    ("symbol", "cell", "vectors", "direct", "laue"),
    [
        # One arm of two: the other axis keeps its length. Then both.
        ("P 4/m m m", None, ["1/2 0 0"], "2 0 0 0 1 0 0 0 1", "mmm"),
        ("P 4/m m m", None, ["1/2 0 0", "0 1/2 0"], "2 0 0 0 2 0 0 0 1", "4/mmm"),
        ("P m -3 m", None, ["1/2 1/2 1/2"], "1 1 0 1 0 1 0 1 1", "m-3m"),
        ("P 6/m m m", None, ["1/3 1/3 0"], "2 1 0 1 2 0 0 0 1", "6/mmm"),
        # The lost centring of a body-centred lattice: hkl is an integer.
        ("I 4/m m m", None, ["1 0 0"], "1 0 0 0 1 0 0 0 1", "4/mmm"),
        # An orthorhombic strain along the diagonals, with a doubling along c and in the plane.
        ("P 4/m m m", SHEARED, ["0 0 1/2"], "1 0 0 0 1 0 0 0 2", "mmm"),
        ("P 4/m m m", SHEARED, ["1/2 1/2 0"], "1 1 0 -1 1 0 0 0 1", "mmm"),
    ],
)
def test_a_superlattice_has_the_cell_of_its_direct_lattice(
    symbol: str,
    cell: tuple[float, ...] | None,
    vectors: list[str],
    direct: str,
    laue: str,
) -> None:
    group = symmetry.space_group(symbol)
    allowed = GRID[~group.is_absent(GRID)]
    fractions = [[Fraction(x) for x in vector.split()] for vector in vectors]
    new = np.vstack([allowed + np.array(q, dtype=float) for q in fractions])
    times = [max(q[i].denominator for q in fractions) for i in range(3)]
    loose = np.array(CELLS[symbol] if cell is None else cell, dtype=float)

    def obeys(operations: np.ndarray) -> bool:
        metric = np.linalg.inv(lattice.metric(loose))
        return all(np.allclose(w.T @ metric @ w, metric, rtol=1e-5, atol=1e-6) for w in operations)

    found = superlattice(new, group, times, 0.0, loose, obeys)
    assert found is not None
    own = symmetry.space_group(found["space_group"])
    assert own.laue == laue
    basis = np.array(direct.split(), dtype=float).reshape(3, 3)
    truth = lattice.cell_from_metric(basis @ lattice.metric(loose) @ basis.T)
    np.testing.assert_allclose(
        reduced(found["cell"], own.centring), reduced(truth, "P"), rtol=1e-4, atol=1e-3
    )


def test_peaks_by_chance_make_no_superlattice() -> None:
    group = symmetry.space_group("P m m m")
    half = np.array([0.5, 0, 0])
    few = GRID[:3] + half
    args = ([2, 1, 1], 0.0, np.array([4.0, 5, 6, 90, 90, 90]), lambda _: True)
    assert superlattice(few, group, *args) is None
    assert superlattice(GRID[:40] + half, group, *args) is not None


# ------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("q", [0.295, 0.355, 0.419, 0.139])
@pytest.mark.parametrize("noise", [0.003, 0.008])
def test_a_vector_beside_a_rational_one_is_incommensurate(q: float, noise: float) -> None:
    rng = np.random.default_rng(3)
    group = symmetry.space_group("P 4/m m m")
    some = GRID[rng.permutation(len(GRID))[:200]]
    shift = np.array([0, 0, q])
    miller = np.vstack([some[:100] + shift, some[100:] - shift])
    rational, others = satellites(miller + rng.normal(0, noise, miller.shape), group)
    assert rational == []
    (found,) = others
    np.testing.assert_allclose(found["vector"][:2], 0, atol=1e-9)
    assert abs(found["vector"][2] - q) < 5 * found["sigma"][2]
    assert found["sigma"][2] == pytest.approx(noise / np.sqrt(200), rel=0.3)
    assert found["arms"] == 2


@pytest.mark.parametrize("q", [(0, 0, 1 / 3), (0.5, 0.5, 0), (0, 0, 0.25), (1 / 3, 1 / 3, 0.5)])
@pytest.mark.parametrize("noise", [0.003, 0.015])
def test_a_rational_vector_with_noise_is_rational(q: tuple[float, ...], noise: float) -> None:
    group = symmetry.space_group("P 6/m m m" if q[0] == 1 / 3 else "P 4/m m m")
    for seed in range(10):
        rng = np.random.default_rng(seed)
        some = GRID[rng.permutation(len(GRID))[:60]]
        miller = some + np.where(np.arange(60)[:, None] % 2, 1, -1) * np.array(q)
        rational, others = satellites(miller + rng.normal(0, noise, miller.shape), group)
        assert others == []
        assert len(rational) == 1
        assert sorted(np.abs(rational[0]["vector"])) == pytest.approx(sorted(q))


@pytest.mark.slow
def test_peaks_at_random_are_on_no_vector() -> None:
    group = symmetry.space_group("P m -3 m")
    for seed in range(6):
        miller = np.random.default_rng(seed).uniform(-6, 6, (120, 3))
        miller = miller[np.abs(miller - np.rint(miller)).max(axis=1) > 0.1]
        assert satellites(miller, group) == ([], [])


def test_an_incommensurate_vector_is_written_with_its_uncertainty() -> None:
    assert gates.vector_text([0.0, 0.5, 0.28761], [0.0, 0.0, 0.00042]) == "(0, 1/2, 0.2876(4))"
    assert gates.vector_text([0.28761, 0.0, 0.0], [0.00114, 0.0, 0.0]) == "(0.2876(11), 0, 0)"
