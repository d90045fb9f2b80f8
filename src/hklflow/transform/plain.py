"""Plain loop of the transform, one pixel at a time, for data that the fast loop cannot transform.

The plain loop is for floating-point frames (expected counts, images corrected by other programs,
photons with read noise), numbers of sub-samples that are not a power of two, and pixels with very
many photons.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]

#: Unit, in photons, to which photon values with read noise and their variances are rounded. Sums
#: are then exact up to 2²⁷ photons and do not depend on the order of summation.
COUNTS_UNIT = 2.0**-26

# Number of photons in a pixel, and number per sub-sample, above which the shares are drawn from the
# normal limit of the binomial distribution. The width of the distribution is then 8 or more.
_DEAL_ONE_BY_ONE = 1024
_NORMAL_SHARE = 64
# Variance of the remainder of a number that is rounded to an integer.
_ROUNDING = 1.0 / 12.0
_BOTH_SIGNS = 2.0


@kernel(inline="always")
def _next_random(state: np.uint64) -> np.uint64:
    """Return the next state of the splitmix64 generator (Steele, Lea & Flood, OOPSLA 2014)."""
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def deal(n: int, place: int, seed: np.uint64, dealt: Floats) -> None:
    """Distribute n photons at random to the sub-samples; ``dealt`` is overwritten.

    Photons are distributed one by one. For many photons, the multinomial distribution is drawn as a
    chain of binomial distributions in their normal limit. ``place`` is the number of the
    pixel-frame in the scan; the same place and seed give the same shares.
    """
    n_sub = len(dealt)
    state = _next_random(seed ^ (np.uint64(place) * np.uint64(0xD1342543DE82EF95)))
    if n <= max(_DEAL_ONE_BY_ONE, _NORMAL_SHARE * n_sub):
        dealt[:] = 0.0
        for _ in range(n):
            state = _next_random(state)
            # The high bits times n_sub select a sub-sample with a bias below 2⁻³².
            dealt[int(((state >> np.uint64(32)) * np.uint64(n_sub)) >> np.uint64(32))] += 1.0
        return
    left = float(n)
    for s in range(n_sub - 1):
        p = 1.0 / (n_sub - s)
        state = _next_random(state)
        radius = np.sqrt(-2.0 * np.log((float(state >> np.uint64(11)) + 0.5) * 2.0**-53))
        state = _next_random(state)
        normal = radius * np.cos(2.0 * np.pi * float(state >> np.uint64(11)) * 2.0**-53)
        share = np.floor(left * p + np.sqrt(left * p * (1.0 - p)) * normal + 0.5)
        dealt[s] = min(max(share, 0.0), left)
        left -= dealt[s]
    dealt[n_sub - 1] = left


@kernel
def deal_noisy(value: float, read: float, place: int, seed: np.uint64, dealt: Floats) -> None:
    """Distribute a value with read noise of the variance ``read``, see `transform.binning`.

    The nearest integer is distributed as `deal` does; one sub-sample gets the remainder. If the
    noise is larger than the rounding, normal numbers with the sum 0 are added.
    """
    whole = int(np.floor(value + 0.5))
    if read <= _ROUNDING:
        whole = max(whole, 0)
    if whole != 0:
        deal(abs(whole), place, seed, dealt)
        if whole < 0:
            dealt[:] *= -1.0
    else:
        dealt[:] = 0.0
    # This random stream differs from the stream of the photons.
    other = seed ^ np.uint64(0xA0761D6478BD642F)
    state = _next_random(other ^ (np.uint64(place) * np.uint64(0xD1342543DE82EF95)))
    s = int(((_next_random(state) >> np.uint64(32)) * np.uint64(len(dealt))) >> np.uint64(32))
    dealt[s] += value - whole
    # Units taken from a negative number have added twice their number to the variance.
    variance = read - _ROUNDING - 2.0 * max(-whole, 0)
    # Where noise alone makes units of both signs, they have added enough.
    if variance > 0 and (whole != 0 or read >= _BOTH_SIGNS):
        _add_normal(np.sqrt(variance / len(dealt)), state, dealt)


@kernel
def _add_normal(width: float, state: np.uint64, dealt: Floats) -> None:
    """Add normal numbers whose sum is 0, in multiples of `COUNTS_UNIT`."""
    total = 0.0
    n_sub = len(dealt)
    for s in range(n_sub):
        state = _next_random(state)
        radius = np.sqrt(-2.0 * np.log((float(state >> np.uint64(11)) + 0.5) * 2.0**-53))
        state = _next_random(state)
        normal = radius * np.cos(2.0 * np.pi * float(state >> np.uint64(11)) * 2.0**-53)
        number = np.rint(width * normal / COUNTS_UNIT) * COUNTS_UNIT
        dealt[s] += number
        total += number
    mean = np.rint(total / n_sub / COUNTS_UNIT) * COUNTS_UNIT
    for s in range(n_sub):
        dealt[s] -= mean
    dealt[n_sub - 1] -= total - n_sub * mean


class Tables(NamedTuple):
    """Positions of pixels in reciprocal space, and their norms."""

    q: Floats
    """q_lab in 1/Å, (slow, fast, pixel sub-samples, 3)."""
    pixel_norm: Floats
    """The pixel's factor of N, (slow, fast); pixels are used only if it is above 0."""
    frame_norm: Floats
    """The frame's factor of N, (n,); frames are used only if it is above 0."""
    to_voxel: Floats
    """Matrices from (q_lab, 1) to voxels, (n, frame sub-samples, 3, 4)."""
    window: NDArray[np.int32]
    """Voxels of the caller, (9,); see `transform.follow.follow`."""
    weights: Floats
    """Factors of the pixels of the expected backgrounds and of their variance, (m, slow, fast)."""
    factors: Floats
    """Factors of the frames of the same, (m, n)."""


class Rules(NamedTuple):
    """Limits of valid values, and the rule for dividing values among sub-samples."""

    deal_photons: bool
    """True: distribute photons to the sub-samples. False: divide the counts evenly."""
    seed: np.uint64
    valid_from: float
    """Smallest valid value."""
    invalid_from: float
    """Smallest invalid value above the valid values."""


class Volumes(NamedTuple):
    """Flat memory of `Bricks`."""

    counts: Floats
    norm: Floats
    counts_excluded: Floats
    norm_excluded: Floats
    noise: Floats
    """Sums of the read variance: kept pixels at 2 v, excluded pixels at 2 v + 1."""
    expected: Floats
    """Sums of the expected background at 2 v, of its variance at 2 v + 1: kept pixels."""
    expected_excluded: Floats
    """The same for excluded pixels."""


@kernel
def add_block(
    frames: NDArray[Any],
    first_frame: int,
    first_row: int,
    tables: Tables,
    excluded: NDArray[np.uint8],
    read_variance: Floats,
    rules: Rules,
    volumes: Volumes,
) -> tuple[int, int]:
    """Add a block of frames to the volumes; the arguments are not checked.

    Parameters
    ----------
    frames : (n, rows, fast) array
    first_frame, first_row : int
        Number of the first frame in the scan, and of the first row on the detector.
    tables : Tables
        The product of both norms is rounded to an integer.
    excluded : (n, slow, ceil(fast / 8)) uint8, or empty
        Artefact mask, bit-packed along fast.
    read_variance : (slow, fast) array, or empty
        Variance of the read noise of a sub-sample. Photons with read noise are distributed, too.
    rules : Rules
    volumes : Volumes

    Returns
    -------
    inside : int
        Number of sub-samples that were added.
    invalid : int
        Number of invalid pixel-frames.
    """
    q, pixel_norm, frame_norm, to_voxel, window, weights, factors = tables
    deal_photons, seed, valid_from, invalid_from = rules
    counts, norm, counts_excluded, norm_excluded, noise, expected, expected_excluded = volumes
    n_expected = len(weights) - 1
    n_frames, n_rows, n_fast = frames.shape
    n_slow = len(pixel_norm)
    n_phi, n_pix = to_voxel.shape[1], q.shape[2]
    n_sub = n_phi * n_pix
    share = 1.0 / n_sub
    dealt = np.zeros(n_sub, dtype=np.float64)
    masked, noisy = excluded.size > 0, read_variance.size > 0
    extra = 0.0
    inside = 0
    invalid = 0
    for z in range(n_frames):
        if not frame_norm[z] > 0:
            continue
        for i in range(first_row, first_row + n_rows):
            for j in range(n_fast):
                weight = pixel_norm[i, j]
                if not weight > 0:
                    continue
                n = float(frames[z, i - first_row, j])
                if not valid_from <= n < invalid_from:  # NaN is a flag
                    invalid += 1
                    continue
                weight = np.rint(weight * frame_norm[z])
                around, variance = 0.0, 0.0
                for e in range(n_expected):
                    around += np.rint(weights[e, i, j] * factors[e, z])
                if n_expected > 0:
                    variance = np.rint(weights[n_expected, i, j] * factors[n_expected, z])
                place = ((first_frame + z) * n_slow + i) * n_fast + j
                if noisy:
                    extra = read_variance[i, j]
                    n = np.rint(n / COUNTS_UNIT) * COUNTS_UNIT
                if noisy and n_sub > 1:
                    deal_noisy(n, extra * n_sub, place, seed, dealt)
                elif deal_photons and n_sub > 1 and n > 0:
                    deal(int(n), place, seed, dealt)
                else:
                    dealt[:] = n * share
                is_excluded = masked and (excluded[z, i, j >> 3] >> (7 - (j & 7))) & 1
                for a in range(n_phi):
                    m = to_voxel[z, a]
                    for b in range(n_pix):
                        x, y, w = q[i, j, b, 0], q[i, j, b, 1], q[i, j, b, 2]
                        h = int(np.floor(m[0, 0] * x + m[0, 1] * y + m[0, 2] * w + m[0, 3]))
                        k = int(np.floor(m[1, 0] * x + m[1, 1] * y + m[1, 2] * w + m[1, 3]))
                        l = int(np.floor(m[2, 0] * x + m[2, 1] * y + m[2, 2] * w + m[2, 3]))  # noqa: E741
                        if (
                            not 0 <= h - window[0] < window[1]
                            or not 0 <= k - window[2] < window[3]
                            or not 0 <= l - window[4] < window[5]
                        ):
                            continue
                        l -= window[8]  # noqa: E741
                        v = h + (h >> 3) * 504 + 8 * k + (k >> 3) * window[6]
                        v += 64 * l + (l >> 3) * window[7]
                        inside += 1
                        if is_excluded:
                            counts_excluded[2 * v] += dealt[a * n_pix + b]
                            norm_excluded[2 * v + 1] += weight
                        else:
                            counts[2 * v] += dealt[a * n_pix + b]
                            norm[2 * v + 1] += weight
                        if n_expected > 0 and is_excluded:
                            expected_excluded[2 * v] += around
                            expected_excluded[2 * v + 1] += variance
                        elif n_expected > 0:
                            expected[2 * v] += around
                            expected[2 * v + 1] += variance
                        if noisy:
                            noise[2 * v + is_excluded] += extra
    return inside, invalid
