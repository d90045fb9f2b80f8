"""Layouts of raw runs: what every one of them offers, and their list.

A layout tells what a file says of its frames, and reads some of them. Everything else (what was
lost, how a run's files and modules belong together) is the same for all: see
`hklflow.constants.raw_frames`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import hdf5plugin  # noqa: F401  (raw files are packed in many ways)

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import Integrating
from hklflow.constants.layout import Images, Layout, Read
from hklflow.constants.raw_frames import Part

LAYOUTS = ("euxfel", "lab", "jungfrau")


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
