r"""Difference of two measurements, its significance, and the scale between them.

The scale f minimises the sum of ρ(z) with ``z = (a - f b) / √(σ_a² + f² σ_b²)``. Both a and b have
errors; in a plain least-squares fit of a on b, the errors of b would make f too small. The normal
equation is ``Σ w (a - f b) β = 0`` with ``w = ψ(z) / z / (σ_a² + f² σ_b²)``. Instead of b, this
equation contains β, the best estimate of b from both measurements:
``β = (σ_a² b + f σ_b² a) / (σ_a² + f² σ_b²)``. The error of β is independent of the residual
(D. York, Can. J. Phys. 44, 1079, 1966). ψ is Tukey's biweight: voxels that differ by more than 4.7
standard deviations have no weight. If the residuals scatter more than σ, their scatter is used.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

_TUKEY = 4.685  # 95 % of the efficiency of least squares for normal errors


@dataclass
class Tally:
    """Sums over parts of a volume that give the size of the differences."""

    #: Numbers and sums of squares, see `extrema_kernels.subtract`.
    sums: Floats = field(default_factory=lambda: np.zeros(5))

    def figures(self) -> dict[str, float | int | None]:
        """Return rms of difference and σ, and reduced χ² for no difference; None without voxels."""
        measured, judged, difference, sigma, chi2 = self.sums
        return {
            "voxels": int(measured),
            "rms difference": float(np.sqrt(difference / measured)) if measured else None,
            "rms sigma": float(np.sqrt(sigma / measured)) if measured else None,
            "reduced chi2 of no difference": float(chi2 / judged) if judged else None,
        }


def subtract(
    volume: tuple[Singles, Singles], reference: tuple[Singles, Singles], scale: float, tally: Tally
) -> tuple[Singles, Singles, Singles]:
    """Return ``data - scale * reference``, its σ, and the absolute value of their quotient.

    Parameters
    ----------
    volume, reference : two (l, k, h) arrays
        Data and errors.
    tally : Tally
        Gets the sums over these planes.

    Returns
    -------
    data, errors : (l, k, h) arrays
        NaN where either volume is not measured.
    significance : (l, k, h) array
        0 where unknown.
    """
    from hklflow.volumes import extrema_kernels

    out = np.empty((3, *volume[0].shape), np.float32)
    extrema_kernels.subtract(*volume, *reference, scale, *out, tally.sums)
    return out[0], out[1], out[2]


def fit_scale(
    data: Floats, errors: Floats, reference: Floats, reference_errors: Floats
) -> tuple[float, float]:
    """Return the factor that scales the reference to most voxels of the data, and its σ.

    Parameters
    ----------
    data, errors, reference, reference_errors : (n,) arrays
        Independent measurements: only one voxel of each set of equivalent voxels.

    Raises
    ------
    HklflowError
        If there are fewer than 100 measured voxels, or the reference is only noise.
    """
    known = np.isfinite(data) & np.isfinite(reference) & (errors > 0) & (reference_errors > 0)
    a, b, va, vb = (
        x[known].astype(np.float64) for x in (data, reference, errors**2, reference_errors**2)
    )
    if len(a) < 100:
        raise HklflowError(
            f"scale of the difference: {len(a)} voxels are measured in both scans, 100 are "
            "needed; choose a reference that covers the same part of reciprocal space"
        )
    factor = _start(a, b, va, vb)
    for _ in range(100):
        before = factor
        weight = 1 / (va + factor**2 * vb)
        z = (a - factor * b) * np.sqrt(weight)
        wide = max(1.0, float(1.4826 * np.median(np.abs(z))))
        trust = np.square(np.clip(1 - (z / (_TUKEY * wide)) ** 2, 0, None))
        best = weight * (va * b + factor * vb * a)
        bottom = np.sum(trust * weight * b * best)
        # There is no information on the factor.
        if not bottom > 0:
            break
        factor = float(np.sum(trust * weight * a * best) / bottom)
        if abs(factor - before) <= 1e-10 * abs(factor):
            break
    # β² exceeds the square of the true value by the variance of β.
    true = weight * best**2 - va * vb * weight**2
    u2 = (z / (_TUKEY * wide)) ** 2
    slope = np.where(u2 < 1, (1 - u2) * (1 - 5 * u2), 0.0)
    information = float(np.sum(slope * true))
    error = float(np.sqrt(np.sum(weight * (trust * z * best) ** 2)))
    if not factor * information > 3 * error:
        raise HklflowError(
            "scale of the difference: the reference is only noise, so no factor can be fitted; "
            "choose another reference"
        )
    return factor, error / information


def _start(a: Floats, b: Floats, va: Floats, vb: Floats) -> float:
    """Return a first factor: weighted median of the ratios in voxels with a strong reference."""
    strong = b >= np.quantile(b / np.sqrt(vb), 0.5) * np.sqrt(vb)
    strong &= b > 0
    if not strong.any():
        return 1.0
    ratio = a[strong] / b[strong]
    # Weights are limited, so that a few bright reflections do not dominate.
    weight = np.minimum(b[strong] / np.sqrt(va[strong] + vb[strong]), 10.0)
    order = np.argsort(ratio)
    total = np.cumsum(weight[order])
    middle = float(ratio[order][np.searchsorted(total, total[-1] / 2)])
    return middle if middle > 0 else 1.0
