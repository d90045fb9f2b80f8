"""What a layout of raw files tells: the frames of a file, and how they are read."""

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
"""Analogue and digital part (n, ss, fs) of the frames from the first up to the second number.

The digital part is what the detector gives: an analogue level, or the code of the stage of gain.
"""


class Layout(ABC):
    """How a facility lays out its raw files.

    Attributes
    ----------
    from_zero : bool
        Whether 0 may be the number of a train; otherwise it is none.
    """

    from_zero = False

    @abstractmethod
    def parts(self, path: Path, detector: Integrating) -> list[Part]:
        """What a file says of its frames, for each module that it holds.

        None if it is of another device. What it lacks raises `KeyError`, what cannot be read
        `OSError`.
        """

    @abstractmethod
    def open(self, part: Part, detector: Integrating) -> AbstractContextManager[Read]:
        """Open a part to read its frames."""


def require_shape(path: Path, found: Sequence[int], wanted: Size) -> None:
    """Refuse images of another size than the detector's modules."""
    if tuple(found) != wanted:
        raise HklflowError(
            f"{path} has images of {tuple(found)} pixels, and modules of the detector have "
            f"{wanted}; choose the detector that it is of, or mend its module_size"
        )
