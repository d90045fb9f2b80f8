"""Series of images: find the files of a pattern, in the order of their numbers.

`x_####.cbf` are all numbers, `x_####[5-30].cbf` those from 5 to 30.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file

Raw = str | Path | Sequence[str | Path]
"""Raw frames: a file, a pattern of names, or a list of files."""


def find_files(raw: Raw, *, gaps: bool = False) -> list[Path]:
    """Return the files of an image series in order of their numbers, checked to be complete.

    A list is used in its order. In a glob, the last group of digits in the name of a file is its
    number. With ``gaps``, numbers may be missing.

    Raises
    ------
    HklflowError
        If no file matches, numbers are missing or occur twice (the message lists them), or a
        file of the list does not exist.
    """
    if not isinstance(raw, (str, Path)):
        files = [Path(name) for name in raw]
        absent = [str(path) for path in files if not path.is_file()]
        if not files or absent:
            what = f"{absent[0]} does not exist" if absent else "the list of images is empty"
            raise HklflowError(f"{what} ({len(absent)} of {len(files)} absent); check the paths")
        return files
    text = str(raw)
    path = Path(text)
    template = number_pattern(path.name)
    if template is None:
        require_file(path, "raw file", "check the path in scans.tsv")
        return [path]
    return [path.parent / name for name in find_names(text, gaps=gaps)]


def find_names(pattern: str, *, gaps: bool = False) -> list[str]:
    """Return the file names of an image series, as `find_files` but without folder.

    It makes no Path objects: an experiment may have thousands of scans of thousands of images.

    Raises
    ------
    HklflowError
        As `find_files`.
    """
    path = Path(pattern)
    folder, template, part = path.parent, number_pattern(path.name), _part(path.name)
    assert template is not None
    if not folder.is_dir():
        raise HklflowError(
            f"folder {folder} of the images {pattern} does not exist; check the path"
        )
    numbered: dict[int, str] = {}
    stems: set[tuple[str, str]] = set()
    with os.scandir(folder) as entries:
        matches = [(entry, match) for entry in entries if (match := template.fullmatch(entry.name))]
    for entry, match in matches:
        name = entry.name
        if not entry.is_file():
            require_file(folder / name, "image", "copy it again")
        start, stop = match.span("number")
        number = int(name[start:stop])
        if part is not None and number not in part:
            continue
        stems.add((name[:start], name[stop:]))
        if number in numbered:
            first, second = sorted((numbered[number], name))
            raise HklflowError(
                f"{pattern} matches number {number} twice: {first} and {second}; make the pattern "
                "narrower"
            )
        numbered[number] = name
    if not numbered:
        raise HklflowError(f"no file matches {pattern}; check the pattern")
    if len(stems) > 1:
        names = ", ".join(f"{first}...{last}" for first, last in sorted(stems))
        raise HklflowError(f"{pattern} matches several series ({names}); make the pattern narrower")
    present = sorted(numbered)
    expected = part or range(present[0], present[-1] + 1)
    if not gaps and len(present) < len(expected):
        missing = sorted(set(expected) - set(present))
        shown = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise HklflowError(
            f"{len(missing)} of the images {pattern} between numbers {expected[0]} and "
            f"{expected[-1]} are missing: {shown}; copy them again, or make a row of the images "
            "before and one of those after, such as `x_####[1-20].cbf` and `x_####[22-90].cbf`"
        )
    return [numbered[number] for number in present]


_HASHES = r"(#+)(?:\[(\d+)-(\d+)\])?"


def _part(name: str) -> range | None:
    """Return the numbers that a pattern asks for; None: all."""
    match = re.search(_HASHES, name)
    return None if match is None or match[2] is None else range(int(match[2]), int(match[3]) + 1)


def number_pattern(name: str) -> re.Pattern[str] | None:
    """Return the pattern of the file names with the group `number`; None for a plain name."""
    if hashes := re.search(_HASHES, name):
        digits = rf"(?P<number>\d{{{len(hashes[1])},}})"
        return re.compile(
            re.escape(name[: hashes.start()]) + digits + re.escape(name[hashes.end() :])
        )
    if printf := re.search(r"%(0?)(\d*)d", name):
        width = int(printf[2] or 1)
        return re.compile(
            re.escape(name[: printf.start()])
            + rf"(?P<number>\d{{{width},}})"
            + re.escape(name[printf.end() :])
        )
    if any(mark in name for mark in "*?["):
        import fnmatch

        # The last group of digits in the stem of a name that matches the glob.
        matched = fnmatch.translate(name)
        return re.compile(rf"(?={matched})(?:.*\D)?(?P<number>\d+)[^\d.]*(?:\.[^.]+)+?")
    return None
