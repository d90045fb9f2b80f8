"""What a quick look costs: seconds of every stage, of frames as measured and of block sums.

    python -m benchmarks.quick_look FOLDER [--frames 360] [--side 1024] [--binning 4]

Simulates forty frames of one rotation and repeats them, shifted by a pixel each time; runs each
stage that reads frames twice, with compiled kernels, in this process, and prints wall and
processor seconds.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.truth.orientations import write_orientation

from hklflow import nexus, stage
from hklflow.experiment import binned
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry.grid import Grid
from hklflow.simulation.frames import (
    Background,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stages import bin_frames, find_peaks, frame_scale, import_scan, mask_3d, pixel_mask
from hklflow.stages import transform as transform_stage

CELL = (5.0, 5.0, 5.0, 90.0, 90.0, 90.0)
GRID = Grid.symmetric((5.0, 5.0, 5.0), (0.05, 0.05, 0.05))


def write(path: Path, side: int, n_frames: int) -> np.ndarray:
    """Write the rotation; returns UB."""
    size = 0.16 / side
    simulation = Simulation(
        DetectorModel((side, side), 0.15, (side / 2 + 0.3, side / 2 - 0.2), (size, size)),
        GoniometerModel(),
        ScanModel(0.0, np.radians(0.25), 40, 0.4, flux=2.0, exposure=0.1),
        CrystalModel(CELL, orientation=(0.3, 0.2, 0.5), scale=1.0, mosaic=0.003),
        Diffuse(flat=0.5),
        Background(air=1.0),
    )
    frames = np.concatenate(list(simulation.frames(8)))
    header = simulation.raw_header() | {"n_frames": n_frames, "monitor": np.ones(n_frames)}
    with NXmxWriter(path, NXmxHeader(**header)) as writer:
        for first in range(0, n_frames, 40):
            # The same image twice would be refused.
            shifted = np.roll(frames[: n_frames - first], first // 40, axis=2)
            writer.append(shifted)
    return simulation.ub


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor seconds."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, used


def measure(folder: Path, raw: Path, ub: np.ndarray, b: int) -> dict[str, tuple[float, float]]:
    """Run the stages on frames as measured (b = 1) or on block sums."""
    folder.mkdir(exist_ok=True)
    seconds: dict[str, tuple[float, float]] = {}

    def path(name: str) -> Path:
        return folder / name

    def run(module: Any, inputs: Any, outputs: Any, params: Any) -> None:
        def main() -> None:
            module.main(
                inputs=module.Inputs(**inputs),
                outputs=module.Outputs(**outputs),
                params=params,
                threads=1,
            )

        seconds[module.__name__.rsplit(".", 1)[-1]] = timed(main)

    frames = raw
    if b > 1:
        frames = path("binned.nxs")
        run(bin_frames, {"raw": [raw]}, {"binned": frames}, bin_frames.Params(binning=b))
    scan, mask = path("scan.nxs"), path("mask.nxs")
    told = {"picture": path("p.png"), "metrics": path("m.json")}
    run(import_scan, {"raw": [frames]}, {"scan": scan}, import_scan.Params(binning=b))
    run(pixel_mask, {"scan": scan}, {"mask": mask, **told}, pixel_mask.Params())
    statistics = path("statistics.nxs")
    more = {"statistics_picture": path("s.png"), "statistics_metrics": path("s.json")}
    run(
        find_peaks,
        {"scan": scan, "mask": mask},
        {"peaks": path("peaks.nxs"), "statistics": statistics, **told, **more},
        binned.find_peaks(find_peaks.Params(), b),
    )
    inputs = {"scan": scan, "statistics": statistics}
    inputs |= {"reference_scan": scan, "reference": statistics}
    scale, no_scale = path("scale.nxs"), frame_scale.Params(source="none")
    run(frame_scale, inputs, {"scale": scale, **told}, no_scale)
    run(
        mask_3d,
        {"scan": scan, "mask": mask},
        {"frame_mask": path("frame_mask.nxs"), "picture": path("p.png")},
        mask_3d.Params(**binned.mask_3d(mask_3d.Settings(), b).model_dump()),
    )
    rotation = nexus.read_scan(scan).rotation
    write_orientation(path("orientation.json"), {"r1": rotation}, ub, grid=GRID, scan="one")
    inputs = {"scan": scan, "mask": mask, "scale": scale, "frame_mask": path("frame_mask.nxs")}
    run(
        transform_stage,
        inputs | {"orientation": path("orientation.json")},
        {"transform": path("all.nxs"), "masked_transform": path("clean.nxs")},
        transform_stage.Params(rotation="r1"),
    )
    return seconds


def main() -> None:
    """Write, warm, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=360)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--binning", type=int, default=4, choices=(2, 4, 8))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    small, raw = given.folder / "small.nxs", given.folder / "raw.nxs"
    factors = (1, given.binning)
    for b in factors:
        measure(given.folder / f"warm{b}", small, write(small, 160, 40), b)
    ub = write(raw, given.side, given.frames)
    full, quick = (measure(given.folder / f"binned{b}", raw, ub, b) for b in factors)
    stage.write_json(given.folder / "seconds.json", {"full": full, "binned": quick})
    work = given.frames * given.side**2 / 1e6
    print(f"{given.frames} frames of {given.side} x {given.side}: {work:.0f} million pixel-frames")
    print("stage            full: wall, CPU s      binned: wall, CPU s")
    for name in dict.fromkeys([*quick, *full]):
        cells = [
            f"{times[name][0]:8.2f} {times[name][1]:8.2f}" if name in times else " " * 17
            for times in (full, quick)
        ]
        print(f"{name:14s} {cells[0]}     {cells[1]}")
    totals = [np.sum(list(times.values()), axis=0) for times in (full, quick)]
    print(f"{'all':14s} {totals[0][0]:8.2f} {totals[0][1]:8.2f}     ", end="")
    print(f"{totals[1][0]:8.2f} {totals[1][1]:8.2f}")
    print(f"ratio: wall {totals[0][0] / totals[1][0]:.1f}, CPU {totals[0][1] / totals[1][1]:.1f}")


if __name__ == "__main__":
    main()
