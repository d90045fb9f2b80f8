"""Decide whether a scan still fits the space group, cell and peaks of its parent.

The numbers come from `refine` and `refine_parent`. `hklflow.quality.gates` explains the limits, and
`hklflow.quality.verdict` explains when a scan is doubtful. A parent passes the same gates with its
own numbers: its cell must have the symmetry of its space group. A scan with a fixed orientation and
too few peaks for all gates is doubtful.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.quality import verdict
from hklflow.stage.scan_limits import ScanLimits

VERSION = 9


class Inputs(stage.Inputs):
    orientation: Path
    """Orientation of the scan."""
    parent: Path
    """Orientation of the parent, from the parent's own refinement."""


class Outputs(stage.Outputs):
    accepted: Path
    """Verdict with its sentences, limits and numbers."""


class Settings(ScanLimits):
    """Settings of this stage in the configuration file."""

    on_failure: Literal["stop", "warn"] = "stop"
    """Action for a scan that misses a limit. "stop" fails the scan and all its later products.
    "warn" records that the scan is not accepted, and continues.
    """


class Params(Settings):
    """Settings, and the axis of the series."""

    along: stage.Along = stage.Along()
    """Axis of the series, with the values of the scan and its parent. Along another axis than
    temperature the size of the cell has no limit.
    """


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Judge the scan and write the verdict."""
    scan = stage.read_orientation(inputs.orientation)
    parent = stage.read_orientation(inputs.parent)
    for path, orientation in ((inputs.orientation, scan), (inputs.parent, parent)):
        if "misfit" not in orientation.figures:
            raise HklflowError(f"{path} lacks figures that the gates need; refine that scan again")
    limits = params.limits()
    identity: dict[str, Any] = {
        "sample": scan.sample,
        "scan": scan.scan,
        "temperature": scan.temperature,
        "parent": parent.scan,
        "parent_temperature": parent.temperature,
        "space_group": parent.space_group,
    }
    axis = params.along.axis
    if not axis.is_temperature:
        own, theirs = (
            params.along.placed(one, path).temperature
            for path, one in ((inputs.orientation, scan), (inputs.parent, parent))
        )
        identity |= {"axis": asdict(axis), "value": own, "parent_value": theirs}
    sentences, doubts = verdict.judged(scan.figures, parent.figures, limits, identity)
    if sentences and params.on_failure == "stop":
        raise HklflowError(". ".join(sentences))
    level = verdict.level(sentences, doubts)
    stage.write_json(
        outputs.accepted,
        {
            **identity,
            "verdict": level,
            "accepted": not sentences,
            "sentences": sentences,
            "doubts": doubts,
            "limits": vars(limits),
            "figures": scan.figures,
            "parent_figures": parent.figures,
        },
    )
    print(". ".join([level, *sentences, *doubts]))


if __name__ == "__main__":
    stage.command(main)
