"""Outputs that are complete or absent: temporary names beside their places, then a rename."""

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path


def partial(path: Path, token: str) -> Path:
    """Temporary name of an output, beside its place."""
    return path.with_name(f".{path.stem}.partial.{token}{path.suffix}")


def remove_partials(path: Path) -> None:
    """Remove what killed runs left of an output.

    If one of them lives after all (its snakemake was killed, not it), it ends with an error when
    it comes to publish: the newest run wins.
    """
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    # Writers of raw files have a partial file of their own beside the stage's.
    left = re.compile(rf"\.+{stem}\.partial(\.[0-9a-f]{{8}})?{suffix}(\.partial)?")
    for other in path.parent.iterdir():
        if left.fullmatch(other.name):
            other.unlink(missing_ok=True)


def publish(moves: Sequence[tuple[Path, Path]]) -> None:
    """Put complete outputs in their places.

    The data are on the disk before their name is: after a power loss a file is old, absent or
    complete, and a file server that is full says so here. Of several outputs the old ones go
    first, so that a process that dies in between leaves some absent, never new beside old.
    """
    for source, _ in moves:
        _sync(source)
    for _, target in moves[1:]:
        target.unlink(missing_ok=True)
    for source, target in moves:
        source.replace(target)
    for folder in {target.parent for _, target in moves}:
        try:
            _sync(folder)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network file systems know no such thing
                raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
