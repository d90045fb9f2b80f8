"""Publish files of a command: all of them, complete, or none."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hklflow.base.errors import HklflowError, printable

Writer = Callable[[Path], Sequence[str]]
"""Writes a file and returns notes about data that the file cannot hold."""


def published(jobs: Sequence[tuple[Path, Writer]], force: bool) -> None:
    """Write all files under temporary names, then rename them; print the notes."""
    import secrets

    from hklflow.base import publish

    present = [str(path) for path, _ in jobs if path.exists()]
    if present and not force:
        raise HklflowError(f"{present[0]} exists; give --force to overwrite it, or another name")
    absent = [path for path, _ in jobs if not path.parent.is_dir()]
    if absent:
        raise HklflowError(f"the folder of {absent[0]} does not exist; make it first")
    token = secrets.token_hex(4)
    moves = [(publish.partial(path, token), path) for path, _ in jobs]
    try:
        for (temporary, path), (_, write) in zip(moves, jobs, strict=True):
            for note in write(temporary):
                print(f"{path}: {printable(note)}")
        publish.publish(moves)
    finally:
        for temporary, _ in moves:
            temporary.unlink(missing_ok=True)
    for _, path in moves:
        print(f"{path} written")
