"""From a merged volume to the 3D-ΔPDF: time and peak memory, as one wishes and with a quarter.

    python -m benchmarks.volume_to_pdf FOLDER [--size 501] [--memory 8000 ...]

Writes a merged cubic volume (diffuse scattering, Bragg reflections, Poisson noise, a gap) to
FOLDER and runs the stages symmetrise, fill and pdf on it by their command lines. Peak memory is
the largest resident set, of which pages of scratch files are told apart.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tests.truth.orientations import write_orientation

from hklflow import nexus
from hklflow.geometry.grid import Grid
from hklflow.nexus import PLANES

CELL = np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0])


def write_volume(path: Path, size: int) -> None:
    """A merged volume of ``size``³ voxels of 0.04 r.l.u., m-3m."""
    half = size // 2
    grid = Grid.symmetric([0.04 * half] * 3, [0.04] * 3)
    rng = np.random.default_rng(8)
    h, k = np.meshgrid(grid.axis(0), grid.axis(1))
    with nexus.VolumeWriter(path, grid, CELL, "merged", np.uint32, False) as writer:
        for first in range(0, size, PLANES):
            last = min(first + PLANES, size)
            counts, norm = np.zeros((2, last - first, size, size), np.float32)
            for i, l in enumerate(grid.axis(2)[first:last]):  # noqa: E741
                q2 = h * h + k * k + l * l
                s = 5 + np.cos(2 * np.pi * h) + np.cos(2 * np.pi * k) + np.cos(2 * np.pi * l)
                d2 = sum((x - np.rint(x)) ** 2 for x in (h, k, np.full_like(h, l)))
                s = (s + 2000 * np.exp(-d2 / (2 * 0.03**2))) * np.exp(-0.02 * q2)
                # What no rotation reached: a cone about k, and the corners.
                seen = (q2 < half**2 * 0.04**2 * 1.2) & (h * h + l * l > 0.02 * k * k)
                norm[i] = seen
                counts[i] = rng.poisson(s * seen)
            writer.write(first, counts=counts.astype(np.uint32), norm=norm)
        writer.note({})


def run(name: str, *words: object) -> dict[str, float]:
    """Wall time (s) and peak of all and of anonymous memory (MB) of a stage."""
    command = [sys.executable, "-m", f"hklflow.stages.{name}", *map(str, words)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    peak = {"RssAnon": 0.0, "VmHWM": 0.0}
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except FileNotFoundError:
            break
        for line in status.splitlines():
            key, _, rest = line.partition(":")
            if key in peak:
                peak[key] = max(peak[key], int(rest.split()[0]) / 1024)
        time.sleep(0.05)
    told = process.communicate()[0].decode().strip().splitlines()
    if process.returncode:
        raise SystemExit(f"{name} failed: {told[-1] if told else ''}")
    print(f"    {told[-1][:150] if told else ''}")
    return {"s": time.perf_counter() - began, **peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=501)
    parser.add_argument("--memory", type=float, nargs="+", default=[8000.0])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    folder = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    merged = folder / f"merged_{given.size}.nxs"
    if not merged.exists():
        write_volume(merged, given.size)
    orientation = write_orientation(folder / "orientation.json", group="P m -3 m")
    print(f"{given.size}³ voxels; s, peak resident MB (anonymous)")
    for memory in given.memory:
        print(f"memory: {memory:g} MB")
        at = {name: folder / f"{name}_{memory:g}.nxs" for name in ("symm", "filled", "delta_pdf")}
        rest = ["--memory", memory, "--threads", given.threads]
        rest += ["--picture", folder / "p.png", "--metrics", folder / "m.json"]
        steps = {
            "symmetrise": ["--volumes", merged, "--symmetrised", at["symm"]],
            "fill": ["--symmetrised", at["symm"], "--filled", at["filled"]],
            "pdf": ["--filled", at["filled"], "--pdf", at["delta_pdf"]],
        }
        for name, words in steps.items():
            if name != "pdf":
                words += ["--orientation", orientation]
            found = run(name, *words, *rest)
            print(f"  {name:12s} {found['s']:7.0f} {found['VmHWM']:7.0f} ({found['RssAnon']:.0f})")


if __name__ == "__main__":
    main()
