"""Raw files that claim what they do not have: frames that are nowhere, sizes of no detector."""

import gzip
import re

import fabio
import h5py
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats.raw import open_frames, read_header

SHAPE = (6, 12, 10)
DATA = np.arange(1, 721, dtype=np.uint32).reshape(SHAPE)


def virtual(path, *mappings, shape=SHAPE):
    """Virtual frames of (frames here, file, dataset, its shape, frames there)."""
    layout = h5py.VirtualLayout(shape, np.uint32)
    for here, file, name, held, there in mappings:
        source = h5py.VirtualSource(file, name, held, np.uint32)
        layout[here] = source if there is None else source[there]
    with h5py.File(path, "w") as file:
        file.create_group("entry/data").create_virtual_dataset("data", layout)
    return path


@pytest.fixture
def sources(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = DATA
        file["short"] = DATA[:3]
        file["narrow"] = DATA[:, :6]
        file["loop"] = h5py.SoftLink("/loop")
        file.create_group("group")
        file.create_dataset("unwritten", SHAPE, "u4", chunks=(1, 12, 10))[:4] = DATA[:4]
    return tmp_path


EVERYTHING = np.s_[:]


@pytest.mark.parametrize(
    ("here", "name", "held", "there", "sentence"),
    [
        (
            EVERYTHING,
            "short",
            SHAPE,
            None,
            r"short in .*a\.h5 .* \(3, 12, 10\), too small",
        ),
        (np.s_[3:], "short", SHAPE, np.s_[:3], "frame 0 of .* is in none of the source files"),
        (np.s_[:3], "x", SHAPE, np.s_[3:], "frame 3 of .* is in none of the source files"),
        (np.s_[:3], "short", SHAPE, np.s_[3:], "short in .* too small for the frames from 0"),
        (np.s_[::2], "x", SHAPE, np.s_[::2], "frame 1 of .* is in none of the source files"),
        (EVERYTHING, "narrow", SHAPE, None, r"narrow in .* \(6, 6, 10\), too small"),
        (EVERYTHING, "loop", SHAPE, None, r"a\.h5 has no dataset loop"),
        (EVERYTHING, "group", SHAPE, None, r"a\.h5 has no dataset group"),
        (EVERYTHING, "unwritten", SHAPE, None, r"frame 4 was never written to .*a\.h5"),
    ],
)
def test_virtual_frames_that_are_nowhere(sources, here, name, held, there, sentence):
    path = virtual(sources / "v.nxs", (here, "a.h5", name, held, there))
    with pytest.raises(HklflowError, match=sentence):
        open_frames(path)


def test_virtual_frames_of_virtual_frames(sources):
    virtual(sources / "b.h5", (EVERYTHING, "a.h5", "x", SHAPE, None))
    path = virtual(sources / "v.nxs", (EVERYTHING, "b.h5", "entry/data/data", SHAPE, None))
    with open_frames(path) as frames:
        np.testing.assert_array_equal(frames.read(0, 6), DATA)
    virtual(sources / "b.h5", (EVERYTHING, "gone.h5", "x", SHAPE, None))
    with pytest.raises(HklflowError, match=r"gone\.h5 does not exist: .*b\.h5 reads the frames"):
        open_frames(path)


@pytest.mark.parametrize("file", [".", "v.nxs", "b.h5"])
def test_virtual_frames_of_themselves(tmp_path, file):
    path = virtual(tmp_path / "v.nxs", (EVERYTHING, file, "entry/data/data", SHAPE, None))
    virtual(tmp_path / "b.h5", (EVERYTHING, "v.nxs", "entry/data/data", SHAPE, None))
    with pytest.raises(HklflowError, match=r"/entry/data/data in .* reads frames from itself"):
        open_frames(path)


def test_more_virtual_frames_than_memory(sources):
    mapping = (np.s_[:6], "a.h5", "x", SHAPE, None)
    path = virtual(sources / "v.nxs", mapping, shape=(10**12, 12, 10))
    with pytest.raises(HklflowError, match="1000000000000 frames, more than 10000000"):
        open_frames(path)


@pytest.mark.parametrize(
    ("shape", "settings", "sentence"),
    [
        ((10**9, 12, 10), {"chunks": (1, 12, 10)}, "frame 0 was never written"),
        ((2**40, 2**12, 2**12), {"chunks": (1, 1, 1)}, "frame 0 was never written"),
        ((6, 10**6, 10**6), {"chunks": (1, 1000, 1000)}, "has frames of 1000000 x 1000000 pix"),
        ((6, 10**6, 10**6), {}, "has frames of 1000000 x 1000000 pixels, more than 200000000"),
        (
            SHAPE,
            {"chunks": (1, 30000, 30000), "maxshape": (6, 30000, 30000)},
            "has chunks of 900000000 pixels, more than all of its frames",
        ),
    ],
)
def test_shapes_beyond_any_detector(tmp_path, shape, settings, sentence):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("entry/data/data", shape, "u4", **settings)
    with pytest.raises(HklflowError, match=sentence):
        open_frames(tmp_path / "a.h5")


def test_raw_bytes_beside_the_file_that_are_cut(tmp_path):
    (tmp_path / "a.raw").write_bytes(DATA.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        place = [(str(tmp_path / "a.raw"), 0, DATA.nbytes)]
        file.create_dataset("entry/data/data", SHAPE, "u4", external=place)
    with open_frames(tmp_path / "a.h5") as frames:
        np.testing.assert_array_equal(frames.read(0, 6), DATA)
    (tmp_path / "a.raw").write_bytes(DATA.tobytes()[:-1])
    with pytest.raises(HklflowError, match=r"a\.raw has 2879 bytes, .* up to byte 2880"):
        open_frames(tmp_path / "a.h5")


def test_links_beside_the_frames_that_lead_nowhere(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/data/data"] = DATA
        file["aaa"] = h5py.SoftLink("/aaa")
        file["bbb"] = h5py.ExternalLink("gone.h5", "/x")
        file["entry/aaa"] = h5py.SoftLink("/entry/aaa")
        file["entry/round"] = file["entry"]
    with open_frames(tmp_path / "a.h5") as frames:
        np.testing.assert_array_equal(frames.read(0, 6), DATA)
    assert read_header(tmp_path / "a.h5").n_frames == 6


# ------------------------------------------------------------------------------ images


def changed(content, **numbers):
    """Put other numbers in a header."""
    for key, number in numbers.items():
        pattern = key.replace("_", "[-_]").encode() + rb"(:| =) *\d+"
        content, n = re.subn(pattern, rf"{key.replace('_', '-')}\1 {number}".encode(), content)
        assert n == 1
    return content


@pytest.fixture
def cbf(tmp_path):
    fabio.cbfimage.CbfImage(data=DATA[0].astype(np.int32)).write(str(tmp_path / "good.cbf"))
    return (tmp_path / "good.cbf").read_bytes()


FAST, SLOW = "X_Binary_Size_Fastest_Dimension", "X_Binary_Size_Second_Dimension"


@pytest.mark.parametrize("suffix", [".cbf", ".cbf.gz"])
def test_cbf(tmp_path, cbf, suffix):
    path = tmp_path / f"a{suffix}"

    def write(content):
        path.write_bytes(gzip.compress(content) if suffix == ".cbf.gz" else content)

    write(cbf)
    with open_frames(path) as frames:
        np.testing.assert_array_equal(frames.read(0, 1)[0], DATA[0])
    for size in (40_000, 10**6):
        write(changed(cbf, **{FAST: size, SLOW: size}))
        with pytest.raises(HklflowError, match=f"has frames of {size} x {size} pixels, more than"):
            open_frames(path)
    for size in (0, 11, 13):
        write(changed(cbf, **{SLOW: size}))
        with pytest.raises(HklflowError, match="120 pixels are stored for an image of"):
            open_frames(path)


def test_edf_that_is_shorter_than_it_says(tmp_path):
    """The reader takes zeros for what is not there."""
    path = tmp_path / "a.edf"
    fabio.edfimage.EdfImage(data=DATA[0]).write(str(path))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Dim_2 = 12", b"Dim_2 = 13"))
    with pytest.raises(HklflowError, match=r"frame 0 cannot be read from .*too small"):
        open_frames(path)
    path.write_bytes(content.replace(b"Dim_2 = 12", b"Dim_2 = 400000000"))
    with pytest.raises(HklflowError, match="has frames of 400000000 x 10 pixels"):
        open_frames(path)


def test_tiff_that_is_shorter_than_it_says(tmp_path):
    path = tmp_path / "a.tif"
    fabio.tifimage.TifImage(data=DATA[0]).write(str(path))
    rows = b"\x01\x01\x04\x00\x01\x00\x00\x00" + bytes([12, 0, 0, 0])
    content = path.read_bytes()
    assert rows in content
    path.write_bytes(content.replace(rows, rows[:8] + bytes([13, 0, 0, 0])))
    with pytest.raises(HklflowError, match=r"frame 0 cannot be read from .*could not broadcast"):
        open_frames(path)
