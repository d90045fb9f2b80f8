"""Widths and profiles of spots, learned from strong reflections."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from hklflow.bragg.predicted import Spots
from hklflow.peaks.table import NOT_WHOLE, PeakTable

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Widths:
    """Standard deviations of spots, as functions of the position on the detector and of ζ.

    Attributes
    ----------
    mosaic : float
        Width of the rocking curve about the scan axis at ζ = 1, radians.
    slow, fast : (6,) array
        ``ln σ`` in pixels as a polynomial in ``1, y, x, y², y x, x²``; y and x go from -1 to 1
        over the detector.
    shape : (slow, fast)
        Pixels of the detector.
    step : float
        Step of the scan, radians.
    """

    mosaic: float
    slow: Floats
    fast: Floats
    shape: tuple[int, int]
    step: float

    def at(self, zeta: ArrayLike, slow: ArrayLike, fast: ArrayLike) -> Floats:
        """Return standard deviations (n, 3) in frames, slow and fast pixels."""
        design = polynomial(slow, fast, self.shape)
        frames = self.mosaic / (np.asarray(zeta) * abs(self.step))
        return np.stack([frames, np.exp(design @ self.slow), np.exp(design @ self.fast)], axis=1)

    @property
    def bound(self) -> bool:
        """True if spots are so much narrower than a frame that the mosaic is an upper bound."""
        return self.mosaic <= _NARROWEST * abs(self.step) * (1 + 1e-9)

    def typical(self) -> Floats:
        """Return standard deviations (3,) at ζ = 1 in the centre of the detector."""
        n_slow, n_fast = self.shape
        return np.asarray(self.at(np.ones(1), [n_slow / 2], [n_fast / 2])[0])


@dataclass(frozen=True)
class Profile:
    """Profiles of spots, relative to voxel-integrated Gaussians with the widths of the spots.

    Attributes
    ----------
    correction : (regions, m, m, m) array
        Factor on the Gaussian at `nodes` in (frame, slow, fast), about predicted centres.
    sharp : (regions, m, m, m) array
        Factor on the Gaussian about observed centres, without the broadening by errors of the
        predictions. It is used for strong reflections, which are fitted at their observed centres.
    nodes : (m,) array
        Positions of the nodes in standard deviations of the spot, convolved with a voxel.
    regions : (frame, slow, fast)
        Number of parts of the scan and of the detector with separate profiles.
    n_references : (regions,) int array
    """

    correction: Floats
    sharp: Floats
    nodes: Floats
    regions: tuple[int, int, int]
    n_references: NDArray[np.int64]


def polynomial(slow: ArrayLike, fast: ArrayLike, shape: tuple[int, int]) -> Floats:
    """Return the terms (n, 6) of the polynomial of the widths at pixel coordinates (n,)."""
    y = 2 * np.asarray(slow, dtype=np.float64) / shape[0] - 1
    x = 2 * np.asarray(fast, dtype=np.float64) / shape[1] - 1
    return np.stack([np.ones_like(y), y, x, y * y, y * x, x * x], axis=-1)


# --------------------------------------------------------------------- from the peaks


_NEAR = np.array([2.0, 3.0, 3.0])  # frames and pixels: largest distance of matching peaks
_STRONG_PEAK = 10.0


def matched(spots: Spots, peaks: PeakTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Match spots with strong, complete peaks; return the rows of both, strongest first."""
    fit = (peaks.flags & int(NOT_WHOLE)) == 0
    fit &= peaks.intensity > _STRONG_PEAK * np.sqrt(peaks.var_intensity)
    rows = np.flatnonzero(fit)
    rows = rows[np.argsort(-peaks.intensity[rows], kind="stable")]
    if not len(rows) or not len(spots):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    at = np.stack([peaks.frame, peaks.slow, peaks.fast], axis=1)[rows]
    tree = cKDTree(spots.centre / _NEAR)
    distance, nearest = (np.asarray(found) for found in tree.query(at / _NEAR))
    near = distance < 1
    rows, nearest = rows[near], nearest[near]
    first = np.sort(np.unique(nearest, return_index=True)[1])
    return nearest[first], rows[first]


def widths_of_peaks(peaks: PeakTable, zeta: Floats, shape: tuple[int, int], step: float) -> Widths:
    """Return start widths: medians over peaks (n,), for the ζ (n,) of their reflections."""
    turn = np.maximum(peaks.width_frame, 0.2) * zeta * abs(step)
    return constant_widths(
        float(np.median(turn)),
        (float(np.median(peaks.width_slow)), float(np.median(peaks.width_fast))),
        shape,
        step,
    )


def constant_widths(
    mosaic: float, spot: tuple[float, float], shape: tuple[int, int], step: float
) -> Widths:
    """Return widths that are constant over the detector."""
    slow, fast = (np.array([np.log(s), 0.0, 0.0, 0.0, 0.0, 0.0]) for s in spot)
    return Widths(mosaic, slow, fast, shape, step)


# ----------------------------------------------------------------- from boxes of voxels

#: Factors on the widths for which the likelihood is computed.
FACTORS = np.exp(np.linspace(-1.2, 1.2, 49))
# Largest contribution of one reflection to the difference of ln L between two widths.
_VOICE = 50.0
# The same per count, along frames, if spots are narrower than a frame: errors of predictions are
# then much of the width, and are common to all counts of a reflection.
_VOICE_PER_COUNT = 8.0
#: Width in voxels below which a spot is narrow.
NARROW = 0.5
# Smallest width in frames, at ζ = 1: narrower spots cannot be distinguished.
_NARROWEST = 0.02
_HUBER = 1.345
# Half of a normal distribution is within this number of standard deviations.
_HALF_WITHIN = 0.6745


def better_widths(
    widths: Widths, scores: Floats, slow: Floats, fast: Floats, counts: Floats
) -> Widths:
    """Return the widths with the largest likelihood.

    Parameters
    ----------
    scores : (n, 3, factors) array
        ``-ln L`` of each reflection along frame, slow and fast; the widths are multiplied by each
        of `FACTORS`.
    slow, fast : (n,) array
        Positions of the reflections.
    counts : (n,) array
        Counts of the reflections.
    """
    scores = scores - scores.min(axis=2, keepdims=True)
    if widths.typical()[0] < NARROW:
        scores[:, 0] = np.minimum(scores[:, 0] / counts[:, None], _VOICE_PER_COUNT)
    scores = np.minimum(scores, _VOICE)
    log = np.log(FACTORS)
    shift = [_lowest(scores[:, axis].sum(axis=0), log) for axis in range(3)]
    changed = []
    for axis, before in ((1, widths.slow), (2, widths.fast)):
        own = np.array([_lowest(row, log) for row in scores[:, axis]])
        inside = np.abs(own) < 0.98 * log[-1]
        design = polynomial(slow, fast, widths.shape)[inside]
        terms = 1 if inside.sum() < 40 else 3 if inside.sum() < 150 else 6
        course = _robust(design[:, :terms], own[inside] - shift[axis])
        step = np.zeros(6)
        step[: len(course)] = course
        step[0] += shift[axis]
        changed.append(before + step)
    mosaic = max(widths.mosaic * float(np.exp(shift[0])), _NARROWEST * abs(widths.step))
    return replace(widths, mosaic=mosaic, slow=changed[0], fast=changed[1])


def _lowest(score: Floats, log: Floats) -> float:
    """Return the position of the minimum, from a parabola through its neighbours."""
    i = int(np.argmin(score))
    if not 0 < i < len(log) - 1:
        return float(log[i])
    left, middle, right = score[i - 1 : i + 2]
    bend = left - 2 * middle + right
    offset = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return float(log[i] + offset * (log[1] - log[0]))


def _robust(design: Floats, y: Floats) -> Floats:
    """Return Huber's estimate of a polynomial.

    Because the widths vary little, the terms have a prior of 0 with a standard deviation of 0.5. A
    constant alone is 0.
    """
    if design.shape[1] == 1 or not len(y):
        return np.zeros(1)
    x = np.zeros(design.shape[1])
    for _ in range(20):
        off = y - design @ x
        scale = max(1.4826 * float(np.median(np.abs(off))), 1e-3)
        weight = np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(off), 1e-12)) / scale**2
        x[:] = np.linalg.solve(
            (design.T * weight) @ design + 4.0 * np.eye(len(x)), design.T @ (weight * y)
        )
    return x


# Smallest error of a prediction, in widths of the spot; smallest number of centroids to learn from.
_LEAST_ERROR = 0.1
_FEWEST_CENTROIDS = 10


def position_errors(off: Floats, variance: Floats, sigma: Floats) -> Floats:
    """Return the standard deviations (3,) of predictions, from centroids of strong reflections.

    The standard deviation is chosen so that half of the differences, divided by their expected
    standard deviations, are smaller than 0.6745. A centroid is used if it is known better than the
    width of the spot. If there are few of them, the result is the width itself: it was learned
    about predicted centres, so that it contains their errors.

    Parameters
    ----------
    off, variance : (n, 3) array
        Observed minus predicted centres, and the variance of the centroid; NaN: not measured.
    sigma : (n, 3) array
        Standard deviations of the spots, in the same units.
    """
    errors = np.median(sigma, axis=0)
    for axis in range(3):
        known = variance[:, axis] < sigma[:, axis] ** 2
        if known.sum() < _FEWEST_CENTROIDS:
            continue
        d2, v = off[known, axis] ** 2, variance[known, axis]
        low, high = _LEAST_ERROR * errors[axis], np.sqrt(d2.max()) + errors[axis]
        for _ in range(40):
            middle = np.sqrt(low * high)
            if np.median(d2 / (v + middle**2)) > _HALF_WITHIN**2:
                low = middle
            else:
                high = middle
        errors[axis] = high
    return np.asarray(errors)


# ------------------------------------------------------------------------ the profiles

#: Nodes of the correction, in standard deviations.
NODES = np.linspace(-4.5, 4.5, 13)
_PER_REGION = 100
_LEAST = 0.02


def regions_for(n: int) -> tuple[int, int, int]:
    """Return into how many parts scan and detector can be divided with n references."""
    side = 3 if n >= 9 * _PER_REGION else 2 if n >= 4 * _PER_REGION else 1
    return min(4, max(1, n // (2 * side**2 * _PER_REGION))), side, side


def region_of(
    spots: Spots, regions: tuple[int, int, int], n_frames: int, shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Return the number of the region (n,) of each spot."""
    extent = np.array([n_frames, *shape])
    at = np.floor(spots.centre / extent * regions).astype(np.int64)
    at = np.clip(at, 0, np.array(regions) - 1)
    return np.asarray((at[:, 0] * regions[1] + at[:, 1]) * regions[2] + at[:, 2])


def learned(
    observed: Floats,
    expected: Floats,
    variance: Floats,
    mass: Floats,
) -> Floats:
    """Return the profile corrections (regions, m, m, m) at the nodes of the grid.

    The input are sums over the reference reflections of each region. The ratio of observed to
    expected counts is noisy. The ratio over all regions is shrunk towards 1, and the ratio of each
    region towards the ratio over all regions. The shrinkage is the noise fraction of the scatter at
    the same distance from the centre.

    Parameters
    ----------
    observed, expected, variance : (regions, m, m, m) array
        Counts above background, counts expected from the Gaussians, and variance of the counts.
    mass : (m, m, m) array
        Mean share of a Gaussian at each node.
    """
    everywhere = _drawn(
        observed.sum(axis=0), expected.sum(axis=0), variance.sum(axis=0), np.ones_like(mass)
    )
    correction = np.stack(
        [_drawn(o, e, v, everywhere) for o, e, v in zip(observed, expected, variance, strict=True)]
    )
    rest = 1 - mass.sum()
    scale = (correction * mass).sum(axis=(1, 2, 3)) + rest
    return np.asarray(correction / scale[:, None, None, None])


def _drawn(observed: Floats, expected: Floats, variance: Floats, towards: Floats) -> Floats:
    """Return observed over expected counts, shrunk towards another ratio as far as it is noise."""
    known = expected > 0
    safe = np.where(known, expected, 1.0)
    ratio = np.where(known, observed / safe, towards)
    noise = np.where(known, variance / safe**2, np.inf)
    radius = np.sqrt(np.add.outer(np.add.outer(NODES**2, NODES**2), NODES**2))
    result = towards.copy()
    for low in range(6):
        ring = known & (radius >= low) & (radius < low + 1) & np.isfinite(noise)
        if not ring.any():
            continue
        weight = expected[ring]
        excess = float(
            np.sum(weight * ((ratio[ring] - towards[ring]) ** 2 - noise[ring])) / weight.sum()
        )
        trust = max(excess, 0.0) / (max(excess, 0.0) + noise[ring] + 1e-300)
        result[ring] = towards[ring] + trust * (ratio[ring] - towards[ring])
    return np.maximum(result, _LEAST)
