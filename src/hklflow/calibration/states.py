"""States of a detector; the state determines which calibration may be used for a measurement.

The keys of a state (serial number, distance, energy ...) are listed in ``state_schema.json``, with
their units and steps. Each value is rounded to an integer number of steps. The id of the state is a
hash of these integers, so encoder noise and the text format of a number do not change the id. Each
kind of calibration uses only its own keys, so each kind has its own id.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hklflow.base.described import Described
from hklflow.base.errors import HklflowError
from hklflow.base.system import require_no_pipe

PACKAGED = Path(__file__).with_name("state_schema.json")

# Distance from the boundary between two steps, in steps. A value that is closer to the boundary may
# be on the other side in the next reading.
EDGE = 0.1

_ID = re.compile(r"[0-9a-f]{16}")


class Key(Described):
    """One key of the state."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text", "integer", "number"]
    length: int | None = Field(None, ge=1)
    """Length of the list of values. None: the key has a single value."""
    unit: str | None
    step: float | None = Field(gt=0)
    """Size of a step in `unit`. None: the values of one state must be exactly equal."""
    kinds: tuple[str, ...]
    """Kinds of calibration that depend on the key."""
    required: tuple[str, ...]
    """Kinds of calibration that require the key."""
    description: str


class Schema(BaseModel):
    """Keys of the state, by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_number: int = Field(alias="schema", ge=1)
    keys: dict[str, Key]

    @property
    def kinds(self) -> list[str]:
        """Kinds of calibration."""
        return sorted({kind for key in self.keys.values() for kind in key.kinds})


@dataclass(frozen=True)
class State:
    """State of the detector for one kind of calibration.

    Attributes
    ----------
    kind : str
        Kind of calibration, such as "geometry".
    id : str
        16 hexadecimal digits. If an alias applies, the id to which the alias points.
    values : dict
        Values of the keys of this kind, in the units of the schema.
    steps : dict
        Number of steps of each key with a step; a list if the value is a list.
    schema : int
        Number of the schema.
    warnings : tuple of str
        One sentence for each value close to the boundary between two steps.
    canonical : dict
        Data whose hash is the id.
    alias_of : str or None
        Id computed from the values, if an alias replaced this id; else None.
    """

    kind: str
    id: str
    values: dict[str, Any]
    steps: dict[str, Any]
    schema: int
    warnings: tuple[str, ...]
    canonical: dict[str, Any]
    alias_of: str | None = None


def read_schema(path: Path | None = None) -> Schema:
    """Read the keys of the state from a JSON file; None: the packaged file.

    Raises
    ------
    HklflowError
        If the file is not a schema; the message names all problems.
    """
    source = path or PACKAGED
    require_no_pipe(source)
    try:
        schema = Schema.model_validate_json(source.read_bytes())
    except OSError as error:
        raise HklflowError(f"schema {source} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise HklflowError(f"{source} is not a schema of states: {'; '.join(problems)}") from error
    for name, key in schema.keys.items():
        if not set(key.required) <= set(key.kinds):
            raise HklflowError(
                f"{source}: {name} is required for a kind that is not in its `kinds`; add it there"
            )
        if key.step is not None and key.type == "text":
            raise HklflowError(f"{source}: {name} is a text, which has no steps; set it to null")
    return schema


def state_of(
    kind: str,
    values: Mapping[str, Any],
    schema: Schema,
    aliases: Mapping[str, str] | None = None,
) -> State:
    """Return the state for one kind of calibration.

    Parameters
    ----------
    kind : str
        "geometry", "flatfield", "constants" or "normalization".
    values : mapping
        Values in the units of the schema. Keys of other kinds are allowed.
    schema : Schema
    aliases : mapping, optional
        Maps an id to the id that replaces it, for set-points on the boundary between two steps.

    Raises
    ------
    HklflowError
        If the kind or keys are unknown, or keys are missing or malformed. The message lists all
        problems.
    """
    if kind not in schema.kinds:
        raise HklflowError(f"calibration kind {kind!r} is unknown; use {', '.join(schema.kinds)}")
    used = {name: key for name, key in schema.keys.items() if kind in key.kinds}
    problems = []
    if unknown := sorted(set(values) - set(schema.keys)):
        problems.append(f"unknown {', '.join(unknown)} (there are {', '.join(schema.keys)})")
    missing = [n for n, key in used.items() if kind in key.required and values.get(n) is None]
    if missing:
        problems.append("missing " + ", ".join(_with_unit(n, used[n]) for n in missing))
    read: dict[str, Any] = {}
    for name, key in used.items():
        if values.get(name) is not None:
            try:
                read[name] = _read(values[name], key)
            except ValueError as error:
                problems.append(f"{name} {values[name]!r} is not {error}")
    if problems:
        raise HklflowError(f"state of the {kind} calibration: {'; '.join(problems)}")

    steps = {name: _each(read[name], used[name].step) for name in read if used[name].step}
    canonical = {
        "schema": schema.schema_number,
        "kind": kind,
        "keys": {
            name: {"step": used[name].step, "steps": steps[name]}
            if name in steps
            else {"value": value}
            for name, value in read.items()
        },
    }
    measured = state_id(canonical)
    final = _alias(measured, aliases or {})
    warnings = () if final != measured else _edges(read, used, canonical)
    alias_of = measured if final != measured else None
    return State(kind, final, read, steps, schema.schema_number, warnings, canonical, alias_of)


def state_id(canonical: Mapping[str, Any]) -> str:
    """Return the id: first 16 hexadecimal digits of the SHA-256 of the JSON with sorted keys."""
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_state_id(text: str) -> bool:
    """Return True if a text has the form of an id."""
    return bool(_ID.fullmatch(text))


def _with_unit(name: str, key: Key) -> str:
    unit = f" in {key.unit}" if key.unit else ""
    return f"{name} ({key.description}{unit})"


def _read(value: Any, key: Key) -> Any:
    """Convert one value or a list of values; a ValueError describes the expected value."""
    if key.length is None:
        return _read_one(value, key)
    if not isinstance(value, list | tuple) or len(value) != key.length:
        raise ValueError(f"a list of {key.length} values")
    return [_read_one(item, key) for item in value]


def _read_one(value: Any, key: Key) -> str | int | float:
    if key.type == "text":
        if not isinstance(value, str) or not value.strip():
            raise ValueError("a text (put it in quotes)")
        return value.strip()
    # YAML reads 1e-3, a number without a dot, as a text.
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"a number{f' in {key.unit}' if key.unit else ''}")
    if key.type == "integer":
        if number != int(number):
            raise ValueError("a whole number")
        return int(number)
    return number


def _each(value: Any, step: float | None) -> Any:
    assert step is not None
    if isinstance(value, list):
        return [_each(item, step) for item in value]
    return math.floor(value / step + 0.5)


def _alias(measured: str, aliases: Mapping[str, str]) -> str:
    for source, target in aliases.items():
        for text in (source, target):
            if not (isinstance(text, str) and is_state_id(text)):
                raise HklflowError(
                    f"aliases: {text!r} is not a state id of 16 hexadecimal digits (use quotes)"
                )
        if target in aliases:
            raise HklflowError(
                f"aliases: {source} leads to {target}, which is itself an alias; use the final id"
            )
    return aliases.get(measured, measured)


def _edges(
    values: Mapping[str, Any], keys: Mapping[str, Key], canonical: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return a sentence for each value close to the boundary of a step, with the other id."""
    warnings = []
    measured = state_id(canonical)
    for name, value in values.items():
        step = keys[name].step
        if step is None:
            continue
        for i, number in enumerate(value if isinstance(value, list) else [value]):
            steps = _each(number, step)
            side = 1 if number / step > steps else -1
            edge = steps + 0.5 * side
            if abs(number / step - edge) > EDGE:
                continue
            other = json.loads(json.dumps(canonical))
            if isinstance(value, list):
                other["keys"][name]["steps"][i] += side
            else:
                other["keys"][name]["steps"] += side
            unit = keys[name].unit
            warnings.append(
                f"{name} {number:g} {unit} is within {EDGE:g} steps of the edge at "
                f"{edge * step:g} {unit}: the next reading may give the state "
                f"{state_id(other)}; if both are the same setting, write "
                f'`aliases: {{"{measured}": "{state_id(other)}"}}` or the reverse'
            )
    return tuple(warnings)
