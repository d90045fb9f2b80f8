"""Scales of the scans of a sample, from the table of its temperature series."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from hklflow.base.errors import HklflowError

UNKNOWN = 0.1
"""Relative error of a scan without a scale to its parent."""


def scales(path: Path) -> dict[str, tuple[float, float, float]]:
    """Return scale to the parent, its relative error, and ΔB of each scan."""
    found = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                scale, sigma, b = (float(row[x]) for x in ("scale", "scale_sigma", "debye_waller"))
                known = scale == scale
                found[row["scan"]] = (scale, sigma / scale, b) if known else (1.0, UNKNOWN, 0.0)
    except (UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise HklflowError(
            f"{path} is not a table of a temperature series ({error}); delete it and run snakemake"
        ) from error
    return found


def notes(
    scales: Mapping[str, tuple[float, float, float]],
    scans: Sequence[str],
    parent: str,
    purpose: str,
) -> list[str]:
    """Return a sentence if the scale of some scans to their parent is not known."""
    unknown = [scan for scan in scans if scales[scan][1] == UNKNOWN]
    if not unknown:
        return []
    return [
        f"the scale of {', '.join(unknown)} to the parent {parent} is not known: 1 with an error "
        f"of {UNKNOWN:.0%} is used for {purpose}"
    ]
