"""Photon counters against simulated ones: defects, flat field, dead time, dispersion, stability.

A Pilatus 300k, a flood of 100 frames with 400 counts, 60 pixels of each defect.

python -m benchmarks.counters_truth [SEEDS]
"""

import sys
import time

import numpy as np
from tests.truth.defaults import steady

from hklflow.calibration.detectors import known_detector
from hklflow.constants import flood
from hklflow.constants.count_rate import MODELS, fit_dead_time
from hklflow.constants.simulate_counters import counted, draw
from hklflow.geometry import Detector
from hklflow.images.dispersion import ModuleDispersion
from hklflow.images.masks import MaskBit
from hklflow.images.pixel_moments import PixelMoments

PILATUS = known_detector("Pilatus 300k")
DISTANCE, N, COUNTS, EACH = 0.3, 100, 400.0, 60
DEFECTS = (MaskBit.DEAD, MaskBit.UNDER_RESPONDING, MaskBit.OVER_RESPONDING, MaskBit.NOISY)


def detector(shift=0.0, distance=DISTANCE):
    """At right angles to the beam, which is `shift` pixels off the middle."""
    slow, fast = np.array([0, -1.0, 0]), np.array([-1.0, 0, 0])
    pixel, shape = PILATUS.pixel_size, PILATUS.gaps.shape
    foot = (shape[0] / 2 + shift) * pixel[0] * slow + shape[1] / 2 * pixel[1] * fast
    return Detector(shape, pixel, np.array([0, 0, distance]) - foot, slow, fast)


def floods(seeds):
    """Recall and false positives of defects; pull of the flat; wrong geometries."""
    exact = flood.illumination(detector())
    wrong = {"5 px": detector(5.0), "1 %": detector(distance=1.01 * DISTANCE)}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        truth = draw(rng, PILATUS.gaps, EACH)
        summed = PixelMoments(np.zeros(exact.shape, bool))
        seconds = 0.0
        for block in truth.flood(COUNTS * exact, N, rng):
            began = time.perf_counter()
            summed.add(block)
            seconds += time.perf_counter() - began
        gaps = truth.bits & np.uint32(MaskBit.GAP)
        found = flood.flat_field(summed.result(), exact, gaps)
        good = truth.bits == 0
        hits = [int(((found.bits & truth.bits & bit) != 0).sum()) for bit in DEFECTS]
        pull = (found.flat - truth.response)[good] / found.errors[good]
        changes = []
        for geometry in wrong.values():
            other = flood.flat_field(summed.result(), flood.illumination(geometry), gaps)
            changes.append(np.abs(other.flat[good] / found.flat[good] - 1).max())
        names = [f"{bit.label} {n}/{EACH}" for bit, n in zip(DEFECTS, hits, strict=True)]
        print(
            f"flood {seed}: {', '.join(names)}; false {int((found.bits[good] != 0).sum())}; "
            f"pull mean {pull.mean():+.4f} rms {np.sqrt(np.mean(pull**2)):.4f}; geometry wrong by "
            + ", ".join(f"{n}: {c:.2e}" for n, c in zip(wrong, changes, strict=True))
            + f"; {1e3 * seconds / N:.1f} ms/frame"
        )


def dead_times(fits=40, tau=2e-7, exposure=1e-3, transmission=(1.0, 0.5, 0.2, 0.1)):
    """Pull of the dead time with photons counted one by one, and the choice of the model."""
    for model in MODELS:
        for top, pixels in ((2e5, 300), (1e6, 300), (2e6, 1500)):
            found = []
            for seed in range(fits):
                rng = np.random.default_rng(seed)
                rates = rng.uniform(0.1, 1, pixels) * top
                counts = [
                    counted(rates * t, 2 * exposure, tau, model == "paralysable", rng)
                    for t in transmission
                ]
                frames = np.full((len(counts), pixels), 2)
                found.append(fit_dead_time(np.array(counts, float), frames, exposure, transmission))
            pull = np.array([(fit.tau - tau) / fit.error for fit in found])
            decided = [fit for fit in found if fit.decided]
            wrong = sum(fit.model != model for fit in decided)
            print(
                f"{model}, up to {top:.0e}/s: pull mean {pull.mean():+.2f} rms "
                f"{np.sqrt(np.mean(pull**2)):.2f}, error {np.median([f.error for f in found]):.1e} "
                f"s of {tau:.0e}; model decided {len(decided)}/{fits}, wrongly {wrong}"
            )


def dispersions(pairs=8):
    """Index of dispersion of Poisson times a gain, three modules, with and without reflections."""
    boxes = np.array(PILATUS.modules)
    shape = PILATUS.gaps.shape
    for gain in (1.0, 2.0, 0.7):
        for mean in (0.3, 5.0, 300.0):
            for peaks in (0, 60):
                rng = np.random.default_rng(1)
                measured = ModuleDispersion(boxes)
                seconds = 0.0
                for _ in range(pairs):
                    rate = np.full((2, *shape), mean)
                    for y, x in rng.uniform(0, 1, (peaks, 2)) * shape:
                        i, j = np.ogrid[: shape[0], : shape[1]]
                        near = (np.abs(i - y) < 12) & (np.abs(j - x) < 12)
                        spot = 2000 * np.exp(-((i - y) ** 2 + (j - x) ** 2) / 4)
                        rate[rng.integers(2)] += np.where(near, spot, 0)
                    pair = rng.poisson(rate / gain) * gain
                    began = time.perf_counter()
                    measured.add(pair, PILATUS.gaps)
                    seconds += time.perf_counter() - began
                told = ", ".join(f"{d.value:.4f} ± {d.error:.4f}" for d in measured.result())
                print(
                    f"gain {gain}, {mean:g} counts, {peaks} peaks in a pair: {told}; "
                    f"{1e3 * seconds / pairs:.0f} ms/pair"
                )


def stabilities(n=60, planted=60):
    """Bad pixels among rings and reflections."""
    rng = np.random.default_rng(1)
    shape = PILATUS.gaps.shape
    slow, fast = np.indices(shape, dtype=float)
    radius = np.hypot(slow - shape[0] / 2, fast - shape[1] / 2)
    still = 5 + sum(80 * np.exp(-((radius - r) ** 2) / 6) for r in (60, 110, 150, 190, 240))
    pixels = rng.choice(np.flatnonzero(~PILATUS.gaps), planted, replace=False)
    hot = np.zeros(shape, bool)
    hot.flat[pixels] = True
    stability = steady(PILATUS.gaps)
    seconds = 0.0
    for _ in range(n):
        rate = still.copy()
        for y, x in rng.uniform(0, 1, (80, 2)):
            i, j = int(y * (shape[0] - 20)), int(x * (shape[1] - 20))
            spot = np.exp(-((np.arange(20) - 10.0) ** 2) / 4)
            rate[i : i + 20, j : j + 20] += 1000 * spot[:, None] * spot
        rate[hot] = 4 * still[hot] + 20
        frame = rng.poisson(rate)[None]
        began = time.perf_counter()
        stability.add(frame)
        seconds += time.perf_counter() - began
    found = stability.result(often=0.5).bits != 0
    print(
        f"stability: found {int((found & hot).sum())}/{planted}, false {int((found & ~hot).sum())};"
        f" {1e3 * seconds / n:.0f} ms/frame"
    )


if __name__ == "__main__":
    floods(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    dead_times()
    dispersions()
    stabilities()
