"""Simulated photon counters: floods with known responses and defects, and a known dead time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.images.masks import Bits, BoolImage, MaskBit

Floats = NDArray[np.float64]

_DEFECTS = (MaskBit.DEAD, MaskBit.UNDER_RESPONDING, MaskBit.OVER_RESPONDING, MaskBit.NOISY)


@dataclass(frozen=True)
class CounterTruth:
    """True properties of the pixels (ss, fs) of a simulated counter.

    Attributes
    ----------
    response : array
        Response relative to an ideal pixel, mean 1 over the good pixels; 0 for dead pixels.
    bits : uint32 array
        GAP and the bits of the defects.
    fano : array
        Ratio variance / mean of the counts: 1; larger for noisy pixels.
    """

    response: Floats
    bits: Bits
    fano: Floats

    def flood(
        self, mean: Floats, n: int, rng: np.random.Generator, block: int = 10
    ) -> Iterator[NDArray[np.int32]]:
        """Yield frames (at most `block`, ss, fs) with these mean counts of an ideal pixel.

        Gaps are -1. The rates of noisy pixels change from frame to frame (gamma distribution).
        """
        rate = mean * self.response
        noisy = (self.fano > 1) & (rate > 0)
        gap = (self.bits & np.uint32(MaskBit.GAP)) != 0
        for start in range(0, n, block):
            size = min(block, n - start)
            rates = np.broadcast_to(rate, (size, *rate.shape)).copy()
            excess = self.fano[noisy] - 1
            rates[:, noisy] = rng.gamma(rate[noisy] / excess, excess, (size, int(noisy.sum())))
            counts = rng.poisson(rates).astype(np.int32)
            counts[:, gap] = -1
            yield counts


def draw(
    rng: np.random.Generator,
    gaps: BoolImage,
    each: int,
    spread: float = 0.03,
    fano: float = 5.0,
) -> CounterTruth:
    """Draw responses, and `each` pixels of every defect.

    Parameters
    ----------
    gaps : (ss, fs) bool array
    each : int
        Number of dead, under-responding (0.2 to 0.5), over-responding (1.8 to 3) and noisy pixels.
    spread : float
        Standard deviation of the good pixels' responses.
    fano : float
        Ratio variance / mean of the noisy pixels.
    """
    response = rng.normal(1.0, spread, gaps.shape)
    bits = np.where(gaps, np.uint32(MaskBit.GAP), np.uint32(0))
    chosen = rng.choice(np.flatnonzero(~gaps), each * len(_DEFECTS), replace=False)
    for bit, pixels in zip(_DEFECTS, chosen.reshape(len(_DEFECTS), each), strict=True):
        bits.flat[pixels] = bit
    dead, under, over, noisy = (bits == bit for bit in _DEFECTS)
    response[dead] = 0.0
    response[under] = rng.uniform(0.2, 0.5, each)
    response[over] = rng.uniform(1.8, 3.0, each)
    response /= response[bits == 0].mean()
    return CounterTruth(response, bits, np.where(noisy, fano, 1.0))


def counted(
    rates: Floats, time: float, tau: float, paralysable: bool, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Count photons one by one with a dead time, without a formula for the loss.

    Parameters
    ----------
    rates : (n,) array
        Photons per second.
    time, tau : float
        Counting time and dead time, s.
    paralysable : bool
        True if a photon that is not counted starts the dead time again.
    """
    counts = np.zeros(len(rates), np.int64)
    for k, rate in enumerate(rates):
        before = 50 * (tau + 1 / rate)  # so that the start is a typical moment
        expected = rate * (time + before)
        n = int(expected + 8 * np.sqrt(expected) + 20)
        waits = rng.exponential(1 / rate, n)
        # Non-paralysable: each count is followed by the dead time and a wait for the next photon.
        arrival = np.cumsum(waits if paralysable else waits + tau) - before
        is_counted = waits > tau if paralysable else np.ones(n, bool)
        counts[k] = int((is_counted & (arrival >= 0) & (arrival < time)).sum())
    return counts
