"""NeXus products: round trips, and what nexusformat, silx and plain HDF5 make of them."""

import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hklflow import nexus
from hklflow.base.errors import HklflowError
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan
from hklflow.geometry.grid import Grid
from hklflow.images.scan import RotationScan
from hklflow.nexus.chunks import pack
from hklflow.nexus.volume import SideBySide
from hklflow.peaks.search import PeakTable
from tests.truth.orientations import orientation

N, SLOW, FAST = 7, 12, 19
CELL = np.array([4.8, 4.8, 7.15, 90.0, 90.0, 120.0])


def _scan(folder: Path) -> tuple[RotationScan, tuple[Path, str]]:
    raw = folder / "raw" / "frames.h5"
    raw.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(raw, "w") as file:
        file["entry/data/data"] = np.arange(N * SLOW * FAST).reshape(N, SLOW, FAST)
    tilt = np.radians(1.5)
    rotation = Rotation(
        Beam(0.5, 0.99),
        Detector(
            (SLOW, FAST),
            (2e-4, 1e-4),
            np.array([0.01, -0.02, 0.12]),
            np.array([0.0, -np.cos(tilt), np.sin(tilt)]),
            np.array([-1.0, 0.0, 0.0]),
            4.5e-4,
            700.0,
        ),
        Goniometer(
            ("chi", "phi"), np.array([[0, 0, 1.0], [-1, 0, 0]]), np.radians([-54.7, 0.0]), 1
        ),
        Scan(np.radians(-180.0), np.radians(-0.1), N),
    )
    rng = np.random.default_rng(1)
    scan = RotationScan(
        raw=str(raw),
        first=3,
        rotation=rotation,
        monitor=rng.uniform(1e5, 2e5, N),
        exposure=np.full(N, 0.1),
        attenuation=rng.uniform(0.1, 1, N),
        monitor_source="ion chamber (upstream)",
        temperature=120.5,
        saturation=4e5,
    )
    return scan, (raw, "/entry/data/data")


def _peaks() -> PeakTable:
    rng = np.random.default_rng(2)
    values: dict[str, Any] = {}
    for column in fields(PeakTable):
        if column.name == "counts":
            values[column.name] = {"blobs": 11, "peaks": 5}
        elif column.name in ("flags", "n_pixels", "n_frames"):
            values[column.name] = rng.integers(0, 9, 5)
        else:
            values[column.name] = rng.uniform(0, 10, 5)
    values["chi2"][2] = np.nan
    return PeakTable(**values)


def _volume(cell: np.ndarray = CELL) -> nexus.Volume:
    rng = np.random.default_rng(3)
    grid = Grid.symmetric([1.0, 0.5, 0.6], [0.1, 0.25, 0.2])
    counts = rng.poisson(4.0, grid.array_shape).astype(float)
    norm = rng.uniform(0.5, 2, grid.array_shape)
    norm[:, :, 0] = 0
    counts[:, :, 0] = 0
    measured = np.where(norm > 0, norm, np.nan)
    data, errors = counts / measured, np.sqrt(counts + 1) / measured
    return nexus.Volume(grid, cell, counts, norm, data, errors, {"what": "test", "n": 3})


def _product(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.nxs"
    if kind in ("scan", "series"):
        scan, dataset = _scan(folder)
        nexus.write_scan(path, scan, "a scan", dataset if kind == "scan" else None)
    elif kind == "mask":
        nexus.write_mask(path, np.arange(SLOW * FAST, dtype=np.uint32).reshape(SLOW, FAST) % 3)
    elif kind == "frame_mask":
        bits = np.random.default_rng(4).random((N, SLOW, FAST)) < 0.2
        with nexus.FrameMaskWriter(path, (N, SLOW, FAST)) as writer:
            for block in (bits[:3], bits[3:]):
                writer.append(np.packbits(block, axis=-1), block.mean(axis=(1, 2)))
    elif kind == "statistics":
        names = ("frame_sum", "background", "monitor", "transmission")
        arrays = {name: np.arange(N) + 10.0 * i for i, name in enumerate(names)}
        images = {"summed": np.ones((SLOW, FAST)) * 2.5, "maximum": np.eye(SLOW, FAST)}
        with nexus.statistics_output(path, (SLOW, FAST), np.dtype(np.uint16), [3, N]) as output:
            for value in (1, 2**32 - 1):
                output.add_part(np.full((SLOW, FAST), value))
            output.write(arrays, images)
    elif kind == "peaks":
        nexus.write_peaks(path, _peaks())
    elif kind == "counts":
        nexus.write_volume(path, replace(_volume(), data=None, errors=None), "counts and norm")
    elif kind == "volume":
        nexus.write_volume(path, _volume(), "S(Q)")
    else:
        raise AssertionError(kind)
    return path


# Signal and axes of the default plot of each product.
DEFAULTS: dict[str, tuple[str, list[str]]] = {
    "scan": ("monitor", ["rotation_angle"]),
    "series": ("monitor", ["rotation_angle"]),
    "mask": ("pixel_mask", ["slow", "fast"]),
    "frame_mask": ("fraction", ["frame"]),
    "statistics": ("frame_sum", ["frame"]),
    "peaks": ("intensity", ["frame"]),
    "counts": ("counts", ["Qk", "Qh"]),
    "volume": ("data", ["Qk", "Qh"]),
}


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("products")
    return {kind: _product(folder, kind) for kind in DEFAULTS}


# ------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("kind", ["scan", "series"])
def test_scan_round_trip(products: dict[str, Path], kind: str, tmp_path: Path) -> None:
    expected, _ = _scan(tmp_path)
    found = nexus.read_scan(products[kind])
    assert nexus.has_frames(products[kind]) == (kind == "scan")
    assert Path(found.raw).name == "frames.h5"
    for name in ("first", "monitor_source", "temperature", "saturation"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("monitor", "exposure", "attenuation"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    one, two = found.rotation, expected.rotation
    assert one.beam == two.beam
    assert (one.detector.shape, one.detector.pixel_size) == ((SLOW, FAST), (2e-4, 1e-4))
    assert one.detector.sensor_thickness == 4.5e-4
    assert (one.goniometer.names, one.goniometer.scan) == (("chi", "phi"), 1)
    # Angles pass through degrees: a few last bits.
    np.testing.assert_allclose(one.scan.angle(N), two.scan.angle(N), rtol=1e-14)
    np.testing.assert_allclose(
        one.q_crystal(2.5, 3.0, 4.0), two.q_crystal(2.5, 3.0, 4.0), rtol=1e-13
    )


def test_scan_without_temperature_and_saturation(tmp_path: Path) -> None:
    scan, dataset = _scan(tmp_path)
    path = tmp_path / "scan.nxs"
    nexus.write_scan(path, replace(scan, temperature=None, saturation=None), "t", dataset)
    found = nexus.read_scan(path)
    assert (found.temperature, found.saturation) == (None, None)


def test_scan_angles_label_mid_frames(products: dict[str, Path]) -> None:
    with h5py.File(products["scan"]) as file:
        angle = file["entry/frames/rotation_angle"]
        np.testing.assert_allclose(angle[:2], [-180.05, -180.15], rtol=1e-12)
        assert angle.attrs["units"] == "deg"
        assert file["entry/instrument/goniometer/chi"][()] == pytest.approx(-54.7)


def test_scan_links_its_frames_even_after_a_move(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    _product(tmp_path / "here", "scan")
    (tmp_path / "here").rename(tmp_path / "there")
    with h5py.File(tmp_path / "there/scan.nxs") as file:
        assert file["entry/data/data"].shape == (N, SLOW, FAST)
        assert file["entry/data/data"][1, 0, 0] == SLOW * FAST


def test_mask_round_trip(products: dict[str, Path]) -> None:
    bits = nexus.read_mask(products["mask"])
    assert bits.dtype == np.uint32
    np.testing.assert_array_equal(bits, np.arange(SLOW * FAST).reshape(SLOW, FAST) % 3)


def test_frame_mask_round_trip(products: dict[str, Path]) -> None:
    bits = np.random.default_rng(4).random((N, SLOW, FAST)) < 0.2
    with nexus.open_frame_mask(products["frame_mask"]) as packed:
        assert tuple(packed.attrs["shape"]) == (N, SLOW, FAST)
        unpacked = np.unpackbits(packed[2:5], axis=-1, count=FAST)
    np.testing.assert_array_equal(unpacked, bits[2:5])
    with h5py.File(products["frame_mask"]) as file:
        np.testing.assert_allclose(file["entry/flagged/fraction"][()], bits.mean(axis=(1, 2)))


def test_statistics_round_trip(products: dict[str, Path]) -> None:
    path = products["statistics"]
    np.testing.assert_array_equal(nexus.read_statistics(path, "monitor"), np.arange(N) + 20)
    np.testing.assert_array_equal(nexus.read_statistics(path, "maximum"), np.eye(SLOW, FAST))
    with h5py.File(path) as file:
        partial = file["entry/partial_sums"]
        np.testing.assert_array_equal(partial["partial_sums"][:, 0, 0], [1, 2**32 - 1])
        assert partial["partial_sums"].compression == "gzip"
        np.testing.assert_array_equal(partial["first_frame"], [0, 3])
        np.testing.assert_array_equal(partial["n_frames"], [3, N - 3])
        np.testing.assert_array_equal(partial["frame"], [1.5, (N + 3) / 2])


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(np.uint8, np.uint32), (np.uint16, np.uint32), (np.uint32, np.uint64), (np.int16, np.int32),
     (np.int32, np.int64), (float, np.float32)],
)  # fmt: skip
def test_partial_sums_cannot_overflow(tmp_path: Path, dtype: type, stored: type) -> None:
    """Also not below 0: signed counts have sums with a sign."""
    path = tmp_path / "statistics.nxs"
    ends = [2**16, 2**16 + 3]
    extremes = [2**16 * (0 if dtype is float else np.iinfo(dtype).min), 2**16]
    with nexus.statistics_output(path, (1, 2), np.dtype(dtype), ends) as output:
        output.add_part(np.array([extremes]))
    with h5py.File(path) as file:
        sums = file["entry/partial_sums/partial_sums"]
        assert sums.dtype == stored
        assert sums[0, 0].tolist() == extremes


def test_peaks_round_trip(products: dict[str, Path]) -> None:
    found, expected = nexus.read_peaks(products["peaks"]), _peaks()
    for column in fields(PeakTable):
        np.testing.assert_equal(getattr(found, column.name), getattr(expected, column.name))
    with h5py.File(products["peaks"]) as file:
        table = file["entry/peaks"]
        assert table.attrs["NX_class"] == "NXreflections"
        # NXreflections: x is the fast, y the slow direction.
        np.testing.assert_array_equal(table["observed_px_x"][()], expected.fast)
        np.testing.assert_array_equal(table["observed_px_y"][()], expected.slow)
        np.testing.assert_array_equal(table["observed_frame"][()], expected.frame)


@pytest.mark.parametrize("derived", [True, False])
def test_volume_round_trip(products: dict[str, Path], derived: bool) -> None:
    found, expected = nexus.read_volume(products["volume" if derived else "counts"]), _volume()
    assert found.grid.same_as(expected.grid)
    np.testing.assert_array_equal(found.cell, CELL)
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert found.counts.dtype == found.norm.dtype == np.float64
    assert found.notes == {"what": "test", "n": 3}
    # Single precision: half a unit in the 24th bit.
    np.testing.assert_allclose(found.norm, expected.norm, rtol=2**-24)
    if derived:
        np.testing.assert_allclose(found.data, expected.data, rtol=2**-24)
        np.testing.assert_allclose(found.errors, expected.errors, rtol=2**-24)
        assert np.isnan(found.data[:, :, 0]).all()
    else:
        assert found.data is None
        assert found.errors is None


@pytest.mark.parametrize(
    ("counts", "dtype"),
    [([0.0, 2.0**32 - 1], np.uint32), ([0.0, 2.0**32], np.float64), ([0.5, 1.0], np.float64)],
)
def test_counts_are_stored_exactly(tmp_path: Path, counts: list[float], dtype: type) -> None:
    grid = Grid(np.zeros(3), np.ones(3), (2, 1, 1))
    array = np.array(counts).reshape(1, 1, 2)
    path = tmp_path / "v.nxs"
    nexus.write_volume(path, nexus.Volume(grid, CELL, array, np.ones_like(array)), "t")
    with h5py.File(path) as file:
        assert file["entry/transform/counts"].dtype == dtype
    np.testing.assert_array_equal(nexus.read_volume(path).counts, array)


@pytest.mark.parametrize("fast", [True, False])
def test_what_was_not_measured_takes_no_room(tmp_path: Path, fast: bool) -> None:
    """Chunks without a norm are not written, and read as no counts, no norm, no S."""
    grid = Grid(np.zeros(3), np.ones(3), (130, 70, 33))
    norm = np.zeros(grid.array_shape)
    norm[3, 2, 1], norm[32, 69, 129], norm[20, 3, 70:90] = 1.5, 2.5, 0.5
    counts = 3.0 * (norm > 0)
    counts[20, 3, 80:] = 0  # measured, and nothing seen
    data = np.where(norm > 0, counts, np.nan)
    arrays = {"counts": counts, "norm": norm, "data": data, "data_errors": 2 * data}
    path = tmp_path / "v.nxs"
    with nexus.VolumeWriter(path, grid, CELL, "t", np.uint64, True, fast) as writer:
        for first in (0, 16, 32):
            writer.write(first, **{n: array[first : first + 16] for n, array in arrays.items()})
        writer.note({})
    with h5py.File(path) as file:
        for name, array in arrays.items():
            dataset = file["entry/transform"][name]
            assert dataset.id.get_num_chunks() == 3
            np.testing.assert_array_equal(dataset[()], array)
            if not fast:
                # Opened by any program: nothing but filters of HDF5 itself.
                assert (dataset.compression, dataset.shuffle) == ("gzip", True)


def test_planes_are_written_in_whole_layers(tmp_path: Path) -> None:
    grid = Grid(np.zeros(3), np.ones(3), (3, 4, 40))
    some = np.ones((16, 4, 3))
    with nexus.VolumeWriter(tmp_path / "v.nxs", grid, CELL, "t", np.uint32, False) as writer:
        writer.write(0, counts=some, norm=some)
        for first, n in ((8, 16), (16, 8)):
            with pytest.raises(ValueError, match="whole chunks of 16"):
                writer.write(first, counts=some[:n], norm=some[:n])
        writer.write(32, counts=some[:8], norm=some[:8])


def test_strips_of_fast_volumes_fit_into_others(tmp_path: Path) -> None:
    """Volumes for hklflow have blocks of 64 rows, products blocks of 32."""
    grid = Grid(np.zeros(3), np.ones(3), (70, 100, 20))
    norm = np.random.default_rng(3).random(grid.array_shape).astype(np.float32)
    with nexus.VolumeWriter(tmp_path / "a", grid, CELL, "t", np.uint32, False, True) as writer:
        writer.write(0, counts=norm > 0.5, norm=norm)
        writer.note({})
    with (
        nexus.open_volume(tmp_path / "a") as fast,
        nexus.VolumeWriter(tmp_path / "b", grid, CELL, "t", np.uint32, False) as writer,
    ):
        writer.note({})
        assert (fast.group["norm"].chunks, writer.chunks) == ((16, 64, 64), (16, 32, 32))
        for first, last in ((0, 16), (16, 20)):
            for rows, (counts, part) in SideBySide([fast]).strips(first, last):
                writer.write_block((first, rows.start), counts=counts[0], norm=part[0])
    with nexus.open_volume(tmp_path / "b") as copy:
        np.testing.assert_array_equal(copy.group["norm"], norm)
        np.testing.assert_array_equal(copy.group["counts"], norm > 0.5)
    strip = norm[:16, 32:64]
    with nexus.VolumeWriter(tmp_path / "c", grid, CELL, "t", np.uint32, False, True) as writer:
        with pytest.raises(ValueError, match="32 to 64 are not whole chunks of 64"):
            writer.write_block((0, 32), counts=strip, norm=strip)
        writer.note({})


def test_volumes_are_read_side_by_side(tmp_path: Path) -> None:
    grid = Grid(np.zeros(3), np.ones(3), (9, 70, 20))
    rng = np.random.default_rng(12)
    volumes = []
    for i, dtype in enumerate((np.uint32, np.float64)):
        counts, norm = rng.integers(0, 9, grid.array_shape), rng.random(grid.array_shape)
        with nexus.VolumeWriter(tmp_path / f"{i}", grid, CELL, "t", dtype, False, True) as writer:
            writer.write(0, counts=counts, norm=norm)
            writer.note({})
        volumes.append((counts, norm.astype(np.float32)))
    found = np.full((2, 2, *grid.array_shape), np.nan)
    with nexus.open_volume(tmp_path / "0") as one, nexus.open_volume(tmp_path / "1") as other:
        reader = SideBySide([one, other])
        for first, last in ((0, 16), (16, 20)):
            for rows, (counts, norm) in reader.strips(first, last):
                assert norm.dtype == np.float32
                found[0, :, first:last, rows], found[1, :, first:last, rows] = counts, norm
    np.testing.assert_array_equal(found, np.stack(volumes, axis=1))


# --------------------------------------------------------------------- packing


def _numbers(kind: str, n: int) -> np.ndarray:
    rng = np.random.default_rng([n, len(kind)])
    made = {
        "zeros": np.zeros(n, np.uint64),
        "counts": rng.poisson(3, n).astype(np.uint64),
        "noise": rng.integers(0, 2**32, n).astype(np.uint32),
        "floats": rng.random(n).astype(np.float32),
        "gaps": np.where(rng.random(n) < 0.05, rng.random(n), np.nan).astype(np.float32),
        "doubles": rng.normal(0, 1, n),
    }
    return made[kind]


@pytest.mark.parametrize("kind", ["zeros", "counts", "noise", "floats", "gaps", "doubles"])
@pytest.mark.parametrize("n", [1, 7, 65536])
def test_zlib_unpacks_what_is_packed(kind: str, n: int) -> None:
    numbers = _numbers(kind, n)
    shuffled = numbers.view(np.uint8).reshape(n, -1).T.tobytes()
    packed = pack(numbers)
    # It checks the sum too.
    assert zlib.decompress(packed) == shuffled
    assert len(packed) < 1.001 * len(shuffled) + 30
    if n > 7:
        # Not much larger than what zlib makes of measured numbers at its fastest.
        assert len(packed) < 1.05 * len(zlib.compress(shuffled, 1))


def test_volume_axes_label_voxel_centres(products: dict[str, Path]) -> None:
    with h5py.File(products["volume"]) as file:
        group = file["entry/transform"]
        # Axis, number of voxels in the array, spacing: from limit and step of `_volume`.
        for name, axis, n, step in (("Ql", 0, 7, 0.2), ("Qk", 1, 5, 0.25), ("Qh", 2, 21, 0.1)):
            centres = group[name][()]
            assert group["data"].shape[axis] == len(centres) == n
            np.testing.assert_allclose(centres, (np.arange(n) - n // 2) * step, atol=1e-12)
            assert group.attrs[f"{name}_indices"] == axis
            assert group[name].attrs["units"] == "r.l.u."


def test_skewed_axes_have_angles_and_lengths(tmp_path: Path) -> None:
    """Lengths and angles of a*, b*, c* against vectors made by cross products."""
    a, b, c, alpha, beta, gamma = cell = np.array([4.0, 5.0, 7.0, 80.0, 95.0, 112.0])
    ca, cb, cg = np.cos(np.radians([alpha, beta, gamma]))
    sg = np.sin(np.radians(gamma))
    y = (ca - cb * cg) / sg
    vectors = np.array(
        [[a, 0, 0], [b * cg, b * sg, 0], [c * cb, c * y, c * np.sqrt(1 - cb**2 - y**2)]]
    )
    volume = np.linalg.det(vectors)
    star = [2 * np.pi * np.cross(vectors[i - 2], vectors[i - 1]) / volume for i in range(3)]
    path = tmp_path / "v.nxs"
    nexus.write_volume(path, _volume(cell), "t")

    def angle(one: int, two: int) -> float:
        cosine = star[one] @ star[two] / np.linalg.norm(star[one]) / np.linalg.norm(star[two])
        return float(np.degrees(np.arccos(cosine)))

    with h5py.File(path) as file:
        group = file["entry/transform"]
        for i, name in enumerate(("Qh", "Qk", "Ql")):
            assert group[name].attrs["scaling_factor"] == pytest.approx(np.linalg.norm(star[i]))
        # (Qh, Qk), (Qh, Ql), (Qk, Ql)
        np.testing.assert_allclose(
            group.attrs["angles"], [angle(0, 1), angle(0, 2), angle(1, 2)], rtol=1e-10
        )


# --------------------------------------------------------------------- other programs


@pytest.fixture
def nxload() -> Callable[[Path], Any]:
    from nexusformat.nexus import nxload as load

    return lambda path: load(str(path), "r")


@pytest.mark.parametrize("kind", DEFAULTS)
def test_nexusformat_finds_the_default_plot(
    products: dict[str, Path], nxload: Callable[[Path], Any], kind: str
) -> None:
    signal, axes = DEFAULTS[kind]
    plottable = nxload(products[kind]).plottable_data
    assert plottable is not None
    assert plottable.nxclass == "NXdata"
    assert plottable.nxsignal.nxname == signal
    assert [axis.nxname for axis in plottable.nxaxes] == axes
    shape = plottable.nxsignal.shape
    assert [len(axis) for axis in plottable.nxaxes] == list(shape)
    assert plottable.is_plottable()


def test_nexusformat_knows_errors_and_skew_of_a_volume(
    products: dict[str, Path], nxload: Callable[[Path], Any]
) -> None:
    data = nxload(products["volume"])["entry/transform"]
    np.testing.assert_allclose(
        data.nxerrors.nxdata, _volume().errors, rtol=2**-24, err_msg="errors as written"
    )
    np.testing.assert_allclose(data.nxangles, [60.0, 90.0, 90.0])  # hexagonal: γ* is 60°


@pytest.mark.parametrize("kind", DEFAULTS)
def test_silx_finds_the_default_plot(products: dict[str, Path], kind: str) -> None:
    import silx.io
    from silx.io import nxdata

    signal, axes = DEFAULTS[kind]
    with silx.io.open(str(products[kind])) as file:
        default = nxdata.get_default(file)
        assert default is not None
        assert default.is_valid
        assert default.signal_dataset_name == signal
        assert default.axes_dataset_names == axes
        assert [len(axis) for axis in default.axes] == list(default.signal.shape)
        if kind == "volume":
            middle = _volume().errors[3]
            np.testing.assert_allclose(default.errors[()], middle, rtol=2**-24)
            assert default.title == "S(Q), Ql = 0"
        if kind == "statistics":
            assert len(default.auxiliary_signals) == 3


@pytest.mark.parametrize("kind", DEFAULTS)
def test_old_hdf5_libraries_can_read_the_products(products: dict[str, Path], kind: str) -> None:
    """Superblock 0 and version 1 object headers (HDF5 1.8 and before); only built-in filters."""
    content = products[kind].read_bytes()
    assert content[:8] == b"\x89HDF\r\n\x1a\n"
    assert content[8] == 0
    assert b"OHDR" not in content

    def check(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            plist = node.id.get_create_plist()
            filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
            assert filters <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}, name

    with h5py.File(products[kind]) as file:
        file.visititems(check)


def test_provenance_keeps_the_old_format(tmp_path: Path) -> None:
    path = _product(tmp_path, "mask")
    record = {"stage": "a", "version": "1", "stage_version": 1, "started": "2020-01-01T00:00:00"}
    for _ in range(2):  # a second history replaces the first
        nexus.write_provenance(path, [record] * 12)
    assert nexus.read_provenance(path) == [record] * 12
    content = path.read_bytes()
    assert content[8] == 0
    assert b"OHDR" not in content
    np.testing.assert_array_equal(nexus.read_mask(path).shape, (SLOW, FAST))


def test_a_file_that_is_not_hdf5_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.nxs"
    path.write_text("no HDF5")
    with pytest.raises(HklflowError, match=r"broken\.nxs is not a readable HDF5 file"):
        nexus.read_mask(path)


@pytest.mark.parametrize("read", [nexus.read_scan, nexus.read_mask, nexus.read_volume])
def test_another_product_than_expected_is_named(
    products: dict[str, Path], read: Callable[[Path], Any]
) -> None:
    with pytest.raises(HklflowError, match=r"statistics\.nxs"):
        read(products["statistics"])


# ------------------------------------------------------------------------- master file


def _master(folder: Path) -> Path:
    """A master file in ``out`` with products below it and raw frames beside it."""
    top = folder / "out"
    rotations: dict[str, dict[str, Path]] = {}
    for name in ("r1", "r2"):
        below = top / name
        below.mkdir(parents=True)
        made = {kind: _product(below, kind) for kind in ("scan", "peaks", "statistics")}
        rotations[name] = {
            "instrument": made["scan"],
            "scan": made["scan"],
            "peaks": made["peaks"],
            "frame_sums": made["statistics"],
            "mask3d": _product(below, "frame_mask"),
        }
    for name in ("transform", "masked_transform"):
        nexus.write_volume(top / f"{name}.nxs", _volume(), f"S(Q) {name}")
    geometry = _scan(folder)[0].rotation
    known = orientation(
        {"r1": geometry, "r2": geometry},
        ub=np.diag([1.0, 2.0, 3.0]), group="P 6/m m m", cell=CELL, cell_sigma=np.full(6, 0.001),
        temperature=300.0,
    )  # fmt: skip
    path = top / "hexa_300K.nxs"
    volumes = {name: top / f"{name}.nxs" for name in ("transform", "masked_transform")}
    nexus.write_master(path, "hexa 300K", volumes, rotations, known)
    return path


@pytest.fixture
def moved_master(tmp_path: Path) -> Path:
    """The master file after its whole folder has moved."""
    made = _master(tmp_path / "before")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "before", tmp_path / "elsewhere/after")
    assert not made.exists()
    return tmp_path / "elsewhere/after/out" / made.name


def test_master_links_resolve_after_a_move(moved_master: Path) -> None:
    targets = set(nexus.linked_files(moved_master))
    assert len(targets) == 10  # among them the raw frames of two rotations
    assert not [target for target in targets if os.path.isabs(target)]  # noqa: PTH117
    with h5py.File(moved_master) as file:
        for name in ("transform", "masked_transform"):
            assert file[f"entry/{name}/data"].shape == _volume().grid.array_shape
            assert file[f"entry/{name}"].attrs["signal"] == "data"
        for name in ("f1", "f2"):
            assert file[f"{name}/peaks/observed_px_x"].shape == (5,)
            assert file[f"{name}/frame_sums/transmission"].shape == (N,)
            assert file[f"{name}/mask3d/bits"].shape[0] == N
            assert file[f"{name}/instrument/detector/distance"][()] > 0.1
            # A link in a link: master -> scan file -> raw frames.
            assert file[f"{name}/data/data"].shape == (N, SLOW, FAST)
        assert file["entry/sample/unitcell_c"][()] == 7.15
        assert file["entry/sample/unitcell_c"].attrs["sigma"] == 0.001
        assert file["entry/sample/temperature"][()] == 300


def test_every_default_of_the_master_exists(moved_master: Path) -> None:
    with h5py.File(moved_master) as file:
        assert set(file) == {"entry", "f1", "f2"}
        for name, entry in file.items():
            assert entry.attrs["NX_class"] == "NXentry"
            target = entry[entry.attrs["default"]]
            assert target.attrs["NX_class"] == "NXdata", name
            assert target.attrs["signal"] in target


def test_master_plots_itself(moved_master: Path, nxload: Callable[[Path], Any]) -> None:
    import silx.io
    from silx.io import nxdata

    with silx.io.open(str(moved_master)) as file:
        default = nxdata.get_default(file)
        assert default is not None
        assert default.axes_dataset_names == ["Qk", "Qh"]
        assert default.signal.shape == _volume().grid.array_shape[1:]
    root = nxload(moved_master)
    plottable = root.plottable_data
    assert plottable.nxsignal.nxname == "data"
    assert [axis.nxname for axis in plottable.nxaxes] == ["Qk", "Qh"]
    assert root["f1/frame_sums"].nxsignal.nxname == "frame_sum"


def test_a_version_of_two_statuses_stands_once(tmp_path: Path) -> None:
    """It was superseded between two jobs of one run."""
    path = tmp_path / "product.nxs"
    with h5py.File(path, "w") as file:
        file.create_group("entry")
    version = {"kind": "geometry", "state_id": "0" * 16, "version": 1, "quality": "reduced"}
    history = [
        {"stage": "import_scan", "version": "1", "stage_version": 1, "started": "now",
         "calibrations": [version | {"status": status}]}
        for status in ("accepted", "superseded", "accepted")
    ]  # fmt: skip
    nexus.write_provenance(path, history)
    nexus.write_provenance(path, history)  # again: the old one is replaced
    with h5py.File(path) as file:
        (group,) = file["entry/calibration"].values()
        assert group["status"][()].decode() == "accepted, superseded"
        assert file["entry"].attrs["hklflow_quality"] == "reduced"
    diagnostic = [version | {"version": 0, "status": "default", "quality": "diagnostic"}]
    nexus.write_provenance(path, [*history, history[0] | {"calibrations": diagnostic}])
    with h5py.File(path) as file:
        assert len(file["entry/calibration"]) == 2
        assert file["entry"].attrs["hklflow_quality"] == "diagnostic"
