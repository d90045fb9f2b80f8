r"""Integrate volumes over boxes around points of reciprocal space, above the shell around them.

.. math:: I = \Delta V \sum_{box} \frac{C_v - B M_v}{\bar M_v}, \qquad
          B = \frac{\sum_{shell} C}{\sum_{shell} M}

with the volume ΔV of a voxel in r.l.u.³: the integral of S over (h, k, l), in units of
S × r.l.u.³; times the reciprocal cell's volume it is that over Q. A slope of the background
cancels, for the shell surrounds the box. :math:`\bar M_v` is the mean norm of those of the 27
voxels around v whose norm is within a fifth of v's. With the voxel's own norm the sum would be
one of S, but how many pixel-frames happen to fall in a voxel is as good as random, and the
photons of a reflection sharper than a voxel do not follow it: the intensities would scatter by
the norm's roughness of several per cent. Where the norm steps (a gap, the end of a scan, a
second crossing) voxels beyond the step say nothing of v: a mean with them is off by tens of
per cent. The variance is ``ΔV² (Σ μ / M̄² + (Σ M / M̄)² var(B))`` over the measured voxels of
the box, with the expected counts μ of `transform.estimator`. It is that of the counts alone: for
reflections sharper than a voxel the norm adds its own (`Sums.roughness`), below one per cent
where it is even and up to ten where it steps within the reflection. The tails of a reflection
that is wide against the box are lost, and those in the shell count as background: the box
should reach four standard deviations. S, and so the intensity, is relative to the median
transmission of the scan's first rotation (`images.frame_scale`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.transform import estimator

Floats = NDArray[np.float64]

_ALIKE = 0.2  # relative difference of norms that roughness explains


@dataclass(frozen=True)
class Box:
    """Where a box and its shell are in a volume.

    Attributes
    ----------
    region : (l, k, h) slices
        Of the volume: box and shell.
    inside : (l, k, h) bool array
        Of the region: True in the box, False in the shell.
    voxel : float
        Volume of a voxel in r.l.u.³.
    """

    region: tuple[slice, slice, slice]
    inside: NDArray[np.bool_]
    voxel: float


def box_at(grid: Grid, hkl: ArrayLike, half_width: ArrayLike, shell: int) -> Box | None:
    """Box around a point: all voxels whose centres are within the half-width.

    Parameters
    ----------
    hkl : (3,) array
        May be fractional.
    half_width : (3,) array
        r.l.u.
    shell : int
        Thickness in voxels of the shell around the box.

    Returns
    -------
    Box or None
        None if the shell does not fit in the grid or no voxel's centre is in the box.
    """
    at = (np.asarray(hkl, dtype=np.float64) - grid.first) / grid.step
    reach = np.asarray(half_width, dtype=np.float64) / grid.step + 1e-6
    low = np.ceil(at - reach).astype(int)
    high = np.floor(at + reach).astype(int) + 1
    if np.any(high <= low) or np.any(low < shell) or np.any(high + shell > np.array(grid.shape)):
        return None
    h, k, l = (slice(int(a) - shell, int(b) + shell) for a, b in zip(low, high, strict=True))  # noqa: E741
    n_h, n_k, n_l = (int(n) for n in high - low)
    inside = np.pad(np.ones((n_l, n_k, n_h), dtype=np.bool_), shell)
    return Box((l, k, h), inside, float(np.prod(grid.step)))


@dataclass(frozen=True)
class Sums:
    """What a box and its shell hold.

    ``intensity`` is NaN where too little was measured, as is ``background``, the S of the
    shell; ``norm`` is the sum over the box, ``roughness`` the relative standard deviation of
    the norm of the 27 voxels in its middle (unmeasured ones as 0): the intensity of a
    reflection sharper than a voxel is uncertain by about a sixth of it.
    """

    intensity: float
    norm: float
    background: float
    roughness: float


def sums(box: Box, counts: Floats, norm: Floats, least: float) -> Sums:
    """Integrate one box.

    Parameters
    ----------
    counts, norm : (l, k, h) arrays
        Of the box's region.
    least : float
        Fraction of the box, and half of that of the shell, that must have been measured. What
        is missing in the box counts as background.
    """
    measured = norm > 0
    seen, around = measured & box.inside, measured & ~box.inside
    exposure = float(norm[seen].sum())
    outside = box.inside.size - int(box.inside.sum())
    middle = norm[tuple(slice((n - 1) // 2 - 1, n // 2 + 2) for n in norm.shape)]
    roughness = float(middle.std() / middle.mean()) if middle.any() else float("inf")
    enough = seen.sum() >= least * box.inside.sum() and around.sum() >= 0.5 * least * outside
    if not enough or not around.any():
        return Sums(float("nan"), exposure, float("nan"), roughness)
    background = float(counts[around].sum() / norm[around].sum())
    smooth = _smooth(norm)[seen]
    total = float(np.sum((counts[seen] - background * norm[seen]) / smooth))
    return Sums(box.voxel * total, exposure, background, roughness)


def integrate(
    box: Box, counts: Floats, norm: Floats, least: float, variance: Floats | None = None
) -> tuple[float, float]:
    """Integrated intensity and its standard deviation, S × r.l.u.³; see `sums`.

    With read noise the counts have a ``variance`` of their own.
    """
    result = sums(box, counts, norm, least)
    if np.isnan(result.intensity):
        return result.intensity, result.intensity
    seen, around = (norm > 0) & box.inside, (norm > 0) & ~box.inside
    own = counts if variance is None else variance
    expected, smooth = estimator.expected_counts(own, norm)[seen], _smooth(norm)[seen]
    # A shell without a count still bounds the background at about one.
    shell = max(float(own[around].sum()), 1.0) / float(norm[around].sum()) ** 2
    square = np.sum(expected / smooth**2) + np.sum(norm[seen] / smooth) ** 2 * shell
    return result.intensity, box.voxel * float(np.sqrt(square))


def _smooth(norm: Floats) -> Floats:
    """Mean norm of those among the 27 voxels around each that have about its own; 0 if it has 0."""
    padded = np.pad(norm, 1)
    total, number = np.zeros_like(norm), np.zeros_like(norm)
    for i, j, k in np.ndindex(3, 3, 3):
        other = padded[i : i + norm.shape[0], j : j + norm.shape[1], k : k + norm.shape[2]]
        near = (other > 0) & (np.abs(other - norm) <= _ALIKE * norm)
        total += np.where(near, other, 0.0)
        number += near
    smooth: Floats = total / np.maximum(number, 1.0)
    return smooth
