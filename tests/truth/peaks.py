"""Simulated peaks whose places and counts are known, and which of them a search finds.

The simulation integrates Gaussians over voxels with scipy's error function and shares no code
with the search. A peak's strength in sigma is its intensity over its Poisson uncertainty,
``I / sqrt(I + b V)``, with the background in the ellipsoid V of two standard deviations.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import erf

from hklflow.peaks.search import PeakTable, find_peaks
from tests.truth.defaults import peak_params

AXES = ("frame", "slow", "fast")
SHAPE = (96, 208, 208)


@dataclass
class Truth:
    centre: NDArray[np.float64]
    width: NDArray[np.float64]
    sigma: NDArray[np.float64]
    intensity: NDArray[np.float64]


def expected_counts(shape, truth, background):
    mu = np.broadcast_to(background, shape).astype(float)
    for c, w, total in zip(truth.centre, truth.width, truth.intensity, strict=True):
        low = np.clip(np.floor(c - 6 * w - 1), 0, shape).astype(int)
        high = np.clip(np.ceil(c + 6 * w + 1), 0, shape).astype(int)
        parts = [
            np.diff(erf((np.arange(a, b + 1) - x) / (np.sqrt(2) * s))) / 2
            for a, b, x, s in zip(low, high, c, w, strict=True)
        ]
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        mu[box] += total * np.einsum("i,j,k->ijk", *parts)
    return mu


def background_of(shape):
    slow, fast = np.ogrid[: shape[1], : shape[2]]
    return (1.0 + fast / shape[2] + 0.5 * np.sin(slow / 40.0))[None]


def with_strength(rng, centre, background, low, high):
    """Give peaks random widths, and the intensities of a random strength in sigma."""
    n = len(centre)
    width = np.stack([rng.uniform(a, b, n) for a, b in ((0.6, 3.0), (0.7, 2.5), (0.7, 2.5))], 1)
    sigma = np.exp(rng.uniform(np.log(low), np.log(high), n))
    at = np.clip(centre[:, 1:].astype(int), 0, np.array(background.shape[1:]) - 1)
    volume = 4 / 3 * np.pi * 8.0 * np.sqrt(width**2 + 1 / 12).prod(axis=1)
    noise = 4 * background[0][at[:, 0], at[:, 1]] * volume
    return Truth(centre, width, sigma, (sigma**2 + sigma * np.sqrt(sigma**2 + noise)) / 2)


def grid(rng, shape, *, start=14, step=(26, 22, 22)):
    """Places that do not touch: peaks that do are another test."""
    axes = [np.arange(start, n - start + 1, s) for n, s in zip(shape, step, strict=True)]
    centre = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(float)
    return centre + rng.uniform(-1.0, 1.0, centre.shape)


def table(peaks: PeakTable, prefix: str = "") -> NDArray[np.float64]:
    return np.stack([getattr(peaks, prefix + name) for name in AXES], axis=1)


def match(peaks: PeakTable, truth: Truth) -> NDArray[np.int64]:
    """Row of each true peak or -1. A peak is where its centre is, within 1.5 widths."""
    if not len(peaks):
        return np.full(len(truth.centre), -1)
    _, row = cKDTree(table(peaks)).query(truth.centre)
    near = np.abs(table(peaks)[row] - truth.centre) < 1.5 * np.maximum(truth.width, 1.0)
    return np.where(near.all(axis=1), row, -1)


def search(data, mask=None, size=16, params=None, **options):
    mask = np.zeros(data.shape[1:], bool) if mask is None else mask
    blocks = (data[k : k + size] for k in range(0, len(data), size))
    return find_peaks(blocks, mask, params or peak_params(), **options)
