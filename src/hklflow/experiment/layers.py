"""Layers of the configuration: package < facility < experiment < sample < scan < command line.

Each layer contains only the values that differ from the layers below it. Mappings are joined key by
key; any other value, including a list, replaces the value of the lower layer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file

Data = Mapping[str, Any]

_MOST_VALUES = 200_000  # in a configuration, including simulated samples


@dataclass(frozen=True)
class Layer:
    """One layer of the configuration: its name and its data."""

    name: str
    data: Data


def merged(layers: Iterable[Data]) -> dict[str, Any]:
    """Join mappings; values of later mappings replace values of earlier mappings.

    The input mappings are not changed.
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
    """Return (True, value) if a path of keys exists in nested mappings, else (False, None)."""
    for key in keys:
        if not isinstance(data, Mapping) or key not in data:
            return False, None
        data = data[key]
    return True, data


def setters(layers: Iterable[Layer], key: str) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each layer that sets a key (``section.parameter``), lowest first."""
    for layer in layers:
        found, value = value_in(layer.data, key.split("."))
        if found:
            yield layer.name, value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file gives an empty mapping.

    Raises
    ------
    HklflowError
        If the file is missing, is not YAML, or does not contain a mapping.
    """
    try:
        require_file(path, "configuration", "correct the path")
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise HklflowError(f"{path} cannot be read ({error.strerror})") from error
    except RecursionError:
        raise HklflowError(f"{path} is nested too deeply for a configuration; correct it") from None
    except (yaml.YAMLError, ValueError) as error:  # not UTF-8, or an invalid date
        message = " ".join(str(error).replace(' in "<unicode string>",', "").split())
        raise HklflowError(f"{path} is not valid YAML: {message}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        kind = "text" if isinstance(data, str) else f"a {type(data).__name__}"
        raise HklflowError(f"{path} holds {kind}; it must be `key: value` lines")
    require_small(data, str(path))
    require_unicode(data, str(path))
    return data


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses a repeated key; YAML itself silently uses the last value."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [str(key.value) for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(str(key.value)) > 1:
                problem = f"the key {key.value} occurs twice; keep one, or join their items"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


def require_unicode(data: Data, where: str) -> None:
    """Refuse a text with a lone surrogate (half a character), which cannot be written to a file.

    Raises
    ------
    HklflowError
        If there is such a text; the message names the first one.
    """
    waiting: list[tuple[str, Any]] = [("", data)]
    while waiting:
        key, item = waiting.pop()
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise HklflowError(
                    f"{where}: {key or 'a key'} is {item!r}, which has half a character (a "
                    "surrogate); write the character itself, in UTF-8"
                ) from None
        elif isinstance(item, Mapping):
            waiting += [("", name) for name in item]
            waiting += [(f"{key}.{name}".lstrip("."), inner) for name, inner in item.items()]
        elif isinstance(item, list | tuple):
            waiting += [(key, inner) for inner in item]


def require_small(data: Data, where: str) -> None:
    """Refuse data that YAML aliases make huge or recursive; validating them would never end.

    Raises
    ------
    HklflowError
        If there are more than 200 000 values.
    """
    left = _MOST_VALUES
    waiting: list[Any] = [data]
    while waiting:
        item = waiting.pop()
        inner = list(item.values()) if isinstance(item, Mapping) else item
        if isinstance(inner, list | tuple):
            left -= len(inner)
            waiting += inner
        if left < 0:
            raise HklflowError(
                f"{where} holds more than {_MOST_VALUES} values with its aliases (`*name`) written "
                "out; write the values without aliases"
            )
