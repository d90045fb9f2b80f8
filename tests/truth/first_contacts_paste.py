"""Remedies of first contacts: found in sentences, and pasted as a user would.

A sentence offers one remedy or several ("...; or with ...", "write ..., or for P n m a the cell
...", "correct the wrong one: ..., or ..."). A remedy goes to config.yaml, to the columns of
scans.tsv (settings of the goniometer, rows copied to split a rotation), to samples.tsv, or to the
options of the import.
"""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

SAMPLE = "sugar"
_EMPTIED = ("a", "b", "c", "alpha", "beta", "gamma")
_SHEETS = ("gain", "offset", "read_noise")  # constants that a user looks up


def merged(old: Any, new: Any) -> Any:
    """Return a configuration with more in it; lists are replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {k: merged(old.get(k), new.get(k)) for k in {**old, **new}}
    return old if new is None else new


def write_config(home: Path, more: dict[str, Any]) -> None:
    path = home / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text()) or {}
    path.write_text(yaml.safe_dump(merged(config, more), sort_keys=False))


def remedies(sentences: list[str]) -> list[str]:
    """Return the parts of sentences that tell what to do and can be pasted."""
    found: list[str] = []
    for sentence in sentences:
        for part in re.split(r"; or (?=with )", sentence):
            if "correct the wrong one: " in part:
                found += part.split("correct the wrong one: ")[1].split(", or ")
            elif "write " in part:
                for text in re.split(r"write ", part)[1:]:
                    found += re.split(r", or for |, or (?=in config)", text)
            else:
                found.append(part)
    return [text for text in dict.fromkeys(found) if changes(text)]


def changes(text: str) -> list[Callable[[Path], None]]:
    """Return what a remedy changes in an experiment; empty: nothing can be pasted."""
    steps: list[Callable[[Path], None]] = []
    for code in re.findall(r"`([^`]*)`", text):
        if (more := _config(code)) is not None:
            steps.append(lambda home, more=more: write_config(home, more))
    for name, new in re.findall(r"copy the row of `(\w+)` as `(\w+)`", text):
        steps.append(lambda home, name=name, new=new: _copied(home, name, new))
    for code, name in re.findall(r"`([^`{]*=[^`{]*)` for (\w+)", text):
        steps.append(lambda home, name=name, code=code: _turned(home, name, code))
    if match := re.search(r"the cell ((?:[\d.]+ ){5}[\d.]+)", text):
        values = dict(zip(_EMPTIED, match[1].rstrip(".").split(), strict=True))
        steps.append(lambda home: _sample(home, values))
    if match := re.search(r"space group `([^`]*)`", text):
        symbol = match[1]
        steps.append(lambda home: _sample(home, {"space_group": symbol}))
    if "empty its columns a to gamma" in text:
        steps.append(
            lambda home: _sample(home, dict.fromkeys(_EMPTIED, "") | {"space_group": "P 1"})
        )
    return steps


def options(text: str) -> list[str]:
    """Return the options of the import in a remedy, without those that are to be filled in."""
    found = re.findall(r"--option (\w+=[-\w.,:=]+)", text)
    return [one for one in found if not re.search(r"NAME|start|x,y,z|=DEG", one)]


def _config(code: str) -> dict[str, Any] | None:
    """Return a piece of configuration; None: the text is none, or has words to be filled in."""
    if short := re.fullmatch(r"(\w+): (\w+): ([^{}]+)", code):  # a section and its key in one line
        code = f"{short[1]}: {{{short[2]}: {short[3]}}}"
    try:
        more = yaml.safe_load(code)
    except yaml.YAMLError:
        return None
    if not isinstance(more, dict) or not all(isinstance(v, dict) and v for v in more.values()):
        return None
    return None if "..." in code else more


def asks_for_gain(text: str) -> bool:
    """Return True if constants of the detector are asked for, which a user looks up."""
    return bool(
        re.search(r"`import_scan: \{?(gain|offset)|import_scan: gain|set .{0,40}\bgain\b", text)
    )


def _table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    lines = path.read_text().splitlines()
    comments = [x for x in lines if x.startswith("#")]
    reader = csv.DictReader([x for x in lines if not x.startswith("#")], delimiter="\t")
    rows = list(reader)
    return [*comments, "\t".join(reader.fieldnames or ())], rows


def _rewrite(path: Path, change: Callable[[list[dict[str, str]]], None]) -> None:
    head, rows = _table(path)
    change(rows)
    lines = ["\t".join(value or "" for value in row.values()) for row in rows]
    path.write_text("\n".join([*head, *lines]) + "\n")


def rows_of(home: Path) -> list[dict[str, str]]:
    return _table(home / "config" / "scans.tsv")[1]


def _copied(home: Path, name: str, new: str) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        at = next(i for i, row in enumerate(rows) if row["rotation"] == name)
        rows.insert(at + 1, rows[at] | {"rotation": new})

    _rewrite(home / "config" / "scans.tsv", change)


def _turned(home: Path, name: str, settings: str) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        for row in rows:
            if row["rotation"] == name:
                old = dict(x.split("=") for x in row["goniometer"].split())
                both = old | dict(x.split("=") for x in settings.split())
                row["goniometer"] = " ".join(f"{k}={v}" for k, v in both.items())

    _rewrite(home / "config" / "scans.tsv", change)


def _sample(home: Path, values: dict[str, str]) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        for row in rows:
            if row["sample"] == SAMPLE:
                row.update(values)

    _rewrite(home / "config" / "samples.tsv", change)
