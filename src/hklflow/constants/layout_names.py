"""Names of raw file layouts: those of hklflow, and plugins (docs/constants.md)."""

from importlib.metadata import entry_points
from typing import Annotated

from pydantic import AfterValidator

GROUP = "hklflow.layouts"
"""Group of the entry points of plugins."""

OURS = {
    "euxfel": "hklflow.constants.layout_euxfel:Euxfel",
    "lab": "hklflow.constants.layout_lab:Lab",
    "jungfrau": "hklflow.constants.layout_jungfrau:Jungfrau",
    "cfel": "hklflow.constants.layout_cfel:Cfel",
}
"""Classes of the layouts in this package, by name."""


def known() -> dict[str, str]:
    """Return the names of all layouts and the class of each; a plugin cannot replace ours."""
    return {point.name: point.value for point in sorted(entry_points(group=GROUP))} | OURS


def _require_known(name: str) -> str:
    if name not in OURS and name not in known():
        raise ValueError(
            f"unknown layout {name!r} of raw files; use {', '.join(known())}, or install the "
            "plugin that reads it"
        )
    return name


LayoutName = Annotated[str, AfterValidator(_require_known)]
"""Name of a layout that is installed."""
