"""Text logs of a beamline: one line for each frame, columns split at commas, tabs, ; or blanks.

The first line names the columns with their units in brackets, as ``phi (deg)``. Without a unit,
the column of an angle, a temperature or a time is an error, and others are pure numbers.
"""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_no_pipe

Floats = NDArray[np.float64]

_UNITS = {
    "deg": ("angle", 1.0),
    "degree": ("angle", 1.0),
    "degrees": ("angle", 1.0),
    "°": ("angle", 1.0),
    "rad": ("angle", 180 / math.pi),
    "k": ("temperature", 1.0),
    "c": ("temperature", 1.0),
    "°c": ("temperature", 1.0),
    "s": ("time", 1.0),
    "ms": ("time", 1e-3),
    "min": ("time", 60.0),
    "%": ("fraction", 0.01),
}
_NUMBER = ("frame", "number", "image", "index")
_FILE = ("file", "filename", "name", "image_file")
_NEEDS_UNIT = {
    "temperature": ("temperature", "temp"),
    "time": ("exposure", "time", "timestamp"),
    "angle": ("phi", "omega", "chi", "kappa", "theta", "eta", "mu", "nu", "two_theta"),
}


@dataclass(frozen=True)
class FrameLog:
    """Content of a log.

    Attributes
    ----------
    path : Path
    columns : dict of (n,) arrays
        Numbers by the name of the column without its unit, in degrees, K, s and fractions of 1.
    kinds : dict of str
        ``angle``, ``temperature``, ``time``, ``fraction`` or empty, for each column.
    files : list of str
        Names of the images, if the log has a column of names.
    """

    path: Path
    columns: dict[str, Floats]
    kinds: dict[str, str]
    files: list[str]

    def first(self, *names: str) -> str | None:
        """Return the first of these names that is a column; None if no column has such a name."""
        return next((name for name in names if name in self.columns), None)

    @property
    def angles(self) -> list[str]:
        """Return the names of the columns of angles."""
        return [name for name, kind in self.kinds.items() if kind == "angle"]

    def rows_of(self, images: list[Path], numbers: list[int]) -> tuple[list[int], list[str]]:
        """Return the row of each image, and notes on irregularities.

        Rows and images are matched by the column of file names, else by the column of numbers,
        else in their order if there are as many rows as images.

        Raises
        ------
        HklflowError
            If no row matches an image.
        """
        notes: list[str] = []
        column = self.first(*_NUMBER)
        if self.files:
            keys: list[object] = [Path(text).name for text in self.files]
            wanted: list[object] = [path.name for path in images]
        elif column is not None:
            keys = [int(value) for value in self.columns[column]]
            wanted = list(numbers)
            # The log may count frames from 0 and the images from 1, or similar.
            if set(wanted) - set(keys) and len(set(keys)) == len(wanted):
                wanted = sorted(set(keys), key=lambda key: int(str(key)))
                notes.append(
                    f"the log counts from {wanted[0]}, the images from {numbers[0]}: they are "
                    "matched in their order"
                )
        else:
            n = len(next(iter(self.columns.values()), ()))
            if n != len(images):
                raise HklflowError(
                    f"{self.path} has {n} lines for {len(images)} images, and no column that "
                    "assigns the lines to images; add `frame` or `file`"
                )
            return list(range(n)), ["lines of the log and images are matched in their order"]
        rows: dict[object, int] = {}
        twice = []
        for row, key in enumerate(keys):
            if key in rows:
                twice.append(key)
            rows.setdefault(key, row)
        absent = [key for key in wanted if key not in rows]
        if absent:
            shown = ", ".join(map(str, absent[:5])) + (" ..." if len(absent) > 5 else "")
            raise HklflowError(
                f"{self.path} has no line for {len(absent)} of {len(images)} images: {shown}"
            )
        if again := [key for key in dict.fromkeys(twice) if key in set(wanted)]:
            shown = ", ".join(map(str, again[:5]))
            notes.append(
                f"{len(again)} images are twice in the log ({shown}): the first line is used"
            )
        return [rows[key] for key in wanted], notes

    def clock(self, rows: list[int]) -> list[str]:
        """Return notes on the clock: where it stops, goes back, or jumps."""
        name = self.first("time", "timestamp")
        if name is None or len(rows) < 3:
            return []
        steps = np.diff(self.columns[name][rows])
        usual = float(np.median(steps))
        odd = np.flatnonzero((steps <= 0) | (steps > 3 * abs(usual)))
        return [
            f"the clock of the log {'jumps' if steps[i] > 0 else 'goes back or stops'} by "
            f"{steps[i]:.6g} s after frame {i} (usually {usual:.4g} s)"
            for i in odd[:5]
        ]


def read_log(path: Path) -> FrameLog:
    """Read a log.

    Raises
    ------
    HklflowError
        If the file cannot be read, a line has another number of columns, a value is not a number,
        or a unit is missing or unknown.
    """
    require_no_pipe(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HklflowError(f"{path} cannot be read as a text file ({error})") from error
    numbered = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
    if len(numbered) < 2:
        raise HklflowError(f"{path} needs a line of column names and one line for each frame")
    mark = next((m for m in (",", "\t", ";") if m in numbered[0][1]), None)
    heads = [_head(text, path) for text in _split(numbered[0][1].lstrip("# "), mark)]
    rows = [(i, _split(line, mark)) for i, line in numbered[1:] if not line.startswith("#")]
    for number, row in rows:
        if len(row) != len(heads):
            raise HklflowError(
                f"{path}, line {number}: {len(row)} values for {len(heads)} columns; correct the "
                "log"
            )
    columns: dict[str, Floats] = {}
    kinds: dict[str, str] = {}
    files: list[str] = []
    for column, (name, kind, factor, offset) in enumerate(heads):
        texts = [row[column] for _, row in rows]
        if name in _FILE:
            files = texts
            continue
        try:
            values = np.array([_value(text, kind) for text in texts])
        except ValueError:
            continue  # a column of text, such as comments
        if name in columns:
            raise HklflowError(f"{path} has two columns {name}; rename one")
        columns[name] = values * factor + offset
        kinds[name] = kind
    return FrameLog(path, columns, kinds, files)


def _split(line: str, mark: str | None) -> list[str]:
    return line.split() if mark is None else [part.strip().strip('"') for part in line.split(mark)]


def _head(text: str, path: Path) -> tuple[str, str, float, float]:
    """Return the name, kind, factor and offset of a column."""
    match = re.fullmatch(r"(.*?)\s*(?:[\[(]\s*(.*?)\s*[\])])?", text.strip())
    assert match is not None
    name = re.sub(r"\W+", "_", match[1].strip().lower()).strip("_")
    unit = (match[2] or "").lower()
    if unit and unit not in _UNITS:
        return name, "", 1.0, 0.0
    if not unit:
        for kind, names in _NEEDS_UNIT.items():
            if name in names and name != "timestamp":
                known = ", ".join(unit for unit, (of, _) in _UNITS.items() if of == kind)
                raise HklflowError(
                    f"{path}: the column {name} has no unit; write `{name} (...)` with one of the "
                    f"units {known}"
                )
        return name, "", 1.0, 0.0
    kind, factor = _UNITS[unit]
    return name, kind, factor, 273.15 if unit.endswith("c") else 0.0


def _value(text: str, kind: str) -> float:
    try:
        return float(text)
    except ValueError:
        # A time may be written as a date.
        return datetime.fromisoformat(text).timestamp()
