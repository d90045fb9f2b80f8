"""Test of error bars: refine two halves of the spots separately and compare the results.

Spots of odd and of even frames have no photon in common. The difference of the two models, divided
by the combined error bars, is 1 if the error bars are right. The ratio is larger if the errors of
spots on the same frame are correlated, or if the model is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Rotation
from hklflow.geometry.symmetry import SpaceGroup
from hklflow.orientation.refinement import Refined, RefinementLimits, refine
from hklflow.orientation.residuals import Peaks

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Congruence:
    """Comparison of two refinements of halves of the spots.

    Attributes
    ----------
    figure : float
        ``sqrt(Δᵀ (C_odd + C_even)⁻¹ Δ / p)`` for all p refined parameters: 1 if error bars are
        right.
    names : tuple of p str
    difference, sigma : (p,) array
        Parameters from odd frames minus parameters from even frames, and the expected standard
        deviation of this difference.
    spots : (odd, even)
        Number of spots used in each half.
    """

    figure: float
    names: tuple[str, ...]
    difference: Floats
    sigma: Floats
    spots: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return {
            "figure": self.figure,
            "spots (odd, even)": list(self.spots),
            "odd minus even": {
                name: {"value": float(value), "sigma": float(sigma)}
                for name, value, sigma in zip(self.names, self.difference, self.sigma, strict=True)
            },
        }


def halves(peaks: Sequence[Peaks]) -> tuple[list[Peaks], list[Peaks]]:
    """Split the peaks into two parts: centre in an odd frame, centre in an even frame."""
    odd = [np.floor(p.frame).astype(np.int64) % 2 == 1 for p in peaks]
    return (
        [p.select(use) for p, use in zip(peaks, odd, strict=True)],
        [p.select(~use) for p, use in zip(peaks, odd, strict=True)],
    )


def congruence(
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    ub: Floats,
    group: SpaceGroup,
    *,
    free: Sequence[str],
    limits: RefinementLimits,
) -> Congruence:
    """Refine the peaks of odd and of even frames separately from the same start, and compare.

    Raises
    ------
    HklflowError
        If a half cannot be refined.
    """
    odd, even = (
        refine(rotations, half, ub, group, free=free, limits=limits) for half in halves(peaks)
    )
    difference, covariance = compared(odd, even)
    size = difference @ np.linalg.solve(covariance, difference)
    return Congruence(
        float(np.sqrt(size / len(difference))),
        odd.names,
        difference,
        np.sqrt(np.diag(covariance)),
        (int(odd.used.sum()), int(even.used.sum())),
    )


def compared(a: Refined, b: Refined) -> tuple[Floats, Floats]:
    """Return the difference (p,) of the parameters of two refinements, and its covariance."""
    return a.values - b.values, a.covariance + b.covariance
