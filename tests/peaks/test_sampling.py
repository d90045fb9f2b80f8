"""Centroids of spots narrower than a pixel or a frame: simulated spots of mosaic crystals."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import erf
from tests.truth.peaks import search, table

from hklflow.peaks.sampling import with_sampling

Floats = NDArray[np.float64]


def blocks(rng: np.random.Generator, width: Floats) -> tuple[Floats, Floats, Floats]:
    """Return places (6, axes), shares and width of the blocks of a spot with its centre at 0."""
    place, share = rng.normal(size=(6, len(width))), rng.exponential(size=6)
    share /= share.sum()
    place -= share @ place
    own = 0.4 * width
    place *= np.sqrt(width**2 - own**2) / np.sqrt(share @ place**2)
    return place, share, own


def on_voxels(first: int, n: int, centre: float, width: float) -> Floats:
    """Return the shares of a Gaussian in n voxels."""
    part: Floats = np.diff(erf((first + np.arange(n + 1) - centre) / (np.sqrt(2) * width))) / 2
    return part


def test_limits() -> None:
    small = np.full(3, 1e-6)
    found = with_sampling(small, np.array([1e-4, 1.5, 3.0]))
    assert found[0] == pytest.approx(1 / 12, rel=0.03)
    np.testing.assert_allclose(found[1:], small[1:], rtol=0.1)
    np.testing.assert_array_equal(with_sampling(np.ones(1), np.full(1, 0.1)), 1.0)


@pytest.mark.parametrize("width", [0.1, 0.2, 0.3, 0.45, 0.7])
def test_centre_of_mass_of_a_mosaic_crystal_on_pixels(width: float) -> None:
    rng = np.random.default_rng(1)
    off = []
    for _ in range(2000):
        place, share, own = blocks(rng, np.array([width]))
        centre = rng.uniform()
        counts = sum(
            a * on_voxels(-6, 13, centre + x, own[0])
            for x, a in zip(place[:, 0], share, strict=True)
        )
        off.append((-5.5 + np.arange(13)) @ counts - centre)
    law = float(np.sqrt(with_sampling(np.zeros(1), np.array([width]))[0]))
    assert 0.75 < np.sqrt(np.mean(np.square(off))) / law < 1.25
    assert abs(np.mean(off)) < 0.1 * law


# Widths in frames, and in pixels along slow and fast.
@pytest.mark.parametrize("width", [(0.8, 0.1), (0.8, 0.3), (0.8, 0.45), (0.3, 0.7), (0.15, 1.2)])
@pytest.mark.parametrize("counts", [300, 3000])
def test_errors_of_fitted_centroids_are_honest(width: tuple[float, float], counts: int) -> None:
    """By the likelihood of a Gaussian alone, pulls of spots of 0.3 pixels have the width 3."""
    rng = np.random.default_rng(2)
    shape, extent = (24, 250, 250), np.array([width[0], width[1], width[1]])
    slow, fast = (v.ravel() for v in np.mgrid[14:236:17, 14:236:17])
    depth = np.full(slow.size, 12.0)
    centre = np.stack([depth, slow, fast], 1) + rng.uniform(0, 1, (slow.size, 3))
    mu = np.full(shape, 0.05)
    for c in centre:
        low = np.floor(c).astype(int) - 7
        for x, a in zip(*(part := blocks(rng, extent))[:2], strict=True):
            parts = [on_voxels(b, 15, y, w) for b, y, w in zip(low, c + x, part[2], strict=True)]
            box = tuple(slice(b, b + 15) for b in low)
            mu[box] += counts * a * np.einsum("i,j,k->ijk", *parts)
    peaks = search(rng.poisson(mu).astype(np.uint16))
    _, row = cKDTree(table(peaks)).query(centre)
    variance = table(peaks, "var_")[row]
    widths = table(peaks, "width_")[row]
    error = np.stack([with_sampling(v, w) for v, w in zip(variance.T, widths.T, strict=True)], 1)
    pull = (table(peaks)[row] - centre) / np.sqrt(error)
    for of_axis in (pull[:, :1], pull[:, 1:]):
        assert abs(np.mean(of_axis)) < 0.25
        assert 0.5 < np.sqrt(np.mean(of_axis**2)) < 1.6
