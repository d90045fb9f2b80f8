"""Layouts of raw runs: what every one of them offers, and their list.

A layout tells what a file says of its frames, and reads some of them. Everything else (what was
lost, how a run's files and modules belong together) is the same for all: see
`hklflow.constants.raw_frames`.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import hdf5plugin  # noqa: F401  (raw files are packed in many ways)
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

LAYOUTS = ("euxfel", "lab", "jungfrau")


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


def find(name: str) -> Layout:
    """Layout of a name.

    Raises
    ------
    HklflowError
        If there is none.
    """
    if name == "euxfel":
        from hklflow.constants.layout_euxfel import Euxfel

        return Euxfel()
    if name == "lab":
        from hklflow.constants.layout_lab import Lab

        return Lab()
    if name == "jungfrau":
        from hklflow.constants.layout_jungfrau import Jungfrau

        return Jungfrau()
    raise HklflowError(f"{name!r} is no layout of raw files; use {', '.join(LAYOUTS)}")


def read_parts(name: str, paths: Sequence[Path], detector: Integrating) -> list[Part]:
    """What files say of their frames, sorted by module and place in the run.

    Raises
    ------
    HklflowError
        If a file cannot be read, or is laid out otherwise.
    """
    layout = find(name)
    parts = []
    for path in paths:
        with readable(path, name):
            parts += layout.parts(path, detector)
    parts.sort(key=lambda part: (part.module, part.number, str(part.path)))
    seen: Counter[int] = Counter()
    for place, part in enumerate(parts):
        if part.number < 0:
            parts[place] = replace(part, number=seen[part.module])
        seen[part.module] += 1
    return parts


@contextmanager
def open_part(name: str, part: Part, detector: Integrating) -> Iterator[Read]:
    """Open a part; reading what is not there ends in one sentence."""
    with readable(part.path, name), find(name).open(part, detector) as read:

        def told(first: int, last: int) -> tuple[Images, Images]:
            with readable(part.path, name):
                return read(first, last)

        yield told


@contextmanager
def readable(path: Path, name: str) -> Iterator[None]:
    """Tell what cannot be read as a sentence that names the file."""
    try:
        yield
    except OSError as error:
        raise HklflowError(
            f"{path} cannot be read ({error}); copy it again, or leave it out of the run"
        ) from error
    except KeyError as error:
        lack = str(error.args[0]) if error.args else "a dataset"
        raise HklflowError(
            f"{path} is no raw file of layout {name!r} ({lack}); choose another layout or run"
        ) from error


def require_shape(path: Path, found: Sequence[int], wanted: Size) -> None:
    """Refuse images of another size than the detector's modules."""
    if tuple(found) != wanted:
        raise HklflowError(
            f"{path} has images of {tuple(found)} pixels, and modules of the detector have "
            f"{wanted}; choose the detector that it is of, or mend its module_size"
        )
