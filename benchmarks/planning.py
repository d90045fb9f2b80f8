"""What an experiment costs: a table for real instruments, and its check against a measured run.

    python -m benchmarks.planning                  # the table of docs/performance.md
    python -m benchmarks.planning --run FOLDER     # one tenth of its first row, measured

The table comes from the cost model of `hklflow.experiment.cost`, as `hklflow check` does. The run
simulates a tenth of the frames (not measured), reduces them on one core from import to report,
and compares the CPU seconds of all processes with the model's.
"""

import argparse
import csv
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hklflow.experiment import config
from hklflow.experiment.cost import COSTS, Estimate, Shape
from hklflow.experiment.jobs import job_counts

ROTATIONS = {"r1": 0.0, "r2": 35.0, "r3": -30.0}
DEMO = Path(__file__).parents[1] / "demo/config/config.yaml"


@dataclass(frozen=True)
class Instrument:
    """A detector, how it is used, and the grid."""

    name: str
    slow: int
    fast: int
    frames: int
    temperatures: int
    voxels: int


INSTRUMENTS = (
    Instrument("Pilatus3 1M", 1043, 981, 3600, 1, 401**3),
    Instrument("Pilatus3 2M", 1679, 1475, 3650, 20, 501**3),
    Instrument("Eiger2 4M", 2162, 2068, 3600, 20, 501**3),
    Instrument("Eiger2 16M", 4362, 4148, 3600, 10, 801**3),
)
# Rules of one rotation, of one scan (with what is made twice), and of the sample.
PER_ROTATION = ("import_scan", "pixel_mask", "find_peaks", "frame_scale", "mask_3d", "transform")
PER_SCAN = {"refine": 1, "accept": 1, "merge": 2, "scan_file": 1}
PER_SAMPLE = {
    "powder_calibration": 1,
    "refine_parent": 1,
    "temperature_series": 1,
    "order_parameters": 1,
    "stack": 2,
}


def seconds(rule: str, shape: Shape) -> float:
    """CPU seconds of one job, by the model."""
    cost = COSTS[rule]
    work = shape.frames * shape.pixels / 1e6
    return cost.seconds + work / cost.rate + shape.voxels / 1e6 / cost.voxel_rate


def megabytes(rule: str, shape: Shape) -> float:
    """What one job writes."""
    cost = COSTS[rule]
    size = cost.disk * shape.frames + cost.disk_pixel
    return (size * shape.pixels + cost.disk_voxel * shape.voxels) / 1e6


def working_memory(rule: str, shape: Shape) -> float:
    """Memory of one job in MB."""
    cost = COSTS[rule]
    return cost.fixed + (cost.per_mpixel * shape.pixels + cost.per_mvoxel * shape.voxels) / 1e6


def table() -> None:
    """Print the planning table for three rotations at each temperature."""
    print(
        "| detector | frames × rotations × temperatures | grid | core-hours | of them transform "
        "| per rotation, core-s | largest job, GB | products, GB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for it in INSTRUMENTS:
        shape = Shape(it.frames, it.slow * it.fast, it.voxels)
        jobs = dict.fromkeys(PER_ROTATION, len(ROTATIONS) * it.temperatures)
        jobs |= {rule: n * it.temperatures for rule, n in PER_SCAN.items()} | PER_SAMPLE
        total = sum(seconds(rule, shape) * n for rule, n in jobs.items())
        own = seconds("transform", shape)
        memory = max(working_memory(rule, shape) for rule in jobs)
        disk = sum(megabytes(rule, shape) * n for rule, n in jobs.items())
        side = round(it.voxels ** (1 / 3))
        print(
            f"| {it.name}, {it.slow} × {it.fast} | {it.frames} × {len(ROTATIONS)} × "
            f"{it.temperatures} | {side}³ | {total / 3600:.2f} "
            f"| {100 * own * jobs['transform'] / total:.0f} % "
            f"| {sum(seconds(rule, shape) for rule in PER_ROTATION):.0f} "
            f"| {memory / 1e3:.1f} | {disk / 1e3:.0f} |"
        )


def write(folder: Path, temperatures: int) -> None:
    """Write an experiment: a tenth of the frames of the first instrument."""
    it = INSTRUMENTS[0]
    data: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    simulated = data["simulation"]
    del simulated["samples"]["hexa"]["crystal"]["superlattice"], data["per_scan"]
    simulated["scan"]["detector"] |= {
        "modules": [5, 1],
        "module_shape": [195, it.fast],
        "gap": [17, 0],
        "pixel_size": [172e-6, 172e-6],
        "distance": 0.25,
        "foot": [530.4, 485.7],
    }
    simulated["scan"] |= {"n_frames": it.frames // 10, "wavelength": 0.3}
    data["calibrations"]["powder"] |= {
        "wavelength": 0.3,
        "pixel_size": [172e-6, 172e-6],
        "distance": 0.251,
        "beam_centre": [532, 484],
    }
    side = round(it.voxels ** (1 / 3))
    limits = [5.0, 5.0, 7.5]
    data["refine_parent"] = {
        "grid_limits": limits,
        "grid_step": [2 * limit / (side - 1) * (1 - 1e-9) for limit in limits],
    }
    data["accept"] = {"on_failure": "warn"}
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "config/config.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    samples = [
        "sample space_group a b c alpha beta gamma",
        "hexa P_6/m_m_m 4.75 4.75 7.2 90 90 120",
    ]
    (folder / "config/samples.tsv").write_text(_tsv(samples))
    rows = ["sample scan temperature parent rotation raw goniometer calibration"]
    rows += [
        f"hexa {300 - 50 * t}K {300 - 50 * t} 300K {name} raw/{t}_{name}.nxs "
        f"chi={chi}_phi=0:0.1 powder"
        for t in range(temperatures)
        for name, chi in ROTATIONS.items()
    ]
    (folder / "config/scans.tsv").write_text(_tsv(rows))


def _tsv(lines: list[str]) -> str:
    made = ["\t".join(line.split(" ")) for line in lines]
    # Blanks within a field.
    return (
        "\n".join(line.replace("P_6/m_m_m", "P 6/m m m").replace("_phi", " phi") for line in made)
        + "\n"
    )


def snakemake(folder: Path, *arguments: str) -> float:
    """Run snakemake on one core; CPU seconds of it and all its jobs."""
    command = [sys.executable, "-m", "snakemake", "--quiet", "rules"]
    command += ["--snakefile", str(Path(__file__).parents[1] / "Snakefile")]
    command += ["--directory", str(folder), "--cores", "1", *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(folder: Path, temperatures: int) -> None:
    """Measure a run and print it beside the model."""
    write(folder, temperatures)
    experiment = config.load(yaml.safe_load((folder / "config/config.yaml").read_text()), folder)
    estimate = Estimate(experiment, learn=False)
    print(f"simulation: {snakemake(folder, '--until', 'simulate'):.0f} CPU s")
    measured = snakemake(folder)
    predicted: dict[str, tuple[int, float]] = {}
    for rule, counts in job_counts(experiment).items():
        if rule != "simulate":
            times = [estimate.seconds(rule, estimate.shape(*key)) * n for key, n in counts.items()]
            predicted[rule] = (sum(counts.values()), sum(times))
    print("rule                 jobs   predicted, CPU s   measured, CPU s")
    tables = folder / experiment.config.results / "benchmarks"
    for rule, (jobs, time) in predicted.items():
        print(f"{rule:20s} {jobs:4d} {time:14.1f}     {_measured(tables / rule)}")
    total = sum(time for _, time in predicted.values())
    print(f"{'all':20s}      {total:14.1f}     {measured:14.1f}   {total / measured:.2f}")


def _measured(folder: Path) -> str:
    """CPU seconds in Snakemake's benchmark tables, where a rule has them."""
    times = []
    for path in folder.glob("*.tsv"):
        with path.open(newline="", encoding="utf-8") as file:
            times += [float(row["cpu_time"]) for row in csv.DictReader(file, delimiter="\t")]
    return f"{sum(times):14.1f}" if times else ""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, metavar="FOLDER")
    parser.add_argument("--temperatures", type=int, default=1)
    given = parser.parse_args()
    if given.run is None:
        table()
    else:
        run(given.run, given.temperatures)


if __name__ == "__main__":
    main()
