"""Test if products are up to date with the configuration and the input files.

Every product contains a record of its stage, parameters and inputs (`hklflow.stage`). This module
compares the record with the present configuration (`hklflow.experiment.jobs`), and the recorded
inputs with the present files. The module does not test which file is newer, and does not use the
metadata of Snakemake, because folders may be copied and clocks may differ.

The results of file comparisons are stored in ``.snakemake/hklflow.json``. This file may be deleted
or copied from another experiment: each entry contains its product and the state of the product.
"""

import gc
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from hklflow import stage
from hklflow.base import identity, publish
from hklflow.base.errors import HklflowError
from hklflow.base.identity import Likeness, Standing
from hklflow.base.system import no_file
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.jobs import Job, Plan, Recipe
from hklflow.formats.sources import files_of

MEMORY = ".snakemake/hklflow.json"
_VERSION = 1
_HEAD = 200  # bytes, more than the first line of the memory file


@dataclass(frozen=True)
class Verdict:
    """Result of a comparison: products of a job with the present configuration and inputs.

    Attributes
    ----------
    job : Job
    reasons : tuple of str
        Reasons why the products are out of date; empty if they are up to date.
    doubts : tuple of str
        Sentences on comparisons without a result.
    sampled : tuple of str
        Files that were compared by samples only.
    """

    job: Job
    reasons: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    sampled: tuple[str, ...] = ()


@contextmanager
def no_collection() -> Iterator[None]:
    """Switch off the garbage collector, which would visit all jobs many times."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Freshness:
    """Comparison of the products of an experiment with its configuration and inputs.

    Parameters
    ----------
    experiment : Experiment
    full : bool
        True: read all inputs completely, even if their `Standing` is unchanged.

    Attributes
    ----------
    jobs : list of Job
        All jobs whose products are kept.
    of_status : list of Job
        The jobs of `hklflow status`, with one job for all constants of a detector.
    """

    def __init__(self, experiment: Experiment, *, full: bool = False) -> None:
        plan = Plan(experiment)
        self.of_status = plan.of_status
        constants = [job for job in plan.lasting if job.column == "constants"]
        self.jobs = [*self.of_status, *constants]
        self._base, self._full = experiment.base, full
        self._memory = _Memory(experiment.base / MEMORY)
        folders = (experiment.paths.folder, experiment.paths.unbinned.folder)
        self._results = tuple(f"{folder}/" for folder in folders)
        self._made = {product for job in self.jobs for product in job.products}
        self._standings: dict[str, Standing | None] = {}
        self._edited: set[str] = set()
        self._top = f"{experiment.base.absolute()}{os.sep}"

    def verdicts(self, jobs: Sequence[Job] | None = None) -> list[Verdict]:
        """Return the verdicts on the given jobs (default: all jobs) if all their products exist."""
        try:
            found = [self._judge(job) for job in jobs or self.jobs if self._is_made(job)]
        finally:
            self._memory.save()
        return [self._with_edited(verdict) for verdict in found]

    def _with_edited(self, verdict: Verdict) -> Verdict:
        """Add a reason for each product that was edited after its run, and read by later jobs."""
        edited = [
            f"{p} was changed after it was made" for p in verdict.job.products if p in self._edited
        ]
        return replace(verdict, reasons=(*verdict.reasons, *edited)) if edited else verdict

    # ------------------------------------------------------------------ one job

    def _is_made(self, job: Job) -> bool:
        return all(self._standing(product) is not None for product in job.products)

    def _judge(self, job: Job) -> Verdict:
        holders = [p for p in job.products if p.endswith((".nxs", ".json"))]
        holders = holders or [p for p in job.products if p.endswith((".png", ".html"))]
        try:
            recipes = job.recipes()
        except HklflowError as error:  # Snakemake reports this error, too
            return Verdict(job, doubts=(str(error),))
        if not holders or not recipes:
            return Verdict(job)
        of_holders = [self._runs(holder) for holder in holders]
        for holder, runs in zip(holders, of_holders, strict=True):
            if not runs:
                return Verdict(job, (f"{holder} has no record of its stage",))
            if runs[-1]["stage"] != (stage_now := recipes[-1].stage):
                was = runs[-1]["stage"]
                return Verdict(
                    job, (f"{holder} was made by {was}, and is made by {stage_now} now",)
                )
            if runs != of_holders[0]:
                return Verdict(job, (f"{holder} and {holders[0]} were not made together",))
        reasons: list[str] = []
        doubts: list[str] = []
        sampled: list[str] = []
        for recipe in recipes:
            own = [run for run in of_holders[0] if run["stage"] == recipe.stage]
            if not own:  # the product was not made in blocks of frames
                reasons.append(f"{holders[0]} was made without {recipe.stage}")
                continue
            digest = _digest(_params(recipe))
            run = next((r for r in own if r["params"] == digest), own[-1])
            if run["params"] != digest:
                reasons += self._parameters(holders[0], recipe)
            reasons += self._differences(run, recipe)
            for number in run["entries"]:
                entry = self._memory.entry(number)
                path, likeness = entry["path"], self._likeness(entry)
                if likeness is Likeness.CHANGED:
                    reasons.append(f"{path} has changed")
                    if path in self._made and self._started(path) <= run["started"]:
                        self._edited.add(path)
                elif likeness is Likeness.SAMPLED:
                    sampled.append(path)
                elif likeness is Likeness.UNKNOWN:
                    doubts.append(f"{path} cannot be compared: it may not be read")
                elif likeness is Likeness.GONE and path in self._made:
                    reasons.append(f"{path} is gone")
                # Blocks of frames and gathered frames are removed after use, so their absence is no
                # doubt.
                elif likeness is Likeness.GONE and not path.startswith(self._results):
                    doubts.append(f"{path} does not exist any more")
        return Verdict(job, *(tuple(dict.fromkeys(found)) for found in (reasons, doubts, sampled)))

    def _differences(self, run: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
        version = _module(recipe.stage).VERSION
        if run["version"] != version:
            yield f"{recipe.stage} is version {version} now, and was {run['version']}"
        given = {str(path) for paths in recipe.params.paths(self._base).values() for path in paths}
        wanted = given.union(recipe.inputs)
        entries = [self._memory.entry(number) for number in run["entries"]]
        read = {entry["path"] for entry in entries if entry["given"]}
        if wanted != read:
            wanted, read = {self._place(p) for p in wanted}, {self._place(p) for p in read}
        for path in sorted(wanted - read):
            yield f"{path} was not among its inputs"
        for path in sorted(read - wanted):
            yield f"{path} is no longer among its inputs"

    def _place(self, path: str) -> str:
        """Return a path in normal form, relative to the folder of the experiment."""
        return os.path.normpath(os.path.join(self._top, path)).removeprefix(self._top)  # noqa: PTH118

    def _started(self, product: str) -> str:
        """Return the start time of the run that made a product, as text that sorts."""
        runs = self._runs(product) if product.endswith((".nxs", ".json")) else []
        return str(runs[-1]["started"]) if runs else "9"

    def _parameters(self, holder: str, recipe: Recipe) -> Iterator[str]:
        """Yield a sentence for each parameter that has changed."""
        now = json.loads(json.dumps(_params(recipe)))  # in the form of a record
        records = [r for r in self._history(holder) if r["stage"] == recipe.stage]
        before = records[-1]["params"] if records else {}
        for name in sorted(before.keys() | now.keys()):
            for key, old, new in _changes(name, before.get(name), now.get(name)):
                yield f"{recipe.stage}: {key} was {_shown(old)} and is {_shown(new)}"

    def _likeness(self, entry: Mapping[str, Any]) -> Likeness:
        """Compare a file with its entry in a record."""
        path = entry["path"]
        now = self._standing(path)
        if not self._full and now is not None and entry.get("standing") == list(now):
            return Likeness.SAME
        return self._memory.likeness(entry, self._base, now, full=self._full)

    def _standing(self, path: str) -> Standing | None:
        if path not in self._standings:
            files = files_of(path, self._base)
            self._standings[path] = identity.standing(files) if files else None
        return self._standings[path]

    # ------------------------------------------------------------------ records

    def _runs(self, holder: str) -> Sequence[Mapping[str, Any]]:
        standing = self._standing(holder)
        assert standing is not None
        found = self._memory.runs(holder, standing)
        if found is None:
            try:
                found = self._memory.remember(holder, standing, self._history(holder))
            except (KeyError, TypeError, AttributeError):  # a record that another program wrote
                found = self._memory.remember(holder, standing, [])
        return found

    def _history(self, holder: str) -> list[stage.Record]:
        if no_file(self._base / holder) is not None:  # to open a pipe would block
            return []
        try:
            return stage.provenance(self._base / holder)
        except HklflowError:  # a damaged product has no readable record
            return []


def outdated(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the outputs of all jobs that have outdated products."""
    return [
        output
        for verdict in verdicts
        if verdict.reasons
        for output in (*verdict.job.products, *verdict.job.parts)
    ]


def sentences(verdicts: Sequence[Verdict], most: int | None = 5, named: int = 1) -> Iterator[str]:
    """Yield a sentence for each reason or doubt, with the jobs that it concerns.

    Parameters
    ----------
    most : int or None
        Number of reasons to print; None: all.
    named : int
        Number of jobs to name for each reason.
    """
    for name, head in (("reasons", "out of date"), ("doubts", "not decided")):
        jobs: dict[str, list[str]] = {}
        for verdict in verdicts:
            for reason in getattr(verdict, name):
                jobs.setdefault(reason, []).append(verdict.job.name)
        for reason, concerned in list(jobs.items())[:most]:
            more = f" and {len(concerned) - named} more" if len(concerned) > named else ""
            yield f"{head}: {', '.join(concerned[:named])}{more}: {reason}"
        if most is not None and len(jobs) > most:
            yield f"{head}: {len(jobs) - most} more reasons; `hklflow verify` lists all"


def sampled_sentence(verdicts: Sequence[Verdict], *, full: bool = False) -> Iterator[str]:
    """Yield a sentence with the number of files that were compared by samples only."""
    paths = dict.fromkeys(path for verdict in verdicts for path in verdict.sampled)
    if paths:
        (first, *others) = paths
        more = f" and {len(others)} more" if others else ""
        why = (
            "of products above 64 MiB the records hold samples only"
            if full
            else "moved, copied or touched since they were read; `hklflow verify --full` reads raw "
            "files as a whole"
        )
        yield f"sampled only: {first}{more} ({why})"


def _changes(name: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name and values of each parameter that differs, also inside of other parameters."""
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _changes(f"{name}.{key}", before.get(key), now.get(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, pair in enumerate(zip(before, now, strict=True)):
            yield from _changes(f"{name}[{i}]", *pair)
    else:
        yield name, before, now


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


_MUCH = 10**9  # bytes; to read such a file takes seconds to minutes


def _announce(path: str, files: Sequence[Path]) -> None:
    """Print that a large file is read, because this may take minutes."""
    size = sum(file.stat().st_size for file in files)
    if size > _MUCH:
        print(f"hklflow: comparing {path} ({size / 1e9:.1f} GB)", file=sys.stderr, flush=True)


@cache
def _module(name: str) -> Any:
    return importlib.import_module(f"hklflow.stages.{name}")


def _params(recipe: Recipe) -> dict[str, Any]:
    """Return the parameters in the form of a record."""
    params = recipe.params
    if type(params) is not (model := _module(recipe.stage).Params):
        params = model(**params.model_dump())
    return params.model_dump(mode="json")


def _digest(params: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(params, sort_keys=True).encode(), digest_size=12).hexdigest()


def _head(content: bytes) -> bytes:
    """Return the first line of the memory file: version, and digest of the other lines."""
    return f"hklflow {_VERSION} {hashlib.sha256(content).hexdigest()}\n".encode()


@dataclass
class _Memory:
    """Stored records and results of comparisons, valid while the files are unchanged."""

    path: Path
    _runs: dict[str, Any] = field(default_factory=dict)
    _likeness: dict[str, str] = field(default_factory=dict)
    _entries: list[dict[str, Any]] = field(default_factory=list)
    _changed: bool = False

    def __post_init__(self) -> None:
        if no_file(self.path) is None:
            # Ignore a damaged or edited file.
            with suppress(OSError, ValueError), self.path.open("rb") as file:
                head, content = file.readline(_HEAD + 1), file.read()
                if head == _head(content):
                    known = json.loads(content)
                    self._runs, self._likeness = known["runs"], known["likeness"]
                    self._entries = known["entries"]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {json.dumps(entry): n for n, entry in enumerate(self._entries)}

    def entry(self, number: int) -> Mapping[str, Any]:
        """Return the record entry of one input file."""
        return self._entries[number]

    def runs(self, product: str, standing: Standing) -> list[dict[str, Any]] | None:
        """Return the runs of stages that a product records; None if they are not stored."""
        found = self._runs.get(product)
        if found is None or found["standing"] != list(standing):
            return None
        runs: list[dict[str, Any]] = found["runs"]
        return runs

    def remember(
        self, product: str, standing: Standing, history: Sequence[stage.Record]
    ) -> list[dict[str, Any]]:
        """Store the records of the stages that made a product, and return their runs."""
        last = list(history[-1:])
        if last and last[0]["stage"] == "add_transforms":
            last = [record for record in history if record["stage"] == "transform"] + last
        runs = []
        for record in last:
            given = [entry for entries in record["inputs"].values() for entry in entries]
            entries = [entry | {"given": True} for entry in given]
            entries += [entry | {"given": False} for entry in record.get("sources", ())]
            runs.append(
                {
                    "stage": record["stage"],
                    "version": record["stage_version"],
                    "started": record["started"],
                    "params": _digest(record["params"]),
                    "entries": [self._number(entry) for entry in entries],
                }
            )
        self._runs[product] = {"standing": list(standing), "runs": runs}
        self._changed = True
        return runs

    def _number(self, entry: dict[str, Any]) -> int:
        key = json.dumps(entry)
        if key not in self._numbers:
            self._numbers[key] = len(self._entries)
            self._entries.append(entry)
        return self._numbers[key]

    def likeness(
        self, entry: Mapping[str, Any], base: Path, now: Standing | None, *, full: bool
    ) -> Likeness:
        """Compare a file with a record, or return the stored result for an unchanged file."""
        if now is None:
            return Likeness.GONE
        if not full and entry.get("standing") == list(now):
            return Likeness.SAME
        key = f"{entry['path']} {entry['sha256']} {' '.join(now)}"
        if not full and key in self._likeness:
            return Likeness(self._likeness[key])
        files = [Path(file) for file in files_of(entry["path"], base)]
        if any(no_file(file) is not None for file in files):
            return Likeness.UNKNOWN
        try:
            _announce(entry["path"], files)
            found = identity.compare(entry, files, now, full=full)
        except OSError:  # the file is not readable, or was just removed
            return Likeness.UNKNOWN
        self._likeness[key] = found.value
        self._changed = True
        return found

    def save(self) -> None:
        """Write the memory file if anything is new and the folder is writable."""
        if not self._changed or not self.path.parent.is_dir():
            return
        used: dict[int, int] = {}
        kept = {}
        for product, found in self._runs.items():
            if not (self.path.parents[1] / product).exists():
                continue
            runs = [
                run | {"entries": [used.setdefault(n, len(used)) for n in run["entries"]]}
                for run in found["runs"]
            ]
            kept[product] = {"standing": found["standing"], "runs": runs}
        content = {
            "runs": kept,
            "likeness": self._likeness,
            "entries": [self._entries[n] for n in used],
        }
        temporary = publish.partial(self.path, f"{os.getpid():08x}")
        with suppress(OSError):
            text = json.dumps(content).encode()
            temporary.write_bytes(_head(text) + text)
            temporary.replace(self.path)
        self._changed = False
