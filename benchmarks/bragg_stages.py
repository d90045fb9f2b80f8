"""CPU time and memory of `integrate` and `converge` on a simulated scan, and of decoding it.

    python -m benchmarks.bragg_stages FOLDER [--frames 300] [--rounds 3] [--mosaic DEGREES]

FOLDER gets frames of 1 Mpixel with gaps, an orthorhombic crystal (8.2, 9.6, 11.9 Å) and diffuse
scattering, the tables of the earlier stages, and an orientation that is 0.06° and 5e-4 of the cell
off, so that `converge` integrates more than once. Stages and decoder take turns, each in a process
of its own. Times are those of the stages with tables and pictures, without the start of Python.
"""
# ruff: noqa: I001

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
import hklflow  # noqa: F401
import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.speed import data
from hklflow import nexus, stage
from hklflow.base import identity
from hklflow.formats import raw
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.simulation.frames import Simulation
from hklflow.stages import converge, find_peaks, integrate

CELL = (8.2, 9.6, 11.9, 90.0, 90.0, 90.0)
OFF = np.radians(0.06) * np.array([0.48, -0.6, 0.64])
STRAIN = 5e-4
WORK = ("decode", "integrate", "converge")


def simulation(n_frames: int, mosaic: float | None) -> Simulation:
    """The scan of `benchmarks.speed` with a larger cell and smooth diffuse scattering."""
    made = data.simulation(n_frames)
    crystal = replace(made.crystal, cell=CELL, scale=0.02)
    if mosaic is not None:
        crystal = replace(crystal, mosaic=np.radians(mosaic))
    return replace(made, crystal=crystal, diffuse=replace(made.diffuse, ridges=()))


def make(folder: Path, n_frames: int, mosaic: float | None) -> None:
    """Write frames and the tables that the stages read."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = simulation(n_frames, mosaic)
    bad = data.bad_pixels(truth)
    header = NXmxHeader(**truth.raw_header() | {"pixel_mask": bad.astype(np.uint32)})
    with NXmxWriter(folder / "a.nxs", header) as writer:
        for block in data._frames(truth):
            writer.append(block)
    data._write_stage_inputs(folder, truth, n_frames)
    # The import reads the whole raw file for its identity; later stages do not, if it is recorded.
    frames = identity.identify(str(folder / "a.nxs"), [folder / "a.nxs"])
    record = {
        "stage": "import_scan",
        "stage_version": 0,
        "version": "",
        "started": "",
        "params": {},
    }
    nexus.write_provenance(folder / "scan.nxs", [record | {"inputs": {"raw": [frames]}}])
    made = {name: folder / f"{name}.out" for name in find_peaks.Outputs.model_fields}
    stage.run(
        find_peaks.main,
        inputs=find_peaks.Inputs(scan=folder / "scan.nxs", mask=folder / "mask.nxs"),
        outputs=find_peaks.Outputs(**made | {"peaks": folder / "peaks.nxs"}),
        params=find_peaks.Params(),
        threads=1,
    )
    start = stage.read_json(folder / "orientation_301.json")
    start["UB"] = (Rotation.from_rotvec(OFF).as_matrix() @ np.array(start["UB"])).tolist()
    start["UB"] = (np.array(start["UB"]) * (1 + STRAIN)).tolist()
    start["cell"] = [*(np.array(CELL[:3]) / (1 + STRAIN)), *CELL[3:]]
    start["fixed"] = False
    start["symmetry"] = {"fraction unindexed": None, "free cell": None, "why not": "a benchmark"}
    start.pop("provenance", None)
    # Last, so that it is there only if all is.
    stage.write_json(folder / "start.json", start)


def work(name: str, folder: Path) -> None:
    """Do the work of one measurement."""
    if name == "decode":
        with raw.open_frames(folder / "a.nxs") as frames:
            for _ in frames.stream(8):
                pass
        return
    module: Any = {"integrate": integrate, "converge": converge}[name]
    one = {key: folder / f"{key}.nxs" for key in ("scan", "mask", "scale", "peaks")}
    if name == "converge":
        read: dict[str, Any] = {f"{key}s": [path] for key, path in one.items() if key != "peaks"}
        read |= {"peaks": [one["peaks"]], "orientation": folder / "start.json"}
        params = {"sample": "benchmark", "scan": "a", "rotations": ["r1"]}
    else:
        read, params = one | {"orientation": folder / "orientation_301.json"}, {"rotation": "r1"}
    made = {field: folder / f"{name}_{field}.out" for field in module.Outputs.model_fields}
    made["picture"] = folder / f"{name}.png"
    stage.run(
        module.main,
        inputs=module.Inputs(**read),
        outputs=module.Outputs(**made),
        params=module.Params(**params),
        threads=1,
    )


def timed(function: Callable[..., None], *arguments: Any) -> float:
    """Return the CPU time of a call in seconds."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def peak_mb() -> float:
    """Return the peak memory of this process; that of `resource` includes its parent's."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Make the scan unless it is there; take turns; print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mosaic", type=float)
    parser.add_argument("--only", choices=WORK, help="one measurement, used by the turns")
    given = parser.parse_args()
    if given.only:
        if given.only == "decode":  # without loading its kernel
            work("decode", given.folder)
        print(json.dumps([timed(work, given.only, given.folder), peak_mb()]))
        return
    if not (given.folder / "start.json").exists():
        make(given.folder, given.frames, given.mosaic)
    found: dict[str, list[list[float]]] = {name: [] for name in WORK}
    for turn in range(given.rounds + 1):
        for name in WORK:
            command = [sys.executable, "-m", "benchmarks.bragg_stages", str(given.folder)]
            done = subprocess.run(
                [*command, "--only", name], check=True, stdout=subprocess.PIPE, text=True
            )
            if turn:  # the first one compiles kernels
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    with raw.open_frames(given.folder / "a.nxs") as frames:
        size = np.prod(frames.shape) / 1e6
    decode = statistics.median(seconds for seconds, _ in found["decode"])
    for name in WORK:
        seconds = statistics.median(row[0] for row in found[name])
        print(
            f"{name}: {seconds:.2f} s of CPU, {size / seconds:.0f} Mpixel/s, "
            f"{seconds / decode:.1f} decodes, {max(row[1] for row in found[name]):.0f} MB"
        )


if __name__ == "__main__":
    main()
