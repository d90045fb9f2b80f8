"""Abbreviate many paths to one shell word with braces, such as `a/{b,c}/d`."""

import shlex
from collections.abc import Sequence
from itertools import groupby

_Path = tuple[str, ...]


def braced(paths: Sequence[str]) -> str:
    """Return a word that bash expands to the paths, in their order.

    Snakemake gives a command to the shell as one argument, which is limited to 128 kB. A thousand
    full paths would be longer.
    """
    return _joined([tuple(path.split("/")) for path in paths])


def _joined(paths: Sequence[_Path]) -> str:
    """Join paths with the same first folder, and folders with the same files."""
    heads = [(head, tuple(path[1:] for path in group)) for head, group in _by_head(paths)]
    words = []
    for tails, alike in groupby(heads, key=lambda item: item[1]):
        names = _choice([_quoted(head) for head, _ in alike])
        words.append(names if tails == ((),) else f"{names}/{_joined(tails)}")
    return _choice(words)


def _by_head(paths: Sequence[_Path]) -> list[tuple[str, list[_Path]]]:
    # Do not join two entries of the same file, because a file is not a folder.
    found: list[tuple[str, list[_Path]]] = []
    for path in paths:
        if found and found[-1][0] == path[0] and len(path) > 1 and len(found[-1][1][-1]) > 1:
            found[-1][1].append(path)
        else:
            found.append((path[0], [path]))
    return found


def _choice(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else "{" + ",".join(words) + "}"


def _quoted(name: str) -> str:
    quoted = shlex.quote(name) if name else ""
    return f"'{name}'" if quoted == name and "," in name else quoted
