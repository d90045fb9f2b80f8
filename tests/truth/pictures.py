"""Stages without their pictures."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


@contextmanager
def without_pictures() -> Iterator[None]:
    """Draw no picture of peaks: it takes as long as the refinement of a small world."""
    with mock.patch("hklflow.stage.orientation.picture"), mock.patch("hklflow.plots.save"):
        yield


@contextmanager
def blank_pictures() -> Iterator[None]:
    """Let stages write blank pictures: drawing takes half of the time of a job on small frames."""
    with mock.patch("hklflow.plots.save", _blank), mock.patch("hklflow.plots.common.save", _blank):
        yield


@contextmanager
def drawn_once(drawn: set[tuple[str, int]]) -> Iterator[None]:
    """Let each line of a stage draw its first picture only, and write blank ones after it.

    What tests draw by themselves is always drawn.

    Parameters
    ----------
    drawn : set
        Lines (module, number) that have drawn; new ones are added.
    """
    from hklflow.plots.common import save

    def first(figure: Any, path: Path) -> None:
        caller = sys._getframe(1)
        line = str(caller.f_globals["__name__"]), caller.f_lineno
        write = _blank if line in drawn else save
        if line[0].startswith("hklflow."):
            drawn.add(line)
        write(figure, path)

    with mock.patch("hklflow.plots.save", first), mock.patch("hklflow.plots.common.save", first):
        yield


def _blank(figure: Any, path: Path) -> None:
    """Write a white PNG in the proportions of a figure."""
    from PIL import Image

    width, height = figure.get_size_inches()
    Image.new("RGB", (round(8 * width), round(8 * height)), "white").save(path, "PNG")
