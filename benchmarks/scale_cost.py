"""CPU time of refine_scale for a large scan, compared with its transform.

    python -m benchmarks.scale_cost [--frames 3600] [--rotations 3] [--side 1000]

The sums of the stage depend on frames only through blocks of pixels and ranges of frames
(`repeat_grid`). Three parts are timed, in one thread, without decoding of the frames:

* some ranges of full frames are summed, and transformed to voxels of 0.1 in h, k and l; the times
  are extrapolated to all frames;
* a scan whose pixels and frames are the blocks and ranges of the large scan gives all its records,
  which are joined and fitted as a whole.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import time
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation as Turn

from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice, symmetry
from hklflow.geometry.grid import Grid, pixel_pitch, sub_samples
from hklflow.geometry.rotation import q_max
from hklflow.stages import refine_scale
from hklflow.transform import redundancy, repeat_grid, repeats
from hklflow.transform.binning import Accumulator
from hklflow.volumes.symmetrise import images

CELL = (6.0, 6.0, 9.0, 90.0, 90.0, 90.0)
GROUP = "P 4/m m m"
WIDTH = 0.17  # m
COUNTS = 0.1  # mean of a pixel and frame


def rotations(n: int, frames: int, side: int) -> list[Rotation]:
    """Return rotations of 360 degrees about axes that differ by 30 degrees."""
    detector = Detector(
        shape=(side, side),
        pixel_size=(WIDTH / side, WIDTH / side),
        origin=np.array([-0.5 * WIDTH, 0.49 * WIDTH, 0.15]),
        slow=np.array([0.0, -1.0, 0.0]),
        fast=np.array([1.0, 0.0, 0.0]),
    )
    axes = [Turn.from_euler("z", 30 * i, degrees=True).apply((1.0, 0.0, 0.0)) for i in range(n)]
    return [
        Rotation(
            beam=Beam(wavelength=0.7),
            detector=detector,
            goniometer=Goniometer.single(axis),
            scan=Scan(start=0.0, step=2 * np.pi / frames, n_frames=frames),
        )
        for axis in axes
    ]


def sums_of(
    r: Rotation, number: int, ub: np.ndarray, plan: repeat_grid.RepeatGrid, orbits: repeats.Orbits
) -> repeats.Repeats:
    """Return empty sums of a rotation."""
    norm = np.ones(r.scan.n_frames)
    return repeats.Repeats(
        r, number, ub, plan.grid, orbits, np.ones(r.detector.shape), norm, block=plan.block
    )


def timed_frames(r: Rotation, ub: np.ndarray, plan: repeat_grid.RepeatGrid) -> tuple[float, float]:
    """Return the seconds of a frame in the sums of refine_scale, and in the transform."""
    rng, n = np.random.default_rng(0), max(plan.frames, 8)
    frames = rng.poisson(COUNTS, (n, *r.detector.shape)).astype(np.uint32)
    orbits = orbits_of(plan)
    grid = Grid.covering(CELL, q_max(r), 0.1)
    samples = sub_samples(pixel_pitch(r, ub, grid))
    ones = np.ones(r.detector.shape), np.ones(r.scan.n_frames)
    volume = Accumulator(r, ub, grid, *ones, samples, threads=1)
    own = sums_of(r, 0, ub, plan, orbits)
    seconds = [0.0, 0.0]
    firsts = [0, *np.linspace(0, r.scan.n_frames - n, 5).astype(int)]
    for i, first in enumerate(firsts):
        for kind in (0, 1):
            clock = time.process_time()
            if kind == 0:
                for z in range(0, n - plan.frames + 1, plan.frames):
                    own.add(frames[z : z + plan.frames], int(first) + z)
            else:
                volume.add(frames, int(first))
            if i > 0:  # the first one compiles
                seconds[kind] += time.process_time() - clock
    summed = (len(firsts) - 1) * (n // plan.frames) * plan.frames
    return seconds[0] / summed, seconds[1] / ((len(firsts) - 1) * n)


def orbits_of(plan: repeat_grid.RepeatGrid) -> repeats.Orbits:
    """Return the orbits of the stage."""
    maps = images(plan.grid, symmetry.space_group(GROUP).laue_operations)
    punch = refine_scale.Params().punch
    return repeats.orbits(plan.grid, maps.turns, maps.shifts, punch, plan.share)


def all_records(
    large: list[Rotation], ub: np.ndarray, plan: repeat_grid.RepeatGrid
) -> tuple[list[repeats.Records], repeats.Orbits]:
    """Return the records of a scan, simulated block by block, with positions in its frames."""
    side, block = large[0].detector.shape[0], plan.block
    coarse = rotations(len(large), large[0].scan.n_frames // plan.frames, side // max(block))
    orbits, rng = orbits_of(plan), np.random.default_rng(1)
    counts = COUNTS * plan.frames * max(block) ** 2
    parts = []
    for number, r in enumerate(coarse):
        own = sums_of(r, number, ub, plan._replace(block=(1, 1)), orbits)
        for z in range(r.scan.n_frames):
            frame = rng.poisson(counts, (1, *r.detector.shape)).astype(np.uint32)
            own.add(frame, z)
        part = own.records()
        part = replace(part, frame=part.frame * plan.frames)
        parts.append(replace(part, slow=part.slow * max(block), fast=part.fast * max(block)))
    return parts, orbits


def main() -> None:
    """Print the seconds of the parts."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--frames", type=int, default=3600, help="frames of a rotation of 360 degrees")
    ask.add_argument("--rotations", type=int, default=3)
    ask.add_argument("--side", type=int, default=1000, help="pixels along each side")
    a = ask.parse_args()
    large = rotations(a.rotations, a.frames, a.side)
    ub = Turn.random(rng=3).as_matrix() @ lattice.b_matrix(CELL)
    plan = repeat_grid.choose(large, ub, CELL, max(q_max(r) for r in large))
    assert plan is not None
    print(
        f"blocks {plan.block}, ranges of {plan.frames} frames, share of the orbits {plan.share:.2f}"
    )
    n = a.rotations * a.frames
    sums, transform = (n * s for s in timed_frames(large[0], ub, plan))
    parts, orbits = all_records(large, ub, plan)
    params = refine_scale.Params()
    task = refine_scale._Task(None, [], [], large)  # type: ignore[arg-type]
    splines = refine_scale._splines(task, params)
    clock = time.process_time()
    records = repeats.Records.joined(parts, orbits, gap=2.5 * plan.frames)
    through = [np.ones(a.frames)] * a.rotations
    joined = time.process_time() - clock
    found = redundancy.refine(records, splines, unknown=0.2, every=plan.frames, through=through)
    fit = time.process_time() - clock - joined
    print(
        f"{len(records)} records, {len(found.parameters)} parameters\n"
        f"CPU s: transform {transform:.0f}; sums {sums:.0f}, records {joined:.0f}, fit {fit:.0f}; "
        f"refine_scale / transform {(sums + joined + fit) / transform:.2f}"
    )


if __name__ == "__main__":
    main()
