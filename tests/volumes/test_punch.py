"""`volumes.punch`: positions against cctbx and enumeration, ellipsoids, radius; KAREN."""

import numpy as np
import pytest
from tests.truth.defaults import bragg_positions

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.geometry.symmetry import space_group
from hklflow.volumes import karen, punch

SKEWED = np.array([4.0, 5.0, 7.0, 80.0, 95.0, 112.0])
CUBIC = np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0])


def rows(hkl: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(row) for row in np.round(np.asarray(hkl, float), 6).tolist()}


def q_of(grid: Grid, cell: np.ndarray) -> np.ndarray:
    """Vectors (l, k, h, 3) in 1/Å from the cell's cosines, not from the code's B."""
    (a, b, c), (alpha, beta, gamma) = np.split(lattice.reciprocal(cell), 2)
    ca, cb, cg = np.cos(np.radians([alpha, beta, gamma]))
    sg = np.sin(np.radians(gamma))
    y = (ca - cb * cg) / sg
    vectors = np.array(
        [[a, 0, 0], [b * cg, b * sg, 0], [c * cb, c * y, c * np.sqrt(1 - cb**2 - y**2)]]
    )
    l, k, h = np.meshgrid(*(grid.axis(i) for i in (2, 1, 0)), indexing="ij")  # noqa: E741
    return np.stack([h, k, l], axis=-1) @ vectors


@pytest.mark.parametrize("symbol", ["F d -3 m", "I 41/a m d", "R -3 c", "C 1 2/c 1", "P 21 21 21"])
def test_allowed_positions_are_those_of_cctbx(symbol: str) -> None:
    group = space_group(symbol)
    from cctbx import sgtbx

    own = sgtbx.space_group_info(symbol).group()
    cell = np.array([5.0, 5.0, 9.0, 90, 90, 120]) if symbol.startswith("R") else CUBIC
    grid = Grid.symmetric([4, 4, 4], [0.1] * 3)
    every = [(h, k, l) for h in range(-4, 5) for k in range(-4, 5) for l in range(-4, 5)]  # noqa: E741
    # The lattice translations alone extinguish what the centring forbids.
    centring = sgtbx.space_group_info(f"Hall: {symbol[0]} 1").group()
    wanted = {hkl for hkl in every if not centring.is_sys_absent(hkl)}
    assert rows(bragg_positions(grid, cell, group, 0.01)) == wanted
    strict = {hkl for hkl in every if not own.is_sys_absent(hkl)}
    assert rows(bragg_positions(grid, cell, group, 0.01, absences=True)) == strict
    assert (0, 0, 0) in strict


def test_positions_off_the_grid_count_if_they_reach_in() -> None:
    grid = Grid.symmetric([1.9, 1.5, 1.5], [0.1] * 3)
    group = space_group("P m -3 m")
    near = 0.15 * 2 * np.pi / 5
    found = rows(bragg_positions(grid, CUBIC, group, near))
    assert {row[0] for row in found} == {-2, -1, 0, 1, 2}
    assert {row[1] for row in found} == {-1, 0, 1}
    found = rows(bragg_positions(grid, CUBIC, group, 0.9 * 0.1 * 2 * np.pi / 5))
    assert {row[0] for row in found} == {-1, 0, 1}


def test_satellites_and_their_equivalents() -> None:
    group = space_group("F m -3 m")
    grid = Grid.symmetric([3, 3, 3], [0.1] * 3)
    found = punch.satellite_positions(
        grid, CUBIC, group, 0.05, [[0.37, 0, 0]], 2, group.laue_operations
    )
    wanted = set()
    for h in range(-5, 6):
        for k in range(-5, 6):
            for l in range(-5, 6):  # noqa: E741
                if (h + k) % 2 == (k + l) % 2 == 0:
                    for axis in range(3):
                        for m in (-2, -1, 1, 2):
                            at = [float(h), float(k), float(l)]
                            at[axis] += m * 0.37
                            if np.all(np.abs(at) <= 3.0398):
                                wanted.add(tuple(np.round(at, 6)))
    assert rows(found) == wanted
    assert len(found) == len(wanted)


def test_spheres_and_ellipsoids_of_a_skewed_cell() -> None:
    grid = Grid.symmetric([1.2, 1.4, 1.1], [0.04, 0.05, 0.04])
    group = space_group("P -1")
    mask = np.zeros(grid.array_shape, np.uint8)
    positions = bragg_positions(grid, SKEWED, group, 0.2)
    punch.punch(mask, grid, SKEWED, positions, 0.2)
    q = q_of(grid, SKEWED)
    b = q_of(Grid(np.zeros(3), np.ones(3), (2, 2, 2)), SKEWED)
    vectors = np.array([b[0, 0, 1], b[0, 1, 0], b[1, 0, 0]])
    wanted = np.zeros(mask.shape, bool)
    near = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), axis=-1).reshape(-1, 3)
    for hkl in near:
        wanted |= np.linalg.norm(q - hkl @ vectors, axis=-1) <= 0.2
    np.testing.assert_array_equal(mask, wanted)
    # An ellipsoid cuts each axis at its radius.
    fine = Grid.symmetric([0.3] * 3, [0.01] * 3)
    mask = np.zeros(fine.array_shape, np.uint8)
    radii = np.array([0.1, 0.2, 0.15])
    punch.punch(mask, fine, SKEWED, np.zeros((1, 3)), radii)
    lines = (mask[30, 30], mask[30, :, 30], mask[:, 30, 30])
    for line, radius, vector in zip(lines, radii, vectors, strict=True):
        step = 0.01 * np.linalg.norm(vector)
        assert line.sum() == 2 * int(radius / step) + 1


@pytest.mark.parametrize("width", [0.04, 0.06])
@pytest.mark.parametrize("n_strong", [4, 200])
def test_radius_is_where_peaks_vanish_in_the_noise(width: float, n_strong: int) -> None:
    rng = np.random.default_rng(5)
    grid = Grid.symmetric([2.6] * 3, [0.04] * 3)
    q = q_of(grid, CUBIC)
    hkl = bragg_positions(grid, CUBIC, space_group("P 1"), 0.01)
    sigma, height = 1.0, 2000.0
    away = np.linalg.norm((q / 1.256637061 - np.rint(q / 1.256637061)) * 1.256637061, axis=-1)
    index = (np.rint(q / 1.256637061) @ [25, 5, 1]).astype(int)
    strong = np.isin(index, rng.choice(np.unique(index), min(n_strong, 125), replace=False))
    strong |= np.isin(index, [0, 1, 5, 25, -1, -5, -25])
    # Thermal diffuse scattering below, a hundredth of the peak, is not to be punched.
    data = 20 + 10 * 0.05 / np.maximum(away, 0.05)
    data += np.where(strong, height, 5.0) * np.exp(-0.5 * (away / width) ** 2)
    data += rng.normal(0, sigma, data.shape)
    found = punch.measured_radius(
        data.astype(np.float32), np.ones(data.shape, np.float32), grid, CUBIC, hkl
    )
    # Where the strong are as high as half the noise.
    truth = width * np.sqrt(2 * np.log(height / (0.5 * sigma)))
    assert found.radius == pytest.approx(truth, rel=0.2)
    assert found.reflections >= 3


def test_reflections_that_do_not_end_need_a_larger_radius() -> None:
    grid = Grid.symmetric([2.0] * 3, [0.05] * 3)
    q = q_of(grid, CUBIC)
    hkl = bragg_positions(grid, CUBIC, space_group("P 1"), 0.01)
    away = np.linalg.norm(q - 1.256637061 * np.rint(q / 1.256637061), axis=-1)
    data = 10 + 1e4 * np.exp(-0.5 * (away / 0.2) ** 2)
    with pytest.raises(punch.WideError, match="do not end within") as raised:
        punch.measured_radius(
            data.astype(np.float32), np.ones(data.shape, np.float32), grid, CUBIC, hkl
        )
    assert raised.value.radius > 0.3
    advised = float(str(raised.value).split("{radius: ")[1].split("}")[0])
    assert raised.value.radius < advised < 1.256637061 / 2


def test_radius_is_not_made_up() -> None:
    grid = Grid.symmetric([2.0] * 3, [0.05] * 3)
    rng = np.random.default_rng(5)
    data = rng.normal(10, 1, grid.array_shape).astype(np.float32)
    hkl = bragg_positions(grid, CUBIC, space_group("P 1"), 0.01)
    with pytest.raises(HklflowError, match=r"too few strong reflections \(0,"):
        punch.measured_radius(data, np.ones_like(data), grid, CUBIC, hkl)


@pytest.mark.slow
def test_karen_flags_reflections_and_leaves_noise() -> None:
    rng = np.random.default_rng(2)
    l, k, h = np.meshgrid(*[np.arange(80)] * 3, indexing="ij")  # noqa: E741
    diffuse = 20 + 8 * np.cos(h / 9) + 6 * np.cos(k / 11 + l / 15)
    # Noise differs by three across the volume.
    sigma = (1 + 2 * l / 80).astype(np.float32)
    noise = (diffuse + rng.normal(0, sigma)).astype(np.float32)
    noise[:, 60:64] = np.nan
    away = np.sqrt((h % 20 - 10) ** 2 + (k % 20 - 10) ** 2 + (l % 20 - 10) ** 2)
    data = (noise + 500 * np.exp(-0.5 * (away / 1.5) ** 2)).astype(np.float32)
    # Of normal noise 3.2e-5 exceed 4 σ, 27 times as much when widened.
    flat = (20 + rng.normal(0, sigma)).astype(np.float32)
    false = karen.outliers(flat, sigma, (10, 10, 10), 4.0)
    assert 4e-4 < false.mean() < 1.5e-3
    # Structure within a window widens the threshold.
    assert karen.outliers(noise, sigma, (10, 10, 10), 4.0).mean() < 1.5e-3
    flagged = karen.outliers(data, sigma, (10, 10, 10), 4.0)
    bragg = (500 * np.exp(-0.5 * (away / 1.5) ** 2) > 8 * sigma) & np.isfinite(data)
    assert flagged[bragg].mean() > 0.999
    assert flagged[(away > 8) & np.isfinite(data)].mean() < 0.005
    assert not flagged[:, 60:64].any()


@pytest.mark.slow
def test_few_bins_tell_where_gaussian_peaks_end() -> None:
    """Of a coarse grid there are five, the last of them the ground."""
    cell = np.array([5.2, 6.1, 4.9, 90.0, 108.0, 90.0])
    grid = Grid.symmetric([2.5] * 3, [1 / 16] * 3)
    hkl = bragg_positions(grid, cell, space_group("P 1"), 0.01)
    at = q_of(Grid(np.zeros(3), np.ones(3), (2, 2, 2)), cell)
    vectors = np.array([at[0, 0, 1], at[0, 1, 0], at[1, 0, 0]])
    q = q_of(grid, cell)
    data = np.random.default_rng(8).normal(20, 1, grid.array_shape)
    for position in hkl @ vectors:
        away = np.sum((q - position) ** 2, axis=-1)
        # Diffuse scattering below, that is still above its ground in the last bin before it.
        data += 4000 * np.exp(-0.5 * away / 0.045**2) + 2.5 * np.exp(-0.5 * away / 0.25**2)
    found = punch.measured_radius(
        data.astype(np.float32), np.ones(data.shape, np.float32), grid, cell, hkl
    )
    assert len(found.r) < 8
    # Where they are as high as half the noise; bins are wider than the peaks.
    truth = 0.045 * np.sqrt(2 * np.log(4000 / 0.5))
    assert 0.8 * truth < found.radius < 1.35 * truth


def test_codes_follow_mask_measurement_and_radius() -> None:
    from hklflow.volumes import punch_kernels

    grid = Grid.symmetric([0.9, 0.7, 1.1], [0.1] * 3)
    rng = np.random.default_rng(2)
    data = rng.normal(size=grid.array_shape).astype(np.float32)
    data[rng.random(data.shape) < 0.3] = np.nan
    mask = (rng.random(data.shape) < 0.2).astype(np.uint8) * rng.choice([1, 2], data.shape)
    within = np.linalg.norm(q_of(grid, SKEWED), axis=-1) <= 1.2345
    measured = np.isfinite(data)
    # The 3-D mask removes the middle of strong reflections, which is no gap.
    wanted = np.where((mask > 0) & (measured | within), 1, np.where(measured, 0, 3 - within))
    code, axes = mask.astype(np.uint8), [grid.axis(i) for i in range(3)]
    counts = punch_kernels.set_codes(data, code, *axes, lattice.b_matrix(SKEWED), 1.2345)
    np.testing.assert_array_equal(code, wanted)
    assert counts.tolist() == [
        *(int((wanted == i).sum()) for i in range(4)),
        int(within.sum()),
        int((within & (wanted != 1)).sum()),
    ]
