r"""Curves of the intensity of a superlattice reflection against temperature.

With :math:`x = T/T_c`, the intensity below :math:`T_c` is :math:`A\, g(x)^n`, where *n* is the
exponent of the intensity and :math:`g(0) = 1`. Without saturation :math:`g = 1 - x`. Saturation is
one of three:

* by zero-point motion with a temperature θ = s T_c, :math:`g = (1 - \tanh s \coth(s/x)) /
  (1 - \tanh s)` (Salje, Wruck & Thomas, Z. Phys. B 82, 399, 1991);
* of order and disorder, m² of Weiss's equation for two states, :math:`m = \tanh(m/x)`;
* empirical, :math:`g = 1 - x^p` (Lancaster et al., Phys. Rev. B 73, 020410, 2006); p = 4.5 with
  2β = 0.66 follows the three-dimensional Ising model to 0.3 %.

A transition of first order has a jump *j* at :math:`T_c`: :math:`A\,(j + (1 - j)\, g^n)`.

Critical scattering in the box of the reflection is that of Ornstein and Zernike, q² + κ² in the
denominator, integrated in a sphere: :math:`1 - κ \arctan(1/κ)` with κ in units of the radius.
:math:`κ = r\,(|1 - x|/w)^ν` with the exponent ν = 0.63 of the three-dimensional Ising model; *r*
is 1 above :math:`T_c`, and below it 1.96, the ratio of the correlation lengths of this model
(Pelissetto & Vicari, Phys. Rep. 368, 549, 2002). Landau's theory has 1/2 and √2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Nodes and weights of a normal distribution, for errors of temperatures and the smearing of T_c.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_NU, _RATIO = 0.63, 1.96  # of the correlation lengths of the three-dimensional Ising model
_CRITICAL = 0.24  # standard deviation of critical scattering at T_c over the intensity at 0 K
# x and m² of Weiss's equation, in equal steps of atanh m.
_FIELD = np.linspace(12, 1e-4, 4000)
_WEISS_X, _WEISS_SQUARE = np.tanh(_FIELD) / _FIELD, np.tanh(_FIELD) ** 2


@dataclass(frozen=True)
class Shape:
    """What a curve has in addition to a power law below T_c; all relative to T_c.

    Attributes
    ----------
    jump : float
        Part of the intensity at 0 K that is there just below T_c; 0 for a continuous transition.
    saturation : float
        s = θ / T_c; 0 for none.
    two_states : bool
        Saturation of order and disorder instead.
    power : float
        Exponent p of T of the empirical saturation; 1 for none.
    smearing : float
        Standard deviation of T_c in the crystal over T_c.
    critical : float
        Distance from T_c, over T_c, at which κ of the critical scattering is the radius of the
        box; 0 for no critical scattering.
    slope : bool
        The static intensity may change linearly with temperature.
    """

    jump: float = 0.0
    saturation: float = 0.0
    two_states: bool = False
    power: float = 1.0
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
    """Return the intensity of the ordered phase, 1 at 0 K; T, T_c and exponent broadcast."""
    x = np.maximum(temperature, 1e-3) / t_c
    if shape.two_states:
        g = np.where(x < 1, np.interp(x, _WEISS_X, _WEISS_SQUARE), 0.0)
    elif shape.saturation > 0:
        flat = np.tanh(shape.saturation)
        g = (1 - flat / np.tanh(shape.saturation / x)) / (1 - flat)
    else:
        g = 1 - x**shape.power
    ordered = g > 0
    power = np.where(ordered, g, 1.0) ** exponent
    return np.where(ordered, shape.jump + (1 - shape.jump) * power, 0.0)


def widths(shape: Shape) -> Floats:
    """Return what `order_counts.best` knows of the amplitudes of `terms` before the data.

    Critical scattering in the box is a part of the intensity at 0 K. If the sum of all squares
    over the zone is constant (order and disorder), the part is the size of the box over the size of
    the zone, 0.24 for the usual box, because the scattering at T_c goes with 1/q².
    """
    free = np.full(2 + shape.slope, np.inf)
    return np.append(free, _CRITICAL) if shape.critical > 0 else free


def about(temperature: Floats, t_c: Floats, shape: Shape) -> Floats:
    """Return the critical scattering, 1 at T_c; T and T_c broadcast."""
    away = 1 - temperature / t_c
    kappa = (np.abs(away) / shape.critical) ** _NU * np.where(away > 0, _RATIO, 1.0) + 1e-9
    value: Floats = 1 - kappa * np.arctan(1 / kappa)
    return value


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
        columns.append(about(temperature, place, shape))
    return np.stack(columns, axis=-1), variance
