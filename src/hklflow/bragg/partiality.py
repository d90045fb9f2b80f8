"""Partiality of the reflections of still frames.

The node of a reflection is a Gaussian density in reciprocal space. The size of the crystal's blocks
makes it round with the width ``size``; the spread of their orientations widens it across the
scattering vector by ``spread |q|``. A still records the density on the Ewald sphere, which is flat
across a node. For the excitation error ``e`` (distance of the node from the sphere) it is

    p = (w0 / w) exp(-e² / (2 w²)),    w² = size² + spread² |q|² cos² θ

of the intensity of a node of the width ``w0`` that lies on the sphere. An error of the orientation
has the same effect on average as a mosaic spread, so the refined spread contains both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Node:
    """Width of the nodes of all reflections and frames.

    Attributes
    ----------
    size : float
        Width of a node close to the origin, 1/Å with 2π.
    spread : float
        Mosaic spread, radians.
    reference : float
        Width w0 of the node whose partiality on the sphere is 1.
    """

    size: float
    spread: float
    reference: float

    def width(self, q: Floats, k: float) -> Floats:
        """Return the widths (n,) across the Ewald sphere for scattering vectors q (n, 3)."""
        q2 = np.sum(q * q, axis=1)
        width: Floats = np.sqrt(self.size**2 + self.spread**2 * q2 * (1 - q2 / (2 * k) ** 2))
        return width

    def partiality(self, q: Floats, excitation: Floats, k: float) -> Floats:
        """Return the partialities (n,) for excitation errors (n,)."""
        width = self.width(q, k)
        part: Floats = self.reference / width * np.exp(-0.5 * (excitation / width) ** 2)
        return part


def first_node(q: Floats, excitation: Floats) -> Node:
    """Return a node that explains the excitation errors of strong spots, half by each width."""
    # Half of all normal deviations are within 0.674 standard deviations.
    width = float(np.median(np.abs(excitation)) / 0.674)
    return Node(width / np.sqrt(2), width / np.sqrt(2) / float(np.median(norms(q))), width)


def norms(q: Floats) -> Floats:
    """Return the lengths (n,) of vectors (n, 3)."""
    length: Floats = np.sqrt(np.sum(q * q, axis=1))
    return length
