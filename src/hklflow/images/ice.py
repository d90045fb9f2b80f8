"""Ice in the frames of a crystal: all its powder rings together.

Ice is what most often comes during a rotation, and most of its rings are too weak, or too near to
each other, to be found one by one. Their places are known.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Q = np.array([1.611, 1.716, 1.822, 2.354, 2.795, 3.030, 3.222, 3.271])
"""Strong rings of hexagonal ice, 1/Å: 100, 002, 101, 102, 110, 103, 200, 112."""
STRENGTH = np.array([1.0, 0.55, 0.6, 0.2, 0.45, 0.35, 0.1, 0.3])
SIGNIFICANT = 3.4
"""Least height over its error. In simulations without ice it is below 2.3, in one with pixels of
0.105 1/Å 3.0; with ice as high as 10 % of the level in half of the frames above 3.7."""
_NARROWEST = 0.02  # 1/Å, standard deviation of a ring
_SHARPEST = 0.8  # pixels, the same
_ALIKE = 6.0  # bins whose deviations are correlated
_FEWEST = 45  # bins
_NORMAL = 0.455  # median of the square of a normal deviate


class Ice(NamedTuple):
    """Heights of the strongest ring over the level between the reflections.

    Attributes
    ----------
    heights : list of float
        In consecutive parts of the rotation.
    ranges : list of (float, float)
        Ranges of |Q| with rings, 1/Å.
    """

    heights: list[float]
    ranges: list[tuple[float, float]]


def width(pixel: float) -> float:
    """Return the standard deviation of a ring, 1/Å."""
    return max(_NARROWEST, _SHARPEST * pixel)


def pattern(q: Floats, pixel: float) -> Floats:
    """Return the rings of ice, the strongest about 1, at values of |Q| (1/Å)."""
    away = (q[:, None] - Q) / width(pixel)
    return np.asarray(np.exp(-(away**2) / 2) @ STRENGTH)


def height(expected: Floats, excess: Floats, error: Floats, level: Floats) -> tuple[float, float]:
    """Return the height of the rings over the level, and over its own error.

    Parameters
    ----------
    expected : (n,) array
        Excess of the rings alone.
    excess, error, level : (n,) arrays
        Measured excess and its error, and level between the reflections; NaN: not known.
    """
    use = np.isfinite(expected) & np.isfinite(excess) & (error > 0)
    if np.count_nonzero(use) < _FEWEST or not expected[use].any():
        return 0.0, 0.0
    weight, shape = error[use] ** -2.0, expected[use]
    size = float(weight @ (shape * excess[use]) / (weight @ shape**2))
    spread = float(np.median((excess[use] - size * shape) ** 2 * weight)) / _NORMAL
    deviation = np.sqrt(_ALIKE * spread / (weight @ shape**2))
    middle = float(np.median(level[use]))
    if not middle > 0:
        return 0.0, 0.0
    return size / middle, size / max(float(deviation), 1e-300)
