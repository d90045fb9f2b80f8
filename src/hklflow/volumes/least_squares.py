"""Least squares with bounds, for many more residuals than parameters.

Levenberg and Marquardt's method on the normal equations (Marquardt, J. Soc. Ind. Appl. Math. 11,
431, 1963): they take a tenth of the time of a decomposition of the Jacobian. Parameters at a bound
that the gradient pushes outwards are held.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_START, _LEAST = 1e-2, 1e-6  # damping, relative to the diagonal of the normal matrix
_LESS, _MORE = 0.2, 5.0  # its change after a step that helps, and after one that does not


def minimum(
    residuals: Callable[[Floats], Floats],
    jacobian: Callable[[Floats], Floats],
    start: Floats,
    lower: Floats,
    upper: Floats,
    most: int = 40,
    by_sum: float = 1e-5,
    by_step: float = 1e-4,
) -> tuple[float, Floats]:
    """Return the least sum of squares near a start, and its parameters (n,).

    Parameters
    ----------
    residuals, jacobian : callable
        Functions that return the residuals (m,) and their derivatives (m, n). The parameters must
        have a finite curvature everywhere, such as from an expected width.
    start, lower, upper : (n,) arrays
    most : int
        Largest number of evaluations of the residuals.
    by_sum, by_step : float
        The search ends if a step changes the sum by less than this part, or the parameters by less
        than this part of their length.
    """
    x, f = start, residuals(start)
    total, damping, left = float(f @ f), _START, most - 1
    while left > 0:
        slopes = jacobian(x)
        gradient, normal = slopes.T @ f, slopes.T @ slopes
        free = ~(((x <= lower) & (gradient > 0)) | ((x >= upper) & (gradient < 0)))
        if not free.any():
            break
        own = np.ix_(free, free)
        size = np.diag(np.diag(normal)[free])
        while left > 0:
            new = x.copy()
            new[free] -= np.linalg.solve(normal[own] + damping * size, gradient[free])
            new = np.clip(new, lower, upper)
            left -= 1
            f_new = residuals(new)
            total_new = float(f_new @ f_new)
            small = np.linalg.norm(new - x) < by_step * (by_step + np.linalg.norm(x))
            if total_new < total:
                break
            if small:
                return total, x
            damping *= _MORE
        if not total_new < total:
            break
        gain, damping = total - total_new, max(damping * _LESS, _LEAST)
        x, f, total = new, f_new, total_new
        if small or gain < by_sum * total:
            break
    return total, x
