"""Frames of a CCD: photons seen through light that spreads, a gain, an offset and read noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True)
class Ccd:
    """Camera behind a phosphor.

    Attributes
    ----------
    gain : float
        ADU per photon.
    offset, read_noise : float
        ADU.
    spread : float
        Standard deviation of the light of a photon, pixels; 0: all in one pixel.
    """

    gain: float
    offset: float
    read_noise: float
    spread: float = 0.0

    def adu(self, photons: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint16]:
        """Return the stored frames (n, slow, fast) of numbers of photons."""
        light = photons.astype(np.float64)
        if self.spread:
            # The light that leaves at an edge is lost from the frame's own edge only.
            light = np.stack([gaussian_filter(frame, self.spread) for frame in light])
        noise = self.read_noise * rng.standard_normal(light.shape)
        return np.rint(self.gain * light + self.offset + noise).astype(np.uint16)
