"""Rows of ``config/planned.tsv``: scans that are still to be measured.

The table has the columns of the table of scans. A row with ``{temperature}`` or ``{scan}`` in
``raw`` is a template. Its placeholder matches a part of a file name, and this part replaces the
placeholder in the other columns.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hklflow.base.errors import HklflowError
from hklflow.cli.folder import Row, Table

_HOLDERS = {
    "temperature": r"\d+(?:\.\d+)?",
    # Names of scans have no underscore.
    "scan": r"[A-Za-z0-9][A-Za-z0-9.+-]*",
}
_HOLDER = re.compile(r"\{(\w*)\}")
_PART = re.compile(r"\s+\+\s+")


@dataclass(frozen=True)
class Planned:
    """Scan whose rows are not yet in the table of scans."""

    sample: str
    scan: str
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """Sample, scan and rotations, for messages."""
        return f"{self.sample} {self.scan} ({', '.join(row['rotation'] for row in self.rows)})"


def parts(raw: str) -> list[str]:
    """Return the raw scans of a row: a single scan, or several scans that are summed."""
    return _PART.split(raw)


def is_template(row: Row) -> bool:
    """Return True if a row is a template with placeholders."""
    return bool(_HOLDER.search(row["raw"]))


def pending(planned: Table, present: Table, base: Path) -> list[Planned]:
    """Return the scans of the planned table that are not in the table of scans.

    All rotations of a scan are in the same `Planned`. A template gives a scan for every set of
    texts that its placeholders match in file names. If the file of any rotation exists, all
    rotations of the scan are planned.

    Raises
    ------
    HklflowError
        If the planned table is not valid.
    """
    _check_columns(planned, present)
    known = {(row["sample"], row["scan"], row["rotation"]) for row in present.rows}
    scans: dict[tuple[str, str], list[Row]] = {}
    for row in _named(planned, base):
        if (row["sample"], row["scan"], row["rotation"]) in known:
            continue
        same = scans.setdefault((row["sample"], row["scan"]), [])
        # A row without placeholders has priority over a template for the same rotation.
        if row["rotation"] not in [other["rotation"] for other in same]:
            same.append(row)
    return [Planned(*key, tuple(rows)) for key, rows in scans.items()]


def templates(planned: Table) -> list[Row]:
    """Return the rows with placeholders; more files may match a template at any time."""
    return [row for row in planned.rows if is_template(row)]


def _check_columns(planned: Table, present: Table) -> None:
    needed = ("sample", "scan", "rotation", "raw")
    for table in (present, planned):
        if missing := [name for name in needed if name not in table.columns]:
            raise HklflowError(
                f"{table.path} has no column {missing[0]!r}; see config/README.md for the columns"
            )
    # The planned table may have the column frames even if the table of scans does not.
    unknown = [n for n in planned.columns if n not in present.columns and n != "frames"]
    if unknown:
        raise HklflowError(
            f"{planned.path} has a column {unknown[0]!r} but {present.path} has not; columns "
            "must be the same"
        )
    for row in planned.rows:
        where = f"{planned.path}, row {row['#']}"
        held = set(_HOLDER.findall(row["raw"]))
        everywhere = {name for value in row.values() for name in _HOLDER.findall(value)}
        if wrong := sorted(everywhere - set(_HOLDERS)):
            raise HklflowError(f"{where}: {{{wrong[0]}}} is not one of {{temperature}}, {{scan}}")
        if missing := sorted(everywhere - held):
            raise HklflowError(f"{where}: {{{missing[0]}}} is not in the raw file's name")
        if held and not _HOLDER.search(row["scan"]):
            raise HklflowError(
                f"{where}: all files that fit {row['raw']} would be scan {row['scan']!r}; put "
                f"{{{min(held)}}} into the column scan"
            )
        if "scan" in held and "{scan}" not in row["scan"] + row["rotation"]:
            raise HklflowError(
                f"{where}: files that differ in {{scan}} only would be the same rotation of "
                f"{row['scan']}; put {{scan}} into the column scan"
            )
        if (frames := row.get("frames")) and (not frames.isdecimal() or int(frames) < 1):
            raise HklflowError(f"{where}: frames {frames!r} is not a number of frames")
        if not row["raw"]:
            raise HklflowError(f"{where}: no raw file")


def _named(planned: Table, base: Path) -> Iterator[Row]:
    """Yield the rows without placeholders, then the rows that the templates give."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in planned.rows:
        if is_template(row):
            groups.setdefault((row["sample"], row["scan"]), []).append(row)
        else:
            yield row
    for rows in groups.values():
        held = [frozenset(_HOLDER.findall(row["raw"])) for row in rows]
        if len(set(held)) > 1:
            raise HklflowError(
                f"{planned.path}, rows {', '.join(row['#'] for row in rows)}: the rotations of "
                f"{rows[0]['scan']} must have the same placeholders in raw"
            )
        captures = {tuple(c.items()): c for row in rows for c in _captures(row["raw"], base)}
        for values in (captures[key] for key in sorted(captures)):
            for row in rows:
                yield {name: _filled(value, values) for name, value in row.items()}


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _HOLDER.sub(lambda match: values[match[1]], text)


def _captures(raw: str, base: Path) -> Iterator[dict[str, str]]:
    """Yield the text of each placeholder for every matching file.

    If several raw scans are summed, only the first of them is searched, because all must have the
    same placeholders.
    """
    first = parts(raw)[0]
    held = sorted(set(_HOLDER.findall(raw)))
    if set(_HOLDER.findall(first)) != set(held):
        raise HklflowError(f"raw {raw}: every part of a sum needs the same placeholders")
    path = Path(first)
    top = Path(path.anchor) if path.is_absolute() else base
    names = path.parts[1:] if path.is_absolute() else path.parts
    yield from _below(top, names, {})


def _below(folder: Path, names: Sequence[str], values: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield the texts of the placeholders in ``names``, the path below a folder."""
    if not names:
        yield dict(sorted(values.items()))
        return
    name, *rest = names
    if not _HOLDER.search(name) and rest:
        yield from _below(folder / name, rest, values)
        return
    pattern = name_pattern(name, values)
    try:
        entries = sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if match := pattern.fullmatch(entry):
            yield from _below(folder / entry, rest, values | match.groupdict())


def name_pattern(name: str, values: Mapping[str, str]) -> re.Pattern[str]:
    """Return the regular expression for the name of a folder or file with placeholders."""
    defined = dict(values)
    text = ""
    for token in re.split(r"(\{\w*\}|#+|%0?\d*d|\*|\?|\[[^\]]*\])", name):
        if match := _HOLDER.fullmatch(token):
            holder = match[1]
            if holder in values:
                text += re.escape(values[holder])
            elif holder in defined:
                text += f"(?P={holder})"
            else:
                text += f"(?P<{holder}>{_HOLDERS[holder]})"
                defined[holder] = ""
        elif token.startswith("#"):
            text += rf"\d{{{len(token)},}}"
        elif token.startswith("%"):
            text += rf"\d{{{int(token.strip('%d') or 1)},}}"
        elif token in ("*", "?"):
            text += f".{token}" if token == "*" else "."
        elif token.startswith("["):
            text += "[^" + token[2:] if token.startswith("[!") else token
        else:
            text += re.escape(token)
    return re.compile(text)
