"""`transform.binning` against the simulator: where counts land, what is kept, the errors."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.geometry import corrections
from hklflow.images import surroundings as surroundings_images
from hklflow.simulation.frames import (
    Cosine,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.transform import binning, estimator, surroundings
from hklflow.transform.sums import Expected

CELL = (4.5, 4.5, 7.0, 90.0, 90.0, 120.0)
PERIODS = (0.5, 0.5, 1.0)
COSINES = (
    Cosine(0.15, (2.0, 0.0, 0.0)),
    Cosine(0.15, (0.0, 2.0, 0.0)),
    Cosine(0.15, (0.0, 0.0, 1.0)),
)
FLAT = Diffuse(flat=1.0)
COARSE = (0.06, 0.06, 0.1)
FLAGS = binning.Readout(float(0xFFFFFFFF))


def settings(
    shape: tuple[int, int] = (50, 56),
    n_frames: int = 120,
    diffuse: Diffuse = Diffuse(flat=1.0, cosines=COSINES),  # noqa: B008  (frozen)
    **scan: Any,
) -> list[Simulation]:
    """One hexagonal crystal, a tilted detector, two settings of a kappa goniometer."""
    pixel = 0.1 / shape[0]
    detector = DetectorModel(
        shape,
        distance=0.2,
        foot=(0.42 * shape[0], 0.56 * shape[1]),
        pixel_size=(pixel, 0.9 * pixel),
        tilt=(0.11, -0.07),
        in_plane=0.2,
        gaps=((shape[0] // 2, shape[0] // 2 + 2, 0, shape[1]),),
        sensor_thickness=450e-6,
        sensor_attenuation=2300.0,
    )
    axes = ((0.0, 1.0, 0.0), (0.0, 0.6, 0.8), (0.0, 1.0, 0.0))
    first = ScanModel(
        start=-0.4,
        step=np.radians(240) / n_frames,
        n_frames=n_frames,
        wavelength=0.8,
        polarization=0.95,
        drift=-0.3,
        transmission=tuple(1 + 0.25 * np.sin(np.arange(n_frames) / n_frames * 2 * np.pi)),
        attenuator=0.7,
        seed=1,
    )
    first = replace(first, **scan)
    scans = [first, replace(first, start=2.0, drift=0.2, attenuator=1.0, seed=first.seed + 1)]
    return [
        Simulation(
            detector,
            GoniometerModel(axes, angles, ("omega", "kappa", "phi"), scan=2),
            scan_model,
            CrystalModel(CELL, orientation=(0.3, -0.5, 0.8)),
            diffuse,
        )
        for scan_model, angles in zip(scans, ((0.1, 0.0, 0.0), (0.5, 1.2, 0.0)), strict=True)
    ]


def rotation_of(simulation: Simulation) -> geometry.Rotation:
    """Geometry for the reduction, from what the raw file says."""
    header = simulation.raw_header()
    return geometry.Rotation(
        geometry.Beam(header["wavelength"], header["polarization"]),
        geometry.Detector(
            header["shape"],
            header["pixel_size"],
            header["origin"],
            header["slow"],
            header["fast"],
            header["sensor_thickness"],
            simulation.detector.sensor_attenuation,
        ),
        geometry.Goniometer(
            header["axis_names"], header["axes"], header["angles"], header["scan_axis"]
        ),
        geometry.Scan(header["start"], header["step"], header["n_frames"]),
    )


def covering(simulation: Simulation, step: tuple[float, float, float] = COARSE) -> binning.Grid:
    return binning.Grid.covering(CELL, geometry.q_max(rotation_of(simulation)), step)


def norms(simulation: Simulation) -> tuple[np.ndarray, np.ndarray]:
    """Pixel part and frame part of N; monitor and transmission handed over as truth."""
    detector = rotation_of(simulation).detector
    pixel = simulation.live * corrections.solid_angle(detector)
    pixel *= corrections.polarization(detector, simulation.raw_header()["polarization"])
    pixel *= corrections.sensor_efficiency(detector)
    scan = simulation.scan
    return pixel, scan.monitor * scan.attenuator * np.asarray(scan.transmission)


def empty(
    simulation: Simulation,
    grid: binning.Grid,
    samples: tuple[int, int, int] = (1, 1, 1),
    readout: binning.Readout = FLAGS,
    **changes: Any,
) -> binning.Accumulator:
    pixel, frame = norms(simulation)
    more = {"seed": simulation.scan.seed, **changes}
    return binning.Accumulator(
        rotation_of(simulation), simulation.ub, grid, pixel, frame, samples, readout, **more
    )


def blocks(
    simulation: Simulation, noise: bool = False, size: int = 16
) -> Iterator[tuple[int, np.ndarray]]:
    n = simulation.scan.n_frames
    if noise:
        yield from zip(range(0, n, size), simulation.frames(size), strict=True)
    else:
        for first in range(0, n, size):
            yield first, simulation.expected(first, min(first + size, n))


def merged(
    simulations: list[Simulation],
    grid: binning.Grid,
    samples: tuple[int, int, int] = (1, 1, 1),
    noise: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(C, M) of all settings."""
    return merged_with_mask(simulations, grid, samples, noise)[0]


def merged_with_mask(
    simulations: list[Simulation],
    grid: binning.Grid,
    samples: tuple[int, int, int],
    noise: bool,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(C, M) of everything, and (C, M) without what the made-up mask excludes."""
    total, clean = np.zeros((2, 2, *grid.array_shape))
    for simulation in simulations:
        sums = empty(simulation, grid, samples)
        for first, frames in blocks(simulation, noise):
            sums.add(frames, first, made_up_mask(first, frames.shape))
        total += sums.total()
        clean += sums.clean()
    return [(total[0], total[1]), (clean[0], clean[1])]


def blobs(first: int, shape: tuple[int, ...]) -> np.ndarray:
    """Made-up artefacts (n, slow, fast): a tenth of all pixel-frames, in blobs."""
    z, i, j = np.indices(shape)
    return np.cos(0.31 * (z + first) + 1) + np.cos(0.23 * i) + np.cos(0.29 * j) > 1.25


def made_up_mask(first: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.packbits(blobs(first, shape), axis=-1)


def truth(simulation: Simulation, grid: binning.Grid, fine: int = 3) -> np.ndarray:
    """Average of S (l, k, h) over each voxel."""
    offset = (np.arange(fine) + 0.5) / fine - 0.5
    h, k, l = (grid.axis(i)[:, None] + offset * grid.step[i] for i in range(3))  # noqa: E741
    points = np.stack(
        np.broadcast_arrays(h.ravel(), k.ravel()[:, None], l.ravel()[:, None, None]), axis=-1
    )
    n_l, n_k, n_h = grid.array_shape
    s = simulation.s_of_hkl(points).reshape(n_l, fine, n_k, fine, n_h, fine)
    return np.asarray(s.mean(axis=(1, 3, 5)))


# Grid --------------------------------------------------------------------------------------


def test_axes_label_voxel_centres() -> None:
    grid = binning.Grid.symmetric((1.0, 0.55, 2.0), (0.1, 0.1, 0.25))
    assert grid.shape == (21, 11, 17)
    assert grid.array_shape == (17, 11, 21)
    for i in range(3):
        axis = grid.axis(i)
        assert axis[len(axis) // 2] == 0
        assert np.array_equal(axis, -axis[::-1])
    again = binning.Grid.from_dict(grid.to_dict())
    assert again.same_as(grid)
    assert not again.same_as(binning.Grid.symmetric(1.0, 0.1))


@pytest.mark.parametrize(("limits", "step"), [(1.0, 0.0), (1.0, -0.1), (0.05, 0.1)])
def test_impossible_grids(limits: float, step: float) -> None:
    with pytest.raises(HklflowError, match="steps must be positive"):
        binning.Grid.symmetric(limits, step)


def test_a_covering_grid_loses_nothing() -> None:
    first_setting, second_setting = settings(n_frames=30)
    for simulation in (first_setting, second_setting):
        sums = empty(simulation, covering(simulation), (2, 2, 2))
        for first, frames in blocks(simulation):
            sums.add(frames, first)
        assert sums.outside == 0
        assert sums.used == simulation.live.sum() * 30


def test_a_spot_at_a_grid_point_lands_in_its_voxel() -> None:
    # A spot of reflections at grid points that the simulator itself places on the detector.
    simulation = settings(shape=(200, 220), n_frames=400)[1]
    simulation = replace(simulation, crystal=replace(simulation.crystal, scale=1.0))
    grid = covering(simulation, (0.25, 0.25, 0.25))
    peaks = simulation.true_peaks()
    usable = np.flatnonzero((peaks.zeta > 0.3) & peaks.clean)
    assert len(usable) > 10
    for row in usable:
        z, i, j = (int(x[row]) for x in (peaks.frame, peaks.slow, peaks.fast))
        frames = np.zeros((1, 200, 220), dtype=np.uint32)
        frames[0, i, j] = 5
        sums = empty(simulation, grid)
        sums.add(frames, z)
        where = np.argwhere(sums.total()[0] == 5)
        assert len(where) == 1
        l, k, h = where[0]  # noqa: E741
        labels = [grid.axis(0)[h], grid.axis(1)[k], grid.axis(2)[l]]
        assert labels == peaks.hkl[row].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "width"),
    [
        *((dtype, 37) for dtype in (np.int8, np.uint16, np.int32, np.uint32, np.int64, np.float32)),
        *((np.uint32, width) for width in (7, 16, 24)),
    ],
)
def test_every_pixel_frame_lands_where_the_simulator_says(dtype: type, width: int) -> None:
    simulation = settings(shape=(20, width), n_frames=15)[1]
    grid = covering(simulation)
    sums = empty(simulation, grid, readout=binning.Readout())
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 100, (15, 20, width)).astype(dtype)
    z, i, j = (a.ravel() for a in np.indices(frames.shape))
    voxel = (simulation.hkl(z + 0.5, i + 0.5, j + 0.5) - grid.first) / grid.step
    # A pixel on the border of two voxels may fall on either side by rounding.
    near = np.abs(voxel - np.floor(voxel) - 0.5).min(axis=1) < 3e-4
    assert near.mean() < 0.01
    frames[z[near], i[near], j[near]] = 0
    sums.add(frames, 0)
    h, k, l = np.rint(voxel).astype(int).T  # noqa: E741
    expected = np.zeros(grid.array_shape)
    np.add.at(expected, (l, k, h), np.where(simulation.live[i, j], frames.ravel(), 0))
    assert np.array_equal(sums.total()[0], expected)
    # The norm goes where the counts go.
    expected[:] = 0
    np.add.at(expected, (l, k, h), simulation.norm()[z, i, j])
    sure = np.ones(grid.array_shape, bool)
    for away in np.ndindex(3, 3, 3):
        sure[tuple((np.array([l, k, h]).T + np.array(away) - 1)[near].T)] = False
    assert np.allclose(sums.total()[1][sure], expected[sure], rtol=1e-6, atol=0)


def test_pitch_and_sub_samples() -> None:
    simulation = settings()[0]
    rotation, grid = rotation_of(simulation), covering(simulation)
    pitch = binning.pixel_pitch(rotation, simulation.ub, grid)
    rng = np.random.default_rng(2)
    at = rng.uniform(0, 1, (3, 500)) * np.array([[119.0], [49.0], [55.0]])
    here = simulation.hkl(*at)
    for axis in range(3):
        there = at.copy()
        there[axis] += 1
        moved = np.abs(simulation.hkl(*there) - here) / grid.step
        # Nowhere more than the pitch (sampled at 13 angles: cos 10° is 0.985), and nearly it.
        assert 0.85 * pitch[axis] < moved.max() < 1.02 * pitch[axis]
    assert binning.sub_samples(np.array([0.2, 0.5, 0.51])) == (1, 1, 2)
    assert binning.sub_samples(np.array([1.0, 1.7, 0.0])) == (2, 4, 1)


# Laws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [(1, 1, 1), (2, 3, 2)])
def test_flat_s_gives_a_flat_volume(samples: tuple[int, int, int]) -> None:
    simulations = settings(diffuse=FLAT)
    counts, norm = merged(simulations, covering(simulations[0]), samples)
    seen = norm > 0
    assert seen.mean() > 0.1
    assert np.abs(counts[seen] / norm[seen] - 1).max() < 1e-6
    data, errors = estimator.intensity(counts, norm)
    assert np.array_equal(np.isnan(data), ~seen)
    assert np.array_equal(np.isnan(errors), ~seen)


FACTORS = (
    "solid angle",
    "polarization",
    "sensor",
    "flat field",
    "monitor",
    "attenuator",
    "transmission",
    "background",
)


def s_with(*left_out: str) -> np.ndarray:
    """S of measured voxels of a flat crystal, from scans that contain all factors at once.

    An empty run with its own monitor gives the background, which the crystal partly absorbs.
    """
    simulations = settings(diffuse=FLAT, n_frames=40)
    grid = covering(simulations[0])
    sums = np.zeros((2, *grid.array_shape))
    for simulation in simulations:
        rng = np.random.default_rng(simulation.scan.seed)
        rotation, scan, shape = rotation_of(simulation), simulation.scan, simulation.live.shape
        flat = rng.uniform(0.7, 1.3, shape) * simulation.live
        level = 0.3 * np.median(norms(simulation)[0][simulation.live])
        scattered = level * rng.uniform(0.5, 1.5, shape) * simulation.live
        empty_monitor = 2.7
        empty_run = scattered * empty_monitor
        through = 0.4 + 0.6 * np.asarray(scan.transmission) / max(scan.transmission)
        pixel = simulation.live * flat if "flat field" not in left_out else simulation.live * 1.0
        of_pixels = {
            "solid angle": corrections.solid_angle(rotation.detector),
            "polarization": corrections.polarization(
                rotation.detector, simulation.raw_header()["polarization"]
            ),
            "sensor": corrections.sensor_efficiency(rotation.detector),
        }
        for name, factor in of_pixels.items():
            pixel = pixel * (factor if name not in left_out else factor.mean())
        of_frames = {
            "monitor": scan.monitor,
            "attenuator": np.full(scan.n_frames, scan.attenuator),
            "transmission": np.asarray(scan.transmission),
        }
        used = {n: f for n, f in of_frames.items() if n not in left_out}
        incident = np.prod([used.get(n, np.ones(scan.n_frames)) for n in of_frames][:2], axis=0)
        per_monitor = empty_run / empty_monitor
        part = surroundings_images.Part("air", per_monitor, 0.01 * per_monitor, through, 0.0)
        norms_of = [
            *surroundings.norms([part], incident),
            surroundings.variance_norms([part], incident, np.ones(shape)),
        ]
        expected = Expected(
            np.array([n.pixel for n in norms_of]), np.array([n.frame for n in norms_of])
        )
        accumulator = binning.Accumulator(
            rotation, simulation.ub, grid, pixel,
            incident * used.get("transmission", np.ones(scan.n_frames)),
            (1, 1, 1), FLAGS, expected=None if "background" in left_out else expected,
        )  # fmt: skip
        true_incident = scan.monitor * scan.attenuator
        for first, frames in blocks(simulation):
            frame = slice(first, first + len(frames))
            air = scattered * (true_incident * through)[frame, None, None]
            accumulator.add(frames * flat + air, first)
        sums += accumulator.total()  # counts without the background
    counts, norm = sums
    seen = norm > 0
    return np.asarray(counts[seen] / norm[seen])


def test_a_scan_with_all_factors_at_once_leaves_s() -> None:
    s = s_with()
    assert len(s) > 3000
    assert abs(s.mean() - 1) < 1e-5
    assert np.quantile(np.abs(s - 1), 0.99) < 1e-4


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_that_is_left_out_is_seen(factor: str) -> None:
    s = s_with(factor)
    assert s.std() > 5e-3  # with all factors the quantiles are within 1e-4


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32])
@pytest.mark.parametrize("samples", [(1, 1, 1), (2, 1, 1), (2, 4, 2), (2, 4, 4), (3, 4, 2)])
def test_counts_are_conserved_exactly(
    dtype: type[np.integer[Any]], samples: tuple[int, int, int]
) -> None:
    simulation = settings(n_frames=12)[0]
    # From none to 60000 photons: dealt one by one and by the normal limit.
    rng = np.random.default_rng(3)
    frames = np.floor(10 ** rng.uniform(-1, 4.78, (12, 50, 56))).astype(dtype)
    sums = empty(simulation, covering(simulation), samples)
    sums.add(frames, 0)
    counts, norm = sums.total()
    assert counts.sum() == frames[:, simulation.live].sum(dtype=np.int64)
    assert np.array_equal(counts, np.rint(counts))
    assert counts.min() == 0
    assert norm.sum() == pytest.approx(simulation.norm().sum(), rel=1e-6)


def test_expected_counts_are_conserved_too() -> None:
    simulation = settings(n_frames=12)[0]
    sums = empty(simulation, covering(simulation), (2, 2, 3))
    sums.add(simulation.expected(), 0)
    assert sums.total()[0].sum() == pytest.approx(simulation.expected().sum(), rel=1e-12)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_block_size_does_not_matter(size: int) -> None:
    simulation = settings(n_frames=40, flux=20.0)[0]
    grid = covering(simulation)
    frames = np.concatenate(list(simulation.frames(40)))
    results = []
    for step in (16, size):
        sums = empty(simulation, grid, (2, 2, 2))
        for first in range(0, 40, step):
            part = frames[first : first + step]
            sums.add(part, first, made_up_mask(first, part.shape))
        results.append((*sums.total(), *sums.clean()))
    for counts, other_counts in zip(results[0][::2], results[1][::2], strict=True):
        assert counts.sum() > 0
        assert np.array_equal(counts, other_counts)
    for norm, other_norm in zip(results[0][1::2], results[1][1::2], strict=True):
        assert norm.sum() > 0
        assert np.array_equal(norm, other_norm)
    assert len(results[0]) == 4


@pytest.mark.parametrize("samples", [(1, 1, 1), (2, 2, 1)])
def test_threads_and_passes_change_no_bit(samples: tuple[int, int, int]) -> None:
    simulation = settings(shape=(50, 150), n_frames=40, flux=20.0)[0]
    grid = covering(simulation)
    frames = np.concatenate(list(simulation.frames(40)))

    def volumes(
        threads: int, planes: tuple[int, int] | None = None
    ) -> tuple[binning.Accumulator, list[np.ndarray]]:
        sums = empty(simulation, grid, samples, threads=threads, planes=planes)
        for first in range(0, 40, 16):
            part = frames[first : first + 16]
            sums.add(part, first, made_up_mask(first, part.shape))
        return sums, [*sums.total(), *sums.clean()]

    one, whole = volumes(1)
    assert whole[0].any()
    assert not np.array_equal(whole[0], whole[2])
    for threads in (2, 3, 7):
        sums, parts = volumes(threads)
        assert (sums.used, sums.invalid, sums.inside) == (one.used, one.invalid, one.inside)
        for a, b in zip(whole, parts, strict=True):
            assert np.array_equal(a, b)
    last = grid.shape[2]
    sums_low, low = volumes(1, (0, 24))
    sums_high, high = volumes(2, (24, last))
    assert sums_low.inside + sums_high.inside == one.inside
    for a, b, c in zip(whole, low, high, strict=True):
        assert np.array_equal(a, np.concatenate([b, c]))


@pytest.mark.parametrize("samples", [(1, 1, 1), (2, 2, 1), (1, 3, 1)])
@pytest.mark.parametrize("threads", [1, 2])
def test_bands_of_rows_change_no_bit(samples: tuple[int, int, int], threads: int) -> None:
    simulation = settings(shape=(50, 56), n_frames=20, flux=20.0)[0]
    grid = covering(simulation)
    frames = np.concatenate(list(simulation.frames(20)))
    mask = made_up_mask(0, frames.shape)
    whole = empty(simulation, grid, samples)
    whole.add(frames[:12], 0, mask[:12])
    whole.add(frames[12:], 12, mask[12:])
    # In memory, the rows of a band are not followed by those of the next frame.
    wide = np.full((20, 70, 56), 999, np.uint32)
    wide[:, 10:60] = frames
    banded = empty(simulation, grid, samples, threads=threads)
    for first, last in ((0, 12), (12, 20)):
        for row, end in ((0, 16), (16, 24), (24, 50)):
            band = wide[first:last, 10 + row : 10 + end]
            banded.add(band, first, mask[first:last], row)
    assert (banded.used, banded.invalid, banded.inside) == (whole.used, whole.invalid, whole.inside)
    for one, other in zip(
        (*whole.total(), *whole.clean()), (*banded.total(), *banded.clean()), strict=True
    ):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(("row", "rows"), [(4, 8), (8, 9), (-8, 8), (48, 8), (8, 48)])
def test_bands_that_do_not_fit_are_refused(row: int, rows: int) -> None:
    simulation = settings(n_frames=4)[0]
    sums = empty(simulation, covering(simulation))
    with pytest.raises(HklflowError, match=f"from row {row} on"):
        sums.add(np.zeros((4, rows, 56), dtype=np.uint32), 0, row=row)


def test_counts_beyond_32_bits_are_refused() -> None:
    simulation = settings(shape=(20, 24), n_frames=3)[0]
    grid = binning.Grid.symmetric(3.0, 3.0)
    frames = np.zeros((3, 20, 24), dtype=np.uint32)
    # As many as fit; a pixel that stays in its voxel; the same in two blocks; two pixels.
    frames[:, 9, 9] = 2**31 - 1
    sums = empty(simulation, grid, readout=binning.Readout())
    sums.add(frames[:2], 0)
    assert sums.total()[0].max() == 2**32 - 2
    with pytest.raises(HklflowError, match="4294967295 counts"):
        sums.add(frames[2:], 2)
    with pytest.raises(HklflowError, match="4294967295 counts"):
        empty(simulation, grid, readout=binning.Readout()).add(frames, 0)
    frames[:] = 0
    frames[0, 9, 9:11] = 2**31
    with pytest.raises(HklflowError, match="4294967295 counts"):
        empty(simulation, grid, readout=binning.Readout()).add(frames, 0)


def test_byte_order_does_not_matter() -> None:
    simulation = settings(n_frames=4, flux=20.0)[0]
    frames = np.concatenate(list(simulation.frames(4)))
    volumes = []
    for dtype in ("<u4", ">u4", "<f4", ">f4"):
        sums = empty(simulation, covering(simulation))
        sums.add(frames.astype(dtype), 0)
        volumes.append(sums.total()[0])
    assert np.array_equal(volumes[0], volumes[1])
    assert np.array_equal(volumes[2], volumes[3])


def test_planes_begin_between_bricks() -> None:
    simulation = settings(n_frames=4)[0]
    sums = empty(simulation, covering(simulation), planes=(4, 12))
    with pytest.raises(HklflowError, match="planes 4 to 12"):
        sums.add(np.zeros((4, 50, 56), dtype=np.uint32), 0)


def test_nothing_is_added_by_an_empty_block() -> None:
    simulation = settings(n_frames=4)[0]
    sums = empty(simulation, covering(simulation))
    sums.add(np.zeros((0, 50, 56), dtype=np.uint32), 4)
    assert sums.used == 0
    assert not sums.total()[1].any()


def test_split_scans_add_up() -> None:
    simulation = settings(n_frames=40, flux=20.0)[0]
    grid = covering(simulation)
    pixel, frame = norms(simulation)
    rotation, frames = rotation_of(simulation), np.concatenate(list(simulation.frames(8)))
    whole = empty(simulation, grid)
    whole.add(frames, 0)
    counts, norm = np.zeros((2, *grid.array_shape))
    for first, stop in ((0, 13), (13, 40)):
        scan = geometry.Scan(rotation.scan.angle(first), rotation.scan.step, stop - first)
        part = binning.Accumulator(
            replace(rotation, scan=scan),
            simulation.ub,
            grid,
            pixel,
            frame[first:stop],
            readout=FLAGS,
        )
        part.add(frames[first:stop], 0)
        counts += part.total()[0]
        norm += part.total()[1]
    assert np.array_equal(counts, whole.total()[0])
    assert np.allclose(norm, whole.total()[1], rtol=1e-6, atol=0)


def test_oversampling_converges() -> None:
    # Pixels of 1 to 2 voxels and spots of structure of 6 voxels.
    simulation = settings(shape=(24, 26), n_frames=40)[0]
    simulation = replace(simulation, n_sub=(4, 4, 4))
    grid = covering(simulation, (0.07, 0.07, 0.12))
    volumes = {}
    for n in (1, 2, 3, 4, 6):
        counts, norm = merged([simulation], grid, (n, n, n))
        volumes[n] = (counts, norm)
    best, seen = volumes[6], volumes[6][1] > 0
    level = best[1][seen].mean()
    distance = [
        np.sqrt(np.mean((volumes[n][1][seen] - best[1][seen]) ** 2)) / level for n in (1, 2, 3, 4)
    ]
    assert all(near < far for far, near in pairwise(distance))
    assert distance[-1] < distance[0] / 4
    both = np.all([m > 0 for _, m in volumes.values()], axis=0)
    s = {n: c[both] / m[both] for n, (c, m) in volumes.items()}
    rms = [np.sqrt(np.mean((s[n] - s[6]) ** 2)) for n in (1, 2, 3, 4)]
    assert all(near < far for far, near in pairwise(rms))


@pytest.mark.parametrize("samples", [(1, 1, 1), (2, 2, 2)])
def test_what_is_not_measured_adds_to_nothing(samples: tuple[int, int, int]) -> None:
    simulation = settings(n_frames=20, diffuse=FLAT)[0]
    grid = covering(simulation)
    pixel, frame = norms(simulation)
    rng = np.random.default_rng(4)
    frames = simulation.expected()
    bad = rng.random(frames.shape) < 0.1
    for value in (-1.0, np.nan, np.inf, 1e6):
        frames[bad & (rng.random(frames.shape) < 0.5)] = value
    bad = ~(frames < 1e6) | (frames < 0)
    frame[[3, 11]] = 0.0
    frame[5] = np.nan
    pixel[7, :] = 0.0
    pixel[:, 9] = np.nan
    sums = binning.Accumulator(
        rotation_of(simulation), simulation.ub, grid, pixel, frame, samples, binning.Readout(1e6)
    )
    sums.add(frames, 0)
    counts, norm = sums.total()
    good = ~bad & (frame > 0)[:, None, None] & (pixel > 0)
    assert bad.mean() > 0.05
    assert sums.used == good.sum()
    true_norm = np.where(good, simulation.norm(), 0.0)
    # Every sub-sample's norm is rounded, to 2⁻³² of the largest.
    assert norm.sum() == pytest.approx(true_norm.sum(), rel=2e-11)
    assert counts.sum() == pytest.approx(frames[good].sum(), rel=1e-12)
    seen = norm > 0
    # A flat S stays flat: nothing went to C only or to M only.
    assert np.abs(counts[seen] / norm[seen] - 1).max() < 1e-6


def test_flags_of_integers_add_to_nothing() -> None:
    simulation = settings(n_frames=3)[0]
    grid = covering(simulation)
    frames = np.full((3, 50, 56), 7, dtype=np.uint32)
    frames[1, 20, 30], frames[2, 5, 5] = 0xFFFFFFFF, 0xFFFFFFFF
    signed = np.full((3, 50, 56), 7, dtype=np.int32)
    signed[1, 20, 30], signed[2, 5, 5] = -1, -2
    results = []
    for array in (frames, signed):
        sums = empty(simulation, grid, (1, 2, 2))
        sums.add(array, 0)
        results.append(sums.total())
    assert results[0][0].sum() == 7 * (3 * simulation.live.sum() - 2)
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("samples", [(1, 1, 1), (2, 1, 2)])
@pytest.mark.parametrize("limit", [0.4, 8.0])
def test_flags_are_counted_once_inside_and_outside_of_the_grid(
    limit: float, samples: tuple[int, int, int], threads: int
) -> None:
    simulation = settings(shape=(50, 70), n_frames=3)[0]
    frames = np.full((3, 50, 70), 7, dtype=np.uint32)
    flagged = np.random.default_rng(1).random(frames.shape) < 0.01
    frames[flagged] = 0xFFFFFFFF
    sums = empty(simulation, binning.Grid.symmetric(limit, 0.1), samples, threads=threads)
    sums.add(frames, 0)
    assert sums.invalid == np.count_nonzero(flagged & simulation.live)
    assert sums.used == 3 * np.count_nonzero(simulation.live) - sums.invalid


def test_what_is_just_outside_stays_there() -> None:
    simulation = settings(n_frames=20)[0]
    frames = np.full((20, 50, 56), 7, dtype=np.uint32)
    whole = binning.Grid.symmetric(2.0, 0.2)
    part = binning.Grid(whole.first + 7 * whole.step, whole.step, (7, 7, 7))
    volumes = []
    for grid in (whole, part):
        sums = empty(simulation, grid)
        sums.add(frames, 0)
        volumes.append(sums.total()[0])
    expected = volumes[0][7:14, 7:14, 7:14]
    assert expected.sum() > 1000
    # Positions are in single precision: a few pixels may be at the edge of a voxel.
    assert np.abs(volumes[1] - expected).sum() < 0.01 * expected.sum()


@pytest.mark.parametrize("samples", [(1, 1, 1), (2, 2, 2)])
def test_the_artefact_mask_parts_the_whole(samples: tuple[int, int, int]) -> None:
    simulation = settings(n_frames=30, flux=20.0)[0]
    grid = covering(simulation)
    frames = np.concatenate(list(simulation.frames(8)))
    mask = made_up_mask(0, frames.shape)
    left_out = blobs(0, frames.shape)
    assert 0.05 < left_out.mean() < 0.3
    masked = empty(simulation, grid, samples)
    masked.add(frames, 0, mask)
    without = empty(simulation, grid, samples)
    without.add(np.where(left_out, 0xFFFFFFFF, frames), 0)
    only = empty(simulation, grid, samples)
    only.add(np.where(left_out, frames, 0xFFFFFFFF), 0)
    everything = empty(simulation, grid, samples)
    everything.add(frames, 0)
    for clean, expected in zip(masked.clean(), without.total(), strict=True):
        assert np.array_equal(clean, expected)
    assert np.array_equal(masked.total()[0], masked.clean()[0] + only.total()[0])
    assert np.array_equal(masked.total()[0], everything.total()[0])
    norm = masked.total()[1]
    assert np.array_equal(norm, masked.clean()[1] + only.total()[1])
    assert np.array_equal(norm, everything.total()[1])


@pytest.mark.parametrize(
    ("shape", "first", "mask_shape", "message"),
    [
        ((2, 50, 55), 0, None, "the detector"),
        ((50, 56), 0, None, "the detector"),
        ((3, 50, 56), 18, None, "a scan of 20"),
        ((3, 50, 56), -1, None, "a scan of 20"),
        ((3, 50, 56), 0, (2, 50, 7), "artefact mask"),
        ((3, 50, 56), 0, (3, 50, 56), "artefact mask"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(
    shape: tuple[int, ...], first: int, mask_shape: tuple[int, ...] | None, message: str
) -> None:
    simulation = settings(n_frames=20)[0]
    sums = empty(simulation, covering(simulation))
    mask = None if mask_shape is None else np.zeros(mask_shape, dtype=np.uint8)
    with pytest.raises(HklflowError, match=message):
        sums.add(np.zeros(shape, dtype=np.uint32), first, mask)


def test_norms_that_do_not_fit_are_refused() -> None:
    simulation = settings(n_frames=20)[0]
    pixel, frame = norms(simulation)
    rotation, grid = rotation_of(simulation), covering(simulation)
    with pytest.raises(HklflowError, match="pixel norm"):
        binning.Accumulator(rotation, simulation.ub, grid, pixel.T, frame)
    with pytest.raises(HklflowError, match="frame norm"):
        binning.Accumulator(rotation, simulation.ub, grid, pixel, frame[1:])


# Registration ------------------------------------------------------------------------------


def phase_shift(counts: np.ndarray, norm: np.ndarray, grid: binning.Grid) -> np.ndarray:
    """Shift in voxels along h, k, l: least squares of cosine and sine, weights M."""
    where = np.nonzero(norm > 0)
    columns = [np.ones(len(where[0]))]
    for i, period in enumerate(PERIODS):
        phase = 2 * np.pi * grid.axis(i)[where[2 - i]] / period
        columns += [np.cos(phase), np.sin(phase)]
    design = np.stack(columns, axis=1)
    weighted = design.T * norm[where]
    solution = np.linalg.solve(weighted @ design, design.T @ counts[where])
    cos, sin = solution[1::2], solution[2::2]
    # Averages over voxel and pixel take at most a fifth of the amplitude.
    assert np.all((np.hypot(cos, sin) > 0.12) & (np.hypot(cos, sin) < 0.1505))
    return np.asarray(np.arctan2(sin, cos) / (2 * np.pi) * np.array(PERIODS) / grid.step)


@pytest.mark.parametrize(
    ("samples", "noise"),
    [((1, 1, 1), False), ((2, 2, 2), False), ((2, 2, 2), True)],
)
def test_registration(samples: tuple[int, int, int], noise: bool) -> None:
    # With 1000 counts a pixel the phase is known to 0.001 voxels.
    simulations = settings(shape=(60, 66), n_frames=150, flux=1000.0 if noise else 1.0)
    grid = covering(simulations[0], COARSE if samples == (1, 1, 1) else (0.05, 0.05, 0.08))
    shift = phase_shift(*merged(simulations, grid, samples, noise), grid)
    assert np.abs(shift).max() < 0.02


# Error bars --------------------------------------------------------------------------------


STEPS = {(1, 1, 1): COARSE, (2, 2, 2): (0.045, 0.045, 0.075)}


@cache
def without_noise(
    samples: tuple[int, int, int],
) -> tuple[binning.Grid, list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Grid (not all of the reach), noise-free volumes of flux 1 and true S of `test_pulls`."""
    simulations = settings()
    grid = binning.Grid.symmetric((1.0, 1.0, 1.6), STEPS[samples])
    return grid, merged_with_mask(simulations, grid, samples, False), truth(simulations[0], grid)


@pytest.mark.parametrize("mean", [0.3, 3.0, 300.0])
@pytest.mark.parametrize("samples", list(STEPS))
def test_pulls(mean: float, samples: tuple[int, int, int]) -> None:
    grid, noise_free, s_true = without_noise(samples)
    (counts, norm), _ = noise_free
    flux = mean / (counts.sum() / np.count_nonzero(norm))
    noisy = merged_with_mask(settings(flux=flux), grid, samples, True)
    assert np.all(noisy[1][1] <= noisy[0][1])
    assert noisy[1][1].sum() < 0.97 * noisy[0][1].sum()
    for (counts, norm), (counts_0, norm_0) in zip(noisy, noise_free, strict=True):
        seen = norm > 0
        # Voxels of two pixels or less, cosines of 8 voxels or more: what is uneven in a
        # voxel shifts S by less than 0.2 sigma (rms), which adds 2 % to the width at most.
        systematic = counts_0[seen] / norm_0[seen] - s_true[seen]
        systematic *= np.sqrt(norm[seen] / s_true[seen])
        assert np.sqrt(np.mean(systematic**2)) < 0.2
        data, errors = estimator.intensity(counts, norm)
        pull = (data[seen] - s_true[seen]) / errors[seen]
        assert len(pull) > 20000
        # The mean of n pulls is known to 1 / sqrt(n).
        assert abs(pull.mean()) < 0.02 + 2 / np.sqrt(len(pull))
        assert pull.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("flux", [4.0, 300.0, 5000.0, 200000.0])
def test_dealt_photons_are_independent(flux: float) -> None:
    # Voxels smaller than a pixel: neighbours share pixels, pulls stay those of Poisson counts.
    simulation = settings(shape=(30, 32), n_frames=40, diffuse=FLAT, flux=flux)[0]
    grid = covering(simulation, (0.04, 0.04, 0.06))
    counts, norm = merged([simulation], grid, (2, 3, 3), noise=True)
    seen = norm > 0
    pull = np.zeros(norm.shape)
    pull[seen] = (counts[seen] - norm[seen]) / np.sqrt(norm[seen])
    n = np.count_nonzero(seen)
    assert abs(pull[seen].mean()) < 4 / np.sqrt(n)
    # Poisson counts of mean μ: var(pull²) = 2 + 1/μ.
    spread = np.sqrt((2 + np.mean(1 / norm[seen])) / n)
    assert np.mean(pull[seen] ** 2) == pytest.approx(1, abs=4 * spread)
    for axis in range(3):
        ahead, behind = np.delete(pull, 0, axis), np.delete(pull, -1, axis)
        pairs = np.delete(seen, 0, axis) & np.delete(seen, -1, axis)
        assert abs(np.mean((ahead * behind)[pairs])) < 4 / np.sqrt(pairs.sum())


def test_the_sum_of_two_sweeps_of_one_geometry_has_the_right_error() -> None:
    simulation = settings(shape=(30, 32), n_frames=40, diffuse=FLAT, flux=100.0)[0]
    grid = covering(simulation, (0.04, 0.04, 0.06))
    again = replace(simulation, scan=replace(simulation.scan, seed=50))
    counts, norm = merged([simulation, again], grid, (2, 3, 3), noise=True)
    seen = norm > 0
    pull = (counts[seen] - norm[seen]) / np.sqrt(norm[seen])
    spread = np.sqrt((2 + np.mean(1 / norm[seen])) / len(pull))
    assert np.mean(pull**2) == pytest.approx(1, abs=4 * spread)


def test_dealing_depends_on_the_seed_only() -> None:
    simulation = settings(n_frames=4, flux=50.0)[0]
    frames = np.concatenate(list(simulation.frames(4)))
    grid = covering(simulation, (0.03, 0.03, 0.05))
    volumes = []
    for seed in (1, 1, 2):
        sums = empty(simulation, grid, (2, 2, 2), seed=seed)
        sums.add(frames, 0)
        volumes.append(sums.total()[0])
    assert np.array_equal(volumes[0], volumes[1])
    assert not np.array_equal(volumes[0], volumes[2])
    assert volumes[0].sum() == volumes[2].sum()
