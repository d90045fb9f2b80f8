"""How wide spots are and what they look like: learned from strong reflections."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Widths:
    """Standard deviations of spots, as they vary over the detector and with ζ.

    Attributes
    ----------
    mosaic : float
        About the scan axis at ζ = 1, radians.
    slow, fast : (6,) array
        ``ln σ`` in pixels as a polynomial in ``1, y, x, y², y x, x²``, where y and x go from -1
        to 1 over the detector.
    shape : (slow, fast)
        Pixels of the detector.
    step : float
        Of the scan, radians.
    """

    mosaic: float
    slow: Floats
    fast: Floats
    shape: tuple[int, int]
    step: float

    def at(self, zeta: ArrayLike, slow: ArrayLike, fast: ArrayLike) -> Floats:
        """Standard deviations (n, 3) in frames, slow and fast pixels."""
        design = polynomial(slow, fast, self.shape)
        frames = self.mosaic / (np.asarray(zeta) * abs(self.step))
        return np.stack([frames, np.exp(design @ self.slow), np.exp(design @ self.fast)], axis=1)


@dataclass(frozen=True)
class Profile:
    """What spots look like, relative to voxel-integrated Gaussians of their widths.

    Attributes
    ----------
    correction : (regions, m, m, m) array
        Factor on the Gaussian at nodes of `nodes` in (frame, slow, fast).
    nodes : (m,) array
        In standard deviations of the spot, its voxel included.
    regions : (frame, slow, fast)
        Number of parts of the scan and of the detector with a profile of their own.
    n_references : (regions,) int array
    """

    correction: Floats
    nodes: Floats
    regions: tuple[int, int, int]
    n_references: NDArray[np.int64]


def polynomial(slow: ArrayLike, fast: ArrayLike, shape: tuple[int, int]) -> Floats:
    """Terms (n, 6) of the widths' polynomial at pixel coordinates (n,)."""
    y = 2 * np.asarray(slow, dtype=np.float64) / shape[0] - 1
    x = 2 * np.asarray(fast, dtype=np.float64) / shape[1] - 1
    return np.stack([np.ones_like(y), y, x, y * y, y * x, x * x], axis=-1)
