"""Checks of the names that `hklflow import` gives to samples, scans and rotations."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hklflow.base.errors import HklflowError
from hklflow.cli.folder import Folder

if TYPE_CHECKING:
    from hklflow.beamlines import Found, FoundScan

_LONGEST = 40  # letters of a name in a message

Originals = dict[str, list[str]]
"""Files with each original name, by the name in the files."""


def require_names(found: "Found") -> None:
    """Raise an error if a name cannot be part of a path.

    Raises
    ------
    HklflowError
        If a name from a file name or a header is too long, or a plugin gives a name with letters
        that are not allowed.
    """
    from hklflow.experiment.tables import check_name, length_problem

    problems: list[str] = []
    for scan in found.scans:
        where = scan.where or scan.raw
        for what in ("sample", "scan", "rotation"):
            value = getattr(scan, what)
            if (problem := length_problem(value, what)) is not None:
                cure = "give --sample a short one" if what == "sample" else "rename the files"
                raise HklflowError(f"{where}: {problem}; {cure}")
            check_name(value, what, where, problems)
    if problems:
        raise HklflowError(
            "; ".join(dict.fromkeys(problems)) + ": the beamline's plugin gives names of its own"
        )


def require_distinct(
    folder: Folder,
    fresh: "Sequence[FoundScan]",
    rows: Sequence[Mapping[str, str]],
    sample: str | None,
) -> None:
    """Raise an error if different names in the files become equal, such as α-Al2O3 and β-Al2O3.

    Parameters
    ----------
    fresh : sequence of FoundScan
        Scans whose frames are not in the table.
    rows : sequence of mapping
        Rows of the table of scans.
    sample : str or None
        Name of the sample that the user gives; rows with this name are the same sample.

    Raises
    ------
    HklflowError
        If two names collide; the message has the files, their names, and names to use instead.
    """
    from hklflow.beamlines import name

    groups: dict[tuple[str, ...], Originals] = {}
    for scan in fresh:
        parts = (scan.sample, scan.scan, scan.rotation)
        for i, original in enumerate(scan.original):
            if original:
                group = groups.setdefault((*parts[:i], name(original)), {})
                group.setdefault(original, []).append(scan.where or scan.raw)
    for key, originals in groups.items():
        if len(key) == 1 and key != (sample,):
            for original, where in _samples_of_rows(folder, rows, key[0]):
                originals.setdefault(original, []).append(where)
        if len(originals) > 1:
            raise HklflowError(_collision(key, originals))


def _samples_of_rows(
    folder: Folder, rows: Sequence[Mapping[str, str]], sample: str
) -> Iterator[tuple[str, str]]:
    """Yield the original name of a sample in the raw file of each row, and the file.

    Rows whose original name does not give the name of the sample are skipped: the user chose this
    name.
    """
    from hklflow.beamlines import name
    from hklflow.cli.planned import parts

    for row in rows:
        if row["sample"] == sample and row["raw"]:
            raw = parts(row["raw"])[0]
            try:
                original = _sample_of(folder.base / raw)
                if name(original) == sample:
                    yield original, f"{raw}, in the table of scans"
            except (HklflowError, OSError):
                continue  # `hklflow check` reports a file that cannot be read


def _sample_of(raw: Path) -> str:
    """Return the name of the sample from the header of a raw file, else from the file name."""
    from hklflow.beamlines.nexus import sample_name, stem
    from hklflow.beamlines.tree import guess
    from hklflow.formats.hdf5_file import open_file
    from hklflow.formats.nxfile import find_entry
    from hklflow.formats.raw import is_hdf5

    if is_hdf5(raw):
        with open_file(raw) as file:
            if header := sample_name(find_entry(file)):
                return header
        words = stem(raw)
    else:
        words = re.split(r"[#*?%\[]", raw.name)[0].rstrip("_-.") or raw.parent.name
    return guess(words).sample or words


def _collision(key: tuple[str, ...], originals: Originals) -> str:
    """Return the message about different original names that become the same name."""
    what = ("sample", "scan", "rotation")[len(key) - 1]
    texts = list(originals)
    places = [
        f"{_short(text)} ({where[0]}{f' and {len(where) - 1} more' if where[1:] else ''})"
        for text, where in originals.items()
    ]
    problem = (
        f"{', '.join(places[:-1])} and {places[-1]} would all be the {what} "
        f"{' '.join(key)}, because names have letters, digits, '.', '+' and '-' only"
    )
    if what != "sample":
        return f"{problem}; link the files under names that differ, and import the links"
    proposed = [f"`--sample {text}`" for text in _proposed(key[0], texts)]
    return (
        f"{problem}; import them one by one: {', '.join(proposed[:-1])} and {proposed[-1]} (each "
        f"with its file, or --scans), or all together with `--sample {key[0]}` if they are "
        "one sample"
    )


def _proposed(name_of_all: str, originals: Sequence[str]) -> list[str]:
    """Return different names: with Greek letters written as words, else with numbers."""
    from hklflow.beamlines import name

    written = [name("".join(map(_written, text))) for text in originals]
    if len(set(written)) == len(written):
        return written
    return [f"{name_of_all}-{number}" for number in range(1, len(originals) + 1)]


def _written(letter: str) -> str:
    words = unicodedata.name(letter, "").split()
    return words[3].lower() if words[:1] == ["GREEK"] and words[2:3] == ["LETTER"] else letter


def _short(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...")
