"""Tables and configuration in an experiment's folder: read them and add rows.

To change a table, a command takes the lock of the tables, writes a complete new file in the same
folder and renames it. The existing content is kept byte for byte.
"""

import csv
import fcntl
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.base.system import no_file
from hklflow.cli.lock import only_one
from hklflow.experiment.tables import unreadable

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """Tab-separated table with the bytes of its file."""

    path: Path
    content: bytes
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def with_rows(self, rows: Sequence[Mapping[str, str]]) -> bytes:
        """Return the unchanged content with additional rows.

        Raises
        ------
        HklflowError
            If the table has no column for a value, or a value has a tab, line break or quotation
            mark.
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
                        f"is not allowed in {self.path}; leave it out"
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
    """Return the experiment in a folder.

    Raises
    ------
    HklflowError
        If the folder has no configuration file.
    """
    return Folder(directory.resolve())


def read_table(path: Path) -> Table:
    """Read a table's column names and rows.

    Raises
    ------
    HklflowError
        If the file does not exist, cannot be read, or has no line of column names.
    """
    if (reason := no_file(path)) is not None:
        raise HklflowError(f"{path} {reason}; `hklflow init` makes the tables")
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise HklflowError(
            f"{path} cannot be read ({error.strerror}); `hklflow init` makes the tables"
        ) from error
    except UnicodeDecodeError as error:
        raise HklflowError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    text_lines = io.StringIO(text, newline="")
    lines = [line for line in text_lines if line.strip() and not line.startswith("#")]
    reader = csv.DictReader(lines, delimiter="\t")
    try:
        columns, records = tuple(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise HklflowError(unreadable(path, reader.line_num, error)) from error
    if not columns:
        raise HklflowError(f"{path} has no line of column names; `hklflow init` makes one")
    rows = []
    for number, row in enumerate(records, start=1):
        if None in row or any(value is None for value in row.values()):
            raise HklflowError(f"{path}, row {number}: {len(columns)} values by tabs are needed")
        rows.append({name: value.strip() for name, value in row.items()} | {"#": str(number)})
    return Table(path, content, columns, tuple(rows))


def commented_rows(path: Path) -> list[Row]:
    """Return the rows of a table that the user has commented out with ``#``."""
    table = read_table(path)
    lines = table.content.decode("utf-8-sig").splitlines()
    split = [line.lstrip("#").split("\t") for line in lines if line.startswith("#")]
    return [
        dict(zip(table.columns, (value.strip() for value in values), strict=True))
        for values in split
        if len(values) == len(table.columns)
    ]


_held: set[Path] = set()  # folders of experiments whose tables this process has locked


@dataclass(frozen=True)
class Folder:
    """Folder of an experiment."""

    base: Path

    def __post_init__(self) -> None:
        if (reason := no_file(self.config)) is not None:
            raise HklflowError(
                f"{self.config} {reason}; create an experiment with `hklflow init "
                f"{self.base}`, or give the folder of an experiment"
            )

    @property
    def config(self) -> Path:
        """Path of the configuration file."""
        return self.base / "config/config.yaml"

    def table(self, name: str) -> Path:
        """Return the path of the table ``samples`` or ``scans`` from the configuration."""
        from hklflow.experiment.config import Config

        return self.base / str(self._settings().get(name, Config.model_fields[name].default))

    def raw_of_run(self, run: int, proposal: str, *, planned: bool) -> str:
        """Return the raw file of a run number by the template of the configuration.

        Parameters
        ----------
        planned : bool
            True: the path that the run will have; False: the run must have been measured.

        Raises
        ------
        HklflowError
            If there is no template, or it gives no file or several.
        """
        from pydantic import ValidationError

        from hklflow.experiment import locate

        section = self._settings().get("data")
        if section is None:
            raise HklflowError(
                f"{self.config} has no section `data` with the template of run numbers; write it, "
                "or name the file with --raw"
            )
        try:
            data = locate.RunFiles.model_validate(section)
        except ValidationError as error:
            raise HklflowError(f"{self.config}: data is wrong; `hklflow check` says why") from error
        find = locate.planned_raw if planned else locate.raw_of_run
        return find(data, self.base, run, proposal)

    def _settings(self) -> dict[str, Any]:
        """Return the values that the facility file and the configuration file set."""
        from hklflow.experiment.config import merged
        from hklflow.experiment.resolve import layers_of_experiment

        problems: list[str] = []
        layers = layers_of_experiment(self.data(), self.base, {}, problems)
        if problems:
            raise HklflowError("; ".join(problems))
        return merged(layer.data for layer in layers)

    def data(self) -> dict[str, Any]:
        """Return the content of the configuration file."""
        from hklflow.experiment.config import read_yaml

        return read_yaml(self.config)

    def problems(
        self, instead: Mapping[str, Path] | None = None, config: str | None = None
    ) -> list[str]:
        """Return the problems of the configuration and the tables.

        Parameters
        ----------
        instead : mapping, optional
            Files that are checked instead of the tables ``samples`` or ``scans``, by table name.
        config : str, optional
            YAML text that is checked instead of the configuration file.
        """
        import yaml

        from hklflow.experiment.config import load

        other = {name: str(path) for name, path in (instead or {}).items()}
        data = self.data() if config is None else yaml.safe_load(config)
        try:
            load(data or {}, self.base, other)
        except HklflowError as error:
            return [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        return []

    def add(self, name: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Append rows to a table, or write nothing if the rows cause a new problem.

        Parameters
        ----------
        name : str
            ``samples`` or ``scans``.
        rows : sequence of mappings
            Values of each row, by the name of the column.

        Raises
        ------
        HklflowError
            If a row is wrong; the message lists every new problem, separated by semicolons.
        """
        self.change({name: rows})

    def change(
        self,
        rows: Mapping[str, Sequence[Mapping[str, str]]],
        values: Sequence[tuple[Sequence[str], Mapping[str, Any]]] = (),
    ) -> None:
        """Append rows to tables and set values of the configuration, or change nothing.

        Parameters
        ----------
        rows : mapping
            New rows of the tables ``samples`` or ``scans``, by table name; values by column name.
        values : sequence of (keys, mapping)
            Nested keys of a mapping in the configuration, and the values to set in this mapping.

        Raises
        ------
        HklflowError
            If the change causes a problem; the message lists every new problem, separated by
            semicolons.
        """
        from hklflow.cli.config_edit import with_values

        with self.locked(), ExitStack() as stack:
            new: dict[Path, tuple[bytes, bytes]] = {}  # content of each file before and after
            for name, added in rows.items():
                path = self.table(name).resolve()
                table = read_table(path)
                new[path] = (table.content, table.with_rows(added))
            text = None
            if values:
                try:
                    stack.enter_context(only_one(self.base / "config/.config.lock"))
                except HklflowError as error:
                    raise HklflowError("another command is changing it just now") from error
                path = self.config.resolve()
                before = path.read_bytes()
                text = before.decode("utf-8")
                for keys, settings in values:
                    try:
                        text = with_values(text, keys, settings)
                    except HklflowError as error:
                        line = _flow(keys, settings)
                        raise HklflowError(
                            f"{path} was not changed: {error}. Write into it `{line}`"
                        ) from error
                new[path] = (before, text.encode())
            written = {path: _temporary(path, after, stack) for path, (_, after) in new.items()}
            tables = {name: self.table(name).resolve() for name in rows}
            problems = self.problems({name: written[path] for name, path in tables.items()}, text)
            for path, temporary in written.items():
                problems = [problem.replace(str(temporary), str(path)) for problem in problems]
            known = self.problems(tables)
            if fresh := [problem for problem in problems if problem not in known]:
                raise HklflowError("; ".join(fresh))
            # A text editor ignores the lock and may have saved a file during the checks.
            for path, (before, _) in new.items():
                if path.read_bytes() != before:
                    raise HklflowError(
                        f"{path} was changed by somebody else meanwhile; nothing is added, "
                        "try again"
                    )
            # Rename the table of scans last: if the command is killed before, no scan is added, and
            # the command can be repeated.
            last = tables.get("scans")
            for path, temporary in sorted(written.items(), key=lambda item: item[0] == last):
                temporary.replace(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the tables; a process that already holds the lock continues."""
        if self.base in _held:
            yield
            return
        with (self.base / "config/.tables.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _held.add(self.base)
            try:
                yield
            finally:
                _held.discard(self.base)


def _temporary(path: Path, content: bytes, stack: ExitStack) -> Path:
    """Write content to a temporary file next to ``path``, with its mode; the stack deletes it."""
    temporary = path.with_name(f".{path.name}.partial")
    stack.callback(temporary.unlink, missing_ok=True)
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
        os.fsync(file.fileno())
    return temporary


def _flow(keys: Sequence[str], values: Mapping[str, Any]) -> str:
    """Return nested mappings as one line of YAML."""
    import yaml

    nested: dict[str, Any] = dict(values)
    for key in reversed(keys):
        nested = {key: nested}
    return yaml.safe_dump(nested, default_flow_style=True, width=10**6).strip()[1:-1]
