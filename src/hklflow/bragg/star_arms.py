"""Compare the intensities of the arms of a star: populations of domains.

Reflections that the Laue group makes equal have the same intensity in one domain of each arm. So
the net counts of a reflection are k F X: counts k for an intensity of 1, intensity F of its set of
equal reflections, and strength X of its arm in the scan. F and X follow by weighted least squares,
one after the other. Reflections of the same arm and set scatter by counts and by a relative error,
such as absorption, that follows from this scatter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hklflow.volumes.satellite_voxels import Allowed, Place, Star
from hklflow.volumes.star_boxes import Counted

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CHANCE = 1e-4  # probability of a χ² below which arms differ
_SMALLEST = 0.02  # difference of a share from equal shares that is claimed, relative
_KNOWN = 0.1  # largest relative error of a share with which arms are called equal
_ROUNDS = 30


@dataclass(frozen=True)
class Arms:
    """Intensities of the arms of a star.

    Attributes
    ----------
    vectors : (a, 3) array
        Vector of each arm; an arm and its opposite are one.
    shares, sigma : (a,) arrays
        Part of the intensity in each arm, of the sum over all scans.
    scan_shares, scan_sigma : (a, n) arrays
        The same in each scan; NaN where the star is not seen. Without errors that all scans share.
    scatter : float
        Relative error of one reflection beyond counts.
    equal : bool or None
        True: equal within errors; False: they differ; None: the errors are too large.
    changes : bool
        True if the shares depend on temperature.
    """

    vectors: Floats
    shares: Floats
    sigma: Floats
    scan_shares: Floats
    scan_sigma: Floats
    scatter: float
    equal: bool | None
    changes: bool


def compared(
    star: Star,
    vector: Floats,
    operations: ArrayLike,
    places: Sequence[Place],
    counted: Counted,
    scale: ArrayLike,
    reach: ArrayLike,
    seen: NDArray[np.bool_],
    least: float,
    allowed: Allowed,
) -> Arms | None:
    """Return the comparison; None for one arm, or if no two arms have equal reflections.

    None too if other reflections of the star are in the shells of the boxes: see `reach`.

    Parameters
    ----------
    vector : (3,) array
        The vector to be named.
    operations : (m, 3, 3) array
        Operations of the Laue group.
    counted : Counted
        Counts of the places (rows).
    scale : (r, n) array
        Scale of each reflection in each scan.
    reach : (3,) array
        Distance along h, k, l at which another reflection of the star is not in box and shell.
    seen : (n,) bool array
        Scans in which the star is seen.
    least : float
        Smallest relative error of a reflection beyond counts.
    """
    kinds = _arms(star, allowed)
    n_arms = int(kinds.max()) + 1
    arm = np.array([kinds[place.arm[0]] for place in places], dtype=np.int64)
    single = np.array([len(set(kinds[place.arm])) == 1 for place in places], np.bool_)
    whole = single & ~np.isnan(counted.counts).any(axis=1)
    if n_arms < 2 or not whole.any() or not seen.any() or _too_close(star, vector, reach, allowed):
        return None
    hkl = np.array([place.hkl(star, star.vector) for place in places])
    images = np.einsum("mij,nj->nmi", np.asarray(operations, np.float64), hkl).round(4) + 0.0
    keys = [max(map(tuple, image)) for image in images]
    both = {
        key
        for key in keys
        if len({a for a, k, w in zip(arm, keys, whole, strict=True) if w and k == key}) > 1
    }
    use = whole & np.array([key in both for key in keys])
    if len(set(arm[use])) < n_arms:
        return None
    _, orbit = np.unique(
        [keys.index(key) for key, u in zip(keys, use, strict=True) if u], return_inverse=True
    )
    net = (counted.counts - counted.background)[use]
    k = (counted.factor * np.asarray(scale, np.float64))[use]
    floor = (counted.background + counted.background_var)[use]
    arm = arm[use]
    strength, size, scatter = _fitted(net[:, seen], k[:, seen], floor[:, seen], arm, orbit, least)
    # The sum over all scans: an error of a reflection beyond counts is the same in all.
    total = strength.sum(axis=0)
    part = (k[:, seen] * total).sum(axis=1)
    sums, error = _strengths(
        net[:, seen].sum(axis=1)[:, None],
        part[:, None],
        floor[:, seen].sum(axis=1)[:, None],
        arm,
        size[orbit],
        np.full(n_arms, 1 / n_arms)[:, None],
        scatter,
    )
    shares, sigma = _shares(sums, error)
    each = np.full((n_arms, len(seen)), np.nan), np.full((n_arms, len(seen)), np.nan)
    only, only_error = _strengths(
        net[:, seen], k[:, seen], floor[:, seen], arm, size[orbit], strength, least
    )
    each[0][:, seen], each[1][:, seen] = _shares(only, only_error)
    mean = float((sums[:, 0] / error[:, 0] ** 2).sum() / (1 / error[:, 0] ** 2).sum())
    chi2 = float(np.sum(((sums[:, 0] - mean) / error[:, 0]) ** 2))
    apart = np.abs(shares[:, 0] * n_arms - 1).max() > _SMALLEST
    differ = bool(stats.chi2.sf(chi2, n_arms - 1) < _CHANCE and apart)
    known = bool(np.all(sigma[:, 0] * n_arms < _KNOWN))
    return Arms(
        vectors=_vectors(star, kinds, vector),
        shares=shares[:, 0],
        sigma=sigma[:, 0],
        scan_shares=each[0],
        scan_sigma=each[1],
        scatter=scatter,
        equal=False if differ else (True if known else None),
        changes=_changes(only, only_error),
    )


def _arms(star: Star, allowed: Allowed) -> Integers:
    """Return the number of the arm of each operation of the star; opposite ones are equal."""
    images = star.operations @ star.vector
    number = np.full(len(images), -1)
    n = 0
    for i in range(len(images)):
        if number[i] >= 0:
            continue
        for j in range(i, len(images)):
            away = [images[j] - s * images[i] for s in (1, -1)]
            if any(
                np.abs(x - np.rint(x)).max() < 1e-6 and allowed(np.rint(x)[None])[0] for x in away
            ):
                number[j] = n
        n += 1
    return number


def _too_close(star: Star, vector: Floats, reach: ArrayLike, allowed: Allowed) -> bool:
    """Return True if two reflections of the star are closer than ``reach`` along all axes."""
    images = star.operations @ vector
    steps = np.array(list(np.ndindex(3, 3, 3))) - 1.0
    for i, j in np.ndindex(len(images), len(images)):
        away = images[i] - images[j]
        main = np.rint(away) + steps
        near = np.all(np.abs(away - main) < np.asarray(reach), axis=1) & allowed(main)
        # A reflection is not close to itself.
        if np.any(near & ((i != j) | np.any(main != 0, axis=1))):
            return True
    return False


def _vectors(star: Star, kinds: Integers, vector: Floats) -> Floats:
    """Return each arm with as few negative components as possible, folded to at most 1/2."""
    found = []
    for kind in range(int(kinds.max()) + 1):
        images = star.operations[kinds == kind] @ vector
        images = images - np.rint(images - 1e-6 * np.sign(images))
        images = np.concatenate([images, -images]) + 0.0
        found.append(max(images.tolist(), key=lambda x: (sum(v >= -1e-9 for v in x), x)))
    return np.array(found)


def _strengths(
    net: Floats, k: Floats, floor: Floats, arm: Integers, size: Floats, last: Floats, scatter: float
) -> tuple[Floats, Floats]:
    """Return strengths (a, n) of the arms with errors, for given intensities of reflections."""
    signal = k * size[:, None]
    expected = np.maximum(signal * last[arm], 0)
    var = np.maximum(expected + floor, 0.5) + (scatter * expected) ** 2
    n = len(last)
    weight, right = (
        np.stack([x[arm == a].sum(axis=0) for a in range(n)])
        for x in (signal**2 / var, signal * net / var)
    )
    weight = np.maximum(weight, 1e-300)
    return right / weight, 1 / np.sqrt(weight)


def _fitted(
    net: Floats, k: Floats, floor: Floats, arm: Integers, orbit: Integers, least: float
) -> tuple[Floats, Floats, float]:
    """Return strengths (a, n), intensities of the sets of reflections, and their scatter."""
    n_arms, n_sets = int(arm.max()) + 1, int(orbit.max()) + 1
    size = np.ones(n_sets)
    level = float(net.sum() / k.sum())
    strength = np.full((n_arms, net.shape[1]), max(level, 1e-300))
    scatter = least
    for _ in range(_ROUNDS):
        strength, _ = _strengths(net, k, floor, arm, size[orbit], strength, scatter)
        signal = k * strength[arm]
        expected = np.maximum(signal * size[orbit][:, None], 0)
        var = np.maximum(expected + floor, 0.5) + (scatter * expected) ** 2
        right = np.bincount(orbit, (signal * net / var).sum(axis=1), n_sets)
        weight = np.bincount(orbit, (signal**2 / var).sum(axis=1), n_sets)
        size = np.maximum(right / np.maximum(weight, 1e-300), 0)
        size = size / max(float(size.max()), 1e-300)
        # Sums over scans of single reflections: their scatter beyond counts.
        fit = (signal * size[orbit][:, None]).sum(axis=1)
        off = net.sum(axis=1) - fit
        counts = np.maximum(np.maximum(fit, 0) + floor.sum(axis=1), 0.5)
        freedom = len(off) - n_sets - n_arms + 1
        extra = float(np.sum(off**2 - counts)) * len(off) / max(freedom, 1)
        relative = extra / max(float(np.sum(fit**2)), 1e-300)
        scatter = max(least, float(np.sqrt(max(relative, 0.0)))) if freedom > 0 else least
    return strength, size, scatter


def _shares(strength: Floats, error: Floats) -> tuple[Floats, Floats]:
    """Return the part of each arm (a, n) in the sum, with errors."""
    total = strength.sum(axis=0)
    share = strength / total
    var = (error * (1 - share)) ** 2
    every = (error**2).sum(axis=0)
    var += share**2 * (every - error**2)
    return share, np.sqrt(var) / np.abs(total)


def _changes(strength: Floats, error: Floats) -> bool:
    """Return True if shares of the arms depend on the scan, also without any one scan."""

    def chance(use: NDArray[np.bool_]) -> float:
        x, s = strength[:, use], error[:, use]
        if x.shape[1] < 2:
            return 1.0
        # The best product of shares and totals.
        share = np.maximum(x.sum(axis=1), 0) / max(float(x.sum()), 1e-300)
        for _ in range(_ROUNDS):
            total = (share[:, None] * x / s**2).sum(axis=0) / (share[:, None] ** 2 / s**2).sum(
                axis=0
            )
            share = (total * x / s**2).sum(axis=1) / (total**2 / s**2).sum(axis=1)
        chi2 = float(np.sum(((x - share[:, None] * total) / s) ** 2))
        return float(stats.chi2.sf(chi2, (x.shape[0] - 1) * (x.shape[1] - 1)))

    n = strength.shape[1]
    if n < 3:
        return False
    every = np.ones(n, np.bool_)
    return chance(every) < _CHANCE and max(chance(x) for x in ~np.eye(n, dtype=np.bool_)) < _CHANCE
