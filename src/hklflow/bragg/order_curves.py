r"""Curves of the intensity of a superlattice reflection against temperature.

Below :math:`T_c` the intensity is :math:`A\, g^n`, where *n* is the exponent of the intensity.
Without saturation :math:`g = 1 - T/T_c`. With a saturation temperature θ (Salje et al., Phys. Chem.
Miner. 18, 180, 1991) :math:`g = 1 - \coth(\theta/T) / \coth(\theta/T_c)`, which is flat at low
temperature. A transition of first order has a jump *j* at :math:`T_c`:
:math:`A\,(j + (1 - j)\, g^n)`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Nodes and weights of a normal distribution, for errors of temperatures and the smearing of T_c.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Shape:
    """What a curve has in addition to a power law below T_c; all relative to T_c.

    Attributes
    ----------
    jump : float
        Part of the intensity at 0 K that is there just below T_c; 0 for a continuous transition.
    saturation : float
        θ / T_c.
    smearing : float
        Standard deviation of T_c in the crystal over T_c.
    critical : float
        Width over T_c of the critical scattering; 0 for none.
    slope : bool
        The static intensity may change linearly with temperature.
    """

    jump: float = 0.0
    saturation: float = 0.0
    smearing: float = 0.0
    critical: float = 0.0
    slope: bool = False


def polynomial(temperature: Floats, degree: int) -> Floats:
    """Return the Bernstein polynomials (n, degree + 1): positive sums are positive curves."""
    from math import comb

    span = max(float(np.ptp(temperature)), 1e-9)
    x = (temperature - temperature.min()) / span
    return np.stack(
        [comb(degree, i) * x**i * (1 - x) ** (degree - i) for i in range(degree + 1)], axis=-1
    )


def below(temperature: Floats, t_c: Floats, exponent: Floats, shape: Shape) -> Floats:
    """Return the intensity of the ordered phase; T, T_c and exponent broadcast."""
    t = np.maximum(temperature, 1e-3)
    if shape.saturation > 0:
        theta = shape.saturation * t_c
        g = 1 - np.tanh(shape.saturation) / np.tanh(theta / t)
    else:
        g = 1 - t / t_c
    ordered = g > 0
    power = np.where(ordered, g, 1.0) ** exponent
    return np.where(ordered, shape.jump + (1 - shape.jump) * power, 0.0)


def terms(
    temperature: Floats, error: Floats, t_c: Floats, exponent: Floats, shape: Shape
) -> tuple[Floats, Floats]:
    """Return the curves whose sum is the intensity, and the variance of the first.

    Parameters
    ----------
    temperature, error : (n,) arrays
        Temperatures and their standard deviations, K.
    t_c, exponent : (g,) arrays

    Returns
    -------
    curves : (g, n, terms) array
        Ordered phase, static intensity (one or two curves), critical scattering.
    variance : (g, n) array
        Variance of the first curve from the errors of the temperatures.
    """
    place, power = t_c[:, None], exponent[:, None]
    smearing = shape.smearing * place
    width = np.sqrt(error**2 + smearing**2)
    variance = np.zeros((len(t_c), len(temperature)))
    if width.any():
        total, square = np.zeros_like(variance), np.zeros_like(variance)
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            value = below(temperature + node * width, place, power, shape)
            total += weight * value
            square += weight * value**2
        # Smearing is the same in all scans: only the part of the errors scatters.
        part = error**2 / np.maximum(width**2, 1e-30)
        variance = np.maximum(square - total**2, 0.0) * part
    else:
        total = below(temperature, place, power, shape)
    static = polynomial(temperature, int(shape.slope))
    columns = [total, *(np.broadcast_to(x, total.shape) for x in static.T)]
    if shape.critical > 0:
        columns.append(1 / (1 + np.abs(temperature / place - 1) / shape.critical))
    return np.stack(columns, axis=-1), variance
