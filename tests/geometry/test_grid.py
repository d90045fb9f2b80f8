"""Grids of reciprocal space: those whose volumes no machine holds are refused."""

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import (
    MOST_VOXELS,
    SENSIBLE_VOXELS,
    STEPS,
    Grid,
    chosen_step,
    coarser,
    extents,
)


@pytest.mark.parametrize("half", [2000, 2900, 3000])
def test_a_grid_has_only_so_many_voxels(half: int) -> None:
    limits = (half * 1e-3,) * 3
    ranges = [(-half * 1e-3, half * 1e-3)] * 3
    if (2 * half + 1) ** 3 <= MOST_VOXELS:
        assert Grid.symmetric(limits, 1e-3).shape == (2 * half + 1,) * 3
        assert Grid.within(ranges, 1e-3).shape == (2 * half + 1,) * 3
        return
    for make in (
        lambda: Grid.symmetric(limits, 1e-3),
        lambda: Grid.within(ranges, 1e-3),
        lambda: Grid.covering((6.2832,) * 3, half * 1e-3, 1e-3),
    ):
        with pytest.raises(HklflowError, match=r"too large for any machine .* coarser `grid_step`"):
            make()


@pytest.mark.parametrize(
    ("cell", "q_max", "step"),
    [
        ((5.43,) * 3, 15.0, 0.05),  # silicon: 519³ voxels
        # 99.2 x 99.2 x 60.06 Å to 3.925 1/Å: 2479 x 2479 x 1501 voxels of 0.05 take 618 GB
        ((99.2, 99.2, 60.06), 3.925, 0.25),
        ((1000.0,) * 3, 10.0, 1.0),
    ],
)
def test_a_step_is_chosen_that_keeps_volumes_sensible(
    cell: tuple[float, ...], q_max: float, step: float
) -> None:
    spans = extents(cell, q_max)
    assert chosen_step(spans) == step
    assert bool(coarser(step, spans)) == (step > 0.05)
    # hkl 0 0 1 and 1 1 0 are voxel centres.
    grid = Grid.covering((5.43,) * 3, 3.0, chosen_step(spans))
    assert 1.0 in grid.axis(0)
    sizes = [np.prod(spans / one + 1) for one in STEPS]
    index = STEPS.index(step)
    assert sizes[index] <= SENSIBLE_VOXELS or index == len(STEPS) - 1
    assert not index or sizes[index - 1] > SENSIBLE_VOXELS
