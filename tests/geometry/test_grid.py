"""Grids of reciprocal space: those whose volumes no machine holds are refused."""

import pytest

from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import MOST_VOXELS, Grid


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
