"""The test of the space group: right ones pass, wrong ones are contradicted."""

import numpy as np
import pytest

from hklflow.bragg import absences
from hklflow.bragg.absences import Element, Extinctions
from hklflow.bragg.structure_factors import Scaled
from hklflow.geometry import lattice, symmetry

CUBIC = (7.0, 7.0, 7.0, 90.0, 90.0, 90.0)
ORTHO = (7.2, 8.3, 9.1, 90.0, 90.0, 90.0)
HEXAGONAL = (6.0, 6.0, 9.0, 90.0, 90.0, 120.0)


def observed(
    real: str,
    cell: tuple[float, ...] = ORTHO,
    level: float = 30.0,
    weak: float = 0.0,
    seed: int = 1,
) -> Scaled:
    """All reflections of a sphere, of intensity 0 ± 1 where the group forbids them.

    ``weak``: part of the intensities that forbidden ones have all the same.
    """
    rng = np.random.default_rng(seed)
    hkl = lattice.indices_within(cell, 2 * np.pi / 0.95)
    hkl = hkl[np.any(hkl != 0, axis=1)]
    group = symmetry.space_group(real)
    true = level * rng.exponential(size=len(hkl))
    true = np.where(group.is_absent(hkl), weak * true, true)
    n = len(hkl)
    ones, none = np.ones(n), np.zeros(n, np.int64)
    return Scaled(
        hkl=hkl,
        rotation=none,
        frame=ones,
        angle=ones,
        d=ones,
        intensity=true + rng.standard_normal(n),
        sigma=ones,
        sigma_counting=ones,
        scale=ones,
        flags=none,
    )


def element(found: Extinctions, name: str) -> Element:
    return next(e for e in found.elements if name in e.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("symbol", "cell"),
    [
        ("P 21 21 21", ORTHO),
        ("P n m a", ORTHO),
        ("P b c a", ORTHO),
        ("C m c m", ORTHO),
        ("F d d 2", ORTHO),
        ("P 41 21 2", (7, 7, 9, 90, 90, 90)),
        ("I 41/a m d :2", (7, 7, 9, 90, 90, 90)),
        ("P 31 2 1", HEXAGONAL),
        ("P 61 2 2", HEXAGONAL),
        ("P 63/m m c", HEXAGONAL),
        ("R -3 c :H", HEXAGONAL),
        ("P a -3", CUBIC),
        ("F d -3 m :2", CUBIC),
        ("I a -3 d", CUBIC),
        ("P 1 21/c 1", (7, 8, 9, 90, 100, 90)),
        ("P 1 21/n 1", (7, 8, 9, 90, 100, 90)),
        ("P -1", (7, 8, 9, 80, 100, 95)),
    ],
)
def test_right_group_is_the_best(symbol: str, cell: tuple[float, ...]) -> None:
    group = symmetry.space_group(symbol)
    found = absences.examine(observed(symbol, cell), group)
    assert not found.warnings
    assert group.symbol.split(" :")[0] in found.compatible[0].symbols
    for candidate in found.compatible:
        # Only groups that forbid less, or the same.
        other = symmetry.space_group(candidate.symbols[0])
        hkl = lattice.indices_within(cell, 2 * np.pi / 1.2)
        assert not np.any(other.is_absent(hkl) & ~group.is_absent(hkl))
    forbidden = [e for e in found.elements if e.given]
    assert all(e.verdict == "fulfilled" for e in forbidden)


@pytest.mark.parametrize(
    ("given", "real", "named", "cell"),
    [
        ("P 21 21 21", "P 21 21 2", "2_1 axis along [0 0 1]", ORTHO),
        ("P n m a", "P m m a", "n plane normal to [1 0 0]", ORTHO),
        ("P 1 21/c 1", "P 1 21/n 1", "c plane normal to [0 1 0]", (7, 8, 9, 90, 100, 90)),
        ("P 61 2 2", "P 63 2 2", "6_1 axis along [0 0 1]", HEXAGONAL),
        ("F d -3 m :2", "F m -3 m", "d plane normal to [0 0 1]", CUBIC),
        ("I m m m", "P m m m", "centring I", ORTHO),
    ],
)
def test_wrong_group_is_contradicted(
    given: str, real: str, named: str, cell: tuple[float, ...]
) -> None:
    group = symmetry.space_group(given)
    found = absences.examine(observed(real, cell), group)
    wrong = element(found, named)
    assert wrong.verdict == "violated"
    assert wrong.given
    assert wrong.mean > 10 * wrong.mean_error
    assert wrong.above > 0.2
    assert any(named in text and "contradicted" in text for text in found.warnings)
    if "centring" not in named:
        right = symmetry.space_group(real).symbol.split(" :")[0]
        assert right in found.compatible[0].symbols
        assert all(group.symbol.split(" :")[0] not in c.symbols for c in found.compatible)


def test_group_that_explains_too_little() -> None:
    found = absences.examine(observed("P n m a"), symmetry.space_group("P m m m"))
    assert "P n m a" in found.compatible[0].symbols
    assert "does not explain" in found.warnings[0]
    assert "P n m a" in found.warnings[0]


def test_cell_that_is_too_large() -> None:
    found = absences.examine(observed("I m m m"), symmetry.space_group("P m m m"))
    assert element(found, "centring I").verdict == "fulfilled"
    assert any("centring I would forbid" in text for text in found.warnings)


def test_multiple_scattering_is_not_a_contradiction() -> None:
    group = symmetry.space_group("P n m a")
    found = absences.examine(observed("P n m a", level=2000.0, weak=0.002), group)
    assert element(found, "n plane normal to [1 0 0]").verdict == "weak"
    assert "multiple scattering" in found.warnings[0]
    assert not any("contradicted" in text for text in found.warnings)
    assert "P n m a" in [s for c in found.compatible for s in c.symbols]


def test_outliers_are_not_a_contradiction() -> None:
    table = observed("P n m a")
    rng = np.random.default_rng(2)
    table.intensity[rng.random(len(table)) < 0.03] += 40.0
    found = absences.examine(table, symmetry.space_group("P n m a"))
    assert {e.name: e.verdict for e in found.elements if e.given} == dict.fromkeys(
        (
            "n plane normal to [1 0 0]",
            "a plane normal to [0 0 1]",
            "2_1 axis along [1 0 0]",
            "2_1 axis along [0 1 0]",
            "2_1 axis along [0 0 1]",
        ),
        "fulfilled",
    )
    assert found.warnings == ()


def test_what_was_not_measured_is_not_judged() -> None:
    table = observed("P 21 21 21")
    table = table.select(np.all(table.hkl != 0, axis=1))
    found = absences.examine(table, symmetry.space_group("P 21 21 21"))
    assert element(found, "2_1 axis along [0 0 1]").verdict == "not tested"
    assert not found.warnings
    noise = observed("P 21 21 21", level=0.0)
    found = absences.examine(noise, symmetry.space_group("P 21 21 21"))
    assert {e.verdict for e in found.elements if e.given} == {"not tested"}
