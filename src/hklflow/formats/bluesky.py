"""Read the documents of Bluesky runs: msgpack, JSON lines, JSON sequences (Tiled) and JSON lists.

A document is ``[name, document]`` (suitcase) or ``{"name": name, "doc": document}`` (databroker,
Tiled). The names and fields are those of Bluesky's event model.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_no_pipe

Document = Mapping[str, Any]

SUFFIXES = (".msgpack", ".jsonl", ".jsonseq", ".json")

#: What a document that lacks a key or has a value of another type raises.
DAMAGE = (LookupError, TypeError, AttributeError, ValueError, OverflowError)

_UNITS = {  # unit -> kind, factor, offset
    "deg": ("angle", 1.0, 0.0),
    "degree": ("angle", 1.0, 0.0),
    "degrees": ("angle", 1.0, 0.0),
    "rad": ("angle", 180 / np.pi, 0.0),
    "k": ("temperature", 1.0, 0.0),
    "kelvin": ("temperature", 1.0, 0.0),
    "c": ("temperature", 1.0, 273.15),
    "degc": ("temperature", 1.0, 273.15),
    "celsius": ("temperature", 1.0, 273.15),
    "s": ("time", 1.0, 0.0),
    "sec": ("time", 1.0, 0.0),
    "seconds": ("time", 1.0, 0.0),
    "ms": ("time", 1e-3, 0.0),
    "ev": ("energy", 1.0, 0.0),
    "kev": ("energy", 1e3, 0.0),
    "%": ("fraction", 1e-2, 0.0),
    "percent": ("fraction", 1e-2, 0.0),
}


def kind_of(unit: Any) -> tuple[str, float, float]:
    """Return what a unit measures, with factor and offset to degrees, K, s, eV or a fraction.

    The kind of an unknown unit is empty.
    """
    return _UNITS.get(str(unit or "").strip().lower().lstrip("°"), ("", 1.0, 0.0))


@dataclass
class Stream:
    """Events of one stream, such as ``primary`` and ``baseline``.

    Attributes
    ----------
    keys : dict
        Data keys of the descriptor: units, shape, whether the data are in files.
    configuration : dict of float
        Numbers of the devices' configuration, by the device's and the setting's name; in the
        units of `kind_of`.
    rows : dict
        Sequence number -> data of the event.
    """

    keys: dict[str, Document] = field(default_factory=dict)
    configuration: dict[str, float] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    def numbers(self, key: str) -> NDArray[np.float64] | None:
        """Return the numbers (n,) of a key in the order of the events; None if there are none."""
        values = [row.get(key) for _, row in sorted(self.rows.items())]
        try:
            numbers = np.array([np.nan if v is None else float(v) for v in values], np.float64)
        except (TypeError, ValueError):
            return None
        return numbers if numbers.size and np.isfinite(numbers).all() else None

    def kind(self, key: str) -> tuple[str, float, float]:
        """Return what a key measures; see `kind_of`."""
        return kind_of(self.unit(key))

    def unit(self, key: str) -> str:
        """Return the unit of a key; empty if it is not stated."""
        return str(self.keys.get(key, {}).get("units") or "")


@dataclass
class Run:
    """One run: its first document, streams, and documents about files by their identifiers."""

    start: Document
    streams: dict[str, Stream] = field(default_factory=dict)
    resources: dict[str, Document] = field(default_factory=dict)
    datums: dict[str, Document] = field(default_factory=dict)
    stream_resources: dict[str, Document] = field(default_factory=dict)
    stopped: str = ""
    """Exit status; empty: the run has no last document."""

    @property
    def primary(self) -> Stream:
        """The stream of the frames; empty if the run has none."""
        return self.streams.get("primary", Stream())


def read_runs(path: Path) -> list[Run]:
    """Read the runs in a file.

    Raises
    ------
    HklflowError
        If the file is damaged or has no documents of Bluesky.
    """
    runs: list[Run] = []
    descriptors: dict[str, Stream] = {}
    try:
        for name, document in _documents(path):
            if not isinstance(document, Mapping):
                raise TypeError(f"{name} is no mapping")
            if name == "start":
                runs.append(Run(document))
            elif runs:
                _add(runs[-1], descriptors, name, document)
    except DAMAGE as error:
        raise HklflowError(
            f"{path}: a document lacks what Bluesky's event model requires "
            f"({type(error).__name__}: {error}); export the run again"
        ) from error
    if not runs:
        raise HklflowError(f"{path} has no start document of Bluesky; give an export of a run")
    return runs


def _documents(path: Path) -> Iterator[tuple[str, Document]]:
    """Yield name and content of each document."""
    require_no_pipe(path)
    try:
        content = path.read_bytes()
        items = _unpacked(content) if path.suffix == ".msgpack" else _parsed(content)
        for item in items:
            if isinstance(item, Mapping):
                yield str(item["name"]), item["doc"]
            else:
                yield str(item[0]), item[1]
    except OSError as error:
        raise HklflowError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except DAMAGE as error:
        raise HklflowError(
            f"{path} is no sequence of Bluesky's documents, or truncated ({error}); export the run "
            "again"
        ) from error


def _parsed(content: bytes) -> list[Any]:
    """Return the items of JSON lines, a JSON sequence (RFC 7464) or one JSON list."""
    text = content.decode("utf-8-sig").replace("\x1e", "")
    stripped = text.lstrip()
    if stripped.startswith("[") and stripped[1:].lstrip()[:1] in {"{", "["}:
        return list(json.loads(text))
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _unpacked(content: bytes) -> list[Any]:
    """Return the items of a msgpack stream; arrays are packed as msgpack-numpy does."""
    import msgpack

    unpacker = msgpack.Unpacker(
        raw=False, strict_map_key=False, object_hook=_array, max_buffer_size=len(content) + 1
    )
    unpacker.feed(content)
    items = list(unpacker)
    if unpacker.tell() != len(content):
        raise ValueError(f"its last {len(content) - unpacker.tell()} bytes are no document")
    return items


def _array(value: dict[Any, Any]) -> Any:
    """Return the array or the number that a mapping of msgpack-numpy stands for."""
    plain = {key.decode() if isinstance(key, bytes) else key: item for key, item in value.items()}
    if not {"nd", "type", "data"} <= set(plain):
        return value
    kind = plain["type"].decode() if isinstance(plain["type"], bytes) else plain["type"]
    array = np.frombuffer(plain["data"], np.dtype(kind))
    return array.reshape(plain["shape"]) if plain["nd"] else array[0]


def _add(run: Run, descriptors: dict[str, Stream], name: str, document: Document) -> None:
    """Add one document to its run."""
    if name == "descriptor":
        stream = run.streams.setdefault(str(document.get("name") or "primary"), Stream())
        stream.keys |= document["data_keys"]
        for device, settings in (document.get("configuration") or {}).items():
            for key, value in settings.get("data", {}).items():
                if isinstance(value, int | float | np.number) and np.isfinite(value):
                    unit = settings.get("data_keys", {}).get(key, {}).get("units")
                    _, factor, offset = kind_of(unit)
                    whole = key if key.startswith(device) else f"{device}_{key}"
                    stream.configuration[whole] = float(value) * factor + offset
        descriptors[document["uid"]] = stream
    elif name == "event":
        _row(descriptors, document["descriptor"], document["seq_num"], document["data"])
    elif name == "event_page":
        for i, number in enumerate(document["seq_num"]):
            row = {key: values[i] for key, values in document["data"].items()}
            _row(descriptors, document["descriptor"], number, row)
    elif name == "resource":
        run.resources[document["uid"]] = document
    elif name == "datum":
        run.datums[document["datum_id"]] = document
    elif name == "datum_page":
        for i, identifier in enumerate(document["datum_id"]):
            kwargs = {key: values[i] for key, values in document["datum_kwargs"].items()}
            run.datums[identifier] = {"resource": document["resource"], "datum_kwargs": kwargs}
    elif name == "stream_resource":
        run.stream_resources[document["uid"]] = document
    elif name == "stop":
        run.stopped = str(document.get("exit_status", "unknown"))


def _row(
    descriptors: dict[str, Stream], descriptor: str, number: int, data: Mapping[str, Any]
) -> None:
    # A repeated event replaces the former one with its number.
    descriptors[descriptor].rows[int(number)] = dict(data)
