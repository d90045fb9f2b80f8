"""Cosines that are injected into S(Q): the share of them that the fill lets the ΔPDF have."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.volumes.fill import Target
from hklflow.volumes.hole_covariance import Prior
from hklflow.volumes.spectrum import SpectrumFill


@dataclass(frozen=True)
class Cosine:
    """A cosine that was injected.

    Attributes
    ----------
    vector : (3,) array
        In unit cells.
    length : float
        Å.
    recovered : float
        Share of the amplitude that the ΔPDF has.
    error : float
        Noise of the ΔPDF as a share of the amplitude, for a cosine as strong as the ΔPDF is there;
        infinite where the ΔPDF is no more than noise.
    """

    vector: NDArray[np.float64]
    length: float
    recovered: float
    error: float

    @property
    def lost(self) -> float:
        """What is lost of a cosine as strong as the ΔPDF is there, in units of its noise."""
        return abs(1 - self.recovered) / self.error

    @property
    def at_lattice_vector(self) -> bool:
        """True if all holes are at the same phase of the cosine."""
        return bool(np.allclose(self.vector, np.rint(self.vector)))


def injected(target: Target, spectrum: SpectrumFill, prior: Prior) -> list[Cosine]:
    """Inject cosines at short, middle and long lattice vectors, and half a cell from the first two.

    V of the fill is held: cosines are as well known as those that the data have there.
    """
    number = len(prior.vectors)
    if number < 2:
        return []
    at_lattice = prior.vectors[np.unique([1, number // 2, number - 1])]
    vectors = np.concatenate([at_lattice, at_lattice[:2] + 0.5])
    metric = lattice.metric(target.cell)
    cosines = []
    for vector, signal in zip(vectors, spectrum.signal(vectors), strict=True):
        recovered = spectrum.recovered(vector)
        error = float(np.sqrt(max(1 - signal, 1e-6) / signal)) if signal > 0 else np.inf
        length = float(np.sqrt(vector @ metric @ vector))
        cosines.append(Cosine(vector, length, recovered, error))
    return cosines
