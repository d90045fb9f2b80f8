"""`hklflow verify` and `remove`: compare results with configuration and inputs; remove orphans."""

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

_TOLD = 10  # largest number of jobs that are printed for each reason


def verify(
    directory: Directory = Path(),
    *,
    full: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Compare all results with the configuration, the tables and the input files.

    Nothing is run or removed. Every product contains its parameters and the fingerprints of its
    inputs. A changed file time alone does not make a product outdated, so the command also works
    for copied, moved and archived experiments. It reports outdated products with the reasons,
    products that cannot be checked, and orphans: results of rows that are no longer in the tables.
    The exit code is 1 if any product is outdated.

    Example: `hklflow verify`; `hklflow verify /archive/quartz --full`

    Parameters
    ----------
    full
        Read all files, even if size and time are unchanged. Products above 64 MiB are compared by
        samples, because their records contain only fingerprints of samples.
    """
    from hklflow.cli.progress import run_of
    from hklflow.experiment.config import load
    from hklflow.experiment.freshness import Freshness, sampled_sentence, sentences

    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    freshness = Freshness(experiment, full=full)
    verdicts = freshness.verdicts()
    outdated = [verdict for verdict in verdicts if verdict.reasons]
    lines = sentences(verdicts, most=None, named=_TOLD)
    for line in (*lines, *sampled_sentence(verdicts, full=full)):
        print(line)
    for path in orphans(experiment):
        print(f"orphan: {path} belongs to no row of the tables; `hklflow remove {path}` removes it")
    n, missing = len(verdicts), len(freshness.jobs) - len(verdicts)
    left = f"; {missing} have not been made" if missing else ""
    how = "every file read" if full else "only files with changed size or time read"
    print(
        f"{n - len(outdated)} of {n} jobs have the products that the configuration makes ({how})"
        f"{left}"
    )
    if (run := run_of(folder.base)).alive:
        print(
            f"snakemake is at work ({run.where}): products that it has not made yet are out "
            "of date or missing; verify again when it has ended"
        )
    elif outdated:
        print("the others are made again by snakemake")
    return 1 if outdated else 0


def orphans(experiment: "Experiment") -> list[str]:
    """Return the result folders without a row in the tables or an entry in the configuration."""
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
    """Return True if a folder or its subfolders contain a product of a stage."""
    return any(_is_product(path) for path in folder.rglob("*"))


def _is_product(path: Path) -> bool:
    from hklflow import stage

    try:
        return path.is_file() and bool(stage.provenance(path))
    except HklflowError:  # damaged, or not made by hklflow
        return False


def remove(paths: list[Path], /, *, directory: Directory = Path()) -> None:
    """Remove results without a row in the tables (`hklflow verify` lists them).

    Only files that hklflow made are removed; other files in the folders are kept and listed.

    Example: `hklflow remove results/quartz/250K`

    Parameters
    ----------
    paths
        Folders from the list of `hklflow verify`.
    """
    from hklflow.cli.progress import run_of
    from hklflow.experiment.config import load
    from hklflow.experiment.jobs import Plan

    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    if (run := run_of(folder.base)).alive:
        raise HklflowError(f"snakemake is at work ({run.where}); remove results when it has ended")
    known = orphans(experiment)
    named = [os.path.relpath(folder.base / path, folder.base) for path in paths]
    for name in named:
        if name not in known:
            raise HklflowError(
                f"{name} is not an orphan; you can remove {', '.join(known) or 'none'}"
            )
    products = {Path(path).name for job in Plan(experiment).lasting for path in job.products}
    for name in named:
        _remove(folder.base / name, name, products)


def _remove(folder: Path, name: str, products: set[str]) -> None:
    """Remove the products in a folder; ``products`` are the names of products of other scans."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    made = {path for path in files if _is_product(path)}
    # Pictures, tables and files in other formats have no record: they have the name of a product of
    # another scan, or a product with the same stem is next to them.
    stems = {path.with_suffix("") for path in made}
    removed = [
        path
        for path in files
        if path in made or path.with_suffix("") in stems or path.name in products
    ]
    size = sum(path.stat().st_size for path in removed)
    kept = [path for path in files if path not in removed]
    if kept:
        for path in removed:
            path.unlink()
    else:
        shutil.rmtree(folder)
    print(f"{name}: {len(removed)} files ({size / 1e6:.1f} MB) removed")
    for path in kept:
        print(f"{path} is kept: hklflow did not make it")
