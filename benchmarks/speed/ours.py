"""hklflow's side: one measurement per process.

    python -m benchmarks.speed.ours transform FOLDER --grid 501 [--samples 2 2 1] [--block 1]
        [--keep-excluded] [--threads 2] [--turn] [--repeats 1]
    python -m benchmarks.speed.ours peaks|statistics|both|decode FOLDER

Numba's compilation (or its cache's load) is left out: the same work runs on two frames before
the clock starts. Everything else counts: opening the file, tables of Q, memory, the sums.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.truth.defaults import peak_params

from benchmarks.speed import data
from benchmarks.speed.clock import Clock, resident_mb, tell
from hklflow import nexus
from hklflow.formats import raw
from hklflow.geometry import corrections
from hklflow.images import masks
from hklflow.images.statistics import FrameStatistics
from hklflow.peaks.search import PeakSearch, PeakTable
from hklflow.simulation.frames import GAP_VALUE
from hklflow.transform import binning

Floats = NDArray[np.float64]
Told = Callable[[], dict[str, Any]]
"""What else there is to tell; called when the clock has stopped."""


def accumulate(options: argparse.Namespace, n_frames: int) -> binning.Accumulator:
    """Bin the first frames."""
    truth = data.simulation(n_frames)
    turn = data.rotation(truth, n_frames)
    pixel_norm = (nexus.read_mask(options.folder / "mask.nxs") == 0).astype(np.float64)
    pixel_norm *= corrections.solid_angle(turn.detector)
    pixel_norm *= corrections.polarization(turn.detector, turn.beam.polarization)
    more: dict[str, Any] = {"threads": options.threads} if options.threads > 1 else {}
    name = "turn.nxs" if options.turn else "a.nxs"
    with (
        raw.open_frames(options.folder / name) as frames,
        nexus.open_frame_mask(options.folder / "frame_mask.nxs") as excluded,
    ):
        accumulator = binning.Accumulator(
            turn,
            truth.ub,
            data.grid(options.grid),
            pixel_norm,
            np.ones(n_frames),
            tuple(options.samples),
            binning.Readout(float(masks.flag_value(frames.dtype) or np.inf)),
            **more,
        )
        part = None
        for band in frames.bands(options.block, 0, n_frames, threads=options.threads):
            if band.row == 0 and options.keep_excluded:
                part = excluded[band.first : band.first + len(band.counts)]
            accumulator.add(band.counts, band.first, part, band.row)
    return accumulator


def transform(options: argparse.Namespace, n_frames: int) -> Told:
    """Frames to (C, M) in memory."""
    accumulator = accumulate(options, n_frames)
    return lambda: {"used": int(accumulator.used), "invalid": int(accumulator.invalid)}


def _stream(options: argparse.Namespace, n_frames: int) -> Iterator[NDArray[Any]]:
    with raw.open_frames(options.folder / "a.nxs") as frames:
        yield from frames.stream(options.block, 0, n_frames, threads=options.threads)


def decode(options: argparse.Namespace, n_frames: int) -> Told:
    """Read and decompress, no more."""
    count = sum(len(block) for block in _stream(options, n_frames))
    return lambda: {"frames": count}


def _statistics(bad: NDArray[np.bool_], options: argparse.Namespace) -> FrameStatistics:
    turn = data.rotation(data.simulation(1), 1)
    slow, fast = np.indices(bad.shape) + 0.5
    q = np.linalg.norm(turn.q_lab(slow, fast), axis=-1)
    annulus = (q >= 0.3 * q.max()) & (q <= 0.95 * q.max())
    return FrameStatistics(bad, annulus=annulus, invalid_from=float(GAP_VALUE))


def statistics(options: argparse.Namespace, n_frames: int) -> Told:
    """Sums, maximum and background of all frames."""
    found = _statistics(nexus.read_mask(options.folder / "mask.nxs") != 0, options)
    for block in _stream(options, n_frames):
        found.add(block)
    result = found.result()
    return lambda: {"maximum": int(result.maximum)}


def peaks(options: argparse.Namespace, n_frames: int, *, both: bool = False) -> Told:
    """Peak search; with `both` the statistics too, from the same pass."""
    bad = nexus.read_mask(options.folder / "mask.nxs") != 0
    found = _statistics(bad, options) if both else None

    search = PeakSearch(bad, peak_params(invalid_from=float(GAP_VALUE)), statistics=found)
    # As the stage does: few frames at a time, which stay in the cache.
    options = argparse.Namespace(**vars(options) | {"block": 2})
    for block in _stream(options, n_frames):
        search.add(block)
    table = search.finish()
    if found is not None:
        found.result()
    return lambda: _judge(table, n_frames)


def _judge(table: PeakTable, n_frames: int) -> dict[str, Any]:
    """Which of the clear peaks were found, and how well they are placed.

    Clear are those of ten standard deviations, away from gaps, on fewer frames than a search
    takes for a streak.
    """
    truth = data.simulation(n_frames).true_peaks()
    sure = truth.recorded > 10 * np.sqrt(truth.recorded + 100 * truth.background)
    sure &= truth.clean & (truth.sigma[:, 0] < 2)
    if not sure.any() or not len(table.frame):
        return {"peaks": len(table.frame), "sure": int(sure.sum())}
    places = np.column_stack([table.frame, table.slow, table.fast])
    true = np.column_stack([truth.frame, truth.slow, truth.fast])[sure]
    off = np.abs(true[:, None] - places).max(axis=-1).min(axis=1)
    near = off < 2
    return {
        "peaks": len(table.frame),
        "sure": int(sure.sum()),
        "recall": float(near.mean()),
        "median offset": float(np.median(off[near])) if near.any() else None,
    }


def both(options: argparse.Namespace, n_frames: int) -> Told:
    """Peaks and statistics from one pass."""
    return peaks(options, n_frames, both=True)


WORK = {f.__name__: f for f in (transform, decode, statistics, peaks, both)}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; `agree` uses it too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=data.N_FRAMES)
    parser.add_argument("--grid", type=int, default=501)
    parser.add_argument("--samples", type=int, nargs=3, default=(1, 1, 1))
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep-excluded", action="store_true")
    parser.add_argument("--turn", action="store_true", help="the scan ten times in a row")
    return parser.parse_args(arguments)


def main() -> None:
    """Warm up, measure, tell."""
    options = parse(sys.argv[1:])
    work, clock = WORK[options.work], Clock()
    warm = argparse.Namespace(**vars(options) | {"grid": 31, "frames": 2})
    work(warm, warm.frames)
    before = resident_mb()
    with clock.running():
        told = work(options, options.frames)
    tell(clock, options.frames * 1024**2, before=before, **told())


if __name__ == "__main__":
    main()
