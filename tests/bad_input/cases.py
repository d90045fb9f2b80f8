"""What a case of bad input is, how it is run, and small ways to damage a good experiment."""

import contextlib
import hashlib
import importlib
import re
import shlex
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import h5py
import pytest

from hklflow import cli, stage

Spoil = Callable[[Path], None]
Around = Callable[[Path], AbstractContextManager[None]]

_PROGRESS = re.compile(r"^[\w ]+: \d+/\d+ after [\d.]+ s\n", re.MULTILINE)

# A command that has not ended by then hangs: the longest takes about a second.
PATIENCE = 600


def nothing(folder: Path) -> None:
    """Leave the experiment as it is: the mistake is in the command."""


def nowhere(folder: Path) -> AbstractContextManager[None]:
    """Run the command in no particular surroundings."""
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes
    ----------
    wrong : str
        What is wrong, in a few words.
    command : str
        What a user types in the experiment's folder.
    told : str
        The sentence, or lines of a list of problems; … stands for what differs from machine to
        machine: folders, and what the system or a library says.
    spoil : function
        Damages the good experiment in a folder.
    good : str or None
        The right command, where it is the command that is wrong.
    around : function
        Surroundings in which the command runs.
    forbidden : bool
        Run it without root's right to read and write everything.
    """

    wrong: str
    command: str
    told: str
    spoil: Spoil = nothing
    good: str | None = None
    around: Around = nowhere
    forbidden: bool = False

    @property
    def control(self) -> str:
        """Command that passes on the good experiment."""
        return self.good or self.command


@dataclass(frozen=True)
class Fine:
    """Unusual input that is right: the command must pass."""

    what: str
    command: str
    spoil: Spoil = nothing
    forbidden: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    output: str
    errors: str


class HangError(BaseException):
    """A command does not end; no `except Exception` of the product may catch it."""


def run(command: str, capture: pytest.CaptureFixture[str]) -> Outcome:
    """Run a command of a user in this process, as its own would run it."""
    words = shlex.split(command)
    capture.readouterr()
    with _patience(), _own_arguments(words), pytest.raises(SystemExit) as ended:
        _start(words)
    told = capture.readouterr()
    code = ended.value.code
    return Outcome(code if isinstance(code, int) else 0, told.out, _PROGRESS.sub("", told.err))


def _start(words: list[str]) -> NoReturn:
    if words[0] == "hklflow":
        cli.main(words[1:])
    assert words[:2] == ["python", "-m"], words
    stage.command(importlib.import_module(words[2]).main)
    sys.exit(0)


@contextlib.contextmanager
def _own_arguments(words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, words[2:]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    def give_up(number: int, frame: Any) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pattern(case: Case) -> str:
    """Regular expression of all that the command may print to stderr."""
    words = shlex.split(case.command)
    name = "hklflow" if words[0] == "hklflow" else f"hklflow {words[2].rsplit('.', 1)[-1]}"
    parts = f"{name}: {case.told}\n".split("…")
    return "[^\n]*?".join(re.escape(part) for part in parts)


def tree(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything in a folder with kind, mode and content, but logs and locks (empty files)."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in folder.rglob("*"):
        name, info = str(path.relative_to(folder)), path.lstat()
        if name.startswith("results/logs") or name.endswith(".lock"):
            continue
        content = ""
        if stat.S_ISLNK(info.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(info.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[name] = (info.st_mode, content)
    return found


# ------------------------------------------------------------------------ ways to damage


def edited(name: str, *changes: tuple[str, str]) -> Spoil:
    """Replace texts of a file, each of which must be in it."""

    def spoil(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text, f"{old!r} is not in {name}"
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")

    return spoil


def written(name: str, content: str | bytes) -> Spoil:
    """Put this content in a file's place."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def cut(name: str, share: float = 0.5) -> Spoil:
    """Keep only the beginning of a file."""

    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return spoil


def removed(name: str) -> Spoil:
    """Take a file away."""
    return lambda folder: (folder / name).unlink()


def renamed(name: str, to: str) -> Spoil:
    """Rename a file or folder."""
    return lambda folder: (folder / name).rename(folder / to)


def inside(name: str, change: Callable[[h5py.File], None]) -> Spoil:
    """Change an HDF5 file."""

    def spoil(folder: Path) -> None:
        with h5py.File(folder / name, "r+") as file:
            change(file)

    return spoil


def replaced(name: str, path: str, value: Any, **attributes: Any) -> Spoil:
    """Put a dataset of an HDF5 file anew; its attributes stay but for those given."""

    def change(file: h5py.File) -> None:
        attrs = dict(file[path].attrs) | attributes
        del file[path]
        file[path] = value
        file[path].attrs.update(attrs)

    return inside(name, change)


def several(*spoils: Spoil) -> Spoil:
    """Do one after the other."""

    def spoil(folder: Path) -> None:
        for one in spoils:
            one(folder)

    return spoil
