"""Bragg mask from the model: the (frame, slow, fast) voxels that predicted reflections cover.

A reflection is an ellipsoid in (frame, slow, fast). A voxel (a pixel during one frame) is excluded
if any part of the voxel is inside. Whatever the size of the voxels, at most the tail of a Gaussian
reflection outside the ellipsoid is not masked. `touched` gives the number of excluded voxels.

Widths of reflections and errors of predictions come from the found peaks. Reflections that graze
the Ewald sphere (`predicted.LEAST_ZETA`) are not predicted and not masked.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from hklflow.base.errors import HklflowError
from hklflow.bragg.predicted import LEAST_ZETA, Spots, predicted_spots
from hklflow.geometry import Rotation
from hklflow.geometry.symmetry import SpaceGroup
from hklflow.peaks.table import PeakFlag, PeakTable
from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]
Bits = NDArray[np.uint8]

_FEWEST = 20  # smallest number of peaks for the widths
_WIDEST = 90.0  # percentile of the widths, because they vary over the detector
_NEAR = 0.2  # largest deviation of h, k, l from the prediction
_CUT = PeakFlag.EDGE | PeakFlag.MASKED | PeakFlag.SCAN_END | PeakFlag.LONG | PeakFlag.OVERLOAD
_UNFIT = _CUT | PeakFlag.OVERLAP | PeakFlag.MOMENTS | PeakFlag.FIT_FAILED


@dataclass(frozen=True)
class Ellipsoids:
    """Ellipsoids of reflections, in the convention of `hklflow.geometry.frames`.

    Attributes
    ----------
    centre : (n, 3) array
        Centres (frame, slow, fast).
    half : (n, 3) array
        Half axes in frames and pixels, positive.

    Raises
    ------
    HklflowError
        If shapes differ, a number is not finite, or a half axis is not positive.
    """

    centre: Floats
    half: Floats

    def __post_init__(self) -> None:
        if (
            self.centre.ndim != 2
            or self.centre.shape[1] != 3
            or self.half.shape != self.centre.shape
        ):
            raise HklflowError(
                f"reflections to mask have centres of shape {self.centre.shape} and half axes of "
                f"shape {self.half.shape}; both must be (n, 3)"
            )
        if not (np.isfinite(self.centre).all() and np.isfinite(self.half).all()):
            raise HklflowError(
                "a reflection to mask has a position that is not finite; check the model"
            )
        if not (self.half > 0).all():
            raise HklflowError(
                f"the smallest half axis of the reflections to mask is {self.half.min():g}; all "
                "must be above 0"
            )


def reflections(
    rotation: Rotation, ub: ArrayLike, group: SpaceGroup, peaks: PeakTable, n_sigma: float
) -> Ellipsoids:
    """Return the predicted reflections of a rotation, including partially recorded ones.

    Parameters
    ----------
    rotation : Rotation
        Refined rotation.
    ub : (3, 3) array
        Orientation matrix, 1/Å with 2π.
    group : SpaceGroup
        Space group; systematically absent reflections are not masked.
    peaks : PeakTable
        Peaks found in the rotation.
    n_sigma : float
        Half axes in units of a width. The width is the 90th percentile of the strong peaks,
        combined in quadrature with the distance between peak and prediction.

    Raises
    ------
    HklflowError
        If too few peaks are at predicted positions to determine the widths.
    """
    spots = predicted_spots(rotation, ub, group)
    mosaic, slow, fast = _widths(rotation, ub, spots.select(~spots.absent), peaks)
    step = abs(rotation.scan.step)
    margin = n_sigma * max(mosaic / (LEAST_ZETA * step), slow, fast) + 1
    spots = predicted_spots(rotation, ub, group, margin=margin)
    spots = spots.select(~spots.absent)
    frames = mosaic / (spots.zeta * step)
    sigma = np.stack([frames, np.full(len(spots), slow), np.full(len(spots), fast)], axis=1)
    half = n_sigma * sigma
    limits = np.array([rotation.scan.n_frames, *rotation.detector.shape])
    seen = np.all((spots.centre > -half) & (spots.centre < limits + half), axis=1)
    return Ellipsoids(spots.centre[seen], half[seen])


def _widths(
    rotation: Rotation, ub: ArrayLike, spots: Spots, peaks: PeakTable
) -> tuple[float, float, float]:
    """Return the mosaic spread in radians at ζ = 1, and widths along slow and fast in pixels.

    Each width combines the width of the spot with the error of the prediction, so the mask can be
    centred at the predicted position.
    """
    place = np.stack([peaks.frame, peaks.slow, peaks.fast], axis=1)
    width = np.stack([peaks.width_frame, peaks.width_slow, peaks.width_fast], axis=1)
    single = (peaks.flags & int(PeakFlag.SINGLE_FRAME)) != 0
    width[single, 0] = np.sqrt(1 / 12)
    fit = ((peaks.flags & int(_UNFIT)) == 0) & np.isfinite(place).all(axis=1)
    rows = np.flatnonzero(fit & np.isfinite(width).all(axis=1))
    if len(rows) and len(spots):
        nearest = np.asarray(cKDTree(spots.centre).query(place[rows])[1])
        hkl = rotation.hkl(ub, *place[rows].T)
        near = np.abs(hkl - spots.hkl[nearest]).max(axis=1) < _NEAR
        rows, nearest = rows[near], nearest[near]
        strong = peaks.significance[rows] >= np.median(peaks.significance[rows])
        rows, nearest = rows[strong], nearest[strong]
    if not len(rows) >= _FEWEST:
        raise HklflowError(
            f"only {len(rows)} strong and whole peaks are at predicted reflections; the mask from "
            f"the model needs {_FEWEST} to determine widths: check how many peaks are indexed, or "
            "switch `model` off"
        )
    both = np.hypot(width[rows], place[rows] - spots.centre[nearest])
    both[:, 0] *= spots.zeta[nearest] * abs(rotation.scan.step)
    mosaic, slow, fast = np.percentile(both, _WIDEST, axis=0)
    return float(mosaic), float(slow), float(fast)


class ModelMask:
    """Model mask of a scan, added to packed masks block by block.

    Parameters
    ----------
    ellipsoids : Ellipsoids
    good : (slow, fast) bool array
        True for pixels that are counted.
    """

    def __init__(self, ellipsoids: Ellipsoids, good: NDArray[np.bool_]) -> None:
        # The reflections of a frame are found by bisection of their first frames.
        first = np.floor(ellipsoids.centre[:, 0] - ellipsoids.half[:, 0])
        order = np.argsort(first, kind="stable")
        self._first = first[order]
        self._centre = np.ascontiguousarray(ellipsoids.centre[order], np.float64)
        self._half = np.ascontiguousarray(ellipsoids.half[order], np.float64)
        self._last = self._centre[:, 0] + self._half[:, 0]
        self._good = np.ascontiguousarray(good)

    def add(self, packed: Bits, start: int) -> NDArray[np.int64]:
        """Set the bits of the reflections in packed masks, in place.

        Parameters
        ----------
        packed : (n, slow, ceil(fast / 8)) uint8 array
            Masks from `images.mask3d.pack`, of the frames from number ``start``.
        start : int

        Returns
        -------
        (n,) int array
            Number of good pixels on each frame that were not excluded before.

        Raises
        ------
        HklflowError
            If the masks do not fit this detector.
        """
        n_slow, n_fast = self._good.shape
        if packed.dtype != np.uint8 or packed.shape[1:] != (n_slow, -(-n_fast // 8)):
            raise HklflowError(
                f"packed masks of shape {packed.shape[1:]} do not fit a detector of "
                f"{self._good.shape} pixels; pack 8 pixels in a byte along fast"
            )
        n = int(np.searchsorted(self._first, start + len(packed)))
        rows = np.flatnonzero(self._last[:n] > start)
        added = np.zeros(len(packed), np.int64)
        _paint(self._centre[rows], self._half[rows], self._good, start, packed, added)
        return added


@kernel
def _paint(centre, half, good, start, packed, added):  # type: ignore[no-untyped-def]
    """Set bits, and count the newly excluded good pixels of each frame."""
    n_slow, n_fast = good.shape
    for row in range(len(centre)):
        z_low = max(int(np.floor(centre[row, 0] - half[row, 0])), start)
        z_high = min(int(np.ceil(centre[row, 0] + half[row, 0])), start + len(packed))
        for z in range(z_low, z_high):
            d_z = max(z - centre[row, 0], centre[row, 0] - z - 1, 0.0) / half[row, 0]
            left = 1.0 - d_z * d_z
            if left <= 0:
                continue
            reach = half[row, 1] * np.sqrt(left)
            s_low = max(int(np.floor(centre[row, 1] - reach)), 0)
            s_high = min(int(np.ceil(centre[row, 1] + reach)), n_slow)
            for s in range(s_low, s_high):
                d_s = max(s - centre[row, 1], centre[row, 1] - s - 1, 0.0) / half[row, 1]
                rest = left - d_s * d_s
                if rest <= 0:
                    continue
                reach = half[row, 2] * np.sqrt(rest)
                f_low = max(int(np.floor(centre[row, 2] - reach)), 0)
                f_high = min(int(np.ceil(centre[row, 2] + reach)), n_fast)
                for f in range(f_low, f_high):
                    bit = 128 >> (f & 7)
                    if not packed[z - start, s, f >> 3] & bit:
                        packed[z - start, s, f >> 3] |= bit
                        added[z - start] += good[s, f]


def touched(half: ArrayLike) -> Floats:
    """Return the mean number of voxels (n,) that an ellipsoid touches, over positions in a voxel.

    This is the volume of the Minkowski sum of the ellipsoid and a unit cube. It is the sum of the
    volume of the ellipsoid, its three projected areas, its three widths and the volume of the cube.
    """
    a, b, c = np.moveaxis(np.asarray(half, dtype=np.float64), -1, 0)
    ball = 4 / 3 * np.pi * a * b * c
    result: Floats = ball + np.pi * (a * b + b * c + c * a) + 2 * (a + b + c) + 1
    return result
