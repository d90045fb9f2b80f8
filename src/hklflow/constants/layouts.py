"""Layouts of raw runs: their list and the functions that use them.

A layout describes the frames of a file and reads frames. Lost frames and the grouping of a run's
files and modules are handled for all layouts in `hklflow.constants.raw_frames`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint
from itertools import groupby
from pathlib import Path
from typing import cast

import hdf5plugin  # noqa: F401  (raw files are packed in many ways)

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import Integrating
from hklflow.constants.layout import Images, Layout, Read
from hklflow.constants.layout_names import GROUP, OURS, known
from hklflow.constants.raw_frames import Part, mark_missing


def find(name: str) -> Layout:
    """Return the layout with this name.

    Raises
    ------
    HklflowError
        If the name is unknown, or a plugin cannot be loaded or is no layout.
    """
    where = known().get(name)
    if where is None:
        raise HklflowError(
            f"unknown layout {name!r} of raw files; use {', '.join(known())}, or install the "
            "plugin that reads it"
        )
    point = EntryPoint(name, where, GROUP)
    if name in OURS:
        return cast("Layout", point.load()())
    try:
        layout = point.load()()
    # An imported plugin may raise anything, or try to end the program.
    except (Exception, SystemExit) as error:
        raise HklflowError(
            f"the plugin of layout {name}, {where}, cannot be loaded "
            f"({type(error).__name__}: {error}); install it again"
        ) from error
    if not isinstance(layout, Layout):
        raise HklflowError(
            f"the plugin of layout {name}, {where}, is not a subclass of "
            "hklflow.constants.layout.Layout; see docs/constants.md"
        )
    return layout


def read_parts(name: str, paths: Sequence[Path], detector: Integrating) -> list[Part]:
    """Describe the frames of files, sorted by module and position in the run.

    Raises
    ------
    HklflowError
        If a file cannot be read, or has another layout.
    """
    layout = find(name)
    parts = []
    for path in paths:
        with readable(path, name):
            parts += layout.parts(path, detector)
    parts.sort(key=lambda part: (part.module, part.number, str(part.path)))
    ordered = []
    for _, parts_of_module in groupby(parts, key=lambda part: part.module):
        for place, part in enumerate(mark_missing([*parts_of_module], layout.from_zero)):
            ordered.append(replace(part, number=place) if part.number < 0 else part)
    return ordered


@contextmanager
def open_part(name: str, part: Part, detector: Integrating) -> Iterator[Read]:
    """Open a part; read errors are reported as an `HklflowError`."""
    with readable(part.path, name), find(name).open(part, detector) as read:

        def read_checked(first: int, last: int) -> tuple[Images, Images]:
            with readable(part.path, name):
                return read(first, last)

        yield read_checked


@contextmanager
def readable(path: Path, name: str) -> Iterator[None]:
    """Convert read errors to an `HklflowError` that names the file."""
    try:
        yield
    except OSError as error:
        raise HklflowError(
            f"{path} cannot be read ({error}); copy it again, or leave it out of the run"
        ) from error
    except KeyError as error:
        lack = str(error.args[0]) if error.args else "a dataset"
        raise HklflowError(
            f"{path} is not a raw file of layout {name!r} ({lack}); use another layout or run"
        ) from error
