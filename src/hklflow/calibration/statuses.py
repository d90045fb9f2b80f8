"""Status of a version: an append-only list of events; the last event is valid.

An event has a number, and only one process can create it. A process that reads event 2 and then
creates event 3 knows that nothing came between, so a change of the status is checked and made in
one atomic step, without a lock.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from hklflow.base.errors import HklflowError
from hklflow.calibration import disk
from hklflow.calibration.layout import status_numbers

Status = Literal["default", "proposed", "accepted", "rejected", "superseded", "withdrawn"]

FOLLOWING: dict[str, tuple[str, ...]] = {
    "default": (),
    "proposed": ("accepted", "rejected"),
    "accepted": ("superseded", "withdrawn"),
    "rejected": (),
    "superseded": (),
    "withdrawn": (),
}
Event = dict[str, Any]


def now() -> str:
    """Return the time in UTC, ISO 8601, for people: no decision depends on it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def event(status: str, author: str, comments: str, **more: Any) -> Event:
    """Return the content of an event.

    Raises
    ------
    HklflowError
        If the status is unknown, or author or comment are missing.
    """
    if status not in get_args(Status):
        raise HklflowError(f"unknown status {status!r}; use {', '.join(get_args(Status))}")
    for name, text in (("author", author), ("comments", comments)):
        if not text.strip() and (name, status) != ("comments", "default"):
            raise HklflowError(f"{name} of the status {status!r} is empty; say who and why")
    return {
        "status": status,
        "author": author.strip(),
        "comments": comments.strip(),
        "timestamp": now(),
        **more,
    }


def path_of(version: Path, number: int) -> Path:
    """Return the file of an event in a version's folder."""
    return version / "status" / f"{number:04d}.json"


def read(version: Path) -> list[Event]:
    """Read all events of a version, oldest first.

    Raises
    ------
    HklflowError
        If there are no events, or one of them is damaged.
    """
    numbers = status_numbers(version)
    if not numbers:
        raise HklflowError(f"{version / 'status'} has no events")
    return [_read_one(path_of(version, n)) for n in numbers]


def current(version: Path) -> str:
    """Return the status in the last event of a version; errors as in `read`."""
    numbers = status_numbers(version)
    if not numbers:
        raise HklflowError(f"{version / 'status'} has no events")
    return str(_read_one(path_of(version, numbers[-1]))["status"])


def _read_one(path: Path) -> Event:
    data = disk.read_object(path)
    if data.get("status") not in get_args(Status):
        raise HklflowError(f"{path} has no valid status ({data.get('status')!r})")
    return data


def append(version: Path, following: Callable[[str], Mapping[str, Any]]) -> int:
    """Add an event and return its number.

    Parameters
    ----------
    version : Path
        Folder of the version.
    following : callable
        Function: present status -> event. It is called again if another process was faster; an
        error that it raises ends the attempt.
    """
    while True:
        numbers = status_numbers(version)
        content = disk.json_bytes(following(current(version)), "the status")
        target = path_of(version, numbers[-1] + 1)
        if disk.claim_file(target, content):
            return numbers[-1] + 1


def check(name: str, old: str, new: str) -> None:
    """Refuse a change of the status that is not allowed.

    Raises
    ------
    HklflowError
        With the allowed next statuses.
    """
    if new in FOLLOWING[old]:
        return
    can = " or ".join(FOLLOWING[old])
    raise HklflowError(
        f"{name} is {old} and cannot become {new}; "
        + (f"it can become {can}" if can else "this is final: publish a new version instead")
    )
