"""Where the centroids of a mosaic crystal's spots are, and how long their arcs.

Of blocks that are turned against each other by Gaussian angles η about all axes, those within a
cap around Q diffract where the cap meets the circle 2θ = const on the sphere |Q| = const. At an
angle of the scan the counts are ∫ N(d) dψ along that circle, d the distance from the cap's middle.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEPS = 81
REACH = 4.5  # standard deviations
WIDEST = 0.2  # radian; beyond, blocks pass twice


def means(Q: Array, beam: Array, axis: Array, mosaic: float) -> tuple[Array, Array, Array]:
    """Return by how much centroids are off, and the spread along the arcs, (n,) each, radians.

    Parameters
    ----------
    Q, beam
        (n, 3) 1/Å, where the mean block diffracts.
    axis
        (3,) lab, of the scan.
    mosaic
        Standard deviation, radians.

    Returns
    -------
    late, azimuth, spread
        Scan angle, azimuth about the beam, and standard deviation of azimuth.
    """
    k = np.linalg.norm(beam, axis=1)
    z, size = beam / k[:, None], np.linalg.norm(Q, axis=1)
    sine = np.sum(Q * z, axis=1)[:, None] / size[:, None]
    out = Q - np.sum(Q * z, axis=1)[:, None] * z
    side = np.cross(z, out)
    # How fast the polar angle goes where the mean block diffracts.
    rate = np.abs(np.sum(np.cross(axis, Q) * z, axis=1)) / np.linalg.norm(out, axis=1)
    span = np.minimum(REACH * mosaic / np.maximum(rate, 1e-9), WIDEST * REACH)
    total, late, azimuth = np.zeros((3, len(Q)))
    for x in np.linspace(-1, 1, STEPS):
        angle = x * span
        c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
        along = np.outer(Q @ axis, axis)
        there = along + c * (Q - along) + s * np.cross(axis, Q)
        cosine = np.sum(there * z, axis=1) / size
        off = np.arccos(np.clip(cosine, -1, 1)) - np.arccos(np.clip(sine[:, 0], -1, 1))
        weight = np.exp(-((off / mosaic) ** 2) / 2) / np.sqrt(np.sqrt(1 - cosine**2))
        turned = np.arctan2(np.sum(there * side, axis=1), np.sum(there * out, axis=1))
        total += weight
        late += weight * angle
        azimuth += weight * turned
    return late / total, azimuth / total, mosaic / np.sqrt(np.maximum(1 - sine[:, 0] ** 2, 1e-9))
