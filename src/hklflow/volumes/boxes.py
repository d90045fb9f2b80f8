r"""Integrate volumes over boxes around points of reciprocal space, above a background.

.. math:: I = \Delta V \sum_{box} \frac{C_v - B M_v}{\bar M_v}, \qquad
          B = \frac{\sum_{shell} C}{\sum_{shell} M}

with the volume ΔV of a voxel in r.l.u.³. I is the integral of S over (h, k, l), in units of
S × r.l.u.³. Multiplied by the volume of the reciprocal cell, I is the integral over Q. The
background comes from a shell around the box, so a slope of the background cancels.

:math:`\bar M_v` is the mean norm of the 27 voxels around v; only voxels whose norm differs from the
norm of v by less than a fifth are used. The norm of v alone is not used, because the number of
pixel-frames in a voxel is nearly random. The photons of a reflection that is sharper than a voxel
do not follow this number, so the intensities would scatter by the roughness of the norm, several
per cent. Voxels beyond a step of the norm (a gap, the end of a scan, a second crossing) must not be
used, because they would change the mean by tens of per cent.

The variance is ``ΔV² (Σ μ / M̄² + (Σ M / M̄)² var(B))`` over the measured voxels of the box, with
the expected counts μ from `transform.estimator`. Only counts contribute to this variance. For
reflections sharper than a voxel the norm adds an error (`Sums.roughness`). This error is below one
per cent where the norm is even, and up to ten per cent where the norm has a step within the
reflection.

Tails outside the box are lost, and tails in the shell count as background. The box should therefore
extend to four standard deviations of the reflection. S and the intensity are relative to the median
transmission of the scan's first rotation (`images.frame_scale`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.transform import estimator

Floats = NDArray[np.float64]

_ALIKE = 0.2  # largest relative difference of norms that roughness can explain


@dataclass(frozen=True)
class Box:
    """A box and its shell in a volume.

    Attributes
    ----------
    region : (l, k, h) slices
        Part of the volume that contains box and shell.
    inside : (l, k, h) bool array
        For each voxel of the region: True in the box, False in the shell.
    voxel : float
        Volume of a voxel in r.l.u.³.
    """

    region: tuple[slice, slice, slice]
    inside: NDArray[np.bool_]
    voxel: float


def box_at(grid: Grid, hkl: ArrayLike, half_width: ArrayLike, shell: int) -> Box | None:
    """Return the box around a point: all voxels whose centres are within the half-width.

    Parameters
    ----------
    hkl : (3,) array
        The point; may be fractional.
    half_width : (3,) array
        Half the width of the box, r.l.u.
    shell : int
        Thickness in voxels of the shell around the box.

    Returns
    -------
    Box or None
        None if the shell does not fit in the grid, or the box contains no voxel centre.
    """
    centre = (np.asarray(hkl, dtype=np.float64) - grid.first) / grid.step
    reach = np.asarray(half_width, dtype=np.float64) / grid.step + 1e-6
    low = np.ceil(centre - reach).astype(int)
    high = np.floor(centre + reach).astype(int) + 1
    if np.any(high <= low) or np.any(low < shell) or np.any(high + shell > np.array(grid.shape)):
        return None
    h, k, l = (slice(int(a) - shell, int(b) + shell) for a, b in zip(low, high, strict=True))  # noqa: E741
    n_h, n_k, n_l = (int(n) for n in high - low)
    inside = np.pad(np.ones((n_l, n_k, n_h), dtype=np.bool_), shell)
    return Box((l, k, h), inside, float(np.prod(grid.step)))


@dataclass(frozen=True)
class Sums:
    """Intensity, norm and background of a box.

    Attributes
    ----------
    intensity : float
        Integral of S above the background; NaN if too little of the box was measured.
    norm : float
        Sum of the norm over the box.
    background : float
        S of the shell; NaN if too little of the shell was measured.
    roughness : float
        Relative standard deviation of the norm of the 27 voxels in the middle of the box
        (unmeasured voxels count as 0). If a reflection is sharper than a voxel, the relative
        uncertainty of its intensity is about one sixth of this roughness.
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
        Arrays of the region of the box.
    least : float
        Smallest measured fraction of the box; the shell needs half this fraction. Unmeasured
        voxels of the box count as background.
    """
    measured = norm > 0
    in_box, in_shell = measured & box.inside, measured & ~box.inside
    exposure = float(norm[in_box].sum())
    outside = box.inside.size - int(box.inside.sum())
    middle = norm[tuple(slice((n - 1) // 2 - 1, n // 2 + 2) for n in norm.shape)]
    roughness = float(middle.std() / middle.mean()) if middle.any() else float("inf")
    enough = in_box.sum() >= least * box.inside.sum() and in_shell.sum() >= 0.5 * least * outside
    if not enough or not in_shell.any():
        return Sums(float("nan"), exposure, float("nan"), roughness)
    background = float(counts[in_shell].sum() / norm[in_shell].sum())
    smooth = _smooth(norm)[in_box]
    total = float(np.sum((counts[in_box] - background * norm[in_box]) / smooth))
    return Sums(box.voxel * total, exposure, background, roughness)


def integrate(
    box: Box, counts: Floats, norm: Floats, least: float, variance: Floats | None = None
) -> tuple[float, float]:
    """Return the integrated intensity and its standard deviation, S × r.l.u.³; see `sums`.

    ``variance``: variance of the counts with read noise. None: the variance equals the counts.
    """
    result = sums(box, counts, norm, least)
    if np.isnan(result.intensity):
        return result.intensity, result.intensity
    in_box, in_shell = (norm > 0) & box.inside, (norm > 0) & ~box.inside
    count_variance = counts if variance is None else variance
    expected, smooth = (
        estimator.expected_counts(count_variance, norm)[in_box],
        _smooth(norm)[in_box],
    )
    # A shell without counts limits the background to about one count.
    shell = max(float(count_variance[in_shell].sum()), 1.0) / float(norm[in_shell].sum()) ** 2
    square = np.sum(expected / smooth**2) + np.sum(norm[in_box] / smooth) ** 2 * shell
    return result.intensity, box.voxel * float(np.sqrt(square))


def _smooth(norm: Floats) -> Floats:
    """Return the mean norm of the 27 voxels around each voxel whose norm is similar; 0 stays 0."""
    padded = np.pad(norm, 1)
    total, number = np.zeros_like(norm), np.zeros_like(norm)
    for i, j, k in np.ndindex(3, 3, 3):
        other = padded[i : i + norm.shape[0], j : j + norm.shape[1], k : k + norm.shape[2]]
        near = (other > 0) & (np.abs(other - norm) <= _ALIKE * norm)
        total += np.where(near, other, 0.0)
        number += near
    smooth: Floats = total / np.maximum(number, 1.0)
    return smooth
