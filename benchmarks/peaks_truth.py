"""Peak search against simulated truth and against DIALS on a protein crystal.

``python -m benchmarks.peaks_truth [folder of the real data]`` takes about a minute. Prints
recall, bias and pulls by strength, precision, the peaks that pure noise gives, the search's speed
on a quiet scan, and with a folder the figures of ``rotation_snase``. Speed is in CPU
seconds of a second run, without compilation.
"""

import sys
import time
from pathlib import Path

import numpy as np
from tests.truth import peaks as simulated
from tests.truth.snase_peaks import search_snase

from hklflow.peaks.search import PeakFlag

AXES = ("frame", "slow", "fast")


def truth_table(seeds: int = 6) -> None:
    """Isolated peaks of 6 to 100 sigma, all widths from 0.6 to 3."""
    hits, strengths, offs, pulls, ratios, rows = [], [], [], [], [], 0
    for seed in range(seeds):
        rng = np.random.default_rng(1000 + seed)
        background = simulated.background_of(simulated.SHAPE)
        centre = simulated.grid(rng, simulated.SHAPE)
        truth = simulated.with_strength(rng, centre, background, 6, 100)
        mu = simulated.expected_counts(simulated.SHAPE, truth, background)
        peaks = simulated.search(rng.poisson(mu).astype(np.uint16))
        row = simulated.match(peaks, truth)
        hit = row >= 0
        off = np.where(hit[:, None], simulated.table(peaks)[row] - truth.centre, np.nan)
        offs.append(off)
        pulls.append(off / np.sqrt(simulated.table(peaks, "var_")[row]))
        ratios.append(np.where(hit, peaks.intensity[row] / truth.intensity, np.nan))
        hits.append(hit)
        strengths.append(truth.sigma)
        rows += len(peaks)
    hit, strength = np.concatenate(hits), np.concatenate(strengths)
    off, pull, ratio = np.concatenate(offs), np.concatenate(pulls), np.concatenate(ratios)
    print(f"{len(hit)} true peaks, {rows} found, precision {hit.sum() / rows:.4f}")
    print(
        " sigma     n  recall   mean offset (frame slow fast)   rms offset          pull width"
        "          I / true"
    )
    for low, high in ((6, 8), (8, 12), (12, 20), (20, 40), (40, 100), (8, 100)):
        use = (strength >= low) & (strength < high)
        bias, width = np.nanmean(off[use], axis=0), np.nanstd(pull[use], axis=0)
        rms = np.sqrt(np.nanmean(off[use] ** 2, axis=0))
        print(
            f"{low:3d}-{high:3d} {use.sum():5d}  {hit[use].mean():.4f}"
            f"   {bias[0]:+.4f} {bias[1]:+.4f} {bias[2]:+.4f}"
            f"         {rms[0]:.3f} {rms[1]:.3f} {rms[2]:.3f}"
            f"   {width[0]:.3f} {width[1]:.3f} {width[2]:.3f}    {np.nanmean(ratio[use]):.3f}"
        )


def noise_and_speed() -> None:
    """Pure noise, and a scan of 38 million pixels with 300 peaks."""
    rng = np.random.default_rng(0)
    for background in (0.05, 1.0, 30.0):
        data = rng.poisson(background, (40, 512, 512)).astype(np.uint16)
        print(f"noise, {background} per voxel: {len(simulated.search(data))} peaks in 1e7 voxels")
    shape = (360, 328, 328)
    background = np.full((1, *shape[1:]), 0.5)
    centre = rng.uniform([5, 5, 5], np.array(shape) - 5, (300, 3))
    truth = simulated.with_strength(rng, centre, background, 10, 500)
    data = rng.poisson(simulated.expected_counts(shape, truth, background)).astype(np.uint32)
    start = time.process_time()
    peaks = simulated.search(data)
    seconds = time.process_time() - start
    print(f"{data.size / 1e6:.0f} Mpixel, {len(peaks)} peaks: {seconds:.1f} CPU s")


def nuclease(folder: Path) -> None:
    """The CCD frames that DIALS indexed."""
    start = time.process_time()
    found = search_snase(folder / "rotation_snase")
    seconds = time.process_time() - start
    flags, n = found.peaks.flags, len(found.peaks)
    kept = found.offset[(np.abs(found.offset) < [1.0, 3.0, 3.0]).all(axis=1)]
    rms = np.sqrt((kept**2).mean(axis=0))
    robust = np.median(np.abs(found.offset), axis=0) / 0.6745
    print(
        f"nuclease: {n} peaks, {np.mean((flags & PeakFlag.FIT_FAILED) != 0):.3f} FIT_FAILED, "
        f"{np.mean((flags & PeakFlag.MOMENTS) != 0):.3f} MOMENTS, "
        f"{found.indexed.mean():.3f} indexed, {seconds:.1f} CPU s with the comparison"
    )
    for name, a, b in zip(AXES, rms, robust, strict=True):
        print(
            f"  {name}: rms {a:.3f} ({len(kept)} within 3 pixels and 1 frame), from median {b:.3f}"
        )


if __name__ == "__main__":
    truth_table()
    noise_and_speed()
    if len(sys.argv) > 1:
        nuclease(Path(sys.argv[1]))
