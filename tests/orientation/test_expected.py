"""The setting of a primitive lattice follows from its systematic absences."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hklflow.geometry.symmetry import space_group
from hklflow.orientation.expected import settings_by_absences

# CaTiO3 on the axes of P b n m; in P n m a its axes are b, c, a.
PBNM = (5.38, 5.44, 7.64, 90.0, 90.0, 90.0)
PNMA = (5.44, 7.64, 5.38, 90.0, 90.0, 90.0)


def reflections(seed: int, n: int, absent: int) -> NDArray[np.int64]:
    """Return reflections that P b n m allows (International Tables A, 62), and some others."""
    hkl = np.random.default_rng(seed).integers(-7, 8, (40 * n, 3))
    h, k, l = hkl.T  # noqa: E741
    forbidden = ((h == 0) & (k % 2 != 0)) | ((k == 0) & ((h + l) % 2 != 0))
    on_axes = np.concatenate([hkl[~forbidden][:n], hkl[forbidden][:absent]])
    return np.asarray(on_axes, dtype=np.int64)


@pytest.mark.parametrize("absent", [0, 3])
def test_the_setting_of_an_orthorhombic_perovskite(absent: int) -> None:
    hkl = reflections(1, 400, absent)
    ((symbol, cell, number),) = settings_by_absences(PBNM, hkl, space_group("P n m a"))
    assert (symbol, number) == ("P b n m", absent)
    np.testing.assert_allclose(cell, PNMA, rtol=1e-6)
    # On its own axes, nothing is proposed, though a few reflections are forbidden.
    assert settings_by_absences(PBNM, hkl, space_group("P b n m")) == []


def test_a_wrong_space_group_or_few_peaks_are_no_other_setting() -> None:
    none = np.random.default_rng(2).integers(-7, 8, (400, 3))
    assert settings_by_absences(PBNM, none, space_group("P n m a")) == []
    assert settings_by_absences(PBNM, reflections(1, 10, 0), space_group("P n m a")) == []


# P 1 21/n 1 forbids h0l with odd h + l, P 1 21/c 1 with odd l (International Tables A, 14).
ZONE = [[1, 0, 3], [3, 0, 1], [5, 0, -1], [2, 0, 2]]


@pytest.mark.parametrize(
    ("zone", "symbols"),
    [
        (ZONE, ["P 1 21/n 1"]),
        (ZONE[1:], []),
        ([[1, 0, 3], [-1, 0, -3], [3, 0, 1], [-3, 0, -1]], []),  # two, with their mates
        ([*ZONE, [1, 0, 2]], []),  # allowed by the stated setting only
    ],
)
def test_three_reflections_of_a_zone_decide_on_its_glide_plane(
    zone: list[list[int]], symbols: list[str]
) -> None:
    hkl = np.random.default_rng(3).integers(1, 8, (300, 3))
    hkl = np.concatenate([hkl, np.array(zone)])
    cell = (6.1, 7.3, 9.2, 90.0, 98.0, 90.0)
    fits = settings_by_absences(cell, hkl, space_group("P 1 21/c 1"))
    assert [(symbol, absent) for symbol, _, absent in fits] == [(s, 0) for s in symbols]
