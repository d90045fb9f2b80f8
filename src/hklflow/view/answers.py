"""Answers to the browser: numbers of the Python interface, exactly, as JSON and arrays.

An answer with arrays is one line of JSON, which lists the arrays, and then their bytes. Numbers are
sent with 64 bits, or with 32 if they are the same numbers.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.results import Volume, open_product
from hklflow.view.catalogue import Catalogue, Item
from hklflow.volumes import planes

Query = Mapping[str, str]

_LONGEST = 200  # characters of a value
_LETTERS = "hklxyz"


def volume_list(catalogue: Catalogue, query: Query) -> bytes:
    """Return the list of volumes."""
    del query
    name = catalogue.folder.resolve().name
    return _json({"experiment": name, "volumes": [item.about for item in catalogue.items()]})


def facts(catalogue: Catalogue, query: Query) -> bytes:
    """Return kind, axes and cell of a volume."""

    def of(volume: Volume) -> bytes:
        grid = volume.grid
        names = volume.axes
        ends = [grid.axis(i)[[0, -1]].tolist() for i in range(3)]
        return _json(
            {
                "kind": volume.kind,
                "text": repr(volume),
                "names": list(names),
                "ends": dict(zip(names, ends, strict=True)),
                "step": dict(zip(names, grid.step.tolist(), strict=True)),
                "metric": volume.metric.tolist(),
                "edge": volume.edge,
                "unit": "Å" if names == "xyz" else "1/Å",
            }
        )

    return _of_volume(catalogue, query, of)


def plane(catalogue: Catalogue, query: Query) -> bytes:
    """Return S and σ of a plane, see `Volume.plane`."""
    text, width = _text(query, "plane"), _number(query, "width", 0.0)

    def of(volume: Volume) -> bytes:
        cut = volume.plane(text, width)
        second, first = cut["S"].dims
        axes = {str(name): cut[name].values for name in (first, second)}
        others = {
            str(name): values.values for name, values in cut.coords.items() if name not in axes
        }
        about = {"first": first, "second": second, "vectors": _vectors(text, volume)}
        return _arrays(cut.attrs, about, {**axes, **others, **_values(cut)})

    return _of_volume(catalogue, query, of)


def line(catalogue: Catalogue, query: Query) -> bytes:
    """Return the bins of a line, see `Volume.line`."""
    start, end = (_numbers(query, name, 3) for name in ("start", "end"))
    width = _number(query, "width")

    def of(volume: Volume) -> bytes:
        cut = volume.line(start, end, width)
        places = {str(name): values.values for name, values in cut.coords.items()}
        return _arrays(cut.attrs, {}, {**places, **_values(cut)})

    return _of_volume(catalogue, query, of)


def box(catalogue: Catalogue, query: Query) -> bytes:
    """Return S of a box, see `Volume.box`."""
    ranges: dict[str, Any] = {
        name: tuple(_numbers(query, name, 2)) for name in _LETTERS if query.get(name)
    }

    def of(volume: Volume) -> bytes:
        cut = volume.box(**ranges)
        return _arrays(cut.attrs, {}, _values(cut))

    return _of_volume(catalogue, query, of)


ANSWERS: dict[str, Callable[[Catalogue, Query], bytes]] = {
    "list": volume_list,
    "volume": facts,
    "plane": plane,
    "line": line,
    "box": box,
}


def _of_volume(catalogue: Catalogue, query: Query, answer: Callable[[Volume], bytes]) -> bytes:
    """Return an answer from one state of a file: a file that is replaced meanwhile is read again.

    Raises
    ------
    HklflowError
        If the file does not exist any more, is no volume, or is replaced again and again.
    """
    item = catalogue.find(_text(query, "id"))
    for _ in range(3):
        before = _state(item.path)
        try:
            volume = open_product(item.path)
            if not isinstance(volume, Volume):
                raise HklflowError(f"{_named(item)} is no volume; run `snakemake` again")
            found = answer(volume)
        except (OSError, KeyError, RuntimeError) as error:
            if _state(item.path) == before:
                raise HklflowError(
                    f"{_named(item)} cannot be read ({type(error).__name__}); it may be "
                    "incomplete: wait until it is written, or run `snakemake` again"
                ) from error
            continue
        except HklflowError:
            if _state(item.path) == before:
                raise
            continue
        if _state(item.path) == before:
            return found
    raise HklflowError(f"{_named(item)} is being replaced; try again in a moment")


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _named(item: Item) -> str:
    return f"{item.name} of {item.sample} {item.scan}"


def _vectors(text: str, volume: Volume) -> dict[str, Any]:
    """Return origin and both vectors of a plane on the axes of its volume."""
    parsed = planes.parse(text, volume.axes)
    return {"origin": parsed.origin, "first": parsed.first, "second": parsed.second}


def _values(cut: Any) -> dict[str, Any]:
    return {str(name): values.values for name, values in cut.data_vars.items()}


def _arrays(attrs: Mapping[str, Any], about: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """Return one line of JSON with the list of arrays, and the arrays."""
    listed, parts = [], []
    for name, values in arrays.items():
        array = np.ascontiguousarray(values, dtype="<f8")
        with np.errstate(over="ignore"):
            short = array.astype("<f4")
        if np.array_equal(short.astype("<f8"), array, equal_nan=True):
            array = short
        listed.append({"name": name, "type": array.dtype.str[1:], "shape": list(np.shape(values))})
        parts.append(array.tobytes())
    # The place of a file is not the reader's business.
    told = {key: value for key, value in attrs.items() if key != "file"}
    return b"\n".join([_json({**told, **about, "arrays": listed}), b"".join(parts)])


def _json(value: Any) -> bytes:
    def plain(given: Any) -> Any:
        return given.tolist() if isinstance(given, np.ndarray | np.generic) else str(given)

    return json.dumps(value, default=plain, ensure_ascii=False).encode()


def _text(query: Query, name: str) -> str:
    value = query.get(name, "")
    if not value or len(value) > _LONGEST:
        raise HklflowError(f"{name} is missing, or longer than {_LONGEST} characters; correct it")
    return value


def _number(query: Query, name: str, default: float | None = None) -> float:
    if default is not None and not query.get(name):
        return default
    return _numbers(query, name, 1)[0]


def _numbers(query: Query, name: str, n: int) -> list[float]:
    text = _text(query, name)
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != n or not all(map(math.isfinite, values)):
        many = "a number" if n == 1 else f"{n} numbers with commas"
        raise HklflowError(f"{name}: {text!r} is not {many}; correct it")
    return values
