"""What does the subtraction of measured backgrounds cost in the transform?

Sums of counts and norm, and the same sums with one background and with two backgrounds that have
factors of their own, alternating, with one thread; the least time of processor of several rounds.
Reading and writing of files is not in it.

    python -m benchmarks.background_cost [--size 512] [--frames 128] [--rounds 5]
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import time

import numpy as np
from tests.truth.bragg_scans import rotation_of

from hklflow.geometry.grid import Grid
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.transform.binning import Accumulator, Readout
from hklflow.transform.sums import Expected

BLOCK = 32
CRYSTAL = CrystalModel((5.2, 5.2, 7.1, 90, 90, 120))


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    side, n = asked.size, asked.frames
    made = Simulation(
        DetectorModel((side, side), 0.2, (side * 0.45, side * 0.52), (0.2 / side, 0.2 / side)),
        GoniometerModel(),
        ScanModel(0.0, np.radians(0.1 * n), n, 0.5),
        CRYSTAL,
    )
    rotation = rotation_of(made)
    q = rotation.q_lab(*np.meshgrid([0.0, side], [0.0, side], indexing="ij"))
    grid = Grid.covering(CRYSTAL.cell, float(np.linalg.norm(q, axis=-1).max()), (0.04,) * 3)
    shape = (side, side)
    frames = np.random.default_rng(1).poisson(3.0, (BLOCK, *shape)).astype(np.uint32)
    spots = np.random.default_rng(2).random((BLOCK // 8, side // 16, side // 16)) < 0.02
    mask = np.packbits(np.kron(spots, np.ones((8, 16, 16), np.bool_)), axis=-1)
    pixel = 1 + np.random.default_rng(3).random((3, *shape))
    factor = np.array([np.linspace(1, a, n) for a in (0.5, 1.0, 0.3)])
    cases = {"no background": None, "one background": 1, "two backgrounds": 2}
    for samples in ((1, 1, 1), (2, 1, 1), (2, 2, 2)):
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(asked.rounds + 1):
            for name, number in cases.items():
                parts = [*range(number or 0), 2]
                around = None if number is None else Expected(pixel[parts], factor[parts])
                sums = Accumulator(
                    rotation, made.ub, grid, np.ones(shape), np.ones(n), samples,
                    Readout(2.0**32 - 1), expected=around,
                )  # fmt: skip
                sums.add(frames[:1], 0, mask[:1])  # compiles, and makes the tables
                start = time.process_time()
                for first in range(0, n, BLOCK):
                    sums.add(frames, first, mask)
                times[name].append(time.process_time() - start)
        least = {name: min(found[1:]) for name, found in times.items()}
        print(
            f"{samples} sub-samples: "
            + ", ".join(
                f"{n} {t:.3f} s ({t / least['no background']:.2f})" for n, t in least.items()
            )
        )


if __name__ == "__main__":
    main()
