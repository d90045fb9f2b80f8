"""Per-pixel factors of the norm: solid angle, polarisation, sensor efficiency.

A pixel counts ``n ~ Poisson(N S(Q))``. These are the factors of N that depend only on the pixel.
All arrays have the shape (slow, fast).
"""

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Detector

Floats = NDArray[np.float64]

# Number of rows that are processed together; their vectors fit in the cache.
_ROWS = 32


def cos_incidence(detector: Detector) -> Floats:
    """Return the cosine of the angle between the scattered ray and the detector's normal."""
    # Imported here, so that `pixel_area` does not need the compiler.
    from hklflow.geometry import rays

    n_slow, n_fast = detector.shape
    cosine, unit = np.empty(detector.shape), np.empty((_ROWS, n_fast, 3))
    for first in range(0, n_slow, _ROWS):
        part = unit[: n_slow - first]
        rays.directions(detector, first, part)
        np.matmul(part, detector.normal, out=cosine[first : first + _ROWS])
    return cosine


def solid_angle(detector: Detector) -> Floats:
    """Return the solid angle of each pixel relative to a pixel nearest to the sample: cos³ α.

    This follows from ``ΔΩ ∝ cos α / r²`` with ``r = d / cos α``.
    """
    factor = cos_incidence(detector)
    return np.power(factor, 3, out=factor)


def pixel_area(detector: Detector) -> float:
    """Return the solid angle (sr) of the pixel nearest to the sample: ``p_slow p_fast / d²``."""
    return detector.pixel_size[0] * detector.pixel_size[1] / detector.distance**2


def polarization(detector: Detector, fraction: float) -> Floats:
    """Return the polarisation factor ``p (1 - s_x²) + (1 - p) (1 - s_y²)``.

    Parameters
    ----------
    fraction : float
        Fraction p of the intensity with the electric vector along lab x.
    """
    from hklflow.geometry import rays

    return rays.polarization(detector, fraction)


def sensor_efficiency(detector: Detector) -> Floats:
    """Return the absorbed fraction ``1 - exp(-μ t / cos α)`` in the sensor; 1 without a sensor."""
    if detector.sensor_thickness is None or detector.sensor_attenuation is None:
        return np.ones(detector.shape)
    path = detector.sensor_thickness / cos_incidence(detector)
    return -np.expm1(-detector.sensor_attenuation * path)
