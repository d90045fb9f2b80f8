"""The record of a version: its fields, reading it, and what products keep of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from hklflow.calibration import applies, disk, layout, statuses
from hklflow.calibration.states import is_state_id
from hklflow.errors import HklflowError

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
StateId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


def _expression(text: str) -> str:
    try:
        return applies.parse(text).text
    except HklflowError as error:
        raise ValueError(str(error)) from error


class _Part(BaseModel):
    # Whoever makes a record may say more than this.
    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)


class Artefact(_Part):
    file: Text
    sha256: Sha256


class Input(_Part):
    path: Text
    sha256: Text
    """SHA-256 of the file; "ends:..." if only of its size and both ends."""


class CandidateName(_Part):
    name: Text
    iteration: int = Field(ge=1)


class Donor(_Part):
    stateId: StateId  # noqa: N815  (the names are those of the file)
    version: int = Field(ge=1)


class Calibrant(_Part):
    name: Text
    sha256: Sha256 | None = None
    """SHA-256 of the list of its d-spacings."""
    source: str | None = None


class Gate(_Part):
    name: Text
    value: float | None
    limit: float | None
    passed: bool
    sentence: str | None = None


class Record(_Part):
    """Everything about a version that does not change once it is published."""

    schema_number: Literal[1] = Field(alias="schema")
    kind: Text
    stateId: StateId  # noqa: N815
    version: int = Field(ge=0)
    """The same as in the folder's name and in parameters.json."""
    scan: str | None = None
    """Scan or image that it was made from."""
    runNumber: int | None = Field(None, ge=0)  # noqa: N815
    binning: int | None = Field(None, ge=1)
    appliesTo: Annotated[str, AfterValidator(_expression)] | None  # noqa: N815
    """Scans that it is for; null only for rejected and default versions."""
    author: Text
    comments: Text
    timestamp: AwareDatetime
    """When it was published (UTC). The choice of a version never asks for it."""
    candidate: CandidateName | None = None
    parentVersion: int | None = Field(None, ge=0)  # noqa: N815
    """Version that its refinement started from."""
    copiedFrom: Donor | None = None  # noqa: N815
    calibrant: Calibrant | None = None
    inputs: list[Input] = []
    parametersSha256: Sha256  # noqa: N815
    software: dict[str, str]
    hooks: list[Any] = []
    metrics: dict[str, Any] = {}
    gates: list[Gate] = []
    artefacts: list[Artefact]


OWNED = (
    "schema",
    "kind",
    "stateId",
    "version",
    "appliesTo",
    "author",
    "comments",
    "timestamp",
    "copiedFrom",
    "parametersSha256",
    "artefacts",
)
"""Fields that the store itself fills."""


@dataclass(frozen=True)
class Version:
    """A published version.

    Attributes
    ----------
    kind, state_id : str
    number : int
    path : Path
        Its folder, which never changes (but for its status events).
    record : dict
        Content of record.json.
    status : str
        As it was when this object was made.
    """

    kind: str
    state_id: str
    number: int
    path: Path
    record: dict[str, Any]
    status: str

    @property
    def name(self) -> str:
        """Name of its folder, such as v_0003."""
        return self.path.name

    @property
    def applies_to(self) -> str | None:
        """Scans that it is for."""
        text: str | None = self.record["appliesTo"]
        return text

    def artefact(self, name: str) -> Path:
        """Path of one of its files.

        Raises
        ------
        HklflowError
            If it has no such file.
        """
        files = [item["file"] for item in self.record["artefacts"]]
        if name not in files:
            raise HklflowError(f"{self.path} has no {name}; it has {', '.join(files)}")
        return self.path / name

    def events(self) -> list[dict[str, Any]]:
        """Its status events, oldest first."""
        return statuses.read(self.path)


def validate(record: Mapping[str, Any], where: str) -> None:
    """Check a record against the schema.

    Raises
    ------
    HklflowError
        With everything that is wrong, and ``where`` it stands.
    """
    try:
        Record.model_validate(record)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            place = ".".join(str(part) for part in item["loc"])
            problems.append(f"{place}: {item['msg'].removeprefix('Value error, ')}")
        raise HklflowError(f"{where}: {'; '.join(problems)}") from error


def read_version(path: Path) -> Version:
    """Version of a folder; its files are not hashed.

    Raises
    ------
    HklflowError
        If the record or the status is damaged, or the folder is not where the record says.
    """
    if path.is_symlink():
        raise HklflowError(f"{path} is a symbolic link, not the folder of a version")
    where = path / layout.RECORD
    record = disk.read_object(where)
    validate(record, str(where))
    found = (record["kind"], record["stateId"], record["version"])
    kind, state_id, number = _place(path)
    if number is None or found != (kind, state_id, number):
        raise HklflowError(
            f"{where} is that of version {found[2]} of {found[0]}/{found[1]}, not of this folder"
        )
    return Version(kind, state_id, number, path, record, statuses.current(path))


def _place(path: Path) -> tuple[str, str, int | None]:
    return path.parent.parent.name, path.parent.name, layout.version_number(path.name)


def calibration_of(path: Path) -> dict[str, Any] | None:
    """What a product records of the version that a file belongs to.

    Parameters
    ----------
    path : Path
        A file that was read, such as geometry.json.

    Returns
    -------
    dict or None
        kind, state_id, version, status, applies_to, author, timestamp, sha256 and quality
        ("reduced" with a version that is or was accepted, else "diagnostic"). None if the file
        is in no version's folder.

    Raises
    ------
    HklflowError
        If the file is not the one that was published, or its record is damaged.
    """
    path = path.resolve()
    folder = path.parent
    _, state_id, number = _place(folder)
    if number is None or not is_state_id(state_id):
        return None
    version = read_version(folder)
    known = {item["file"]: item["sha256"] for item in version.record["artefacts"]}
    if path.name not in known:
        raise HklflowError(f"{path} does not belong to {version.name}; take a file of its record")
    found = disk.sha256(path)
    if found != known[path.name]:
        raise HklflowError(
            f"{path} was changed after it was published (sha256 {found[:12]}..., the record says "
            f"{known[path.name][:12]}...); restore it, or publish a new version"
        )
    record = version.record
    return {
        "kind": version.kind,
        "state_id": state_id,
        "version": version.number,
        "status": version.status,
        "applies_to": version.applies_to,
        "author": record["author"],
        "timestamp": record["timestamp"],
        "sha256": found,
        "quality": "reduced" if version.status in ("accepted", "superseded") else "diagnostic",
    }


@cache
def software() -> dict[str, str]:
    """Versions of the programs that a calibration depends on."""
    import platform
    from importlib.metadata import version

    return {"python": platform.python_version()} | {
        name: version(name) for name in ("hklflow", "numpy", "scipy", "pyFAI")
    }
