"""Stages without their pictures."""

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


def _blank(figure: Any, path: Path) -> None:
    """Write a white PNG in the proportions of a figure."""
    from PIL import Image

    width, height = figure.get_size_inches()
    Image.new("RGB", (round(8 * width), round(8 * height)), "white").save(path, "PNG")
