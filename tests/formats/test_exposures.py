"""One image from HDF5 as detectors write it: the sum of its frames, the first, or a dataset."""

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats.exposures import read_exposures, read_mean, split_dataset

FRAMES = np.random.default_rng(1).poisson(40, (3, 8, 6)).astype(np.uint32)
FRAMES[1, 2, 3] = 2**32 - 1  # flagged by the detector in one of the frames


@pytest.fixture
def master(tmp_path: Path) -> Path:
    """A master file that links its frames, with a mask where EIGER detectors write it."""
    with h5py.File(tmp_path / "ceo2_data_000001.h5", "w") as file:
        file.create_dataset(
            "entry/data/data", data=FRAMES, chunks=(1, 8, 6), **hdf5plugin.Bitshuffle(cname="lz4")
        )
    with h5py.File(tmp_path / "ceo2_master.h5", "w") as file:
        file["entry/data/data_000001"] = h5py.ExternalLink("ceo2_data_000001.h5", "entry/data/data")
        mask = np.zeros((8, 6), np.uint32)
        mask[7, 5] = 1
        for name, kind in (("entry", "NXentry"), ("entry/instrument", "NXinstrument")):
            file.require_group(name).attrs["NX_class"] = kind
        detector = file.create_group("entry/instrument/detector")
        detector.attrs["NX_class"] = "NXdetector"
        detector["detectorSpecific/pixel_mask"] = mask
        file["other/one"] = FRAMES[2]
        file["other/words"] = "no image"
    return tmp_path / "ceo2_master.h5"


def test_all_frames_are_summed(master: Path) -> None:
    image, n, bad = read_exposures(master, None, "sum")
    assert n == 3
    assert np.argwhere(bad).tolist() == [[2, 3], [7, 5]]
    np.testing.assert_array_equal(image[~bad], FRAMES.astype(int).sum(axis=0)[~bad])


def test_the_first_frame(master: Path) -> None:
    image, n, bad = read_exposures(master, None, "first")
    assert n == 1
    assert np.argwhere(bad).tolist() == [[7, 5]]
    np.testing.assert_array_equal(image[~bad], FRAMES[0][~bad])


@pytest.mark.parametrize(
    ("dataset", "n", "truth"),
    [("/other/one", 1, FRAMES[2]), ("/entry/data/data_000001", 3, FRAMES.astype(int).sum(axis=0))],
)
def test_a_named_dataset(
    master: Path, dataset: str, n: int, truth: "np.ndarray[tuple[int, int], np.dtype[np.int64]]"
) -> None:
    image, number, bad = read_exposures(master, dataset, "sum")
    assert number == n
    np.testing.assert_array_equal(image[~bad], truth[~bad])


def test_the_mean_of_darks(master: Path) -> None:
    mean = read_mean(master)
    assert np.argwhere(np.isnan(mean)).tolist() == [[2, 3], [7, 5]]
    assert mean[0, 0] == pytest.approx(FRAMES[:, 0, 0].mean())


def test_a_frame_that_is_lost_is_no_zero(master: Path) -> None:
    master.with_name("ceo2_data_000001.h5").unlink()
    with pytest.raises(HklflowError, match=r"ceo2_data_000001.h5 does not exist: .*copy the data"):
        read_exposures(master, None, "sum")


@pytest.mark.parametrize("dataset", ["/other/none", "/other/words", "/other"])
def test_what_is_no_image_is_named(master: Path, dataset: str) -> None:
    with pytest.raises(HklflowError, match=rf"{dataset}.*name another dataset: `.*::/path`"):
        read_exposures(master, dataset, "sum")


def test_a_file_of_another_layout_asks_for_the_dataset(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/images"] = FRAMES
    with pytest.raises(HklflowError, match=r"name its dataset: `.*a.h5::/path`"):
        read_exposures(tmp_path / "a.h5", None, "sum")
    assert read_exposures(tmp_path / "a.h5", "/scan/images", "sum")[1] == 3


def test_names() -> None:
    assert split_dataset("raw/a.h5::/entry/data/data") == ("raw/a.h5", "/entry/data/data")
    assert split_dataset("raw/a.h5:/entry/data/data") == ("raw/a.h5", "/entry/data/data")
    assert split_dataset("raw/a.h5") == ("raw/a.h5", None)
    assert split_dataset("raw/a:/b.tif") == ("raw/a:/b.tif", None)
