"""Halves of the spots refined apart, whose scatter must match the errors claimed.

Spots of odd and of even frames have no photon in common. The difference of the two models over
the errors that both claim is 1 where the errors are true; more where the spots of one frame err
together, or where the model is wrong.
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
    """Two refinements of halves of the spots.

    Attributes
    ----------
    figure : float
        ``sqrt(Δᵀ (C_odd + C_even)⁻¹ Δ / p)`` of all p refined parameters: 1 if errors are true.
    names : tuple of p str
    difference, sigma : (p,) array
        Odd minus even, and what the errors claim for it.
    spots : (odd, even)
        Used by each.
    """

    figure: float
    names: tuple[str, ...]
    difference: Floats
    sigma: Floats
    spots: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "figure": self.figure,
            "spots (odd, even)": list(self.spots),
            "odd minus even": {
                name: {"value": float(value), "sigma": float(sigma)}
                for name, value, sigma in zip(self.names, self.difference, self.sigma, strict=True)
            },
        }


def halves(peaks: Sequence[Peaks]) -> tuple[list[Peaks], list[Peaks]]:
    """Peaks whose centre is in an odd frame, and the others."""
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
    """Refine the peaks of odd and of even frames apart from one start, and compare.

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
    """Difference (p,) of the parameters of two refinements from one start, and covariance."""
    return a.values - b.values, a.covariance + b.covariance
