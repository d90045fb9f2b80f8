"""`hklflow check`: validate an experiment and estimate its time, memory and disk space."""

import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from hklflow.cli.folder import experiment as folder_of
from hklflow.cli.options import Directory

if TYPE_CHECKING:
    from hklflow.experiment.config import Experiment
    from hklflow.experiment.cost import Estimate


@dataclass(frozen=True)
class _Row:
    """Row of the printed table: one rule of the workflow."""

    rule: str
    jobs: int
    hours: float
    megabytes: int
    gigabytes: float
    measured: bool


def check_experiment(
    directory: Directory = Path(), *, cores: int = 1, calibrate: bool = True, tsv: bool = False
) -> None:
    """Validate configuration and tables, and estimate jobs, time, memory and disk of each rule.

    Every test that a job makes before it reads the pixels of frames is made here, too: headers,
    geometry, monitor, masks, settings. Nothing is run and nothing is written. All problems are
    reported together (exit code 2). The
    times of finished jobs of this experiment are used to predict the other jobs. The estimate is
    for the whole experiment; `snakemake -n` shows the jobs that are still to be done.

    Example: `hklflow check`; `hklflow check ~/experiments/quartz --cores 16`

    Parameters
    ----------
    cores
        Number of cores that run jobs at the same time, for the total time.
    calibrate
        Measure the speed of this machine on the first frames, in a few seconds, for the times of
        jobs. `--no-calibrate`: take the times of the machine on which hklflow was measured.
    tsv
        Print a tab-separated table for scripts.
    """
    import shutil

    from hklflow.base.errors import HklflowError
    from hklflow.experiment import axis_problems, feature_doubts
    from hklflow.experiment.config import load, require_own_frames
    from hklflow.experiment.cost import Estimate
    from hklflow.experiment.jobs import Plan, job_counts
    from hklflow.experiment.load import report
    from hklflow.experiment.normalization import doubts
    from hklflow.experiment.pace import measured
    from hklflow.experiment.rehearsal import rehearsed
    from hklflow.experiment.wall_time import wall_seconds

    if cores < 1:
        raise HklflowError(f"--cores {cores} is not a number of cores; give 1 or more")
    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    require_own_frames(experiment)
    problems = _store_problems(experiment)
    remarks: list[str] = []
    if not problems:
        refusals, remarks = rehearsed(experiment)
        problems = [refusal.problem for refusal in refusals]
    if problems:
        raise report(problems)
    if experiment.uses_dials or experiment.config.stills:
        from hklflow.dials import programs

        programs.find(experiment.config.dials.prefix)
    pace = measured(experiment) if calibrate else None
    estimate = Estimate(experiment, pace=pace)
    disk_here = shutil.disk_usage(_existing(folder.base / experiment.paths.folder))
    problems, warnings = _grid_problems(experiment, estimate, disk_here.total / 1e9)
    if problems:
        raise report(problems)
    rows = []
    for rule, counts in job_counts(experiment).items():
        shapes = [(estimate.shape(*key), number) for key, number in counts.items()]
        rows.append(
            _Row(
                rule,
                sum(counts.values()),
                sum(estimate.seconds(rule, s) * n for s, n in shapes) / 3600,
                max(estimate.memory_mb(rule, **_wildcards(key)) for key in counts),
                sum(estimate.megabytes_on_disk(rule, s) * n for s, n in shapes) / 1e3,
                rule in estimate.measured,
            )
        )
    if tsv:
        print("rule\tjobs\tcore_hours\tmemory_mb\tdisk_gb\tmeasured")
        for row in rows:
            print(
                f"{row.rule}\t{row.jobs}\t{row.hours:.6g}\t{row.megabytes}\t{row.gigabytes:.6g}"
                f"\t{row.measured}"
            )
        return
    numbers = {
        "sample": len(experiment.used_samples()),
        "scan": len(experiment.scans),
        "rotation": len(experiment.all_rotations()),
    }
    counted = ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in numbers.items())
    print(f"{counted}: no problem found\n")
    print(f"{'rule':20s} {'jobs':>6s} {'core-hours':>11s} {'MB per job':>11s} {'disk, GB':>9s}")
    for row in rows:
        print(
            f"{row.rule:20s} {row.jobs:6d} {row.hours:11.3f} {row.megabytes:11d} "
            f"{row.gigabytes:9.2f}{' *' if row.measured else ''}"
        )
    jobs, hours = sum(row.jobs for row in rows), sum(row.hours for row in rows)
    disk = sum(row.gigabytes for row in rows)
    print(f"{'all':20s} {jobs:6d} {hours:11.3f} {'':11s} {disk:9.2f}")
    if any(row.measured for row in rows):
        print("* from the times of this experiment's own finished jobs")
    wall = wall_seconds(todo := Plan(experiment).jobs, estimate.of_jobs(todo), cores) / 3600
    print(f"\nabout {wall:.2g} hours on {cores} core{'s' if cores > 1 else ''}")
    speed = [] if pace is None else [str(pace)]
    for note in (*filter(None, [experiment.note]), *estimate.notes, *speed, *remarks):
        print(f"note: {note}")
    free = disk_here.free / 1e9
    if disk > free:
        warnings.append(f"{disk:.1f} GB are needed and {free:.1f} GB are free in {folder.base}")
    largest = max(rows, key=lambda row: row.megabytes, default=None)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if largest is not None and largest.megabytes / 1e3 > memory:
        warnings.append(
            f"a job of {largest.rule} needs {largest.megabytes / 1e3:.1f} GB of memory and this "
            f"machine has {memory:.1f} GB; run it on a larger one"
        )
    of_experiment = (f(experiment) for f in (doubts, axis_problems.doubts, feature_doubts.doubts))
    for warning in (*warnings, *chain.from_iterable(of_experiment)):
        print(f"warning: {warning}")
    if jobs:
        print("Next: `snakemake -n` lists the jobs, `snakemake` runs them.")


def _store_problems(experiment: "Experiment") -> list[str]:
    """Return the entries that have no version for a rotation, which would stop the workflow."""
    from hklflow.base.errors import HklflowError
    from hklflow.base.system import require_file
    from hklflow.calibration.kinds import KINDS

    kinds = experiment.stored_kinds
    lost: dict[str, list[str]] = {}
    for key in experiment.all_rotations():
        for kind in KINDS.values():
            name = experiment.stored_name(*key, kind.name)
            if kinds.get(name) != kind.name:
                continue
            try:
                file = experiment.version(*key, kind.name).artefact(kind.file)
                require_file(file, f"the {kind.name}", "restore it")
            except HklflowError as error:
                lost.setdefault(f"config: {kind.section}.{name}", []).append(str(error))
    return [
        f"{where}: {told[0]}" + (f" ({len(told) - 1} more rotations lack one)" if told[1:] else "")
        for where, told in lost.items()
    ]


def _grid_problems(
    experiment: "Experiment", estimate: "Estimate", disk: float
) -> tuple[list[str], list[str]]:
    """Return problems and warnings for grids whose volumes are too large.

    A grid is a problem if no machine can hold its volumes, or if the volumes of one scan are larger
    than the whole file system of the results (``disk``, in GB). If only the free disk space or the
    memory of this machine is too small, the caller warns.
    """
    from hklflow.geometry.grid import size_problem

    problems: dict[tuple[str, str], str] = {}
    warnings: dict[tuple[str, str], str] = {}
    for (sample, scan), row in experiment.scans.items():
        key = (sample, row.parent)
        shape, needed = estimate.grid(sample, scan), estimate.volume_gigabytes(sample, scan)
        elsewhere = ""
        problem = size_problem(shape)
        if problem is None and needed > disk:
            problem = (
                f"the volumes of one scan on a grid of {' x '.join(map(str, shape))} voxels take "
                f"{needed:.0f} GB, and the whole file system of {experiment.paths.folder!r} has "
                f"{disk:.0f} GB"
            )
            elsewhere = ", or check where the results will be"
        if problem is None:
            continue
        step = experiment.settings(sample, row.parent).refine_parent.grid_step
        given = "" if step is None else f" (it is {', '.join(f'{x:g}' for x in step)})"
        told = (
            f"{problem}; set a coarser `grid_step`{given}, "
            f"smaller `grid_limits` or a `grid_range`{elsewhere}"
        )
        # If cell or largest |Q| are assumed, the true grid may be smaller.
        place = warnings if key in estimate.assumed else problems
        place.setdefault(key, f"config: refine_parent of {'/'.join(key)}: {told}")
    return list(problems.values()), list(warnings.values())


def _wildcards(key: tuple[str | None, str | None, str | None]) -> dict[str, str]:
    names = ("sample", "scan", "rotation")
    return {name: value for name, value in zip(names, key, strict=True) if value is not None}


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
