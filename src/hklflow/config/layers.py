"""Layers of the configuration: package < facility < experiment < sample < scan < command line.

Each layer says only what it wants otherwise than the layers below it. Mappings are
joined key by key; anything else, a list too, replaces what stood there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hklflow.errors import HklflowError

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Layer:
    """One layer: where it stands, and what it says."""

    name: str
    data: Data


def merged(layers: Iterable[Data]) -> dict[str, Any]:
    """Join mappings, later over earlier.

    The inputs are left as they are.
    """
    result: dict[str, Any] = {}
    for data in layers:
        for key, value in data.items():
            below = result.get(key)
            if isinstance(below, Mapping) and isinstance(value, Mapping):
                result[key] = merged([below, value])
            else:
                result[key] = value
    return result


def value_in(data: Any, keys: Sequence[str]) -> tuple[bool, Any]:
    """Whether nested mappings hold a key, and its value."""
    for key in keys:
        if not isinstance(data, Mapping) or key not in data:
            return False, None
        data = data[key]
    return True, data


def setters(layers: Iterable[Layer], key: str) -> Iterator[tuple[str, Any]]:
    """Name and value of every layer that sets a key (``section.parameter``), lowest first."""
    for layer in layers:
        found, value = value_in(layer.data, key.split("."))
        if found:
            yield layer.name, value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file is an empty mapping.

    Raises
    ------
    HklflowError
        If the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HklflowError(f"{path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        raise HklflowError(f"{path} is not valid YAML: {told}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise HklflowError(f"{path} holds a {type(data).__name__}; it must be `key: value` lines")
    return data
