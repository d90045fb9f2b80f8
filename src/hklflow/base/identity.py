"""What identifies files: how they stand on the disk, and their content.

How a file stands on the disk (inode, size, times of change) tells at no cost that it is as it was:
the kernel sets the time of the last change of state (ctime) with every change, and nobody can put
it back. Only where that differs are contents compared: as a whole, unless size and time of writing
are kept at another place, as by a copy of an archive; then samples do. The number of the device is
left out: it changes with every mount, and no other file has the same inode and the same times.

Several files, as the images of a series, have one identity together.
"""

import hashlib
import os
from array import array
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from hklflow.base.errors import HklflowError

# Blocks that are read of a large file, from its start to its end, and how many.
_BLOCK, _BLOCKS = 65536, 16
_WHOLE = _BLOCK * _BLOCKS
#: Products above this are sampled: to read them as a whole costs as much as to use them.
LARGE = 64 * 2**20

Entry = dict[str, Any]
"""Identity as it stands in a record; JSON."""


class Likeness(Enum):
    """How files compare with those of a record."""

    SAME = "same"
    """They are as they were, or have the same content."""
    SAMPLED = "sampled"
    """Samples of their content are the same."""
    CHANGED = "changed"
    GONE = "gone"
    UNKNOWN = "unknown"
    """They cannot be compared."""


class Standing(NamedTuple):
    """How files stand on the disk.

    Attributes
    ----------
    place : str
        Inodes: another file has another one.
    written : str
        Sizes and times of the last writing, which anybody can set.
    changed : str
        Times of the last change of any kind, which only the kernel sets.
    """

    place: str
    written: str
    changed: str


def standing(files: Sequence[Path | str]) -> Standing | None:
    """How files stand on the disk; None if one of them is not there, or cannot be reached."""
    found = []
    try:
        for path in files:
            found.append(os.stat(path))  # noqa: PTH116  (a million of them in a dry run)
    except OSError:
        return None
    return standing_of(found)


def standing_of(found: Sequence[os.stat_result]) -> Standing:
    """Standing of files together."""
    if len(found) == 1:
        (one,) = found
        written = f"{one.st_size}:{one.st_mtime_ns}"
        return Standing(str(one.st_ino), written, str(one.st_ctime_ns))
    sizes = [one.st_size for one in found]
    return Standing(
        _short([one.st_ino for one in found]),
        _short(sizes, [one.st_mtime_ns for one in found]),
        _short([one.st_ctime_ns for one in found]),
    )


def _short(*numbers: Sequence[int]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for column in numbers:
        digest.update(array("Q", [number & _BITS for number in column]).tobytes())
    return digest.hexdigest()


_BITS = 2**64 - 1  # times before 1970 are negative


def whole(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several files, of the names and the SHA-256 of each."""
    if len(files) == 1:
        with files[0].open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{whole([path])}\n".encode())
    return digest.hexdigest()


def sampled(files: Sequence[Path]) -> str:
    """Digest of the sizes of files, and of blocks of 64 KiB from start to end of up to 16 of them.

    A file of at most 1 MiB is read as a whole.
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
    """Up to 16 files from the first to the last."""
    if len(files) <= _BLOCKS:
        return list(files)
    return [files[i * (len(files) - 1) // (_BLOCKS - 1)] for i in range(_BLOCKS)]


def identify(name: str, files: Sequence[Path], *, product: bool = False) -> Entry:
    """Identity of files for a record.

    Parameters
    ----------
    name : str
        Path or pattern, as it was given.
    files : sequence of Path
        In their order; all of them are read.
    product : bool
        Whether it is a large one of ours, which is written once: samples are enough.

    Raises
    ------
    HklflowError
        If they change while they are read.
    """
    before = standing(files)
    samples = sampled(files)
    content = samples if product else whole(files)
    if before is None or standing(files) != before:
        raise HklflowError(f"{name} changes while it is read; wait until it is complete, run again")
    entry: Entry = {"path": name, "sha256": content, "sampled": samples}
    if len(files) > 1:
        entry["files"] = len(files)
    return entry | {"standing": list(before)}


def compare(
    entry: Mapping[str, Any], files: Sequence[Path], now: Standing | None, *, full: bool = False
) -> Likeness:
    """Compare files with those of a record.

    Parameters
    ----------
    entry : mapping
        As of `identify`.
    files : sequence of Path
    now : Standing or None
        How they stand on the disk.
    full : bool
        Whether to read them as a whole, whatever their standing says.
    """
    if now is None:
        return Likeness.GONE
    before = Standing(*entry["standing"]) if "standing" in entry else None
    if not full and before == now:
        return Likeness.SAME
    if len(files) != entry.get("files", 1):
        return Likeness.CHANGED
    content = str(entry["sha256"])
    if content.startswith("ends:"):  # an early version looked at both ends of it
        return Likeness.CHANGED
    kept = before is not None and before.place != now.place and before.written == now.written
    if content.startswith("sampled:") or (kept and not full):
        return _if_equal(sampled(files) == entry["sampled"], Likeness.SAMPLED, files)
    return _if_equal(whole(files) == content, Likeness.SAME, files)


def _if_equal(equal: bool, likeness: Likeness, files: Sequence[Path]) -> Likeness:
    # What was read as a whole was not sampled.
    small = len(files) <= _BLOCKS and all(path.stat().st_size <= _WHOLE for path in files)
    if not equal:
        return Likeness.CHANGED
    return Likeness.SAME if small else likeness
