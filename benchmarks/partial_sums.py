"""CPU time of the partial sums of frames, compared with the peak search that makes them.

    python -m benchmarks.partial_sums [--frames 400] [--rounds 2]

Frames of 1043 x 981 pixels with background, diffuse scattering and Bragg peaks are searched with
and without partial sums, in turn.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from hklflow import nexus
from hklflow.images.statistics import FrameStatistics, part_ends
from hklflow.peaks.search import PeakParams, PeakSearch

SHAPE = (1043, 981)
DIFFERENT = 40
"""Number of different frames; they are searched again and again."""


def frames(dtype: type) -> np.ndarray:
    """Return frames (n, slow, fast) with about 60 peaks each."""
    rng = np.random.default_rng(0)
    slow, fast = np.indices(SHAPE)
    r = np.hypot(slow - 500, fast - 480)
    level = 0.3 + 2.0 * np.exp(-((r - 250) ** 2) / 2e4)
    stack = rng.poisson(level, (DIFFERENT, *SHAPE)).astype(dtype)
    for frame in stack:
        for y, x in rng.integers(6, 970, (60, 2)):
            frame[y - 3 : y + 4, x - 3 : x + 4] += rng.poisson(80, (7, 7)).astype(dtype)
    return stack


def search(stack: np.ndarray, n: int, path: Path, *, parts: bool) -> tuple[float, float]:
    """Return CPU and wall seconds of a pass over ``n`` frames."""
    bad = np.zeros(SHAPE, bool)
    labels = (np.hypot(*np.indices(SHAPE)) / 15).astype(int)
    ends = part_ends(n) if parts else ()
    with nexus.statistics_output(path, SHAPE, stack.dtype, ends) as output:
        statistics = FrameStatistics(
            bad, ~bad, labels=labels, part_ends=ends, on_part=output.add_part
        )
        criteria = PeakParams(
            n_sigma=4.5, window=9, min_pixels=3, min_significance=6.0, max_frames=25,
            max_pixels=150, prominence=3.0, margin_pixels=5, margin_frames=4, gain=1.0,
            threshold=np.inf, saturation=np.inf, invalid_from=np.inf, valid_from=0.0,
        )  # fmt: skip
        finder = PeakSearch(bad, criteria, statistics=statistics)
        cpu, wall = time.process_time(), time.perf_counter()
        for first in range(0, n, 2):
            at = first % DIFFERENT
            finder.add(stack[at : at + 2])
        statistics.result()
        return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """Print the share of the partial sums, for each type of frames."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.partial_sums", description=__doc__)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    for dtype in (np.uint16, np.int32):
        stack = frames(dtype)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "statistics.nxs"
            search(stack, DIFFERENT, path, parts=True)  # compiles
            runs = [
                [search(stack, given.frames, path, parts=parts) for parts in (False, True)]
                for _ in range(given.rounds)
            ]
            size = path.stat().st_size
        cpu = np.array(runs)[..., 0].min(axis=0)
        n = len(part_ends(given.frames))
        print(
            f"{np.dtype(dtype)}: {given.frames} frames {cpu[0]:.2f} CPU s, with {n} partial sums "
            f"{cpu[1]:.2f} CPU s ({cpu[1] / cpu[0] - 1:+.1%}); {size / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
