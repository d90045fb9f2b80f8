import json

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats.raw import open_frames, read_header
from hklflow.formats.series import find_files
from hklflow.formats.write_images import write_cbf_series
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter

N, SHAPE = 7, (12, 9)


@pytest.fixture
def counts():
    return np.random.default_rng(1).poisson(50, (N, *SHAPE)).astype(np.uint32)


def write_dataset(group, name, data):
    return group.create_dataset(
        name, data=data, chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4")
    )


def write_linked(folder, counts, sizes=(3, 3, 1)):
    """Eiger style: a master that links data files."""
    with h5py.File(folder / "x_master.h5", "w") as master:
        entry = master.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        group = entry.create_group("data")
        first = 0
        for i, size in enumerate(sizes, start=1):
            name = f"x_data_{i:06d}.h5"
            with h5py.File(folder / name, "w") as file:
                write_dataset(file, "entry/data/data", counts[first : first + size])
            group[f"data_{i:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            first += size
    return folder / "x_master.h5"


def write_virtual(folder, counts, sizes=(4, 3)):
    path = folder / "x.nxs"
    layout = h5py.VirtualLayout(counts.shape, counts.dtype)
    first = 0
    for i, size in enumerate(sizes):
        with h5py.File(folder / f"part{i}.h5", "w") as file:
            write_dataset(file, "data", counts[first : first + size])
        layout[first : first + size] = h5py.VirtualSource(f"part{i}.h5", "data", (size, *SHAPE))
        first += size
    with h5py.File(path, "w") as file:
        file.create_group("entry/data").create_virtual_dataset("data", layout)
    return path


def write_stack(folder, counts):
    path = folder / "f1.h5"
    with h5py.File(path, "w") as file:
        write_dataset(file, "entry/data/data", counts)
    return path


def write_images(folder, counts, suffix=".cbf", first=1):
    write = {".cbf": fabio.cbfimage.CbfImage, ".tif": fabio.tifimage.TifImage}
    write[".edf"] = fabio.edfimage.EdfImage
    for i, frame in enumerate(counts, start=first):
        write[suffix](data=frame.astype(np.int32)).write(str(folder / f"a_{i:04d}{suffix}"))
    return folder / f"a_####{suffix}"


@pytest.mark.parametrize("write", [write_linked, write_virtual, write_stack, write_images])
@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_frames_in_blocks_of_any_size(tmp_path, counts, write, size):
    with open_frames(write(tmp_path, counts)) as frames:
        assert frames.shape == counts.shape
        blocks = list(frames.blocks(size))
        assert max(map(len, blocks)) <= size
        np.testing.assert_array_equal(np.concatenate(blocks), counts)
        part = list(frames.blocks(size, first=2, last=6))
        np.testing.assert_array_equal(np.concatenate(part), counts[2:6])
        fast = [block.copy() for block in frames.stream(size, first=2, last=6)]
        np.testing.assert_array_equal(np.concatenate(fast), counts[2:6])
        np.testing.assert_array_equal(frames.read(2, 5), counts[2:5])
        assert frames.read(3, 3).shape == (0, *SHAPE)
        assert all(path.is_file() for path in frames.files)
        with pytest.raises(HklflowError, match="not within the 7 frames"):
            frames.read(5, 8)


def test_files_are_listed(tmp_path, counts):
    with open_frames(write_linked(tmp_path, counts)) as frames:
        names = [path.name for path in frames.files]
    assert names == ["x_master.h5", *(f"x_data_00000{i}.h5" for i in (1, 2, 3))]


@pytest.mark.parametrize("suffix", [".tif", ".edf"])
def test_other_image_formats(tmp_path, counts, suffix):
    with open_frames(write_images(tmp_path, counts, suffix)) as frames:
        np.testing.assert_array_equal(frames.read(0, N), counts)


def test_all_ways_to_name_a_series(tmp_path, counts):
    write_images(tmp_path, counts, first=8)
    files = [tmp_path / f"a_{i:04d}.cbf" for i in range(8, 15)]
    for raw in (
        tmp_path / "a_####.cbf",
        str(tmp_path / "a_%04d.cbf"),
        str(tmp_path / "a_*.cbf"),
        files,
    ):
        assert find_files(raw) == files
    assert find_files(files[2]) == files[2:3]


def test_numbers_and_not_names_order_a_series(tmp_path):
    for i in (1, 2, 10, 9, 3, 4, 5, 6, 7, 8):
        (tmp_path / f"b_{i}.tif").touch()
    assert [path.name for path in find_files(tmp_path / "b_#.tif")][-2:] == ["b_9.tif", "b_10.tif"]
    assert [path.name for path in find_files(tmp_path / "b_*.tif")][-2:] == ["b_9.tif", "b_10.tif"]


def test_missing_images_are_reported_by_number(tmp_path, counts):
    pattern = write_images(tmp_path, counts)
    (tmp_path / "a_0003.cbf").unlink()
    (tmp_path / "a_0005.cbf").unlink()
    with pytest.raises(HklflowError, match=r"2 of the images .* are missing: 3, 5;"):
        open_frames(pattern)


def test_a_part_of_a_series(tmp_path, counts):
    write_images(tmp_path, counts)
    (tmp_path / "a_0003.cbf").unlink()
    with open_frames(tmp_path / "a_####[4-6].cbf") as frames:
        np.testing.assert_array_equal(frames.read(0, 3), counts[3:6])
    with pytest.raises(HklflowError, match=r"between numbers 2 and 4 are missing: 3;"):
        open_frames(tmp_path / "a_####[2-4].cbf")


def test_a_glob_over_two_series_is_refused(tmp_path):
    for name in ("a_01.tif", "b_02.tif"):
        (tmp_path / name).touch()
    with pytest.raises(HklflowError, match="several series"):
        find_files(tmp_path / "*.tif")
    (tmp_path / "b_01.tif").touch()
    with pytest.raises(HklflowError, match="number 1 twice"):
        find_files(tmp_path / "*.tif")


def test_images_of_another_shape_or_damaged_are_named(tmp_path, counts):
    pattern = write_images(tmp_path, counts)
    fabio.cbfimage.CbfImage(data=np.zeros((5, 5), np.int32)).write(str(tmp_path / "a_0004.cbf"))
    with pytest.raises(HklflowError, match=r"frame 3 .*a_0004\.cbf.*\(5, 5\)"):
        open_frames(pattern).read(0, N)
    whole = (tmp_path / "a_0006.cbf").read_bytes()
    (tmp_path / "a_0006.cbf").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(HklflowError, match=r"frame 5 .*a_0006\.cbf"):
        open_frames(pattern).read(4, N)


@pytest.mark.parametrize("raw", ["none.h5", "none.cbf", "none_####.cbf", "nowhere/x_*.tif"])
def test_nothing_there(tmp_path, raw):
    with pytest.raises(HklflowError, match=r"none|nowhere"):
        open_frames(tmp_path / raw)


def test_a_missing_data_file_is_named(tmp_path, counts):
    master = write_linked(tmp_path, counts)
    (tmp_path / "x_data_000002.h5").unlink()
    with pytest.raises(HklflowError, match=r"x_data_000002\.h5 does not exist.*frames from 3"):
        open_frames(master)


def test_a_missing_source_of_a_virtual_dataset_is_named(tmp_path, counts):
    path = write_virtual(tmp_path, counts)
    (tmp_path / "part1.h5").unlink()
    with pytest.raises(HklflowError, match=r"part1\.h5 does not exist.*frames from 4"):
        open_frames(path)


def test_a_truncated_data_file_is_named(tmp_path, counts):
    master = write_linked(tmp_path, counts)
    data = tmp_path / "x_data_000002.h5"
    data.write_bytes(data.read_bytes()[:-200])
    with pytest.raises(HklflowError, match=r"frames from 3 .*x_data_000002\.h5"):
        open_frames(master)


def test_a_damaged_frame_is_named(tmp_path, counts):
    path = write_stack(tmp_path, counts)
    with h5py.File(path) as file:
        chunk = file["entry/data/data"].id.get_chunk_info(5)
    raw = bytearray(path.read_bytes())
    raw[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(raw)
    with (
        open_frames(path) as frames,
        pytest.raises(HklflowError, match=r"frame 5 cannot be read from .*f1\.h5"),
    ):
        frames.read(3, 7)


def test_frames_that_were_never_written_are_not_read_as_zeros(tmp_path, counts):
    path = tmp_path / "short.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("entry/data/data", (N, *SHAPE), np.uint32, chunks=(1, *SHAPE))
        data[:4] = counts[:4]
    with pytest.raises(HklflowError, match="frame 4 was never written"):
        open_frames(path)


def test_a_plain_stack_says_nothing_else(tmp_path, counts):
    header = read_header(write_stack(tmp_path, counts))
    said = {name: value for name, value in vars(header).items() if value is not None}
    assert said == {"n_frames": N}


def rotate(axis, degrees, v):
    """Rodrigues on one vector: independent of geometry.rotation_matrix."""
    a, t = np.asarray(axis, float) / np.linalg.norm(axis), np.radians(degrees)
    v = np.asarray(v, float)
    return v * np.cos(t) + np.cross(a, v) * np.sin(t) + a * (a @ v) * (1 - np.cos(t))


def axis(group, name, value, units, kind, vector, depends_on, **offset):
    node = group.create_dataset(name, data=value)
    node.attrs.update(
        units=units,
        transformation_type=kind,
        vector=np.asarray(vector, float),
        depends_on=depends_on,
        **offset,
    )
    return node


def write_nxmx(path, counts, angles):
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        write_dataset(entry, "data/data", counts)
        for name, kind in (
            ("sample", "NXsample"),
            ("sample/transformations", "NXtransformations"),
            ("instrument", "NXinstrument"),
            ("instrument/beam", "NXbeam"),
            ("instrument/filter", "NXattenuator"),
            ("instrument/eiger", "NXdetector"),
            ("instrument/eiger/transformations", "NXtransformations"),
            ("instrument/eiger/module", "NXdetector_module"),
            ("control", "NXmonitor"),
        ):
            entry.create_group(name).attrs["NX_class"] = kind
        entry["control/data"] = np.arange(N) + 100
        entry["instrument/beam/incident_energy"] = 15.0
        entry["instrument/beam/incident_energy"].attrs["units"] = "keV"
        entry["instrument/beam/incident_polarization_stokes"] = [2.0, 1.96, 0, 0]
        entry["instrument/filter/attenuator_transmission"] = 0.25
        detector = entry["instrument/eiger"]
        mask = np.zeros(SHAPE, np.uint32)
        mask[3, 4], mask[0, 1] = 1, 1 << 8
        detector["pixel_mask"] = mask
        detector["saturation_value"] = 65000
        detector["count_time"] = 20.0
        detector["count_time"].attrs["units"] = "ms"
        detector["sensor_thickness"] = 450.0
        detector["sensor_thickness"].attrs["units"] = "um"
        moves = detector["transformations"]
        base = "/entry/instrument/eiger/transformations"
        axis(moves, "two_theta", [12.0], "deg", "rotation", [0, 1, 0], ".")
        shift = {"offset": np.array([0.0, 0.001, 0.0]), "offset_units": "m"}
        axis(moves, "det_z", 150.0, "mm", "translation", [0, 0, 1], f"{base}/two_theta", **shift)
        axis(moves, "tilt", [0.01], "rad", "rotation", [1, 0, 0], "det_z")
        module = detector["module"]
        module["data_origin"] = [2, 1]
        module["data_size"] = [SHAPE[0] - 2, SHAPE[1] - 1]
        axis(
            module,
            "module_offset",
            [5.0],
            "mm",
            "translation",
            [1.0, 0, 0],
            f"{base}/tilt",
            offset=np.array([0.0, 0.002, 0.0]),
            offset_units="m",
        )
        axis(
            module,
            "fast_pixel_direction",
            75.0,
            "um",
            "translation",
            [-1, 0, 0],
            "module_offset",
        )
        axis(
            module,
            "slow_pixel_direction",
            172e-6,
            "m",
            "translation",
            [0, -1, 0],
            "/entry/instrument/eiger/module/module_offset",
        )
        entry["sample/depends_on"] = "/entry/sample/transformations/phi"
        entry["sample/temperature"] = 26.85
        entry["sample/temperature"].attrs["units"] = "C"
        sample = entry["sample/transformations"]
        axis(sample, "omega", angles, "deg", "rotation", [-1, 0, 0], ".")
        axis(sample, "kappa", 30.0, "deg", "rotation", [0, 0.6, 0.8], "omega")
        axis(sample, "phi", [0.5], "rad", "rotation", [2, 0, 0], "kappa")
    return path


def test_attenuators_one_behind_the_other_multiply(tmp_path, counts):
    path = write_nxmx(tmp_path / "a.nxs", counts, 10 - 0.1 * np.arange(N))
    with h5py.File(path, "r+") as file:
        second = file["entry/instrument"].create_group("second_filter")
        second.attrs["NX_class"] = "NXattenuator"
        second["attenuator_transmission"] = 0.1 + 0.01 * np.arange(N)
    transmission = read_header(path).transmission
    np.testing.assert_allclose(transmission, 0.25 * (0.1 + 0.01 * np.arange(N)))


def test_nxmx_geometry_and_measurement(tmp_path, counts):
    path = write_nxmx(tmp_path / "a.nxs", counts, 10 - 0.1 * np.arange(N))
    header = read_header(path)
    assert header.wavelength == pytest.approx(12.398419843 / 15, rel=1e-9)
    assert header.polarization == pytest.approx(0.99)
    assert header.transmission == 0.25
    assert header.temperature == pytest.approx(300.0)
    assert header.exposure_time == pytest.approx(0.02)
    assert header.saturation == 65000
    assert header.n_frames == N
    np.testing.assert_array_equal(header.monitor, np.arange(N) + 100)
    assert np.argwhere(header.pixel_mask).tolist() == [[0, 1], [3, 4]]
    assert header.start_deg == pytest.approx(10)
    assert header.step_deg == pytest.approx(-0.1)
    assert header.angles_deg is None
    goniometer = header.goniometer
    assert goniometer.names == ("omega", "kappa", "phi")
    np.testing.assert_allclose(goniometer.axes, [[-1, 0, 0], [0, 0.6, 0.8], [1, 0, 0]])
    np.testing.assert_allclose(np.degrees(goniometer.angles[1]), 30)
    np.testing.assert_allclose(goniometer.angles[2], 0.5)
    assert goniometer.scan == 0
    detector = header.detector
    assert detector.pixel_size == pytest.approx((172e-6, 75e-6))
    assert detector.sensor_thickness == pytest.approx(450e-6)
    assert detector.shape == SHAPE

    def lab(slow, fast):
        """Walk the chain by hand for pixel coordinates (slow, fast) of the whole image."""
        point = np.array([0.005 - 75e-6 * (fast - 1), 0.002 - 172e-6 * (slow - 2), 0])
        point = rotate([1, 0, 0], np.degrees(0.01), point)
        point = point + np.array([0, 0.001, 0.150])
        return rotate([0, 1, 0], 12.0, point)

    for slow, fast in ((0, 0), (2, 1), (11.5, 8.5), (3.25, 0)):
        np.testing.assert_allclose(detector.lab(slow, fast), lab(slow, fast), atol=1e-15)


def test_nxmx_uneven_angles_are_kept_one_by_one(tmp_path, counts):
    angles = np.array([0, 1, 2, 3, 4.5, 5, 6.0])
    header = read_header(write_nxmx(tmp_path / "a.nxs", counts, angles))
    assert header.step_deg is None
    np.testing.assert_allclose(header.angles_deg, angles)


@pytest.mark.parametrize(
    ("fields", "start", "step"),
    [
        ({}, 10, None),
        ({"omega_increment_set": [0.2]}, 10, 0.2),
        ({"omega_end": [10.3]}, 10, 0.3),
        ({"omega_increment_set": [0.2], "omega_end": [10.3]}, 10, 0.2),
        ({"omega_increment_set": [0.0], "phi_increment_set": [0.0]}, 10, None),
        # The axis that turned is not the outermost one; it is in radians.
        ({"omega_increment_set": [0.0], "phi_increment_set": [0.1]}, 28.64789, 5.729578),
    ],
)
def test_the_turn_of_a_single_frame_is_told_beside_its_axis(tmp_path, counts, fields, start, step):
    path = write_nxmx(tmp_path / "a.nxs", counts[:1], np.array([10.0]))
    with h5py.File(path, "r+") as file:
        for name, value in fields.items():
            file[f"entry/sample/transformations/{name}"] = value
    header = read_header(path)
    assert header.start_deg == pytest.approx(start)
    assert header.step_deg == (None if step is None else pytest.approx(step))


def test_an_axis_that_jitters_rests_at_its_mean(tmp_path, counts):
    """Encoders read 1e-4 deg of noise of circles that stand still; the step is 0.1 deg."""
    path = write_nxmx(tmp_path / "a.nxs", counts, 10 - 0.1 * np.arange(N))
    with h5py.File(path, "r+") as file:
        node = file["entry/sample/transformations/kappa"]
        kept = dict(node.attrs)
        del file["entry/sample/transformations/kappa"]
        read = 30 + 1e-4 * np.array([3, -1, -2, 1, -1, 2, -2])
        file["entry/sample/transformations/kappa"] = read
        file["entry/sample/transformations/kappa"].attrs.update(kept)
    header = read_header(path)
    assert header.goniometer.scan == 0
    assert np.degrees(header.goniometer.angles[1]) == pytest.approx(30, abs=1e-9)
    assert header.step_deg == pytest.approx(-0.1)
    with h5py.File(path, "r+") as file:
        # Six hundredths of a step: it may be a second axis that turns slowly.
        file["entry/sample/transformations/kappa"][...] = 30 + 0.001 * np.arange(N)
    with pytest.raises(HklflowError, match=r"omega, kappa of .* all move"):
        read_header(path)


@pytest.mark.parametrize("stokes", [[0.0, 0, 0, 0], [0, 0, 0, 0]])
def test_a_stokes_vector_that_nobody_filled_in_says_nothing(tmp_path, counts, stokes):
    path = write_nxmx(tmp_path / "a.nxs", counts, np.arange(N) * 0.1)
    with h5py.File(path, "r+") as file:
        file["entry/instrument/beam/incident_polarization_stokes"][...] = stokes
    assert read_header(path).polarization is None


def test_monitors_that_may_be_anothers_are_in_doubt(tmp_path, counts):
    """A monitor may be read once more than the frames; who has none of use reads none."""
    path = write_nxmx(tmp_path / "a.nxs", counts, np.arange(N) * 0.1)
    with h5py.File(path, "r+") as file:
        del file["entry/control/data"]
        file["entry/control/data"] = np.arange(N + 1) + 100
    header = read_header(path)
    assert header.monitor is None
    assert f"{N + 1} values for {N} frames" in header.monitor_doubt
    with h5py.File(path, "r+") as file:
        file.copy("entry/control", "entry/second")
    header = read_header(path)
    assert header.monitor is None
    assert "2 monitors" in header.monitor_doubt


@pytest.mark.parametrize("unit", ["", "kelvins"])
def test_a_temperature_without_a_known_unit_is_in_doubt(tmp_path, counts, unit):
    path = write_nxmx(tmp_path / "a.nxs", counts, np.arange(N) * 0.1)
    with h5py.File(path, "r+") as file:
        file["entry/sample/temperature"].attrs["units"] = unit
    header = read_header(path)
    assert header.temperature is None
    assert f"has the unit {unit!r}" in header.temperature_doubt


@pytest.mark.parametrize(
    ("node", "attribute", "value", "message"),
    [
        ("sample/transformations/omega", "units", "mm", "'mm', which is not a known unit of angle"),
        ("sample/transformations/phi", "depends_on", "nothing", "depends on nothing"),
        ("sample/transformations/omega", "depends_on", "phi", "circular"),
        ("instrument/eiger/transformations/det_z", "transformation_type", "x", "neither rotation"),
        ("instrument/beam/incident_energy", "units", "", "not a known unit of energy"),
    ],
)
def test_nxmx_broken_metadata(tmp_path, counts, node, attribute, value, message):
    path = write_nxmx(tmp_path / "a.nxs", counts, np.arange(N) * 0.1)
    with h5py.File(path, "r+") as file:
        file["entry"][node].attrs[attribute] = value
    with pytest.raises(HklflowError, match=message):
        read_header(path)


def test_a_missing_frame_of_the_angles_is_noticed(tmp_path, counts):
    path = write_nxmx(tmp_path / "a.nxs", counts, np.arange(N - 1) * 0.1)
    with pytest.raises(HklflowError, match="6 angles for 7 frames"):
        read_header(path)


PILATUS = """# Detector: PILATUS 6M, S/N 60-0101
# Pixel_size 172e-6 m x 150e-6 m
# Silicon sensor, thickness 0.000450 m
# Exposure_time 0.0950000 s
# Count_cutoff 1040000 counts
# Wavelength 0.9795 A
# Detector_distance 0.25 m
# Beam_xy (4.50, 7.25) pixels
# Filter_transmission 0.5000
# Flux {flux}
# Start_angle {start} deg.
# Angle_increment 0.2000 deg.
# Polarization 0.990
"""


def write_pilatus(folder, counts, starts):
    for i, (frame, start) in enumerate(zip(counts.astype(np.int32), starts, strict=True)):
        frame = frame.copy()
        frame[4] = -1
        image = fabio.cbfimage.CbfImage(data=frame)
        image.header["_array_data.header_convention"] = "PILATUS_1.2"
        image.header["_array_data.header_contents"] = PILATUS.format(
            start=f"{start:.4f}", flux=1000 + i
        )
        image.write(str(folder / f"p_{i:05d}.cbf"))
    return folder / "p_#####.cbf"


def test_minicbf_header(tmp_path, counts):
    starts = (359.5 + 0.2 * np.arange(N)) % 360
    header = read_header(write_pilatus(tmp_path, counts, starts))
    assert header.wavelength == 0.9795
    assert header.start_deg == 359.5
    assert header.step_deg == 0.2
    assert header.exposure_time == 0.095
    assert header.transmission == 0.5
    assert header.polarization == 0.99
    assert header.saturation == 1040000
    np.testing.assert_array_equal(header.monitor, 1000 + np.arange(N))
    assert header.goniometer is None
    assert header.pixel_mask[4].all()
    assert header.pixel_mask.sum() == SHAPE[1]
    assert header.detector.pixel_size == (150e-6, 172e-6)
    assert header.detector.sensor_thickness == 450e-6
    assert header.sensor_material == "Silicon"
    # The beam hits the pixel that the header names.
    np.testing.assert_allclose(header.detector.intersect([0, 0, 1.0]), (7.25, 4.5))
    np.testing.assert_allclose(header.detector.distance, 0.25)


def test_minicbf_angles_that_contradict_the_number_of_frames(tmp_path, counts):
    starts = 10 + 0.2 * np.arange(N)
    starts[-1] += 0.2
    with pytest.raises(HklflowError, match="frames are missing or the header is wrong"):
        read_header(write_pilatus(tmp_path, counts, starts))


def write_smv(path, frame, start, width):
    keys = {
        "HEADER_BYTES": 512,
        "DIM": 2,
        "BYTE_ORDER": "little_endian",
        "TYPE": "unsigned_short",
        "SIZE1": SHAPE[1],
        "SIZE2": SHAPE[0],
        "PIXEL_SIZE": 0.1,
        "DISTANCE": 120.0,
        "BEAM_CENTER_X": 0.45,
        "BEAM_CENTER_Y": 0.3,
        "WAVELENGTH": 0.98,
        "TIME": 2.0,
        "OSC_START": start,
        "OSC_RANGE": width,
    }
    text = "{\n" + "".join(f"{key}={value};\n" for key, value in keys.items()) + "}\f"
    path.write_bytes(text.ljust(512).encode() + frame.astype("<u2").tobytes())


@pytest.mark.parametrize("width", [0.5, 0.0])
def test_smv_header(tmp_path, counts, width):
    for i, frame in enumerate(counts):
        write_smv(tmp_path / f"s_{i:03d}.img", frame, 20 + i * width, width)
    raw = tmp_path / "s_###.img"
    np.testing.assert_array_equal(open_frames(raw).read(0, N), counts)
    header = read_header(raw)
    assert header.wavelength == 0.98
    assert header.exposure_time == 2.0
    # Mosflm's X is the slow direction: 4.5 pixels, Y the fast one: 3 pixels.
    np.testing.assert_allclose(header.detector.intersect([0, 0, 1.0]), (4.5, 3.0))
    np.testing.assert_allclose(header.detector.distance, 0.12)
    # An oscillation of zero in a rotation scan is a field that nobody filled in.
    assert (header.start_deg, header.step_deg) == ((20, 0.5) if width else (None, None))


def test_what_the_writers_write(tmp_path, counts):
    mask = np.zeros(SHAPE, bool)
    mask[5] = True
    files = write_cbf_series(
        tmp_path,
        "w",
        [counts[:4], counts[4:]],
        wavelength=0.7,
        distance=0.2,
        beam_centre=(3.5, 4.25),
        pixel_size=(172e-6, 150e-6),
        start=0.1,
        step=0.002,
        exposure=0.1,
        monitor=np.arange(N) + 5.0,
        pixel_mask=mask,
    )
    header = read_header(files)
    assert header.wavelength == 0.7
    np.testing.assert_allclose(np.radians([header.start_deg, header.step_deg]), [0.1, 0.002])
    np.testing.assert_allclose(header.detector.intersect([0, 0, 1.0]), (3.5, 4.25))
    np.testing.assert_array_equal(header.monitor, np.arange(N) + 5.0)
    np.testing.assert_array_equal(header.pixel_mask, mask)
    with open_frames(files) as frames:
        np.testing.assert_array_equal(frames.read(0, N)[:, ~mask], counts[:, ~mask])


def test_what_the_nxmx_writer_writes(tmp_path, counts):
    slow, fast = rotate([1, 0, 0], 4.0, [0, -1, 0]), np.array([-1.0, 0, 0])
    mask = np.zeros(SHAPE, np.uint32)
    mask[2, 3] = 2
    path = tmp_path / "w.nxs"
    with NXmxWriter(
        path,
        NXmxHeader(
            shape=SHAPE,
            pixel_size=(172e-6, 150e-6),
            origin=[0.01, 0.02, 0.3],
            slow=slow,
            fast=fast,
            wavelength=0.7,
            axis_names=("omega", "phi"),
            axes=[[1, 0, 0], [0, 0.6, 0.8]],
            angles=[0.0, 0.4],
            scan_axis=1,
            start=0.1,
            step=0.002,
            n_frames=N,
            exposure=0.1,
            monitor=np.arange(N) + 5.0,
            pixel_mask=mask,
            temperature=80.0,
            attenuator_transmission=0.1,
            polarization=0.9,
        ),
    ) as writer:
        writer.append(counts)
    header = read_header(path)
    np.testing.assert_allclose(header.detector.origin, [0.01, 0.02, 0.3], atol=1e-15)
    np.testing.assert_allclose(header.detector.slow, slow, atol=1e-15)
    np.testing.assert_allclose(header.detector.fast, fast, atol=1e-15)
    assert header.detector.pixel_size == pytest.approx((172e-6, 150e-6))
    assert header.goniometer.names == ("omega", "phi")
    assert header.goniometer.scan == 1
    np.testing.assert_allclose(header.goniometer.axes, [[1, 0, 0], [0, 0.6, 0.8]])
    np.testing.assert_allclose(np.radians([header.start_deg, header.step_deg]), [0.1, 0.002])
    np.testing.assert_array_equal(header.monitor, np.arange(N) + 5.0)
    np.testing.assert_array_equal(header.pixel_mask, mask > 0)
    assert header.transmission == 0.1
    assert header.temperature == 80.0
    assert header.exposure_time == 0.1
    assert header.wavelength == 0.7
    assert header.polarization == pytest.approx(0.9)
    with open_frames(path) as frames:
        np.testing.assert_array_equal(frames.read(0, N), counts)


@pytest.mark.real_data
def test_snase(real_data):
    folder = real_data / "rotation_snase"
    raw = folder / "snc_newhead_#####.img"
    header = read_header(raw)
    assert header.wavelength == 0.908
    assert header.step_deg is None
    assert header.start_deg is None
    reference = json.loads((folder / "reference.json").read_text())["authors_model"]
    fast, slow = reference["beam_px"]
    # The header is before refinement; the two coordinates swapped would be 30 pixels off.
    np.testing.assert_allclose(header.detector.intersect([0, 0, 1.0]), (slow, fast), atol=1.0)
    with open_frames(raw) as frames:
        assert frames.shape == (10, 1024, 1024)
        assert frames.dtype == np.uint16
        assert 20 < frames.read(9, 10).mean() < 2000


@pytest.mark.real_data
def test_header_numbers_of_tiff_are_not_believed(real_data):
    raw = real_data / "diffuse_pmnpt" / "images" / "pmn_pt011_2_1_S839_#####.tif"
    header = read_header(raw)
    said = {name: value for name, value in vars(header).items() if value is not None}
    # The TIFF headers say 1.12718 Å and 1.0 m, which is wrong.
    assert said == {"n_frames": 401}
    with open_frames(raw) as frames:
        assert frames.shape == (401, 195, 487)
        block = frames.read(188, 189)
    assert np.unravel_index(block[0].argmax(), block[0].shape) == (114, 249)
    assert block.max() == 1426023
