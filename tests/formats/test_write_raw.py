from dataclasses import replace
from pathlib import Path

import fabio
import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats.write_images import write_cbf_series, write_image
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    GoniometerModel,
    ScanModel,
    Simulation,
)

DETECTOR = DetectorModel(
    (20, 30),
    0.1,
    (8.0, 17.0),
    (172e-6, 100e-6),
    tilt=(0.1, -0.2),
    in_plane=0.3,
    gaps=((9, 11, 0, 30),),
    sensor_thickness=450e-6,
)
SIMULATION = Simulation(
    DETECTOR,
    GoniometerModel(((0, 1, 0), (-1, 0, 0)), (0.4, 0.0), ("omega", "phi"), 1),
    ScanModel(0.2, 0.01, 5, 0.4, exposure=0.2, drift=0.1, temperature=120.0),
    CrystalModel((4, 4, 4, 90, 90, 90)),
)
FRAMES = np.random.default_rng(0).poisson(9, (5, 20, 30)).astype(np.uint32)


@pytest.fixture
def scan_file(tmp_path):
    path = tmp_path / "scan.nxs"
    with NXmxWriter(path, NXmxHeader(**SIMULATION.raw_header())) as writer:
        writer.append(FRAMES[:2])
        writer.append(FRAMES[2:])
    return path


def resolve(file, name):
    """Matrix (4, 4) of a NeXus depends_on chain at the first value of each axis."""
    total = np.eye(4)
    while name != ".":
        node = file[name]
        value, vector = np.ravel(node[()])[0], node.attrs["vector"]
        step = np.eye(4)
        if node.attrs["transformation_type"] == "translation":
            step[:3, 3] = value * vector + node.attrs["offset"]
        else:
            x, y, z = vector
            cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
            angle = np.radians(value)
            step[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        total = step @ total
        name = node.attrs["depends_on"]
    return total


def test_frames_and_their_storage(scan_file):
    with h5py.File(scan_file) as file:
        data = file["entry/data/data"]
        np.testing.assert_array_equal(data[()], FRAMES)
        np.testing.assert_array_equal(file["entry/instrument/detector/data"][()], FRAMES)
        assert data.dtype == np.uint32
        assert data.chunks == (1, 20, 30)
        plist = data.id.get_create_plist()
        # 32008 is bitshuffle; its fifth parameter 2 is LZ4.
        code, _, values, _ = plist.get_filter(0)
        assert code == 32008
        assert values[4] == 2
        assert file["entry/definition"][()] == b"NXmx"


def test_detector_chain_places_every_pixel(scan_file):
    with h5py.File(scan_file) as file:
        module = file["entry/instrument/detector/module"]
        origin = resolve(file, module["module_offset"].name)[:3, 3]
        np.testing.assert_allclose(origin, DETECTOR.origin, atol=1e-15)
        fast, slow = module["fast_pixel_direction"], module["slow_pixel_direction"]
        place = (
            origin + 3.5 * fast[0] * fast.attrs["vector"] + 12.5 * slow[0] * slow.attrs["vector"]
        )
        np.testing.assert_allclose(
            place / np.linalg.norm(place), DETECTOR.rays(12.5, 3.5), atol=1e-14
        )
        detector = file["entry/instrument/detector"]
        beam = DETECTOR.beam_centre
        assert detector["beam_center_y"][()] == pytest.approx(beam[0], abs=1e-9)
        assert detector["beam_center_x"][()] == pytest.approx(beam[1], abs=1e-9)
        assert detector["distance"][()] == pytest.approx(0.1)
        assert detector["x_pixel_size"][()] == 100e-6
        np.testing.assert_array_equal(detector["pixel_mask"][()] != 0, DETECTOR.gap_mask)


@pytest.mark.parametrize("delta", [0, 60, 89, 90, 95, 120, 180])
def test_detector_on_an_arm(tmp_path, delta):
    """From 90 degrees on the beam never meets the plane: no beam centre, but a chain all the same.

    The arm is raised, from the beam (z) towards the vertical (y).
    """
    c, s = np.cos(np.radians(delta)), np.sin(np.radians(delta))
    slow, normal, fast = np.array([0, -c, s]), np.array([0, s, c]), np.array([-1.0, 0, 0])
    origin = 0.3 * normal - 4e-4 * slow - 7e-4 * fast
    path = tmp_path / "arm.nxs"
    header = SIMULATION.raw_header() | {"pixel_size": (1e-4, 1e-4), "pixel_mask": None}
    with NXmxWriter(
        path, NXmxHeader(**header | {"origin": origin, "slow": slow, "fast": fast})
    ) as writer:
        writer.append(FRAMES)
    with h5py.File(path) as file:
        detector = file["entry/instrument/detector"]
        assert detector["distance"][()] == pytest.approx(0.3)
        module = detector["module"]
        np.testing.assert_allclose(resolve(file, module["module_offset"].name)[:3, 3], origin)
        foot = resolve(file, detector["depends_on"][()].decode())[:3, 3]
        assert np.linalg.norm(foot) == pytest.approx(0.3)
        if delta < 90:
            # 0.3 m tan(delta) along -slow from the foot of the normal at (4, 7).
            centre = 4 + 3000 * np.tan(np.radians(delta))
            assert detector["beam_center_x"][()] == pytest.approx(7)
            assert detector["beam_center_y"][()] == pytest.approx(centre)
        else:
            assert "beam_center_x" not in detector
            assert "beam_center_y" not in detector


def test_goniometer_chain_turns_the_crystal(scan_file):
    with h5py.File(scan_file) as file:
        sample = file["entry/sample"]
        chain = resolve(file, sample["depends_on"][()].decode())[:3, :3]
        np.testing.assert_allclose(chain, SIMULATION.goniometer.rotation(0.2)[0], atol=1e-14)
        phi = sample["transformations/phi"]
        np.testing.assert_allclose(np.radians(phi[()]), 0.2 + 0.01 * np.arange(5))
        np.testing.assert_allclose(
            np.radians(sample["transformations/phi_end"][()]), 0.2 + 0.01 * np.arange(1, 6)
        )
        assert phi.attrs["units"] == "deg"
        assert sample["temperature"][()] == 120.0


def test_beam_and_monitor(scan_file):
    with h5py.File(scan_file) as file:
        wavelength = file["entry/instrument/beam/incident_wavelength"]
        assert wavelength[()] == 0.4
        assert wavelength.attrs["units"] == "angstrom"
        np.testing.assert_allclose(
            file["entry/monitor/data"][()], 0.2 * (1 + 0.1 * (np.arange(5) + 0.5) / 5)
        )
        stokes = file["entry/instrument/beam/incident_polarization_stokes"][()]
        np.testing.assert_allclose(stokes, [1, 0.98, 0, 0])


def test_hklflow_reads_the_geometry_back(scan_file):
    from hklflow.formats.raw import open_frames, read_header

    header = read_header(scan_file)
    assert header.wavelength == pytest.approx(0.4)
    np.testing.assert_allclose(header.detector.origin, DETECTOR.origin, atol=1e-14)
    np.testing.assert_allclose(header.detector.slow, DETECTOR.slow, atol=1e-14)
    np.testing.assert_allclose(
        header.goniometer.rotation(0.23), SIMULATION.goniometer.rotation(0.23)[0], atol=1e-14
    )
    assert np.radians(header.start_deg) == pytest.approx(0.2)
    assert np.radians(header.step_deg) == pytest.approx(0.01)
    np.testing.assert_array_equal(header.pixel_mask, DETECTOR.gap_mask)
    with open_frames(scan_file) as frames:
        np.testing.assert_array_equal(frames.read(0, 5), FRAMES)


def test_an_error_leaves_no_file(tmp_path):
    path = tmp_path / "scan.nxs"

    def write_and_fail():
        with NXmxWriter(path, NXmxHeader(**SIMULATION.raw_header())) as writer:
            writer.append(FRAMES)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_nothing_has_the_final_name_before_the_end(tmp_path):
    path = tmp_path / "scan.nxs"
    with NXmxWriter(path, NXmxHeader(**SIMULATION.raw_header())) as writer:
        writer.append(FRAMES)
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nxs"]


def test_missing_frames_are_refused(tmp_path):
    with (
        pytest.raises(HklflowError, match="3 of 5 frames"),
        NXmxWriter(tmp_path / "scan.nxs", NXmxHeader(**SIMULATION.raw_header())) as writer,
    ):
        writer.append(FRAMES[:3])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.zeros((6, 20, 30), np.uint32), "does not fit"),
        (np.zeros((1, 20, 31), np.uint32), "does not fit"),
        (np.zeros((1, 20, 30)), "cannot be stored"),
    ],
)
def test_wrong_blocks_are_refused(tmp_path, block, message):
    with (
        pytest.raises(HklflowError, match=message),
        NXmxWriter(tmp_path / "scan.nxs", NXmxHeader(**SIMULATION.raw_header())) as writer,
    ):
        writer.append(block)


def test_wrong_monitor_is_refused(tmp_path):
    with pytest.raises(HklflowError, match="monitor"):
        NXmxWriter(
            tmp_path / "s.nxs", NXmxHeader(**{**SIMULATION.raw_header(), "monitor": np.ones(4)})
        )


def cbf(folder: Path, **changes):
    arguments = {
        "wavelength": 0.4,
        "distance": 0.1,
        "beam_centre": (8.0, 17.25),
        "pixel_size": (172e-6, 100e-6),
        "start": 0.2,
        "step": 0.01,
        "exposure": 0.2,
        "monitor": np.arange(5) + 100.0,
        "pixel_mask": DETECTOR.gap_mask,
        "sensor_thickness": 450e-6,
    }
    return write_cbf_series(folder, "s", [FRAMES[:3], FRAMES[3:]], **{**arguments, **changes})


def test_cbf_series(tmp_path):
    paths = cbf(tmp_path)
    assert [p.name for p in paths] == [f"s_{i:05d}.cbf" for i in range(1, 6)]
    image = fabio.open(str(paths[3]))
    expected = FRAMES[3].astype(int)
    expected[9:11] = -1
    np.testing.assert_array_equal(image.data, expected)
    text = image.header["_array_data.header_contents"]
    assert "# Pixel_size 0.0001 m x 0.000172 m" in text
    assert "# Beam_xy (17.250000, 8.000000) pixels" in text
    assert "# Flux 103" in text
    assert f"# Start_angle {np.degrees(0.23):.9g} deg." in text


def test_hklflow_reads_the_cbf_header(tmp_path):
    from hklflow.formats.raw import read_header

    header = read_header([str(p) for p in cbf(tmp_path)])
    assert header.wavelength == pytest.approx(0.4)
    flat = replace(DETECTOR, foot=(8.0, 17.25), tilt=(0.0, 0.0), in_plane=0.0)
    np.testing.assert_allclose(header.detector.origin, flat.origin, atol=1e-9)
    np.testing.assert_allclose(header.detector.fast, flat.fast, atol=1e-14)
    assert np.radians(header.step_deg) == pytest.approx(0.01)


@pytest.mark.parametrize("n", [4, 6])
def test_cbf_series_needs_a_monitor_value_for_each_frame(tmp_path, n):
    with pytest.raises(HklflowError, match="one value per frame"):
        cbf(tmp_path, monitor=np.ones(n))


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".cbf"])
def test_image(tmp_path, suffix):
    image = np.arange(-6, 300, dtype=np.int32).reshape(17, 18)
    write_image(tmp_path / f"x{suffix}", image)
    np.testing.assert_array_equal(fabio.open(str(tmp_path / f"x{suffix}")).data, image)
    assert len(list(tmp_path.iterdir())) == 1


def test_unknown_suffix(tmp_path):
    with pytest.raises(HklflowError, match="suffix"):
        write_image(tmp_path / "x.png", np.zeros((2, 2)))
