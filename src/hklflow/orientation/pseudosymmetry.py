"""Choose the right orientation of a lattice that nearly has a higher symmetry.

Example: the lattice of a trigonal crystal is cubic within a tenth of a per cent. Indexing may then
take any of the four cubic diagonals as the trigonal axis, but only one choice has the strain of the
crystal. Spot positions decide if the strain is large enough.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.orientation.refinement import Refined

Floats = NDArray[np.float64]

_DECIDED = 25.0  # difference of χ² divided by the better reduced χ²: five σ
_EXACT = 1e-7  # relative change of a cell that counts as zero
_AS_MANY = 0.9  # smallest number of used peaks, relative to the refinement with the most used peaks


def oriented(
    refined: Refined, operators: Sequence[Floats], refine_from: Callable[[Floats], Refined]
) -> tuple[Refined, int]:
    """Refine each orientation that indexing cannot distinguish, and return the best one.

    Parameters
    ----------
    refined : Refined
        Refinement in one of the orientations.
    operators : sequence of (3, 3) arrays
        Operators from `symmetry.reindexing_operators`.
    refine_from : callable
        Function that repeats the refinement from a UB in 1/Å.

    Returns
    -------
    refined : Refined
        The best refinement.
    open : int
        Number of other orientations that fit equally well.
    """
    refinements = [refined]
    exact = 0
    for operator in operators:
        ub = refined.ub @ operator
        cell = lattice.decompose_ub(ub)[1]
        if np.allclose(cell, refined.cell, rtol=_EXACT, atol=0):
            exact += 1  # the same spots
            continue
        try:
            refinements.append(refine_from(ub))
        except HklflowError:
            continue  # it fits much worse
    most = max(int(refinement.used.sum()) for refinement in refinements)
    rivals = [refinement for refinement in refinements if refinement.used.sum() >= _AS_MANY * most]
    best = min(rivals, key=lambda refinement: refinement.chi2)
    as_good = [
        refinement
        for refinement in rivals
        if 3 * refinement.used.sum() * (refinement.chi2 / best.chi2 - 1) < _DECIDED
    ]
    # Of equal fits take the first: indexing has already compared cell and absences with the
    # expected ones. An exact mate of the crystal fits as well as the best orientation.
    return as_good[0], exact + len(as_good) - 1
