"""Identity of files: their state in the file system, and their content.

The state of a file in the file system (inode, size, times of change) shows quickly if the file is
unchanged: the kernel sets the time of the last change (ctime) at every change, and no program can
set it back. Contents are compared only if the state differs. They are compared as a whole, unless
size and time of writing are equal at another inode, as after a copy from an archive; then samples
are enough. The device number is left out: it changes with every mount, and no other file has the
same inode and times.

Several files, for example the images of a series, have one common identity.
"""

import hashlib
import os
from array import array
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from hklflow.base.errors import HklflowError

# Size of the sampled blocks of a large file, and their number from start to end.
_BLOCK, _BLOCKS = 65536, 16
_WHOLE = _BLOCK * _BLOCKS
#: Products above this size are sampled: reading them completely costs as much as using them.
LARGE = 64 * 2**20

Entry = dict[str, Any]
"""Identity in a record; JSON."""


class Likeness(Enum):
    """Result of comparing files with a record."""

    SAME = "same"
    """The files are unchanged, or have the same content."""
    SAMPLED = "sampled"
    """Samples of the content are the same."""
    CHANGED = "changed"
    GONE = "gone"
    UNKNOWN = "unknown"
    """The files cannot be compared."""


class Standing(NamedTuple):
    """State of files in the file system.

    Attributes
    ----------
    place : str
        Inodes, which are different for other files.
    written : str
        Sizes and times of the last writing; any program can set these times.
    changed : str
        Times of the last change of any kind; only the kernel can set them.
    """

    place: str
    written: str
    changed: str


def standing(files: Sequence[Path | str]) -> Standing | None:
    """Return the state of files in the file system; None if one is missing or cannot be reached."""
    states = []
    try:
        for path in files:
            states.append(os.stat(path))  # noqa: PTH116  (a million of them in a dry run)
    except OSError:
        return None
    return standing_of(states)


def standing_of(states: Sequence[os.stat_result]) -> Standing:
    """Return the common state of files."""
    if len(states) == 1:
        (state,) = states
        written = f"{state.st_size}:{state.st_mtime_ns}"
        return Standing(str(state.st_ino), written, str(state.st_ctime_ns))
    sizes = [state.st_size for state in states]
    return Standing(
        _short([state.st_ino for state in states]),
        _short(sizes, [state.st_mtime_ns for state in states]),
        _short([state.st_ctime_ns for state in states]),
    )


def _short(*numbers: Sequence[int]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for column in numbers:
        digest.update(array("Q", [number & _BITS for number in column]).tobytes())
    return digest.hexdigest()


_BITS = 2**64 - 1  # times before 1970 are negative


def whole(files: Sequence[Path]) -> str:
    """Return the SHA-256 of a file; for several files, of the names and the SHA-256 of each."""
    if len(files) == 1:
        with files[0].open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{whole([path])}\n".encode())
    return digest.hexdigest()


def sampled(files: Sequence[Path]) -> str:
    """Return a digest of the sizes and of 16 blocks of 64 KiB in each of up to 16 files.

    A file of at most 1 MiB is read completely.
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name if len(files) > 1 else ''}\0{path.stat().st_size}\n".encode())
    for path in _spread(files):
        with path.open("rb") as file:
            size = path.stat().st_size
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for block in range(_BLOCKS):
                file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return f"sampled:{digest.hexdigest()}"


def _spread(files: Sequence[Path]) -> list[Path]:
    """Return up to 16 files, evenly spaced from the first to the last."""
    if len(files) <= _BLOCKS:
        return list(files)
    return [files[i * (len(files) - 1) // (_BLOCKS - 1)] for i in range(_BLOCKS)]


def identify(name: str, files: Sequence[Path], *, product: bool = False) -> Entry:
    """Return the identity of files for a record.

    Parameters
    ----------
    name : str
        Path or pattern as the user wrote it.
    files : sequence of Path
        Files in order; all of them are read.
    product : bool
        True for a large product of hklflow, which is written once: samples are enough.

    Raises
    ------
    HklflowError
        If the files change during reading.
    """
    before = standing(files)
    samples = sampled(files)
    content = samples if product else whole(files)
    if before is None or standing(files) != before:
        raise HklflowError(
            f"{name} changed while it was read; wait until it is complete and run again"
        )
    entry: Entry = {"path": name, "sha256": content, "sampled": samples}
    if len(files) > 1:
        entry["files"] = len(files)
    return entry | {"standing": list(before)}


def compare(
    entry: Mapping[str, Any], files: Sequence[Path], now: Standing | None, *, full: bool = False
) -> Likeness:
    """Compare files with a record.

    Parameters
    ----------
    entry : mapping
        Identity from `identify`.
    files : sequence of Path
    now : Standing or None
        Present state of the files in the file system.
    full : bool
        Read the files completely, whatever their state.
    """
    if now is None:
        return Likeness.GONE
    before = Standing(*entry["standing"]) if "standing" in entry else None
    if not full and before == now:
        return Likeness.SAME
    if len(files) != entry.get("files", 1):
        return Likeness.CHANGED
    content = str(entry["sha256"])
    if content.startswith("ends:"):  # an early version hashed both ends of the file
        return Likeness.CHANGED
    kept = before is not None and before.place != now.place and before.written == now.written
    if content.startswith("sampled:") or (kept and not full):
        return _if_equal(sampled(files) == entry["sampled"], Likeness.SAMPLED, files)
    return _if_equal(whole(files) == content, Likeness.SAME, files)


def _if_equal(equal: bool, likeness: Likeness, files: Sequence[Path]) -> Likeness:
    # Files that were read completely were not sampled.
    small = len(files) <= _BLOCKS and all(path.stat().st_size <= _WHOLE for path in files)
    if not equal:
        return Likeness.CHANGED
    return Likeness.SAME if small else likeness
