"""Atomic file operations: files are complete or absent, even if the writer is killed.

A folder is built under a temporary name and then renamed; the rename fails if the target exists. A
file that must not replace another file is hard-linked to its final name. The temporary name
contains process and host of the writer. Files of a writer that was killed can therefore be
recognised.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_no_pipe
from hklflow.calibration.layout import RECORD, TEMPORARY, check_file

# Age in seconds; for older temporary files it is checked if the writer still runs.
OLD = 3600.0

_BLOCK = 2**20
_OWNER = re.compile(re.escape(TEMPORARY) + r"([0-9]+)-[0-9a-f]{8}-(.+)")


@contextmanager
def telling(what: str, then: str = "repeat") -> Iterator[None]:
    """Convert a system error to one sentence: "<what> cannot be written (...)"."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise HklflowError(
            f"{what} cannot be written ({reason}); free disk space or correct the permissions, "
            f"then {then}"
        ) from error


@contextmanager
def temporary(parent: Path) -> Iterator[Path]:
    """Yield a new path in a folder; a file that still has this path at the end is removed."""
    path = parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{socket.gethostname()}"
    try:
        yield path
    finally:
        remove(path)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, writable by everybody who can write to the parent."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        share(path)


def share(path: Path) -> None:
    """Give the group write permission if the parent folder has it, whatever the umask."""
    above, target = path.parent.stat(), path.stat()
    mine = target.st_uid == os.geteuid() and target.st_gid == above.st_gid
    wanted = above.st_mode & (0o070 if path.is_dir() else 0o060)
    if mine and above.st_mode & stat.S_IWGRP and target.st_mode & wanted != wanted:
        path.chmod(stat.S_IMODE(target.st_mode) | wanted)


def remove(path: Path) -> None:
    """Remove a file or folder; a link is not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def abandoned(path: Path) -> bool:
    """Return True if a temporary file or folder is old and its writer on this host has ended."""
    match = _OWNER.fullmatch(path.name)
    if match is None or match[2] != socket.gethostname():
        return False
    try:
        if time.time() - path.stat().st_mtime < OLD:
            return False
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except (FileNotFoundError, PermissionError):  # file removed, or another user's
        return False
    return False


def claim_folder(source: Path, target: Path) -> bool:
    """Rename a complete folder to its final name; return False if the target exists."""
    # A rename would replace an empty folder, which a user may have created.
    if os.path.lexists(target):
        return False
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    sync(target.parent)
    return True


def claim_file(target: Path, content: bytes) -> bool:
    """Create a complete new file; return False if the target exists."""
    with temporary(target.parent) as path:
        write(path, content)
        try:
            os.link(path, target)
        except FileExistsError:
            return False
    sync(target.parent)
    return True


def replace_file(target: Path, content: bytes) -> None:
    """Create or replace a file atomically; only for files that can be generated again."""
    with temporary(target.parent) as path:
        path.write_bytes(content)
        path.replace(target)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Yield True if no other process holds the lock of this folder, False otherwise.

    File systems without locks also give True, so the lock only saves work.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:  # the file system does not support locks
            yield True
        else:
            yield True
    finally:
        os.close(descriptor)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line of JSON in a single write, so that lines of several writers do not mix."""
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    # Invalid UTF-8 becomes a JSON escape: the history loses no line.
    line = text.encode(errors="backslashreplace") + b"\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        share(path)
        if os.write(file, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file)
    finally:
        os.close(file)


def write(path: Path, content: bytes) -> None:
    """Write a file and flush it to disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def check_sources(files: Mapping[str, Path]) -> None:
    """Refuse file names that are invalid in the store, and missing sources.

    Raises
    ------
    HklflowError
        For the first invalid name or missing source.
    """
    for name, source in files.items():
        if check_file(name) == RECORD:
            raise HklflowError(f"file {name} is written by the store itself; leave it out")
        if not source.is_file():
            raise HklflowError(f"file {name}: {source} does not exist; create it first")


def copy(source: Path, target: Path) -> str:
    """Copy a file, flush it to disk and return its SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as written:
        while block := read.read(_BLOCK):
            digest.update(block)
            written.write(block)
        written.flush()
        os.fsync(written.fileno())
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a whole file; pipes are refused."""
    require_no_pipe(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(folder: Path) -> None:
    """Flush a folder's directory entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # not supported on some network file systems
            raise
    finally:
        os.close(descriptor)


def json_bytes(data: Mapping[str, Any], where: str) -> bytes:
    """Return JSON text that depends only on the data and can be compared line by line.

    Raises
    ------
    HklflowError
        If a value is not finite, or a text cannot be written as UTF-8.
    """
    try:
        text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"
    except UnicodeEncodeError as error:
        wrong = error.object[max(error.start - 20, 0) : error.end]
        raise HklflowError(
            f"{where} contains text that is not UTF-8 (at the end of {wrong!r}); write it in UTF-8"
        ) from error
    except ValueError as error:
        raise HklflowError(
            f"{where} contains a number that is not finite ({error}); use null for unknown values"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises
    ------
    HklflowError
        If the file is absent, cannot be read or is not a JSON object.
    """
    require_no_pipe(path)
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise HklflowError(f"{path} cannot be read ({reason})") from error
    except ValueError as error:
        raise HklflowError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise HklflowError(f"{path} contains a {type(data).__name__}, not a JSON object")
    return data
