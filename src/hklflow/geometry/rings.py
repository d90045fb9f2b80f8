"""Rings of equal resolution on a detector."""

import numpy as np

from hklflow.geometry.rotation import Beam, Detector, Floats, directions

#: d-spacings in Å at which rings are drawn.
SPACINGS = (50, 20, 10, 5, 3, 2, 1.5, 1.2, 1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2)
_NODES = 100  # points along each side of the detector where 1/d is calculated
_POINTS = 721  # points of a ring


def inverse_spacing(detector: Detector, beam: Beam, slow: Floats, fast: Floats) -> Floats:
    """Return 1/d in 1/Å, without 2π, of pixel coordinates."""
    along = directions(detector.lab(slow, fast))
    return np.sqrt(np.maximum(2 * (1 - along[..., 2]), 0)) / beam.wavelength


def chosen_spacings(over_d: Floats) -> list[float]:
    """Return three or four d-spacings whose rings are evenly spaced on a detector.

    Parameters
    ----------
    over_d : array
        1/d of points of the whole detector.
    """
    inside = [d for d in SPACINGS if over_d.min() < 1 / d < 0.97 * over_d.max()]
    # Each ring is the nearest to a quarter of the range.
    wanted = np.linspace(over_d.min(), over_d.max(), 5)[1:]
    return sorted({min(inside, key=lambda d: abs(1 / d - at)) for at in wanted if inside})


def rings(detector: Detector, beam: Beam) -> dict[float, Floats]:
    """Return points (n, 2) in slow and fast of the rings of some d-spacings in Å.

    A point that no ray of the ring reaches is NaN; points may be outside of the detector.
    """
    plane = detector.plane
    slow, fast = (np.linspace(0, n, _NODES) for n in detector.shape)
    over_d = inverse_spacing(plane, beam, slow[:, None], fast[None, :])
    around = np.linspace(0, 2 * np.pi, _POINTS)
    found = {}
    for d in chosen_spacings(over_d):
        angle = 2 * np.arcsin(beam.wavelength / (2 * d))
        radius, along = np.sin(angle), np.full(_POINTS, np.cos(angle))
        rays = np.stack([radius * np.cos(around), radius * np.sin(around), along], axis=1)
        found[d] = np.stack(plane.intersect(rays), axis=1)
    return found
