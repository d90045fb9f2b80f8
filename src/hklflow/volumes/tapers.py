"""Tapers that reduce S(Q) to zero at the end of the data, and their resolution in r."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError

Floats = NDArray[np.float64]

Kind = Literal["tukey", "hann", "lorch", "gaussian", "none"]

#: Value of the Gaussian at q_max, where it is cut.
GAUSSIAN_END = 0.01


@dataclass(frozen=True)
class Taper:
    """Weight w(|Q|) of S(Q), 0 beyond ``q_max``.

    Attributes
    ----------
    kind : str
        Form of w, with t = |Q| / q_max. tukey: 1 up to t = flat, then half a cosine down to 0.
        hann: tukey with flat = 0. lorch: sin(πt)/πt (Lorch, J. Phys. C 2, 229, 1969). gaussian:
        decreases to 0.01 at q_max. none: 1.
    q_max : float
        End of the taper, 1/Å.
    flat : float
        Value of t up to which tukey is 1, from 0 to 1; other kinds ignore it.
    """

    kind: Kind
    q_max: float
    flat: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.q_max) and self.q_max > 0):
            raise HklflowError(
                f"q_max is {self.q_max} 1/Å; the taper needs a positive value: set `pdf: q_max` in "
                "the configuration"
            )

    def __call__(self, q: ArrayLike) -> Floats:
        """Return the weights at |Q| in 1/Å."""
        t = np.asarray(q, dtype=np.float64) / self.q_max
        if self.kind in ("tukey", "hann"):
            flat = self.flat if self.kind == "tukey" else 0.0
            down = np.clip((t - flat) / max(1 - flat, 1e-12), 0, 1)
            w = 0.5 * (1 + np.cos(np.pi * down))
        elif self.kind == "lorch":
            w = np.sinc(t)
        elif self.kind == "gaussian":
            w = np.exp(np.log(GAUSSIAN_END) * t * t)
        else:
            w = np.ones_like(t)
        # The weight of a voxel exactly at q_max must not depend on rounding.
        return np.where(t <= 1 + 1e-9, w, 0.0)

    def resolution_function(self, r: ArrayLike) -> Floats:
        """Return the image of a point at distance r (Å), ∫ w cos(Q·r) d³Q/(2π)³, in 1/Å³."""
        r = np.asarray(r, dtype=np.float64)
        # w is smooth except at the end of the flat part of the Tukey window, so two pieces are
        # integrated.
        knot = self.flat if self.kind == "tukey" and 0 < self.flat < 1 else 0.5
        n = 64 + int(self.q_max * r.max(initial=0.0))
        node, weight = np.polynomial.legendre.leggauss(n)
        total = np.zeros_like(r)
        for low, high in ((0.0, knot), (knot, 1.0)):
            q = self.q_max * (low + (high - low) * (node + 1) / 2)
            dq = self.q_max * (high - low) / 2 * weight
            kernel = np.sinc(np.multiply.outer(r, q) / np.pi)
            total += kernel @ (dq * q * q * self(q))
        return total / (2 * np.pi**2)

    @property
    def resolution(self) -> float:
        """Full width of the resolution function at half its height, Å."""
        r = np.linspace(0, 4 * np.pi / self.q_max, 2001)
        f = self.resolution_function(r)
        first = int(np.argmax(f < f[0] / 2))
        share = (f[first - 1] - f[0] / 2) / (f[first - 1] - f[first])
        return float(2 * (r[first - 1] + share * (r[1] - r[0])))
