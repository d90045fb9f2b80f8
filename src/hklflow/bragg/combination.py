"""Scans that are merged to one set of intensities, and what is known about each of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.common_setting import Choice, Lattice
from hklflow.bragg.leave_out import Influence
from hklflow.bragg.observations import Observations
from hklflow.bragg.scaling import Scaling
from hklflow.bragg.structure_factors import Scaled
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """Rules that leave out scans; see the stage `merge_crystals`."""

    automatic: bool
    leave_out: Sequence[str]
    cell_tolerance: float
    least_gain: float
    significance: float


@dataclass(frozen=True)
class Member:
    """One scan with its reflections, which have the scan's own indices.

    ``rotations`` are the names of its rotations, ``spans`` their angles in degrees.
    """

    name: str
    lattice: Lattice
    observed: Observations
    rotations: Sequence[str]
    spans: Sequence[tuple[float, float]]


@dataclass
class Judged:
    """What is known about a scan.

    Attributes
    ----------
    member : Member
    choice : Choice or None
        Indexing in the common setting; None if there is none, or nobody asked.
    strain : float or None
        Largest principal strain of its cell relative to the median cell.
    influence : Influence or None
    reason : str
        Reason why the scan is left out; empty if it is merged.
    """

    member: Member
    choice: Choice | None = None
    strain: float | None = None
    influence: Influence | None = None
    reason: str = ""

    @property
    def merged(self) -> bool:
        """True if the scan is merged."""
        return not self.reason


@dataclass(frozen=True)
class Combination:
    """Scans on one scale.

    Attributes
    ----------
    scans : list of Judged
        All scans, in the given order.
    group : SpaceGroup
    observed : Observations
        Observations of the merged scans in the common setting.
    scaling : Scaling
    rotations : list of str
        Names of the rotations of the merged scans.
    scan_of : (n,) int array
        Number, among the merged scans, of each observation.
    cell, cell_sigma : (6,) arrays
        Mean of the cells of the merged scans, and its error from their scatter.
    warnings : list of str
    """

    scans: list[Judged]
    group: SpaceGroup
    observed: Observations
    scaling: Scaling
    rotations: list[str]
    scan_of: NDArray[np.int64]
    cell: Floats
    cell_sigma: Floats
    warnings: list[str]

    @property
    def merged(self) -> list[Judged]:
        """Scans that are merged."""
        return [one for one in self.scans if one.merged]

    def scaled(self) -> Scaled:
        """Return the scaled observations."""
        return self.scaling.scaled(self.observed)

    def table(self) -> list[dict[str, Any]]:
        """Return one row for each scan, for JSON and pictures."""
        return list(self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        start = 0
        for one in self.scans:
            choice, influence = one.choice, one.influence
            row: dict[str, Any] = {
                "scan": one.member.name,
                "merged": one.merged,
                "reason": one.reason,
                "observations": len(one.member.observed),
                "indices": None if choice is None else choice.indexing.text,
                "correlation": None if choice is None else choice.correlation,
                "other indices": None if choice is None else choice.second,
                "their correlation": None if choice is None else choice.next_correlation,
                "cell": list(one.member.lattice.cell if choice is None else choice.indexing.cell),
                "strain": one.strain,
                "common": None if influence is None else influence.common,
                "CC1/2 with": None if influence is None else influence.cc_half,
                "CC1/2 without": None if influence is None else influence.cc_half_without,
                "delta CC1/2": None if influence is None else influence.delta,
                "gain": None if influence is None else influence.gain,
                "significance": None if influence is None else influence.significance,
                "scale": None,
                "B": None,
            }
            if one.merged:
                stop = start + len(one.member.rotations)
                curves = self.scaling.curves[start:stop]
                row["scale"] = float(np.exp(np.mean([curve.log_scale for curve in curves])))
                row["B"] = float(np.mean([curve.decay for curve in curves]))
                start = stop
            yield row
