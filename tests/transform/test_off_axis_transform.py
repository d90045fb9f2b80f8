"""A crystal off the rotation axis: pixels go to the voxels that their rays tell.

The truth is plain numpy: the ray begins at the place of the crystal, which rotates with the scan.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Turn

from hklflow import geometry
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.grid import Grid
from hklflow.geometry.off_axis import effect
from hklflow.transform import repeats
from hklflow.transform.binning import Accumulator
from hklflow.volumes.symmetrise import images

Floats = NDArray[np.float64]
SHAPE, PIXEL, N, WAVELENGTH = (60, 64), 1.5e-3, 60, 0.7
AXIS = Turn.from_euler("zy", (12, 7), degrees=True).apply((1.0, 0.0, 0.0))
UB = Turn.from_rotvec((0.4, -0.7, 1.1)).as_matrix() @ lattice.b_matrix((5, 6, 7, 80, 95, 102))
GRID = Grid.covering((5, 6, 7, 80, 95, 102), 6.0, 0.1)
OFFSET = np.cross(AXIS, (0.2, 0.5, -0.8)) * 2e-3  # m


def rotation(distance: float = 0.15) -> geometry.Rotation:
    return geometry.Rotation(
        geometry.Beam(WAVELENGTH),
        geometry.Detector(
            SHAPE, (PIXEL, PIXEL), np.array([-0.045, 0.04, distance]), (0, -1, 0), (1, 0, 0)
        ),
        geometry.Goniometer.single(AXIS),
        geometry.Scan(0.1, np.radians(3.0), N),
    )


def hkl(offset: Floats, distance: float = 0.15) -> Floats:
    """Return hkl (frame, slow, fast, 3) of rays from the place of the crystal, and its rotation."""
    slow, fast = np.indices(SHAPE) + 0.5
    pixel = np.stack(
        [-0.045 + PIXEL * fast, 0.04 - PIXEL * slow, np.full(SHAPE, distance)], axis=-1
    )
    found = []
    for z in range(N):
        turn = Turn.from_rotvec(AXIS * (0.1 + np.radians(3.0) * (z + 0.5))).as_matrix()
        ray = pixel - turn @ offset
        out = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
        found.append(2 * np.pi / WAVELENGTH * (out - (0, 0, 1)) @ np.linalg.inv(turn @ UB).T)
    return np.array(found)


def away(true: Floats, dtype: Any, offset: Floats | None) -> Floats:
    """Return how far the mean hkl of the pixels of a voxel is from its middle, in voxels."""
    result = []
    for axis in range(3):
        values = 1000 * (true[..., axis] - true.min())  # 100 counts for a voxel
        sums = Accumulator(rotation(), UB, GRID, np.ones(SHAPE), np.ones(N), offset=offset)
        sums.add(np.rint(values).astype(dtype), 0)
        counts, norm = (np.moveaxis(x, (0, 1, 2), (2, 1, 0)) for x in sums.total())
        index = np.nonzero(norm)
        mean = counts[index] / norm[index] / 1000 + true.min()
        middle = GRID.first[axis] + GRID.step[axis] * index[axis]
        result.append((mean - middle) / GRID.step[axis])
    return np.array(result)


@pytest.mark.parametrize("dtype", [np.uint32, np.float64])
def test_pixels_are_in_the_voxels_of_their_rays(dtype: Any) -> None:
    """Both loops. A mean over pixels of a voxel is within it, but for what is left (5 %)."""
    true = hkl(OFFSET)
    shift, left = effect(rotation(), UB, GRID, OFFSET)
    # The largest shift by plain numpy, at pixel centres and frames alone.
    largest = np.abs((true - hkl(np.zeros(3))) / GRID.step).max()
    assert shift == pytest.approx(largest, rel=0.05)
    assert 0.3 < shift < 1
    assert left < 0.15 * shift
    off = np.abs(away(true, dtype, OFFSET))
    assert off.max() < 0.5 + left + 0.02  # 0.005 by rounding to counts
    without = np.abs(away(true, dtype, None))
    assert without.max() > 0.5 + 0.8 * shift
    assert np.mean(without > 0.55) > 0.05
    assert np.mean(off > 0.55) < 1e-3


def test_the_sums_of_repeats_are_the_same() -> None:
    """Also where refine_scale sums the frames; all pixels and frames have another count."""
    maps = images(GRID, symmetry.space_group("P -1").laue_operations)
    orbits = repeats.orbits(GRID, maps.turns, maps.shifts, 0, 1)
    frames = np.random.default_rng(1).integers(1, 1000, (3, *SHAPE)).astype(np.uint32)
    whole = Accumulator(rotation(), UB, GRID, np.ones(SHAPE), np.ones(N), offset=OFFSET)
    whole.add(frames, 0)
    own = repeats.Repeats(
        rotation(), 0, UB, GRID, orbits, np.ones(SHAPE), np.ones(N), offset=OFFSET
    )
    for z in range(3):
        own.add(frames[z : z + 1], z)
    records = own.records()
    counts = np.bincount(records.voxel, records.counts, minlength=np.prod(GRID.shape))
    np.testing.assert_array_equal(counts, whole.total()[0].ravel())
