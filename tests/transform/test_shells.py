"""`transform.shells`: voxels by shell against |Q| from the vectors of a skewed cell."""

import numpy as np

from hklflow.geometry.grid import Grid
from hklflow.geometry.lattice import reciprocal
from hklflow.transform.shells import Shells


def test_voxels_are_counted_by_their_distance() -> None:
    cell = np.array([4.0, 5.0, 7.0, 80.0, 95.0, 112.0])
    grid = Grid.symmetric([2.0, 1.5, 3.0], [0.1, 0.15, 0.2])
    rng = np.random.default_rng(1)
    norm = rng.random(grid.array_shape) * (rng.random(grid.array_shape) < 0.4)
    shells = Shells(grid, cell, 40)
    for first in (0, 16):
        shells.add(first, norm[first : first + 16])
    # The reciprocal vectors, along x, in the xy plane, and the third from its cosines.
    (a, b, c), (alpha, beta, gamma) = np.split(reciprocal(cell), 2)
    ca, cb, cg = np.cos(np.radians([alpha, beta, gamma]))
    sg = np.sin(np.radians(gamma))
    y = (ca - cb * cg) / sg
    vectors = np.array(
        [[a, 0, 0], [b * cg, b * sg, 0], [c * cb, c * y, c * np.sqrt(1 - cb**2 - y**2)]]
    )
    l, k, h = np.meshgrid(*(grid.axis(i) for i in (2, 1, 0)), indexing="ij")  # noqa: E741
    q = np.linalg.norm(np.stack([h, k, l], axis=-1) @ vectors, axis=-1)
    assert q.max() < shells.edges[-1]
    assert shells.edges[0] == 0
    np.testing.assert_array_equal(shells.inside, np.histogram(q, shells.edges)[0])
    np.testing.assert_array_equal(shells.seen, np.histogram(q[norm > 0], shells.edges)[0])
    assert shells.inside.sum() == norm.size


def test_lines_and_points_are_grids_too() -> None:
    cell = np.array([2 * np.pi, 4.0, 4.0, 90.0, 90.0, 90.0])
    line = Shells(Grid(np.array([-2.0, 0, 0]), np.ones(3), (5, 1, 1)), cell, 4)
    line.add(0, np.array([[[0, 0, 1.0, 1, 1]]]))
    # |Q| is |h| 1/Å; the last edge, 2, belongs to the last shell as in `numpy.histogram`.
    assert line.inside.tolist() == [1, 0, 2, 2]
    assert line.seen.tolist() == [1, 0, 1, 1]
    point = Shells(Grid(np.zeros(3), np.ones(3), (1, 1, 1)), cell, 4)
    point.add(0, np.ones((1, 1, 1)))
    assert point.inside.tolist() == point.seen.tolist() == [1, 0, 0, 0]
