"""An experiment's folder as the commands see it: its tables, and rows added to them.

A table is changed by writing it anew beside its place and renaming, under a lock that
the commands share; what stood in it is kept byte for byte.
"""

import csv
import fcntl
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hklflow.errors import HklflowError

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """A tab-separated table as it stands in its file."""

    path: Path
    content: bytes
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def with_rows(self, rows: Sequence[Mapping[str, str]]) -> bytes:
        """Return the content with rows after the last line; what is there stays as it is.

        Raises
        ------
        HklflowError
            If a value has no column, or cannot stand in a table.
        """
        newline = b"\r\n" if b"\r\n" in self.content else b"\n"
        text = self.content
        if not text.endswith(b"\n"):
            text += newline
        for row in rows:
            for name, value in row.items():
                if value and name not in self.columns:
                    raise HklflowError(
                        f"{self.path} has no column {name!r}; add it to the line of column names, "
                        "with a tab in every row"
                    )
                if any(mark in value for mark in '\t\r\n"'):
                    raise HklflowError(
                        f"{name} {value!r} has a tab, a line break or a quotation mark, which "
                        f"cannot stand in {self.path}; leave it out"
                    )
            line = "\t".join(row.get(name, "") for name in self.columns)
            if line.startswith("#"):
                raise HklflowError(
                    f"a row that begins with {line[:9]!r} would be a comment in {self.path}; "
                    "do not begin with #"
                )
            text += line.encode() + newline
        return text


def experiment(directory: Path) -> "Folder":
    """Return the experiment in a folder; raises if there is none."""
    return Folder(directory.resolve())


def read_table(path: Path) -> Table:
    """Read a table's column names and rows.

    Raises
    ------
    HklflowError
        If there is no such file or no line of column names.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise HklflowError(
            f"{path} cannot be read ({error.strerror}); `hklflow init` makes the tables"
        ) from error
    except UnicodeDecodeError as error:
        raise HklflowError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    given = io.StringIO(text, newline="")
    lines = [line for line in given if line.strip() and not line.startswith("#")]
    reader = csv.DictReader(lines, delimiter="\t")
    columns = tuple(reader.fieldnames or ())
    if not columns:
        raise HklflowError(f"{path} has no line of column names; `hklflow init` makes one")
    rows = []
    for number, row in enumerate(reader, start=1):
        if None in row or any(value is None for value in row.values()):
            raise HklflowError(f"{path}, row {number}: {len(columns)} values by tabs are needed")
        rows.append({name: value.strip() for name, value in row.items()} | {"#": str(number)})
    return Table(path, content, columns, tuple(rows))


@dataclass(frozen=True)
class Folder:
    """The folder of an experiment."""

    base: Path

    def __post_init__(self) -> None:
        if not self.config.is_file():
            raise HklflowError(
                f"{self.config} does not exist; make an experiment with `hklflow init "
                f"{self.base}` or name its folder"
            )

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.base / "config/config.yaml"

    def table(self, name: str) -> Path:
        """Path of the table ``samples`` or ``scans``, as the configuration has it."""
        from hklflow.config import Config, merged
        from hklflow.config.resolve import layers_of_experiment

        problems: list[str] = []
        layers = layers_of_experiment(self.data(), self.base, {}, problems)
        if problems:
            raise HklflowError("; ".join(problems))
        given = merged(layer.data for layer in layers)
        return self.base / str(given.get(name, Config.model_fields[name].default))

    def data(self) -> dict[str, Any]:
        """Content of the configuration file."""
        from hklflow.config import read_yaml

        return read_yaml(self.config)

    def problems(self, instead: Mapping[str, Path] | None = None) -> list[str]:
        """Problems of configuration and tables; ``instead`` names other tables."""
        from hklflow.config import load

        other = {name: str(path) for name, path in (instead or {}).items()}
        try:
            load(self.data(), self.base, other)
        except HklflowError as error:
            return [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        return []

    def add(self, name: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Append rows to a table if that brings no new problem; else nothing is written.

        Parameters
        ----------
        name : str
            ``samples`` or ``scans``.
        rows : sequence of mappings
            Column -> value.

        Raises
        ------
        HklflowError
            If a row is wrong: every new problem, by semicolons.
        """
        path = self.table(name).resolve()
        with self._locked():
            table = read_table(path)
            content = table.with_rows(rows)
            temporary = path.with_name(f".{path.name}.partial")
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
                    os.fsync(file.fileno())
                before = self.problems({name: path})
                after = self.problems({name: temporary})
                told = [problem.replace(str(temporary), str(path)) for problem in after]
                if new := [problem for problem in told if problem not in before]:
                    raise HklflowError("; ".join(new))
                # An editor knows no lock, and the checks above take their time.
                if path.read_bytes() != table.content:
                    raise HklflowError(
                        f"{path} was changed by somebody else meanwhile; nothing is added, "
                        "try again"
                    )
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time changes the tables."""
        with (self.base / "config/.tables.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
