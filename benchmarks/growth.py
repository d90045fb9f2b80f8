"""Growth of the steps: exponents of CPU time and memory with frames, pixels, voxels and scans.

    python -m benchmarks.growth FOLDER [--only frames voxels ...] [--plot growth.png]

Measures small simulated experiments (few peaks) in pairs that differ in one number. Each step runs
in a process of its own that has loaded the libraries. It runs twice, and the second run is
measured: the start of Python and the load of kernels, which do not grow, are left out; pictures
and checksums are not. An exponent is log(cost ratio) / log(size ratio); of memory, it is the
exponent of the peak above the process before the step. Costs that are too small to be compared
(0.05 CPU s, 20 MB) have no exponent. `scans` measures a dry run of snakemake; from 1 to 100 scans.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks import workflow
from benchmarks.workflow import World
from hklflow import stage
from hklflow.experiment import config
from hklflow.experiment.jobs import Job, Plan
from hklflow.experiment.rehearsal import inputs_of

# Reflections strong enough for `converge` and `integrate` on few pixels.
SMALL = World(
    "few", modules=(2, 2), module_shape=(128, 128), gap=(8, 8), pixel=690e-6, frames=100,
    step=0.4, side=61, more={"scale": 0.4},
)  # fmt: skip
_FRAMES = ("find_peaks", "mask_3d", "transform", "converge", "integrate")
_VOXELS = ("transform", "merge", "symmetrise")
_SERIES = ("temperature_series", "order_parameters", "stack", "stack_pdf", "sample_page")
_SECONDS, _MEGABYTES = 0.05, 20.0


@dataclass(frozen=True)
class Growth:
    """A pair of experiments, the ratio of their sizes, and the steps to measure."""

    small: World
    large: World
    ratio: float
    rules: tuple[str, ...]


def _growths() -> dict[str, Growth]:
    bragg = replace(SMALL, bragg=True)
    shape = SMALL.module_shape
    long = replace(bragg, frames=10 * bragg.frames, step=0.1 * bragg.step)
    wide = replace(bragg, module_shape=(3 * shape[0], 3 * shape[1]), pixel=SMALL.pixel / 3)
    fine = replace(SMALL, side=121)
    ratio = math.prod(wide.shape) / math.prod(bragg.shape)
    tiny = replace(SMALL, side=31, frames=60, step=0.6, temperatures=2)
    many = replace(tiny, temperatures=20)
    return {
        "frames": Growth(bragg, long, 10.0, _FRAMES),
        "pixels": Growth(bragg, wide, ratio, ("import_scan", "pixel_mask", *_FRAMES)),
        "voxels": Growth(SMALL, fine, (121 / 61) ** 3, _VOXELS),
        "temperatures": Growth(tiny, many, 10.0, _SERIES),
    }


Costs = dict[str, tuple[float, float]]
"""CPU seconds and MB of each rule, the sum and the largest of its jobs."""


def measure(folder: Path, world: World, rules: tuple[str, ...]) -> Costs:
    """Run the jobs of an experiment that the rules need, and measure those of the rules."""
    workflow.write(folder, world)
    command = [sys.executable, "-m", "benchmarks.growth", str(folder), "--measure", *rules]
    environment = os.environ | {f"{x}_NUM_THREADS": "1" for x in ("OMP", "OPENBLAS", "NUMBA")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: Costs = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(folder: Path, rules: tuple[str, ...]) -> Costs:
    os.chdir(folder)
    plan = Plan(config.load(yaml.safe_load(Path("config/config.yaml").read_text()), folder))
    makers = {path: job for job in plan.jobs for path in job.outputs.values()}
    done: set[Job] = set()
    costs: Costs = {}

    def make(job: Job) -> None:
        if job in done:
            return
        done.add(job)
        for path in job.inputs:
            if path in makers:
                make(makers[path])
        if job.rule not in rules:
            if not all(Path(path).exists() for path in job.outputs.values()):
                _in_process(lambda: _run(job))
            return
        cpu, mb = _in_process(lambda: _run(job), lambda: _run(job))
        before = costs.get(job.rule, (0.0, 0.0))
        costs[job.rule] = before[0] + cpu, max(before[1], mb)

    for job in plan.jobs:
        if job.rule in rules:
            make(job)
    return costs


def _run(job: Job) -> None:
    module = job.step.stage
    for path in job.outputs.values():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    inputs, outputs = module.Inputs(**inputs_of(job)), module.Outputs(**job.outputs)
    stage.run(module.main, inputs=inputs, outputs=outputs, params=job.params, threads=1)


def _in_process(*turns: Callable[[], None]) -> tuple[float, float]:
    """Return the CPU seconds of the last turn, and the memory that a process adds for all (MB)."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        sys.stdout = sys.stderr
        cpu, start = 0.0, _resident()
        for turn in turns:
            clock = time.process_time()
            turn()
            cpu = time.process_time() - clock
        os.write(write, json.dumps([cpu, max(_resident("VmHWM") - start, 0.0)]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status or not text:
        sys.exit("a step failed")
    cpu, mb = json.loads(text)
    return cpu, mb


def _resident(name: str = "VmRSS") -> float:
    """Return the memory of this process, or the largest so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name))) / 1024


def dry_run(folder: Path, scans: int) -> Costs:
    """Measure a dry run of snakemake for a number of scans."""
    workflow.write(folder, replace(SMALL, temperatures=scans))
    snakefile = Path(__file__).parents[1] / "Snakefile"
    command = f"python -m snakemake --snakefile {snakefile} --cores 1 -n -q all > dry_run.log 2>&1"
    ran = workflow.run(workflow.Command("dry run", "dry run", command), folder)
    return {"dry run": (ran.cpu, ran.mb)}


def exponent(small: float, large: float, ratio: float, least: float) -> float | None:
    """Return log(large / small) / log(ratio); None if the larger cost is below the least."""
    if large < least or small <= 0:
        return None
    return math.log(large / small) / math.log(ratio)


def document(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of exponents as Markdown."""
    lines = [
        "| number | × | step | CPU s | exponent | MB | exponent |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, pair in found.items():
        for rule, (cpu, mb) in pair["large"].items():
            less = pair["small"][rule]
            time_of = exponent(less[0], cpu, pair["ratio"], _SECONDS)
            memory_of = exponent(less[1], mb, pair["ratio"], _MEGABYTES)
            lines.append(
                f"| {name} | {pair['ratio']:.3g} | `{rule}` | {less[0]:.2f} → {cpu:.2f} "
                f"| {_text(time_of)} | {less[1]:.0f} → {mb:.0f} | {_text(memory_of)} |"
            )
    return "\n".join(lines)


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def plot(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw CPU seconds of each step against the number that grows."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 4), squeeze=False)
    for axis, (name, pair) in zip(axes[0], found.items(), strict=True):
        for rule, (cpu, _) in pair["large"].items():
            axis.loglog([1, pair["ratio"]], [pair["small"][rule][0], cpu], "o-", label=rule)
        lowest = min(cpu for cpu, _ in pair["small"].values())
        axis.loglog([1, pair["ratio"]], [lowest, lowest * pair["ratio"]], "k:", label="exponent 1")
        axis.set(xlabel=f"{name}, relative", ylabel="CPU seconds of a step")
        axis.legend(fontsize="x-small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Command line."""
    growths = _growths()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--only", nargs="+", choices=[*growths, "scans"], default=[*growths, "scans"]
    )
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder.resolve()
    if given.measure:
        print(json.dumps(_measured(folder, tuple(given.measure))))
        return
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "growth.json"
    found = json.loads(results.read_text()) if results.exists() else {}
    for name in given.only:
        if name == "scans":
            pair = [dry_run(folder / f"scans_{n}", n) for n in (1, 100)]
            found[name] = {"ratio": 100.0, "small": pair[0], "large": pair[1]}
        else:
            it = growths[name]
            found[name] = {
                "ratio": it.ratio,
                "small": measure(folder / f"{name}_small", it.small, it.rules),
                "large": measure(folder / f"{name}_large", it.large, it.rules),
            }
        results.write_text(json.dumps(found, indent=1) + "\n")
        print(document({name: found[name]}), flush=True)
    print(document(found))
    if given.plot:
        plot(found, given.plot)


if __name__ == "__main__":
    main()
