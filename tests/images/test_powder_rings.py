"""Powder rings above a smooth level, with textures, in cells that are written down here."""

import numpy as np
import pytest

from hklflow.images import powder_rings, ring_search
from hklflow.images.ring_search import GROUPS, SECTORS, Cells

PIXEL = 0.02
RINGS = ((1.5, 0.02, 8.0), (2.3, 0.025, 4.0), (2.36, 0.02, 5.0))  # centre, σ, height


def true(q: np.ndarray, azimuth: np.ndarray, texture: float) -> np.ndarray:
    total = np.zeros(np.broadcast(q, azimuth).shape)
    for i, (centre, sigma, height) in enumerate(RINGS):
        uneven = 1 + texture * np.cos(2 * azimuth - i)
        total = total + height * uneven * np.exp(-(((q - centre) / sigma) ** 2) / 2)
    return total


def cells(rings: bool, texture: float = 0.4, *, streaks: float = 0.0) -> Cells:
    """Return sums of 1500 counts in a cell; ``streaks``: sharp scattering in few cells."""
    rng = np.random.default_rng(1)
    edges = ring_search.bins(np.array([0.5, 4.5]), PIXEL)
    q = (edges[:-1] + edges[1:]) / 2
    azimuth = (np.arange(SECTORS)[:, None] + 0.5) / SECTORS * 2 * np.pi - np.pi
    level = 20 + 5 * q - 0.8 * q**2 + np.cos(azimuth)
    level = np.broadcast_to(level, (GROUPS, SECTORS, len(q))).copy()
    if rings:
        level += true(q, azimuth, texture)
    if streaks:
        some = rng.random((GROUPS, SECTORS)) < 0.3
        level[some] += streaks * np.exp(-(((q - 3.1) / 0.03) ** 2) / 2)
    unit = np.full(level.shape, 70.0)
    return Cells(edges, rng.poisson(level * unit).astype(float), unit)


def test_rings_and_their_textures_are_found() -> None:
    found = powder_rings.find(cells(rings=True))
    # The second and the third overlap, and may be one.
    assert found.rings[0].q == pytest.approx(1.5, abs=PIXEL)
    assert all(2.28 < r.q < 2.38 for r in found.rings[1:])
    q, azimuth = np.meshgrid(np.linspace(0.6, 4.4, 800), np.linspace(-3, 3, 60))
    image, variance = found.image(q, azimuth)
    expected = true(q, azimuth, 0.4)
    assert image.sum() == pytest.approx(expected.sum(), rel=0.03)
    strong = expected > 1
    off = (image - expected)[strong]
    assert np.sqrt(np.mean(off**2)) < 0.12 * np.sqrt(np.mean(expected[strong] ** 2))
    assert np.abs(image[expected < 1e-6]).mean() < 0.01
    assert np.all(variance[strong] > 0)
    assert found.near(np.array([1.5, 2.33, 3.5])).tolist() == [True, True, False]


def test_a_smooth_level_has_no_rings() -> None:
    found = powder_rings.find(cells(rings=False))
    assert found.rings == []
    assert not found.image(np.array([1.5]), np.array([0.0]))[0].any()


def test_sharp_scattering_of_the_crystal_is_no_ring() -> None:
    """It is strong, but in a third of the directions only."""
    assert powder_rings.find(cells(rings=False, streaks=20.0)).rings == []


def test_a_detector_without_data_has_no_rings() -> None:
    empty = cells(rings=False)
    found = powder_rings.find(empty._replace(counts=0 * empty.counts, unit=0 * empty.unit))
    assert found.rings == []


def test_a_level_that_falls_next_to_the_beam_stop_is_no_ring() -> None:
    """There, a bin has neighbours at larger |Q| only."""
    empty = cells(rings=False)
    q = empty.middles
    behind = (q > 0.8) & (np.arange(SECTORS)[:, None] % 3 > 0)  # the stop, and its arm
    level = 15 + 60 * np.exp(-((np.maximum(q - 0.86, 0) / 0.15) ** 2))
    unit = np.where(behind, empty.unit, 0.0)
    counts = np.random.default_rng(2).poisson(level * unit).astype(float)
    assert powder_rings.find(empty._replace(counts=counts, unit=unit)).rings == []


def test_shells_of_the_crystal_are_no_rings() -> None:
    """They are wider than rings, and not in all directions."""
    found = cells(rings=False)
    q, rng = found.middles, np.random.default_rng(3)
    height = rng.normal(0.8, 1.5, (GROUPS, SECTORS, 1))  # of 20
    shell = height * np.exp(-(((q - 2.5) / (2 * PIXEL)) ** 2) / 2)
    made = found._replace(counts=rng.poisson(found.counts + shell * found.unit).astype(float))
    assert powder_rings.find(made).rings == []


def test_coarse_pixels_are_reported() -> None:
    assert not powder_rings.find(cells(rings=False)).coarse
    edges = ring_search.bins(np.array([0.5, 16.0]), 0.39)
    ones = np.ones((GROUPS, SECTORS, len(edges) - 1))
    assert powder_rings.find(Cells(edges, 100 * ones, ones)).coarse
