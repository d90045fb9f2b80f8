"""Whether all contenders did the same work: their volumes of the same frames, voxel by voxel.

    python -m benchmarks.speed.agree FOLDER --frames 20 --grid 301 NAME=FILE ...

FILE is what `peers --volume` wrote, sums of raw counts and numbers of pixels, or a map (.mrc) of
`dials.rs_mapper`. hklflow bins the same frames with a norm of 1, so that M is a number of
pixels too. meerkat puts a frame half a slice early, so it is compared with that shift as well:
what is then equal is the work, and the shift is its own.
rs_mapper maps Q, not hkl, takes a pixel's corner for its centre and counts masked pixels as zeros;
hklflow is told to do the same.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed import data
from hklflow.formats import raw
from hklflow.geometry import Rotation
from hklflow.transform.binning import Accumulator, Grid

Floats = NDArray[np.float64]

MAX_RESOLUTION = 0.8144
"""Å: rs_mapper's cube reaches to its inverse, which is where the hkl grid ends."""


def ours(
    folder: Path, n_frames: int, grid: Grid, ub: Floats, turn: Rotation, zeros: bool = False
) -> tuple[Floats, Floats]:
    """Sums of counts and numbers of pixels (h, k, l).

    With `zeros` masked pixels count as pixels without photons.
    """
    bad = data.bad_pixels(data.simulation(n_frames))
    norm = np.ones(bad.shape) if zeros else (~bad).astype(np.float64)
    accumulator = Accumulator(turn, ub, grid, norm, np.ones(n_frames))
    with raw.open_frames(folder / "a.nxs") as frames:
        for first in range(0, n_frames, 10):
            block = frames.read(first, min(first + 10, n_frames))
            accumulator.add(np.where(bad, 0, block).astype(block.dtype), first)
    counts, pixels = accumulator.total()
    return np.asarray(counts).T, np.asarray(pixels).T


def early(turn: Rotation) -> Rotation:
    """The rotation with every frame half a slice early."""
    scan = replace(turn.scan, start=turn.scan.start - 0.5 * turn.scan.step)
    return replace(turn, scan=scan)


def compare(theirs: tuple[Floats, Floats], mine: tuple[Floats, Floats]) -> dict[str, float]:
    """Correlation of counts and of numbers of pixels, and how many voxels are equal."""
    seen = (theirs[1] > 0) | (mine[1] > 0)
    a, b = ([np.asarray(part[seen], np.float64) for part in pair] for pair in (theirs, mine))
    equal = (np.abs(a[0] - b[0]) < 0.5) & (np.abs(a[1] - b[1]) < 1e-3)
    return {
        "voxels": int(seen.sum()),
        "correlation of counts": float(np.corrcoef(a[0], b[0])[0, 1]),
        "correlation of pixels": float(np.corrcoef(a[1], b[1])[0, 1]),
        "equal voxels": float(equal.mean()),
        "ratio of sums": float(b[0].sum() / a[0].sum()),
    }


def compare_map(path: Path, folder: Path, n_frames: int, turn: Rotation) -> dict[str, float]:
    """A map (x, y, z) of mean counts of rs_mapper against ours."""
    header = np.fromfile(path, "<i4", 256)
    # The map repeats its first plane at the end of each axis.
    n = int(header[0]) - 1
    theirs = np.fromfile(path, "<f4", offset=1024 + int(header[23]))
    theirs = theirs.reshape(n + 1, n + 1, n + 1)[:n, :n, :n]
    step = 2 / MAX_RESOLUTION / n
    grid = Grid(np.full(3, -(n // 2) * step), np.full(3, step), (n, n, n))
    # dxtbx's laboratory is turned by 180° about y; rs_mapper takes a pixel's corner for its
    # centre.
    ub = 2 * np.pi * np.diag([-1.0, 1.0, -1.0])
    detector = replace(turn.detector, origin=turn.detector.lab(-0.5, -0.5))
    moved = replace(turn, detector=detector)
    counts, pixels = ours(folder, n_frames, grid, ub, moved, zeros=True)
    mine = counts / np.maximum(pixels, 1)
    # It leaves out what is outside the sphere in its cube.
    x = (np.arange(n) - n // 2) ** 2
    inside = np.sqrt(x[:, None, None] + x[:, None] + x) < n / 2 - 1
    seen = (pixels > 0) & inside
    close = np.abs(theirs - mine)[seen] < 1e-3 * np.maximum(mine[seen], 1)
    return {
        "voxels": int(seen.sum()),
        "correlation of means": float(np.corrcoef(theirs[seen], mine[seen])[0, 1]),
        "equal voxels": float(close.mean()),
    }


def main() -> None:
    """Compare all and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("volumes", nargs="+", help="NAME=FILE")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--grid", type=int, default=301)
    options = parser.parse_args()
    truth = data.simulation(options.frames)
    turn, grid = data.rotation(truth, options.frames), data.grid(options.grid)
    found = {}
    for name, file in (text.split("=", 1) for text in options.volumes):
        if file.endswith(".mrc"):
            found[name] = compare_map(Path(file), options.folder, options.frames, turn)
            continue
        with np.load(file) as stored:
            theirs = stored["counts"], stored["norm"]
        mine = ours(options.folder, options.frames, grid, truth.ub, turn)
        found[name] = compare(theirs, mine)
        if name.startswith("meerkat"):
            mine = ours(options.folder, options.frames, grid, truth.ub, early(turn))
            found[f"{name}, hklflow with the same shift"] = compare(theirs, mine)
    print("RESULT " + json.dumps({"cpu": 0, "wall": 0, "pixels": 0, "mb": 0, "found": found}))


if __name__ == "__main__":
    main()
