"""Test if a raw file is complete: unchanged for some time, readable, with all planned frames.

A file that is being written grows, or is locked by HDF5, or its last frame cannot be read. One test
alone is not enough, because a writer may pause and locks may be switched off. A file must therefore
pass all tests and have the planned number of frames.
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
    """Record of size and modification time of files, to find files that no longer change.

    Parameters
    ----------
    settle : float
        Seconds for which size and modification time of a file must stay the same, by the clock of
        this computer: the clock of a file server may differ.

    Attributes
    ----------
    waiting : bool
        True after `settled` was called for a file that has changed recently. The caller resets it.
    """

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self.waiting = False
        # state of each file, and time since when it is unchanged
        self._unchanged: dict[Path, tuple[State, float]] = {}

    def settled(self, paths: Iterable[Path]) -> bool:
        """Return True if no file has changed for `settle` seconds."""
        # Check every file, so that the waiting times of all files start now.
        are_settled = [self._is_settled(path) for path in paths]
        self.waiting = self.waiting or not all(are_settled)
        return all(are_settled)

    def _is_settled(self, path: Path) -> bool:
        now = time.monotonic()
        state = _state(path)
        if path not in self._unchanged or self._unchanged[path][0] != state:
            self._unchanged[path] = (state, now)
        return now - self._unchanged[path][1] >= self._settle


def _state(path: Path) -> State:
    try:
        status = path.stat()
    except OSError:  # removed or temporarily not reachable: counts as a change
        return (-1, -1, -1)
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def missing(row: Row, base: Path, settling: Settling) -> str:
    """Return a message about missing raw files or frames of a row; empty if they are complete.

    The message is `NOT_THERE` if none of the files exists.
    """
    try:
        if not any(_begun(base / raw) for raw in parts(row["raw"])):
            return NOT_THERE
    except OSError as error:
        return f"{row['raw']} cannot be reached ({error.strerror})"
    except HklflowError as error:  # a damaged scan file
        return str(error)
    for raw in parts(row["raw"]):
        with _quiet():
            message = _missing(base / raw, raw, row.get("frames", ""), settling)
        if message:
            return message
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress fabio's own messages about damaged files: `missing` reports them."""
    logger = logging.getLogger("fabio")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(before)


def _begun(path: Path) -> bool:
    """Return True if the file, or any file of the series, exists.

    A planned scan file exists before its frames, which count.
    """
    from hklflow.formats.light import sources_of
    from hklflow.formats.planned_scan import is_planned

    if not is_series(path.name):
        if is_planned(path):
            return any(_begun(Path(source)) for source, _ in sources_of(path))
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
        # Do not open a series that is still written: opening reads all its images.
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
    # h5py raises these errors if a file changes while it is read.
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        return f"{raw} cannot be read ({type(error).__name__}: {error})"
    return ""
