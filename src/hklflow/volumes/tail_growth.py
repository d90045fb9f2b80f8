"""Growth of the maxima with |G|, which tells displacements from short-range order."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# α, β and the spread describe three A_G however they grow, α and β two.
_FEWEST, _MANY = 3, 4
_FEW_SPREAD = 0.15  # of three A_G
# ln of the odds against three A_G that grow: rods through reflections may look alike.
_FEW_COST = 4.0


class Growth(NamedTuple):
    """A_G = α G² exp(−β G²) instead of α exp(−β G²).

    Attributes
    ----------
    sure : float
        ln of the ratio of the likelihoods.
    decay : float
        β, Å².
    spread : float
        Relative spread of A_G.
    """

    sure: float
    decay: float
    spread: float


def expected(amplitude: Floats, error: Floats, squares: Floats) -> Growth | None:
    """Return how A_G grows; None if A_G is negative, or if there are too few to tell.

    What does not grow with G² does not come from displacements. If there are few, their spread is
    taken for small.
    """
    known = np.isfinite(error)
    if np.count_nonzero(known) < _FEWEST:
        return None
    given = np.log(_FEW_SPREAD) if np.count_nonzero(known) < _MANY else None
    grow, keep = (
        _profile(amplitude[known], error[known], squares[known], n, given) for n in (1, 0)
    )
    if grow is None or keep is None:
        return None
    cost = 0.0 if given is None else _FEW_COST
    return Growth(keep[0] - grow[0] - cost, *grow[1:])


def _profile(
    a: Floats, error: Floats, g: Floats, n: int, given: float | None
) -> tuple[float, float, float] | None:
    """Fit A = α G²ⁿ exp(−β G²); return −ln of the likelihood, β and the relative spread.

    ``given`` is the ln of the spread, if it is not fitted.
    """
    from scipy.optimize import minimize

    power = (g / g.mean()) ** n
    start = float(np.sum(a * power / error**2) / np.sum(power**2 / error**2))
    if start <= 0:
        return None

    def unlikely(x: Floats) -> float:
        mean = start * power * np.exp(np.clip(x[0], -20, 20) - x[1] ** 2 * g)
        spread = x[2] if given is None else given
        total = error**2 + np.exp(np.clip(2 * spread, -12, 4)) * mean**2
        return 0.5 * float(np.sum((a - mean) ** 2 / total + np.log(total)))

    tried = [
        minimize(unlikely, [0.0, 0.1, np.log(s)], method="Nelder-Mead", options={"maxiter": 1000})
        for s in ((0.1, 0.7) if given is None else (0.1,))
    ]
    best = min(tried, key=lambda item: float(item.fun))
    spread = best.x[2] if given is None else given
    return float(best.fun), float(best.x[1] ** 2), float(np.exp(np.clip(spread, -6, 2)))
