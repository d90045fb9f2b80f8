"""Peak memory of every stage, for two sizes of detector and two lengths of scan.

    python -m benchmarks.memory FOLDER [--large]

Simulates one rotation at 512 × 512 × 365 and × 730 (with --large also at 1679 × 1475 × 60 and
× 120), runs each stage in a process of its own and prints its largest resident memory. A stage
that held the scan would grow with the number of frames.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from hklflow.stages.simulate import Description

GRID = ["--grid-step", "0.05", "0.05", "0.05", "--grid-limits", "5", "5", "5"]


def description(shape: tuple[int, int], n_frames: int) -> str:
    """A cubic crystal whose whole scan is on the detector, whatever its shape."""
    size = 0.16 / max(shape)
    given = {
        "detector": {
            "module_shape": shape,
            "pixel_size": [size, size],
            "distance": 0.15,
            "foot": [shape[0] / 2 + 0.3, shape[1] / 2 - 0.2],
        },
        "wavelength": 0.4,
        "axes": {"phi": [-1, 0, 0]},
        "scan_axis": "phi",
        "step": 0.25,
        "n_frames": n_frames,
        "flux": 2.0,
        "crystal": {
            "cell": [5.0, 5.0, 5.0, 90, 90, 90],
            "orientation": [0.3, 0.2, 0.5],
            "scale": 1.0,
            "mosaic": 0.003,
        },
        "diffuse": {"flat": 0.5},
        "background": {"air": 1.0},
    }
    return Description.model_validate(given).model_dump_json(exclude_defaults=True)


def run(stage: str, *arguments: str) -> tuple[float, float]:
    """Run one stage; return its peak memory in MB and its CPU seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"hklflow.stages.{stage}", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{stage} failed:\n{told.decode()}")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def stages(folder: Path, shape: tuple[int, int], n_frames: int) -> dict[str, tuple[float, float]]:
    """Run the chain of one rotation."""
    folder.mkdir(parents=True, exist_ok=True)

    def at(name: str) -> str:
        return str(folder / name)

    scan, mask, picture = at("scan.nxs"), at("mask.nxs"), at("picture.png")
    identity = ["--sample", "s", "--scan", "x", "--rotations", "r1"]
    chain = {
        "simulate": ["--description", description(shape, n_frames), "--raw", at("raw.nxs")],
        "import_scan": ["--raw", at("raw.nxs"), "--scan", scan],
        "pixel_mask": ["--scan", scan, "--mask", mask, "--picture", picture, "--metrics",
                       at("mask.json")],
        "find_peaks": ["--scan", scan, "--mask", mask, "--peaks", at("peaks.nxs"), "--picture",
                       picture, "--metrics", at("m.json"), "--statistics", at("statistics.nxs"),
                       "--statistics-picture", at("s.png"), "--statistics-metrics", at("s.json")],
        "frame_scale": ["--scan", scan, "--statistics", at("statistics.nxs"), "--reference-scan",
                        scan, "--reference", at("statistics.nxs"), "--scale", at("scale.nxs"),
                        "--picture", picture, "--metrics", at("m.json")],
        "refine_parent": ["--scans", scan, "--peaks", at("peaks.nxs"), "--orientation",
                          at("parent.json"), "--picture", picture, "--space-group", "P m -3 m",
                          "--cell", "5", "5", "5", "90", "90", "90", *identity, *GRID],
        "mask_3d": ["--scan", scan, "--mask", mask, "--frame-mask", at("frame_mask.nxs"),
                    "--picture", picture],
        "transform": ["--scan", scan, "--mask", mask, "--scale", at("scale.nxs"),
                      "--frame-mask", at("frame_mask.nxs"), "--orientation", at("parent.json"),
                      "--transform", at("t.nxs"), "--masked-transform", at("mt.nxs"),
                      "--rotation", "r1"],
        "merge": ["--volumes", at("t.nxs"), at("t.nxs"), "--volume", at("v.nxs"), "--slices",
                  picture, "--coverage", at("c.png"), "--metrics", at("m.json")],
    }  # fmt: skip
    return {name: run(name, *arguments) for name, arguments in chain.items()}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    cases = [((512, 512), 365), ((512, 512), 730)]
    if arguments.large:
        cases += [((1679, 1475), 60), ((1679, 1475), 120)]
    table = {}
    for shape, n in cases:
        name = f"{shape[0]}x{shape[1]}x{n}"
        table[name] = stages(arguments.folder / name, shape, n)
        print(f"{name}: done", file=sys.stderr)
    print(f"{'stage':15s}" + "".join(f"{name:>22s}" for name in table))
    for stage in next(iter(table.values())):
        cells = [f"{mb:9.0f} MB {cpu:6.1f} s" for mb, cpu in (c[stage] for c in table.values())]
        print(f"{stage:15s}" + "".join(f"{cell:>22s}" for cell in cells))
    (arguments.folder / "memory.json").write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
