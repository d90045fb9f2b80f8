"""What S and its Poisson errors must be, in plain numpy, for whole volumes in memory."""

import numpy as np


def around(values: np.ndarray, width: int) -> np.ndarray:
    """Sum over the (2 width + 1)³ voxels around each; what is outside the volume counts as 0."""
    for axis in range(3):
        n = values.shape[axis]
        margins = [(width, width) if i == axis else (0, 0) for i in range(3)]
        padded = np.pad(values, margins)
        shifted = (np.arange(n) + start for start in range(2 * width + 1))
        values = np.sum([padded.take(places, axis) for places in shifted], axis=0)
    return values


def expected_counts(counts: np.ndarray, norm: np.ndarray, pool: int) -> np.ndarray:
    """Expected count of every voxel, of which its Poisson error is the root.

    A voxel's own count (at least 1) is a poor guess where counts are few. Better is the rate of
    its neighbourhood, as far as the neighbourhood is flat within Poisson noise: the more S varies
    there, the more weight has the voxel on its own, or the smaller neighbourhood.
    """
    norm_or_1 = np.where(norm > 0, norm, 1)
    best = np.maximum(counts, 1.0)
    for width in range(1, pool + 1):
        c, m, mm = around(counts, width), around(norm, width), around(norm**2, width)
        m, mm = (np.where(norm > 0, total, 1) for total in (m, mm))
        rate = np.maximum(c, 0.5) / m  # none at all: about half a count
        # Σ (C - r M)² over the neighbourhood, C and M being its voxels' and r the voxel's rate
        squares = around(counts**2, width) - 2 * rate * around(counts * norm, width) + rate**2 * mm
        # what Poisson noise makes of it: mean, with one rate fitted, and standard deviation
        noise = rate * (m - mm / m)
        deviation = np.sqrt(2 * rate**2 * mm + rate * m)
        of_s = np.maximum(squares - noise - 3 * deviation, 0) / mm  # variance of the true S
        own = of_s / (of_s + rate / norm_or_1)
        best = own * best + (1 - own) * rate * norm
    return np.where(norm > 0, best, np.nan)


def intensity(counts: np.ndarray, norm: np.ndarray, pool: int) -> tuple[np.ndarray, np.ndarray]:
    """S = counts / norm and its standard deviation; NaN where nothing was measured."""
    measured = np.where(norm > 0, norm, np.nan)
    return counts / measured, np.sqrt(expected_counts(counts, norm, pool)) / measured
