r"""Spots of a mosaic crystal are arcs that rock skewly, and their centroids are not on them.

Blocks that are turned about an axis across the scattered beam diffract at the same 2θ elsewhere on
the cone: the spot is an arc about the beam with the standard deviation

.. math:: \sigma_a = \eta_a / \cos\theta

of azimuth, and its centroid is nearer to the beam than the place of the mean block: the part of
the ray across the beam is shorter by the mean of cos, :math:`\exp(-\sigma_a^2/2)`. With 1° of
spread cells come out too large by 10⁻⁴. The spread is taken from how wide spots are along the arcs,
beyond what they are in all directions, and along the radius, where wavelengths spread them.

A block is seen when its misfit e(φ) from the Bragg angle is 0. Where e is curved the rocking curve,
a Gaussian in e, is skew in φ: its mean is ahead of the mean block by

.. math:: -\tfrac32 \frac{e''}{e'} \sigma_\phi^2 ,
   \quad e = \arccos(-Q_z/Q) - \arccos(Q/2k) .
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.core.geometry import BEAM, Rotation

Floats = NDArray[np.float64]

_FEWEST = 40  # peaks for three parameters
_WELL = 10.0  # significance of peaks whose width is known to a tenth
_OBLIQUE = 0.6  # sine of twice the angle between arcs and pixels
_SCATTER = 0.3  # relative, of squared widths about what the directions explain
_CURVED = 0.3  # radian: largest e'' / e' times the width that is corrected for
_STEP = 1e-4  # radian, of derivatives


class _Directions(NamedTuple):
    """How spots move on the detector, (n, 2) each, slow and fast: pixels per radian.

    Attributes
    ----------
    along : Floats
        By a turn of the crystal along the arc: azimuth times cos θ.
    out : Floats
        By a change of 2θ.
    """

    along: Floats
    out: Floats


def places(
    rotation: Rotation,
    slow: Floats,
    fast: Floats,
    width_slow: Floats,
    width_fast: Floats,
    significance: Floats,
) -> tuple[Floats, Floats]:
    """Return where the mean block's spots are, of which arcs were fitted.

    A fit that follows a part of an arc, as one that is oblique to the pixels, is off by its part:
    each spot is moved by its own width, up to what the crystal's spread makes.

    Parameters
    ----------
    rotation : Rotation
    slow, fast, width_slow, width_fast : (n,) arrays
        Centroids and standard deviations of the spots, pixels.
    significance : (n,) array
        Intensity over its standard deviation.

    Returns
    -------
    slow, fast : (n,) arrays
        As given where too few peaks are strong.
    """
    spots = _directions(rotation, slow, fast)
    squares = np.stack([width_slow, width_fast], axis=1) ** 2
    spot, spread = _widths(spots, squares, significance)
    own = np.sum(squares - spot, axis=1) / np.maximum(np.sum(spots.along**2, axis=1), 1e-12)
    ray = _rays(rotation, slow, fast)
    square = np.clip(np.nan_to_num(own), 0, spread) / _cos_theta(ray) ** 2
    across = ray - np.outer(ray @ BEAM, BEAM)
    moved = rotation.detector.intersect(ray + np.expm1(square / 2)[:, None] * across)
    return np.asarray(moved[0]), np.asarray(moved[1])


def rocking_shift(rotation: Rotation, slow: Floats, fast: Floats, width: Floats) -> Floats:
    """Return by how many frames (n,) the centroids of spots come after the mean block.

    Parameters
    ----------
    rotation : Rotation
    slow, fast : (n,) arrays
        Pixels.
    width : (n,) array
        Standard deviations of the rocking curves, frames.
    """
    q = rotation.q_lab(slow, fast)
    size = np.linalg.norm(q, axis=1)
    sine = np.minimum(size / (2 * rotation.beam.k), 0.999)
    axis = rotation.goniometer.scan_axis_lab()
    first = np.cross(axis, q) @ BEAM
    second = -(q - np.outer(q @ axis, axis)) @ BEAM
    with np.errstate(divide="ignore", invalid="ignore"):
        curved = second / first - sine / (1 - sine**2) * first / size
        # What is left of the series is as large as its first term where that is not small.
        spread = np.clip(curved * width * rotation.scan.step, -_CURVED, _CURVED)
    shift: Floats = -1.5 * np.nan_to_num(spread) * width
    return shift


def _widths(spots: _Directions, squares: Floats, significance: Floats) -> tuple[float, float]:
    """Find what spots are in all directions, pixels², and along arcs, radian² of the crystal.

    Parameters
    ----------
    spots : _Directions
    squares : (n, 2) array
        Squared widths along slow and fast.
    significance : (n,) array
    """
    from scipy.optimize import nnls

    # Fits along slow and fast lose a part of an arc that is oblique to both.
    oblique = 2 * np.abs(np.prod(spots.along, axis=1)) / np.sum(spots.along**2, axis=1)
    columns = (np.ones_like(squares), spots.along**2, spots.out**2)
    design = np.stack(columns, axis=2)
    with np.errstate(invalid="ignore"):
        keep = (significance > _WELL) & (oblique < _OBLIQUE) & np.isfinite(squares).all(axis=1)
    keep &= np.isfinite(design).all(axis=(1, 2))
    if keep.sum() < _FEWEST:
        return 0.0, 0.0
    rows, wide = design[keep].reshape(-1, 3), squares[keep].ravel()
    expected, weight, found = np.full_like(wide, np.median(wide)), np.ones_like(wide), np.zeros(3)
    for _ in range(10):
        w = weight / expected
        found, _ = nnls(rows * w[:, None], wide * w)
        expected = np.maximum(rows @ found, 1e-3)
        # Overlapping spots and maxima of the diffuse scattering are wider.
        off = np.abs(wide / expected - 1) / _SCATTER
        weight = np.sqrt(np.minimum(1.0, 1.0 / np.maximum(off, 1e-9)))
    return float(found[0]), float(found[1])


def _rays(rotation: Rotation, slow: Floats, fast: Floats) -> Floats:
    """Return unit vectors (n, 3) of the scattered beam."""
    ray: Floats = rotation.q_lab(slow, fast) / rotation.beam.k + BEAM
    return ray


def _cos_theta(ray: Floats) -> Floats:
    return np.sqrt(np.maximum(0.5 * (1 + ray @ BEAM), 1e-12))


def _directions(rotation: Rotation, slow: Floats, fast: Floats) -> _Directions:
    ray = _rays(rotation, slow, fast)
    across = ray - np.outer(ray @ BEAM, BEAM)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = across / np.linalg.norm(across, axis=1)[:, None]
    aside = np.cross(BEAM, across) / _cos_theta(ray)[:, None]
    outward = np.outer(np.linalg.norm(across, axis=1), -BEAM) + unit * (ray @ BEAM)[:, None]

    def moved(by: Floats) -> Floats:
        there = np.stack(rotation.detector.intersect(ray + _STEP * by), axis=1)
        return (there - np.stack([slow, fast], axis=1)) / _STEP

    return _Directions(moved(aside), moved(outward))
