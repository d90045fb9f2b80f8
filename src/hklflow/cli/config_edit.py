"""Set keys in the text of a YAML file line by line, so that comments and order stay."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from hklflow.base.errors import HklflowError
from hklflow.experiment.config import merged

_INDENT = 2


def lines_for(keys: Sequence[str], values: Mapping[str, Any], indent: int = 0) -> list[str]:
    """Return the lines of nested mappings with values, such as ``per_scan:``, ``  a/b:``."""
    lines = [" " * (indent + _INDENT * k) + f"{_scalar(key)}:" for k, key in enumerate(keys)]
    within = " " * (indent + _INDENT * len(keys))
    return lines + [f"{within}{_scalar(name)}: {_scalar(value)}" for name, value in values.items()]


def with_values(text: str, keys: Sequence[str], values: Mapping[str, Any]) -> str:
    """Return a YAML text with values set under nested keys, and nothing else changed.

    Parameters
    ----------
    text : str
        YAML text whose mappings along the keys have one key in a line.
    keys : sequence of str
        Nested keys, the outermost first.
    values : mapping
        Value of each key: number, text or None.

    Raises
    ------
    HklflowError
        If a mapping along the keys has several keys in a line, or if other values would change.
    """
    nested: dict[str, Any] = dict(values)
    for key in reversed(keys):
        nested = {key: nested}
    try:
        before = yaml.safe_load(text) or {}
        root = yaml.compose(text)
        changed = _set(text, root, keys, values)
        after = yaml.safe_load(changed)
        right = after == merged([before, nested])
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise HklflowError(f"it cannot be edited ({' '.join(str(error).split())})") from error
    if not right:
        raise HklflowError("more than these values would change")
    return changed


def _set(text: str, root: yaml.Node | None, keys: Sequence[str], values: Mapping[str, Any]) -> str:
    # A text may mix Windows and Unix line ends: use the more frequent line end.
    end = "\r\n" if 2 * text.count("\r\n") > text.count("\n") else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    node: yaml.Node | None = root
    above: yaml.Node | None = None  # key of the mapping `node`
    for depth, key in enumerate(keys):
        mapping, indent = _mapping(node, above)
        if key not in mapping:
            row = len(lines) if above is None else _below(lines, node, above)
            lines[row:row] = [line + end for line in lines_for(keys[depth:], values, indent)]
            return "".join(lines)
        above, node = mapping[key]
    mapping, indent = _mapping(node, above)
    assert above is not None
    new = {name: value for name, value in values.items() if name not in mapping}
    for name in values.keys() & mapping.keys():
        value = mapping[name][1]
        first, last = value.start_mark, value.end_mark
        if not isinstance(value, yaml.ScalarNode) or first.line != last.line or value.style:
            raise HklflowError(f"{name!r} there is no plain value in one line")
        line = lines[first.line]
        lines[first.line] = line[: first.column] + _scalar(values[name]) + line[last.column :]
    row = _below(lines, node, above)
    lines[row:row] = [line + end for line in lines_for([], new, indent)]
    return "".join(lines)


def _below(lines: list[str], node: yaml.Node | None, above: yaml.Node) -> int:
    """Return the index of the line after the last entry of a mapping, where new keys are inserted.

    Comments below the key of an empty mapping belong to the mapping.
    """
    if isinstance(node, yaml.MappingNode) and node.value:
        return _last(node) + 1
    row = above.start_mark.line + 1
    while row < len(lines) and lines[row].lstrip().startswith("#"):
        if len(lines[row]) - len(lines[row].lstrip()) <= above.start_mark.column:
            break
        row += 1
    return row


def _last(node: yaml.Node) -> int:
    """Return the index of the last line of a node.

    The end mark of a block node cannot be used: it is at the start of the next node, after comments
    in between.
    """
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        if isinstance(last, tuple):  # an alias has the marks of the node that it refers to
            return max(_last(last[0]), _last(last[1]))
        return _last(last)
    end = node.end_mark
    return end.line - (end.column == 0 and end.line > node.start_mark.line)


def _mapping(
    node: yaml.Node | None, above: yaml.Node | None
) -> tuple[dict[str, tuple[yaml.Node, yaml.Node]], int]:
    """Return the keys of a block mapping with their nodes, and the indent of the mapping."""
    parent = 0 if above is None else above.start_mark.column + _INDENT
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value == ""):
        return {}, parent
    where = "the file" if above is None else f"{above.value!r}"
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        raise HklflowError(f"{where} is not written with one key in a line")
    if above is not None and node.start_mark.line == above.start_mark.line:
        raise HklflowError(f"{where} has something else in its line")
    return {key.value: (key, value) for key, value in node.value}, node.start_mark.column


def _scalar(value: Any) -> str:
    """Return a text that YAML reads as the given value."""
    if isinstance(value, str):
        return value if yaml.safe_load(value) == value and ": " not in value else json.dumps(value)
    return json.dumps(value)
