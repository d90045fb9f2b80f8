"""Background that was not measured: records whose expected counts are written down here."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from hklflow.transform import spots, unmeasured, unmeasured_bounds, unmeasured_check
from hklflow.transform.repeats import Records
from hklflow.transform.unmeasured import Places

Floats = np.ndarray
FRAMES, SHAPE = 200, (100, 100)
SWEEPS = (unmeasured.Sweep(FRAMES, 100.0),)
ISOTROPIC = 6.0
LEVEL = 30.0


class Made(NamedTuple):
    records: Records
    places: Places
    least: float  # of T S over all orbits


def anisotropic(places: Places) -> Floats:
    """Return a streak-like background with the mean 0 over the azimuth."""
    return (4 + places.q) * np.cos(places.azimuth - 0.7) + 3 * np.sin(2 * places.azimuth)


def made(
    *,
    strength: float = 1.0,
    isotropic: float = ISOTROPIC,
    turned: bool = True,
    seed: int = 1,
    n_orbits: int = 15_000,
    rough: float = 0.0,
) -> Made:
    """Return records of orbits with 6 passages; ``turned``: at different azimuths.

    ``rough`` is the amplitude of a transmission by frame and direction.
    """
    rng = np.random.default_rng(seed)
    passages = 6
    orbit = np.repeat(np.arange(n_orbits), passages)
    n = len(orbit)
    q = np.repeat(rng.uniform(1, 5, n_orbits), passages)
    first = np.repeat(rng.uniform(-np.pi, np.pi, n_orbits), passages)
    azimuth = rng.uniform(-np.pi, np.pi, n) if turned else first
    frame = rng.uniform(0, FRAMES, n)
    S = 8 + rng.gamma(1.0, 14.0, n_orbits)
    slow, fast = 50 + 10 * q * np.sin(azimuth), 50 + 10 * q * np.cos(azimuth)
    T = 1 + 0.1 * np.sin(2 * np.pi * frame / FRAMES) + 0.05 * (fast - 50) / 50
    x, y, t = (fast - 50) / 50, (slow - 50) / 50, frame / FRAMES
    T *= np.exp(rough * (x * np.cos(2 * t) + y * np.sin(3 * t) - x * y + y**2))
    unit = rng.uniform(0.5, 1.5, n)
    places = Places(q, azimuth)
    B = isotropic + strength * anisotropic(places)
    counts = rng.poisson(unit * (T * S[orbit] + np.maximum(B, 0)))
    # The transmission is known without its dependence on direction.
    norm = unit * (1 + 0.1 * np.sin(2 * np.pi * frame / FRAMES))
    columns = (frame, slow, fast, counts, norm, unit)
    records = Records(
        orbit.astype(np.int32), np.zeros(n, np.uint16), *(c.astype(np.float32) for c in columns)
    )
    return Made(records, places, 8 * 0.85)


def fitted(one: Made) -> unmeasured.Fit:
    return unmeasured.fit(one.records, one.places, SWEEPS, SHAPE)


def pixels() -> Places:
    q, azimuth = np.meshgrid(np.linspace(1.05, 4.95, 40), np.linspace(-np.pi, np.pi, 90, False))
    return Places(q.ravel(), azimuth.ravel())


def test_what_does_not_turn_is_found() -> None:
    """The anisotropic part within 3 % of its rms, and its errors are right."""
    strength = 0.6
    found = fitted(made(strength=strength, isotropic=8.0))
    true = strength * anisotropic(pixels())
    b, variance = found.image(pixels())
    assert unmeasured.significance(found) > 10
    assert np.sqrt(np.mean((b - true) ** 2)) < 0.03 * LEVEL
    assert np.sqrt(np.mean((b - true) ** 2 / variance)) == pytest.approx(1, abs=0.6)
    assert np.corrcoef(b, true)[0, 1] > 0.97


@pytest.mark.slow
def test_without_background_nothing_is_found() -> None:
    found = fitted(made(strength=0.0, isotropic=0.0))
    b, variance = found.image(pixels())
    assert unmeasured.significance(found) < 3
    assert np.abs(b).max() < 0.02 * LEVEL
    assert np.all(variance >= 0)


def test_scattering_that_does_not_turn_relative_to_the_detector_is_left_alone() -> None:
    """Passages at one azimuth do not tell S from a background, however strong it is."""
    found = fitted(made(turned=False))
    b, _ = found.image(pixels())
    assert unmeasured.significance(found) < 3
    assert np.abs(b).max() < 0.02 * LEVEL


def rest(one: Made) -> unmeasured_check.Rest:
    return unmeasured_check.rest(one.records, one.places, fitted(one), SWEEPS)


def changed(one: Made, factor: Floats, added: Floats) -> Made:
    """Return records whose counts are multiplied and increased, with noise."""
    rng = np.random.default_rng(7)
    r = one.records
    counts = rng.binomial(r.counts.astype(int), factor) + rng.poisson(r.background * added)
    return one._replace(records=replace(r, counts=counts.astype(np.float32)))


@pytest.mark.parametrize("strength", [0.0, 0.2])
@pytest.mark.slow
def test_a_constant_background_leaves_nothing_over(strength: float) -> None:
    found = rest(made(strength=strength, isotropic=15 * strength, n_orbits=40_000))
    assert not found.contradicts


@pytest.mark.slow
def test_a_shadow_that_moves_is_left_over() -> None:
    """A holder that moves by 60° during the scan and takes a half of the counts."""
    one = made(strength=0.0, n_orbits=40_000)
    middle = np.radians(60) * one.records.frame / FRAMES
    factor = np.where(np.abs(one.places.azimuth - middle) < 0.15, 0.5, 1.0)
    assert rest(changed(one, factor, 0 * factor)).contradicts


@pytest.mark.slow
def test_a_background_that_changes_is_left_over() -> None:
    """An anisotropic background that comes in the middle of the scan."""
    one = made(strength=0.0, n_orbits=40_000)
    added = np.where(
        one.records.frame > FRAMES / 2, 4 * LEVEL / 10 * (1 + np.cos(one.places.azimuth)), 0
    )
    assert rest(changed(one, np.ones(len(added)), added)).contradicts


@pytest.mark.slow
def test_a_transmission_that_depends_on_direction_is_no_background() -> None:
    """A plate: ln T follows frame and direction by ±25 %, and so does its mean over the scan."""
    one = made(strength=0.0, isotropic=0.0, n_orbits=40_000, rough=0.25)
    found = fitted(one)
    assert unmeasured.significance(found) < 5
    assert np.abs(found.image(pixels())[0]).max() < 0.03 * LEVEL


@pytest.mark.slow
def test_spots_that_rotate_are_marked() -> None:
    """Spots of another crystal add counts to single records, and to their neighbours."""
    one = made(strength=0.0)
    rng = np.random.default_rng(3)
    hit = rng.random(len(one.records)) < 0.003
    bright = changed(
        one, np.ones(len(hit)), np.where(hit, rng.uniform(10, 100, len(hit)) * LEVEL, 0)
    )
    marked = spots.find(bright.records, bright.places.q, (1, 1, 1))
    assert marked[hit].mean() > 0.99
    # Equivalent records of an orbit are elsewhere on the detector.
    assert marked[~hit].mean() < 0.1
    kept = bright._replace(records=bright.records.take(~marked), places=bright.places.take(~marked))
    assert unmeasured.significance(fitted(kept)) < 5


@pytest.mark.parametrize("isotropic", [0.0, 3.0, 12.0])
@pytest.mark.slow
def test_the_isotropic_background_is_in_its_interval(isotropic: float) -> None:
    """The upper end is the least of T S above the background, not the extreme of the noise."""
    one = made(strength=0.0, isotropic=isotropic)
    edges = np.linspace(1, 5, 5)
    blocks = one.records.voxel.astype(np.int64)
    bounds = unmeasured_bounds.bounds(one.records, one.places, blocks, fitted(one), pixels(), edges)
    assert np.all(bounds.low <= isotropic + 0.5)
    assert np.all(bounds.high >= isotropic)
    # 8 is the least S.
    assert np.all(bounds.high - isotropic < 1.5 * 8 * 1.15)
    assert np.all(bounds.high - isotropic > one.least)
    assert bounds.level == pytest.approx(np.full(4, 22 + isotropic), rel=0.05)


def test_an_anisotropic_background_has_a_least_isotropic_part() -> None:
    """B is not negative: its mean is at least its amplitude."""
    one = made(strength=1.2, isotropic=16.0)
    edges = np.linspace(1, 5, 5)
    blocks = one.records.voxel.astype(np.int64)
    bounds = unmeasured_bounds.bounds(one.records, one.places, blocks, fitted(one), pixels(), edges)
    assert np.all(bounds.low > 4)
    assert np.all(bounds.low <= 16)
    assert np.all(bounds.high >= 16)


def test_shells_without_counts_have_no_interval() -> None:
    one = made()
    few = replace(one.records, counts=np.zeros_like(one.records.counts))
    blocks = few.voxel.astype(np.int64)
    found = fitted(one)
    bounds = unmeasured_bounds.bounds(
        few, one.places, blocks, found, pixels(), np.linspace(1, 5, 4)
    )
    assert np.isnan(bounds.high).all()
