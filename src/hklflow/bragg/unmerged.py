"""Intensities that are compared without assuming a symmetry, and their normalization."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.groups import Groups

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_PER_SHELL = 60  # reflections that give the mean intensity of a shell
_LEAST = 0.1  # smallest mean intensity of a shell, in σ of one reflection
_FEWEST = 30  # repeated measurements that give the relative error
_RELATIVE = 0.04  # relative error of an intensity without repeated measurements
_STRONG = 15.0  # I/σ of repeated measurements that show the relative error
_LIMITS = (0.02, 0.15)  # of the relative error


@dataclass(frozen=True)
class Intensities:
    """Intensities of reflections that are unique up to the Friedel law.

    Attributes
    ----------
    hkl : (n, 3) int array
    intensity, sigma : (n,) array
        Median of the observations if there are three or more, so that outliers do not count, and
        its error from counting.
    mean : (n,) array
        Mean intensity of reflections with about the same d.
    relative : float
        Relative error of the intensities: differences of strong repeated measurements.
    repeated : int
        Number of these measurements; ``relative`` is an assumption if they are fewer than 30.
    """

    hkl: Integers
    intensity: Floats
    sigma: Floats
    mean: Floats
    relative: float
    repeated: int

    def __len__(self) -> int:
        return len(self.hkl)

    def select(self, keep: NDArray[np.bool_]) -> "Intensities":
        """Return the rows chosen by a mask."""
        return replace(
            self,
            hkl=self.hkl[keep],
            intensity=self.intensity[keep],
            sigma=self.sigma[keep],
            mean=self.mean[keep],
        )

    def transformed(self, matrix: Floats) -> "Intensities":
        """Return the intensities with ``matrix @ hkl``; rows without whole indices are dropped."""
        hkl = self.hkl @ np.asarray(matrix).T
        whole = np.abs(hkl - np.rint(hkl)).max(axis=1, initial=0) < 1e-6
        return replace(self.select(whole), hkl=np.rint(hkl[whole]).astype(np.int64))


def unmerged(
    hkl: Integers,
    intensity: Floats,
    sigma: Floats,
    metric: Floats,
    least: float,
    *,
    friedel: bool = True,
) -> Intensities:
    """Join repeated measurements, and normalize by shells of resolution.

    Parameters
    ----------
    hkl : (n, 3) int array
    intensity, sigma : (n,) array
        Errors from counting.
    metric : (3, 3) array
        Direct metric of the cell, Å².
    least : float
        Smallest relative error.
    friedel : bool
        Join Friedel mates, too.
    """
    fine = np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0) & np.any(hkl != 0, axis=1)
    hkl, intensity, sigma = hkl[fine], intensity[fine], sigma[fine]
    groups = Groups.of(hemisphere(hkl) if friedel else hkl)
    everything = np.ones(len(hkl), dtype=np.bool_)
    median = groups.median(intensity, everything)
    weighted, weight = groups.mean(intensity, sigma**-2.0)
    value = np.where(groups.n >= 3, median, weighted)
    relative, repeated = _relative(groups, intensity, sigma, median)
    inverse = np.linalg.inv(metric)
    d_star = np.sqrt(np.einsum("ni,ij,nj->n", groups.hkl, inverse, groups.hkl))
    relative = max(relative, least)
    error = np.where(groups.n >= 3, 1.25, 1.0) / np.sqrt(weight)
    return Intensities(
        groups.hkl, value, error, shell_means(d_star, value, error), relative, repeated
    )


def hemisphere(hkl: Integers) -> Integers:
    """Return one of h and -h: the first index that is not 0 is positive."""
    first = np.take_along_axis(hkl, np.argmax(hkl != 0, axis=-1)[..., None], axis=-1)
    return np.where(first < 0, -hkl, hkl)


def _relative(
    groups: Groups, intensity: Floats, sigma: Floats, median: Floats
) -> tuple[float, int]:
    several = (groups.n >= 2)[groups.index]
    strong = several & (intensity > _STRONG * sigma) & (median[groups.index] > 0)
    n = groups.n[groups.index][strong]
    centre = median[groups.index][strong]
    away = np.abs(intensity[strong] - centre) / centre * np.sqrt(n / np.maximum(n - 1, 1))
    repeated = int(strong.sum())
    if repeated < _FEWEST:
        return _RELATIVE, repeated
    # 1.48 times the median of absolute deviations is the σ of a normal distribution.
    return float(np.clip(1.48 * np.median(away), *_LIMITS)), repeated


def shell_means(d_star: Floats, intensity: Floats, sigma: Floats) -> Floats:
    """Return the mean intensity of the neighbours in resolution of each reflection.

    Parameters
    ----------
    d_star : (n,) array
        1/d, in any unit.
    intensity, sigma : (n,) arrays
    """
    if not len(d_star):
        return np.zeros(0)
    n_shells = max(1, len(d_star) // _PER_SHELL)
    order = np.argsort(d_star, kind="stable")
    shells = np.array_split(order, n_shells)
    centres = np.array([d_star[rows].mean() for rows in shells])
    means = np.array([intensity[rows].mean() for rows in shells])
    # A shell without intensity has a mean around 0, and normalized intensities need one above 0.
    least = np.array([_LEAST * np.sqrt(np.mean(sigma[rows] ** 2)) for rows in shells])
    means = np.maximum(means, least)
    smooth: Floats = np.exp(np.interp(d_star, centres, np.log(means)))
    return smooth
