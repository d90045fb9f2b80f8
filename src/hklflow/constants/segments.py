"""Segments of a ramp, as written in the configuration or on a command line."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _paired(value: Any) -> Any:
    """Group the values of a command line into pairs."""
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return [value[i : i + 2] for i in range(0, len(value), 2)]
    return value


Segments = Annotated[
    tuple[tuple[Annotated[int, Field(ge=1)], Annotated[float, Field(gt=0)]], ...],
    BeforeValidator(_paired),
]
"""Segments of a ramp: pairs [number of frames, increment]."""
