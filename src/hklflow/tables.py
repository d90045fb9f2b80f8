"""Tables of samples and scans: read, and every value checked.

Each function adds the problems that it finds to a list, with table and row, and goes on:
`hklflow.config` tells all of them together.
"""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hklflow.errors import HklflowError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")

SAMPLE_COLUMNS = ("sample", "space_group", "a", "b", "c", "alpha", "beta", "gamma", "formula")
SCAN_COLUMNS = (
    "sample",
    "scan",
    "temperature",
    "parent",
    "rotation",
    "raw",
    "goniometer",
    "calibration",
)

Row = dict[str, str]


@dataclass(frozen=True)
class Sample:
    """One row of the table of samples."""

    name: str
    space_group: str
    cell: tuple[float, ...] | None
    formula: str


@dataclass(frozen=True)
class Rotation:
    """One row of the table of scans."""

    name: str
    raw: str
    goniometer: dict[str, tuple[float, float | None]]
    calibration: str | None
    where: str = ""
    """Table and row, for messages."""

    @property
    def is_series(self) -> bool:
        """Whether the raw data are a pattern of single images."""
        return bool(re.search(r"[#*?\[]|%0?\d*d", self.raw))


@dataclass(frozen=True)
class Scan:
    """All rotations of one sample at one temperature."""

    sample: str
    name: str
    temperature: float | None
    parent: str
    rotations: dict[str, Rotation] = field(default_factory=dict)


def read_samples(path: Path, problems: list[str]) -> dict[str, Sample]:
    """Samples by name; what is wrong with the table is added to ``problems``."""
    samples: dict[str, Sample] = {}
    for row in _read_table(path, SAMPLE_COLUMNS, 2, problems):
        where = f"{path}, row {row['#']}"
        check_name(row["sample"], "sample", where, problems)
        if row["sample"] in samples:
            problems.append(f"{where}: sample {row['sample']} stands twice")
        given = [row[name] for name in ("a", "b", "c", "alpha", "beta", "gamma")]
        cell = None
        if any(given):
            if not all(given):
                problems.append(f"{where}: give all six of a, b, c, alpha, beta, gamma or none")
            else:
                numbers = [_number(text, "cell", where, problems) for text in given]
                cell = tuple(n for n in numbers if n is not None)
                if len(cell) == 6:
                    problems += [f"{where}: {p}" for p in _cell_problems(cell)]
        if not row["space_group"]:
            problems.append(f"{where}: no space group (P1 if it is not known)")
        samples[row["sample"]] = Sample(row["sample"], row["space_group"], cell, row["formula"])
    return samples


def read_scans(
    path: Path, samples: Mapping[str, Sample], problems: list[str]
) -> dict[tuple[str, str], Scan]:
    """Scans by (sample, scan); what is wrong with the table is added to ``problems``."""
    scans: dict[tuple[str, str], Scan] = {}
    raws: dict[str, str] = {}
    for row in _read_table(path, SCAN_COLUMNS, 6, problems):
        where = f"{path}, row {row['#']}"
        for column in ("sample", "scan", "rotation"):
            check_name(row[column], column, where, problems)
        if row["sample"] not in samples:
            problems.append(f"{where}: sample {row['sample']!r} is not in the table of samples")
        temperature = None
        if row["temperature"]:
            temperature = _number(row["temperature"], "temperature", where, problems)
            if temperature is not None and temperature < 0:
                problems.append(f"{where}: temperature {temperature:g} K is below absolute zero")
        rotation = Rotation(
            row["rotation"],
            row["raw"],
            _goniometer(row["goniometer"], where, problems),
            row["calibration"] or None,
            where,
        )
        if rotation.raw and rotation.raw in raws:
            problems.append(f"{where}: raw {rotation.raw} is also that of {raws[rotation.raw]}")
        raws[rotation.raw] = where
        key = (row["sample"], row["scan"])
        scan = scans.setdefault(
            key, Scan(row["sample"], row["scan"], temperature, row["parent"] or row["scan"])
        )
        if (scan.temperature, scan.parent) != (temperature, row["parent"] or row["scan"]):
            problems.append(
                f"{where}: the rotations of {row['scan']} differ in temperature or parent"
            )
        if row["rotation"] in scan.rotations:
            problems.append(f"{where}: rotation {row['rotation']} of {row['scan']} stands twice")
        scan.rotations[row["rotation"]] = rotation
    for (sample, name), scan in scans.items():
        parent = scans.get((sample, scan.parent))
        if parent is None:
            elsewhere = [s for s, n in scans if n == scan.parent]
            hint = f" (there is one of sample {elsewhere[0]})" if elsewhere else ""
            problems.append(f"scan {sample} {name}: its parent {scan.parent!r} is not a scan{hint}")
        elif parent.parent != parent.name:
            problems.append(
                f"scan {sample} {name}: its parent {scan.parent} is itself a child of "
                f"{parent.parent}; name {parent.parent}"
            )
    return scans


def raw_problems(rotation: Rotation, base: Path) -> Iterable[str]:
    """Say why the raw files of a rotation cannot be read, if so."""
    from hklflow.formats.raw import is_hdf5

    if not rotation.raw:
        yield "no raw file"
    elif rotation.is_series and is_hdf5(rotation.raw):
        yield f"{rotation.raw} is a series of HDF5 files; give the one file that holds all frames"
    elif not rotation.is_series and not (base / rotation.raw).is_file():
        yield f"raw file {rotation.raw} does not exist"
    elif rotation.is_series:
        try:
            series_ends(rotation.raw, base)
        except HklflowError as error:
            yield str(error)


def series_ends(pattern: str, base: Path) -> list[str]:
    """First and last image of a series, relative to the experiment's folder.

    Raises
    ------
    HklflowError
        If images are missing.
    """
    from hklflow.formats.raw import find_files

    files = find_files(base / pattern)
    ends = (files[0], files[-1])
    return [str(p.relative_to(base) if p.is_relative_to(base) else p) for p in ends]


def _read_table(
    path: Path, columns: tuple[str, ...], required: int, problems: list[str]
) -> list[Row]:
    """Rows of a tab-separated table; the first ``required`` columns must be there."""
    if not path.is_file():
        problems.append(f"{path} does not exist")
        return []
    # Spreadsheets put a byte-order mark in front of their tables.
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in file if line.strip() and not line.startswith("#")]
    reader = csv.DictReader(lines, delimiter="\t")
    found = tuple(reader.fieldnames or ())
    unknown = [name for name in found if name not in columns]
    missing = [name for name in columns[:required] if name not in found]
    if unknown or missing:
        what = [f"unknown column {name!r}" for name in unknown]
        what += [f"no column {name!r}" for name in missing]
        problems.append(f"{path}: {', '.join(what)}; columns are {', '.join(columns)} (by tabs)")
        return []
    rows = []
    for number, row in enumerate(reader, start=1):
        if None in row or any(value is None for value in row.values()):
            problems.append(f"{path}, row {number}: {len(found)} tab-separated values are needed")
            continue
        rows.append({name: (row.get(name) or "").strip() for name in columns} | {"#": str(number)})
    return rows


def check_name(value: str, what: str, where: str, problems: list[str]) -> None:
    """Add a problem if a name cannot be part of file names."""
    if not _NAME.fullmatch(value):
        problems.append(
            f"{where}: {what} {value!r} may only have letters, digits, '.', '+' and '-' "
            "(it names files)"
        )


def _number(text: str, what: str, where: str, problems: list[str]) -> float | None:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    problems.append(f"{where}: {what} {text!r} is not a number")
    return None


def _goniometer(
    text: str, where: str, problems: list[str]
) -> dict[str, tuple[float, float | None]]:
    """Read ``chi=54.7 phi=0:0.5``: settings in degrees, ``start:step`` for the scanned axis."""
    settings: dict[str, tuple[float, float | None]] = {}
    for item in text.split():
        match = re.fullmatch(r"(\w+)=([-+.\deE]+)(?::([-+.\deE]+))?", item)
        try:
            if match is None:
                raise ValueError(item)
            step = float(match[3]) if match[3] is not None else None
            if step == 0:
                problems.append(f"{where}: goniometer {item!r} has a step of 0; the scan must move")
            if match[1] in settings:
                problems.append(f"{where}: goniometer sets {match[1]} twice")
            settings[match[1]] = (float(match[2]), step)
        except ValueError:
            problems.append(
                f"{where}: goniometer {item!r} is not `axis=degrees` or `axis=start:step`"
            )
    scanned = [name for name, (_, step) in settings.items() if step is not None]
    if len(scanned) > 1:
        problems.append(f"{where}: goniometer scans {' and '.join(scanned)}; scan one axis")
    return settings


def _cell_problems(cell: tuple[float, ...]) -> Iterable[str]:
    from hklflow.core.lattice import metric

    try:
        metric(cell)
    except HklflowError as error:
        yield str(error)
