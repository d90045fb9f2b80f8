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

from hklflow.base.errors import HklflowError
from hklflow.calibration import disk, layout, records, statuses


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
        """Its files but the record, as `Store.publish` wants them; errors as in `check`."""
        self.check()
        return {item["file"]: self.path / item["file"] for item in self.record["artefacts"]}

    def check(self) -> None:
        """Compare its files with those that were judged.

        Raises
        ------
        HklflowError
            Naming the first that is missing, was changed or was added.
        """
        known = {item["file"]: item["sha256"] for item in self.record["artefacts"]}
        what = "since the candidate was judged; restore it, or make another iteration"
        for name, sha256 in known.items():
            path = self.path / layout.check_file(name)
            if path.is_symlink() or not path.is_file():
                raise HklflowError(f"{path} is missing {what}")
            if disk.sha256(path) != sha256:
                raise HklflowError(f"{path} was changed {what}")
        for path in sorted(self.path.iterdir()):
            if path.name not in {*known, layout.RECORD}:
                raise HklflowError(f"{path} was added after the candidate was judged; move it away")


def read(root: Path, kind: str, state_id: str, name: str, iteration: int) -> Candidate:
    """One iteration.

    Raises
    ------
    HklflowError
        If it is damaged or that of another folder, or it or its candidate is a symbolic link.
    """
    path = layout.store_path(root, kind, state_id, candidate=name, iteration=iteration)
    _refuse_links(path.parent, path)
    where = path / layout.RECORD
    record = disk.read_object(where)
    records.validate(record, str(where), records.Proposal)
    origin = record["candidate"]
    found = (record["kind"], record["stateId"], origin["name"], origin["iteration"])
    if found != (kind, state_id, name, iteration):
        raise HklflowError(
            f"{where} is that of iteration {found[3]} of candidate {found[2]} of "
            f"{found[0]}/{found[1]}, not of this folder; make the candidate here anew"
        )
    return Candidate(kind, state_id, name, iteration, path, record)


def _refuse_links(*folders: Path) -> None:
    for folder in folders:
        if folder.is_symlink():
            raise HklflowError(f"{folder} is a symbolic link, not a candidate; remove it")


def listed(root: Path, kind: str, state_id: str) -> list[Candidate]:
    """Every iteration that is not damaged of every candidate of a state, by name and number."""
    return [found for found in _tried(root, kind, state_id) if isinstance(found, Candidate)]


def problems(root: Path, kind: str, state_id: str) -> Iterator[str]:
    """Sentences on the candidates of a state that are damaged; every file is hashed."""
    for found in _tried(root, kind, state_id):
        try:
            if isinstance(found, HklflowError):
                raise found
            found.check()
        except HklflowError as error:
            yield str(error)


def _tried(root: Path, kind: str, state_id: str) -> Iterator[Candidate | HklflowError]:
    """Every iteration, or why it cannot be read."""
    folder = layout.store_path(root, kind, state_id) / "candidates"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        # Of a link, that it is one is told once, whatever it leads to.
        for iteration in [1] if path.is_symlink() else layout.iteration_numbers(path):
            try:
                yield read(root, kind, state_id, path.name, iteration)
            except HklflowError as error:
                yield error


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
    _refuse_links(folder)
    disk.check_sources(files)
    proposed = {key: record[key] for key in ("author", "comments") if key in record}
    proposed["timestamp"] = statuses.now()
    where = f"candidate {name} in {folder.parent}"
    with disk.telling(where):
        disk.make_folder(folder)
    with disk.telling(where), disk.temporary(folder) as new:
        disk.make_folder(new)
        sums = {file: disk.copy(source, new / file) for file, source in files.items()}
        while True:
            iteration = max(layout.iteration_numbers(folder), default=0) + 1
            written = {
                **record,
                "kind": kind,
                "stateId": state_id,
                # A version has the author and the comments of who judged it; these stay here.
                "candidate": {**proposed, "name": name, "iteration": iteration},
                "timestamp": proposed["timestamp"],
                "artefacts": [{"file": file, "sha256": sums[file]} for file in sorted(sums)],
            }
            disk.write(new / layout.RECORD, disk.json_bytes(written, f"candidate {name}"))
            records.validate(written, f"candidate {name}", records.Proposal)
            disk.sync(new)
            target = layout.store_path(root, kind, state_id, candidate=name, iteration=iteration)
            if disk.claim_folder(new, target):
                return Candidate(kind, state_id, name, iteration, target, written)


def find(root: Path, text: str, kind: str | None = None, state_id: str | None = None) -> Candidate:
    """Candidate by ``name`` (its last iteration) or ``name/iteration``; errors as in `place`."""
    name, _, count = text.partition("/")
    if count and not count.isdecimal():
        raise HklflowError(f"candidate {text!r}: {count!r} is no iteration; write {name}/02")
    kind, state_id, numbers = place(root, name, kind, state_id)
    iteration = int(count) if count else numbers[-1]
    if iteration not in numbers:
        raise HklflowError(
            f"candidate {name} has no iteration {count}; it has "
            + ", ".join(f"{n:02d}" for n in numbers)
        )
    return read(root, kind, state_id, name, iteration)


def place(
    root: Path, name: str, kind: str | None = None, state_id: str | None = None
) -> tuple[str, str, list[int]]:
    """Kind and id of the state that has a candidate, and the numbers of its iterations.

    The search is in all states, or in those of a kind, or in the state of an id.

    Raises
    ------
    HklflowError
        If there is none, or several states have one of this name.
    """
    layout.check_name(name, "candidate")
    places = [
        (*state, numbers)
        for state in layout.state_folders(root)
        if kind in (None, state[0]) and state_id in (None, state[1])
        if (numbers := layout.iteration_numbers(layout.store_path(root, *state, candidate=name)))
    ]
    if not places:
        where = "/".join(str(part) for part in (root, kind, state_id) if part is not None)
        raise HklflowError(
            f"there is no candidate {name} in {where}; `hklflow calibration list` shows them"
        )
    if len(places) > 1:
        where = " and ".join(f"{found[0]}/{found[1]}" for found in places)
        raise HklflowError(
            f"candidate {name} is in {where} of {root}; say in which state, or give its folder"
        )
    return places[0]


def remove(root: Path, kind: str, state_id: str, name: str) -> None:
    """Remove all iterations of a candidate; it is gone for readers at once."""
    folder = layout.store_path(root, kind, state_id, candidate=name)
    _refuse_links(folder)
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
        disk.make_folder(path.parent)
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
                disk.share(path)
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
                    "wait for it, or propose under a new name"
                ) from error
            raise
        os.close(file)
