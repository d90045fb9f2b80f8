"""Photon counts and other values, told apart by their noise."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.truth.ccd import Ccd

from hklflow.images.gain_estimate import FRAMES, NoiseLine
from hklflow.images.photon_counts import Verdict, verdict

SIDE, GROUPS = 256, 3
Detector = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]


def kind(detector: Detector, brightest: float, seed: int = 1) -> Verdict:
    """Return the verdict on frames of a broad maximum; 0.05 of it is the background."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIDE, SIDE))
    rate = brightest * (0.05 + np.exp(-((x - 110) ** 2 + (y - 140) ** 2) / (2 * 60**2)))
    line = NoiseLine(0.0)
    for _ in range(GROUPS):
        photons = rng.poisson(rate, (FRAMES, SIDE, SIDE)).astype(np.float64)
        line.add(detector(photons, rng), np.zeros((SIDE, SIDE), bool))
    return verdict(line.ratios(), whole=False)


def counted(photons: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return photons


def counted_twice(photons: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A tenth of the photons counts in the next pixel, too."""
    return photons + np.roll(rng.binomial(photons.astype(int), 0.1), 1, axis=-1)


def lost_in_dead_time(share: float, corrected: bool) -> Detector:
    def detector(photons: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        # Variance and mean of a counter without retrigger (Müller 1973).
        rate = photons.mean(axis=0)
        slow = share / (1 - share) / rate.max()
        mean = rate / (1 + rate * slow)
        counts = mean + np.sqrt(rate / (1 + rate * slow) ** 3) * rng.standard_normal(photons.shape)
        counts = np.rint(np.maximum(counts, 0))
        return np.rint(counts / (1 - counts * slow)) if corrected else counts

    return detector


def flat_field(photons: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    response = 1 + 0.05 * np.random.default_rng(7).standard_normal(photons.shape[1:])
    return np.rint(rng.poisson(photons) / response)


@pytest.mark.parametrize("brightest", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("detector", [counted, counted_twice])
def test_photon_counters(detector: Detector, brightest: float) -> None:
    assert kind(detector, brightest) == Verdict.PHOTONS


@pytest.mark.slow
def test_counts_of_fast_scattering_are_counts() -> None:
    """0.05 counts per pixel, and reflections everywhere that last for one frame."""
    rng = np.random.default_rng(2)
    y, x = np.indices((SIDE, SIDE))
    line = NoiseLine(0.0)
    for _ in range(GROUPS):
        rate = np.full((FRAMES, SIDE, SIDE), 0.05)
        for z, i, j in rng.uniform(0, 1, (FRAMES * 150, 3)) * (FRAMES, SIDE, SIDE):
            rate[int(z)] += 1.5 * np.exp(-((y - i) ** 2 + (x - j) ** 2) / 2)
        line.add(rng.poisson(rate).astype(np.uint16), np.zeros((SIDE, SIDE), bool))
    ratios = line.ratios()
    assert ratios[0].near > 1.6  # which is no photon counts for other values
    assert verdict(ratios, whole=True) == Verdict.PHOTONS
    assert verdict(ratios, whole=False) != Verdict.PHOTONS


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_dead_time_is_no_other_detector(share: float, corrected: bool) -> None:
    assert kind(lost_in_dead_time(share, corrected), 1000.0) != Verdict.OTHER


def camera(*numbers: float) -> Detector:
    return lambda photons, rng: Ccd(*numbers).adu(photons.astype(np.int64), rng).astype(float)


@pytest.mark.parametrize(
    "detector",
    [
        camera(1.6, 40.0, 3.0),
        camera(1.6, 0.0, 0.5),
        camera(3.3, 0.0, 0.5, 0.5),  # the variance of single pixels is about their mean
        camera(0.5, 10.0, 2.0),
        camera(0.25, 0.0, 0.2, 0.7),
        lambda photons, rng: photons / 4,  # means of 4 frames
    ],
)
def test_other_values(detector: Detector) -> None:
    assert kind(detector, 60.0) == Verdict.OTHER
