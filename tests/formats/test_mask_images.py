"""Masks in the formats of others: all give the same pixels, or say what is wrong."""

import fabio
import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest
from matplotlib.image import imsave
from PIL import Image

from hklflow.base.errors import HklflowError
from hklflow.formats.mask_images import read_mask_image, split_name

SHAPE = (37, 52)


@pytest.fixture
def truth():
    return np.random.default_rng(1).uniform(size=SHAPE) < 0.2


def _hdf5(path, values):
    with h5py.File(path, "w") as file:
        file["entry/instrument/detector/pixel_mask"] = values
    return f"{path}:/entry/instrument/detector/pixel_mask"


def _npy(path, values):
    np.save(path, values)
    return path


def _fabio(kind):
    def write(path, values):
        kind(data=values).write(str(path))
        return path

    return write


def _pillow(mode):
    def write(path, values):
        Image.fromarray(values.astype(np.uint8) * 255).convert(mode).save(path)
        return path

    return write


WRITERS = {
    "a.tif": (_fabio(fabio.tifimage.TifImage), np.uint8),
    "b.tiff": (_fabio(fabio.tifimage.TifImage), np.uint16),
    "c.cbf": (_fabio(fabio.cbfimage.CbfImage), np.int32),
    "d.edf": (_fabio(fabio.edfimage.EdfImage), np.uint8),
    "e.edf": (_fabio(fabio.edfimage.EdfImage), np.float32),
    "f.npy": (_npy, np.bool_),
    "g.npy": (_npy, np.int64),
    "h.png": (_pillow("L"), np.uint8),
    "i.png": (_pillow("RGB"), np.uint8),
    "j.png": (_pillow("1"), np.uint8),
    "k.png": (_pillow("P"), np.uint8),
    "l.PNG": (_pillow("RGBA"), np.uint8),
    "m.h5": (_hdf5, np.uint32),
    "n.nxs": (_hdf5, np.bool_),
    "o.msk": (_fabio(fabio.fit2dmaskimage.Fit2dMaskImage), np.uint8),
}


@pytest.mark.parametrize("name", WRITERS)
def test_all_formats_give_the_same_mask(tmp_path, truth, name):
    write, dtype = WRITERS[name]
    given = str(write(tmp_path / name, truth.astype(dtype)))
    assert np.array_equal(read_mask_image(given), truth)
    assert np.array_equal(read_mask_image(given, "zero"), ~truth)


def test_the_bits_of_nxmx_are_bad_whatever_they_are(tmp_path, truth):
    bits = np.where(truth, 2.0 ** np.random.default_rng(2).integers(0, 32, SHAPE), 0)
    name = _hdf5(tmp_path / "mask.h5", bits.astype(np.uint32)[None])
    assert np.array_equal(read_mask_image(name), truth)


def test_hidden_values_are_bad_both_ways(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 1, np.nan], [-1, 0, 2]]))
    assert read_mask_image(f"{tmp_path}/a.npy").tolist() == [[0, 1, 1], [1, 0, 1]]
    assert read_mask_image(f"{tmp_path}/a.npy", "zero").tolist() == [[1, 0, 1], [0, 1, 0]]


def test_names_with_a_dataset():
    assert [str(part) for part in split_name("a:/b/c.h5:/d/e")] == ["a:/b/c.h5", "/d/e"]
    assert [str(part) for part in split_name("a:/b.tif")] == ["a:/b.tif", ""]
    with pytest.raises(HklflowError, match=r"write a\.nxs:/path"):
        split_name("a.nxs")


def _text(path, values):
    path.write_text("not an image")
    return path


def _transparent(path, values):
    pixels = np.ones((*SHAPE, 4))
    pixels[..., 3] = ~values
    imsave(path, pixels)
    return path


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("gone.tif", lambda path, values: path, r"gone\.tif does not exist"),
        ("a.png", _text, "cannot be read as PNG"),
        ("a.png", _transparent, "without transparency"),
        ("a.tif", _text, "cannot be read"),
        ("a.npy", _text, "not an image of numbers"),
        ("a.npy", lambda path, values: _npy(path, np.zeros(3)), "1 dimensions"),
        ("a.h5", lambda path, values: f"{_hdf5(path, values)}2", "no dataset /entry"),
        ("a.h5", lambda path, values: _hdf5(path, values[None, None]), "a mask is one image"),
        ("a.h5", lambda path, values: _hdf5(path, values).rpartition("/")[0], "no dataset"),
    ],
)
def test_what_is_no_mask_is_told(tmp_path, truth, name, write, told):
    with pytest.raises(HklflowError, match=told):
        read_mask_image(str(write(tmp_path / name, truth)))
