"""Peaks that a refinement shows to be of another kind: diffuse maxima, and a second domain."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice, symmetry
from hklflow.orientation import refinement, sharpness
from hklflow.orientation.unrefined import unrefined
from hklflow.stage.orientation.observed import BROADER, Observed

if TYPE_CHECKING:
    from hklflow.orientation import leftover

Floats = NDArray[np.float64]

_INDEXED = 0.25  # largest deviation of h, k, l of peaks whose place is looked at
_DOMAIN_ROUNDS = 4
_ON = 8.0  # times the median of χ² of three residuals, within which a peak is on a lattice
_STRAYING = 1.5  # reduced χ² below which all peaks are where they should be
_BETTER = 0.7  # of that: well beyond chance for the thirty peaks that a class has at least
_OTHER = "of the other domain of a twin"


def without_maxima(
    observed: Observed,
    refined: refinement.Refined,
    again: Callable[[Observed], refinement.Refined],
) -> tuple[Observed, refinement.Refined, list[str]]:
    """Leave out the broader of two classes of peaks, else those beside their reflections.

    Parameters
    ----------
    refined : Refined
        By all peaks.
    again : callable
        Refines by the peaks it is given.

    Returns
    -------
    observed : Observed
    refined : Refined
    notes : list of str
        How many were left out.
    """
    width = np.concatenate(observed.widths)
    significance = np.concatenate([t.significance for t in observed.tables])
    gap = sharpness.gap(width, significance)
    if gap is not None:
        return _within(width <= gap, f"{gap:.2g} pixels", observed, refined, again)
    if refined.chi2 < _STRAYING:
        return observed, refined, []
    core = sharpness.narrow(width, significance)
    if core is None or core.all():
        return observed, refined, []
    try:
        by_core = again(observed.select(core, BROADER))
        if by_core.chi2 > _BETTER * refined.chi2:
            return observed, refined, []  # they are no better placed: it is something else
        found = unrefined(by_core.rotations, observed.peaks, by_core.ub, _INDEXED)
        sigma = np.concatenate([p.sigma for p in observed.peaks])
        keep = sharpness.reflections(width, core, np.sum((found.residuals / sigma) ** 2, axis=1))
        if keep.all():
            return observed, refined, []
        fewer = observed.select(keep, BROADER)
        best = again(fewer)
    except HklflowError:
        return observed, refined, []  # too few are narrow
    return fewer, best, [_left_out(keep, f"{width[keep].max():.2g} pixels", refined, best)]


def _within(
    keep: NDArray[np.bool_],
    limit: str,
    observed: Observed,
    refined: refinement.Refined,
    again: Callable[[Observed], refinement.Refined],
) -> tuple[Observed, refinement.Refined, list[str]]:
    """Refine by the peaks (n,) of the narrow class alone, if they are this crystal's."""
    if keep.sum() < sharpness.ENOUGH:
        note = (
            f"{np.sum(~keep)} of {len(keep)} peaks are broader than {limit}, {keep.sum()} "
            "narrower: maxima of the diffuse scattering, and too few reflections to refine by "
            "alone; cell and orientation are those of the maxima, off by more than they say: "
            "measure longer, or take them from another scan (`orientation: start`, `fixed`)"
        )
        return observed, refined, [note]
    fewer = observed.select(keep, BROADER)
    try:
        best = again(fewer)
    except HklflowError:
        return observed, refined, []  # noise, or of another crystal
    return fewer, best, [_left_out(keep, limit, refined, best)]


def _left_out(
    keep: NDArray[np.bool_], limit: str, refined: refinement.Refined, best: refinement.Refined
) -> str:
    return (
        f"{np.sum(~keep)} of {len(keep)} peaks are broader than {limit}: maxima of the diffuse "
        "scattering, which were left out "
        f"(reduced chi² {refined.chi2:.3g} with them, {best.chi2:.3g} without)"
    )


def separated(
    observed: Observed,
    rotations: Sequence[geometry.Rotation],
    ub: Floats,
    group: symmetry.SpaceGroup,
    cell: ArrayLike,
    refine_at: Callable[[Observed, Sequence[geometry.Rotation], Floats], refinement.Refined],
) -> "tuple[Observed, refinement.Refined, leftover.Crystal] | None":
    """Refine by the peaks of one of two domains whose spots nearly coincide.

    Parameters
    ----------
    rotations : sequence of Rotation
        Geometry as imported.
    ub : (3, 3) array
        The lattice that indexes both.
    cell : (6,) array
        Expected.
    refine_at : callable
        Refines by some peaks, from a geometry and a UB.

    Returns
    -------
    tuple or None
        The peaks of the larger domain, their refinement, and the other domain; None where there
        are no two.
    """
    from hklflow.orientation import domains, leftover

    intensity = np.concatenate(observed.intensities)
    sigma = np.concatenate([p.sigma for p in observed.peaks])
    both = domains.pair(ub, observed.q_crystal(rotations), intensity, cell, group)
    if both is None:
        return None

    def misfits(other: Floats) -> Floats:
        residuals = unrefined(rotations, observed.peaks, other, _INDEXED).residuals
        size = np.sum((residuals / sigma) ** 2, axis=1)
        return np.where(np.isfinite(size), size, np.inf)

    first, second = both.first, both.second
    try:
        for _ in range(_DOMAIN_ROUNDS):
            mine, theirs = misfits(first), misfits(second)
            limit = _ON * max(float(np.median(np.minimum(mine, theirs))), 1.0)
            refined = refine_at(observed.select(mine < limit, _OTHER), rotations, first)
            rotations, first = refined.rotations, refined.ub
            g = observed.q_crystal(rotations)
            u = refinement.realigned(g[theirs < np.minimum(mine, limit)], _u(second), refined.cell)
            second = u @ lattice.b_matrix(refined.cell)
    except HklflowError:
        return None
    keep, other = misfits(first) < limit, misfits(second) < limit
    crystal = leftover.crystal(first, second, keep & ~other, other & ~keep, intensity, group)
    # Two crystals at any angle are no domains.
    if crystal is None or not crystal.law or refined.chi2 > _STRAYING:
        return None
    return observed.select(keep, _OTHER), refined, crystal


def _u(ub: Floats) -> Floats:
    return lattice.decompose_ub(ub)[0]
