"""Interface of a raw file layout: it describes the frames of a file and reads them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import Integrating, Size
from hklflow.constants.raw_frames import Part

Images = NDArray[np.uint16]
Read = Callable[[int, int], tuple[Images, Images]]
"""Function that reads frames first to last (exclusive): analogue and digital part (n, ss, fs).

The digital part is the raw output: an analogue level, or the code of the gain stage.
"""


class Layout(ABC):
    """Base class of the raw file layouts of facilities.

    Attributes
    ----------
    from_zero : bool
        True if train number 0 is valid; False if 0 marks a missing train.
    first_train : int or None
        Number of the first train of every run; None: a run begins with its first stored train.
    unique_trains : bool
        True if no two trains of a facility have the same number.
    as_modules : tuple of int
        First and last number of the modules whose orientation all images have; empty if the
        images of each module have its own orientation.
    """

    from_zero = False
    first_train: int | None = None
    unique_trains = False
    as_modules: tuple[int, ...] = ()

    @abstractmethod
    def parts(self, path: Path, detector: Integrating) -> list[Part]:
        """Describe the frames of a file, one part for each module in the file.

        The list is empty for a file of another device. A missing dataset raises `KeyError`, an
        unreadable file `OSError`.
        """

    @abstractmethod
    def open(self, part: Part, detector: Integrating) -> AbstractContextManager[Read]:
        """Open a part and yield the function that reads its frames."""


def require_shape(path: Path, shape: Sequence[int], wanted: Size) -> None:
    """Reject images with a size other than the detector's modules."""
    if tuple(shape) != wanted:
        raise HklflowError(
            f"{path} has images of {tuple(shape)} pixels, and modules of the detector have "
            f"{wanted}; choose the right detector, or correct its module_size"
        )
