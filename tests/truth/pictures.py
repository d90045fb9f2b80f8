"""Refinements without their pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


@contextmanager
def without_pictures() -> Iterator[None]:
    """Draw no picture of peaks: it takes as long as the refinement of a small world."""
    with mock.patch("hklflow.stage.orientation.picture"), mock.patch("hklflow.plots.save"):
        yield
