"""`hklflow verify`: whether results are those of the configuration and the inputs; what is left."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.cli.folder import experiment as folder_of
from hklflow.cli.options import Directory

if TYPE_CHECKING:
    from hklflow.experiment.experiment import Experiment

_TOLD = 10  # jobs that are named for each reason


def verify(
    directory: Directory = Path(),
    *,
    full: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Compare all results with the configuration, the tables and the files that they were made of.

    Nothing is run or removed. Every product holds its parameters and the fingerprints of what was
    read; times of files say nothing, so that it works for copied, moved and archived experiments
    as well. Told are products that would be made otherwise now, with the reasons; what cannot be
    decided; and orphans: results of rows that are no longer in the tables. Exit code 1 if there is
    any of the first.

    Example: `hklflow verify`; `hklflow verify /archive/quartz --full`

    Parameters
    ----------
    full
        Read all files, whatever says that they are as they were: as a whole, but for products above
        64 MiB, of which the records hold samples.
    """
    from hklflow.cli.progress import run_of
    from hklflow.experiment.config import load
    from hklflow.experiment.freshness import Freshness, sampled_sentence, sentences

    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    freshness = Freshness(experiment, full=full)
    verdicts = freshness.verdicts()
    outdated = [verdict for verdict in verdicts if verdict.reasons]
    told = sentences(verdicts, most=None, named=_TOLD)
    for line in (*told, *sampled_sentence(verdicts, full=full)):
        print(line)
    for path in orphans(experiment):
        print(f"orphan: {path} is of no row of the tables; `hklflow remove {path}` removes it")
    n, missing = len(verdicts), len(freshness.jobs) - len(verdicts)
    left = f"; {missing} have not been made" if missing else ""
    how = "every file read" if full else "files compared by what tells a change"
    print(
        f"{n - len(outdated)} of {n} jobs have the products that the configuration makes ({how})"
        f"{left}"
    )
    if (run := run_of(folder.base)).alive:
        print(
            f"snakemake is at work ({run.where}): what it has still to make is out of date or "
            "gone; verify again when it has ended"
        )
    elif outdated:
        print("the others are made again by snakemake")
    return 1 if outdated else 0


def orphans(experiment: "Experiment") -> list[str]:
    """Folders of results that belong to no row of the tables and no entry of the configuration."""
    from hklflow.experiment.jobs import Plan
    from hklflow.experiment.paths import RESERVED

    base, found = experiment.base, []
    wanted: set[str] = set()
    for job in Plan(experiment).lasting:
        for product in (*job.products, *job.parts):
            wanted.update(str(folder) for folder in Path(product).parents)
    plain, config = experiment.paths.unbinned.folder, experiment.config
    for kind, names in (
        ("calibration", [*config.calibrations]),
        ("constants", [*config.constants]),
    ):
        found += [p for p in _folders(base, f"{plain}/{kind}") if Path(p).name not in names]
    for root in sorted({experiment.paths.folder, plain}):
        for sample in _folders(base, root):
            if Path(sample).name in RESERVED:
                continue
            if sample not in wanted:
                found.append(sample)
                continue
            for scan in _folders(base, sample):
                if scan not in wanted:
                    found.append(scan)
                else:
                    found += [part for part in _folders(base, scan) if part not in wanted]
    return [path for path in found if _is_ours(base / path)]


def _folders(base: Path, path: str) -> list[str]:
    folder = base / path
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    return [f"{path}/{name}" for name in sorted(names) if not name.startswith(".")]


def _is_ours(folder: Path) -> bool:
    """Whether a product of a stage is somewhere below."""
    return any(_is_product(path) for path in folder.rglob("*"))


def _is_product(path: Path) -> bool:
    from hklflow import stage

    try:
        return path.is_file() and bool(stage.provenance(path))
    except HklflowError:  # damaged, or of somebody else
        return False


def remove(paths: list[Path], /, *, directory: Directory = Path()) -> None:
    """Remove results that belong to no row of the tables (`hklflow verify` lists them).

    Only what hklflow made is removed; other files in the folders are kept, and told.

    Example: `hklflow remove results/quartz/250K`

    Parameters
    ----------
    paths
        Folders as `hklflow verify` names them.
    """
    from hklflow.cli.progress import run_of
    from hklflow.experiment.config import load

    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    if (run := run_of(folder.base)).alive:
        raise HklflowError(f"snakemake is at work ({run.where}); remove results when it has ended")
    known = orphans(experiment)
    named = [os.path.relpath(folder.base / path, folder.base) for path in paths]
    for name in named:
        if name not in known:
            raise HklflowError(
                f"{name} is no orphan; those that can be removed are {', '.join(known) or 'none'}"
            )
    for name in named:
        _remove(folder.base / name, name)


def _remove(folder: Path, name: str) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    made = {path for path in files if _is_product(path)}
    # Tables and formats of others hold no record; they stand beside a product of the same name.
    stems = {path.with_suffix("") for path in made}
    ours = [path for path in files if path in made or path.with_suffix("") in stems]
    size = sum(path.stat().st_size for path in ours)
    kept = [path for path in files if path not in ours]
    if kept:
        for path in ours:
            path.unlink()
    else:
        shutil.rmtree(folder)
    print(f"{name}: {len(ours)} files ({size / 1e6:.1f} MB) removed")
    for path in kept:
        print(f"{path} is kept: hklflow did not make it")
