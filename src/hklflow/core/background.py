"""Local background of a frame, and the voxels that stand out of it.

A frame's background is the mean over a square window of its valid pixels. Strong pixels
are found with a first mean, left out, and the mean is taken again, so that a Bragg peak
does not raise its own background.

A voxel is strong when the counts summed over a box of 1, 3 or 5 voxels on an edge exceed
the background in that box. The larger boxes find peaks that are broad and weak: their
single pixels do not stand out of the noise. The test is the likelihood ratio of a
Poisson count ``N`` against its expectation ``V``, ``2 (N ln(N / V) - N + V) > n_sigma²``,
which becomes ``N > V + n_sigma sqrt(V)`` for many counts and holds for few.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hklflow.errors import HklflowError

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

#: Number of frames over which the largest detection box extends.
DEPTH = 5
#: Expected counts in a box, and boxes that have them, which `dispersion` needs.
_ENOUGH_COUNTS, _ENOUGH_BOXES = 20.0, 1000


@njit(cache=True, nogil=True)
def clean_frame(
    frame: NDArray[Any], bad: NDArray[np.bool_], invalid_from: float, counts: F32, valid: U8
) -> None:
    """Copy a frame of any number type to float32; flags and masked pixels become invalid zeros."""
    for i in range(frame.shape[0]):
        for j in range(frame.shape[1]):
            value = float(frame[i, j])
            # written so that NaN is invalid as well
            good = (value >= 0.0) and (value < invalid_from) and not bad[i, j]
            valid[i, j] = 1 if good else 0
            counts[i, j] = value if good else 0.0


@njit(cache=True, nogil=True)
def _window_mean(counts: F32, use: U8, half: int, least: int, mean: F32) -> None:
    """Mean of the used pixels in a window; unchanged where fewer than `least` are used."""
    rows, columns = counts.shape
    column_sum = np.zeros(columns)
    column_number = np.zeros(columns, np.int32)
    for i in range(-half, rows):
        enter, leave = i + half, i - half - 1
        if enter < rows:
            for j in range(columns):
                column_sum[j] += counts[enter, j] * use[enter, j]
                column_number[j] += use[enter, j]
        if leave >= 0:
            for j in range(columns):
                column_sum[j] -= counts[leave, j] * use[leave, j]
                column_number[j] -= use[leave, j]
        if i < 0:
            continue
        total, number = 0.0, 0
        for j in range(min(half, columns)):
            total += column_sum[j]
            number += column_number[j]
        for j in range(columns):
            if j + half < columns:
                total += column_sum[j + half]
                number += column_number[j + half]
            if j - half - 1 >= 0:
                total -= column_sum[j - half - 1]
                number -= column_number[j - half - 1]
            if number >= least:
                # One count more than seen: a window without counts does not prove a zero rate.
                mean[i, j] = (max(total, 0.0) + 1.0) / number


@njit(cache=True, nogil=True)
def _quiet(counts: F32, valid: U8, mean: F32, n_sigma: float, use: U8) -> None:
    for i in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            excess = counts[i, j] - mean[i, j]
            strong = excess > 1.0 and excess * excess > n_sigma * n_sigma * mean[i, j]
            use[i, j] = 0 if strong else valid[i, j]


def local_background(counts: F32, valid: U8, half: int, n_sigma: float) -> F32:
    """Mean counts of the quiet pixels around each pixel.

    Parameters
    ----------
    counts, valid
        Frame and its valid pixels (1), both (slow, fast).
    half
        The window has ``2 half + 1`` pixels on an edge.
    n_sigma
        Pixels that exceed the first mean by this many standard deviations are left out.

    Returns
    -------
    ndarray (slow, fast)
        Counts per pixel; infinity where no valid pixel is near.
    """
    mean = np.full(counts.shape, np.inf, np.float32)
    use = valid.copy()
    _window_mean(counts, valid, half, 1, mean)
    # Where hardly a quiet pixel is left, the mean of an earlier pass stands: it is too high,
    # which only hides the outskirts of a peak that is found anyway.
    least = max(1, (2 * half + 1) ** 2 // 20)
    for _ in range(2):
        _quiet(counts, valid, mean, n_sigma, use)
        _window_mean(counts, use, half, least, mean)
    return mean


@njit(cache=True, nogil=True)
def residual(counts: F32, valid: U8, mean: F32, excess: F32, expected: F32) -> None:
    """Fill counts minus background, and background, with zeros at invalid pixels."""
    for i in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            good = valid[i, j] != 0
            excess[i, j] = counts[i, j] - mean[i, j] if good else 0.0
            expected[i, j] = mean[i, j] if good else 0.0


@njit(cache=True, nogil=True)
def _stands_out(excess: float, expected: float, n_sigma: float) -> bool:
    # The Gaussian test comes first: it is cheap and never stricter than the likelihood ratio.
    if excess <= 0.0 or expected <= 0.0 or excess * excess <= n_sigma * n_sigma * expected:
        return False
    number = excess + expected
    return bool(2.0 * (number * np.log(number / expected) - excess) > n_sigma * n_sigma)


@njit(cache=True, nogil=True)
def _sum_frames(excess: F32, expected: F32, row: int, middle: int, out: F32) -> None:
    """Add up a row over three frames (excess, expected) and over five (the same)."""
    depth = excess.shape[0]
    a, b, c = (middle - 1) % depth, middle, (middle + 1) % depth
    d, e = (middle + 2) % depth, (middle + 3) % depth
    for k in range(2):
        ring = excess if k == 0 else expected
        ra, rb, rc, rd, re = ring[a, row], ring[b, row], ring[c, row], ring[d, row], ring[e, row]
        three, five = out[k], out[2 + k]
        for j in range(three.size):
            three[j] = ra[j] + rb[j] + rc[j]
            five[j] = three[j] + rd[j] + re[j]


@njit(cache=True, nogil=True)
def _sum_three(padded: F32, out: F32) -> None:
    a, b, c = padded[1:], padded[2:], padded[3:]
    for j in range(out.size):
        out[j] = a[j] + b[j] + c[j]


@njit(cache=True, nogil=True)
def _sum_five(padded: F32, out: F32) -> None:
    a, b, c, d, e = padded, padded[1:], padded[2:], padded[3:], padded[4:]
    for j in range(out.size):
        out[j] = a[j] + b[j] + c[j] + d[j] + e[j]


@njit(cache=True, nogil=True)
def _candidates(
    r1: F32, v1: F32, box: F32, limit: np.float32, threshold: np.float32, maybe: U8
) -> None:
    """Gaussian tests without a branch, so that they run on many pixels at a time."""
    r3, v3, r5, v5 = box[0], box[1], box[2], box[3]
    for j in range(maybe.size):
        one = (r1[j] > 0) & (r1[j] * r1[j] > limit * v1[j])
        three = (r3[j] > 0) & (r3[j] * r3[j] > limit * v3[j])
        five = (r5[j] > 0) & (r5[j] * r5[j] > limit * v5[j])
        maybe[j] = one | three | five | (r1[j] + v1[j] > threshold)


@njit(cache=True, nogil=True)
def strong_voxels(
    excess: F32,
    expected: F32,
    middle: int,
    n_sigma: float,
    threshold: float,
    strong: U8,
    smooth: F32,
    noise: F32,
) -> None:
    """Mark the strong voxels of the middle frame of a ring of `DEPTH` frames.

    Parameters
    ----------
    excess, expected
        Rings (DEPTH, slow, fast) of counts minus background and of background; zero at
        invalid pixels and for frames outside the scan.
    middle
        Ring position of the frame to be tested.
    n_sigma, threshold
        Limits; a voxel with more than `threshold` counts is strong by itself.
    strong
        Out (slow, fast): 1 if strong. An invalid pixel can be: it then bridges a gap.
    smooth, noise
        Out (slow, fast): excess and expectation in the box of 3 voxels on an edge.
    """
    rows, columns = strong.shape
    limit = np.float32(n_sigma * n_sigma)
    # Sums over frames, then over rows, then over columns: a box costs 3 + 3 + 3 additions.
    sums = np.zeros((5, 4, columns), np.float32)  # of the last five rows
    line = np.zeros((4, columns + 4), np.float32)
    box = np.zeros((4, columns), np.float32)
    maybe = np.zeros(columns, np.uint8)
    for i in range(rows):
        for row in range(0 if i == 0 else i + 2, min(rows, i + 3)):
            _sum_frames(excess, expected, row, middle, sums[row % 5])
        line[:] = 0.0
        for row in range(max(0, i - 2), min(rows, i + 3)):
            for k in range(4 if abs(row - i) <= 1 else 2):
                into, add = line[3 - k, 2:], sums[row % 5, 3 - k]
                for j in range(columns):
                    into[j] += add[j]
        for k in range(2):
            _sum_three(line[k], box[k])
            _sum_five(line[2 + k], box[2 + k])
        r1, v1 = excess[middle, i], expected[middle, i]
        _candidates(r1, v1, box, limit, np.float32(threshold), maybe)
        smooth[i], noise[i] = box[0], box[1]
        for j in range(columns):
            strong[i, j] = 0
            if maybe[j] != 0:
                found = _stands_out(r1[j], v1[j], n_sigma)
                found = found or (v1[j] > 0.0 and r1[j] + v1[j] > threshold)
                found = found or _stands_out(box[0, j], box[1, j], n_sigma)
                found = found or _stands_out(box[2, j], box[3, j], n_sigma)
                strong[i, j] = 1 if found else 0


@njit(cache=True, nogil=True)
def quiet_mean(excess: F32, expected: F32, strong: U8) -> float:
    """Mean counts of the valid pixels of a frame that are not strong; 1 if there are none.

    The beam and the exposure can change from frame to frame. The mean of the local
    backgrounds would not do: the outskirts of peaks raise it on frames with many peaks.
    """
    total, number = 0.0, 0
    for i in range(strong.shape[0]):
        for j in range(strong.shape[1]):
            if strong[i, j] == 0 and expected[i, j] > 0.0:
                total += excess[i, j] + expected[i, j]
                number += 1
    return total / number if total > 0.0 else 1.0


def dispersion(excess: F32, expected: F32) -> float:
    """Variance of the background's counts over their mean, from boxes of 27 voxels.

    The 68.3 % quantile of squared deviations is the variance of a Gaussian; Bragg peaks,
    which are few, do not enter it.

    Parameters
    ----------
    excess, expected
        Counts above background and background (slow, fast) as `strong_voxels` gives them.

    Raises
    ------
    HklflowError
        If there is too little background.
    """
    use = expected >= _ENOUGH_COUNTS
    if np.count_nonzero(use) < _ENOUGH_BOXES:
        raise HklflowError(
            f"only {np.count_nonzero(use)} pixels have the {_ENOUGH_COUNTS:g} counts of background "
            "in a box of 27 voxels that the detector's gain needs; give the gain"
        )
    return float(np.quantile(excess[use].astype(float) ** 2 / expected[use], 0.683))
