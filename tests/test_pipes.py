"""A pipe in the place of a file is told at once: to read it would wait for ever."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.calibration import calibrants, disk, states
from hklflow.formats.frame_log import read_log
from hklflow.formats.nxrefine_settings import read_ini


class HangError(BaseException):
    """Nothing came of it."""


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    def give_up(number: int, frame: Any) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "read",
    [
        stage.read_json,
        disk.read_object,
        disk.sha256,
        states.read_schema,
        calibrants._bytes_of,
        read_log,
        lambda path: list(read_ini(path)),
    ],
)
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "file")
    with pytest.raises(HklflowError, match="file is a pipe, not a file; use a regular file"):
        read(tmp_path / "file")
