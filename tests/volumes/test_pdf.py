"""The transform against sums of cosines; its errors against sums over orbits and noisy trials."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.truth.defaults import made_taper

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.geometry.symmetry import space_group
from hklflow.volumes import pdf
from hklflow.volumes.pdf_plan import Plan, plan
from hklflow.volumes.tapers import Taper

OBLIQUE = np.array([4.0, 5.0, 6.0, 80.0, 110.0, 97.0])
CUBIC = np.array([4.0, 4.0, 4.0, 90.0, 90.0, 90.0])
HEXAGONAL = np.array([4.0, 4.0, 6.0, 90.0, 90.0, 120.0])
MONOCLINIC = np.array([4.0, 5.0, 6.0, 90.0, 110.0, 90.0])
FRIEDEL = [np.eye(3), -np.eye(3)]


def hkl_of(grid: Grid) -> np.ndarray:
    """hkl (n, 3) of all voxels in the order [l, k, h]."""
    l, k, h = np.meshgrid(grid.axis(2), grid.axis(1), grid.axis(0), indexing="ij")  # noqa: E741
    return np.stack([h.ravel(), k.ravel(), l.ravel()], axis=1)


def by_hand(grid: Grid, cell: np.ndarray, q_max: float, s: np.ndarray, x: np.ndarray) -> np.ndarray:
    """PDF at x (m, 3): voxel by voxel, with the mean of Friedel mates for both."""
    hkl = hkl_of(grid)
    table = {
        tuple(np.rint(h / grid.step).astype(int)): v for h, v in zip(hkl, s.ravel(), strict=True)
    }
    full: dict[tuple[int, ...], float] = {}
    for key, value in table.items():
        mate = tuple(-i for i in key)
        values = [v for v in (value, table.get(mate, np.nan)) if np.isfinite(v)]
        if values:
            full[key] = full[mate] = float(np.mean(values))
    h = np.array(list(full)) * grid.step
    g = np.linalg.inv(lattice.metric(cell))
    t = 2 * np.pi * np.sqrt(np.einsum("ni,ij,nj->n", h, g, h)) / q_max
    w = np.where(t <= 0.5, 1.0, np.where(t <= 1, 0.5 * (1 + np.cos(np.pi * (2 * t - 1))), 0.0))
    scale = np.prod(grid.step) / np.sqrt(np.linalg.det(lattice.metric(cell)))
    return scale * np.cos(2 * np.pi * x @ h.T) @ (w * np.array(list(full.values())))


def positions(made: Plan) -> np.ndarray:
    """x (m, 3) of the voxels in the order [z, y, x]."""
    return hkl_of(made.direct)


@pytest.mark.parametrize(
    ("first", "shape", "q_max", "sizes"),
    [
        ((-4, -3, -5), (9, 7, 11), 9.0, None),  # as our own grids
        ((-4, -3, -5), (8, 6, 10), 9.0, None),  # the planes at -4, -3, -5 have no mates
        ((-4, -3, -5), (8, 6, 10), 9.0, (9, 7, 11)),
        ((0, -3, -2), (5, 7, 8), 9.0, None),  # a half
        ((-3, -1, 0), (5, 5, 6), 9.0, (12, 10, 15)),  # lacks parts of a sphere
        ((-4, -3, -5), (9, 7, 11), 3.0, None),  # ends within the grid
    ],
)
def test_transform_is_the_sum_of_cosines(
    first: tuple[int, ...], shape: Any, q_max: float, sizes: Any
) -> None:
    step = np.array([0.5, 0.4, 0.5])
    grid = Grid(np.array(first) * step, step, shape)
    rng = np.random.default_rng(1)
    s = rng.normal(2, 1, grid.array_shape).astype(np.float32)
    s[rng.random(s.shape) < 0.1] = np.nan
    made = plan(grid, OBLIQUE, made_taper("tukey", q_max), [np.eye(3)], sizes)
    found, _, sums = pdf.transform_volume(made, s, np.where(np.isfinite(s), 0.1, np.nan))
    assert found.shape == made.direct.array_shape
    expected = by_hand(grid, OBLIQUE, q_max, s, positions(made)).reshape(found.shape)
    np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())
    middle = tuple(n // 2 for n in found.shape)
    assert not positions(made).reshape((*found.shape, 3))[middle].any()
    assert found[middle] == found.max()
    # Parseval: both sides are integrals over their space.
    volume = lattice.volume(OBLIQUE)
    left = (found.astype(float) ** 2).sum() * volume * np.prod(made.direct.step)
    assert left == pytest.approx(sums.squares * np.prod(step) / volume, rel=1e-5)


def test_taper_knows_the_metric() -> None:
    """In hexagonal axes 110 is √3 as far as 100, and 1-10 as far."""
    grid = Grid.symmetric(2, 1.0)
    a_star = 4 * np.pi / np.sqrt(3) / HEXAGONAL[0]
    made = plan(grid, HEXAGONAL, made_taper("hann", 2.5 * a_star), FRIEDEL)
    w = made.weights(0)
    middle = w.shape[0] // 2
    for k, length in ((0, 1.0), (1, np.sqrt(3)), (-1, 1.0)):
        expected = 0.5 * (1 + np.cos(np.pi * length / 2.5))
        assert w[middle + k, 1] == pytest.approx(expected, abs=1e-12)


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize("kind", ["tukey", "hann", "lorch", "gaussian", "none"])
@pytest.mark.parametrize("cell", [CUBIC, MONOCLINIC, OBLIQUE])
@pytest.mark.parametrize("flat", [0.0, 0.5, 0.97, 1.0])
def test_weights_of_planes_are_the_taper(kind: Any, cell: np.ndarray, flat: float) -> None:
    """Also outside of q_max, and exactly 1 in the flat part."""
    grid = Grid.symmetric([1.2, 1.5, 1.8], 0.1)
    made = plan(grid, cell, Taper(kind, 2.0, flat), [np.eye(3)])
    reciprocal = np.linalg.inv(lattice.metric(cell))
    k, h = (np.arange(low, made.reach[i] + 1) for i, low in ((1, -made.reach[1]), (0, 0)))
    for l in range(-int(made.reach[2]), int(made.reach[2]) + 1):  # noqa: E741
        hkl = 0.1 * np.stack(np.broadcast_arrays(h, k[:, None], l), axis=-1)
        q = 2 * np.pi * np.sqrt(np.einsum("...i,ij,...j->...", hkl, reciprocal, hkl))
        np.testing.assert_allclose(made.weights(l), made.taper(q), atol=1e-14)
        if kind == "tukey":
            assert (made.weights(l)[q < 2.0 * flat - 1e-9] == 1).all()


@pytest.mark.parametrize("step", [0.1, 0.05, 0.125, 0.02])
def test_lattice_vectors_are_voxels(step: float) -> None:
    grid = Grid.symmetric([30 * step, 41 * step, 52 * step], step)
    made = plan(grid, OBLIQUE, made_taper("tukey", 99.0), FRIEDEL)
    for i in range(3):
        n = made.sizes[i]
        assert 2 * [30, 41, 52][i] + 1 <= n
        rest = n
        for prime in (2, 3, 5, 7, 11):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1
        axis = made.direct.axis(i)
        assert axis[n // 2] == 0
        wanted = (1.0, 0.5) if step > 0.02 else ()
        for vector in wanted:
            assert np.abs(axis - vector).min() < 1e-9


def test_axes_that_symmetry_mixes_have_one_size() -> None:
    grid = Grid.symmetric([3, 4, 2], 0.1)
    sizes = plan(grid, CUBIC, made_taper("tukey", 9.0), space_group("P 4/m").laue_operations).sizes
    assert sizes[0] == sizes[1] > sizes[2]
    sizes = plan(grid, CUBIC, made_taper("tukey", 9.0), space_group("P m -3").laue_operations).sizes
    assert len(set(sizes)) == 1


def test_what_cannot_be_transformed_is_refused() -> None:
    taper = made_taper("tukey", 9.0)
    for grid in (
        Grid(np.array([-0.95, -1, -1]), np.full(3, 0.1), (20, 21, 21)),
        Grid(np.array([0.1, -1, -1]), np.full(3, 0.1), (20, 21, 21)),
    ):
        with pytest.raises(HklflowError, match="Q = 0 is not a voxel centre"):
            plan(grid, CUBIC, taper, FRIEDEL)
    grid = Grid.symmetric(1, 0.1)
    with pytest.raises(HklflowError, match="the inversion is missing"):
        plan(grid, CUBIC, taper, [np.eye(3), np.diag([-1, 1, -1])])
    with pytest.raises(HklflowError, match="are fewer than"):
        plan(grid, CUBIC, taper, FRIEDEL, (20, 21, 21))


def test_what_is_missing_is_counted() -> None:
    grid = Grid.symmetric(1.5, 0.5)
    s = np.ones(grid.array_shape, np.float32)
    s[3, 3, 6] = np.nan  # its mate is there
    s[1, 2, 3] = s[5, 4, 3] = np.nan
    made = plan(grid, CUBIC, made_taper("none", 9.0), [np.eye(3)])
    _, _, sums = pdf.transform_volume(made, s, s)
    assert sums.n_missing == 2
    assert sums.missing == 2
    assert sums.weight == s.size - 2


# --------------------------------------------------------------------- errors


def orbits(grid: Grid, operations: np.ndarray) -> np.ndarray:
    """Number of the orbit of each voxel, -1 of those with mates off the grid."""
    index = np.rint(hkl_of(grid) / grid.step).astype(int)
    numbers: dict[tuple[int, ...], int] = {}
    for i, h in enumerate(index):
        for mate in operations @ h:
            numbers.setdefault(tuple(mate), i)
    return np.array([numbers[tuple(h)] for h in index])


CASES = [
    ("P m -3 m", CUBIC),
    ("P m -3", CUBIC),
    ("P 6/m", HEXAGONAL),
    ("P 6/m m m", HEXAGONAL),
    ("P -3 1 m", HEXAGONAL),
    ("P 1 2/m 1", MONOCLINIC),
    ("P 4/m", CUBIC),
    ("P -1", OBLIQUE),
]


@pytest.mark.slow
@pytest.mark.parametrize(("symbol", "cell"), CASES)
@pytest.mark.parametrize("size", [20, 15])
def test_errors_are_those_of_independent_orbits(symbol: str, cell: np.ndarray, size: int) -> None:
    """At every voxel, also on symmetry elements: Σ over orbits of (σ w Σ cos)²."""
    grid = Grid.symmetric(1.75, 0.25)
    operations = space_group(symbol).laue_operations
    rng = np.random.default_rng(3)
    number = orbits(grid, operations)
    sigma = rng.uniform(0.2, 3, len(number))[number].reshape(grid.array_shape)
    taper = made_taper("tukey", 2 * np.pi * 1.2 / cell[:3].max())
    made = plan(grid, cell, taper, operations, (size, size, size))
    _, found, _ = pdf.transform_volume(made, sigma.astype("f4"), sigma.astype("f4"))
    x = positions(made)
    hkl = hkl_of(grid)
    g = np.linalg.inv(lattice.metric(cell))
    w = taper(2 * np.pi * np.sqrt(np.einsum("ni,ij,nj->n", hkl, g, hkl)))
    amplitude = np.zeros((len(x), len(number)))
    used = np.flatnonzero(w > 0)
    term = np.cos(2 * np.pi * x @ hkl[used].T) * w[used] * sigma.ravel()[used]
    np.add.at(amplitude.T, number[used], term.T)
    expected = made.scale * np.sqrt((amplitude**2).sum(axis=1)).reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * expected.max())
    # They are not all the same: that is what the formula is for.
    assert expected.max() > 1.3 * np.median(expected)
    assert made.moves[2]


def test_errors_of_data_that_were_not_symmetrised() -> None:
    """Every voxel is a measurement of its own; some have no mate."""
    step = np.full(3, 0.25)
    grid = Grid(np.array([-4, -4, -4]) * step, step, (8, 9, 7))
    rng = np.random.default_rng(4)
    sigma = rng.uniform(0.2, 3, grid.array_shape).astype(np.float32)
    sigma[4, 4, 4] = 30  # Q = 0, its own mate
    made = plan(grid, OBLIQUE, made_taper("tukey", 3.0), [np.eye(3)])
    _, found, _ = pdf.transform_volume(made, sigma, sigma)
    x = positions(made)[::29]
    variance = np.zeros(len(x))
    flat = sigma.ravel().astype(float)
    unit = np.full(grid.array_shape, np.nan)
    for i in range(0, flat.size):
        hkl = np.rint(hkl_of(grid)[i] / step).astype(int)
        mate = -hkl - np.rint(grid.first / step).astype(int)
        alone = bool(np.any(mate < 0) or np.any(mate >= np.array(grid.shape)))
        one = unit.copy()
        one.ravel()[i] = 1.0
        whole = by_hand(grid, OBLIQUE, 3.0, one, x)
        variance += (flat[i] * whole * (1.0 if alone or not hkl.any() else 0.5)) ** 2
    np.testing.assert_allclose(found.ravel()[::29], np.sqrt(variance), rtol=1e-3)


@pytest.mark.parametrize(("symbol", "cell"), [("P 4/m m m", CUBIC), ("P 1 2/m 1", MONOCLINIC)])
@pytest.mark.slow
def test_pulls_over_many_trials(symbol: str, cell: np.ndarray) -> None:
    """Width 1 at general positions, on symmetry elements and at the origin."""
    grid = Grid.symmetric(1.5, 0.25)
    operations = space_group(symbol).laue_operations
    rng = np.random.default_rng(8)
    number = orbits(grid, operations)
    sigma = rng.uniform(0.5, 2, len(number))[number].astype(np.float32)
    made = plan(grid, cell, made_taper("tukey", 2 * np.pi * 1.4 / cell[:3].max()), operations)
    pulls = []
    for _ in range(1500):
        noise = (sigma * rng.standard_normal(len(number))[number]).astype(np.float32)
        shape = grid.array_shape
        if not pulls:
            _, error, _ = pdf.transform_volume(made, sigma.reshape(shape), sigma.reshape(shape))
            forward = pdf.Transform(made, pdf.Store(made.half_shape, np.complex64), 1e8)
        forward.load([(0, noise.reshape(shape))])
        pulls.append(forward.planes(0, made.sizes[2]) * made.scale / error)
    width = np.std(pulls, axis=0)
    n_z, n_y, n_x = (n // 2 for n in width.shape)
    general = width[n_z + 1 : -2, n_y + 1 : -2, n_x + 1 : -2]
    assert np.sqrt((general**2).mean()) == pytest.approx(1, abs=0.02)
    # The axis (0, y, 0), the plane (x, 0, z), the origin; its own error is 1/√(2·1500).
    assert np.sqrt((width[n_z, :, n_x] ** 2).mean()) == pytest.approx(1, abs=0.05)
    assert np.sqrt((width[:, n_y, :] ** 2).mean()) == pytest.approx(1, abs=0.03)
    assert width[n_z, n_y, n_x] == pytest.approx(1, abs=0.06)
    assert np.abs(np.mean(pulls)) < 0.05


@pytest.mark.parametrize("unit", [2.0**-100, 2.0**-60, 2.0**-3, 2.0**60, 2.0**100])
def test_the_unit_of_the_monitor_changes_no_digit(unit: float) -> None:
    """Squares of what was divided by photons or by A s are beyond float32 at either end."""
    grid = Grid.symmetric(2, 0.25)
    rng = np.random.default_rng(11)
    s = rng.normal(3, 1, grid.array_shape).astype(np.float32)
    sigma = rng.uniform(0.5, 2, grid.array_shape).astype(np.float32)
    made = plan(grid, CUBIC, made_taper("tukey", 3.0), space_group("P m m m").laue_operations)
    expected = pdf.transform_volume(made, s, sigma)
    found = pdf.transform_volume(made, s * np.float32(unit), sigma * np.float32(unit))
    for now, before in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(now, before * np.float32(unit))
    assert found[2].squares == pytest.approx(expected[2].squares * unit**2, rel=1e-12)


# ------------------------------------------------------------- blocks, features


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 25),
    st.sampled_from(["P m m m", "P 1 2/m 1", "P m -3 m"]),
    st.integers(1, 3),
    st.sampled_from([(18, 18, 18), (19, 19, 19)]),
)
def test_blocks_are_as_the_whole(
    planes: int, symbol: str, threads: int, sizes: tuple[int, int, int]
) -> None:
    grid = Grid.symmetric(2, 0.25)
    rng = np.random.default_rng(5)
    operations = space_group(symbol).laue_operations
    orbit = orbits(grid, operations).reshape(grid.array_shape)
    s = rng.normal(0, 1, grid.array_shape).astype(np.float32).ravel()[orbit]
    made = plan(grid, CUBIC, made_taper("tukey", 3.0), operations, sizes)
    whole, errors, _ = pdf.transform_volume(made, s, np.abs(s))
    forward = pdf.Transform(made, pdf.Store(made.half_shape, np.complex64), 2e3, threads)
    layers = list(pdf.slabs(made, lambda a, b: np.abs(s[a:b]), 4))
    forward.load(layers, variance=True)
    sigma = pdf.Errors(made, pdf.Store(made.kept_shape, np.float32), forward, threads)
    forward.load(pdf.slabs(made, lambda a, b: s[a:b], 4))
    found, seen = pdf.Found(0.0, []), np.zeros(len(whole), int)
    made_of = np.empty((2, *whole.shape), np.float32)
    for first, part, error in pdf.blocks(made, forward, sigma, planes, 0.01, found):
        seen[first : first + planes] += 1
        made_of[:, first : first + planes] = part, error
        assert first % planes == 0
        assert len(part) == min(planes, len(whole) - first)
        np.testing.assert_allclose(part, whole[first : first + planes], atol=1e-6)
        np.testing.assert_allclose(error, errors[first : first + planes], rtol=1e-4)
    assert (seen == 1).all()
    # The PDF of x is that of -x to the last bit; the first voxels of an even size are their mates.
    n = len(whole)
    mates = np.ix_(*[(2 * (n // 2) - np.arange(n)) % n] * 3)
    upper = slice(n // 2 + 1, None)
    for array in made_of:
        np.testing.assert_array_equal(array[upper], array[mates][upper])
    assert found.squares == pytest.approx((whole.astype(float) ** 2).sum(), rel=1e-5)


def test_features_are_found_once() -> None:
    """A wave in S along each axis is a peak at a lattice vector; equivalents are one."""
    grid = Grid.symmetric(3, 0.125)
    h = hkl_of(grid)
    wave = np.cos(2 * np.pi * h)
    s = 1 - 0.4 * wave.sum(axis=1) + 0.2 * np.cos(4 * np.pi * h).sum(axis=1)
    s = s.reshape(grid.array_shape).astype(np.float32)
    operations = space_group("P m -3 m").laue_operations
    made = plan(grid, CUBIC, made_taper("tukey", 2 * np.pi * 3 / 4), operations)
    forward = pdf.Transform(made, pdf.Store(made.half_shape, np.complex64), 1e8)
    forward.load([(0, np.ones_like(s))], variance=True)
    sigma = pdf.Errors(made, pdf.Store(made.kept_shape, np.float32), forward)
    forward.load([(0, s)])
    found = pdf.Found(0.0, [])
    for _ in pdf.blocks(made, forward, sigma, 16, 0.0, found):
        pass
    strongest = pdf.strongest(made, found, 2.5, 2)
    peak = float(made.taper.resolution_function(0.0))
    for (x, length, value, error), expected, amplitude in zip(
        strongest, ((1, 0, 0), (2, 0, 0)), (-0.2, 0.1), strict=True
    ):
        np.testing.assert_allclose(x, expected, atol=1e-9)
        assert length == pytest.approx(4 * expected[0])
        assert value == pytest.approx(amplitude * peak, rel=0.03)
        assert error > 0
