"""What the file system says of a path, in the user's words."""

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
_NO_ROOM = {
    errno.ENOSPC: "make room and run again",
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
# What a user can mend; any other error of the system is a defect until proven otherwise.
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_MENDABLE = (
    *_FORBIDDEN,
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
)


def no_file(path: Path, *, read: bool = False) -> str | None:
    """Say why a path is no file to read, as ``is a folder, not a file``; None if it is one.

    What is no regular file is not opened: a pipe would be waited for, a device never ends.

    Parameters
    ----------
    path : Path
    read : bool
        Whether to try if it may be read, too.
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
    """Refuse what is no regular file.

    Parameters
    ----------
    path : Path
    what : str
        What it is to be, for the sentence: ``PONI file``.
    cure : str
        What the user may do.

    Raises
    ------
    HklflowError
        If nothing is there, or no file, or one that may not be read.
    """
    if (reason := no_file(path, read=True)) is not None:
        raise HklflowError(f"{what} {path} {reason}; {cure}")


def require_no_pipe(path: Path) -> None:
    """Refuse what would be waited for, or never ends, in a file's place: pipe, socket, device.

    What is absent or a folder, who opens it tells.
    """
    with suppress(OSError, ValueError):
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            what = _KINDS.get(kind, "something else")
            raise HklflowError(f"{path} is {what}, not a file; put the file there")


def _named(error: OSError) -> str | None:
    """File of an error; of a move its target. HDF5 has it in its text only."""
    for name in (error.filename2, error.filename):
        if name is not None:
            return os.fsdecode(name)
    found = re.search(r"name = '([^']+)'", str(error))
    return found and found[1]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def lack_of_memory(error: BaseException) -> str | None:
    """Return what an error, or the cause of it, says of memory that was not there; else None.

    Libraries have errors of their own for it.
    """
    for seen in _chain(error):
        if isinstance(seen, MemoryError) or any(t in str(seen).lower() for t in _NO_MEMORY):
            return str(seen)
    return None


def memory_limit_mb() -> int | None:
    """Return the limit of a process's address space, in MB; None if there is none."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit // 2**20


def too_many_files(error: BaseException) -> str | None:
    """Say that an error, or the cause of it, is the limit of open files; else None."""
    numbers = (errno.EMFILE, errno.ENFILE)
    for seen in _chain(error):
        in_text = any(f"errno = {number}," in str(seen) for number in numbers)
        if in_text or (isinstance(seen, OSError) and seen.errno in numbers):
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            return (
                f"too many open files: a process may have {limit}; raise the limit "
                "(`ulimit -n 4096`) and run again"
            )
    return None


def sentence(error: BaseException) -> str | None:
    """Tell an error of the system (or the cause of an error) that a user can mend; else None."""
    if (lack := too_many_files(error)) is not None:
        return lack
    for seen in _chain(error):
        if isinstance(seen, OSError):
            for code in (*_NO_ROOM, *_MENDABLE):
                # HDF5 tells the number in its text only.
                if seen.errno != code and f"errno = {code}," not in str(seen):
                    continue
                said = os.strerror(code).lower()
                if code in _NO_ROOM:
                    return f"{said} where the outputs are written; {_NO_ROOM[code]}"
                if (where := _named(seen)) is not None:
                    right = code in _FORBIDDEN
                    return f"{where}: {said}; " + (
                        "ask its owner for the right, or choose another place"
                        if right
                        else "mend the path"
                    )
    return None
