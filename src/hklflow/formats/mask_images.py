"""Masks that others made: images of any format, NXmx masks in HDF5."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file
from hklflow.base.values import MOST_PIXELS
from hklflow.formats.images import read_image
from hklflow.formats.raw import HDF5_SUFFIXES

BoolImage = NDArray[np.bool_]


def split_name(name: str) -> tuple[Path, str]:
    """File, and dataset in it: ``mask.h5:/entry/mask`` has one, images have none.

    Raises
    ------
    HklflowError
        If an HDF5 file is named without a dataset.
    """
    file, _, dataset = name.rpartition(":/")
    if file and Path(file).suffix.lower() in HDF5_SUFFIXES:
        return Path(file), f"/{dataset}"
    if Path(name).suffix.lower() in HDF5_SUFFIXES:
        raise HklflowError(f"{name} holds many things; name the mask in it, as {name}:/path")
    return Path(name), ""


def read_mask_image(name: str, bad: str = "nonzero") -> BoolImage:
    """Read a mask (slow, fast), True = bad.

    Parameters
    ----------
    name : str
        An image of a format that fabio reads, .npy, .png, or ``file.h5:/path``.
    bad : {"nonzero", "zero"}
        Pixels that are bad. NaN always is.

    Raises
    ------
    HklflowError
        If there is no such file or dataset, or it is not one image.
    """
    path, dataset = split_name(name)
    require_file(path, "the mask image")
    if dataset:
        pixels = _hdf5(path, dataset)
    elif path.suffix.lower() == ".png":
        pixels = _png(path)
    else:
        try:
            pixels = read_image(path)
        except (ValueError, EOFError) as error:  # of numpy, for .npy
            raise HklflowError(f"{path} is no image of numbers ({error}); save it again") from error
    if pixels.dtype.kind not in "buif":
        raise HklflowError(f"{path} holds {pixels.dtype}, no image of numbers; save it again")
    zero = pixels == 0
    return np.asarray((zero if bad == "zero" else ~zero) | np.isnan(pixels))


def _hdf5(path: Path, dataset: str) -> NDArray[Any]:
    from hklflow.formats.hdf5_file import open_file
    from hklflow.formats.nxfile import find, read_values

    with open_file(path) as file:
        node = find(file, dataset)
        if not hasattr(node, "shape"):
            raise HklflowError(f"{path} has no dataset {dataset}; look for its pixel mask in it")
        if node.size > MOST_PIXELS:
            raise HklflowError(
                f"{path}:{dataset} has the shape {node.shape}, more than a detector has pixels; "
                "name the mask"
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
    """Brightest colour of every pixel."""
    from matplotlib.image import imread

    try:
        pixels: NDArray[Any] = imread(path, format="png")
    # What is not a PNG file ends in whatever its decoder raises.
    except Exception as error:
        raise HklflowError(
            f"{path} cannot be read as PNG ({type(error).__name__}: {error}); save it again"
        ) from error
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 4 and (pixels[..., 3] < 1).any():
        raise HklflowError(f"{path} is transparent in places; save it without transparency")
    return np.asarray(pixels[..., :3].max(axis=2))
