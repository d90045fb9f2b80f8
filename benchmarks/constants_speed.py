"""Speed and memory of each step that makes constants, on one ASIC of 64 x 64 pixels.

    python -m benchmarks.constants_speed FOLDER

Each step runs in a process of its own with 4 and with 16 memory cells of 1000 frames. Printed are
its processor time beyond start-up, as pixels x cells x frames per second of one core, its peak
memory, and what that becomes for 352 memory cells (a straight line through both).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hklflow.constants.gathered import About, GatheredWriter
from hklflow.constants.simulate import Truth, agipd
from hklflow.constants.simulate_photons import Foil, deposit
from hklflow.constants.simulate_ramps import current_source, pulse_capacitor, write_ramp

FRAMES, CELLS, ALL = 1000, (4, 16), 352
RAMP = [[500, 1.0], [500, 12.0]]

_STEP = """
import importlib, json, re, sys, time
name, inputs, outputs, params = json.loads(sys.argv[1])
module = importlib.import_module(f"hklflow.stages.{name}")
made = [getattr(module, part)(**given) for part, given in
        (("Inputs", inputs), ("Outputs", outputs), ("Params", params))]
began = time.process_time()
module.main(inputs=made[0], outputs=made[1], params=made[2], threads=1)
seconds = time.process_time() - began
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())
print("RESULT", seconds, int(peak[1]) / 1024)
"""


def write(path: Path, truth: Truth, measure: str, rng: np.random.Generator) -> None:
    """Frames of a dark run or of fluorescence."""
    stage = {"dark_high": 0, "dark_medium": 1, "dark_low": 2}.get(measure)
    about = About("agipd", measure, 0, 0, "level", ("r0001",))
    cells = np.arange(truth.cells)
    with GatheredWriter(path, about, cells, np.full(len(cells), FRAMES), truth.shape) as writer:
        for cell in cells:
            energy = (
                deposit(Foil(17.444), FRAMES, truth.shape, rng)
                if stage is None
                else np.zeros((FRAMES, *truth.shape))
            )
            step = np.arange(FRAMES)
            output = truth.respond(energy, int(cell), rng, stage)
            writer.append(np.full(FRAMES, cell), 1000 + step, step, *output)


def run(name: str, inputs: dict[str, Any], output: Path, **params: Any) -> tuple[float, float]:
    """Processor time in seconds and peak memory in MB."""
    paths = {
        key: [str(path) for path in value] if isinstance(value, list) else str(value)
        for key, value in inputs.items()
    }
    words = json.dumps([name, paths, {"constants": str(output)}, params])
    done = subprocess.run(
        [sys.executable, "-c", _STEP, words], capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _, seconds, memory = done.stdout.strip().splitlines()[-1].split()
    return float(seconds), float(memory)


def measure(folder: Path, cells: int) -> dict[str, tuple[float, float, int]]:
    """(seconds, MB, pixels x cells x frames) of each step."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(cells)
    truth = agipd(rng, cells)
    for name in ("dark_high", "dark_medium", "dark_low", "xray"):
        write(folder / f"{name}.h5", truth, name, rng)
    pulses = pulse_capacitor(truth, rng, 2.0)
    write_ramp(
        folder / "pulse_capacitor.h5", truth, pulses, "pulse_capacitor", [(FRAMES, 1.0)], rng
    )
    ramp = [(n, increment) for n, increment in RAMP]
    for name in ("20", "80"):
        source = current_source(truth, rng, 8.0)
        path = folder / f"current_source_{name}.h5"
        write_ramp(path, truth, source, f"current_source_{name}", ramp, rng)
    of = {stage: folder / f"dark_{stage}.h5" for stage in ("high", "medium", "low")}
    frames = 64 * 64 * cells * FRAMES

    def at(name: str) -> Path:
        return folder / f"{name}.nxs"

    found = {"process_dark": (*run("process_dark", of, at("dark")), 3 * frames)}
    for name, stage, params in (
        ("xray", "process_xray", {"energy": 17.444, "photons_per_cell": 100.0}),
        ("pulse_capacitor", "process_pulse_capacitor", {}),
        ("current_source_20", "process_current_source", {"ramp": RAMP}),
        ("current_source_80", "process_current_source", {"ramp": RAMP}),
    ):
        inputs = {"gathered": folder / f"{name}.h5", "dark": at("dark")}
        found[stage] = (*run(stage, inputs, at(name), **params), frames)
    currents = [at(f"current_source_{name}") for name in ("20", "80")]
    merged = run("merge_current_source", {"currents": currents}, at("merged"), names=["20", "80"])
    # These work on constants, not on frames.
    found["merge_current_source"] = (*merged, frames // FRAMES)
    inputs = {name: at(name) for name in ("dark", "xray", "pulse_capacitor")}
    inputs["current_source"] = at("merged")
    found["combine_constants"] = (
        *run("combine_constants", inputs, at("combined")), frames // FRAMES,
    )  # fmt: skip
    masked = run("mask_constants", {"combined": at("combined")}, at("masked"))
    found["mask_constants"] = (*masked, frames // FRAMES)
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1])
    measure(place / "cells1", 1)  # compiles the kernels
    small, large = (measure(place / f"cells{n}", n) for n in CELLS)
    print("| step | million per s and core | MB, 4 cells | MB, 16 cells | MB, 352 cells |")
    print("|---|---|---|---|---|")
    for step, (seconds, memory, size) in large.items():
        first = small[step]
        rate = (size - first[2]) / max(seconds - first[0], 1e-3) / 1e6
        slope = (memory - first[1]) / (CELLS[1] - CELLS[0])
        print(
            f"| {step} | {rate:.1f} | {first[1]:.0f} | {memory:.0f} | "
            f"{memory + slope * (ALL - CELLS[1]):.0f} |"
        )
