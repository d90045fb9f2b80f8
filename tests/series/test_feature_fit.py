"""Copies and fits of diffuse features: symmetry, and worlds that others wrote."""

import numpy as np
import pytest

from hklflow.geometry.grid import Grid
from hklflow.geometry.symmetry import space_group
from hklflow.series import feature_copies, feature_voxels
from hklflow.series.feature_copies import Feature
from hklflow.series.features import Lattice
from hklflow.volumes.planes import metric_of
from tests.truth import feature_series, feature_worlds

C_STAR = np.array([0.0, 0.0, 1.0])


def lattice_of(symbol: str, cell: list[float]) -> Lattice:
    group = space_group(symbol)
    metric = metric_of(np.array(cell), direct=False)
    return Lattice(metric, group.laue_operations, group.crystal_system, group.centring)


TETRAGONAL = lattice_of("P 4/m m m", [4, 4, 6, 90, 90, 90])
HEXAGONAL = lattice_of("P 6/m m m", [4, 4, 6, 90, 90, 120])


@pytest.mark.parametrize(
    ("lattice", "point", "direction", "names", "moves"),
    [
        (TETRAGONAL, (0.5, 0.5, 0), C_STAR, ("a*, b*",), 0),
        (TETRAGONAL, (0.5, 0, 0), C_STAR, ("a*", "b*"), 0),
        (TETRAGONAL, (0.3, 0, 0), C_STAR, ("a*", "b*"), 1),
        (TETRAGONAL, (0.3, 0.1, 0.2), None, ("a*", "b*", "c*"), 3),
        (HEXAGONAL, (1 / 3, 1 / 3, 0), C_STAR, ("a*, b*",), 0),
    ],
)
def test_symmetry_ties_widths_and_fixes_positions(
    lattice: Lattice,
    point: tuple[float, float, float],
    direction: np.ndarray | None,
    names: tuple[str, ...],
    moves: int,
) -> None:
    shape = "point" if direction is None else "rod"
    axes = feature_copies.axes_of(
        Feature("x", shape, np.array(point), direction, False, 0.25), lattice
    )
    assert axes.names == names
    assert axes.shifts.shape[1] == moves


def test_each_voxel_is_in_one_copy_and_equal_copies_are_fitted_once() -> None:
    grid = Grid.symmetric([1.0, 1.0, 1.0], [0.1, 0.1, 0.1])
    feature = Feature("x", "rod", np.array([0.5, 0, 0.0]), C_STAR, False, 0.25)
    every = feature_copies.copies(feature, grid, TETRAGONAL, lambda hkl: np.full(len(hkl), 9.0))
    taken = np.zeros(grid.array_shape, int)
    for copy in every:
        taken[copy.region] += copy.inside
    assert taken.max() == 1
    # (±1/2, 0 ±1) and (0 ±1, ±1/2): 6 + 6 rods; pieces at l = -1, -1/2 ... 1.
    assert len(every) == 12 * 5
    once = feature_voxels.distinct(every, TETRAGONAL.operations)
    assert {tuple(np.sort(np.abs(x.centre[:2])).tolist()) for x in once} == {(0, 0.5), (0.5, 1)}
    assert len(once) == 2 * 3


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        pytest.param("rod", 6, marks=pytest.mark.slow),
        ("sheet", 0),
        pytest.param("point", 4, marks=pytest.mark.slow),
    ],
)
def test_intervals_contain_the_correlation_lengths(kind: str, seed: int) -> None:
    series = feature_worlds.series(seed, kind)
    axes, fits = feature_series.fitted(series, [0])
    assert fits[0].seen
    for number, xi in enumerate(fits[0].xi):
        axis = int(np.argmax(np.abs(axes.columns[:, axes.first_of(number)])))
        # One and a half times the interval of 95 %: none of a few may be outside.
        low, high = (xi.value * (end / xi.value) ** 1.5 for end in xi.outer)
        assert low < series.truth[0].xi[axis] < high
        assert xi.inner[1] < 2.5 * xi.inner[0]
