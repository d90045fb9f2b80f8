"""Lock file with the name of its owner, for commands that must not run twice at the same time."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hklflow.base.errors import HklflowError


@contextmanager
def only_one(path: Path) -> Iterator[str]:
    """Hold a lock file; yield the name of an owner that was killed, or an empty text.

    The operating system releases the lock when the process ends, so a remaining file is no lock.
    The content of the file is only for messages.

    Raises
    ------
    HklflowError
        If another process holds the lock.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HklflowError(
                f"{path.parent.parent} is watched already by {_content(file) or 'another process'};"
                " stop that one first"
            ) from error
        left = _content(file)
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield left
        os.ftruncate(file, 0)
    finally:
        os.close(file)


def _content(file: int) -> str:
    return os.pread(file, 1000, 0).decode(errors="replace").strip()
