"""Predict the reflections that a scan records, and the volume of Q that a pixel sweeps."""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import BEAM, Rotation, corrections, directions, lattice, q_max
from hklflow.geometry.prediction import predict
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]

#: Smallest ζ. Reflections nearer to the scan axis graze the Ewald sphere and have no defined frame.
LEAST_ZETA = 0.02


@dataclass(frozen=True)
class Spots:
    """Predicted reflections, one row per crossing of the Ewald sphere, sorted by frame.

    Attributes
    ----------
    hkl : (n, 3) int array
    frame, slow, fast, zeta : (n,) array
        See `hklflow.geometry.prediction`.
    volume : (n,) array
        Volume of Q, ``k³ ΔΩ |ê · (ŝ × ẑ)| |Δφ|``, 1/Å³.
    d : (n,) array
        d-spacing, Å.
    absent : (n,) bool array
        True if a screw axis or a glide plane of the space group forbids the reflection.
    """

    hkl: NDArray[np.int64]
    frame: Floats
    slow: Floats
    fast: Floats
    zeta: Floats
    volume: Floats
    d: Floats
    absent: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.hkl)

    def select(self, keep: ArrayLike) -> "Spots":
        """Return the rows chosen by a mask or by indices."""
        rows = np.asarray(keep)
        return replace(self, **{c.name: getattr(self, c.name)[rows] for c in fields(self)})

    @property
    def centre(self) -> Floats:
        """Centres (n, 3) in (frame, slow, fast)."""
        return np.stack([self.frame, self.slow, self.fast], axis=1)


def swept_volume(rotation: Rotation, slow: ArrayLike, fast: ArrayLike) -> Floats:
    """Return the volume of Q (n,) that a pixel at coordinates (n,) sweeps in one frame, 1/Å³.

    This is ``k³ ΔΩ |ê · (ŝ × ẑ)| |Δφ|`` with ``ΔΩ = A cos³ α / d²``: the Jacobian of Q with respect
    to the two directions on the detector and the scan angle. An intensity is the integral of S(Q):
    the solid angle of the norm cancels ΔΩ here. With `solid_angle: false`, for frames that are
    already corrected, ΔΩ remains.
    """
    detector, k = rotation.detector, rotation.beam.k
    ray = directions(detector.lab(slow, fast))
    solid_angle = corrections.pixel_area(detector) * (ray @ detector.normal) ** 3
    speed = np.abs(np.cross(ray, BEAM) @ rotation.goniometer.scan_axis_lab())
    return np.asarray(k**3 * solid_angle * speed * abs(rotation.scan.step))


def predicted_spots(
    rotation: Rotation,
    ub: ArrayLike,
    group: SpaceGroup,
    d_min: float | None = None,
    margin: float = 0.0,
) -> Spots:
    """Predict all reflections that the centring of the lattice allows.

    Parameters
    ----------
    ub : (3, 3) array
        Orientation matrix, 1/Å with 2π.
    d_min : float, optional
        Smallest d-spacing, Å; None: up to the corner of the detector.
    margin : float
        Margin around the scan and the detector, in frames and pixels, that is included.
    """
    ub = np.asarray(ub, dtype=np.float64)
    cell = lattice.decompose_ub(ub)[1]
    # Spots outside the corner by less than the margin are partly on the detector.
    limit = 1.02 * q_max(rotation) if d_min is None else 2 * np.pi / d_min
    hkl = lattice.indices_within(cell, limit, 1e-9)
    hkl = hkl[_diffracting(hkl, group)]
    found = predict(rotation, ub, hkl, margin=margin)
    rows = np.flatnonzero(found.zeta > LEAST_ZETA)
    rows = rows[np.lexsort((found.fast[rows], found.slow[rows], found.frame[rows]))]
    hkl = hkl[found.index[rows]]
    return Spots(
        hkl=hkl,
        frame=found.frame[rows],
        slow=found.slow[rows],
        fast=found.fast[rows],
        zeta=found.zeta[rows],
        volume=swept_volume(rotation, found.slow[rows], found.fast[rows]),
        d=lattice.d_spacing(cell, hkl),
        absent=group.is_absent(hkl) if len(hkl) else np.zeros(0, dtype=np.bool_),
    )


def _diffracting(hkl: NDArray[np.int64], group: SpaceGroup) -> NDArray[np.bool_]:
    """Return a mask of hkl (n, 3): True if the pure translations of the group allow it."""
    rotations, translations = group.operations
    pure = translations[np.all(rotations == np.eye(3), axis=(1, 2))]
    phase = hkl @ pure.T
    kept: NDArray[np.bool_] = np.all(np.abs(phase - np.rint(phase)) < 1e-6, axis=1)
    return kept
