"""Laboratory files: a simple layout for one module on a test bench, easy to write by hand.

One HDF5 file contains one part of one module's run; its attributes are

* ``format`` = "hklflow_lab",
* ``module``: number of the module,
* ``part``: index of this file among the files of the module and run, from 0,
* ``axes``: directions of the second and third index of the images, such as ["ss", "fs"] (the
  order of the European XFEL), or ["fs", "-ss"] for images rotated by 90 degrees; "-" means that
  the index increases against the axis.

and its datasets are ``analog`` and ``digital`` (n, ., .) uint16, ``cell`` (n,) (0 if there is only
one cell), ``train`` (n,): the trigger number, increasing by 1; a gap marks lost frames. The digital
part is the gain level, or the gain code for detectors with gain bits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import Integrating
from hklflow.constants.layout import Images, Layout, Read, require_shape
from hklflow.constants.raw_frames import Part, one_frame_each

FORMAT = "hklflow_lab"


class Lab(Layout):
    """Layout ``lab``: laboratory files of one module."""

    from_zero = True

    def parts(self, path: Path, detector: Integrating) -> list[Part]:
        """Return the part of the module; a train begins where the trigger number changes."""
        with h5py.File(path) as file:
            if file.attrs.get("format") != FORMAT:
                raise KeyError(f"its attribute format is not {FORMAT!r}")
            shape = file["analog"].shape[1:]
            turned = _axes(path, file)[0].lstrip("-") == "fs"
            require_shape(path, shape[::-1] if turned else shape, detector.module)
            train = file["train"][()].astype(np.uint64)
            trains, first, count = one_frame_each(train)
            lengths = {name: len(file[name]) for name in ("analog", "digital", "cell", "train")}
            return [
                Part(
                    path,
                    int(file.attrs["module"]),
                    int(file.attrs["part"]),
                    trains,
                    first,
                    count,
                    train,
                    file["cell"][()].astype(np.int64),
                    lengths={"frames": lengths},
                )
            ]

    @contextmanager
    def open(self, part: Part, detector: Integrating) -> Iterator[Read]:
        """Open the part; images are transformed to (ss, fs)."""
        with h5py.File(part.path) as file:
            axes = _axes(part.path, file)

            def read(first: int, last: int) -> tuple[Images, Images]:
                analog, digital = (file[n][first:last] for n in ("analog", "digital"))
                return to_common(analog, axes), to_common(digital, axes)

            yield read


def to_common(images: NDArray[np.uint16], axes: tuple[str, str]) -> NDArray[np.uint16]:
    """Transform images (n, ., .) with these axes to (n, ss, fs)."""
    for number, axis in enumerate(axes, start=1):
        if axis.startswith("-"):
            images = np.flip(images, number)
    return np.swapaxes(images, 1, 2) if axes[0].lstrip("-") == "fs" else images


def from_common(images: NDArray[np.uint16], axes: tuple[str, str]) -> NDArray[np.uint16]:
    """Transform images (n, ss, fs) to these axes."""
    if axes[0].lstrip("-") == "fs":
        images = np.swapaxes(images, 1, 2)
    for number, axis in enumerate(axes, start=1):
        if axis.startswith("-"):
            images = np.flip(images, number)
    return images


def _axes(path: Path, file: h5py.File) -> tuple[str, str]:
    axes = [str(axis) for axis in file.attrs["axes"]]
    if sorted(axis.removeprefix("-") for axis in axes) != ["fs", "ss"]:
        raise HklflowError(f"{path} has axes {axes}; use ss and fs in either order, or -ss, -fs")
    return axes[0], axes[1]
