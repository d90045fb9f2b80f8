"""`volumes.fill`, `volumes.kriging`: known fields, error bars, symmetry, edges, overlaps."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage
from tests.truth.defaults import bragg_positions

from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.geometry.symmetry import space_group
from hklflow.volumes import control, fill, punch
from hklflow.volumes.fill_kernels import connected

CUBIC = np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0])
SKEWED = np.array([4.0, 5.0, 5.5, 80.0, 95.0, 112.0])
NONE = np.eye(3, dtype=np.int64)[None]
Q_MAX = 4.0  # 1/Å: control holes may lie anywhere in the grids


def target(
    truth: np.ndarray, noise: float, grid: Grid, cell: np.ndarray, radius: float, seed: int = 0
) -> fill.Target:
    """Truth with noise, and Bragg reflections where it is punched."""
    rng = np.random.default_rng(seed)
    data = (truth + noise * rng.normal(size=truth.shape)).astype(np.float32)
    code = np.zeros(data.shape, np.uint8)
    hkl = bragg_positions(grid, cell, space_group("P 1"), radius)
    punch.punch(code, grid, cell, hkl, radius)
    data[code == 1] += 1000
    errors = np.full(data.shape, max(noise, 1e-4), np.float32)
    return fill.Target(data, errors, code, grid, cell, NONE)


def mesh(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    l, k, h = np.meshgrid(*(grid.axis(i) for i in (2, 1, 0)), indexing="ij")  # noqa: E741
    return h, k, l


@pytest.mark.slow
@pytest.mark.parametrize("cell", [CUBIC, SKEWED])
@pytest.mark.parametrize("model", [name for name in fill.MODELS if "linear" in name])
def test_linear_functions_are_filled_exactly(cell: np.ndarray, model: str) -> None:
    grid = Grid.symmetric([1.3, 1.3, 1.3], [0.1, 0.1, 0.12])
    h, k, l = mesh(grid)  # noqa: E741
    truth = 50 + 3 * h - 7 * k + 2 * l
    own = target(truth, 0.0, grid, cell, 0.35)
    rng = np.random.default_rng(0)
    # Here and there nothing was measured.
    missing = (rng.random(truth.shape) < 0.02) & (own.code == 0)
    own.code[missing] = fill.UNMEASURED
    own.data[missing] = np.nan
    before = own.data.copy(), own.errors.copy()
    fill.fill(own, model)
    assert (own.code == 1).any()
    np.testing.assert_allclose(own.data, truth, atol=2e-3)
    measured = own.code == 0
    # What was measured is the same to the bit.
    for now, then in zip((own.data, own.errors), before, strict=True):
        np.testing.assert_array_equal(now[measured].view(np.int32), then[measured].view(np.int32))


@pytest.fixture(scope="module")
def waves() -> tuple[fill.Target, np.ndarray, fill.Target]:
    """Filled waves with noise, the truth, and the same before."""
    grid = Grid.symmetric([1.68, 1.68, 1.68], [0.07, 0.07, 0.07])
    h, k, l = mesh(grid)  # noqa: E741
    truth = 20 + 4 * np.cos(2 * np.pi * (h + 0.3 * k) / 1.1) + 5 * np.cos(2 * np.pi * l / 1.3)
    own, before = (target(truth, 1.0, grid, CUBIC, 0.25) for _ in range(2))
    fill.fill(own)
    return own, truth, before


def test_fill_is_closer_than_the_noise_and_knows_how_close(
    waves: tuple[fill.Target, np.ndarray, fill.Target],
) -> None:
    own, truth, _ = waves
    filled = own.code == 1
    residual = (own.data - truth)[filled]
    assert np.isfinite(residual).all()
    assert residual.std() < 0.6
    pulls = residual / own.errors[filled]
    assert 0.8 < np.sqrt(np.mean(pulls**2)) < 1.25
    assert abs(pulls.mean()) < 0.3


def test_control_holes_tell_the_error_of_the_fill(
    waves: tuple[fill.Target, np.ndarray, fill.Target],
) -> None:
    own, truth, before = waves
    holes = fill.find_holes(before, np.flatnonzero(before.code))
    found = control.controls(before, holes, Q_MAX)
    residual = (own.data - truth)[own.code == 1]
    assert found[fill.BEST].rms == pytest.approx(np.sqrt(np.mean(residual**2)), rel=0.35)
    assert 0.9 < found[fill.BEST].pull < 1.1
    assert found["laplace"].rms > 1.5 * found[fill.BEST].rms
    assert control.best_of(found, fill.BEST) in fill.MODELS


@pytest.mark.slow
def test_holes_at_edges_and_overlapping_ones_are_filled() -> None:
    grid = Grid.symmetric([1.05, 1.12, 0.77], [0.07, 0.07, 0.07])
    h, k, l = mesh(grid)  # noqa: E741
    truth = 30 + 5 * np.sin(2 * h) + 4 * np.cos(1.5 * k + l)
    own = target(truth, 0.5, grid, SKEWED, 0.3)
    # Satellites that touch their reflections, and others.
    near = punch.satellite_positions(grid, SKEWED, space_group("P 1"), 0.2, [[0.27, 0, 0]], 1, NONE)
    punch.punch(own.code, grid, SKEWED, near, 0.2)
    assert own.code[:, :, 0].any()
    told = fill.fill(own)
    filled = own.code == 1
    residual = (own.data - truth)[filled]
    assert told["voxels by shell"] == 0
    assert np.isfinite(residual).all()
    assert np.sqrt(np.mean(residual**2)) < 0.5
    edge = filled & ((abs(h) > 0.95) | (abs(k) > 1.0))
    pulls = ((own.data - truth) / own.errors)[edge]
    assert np.sqrt(np.mean(pulls**2)) < 1.5


@pytest.mark.slow
def test_large_regions_take_the_level_of_their_shell() -> None:
    grid = Grid.symmetric([2.0] * 3, [0.08] * 3)
    h, k, l = mesh(grid)  # noqa: E741
    q = np.linalg.norm(np.stack([h, k, l]), axis=0) * 2 * np.pi / 5
    truth = 10 + 40 * np.exp(-(q**2))
    own = target(truth, 0.5, grid, CUBIC, 0.2)
    wedge = (h > 0.2) & (abs(k) < 0.7 * h)
    own.code[wedge] = fill.UNMEASURED
    own.data[wedge] = own.errors[wedge] = np.nan
    told = fill.fill(own)
    assert told["voxels by shell"] > 3000
    pulls = ((own.data - truth) / own.errors)[wedge]
    assert np.isfinite(pulls).all()
    assert np.sqrt(np.mean(pulls**2)) < 1.6
    assert np.abs(own.data - truth)[wedge].max() < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("symbol", "cell"),
    [
        ("P m -3 m", CUBIC),
        ("P 6/m", np.array([5.0, 5.0, 6.0, 90.0, 90.0, 120.0])),
        ("P 1 2/m 1", np.array([5.0, 5.5, 6.0, 90.0, 103.0, 90.0])),
    ],
)
def test_symmetric_volumes_stay_symmetric(symbol: str, cell: np.ndarray) -> None:
    operations = space_group(symbol).laue_operations
    grid = Grid.symmetric([1.4] * 3, [0.08] * 3)
    h, k, l = mesh(grid)  # noqa: E741
    hkl = np.stack([h, k, l], axis=-1)
    g = lattice.b_matrix(cell)
    q = np.linalg.norm(hkl @ g.T, axis=-1)
    truth = 20 + 8 * np.cos(3 * q)
    rng = np.random.default_rng(3)
    wild = rng.normal(size=truth.shape)
    noise, n = np.zeros(truth.shape), 0
    # Images by plain indexing: the grid is about its middle voxel.
    half = np.array(truth.shape[::-1]) // 2
    index = np.rint(hkl / 0.08).astype(int)
    images = []
    for w in operations:
        moved = index @ w.T + half
        inside = np.all((moved >= 0) & (moved < 2 * half + 1), axis=-1)
        moved = np.clip(moved, 0, 2 * half)
        images.append((inside, (moved[..., 2], moved[..., 1], moved[..., 0])))
        noise, n = noise + wild[images[-1][1]], n + 1
    noise *= 1 / np.sqrt(n)
    whole = np.all([inside for inside, _ in images], axis=0)
    own = target(truth, 0.0, grid, cell, 0.3)
    own.data += noise.astype(np.float32)
    # Symmetric to the bit before.
    for _, at in images:
        own.data[:] = np.where(whole, np.minimum(own.data, own.data[at]), own.data)
    own = fill.Target(own.data, np.ones_like(own.data), own.code, grid, cell, operations)
    fill.fill(own)
    for array in (own.data, own.errors):
        for inside, at in images:
            np.testing.assert_array_equal(array[inside & whole], array[at][inside & whole])
    residual = (own.data - truth)[own.code == 1]
    assert np.sqrt(np.mean(residual**2)) < 1.5


@pytest.mark.slow
def test_twins_do_not_average_out() -> None:
    """Around 000 of a cubic crystal 48 voxels are one measurement."""
    operations = space_group("P m -3 m").laue_operations
    grid = Grid.symmetric([0.6] * 3, [0.1] * 3)
    pulls = []
    for seed in range(40):
        own = target(np.full(grid.array_shape, 50.0), 1.0, grid, CUBIC, 0.3, seed)
        own = fill.Target(own.data, own.errors, own.code, grid, CUBIC, operations)
        order = np.sort(np.abs(np.stack(mesh(grid))), axis=0)
        _, first, same = np.unique(
            np.rint(order.reshape(3, -1) * 10), axis=1, return_index=True, return_inverse=True
        )
        # One value for all equivalents.
        own.data[:] = own.data.ravel()[first][same.reshape(-1)].reshape(own.data.shape)
        fill.fill(own)
        pulls.append((own.data[6, 6, 6] - 50) / own.errors[6, 6, 6])
    assert 0.7 < np.sqrt(np.mean(np.square(pulls))) < 1.35


@pytest.mark.slow
def test_errors_of_a_long_hole_are_those_of_its_thickness() -> None:
    """A cone that was not measured, as about an axis of rotation, through waves."""
    grid = Grid.symmetric([1.05, 1.05, 1.75], [0.07] * 3)
    h, k, l = mesh(grid)  # noqa: E741
    truth = 20 + 5 * np.cos(2 * np.pi * (h + 0.3 * k) / 0.9) + 5 * np.cos(2 * np.pi * l / 0.9)
    own = target(truth, 1.0, grid, CUBIC, 1e-3)
    own.data[own.code == 1] -= 1000
    cone = (np.hypot(h, k) < 0.05 + 0.18 * abs(l)) & (abs(l) < 1.4)
    own.code[:] = np.where(cone, fill.UNMEASURED, 0)
    own.data[cone] = own.errors[cone] = np.nan
    told = fill.fill(own)
    assert told["holes"] == 1
    assert told["voxels by shell"] == 0
    pulls = ((own.data - truth) / own.errors)[cone]
    assert np.sqrt(np.mean(pulls**2)) < 1.3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_voxels_are_connected_as_by_scipy(share: float) -> None:
    mask = np.random.default_rng(0).random((9, 8, 7)) < share
    numbers = np.flatnonzero(mask)
    labels = ndimage.label(mask)[0].ravel()[numbers]
    _, first = np.unique(labels, return_index=True)
    np.testing.assert_array_equal(connected(numbers, mask.shape), first[labels - 1])


def test_the_support_of_a_large_flat_hole_is_not_larger_than_wanted() -> None:
    """The voxels that touch it alone are more; they are thinned out evenly."""
    sheet = np.argwhere(np.ones((1, 40, 40)))
    support = fill.support_of(sheet, np.eye(3), 400)
    assert 350 <= len(support) <= 410
    assert {int(x) for x in support[:, 0]} >= {-1, 1}
    counts = np.bincount(support[support[:, 0] == 1, 1] // 10 + 1, minlength=6)[1:5]
    assert counts.min() > 0.8 * counts.max()


def test_kriging_that_nothing_judges_does_not_overshoot() -> None:
    """The flanks of a sharp maximum that scatter more than their σ, as around a real reflection."""
    grid = Grid.symmetric([0.4] * 3, [0.05] * 3)
    q = np.sqrt(sum(x**2 for x in mesh(grid)))
    truth = np.maximum(q, 0.05) ** -3
    scatter = np.exp(0.2 * np.random.default_rng(3).normal(size=q.shape))
    made = target(truth * scatter, 0.0, grid, CUBIC, 0.25)
    made.errors[:] = 0.002 * truth
    punched = made.code == 1
    found = control.controls(made, fill.find_holes(made, np.flatnonzero(punched)), Q_MAX)
    assert found == {}
    least = {}
    for model in (fill.BEST, control.best_of(found, fill.BEST)):
        copy = fill.Target(made.data.copy(), made.errors.copy(), made.code, grid, CUBIC, NONE)
        fill.fill(copy, model)
        least[model] = copy.data[punched].min() / made.data[~punched].max()
    # Gaussian: wrong by many times the largest value around the hole.
    assert least[fill.BEST] < -5
    assert 0 < least[fill.UNJUDGED] < 1


def of_balls(number: int) -> fill.Target:
    """Holes of different shapes in a measured sphere; the corners of the grid are not measured."""
    grid = Grid.symmetric([2.0, 2.0, 2.0], [0.1, 0.1, 0.1])
    h, k, l = mesh(grid)  # noqa: E741
    rng = np.random.default_rng(0)
    data = rng.normal(50, 1, h.shape).astype(np.float32)
    code = np.zeros(h.shape, np.uint8)
    centres = np.stack(np.meshgrid(*3 * [np.arange(-1, 1.1, 0.65)]), axis=-1).reshape(-1, 3)
    for x, y, z in centres[:number] + rng.uniform(-0.05, 0.05, (number, 3)):
        code[(h - x) ** 2 + (k - y) ** 2 + (l - z) ** 2 < 0.19**2] = fill.PUNCHED
    code[h**2 + k**2 + l**2 > 1.9**2] = fill.LEFT
    data[code != fill.MEASURED] = np.nan
    return fill.Target(data, np.ones_like(data), code, grid, CUBIC, NONE)


def test_memory_does_not_grow_with_the_number_of_shapes() -> None:
    """The matrices of a shape are freed before the garbage collector runs."""
    fill.fill(of_balls(1))  # compiles the kernels
    peaks, shapes = [], []
    for number in (1, 50):
        own = of_balls(number)
        tracemalloc.start()
        shapes.append(fill.fill(own)["shapes"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert np.isfinite(own.data[own.code == fill.PUNCHED]).all()
        assert np.isnan(own.data[own.code == fill.LEFT]).all()
    assert shapes[0] == 1
    assert shapes[1] > 40
    # The matrices of two shapes, and what grows with the number of voxels.
    assert peaks[1] < 5 * peaks[0], peaks
