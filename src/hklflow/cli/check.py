"""`hklflow check`: validate an experiment without running it, and say what it will cost."""

from dataclasses import dataclass
from pathlib import Path

from hklflow.cli.folder import experiment as folder_of


@dataclass(frozen=True)
class _Row:
    """One rule of the table."""

    rule: str
    jobs: int
    hours: float
    megabytes: int
    gigabytes: float
    measured: bool


def check_experiment(directory: Path = Path(), *, cores: int = 1, tsv: bool = False) -> None:
    """Validate configuration and tables, and estimate jobs, time, memory and disk of each rule.

    Nothing is run and nothing is written. Every problem is told at once (exit code 2).
    Where jobs of this experiment have finished, their times are the measure of those to come.
    The estimate is of the whole experiment; `snakemake -n` shows what is still to be done.

    Example: `hklflow check`; `hklflow check ~/experiments/quartz --cores 16`

    Parameters
    ----------
    directory
        Folder of the experiment.
    cores
        Number of cores among which the jobs are divided, for the total time.
    tsv
        Print a tab-separated table, for scripts.
    """
    import shutil

    from hklflow.config import load, require_own_frames
    from hklflow.errors import HklflowError
    from hklflow.estimate import Estimate, job_counts

    if cores < 1:
        raise HklflowError(f"--cores {cores} is not a number of cores; give 1 or more")
    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    require_own_frames(experiment)
    if experiment.uses_dials:
        from hklflow.dials import programs

        programs.find(experiment.config.dials.prefix)
    estimate = Estimate(experiment)
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
    print(f"\nabout {hours / cores:.2g} hours on {cores} core{'s' if cores > 1 else ''}")
    for note in estimate.notes:
        print(f"note: {note}")
    free = shutil.disk_usage(_existing(folder.base / experiment.paths.folder)).free / 1e9
    if disk > free:
        print(f"warning: {disk:.1f} GB are needed and {free:.1f} GB are free in {folder.base}")


def _wildcards(key: tuple[str | None, str | None, str | None]) -> dict[str, str]:
    names = ("sample", "scan", "rotation")
    return {name: value for name, value in zip(names, key, strict=True) if value is not None}


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
