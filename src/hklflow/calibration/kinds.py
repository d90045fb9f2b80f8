"""The kinds of calibration in a store, and what is particular to each kind."""

from dataclasses import dataclass
from typing import Literal

OnMissing = Literal["error", "diagnostic"]
"""What to do without an accepted version: stop, or use version 0 for a diagnostic reduction."""


@dataclass(frozen=True)
class Kind:
    """Kind of calibration.

    Attributes
    ----------
    name : str
    section : str
        Section of the configuration with the entries of this kind.
    file : str
        File of a version that the workflow reads.
    proposed_with : str
        Command that proposes a version.
    has_default : bool
        True if version 0 can be used for a diagnostic reduction (`on_missing: diagnostic`).
    """

    name: str
    section: str
    file: str
    proposed_with: str
    has_default: bool


KINDS = {
    kind.name: kind
    for kind in (
        Kind("geometry", "calibrations", "geometry.json", "`hklflow calibration propose`", True),
        Kind("constants", "constants", "constants.nxs", "`snakemake constants`", False),
        Kind(
            "normalization",
            "normalizations",
            "normalization.nxs",
            "`hklflow calibration propose NAME --standard FILE`",
            True,
        ),
    )
}
"""Kinds of calibration by name, in the order in which commands list them."""
