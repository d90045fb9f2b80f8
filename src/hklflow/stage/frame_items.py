"""Raw frames in the configuration: ``17``, ``100-120``, ``r1:17-18``."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _frames(value: str) -> str:
    from hklflow.geometry.left_out import parse

    parse(value)
    return value


FrameItem = Annotated[str, BeforeValidator(_text, int | str), AfterValidator(_frames)]
"""Raw frames in the form of `hklflow.geometry.left_out`; YAML reads a single frame as a number."""
