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
    lost : float
        What is lost of a cosine of the size that the ΔPDF has there, in σ of its noise.
    """

    vector: NDArray[np.float64]
    length: float
    recovered: float
    lost: float

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
        size = np.sqrt(signal / max(1 - signal, 1e-6))
        length = float(np.sqrt(vector @ metric @ vector))
        cosines.append(Cosine(vector, length, recovered, float(abs(1 - recovered) * size)))
    return cosines
