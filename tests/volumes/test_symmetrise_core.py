"""Sums over equivalents against gemmi's operations, and statistics of known truth."""

import mmap
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.grid import Grid
from hklflow.transform import estimator
from hklflow.volumes import symmetrise
from hklflow.volumes import symmetrise_kernels as kernels

GENERIC = np.array([7.1, 8.2, 9.3, 84.0, 97.0, 106.0])

# All Laue groups, and settings whose matrices differ.
SETTINGS = {
    "P -1": 2,
    "P 1 2/m 1": 4,
    "P 1 1 2/m": 4,
    "I 1 2/a 1": 4,
    "P m m m": 8,
    "P n a 21": 8,
    "P 4/m": 8,
    "I 41/a m d": 16,
    "P -3": 6,
    "P -3 m 1": 12,
    "P -3 1 m": 12,
    "R -3 c :H": 12,
    "R -3 :R": 6,
    "R -3 m :R": 12,
    "P 6/m": 12,
    "P 6/m m m": 24,
    "I a -3": 24,
    "F d -3 m :2": 48,
    # The primitive setting of a face-centred group: matrices with entries beside the axes.
    "Hall: -F 4 2 3 (-x+y+z,x-y+z,x+y-z)": 48,
}


class Result(NamedTuple):
    counts: np.ndarray
    norm: np.ndarray
    many: np.ndarray
    chi2: np.ndarray
    agreement: symmetrise.Agreement
    maps: symmetrise.Images
    variance: np.ndarray | None


def run(
    grid: Grid,
    symbol: str,
    counts: np.ndarray,
    norm: np.ndarray,
    variance: np.ndarray | None = None,
    *,
    n_sigma: float = 1e6,
    tolerance: float = 0.0,
    bragg_radius: float = 0.0,
    threads: int = 1,
    folder: Path | None = None,
) -> Result:
    """Symmetrise volumes (n, l, k, h)."""
    group = symmetry.space_group(symbol)
    maps = symmetrise.images(grid, group.laue_operations)
    whole = maps.exact and np.issubdtype(counts.dtype, np.integer) and variance is None
    sizes = grid, len(counts), variance is not None, whole, not maps.exact
    shared = None
    if folder is not None:
        path = folder / "scratch"
        path.write_bytes(bytes(symmetrise.Records.size_of(*sizes)))
        with path.open("r+b") as file:
            shared = mmap.mmap(file.fileno(), 0)
    records = symmetrise.Records(*sizes, shared)
    parts = [counts, norm] if variance is None else [counts, norm, variance]
    for first in range(0, grid.array_shape[0], 16):
        records.put((first, 0), [part[:, first : first + 16] for part in parts])
    agreement = symmetrise.apply(
        records,
        maps,
        symmetry.constrain_cell(GENERIC, group),
        n_sigma=n_sigma,
        tolerance=tolerance,
        bragg_radius=bragg_radius,
        threads=threads,
    )
    found = records.planes(0, grid.array_shape[0])
    shown = records.maps(0, grid.array_shape[0])
    return Result(*found[:2], *shown, agreement, maps, found[2] if len(found) > 2 else None)


def indices(grid: Grid) -> np.ndarray:
    """Twice the hkl in steps, of all voxels: whole numbers also half a step off centre."""
    axes = [np.rint(2 * grid.axis(i) / grid.step[i]).astype(int) for i in range(3)]
    l, k, h = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")  # noqa: E741
    return np.stack([h, k, l], axis=-1).reshape(-1, 3)


def laue(symbol: str) -> np.ndarray:
    """Operations (n, 3, 3) of the Laue group on rows of hkl, by gemmi."""
    hall = symbol.removeprefix("Hall: ")
    group = (
        gemmi.SpaceGroup(symbol).operations() if hall == symbol else gemmi.symops_from_hall(hall)
    )
    rotations = np.array([op.rot for op in group.sym_ops]) // gemmi.Op.DEN
    return np.unique(np.concatenate([rotations, -rotations]), axis=0)


def orbits(grid: Grid, symbol: str) -> np.ndarray:
    """Number of the orbit of each voxel: equivalents have the same last of all images."""
    images = indices(grid) @ laue(symbol) @ [10**6, 10**3, 1]
    return np.unique(images.max(axis=0), return_inverse=True)[1].ravel()


def made(grid: Grid, n: int = 2, seed: int = 1, mean: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Counts and norms of partly measured volumes."""
    rng = np.random.default_rng(seed)
    shape = (n, *grid.array_shape)
    norm = (rng.integers(1, 9, shape) * (rng.random(shape) < 0.7)).astype(np.float32)
    return rng.poisson(mean * norm).astype(np.uint32), norm


CENTRED = Grid(np.array([-0.8, -0.8, -0.8]), np.full(3, 0.1), (17, 17, 17))
BESIDE = Grid(np.array([-0.3, -0.5, -0.9]), np.full(3, 0.1), (18, 13, 11))
HALF = Grid(np.array([-0.45, -0.35, -0.85]), np.full(3, 0.1), (9, 15, 17))


def with_one_step(symbol: str) -> bool:
    """Whether operations stay whole for a grid of which no voxel's centre is at 0."""
    return bool(np.all(np.abs(laue(symbol)).sum(axis=1) == 1))


@pytest.mark.parametrize("symbol", SETTINGS)
@pytest.mark.parametrize("grid", [CENTRED, BESIDE, HALF], ids=["centred", "beside", "half"])
def test_sums_are_those_of_the_orbits_that_gemmi_finds(symbol: str, grid: Grid) -> None:
    if grid is HALF and not with_one_step(symbol):
        assert not symmetrise.images(grid, symmetry.space_group(symbol).laue_operations).exact
        return
    counts, norm = made(grid)
    counts[norm == 0] = 0
    result = run(grid, symbol, counts, norm)
    assert result.maps.exact
    assert len(result.maps.turns) == SETTINGS[symbol]
    orbit = orbits(grid, symbol)
    shape = grid.array_shape
    for found, given in ((result.counts, counts), (result.norm, norm)):
        sums = np.bincount(orbit, given.sum(axis=0, dtype=float).ravel())
        np.testing.assert_array_equal(found, sums[orbit].reshape(shape))
    many = np.bincount(orbit, (norm > 0).sum(axis=0).ravel())[orbit].reshape(shape)
    np.testing.assert_array_equal(result.many, many)
    table = result.agreement.table.sum(axis=0)
    assert table[kernels.INSIDE] == orbit.size
    assert table[kernels.BEFORE] == np.count_nonzero((norm > 0).any(axis=0))
    assert table[kernels.AFTER] == np.count_nonzero(many)
    assert table[kernels.OBSERVED] == np.count_nonzero(norm)
    assert table[kernels.REJECTED] == 0


def test_twice_is_once() -> None:
    counts, norm = made(CENTRED, 1)
    once = run(CENTRED, "P 6/m m m", counts, norm)
    again = run(
        CENTRED,
        "P 6/m m m",
        once.counts.astype(np.uint32)[None],
        once.norm.astype(np.float32)[None],
    )
    # Sums grow by the number of voxels in the orbit, S does not change in a bit.
    orbit = orbits(CENTRED, "P 6/m m m")
    size = np.bincount(orbit)[orbit].reshape(CENTRED.array_shape)
    np.testing.assert_array_equal(again.counts, size * once.counts)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(again.counts / again.norm, once.counts / once.norm)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_file_and_threads_change_nothing(tmp_path: Path, whole: bool) -> None:
    grid = Grid(np.array([-1.2, -1.1, -2.0]), np.full(3, 0.1), (27, 25, 41))
    counts, norm = made(grid)
    given = counts if whole else counts * 1.7
    first = run(grid, "P -3 1 m", given, norm, n_sigma=3)
    other = run(grid, "P -3 1 m", given, norm, n_sigma=3, threads=3, folder=tmp_path)
    for a, b in zip(first[:4], other[:4], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first.agreement.table, other.agreement.table)
    np.testing.assert_array_equal(first.agreement.rejected, other.agreement.rejected)
    assert first.agreement.rejected.sum() > 0


@pytest.mark.slow
def test_unequal_steps_are_dealt_and_keep_the_rate() -> None:
    # h and k alike, l coarser: 4/mmm is exact, the three-fold axes are not.
    grid = Grid(np.array([-1.2, -1.2, -1.2]), np.array([0.1, 0.1, 0.15]), (25, 25, 17))
    group = symmetry.space_group("P m -3 m")
    maps = symmetrise.images(grid, group.laue_operations)
    assert (maps.exact, len(maps.turns), len(maps.dealt_turns)) == (False, 16, 2)
    hkl = (indices(grid) / 2 * grid.step).reshape(*grid.array_shape, 3)
    truth = 5 + np.sum(hkl**2, axis=-1)
    norm = np.full((1, *grid.array_shape), 2.0, np.float32)
    smooth = run(grid, "P m -3 m", truth * norm, norm)
    # Linear interpolation of x² is too high by up to step² / 4 along each axis.
    error = smooth.counts / smooth.norm - truth
    assert np.all(np.abs(error) < 0.25 * np.sum(grid.step**2) + 1e-6)
    assert error.max() > 1e-3
    # The error of a sum over a region that no operation takes to itself is that of its counts;
    # a little less, for only parts of those at its edges are in it.
    region = np.s_[13:17, 16:19, 13:16]
    expected = smooth.counts[region].sum()
    assert expected == pytest.approx(48 * np.sum((truth * norm[0])[region]), rel=0.02)
    rng = np.random.default_rng(3)
    sums = [
        run(grid, "P m -3 m", rng.poisson(truth * norm) + 0.0, norm).counts[region].sum()
        for _ in range(150)
    ]
    pulls = (np.array(sums) - expected) / np.sqrt(expected)
    assert abs(pulls.mean()) < 3.5 / np.sqrt(150)
    assert 0.75 < pulls.std() < 1.1


def test_dealt_images_fill_what_was_not_measured() -> None:
    grid = Grid(np.array([-1.2, -1.2, -1.2]), np.array([0.1, 0.1, 0.15]), (25, 25, 17))
    norm = np.full((1, *grid.array_shape), 2.0, np.float32)
    norm[:, :5] = 0
    norm[:, -5:] = 0
    result = run(grid, "P m -3 m", 3.0 * norm, norm)
    table = result.agreement.table.sum(axis=0)
    assert table[kernels.BEFORE] == np.count_nonzero(norm)
    assert table[kernels.AFTER] == np.count_nonzero(result.norm) > table[kernels.BEFORE]
    # All but where the l of every image is beyond what was measured.
    beyond = np.min(np.abs(indices(grid) / 2 * grid.step), axis=1) > 0.45 + 0.15
    np.testing.assert_array_equal(result.norm.ravel()[beyond], 0)
    assert np.count_nonzero(result.norm == 0) < 1.5 * np.count_nonzero(beyond)
    seen = result.norm > 0
    np.testing.assert_allclose(result.counts[seen] / result.norm[seen], 3, rtol=1e-12)


def test_a_group_that_does_not_go_with_the_cell_is_refused() -> None:
    operations = symmetry.space_group("P m -3 m").laue_operations
    symmetrise.require_metric([5, 5.02, 5, 90, 90, 90.2], operations, "P m -3 m")
    with pytest.raises(HklflowError, match="symmetry 'P m -3 m' does not match the cell"):
        symmetrise.require_metric([5, 5, 5.5, 90, 90, 90], operations, "P m -3 m")
    hexagonal = symmetry.space_group("P 6/m").laue_operations
    with pytest.raises(HklflowError, match="does not match the cell"):
        symmetrise.require_metric([5, 5, 5, 90, 90, 60], hexagonal, "P 6/m")


# ------------------------------------------------------------------- statistics

WIDE = Grid(np.array([-2.3, -2.3, -2.3]), np.full(3, 0.1), (47, 47, 47))


def symmetric_rate(grid: Grid, symbol: str, mean: float) -> np.ndarray:
    """S of |Q| alone: what every Laue group keeps."""
    cell = symmetry.constrain_cell(GENERIC, symmetry.space_group(symbol))
    hkl = indices(grid) / 2 * grid.step
    q = np.linalg.norm(hkl @ lattice.b_matrix(cell).T, axis=1).reshape(grid.array_shape)
    return mean * (1 + 0.5 * np.cos(4 * q))


@pytest.mark.parametrize("symbol", ["P m m m", "P 6/m m m", "P m -3 m"])
def test_pulls_of_few_counts_also_on_and_near_mirrors(symbol: str) -> None:
    rng = np.random.default_rng(11)
    rate = symmetric_rate(WIDE, symbol, 0.5)
    orbit = orbits(WIDE, symbol)
    leader = np.zeros(orbit.max() + 1, int)
    leader[orbit] = np.arange(orbit.size)
    size = np.bincount(orbit)
    special = size < size.max()
    pulls: dict[str, list[np.ndarray]] = {"all": [], "special": [], "near": []}
    edge = np.abs(indices(WIDE)[leader] / 2)
    near = (edge.min(axis=1) <= 2) & ~special
    for _ in range(4):
        norm = rng.uniform(0.3, 1.7, (1, *WIDE.array_shape)).astype(np.float32)
        counts = rng.poisson(rate * norm).astype(np.uint32)
        result = run(WIDE, symbol, counts, norm, n_sigma=6, tolerance=0.1)
        assert result.agreement.rejected.sum() == 0
        data, errors = estimator.intensity(result.counts, result.norm, 2)
        pull = ((data - rate) / errors).ravel()[leader]
        pulls["all"].append(pull)
        pulls["special"].append(pull[special])
        pulls["near"].append(pull[near])
    for name, parts in pulls.items():
        values = np.concatenate(parts)
        noise = 1 / np.sqrt(values.size)
        assert abs(values.mean()) < 0.02 + 3 * noise, name
        assert abs(values.std() - 1) < 0.05 + 3 * noise, name


def test_streaks_in_one_volume_are_left_out_and_nothing_else() -> None:
    rng = np.random.default_rng(5)
    rate = symmetric_rate(WIDE, "P m m m", 6.0)
    norm = rng.uniform(0.5, 1.5, (3, *WIDE.array_shape)).astype(np.float32)
    counts = rng.poisson(rate * norm).astype(np.uint32)
    streak = np.zeros(counts.shape, bool)
    streak[1, 30, 31, 3:40] = streak[1, 12:40, 9, 40] = True
    counts[streak] += rng.poisson(120, streak.sum()).astype(np.uint32)
    result = run(WIDE, "P m m m", counts, norm, n_sigma=6, tolerance=0.1)
    found = result.agreement.rejected
    assert found[0] + found[2] <= 1e-4 * streak[0].size
    assert found[1] == pytest.approx(streak.sum(), abs=1 + 1e-4 * streak[0].size)
    # As if it had never been measured.
    clean = norm.copy()
    clean[streak] = 0
    without = run(WIDE, "P m m m", np.where(streak, 0, counts), clean)
    np.testing.assert_array_equal(result.counts, without.counts)
    # Without the rejection the map tells of it.
    kept = run(WIDE, "P m m m", counts, norm)
    hit = streak.any(axis=0)
    assert np.median(kept.chi2[hit]) > 10
    assert result.agreement.total(kernels.CHI2) / result.agreement.total(kernels.DOF) < 1.01


@pytest.mark.parametrize(("mean", "n_sigma"), [(0.02, 4.0), (0.5, 4.0), (20.0, 4.0), (0.5, 6.0)])
def test_poisson_noise_is_not_biased_by_the_rejection(mean: float, n_sigma: float) -> None:
    rng = np.random.default_rng(7)
    norm = np.ones((2, *WIDE.array_shape), np.float32)
    counts = rng.poisson(mean * norm).astype(np.uint32)
    # No systematic difference is allowed: the strictest case.
    result = run(WIDE, "P 4/m m m", counts, norm, n_sigma=n_sigma)
    rejected = result.agreement.rejected.sum()
    # Chernoff's bound on both tails, which Poisson data stay well below.
    assert rejected <= 2 * np.exp(-(n_sigma**2) / 2) * norm.size
    raw = run(WIDE, "P 4/m m m", counts, norm)
    change = (result.counts / result.norm).mean() / (raw.counts / raw.norm).mean() - 1
    assert abs(change) < 2e-4
    chi2, dof = (raw.agreement.total(column) for column in (kernels.CHI2, kernels.DOF))
    # Where too few are expected, χ² is not known.
    assert (dof > 0) == (mean > 0.1)
    assert abs(chi2 - dof) <= 5 * np.sqrt(2 * dof)


def test_two_that_disagree_are_both_kept_and_show() -> None:
    grid = Grid(np.array([0.1, 0.1, 0.1]), np.full(3, 0.1), (8, 8, 8))
    norm = np.ones((2, 8, 8, 8), np.float32)
    counts = np.full((2, 8, 8, 8), 100, np.uint32)
    counts[1, 3, 3, 3] = 400
    result = run(grid, "P -1", counts, norm, n_sigma=6)
    assert result.agreement.rejected.sum() == 0
    assert (result.counts[3, 3, 3], result.many[3, 3, 3]) == (500, 2)
    # (100 - 250)² / 250 twice.
    assert result.chi2[3, 3, 3] == pytest.approx(180)
    assert result.chi2[0, 0, 0] == 0
    single = run(grid, "P -1", counts[:1], norm[:1])
    assert np.all(np.isnan(single.chi2))


def test_tolerance_lets_relative_differences_pass() -> None:
    rng = np.random.default_rng(2)
    norm = np.ones((4, *WIDE.array_shape), np.float32)
    factor = np.array([1.06, 1.0, 0.97, 0.97])[:, None, None, None]
    counts = rng.poisson(1e5 * factor * norm).astype(np.uint32)
    strict = run(WIDE, "P -1", counts, norm, n_sigma=6)
    assert strict.agreement.rejected.sum() > 0.2 * norm.size
    mild = run(WIDE, "P -1", counts, norm, n_sigma=6, tolerance=0.1)
    assert mild.agreement.rejected.sum() == 0


def test_read_noise_is_no_outlier_and_its_variance_is_added() -> None:
    rng = np.random.default_rng(9)
    read = rng.uniform(0.05, 4, (2, *WIDE.array_shape))
    norm = rng.uniform(0.5, 1.5, read.shape).astype(np.float32)
    counts = rng.poisson(0.3 * norm) + rng.normal(0, np.sqrt(read))
    result = run(WIDE, "P m m m", counts, norm, counts + read, n_sigma=6)
    # Two photons where 0.3 are expected are no outlier, as they would be for a normal law.
    assert result.agreement.rejected.sum() <= 1e-5 * norm.size
    chi2 = result.agreement.total(kernels.CHI2) / result.agreement.total(kernels.DOF)
    assert chi2 == pytest.approx(1, abs=0.05)
    orbit = orbits(WIDE, "P m m m")
    assert result.variance is not None
    summed = np.bincount(orbit, (counts + read).sum(axis=0).ravel())[orbit]
    np.testing.assert_allclose(result.variance.ravel(), summed, rtol=1e-9, atol=1e-9)
    counts[0, 20, 30, 10] += 60
    spoiled = run(WIDE, "P m m m", counts, norm, counts + read, n_sigma=6)
    assert spoiled.agreement.rejected[0] == result.agreement.rejected[0] + 1


def test_voxels_that_would_spoil_their_equivalents_are_told_where_they_were_measured() -> None:
    counts = np.array([[5.0, np.nan, np.inf, np.nan, 2.0, 3.0]])
    norm = np.array([[1.0, 1.0, 1.0, 0.0, -1.0, np.inf]])
    variance = np.array([[5.0, 1.0, 1.0, 0.0, 2.0, 3.0]])
    told = symmetrise.leave_out_unusable([counts, norm, variance])
    assert told.tolist() == [4]  # all but the one of norm 0
    for part, kept in ((counts, 5), (norm, 1), (variance, 5)):
        assert part.tolist() == [[kept, 0, 0, 0, 0, 0]]


def test_half_correlation_is_that_of_signal_and_noise() -> None:
    rng = np.random.default_rng(4)
    orbit = orbits(WIDE, "P m m m")
    # A random S with the symmetry: variance 4 around 10, 8 observations in most orbits.
    truth = np.maximum(rng.normal(10, 2, orbit.max() + 1), 0)[orbit].reshape(WIDE.array_shape)
    norm = np.full((1, *WIDE.array_shape), 0.5, np.float32)
    counts = rng.poisson(truth * norm).astype(np.uint32)
    result = run(WIDE, "P m m m", counts, norm)
    # Each half: variance of the mean of 4 observations of norm 1/2.
    expected = 4 / (4 + 10 / (4 * 0.5))
    assert result.agreement.overall_half_correlation == pytest.approx(expected, abs=0.03)
    nothing = rng.poisson(10 * norm).astype(np.uint32)
    none = run(WIDE, "P m m m", nothing, norm)
    assert abs(none.agreement.overall_half_correlation) < 0.05


def test_a_fall_of_s_with_q_does_not_make_halves_agree() -> None:
    """Two orders of magnitude that |Q| explains, and nothing else."""
    rng = np.random.default_rng(5)
    cell = symmetry.constrain_cell(GENERIC, symmetry.space_group("P m m m"))
    q_vectors = indices(WIDE) / 2 * WIDE.step @ lattice.b_matrix(cell).T
    q = np.linalg.norm(q_vectors, axis=1).reshape(1, *WIDE.array_shape)
    rate = 100 * np.exp(-4.6 * q / q.max())
    result = run(
        WIDE, "P m m m", rng.poisson(rate).astype(np.uint32), np.ones(rate.shape, np.float32)
    )
    assert abs(result.agreement.overall_half_correlation) < 0.1
    seen = result.agreement.half_correlation
    assert np.nanmin(seen) <= result.agreement.overall_half_correlation <= np.nanmax(seen)


def test_bragg_peaks_do_not_make_halves_agree() -> None:
    rng = np.random.default_rng(8)
    norm = np.ones((1, *WIDE.array_shape), np.float32)
    counts = rng.poisson(10 * norm).astype(np.uint32)
    hkl = indices(WIDE) / 2 * WIDE.step
    at = np.all(np.abs(hkl - np.rint(hkl)) < 0.11, axis=1).reshape(norm.shape)
    # Sharp peaks do not fall into the voxels alike.
    counts[at] = rng.integers(100, 100000, at.sum())
    open_to = run(WIDE, "P m m m", counts, norm, n_sigma=6, tolerance=0.1)
    closed = run(WIDE, "P m m m", counts, norm, n_sigma=6, tolerance=0.1, bragg_radius=0.2)
    assert open_to.agreement.rejected.sum() > 100
    assert open_to.agreement.overall_half_correlation > 0.3
    assert closed.agreement.rejected.sum() == 0
    assert abs(closed.agreement.overall_half_correlation) < 0.05


def groups_of_five(c: np.ndarray, m: np.ndarray, r: np.ndarray) -> float:
    """Return χ² per degree of freedom of observations, in groups of at least 5 expected counts."""
    rate, groups = max(c.sum(), 0) / m.sum(), [[0.0, 0.0, 0.0]]
    for observation in zip(c, m, m * rate + r, strict=True):
        groups[-1] = [a + b for a, b in zip(groups[-1], observation, strict=True)]
        if groups[-1][2] >= 5:
            groups.append([0.0, 0.0, 0.0])
    remainder = groups.pop()
    if len(groups) < 2:
        return np.nan
    groups[-1] = [a + b for a, b in zip(groups[-1], remainder, strict=True)]
    chi2 = sum((count - norm * rate) ** 2 / variance for count, norm, variance in groups)
    shares = sum(norm**2 / variance for _, norm, variance in groups)
    variance = sum(variance for *_, variance in groups)
    return float(chi2 / (len(groups) - 2 + variance * shares / m.sum() ** 2))


@pytest.mark.parametrize("noisy", [False, True])
def test_disagreement_and_spread_orbit_by_orbit(noisy: bool) -> None:
    # More orbits than a batch, with voxels on the centre and partly measured voxels.
    counts, norm = made(BESIDE, 3, mean=2.0)
    rng = np.random.default_rng(6)
    read = rng.uniform(0.2, 2, norm.shape) if noisy else np.zeros(norm.shape)
    counts = np.where(norm > 0, counts, 0).astype(float if noisy else np.uint32)
    result = run(BESIDE, "P m m m", counts, norm, counts + read if noisy else None)
    orbit = orbits(BESIDE, "P m m m")
    chi2 = result.chi2.ravel()
    spread = 0.0
    # The order of the observations: the operations of the kernel, and volumes within each.
    places = {tuple(at): i for i, at in enumerate(indices(BESIDE))}
    known = 0
    for number in range(orbit.max() + 1):
        members = np.flatnonzero(orbit == number)
        last = max(members, key=lambda i: brick_number(BESIDE, i))
        ordered = []
        for turn in result.maps.turns:
            mate = places.get(tuple(turn @ indices(BESIDE)[last]))
            if mate is not None and mate not in ordered:
                ordered.append(mate)
        c, m, r = (
            part.reshape(3, -1)[:, ordered].T.ravel().astype(float) for part in (counts, norm, read)
        )
        used = m > 0
        c, m, r = c[used], m[used], r[used]
        expected = groups_of_five(c, m, r) if used.any() else np.nan
        np.testing.assert_allclose(chi2[members], expected, rtol=1e-5)
        known += np.isfinite(expected)
        if used.sum() >= 2:
            spread += np.abs(c - m * c.sum() / m.sum()).sum()
    assert known > 100
    assert result.agreement.total(kernels.SPREAD) == pytest.approx(spread, rel=1e-9)


def brick_number(grid: Grid, i: int) -> tuple[int, ...]:
    """Return what orders the voxels in memory: brick along l, k, h, then voxel along l, k, h."""
    at = np.unravel_index(i, grid.array_shape)
    return (*(int(x) // 8 for x in at), *(int(x) % 8 for x in at))
