"""Candidates: iterations of a calibration that are compared before one is published."""

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
        Number of the iteration, from 1.
    path : Path
        Folder of the iteration.
    record : dict
        Description, written when the iteration was created.
    """

    kind: str
    state_id: str
    name: str
    iteration: int
    path: Path
    record: dict[str, Any]

    def files(self) -> dict[str, Path]:
        """Return all files except the record, for `Store.publish`; errors as in `check`."""
        self.check()
        return {item["file"]: self.path / item["file"] for item in self.record["artefacts"]}

    def check(self) -> None:
        """Compare the files with the files that were judged.

        Raises
        ------
        HklflowError
            If a file is missing, was changed or was added; the message names the first such file.
        """
        known = {item["file"]: item["sha256"] for item in self.record["artefacts"]}
        what = "since the candidate was judged; restore it, or create another iteration"
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
    """Read one iteration of a candidate.

    Raises
    ------
    HklflowError
        If the iteration is damaged, belongs to another folder or is a symbolic link, or if its
        candidate is a symbolic link.
    """
    path = layout.store_path(root, kind, state_id, candidate=name, iteration=iteration)
    _refuse_links(path.parent, path)
    where = path / layout.RECORD
    record = disk.read_object(where)
    records.validate(record, str(where), records.Proposal)
    origin = record["candidate"]
    named = (record["kind"], record["stateId"], origin["name"], origin["iteration"])
    if named != (kind, state_id, name, iteration):
        raise HklflowError(
            f"{where} belongs to iteration {named[3]} of candidate {named[2]} of "
            f"{named[0]}/{named[1]}, not to this folder; create the candidate here again"
        )
    return Candidate(kind, state_id, name, iteration, path, record)


def _refuse_links(*folders: Path) -> None:
    for folder in folders:
        if folder.is_symlink():
            raise HklflowError(f"{folder} is a symbolic link, not a candidate; remove it")


def listed(root: Path, kind: str, state_id: str) -> list[Candidate]:
    """List all undamaged iterations of all candidates of a state, by name and number."""
    return [entry for entry in _read_all(root, kind, state_id) if isinstance(entry, Candidate)]


def problems(root: Path, kind: str, state_id: str) -> Iterator[str]:
    """Yield a sentence for each damaged candidate of a state; the hash of every file is checked."""
    for entry in _read_all(root, kind, state_id):
        try:
            if isinstance(entry, HklflowError):
                raise entry
            entry.check()
        except HklflowError as error:
            yield str(error)


def _read_all(root: Path, kind: str, state_id: str) -> Iterator[Candidate | HklflowError]:
    """Yield every iteration, or the error if it cannot be read."""
    folder = layout.store_path(root, kind, state_id) / "candidates"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        # A link is reported only once, even if its target has several iterations.
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
    """Add the next iteration of a candidate; other processes see it complete or not at all."""
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
                # A version gets the author and the comments of its acceptance; author and comments
                # of the proposal are kept here.
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
    """Find a candidate by ``name`` (last iteration) or ``name/iteration``; errors as in `place`."""
    name, _, count = text.partition("/")
    if count and not count.isdecimal():
        raise HklflowError(f"candidate {text!r}: {count!r} is not a number; write {name}/02")
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
    """Return kind and id of the state with this candidate, and the numbers of its iterations.

    All states are searched, or only the states of a kind or with an id.

    Raises
    ------
    HklflowError
        If the candidate does not exist, or exists in several states.
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
        where = " and ".join(f"{match[0]}/{match[1]}" for match in places)
        raise HklflowError(
            f"candidate {name} is in {where} of {root}; name the state, or the candidate's folder"
        )
    return places[0]


def remove(root: Path, kind: str, state_id: str, name: str) -> None:
    """Remove all iterations of a candidate at once."""
    folder = layout.store_path(root, kind, state_id, candidate=name)
    _refuse_links(folder)
    with disk.telling(f"{folder.parent}"), disk.temporary(folder.parent) as doomed:
        folder.rename(doomed)


@contextmanager
def locked(root: Path, kind: str, state_id: str, name: str) -> Iterator[None]:
    """Lock a candidate for this process.

    The operating system releases the lock when this process ends, even if it is killed. The content
    of the lock file is not read by the program.

    Raises
    ------
    HklflowError
        If another process holds the lock; the message names the process.
    """
    folder = layout.store_path(root, kind, state_id, candidate=name)
    path = folder.with_name(f".lock-{name}")
    with disk.telling(str(path)):
        disk.make_folder(path.parent)
        file = _lock(path, name)
    try:
        yield
    finally:
        # The lock file is removed while the lock is held: see `_lock`.
        path.unlink(missing_ok=True)
        os.close(file)


def _lock(path: Path, name: str) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last owner may have removed the file after it was opened here; then open the new
            # file.
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
