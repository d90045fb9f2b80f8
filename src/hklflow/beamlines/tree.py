"""Folders of a source: what lies in them, once each, and what file names tell."""

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
    r"powder|calib|calibration|ceo2|lab6|si640|mask|beamstop|test|xtal|center|centre|align)"
    r"(?![a-z])",
    re.IGNORECASE,
)


def folders(
    top: Path, *, skip: Skip = lambda folder, beside: False, depth: int = 6
) -> Iterator[tuple[Path, list[Path]]]:
    """Folders from `top` down and what is in them, sorted; each once, though links lead in circles.

    Hidden files and folders are left out.

    Parameters
    ----------
    skip : function of a folder and all that is beside it
        Whether the folder is left out.
    depth : int
        How many folders deep.

    Raises
    ------
    HklflowError
        If a folder cannot be read.
    """
    seen: set[str] = set()
    stack = [(top, 0)]
    while stack:
        here, level = stack.pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            inside = sorted(p for p in here.iterdir() if not p.name.startswith("."))
        except OSError as error:
            raise HklflowError(
                f"{here} cannot be read ({error.strerror}); ask for access"
            ) from error
        yield here, inside
        if level < depth:
            below = [p for p in inside if p.is_dir() and not skip(p, inside)]
            stack += [(p, level + 1) for p in reversed(below)]


def is_experiment(folder: Path, beside: Sequence[Path] = ()) -> bool:
    """Whether a folder is an experiment of hklflow's, whose files it made itself."""
    return (folder / "config/config.yaml").is_file() and (folder / "config/scans.tsv").is_file()


def looks_like_no_scan(stem: str) -> bool:
    """Whether a name is rather that of dark images, a calibrant, a snapshot and the like."""
    return _NO_SCAN.search(stem) is not None


@dataclass(frozen=True)
class Guess:
    """What a file's name tells, such as ``quartz_12p5K_r1``.

    Attributes
    ----------
    sample, scan, rotation : str
        Empty: not told.
    temperature : float or None
        K; None also for one below zero, which cannot be meant in K.
    """

    sample: str
    scan: str = ""
    rotation: str = ""
    temperature: float | None = None


def guess(stem: str) -> Guess:
    """Guess sample, scan, rotation and temperature from a name without the frame's number."""
    words = list(re.finditer(r"[^_\s]+", stem))
    at = next((i for i, word in enumerate(words) if _TEMPERATURE.fullmatch(word[0])), None)
    if at is None:
        numbered = len(words) > 1 and _ROTATION.fullmatch(words[-1][0])
        rotation = words.pop()[0] if numbered else ""
        return Guess(_between(words), "", _rotation(rotation))
    match = _TEMPERATURE.fullmatch(words[at][0])
    assert match is not None
    value = float(f"{match['whole']}.{match['part'] or 0}")
    return Guess(
        _between(words[:at]),
        words[at][0].replace("-", "m"),
        _rotation(_between(words[at + 1 :])),
        None if match["minus"] else value,
    )


def _between(words: Sequence[re.Match[str]]) -> str:
    """Text from the first to the last of some words, with what stands between them."""
    return words[0].string[words[0].start() : words[-1].end()] if words else ""


def _rotation(words: str) -> str:
    """Name of a rotation; a bare number is one of r1, r2, ..."""
    return f"r{int(words)}" if words.isdecimal() else words
