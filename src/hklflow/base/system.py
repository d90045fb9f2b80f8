"""Problems of paths and of the system, in the user's words."""

import errno
import os
import re
import resource
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hklflow.base.errors import HklflowError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_OTHER_FILES = 200  # open files of libraries, logs and products
_NO_ROOM = {
    errno.ENOSPC: "free some disk space and run again",
    errno.EDQUOT: "free some of your quota and run again",
    errno.EFBIG: "raise the limit of file sizes (`ulimit -f`) and run again",
}
_NO_MEMORY = (
    "cannot allocate memory",
    "memory allocation failed",  # HDF5
    "failed to map segment",  # a library at import
    "can't start new thread",
    "unable to allocate",
)
# Errors that a user can fix; all other system errors count as defects of hklflow.
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_MENDABLE = (
    *_FORBIDDEN,
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
)


def no_file(path: Path, *, read: bool = False) -> str | None:
    """Return why a path is not a file, for example ``is a folder, not a file``; None for a file.

    Only regular files are opened: reading a pipe would block, and a device has no end.

    Parameters
    ----------
    path : Path
    read : bool
        Also check that the file is readable.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return "does not exist" + (f" (a link to {path.readlink()})" if path.is_symlink() else "")
    except OSError as error:
        return f"cannot be reached ({error.strerror})"
    except ValueError as error:  # a name with a null byte
        return f"cannot be reached ({error})"
    if kind != stat.S_IFREG:
        return f"is {_KINDS.get(kind, 'something else')}, not a file"
    if read:
        try:
            path.open("rb").close()
        except OSError as error:
            return f"may not be read ({error.strerror}: ask its owner)"
    return None


def require_file(path: Path, what: str, cure: str = "check the path") -> None:
    """Require that a path is a readable regular file.

    Parameters
    ----------
    path : Path
    what : str
        Name of the file in the message: ``PONI file``.
    cure : str
        Advice for the user.

    Raises
    ------
    HklflowError
        If the path does not exist, is not a file, or is not readable.
    """
    if (reason := no_file(path, read=True)) is not None:
        raise HklflowError(f"{what} {path} {reason}; {cure}")


def require_no_pipe(path: Path) -> None:
    """Refuse a pipe, socket or device, because reading it could block or never end.

    Missing files and folders are reported by the function that opens the path.
    """
    with suppress(OSError, ValueError):
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            what = _KINDS.get(kind, "something else")
            raise HklflowError(f"{path} is {what}, not a file; use a regular file")


def _named(error: OSError) -> str | None:
    """Return the file name in an error (the target of a move). HDF5 has it only in the text."""
    for name in (error.filename2, error.filename):
        if name is not None:
            return os.fsdecode(name)
    match = re.search(r"name = '([^']+)'", str(error))
    return match and match[1]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def lack_of_memory(error: BaseException) -> str | None:
    """Return the text of an error, or of its cause, about missing memory; None for other errors.

    Libraries have their own types of memory errors.
    """
    for cause in _chain(error):
        if isinstance(cause, MemoryError) or any(t in str(cause).lower() for t in _NO_MEMORY):
            return str(cause)
    return None


def memory_limit_mb() -> int | None:
    """Return the limit of a process's address space, in MB; None for no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit // 2**20


def too_many_files(error: BaseException) -> str | None:
    """Return a sentence if an error, or its cause, is the limit of open files; else None."""
    numbers = (errno.EMFILE, errno.ENFILE)
    for cause in _chain(error):
        in_text = any(f"errno = {number}," in str(cause) for number in numbers)
        if in_text or (isinstance(cause, OSError) and cause.errno in numbers):
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            return (
                f"too many open files: a process may have {limit}; raise the limit "
                "(`ulimit -n 4096`) and run again"
            )
    return None


def sentence(error: BaseException) -> str | None:
    """Return a sentence for a system error (or its cause) that a user can fix; else None."""
    if (lack := too_many_files(error)) is not None:
        return lack
    for cause in _chain(error):
        if isinstance(cause, OSError):
            for code in (*_NO_ROOM, *_MENDABLE):
                # HDF5 has the number only in its text.
                if cause.errno != code and f"errno = {code}," not in str(cause):
                    continue
                text = os.strerror(code).lower()
                if code in _NO_ROOM:
                    return f"{text} where the outputs are written; {_NO_ROOM[code]}"
                if (where := _named(cause)) is not None:
                    right = code in _FORBIDDEN
                    return f"{where}: {text}; " + (
                        "ask its owner for access, or choose another location"
                        if right
                        else "correct the path"
                    )
    return None


def allow_open_files(number: int, what: str) -> None:
    """Raise this process's limit of open files, if it needs more.

    Raises
    ------
    HklflowError
        If the system does not allow as many; the message begins with ``what``.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = number + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise HklflowError(
            f"{what} has frames in {number} files, but only {hard} may be open here; ask the "
            f"administrator for `ulimit -n {needed}`, or join the files"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
