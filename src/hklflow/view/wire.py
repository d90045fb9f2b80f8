"""What the browser sends and gets: values of a query, and answers as JSON and arrays.

An answer with arrays is one line of JSON, which lists the arrays, and then their bytes. Numbers are
sent with 64 bits, or with 32 if they are the same numbers.
"""

import json as _json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hklflow.base.errors import HklflowError

Query = Mapping[str, str]
Answer = TypeVar("Answer")

_LONGEST = 200  # characters of a value
_TRIES = 3


def one_state(paths: Sequence[Path], title: str, read: Callable[[], Answer]) -> Answer:
    """Return what is read from one state of files: files replaced meanwhile are read again.

    Raises
    ------
    HklflowError
        If a file does not exist any more, is damaged, or is replaced again and again.
    """
    for _ in range(_TRIES):
        before = states(paths)
        try:
            found = read()
        except (OSError, KeyError, RuntimeError) as error:
            if states(paths) == before:
                raise HklflowError(
                    f"{title} cannot be read ({type(error).__name__}); it may be "
                    "incomplete: wait until it is written, or run `snakemake` again"
                ) from error
            continue
        except HklflowError:
            if states(paths) == before:
                raise
            continue
        if states(paths) == before:
            return found
    raise HklflowError(f"{title} is being replaced; try again in a moment")


def states(paths: Sequence[Path]) -> tuple[tuple[int, int, int] | None, ...]:
    """Return what changes if one of the files is replaced; None for a file that does not exist."""

    def of(path: Path) -> tuple[int, int, int] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    return tuple(map(of, paths))


def arrays(attrs: Mapping[str, Any], about: Mapping[str, Any], values: Mapping[str, Any]) -> bytes:
    """Return one line of JSON with the list of arrays, and the arrays."""
    listed, parts = [], []
    for name, item in values.items():
        array = np.ascontiguousarray(item, dtype="<f8")
        with np.errstate(over="ignore"):
            short = array.astype("<f4")
        if np.array_equal(short.astype("<f8"), array, equal_nan=True):
            array = short
        listed.append({"name": name, "type": array.dtype.str[1:], "shape": list(np.shape(item))})
        parts.append(array.tobytes())
    # The place of a file is not the reader's business.
    attributes = {key: value for key, value in attrs.items() if key != "file"}
    return b"\n".join([json({**attributes, **about, "arrays": listed}), b"".join(parts)])


def json(value: Any) -> bytes:
    """Return JSON; arrays become lists."""

    def plain(given: Any) -> Any:
        return given.tolist() if isinstance(given, np.ndarray | np.generic) else str(given)

    return _json.dumps(value, default=plain, ensure_ascii=False).encode()


def text(query: Query, name: str) -> str:
    """Return a value of the query.

    Raises
    ------
    HklflowError
        If it is missing, or too long.
    """
    value = query.get(name, "")
    if not value or len(value) > _LONGEST:
        raise HklflowError(f"{name} is missing, or longer than {_LONGEST} characters; correct it")
    return value


def number(query: Query, name: str, default: float | None = None) -> float:
    """Return a number of the query; see `numbers`."""
    if default is not None and not query.get(name):
        return default
    return numbers(query, name, 1)[0]


def numbers(query: Query, name: str, n: int) -> list[float]:
    """Return n numbers of the query.

    Raises
    ------
    HklflowError
        If the value is not n finite numbers with commas.
    """
    given = text(query, name)
    try:
        values = [float(part) for part in given.split(",")]
    except ValueError:
        values = []
    if len(values) != n or not all(map(math.isfinite, values)):
        many = "a number" if n == 1 else f"{n} numbers with commas"
        raise HklflowError(f"{name}: {given!r} is not {many}; correct it")
    return values
