"""Light scan files: frames stay where they are, and what is known comes back as it was given."""

import resource
import shutil
from dataclasses import fields, replace
from pathlib import Path

import fabio
import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation as Turn

from hklflow.base.errors import HklflowError
from hklflow.experiment import tables
from hklflow.formats.header import Header
from hklflow.formats.light import SUFFIX, is_light, sources_of, write_light
from hklflow.formats.raw import open_frames, read_header
from hklflow.geometry import Detector, Goniometer
from hklflow.stages import bin_frames

N, SHAPE = 6, (5, 7)
COUNTS = np.random.default_rng(7).integers(0, 2000, (N, *SHAPE)).astype(np.uint16)

TILT = np.radians(11.0)
DETECTOR = Detector(
    SHAPE,
    (172e-6, 75e-6),
    np.array([0.01, 0.02, 0.3]),
    np.array([0.0, -np.cos(TILT), np.sin(TILT)]),
    np.array([-1.0, 0.0, 0.0]),
    sensor_thickness=1e-3,
)
FACTS = Header(
    wavelength=0.7123,
    detector=DETECTOR,
    goniometer=Goniometer(
        ("eta", "chi", "phi"),
        np.array([[-1.0, 0, 0], [0, 0, 1], [-1, 0, 0]]),
        np.radians([0.0, 54.7, -12.5]),
        0,
    ),
    start_deg=15.6,
    step_deg=-0.005,
    n_frames=N,
    exposure_time=np.array([0.25, 0.25, 0.25, 0.5, 0.5, 0.5]),
    monitor=np.array([1e5, 1.1e5, 0.9e5, 1e5, 1e5, 1.2e5]),
    transmission=np.array([1, 1, 0.1, 0.1, 1, 1]),
    temperature=87.5,
    pixel_mask=np.arange(35).reshape(SHAPE) == 17,
    saturation=60000.0,
    polarization=0.98,
)


def write_hdf5(folder: Path, *parts: slice) -> list[tuple[str, str]]:
    """Frames in files of a beamline's own layout, with numbers that are another's."""
    links = []
    for i, part in enumerate(parts):
        path = folder / f"f{i + 1}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("measured/here", data=COUNTS[part], chunks=(1, *SHAPE))
            file["measured/wavelength"] = 99.0
        links.append((str(path), "/measured/here"))
    return links


def write_tiffs(folder: Path) -> str:
    for i, frame in enumerate(COUNTS):
        fabio.tifimage.TifImage(data=frame).write(str(folder / f"s839_{i:05d}.tif"))
    return str(folder / "s839_#####.tif")


def write(path: Path, links: object, header: Header = FACTS) -> Path:
    write_light(path, header, SHAPE, links, sample="quartz", source={"from": "scan 839 of x.spec"})
    return path


def same(found: Header, told: Header = FACTS) -> None:
    for one in fields(Header):
        value, expected = getattr(found, one.name), getattr(told, one.name)
        if expected is None:
            assert value is None, one.name
        elif one.name == "detector":
            for part in ("shape", "pixel_size", "origin", "slow", "fast", "sensor_thickness"):
                np.testing.assert_allclose(getattr(value, part), getattr(expected, part), atol=1e-9)
        elif one.name == "goniometer":
            assert (value.names, value.scan) == (expected.names, expected.scan)
            np.testing.assert_allclose(value.axes, expected.axes)
            np.testing.assert_allclose(value.angles[1:], expected.angles[1:])
        else:
            np.testing.assert_allclose(value, expected, rtol=1e-7, err_msg=one.name)


@pytest.mark.parametrize("layout", ["one file", "three files", "images"])
def test_frames_and_facts_come_back(tmp_path: Path, layout: str) -> None:
    raw = tmp_path / "raw data å"
    raw.mkdir()
    links = {
        "one file": lambda: write_hdf5(raw, slice(0, N)),
        "three files": lambda: write_hdf5(raw, slice(0, 2), slice(2, 3), slice(3, N)),
        "images": lambda: write_tiffs(raw),
    }[layout]()
    before = {path: path.read_bytes() for path in raw.iterdir()}
    light = write(tmp_path / f"quartz{SUFFIX}", links)
    assert is_light(light)
    same(read_header(light))
    with open_frames(light) as frames:
        assert frames.shape == (N, *SHAPE)
        np.testing.assert_array_equal(frames.read(0, N), COUNTS)
        streamed = [block.copy() for block in frames.stream(4, threads=2)]
    np.testing.assert_array_equal(np.concatenate(streamed), COUNTS)
    assert {path: path.read_bytes() for path in raw.iterdir()} == before
    named = [links] if isinstance(links, str) else [file for file, _ in links]
    assert [file for file, _ in sources_of(light)] == named
    with h5py.File(light) as file:
        assert file["entry/import/from"][()] == b"scan 839 of x.spec"


@pytest.mark.parametrize("layout", ["hdf5", "images"])
def test_relative_links_move_with_the_experiment(tmp_path: Path, layout: str) -> None:
    base = tmp_path / "one"
    (base / "data").mkdir(parents=True)
    (base / "raw").mkdir()
    if layout == "hdf5":
        [(file, inside)] = write_hdf5(base / "data", slice(0, N))
        links: object = [(f"../data/{Path(file).name}", inside)]
    else:
        links = f"../data/{Path(write_tiffs(base / 'data')).name}"
    light = write(base / f"raw/a{SUFFIX}", links)
    moved = tmp_path / "elsewhere"
    shutil.move(base, moved)
    with open_frames(moved / light.relative_to(base)) as frames:
        np.testing.assert_array_equal(frames.read(2, 5), COUNTS[2:5])


def test_what_is_not_known_is_not_written(tmp_path: Path) -> None:
    light = write(tmp_path / f"a{SUFFIX}", write_tiffs(tmp_path), Header(n_frames=N))
    same(read_header(light), Header(n_frames=N))


def test_uneven_angles_are_kept_one_by_one(tmp_path: Path) -> None:
    angles = np.array([0, 0.1, 0.25, 0.3, 0.42, 0.5])
    light = write(
        tmp_path / f"a{SUFFIX}",
        write_tiffs(tmp_path),
        Header(n_frames=N, goniometer=FACTS.goniometer, angles_deg=angles),
    )
    np.testing.assert_allclose(read_header(light).angles_deg, angles)


def test_linked_files_that_are_gone_are_named(tmp_path: Path) -> None:
    [(file, inside)] = write_hdf5(tmp_path, slice(0, N))
    light = write(tmp_path / f"a{SUFFIX}", [(file, inside)])
    Path(file).unlink()
    with pytest.raises(HklflowError, match=r"f1\.h5 does not exist"):
        open_frames(light)
    light = write(tmp_path / f"b{SUFFIX}", write_tiffs(tmp_path))
    (tmp_path / "s839_00003.tif").unlink()
    with pytest.raises(HklflowError, match=r"1 of the images .* missing: 3"):
        open_frames(light)


@pytest.mark.parametrize(
    ("named", "sound"),
    [
        ("/etc/passwd", False),
        ("../raw/a_###.txt", False),
        ("a_###.TIF", True),
        ("a.cbf.gz", True),
        ("a.####", True),
    ],
)
def test_what_cannot_be_frames_is_not_linked(tmp_path: Path, named: str, sound: bool) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("a_001.txt", "a_001.TIF", "a.cbf.gz", "a.0001"):
        (tmp_path / "raw" / name).touch()
    write(tmp_path / f"raw/a{SUFFIX}", named, Header(n_frames=N))
    rotation = tables.Rotation("r1", f"raw/a{SUFFIX}", {}, None)
    told = " ".join(tables.raw_problems(rotation, tmp_path))
    assert ("is neither HDF5 nor a series of images" in told) is not sound
    assert bool(told) is not sound


def test_numbers_that_contradict_the_frames_are_refused(tmp_path: Path) -> None:
    """The images came to be more after the import."""
    light = write(tmp_path / f"a{SUFFIX}", write_tiffs(tmp_path))
    fabio.tifimage.TifImage(data=COUNTS[0]).write(str(tmp_path / "s839_00006.tif"))
    with pytest.raises(HklflowError, match="has 6 angles for 7 frames"):
        read_header(light)


def test_only_of_its_own_name_and_a_known_length(tmp_path: Path) -> None:
    with pytest.raises(HklflowError, match="must end in"):
        write(tmp_path / "a.nxs", [])
    with pytest.raises(HklflowError, match="known number of frames"):
        write(tmp_path / f"a{SUFFIX}", [], Header())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("delta", [0, 60, 90, 95, 120, 180])
def test_a_detector_on_an_arm_comes_back(tmp_path: Path, delta: float) -> None:
    """Also where the beam never meets its plane; light file and block sums of a quick look."""
    turn = Turn.from_euler("x", -delta, degrees=True).as_matrix()
    place = {name: turn @ getattr(DETECTOR, name) for name in ("origin", "slow", "fast")}
    detector = replace(DETECTOR, **place)
    told = replace(FACTS, detector=detector)
    light = write(tmp_path / f"x{SUFFIX}", write_hdf5(tmp_path, slice(None)), told)
    same(read_header(light), told)
    binned = tmp_path / "binned.nxs"
    bin_frames.main(
        inputs=bin_frames.Inputs(raw=[light]),
        outputs=bin_frames.Outputs(binned=binned),
        params=bin_frames.Params(binning=2),
    )
    found = read_header(binned).detector
    assert found is not None
    np.testing.assert_allclose(found.lab([0, 1.5], [0, 2.5]), detector.lab([0, 3], [0, 5]))
    np.testing.assert_allclose(found.distance, DETECTOR.distance)


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    """One file for each frame, as some detectors write them."""
    links = []
    for i in range(80):
        with h5py.File(tmp_path / f"f{i}.h5", "w") as file:
            file["d"] = np.full((1, 2, 3), i, np.uint32)
        links.append((str(tmp_path / f"f{i}.h5"), "d"))
    light = tmp_path / f"a{SUFFIX}"
    write_light(light, Header(n_frames=80), (2, 3), links, sample="x", source={})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, limits[1]))
    try:
        with open_frames(light) as frames:
            assert frames.read(0, 80)[:, 0, 0].tolist() == list(range(80))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
