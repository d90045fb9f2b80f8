"""Errors of cell and orientation from the geometry that a scan takes from its parent.

A scan refines cell and orientation with the detector and the heads of its parent. An error of this
geometry moves the refined parameters, but not by their own standard deviations. Its covariance C
adds ``G C Gᵀ`` with ``G = (AᵀA)⁻¹AᵀB``, where A and B are the derivatives of the weighted residuals
by the refined and by the inherited parameters. For the peaks of the parent itself, the sum is the
covariance of its joint refinement (inverse of a partitioned matrix).

Scans of one parent share this error: differences between their cells almost do not contain it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Rotation, symmetry
from hklflow.geometry.parameters import Parameters, tilt
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks, Problem

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Inheritance:
    """Geometry that a scan takes from its parent, with the errors of the parent.

    Attributes
    ----------
    names : tuple of n str
        Refined parameters of the parent, see `geometry.parameters.Parameters`.
    covariance : (n, n) array
        Their covariance.
    first : Rotation
        First rotation of the parent.
    detectors : tuple of bool
        For each rotation of the scan: True if it has the detector of the parent.
    heads : tuple of int or None
        For each rotation of the scan: number of the rotation of the parent whose head it has.
    """

    names: tuple[str, ...]
    covariance: Floats
    first: Rotation
    detectors: tuple[bool, ...]
    heads: tuple[int | None, ...]


@dataclass(frozen=True)
class InheritedErrors:
    """Parts of the covariances of a scan.

    Attributes
    ----------
    cell : (6, 6) array
        In Å and degrees.
    orientation : (3, 3) array
        Of the rotation about the axes of the goniometer's frame, in degrees².
    """

    cell: Floats
    orientation: Floats

    @classmethod
    def none(cls) -> "InheritedErrors":
        """Return the errors of a scan that inherits nothing."""
        return cls(np.zeros((6, 6)), np.zeros((3, 3)))


def inherited_errors(
    refined: Refined, peaks: Sequence[Peaks], group: symmetry.SpaceGroup, parent: Inheritance
) -> InheritedErrors:
    """Return the errors of cell and orientation that come from the geometry of the parent.

    Parameters
    ----------
    refined : Refined
        Refinement of cell and orientation, and maybe more, with this geometry.
    peaks : sequence of Peaks
        Peaks of each rotation.
    group : SpaceGroup
        Space group whose constraints the refined cell obeys.
    """
    names, chosen = _carried(refined, parent)
    if not names:
        return InheritedErrors.none()
    parameters = Parameters(
        (*refined.names, *names),
        symmetry.cell_constraints(group),
        refined.cell,
        refined.u,
        tuple(refined.rotations),
    )
    # Of the refined parameters, `refined.rotations` lack only the offsets of the crystal.
    values, n = parameters.start(), len(refined.names)
    offsets = np.array([name.startswith("off_centre") for name in refined.names])
    values[:n][offsets] = refined.values[offsets]
    problem, rows = Problem(parameters, peaks), np.nonzero(refined.used)[0]
    jacobian = problem.jacobian(values, refined.hkl[rows].astype(np.float64), rows)
    own, inherited = jacobian[:, :n], jacobian[:, n:]
    other = ~np.array(parent.detectors)[problem.which[rows]]
    of_detector = np.array([name.startswith("detector") for name in names])
    inherited[np.ix_(np.repeat(other, 3), of_detector)] = 0
    scale = np.linalg.norm(own, axis=0)
    moves = np.linalg.lstsq(own / scale, inherited, rcond=None)[0] / scale[:, None] @ chosen
    covariance = moves @ parent.covariance @ moves.T
    to_cell = parameters.cell_jacobian()[:, :n]
    turn = slice(refined.names.index("u_x"), refined.names.index("u_x") + 3)
    return InheritedErrors(
        to_cell @ covariance @ to_cell.T, np.degrees(1.0) ** 2 * covariance[turn, turn]
    )


def _carried(refined: Refined, parent: Inheritance) -> tuple[list[str], Floats]:
    """Return the m inherited parameters, and their derivatives (m, n) by those of the parent."""
    same_axes = _axes(refined.rotations[0]).T @ _axes(parent.first)
    stems = [(stem, stem, same_axes) for stem in ("detector", "detector_rotation")]
    stems += [
        (f"misorientation_{i}", f"misorientation_{j}", np.eye(3))
        for i, j in enumerate(parent.heads)
        if j is not None and f"misorientation_{i}_x" not in refined.names
    ]
    names: list[str] = []
    rows = [np.zeros((0, len(parent.names)))]
    for mine, theirs, turn in stems:
        same = [[float(name == f"{theirs}_{axis}") for name in parent.names] for axis in "xyz"]
        if np.any(same):
            names += [f"{mine}_{axis}" for axis in "xyz"]
            rows.append(turn @ np.array(same))
    return names, np.vstack(rows)


def _axes(rotation: Rotation) -> Floats:
    """Return the axes of the parameters of a detector, along its slow, fast and normal axes."""
    detector = rotation.detector
    axes: Floats = np.array([detector.slow, detector.fast, detector.normal]) @ tilt(detector.normal)
    return axes
