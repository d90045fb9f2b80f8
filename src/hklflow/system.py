"""What the file system says of a path, in the user's words."""

import errno
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from hklflow.errors import HklflowError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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


def sentence(error: BaseException) -> str | None:
    """Tell an error of the system (or the cause of an error) that a user can mend; else None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            for code in (*_NO_ROOM, *_MENDABLE):
                # HDF5 tells the number in its text only.
                if seen.errno != code and f"errno = {code}," not in str(seen):
                    continue
                said = os.strerror(code).lower()
                if code in _NO_ROOM:
                    return f"{said} where the outputs are written; make room and run again"
                if (where := _named(seen)) is not None:
                    right = code in _FORBIDDEN
                    return f"{where}: {said}; " + (
                        "ask its owner for the right, or choose another place"
                        if right
                        else "mend the path"
                    )
        seen = seen.__cause__ or seen.__context__
    return None
