"""Block sums: counts, flags, and where the blocks are."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.geometry.modules import Modules
from hklflow.geometry.prediction import predict
from hklflow.images.block_sum import BlockSum
from hklflow.images.pixel_binning import (
    PixelBinning,
    bin_bits,
    bin_detector,
    bin_mask,
    bin_mean,
    bin_modules,
    outside_modules,
)
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    GoniometerModel,
    ScanModel,
    Simulation,
)

FACTORS = st.sampled_from([2, 4, 8])
INTEGERS = [np.uint16, np.uint32, np.int16, np.int32]


def each_block(image: np.ndarray, b: int) -> list[tuple[int, int, np.ndarray]]:
    """Every whole block and its place."""
    rows, columns = (size // b for size in image.shape)
    return [
        (i, j, image[b * i : b * i + b, b * j : b * j + b])
        for i in range(rows)
        for j in range(columns)
    ]


# --------------------------------------------------------------------------- counts


@settings(max_examples=120, deadline=None)
@given(
    st.data(),
    FACTORS,
    st.sampled_from(INTEGERS),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.booleans(),
)
def test_counts_are_summed_exactly_or_flagged_as_a_whole(
    data: st.DataObject, b: int, dtype: Any, extra: tuple[int, int], saturates: bool
) -> None:
    """Python's integers add the blocks; every kind of bad pixel is there."""
    shape = (b + extra[0], 2 * b + extra[1])
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    largest = min(int(np.iinfo(dtype).max) - 1, 10**6)
    saturation = data.draw(st.floats(1.5, largest)) if saturates else None
    frames = rng.integers(0, largest + 1, (2, *shape)).astype(dtype)
    if rng.random() < 0.5:
        frames[rng.random(frames.shape) < 0.9] = 0  # so that few blocks are saturated
    flags = rng.random(frames.shape) < 0.01
    frames[flags] = -1 if np.dtype(dtype).kind == "i" else np.iinfo(dtype).max
    masked = rng.random(shape) < 0.005
    sums = BlockSum(b, bin_mask(masked, b), np.dtype(dtype), saturation)
    found = sums(frames)
    assert found.dtype == np.uint32
    assert found.shape == (2, shape[0] // b, shape[1] // b)
    for z in range(2):
        bad = flags[z] | masked
        for (i, j, counts), (_, _, of_bad) in zip(
            each_block(frames[z], b), each_block(bad, b), strict=True
        ):
            values = [int(count) for count in counts.ravel()]
            if of_bad.any():
                assert found[z, i, j] == 2**32 - 1
            elif saturation is not None and max(values) >= saturation:
                assert found[z, i, j] == sums.saturated
            else:
                assert found[z, i, j] == sum(values)
                assert sums.saturated is None or sum(values) < sums.saturated


def test_the_largest_unsaturated_counts_are_below_the_saturation_of_sums() -> None:
    for dtype, saturation in ((np.uint16, 2**16 - 1), (np.uint32, 1_000_000.5)):
        most = int(np.ceil(saturation)) - 1
        sums = BlockSum(8, np.zeros((1, 1), bool), np.dtype(dtype), saturation)
        frames = np.full((2, 8, 8), most, dtype)
        frames[1, 3, 3] += 1
        if frames[1, 3, 3] == np.iinfo(dtype).max:
            frames[1, 3, 3] = most  # that would be the flag
        found = sums(frames).ravel()
        assert found[0] == 64 * most
        assert sums.saturated is not None
        assert found[0] < sums.saturated == 64 * most + 1
        assert found[1] in (64 * most, sums.saturated)


def test_counts_beyond_32_bits_are_refused_not_wrapped() -> None:
    for dtype in (np.uint32, np.uint64, np.int64):
        frames = np.zeros((1, 4, 8), dtype)
        frames[0, :4, 4:] = 2**28
        sums = BlockSum(4, np.zeros((1, 2), bool), np.dtype(dtype))
        with pytest.raises(HklflowError, match="too many for 32 bits"):
            sums(frames)
        frames[0, 0, 4] = 2**28 - 2
        assert sums(frames).tolist() == [[[0, 2**32 - 2]]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_keep_their_noise_below_zero(dtype: Any) -> None:
    rng = np.random.default_rng(3)
    # In steps of 1/64, as corrected frames are: their sums are exact in 32 bits.
    frames = (rng.integers(-200, 4000, (3, 16, 24)) / 64).astype(dtype)
    frames[0, 0, 0], frames[0, 0, 4], frames[0, 0, 8] = np.nan, np.inf, -1e9
    frames[0, 0, 12] = 900.0
    sums = BlockSum(4, np.zeros((4, 6), bool), np.dtype(dtype), 900.0, -1e6)
    found = sums(frames)
    assert found.dtype == np.float32
    assert np.isnan(found[0, 0, :3]).all()
    assert sums.saturated is not None
    assert found[0, 0, 3] == sums.saturated == 16 * 900
    expected = frames.astype(np.float64).reshape(3, 4, 4, 6, 4).sum(axis=(2, 4))
    np.testing.assert_array_equal(found[1:], expected[1:])
    np.testing.assert_array_equal(found[0, 1:], expected[0, 1:])
    counted = BlockSum(4, np.zeros((4, 6), bool), np.dtype(dtype))(frames)
    # Without read noise nothing is below zero.
    below = (frames[1:] < 0).reshape(2, 4, 4, 6, 4).any(axis=(2, 4))
    np.testing.assert_array_equal(np.isnan(counted[1:]), below)
    assert 0 < below.sum() < below.size


# ----------------------------------------------------------------- masks and images


@given(FACTORS, st.integers(0, 30), st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_masks_flat_fields_and_bits(b: int, slow: int, fast: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (b + slow, b + fast)
    bits = np.where(rng.random(shape) < 0.02, rng.integers(1, 2**32, shape), 0).astype(np.uint32)
    flat = rng.uniform(0.5, 1.5, shape)
    flat[rng.random(shape) < 0.05] = np.nan
    flat[rng.random(shape) < 0.05] = 0
    found, joined, mean = bin_mask(bits != 0, b), bin_bits(bits, b), bin_mean(flat, b)
    assert found.shape == joined.shape == mean.shape == (shape[0] // b, shape[1] // b)
    assert found.size > 0
    for i, j, part in each_block(bits, b):
        assert found[i, j] == any(part.ravel() != 0)
        together = 0
        for value in part.ravel().tolist():
            together |= value
        assert joined[i, j] == together
    for i, j, part in each_block(flat, b):
        known = all(value > 0 for value in part.ravel())
        assert mean[i, j] == pytest.approx(sum(part.ravel().tolist()) / b**2 if known else 0)


@pytest.mark.parametrize(("factor", "shape"), [(3, (9, 9)), (16, (99, 99)), (8, (7, 100))])
def test_what_is_no_binning(factor: int, shape: tuple[int, int]) -> None:
    with pytest.raises(HklflowError, match="cannot be binned"):
        PixelBinning(factor, shape)


# --------------------------------------------------------------------------- places


def detector(modules: Modules | None = None) -> geometry.Detector:
    slow, fast = np.array([0.0, -1.0, 0.0]), np.array([-1.0, 0.0, 0.0])
    origin = np.array([0.02, 0.018, 0.08])
    flat = geometry.Detector((187, 205), (2e-4, 1.6e-4), origin, slow, fast, 4.5e-4, 700.0, modules)
    return flat.moved([0.003, 0.002, 0.01], [0.2, -0.3, 0.4])


BOXES = np.array([[0, 91, 0, 99], [0, 91, 103, 205], [97, 187, 0, 99], [97, 187, 103, 205]])


@pytest.mark.parametrize("b", [2, 4, 8])
@pytest.mark.parametrize("displaced", [False, True])
def test_a_point_is_at_the_same_place_in_the_laboratory(b: int, displaced: bool) -> None:
    modules = None
    if displaced:
        shift = np.array([[0.7, -1.3], [-0.4, 0.6], [1.5, 0.2], [-0.9, -0.8]])
        modules = Modules(BOXES, shift, np.array([0.01, -0.02, 0.004, -0.013]), 0.8)
    whole = detector(modules)
    binned = bin_detector(whole, b)
    assert binned.shape == (187 // b, 205 // b)
    assert binned.pixel_size == (b * 2e-4, b * 1.6e-4)
    assert (binned.sensor_thickness, binned.sensor_attenuation) == (4.5e-4, 700.0)
    rng = np.random.default_rng(b)
    at = rng.uniform(0, 1, (500, 2)) * binned.shape
    if displaced:
        assert binned.modules is not None
        inside = np.concatenate(
            [
                rng.uniform([s0, f0], [s1, f1], (50, 2))
                for s0, s1, f0, f1 in binned.modules.rectangles
            ]
        )
        at = inside
    # A metre of 1e-12 is far below any pixel.
    expected = whole.lab(b * at[:, 0], b * at[:, 1])
    np.testing.assert_allclose(binned.lab(at[:, 0], at[:, 1]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("b", [2, 4, 8])
def test_blocks_of_two_modules_or_of_a_gap_are_outside(b: int) -> None:
    owner = np.full((187, 205), -1)
    for number, (s0, s1, f0, f1) in enumerate(BOXES.tolist()):
        owner[s0:s1, f0:f1] = number
    outside = outside_modules(bin_detector(detector(Modules.ideal(BOXES, 0.8)), b))
    for i, j, part in each_block(owner, b):
        whole = part.min() == part.max() >= 0
        assert outside[i, j] == (not whole)
    assert not outside_modules(bin_detector(detector(), b)).any()


def test_a_module_without_a_whole_block_is_told() -> None:
    narrow = Modules.ideal([[0, 100, 1, 8], [0, 100, 8, 100]])
    assert len(bin_modules(narrow, 2)) == 2
    with pytest.raises(HklflowError, match=r"module 0 .* does not contain a block of 8 x 8"):
        bin_modules(narrow, 8)


@pytest.mark.parametrize("b", [2, 4])
def test_simulated_reflections_are_where_the_binned_geometry_predicts(b: int) -> None:
    """The simulator has a geometry of its own; its spots are summed in blocks and measured."""
    model = DetectorModel(
        (402, 387), 0.08, (190.3, 200.8), (2e-4, 1.6e-4), tilt=(0.12, -0.2), in_plane=0.3
    )
    simulated = Simulation(
        model,
        GoniometerModel(),
        ScanModel(0.0, np.radians(0.5), 140, 0.6, flux=1.0, exposure=1.0, seed=4),
        CrystalModel((5.2, 6.1, 7.3, 90.0, 90.0, 90.0), scale=4000.0, mosaic=0.01),
    )
    rotation = geometry.Rotation(
        geometry.Beam(0.6),
        bin_detector(
            geometry.Detector(model.shape, model.pixel_size, model.origin, model.slow, model.fast),
            b,
        ),
        geometry.Goniometer(
            simulated.goniometer.names,
            np.asarray(simulated.goniometer.axes),
            np.asarray(simulated.goniometer.angles),
            simulated.goniometer.scan,
        ),
        geometry.Scan(0.0, float(np.radians(0.5)), 140),
    )
    frames = np.concatenate(list(simulated.frames(20)))
    sums = BlockSum(b, np.zeros(rotation.detector.shape, bool), frames.dtype)(frames).astype(float)
    hkl = lattice.indices_within([5.2, 6.1, 7.3, 90, 90, 90], geometry.q_max(rotation))
    seen = predict(rotation, simulated.ub, hkl, margin=-5.0)
    size = 5
    moved = []
    for frame, slow, fast in zip(seen.frame, seen.slow, seen.fast, strict=True):
        i, j = int(slow), int(fast)
        inside = all(size <= at < n - size for at, n in zip((i, j), sums.shape[1:], strict=True))
        near = np.hypot(seen.slow - slow, seen.fast - fast) < 2 * size
        near &= np.abs(seen.frame - frame) < 12
        if not inside or near.sum() > 1 or not 4 < frame < 136:
            continue
        z = slice(int(frame) - 4, int(frame) + 5)
        box = sums[z, i - size : i + size + 1, j - size : j + size + 1].sum(axis=0)
        if box.sum() < 3000:
            continue
        slows, fasts = np.indices(box.shape) + 0.5
        centre = (box * slows).sum() / box.sum() + i - size, (box * fasts).sum() / box.sum()
        moved.append((centre[0] - slow, centre[1] + j - size - fast))
    assert len(moved) > 20
    assert np.abs(np.median(moved, axis=0)).max() < 0.1
    assert np.sqrt(np.mean(np.square(moved))) < 0.1
