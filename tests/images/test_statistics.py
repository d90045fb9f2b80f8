import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.images.statistics import FrameStatistics, part_ends, propose_peak_threshold
from hklflow.images.statistics_kernels import _bounds, _is_calm, _surely_calm

SHAPE = (40, 52)


def run(frames, mask=None, annulus=None, size=5, **options):
    mask = np.zeros(frames.shape[1:], bool) if mask is None else mask
    statistics = FrameStatistics(mask, annulus, **options)
    for start in range(0, len(frames), size):
        statistics.add(frames[start : start + size])
    return statistics.result()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.float32])
def test_sums_and_maximum_are_exact(dtype):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 60000, (12, *SHAPE)).astype(dtype)
    mask = rng.random(SHAPE) < 0.1
    frames[:, mask] = 65000  # the largest of all, but masked
    frames[7, 11, 13] = frames[9, 3, 3] = 64000
    mask[11, 13] = mask[3, 3] = False
    flags = rng.random(frames.shape) < 0.02
    flags[7, 11, 13] = flags[9, 3, 3] = False
    unsigned = np.issubdtype(dtype, np.unsignedinteger)
    flag = np.iinfo(dtype).max if unsigned else (-1 if dtype is np.int32 else np.nan)
    frames[flags] = flag
    result = run(frames, mask, invalid_from=float(flag) if unsigned else np.inf)
    good = ~flags & ~mask
    truth = np.where(good, np.nan_to_num(frames), 0).astype(np.int64)
    assert (result.maximum, result.maximum_at) == (64000, (7, 11, 13))
    assert np.array_equal(result.frame_sums, truth.sum(axis=(1, 2)))
    assert np.array_equal(result.summed, truth.sum(axis=0))
    assert np.array_equal(result.maximum_image, truth.max(axis=0))
    assert np.array_equal(result.valid_frames, good.sum(axis=0))
    assert np.array_equal(result.frame_flagged, (flags & ~mask).sum(axis=(1, 2)))
    assert np.isnan(result.mean_image[mask]).all()
    assert np.isnan(result.background).all()  # no annulus was asked for


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_rows_and_columns_that_fill_no_cell_count(dtype):
    frames = np.random.default_rng(4).poisson(8, (9, 42, 67)).astype(dtype)
    labels = np.full(frames.shape[1:], 2)
    labels[:, :35] = 0
    result = run(frames, labels=labels, annulus=np.ones(labels.shape, bool))
    assert np.array_equal(result.frame_sums, frames.sum(axis=(1, 2)))
    assert np.array_equal(result.radial_sums[:, 0], frames[:, :, :35].sum(axis=(1, 2)))
    assert np.array_equal(result.radial_sums[:, 2], frames[:, :, 35:].sum(axis=(1, 2)))
    assert (result.radial_counts == [42 * 35, 0, 42 * 32]).all()
    assert np.abs(result.background / 8 - 1).max() < 4 / np.sqrt(8 * labels.size * 0.7)


def test_more_frames_than_the_narrow_sums_hold():
    """Every pixel has the largest value that 8 bits tell, and some have more."""
    frames = np.full((300, 12, 70), 254, np.uint16)
    frames[7, 5, 6] = frames[299, 5, 6] = 60000
    result = run(frames, size=64)
    truth = frames.astype(np.int64)
    assert np.array_equal(result.summed, truth.sum(axis=0))
    assert np.array_equal(result.maximum_image, truth.max(axis=0))
    assert (result.maximum, result.maximum_at) == (60000, (7, 5, 6))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
@pytest.mark.parametrize("ends", [[1, 5, 300], [256, 257, 280], [7, 150, 299]])
def test_partial_sums_are_those_of_their_frames(dtype, ends):
    """Also at both sides of the frame at which the narrow sums are full, and with flags."""
    rng = np.random.default_rng(8)
    frames = rng.poisson(30, (300, 13, 70)).astype(dtype)
    frames[17, 5, 6] = frames[256, 5, 6] = frames[299, 5, 6] = 60000
    mask = rng.random(frames.shape[1:]) < 0.1
    frames[40:60, 3, 4] = flag = 65535
    images = []
    add = {"part_ends": ends, "on_part": lambda image: images.append(image.copy())}
    result = run(frames, mask, size=64, invalid_from=flag, **add)
    truth = np.where((frames == flag) | mask, 0, frames)
    expected = [part.sum(axis=0) for part in np.split(truth, ends)[:-1]]
    assert np.array_equal(images, expected)
    assert np.array_equal(result.summed, truth.sum(axis=0))
    plain = run(frames, mask, size=64, invalid_from=flag)
    for name in ("summed", "maximum_image", "frame_sums", "valid_frames"):
        assert np.array_equal(getattr(plain, name), getattr(result, name))


def test_floats_are_added_range_by_range():
    frames = np.random.default_rng(2).gamma(2, 3, (120, 5, 7)).astype(np.float32)
    images = []
    ends = part_ends(120)
    add = {"part_ends": ends, "on_part": lambda image: images.append(image.copy())}
    assert np.array_equal(run(frames, **add).summed, np.sum(images, axis=0))


@pytest.mark.parametrize("n", [0, 1, 99, 100, 101, 149, 360, 799, 800, 3650])
def test_partial_sums_are_few_and_of_almost_equal_length(n):
    ends = part_ends(n)
    if n < 100:
        assert ends == []
        return
    sizes = np.diff([0, *ends])
    assert 2 <= len(ends) <= 16
    assert ends[-1] == n
    assert sizes.min() >= 50
    assert np.ptp(sizes) <= 1


def test_the_first_of_equal_maxima_that_need_no_more_than_eight_bits():
    frames = np.random.default_rng(5).poisson(3, (6, 20, 30)).astype(np.uint16)
    frames[3, 7, 8] = frames[3, 9, 2] = frames[5, 0, 0] = 100
    frames[1, 2, 3] = 65535
    result = run(frames, invalid_from=65535)
    assert (result.maximum, result.maximum_at) == (100, (3, 7, 8))
    assert result.valid_frames[2, 3] == 5


def test_sums_do_not_overflow():
    frames = np.full((9, *SHAPE), 2**32 - 2, np.uint32)
    result = run(frames, invalid_from=2**32 - 1)
    assert result.summed[0, 0] == 9 * (2**32 - 2)
    assert result.frame_sums[3] == SHAPE[0] * SHAPE[1] * (2**32 - 2)
    small = run(np.full((9, *SHAPE), 65534, np.uint16))
    assert small.summed.sum() == 9 * SHAPE[0] * SHAPE[1] * 65534
    with pytest.raises(HklflowError, match="32 bits"):
        run(frames.astype(np.uint64))


@pytest.mark.parametrize("size", [1, 3, 30])
def test_the_size_of_the_blocks_does_not_matter(size):
    rng = np.random.default_rng(1)
    frames = rng.gamma(2, 3, (30, *SHAPE)).astype(np.float32)
    annulus = rng.random(SHAPE) < 0.7
    labels = rng.integers(-1, 9, SHAPE)
    one = run(frames, annulus=annulus, labels=labels, size=7)
    other = run(frames, annulus=annulus, labels=labels, size=size)
    assert vars(one).keys() == vars(other).keys()
    assert one.summed.sum() == pytest.approx(frames.sum(dtype=float), rel=1e-5)
    assert one.radial_counts.sum() == 30 * (labels >= 0).sum()
    for name in vars(one):
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True), name


def test_radial_sums():
    frames = np.random.default_rng(2).poisson(5, (4, *SHAPE)).astype(np.uint32)
    labels = np.random.default_rng(3).integers(-1, 6, SHAPE)
    mask = np.zeros(SHAPE, bool)
    mask[5:9] = True
    result = run(frames, mask, labels=labels)
    for label in range(6):
        inside = (labels == label) & ~mask
        assert np.array_equal(result.radial_sums[:, label], frames[:, inside].sum(axis=1))
        assert (result.radial_counts[:, label] == inside.sum()).all()


def rotation(seed, n=200, level=4.0):
    """Frames through an absorbing crystal: transmission, monitor, and counts with Bragg peaks."""
    rng = np.random.default_rng(seed)
    z = np.arange(n)
    truth = 1 + 0.1 * np.sin(2 * np.pi * z / 360 + 0.7)
    # Decay, one refill and 0.5 % noise.
    monitor = (1 - 0.3 * ((z % 120) / 120)) * (1 + 0.005 * rng.standard_normal(n))
    slow, fast = np.mgrid[:160, :170] + 0.5
    r = np.hypot(slow - 80, fast - 70)
    shape = level * (0.5 + np.exp(-r / 60))
    spot = np.exp(-((np.arange(-6, 7)[:, None]) ** 2 + np.arange(-6, 7) ** 2) / (2 * 1.3**2))
    frames = rng.poisson(shape * (truth * monitor)[:, None, None]).astype(np.uint32)
    for frame in frames:
        for s, f in rng.integers(6, 150, (rng.integers(5, 25), 2)):
            height = 10 ** rng.uniform(1, 4)
            frame[s - 6 : s + 7, f - 6 : f + 7] += rng.poisson(height * spot).astype(np.uint32)
    annulus = (r > 30) & (r < 75)
    return truth / np.median(truth), monitor, frames, annulus, shape


def test_background_is_unbiased_and_ignores_flags_and_peaks():
    _, monitor, frames, annulus, shape = rotation(6, n=60)
    truth = shape[annulus].mean() * (1 + 0.1 * np.sin(2 * np.pi * np.arange(60) / 360 + 0.7))
    truth = truth * monitor
    flagged = frames.copy()
    flagged[:, ::9, ::7] = 2**32 - 1
    for data in (frames, flagged):
        result = run(data, annulus=annulus, invalid_from=2**32 - 1)
        # Wings of the spots below the cut add up to about 1 % (up to 25 spots on the frame).
        assert np.abs(result.background / truth - 1).mean() < 0.02
        assert np.abs((result.background / truth).std()) < 0.01


@pytest.mark.parametrize("level", [0.02, 0.1, 1.0])
def test_the_background_scales_with_the_exposure_however_few_the_counts(level):
    """At one count per patch a mean trimmed by its own noise is 8 % off between the two."""
    slow, fast = np.mgrid[:240, :240] + 0.5
    shape = level * (0.8 + 0.5 * np.exp(-np.hypot(slow - 120, fast - 110) / 90))
    annulus = np.ones(shape.shape, bool)
    found = []
    for exposure in (1.0, 0.7):
        rng = np.random.default_rng([int(100 * level), int(10 * exposure)])
        frames = rng.poisson(shape * exposure, (150, *shape.shape)).astype(np.uint16)
        found.append(run(frames, annulus=annulus).background.mean() / exposure)
        # The mean of 150 frames, a fifth of the cells left out.
        noise = 1 / np.sqrt(150 * 0.8 * exposure * shape.sum())
        # The trimmed ends are those of a slope: it stays within 1 % of the mean.
        assert found[-1] / shape.mean() == pytest.approx(1, abs=0.01 + 4 * noise)
    assert found[1] / found[0] == pytest.approx(1, abs=0.003 + 6 * noise)


def test_impossible_frames_are_refused():
    mask = np.zeros(SHAPE, bool)
    with pytest.raises(HklflowError, match="annulus"):
        FrameStatistics(mask, mask)
    with pytest.raises(HklflowError, match="shape"):
        FrameStatistics(mask, np.ones((3, 3), bool))
    statistics = FrameStatistics(mask)
    with pytest.raises(HklflowError, match="no valid pixel"):
        statistics.result()
    statistics.add(np.ones((1, *SHAPE), np.uint16))
    with pytest.raises(HklflowError, match="follow frames of type"):
        statistics.add(np.ones((1, *SHAPE), np.uint32))
    with pytest.raises(HklflowError, match="do not match a mask"):
        statistics.add(np.ones((1, 9, 9), np.uint16))


def test_the_proposed_threshold_is_above_the_noise_and_below_a_peak():
    frames = np.random.default_rng(7).poisson(4, (50, *SHAPE)).astype(np.uint16)
    result = run(frames)
    threshold = propose_peak_threshold(result)
    # 1e5 pixel-frames of Poisson(4): P(n >= 15) = 2e-5, P(n >= 18) = 4e-7.
    assert 15 <= threshold <= 18
    assert (frames >= threshold).sum() <= 5
    with pytest.raises(HklflowError):
        propose_peak_threshold(result, 0)


def test_the_quick_look_calls_no_cells_calm_that_are_not():
    """For 2 x 2 cells; the judgement itself is tested by the backgrounds above."""
    rng = np.random.default_rng(8)
    n, found = 4000, np.zeros(3, int)
    for level in (0.05, 1.0, 30.0):
        size = rng.integers(0, 17, (2, n)).astype(np.int32)
        rate = rng.normal(level, 0.2 * level, (2, n)).astype(np.float32)
        ring = rng.random((2, n)) < 0.8
        cells = rng.poisson(size * level * rng.choice([0.5, 1.0, 3.0], (2, n))).astype(np.uint32)
        # Around the limit of the largest pixel.
        limit = 1.5 * level + 6 * np.sqrt(level + 1)
        largest = rng.uniform(0.3 * limit, 1.3 * limit, (2, n)).astype(np.uint8)
        low, top = np.full(n, np.inf, np.float32), np.zeros(n, np.float32)
        for r in range(2):
            _bounds(largest[r], cells[r], size[r], rate[r], ring[r], low, top)
        state = np.zeros(n // 2, np.uint8)
        _surely_calm(low, top, state)
        for q in range(n // 2):
            here = (slice(0, 2), slice(2 * q, 2 * q + 2))
            calm = _is_calm(largest[here], cells[here], size[here], rate[here], ring[here])
            used = (ring[here] & (size[here] > 0)).any()
            assert (state[q] == 0) == (not used)
            assert calm or state[q] != 1
            found[state[q]] += 1
    assert (found[1:] > 300).all()


def test_parts_of_the_detector_tell_what_they_do_not_share() -> None:
    """A level that all share leaves them at 1; a corner that brightens is told by its part."""
    rng = np.random.default_rng(5)
    n, shape = 60, (128, 128)
    common = 1 + 0.5 * np.sin(np.arange(n) / 9)
    fixed = 3 + np.indices(shape).sum(axis=0) / 100  # the same on all frames
    mean = common[:, None, None] * fixed
    own = 1 + 0.1 * np.linspace(-1, 1, n)
    for factor, size in ((np.ones(n), 0.0), (own, 0.1)):
        expected = mean.copy()
        expected[:, :32, :32] *= factor[:, None, None]
        frames = rng.poisson(expected).astype(np.uint16)
        found = run(frames, annulus=np.ones(shape, bool), size=10)
        assert found.parts.shape == (n, 16)
        slope = np.polyfit(np.linspace(-1, 1, n), found.parts, 1)[0]
        assert slope[0] == pytest.approx(size, abs=0.02)
        assert np.abs(slope[1:]).max() < 0.02
        pulls = (found.parts - 1)[:, 1:] / found.parts_errors[:, 1:]
        assert np.std(pulls) == pytest.approx(1, abs=0.15)
