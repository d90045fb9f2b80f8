"""Read masks of other programs: images of any format, NXmx masks in HDF5."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file
from hklflow.base.values import MOST_PIXELS
from hklflow.formats.exposures import split_dataset
from hklflow.formats.images import read_image
from hklflow.formats.raw import HDF5_SUFFIXES

BoolImage = NDArray[np.bool_]


def split_name(name: str) -> tuple[Path, str]:
    """Split a name into file and dataset: ``mask.h5:/entry/mask``; images have no dataset.

    Raises
    ------
    HklflowError
        If the name of an HDF5 file has no dataset.
    """
    file, dataset = split_dataset(name)
    if dataset is not None:
        return Path(file), dataset
    if Path(name).suffix.lower() in HDF5_SUFFIXES:
        raise HklflowError(f"{name} needs the path of the mask in it: write {name}:/path")
    return Path(name), ""


def read_mask_image(name: str, bad: str = "nonzero") -> BoolImage:
    """Read a mask (slow, fast), True = bad.

    Parameters
    ----------
    name : str
        Name of an image in a format that fabio reads, .npy, .png, or ``file.h5:/path``.
    bad : {"nonzero", "zero"}
        Values that mark bad pixels. NaN always does.

    Raises
    ------
    HklflowError
        If the file or dataset does not exist, or is not one image.
    """
    pixels = read_numbers(name, "the mask image")
    zero = pixels == 0
    return np.asarray((zero if bad == "zero" else ~zero) | np.isnan(pixels))


def read_numbers(name: str, what: str) -> NDArray[Any]:
    """Read an image of numbers (slow, fast), such as a mask or labels.

    Parameters
    ----------
    name : str
        Name of an image as for `read_mask_image`.
    what : str
        Name of the image for errors.

    Raises
    ------
    HklflowError
        If the file or dataset does not exist, or is not one image of numbers.
    """
    path, dataset = split_name(name)
    require_file(path, what)
    if dataset:
        pixels = _hdf5(path, dataset)
    elif path.suffix.lower() == ".png":
        pixels = _png(path)
    else:
        try:
            pixels = read_image(path)
        except (ValueError, EOFError) as error:  # of numpy, for .npy
            raise HklflowError(
                f"{path} is not an image of numbers ({error}); save it again"
            ) from error
    if pixels.dtype.kind not in "buif":
        raise HklflowError(
            f"{path} contains {pixels.dtype}, not an image of numbers; save it again"
        )
    return pixels


def _hdf5(path: Path, dataset: str) -> NDArray[Any]:
    from hklflow.formats.hdf5_file import open_file
    from hklflow.formats.nxfile import find, read_values

    with open_file(path) as file:
        node = find(file, dataset)
        if not hasattr(node, "shape"):
            raise HklflowError(f"{path} has no dataset {dataset}; give the path of its pixel mask")
        if node.size > MOST_PIXELS:
            raise HklflowError(
                f"{path}:{dataset} has the shape {node.shape}, more pixels than any detector has; "
                "give the path of the mask"
            )
        pixels: NDArray[Any] = read_values(node)
    if pixels.ndim == 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 2 or pixels.dtype.kind not in "buif":
        raise HklflowError(
            f"{path}:{dataset} is {pixels.dtype} of shape {pixels.shape}; a mask is one image "
            "(slow, fast) of numbers"
        )
    return pixels


def _png(path: Path) -> NDArray[Any]:
    """Return the brightest colour of each pixel."""
    from matplotlib.image import imread

    try:
        pixels: NDArray[Any] = imread(path, format="png")
    # For files that are not PNG, the decoder raises all kinds of errors.
    except Exception as error:
        raise HklflowError(
            f"{path} cannot be read as PNG ({type(error).__name__}: {error}); save it again"
        ) from error
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 4 and (pixels[..., 3] < 1).any():
        raise HklflowError(f"{path} is transparent in places; save it without transparency")
    return np.asarray(pixels[..., :3].max(axis=2))
