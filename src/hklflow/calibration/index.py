"""Index of a state's versions, and the check of a whole store.

The index is only a cache: no version is chosen with it. It is computed only from records and status
events, so that every computation gives the same bytes.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.calibration import candidates, disk, layout, statuses
from hklflow.calibration.states import state_id as id_of
from hklflow.calibration.versions import read_version

_KEPT = (
    "version",
    "binning",
    "appliesTo",
    "author",
    "comments",
    "timestamp",
    "scan",
    "runNumber",
    "parentVersion",
    "copiedFrom",
    "candidate",
)


@dataclass
class Report:
    """Actions of `reindex`, done or planned."""

    rebuilt: list[Path] = field(default_factory=list)
    """Indexes that were absent or out of date."""
    removed: list[Path] = field(default_factory=list)
    """Temporary files of writers that no longer run."""
    problems: list[str] = field(default_factory=list)
    """One sentence for each version that cannot be read; the index omits these versions."""
    dry_run: bool = False

    @property
    def lines(self) -> list[str]:
        """The report as sentences."""
        would = "would be " if self.dry_run else ""
        return [
            *(f"{path}: {would}written again" for path in self.rebuilt),
            *(f"{path}: {would}removed, its writer is dead" for path in self.removed),
            *self.problems,
        ]


def content(root: Path, kind: str, state_id: str) -> dict[str, Any]:
    """Compute the index of one state from its records."""
    folder = layout.store_path(root, kind, state_id)
    versions, unreadable = [], []
    for number in layout.version_numbers(folder):
        try:
            version = read_version(layout.store_path(root, kind, state_id, version=number))
        except HklflowError:
            unreadable.append(number)
        else:
            versions.append(
                {name: version.record[name] for name in _KEPT if name in version.record}
                | {"status": version.status}
            )
    return {
        "schema": 1,
        "kind": kind,
        "stateId": state_id,
        "versions": versions,
        "unreadable": unreadable,
    }


def write(root: Path, kind: str, state_id: str) -> None:
    """Write the index again, unless another process is writing it.

    After writing, the index is checked again: another process may have published a version in the
    meantime and left the work to this process.
    """
    path = layout.store_path(root, kind, state_id, file=layout.INDEX)
    with disk.telling(str(path), "run `hklflow calibration reindex`"):
        while True:
            before = _stamp(path.parent)
            with disk.alone(path.parent) as alone:
                if not alone:
                    return
                data = content(root, kind, state_id)
                disk.replace_file(path, disk.json_bytes(data, str(path)))
            if _stamp(path.parent) == before:
                return


def _stamp(folder: Path) -> list[tuple[int, list[int]]]:
    """Return the numbers of all versions and of their events; nothing is ever removed from it."""
    return [
        (number, layout.status_numbers(folder / f"v_{number:04d}"))
        for number in layout.version_numbers(folder)
    ]


def reindex(root: Path, dry_run: bool) -> Report:
    """Write outdated indexes, remove files of writers that ended, report unreadable versions."""
    report = Report(dry_run=dry_run)
    for kind, state_id in layout.state_folders(root):
        folder = layout.store_path(root, kind, state_id)
        report.problems += _record_problems(folder)
        path = folder / layout.INDEX
        true = disk.json_bytes(content(root, kind, state_id), str(path))
        if not path.is_file() or path.read_bytes() != true:
            report.rebuilt.append(path)
            if not dry_run:
                write(root, kind, state_id)
        for left in sorted(folder.rglob(f"{layout.TEMPORARY}*")):
            if disk.abandoned(left):
                report.removed.append(left)
                if not dry_run:
                    disk.remove(left)
    return report


def _record_problems(folder: Path) -> Iterator[str]:
    for number in layout.version_numbers(folder):
        try:
            read_version(folder / f"v_{number:04d}")
        except HklflowError as error:
            yield str(error)


def verify(root: Path) -> list[str]:
    """Return a sentence for each change in a store; the hash of every file is checked."""
    if not root.is_dir():
        what = "is not a folder" if os.path.lexists(root) else "does not exist"
        return [f"the store {root} {what}; correct its path, or run `hklflow calibration init`"]
    problems: list[str] = []
    for kind, state_id in layout.state_folders(root):
        folder = layout.store_path(root, kind, state_id)
        problems += _state_problems(folder)
        for path in sorted(folder.glob("v_*")):
            if layout.version_number(path.name) is None:
                problems.append(
                    f"{path} is not a valid name of a version; use v_0001, or move it away"
                )
            else:
                problems += _version_problems(path)
        problems += candidates.problems(root, kind, state_id)
        problems += _audit_problems(folder / layout.AUDIT)
        index = folder / layout.INDEX
        true = disk.json_bytes(content(root, kind, state_id), str(index))
        if not index.is_file() or index.read_bytes() != true:
            problems.append(f"{index} is not up to date; run `hklflow calibration reindex`")
    return problems


def _state_problems(folder: Path) -> Iterator[str]:
    path = folder / layout.STATE
    try:
        state = disk.read_object(path)
    except HklflowError as error:
        yield str(error)
        return
    if id_of(state.get("canonical", {})) != folder.name:
        yield f"{path} does not belong to the state {folder.name}: it was changed or moved"


def _version_problems(path: Path) -> Iterator[str]:
    try:
        version = read_version(path)
    except HklflowError as error:
        yield str(error)
        return
    yield from _event_problems(path)
    known = {item["file"]: item["sha256"] for item in version.record["artefacts"]}
    for name, sha256 in known.items():
        file = path / name
        if not file.is_file():
            yield f"{file} is missing; restore it, or withdraw version {version.number}"
        elif disk.sha256(file) != sha256:
            yield f"{file} was changed after it was published; restore it"
    for file in sorted(path.iterdir()):
        if file.name not in {*known, layout.RECORD, "status"}:
            yield f"{file} is not in the record of its version; move it away"
    parameters = path / layout.PARAMETERS
    if known.get(layout.PARAMETERS) != version.record["parametersSha256"]:
        yield f"the hash of {parameters} does not match parametersSha256 in record.json"
    elif parameters.is_file():
        try:
            number = disk.read_object(parameters).get("version")
        except HklflowError as error:
            yield str(error)
            return
        if number != version.number:
            yield f"{parameters} has version {number}, but its folder is version {version.number}"


def _event_problems(path: Path) -> Iterator[str]:
    numbers = layout.status_numbers(path)
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"{path / 'status'} lacks events: it has only {', '.join(map(str, numbers))}"
    try:
        events = statuses.read(path)
        for before, after in pairwise(events):
            statuses.check(str(path), before["status"], after["status"])
    except HklflowError as error:
        yield str(error)


def _audit_problems(path: Path) -> Iterator[str]:
    lines = path.read_bytes().splitlines() if path.is_file() else []
    events: Counter[int] = Counter()
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            yield f"{path}, line {number} is not JSON: its writer was interrupted"
            continue
        if not isinstance(entry, dict):
            yield f"{path}, line {number} is not a JSON object; restore it"
        elif isinstance(version := entry.get("version"), int):
            events[version] += 1
            record = path.parent / f"v_{version:04d}" / layout.RECORD
            known = entry.get("recordSha256")  # absent in older lines
            if known is not None and record.is_file() and disk.sha256(record) != known:
                yield f"{record} was changed after it was published; restore it"
    there = layout.version_numbers(path.parent)
    for version, count in events.items():
        folder = path.parent / f"v_{version:04d}"
        if version not in there:
            yield f"{folder} is missing, but {path.name} lists it; restore it"
        elif len(layout.status_numbers(folder)) < count:
            yield f"{folder / 'status'} lacks events: {path.name} lists {count}; restore them"
