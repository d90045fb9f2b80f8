"""Remove peaks that a refinement identifies as diffuse maxima or as a second domain."""

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

_INDEXED = 0.25  # largest deviation of h, k, l of peaks whose position is tested
_DOMAIN_ROUNDS = 4
_ON = 8.0  # limit of χ² for a peak on a lattice, relative to the median χ² of three residuals
_STRAYING = 1.5  # reduced χ² below which all peaks fit
_BETTER = 0.7  # limit relative to the reduced χ²: significant for the 30 or more peaks of a class
_OTHER = "of the other domain of a twin"


def without_maxima(
    observed: Observed,
    refined: refinement.Refined,
    again: Callable[[Observed], refinement.Refined],
) -> tuple[Observed, refinement.Refined, list[str]]:
    """Remove the broader of two classes of peaks, else the peaks displaced from reflections.

    Parameters
    ----------
    refined : Refined
        Refinement with all peaks.
    again : callable
        Function that refines with the given peaks.

    Returns
    -------
    observed : Observed
        Remaining peaks.
    refined : Refined
        Refinement with the remaining peaks.
    notes : list of str
        Note with the number of removed peaks.
    """
    width = np.concatenate(observed.widths)
    significance = np.concatenate([t.significance for t in observed.tables])
    in_image = sharpness.with_pixel(width)
    gap = sharpness.gap(in_image, significance)
    if gap is not None:
        sharp = in_image <= gap
        sharp |= sharpness.broad_reflections(~sharp, *np.concatenate(observed.extents).T)
        if sharp.all():
            return observed, refined, []
        return _within(sharp, f"{width[sharp].max():.2g} pixels", observed, refined, again)
    if refined.chi2 < _STRAYING:
        return observed, refined, []
    core = sharpness.narrow(width, significance)
    if core is None or core.all():
        return observed, refined, []
    try:
        by_core = again(observed.select(core, BROADER))
        if by_core.chi2 > _BETTER * refined.chi2:
            return observed, refined, []  # the fit is not better: widths differ for another reason
        all_peaks = unrefined(by_core.rotations, observed.peaks, by_core.ub, _INDEXED)
        sigma = np.concatenate([p.sigma for p in observed.peaks])
        keep = sharpness.reflections(
            width, core, np.sum((all_peaks.residuals / sigma) ** 2, axis=1)
        )
        if keep.all():
            return observed, refined, []
        fewer = observed.select(keep, BROADER)
        best = again(fewer)
    except HklflowError:
        return observed, refined, []  # too few narrow peaks
    return fewer, best, [_left_out(keep, f"{width[keep].max():.2g} pixels", refined, best)]


def _within(
    keep: NDArray[np.bool_],
    limit: str,
    observed: Observed,
    refined: refinement.Refined,
    again: Callable[[Observed], refinement.Refined],
) -> tuple[Observed, refinement.Refined, list[str]]:
    """Refine with only the peaks (n,) of the narrow class, if they belong to this crystal."""
    if keep.sum() < sharpness.ENOUGH:
        note = (
            f"{np.sum(~keep)} of {len(keep)} peaks are broader than {limit}, {keep.sum()} "
            "narrower: maxima of the diffuse scattering, and too few reflections for a refinement "
            "without maxima; cell and orientation come from the maxima, and their errors are too "
            "small: measure longer, or take them from another scan (`orientation: start`, `fixed`)"
        )
        return observed, refined, [note]
    fewer = observed.select(keep, BROADER)
    try:
        best = again(fewer)
    except HklflowError:
        return observed, refined, []  # noise, or another crystal
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
    """Refine with the peaks of one of two domains whose spots nearly coincide.

    Parameters
    ----------
    rotations : sequence of Rotation
        Imported geometry.
    ub : (3, 3) array
        Lattice that indexes both domains.
    cell : (6,) array
        Expected cell.
    refine_at : callable
        Function that refines with some peaks, from a geometry and a UB.

    Returns
    -------
    tuple or None
        The peaks of the larger domain, their refinement, and the other domain; None if there are
        not two domains.
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
            misfit_first, misfit_second = misfits(first), misfits(second)
            limit = _ON * max(float(np.median(np.minimum(misfit_first, misfit_second))), 1.0)
            mine = observed.select(misfit_first < limit, _OTHER)
            refined = refine_at(mine, rotations, first)
            rotations, first = refined.rotations, refined.ub
            g = observed.q_crystal(rotations)
            u = refinement.realigned(
                g[misfit_second < np.minimum(misfit_first, limit)], _u(second), refined.cell
            )
            second = u @ lattice.b_matrix(refined.cell)
    except HklflowError:
        return None
    keep, other = misfits(first) < limit, misfits(second) < limit
    crystal = leftover.crystal(first, second, keep & ~other, other & ~keep, intensity, group)
    # Two crystals at an arbitrary angle are not domains.
    if crystal is None or not crystal.law or refined.chi2 > _STRAYING:
        return None
    return mine, refined, crystal


def _u(ub: Floats) -> Floats:
    return lattice.decompose_ub(ub)[0]
