"""Resolution of a volume from its Bragg reflections.

Second moments of S above its background give the covariance of each reflection. They are those of
the voxels: the covariance is that of the Gaussian which has these moments when it is averaged over
the voxels. Sheppard's correction (the moments less step²/12) would be wrong for reflections of half
a voxel or less, because all reflections are in the middle of voxels. The width is a constant plus a
part that grows with Q².
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from hklflow.geometry.grid import Grid
from hklflow.series.feature_copies import Region

Floats = NDArray[np.float64]

_REACH = 4.0  # half-width of the box, in standard deviations of the reflection
_ROUNDS = 6
_STRONG = 30.0  # smallest intensity of a reflection, in its standard deviations
_LEAST = 0.1  # smallest width, in voxels
_WIDEST = 20.0  # width, in voxels, from which voxels do not matter
_GROWS = 8  # smallest number of reflections from which growth with Q is fitted


@dataclass(frozen=True)
class Resolution:
    """Gaussian resolution of a volume.

    Attributes
    ----------
    covariance : (3, 3) array
        At Q = 0, r.l.u.².
    growth : float
        The width is ``1 + growth · Q²`` times that at Q = 0, Å².
    scatter : float
        Relative standard deviation of the width between reflections.
    reflections : int
        Number of reflections; 0 if the resolution was given.
    """

    covariance: Floats
    growth: float
    scatter: float
    reflections: int

    @property
    def error(self) -> float:
        """Relative standard deviation of the width from its scatter."""
        return self.scatter / max(self.reflections, 1) ** 0.5

    def widening(self, metric: Floats) -> Callable[[Floats], Floats]:
        """Return the function that gives the relative width at hkl (n, 3)."""

        def relative(hkl: Floats) -> Floats:
            return np.asarray(1 + self.growth * np.einsum("ni,ij,nj->n", hkl, metric, hkl))

        return relative


def moments(
    read: Callable[[Region], tuple[Floats, Floats]], grid: Grid, hkl: Floats, start: Floats
) -> Floats | None:
    """Return the covariance (3, 3) of a reflection without the voxel, r.l.u.²; None if it is weak.

    Parameters
    ----------
    read : function
        Returns S and σ (l, k, h) of a part of the volume.
    start : (3,) array
        First half-width of the box, r.l.u.
    """
    reach = start
    found: Floats | None = None
    for _ in range(_ROUNDS):
        place = (hkl - grid.first) / grid.step
        half = np.maximum(np.rint(reach / grid.step), 2).astype(int)
        low, high = np.rint(place).astype(int) - half - 1, np.rint(place).astype(int) + half + 2
        if np.any(low < 0) or np.any(high > grid.shape):
            return None
        h, k, l = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))  # noqa: E741
        data, sigma = read((l, k, h))
        if not np.isfinite(data).all():
            return None
        shell = np.ones(data.shape, np.bool_)
        shell[1:-1, 1:-1, 1:-1] = False
        weight = data - np.median(data[shell])
        total, error = float(weight[~shell].sum()), float(np.sqrt(np.sum(sigma[~shell] ** 2)))
        if found is None:
            # First the half widths along the lines through the middle, in voxels.
            wide = [_half_width(weight, 2 - i) for i in range(3)]
            reach = np.minimum(_REACH * np.array(wide) * grid.step / np.sqrt(2 * np.log(2)), start)
            found = np.zeros((3, 3))
            continue
        if not total > _STRONG * error:
            return None
        axes = [grid.axis(i)[s] - hkl[i] for i, s in enumerate((h, k, l))]
        # Arrays are (l, k, h).
        offsets = np.stack(np.meshgrid(*axes[::-1], indexing="ij")[::-1], axis=-1)[~shell]
        weights = weight[~shell] / total
        mean = weights @ offsets
        off = offsets - mean
        found = np.einsum("n,ni,nj->ij", weights, off, off)
        if np.any(np.diag(found) <= 0):
            return None
        new = np.minimum(_REACH * np.sqrt(np.diag(found)), start)
        if np.allclose(np.rint(new / grid.step), np.rint(reach / grid.step)):
            break
        reach = new
    if found is None or not found.any():
        return None
    covariance = _unbinned(found, mean, hkl, grid)
    values, vectors = np.linalg.eigh(covariance)
    smallest = float((_LEAST * grid.step.min()) ** 2)
    return np.asarray((vectors * np.maximum(values, smallest)) @ vectors.T)


def _unbinned(found: Floats, mean: Floats, hkl: Floats, grid: Grid) -> Floats:
    """Return the covariance (3, 3) of a Gaussian whose average over the voxels has given moments.

    Parameters
    ----------
    found : (3, 3) array
        Covariance of the voxels, r.l.u.².
    mean : (3,) array
        Mean of the voxels, relative to ``hkl``.
    """
    # In voxels, from the middle of the nearest voxel.
    nearest = np.rint((hkl - grid.first) / grid.step) * grid.step + grid.first
    means = (hkl + mean - nearest) / grid.step
    variances = np.diag(found) / grid.step**2
    pairs = [_gaussian(*x) for x in zip(means.tolist(), variances.tolist(), strict=True)]
    sigma, gain = np.array(pairs).T
    # The covariance of two voxel coordinates is smaller by both gains (Bussgang, to first order).
    covariance = found / np.outer(gain, gain)
    np.fill_diagonal(covariance, (sigma * grid.step) ** 2)
    return np.asarray(covariance)


def _gaussian(mean: float, variance: float) -> tuple[float, float]:
    """Return σ of a Gaussian in voxels, and the change of the mean of the voxels with its place.

    Parameters
    ----------
    mean, variance : float
        Moments of the integrals over the voxels, in voxels; the middle of one is at 0.
    """
    if variance >= _WIDEST**2:
        return float(np.sqrt(variance)), 1.0
    mean = float(np.clip(mean, -0.5, 0.5))

    def place(width: float) -> float:
        return float(brentq(lambda x: _binned(x, width)[0] - mean, -1.0, 1.0, xtol=1e-4))

    def excess(width: float) -> float:
        return _binned(place(width), width)[1] - variance

    sigma = _LEAST
    if excess(_LEAST) < 0:
        sigma = float(brentq(excess, _LEAST, _WIDEST, xtol=1e-4))
    return sigma, max(_binned(place(sigma), sigma)[2], _LEAST)


def _binned(place: float, sigma: float) -> tuple[float, float, float]:
    """Return mean and variance of a Gaussian in voxels of length 1, and d(mean)/d(place)."""
    reach = np.ceil(6 * sigma) + 1
    n = np.arange(-reach, reach + 1)
    edges = (np.append(n - 0.5, n[-1] + 0.5) - place) / sigma
    share = np.diff(ndtr(edges))
    mean = float(share @ n)
    density = np.exp(-(edges**2) / 2) / (np.sqrt(2 * np.pi) * sigma)
    return mean, float(share @ (n - mean) ** 2), float(density.sum())


def _half_width(peak: Floats, axis: int) -> float:
    """Return the half width at half maximum, in steps of an axis, of a peak in the middle."""
    middle = [n // 2 for n in peak.shape]
    at: list[int | slice] = list(middle)
    at[axis] = slice(None)
    line = peak[tuple(at)]
    return max(float(np.sum(line > line[middle[axis]] / 2)) / 2, 0.5)


def measured(
    read: Callable[[Region], tuple[Floats, Floats]],
    grid: Grid,
    metric: Floats,
    reflections: Sequence[Floats],
    reach: float,
    most: int,
) -> Resolution | None:
    """Return the resolution from the reflections that are strong enough; None if fewer than three.

    Parameters
    ----------
    reach : float
        Largest half-width of the boxes, r.l.u.
    most : int
        Largest number of reflections that are used.
    """
    found: list[tuple[float, Floats]] = []
    for hkl in reflections:
        one = moments(read, grid, np.asarray(hkl, float), np.full(3, reach))
        if one is not None:
            found.append((float(hkl @ metric @ hkl), one))
        if len(found) == most:
            break
    if len(found) < 3:
        return None
    q2 = np.array([x for x, _ in found])
    matrices = np.array([x for _, x in found])
    width = np.sqrt(np.trace(matrices / np.median(matrices, axis=0).trace(), axis1=1, axis2=2))
    growth = 0.0
    if len(found) >= _GROWS and np.ptp(q2) > 0:
        slope, base = np.polyfit(q2, width, 1)
        growth = max(float(slope / base), 0.0) if base > 0 else 0.0
    relative = 1 + growth * q2
    covariance = np.median(matrices / relative[:, None, None] ** 2, axis=0)
    scatter = float(1.4826 * np.median(np.abs(width / relative - np.median(width / relative))))
    return Resolution(covariance, growth, scatter, len(found))
