"""Voxels of the copies of a diffuse feature, and the distance from Bragg reflections."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry.grid import Grid
from hklflow.series.feature_copies import Copy, Region
from hklflow.series.feature_fit import Voxels
from hklflow.series.features import Lattice
from hklflow.series.line_shape import Smearing

Floats = NDArray[np.float64]

LEAST = 20
"""Smallest number of voxels of a copy that is fitted."""
_REACH = 5.0  # standard deviations of the resolution at which a reflection ends


def bragg_distance(
    smearing: Smearing, widening: Callable[[Floats], Floats], lattice: Lattice
) -> Callable[[Floats], Floats]:
    """Return a function: the distance of hkl (n, 3) from the reflections, 1 at their ends.

    Reflections end at 5 standard deviations of the resolution, and half a voxel.
    """
    root = _REACH * np.sqrt(np.diag(smearing.covariance))

    def distance(hkl: Floats) -> Floats:
        ends = widening(hkl)[:, None] * root + smearing.step / 2
        return np.asarray(np.sqrt(np.sum((lattice.folded(hkl) / ends) ** 2, axis=1)))

    return distance


def gather(
    copies: Sequence[Copy],
    grid: Grid,
    read: Callable[[Region], tuple[Floats, Floats, Floats, Floats]],
    widening: Callable[[Floats], Floats],
    operations: Floats | None,
    least: float,
) -> Voxels | None:
    """Return the measured voxels of the copies.

    Parameters
    ----------
    read : function
        Returns S and σ, both NaN if not measured, and the variance for S = 1 and the rest of the
        variance, of a part (l, k, h) of the volume; see `Voxels`.
    widening : function
        Returns the width of the resolution at hkl, relative to that of the `Smearing`.
    operations : (n, 3, 3) array or None
        Operations by which the volume was symmetrised; None if it was not.
    least : float
        Smallest measured fraction of the voxels of a copy.

    Returns
    -------
    Voxels or None
        None if no copy was measured.
    """
    kept: list[Copy] = []
    columns: list[tuple[Floats, ...]] = []
    for copy in copies:
        data, sigma, per_unit, extra = read(copy.region)
        good = copy.inside & np.isfinite(data) & (sigma > 0)
        if good.sum() < max(least * copy.inside.sum(), LEAST):
            continue
        axes = [grid.axis(i)[s] for i, s in zip((2, 1, 0), copy.region, strict=True)]
        l, k, h = np.meshgrid(*axes, indexing="ij")  # noqa: E741
        hkl = np.stack([h[good], k[good], l[good]], axis=1)
        number = np.full(len(hkl), len(kept))
        equal = _equal(hkl, copy.centre, operations)
        values = (array[good] for array in (data, sigma, per_unit, extra))
        columns.append((number, hkl - copy.centre, *values, equal))
        kept.append(copy)
    if not kept:
        return None
    number, distance, data, sigma, per_unit, extra, equal = (
        np.concatenate(column).astype(np.float64) for column in zip(*columns, strict=True)
    )
    return Voxels(
        copies=kept,
        copy=number.astype(np.int64),
        distance=distance,
        data=data,
        sigma=sigma,
        per_unit=per_unit,
        extra=extra,
        equal=equal,
        widening=widening(np.array([copy.centre for copy in kept])),
    )


def orbit_keys(hkl: Floats, operations: Sequence[Floats] | Floats) -> Floats:
    """Return a number (n,) for each hkl (n, 3) that only its equivalents share."""
    # Along this irrational direction each lattice point has another coordinate.
    direction = np.array([1.0, np.sqrt(2.0), np.sqrt(3.0)])
    return np.asarray(np.max([hkl @ operation.T @ direction for operation in operations], axis=0))


def _equal(hkl: Floats, centre: Floats, operations: Floats | None) -> Floats:
    """Return how many of the voxels (n, 3) of a copy symmetry makes equal to each of them."""
    if operations is None:
        return np.ones(len(hkl))
    fixing = [x for x in operations if np.allclose(x @ centre, centre, atol=1e-6)]
    keys = orbit_keys(hkl, fixing)
    _, inverse, counts = np.unique(np.round(keys, 6), return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse], dtype=np.float64)


def distinct(copies: Sequence[Copy], operations: Floats) -> list[Copy]:
    """Return one of each set of copies that symmetry makes equal."""
    found: dict[float, Copy] = {}
    for copy in copies:
        key = orbit_keys(copy.centre[None], operations)[0]
        found.setdefault(round(float(key), 5), copy)
    return list(found.values())


def spread(copies: Sequence[Copy], most: int) -> list[Copy]:
    """Return at most ``most`` copies, evenly from small hkl on.

    Copies are not chosen by their strength: noise that looks like the feature would be chosen too.
    """
    if len(copies) <= most:
        return list(copies)
    return [copies[i] for i in np.linspace(0, len(copies) - 1, most).astype(int)]
