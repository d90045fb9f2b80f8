"""Whether a raw file is complete: nobody has touched it for a while, and its last frame is there.

A file that is being written has a growing size, or is open for writing (HDF5 locks it),
or lacks its end. Each of these alone can be missed: a writer may pause, and a lock may be
switched off. So all of them must hold, and the frames must be as many as planned.
"""

import logging
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hklflow.base.errors import HklflowError
from hklflow.cli.folder import Row
from hklflow.cli.planned import name_pattern, parts
from hklflow.experiment.tables import is_series

NOT_THERE = "not there yet"

State = tuple[int, int, int]


class Settling:
    """Remembers since when files are as they are.

    Parameters
    ----------
    settle : float
        Seconds for which size and time of change must have stayed the same, as seen
        here: the clock of another computer does not count.

    Attributes
    ----------
    waiting : bool
        Set when a file was asked for that has not settled; for the caller to take back.
    """

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self.waiting = False
        self._seen: dict[Path, tuple[State, float]] = {}

    def settled(self, paths: Iterable[Path]) -> bool:
        """Whether all files have been as they are for long enough."""
        # All are looked at, so that their times run together.
        looked = [self._is_settled(path) for path in paths]
        self.waiting = self.waiting or not all(looked)
        return all(looked)

    def _is_settled(self, path: Path) -> bool:
        now = time.monotonic()
        state = _state(path)
        if path not in self._seen or self._seen[path][0] != state:
            self._seen[path] = (state, now)
        return now - self._seen[path][1] >= self._settle


def _state(path: Path) -> State:
    try:
        status = path.stat()
    except OSError:  # gone, or out of reach for a moment: it is not as it was
        return (-1, -1, -1)
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def missing(row: Row, base: Path, settling: Settling) -> str:
    """Say what is still missing of the raw files of a row; empty if they are complete.

    It is `NOT_THERE` if none of the files is there.
    """
    try:
        if not any(_begun(base / raw) for raw in parts(row["raw"])):
            return NOT_THERE
    except OSError as error:
        return f"{row['raw']} cannot be reached ({error.strerror})"
    for raw in parts(row["raw"]):
        with _quiet():
            told = _missing(base / raw, raw, row.get("frames", ""), settling)
        if told:
            return told
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the image reader keep its own words on damaged files to itself: we tell."""
    logger = logging.getLogger("fabio")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(before)


def _begun(path: Path) -> bool:
    """Whether a file, or one of a series, is there."""
    if not is_series(path.name):
        return path.exists()
    pattern = name_pattern(path.name, {})
    try:
        return any(pattern.fullmatch(entry.name) for entry in path.parent.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _missing(path: Path, raw: str, frames: str, settling: Settling) -> str:
    from hklflow.formats.raw import open_frames
    from hklflow.formats.series import find_files

    try:
        files = find_files(path)
        # A series that is being written is not opened: all its images would be looked at.
        if not settling.settled(files):
            return f"{raw} is still changing"
        if empty := [file for file in files if not file.stat().st_size]:
            return f"{empty[0]} is empty"
        before = [_state(file) for file in files]
        with open_frames(path) as opened:
            # Data files that a master file links.
            linked = [file for file in opened.files if file not in files]
            if not settling.settled(linked):
                return f"data files of {raw} are still changing"
            before += [_state(file) for file in linked]
            n = opened.shape[0]
            if frames and n != int(frames):
                return f"{raw} has {n} of {frames} frames"
            if n == 0:
                return f"{raw} has no frame"
            opened.read(n - 1, n)
        if [_state(file) for file in [*files, *linked]] != before:
            return f"{raw} is still changing"
    except HklflowError as error:
        return str(error)
    # What h5py says of a file that changes below its hands.
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        return f"{raw} cannot be read ({type(error).__name__}: {error})"
    return ""
