"""Outputs that are complete or absent: written under temporary names, then renamed."""

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path


def partial(path: Path, token: str) -> Path:
    """Return the temporary name of an output, in the same folder."""
    return path.with_name(f".{path.stem}.partial.{token}{path.suffix}")


def remove_partials(path: Path) -> None:
    """Remove partial outputs of killed runs.

    If such a run is still alive (only its snakemake was killed), it ends with an error when it
    publishes: the newest run wins.
    """
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    # Writers of raw files have their own partial file next to the stage's.
    left = re.compile(rf"\.+{stem}\.partial(\.[0-9a-f]{{8}})?{suffix}(\.partial)?")
    for other in path.parent.iterdir():
        if left.fullmatch(other.name):
            other.unlink(missing_ok=True)


def publish(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename complete outputs to their final names.

    The data are flushed to disk before the rename: after a power loss a file is old, absent or
    complete, and a full file server reports the error here. Old outputs are removed first, so that
    a process that dies in between leaves some outputs absent, never new outputs with old ones.
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
            if error.errno != errno.EINVAL:  # not supported on some network file systems
                raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
