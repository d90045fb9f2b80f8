"""The record of a version: what it says, and the check that it says it."""

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


class Origin(_Part):
    """Candidate that was published; who proposed it and why may stand here, too."""

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
    value: Figure
    limit: Figure
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
    comments: str
    timestamp: AwareDatetime
    """When it was published (UTC). The choice of a version never asks for it."""
    candidate: Origin | None = None
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


class Proposal(_Part):
    """What the record of a candidate says at least."""

    kind: Text
    stateId: StateId  # noqa: N815
    candidate: Origin
    author: Text
    """Who proposed it."""
    timestamp: AwareDatetime
    gates: list[Gate] = []
    artefacts: list[Artefact]
    """Its files, as they were judged."""


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
"""Fields that the store itself fills, whatever it is given."""


def validate(record: Mapping[str, Any], where: str, model: type[BaseModel] = Record) -> None:
    """Check the record of a version, or of what else a model describes.

    Raises
    ------
    HklflowError
        With everything that is wrong, and ``where`` it stands.
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
    """Versions of the programs that a calibration depends on."""
    import platform
    from importlib.metadata import version

    return {"python": platform.python_version()} | {
        name: version(name) for name in ("hklflow", "numpy", "scipy", "pyFAI")
    }
