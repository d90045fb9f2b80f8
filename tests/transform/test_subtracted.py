"""Expected background of voxels: sums against single pixels, and noise against repeated runs."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.test_transform import GRID, SHAPE, N, simulation
from tests.truth.bragg_scans import rotation_of

from hklflow.geometry.grid import Grid
from hklflow.images.surroundings import Part
from hklflow.transform import surroundings
from hklflow.transform.binning import Accumulator, Readout
from hklflow.transform.sums import Expected
from hklflow.transform.surroundings import Norms

SAMPLES = (1, 2, 1)
INCIDENT = 1.0 + 0.3 * np.cos(np.arange(N))


@cache
def frames() -> np.ndarray:
    found = np.concatenate(list(simulation().frames(8))).astype(np.uint32)
    found[4, 20:30, 10:20] = 2**32 - 1  # flagged on one frame
    return found


def good() -> np.ndarray:
    return simulation().live > 0


def accumulator(
    grid: Grid = GRID, samples: tuple[int, int, int] = SAMPLES, **more: Any
) -> Accumulator:
    s = simulation()
    readout = Readout(2.0**32 - 1)
    return Accumulator(rotation_of(s), s.ub, grid, good() * 1.0, INCIDENT, samples, readout, **more)


def joined(norms: list[Norms]) -> Expected:
    return Expected(np.array([n.pixel for n in norms]), np.array([n.frame for n in norms]))


def plain_sum(pixel: np.ndarray, frame: np.ndarray, grid: Grid = GRID) -> np.ndarray:
    """Sum m(z) f(z) B(p) over valid pixel-frames: counts of floating point, divided evenly."""
    s = simulation()
    summed = Accumulator(rotation_of(s), s.ub, grid, good() * 1.0, INCIDENT, SAMPLES)
    for z in range(N):
        image = np.where(frames()[z] == 2**32 - 1, np.nan, pixel * frame[z])
        summed.add(image[None], z)
    return summed.total()[0]


def test_expected_background_is_the_sum_over_valid_pixel_frames() -> None:
    rng = np.random.default_rng(1)
    B, factor = rng.gamma(2, 3, SHAPE) * good(), 0.3 + 0.5 * np.linspace(0, 1, N)
    i, j = np.indices(SHAPE)
    excluded = np.packbits(np.broadcast_to(np.hypot(i - 30, j - 60) < 20, (N, *SHAPE)), axis=-1)
    parts = [
        Part("a", 0.4 * B, 0.1 * B, factor, 0.0),
        Part("b", 0.6 * B, 0.2 * B, factor, 0.0),
        Part("c", np.full(SHAPE, 2.0) * good(), 0.0 * B, np.ones(N), 0.0),
    ]
    norms = surroundings.norms(parts, INCIDENT)
    assert len(norms) == 2
    sums = accumulator(expected=joined([*norms, Norms(B, INCIDENT)]))
    for z in range(0, N, 8):
        sums.add(frames()[z : z + 8], z, excluded[z : z + 8])
    expected = plain_sum(B, INCIDENT * factor) + plain_sum(np.full(SHAPE, 2.0), INCIDENT)
    counts = accumulator()
    for z in range(0, N, 8):
        counts.add(frames()[z : z + 8], z, excluded[z : z + 8])
    C, clean = counts.total()[0], counts.clean()[0]
    for box in sums.boxes():
        at = tuple(slice(a, a + n) for a, n in zip(box.first, box.counts.shape, strict=True))
        assert box.background is not None
        assert box.clean_background is not None
        # A sub-sample on the border of two voxels may be on the other side in single precision.
        close = np.isclose(box.background, expected[at], rtol=1e-4, atol=1e-3)
        assert np.count_nonzero(~close) < 2e-3 * np.count_nonzero(expected[at]) + 3
        np.testing.assert_array_equal(box.counts + box.background, C[at])
        np.testing.assert_array_equal(box.clean_counts + box.clean_background, clean[at])
        assert np.all(box.clean_background <= box.background + 1e-9)
    total = sum(float(box.background.sum()) for box in sums.boxes() if box.background is not None)
    assert total == pytest.approx(expected.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("samples", "kind"),
    [((1, 1, 1), np.uint16), ((1, 2, 1), np.uint32), ((2, 2, 2), np.uint32),
     ((1, 3, 1), np.uint32), ((1, 1, 1), np.float32)],
)  # fmt: skip
def test_one_pass_gives_the_sums_of_passes_of_their_own(
    samples: tuple[int, int, int], kind: type
) -> None:
    """Norm, background and variance are norms of accumulations with other factors, to the bit.

    In the fast loop and in the plain loop (3 sub-samples; floating point), with a mask, for any
    blocks, planes and threads.
    """
    rng = np.random.default_rng(3)
    B, V = rng.gamma(2, 3, SHAPE) * good(), rng.gamma(1, 2, SHAPE) * good()
    B[5:9] = 0.0
    f = INCIDENT * (0.3 + 0.5 * np.linspace(0, 1, N))
    every = [Norms(B, f), Norms(V, INCIDENT**2)]
    measured = np.minimum(frames(), 60000).astype(kind)
    if kind is np.float32:
        measured[frames() == 2**32 - 1] = np.nan
    mask = np.packbits(rng.random((N, *SHAPE)) < 0.2, axis=-1)

    def summed(add: Accumulator, block: int) -> Accumulator:
        for z in range(0, N, block):
            add.add(measured[z : z + block], z, mask[z : z + block])
        return add

    s = simulation()
    alone = [
        summed(Accumulator(rotation_of(s), s.ub, GRID, p, g, samples, Readout(2.0**32 - 1)), 8)
        for p, g in every
    ]
    expected = [(a.total()[1], a.clean()[1]) for a in alone]
    counts = summed(accumulator(samples=samples), 8)
    for block, threads, cut in ((8, 1, None), (N, 2, None), (5, 1, 16)):
        l = GRID.array_shape[0]  # noqa: E741
        planes = [(0, l)] if cut is None else [(0, cut), (cut, l)]
        found = {name: np.zeros((2, *GRID.array_shape)) for name in ("C", "M", "E", "V")}
        for part in planes:
            sums = summed(
                accumulator(samples=samples, expected=joined(every), planes=part, threads=threads),
                block,
            )
            for box in sums.boxes():
                at = tuple(slice(a, a + n) for a, n in zip(box.first, box.norm.shape, strict=True))
                assert box.background is not None
                assert box.variance is not None
                assert box.clean_background is not None
                assert box.clean_variance is not None
                own = box.counts + box.background, box.clean_counts + box.clean_background
                found["C"][:, *at] = own
                found["M"][:, *at] = box.norm, box.clean_norm
                found["E"][:, *at] = box.background, box.clean_background
                found["V"][:, *at] = box.variance - own[0], box.clean_variance - own[1]
        for i in (0, 1):
            np.testing.assert_array_equal(found["M"][i], (counts.total(), counts.clean())[i][1])
            np.testing.assert_array_equal(found["E"][i], expected[0][i])
            np.testing.assert_allclose(found["C"][i], (counts.total(), counts.clean())[i][0])
            np.testing.assert_allclose(found["V"][i], expected[1][i], rtol=1e-9, atol=1e-9)


def test_variance_of_the_background_is_that_of_repeated_runs() -> None:
    """Of voxels, and of sums over n³ voxels; a pixel keeps its noise on all frames."""
    rng = np.random.default_rng(2)
    rate, s = 3.0, simulation()
    grid = Grid.symmetric((6.0, 6.0, 8.0), (0.25, 0.25, 0.3))
    rotation = rotation_of(s)
    part = Part("air", np.full(SHAPE, rate), rate * np.ones(SHAPE) * good(), np.ones(N), 0.0)
    repeats = surroundings.repeats(rotation, s.ub, grid, SAMPLES)
    norms = surroundings.variance_norms([part], np.ones(N), repeats)
    stated = plain_sum(norms.pixel, norms.frame, grid)
    mean = plain_sum(rate * good(), np.ones(N), grid)
    runs = np.array(
        [plain_sum(rng.poisson(rate, SHAPE) * good(), np.ones(N), grid) - mean for _ in range(12)]
    )
    assert (runs**2).mean(axis=0).sum() == pytest.approx(stated.sum(), rel=0.06)
    growth = surroundings.growth(rotation, s.ub, grid, SAMPLES, [part])
    for n in (3, 5):
        cut = [slice(0, size // n * n) for size in stated.shape]
        shape = [k for size in stated.shape for k in (size // n, n)]
        sums = np.array([run[tuple(cut)].reshape(shape).sum(axis=(1, 3, 5)) for run in runs])
        found = (sums**2).mean(axis=0).sum() / stated.sum()
        assert found == pytest.approx(growth[f"{n} x {n} x {n} voxels"], rel=0.15)


def test_pixels_without_a_background_are_unknown() -> None:
    level = np.ones(SHAPE)
    level[3, 4] = np.nan
    parts = [Part(n, a, a, np.ones(N), 0.0) for n, a in (("a", level), ("b", np.ones(SHAPE)))]
    assert np.argwhere(surroundings.unknown(parts)).tolist() == [[3, 4]]
