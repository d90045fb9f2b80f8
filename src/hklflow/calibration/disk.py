"""Files that are complete or absent, also when a writer is killed or the disk is full.

A folder is built under a temporary name and takes its place by one rename, which fails if
something is there. A file that must not replace another takes its place by a hard link. The
temporary name says who writes, so that what a killed writer left can be told from work.
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

# A writer that has not ended after this time (seconds) is looked at.
OLD = 3600.0

_BLOCK = 2**20
_OWNER = re.compile(re.escape(TEMPORARY) + r"([0-9]+)-[0-9a-f]{8}-(.+)")


@contextmanager
def telling(what: str, then: str = "repeat") -> Iterator[None]:
    """Turn an error of the system into one sentence: "<what> cannot be written (...)"."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise HklflowError(
            f"{what} cannot be written ({reason}); make room or mend the permissions, then {then}"
        ) from error


@contextmanager
def temporary(parent: Path) -> Iterator[Path]:
    """Give a new name in a folder; what still has this name at the end is removed."""
    path = parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{socket.gethostname()}"
    try:
        yield path
    finally:
        remove(path)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, for everybody who may write where they stand."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        share(path)


def share(path: Path) -> None:
    """Let the group write what stands in a folder where it may write, whatever the umask."""
    above, own = path.parent.stat(), path.stat()
    mine = own.st_uid == os.geteuid() and own.st_gid == above.st_gid
    wanted = above.st_mode & (0o070 if path.is_dir() else 0o060)
    if mine and above.st_mode & stat.S_IWGRP and own.st_mode & wanted != wanted:
        path.chmod(stat.S_IMODE(own.st_mode) | wanted)


def remove(path: Path) -> None:
    """Remove a file or folder; a link is not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def abandoned(path: Path) -> bool:
    """Whether a temporary file or folder is old and its writer dead, as far as this host knows."""
    match = _OWNER.fullmatch(path.name)
    if match is None or match[2] != socket.gethostname():
        return False
    try:
        if time.time() - path.stat().st_mtime < OLD:
            return False
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except (FileNotFoundError, PermissionError):  # gone by now; a living process of another user
        return False
    return False


def claim_folder(source: Path, target: Path) -> bool:
    """Rename a complete folder to its place; False if something is there."""
    # A rename would replace an empty folder, which somebody may have made by hand.
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
    """Put a complete new file in its place; False if something is there."""
    with temporary(target.parent) as path:
        write(path, content)
        try:
            os.link(path, target)
        except FileExistsError:
            return False
    sync(target.parent)
    return True


def replace_file(target: Path, content: bytes) -> None:
    """Put a complete file in its place, instead of what is there; for what can be made again."""
    with temporary(target.parent) as path:
        path.write_bytes(content)
        path.replace(target)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether this process is the only one in a block for this folder; it spares work, no more."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:  # a file system without locks
            yield True
        else:
            yield True
    finally:
        os.close(descriptor)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line of JSON by a single write, so that lines of several writers do not mix."""
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    # What is no UTF-8 becomes an escape of JSON: the history loses no line.
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
    """Write a file, and its data to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def check_sources(files: Mapping[str, Path]) -> None:
    """Refuse names that cannot stand in the store, and sources that are absent.

    Raises
    ------
    HklflowError
        Naming the first of them.
    """
    for name, source in files.items():
        if check_file(name) == RECORD:
            raise HklflowError(f"file {name} is written by the store itself; leave it out")
        if not source.is_file():
            raise HklflowError(f"file {name}: {source} does not exist; make it first")


def copy(source: Path, target: Path) -> str:
    """Copy a file, its data to the disk too; returns the SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as written:
        while block := read.read(_BLOCK):
            digest.update(block)
            written.write(block)
        written.flush()
        os.fsync(written.fileno())
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a whole file; raises if it is a pipe."""
    require_no_pipe(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems know no such thing
            raise
    finally:
        os.close(descriptor)


def json_bytes(data: Mapping[str, Any], where: str) -> bytes:
    """JSON that diffs well and is always the same for the same data.

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
            f"{where} holds a text that is no UTF-8 (at the end of {wrong!r}); write it in UTF-8"
        ) from error
    except ValueError as error:
        raise HklflowError(
            f"{where} holds a number that is not finite ({error}); give null for what is not known"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """JSON object of a file.

    Raises
    ------
    HklflowError
        If the file is absent, cannot be read or holds something else.
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
        raise HklflowError(f"{path} holds a {type(data).__name__}, not a JSON object")
    return data
