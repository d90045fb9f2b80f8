"""Prepare and evaluate a refinement by another program: starting indices and final quality."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation, lattice, symmetry
from hklflow.geometry.parameters import rotation_vector, tilt
from hklflow.geometry.reduction import strain
from hklflow.orientation.refinement import Refined, Refinement, RefinementLimits, begun, problem_of
from hklflow.orientation.residuals import Peaks, Problem

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_OBEYS = 1e-5  # largest strain of a cell that obeys its space group (rounding in a file)


@dataclass(frozen=True)
class Assigned:
    """Indices of the peaks of all rotations, with which a refinement starts.

    Attributes
    ----------
    ub : (3, 3) array
        UB in 1/Å with 2π. Its orientation is rotated to fit the peaks; its cell obeys the group.
    hkl : (n, 3) int array
        Nearest indices of all peaks.
    indexed : (n,) bool array
    """

    ub: Floats
    hkl: NDArray[np.int64]
    indexed: Mask


def assign(
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    ub: ArrayLike,
    group: symmetry.SpaceGroup,
    *,
    limits: RefinementLimits,
) -> Assigned:
    """Index peaks as `refine` does before its first step, to start a refinement by another program.

    Parameters
    ----------
    rotations, peaks, ub, group, limits
        As for `refine`.

    Raises
    ------
    HklflowError
        If the peaks are too few, or too few of them can be indexed.
    """
    free = ("cell", "orientation")
    setup = begun(rotations, peaks, ub, group, free, None, limits)
    hkl, indexed, _ = setup.select(loose=True)
    return Assigned(setup.problem.parameters.ub_of(setup.values), hkl.astype(np.int64), indexed)


def evaluate(
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    ub: ArrayLike,
    group: symmetry.SpaceGroup,
    start: Sequence[Rotation],
    start_ub: ArrayLike,
    *,
    free: Sequence[str] = ("cell", "orientation"),
    limits: RefinementLimits,
) -> Refined:
    """Return the result and quality of a model that another program refined.

    The model is not changed.

    Parameters
    ----------
    rotations : sequence of Rotation
        Refined geometry.
    peaks : sequence of Peaks
        Peaks of each rotation.
    ub : (3, 3) array
        Refined UB in 1/Å with 2π; its cell obeys ``group``.
    group : SpaceGroup
    start, start_ub
        Start of the refinement, in the same setting; changes are relative to this start.
    free : sequence of str
        Refined groups of parameters, see `parameters.GROUPS`.
    limits : RefinementLimits

    Returns
    -------
    Refined
        No peak is held out, and no step is made; the covariance is computed from the peaks at
        the given model.

    Raises
    ------
    HklflowError
        If the cell does not obey the group, or if `refine` would refuse the result.
    """
    ub = np.asarray(ub, dtype=np.float64)
    problem = problem_of(rotations, peaks, ub, group, free, None, limits)
    u, cell = lattice.decompose_ub(ub)
    deviation = float(strain(lattice.metric(cell), problem.parameters.cell))
    if deviation > _OBEYS:
        raise HklflowError(
            f"the refined cell {' '.join(f'{x:.5g}' for x in cell)} does not obey {group.symbol} "
            f"(strain {deviation:.1e}); refine it with the constraints of its space group"
        )
    judged = Refinement(problem, problem.parameters.start(), limits)
    judged.start_u, start_cell = lattice.decompose_ub(start_ub)
    judged.start_cell = symmetry.constrain_cell(start_cell, group)
    judged.check_start()
    hkl, indexed, usable = judged.select(loose=False)
    result = judged.result(hkl, indexed, usable, usable)
    return replace(
        result,
        cell=cell,
        u=u,
        ub=ub,
        rotations=list(rotations),
        held_out=np.zeros_like(usable),
        rmsd_held_out=None,
        values=_changes(problem, rotations, start, judged.start_u),
    )


def _changes(
    problem: Problem, rotations: Sequence[Rotation], start: Sequence[Rotation], start_u: Floats
) -> Floats:
    """Return the parameters of a model relative to another model of the same crystal."""
    parameters = problem.parameters
    old, new = start[0].detector, rotations[0].detector
    axes = [np.stack([d.slow, d.fast, np.cross(d.slow, d.fast)], 1) for d in (old, new)]
    centre = [d.plane.lab(d.shape[0] / 2, d.shape[1] / 2) for d in (old, new)]
    along = tilt(old.normal)  # axes along which the detector moved, see `Parameters`
    vectors = {
        "u": rotation_vector(parameters.u @ start_u.T),
        "detector": (centre[1] - centre[0]) @ along,
        "detector_rotation": rotation_vector(axes[1] @ axes[0].T) @ along,
    }
    for i, (before, after) in enumerate(zip(start, rotations, strict=True)):
        turn = before.goniometer.rotation(0.0).T @ after.goniometer.rotation(0.0)
        vectors[f"misorientation_{i}"] = rotation_vector(turn)
    table = {
        f"{stem}_{axis}": vector["xyz".index(axis)]
        for stem, vector in vectors.items()
        for axis in "xyz"
    }
    pairs = zip(parameters.names, parameters.start(), strict=True)
    return np.array([table.get(name, value) for name, value in pairs])
