r"""Correct spot positions for mosaic spread, which makes spots arcs with skewed rocking curves.

The blocks of a mosaic crystal are rotated against each other about all axes. The vectors Q of all
blocks form a cap. At each angle φ of the scan, the Ewald sphere cuts this cap along the circle
2θ = const. The counts at φ and at the azimuth ψ about the beam depend on the angular distance d
on the cap,

.. math:: N(d; \eta), \quad
   \cos d = \cos\alpha(\phi) \cos\alpha_0 + \sin\alpha(\phi) \sin\alpha_0
   \cos(\psi - \psi(\phi)) ,

where α and ψ are the polar angle and azimuth of the Q of the mean block, and
:math:`\alpha_0 = \pi/2 - \theta`. The spread along the azimuth,
:math:`\sigma_a = \eta / \cos\theta`, moves the centroid towards the beam: the component of the
ray perpendicular to the beam is shorter by the mean of the cosine, :math:`\exp(-\sigma_a^2/2)`.
With a spread of 1° the refined cell is too large by 10⁻⁴.
If α(φ) and ψ(φ) are curved, the centroid is also shifted from the spot of the mean block, along ψ
and to a later frame.

Three spreads on the detector are fitted to the widths of the spots: along the arcs, along the
radius (spread of wavelengths) and in all directions. The spread in φ comes from the rocking curves.
The centroid of an integrated reflection contains only the part of the arc inside its foreground.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import BEAM, Rotation
from hklflow.orientation import sharpness

Floats = NDArray[np.float64]

_FEWEST = 40  # smallest number of peaks to fit three parameters
_WELL = 10.0  # I/σ above which the width of a peak is known to 10 %
_OBLIQUE = 0.6  # limit of the sine of twice the angle between an arc and the pixel rows
_SHARPEST = 0.1  # fraction of the peaks, the sharpest ones, that are assumed to be reflections
_SELDOM = 0.02  # weight of widths above the lower edge of all widths
_DETERMINED = 25.0  # decrease of χ² above which arcs are significant
_ROUNDS = 10
_POINT = 0.1  # pixels², squared width of the smallest possible spot
_LONGEST = 0.2  # radian, limit for the width of a rocking curve in scan angle, divided by its rate
_STEP = 1e-4  # radian, step of the numerical derivatives
UNSURE = 0.3  #: relative error of a displacement, because fits weight the middle of a curve more


class _Directions(NamedTuple):
    """Derivatives of spot positions on the detector, (n, 2) each: (slow, fast), pixels per radian.

    Attributes
    ----------
    along : Floats
        Derivative of the position along the arc by the crystal's rotation (azimuth times cos θ).
    out : Floats
        Derivative of the position along the radius by 2θ.
    """

    along: Floats
    out: Floats


class Displaced(NamedTuple):
    """Displacement of centroids from the spots of the mean block, (n,) each.

    Attributes
    ----------
    slow, fast : Floats
        Displacement on the detector, pixels.
    frame : Floats
        Displacement in frames.
    width : Floats
        Equivalent width of the spot, pixels: the observed width relative to the expected width of
        an arc at this position, times the width of a point-like spot.
    size : Floats
        Observed width of the spot as a rotation of the crystal along the arc, radian.
    rocking : Floats
        Width of the rocking curve as a rotation of the crystal, radian.
    step : Floats
        Rotation of the crystal in a frame, radian.
    spread : float or None
        Mosaic spread of the crystal, radian². None: too few peaks to determine the spread.
    """

    slow: Floats
    fast: Floats
    frame: Floats
    width: Floats
    size: Floats
    rocking: Floats
    step: Floats
    spread: float | None


def displaced(
    rotation: Rotation,
    slow: Floats,
    fast: Floats,
    width_slow: Floats,
    width_fast: Floats,
    width_frame: Floats,
    significance: Floats,
) -> Displaced:
    """Return the displacement of each centroid from the spot of the mean block.

    A peak fit may contain only a part of an arc, for example of an arc oblique to the pixel rows.
    Each spot is therefore corrected with its own width, limited to the spread of the crystal.

    Parameters
    ----------
    rotation : Rotation
    slow, fast, width_slow, width_fast, width_frame : (n,) arrays
        Centroids and standard deviations of the spots, in pixels and frames.
    significance : (n,) array
        Intensity divided by its standard deviation.
    """
    spots = _directions(rotation, slow, fast)
    squares = np.stack([width_slow, width_fast], axis=1) ** 2
    ray = _rays(rotation, slow, fast)
    step = abs(rotation.scan.step) * _rate(rotation, ray)
    rocking = width_frame * step
    widths = _widths(spots, squares, rocking**2, significance)
    spot, spread, radial = widths or (_POINT, 0.0, 0.0)
    long = np.maximum(np.sum(spots.along**2, axis=1), 1e-12)
    arc_square = np.sum(squares - spot, axis=1) / long
    expected = 2 * spot + spread * long + radial * np.sum(spots.out**2, axis=1)
    square = np.clip(np.nan_to_num(arc_square), 0, spread) / _cos_theta(ray) ** 2
    spot_position, late = _mean(rotation, ray, square, rocking, spread)
    return Displaced(
        spot_position[0] - slow,
        spot_position[1] - fast,
        late,
        np.sqrt(np.sum(squares, axis=1) / expected * 2 * spot),
        np.sqrt(np.sum(squares, axis=1) / 2 / long),
        rocking,
        step,
        None if widths is None else spread,
    )


def within(
    rotation: Rotation, slow: Floats, fast: Floats, half: Floats, spread: float, rocking: float
) -> tuple[Floats, Floats, Floats]:
    """Return the displacement of centroids of integrated counts from the spots of the mean block.

    Parameters
    ----------
    rotation : Rotation
    slow, fast : (n,) array
        Positions in pixels.
    half : (n, 2) array
        Half axes of the foregrounds along slow and fast, pixels.
    spread : float
        Mosaic spread of the crystal, radian², see `Displaced`.
    rocking : float
        Standard deviation of rocking curves at ζ = 1, radian.

    Returns
    -------
    slow, fast, frame : (n,) array
    """
    ray = _rays(rotation, slow, fast)
    along = _directions(rotation, slow, fast).along
    with np.errstate(divide="ignore", invalid="ignore"):
        # The ellipsoid ends at |d · along / half| = 1; d is the rotation of the block at this
        # point.
        reach = 1 / np.sqrt(np.sum((along / half) ** 2, axis=1) * max(spread, 1e-12))
    square = spread * _cut(reach) / _cos_theta(ray) ** 2
    spot_position, late = _mean(rotation, ray, square, np.full(len(ray), rocking), spread)
    return spot_position[0] - slow, spot_position[1] - fast, late


def _cut(reach: Floats) -> Floats:
    """Return the mean square (n,) of a Gaussian of width 1 that is cut off at ± reach."""
    from scipy.special import erf

    a = np.clip(np.nan_to_num(reach, nan=10.0), 1e-3, 10.0)
    square: Floats = 1 - a * np.sqrt(2 / np.pi) * np.exp(-(a**2) / 2) / erf(a / np.sqrt(2))
    return square


def _mean(
    rotation: Rotation, ray: Floats, square: Floats, rocking: Floats, spread: float
) -> tuple[tuple[Floats, Floats], Floats]:
    """Return the mean position of arcs in pixels, and their delay in frames.

    Parameters
    ----------
    ray : (n, 3) array
    square : (n,) array
        Mean square of the azimuth, radian².
    rocking : (n,) array
        Standard deviations of the rocking curves, radian of crystal rotation.
    """
    # Other effects also broaden rocking curves: limit the mosaic spread to its value from the arcs.
    late, turned = _rocked(rotation, ray, np.minimum(rocking, np.sqrt(spread)))
    across = ray - np.outer(ray @ BEAM, BEAM)
    aside = np.cross(BEAM, across)
    mean = (np.cos(turned) * np.exp(-square / 2))[:, None] * across
    mean += np.sin(turned)[:, None] * aside
    slow, fast = rotation.detector.intersect(ray + mean - across)
    return (np.asarray(slow), np.asarray(fast)), late


def _rocked(rotation: Rotation, ray: Floats, mosaic: Floats) -> tuple[Floats, Floats]:
    """Return the shift of the mean of rocking curves, in frames (n,) and in azimuth (n,; radian).

    Parameters
    ----------
    ray : (n, 3) array
        Scattered beams.
    mosaic : (n,) array
        Standard deviations of the mosaic spread in radians.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    q = ray - BEAM
    length = np.linalg.norm(q, axis=1)
    axis = rotation.goniometer.scan_axis_lab()
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha = np.arccos(np.clip(-(q @ BEAM) / length, -1, 1))
        rate = (np.cross(axis, q) @ BEAM) / (length * np.sin(alpha))
        # For a very long, curved rocking curve, the spot of the mean block is not defined.
        spread = np.minimum(mosaic / np.abs(rate), _LONGEST * np.abs(rate))
        total, late, turned = np.zeros((3, len(q)))
        across = q - np.outer(q @ BEAM, BEAM)
        aside = np.cross(BEAM, across)
        for x, w in zip(nodes, weights, strict=True):
            angle = x * spread
            rotated = _turned(q, axis, angle)
            polar = np.arccos(np.clip(-(rotated @ BEAM) / length, -1, 1))
            misfit = (polar - alpha) / (spread * np.abs(rate))
            weight = w * np.exp((x**2 - misfit**2) / 2) * np.sqrt(np.sin(alpha) / np.sin(polar))
            azimuth = np.arctan2(np.sum(rotated * aside, axis=1), np.sum(rotated * across, axis=1))
            total += weight
            late += weight * angle
            turned += weight * azimuth
        late, turned = late / total / rotation.scan.step, turned / total
    return np.nan_to_num(late), np.nan_to_num(turned)


def _turned(vectors: Floats, axis: Floats, angle: Floats) -> Floats:
    """Rotate vectors (n, 3) about an axis by angles (n,), radians."""
    along = np.outer(vectors @ axis, axis)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    turned: Floats = along + cos * (vectors - along) + sin * np.cross(axis, vectors)
    return turned


def _rate(rotation: Rotation, ray: Floats) -> Floats:
    """Return the rotation between diffracting blocks per scan angle, for each peak."""
    normal = np.cross(ray, BEAM)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate: Floats = np.abs(normal @ rotation.goniometer.scan_axis_lab()) / np.linalg.norm(
            normal, axis=1
        )
    return np.nan_to_num(rate)


def _widths(
    spots: _Directions, squares: Floats, rocking: Floats, significance: Floats
) -> tuple[float, float, float] | None:
    """Fit spot widths: in all directions (pixels²), along arcs and along the radius (radian²).

    Return None if there are too few peaks.

    Parameters
    ----------
    spots : _Directions
    squares : (n, 2) array
        Squared widths along slow and fast.
    rocking : (n,) array
        Squared widths of the rocking curves, radian² of crystal rotation.
    significance : (n,) array
    """
    from scipy.optimize import nnls

    # Fits along slow and fast miss a part of an arc that is oblique to both directions.
    oblique = 2 * np.abs(np.prod(spots.along, axis=1)) / np.sum(spots.along**2, axis=1)
    columns = (np.ones_like(squares), spots.along**2, spots.out**2)
    design = np.stack(columns, axis=2)
    with np.errstate(invalid="ignore"):
        keep = (significance > _WELL) & (oblique < _OBLIQUE) & np.isfinite(squares).all(axis=1)
    keep &= np.isfinite(design).all(axis=(1, 2))
    if keep.sum() < _FEWEST:
        return None
    rows, wide = design[keep], squares[keep]
    # Diffuse maxima are broad in all directions and may be the majority. The fit therefore begins
    # with the lower edge of the widths, and then uses the narrowest class.
    sharp = np.quantile(rocking[keep], _SHARPEST)
    expected = np.maximum(_POINT + sharp * rows[:, :, 1], _POINT)

    def fitted(weight: Floats) -> Floats:
        w = np.sqrt(weight)[:, None] / expected
        solution: Floats = nnls((rows * w[:, :, None]).reshape(-1, 3), (wide * w).ravel())[0]
        return solution

    for _ in range(_ROUNDS):
        off = wide.sum(axis=1) / expected.sum(axis=1)
        solution_ = fitted(np.where(off > 1, _SELDOM, 1.0))
        expected = np.maximum(rows @ solution_, _POINT)
    used = np.ones(len(rows), np.bool_)
    for _ in range(2):
        off = wide.sum(axis=1) / expected.sum(axis=1)
        size = np.sqrt(off)
        edge = sharpness.gap(size, significance[keep])
        core = sharpness.narrow(size, significance[keep]) if edge is None else size <= edge
        if core is None:
            break
        used = core
        solution_ = fitted(core.astype(np.float64))
        expected = np.maximum(rows @ solution_, _POINT)
    spot, spread, radial = map(float, solution_)
    # The mosaic spread cannot exceed the width of the rocking curves.
    spread = min(spread, float(np.median(rocking[keep])))
    if not _determined(rows[used], wide[used], expected[used], (spot, spread, radial)):
        spread = 0.0
    return max(spot, _POINT), spread, radial


def _determined(
    rows: Floats, wide: Floats, expected: Floats, solution: tuple[float, float, float]
) -> bool:
    """Return True if squared widths (n, 2) fit much worse without the term for arcs."""
    from scipy.optimize import nnls

    w = 1 / expected
    design, target = rows * w[:, :, None], wide * w
    with_arcs = float(np.sum((target - design @ solution) ** 2))
    without = float(nnls(design[:, :, [0, 2]].reshape(-1, 2), target.ravel())[1] ** 2)
    return without - with_arcs > _DETERMINED * with_arcs / target.size


def _rays(rotation: Rotation, slow: Floats, fast: Floats) -> Floats:
    """Return unit vectors (n, 3) of the scattered beams."""
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
        shifted = np.stack(rotation.detector.intersect(ray + _STEP * by), axis=1)
        return (shifted - np.stack([slow, fast], axis=1)) / _STEP

    return _Directions(moved(aside), moved(outward))
