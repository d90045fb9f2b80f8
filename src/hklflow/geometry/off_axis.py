"""Scattering vectors of a crystal that is not on the rotation axis.

A ray from the place x of the crystal to the pixel p has the direction p - x. To first order, q then
differs by ``-(k / |p|) (x - u (u · x))``, with u = p / |p|, from q of a crystal on the axis. On a
detector, this is nearly an affine function of q. The transform has an affine function of q for each
frame already, so the correction costs no time; what it leaves is in `effect`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.geometry.rotation import Rotation

Floats = NDArray[np.float64]

_POINTS = 17  # pixels along each side of the detector for the fit
_ANGLES = 24  # angles of the scan at which the effect is measured


def affine(rotation: Rotation) -> Floats:
    """Return the affine function (3, 3, 4) of the change of q for a place of 1 m along lab x, y, z.

    The change of q at the place x is ``Σ x_j affine_j (q, 1)``.
    """
    q, change = _changes(rotation)
    terms = [np.linalg.lstsq(_with_one(q), dq, rcond=None)[0].T for dq in change]
    return np.array(terms)


class OffAxis:
    """Change of q in a rotation by the offset (3,) of the crystal, in the goniometer's frame, m."""

    def __init__(self, rotation: Rotation, offset: ArrayLike) -> None:
        self._offset, self._terms = np.asarray(offset, np.float64), affine(rotation)

    def change(self, turns: Floats) -> Floats:
        """Return matrices (..., 3, 4) from (q, 1) to the change, for rotations (..., 3, 3)."""
        result: Floats = np.einsum("...j,jab->...ab", turns @ self._offset, self._terms)
        return result


def effect(rotation: Rotation, ub: ArrayLike, grid: Grid, offset: ArrayLike) -> tuple[float, float]:
    """Return the largest shift of S(Q) by the offset of a crystal, and what `affine` leaves of it.

    Parameters
    ----------
    offset : (3,) array
        Offset of the crystal from the axis, in the goniometer's frame, m.

    Returns
    -------
    shift, left : float
        Voxels, along the axis of the grid with the largest shift.
    """
    q, change = _changes(rotation)
    left = change - np.einsum("jab,nb->jna", affine(rotation), _with_one(q))
    frames = np.linspace(0, rotation.scan.n_frames, _ANGLES)
    turns = rotation.goniometer.rotation(rotation.scan.angle(frames))
    to_voxel = np.linalg.inv(turns @ np.asarray(ub)) / grid.step[:, None]
    places = turns @ np.asarray(offset, np.float64)
    shift, rest = (
        float(np.abs(np.einsum("zab,zj,jnb->zna", to_voxel, places, one)).max())
        for one in (change, left)
    )
    return shift, rest


def _changes(rotation: Rotation) -> tuple[Floats, Floats]:
    """Return q (n, 3) of some pixels, and its change (3, n, 3) for a place of 1 m along x, y, z."""
    slow, fast = (np.linspace(0, n, _POINTS) for n in rotation.detector.shape)
    position = rotation.detector.lab(slow[:, None], fast[None]).reshape(-1, 3)
    length = np.linalg.norm(position, axis=1)
    u = position / length[:, None]
    q = rotation.q_lab(*(a.ravel() for a in np.meshgrid(slow, fast, indexing="ij")))
    across = np.eye(3)[:, None] - u * u.T[..., None]  # of the axes x, y, z to the rays
    return q, -rotation.beam.k * across / length[:, None]


def _with_one(q: Floats) -> Floats:
    return np.column_stack([q, np.ones(len(q))])
