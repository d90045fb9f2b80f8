"""Paths of all files in the store of calibrations."""

import re
from pathlib import Path

from hklflow.base.errors import HklflowError
from hklflow.base.values import NAME
from hklflow.calibration.states import is_state_id

_NAME = re.compile(NAME)
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_KIND = re.compile(r"[a-z][a-z0-9]*")
_VERSION = re.compile(r"v_([0-9]{4,9})")
_COUNT = re.compile(r"([0-9]{2,9})")
_STATUS = re.compile(r"([0-9]{4,9})\.json")

STATE = "state.json"
INDEX = "CalibrationIndex.json"
AUDIT = "audit.jsonl"
RECORD = "record.json"
PARAMETERS = "parameters.json"
TEMPORARY = ".tmp-"


def store_path(
    root: Path,
    kind: str,
    state_id: str,
    *,
    version: int | None = None,
    status: int | None = None,
    candidate: str | None = None,
    iteration: int | None = None,
    file: str | None = None,
) -> Path:
    """Return the path of any file or folder in a store; parts that are None are omitted.

    Raises
    ------
    HklflowError
        If a name is not valid for a file or folder.

    Examples
    --------
    >>> def show(**what):
    ...     path = store_path(Path("calibration"), "geometry", "0f1e2d3c4b5a6978", **what)
    ...     print(path.as_posix())
    >>> show(file="state.json")
    calibration/geometry/0f1e2d3c4b5a6978/state.json
    >>> show(file="CalibrationIndex.json")
    calibration/geometry/0f1e2d3c4b5a6978/CalibrationIndex.json
    >>> show(file="audit.jsonl")
    calibration/geometry/0f1e2d3c4b5a6978/audit.jsonl
    >>> show(candidate="lab6", iteration=1, file="geometry.json")
    calibration/geometry/0f1e2d3c4b5a6978/candidates/lab6/01/geometry.json
    >>> show(version=0)
    calibration/geometry/0f1e2d3c4b5a6978/v_0000
    >>> show(version=1, file="record.json")
    calibration/geometry/0f1e2d3c4b5a6978/v_0001/record.json
    >>> show(version=1, file="geometry.json")
    calibration/geometry/0f1e2d3c4b5a6978/v_0001/geometry.json
    >>> show(version=1, status=2)
    calibration/geometry/0f1e2d3c4b5a6978/v_0001/status/0002.json
    """
    if not _KIND.fullmatch(kind):
        raise HklflowError(f"calibration kind {kind!r}: use only lower-case letters and digits")
    if not is_state_id(state_id):
        raise HklflowError(
            f"state {state_id!r} is not an id of 16 hexadecimal digits; "
            "`hklflow calibration states` lists them"
        )
    path = root / kind / state_id
    if version is not None:
        path /= f"v_{version:04d}"
        if status is not None:
            return path / "status" / f"{status:04d}.json"
    elif candidate is not None:
        path = path / "candidates" / check_name(candidate, "candidate")
        if iteration is not None:
            path /= f"{iteration:02d}"
    return path if file is None else path / check_file(file)


def check_name(name: str, what: str) -> str:
    """Return the name of a candidate if it is valid.

    Raises
    ------
    HklflowError
        If the name contains characters that are not allowed in names of samples and scans.
    """
    if not _NAME.fullmatch(name):
        raise HklflowError(
            f"{what} {name!r} may only have letters, digits, '.', '+' and '-' (it names a folder)"
        )
    return name


def check_file(name: str) -> str:
    """Return the name of a file if it is valid in a version's folder; else HklflowError."""
    if not _FILE.fullmatch(name):
        raise HklflowError(
            f"file {name!r} may only have letters, digits, '.', '_', '+' and '-', and no folder"
        )
    return name


def version_number(name: str) -> int | None:
    """Return the number in the name of a version's folder; None for other names."""
    match = _VERSION.fullmatch(name)
    return int(match[1]) if match and name == f"v_{int(match[1]):04d}" else None


def version_numbers(folder: Path) -> list[int]:
    """Return all version numbers in a state's folder, increasing; also of damaged versions."""
    return _numbers(folder, _VERSION)


def status_numbers(version: Path) -> list[int]:
    """Return the numbers of a version's status events, increasing."""
    return _numbers(version / "status", _STATUS)


def iteration_numbers(candidate: Path) -> list[int]:
    """Return the numbers of a candidate's iterations, increasing."""
    return _numbers(candidate, _COUNT)


def _numbers(folder: Path, form: re.Pattern[str]) -> list[int]:
    try:
        names = [entry.name for entry in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(match[1]) for name in names if (match := form.fullmatch(name)))


def state_folders(root: Path) -> list[tuple[str, str]]:
    """Return (kind, state id) of every state in a store, sorted."""
    return sorted(
        (kind.name, state.name)
        for kind in (root.iterdir() if root.is_dir() else ())
        if _KIND.fullmatch(kind.name) and kind.is_dir()
        for state in kind.iterdir()
        if is_state_id(state.name) and state.is_dir()
    )
