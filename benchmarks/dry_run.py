"""Time of a dry run, and how much of it is Snakemake's own.

    python -m benchmarks.dry_run SCANS FOLDER [--option=--quiet] [--repeats 3] [--made] [--images N]

Writes an experiment of SCANS scans with one rotation each and one parent for every hundred, and
times `snakemake -n` on it: ten jobs for each scan. The raw files are empty, a dry run opens none.
The floor is a workflow with as many jobs and the same dependencies between them, but nothing else
in its rules: one wildcard, one output, no log, parameters, message or functions. The two take
turns and medians are printed; on a machine that does other work, trust the CPU seconds.

With ``--made`` all products are there (hollow, but for the records of how they were made), and
with ``--images`` raw data are series of so many images. The third workflow is hklflow's without
`hklflow.experiment.freshness`: what its comparison of all products costs.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
TEMPERATURES = 100

CONFIG = """import_scan:
  axes: ["chi=0,0,1", "phi=-1,0,0"]
  exposure: 0.1
refine_parent:
  grid_step: [0.05, 0.05, 0.05]
  grid_limits: [10, 10, 10]
"""

# Rule -> rules whose outputs it reads: import, mask, sums, peaks, 3-D mask, refinement, transform,
# two merges and the master file of one scan.
FLOOR = {
    "a": [],
    "b": ["a"],
    "c": ["a", "b"],
    "d": ["a", "b", "c"],
    "e": ["a", "b"],
    "f": ["a", "d"],
    "g": ["a", "b", "c", "e", "f"],
    "h": ["g"],
    "i": ["g"],
    "j": ["a", "c", "d", "e", "f", "h", "i"],
}


class Timing(NamedTuple):
    """One run of Snakemake."""

    jobs: int
    wall: float
    """Seconds."""
    cpu: float
    """Seconds, of the process and its children."""


def write_experiment(folder: Path, n_scans: int, n_images: int = 0) -> None:
    """Write configuration, tables and empty raw files; a hundred temperatures per sample."""
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "config" / "config.yaml").write_text(CONFIG)
    samples = ["sample\tspace_group\ta\tb\tc\talpha\tbeta\tgamma"]
    scans = ["sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration"]
    for number in range(n_scans):
        sample, kelvin = f"s{number // TEMPERATURES}", 300 - 2 * (number % TEMPERATURES)
        if kelvin == 300:
            samples.append(f"{sample}\tP m -3 m\t4\t4\t4\t90\t90\t90")
        raw = f"raw/{sample}_{kelvin}K_r1.nxs"
        if n_images:
            raw = f"raw/{sample}_{kelvin}K/r1_#####.cbf"
            (folder / raw).parent.mkdir(exist_ok=True)
            for image in range(n_images):
                (folder / raw.replace("#####", f"{image:05d}")).touch()
        else:
            (folder / raw).touch()
        scans.append(f"{sample}\t{kelvin}K\t{kelvin}\t300K\tr1\t{raw}\tchi=0 phi=0:0.1\t")
    (folder / "config" / "samples.tsv").write_text("\n".join(samples) + "\n")
    (folder / "config" / "scans.tsv").write_text("\n".join(scans) + "\n")


def make_products(folder: Path) -> None:
    """Put hollow files with their records in the place of all products, oldest first."""
    import importlib

    from hklflow.base import identity
    from hklflow.experiment.config import load, read_yaml
    from hklflow.experiment.jobs import Plan
    from hklflow.experiment.tables import is_series
    from hklflow.formats.series import find_files

    experiment = load(read_yaml(folder / "config/config.yaml"), folder, {})
    entries: dict[str, identity.Entry] = {}

    def entry(path: str) -> identity.Entry:
        if path not in entries:
            files = find_files(folder / path) if is_series(path) else [folder / path]
            entries[path] = identity.identify(path, files)
        return entries[path]

    waiting = [(job, job.recipes()[0]) for job in Plan(experiment).of_status]
    made: set[str] = set()
    while waiting:
        ready = [(job, recipe) for job, recipe in waiting if made.issuperset(job.inputs)]
        waiting = [(job, recipe) for job, recipe in waiting if not made.issuperset(job.inputs)]
        for job, recipe in ready:
            module = importlib.import_module(f"hklflow.stages.{recipe.stage}")
            params = module.Params(**recipe.params.model_dump())
            record = {
                "stage": recipe.stage,
                "stage_version": module.VERSION,
                "version": "0",
                "started": "2026-01-01T00:00:00+00:00",
                "params": params.model_dump(mode="json"),
                "inputs": {"files": [entry(path) for path in recipe.inputs]},
            }
            if recipe.stage == "import_scan":
                raw = experiment.rotation(*job.key).raw
                record |= {"sources": [entry(raw)]} if is_series(raw) else {}
            for product in job.products:
                _write_hollow(folder / product, record)
        made.update(product for job, _ in ready for product in job.products)


def _write_hollow(path: Path, record: dict[str, Any]) -> None:
    """Write a product that holds nothing but its record."""
    import json

    import h5py

    from hklflow import nexus
    from hklflow.base import notes

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".nxs":
        with h5py.File(path, "w") as file:
            file.create_group("entry")
        nexus.write_provenance(path, [record])
    elif path.suffix == ".json":
        path.write_text(json.dumps({"provenance": [record]}))
    else:
        path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\0IEND\xaeB`\x82")
        if path.suffix in notes.SUFFIXES:
            notes.write(path, record)


def write_floor(folder: Path, n_scans: int) -> None:
    """Write a workflow of ten plain rules with one wildcard."""
    folder.mkdir(parents=True, exist_ok=True)
    rules = [f'rule all:\n    input: expand("j/{{i}}", i=range({n_scans}))\n']
    for name, inputs in FLOOR.items():
        needed = ", ".join(f'"{needed}/{{i}}"' for needed in inputs)
        rules.append(
            f'rule {name}:\n    input: {needed}\n    output: "{name}/{{i}}"\n'
            '    shell: "touch {output}"\n'
        )
    (folder / "Snakefile").write_text("\n".join(rules))


# A snakemake whose plan compares nothing.
_BLIND = """
import runpy, sys
from hklflow.experiment.freshness import Freshness
Freshness.__init__ = lambda self, experiment: None
Freshness.verdicts = lambda self: []
sys.argv[0] = "snakemake"
runpy.run_module("snakemake", run_name="__main__")
"""


def dry_run(folder: Path, snakefile: Path, *options: str, blind: bool = False) -> Timing:
    """Time one dry run; its output is read, as a terminal would."""
    start = ["-c", _BLIND] if blind else ["-m", "snakemake"]
    command = [sys.executable, *start, "--snakefile", str(snakefile)]
    command += ["--directory", str(folder), "--cores", "1", "--dry-run", *options]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    told = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    total = re.search(r"^total\s+(\d+)$", told, re.MULTILINE)
    if status or (total is None and "Nothing to be done" not in told):
        sys.exit(f"the dry run of {snakefile} failed:\n{told[-3000:]}")
    return Timing(int(total[1]) if total else 0, wall, usage.ru_utime + usage.ru_stime)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--snakefile", type=Path, default=REPOSITORY / "Snakefile")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--option", action="append", default=[], help="for hklflow's run, such as --option=--quiet"
    )
    parser.add_argument("--made", action="store_true", help="all products are there")
    parser.add_argument("--images", type=int, default=0, help="images of each series")
    arguments = parser.parse_args()
    experiment, floor = arguments.folder / "experiment", arguments.folder / "floor"
    write_experiment(experiment, arguments.scans, arguments.images)
    write_floor(floor, arguments.scans)
    runs: dict[str, list[Timing]] = {"hklflow": [], "floor": []}
    if arguments.made:
        make_products(experiment)
        runs["first"] = [dry_run(experiment, arguments.snakefile, *arguments.option)]
        runs["blind"] = []
    for _ in range(arguments.repeats):
        runs["hklflow"].append(dry_run(experiment, arguments.snakefile, *arguments.option))
        if arguments.made:
            runs["blind"].append(
                dry_run(experiment, arguments.snakefile, *arguments.option, blind=True)
            )
        runs["floor"].append(dry_run(floor, floor / "Snakefile"))
    print(f"{'':8s} {'jobs':>6s} {'wall':>8s} {'CPU':>8s}   ms of CPU per job")
    medians = {}
    for name, timings in runs.items():
        wall, cpu = (statistics.median(t[i] for t in timings) for i in (1, 2))
        medians[name] = cpu
        jobs = timings[0].jobs
        print(f"{name:8s} {jobs:6d} {wall:6.1f} s {cpu:6.1f} s   {1e3 * cpu / max(jobs, 1):.2f}")
    print(f"ratio of CPU times {medians['hklflow'] / medians['floor']:.2f}")
    if arguments.made:
        print(f"hklflow / blind {medians['hklflow'] / medians['blind']:.3f}")


if __name__ == "__main__":
    main()
