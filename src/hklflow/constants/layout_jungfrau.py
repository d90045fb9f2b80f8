"""JUNGFRAU files of PSI: 16 bits per pixel, with the gain in the two top bits.

Two kinds are read. The slsDetectorPackage writes one file per module, ``<name>_d<module>_f<part>_
<acquisition>.h5``, with ``/entry/data/data`` and ``/entry/data/frame number``; its master and
virtual files only link to these files and are skipped. SwissFEL stacks all modules along the first
axis of the images, with ``/data/<detector>/data``, ``frame_index`` and ``is_good_frame``. The gain
code is 0, 1 or 3 (2 is invalid). Frames are numbered from 0 or 1.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import Integrating
from hklflow.constants.layout import Images, Layout, Read, require_shape
from hklflow.constants.raw_frames import Part, one_frame_each

_ADC = np.uint16(0x3FFF)
_GAIN_BIT = 14
_SLS_LINKS = re.compile(r".*_(master|virtual)_\d+\.h5")
_SLS_NAME = re.compile(r".*_d(\d+)_f(\d+)_(\d+)\.h5")


class Jungfrau(Layout):
    """Layout ``jungfrau``: files of the slsDetectorPackage and of SwissFEL."""

    from_zero = True

    def parts(self, path: Path, detector: Integrating) -> list[Part]:
        """Return the part of one module, or one part for each stacked module."""
        if _SLS_LINKS.fullmatch(path.name):
            return []
        with h5py.File(path) as file:
            names = _names(file)
            images = file[names.images]
            if images.dtype != np.uint16:
                raise HklflowError(
                    f"{path} has images of {images.dtype}; raw images are uint16 with the gain "
                    "in the two top bits: use the raw files"
                )
            rows = detector.module[0]
            modules = images.shape[1] // rows if images.ndim == 3 else 0
            cut = (rows, images.shape[-1]) if modules and images.shape[1] % rows == 0 else None
            require_shape(path, cut or images.shape[1:], detector.module)
            train = file[names.number][()].reshape(len(file[names.number]), -1)[:, 0]
            good = np.ones(len(train), bool)
            if names.good in file:
                flag = file[names.good][()]
                good = flag.reshape(len(flag), -1).all(axis=1)
            lengths = {name: len(file[name]) for name in (names.images, names.number)}
        match = _SLS_NAME.fullmatch(path.name)
        first_module, number = (int(match[1]), int(match[2])) if match else (0, -1)
        trains, first, count = one_frame_each(train.astype(np.uint64))
        cell = np.where(good, 0, -1)
        return [
            Part(
                path,
                first_module + module,
                number,
                trains,
                first,
                count,
                train.astype(np.uint64),
                cell,
                lengths={"frames": lengths},
            )
            for module in range(modules)
        ]

    @contextmanager
    def open(self, part: Part, detector: Integrating) -> Iterator[Read]:
        """Open the rows of the module."""
        match = _SLS_NAME.fullmatch(part.path.name)
        place = 0 if match else part.module
        rows = slice(place * detector.module[0], (place + 1) * detector.module[0])
        with h5py.File(part.path) as file:
            images = file[_names(file).images]

            def read(first: int, last: int) -> tuple[Images, Images]:
                raw = images[first:last, rows]
                return raw & _ADC, raw >> _GAIN_BIT

            yield read


@dataclass(frozen=True)
class _Names:
    images: str
    number: str
    good: str


def _names(file: h5py.File) -> _Names:
    if "entry/data/data" in file:
        return _Names("entry/data/data", "entry/data/frame number", "entry/data/none")
    for name, group in file["data"].items():
        if isinstance(group, h5py.Group) and "data" in group:
            return _Names(*(f"data/{name}/{n}" for n in ("data", "frame_index", "is_good_frame")))
    raise KeyError("it has neither entry/data/data nor data/<detector>/data")
