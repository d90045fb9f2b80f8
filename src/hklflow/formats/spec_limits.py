"""Limits of the C library in silx that reads SPEC files.

The library copies lines, names and numbers into arrays of fixed size, and checks few of them: a
file beyond one of these limits crashes the process, or gives wrong numbers. Such a file is refused
before silx opens it.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from hklflow.base.errors import HklflowError

#: Bytes of a line that begins with #.
HEADER_LINE = 4999
#: Bytes of the name of a column or motor.
NAME = 254
#: Columns of a scan; 512 of the library is one too many, and a leading tab counts as one.
COLUMNS = 510
#: Bytes of a number in a row.
NUMBER = 99
#: Motors of a scan: names in its lines #O, or positions in its lines #P.
MOTORS = 300
#: Lines #O, or #P, of a scan: they are numbered by two digits.
MOTOR_LINES = 100
#: Bytes of the position of a motor.
POSITION = 39
#: Bytes from the start of a line #S to the end of the scan number and the blank behind it.
SCAN_NUMBER = 49
#: Scans of a file: the time to open it grows as the square of their number.
SCANS = 20_000
#: Bytes of a row, or of a line of a multichannel analyser.
ROW = 16_000_000


def require_readable(path: Path) -> None:
    """Require that the C library of silx can read a SPEC file safely.

    Raises
    ------
    HklflowError
        If a limit is exceeded; the message names the file, the line and the limit.
    """
    with path.open("rb") as file:
        _Check(path, file.fileno()).lines(iter(lambda: file.readline(ROW + 1), b""))


class _Check:
    """Counters for the check of the lines of a file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        self.number = self.at = self.scans = 0
        self.motor_lines = {b"O": 0, b"P": 0}
        self.motors = {b"O": 0, b"P": 0}
        # Line of the last file header; 0 if a scan follows it.
        self.header = 0

    def lines(self, lines: Iterable[bytes]) -> None:
        """Check all lines."""
        in_scan = continued = False
        for self.number, line in enumerate(lines, 1):
            self._plain(line)
            if line[:2] in (b"#S", b"#F"):
                in_scan = True
                self._block(line)
            if line.startswith(b"#"):
                self._header_line(line)
            elif in_scan and not continued and not line.startswith(b"@"):
                self._row(line)
            # A spectrum continues after a backslash.
            continued = (continued or line.startswith(b"@")) and line.endswith(b"\\\n")
            self.at += len(line)
        if self.header and self.scans:
            self.number = self.header
            self._refuse("is a file header (#F) without a scan; cut the file there")

    def _refuse(self, what: str) -> NoReturn:
        raise HklflowError(f"{self.path}, line {self.number} {what}")

    def _require(self, size: int, limit: int, what: str) -> None:
        """Require a size within a limit of the library."""
        if size > limit:
            self._refuse(
                f"has {size} {what}, but only {limit} can be read; copy the file without "
                "the parts that you do not need"
            )

    def _plain(self, line: bytes) -> None:
        if len(line) > ROW:
            self._refuse(f"is longer than {ROW} bytes; give a SPEC file")
        if b"\0" in line:
            self._refuse("contains zero bytes; the file is damaged: copy it again")

    def _block(self, line: bytes) -> None:
        """Begin a scan or a file header."""
        self.motor_lines = {b"O": 0, b"P": 0}
        self.motors = {b"O": 0, b"P": 0}
        if line.startswith(b"#F"):
            self.header = self.number
            return
        self.header = 0
        self.scans += 1
        self._require(self.scans, SCANS, "scans so far")
        # The number ends at a blank, possibly of the next line.
        start = os.pread(self._descriptor, SCAN_NUMBER, self.at)
        if b" " not in start[3:]:
            self._refuse("begins a scan without number and command; correct the line #S")

    def _header_line(self, line: bytes) -> None:
        text = line.rstrip(b"\n")
        self._require(len(text), HEADER_LINE, "bytes")
        kind = text[1:2]
        # The library starts behind "#L ", "#O0 " and "#P0 ", even if the line is shorter.
        if len(text) < {b"L": 3, b"O": 4, b"P": 4}.get(kind, 0):
            self._refuse(f"({text.decode('ascii', 'replace')}) is empty; correct the line")
        if kind == b"L":
            self._names(text[3:])
        elif kind in self.motors:
            self.motor_lines[kind] += 1
            self._require(self.motor_lines[kind], MOTOR_LINES, f"lines #{kind.decode()} so far")
            if kind == b"O":
                self.motors[kind] += self._names(text[4:])
            else:
                words = text[4:].split(b" ")
                self._require(max(map(len, words)), POSITION, "bytes in a motor's position")
                # The library counts two blanks at the end as one more position.
                self.motors[kind] += sum(map(bool, words)) + text.endswith(b"  ")
            self._require(self.motors[kind], MOTORS, "motors so far")

    def _names(self, text: bytes) -> int:
        """Return the number of names, separated by two blanks."""
        names = re.split(rb" {2,}", text)
        self._require(max(map(len, names)), NAME, "bytes in a name")
        return len(names)

    def _row(self, line: bytes) -> None:
        # Most rows are too short to exceed a limit.
        if len(line) <= NUMBER:
            return
        words = line.split()
        self._require(len(words), COLUMNS, "columns")
        self._require(max(map(len, words), default=0), NUMBER, "bytes in a number")
