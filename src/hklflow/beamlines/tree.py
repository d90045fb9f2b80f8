"""Folders of a source: their contents, each folder once, and guesses from file names."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hklflow.base.errors import HklflowError

Skip = Callable[[Path, Sequence[Path]], bool]

_TEMPERATURE = re.compile(r"(?P<minus>m|-)?(?P<whole>\d+)(?:[p.](?P<part>\d+))?K", re.ASCII)
_ROTATION = re.compile(r"(?:r|f|rot|rotation|run|scan|s)?\d+[a-z]?", re.IGNORECASE | re.ASCII)
_NO_SCAN = re.compile(
    r"(?<![a-z])(?:dark|flat|flood|background|bkg|empty|air|thumb|thumbnail|preview|snapshot|snap|"
    r"powder|calib|calibration|ceo2|lab6|si640|mask|beamstop|test|center|centre|align)"
    r"(?![a-z])",
    re.IGNORECASE,
)


_WITHOUT_CRYSTAL = re.compile(r"(?<![a-z])(?:background|bkg|empty|air)(?![a-z])", re.IGNORECASE)


def folders(
    top: Path, *, skip: Skip = lambda folder, beside: False, depth: int = 6
) -> Iterator[tuple[Path, list[Path]]]:
    """Yield folders from `top` down with their contents, sorted; each once, despite circular links.

    Hidden files and folders are left out.

    Parameters
    ----------
    skip : function of a folder and all that is beside it
        Function that returns True for a folder to be left out.
    depth : int
        Largest depth of folders.

    Raises
    ------
    HklflowError
        If a folder cannot be read.
    """
    visited: set[str] = set()
    stack = [(top, 0)]
    while stack:
        current, level = stack.pop()
        real = os.path.realpath(current)
        if real in visited:
            continue
        visited.add(real)
        try:
            inside = sorted(p for p in current.iterdir() if not p.name.startswith("."))
        except OSError as error:
            raise HklflowError(
                f"{current} cannot be read ({error.strerror}); ask for access"
            ) from error
        yield current, inside
        if level < depth:
            below = [p for p in inside if p.is_dir() and not skip(p, inside)]
            stack += [(p, level + 1) for p in reversed(below)]


def is_experiment(folder: Path, beside: Sequence[Path] = ()) -> bool:
    """Return True if a folder is an experiment of hklflow, whose files hklflow created."""
    return (folder / "config/config.yaml").is_file() and (folder / "config/scans.tsv").is_file()


def looks_like_no_scan(stem: str) -> bool:
    """Return True if a name looks like dark images, a calibrant, a snapshot or similar."""
    return _NO_SCAN.search(stem) is not None


def background_note(stems_raws: Sequence[tuple[str, str]]) -> list[str]:
    """Return a note with the text to paste for runs that look like runs without the crystal.

    Parameters
    ----------
    stems_raws : sequence of (str, str)
        Name without suffix, and file or pattern, of what looks like no scan.
    """
    runs = [(stem, raw) for stem, raw in stems_raws if _WITHOUT_CRYSTAL.search(stem)]
    if not runs:
        return []
    named = ", ".join(
        f"{re.sub('[^A-Za-z0-9]+', '_', stem)}: {{raw: {raw}, seen_through: not}}"
        for stem, raw in runs
    )
    return [
        f"to subtract {'it' if len(runs) == 1 else 'them'} as background, paste into the "
        f"configuration `background: {{runs: {{{named}}}}}`; `seen_through` is `not`, `crystal` or "
        "`part` (docs/background.md)"
    ]


@dataclass(frozen=True)
class Guess:
    """Facts guessed from a file name such as ``quartz_12p5K_r1``.

    Attributes
    ----------
    sample, scan, rotation : str
        Names; empty: unknown.
    temperature : float or None
        Temperature in K; None also for a value below zero, which cannot be in K.
    """

    sample: str
    scan: str = ""
    rotation: str = ""
    temperature: float | None = None


def guess(stem: str) -> Guess:
    """Guess sample, scan, rotation and temperature from a name without the frame number."""
    words = list(re.finditer(r"[^_\s]+", stem))
    index = next((i for i, word in enumerate(words) if _TEMPERATURE.fullmatch(word[0])), None)
    if index is None:
        numbered = len(words) > 1 and _ROTATION.fullmatch(words[-1][0])
        rotation = words.pop()[0] if numbered else ""
        return Guess(_between(words), "", _rotation(rotation))
    match = _TEMPERATURE.fullmatch(words[index][0])
    assert match is not None
    value = float(f"{match['whole']}.{match['part'] or 0}")
    return Guess(
        _between(words[:index]),
        words[index][0].replace("-", "m"),
        _rotation(_between(words[index + 1 :])),
        None if match["minus"] else value,
    )


def _between(words: Sequence[re.Match[str]]) -> str:
    """Return the text from the first to the last of some words."""
    return words[0].string[words[0].start() : words[-1].end()] if words else ""


def _rotation(words: str) -> str:
    """Return the name of a rotation; a bare number becomes r1, r2, ..."""
    return f"r{int(words)}" if words.isdecimal() else words
