"""Status of a version: a list of events, which can only be appended; the last event is valid.

Events are numbered, and only one process can create an event with a given number. If a process has
read event 2 and can create event 3, no other event was created between. A change of the status is
therefore checked and made in one atomic step, without a lock.
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
    """Return the time in UTC, ISO 8601; it is only for reading: no choice depends on the time."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def event(status: str, author: str, comments: str, **more: Any) -> Event:
    """Return the content of an event.

    Raises
    ------
    HklflowError
        If the status is unknown, or the author or the comment is missing.
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
        Function that takes the present status and returns the event. It is called again if another
        process was faster. If it raises an error, no event is added.
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
        If the change is not allowed; the message lists the allowed changes.
    """
    if new in FOLLOWING[old]:
        return
    can = " or ".join(FOLLOWING[old])
    raise HklflowError(
        f"{name} is {old} and cannot become {new}; "
        + (f"it can become {can}" if can else "this is final: publish a new version instead")
    )
