"""Record of a version: its fields, and their validation."""

from collections.abc import Mapping
from functools import cache
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

from hklflow.base.described import Described
from hklflow.base.errors import HklflowError
from hklflow.calibration import applies

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Figure = float | str | list[float] | None
StateId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


def _expression(text: str) -> str:
    try:
        return applies.parse(text).text
    except HklflowError as error:
        raise ValueError(str(error)) from error


class _Part(Described):
    # A record may have more fields than these.
    model_config = ConfigDict(extra="allow", frozen=True)


class Artefact(_Part):
    file: Text
    sha256: Sha256


class Input(_Part):
    path: Text
    sha256: Text
    """SHA-256 of the file. "ends:..." is a hash of only the size, the start and the end."""


class Origin(_Part):
    """Candidate that was published; further fields may give author and reason of the proposal."""

    name: Text
    iteration: int = Field(ge=1)


class Donor(_Part):
    stateId: StateId  # noqa: N815  (the names are those of the file)
    version: int = Field(ge=1)


class Calibrant(_Part):
    name: Text
    sha256: Sha256 | None = None
    """SHA-256 of the list of d-spacings."""
    source: str | None = None


class Gate(_Part):
    name: Text
    value: Figure
    limit: Figure
    passed: bool
    sentence: str | None = None


class UsedGeometry(_Part):
    """Geometry of the detector during the measurement of a normalisation."""

    name: Text
    """Version (`v_0003`), or the entry of the configuration if the geometry is not in a store."""
    stateId: StateId | None = None  # noqa: N815
    version: int | None = Field(None, ge=0)
    sha256: Sha256


class Record(_Part):
    """Data of a version that do not change after it is published."""

    schema_number: Literal[1] = Field(alias="schema")
    kind: Text
    stateId: StateId  # noqa: N815
    version: int = Field(ge=0)
    """Number of the version; the folder's name and parameters.json have the same number."""
    scan: str | None = None
    """Scan or image used for the calibration."""
    runNumber: int | None = Field(None, ge=0)  # noqa: N815
    binning: int | None = Field(None, ge=1)
    appliesTo: Annotated[str, AfterValidator(_expression)] | None  # noqa: N815
    """Scans that the version applies to; null only for rejected and default versions."""
    author: Text
    comments: str
    timestamp: AwareDatetime
    """Time of publication (UTC); not used for the choice of a version."""
    candidate: Origin | None = None
    parentVersion: int | None = Field(None, ge=0)  # noqa: N815
    """Number of the version with which the refinement started."""
    copiedFrom: Donor | None = None  # noqa: N815
    calibrant: Calibrant | None = None
    geometryVersionUsed: UsedGeometry | None = None  # noqa: N815
    """Geometry under which a normalisation was measured."""
    inputs: list[Input] = Field([])
    parametersSha256: Sha256  # noqa: N815
    software: dict[str, str]
    hooks: list[Any] = Field([])
    metrics: dict[str, Any] = Field({})
    gates: list[Gate] = Field([])
    artefacts: list[Artefact]


class Proposal(_Part):
    """Required fields of the record of a candidate."""

    kind: Text
    stateId: StateId  # noqa: N815
    candidate: Origin
    author: Text
    """Author of the proposal."""
    timestamp: AwareDatetime
    gates: list[Gate] = Field([])
    artefacts: list[Artefact]
    """Files of the candidate, with their hashes at the time of the proposal."""


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
"""Fields that the store itself fills; input values are ignored."""


def validate(record: Mapping[str, Any], where: str, model: type[BaseModel] = Record) -> None:
    """Check the record of a version, or another record with its own model.

    Raises
    ------
    HklflowError
        If the record is not valid; the message lists all problems and the location ``where``.
    """
    try:
        model.model_validate(record)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            place = ".".join(str(part) for part in item["loc"])
            problems.append(f"{place}: {item['msg'].removeprefix('Value error, ')}")
        raise HklflowError(f"{where}: {'; '.join(problems)}") from error


@cache
def software() -> dict[str, str]:
    """Return the versions of the programs that a calibration depends on."""
    import platform
    from importlib.metadata import version

    return {"python": platform.python_version()} | {
        name: version(name) for name in ("hklflow", "numpy", "scipy", "pyFAI")
    }
