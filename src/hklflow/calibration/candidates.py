"""Candidates: iterations of a calibration beside each other, before one is published."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hklflow.calibration import disk, layout, statuses
from hklflow.errors import HklflowError


@dataclass(frozen=True)
class Candidate:
    """One iteration of a candidate.

    Attributes
    ----------
    kind, state_id, name : str
    iteration : int
        From 1.
    path : Path
        Its folder.
    record : dict
        What is known of it: given when it was made.
    """

    kind: str
    state_id: str
    name: str
    iteration: int
    path: Path
    record: dict[str, Any]

    def files(self) -> dict[str, Path]:
        """Its files but the record, as `Store.publish` wants them."""
        return {
            path.name: path
            for path in sorted(self.path.iterdir())
            if path.name != layout.RECORD and path.is_file()
        }


def read(root: Path, kind: str, state_id: str, name: str, iteration: int) -> Candidate:
    """One iteration.

    Raises
    ------
    HklflowError
        If it is damaged, or it or its candidate is a symbolic link.
    """
    path = layout.store_path(root, kind, state_id, candidate=name, iteration=iteration)
    for folder in (path.parent, path):
        if folder.is_symlink():
            raise HklflowError(f"{folder} is a symbolic link, not a candidate; remove it")
    record = disk.read_object(path / layout.RECORD)
    return Candidate(kind, state_id, name, iteration, path, record)


def listed(root: Path, kind: str, state_id: str) -> list[Candidate]:
    """Every iteration of every candidate of a state, by name and number; errors as in `read`."""
    folder = layout.store_path(root, kind, state_id) / "candidates"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [
        read(root, kind, state_id, name, iteration)
        for name in names
        if not name.startswith(".")
        for iteration in layout.iteration_numbers(folder / name)
    ]


def add(
    root: Path,
    kind: str,
    state_id: str,
    name: str,
    files: Mapping[str, Path],
    record: Mapping[str, Any],
) -> Candidate:
    """Put the next iteration beside the others, in one act."""
    folder = layout.store_path(root, kind, state_id, candidate=name)
    if folder.is_symlink():
        raise HklflowError(f"{folder} is a symbolic link, not a candidate; remove it")
    disk.check_sources(files)
    proposed = {key: record[key] for key in ("author", "comments") if key in record}
    proposed["timestamp"] = statuses.now()
    where = f"candidate {name} in {folder.parent}"
    with disk.telling(where):
        folder.mkdir(parents=True, exist_ok=True)
    with disk.telling(where), disk.temporary(folder) as new:
        new.mkdir()
        for file, source in files.items():
            disk.copy(source, new / file)
        while True:
            iteration = max(layout.iteration_numbers(folder), default=0) + 1
            written = {
                **record,
                "kind": kind,
                "stateId": state_id,
                # A version has the author and the comments of who judged it; these stay here.
                "candidate": {**proposed, "name": name, "iteration": iteration},
                "timestamp": proposed["timestamp"],
            }
            disk.write(new / layout.RECORD, disk.json_bytes(written, f"candidate {name}"))
            disk.sync(new)
            target = layout.store_path(root, kind, state_id, candidate=name, iteration=iteration)
            if disk.claim_folder(new, target):
                return Candidate(kind, state_id, name, iteration, target, written)


def find(root: Path, text: str, kind: str | None = None, state_id: str | None = None) -> Candidate:
    """Candidate by ``name`` (its last iteration) or ``name/iteration``.

    The search is in all states, or in those of a kind, or in the state of an id.

    Raises
    ------
    HklflowError
        If there is none, or several states have one of this name.
    """
    name, _, count = text.partition("/")
    layout.check_name(name, "candidate")
    if count and not count.isdecimal():
        raise HklflowError(f"candidate {text!r}: {count!r} is no iteration; write {name}/02")
    places = [
        (*place, numbers)
        for place in layout.state_folders(root)
        if kind in (None, place[0]) and state_id in (None, place[1])
        if (numbers := layout.iteration_numbers(layout.store_path(root, *place, candidate=name)))
    ]
    if not places:
        where = "/".join(str(part) for part in (root, kind, state_id) if part is not None)
        raise HklflowError(
            f"there is no candidate {name} in {where}; `hklflow calibration list` shows them"
        )
    if len(places) > 1:
        where = " and ".join("/".join(place[:2]) for place in places)
        raise HklflowError(
            f"candidate {name} is in {where} of {root}; say in which state, or give its folder"
        )
    kind, state_id, numbers = places[0]
    iteration = int(count) if count else numbers[-1]
    if iteration not in numbers:
        raise HklflowError(
            f"candidate {name} has no iteration {count}; it has "
            + ", ".join(f"{n:02d}" for n in numbers)
        )
    return read(root, kind, state_id, name, iteration)


def remove(root: Path, kind: str, state_id: str, name: str) -> None:
    """Remove all iterations of a candidate; it is gone for readers at once."""
    folder = layout.store_path(root, kind, state_id, candidate=name)
    with disk.telling(f"{folder.parent}"), disk.temporary(folder.parent) as doomed:
        folder.rename(doomed)


@contextmanager
def locked(root: Path, kind: str, state_id: str, name: str) -> Iterator[None]:
    """Hold a candidate alone.

    The system holds the lock as long as this process lives, so that one whose owner died is
    free again; what the file says is for people.

    Raises
    ------
    HklflowError
        If another process holds it, which is named.
    """
    folder = layout.store_path(root, kind, state_id, candidate=name)
    path = folder.with_name(f".lock-{name}")
    with disk.telling(str(path)):
        path.parent.mkdir(exist_ok=True)
        file = _lock(path, name)
    try:
        yield
    finally:
        # Removed while it is held: see `_lock`.
        path.unlink(missing_ok=True)
        os.close(file)


def _lock(path: Path, name: str) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have removed the file since it was opened: then take the new one.
            if os.fstat(file).st_ino == path.stat().st_ino:
                os.ftruncate(file, 0)
                os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                return file
        except FileNotFoundError:
            pass
        except OSError as error:
            owner = os.pread(file, 1000, 0).decode(errors="replace")
            os.close(file)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise HklflowError(
                    f"candidate {name} is being worked on by {owner or 'another process'}; "
                    "wait for it, or choose another --name"
                ) from error
            raise
        os.close(file)
