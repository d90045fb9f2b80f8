"""Truth: simulated frames, whose halo and background are known per voxel."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from tests.truth.defaults import mask3d_params

from hklflow.base.errors import HklflowError
from hklflow.images.mask3d import effective_seed, flag_frames, mask_frames, pack, unpack

SHAPE = (30, 242, 318)  # frames, slow, fast; not a multiple of the cells


class Simulated:
    """Expected background, spots and halo of a scan, and the frames drawn from them."""

    def __init__(self, seed, kernel, n_spots=24, gaps=True):
        rng = np.random.default_rng(seed)
        n, rows, columns = SHAPE
        z, slow, fast = np.ogrid[:n, :rows, :columns]
        r = np.hypot(slow - 100.0, fast - 140.0)
        # 1 to 20 counts over the detector; a streak that moves and grows by 10 % over the scan.
        self.background = 1 + 17 * np.exp(-r / 60) * (1 + 0.1 * z / n)
        self.background = self.background + 2 * np.exp(
            -(((slow - 180 - 0.3 * z) / 25) ** 2) - ((fast - 200) / 70) ** 2
        )
        self.spots = np.zeros(SHAPE)
        self.halo = np.zeros(SHAPE)
        self.mask = np.zeros(SHAPE[1:], bool)
        if gaps:
            self.mask[118:135] = True
            self.mask[:, 155:162] = True
        for index in range(n_spots):
            where = rng.uniform((0, 5, 5), (n, rows - 5, columns - 5))
            while gaps and self.mask[int(where[1]), int(where[2])]:  # no sensor there, no halo
                where = rng.uniform((0, 5, 5), (n, rows - 5, columns - 5))
            counts = 10 ** rng.uniform(3.5, 5)
            width, sigma = rng.uniform(0.8, 1.6), rng.uniform(6, 15)
            fraction = rng.uniform(0.01, 0.03)
            if index % 3 == 0:  # enough halo above 3 σ to judge the recall
                counts, sigma, fraction = 1e5, rng.uniform(6, 8), 0.03
            length = rng.integers(1, 6)
            r2 = (slow[0] - where[1] + 0.5) ** 2 + (fast[0] - where[2] + 0.5) ** 2
            spot = np.exp(-r2 / (2 * width**2)) / (2 * np.pi * width**2)
            if kernel == "gaussian":
                halo = np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)
            else:
                halo = np.exp(-np.sqrt(r2) / sigma) / (2 * np.pi * sigma**2)
            first = int(where[0])
            for frame in range(first, min(first + length, n)):
                profile = np.sin(np.pi * (frame - first + 0.5) / length)
                self.spots[frame] += counts * profile * spot
                self.halo[frame] += counts * profile * fraction * halo
        self.frames = rng.poisson(self.background + self.spots + self.halo)

    def scores(self, found):
        """Recall of the halo, of the spots' footprint, and the fraction of clean voxels flagged.

        Clean: halo < 0.1 σ and expected spot < 0.1 σ, σ = sqrt(background). Footprint: expected
        spot > 3 σ. Pixels of the gaps do not count.
        """
        good = ~self.mask & np.ones(SHAPE, bool)
        sigma = np.sqrt(self.background)
        halo = good & (self.halo > 3 * sigma)
        spot = good & (self.spots > 3 * sigma)
        clean = good & (self.halo < 0.1 * sigma) & (self.spots < 0.1 * sigma)
        assert halo.sum() > 100
        assert clean.sum() > 0.5 * good.sum()
        return found[halo].mean(), found[spot].mean(), found[clean].mean()


def run(frames, mask, params=None, size=7):
    blocks = (frames[i : i + size] for i in range(0, len(frames), size))
    return np.concatenate(list(mask_frames(blocks, mask, params or mask3d_params())))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["gaussian", "exponential"])
@pytest.mark.parametrize("gaps", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_halo_and_spots_are_flagged_and_clean_voxels_are_not(kernel, gaps, seed):
    truth = Simulated(seed, kernel, gaps=gaps)
    found = run(truth.frames.astype(np.int32), truth.mask if gaps else None)
    halo, spot, clean = truth.scores(found)
    assert halo >= 0.95
    assert spot >= 0.95
    assert clean <= 0.01


@pytest.fixture(scope="module")
def scan():
    return Simulated(7, "gaussian")


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32])
def test_the_type_of_the_counts_does_not_matter(scan, dtype):
    frames = np.minimum(scan.frames, 60000)  # fits uint16, exact in float32
    expected = run(frames.astype(np.int32), scan.mask)
    assert expected.any()
    assert np.array_equal(run(frames.astype(dtype), scan.mask), expected)


@pytest.mark.parametrize("size", [1, 4, 15, 30])
def test_the_size_of_the_blocks_does_not_matter(scan, size):
    assert np.array_equal(run(scan.frames, scan.mask, size=size), run(scan.frames, scan.mask))


def test_what_stands_in_the_gaps_does_not_matter(scan):
    flagged = scan.frames.astype(np.int32)
    flagged[:, scan.mask] = -1
    wild = scan.frames.astype(np.uint32)
    wild[:, scan.mask] = 2**32 - 1
    expected = run(scan.frames, scan.mask)[:, ~scan.mask]
    assert np.array_equal(run(flagged, None)[:, ~scan.mask], expected)
    params = mask3d_params(flag_from=2**32 - 1)
    assert np.array_equal(run(wild, None, params)[:, ~scan.mask], expected)
    nan = scan.frames.astype(np.float32)
    nan[:, scan.mask] = np.nan
    assert np.array_equal(run(nan, None)[:, ~scan.mask], expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.float32])
@pytest.mark.parametrize("rate", [0.02, 1.0, 20.0, 1000.0])
def test_pure_noise_is_not_flagged(dtype, rate):
    frames = np.random.default_rng(3).poisson(rate, (20, 120, 130)).astype(dtype)
    assert not run(frames, None).any()


def test_a_hot_pixel_that_never_changes_is_no_seed():
    frames = np.random.default_rng(4).poisson(3, (20, 100, 100))
    frames[:, 40, 40] = 30000
    assert not run(frames, None).any()


def test_a_fluctuating_monitor_does_not_spread_the_region():
    rng = np.random.default_rng(10)
    # 1 % rms of the flux is 4 σ of a box of 12 x 12 pixels with 1000 counts each.
    flux = 1 + 0.01 * rng.standard_normal(30)
    flux[12] = 1.02
    frames = rng.poisson(1000 * flux[:, None, None] * np.ones((1, 120, 120)))
    frames[12, 60:63, 60:63] += 30000
    found = run(frames, None)
    assert found[12, 60:63, 60:63].all()
    assert found.sum() <= 24**2
    assert run(frames, None, mask3d_params(min_ratio=0)).sum() > 100**2  # what it prevents


@pytest.mark.parametrize("where", [0, 1, 17, 18, 19])
def test_the_ends_of_the_scan_are_like_the_rest(where):
    frames = np.random.default_rng(5).poisson(3, (20, 100, 100))
    frames[where, 50:53, 50:53] += 2000
    found = run(frames, None)
    assert found[where, 50:53, 50:53].all()
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [where]
    # The spot alone, its cells (at most 8 px) and a margin of one cell and box around.
    assert found.sum() <= 24**2


def test_afterglow_only_where_asked():
    frames = np.random.default_rng(6).poisson(3, (24, 100, 100))
    frames[10, 50:53, 50:53] += 5000
    found = run(frames, None, replace(mask3d_params(), afterglow_frames=3))
    assert np.flatnonzero(found[:, 51, 51]).tolist() == [10, 11, 12, 13]
    assert found[11:14].sum() <= found[10].sum() * 3
    assert not found[14:].any()


def test_overloaded_pixels_are_seeds_unless_they_always_are():
    frames = np.random.default_rng(8).poisson(3, (20, 100, 100)).astype(np.uint32)
    frames[9, 50:52, 50:52] = 2**32 - 2
    frames[:, 80, 80] = 2**32 - 2
    params = mask3d_params(flag_from=2**32 - 1, overload_from=2**32 - 2)
    found = run(frames, None, params)
    assert found[9, 50:52, 50:52].all()
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [9]
    assert not found[9, 76:, 76:].any()


def test_memory_is_a_few_frames_and_the_lag_is_bounded():
    rng = np.random.default_rng(9)
    given = []

    def blocks():
        for z in range(40):
            given.append(z)
            yield rng.poisson(2, (1, 40, 40))

    out = 0
    for block in mask_frames(blocks(), None, mask3d_params(window=15)):
        out += len(block)
        assert len(given) - out <= 15 + 1
    assert out == 40


def test_packing_is_one_bit_per_pixel_and_comes_back():
    block = np.random.default_rng(2).random((3, 17, 21)) < 0.3
    packed = pack(block)
    assert packed.shape == (3, 17, 3)
    assert packed.dtype == np.uint8
    assert packed[0, 0, 0] >> 7 == block[0, 0, 0]
    assert np.array_equal(unpack(packed, 21), block)
    with pytest.raises(HklflowError):
        unpack(packed, 30)


@pytest.mark.parametrize(
    "bad",
    [{"cell": 0}, {"boxes": (2,)}, {"boxes": ()}, {"window": 3}, {"n_sigma": float("nan")}],
)
def test_impossible_parameters_are_refused(bad):
    with pytest.raises(HklflowError):
        mask3d_params(**bad)


def test_impossible_scans_are_refused():
    frames = np.ones((8, 10, 12), np.uint16)
    with pytest.raises(HklflowError, match="the mask has shape"):
        run(frames, np.zeros((12, 10), bool))
    with pytest.raises(HklflowError, match="3 frames"):
        run(frames[:3], None)
    with pytest.raises(HklflowError, match="no frames"):
        list(mask_frames([], None, mask3d_params()))
    with pytest.raises(HklflowError, match="follow frames of shape"):
        list(mask_frames([frames, frames[:, :5]], None, mask3d_params()))


def test_a_spot_without_halo_costs_its_cell_and_the_margin():
    frames = np.random.default_rng(11).poisson(3, (20, 100, 100))
    frames[10, 48:51, 48:51] += 10000  # inside the cell 48 to 51
    expected = np.zeros(frames.shape, bool)
    expected[10, 44:56, 44:56] = True
    assert np.array_equal(run(frames, None), expected)


def test_weak_frames_of_a_strong_spot_are_flagged_and_weak_spots_are_not():
    frames = np.random.default_rng(12).poisson(3, (20, 100, 100))
    frames[9:12, 48:51, 48:51] += 20  # 180 counts: significant, but no seed
    assert not run(frames, None).any()
    frames[10, 48:51, 48:51] += 1000
    assert np.flatnonzero(run(frames, None)[:, 49, 49]).tolist() == [9, 10, 11]


def wide_halo():
    """Halo of 4 counts per pixel within 60 px of a spot at (100, 60), on a background of 3."""
    slow, fast = np.mgrid[:200, :200]
    disc = np.hypot(slow - 100, fast - 60) < 60
    frames = np.random.default_rng(13).poisson(3 + 4.0 * disc * np.eye(20)[10][:, None, None])
    frames[10, 100:103, 60:63] += 10000
    return frames, disc


def test_the_halo_is_followed_over_a_gap():
    frames, disc = wide_halo()
    mask = np.zeros(disc.shape, bool)
    mask[:, 72:96] = True  # two boxes wide
    found = run(frames, mask)[10]
    beyond = disc & (np.arange(200) >= 100)
    assert found[beyond].mean() > 0.95


def test_reach_limits_the_region():
    frames, disc = wide_halo()
    slow, fast = np.mgrid[:200, :200]
    distance = np.hypot(slow - 101, fast - 61)
    found = run(frames, None, mask3d_params(reach=24))[10]
    assert found[distance < 20].all()
    # The margin and two cells of rounding.
    assert not found[distance > 24 + 4 + 8 * 2**0.5].any()
    assert run(frames, None)[10][disc].mean() > 0.95


def on_cells(image, cell):
    """Sums of an image over cells."""
    by_row = np.add.reduceat(image, np.arange(0, image.shape[0], cell), axis=0)
    return np.add.reduceat(by_row, np.arange(0, image.shape[1], cell), axis=1)


def plain_excess(counts, valid, own):
    """Excess and variance (slow, fast) of a frame of a window (frame, slow, fast), cell by cell."""
    excess, variance = np.full(counts.shape[1:], np.nan), np.zeros(counts.shape[1:])
    for cell in np.ndindex(excess.shape):
        c, v = counts[:, *cell], valid[:, *cell]
        others = (np.arange(len(c)) != own) & (v > 0)
        if v[own] and others.any():
            rate = np.sort(c[others] * v[own] / v[others])
            rate = rate[rate <= np.median(rate) + 4 * np.sqrt(np.median(rate) + 1)]
            level = np.mean(rate)
            excess[cell] = c[own] - level
            variance[cell] = level * (1 + 1 / len(rate)) + 1
    return excess, variance


def plain_mask(frames, bad, p):
    """The method as the module's text tells it, every cell of every frame, all in memory."""
    flag = np.inf if p.flag_from is None else p.flag_from
    over = flag if p.overload_from is None else p.overload_from
    good = ~bad & (frames >= 0)
    valid = np.array(
        [on_cells((g & (f < over)).astype(int), p.cell) for g, f in zip(good, frames, strict=True)]
    )
    counts = np.array(
        [
            on_cells(np.where(g & (f < over), f, 0), p.cell)
            for g, f in zip(good, frames, strict=True)
        ]
    )
    high = good & (frames >= over) & (frames < flag)
    overloaded = np.array([on_cells(h.astype(int), p.cell) > 0 for h in high])
    n = len(frames)
    blind, significant, seeds = [], [], []
    for z in range(n):
        last = min(max(z + p.window // 2, p.window - 1), n - 1)
        part = slice(max(last - p.window + 1, 0), last + 1)
        own = z - part.start
        excess, variance = plain_excess(counts[part], valid[part], own)
        blind.append(np.isnan(excess))
        excess = np.nan_to_num(excess)
        on_most = np.delete(overloaded[part], own, axis=0).mean(axis=0) > 0.5
        seed = (excess >= p.seed_counts) & (excess >= p.seed_ratio * variance)
        seeds.append(seed | (overloaded[z] & ~on_most))
        found = np.zeros(excess.shape, bool)
        for box in p.boxes:
            capped = np.minimum(excess, 10 * np.sqrt(variance.clip(min=1))) if box > 1 else excess
            total, noise = (
                ndimage.correlate(x, np.ones((box, box)), mode="constant")
                for x in (capped, variance)
            )
            found |= total > np.maximum(p.n_sigma * np.sqrt(noise.clip(min=1)), p.min_ratio * noise)
        significant.append(found)
    radius = int(np.ceil(p.margin / p.cell))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = x * x + y * y <= (radius + 0.5) ** 2
    result = np.zeros(frames.shape, bool)
    for z in range(n):
        start = seeds[z].copy()
        for near in (z - 1, z + 1):
            if 0 <= near < n:
                start |= seeds[near] & significant[z]
        region = np.zeros(start.shape, bool)
        if start.any():
            near = ndimage.distance_transform_edt(~start) <= p.reach / p.cell
            labels, _ = ndimage.label(
                (significant[z] | blind[z] | start) & near, np.ones((3, 3), int)
            )
            region = np.isin(labels, labels[start]) & (significant[z] | start)
        for before in range(max(z - p.afterglow_frames, 0), z):
            region |= seeds[before]
        region = ndimage.binary_dilation(region, disc)
        for slow, fast in np.argwhere(region) * p.cell:
            result[z, slow : slow + p.cell, fast : fast + p.cell] = True
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        mask3d_params(overload_from=3000),
        mask3d_params(cell=3, window=6, boxes=(3, 5), margin=7, reach=20, afterglow_frames=2),
        mask3d_params(cell=5, window=9, boxes=(1,), margin=0, seed_counts=60, overload_from=400),
        mask3d_params(cell=4, window=40, seed_ratio=0.2, flag_from=5000, overload_from=4000),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint64, np.float64])
def test_the_mask_is_that_of_the_plain_method(params, dtype):
    rng = np.random.default_rng(21)
    slow, fast = np.mgrid[:61, :75]
    rate = 3 * (1 + np.sin(fast / 20) ** 2) * np.ones((18, 61, 75))
    # One bright frame edge, gaps, spots with halos at the ends, in the gaps and side by side.
    rate[:, :, 68:] *= 40 if dtype != np.uint8 else 4
    for z, i, j, counts in (
        (0, 30, 30, 9e3),
        (7, 12, 20, 2e4),
        (8, 14, 60, 5e3),
        (17, 50, 70, 4e4),
    ):
        r2 = (slow - i) ** 2 + (fast - j) ** 2
        for frame, part in ((z - 1, 0.1), (z, 1), (z + 1, 0.1)):
            if 0 <= frame < 18:
                rate[frame] += part * counts * np.exp(-r2 / 2) / 6.3
                rate[frame] += part * counts * 0.03 * np.exp(-r2 / 72) / 226
    frames = np.minimum(rng.poisson(rate), 250 if dtype == np.uint8 else 6000)
    bad = np.zeros((61, 75), bool)
    bad[22:27] = True
    bad[:, 40:42] = True
    bad[40, 50] = True
    if np.issubdtype(dtype, np.signedinteger):
        frames[rng.random(frames.shape) < 0.001] = -2
        frames[:, 24] = -1
    expected = plain_mask(frames, bad, params)
    assert 0 < expected.sum() < 0.5 * expected.size
    assert np.array_equal(run(frames.astype(dtype), bad, params), expected)
    for packed, n_good in flag_frames([frames.astype(dtype)], bad, params):
        mask = unpack(packed, 75)
        assert np.array_equal(n_good, (mask & ~bad).sum(axis=(1, 2)))


def test_a_block_may_be_overwritten_once_the_next_is_asked_for(scan):
    frames = scan.frames.astype(np.uint32)
    shared = np.empty((7, *SHAPE[1:]), np.uint32)

    def blocks():
        for start in range(0, len(frames), 7):
            part = frames[start : start + 7]
            shared[: len(part)] = part
            yield shared[: len(part)]
            shared[:] = 10**6

    found = np.concatenate(list(mask_frames(blocks(), scan.mask, mask3d_params())))
    assert np.array_equal(found, run(frames, scan.mask))


def test_the_effective_seed_follows_the_background_of_a_cell():
    """16 pixels of a cell: 20 counts each are 320, below 400; 50 each are 800."""
    frame = np.full((40, 80), 20.0)
    frame[3, 5] = np.nan  # a cell with a masked pixel is left out
    frame[20:24, 20:24] = 1e6  # a peak does not change the median
    settings = mask3d_params(seed_counts=400.0, seed_ratio=1.0, cell=4)
    assert effective_seed(frame, settings) == 400.0
    assert effective_seed(2.5 * frame, settings) == 800.0
    assert effective_seed(np.full((40, 80), np.nan), settings) == 400.0
