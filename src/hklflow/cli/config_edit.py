"""Keys set in a YAML file as a person would: line by line, so that remarks and order stay."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from hklflow.base.errors import HklflowError
from hklflow.experiment.config import merged

_INDENT = 2


def lines_for(keys: Sequence[str], values: Mapping[str, Any], indent: int = 0) -> list[str]:
    """Lines of nested mappings that hold values, such as ``per_scan:``, ``  a/b:``, ..."""
    lines = [" " * (indent + _INDENT * k) + f"{_scalar(key)}:" for k, key in enumerate(keys)]
    within = " " * (indent + _INDENT * len(keys))
    return lines + [f"{within}{_scalar(name)}: {_scalar(value)}" for name, value in values.items()]


def with_values(text: str, keys: Sequence[str], values: Mapping[str, Any]) -> str:
    """Return a YAML text with values set under nested keys, and nothing else changed.

    Parameters
    ----------
    text : str
        Mappings with one key in a line along the way.
    keys : sequence of str
        From the outermost on.
    values : mapping
        Key -> number, text or None.

    Raises
    ------
    HklflowError
        If the text is not of that form, or what it says would change elsewhere.
    """
    wanted: dict[str, Any] = dict(values)
    for key in reversed(keys):
        wanted = {key: wanted}
    try:
        before = yaml.safe_load(text) or {}
        root = yaml.compose(text)
        changed = _set(text, root, keys, values)
        after = yaml.safe_load(changed)
        right = after == merged([before, wanted])
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise HklflowError(f"it cannot be edited ({' '.join(str(error).split())})") from error
    if not right:
        raise HklflowError("more than these values would change")
    return changed


def _set(text: str, root: yaml.Node | None, keys: Sequence[str], values: Mapping[str, Any]) -> str:
    # A text of two systems has both ends of lines: the one that most lines have.
    end = "\r\n" if 2 * text.count("\r\n") > text.count("\n") else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    node: yaml.Node | None = root
    above: yaml.Node | None = None  # the key of the mapping that is looked at
    for depth, key in enumerate(keys):
        mapping, indent = _mapping(node, above)
        if key not in mapping:
            at = len(lines) if above is None else _below(lines, node, above)
            lines[at:at] = [line + end for line in lines_for(keys[depth:], values, indent)]
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
    at = _below(lines, node, above)
    lines[at:at] = [line + end for line in lines_for([], new, indent)]
    return "".join(lines)


def _below(lines: list[str], node: yaml.Node | None, above: yaml.Node) -> int:
    """Line for what is added to a mapping: after all it holds, so that remarks stay where they are.

    Remarks below the key of an empty one are the mapping's own.
    """
    if isinstance(node, yaml.MappingNode) and node.value:
        return _last(node) + 1
    at = above.start_mark.line + 1
    while at < len(lines) and lines[at].lstrip().startswith("#"):
        if len(lines[at]) - len(lines[at].lstrip()) <= above.start_mark.column:
            break
        at += 1
    return at


def _last(node: yaml.Node) -> int:
    """Last line of a node; the mark of a block is where the next begins, remarks later."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        if isinstance(last, tuple):  # an alias has the marks of what it stands for
            return max(_last(last[0]), _last(last[1]))
        return _last(last)
    end = node.end_mark
    return end.line - (end.column == 0 and end.line > node.start_mark.line)


def _mapping(
    node: yaml.Node | None, above: yaml.Node | None
) -> tuple[dict[str, tuple[yaml.Node, yaml.Node]], int]:
    """Keys of a block mapping with their nodes, and its indent."""
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
    """Value as YAML reads it back."""
    if isinstance(value, str):
        return value if yaml.safe_load(value) == value and ": " not in value else json.dumps(value)
    return json.dumps(value)
