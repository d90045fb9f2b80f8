"""Which orientation of a nearly more symmetric lattice is right, as far as spots can tell.

Indexing takes a lattice that is cubic to a tenth of a per cent for cubic, and may lay a trigonal
crystal along any of its four diagonals. Only one of them has the crystal's strain where it is.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.orientation.refinement import Refined

Floats = NDArray[np.float64]

_DECIDED = 25.0  # difference of χ², over the reduced one of the better: five σ
_EXACT = 1e-7  # relative change of a cell that is none
_AS_MANY = 0.9  # of the peaks that the best uses


def oriented(
    refined: Refined, operators: Sequence[Floats], refine_from: Callable[[Floats], Refined]
) -> tuple[Refined, int]:
    """Refine with each of the orientations that indexing cannot tell apart, and take the best.

    Parameters
    ----------
    refined : Refined
        With one of them.
    operators : sequence of (3, 3) arrays
        From `symmetry.reindexing_operators`.
    refine_from : callable
        Refines as before, from a UB in 1/Å.

    Returns
    -------
    refined : Refined
        The best.
    open : int
        How many others fit as well.
    """
    found = [refined]
    exact = 0
    for operator in operators:
        ub = refined.ub @ operator
        cell = lattice.decompose_ub(ub)[1]
        if np.allclose(cell, refined.cell, rtol=_EXACT, atol=0):
            exact += 1  # the same spots
            continue
        try:
            found.append(refine_from(ub))
        except HklflowError:
            continue  # it fits far worse
    most = max(int(one.used.sum()) for one in found)
    rivals = [one for one in found if one.used.sum() >= _AS_MANY * most]
    best = min(rivals, key=lambda one: one.chi2)
    as_good = [one for one in rivals if 3 * one.used.sum() * (one.chi2 / best.chi2 - 1) < _DECIDED]
    # Of equals the first: indexing has compared cell and absences with what is expected.
    # An exact mate of the crystal is one of the best as well.
    return as_good[0], exact + len(as_good) - 1
