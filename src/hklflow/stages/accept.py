"""Decide whether a scan still fits its parent's space group, cell and peaks.

The figures are those that `refine` and `refine_parent` left; see `hklflow.core.gates`
for the limits. A parent passes the same gates against its own figures: its cell must
have the symmetry that its space group says. A fixed orientation with too few peaks for any
gate passes, and the verdict says so.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hklflow import stage
from hklflow.core import gates
from hklflow.errors import HklflowError

VERSION = 1


class Inputs(stage.Inputs):
    orientation: Path
    """Orientation of the scan."""
    parent: Path
    """Orientation of its parent, as the parent's own refinement left it."""


class Outputs(stage.Outputs):
    accepted: Path
    """Verdict, sentences, limits and figures."""


class Params(stage.Params):
    on_failure: Literal["stop", "warn"] = "stop"
    """What happens to a scan that misses a limit: "stop" fails it and everything made of it,
    "warn" records that it is not accepted and goes on."""
    max_unindexed_rise: float = Field(0.15, ge=0, le=1)
    """By how much the fraction of unindexed peaks may exceed the parent's."""
    max_absent: float = Field(0.02, ge=0, le=1)
    """By how much the fraction of peaks on systematically absent reflections may exceed the
    parent's."""
    min_absent_peaks: int = Field(3, ge=1)
    """Fewer peaks on absent reflections than this are not counted against a scan."""
    min_z: float = Field(5.0, gt=0)
    """Standard deviations by which a relation of the cell, as a = b, must be broken to count;
    also how many are allowed to a change of the cell."""
    min_strain: float = Field(2e-4, ge=0)
    """Relative size (of an angle: radians) that a broken relation must have to count: errors of
    the geometry mimic smaller ones."""
    max_expansion: float = Field(1e-4, ge=0)
    """Largest credible linear thermal expansion in 1/K; scans without a temperature are not tested
    for it."""
    min_jump: float = Field(1e-4, ge=0)
    """Relative change of a cell axis that is allowed at equal temperature."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Judge, write."""
    scan, parent = stage.read_json(inputs.orientation), stage.read_json(inputs.parent)
    for path, data in ((inputs.orientation, scan), (inputs.parent, parent)):
        if "symmetry" not in data:
            raise HklflowError(f"{path} has no figures of the symmetry; refine that scan again")
    limits = gates.Limits(**params.model_dump(exclude={"on_failure"}))
    identity = {
        "sample": scan["sample"],
        "scan": scan["scan"],
        "temperature": scan["temperature"],
        "parent": parent["scan"],
        "parent_temperature": parent["temperature"],
        "space_group": parent["space_group"],
    }
    untested = gates.untested(scan["symmetry"], parent["symmetry"], identity)
    sentences = gates.failures(scan["symmetry"], parent["symmetry"], limits, identity)
    if sentences and params.on_failure == "stop":
        raise HklflowError(". ".join(sentences))
    stage.write_json(
        outputs.accepted,
        {
            **identity,
            "accepted": not sentences,
            "sentences": sentences,
            "warnings": [untested] if untested else [],
            "limits": vars(limits),
            "figures": scan["symmetry"],
            "parent_figures": parent["symmetry"],
        },
    )
    if sentences:
        print(". ".join(["not accepted", *sentences]))
    else:
        print("accepted" if untested is None else f"accepted: {untested}")


if __name__ == "__main__":
    stage.command(main)
