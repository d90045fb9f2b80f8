"""Growth of the maxima with |G|, which tells displacements from short-range order."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SURE = 1.0  # in ln of the likelihood


def expected(
    amplitude: Floats, error: Floats, squares: Floats
) -> tuple[float, float, float] | None:
    """Return how sure A_G = α G² exp(−β G²) is, β, and the relative spread of A_G.

    Sure, in ln of the likelihood: against A_G = α exp(−β G²). None if α is not positive, or if it
    is not sure: what does not grow with G² does not come from displacements.
    """
    known = np.isfinite(error)
    grow, keep = (_profile(amplitude[known], error[known], squares[known], n) for n in (1, 0))
    if grow is None or keep is None or grow[0] > keep[0] - _SURE:
        return None
    return keep[0] - grow[0], *grow[1:]


def _profile(a: Floats, error: Floats, g: Floats, n: int) -> tuple[float, float, float] | None:
    """Fit A = α G²ⁿ exp(−β G²); return −ln of the likelihood, β and the relative spread."""
    from scipy.optimize import minimize

    power = (g / g.mean()) ** n
    start = float(np.sum(a * power / error**2) / np.sum(power**2 / error**2))
    if start <= 0:
        return None

    def unlikely(x: Floats) -> float:
        mean = start * power * np.exp(np.clip(x[0], -20, 20) - x[1] ** 2 * g)
        total = error**2 + np.exp(np.clip(2 * x[2], -12, 4)) * mean**2
        return 0.5 * float(np.sum((a - mean) ** 2 / total + np.log(total)))

    tried = [
        minimize(unlikely, [0.0, 0.1, np.log(s)], method="Nelder-Mead", options={"maxiter": 1000})
        for s in (0.1, 0.7)
    ]
    best = min(tried, key=lambda item: float(item.fun))
    return float(best.fun), float(best.x[1] ** 2), float(np.exp(np.clip(best.x[2], -6, 2)))
