"""Publish a version: its folder is built completely, then renamed to the next free number."""

import os
import pwd
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_no_pipe
from hklflow.calibration import applies, disk, layout, records, statuses, versions
from hklflow.calibration.kinds import KINDS
from hklflow.calibration.states import State
from hklflow.calibration.versions import Version


def write_version(
    root: Path,
    state: State,
    files: Mapping[str, Path],
    record: Mapping[str, Any],
    event: Mapping[str, Any],
    *,
    applies_to: str | None,
    number: int | None = None,
    donor: Mapping[str, Any] | None = None,
) -> Version:
    """Publish a version with its first status event; history and index are left to the caller.

    Parameters
    ----------
    root : Path
    state : State
    files : mapping
        Maps each file name in the version's folder to the file that is copied there.
    record : mapping
        Data for the record of the version.
    event : mapping
        First status event.
    applies_to : str or None
    number : int, optional
        Required number of the version; None: the next free number.
    donor : mapping, optional
        Original of a copied version: state and number.

    Raises
    ------
    HklflowError
        If something is missing, malformed or not writable. Nothing is published in this case.
    """
    kind, state_id, status = state.kind, state.id, event["status"]
    _check(state, files, record, status)
    parameters = disk.read_object(files[layout.PARAMETERS]) if layout.PARAMETERS in files else {}
    folder = layout.store_path(root, kind, state_id)
    with disk.telling(str(folder)), disk.temporary(folder) as new:
        disk.make_folder(new / "status")
        disk.write(statuses.path_of(new, 1), disk.json_bytes(event, "the status"))
        disk.sync(new / "status")
        copied = {
            name: disk.copy(source, new / name)
            for name, source in files.items()
            if name != layout.PARAMETERS
        }
        known = {
            **record,
            "schema": 1,
            "kind": kind,
            "stateId": state_id,
            "binning": state.values.get("binning"),
            "appliesTo": None if applies_to is None else applies.parse(applies_to).text,
            **{name: event[name] for name in ("author", "comments", "timestamp")},
            "copiedFrom": donor,
            "software": {**records.software(), **record.get("software", {})},
        }
        while True:
            taken = layout.version_numbers(folder)
            free = max(taken, default=0) + 1 if number is None else number
            _number(new, free, known, parameters, copied)
            target = layout.store_path(root, kind, state_id, version=free)
            if disk.claim_folder(new, target):
                break
            if number is not None:
                raise HklflowError(f"{target} exists: another process has just created it")
    return versions.numbered(root, kind, state_id, free)


def _check(state: State, files: Mapping[str, Path], record: Mapping[str, Any], status: str) -> None:
    disk.check_sources(files)
    needed = [] if status == "default" else [layout.PARAMETERS]
    if status not in ("default", "rejected"):
        needed += [KINDS[state.kind].file] if state.kind in KINDS else []
    if missing := [name for name in needed if name not in files]:
        raise HklflowError(
            f"a {state.kind} calibration needs {' and '.join(missing)}; add the missing file"
        )
    for name, expected in (("kind", state.kind), ("stateId", state.id)):
        if record.get(name, expected) != expected:
            raise HklflowError(
                f"{name} of the record is {record[name]}, not {expected}; use its state"
            )


def _number(
    new: Path,
    number: int,
    known: Mapping[str, Any],
    parameters: Mapping[str, Any],
    copied: Mapping[str, str],
) -> None:
    """Write the two files that contain the version number; repeated for each number tried."""
    path = new / layout.PARAMETERS
    disk.write(path, disk.json_bytes({**parameters, "version": number}, layout.PARAMETERS))
    sums = {**copied, layout.PARAMETERS: disk.sha256(path)}
    record = {
        **known,
        "version": number,
        "parametersSha256": sums[layout.PARAMETERS],
        "artefacts": [{"file": name, "sha256": sums[name]} for name in sorted(sums)],
    }
    records.validate(record, "record")
    disk.write(new / layout.RECORD, disk.json_bytes(record, "record"))
    disk.sync(new)


def check_audit(root: Path, kind: str, state_id: str) -> None:
    """Check that the history of a state can be written, before a version is changed."""
    path = layout.store_path(root, kind, state_id, file=layout.AUDIT)
    require_no_pipe(path)
    with disk.telling(str(path)), suppress(FileNotFoundError):  # the first line creates it
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def audit_published(root: Path, version: Version, event: Mapping[str, Any]) -> None:
    """Add to the history that a version was published, with the hash of its record."""
    donor = version.record.get("copiedFrom")
    more: dict[str, Any] = {"copiedFrom": donor} if donor else {}
    more["recordSha256"] = disk.sha256(version.path / layout.RECORD)
    where = (version.kind, version.state_id)
    audit(root, *where, event["status"], event, version=version.number, **more)


def audit(
    root: Path, kind: str, state_id: str, action: str, event: Mapping[str, Any], **more: Any
) -> None:
    """Add a line to the history of a state: author, action, time and reason."""
    path = layout.store_path(root, kind, state_id, file=layout.AUDIT)
    line = {
        "timestamp": event["timestamp"],
        "action": action,
        "author": event["author"],
        "comments": event["comments"],
        "user": _user(),
        **more,
    }
    with disk.telling(f"this is done ({action}), but {path}", "write there that it is done"):
        disk.append_line(path, line)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a user of a container without a name
        return str(os.getuid())
