"""`volumes.boxes` on Poisson volumes of known S: integrals, pulls, missing voxels."""

from math import erf

import numpy as np
import pytest

from hklflow.geometry.grid import Grid
from hklflow.volumes import boxes

GRID = Grid.symmetric([4.0, 3.0, 2.0], [0.1, 0.08, 0.05])
HALF, SHELL = (0.3, 0.24, 0.2), 2
WIDTH = 0.06  # standard deviation of the peaks, r.l.u.: the box is 3.3 of them or more
POINTS = [(h, k, m) for h in range(-3, 4) for k in (-2, -1, 0, 1, 2) for m in (-1, 0, 1)]
POINTS += [(h + 0.5, k + 0.5, 0.5) for h in range(-3, 3) for k in (-2, -1, 0, 1)]


def profile(axis: np.ndarray, step: float, centre: float) -> np.ndarray:
    """Mean over each voxel of a Gaussian of integral 1."""
    edges = np.append(axis - step / 2, axis[-1] + step / 2)
    below = np.array([0.5 * (1 + erf((x - centre) / WIDTH / np.sqrt(2))) for x in edges])
    return np.diff(below) / step


def truth(integral: float, level: float, slope: float = 0.0) -> np.ndarray:
    """S (l, k, h): a peak of one integral at every point on a background."""
    axes = [GRID.axis(i) for i in range(3)]
    s = level * (1 + slope * axes[0]) + np.zeros(GRID.array_shape)
    for point in POINTS:
        along = [profile(axes[i], GRID.step[i], point[i]) for i in range(3)]
        s += integral * along[2][:, None, None] * along[1][:, None] * along[0]
    return s


def norm_of(mean: float) -> np.ndarray:
    """Norm that varies threefold over the volume, as where rotations overlap."""
    at = np.meshgrid(*(GRID.axis(i) for i in (2, 1, 0)), indexing="ij")
    return mean * (1 + 0.5 * np.sin(1.1 * at[2] + 0.7 * at[1]) * np.cos(1.3 * at[0]))


def integrate(
    counts: np.ndarray, norm: np.ndarray, least: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    rows = []
    for point in POINTS:
        box = boxes.box_at(GRID, point, HALF, SHELL)
        assert box is not None
        rows.append(boxes.integrate(box, counts[box.region], norm[box.region], least))
    values, sigma = np.array(rows).T
    return values, sigma


def test_a_box_holds_the_voxels_within_its_half_width() -> None:
    box = boxes.box_at(GRID, (1.0, -1.0, 0.5), HALF, SHELL)
    assert box is not None
    for i, (part, middle, half) in enumerate(
        zip(box.region[::-1], (1.0, -1.0, 0.5), HALF, strict=True)
    ):
        axis = GRID.axis(i)
        np.testing.assert_array_equal(
            axis[part.start + SHELL : part.stop - SHELL],
            axis[np.abs(axis - middle) <= half + 1e-9],
        )
    assert box.inside.sum() == 7 * 6 * 9  # k = -1 is between two voxels
    assert box.inside.shape == tuple(part.stop - part.start for part in box.region)
    assert box.voxel == pytest.approx(0.1 * 0.08 * 0.05)


@pytest.mark.parametrize(
    ("point", "half"),
    [((3.8, 0, 0), HALF), ((0, -2.7, 0), HALF), ((0, 0, 1.9), HALF), ((0.05, 0, 0), (0.01,) * 3)],
)
def test_no_box_outside_the_grid_or_between_voxels(point: tuple, half: tuple) -> None:
    assert boxes.box_at(GRID, point, half, SHELL) is None


@pytest.mark.slow
@pytest.mark.parametrize("slope", [0.0, 0.15])
def test_the_integral_is_that_of_the_peak(slope: float) -> None:
    s, norm = truth(0.02, 5.0, slope), np.full(GRID.array_shape, 1e7)
    values, _ = integrate(s * norm, norm)
    # 3.3 standard deviations on each side of three axes hold 0.998; half of that is in the
    # shell's inner voxels and goes with the background.
    np.testing.assert_allclose(values, 0.02, rtol=6e-3)


def test_a_peak_sharper_than_a_voxel_does_not_follow_the_roughness_of_the_norm() -> None:
    rng = np.random.default_rng(5)
    norm = 1e5 * rng.uniform(0.9, 1.1, GRID.array_shape)
    counts = 3.0 * norm
    for point in POINTS[:105]:
        voxel = np.rint((np.array(point) - GRID.first) / GRID.step).astype(int)
        counts[tuple(voxel[::-1])] += 1e5 * 0.02 / np.prod(GRID.step)
    values, _ = integrate(counts, norm)
    # The mean norm of 27 voxels, each uniform within 10 %: 0.058 / √27.
    assert np.std(values[:105]) / 0.02 < 1.3 * 0.0577 / np.sqrt(27)
    np.testing.assert_allclose(values[:105], 0.02, rtol=0.05)


@pytest.mark.parametrize("beyond", [0.5, 2.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_step_of_the_norm_beside_a_peak_leaves_its_intensity(axis: int, beyond: float) -> None:
    # A second crossing ends, or a gap begins, one voxel from the peak.
    place = np.rint((np.array((1.0, 0.0, 0.0)) - GRID.first) / GRID.step).astype(int)[::-1]
    norm = np.full(GRID.array_shape, 1e5)
    half = [slice(None)] * 3
    half[axis] = slice(int(place[axis]) + 1, None)
    norm[tuple(half)] *= beyond
    s = np.full(GRID.array_shape, 3.0)
    s[tuple(place)] += 0.02 / np.prod(GRID.step)
    box = boxes.box_at(GRID, (1.0, 0.0, 0.0), HALF, SHELL)
    assert box is not None
    value, _ = boxes.integrate(box, (s * norm)[box.region], norm[box.region], 0.95)
    assert value == pytest.approx(0.02, rel=1e-9)
    found = boxes.sums(box, (s * norm)[box.region], norm[box.region], 0.95)
    three = np.array([1.0, 1.0, beyond])
    assert found.roughness == pytest.approx(three.std() / three.mean())


@pytest.mark.slow
@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize(
    ("integral", "level", "mean"),
    [
        (0.02, 1.0, 30.0),  # strong: thousands of counts
        (0.02, 0.2, 2.0),  # few counts per voxel
        (0.0, 1.0, 30.0),  # nothing there
        (0.002, 0.05, 4.0),  # weak, background nearly empty
    ],
)
def test_pulls(integral: float, level: float, mean: float, slope: float) -> None:
    rng = np.random.default_rng([int(1e4 * integral), int(100 * level), int(mean)])
    s, norm = truth(integral, level, slope), norm_of(mean)
    large = np.full(GRID.array_shape, 1e9)
    exact, _ = integrate(s * large, large)
    pulls = []
    for _ in range(4):
        values, sigma = integrate(rng.poisson(s * norm).astype(float), norm)
        pulls.append((values - exact) / sigma)
    pull = np.concatenate(pulls)
    # σ of the mean is 0.044 and of the width 0.03 with 516 pulls.
    assert abs(pull.mean()) < 0.15
    assert 0.9 < pull.std() < 1.1


@pytest.mark.slow
def test_too_little_measured_is_nan_and_a_little_missing_is_background() -> None:
    s, norm = truth(0.02, 1.0), np.full(GRID.array_shape, 1e7)
    box = boxes.box_at(GRID, POINTS[0], HALF, SHELL)
    assert box is not None
    part = norm[box.region].copy()
    corner = (SHELL, SHELL, SHELL)
    part[corner] = 0
    value, sigma = boxes.integrate(box, s[box.region] * part, part, 0.95)
    assert value == pytest.approx(0.02, rel=6e-3)
    assert sigma > 0
    assert np.isnan(boxes.integrate(box, s[box.region] * part, part, 1.0)).all()
    part[: SHELL + 2] = 0
    assert np.isnan(boxes.integrate(box, s[box.region] * part, part, 0.95)).all()
    shell_gone = np.where(box.inside, 1e7, 0.0)
    assert np.isnan(boxes.integrate(box, s[box.region] * shell_gone, shell_gone, 0.95)).all()
