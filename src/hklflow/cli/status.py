"""`hklflow status`: print the state of every step of an experiment, and what to do next."""

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hklflow.base.errors import HklflowError, printable
from hklflow.cli.folder import experiment as folder_of
from hklflow.cli.options import Directory
from hklflow.cli.progress import (
    COLUMNS,
    DONE,
    FAIL,
    HELD,
    LOST,
    OF_ROTATION,
    OLD,
    RUN,
    WAIT,
    Progress,
    run_of,
    stray_failures,
)
from hklflow.cli.time_left import time_left
from hklflow.cli.verdicts import lines as lines_of_verdicts
from hklflow.cli.verdicts import verdicts_of

if TYPE_CHECKING:
    from hklflow.cli.folder import Folder
    from hklflow.experiment.config import Experiment
    from hklflow.experiment.jobs import Job

# worst first: a group has the state of its worst job
_WORST = (FAIL, LOST, RUN, HELD, WAIT, OLD, DONE)
_COLOURS = {DONE: "32", OLD: "33", RUN: "36", LOST: "35", FAIL: "31", HELD: "33", WAIT: "2"}
_EVERY = 10  # seconds between two looks of `--watch`
_TOLD = 5  # largest number of running jobs that are printed


def show_status(
    directory: Directory = Path(),
    *,
    sample: str | None = None,
    failed: Annotated[bool, Parameter(negative="")] = False,
    config: list[str] | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
    watch: Annotated[bool, Parameter(negative="")] = False,
    html: Path | None = None,
) -> None:
    """Print the state of all scans, the verdicts, every failure, and what to do next.

    Nothing is run and nothing is written, so the command can be used while snakemake runs. `done`:
    the products are complete and match the present configuration and inputs. `old`: the products
    will be made again. `part`: some steps of the column are done, but of no rotation all. `2/3`:
    two of three rotations are done. Below the table are the number of scans with each verdict, and
    the first reason for each doubtful or failed scan. `hklflow verify` reports more.

    Example: `hklflow status`; `hklflow status ~/experiments/quartz --failed`;
    `hklflow status --watch --html state.html`

    Parameters
    ----------
    sample
        Show only this sample.
    failed
        Show only scans with a failure.
    config
        Values that were given to `snakemake --config`, such as `binning=4`, to show the results in
        the separate folder of these values.
    json_output
        Print every job with its state, and every verdict, as JSON for scripts.
    watch
        Print the state again every ten seconds, until snakemake ends.
    html
        Also write the state to this HTML file. With `--watch` the page renews itself in a browser.
    """
    if watch and json_output:
        raise HklflowError("--watch and --json exclude each other: choose one")
    folder = folder_of(directory)
    with contextlib.suppress(KeyboardInterrupt):  # how a user ends --watch
        while True:
            report = _report(folder, sample, failed, config or [])
            lines = list(report.as_json() if json_output else report.lines())
            if html is not None:
                from hklflow.cli.monitor import write

                name = report.progress.base.resolve().name
                write(html, name, report.rows(), report.text, _EVERY if watch else None)
            if watch and sys.stdout.isatty():
                print("\x1b[2J\x1b[H", end="")  # clears the terminal
            print("\n".join(lines), flush=True)
            if not (watch and report.progress.run.alive):
                return
            time.sleep(_EVERY)


def _report(folder: "Folder", sample: str | None, failed: bool, config: Sequence[str]) -> "Report":
    from hklflow.cli.verify import orphans
    from hklflow.experiment.config import load
    from hklflow.experiment.freshness import Freshness, sampled_sentence, sentences
    from hklflow.experiment.normalization import doubts

    given = _values(config)
    experiment = load(folder.data() | given, folder.base, given)
    if sample is not None and sample not in experiment.used_samples():
        raise HklflowError(
            f"there is no sample {sample!r} with scans; there are "
            f"{', '.join(experiment.used_samples()) or 'none'}"
        )
    freshness = Freshness(experiment)
    jobs = freshness.of_status
    verdicts = freshness.verdicts()
    outdated = {v.job: "; ".join(v.reasons) for v in verdicts if v.reasons}
    progress = Progress(folder.base, jobs, run_of(folder.base), outdated)
    # A product that is being made is neither old nor new.
    resting = [v for v in verdicts if progress.of(v.job).state not in (RUN, LOST)]
    notes = [*sentences(resting), *sampled_sentence(resting)]
    notes += [experiment.note] if experiment.note else []
    notes += [f"warning: {doubt}" for doubt in doubts(experiment)]
    notes += [f"orphan: {path}" for path in orphans(experiment)]
    return Report(experiment, progress, sample, failed, config, notes)


def _values(given: Sequence[str]) -> dict[str, object]:
    """Return the values of `--config`, converted as in snakemake."""
    import yaml

    found: dict[str, object] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise HklflowError(f"--config {word}: write KEY=VALUE, such as binning=4")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise HklflowError(f"--config {word}: the value is not YAML; quote it") from error
    return found


@dataclass
class Report:
    """State of an experiment, as text and as JSON."""

    experiment: "Experiment"
    progress: Progress
    sample: str | None
    failed: bool
    config: Sequence[str]
    notes: Sequence[str]

    def __post_init__(self) -> None:
        self._jobs = [job for job in self.progress.jobs if self._concerns(job)]
        self._verdicts = verdicts_of(self.progress, self._jobs)
        self._failures = [
            (job.name, self.progress.of(job), self.progress.waiting(job))
            for job in self._jobs
            if self.progress.of(job).state == FAIL
        ]
        if any(j.rule == "constants" and self._state(j) == WAIT for j in self._jobs):
            results = self.experiment.config.results
            strays = stray_failures(self.progress.base, results, self.progress.jobs)
            self._failures += [(name, verdict, []) for name, verdict in strays]

    def _concerns(self, job: "Job") -> bool:
        of_scans = job.column in (*COLUMNS, "series", "stacks", "page")
        return self.sample is None or not of_scans or job.key[0] == self.sample

    def _state(self, job: "Job") -> str:
        return self.progress.of(job).state

    # ------------------------------------------------------------------ text

    def lines(self) -> Iterator[str]:
        """Yield the status table, the running jobs, the failures and the next step."""
        yield from self._table()
        yield from self.text

    @cached_property
    def text(self) -> list[str]:
        """What follows the table."""
        return list(self._text())

    def _text(self) -> Iterator[str]:
        yield from self._others()
        yield from lines_of_verdicts(self._verdicts, failed=self.failed)
        running = [job for job in self._jobs if self._state(job) in (RUN, LOST)]
        for job in running[:_TOLD]:
            verdict = self.progress.of(job)
            number = f" (Slurm job {verdict.number})" if verdict.number else ""
            yield f"{verdict.state:5s} {job.name}{number}"
        if len(running) > _TOLD:
            yield f"      and {len(running) - _TOLD} more"
        for name, verdict, waiting in self._failures:
            yield ""
            yield f"{_coloured(FAIL)}  {name}: {verdict.reason}"
            if verdict.log:
                yield f"      log: {verdict.log}"
            if waiting:
                yield f"      waits for it: {_listed(waiting)}"
        yield ""
        for note in self.notes:
            yield printable(note)
        yield printable(self._next())

    def rows(self) -> list[list[str]]:
        """Return the table of scans: sample, scan and the state of each step; first its head."""
        present = {job.column for job in self._jobs}
        columns = [column for column in COLUMNS if column in present]
        rows = []
        for sample, scan in self.experiment.scans:
            cells = [self._cell((sample, scan), column) for column in columns]
            if self.sample in (None, sample) and (
                not self.failed or any("fail" in c for c in cells)
            ):
                rows.append([sample, scan, *cells])
        return [["sample", "scan", *columns], *rows] if rows else []

    def _table(self) -> Iterator[str]:
        rows = self.rows()
        if not rows:
            if self.failed:
                yield "nothing failed in any scan"
            return
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for i, row in enumerate(rows):
            cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)]
            if i:
                cells[2:] = [_coloured(cell.split()[-1], cell) for cell in cells[2:]]
            yield "  ".join(cells).rstrip()

    def _cell(self, scan: tuple[str, str], column: str) -> str:
        """Return the state of a group of steps of a scan, with the number of finished rotations."""
        states = [self._state(job) for job in self._of_scan.get((scan, column), [])]
        if not states:
            return ""
        worst = next(state for state in _WORST if state in states)
        part = "part" if worst == WAIT and DONE in states else _told(worst)
        if column not in OF_ROTATION or worst == DONE:
            return part
        rotations: dict[str, bool] = {}
        for job in self._of_scan[scan, column]:
            if len(job.key) < len(scan) + 1:  # a job of the whole scan
                continue
            name = job.key[2]
            rotations[name] = rotations.get(name, True) and self._state(job) == DONE
        count = f"{sum(rotations.values())}/{len(rotations)} " if len(rotations) > 1 else ""
        return count + (_told(worst) if any(rotations.values()) else part)

    @property
    def _of_scan(self) -> "dict[tuple[tuple[str, ...], str], list[Job]]":
        if not hasattr(self, "_grouped"):
            self._grouped: dict[tuple[tuple[str, ...], str], list[Job]] = {}
            for job in self._jobs:
                self._grouped.setdefault((job.key[:2], job.column), []).append(job)
        return self._grouped

    def _others(self) -> Iterator[str]:
        """Yield lines about the jobs that do not belong to a scan."""
        if self.failed:
            return
        groups: dict[tuple[str, str], list[str]] = {}
        for job in self._jobs:
            if job.column not in COLUMNS:
                owner = job.key[0] if job.key else "experiment"
                groups.setdefault((owner, job.column), []).append(self._state(job))
        owners: dict[str, list[str]] = {}
        for (owner, column), states in groups.items():
            worst = next(state for state in _WORST if state in states)
            owners.setdefault(owner, []).append(f"{column} {_coloured(worst)}")
        if owners:
            yield ""
        for owner, messages in owners.items():
            yield f"{owner}: {', '.join(messages)}"

    def _next(self) -> str:
        """Return the last line: what the user should do next."""
        run, states = self.progress.run, [self._state(job) for job in self._jobs]
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.since))
        here = self.progress.base.resolve() == Path.cwd()
        again = "hklflow status" + ("" if here else f" {shlex.quote(str(self.progress.base))}")
        snakemake = self._snakemake()
        where = "" if here else f" in {self.progress.base}"
        if run.alive:
            began = f" since {since}" if run.locked else ""
            estimated = time_left(self.experiment, self.progress, self._jobs)
            soon = f", {estimated}" if estimated is not None else ""
            return f"snakemake is at work{began} ({run.where}){soon}; look again: {again}"
        if run.locked:
            return (
                f"the snakemake that began at {since} was killed; "
                + ("its Slurm jobs may still run: `squeue --me`; " if self._on_cluster() else "")
                + f"next{where}: {snakemake} --unlock, then {snakemake}"
            )
        if self._failures:
            n = len(self._failures)
            return (
                f"{n} job{'s' if n > 1 else ''} failed: correct the errors above; "
                f"next{where}: {snakemake}"
            )
        if states and all(state == DONE for state in states):
            return "everything is done, as the configuration and the inputs are now"
        left = sum(state != DONE for state in states)
        lost = " (interrupted jobs start again)" if LOST in states else ""
        return f"{left} of {len(states)} jobs are to be done{lost}; next{where}: {snakemake}"

    def _on_cluster(self) -> bool:
        return any(self.progress.of(job).number for job in self._jobs)

    def _snakemake(self) -> str:
        """Return the command for the experiment's ``Snakefile`` or the installed workflow."""
        base = self.progress.base
        if (base / "Snakefile").is_file() or (base / "workflow/Snakefile").is_file():
            command = ["snakemake"]
        else:
            from hklflow import templates

            command = ["snakemake", "--snakefile", str(templates.root() / "Snakefile")]
        return shlex.join([*command, *(["--config", *self.config] if self.config else [])])

    # ------------------------------------------------------------------ JSON

    def as_json(self) -> Iterator[str]:
        """Yield the JSON text with every job and every verdict."""
        run = self.progress.run
        messages = []
        for job in self._jobs:
            verdict = self.progress.of(job)
            if self.failed and verdict.state != FAIL:
                continue
            messages.append(
                {
                    "rule": job.rule,
                    "step": job.column,
                    "key": list(job.key),
                    "product": job.products[0],
                    "state": verdict.state,
                }
                | {
                    name: value
                    for name, value in (
                        ("reason", verdict.reason),
                        ("log", verdict.log),
                        ("slurm_job", verdict.number),
                    )
                    if value
                }
            )
        content = {
            "experiment": str(self.progress.base),
            "results": self.experiment.config.results,
            "running": run.alive,
            "locked": run.locked,
            "notes": list(self.notes),
            "verdicts": [one.as_dict() for one in self._verdicts],
            "jobs": messages,
            "next": self._next(),
        }
        yield json.dumps(content, indent=1, ensure_ascii=False)


def _told(state: str) -> str:
    return "-" if state == WAIT else state


def _coloured(state: str, text: str | None = None) -> str:
    """Return a state in its colour on a terminal, else as plain text."""
    shown = _told(state) if text is None else text
    code = _COLOURS.get(WAIT if state == "-" else state)
    if code is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return shown
    return f"\x1b[{code}m{shown}\x1b[0m"


def _listed(jobs: "Sequence[Job]") -> str:
    """Return a text with the steps of jobs, grouped by scan or sample."""
    owners: dict[str, list[str]] = {}
    for job in jobs:
        name = " ".join(job.key[:2]) if job.column in COLUMNS else " ".join(job.key[:1])
        steps = owners.setdefault(name or "experiment", [])
        if job.column not in steps:
            steps.append(job.column)
    order: Callable[[str], int] = lambda c: COLUMNS.index(c) if c in COLUMNS else len(COLUMNS)  # noqa: E731
    return "; ".join(
        f"{name}: {', '.join(sorted(steps, key=order))}" for name, steps in owners.items()
    )
