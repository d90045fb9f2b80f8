"""Read the tables of samples and scans, and check every value.

Each function adds its problems, with table and row, to a list and continues. `experiment.load`
reports all problems together.
"""

import csv
import math
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path

from hklflow.base.axis import SYMBOLS
from hklflow.base.errors import HklflowError
from hklflow.base.system import no_file
from hklflow.base.values import CELL_NAMES
from hklflow.geometry import plausible

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_LONGEST = 64  # characters in a name; a file name contains several names and is limited to 255
# Smallest value along the axis of a series; its fits square and cube values.
_SMALLEST = 1e-30
_MISFIT = 0.1  # largest strain between a cell and the same cell with its space group's symmetry
_MOST_FRAMES = 10_000_000  # a larger number is a typing error

SAMPLE_COLUMNS = (
    "sample",
    "space_group",
    "a",
    "b",
    "c",
    "alpha",
    "beta",
    "gamma",
    "formula",
    "parents",
    "crystal_of",
)
SCAN_COLUMNS = (
    "sample",
    "scan",
    "temperature",
    "parent",
    "rotation",
    "raw",
    "goniometer",
    "calibration",
    "frames",
    "run",
    "date",
    "temperature_error",
)

Row = dict[str, str]


@dataclass(frozen=True)
class Sample:
    """Row of the table of samples."""

    name: str
    space_group: str
    cell: tuple[float, ...] | None
    formula: str
    parents: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Range [low, high) of the children of each parent scan: temperatures in K, or values along the
    axis of the series.
    """
    crystal_of: str = ""
    """Sample of which this is another crystal; its settings apply, too. Empty: none."""


@dataclass(frozen=True)
class Rotation:
    """Row of the table of scans."""

    name: str
    raw: str
    goniometer: dict[str, tuple[float, float | None]]
    calibration: str | None
    frames: int | None = None
    """Expected number of frames in each raw scan; None if it is not given."""
    run: int | None = None
    """Run number, which selects the version of a calibration; None if it is not given."""
    day: date | None = None
    """Date of the measurement, which also selects it; None if it is not given."""
    where: str = ""
    """Table and row of this rotation, for messages."""

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Raw scans, each a file or a pattern.

        The frames of several scans are summed one by one.
        """
        return tuple(re.split(r"\s+\+\s+", self.raw))

    @property
    def is_sum(self) -> bool:
        """True if the raw data are several scans whose frames are summed."""
        return len(self.parts) > 1

    @property
    def is_series(self) -> bool:
        """True if the raw data are a pattern of single images."""
        return is_series(self.parts[0])


def is_series(raw: str) -> bool:
    """Return True if raw data are a pattern of single images."""
    return bool(re.search(r"[#*?\[]|%0?\d*d", raw))


@dataclass(frozen=True)
class Scan:
    """All rotations of one sample at one temperature, or at one value along another axis."""

    sample: str
    name: str
    temperature: float | None
    parent: str
    rotations: dict[str, Rotation] = field(default_factory=dict)
    value: float | None = None
    """Value along the axis of the sample's series, which is the temperature if no other is set."""
    error: float = 0.0
    """Standard deviation of the value; 0 if it is not given."""
    others: dict[str, float] = field(default_factory=dict)
    """Values along the axes of other samples' series."""


def read_samples(path: Path, problems: list[str]) -> dict[str, Sample]:
    """Return the samples by name; add the problems of the sample table to ``problems``."""
    samples: dict[str, Sample] = {}
    rows = _read_table(path, SAMPLE_COLUMNS, 2, problems)
    by_name = {row["sample"]: row for row in reversed(rows)}
    for own in rows:
        where = f"{path}, row {own['#']}"
        check_name(own["sample"], "sample", where, problems)
        if own["sample"] in samples:
            problems.append(f"{where}: sample {own['sample']} occurs twice")
        row = _with_sample(own, by_name, where, problems)
        given = [row[name] for name in CELL_NAMES]
        cell = None
        if any(given):
            if not all(given):
                problems.append(f"{where}: give all six of a, b, c, alpha, beta, gamma or none")
            else:
                numbers = [_number(text, "cell", where, problems) for text in given]
                cell = tuple(n for n in numbers if n is not None)
                if len(cell) == 6:
                    problems += [f"{where}: {p}" for p in cell_problems(cell)]
        if not row["space_group"]:
            problems.append(f"{where}: no space group (P1 if it is not known)")
        else:
            problems += [f"{where}: {p}" for p in space_group_problems(row["space_group"])]
            if cell is not None and len(cell) == 6:
                problems += [f"{where}: {p}" for p in metric_problems(cell, row["space_group"])]
        samples[row["sample"]] = Sample(
            row["sample"],
            row["space_group"],
            cell,
            row["formula"],
            _ranges(row["parents"], where, problems),
            row["crystal_of"],
        )
    return samples


def _with_sample(row: Row, by_name: Mapping[str, Row], where: str, problems: list[str]) -> Row:
    """Return the row of a crystal with the empty cells filled from its sample's row."""
    name = row["crystal_of"]
    if not name:
        return row
    sample = by_name.get(name)
    if sample is None or sample["crystal_of"] or name == row["sample"]:
        problems.append(
            f"{where}: {row['sample']} is a crystal of {name!r}, which is not a sample of its own "
            "in this table; name the row with the empty column crystal_of"
        )
        return row
    filled = dict(row)
    # The cell is one value: six numbers of one row.
    for names in (("space_group",), ("formula",), CELL_NAMES):
        if not any(row[key] for key in names):
            filled |= {key: sample[key] for key in names}
    return filled


def error_column(column: str) -> str:
    """Return the name of the column with the standard deviations of another column."""
    return f"{column}_error"


def read_scans(
    path: Path,
    samples: Mapping[str, Sample],
    problems: list[str],
    axes: Mapping[str, str] | None = None,
) -> dict[tuple[str, str], Scan]:
    """Return the scans by (sample, scan); add the problems of the scan table to ``problems``.

    Parameters
    ----------
    axes : mapping, optional
        Column with the values along the axis of the series of each sample; default: temperature.
    """
    scans: dict[tuple[str, str], Scan] = {}
    axes = {} if axes is None else axes
    more = [name for name in dict.fromkeys(axes.values()) if name not in SCAN_COLUMNS]
    columns = (*SCAN_COLUMNS, *(x for name in more for x in (name, error_column(name))))
    for row in _read_table(path, columns, 6, problems):
        where = f"{path}, row {row['#']}"
        for column in ("sample", "scan", "rotation"):
            check_name(row[column], column, where, problems)
        sample = samples.get(row["sample"])
        if sample is None:
            problems.append(f"{where}: sample {row['sample']!r} is not in the table of samples")
        temperature = None
        if row["temperature"]:
            temperature = _number(row["temperature"], "temperature", where, problems)
            if temperature is not None and temperature < 0:
                problems.append(f"{where}: temperature {temperature:g} K is below absolute zero")
            elif temperature is not None and (fault := plausible.temperature_problem(temperature)):
                problems.append(f"{where}: {fault}")
        numbers = {name: _along(row[name], name, where, problems) for name in more if row[name]}
        known = {name: x for name, x in numbers.items() if x is not None}
        axis = axes.get(row["sample"], "temperature")
        value = temperature if axis == "temperature" else known.pop(axis, None)
        error = _error(row[error_column(axis)], error_column(axis), where, problems)
        if error and (fault := _size_problem(error)) is not None:
            problems.append(f"{where}: {error_column(axis)} {fault}")
        rotation = Rotation(
            row["rotation"],
            row["raw"],
            goniometer_settings(row["goniometer"], where, problems),
            row["calibration"] or None,
            _whole(row["frames"], "frames", 1, where, problems),
            _whole(row["run"], "run", 0, where, problems),
            _day(row["date"], where, problems),
            where,
        )
        for raw in rotation.parts if rotation.raw else ():
            if raw.startswith("-"):
                problems.append(f"{where}: raw {raw} begins with '-'; write ./{raw}")
            if (fault := brace_problem(raw)) is not None:
                problems.append(f"{where}: raw {fault}")
        key = (row["sample"], row["scan"])
        parent = row["parent"] or _parent_by_range(
            sample, row["scan"], value, axis, where, problems
        )
        new = Scan(row["sample"], row["scan"], temperature, parent, {}, value, error, known)
        scan = scans.setdefault(key, new)
        if (scan.temperature, scan.parent) != (temperature, parent):
            problems.append(
                f"{where}: the rotations of {row['scan']} differ in temperature or parent"
            )
        elif (scan.value, scan.error, scan.others) != (value, error, known):
            problems.append(
                f"{where}: the rotations of {row['scan']} differ in {axis} or its error"
            )
        if row["rotation"] in scan.rotations:
            problems.append(f"{where}: rotation {row['rotation']} of {row['scan']} occurs twice")
        scan.rotations[row["rotation"]] = rotation
    problems += _parent_problems(scans)
    return scans


def brace_problem(path: str) -> str | None:
    """Return the reason why an input path is not allowed; None if it is allowed."""
    if not re.search("[{}]", path):
        return None
    return f"{path} has braces, which Snakemake takes for wildcards; link it under another name"


def _parent_by_range(
    sample: Sample | None,
    scan: str,
    value: float | None,
    axis: str,
    where: str,
    problems: list[str],
) -> str:
    """Return the parent of a scan from the ranges along the axis; without ranges, the scan."""
    if sample is None or not sample.parents or scan in sample.parents:
        return scan
    if value is None:
        problems.append(
            f"{where}: no parent and no {axis}; the ranges of {sample.name}'s parents need one"
        )
        return scan
    fitting = [name for name, (low, high) in sample.parents.items() if low <= value < high]
    if len(fitting) == 1:
        return fitting[0]
    ranges = ", ".join(f"{name}={low:g}:{high:g}" for name, (low, high) in sample.parents.items())
    shown, symbol = (f"{value:g} K", "T") if axis == "temperature" else (f"{axis} {value:g}", axis)
    problems.append(
        f"{where}: {shown} is in {len(fitting)} of the ranges of {sample.name}'s parents "
        f"({ranges}; low <= {symbol} < high); it must be in one"
    )
    return scan


def _parent_problems(scans: Mapping[tuple[str, str], Scan]) -> Iterable[str]:
    for (sample, name), scan in scans.items():
        parent = scans.get((sample, scan.parent))
        if parent is None:
            elsewhere = [s for s, n in scans if n == scan.parent]
            hint = f" (there is one of sample {elsewhere[0]})" if elsewhere else ""
            yield f"scan {sample} {name}: its parent {scan.parent!r} is not a scan{hint}"
        elif parent.parent != parent.name:
            yield (
                f"scan {sample} {name}: its parent {scan.parent} is itself a child of "
                f"{parent.parent}; name {parent.parent}"
            )


@dataclass(frozen=True)
class FrameFiles:
    """Files that contain the frames of a raw scan, from the name of the scan and its links."""

    files: list[tuple[str, str | None]]
    """Files, each with the path of the dataset in it (None if unknown). For an image series only
    the first and the last image.
    """
    pattern: str | None = None
    """Pattern of the images; None if the raw scan is not an image series."""


def raw_problems(
    rotation: Rotation, base: Path, found: dict[str, FrameFiles] | None = None
) -> Iterable[str]:
    """Yield the reasons why the raw files of a rotation cannot be read.

    Parameters
    ----------
    found : dict, optional
        Output: the files of each raw scan. To list a folder of images takes time; the caller can
        use this list again.
    """
    from hklflow.formats.light import is_light
    from hklflow.formats.raw import is_hdf5

    found = {} if found is None else found

    if not rotation.raw:
        yield "no raw file"
        return
    if len({is_series(raw) for raw in rotation.parts}) > 1:
        yield f"{rotation.raw} sums image series and single files; give one kind"
    for raw in rotation.parts:
        if not is_series(raw):
            try:
                # A folder can be a run of an integrating detector, whose frames are corrected
                # first.
                reason = None if (base / raw).is_dir() else no_file(base / raw)
                if reason is not None:
                    yield f"raw file {raw} {reason}"
                elif is_light(raw):
                    found[raw] = frame_files_of_light(raw, base)
                else:
                    found[raw] = FrameFiles([(raw, None)])
            except OSError as error:  # for example an unreadable folder, or a name that is too long
                yield f"raw file {raw} cannot be reached ({error.strerror})"
            except HklflowError as error:
                yield str(error)
        elif is_hdf5(raw):
            yield f"{raw} is a series of HDF5 files; give the one file that holds all frames"
        else:
            try:
                found[raw] = FrameFiles([(end, "") for end in series_ends(raw, base)], raw)
            except HklflowError as error:
                yield str(error)


def raw_ends(raw: str, base: Path) -> list[str]:
    """Return the raw files that a job depends on: one file, or first and last image of a series."""
    return series_ends(raw, base) if is_series(raw) else [raw]


def linked_files(raw: str, base: Path) -> list[str]:
    """Return the files that a light scan file links; of an image series only first and last image.

    Return an empty list for other raw files.

    Raises
    ------
    HklflowError
        If the file links nothing or something without frames, or linked files are missing.
    """
    from hklflow.formats.light import is_light

    files = frame_files_of_light(raw, base).files if is_light(raw) else []
    return list(dict.fromkeys(file for file, _ in files))


def frame_files_of_light(raw: str, base: Path) -> FrameFiles:
    """Return the files that contain the frames of a light scan file.

    Raises
    ------
    HklflowError
        If the file links nothing or something without frames, or linked files are missing.
    """
    from hklflow.formats.light import sources_of
    from hklflow.formats.raw import HDF5_SUFFIXES, IMAGE_SUFFIXES

    files: list[tuple[str, str | None]] = []
    for linked, inside in sources_of(base / raw):
        suffix = Path(linked.removesuffix(".gz").removesuffix(".bz2")).suffix.lower()
        numbered = suffix.startswith(".#")  # `x.####`: the number is the suffix
        if not numbered and suffix not in HDF5_SUFFIXES | IMAGE_SUFFIXES:
            raise HklflowError(
                f"{linked}, from which {raw} takes its frames, is neither HDF5 nor a series of "
                f"images ({', '.join(sorted(IMAGE_SUFFIXES))}); import the scan again"
            )
        if is_series(Path(linked).name):
            # A light scan file with a link to an image series has no other link.
            return FrameFiles([(end, "") for end in series_ends(linked, base)], linked)
        if not Path(linked).is_file():
            raise HklflowError(
                f"{linked}, from which {raw} takes its frames, does not exist; put it there, or "
                "import the scan again"
            )
        files.append((linked, inside))
    return FrameFiles(files)


def series_ends(pattern: str, base: Path) -> list[str]:
    """Return first and last image of a series, relative to the folder of the experiment.

    The import reports missing images in between, because they concern one scan only.

    Raises
    ------
    HklflowError
        If there are no images, or the pattern is ambiguous.
    """
    path = base / pattern
    with suppress(OSError):  # the listing below reports the error
        folder = path.parent.stat()
        # A folder that has just changed may change again without a new time stamp.
        if time.time() - folder.st_ctime > 2:
            return list(_ends(path, base, (folder.st_ino, folder.st_mtime_ns, folder.st_ctime_ns)))
    return list(_ends.__wrapped__(path, base, ()))


@lru_cache(maxsize=10_000)
def _ends(path: Path, base: Path, state: tuple[int, ...]) -> tuple[str, str]:
    """Return first and last image of a series from a cache.

    The cache is valid while the folder is unchanged.
    """
    from hklflow.formats.series import find_names

    names = find_names(str(path), gaps=True)
    ends = (path.with_name(names[0]), path.with_name(names[-1]))
    first, last = (str(p.relative_to(base) if p.is_relative_to(base) else p) for p in ends)
    return first, last


def _read_table(
    path: Path, columns: tuple[str, ...], required: int, problems: list[str]
) -> list[Row]:
    """Return the rows of a tab-separated table; the first ``required`` columns must exist."""
    if (reason := no_file(path)) is not None:
        problems.append(f"{path} {reason}; `hklflow init` makes the tables")
        return []
    # Spreadsheet programs write a byte-order mark at the start of a table.
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in file if line.strip() and not line.startswith("#")]
    except OSError as error:
        problems.append(f"{path} cannot be read ({error.strerror})")
        return []
    except UnicodeDecodeError as error:
        problems.append(f"{path} is not UTF-8 text ({error}); save it as UTF-8")
        return []
    if any("\0" in line for line in lines):
        problems.append(f"{path} has null bytes: it is damaged or not text; save it again as UTF-8")
        return []
    reader = csv.DictReader(lines, delimiter="\t")
    try:
        found, given = tuple(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        problems.append(unreadable(path, reader.line_num, error))
        return []
    unknown = [name for name in found if name not in columns]
    missing = [name for name in columns[:required] if name not in found]
    twice = sorted({name for name in found if found.count(name) > 1} - {*unknown})
    if unknown or missing or twice:
        what = [f"unknown column {name!r}" for name in unknown]
        what += [f"no column {name!r}" for name in missing]
        what += [f"column {name!r} occurs twice" for name in twice]
        axis = [name for name in unknown if name in SYMBOLS] if "scan" in columns else []
        hint = f"; to compare scans along {axis[0]}, set `series: axis`" if axis else ""
        problems.append(
            f"{path}: {', '.join(what)}; columns are {', '.join(columns)} (by tabs){hint}"
        )
        return []
    rows = []
    for number, row in enumerate(given, start=1):
        if None in row or any(value is None for value in row.values()):
            problems.append(f"{path}, row {number}: {len(found)} tab-separated values are needed")
            continue
        rows.append({name: (row.get(name) or "").strip() for name in columns} | {"#": str(number)})
    return rows


def unreadable(path: Path, line: int, error: csv.Error) -> str:
    """Return the message for an unreadable row of a table, the row after ``line``."""
    return (
        f"{path}, row {line}: it cannot be read ({error}); the table is damaged, or a "
        "quotation mark is not closed: correct the row"
    )


def check_name(value: str, what: str, where: str, problems: list[str]) -> None:
    """Add a problem if a name is not allowed in file names."""
    if not _NAME.fullmatch(value):
        problems.append(
            f"{where}: {what} {value!r} may only have letters, digits, '.', '+' and '-' "
            "(it names files)"
        )
    elif (problem := length_problem(value, what)) is not None:
        problems.append(f"{where}: {problem}")


def length_problem(value: str, what: str) -> str | None:
    """Return the message for a name that is too long; None if the name is short enough."""
    if len(value) <= _LONGEST:
        return None
    return (
        f"{what} {value[:20]}... has {len(value)} letters; names have {_LONGEST} at most, because "
        "several of them make the name of a file, which has 255 bytes at most with all that "
        "products, logs and Snakemake add"
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


def _along(text: str, what: str, where: str, problems: list[str]) -> float | None:
    """Return a value along the axis of a series; None if the text is wrong."""
    value = _number(text, what, where, problems)
    if value is not None and (fault := _size_problem(value)) is not None:
        problems.append(f"{where}: {what} {fault}")
    return value


def _size_problem(value: float) -> str | None:
    """Return the message for a number with which no fit can compute; None if the size is usual."""
    if value == 0 or _SMALLEST <= abs(value) <= 1 / _SMALLEST:
        return None
    return (
        f"{value:g} is not between {_SMALLEST:g} and {1 / _SMALLEST:g} (or 0); correct it, or "
        "choose another unit"
    )


def _error(text: str, what: str, where: str, problems: list[str]) -> float:
    """Return a standard deviation; 0 if the text is empty or wrong."""
    value = _number(text, what, where, problems) if text else None
    if value is not None and value < 0:
        problems.append(f"{where}: {what} {value:g} is negative; it is a standard deviation")
    return max(value or 0.0, 0.0)


def _whole(text: str, what: str, least: int, where: str, problems: list[str]) -> int | None:
    """Return a whole number; None if the text is empty or wrong."""
    number = _number(text, what, where, problems) if text else None
    if number is None:
        return None
    if number < least or number != int(number):
        problems.append(f"{where}: {what} {text!r} is not a whole number from {least} up")
        return None
    if number > _MOST_FRAMES and what == "frames":
        problems.append(f"{where}: {what} {text!r} is more than {_MOST_FRAMES}; correct it")
        return None
    return int(number)


def _day(text: str, where: str, problems: list[str]) -> date | None:
    """Return a date; None if the text is empty or wrong."""
    if not text:
        return None
    with suppress(ValueError):
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return date.fromisoformat(text)
    problems.append(f"{where}: date {text!r} is not a date; write it as 2026-11-02")
    return None


def _ranges(text: str, where: str, problems: list[str]) -> dict[str, tuple[float, float]]:
    """Return the temperature range in K of each parent, from ``300K=160:400 100K=0:160``."""
    ranges: dict[str, tuple[float, float]] = {}
    for item in text.split():
        match = re.fullmatch(r"(\S+)=([-+.\deE]+):([-+.\deE]+)", item)
        low = _number(match[2], "temperature", where, problems) if match else None
        high = _number(match[3], "temperature", where, problems) if match else None
        if match is None or (low is not None and high is not None and low >= high):
            problems.append(f"{where}: parents {item!r} is not `scan=low:high` in K, low < high")
        elif low is not None and high is not None:
            if match[1] in ranges:
                problems.append(f"{where}: parents names {match[1]} twice")
            ranges[match[1]] = (low, high)
    return ranges


def goniometer_settings(
    text: str, where: str, problems: list[str]
) -> dict[str, tuple[float, float | None]]:
    """Return (start, step) in degrees of each axis, from ``chi=54.7 phi=0:0.5``; phi is scanned.

    Problems are added to ``problems``.
    """
    settings: dict[str, tuple[float, float | None]] = {}
    for item in text.split():
        match = re.fullmatch(r"(\w+)=([-+.\deE]+)(?::([-+.\deE]+))?", item)
        try:
            if match is None:
                raise ValueError(item)
            step = float(match[3]) if match[3] is not None else None
            if not math.isfinite(float(match[2])) or not math.isfinite(step or 0):
                raise ValueError(item)
            if step == 0:
                problems.append(f"{where}: goniometer {item!r} has a step of 0; the scan must move")
            if match[1] in settings:
                problems.append(f"{where}: goniometer sets {match[1]} twice")
            fault = (
                plausible.step_problem(float(match[2]), step)
                if step
                else plausible.setting_problem(match[1], float(match[2]))
            )
            if fault is not None:
                problems.append(f"{where}: {fault}")
            settings[match[1]] = (float(match[2]), step)
        except ValueError:
            problems.append(
                f"{where}: goniometer {item!r} is not `axis=degrees` or `axis=start:step`"
            )
    scanned = [name for name, (_, step) in settings.items() if step is not None]
    if len(scanned) > 1:
        problems.append(f"{where}: goniometer scans {' and '.join(scanned)}; scan one axis")
    return settings


def space_group_problems(symbol: str) -> Iterable[str]:
    """Yield a message if a symbol is not a space group."""
    from hklflow.geometry.symmetry import space_group

    try:
        space_group(symbol)
    except HklflowError as error:
        yield str(error)


def cell_problems(cell: tuple[float, ...]) -> Iterable[str]:
    """Yield a message if values (Å, degrees) are not a unit cell."""
    from hklflow.geometry.lattice import metric

    try:
        metric(cell)
    except HklflowError as error:
        yield str(error)
    else:
        if (fault := plausible.cell_problem(cell)) is not None:
            yield fault


def metric_problems(cell: tuple[float, ...], symbol: str) -> Iterable[str]:
    """Yield a message if a cell (Å, degrees) does not roughly fit its space group."""
    from hklflow.geometry.lattice import metric
    from hklflow.geometry.reduction import strain
    from hklflow.geometry.symmetry import constrain_cell, space_group

    if any(cell_problems(cell)) or any(space_group_problems(symbol)):
        return
    group = space_group(symbol)
    fitting = constrain_cell(cell, group)
    if strain(metric(cell), fitting) > _MISFIT:
        texts = [" ".join(f"{x:.5g}" for x in numbers) for numbers in (cell, fitting)]
        yield (
            f"the cell {texts[0]} does not fit {group.symbol} ({group.crystal_system}), for which "
            f"it would be {texts[1]}; correct one of them (P 1 if the space group is not known)"
        )
