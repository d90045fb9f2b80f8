"""Find another indexing that fits as well: all hkl shifted by one lattice row.

If the stated beam centre is wrong by one row of reflections, the peaks of a short scan can be
indexed with hkl that are all off by one along an axis; the refined beam centre then stays wrong.
The shifted hkl are fitted with the lattice and the beam centre free, and compared.

In rotations at several settings a wrong beam centre shifts hkl by several rows, which no lattice
fits well. If the peaks fit badly, they are therefore indexed again with other beam centres.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation, symmetry
from hklflow.orientation import hypotheses, local_lattice, refinement
from hklflow.orientation.expected import SearchedLattice
from hklflow.orientation.hypotheses import Hypothesis, linear_fit
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks

Floats = NDArray[np.float64]

_FEWEST = 30  # peaks that are needed
_PIXEL = 0.5  # for derivatives
_CLOSE = 3.0  # ratio of the rms in Q up to which shifted indices are refined
_ALIKE = 1.5  # ratio of the reduced χ² up to which two indexings cannot be told apart
_MOST = 0.9  # fraction of the used peaks that the other indexing needs
_DIFFER = 0.5  # fraction of the peaks whose hkl differ in another indexing
_BAD = 4.0  # reduced χ² above which other beam centres are tried
_BETTER = 0.5  # largest ratio of the reduced χ² with which another indexing is right
_STRAIN = 0.1  # between the two lattices: a wrong beam centre deforms the lattice
_TOLERANCE = 0.25  # of h, k and l of an indexed peak


@dataclass(frozen=True)
class Row:
    """Another indexing of the peaks.

    Attributes
    ----------
    axis : (3,) int array
        Added to all hkl.
    shift : (slow, fast)
        Pixels by which the beam centre moves, from the refined one.
    chi2, chi2_as_refined : float
        Reduced χ² of both indexings.
    """

    axis: NDArray[np.int64]
    shift: tuple[float, float]
    chi2: float
    chi2_as_refined: float

    @property
    def is_much_better(self) -> bool:
        """True if the peaks contradict the refined indexing."""
        return self.chi2 < _BETTER * self.chi2_as_refined


def off_by_row(
    refined: Refined, peaks: Sequence[Peaks], group: symmetry.SpaceGroup, free: Sequence[str]
) -> Row | None:
    """Return the indexing with shifted hkl that fits best; None if none fits about as well."""
    chosen = refined.used | refined.held_out
    if chosen.sum() < _FEWEST:
        return None
    hkl = refined.hkl[chosen].astype(np.float64)
    _, _, least = _fit(refined.rotations, peaks, chosen, hkl)
    axes = np.vstack([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])
    fits = [(axis, *_fit(refined.rotations, peaks, chosen, hkl + axis)) for axis in axes]
    rows = []
    for axis, ub, shift, rms in fits:
        if rms > _CLOSE * least or np.linalg.det(ub) <= 0:
            continue
        other = _refined(local_lattice.shifted(refined.rotations, shift), peaks, ub, group, free)
        if other is None or other.used.sum() <= _MOST * refined.used.sum():
            continue
        # A refinement from a nearby start may return to the first indexing.
        differ = np.any(other.hkl != refined.hkl, axis=1)[chosen].mean() > _DIFFER
        if differ and other.chi2 < _ALIKE * refined.chi2:
            rows.append(Row(axis, shift, other.chi2, refined.chi2))
    return min(rows, key=lambda row: row.chi2, default=None)


def other_centre(
    stated: Sequence[Rotation],
    refined: Refined,
    peaks: Sequence[Peaks],
    group: symmetry.SpaceGroup,
    free: Sequence[str],
) -> Refined | None:
    """Return a refinement from another beam centre with new hkl that fits much better; None: none.

    Parameters
    ----------
    stated : sequence of Rotation
        Geometry as imported.
    """
    if refined.chi2 < _BAD:
        return None
    searched = SearchedLattice(refined.cell, group, _TOLERANCE, _STRAIN, refined.indexed.mean())
    fit = hypotheses.fitted(Hypothesis("as stated"), stated, peaks, searched.reaches)
    if fit is None:
        return None
    rotations = fit.hypothesis.applied(stated)
    indexing = searched.index(rotations, peaks, np.ones(sum(len(p.frame) for p in peaks)))
    if indexing is None:
        return None
    other = _refined(rotations, peaks, indexing.ub, group, free)
    enough = other is not None and other.used.sum() > _MOST * refined.used.sum()
    return other if other is not None and enough and other.chi2 < _BETTER * refined.chi2 else None


def _fit(
    rotations: Sequence[Rotation], peaks: Sequence[Peaks], chosen: NDArray[np.bool_], hkl: Floats
) -> tuple[Floats, tuple[float, float], float]:
    """Return UB, shift of the beam centre, and rms in 1/Å of fixed indices (n, 3)."""
    shift = np.zeros(2)

    def g_at(s: Floats) -> Floats:
        moved = local_lattice.shifted(rotations, (float(s[0]), float(s[1])))
        return local_lattice.vectors(moved, peaks)[chosen]

    for _ in range(4):
        g = g_at(shift)
        along = [(g_at(shift + d) - g_at(shift - d)) / (2 * _PIXEL) for d in _PIXEL * np.eye(2)]
        ub, moved = linear_fit(hkl, g, along)
        shift = shift + moved
    g = g_at(shift)
    ub, _ = linear_fit(hkl, g, [])
    rms = float(np.sqrt(np.mean((g - hkl @ ub.T) ** 2)))
    return ub, (float(shift[0]), float(shift[1])), rms


def _refined(
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    ub: Floats,
    group: symmetry.SpaceGroup,
    free: Sequence[str],
) -> Refined | None:
    limits = refinement.RefinementLimits(hkl=0.25, min_fraction=0.3)
    more = [name for name in ("detector_x", "detector_y") if name not in free]
    try:
        return refinement.refine(rotations, peaks, ub, group, free=[*free, *more], limits=limits)
    except HklflowError:  # the cell does not obey the space group, or peaks are lost
        return None
