"""One image from one or more exposures: a single image, or frames of an HDF5 file added up.

A powder calibrant, a dark image or a flat field is often measured like a scan of one or a few
frames, and a detector writes it as HDF5: a master file, or a stack in a dataset.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.images import read_image
from hklflow.formats.raw import is_hdf5
from hklflow.formats.raw_frames import Frames
from hklflow.images import masks

Which = Literal["sum", "first"]


def read_exposures(
    path: Path, dataset: str | None, which: Which
) -> tuple[NDArray[Any], int, NDArray[np.bool_]]:
    """Return the sum of the exposures (slow, fast), their number, and the bad pixels.

    A pixel is bad if it is flagged in any exposure, or masked in an HDF5 file.

    Parameters
    ----------
    path : Path
        Single image in any format that fabio reads, .npy, or HDF5.
    dataset : str or None
        Dataset of an HDF5 file: an image (slow, fast) or a stack (n, slow, fast). None: the frames
        are where detectors write them.
    which : {"sum", "first"}
        The exposures of a stack that are used.

    Raises
    ------
    HklflowError
        If the file cannot be read, or has no images.
    """
    if not is_hdf5(path):
        if dataset is not None:
            raise HklflowError(f"dataset {dataset}: {path} is not HDF5; leave `dataset` out")
        image = read_image(path)
        return image, 1, masks.flagged(image, masks.flag_value(image.dtype))
    single = None if dataset is None else _single(path, dataset)
    if single is not None:
        bad = masks.flagged(single, masks.flag_value(single.dtype))
        return single, 1, bad | _masked(path, (single.shape[0], single.shape[1]))
    with _frames(path, dataset) as frames:
        n = frames.shape[0] if which == "sum" else 1
        total = np.zeros(frames.shape[1:], np.int64 if frames.dtype.kind in "iu" else np.float64)
        bad = _masked(path, (frames.shape[1], frames.shape[2]))
        for i in range(n):
            frame = frames.read(i, i + 1)[0]
            flagged = masks.flagged(frame, masks.flag_value(frames.dtype))
            bad |= flagged
            total += np.where(flagged, 0, frame).astype(total.dtype)
    return total, n, bad


def read_first(path: Path, dataset: str | None) -> tuple[NDArray[Any], int, NDArray[np.bool_]]:
    """Return the first exposure (slow, fast), the number of exposures, and the bad pixels.

    Raises
    ------
    HklflowError
        As for `read_exposures`.
    """
    image, n, bad = read_exposures(path, dataset, "first")
    if is_hdf5(path) and (dataset is None or _single(path, dataset) is None):
        with _frames(path, dataset) as frames:
            n = frames.shape[0]
    return image, n, bad


def read_mean(path: Path) -> NDArray[Any]:
    """Return the mean of the exposures of a file (slow, fast); bad pixels are NaN in HDF5.

    Raises
    ------
    HklflowError
        If the file cannot be read, or has no images.
    """
    total, n, bad = read_exposures(path, None, "sum")
    return np.where(bad, np.nan, total / n) if is_hdf5(path) else total.astype(np.float64)


def require_unbinned(path: Path) -> None:
    """Refuse an image that hklflow has binned.

    Raises
    ------
    HklflowError
        If the frames of an HDF5 file are sums of blocks of pixels.
    """
    from hklflow.formats.nxmx import binning_of

    if is_hdf5(path) and (done := binning_of(path)) is not None:
        raise HklflowError(
            f"{path} is already binned {done} x {done}; give the image as measured, and `binning`"
        )


def split_dataset(name: str) -> tuple[str, str | None]:
    """Return the file and the dataset of a name ``file.h5::/path`` (or ``file.h5:/path``)."""
    file, _, inside = name.rpartition(":/")
    file = file.removesuffix(":")
    return (file, f"/{inside}") if file and is_hdf5(file) else (name, None)


def _single(path: Path, dataset: str) -> NDArray[Any] | None:
    """Return the image of a dataset (slow, fast); None if the dataset is anything else."""
    from hklflow.formats.hdf5_file import open_file
    from hklflow.formats.nxfile import find, read_values

    with open_file(path) as file:
        node = find(file, dataset)
        is_image = getattr(node, "ndim", 0) == 2 and node.dtype.kind in "iuf"
        return np.asarray(read_values(node)) if is_image else None


@contextmanager
def _frames(path: Path, dataset: str | None) -> Iterator[Frames]:
    from hklflow.formats.nxframes import NexusFrames
    from hklflow.formats.raw import open_frames

    try:
        opened = open_frames(path) if dataset is None else NexusFrames(path, dataset)
    except HklflowError as error:
        cure = "name its dataset" if dataset is None else "name another dataset"
        raise HklflowError(f"{error}; or {cure}: `{path}::/path`") from error
    with opened:
        yield opened


def _masked(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels that the file masks; without a mask none."""
    from hklflow.formats.nxmx import mask_bits

    bits = mask_bits(path, shape)
    return np.zeros(shape, bool) if bits is None else bits != 0
