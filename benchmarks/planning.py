"""What an experiment costs: a table for real instruments, and its check against measured runs.

    python -m benchmarks.planning                  # the table of docs/performance.md
    python -m benchmarks.planning --run FOLDER     # predictions against three experiments
    python -m benchmarks.planning --beamtime FOLDER   # cores that keep pace with CHESS QM2

The table comes from the cost model of `hklflow.experiment.cost`, as `hklflow check` does. --run
simulates three experiments (not measured) that the model was not fitted to, measures the speed of
the machine on their first frames as `hklflow check` does, and compares CPU seconds, memory and disk
of all jobs with the model.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from benchmarks import workflow
from benchmarks.workflow import World
from hklflow.experiment import config
from hklflow.experiment.cost import COSTS, Estimate, Shape
from hklflow.experiment.jobs import Key, job_counts
from hklflow.experiment.pace import measured

ROTATIONS = {"r1": 0.0, "r2": 35.0, "r3": -30.0}


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
    rest = shape.pixels / 1e6 / cost.pixel_rate + shape.voxels / 1e6 / cost.voxel_rate
    return cost.seconds + work / cost.rate + rest


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


# Detector, frames, grid, number of peaks and rotations differ from the data of the costs
# (`benchmarks.chain`, and `small detector` for the jobs of series and pages).
UNSEEN = {
    "many peaks": World(
        "few", frames=300, step=0.25, side=181,
        more={"cell": [10.4, 11.2, 15.8, 90, 90, 90], "scale": 0.01},
    ),
    "2 Mpixel": World(
        "few", modules=(8, 3), module_shape=(195, 487), gap=(17, 7), frames=120, step=0.3,
        side=251,
    ),
    "two rotations": World(
        "few", modules=(2, 2), module_shape=(256, 256), gap=(8, 8), pixel=344e-6, frames=240,
        step=0.2, rotations={"r1": 0.0, "r2": 40.0}, temperatures=2, side=121, bragg=True,
    ),
}  # fmt: skip


# A beamtime at CHESS QM2, as its users describe it.
QM2 = World(
    "strong", modules=(12, 5), module_shape=(195, 487), gap=(17, 7), frames=3650,
    rotations=ROTATIONS, temperatures=15, side=(1021, 1021, 911),
    memory=3000.0,
)  # fmt: skip
ROTATION_SECONDS = 182.0


def beamtime(folder: Path) -> None:
    """Print the cores that keep pace with QM2, by the model with the speed of this machine.

    FOLDER gets a wedge of 60 frames of its detector, which decoder and peak search are measured on.
    """
    wedge = replace(QM2, frames=60, rotations={"r1": 0.0}, temperatures=1)
    workflow.write(folder, wedge)
    for command in workflow.jobs(folder):
        if command.rule == "simulate":
            workflow.run(command, folder)
    pace = measured(_experiment(folder))
    print(pace)
    available = ROTATION_SECONDS * len(QM2.rotations) * QM2.temperatures
    for bragg in (False, True):
        plan = folder / f"plan_{bragg}"
        workflow.write(plan, replace(QM2, bragg=bragg))
        experiment = _experiment(plan)
        estimate = Estimate(experiment, False, pace)
        counts = {k: v for k, v in job_counts(experiment).items() if k != "simulate"}
        costs = {
            rule: sum(estimate.seconds(rule, s) * n for s, n in _shapes(estimate, keys))
            for rule, keys in counts.items()
        }
        memory = {
            rule: max(estimate.megabytes(rule, s) for s, _ in _shapes(estimate, keys))
            for rule, keys in counts.items()
        }
        total = sum(costs.values())
        print(
            f"{'with' if bragg else 'without'} Bragg: {total / 3600:.2f} core-hours, "
            f"{total / available:.2f} cores keep pace with {available:.0f} s of measurement; "
            f"largest job {max(memory.values()):.0f} MB"
        )
        for rule in sorted(costs, key=costs.__getitem__, reverse=True)[:12]:
            print(
                f"  {rule:20s} {costs[rule]:8.0f} core-s, {costs[rule] / available:6.3f} cores, "
                f"{memory[rule]:7.0f} MB"
            )


def _experiment(folder: Path) -> config.Experiment:
    return config.load(yaml.safe_load((folder / "config/config.yaml").read_text()), folder)


def run(folder: Path, name: str) -> None:
    """Measure all jobs of an experiment in turn, and print them next to the predictions."""
    world = UNSEEN[name]
    workflow.write(folder, world)
    experiment = _experiment(folder)
    commands = workflow.jobs(folder)
    for command in commands:
        if command.rule == "simulate":
            workflow.run(command, folder)
    pace = measured(experiment)
    plain, calibrated = Estimate(experiment, False), Estimate(experiment, False, pace)
    runs: dict[str, list[workflow.Run]] = {}
    for command in commands:
        if command.rule != "simulate":
            ran = workflow.run(command, folder)
            print(f"{command.name}: {ran.cpu:.2f} CPU s, {ran.mb:.0f} MB", flush=True)
            runs.setdefault(command.rule, []).append(ran)
    print(f"{name}: {pace}")
    print(f"{'rule':20s} jobs  CPU s: plain  calibrated  measured  ratio    MB: asked  measured")
    totals = [0.0, 0.0, 0.0]
    disk = 0.0
    for rule, counts in job_counts(experiment).items():
        if rule not in runs:
            continue
        shapes = _shapes(plain, counts)
        row = [sum(it.seconds(rule, s) * n for s, n in shapes) for it in (plain, calibrated)]
        row.append(sum(ran.cpu for ran in runs[rule]))
        totals = [a + b for a, b in zip(totals, row, strict=True)]
        disk += sum(plain.megabytes_on_disk(rule, s) * n for s, n in shapes)
        asked = max(plain.megabytes(rule, s) for s, _ in shapes)
        used = max(ran.mb for ran in runs[rule])
        print(
            f"{rule:20s} {len(runs[rule]):4d} {row[0]:13.1f} {row[1]:11.1f} {row[2]:9.1f} "
            f"{row[1] / row[2]:6.2f} {asked:12.0f} {used:9.0f}"
        )
    print(
        f"{'all':20s}      {totals[0]:13.1f} {totals[1]:11.1f} {totals[2]:9.1f} "
        f"{totals[1] / totals[2]:6.2f}"
    )
    written = sum(path.stat().st_size for path in (folder / "results").rglob("*.*")) / 1e6
    print(f"disk: {disk:.0f} MB predicted, {written:.0f} MB written", flush=True)


def _shapes(estimate: Estimate, counts: Mapping[Key, int]) -> list[tuple[Shape, int]]:
    return [(estimate.shape(*key), number) for key, number in counts.items()]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, metavar="FOLDER")
    parser.add_argument("--beamtime", type=Path, metavar="FOLDER")
    parser.add_argument("--only", choices=UNSEEN, help="one of the experiments of --run")
    given = parser.parse_args()
    if given.beamtime is not None:
        beamtime(given.beamtime.resolve())
    elif given.run is None:
        table()
    else:
        for name in [given.only] if given.only else UNSEEN:
            run(given.run.resolve() / name.replace(" ", "_"), name)


if __name__ == "__main__":
    main()
