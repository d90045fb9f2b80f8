"""How far jobs are, from their products, their logs and what snakemake leaves in ``.snakemake``.

Snakemake 9 keeps a mark for each output of a job that has begun, until the job has ended, well or
not (``incomplete/``, the name in base64; with the number of the cluster's job), and files as long
as a run lives or after it was killed (``locks/``). A stage renames its products when they are
complete, so a product without a mark is whole. Nothing here asks snakemake or a cluster.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow.base.errors import printable
from hklflow.base.system import no_file

if TYPE_CHECKING:
    from hklflow.experiment.jobs import Job

COLUMNS = (
    "import",
    "mask",
    "peaks",
    "refine",
    "accept",
    "transform",
    "merge",
    "symm",
    "fill",
    "pdf",
    "bragg",
    "file",
)
"""Groups of steps of a scan, in the order in which they happen."""
OF_ROTATION = frozenset({"import", "mask", "peaks", "transform"})
"""Groups of which a scan has one for each rotation."""
DONE, OLD, RUN, LOST, FAIL, HELD, WAIT = "done", "old", "run", "lost", "fail", "held", "wait"
STATES: Mapping[str, str] = {
    DONE: "its products are there, complete, and not older than what they were made from",
    OLD: "its products are there, but would be made otherwise now, or of newer files",
    RUN: "it has begun, and a snakemake is at work",
    LOST: "it has begun and not ended, and no snakemake is at work here",
    FAIL: "it ended with an error",
    HELD: "it waits for a job that failed",
    WAIT: "it has not begun",
}
"""What a job can be."""

_SENTENCE = re.compile(r"^hklflow \w+: (.*)$", re.MULTILINE)
_TAIL = 20_000  # bytes of a log
_RUNS = 3  # newest runs whose logs are read
_RUN_TAIL = 8_000_000
_HASHED = 1_000_000  # bytes of a file that snakemake takes for the same if its hash is


@dataclass(frozen=True)
class Verdict:
    """State of a job.

    Attributes
    ----------
    state : str
        One of `STATES`.
    reason : str
        Of a failure: what the stage said.
    log : str
        Of a failure, where there is one.
    number : str
        Of the cluster's job, where one was submitted.
    """

    state: str
    reason: str = ""
    log: str = ""
    number: str = ""


@dataclass(frozen=True)
class Run:
    """Whether snakemake is at work in an experiment.

    Attributes
    ----------
    alive : bool
        A process is here, or the lock is another machine's or user's, who may have one.
    locked : bool
        A run holds the experiment, or was killed while it did.
    since : float
        When the newest lock was taken, seconds; 0 without one.
    where : str
        Process or machine, for messages.
    """

    alive: bool
    locked: bool
    since: float = 0.0
    where: str = ""


def run_of(base: Path) -> Run:
    """Whether snakemake is at work in an experiment's folder."""
    locks = []
    for path in (base / ".snakemake/locks").glob("*.lock"):
        try:
            locks.append(path.stat())
        except FileNotFoundError:  # the run has just ended
            continue
    since = max((lock.st_mtime for lock in locks), default=0.0)
    processes = list(_processes(base))
    if processes:
        return Run(True, bool(locks), since, f"process {', '.join(map(str, processes))}")
    if not locks:
        return Run(False, False)
    host = _host(base)
    if host and host != os.uname().nodename:
        return Run(True, True, since, f"on {host}")
    if any(lock.st_uid != os.getuid() for lock in locks) and os.getuid() != 0:
        return Run(True, True, since, "of another user")
    if not Path("/proc/self/cmdline").exists():
        return Run(True, True, since, "by its lock")
    return Run(False, True, since)


def _processes(base: Path) -> Iterator[int]:
    """Processes of snakemake in a folder, of this user on this machine."""
    folder = base.resolve()
    try:
        entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    except FileNotFoundError:
        return
    for entry in entries:
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if not any(Path(os.fsdecode(word)).name == "snakemake" for word in words[:4]):
                continue
            if {b"-n", b"--dry-run", b"--dryrun"}.intersection(words):
                continue
            if (entry / "cwd").readlink() == folder:
                yield int(entry.name)
        except OSError:  # it has ended, or is somebody else's
            continue


def _host(base: Path) -> str:
    """Machine of the newest run, as its log says."""
    for path in _run_logs(base)[:1]:
        found = re.search(r"^\s*Host: (\S+)$", _head(path), re.MULTILINE)
        return found[1] if found else ""
    return ""


def _run_logs(base: Path) -> list[Path]:
    """Logs of snakemake's runs, newest first."""
    return sorted((base / ".snakemake/log").glob("*.snakemake.log"), reverse=True)


def _head(path: Path) -> str:
    if no_file(path) is not None:
        return ""
    try:
        with path.open("rb") as file:
            return file.read(4000).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _tail(path: Path, size: int) -> str:
    """End of a file; empty if it is not there, or a pipe, which would be waited for."""
    if no_file(path) is not None:
        return ""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


@dataclass
class Progress:
    """How far the jobs of an experiment are.

    Parameters
    ----------
    base : Path
        Folder of the experiment.
    jobs : sequence of Job
        All of them.
    run : Run
    outdated : mapping of Job to text
        Jobs whose products the configuration or the inputs would make otherwise, and why.
    """

    base: Path
    jobs: "Sequence[Job]"
    run: Run
    outdated: "Mapping[Job, str]" = field(default_factory=dict)
    _verdicts: "dict[Job, Verdict]" = field(default_factory=dict)
    _times: dict[str, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Marks first: a job that ends meanwhile has a mark still, not a product without one.
        self._marks = self._read_marks()
        self._makers = {product: job for job in self.jobs for product in job.products}

    def of(self, job: "Job") -> Verdict:
        """State of a job."""
        if job not in self._verdicts:
            self._verdicts[job] = self._judge(job)
        return self._verdicts[job]

    def needs(self, job: "Job") -> "list[Job]":
        """Jobs whose products it reads."""
        found = (self._makers.get(path) for path in job.inputs)
        return list(dict.fromkeys(maker for maker in found if maker is not None))

    def waiting(self, failed: "Job") -> "list[Job]":
        """Jobs that cannot be done before one that failed is mended."""
        return [job for job in self.jobs if failed in self._causes(job)]

    def _causes(self, job: "Job") -> "frozenset[Job]":
        """Failed jobs above a job."""
        if job not in self._above:
            found: frozenset[Job] = frozenset()
            for maker in self.needs(job):
                found |= self._causes(maker)
                if self.of(maker).state == FAIL:
                    found |= {maker}
            self._above[job] = found
        return self._above[job]

    @cached_property
    def _above(self) -> "dict[Job, frozenset[Job]]":
        return {}

    # ------------------------------------------------------------------ one job

    def _judge(self, job: "Job") -> Verdict:
        marked = [path for path in (*job.products, *job.parts) if path in self._marks]
        if marked:
            number = next((self._marks[path] for path in marked if self._marks[path]), "")
            return Verdict(RUN if self.run.alive else LOST, number=number)
        before = [self.of(maker).state for maker in self.needs(job)]
        times = [self._time(path) for path in job.products]
        if None not in times:
            if job in self.outdated:
                return Verdict(OLD, self.outdated[job])
            oldest = min(time for time in times if time is not None)
            whole = all(state == DONE for state in before)
            return Verdict(DONE if whole and not self._newer(job, oldest) else OLD)
        if failure := self._failure(job):
            return failure
        return Verdict(HELD if {FAIL, HELD}.intersection(before) else WAIT)

    def _newer(self, job: "Job", oldest: int) -> bool:
        """Whether an input is newer than the products, and another than they were made from.

        Snakemake asks the same: times, and of small files the hash that it wrote down.
        """
        for path in job.inputs:
            time = self._time(path)
            if time is not None and time > oldest and not self._same(job, path):
                return True
        return False

    def _same(self, job: "Job", path: str) -> bool:
        file = self.base / path
        if no_file(file) is not None or file.stat().st_size > _HASHED:
            return False
        told = {self._recorded(product).get(path, "") for product in job.products}
        with file.open("rb") as content:
            return told == {f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"}

    def _recorded(self, product: str) -> Mapping[str, Any]:
        """Hashes of the inputs of a product, as snakemake wrote them down."""
        name = base64.urlsafe_b64encode(product.encode()).decode()
        parts = [name[i : i + 254] for i in range(0, len(name), 254)]
        folders = ["@" + part for part in parts[:-1]]
        text = _tail(Path(self.base, ".snakemake/metadata", *folders, parts[-1]), _RUN_TAIL)
        try:
            found = json.loads(text).get("input_checksums", {})
        except ValueError:  # none, or just being written
            return {}
        return found if isinstance(found, dict) else {}

    def _failure(self, job: "Job") -> Verdict | None:
        """How a job without products failed, if it did."""
        for log in job.logs:
            path = self.base / log
            text = _tail(path, _TAIL)
            # One of an earlier run than the one at work will be tried again.
            if not text or (self.run.alive and path.stat().st_mtime < self.run.since):
                continue
            if found := _SENTENCE.findall(text):
                return Verdict(FAIL, printable(found[-1]), log)
            if "Traceback (most recent call last)" in text:
                return Verdict(FAIL, printable(text.rstrip().rsplit("\n", 1)[-1]), log)
        for log in job.logs:
            if told := self._told_by_snakemake(log):
                return Verdict(FAIL, printable(told), log)
        return None

    def _told_by_snakemake(self, log: str) -> str:
        """What snakemake says of a job that was killed before it could say anything."""
        for text in self._runs:
            for block in re.split(r"^(?=Error in rule )", text, flags=re.MULTILINE)[1:]:
                if f"log: {log} (check" in block:
                    message = re.search(r"^ +message: (?!None$)(.+)$", block, re.MULTILINE)
                    return message[1] if message else "it ended without a word, as if killed"
        return ""

    @cached_property
    def _runs(self) -> list[str]:
        """Logs of the newest runs; while one is at work, its own only."""
        newest = _run_logs(self.base)[: 1 if self.run.alive else _RUNS]
        return [_tail(path, _RUN_TAIL) for path in newest]

    # ------------------------------------------------------------------ files

    def _time(self, path: str) -> int | None:
        """When a file was changed, nanoseconds; None if it is not there."""
        if path not in self._times:
            try:
                # Tens of thousands of files: `Path` would take as long again.
                found = os.stat(os.path.join(self.base, path))  # noqa: PTH116, PTH118
                self._times[path] = found.st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                self._times[path] = None
        return self._times[path]

    def _read_marks(self) -> dict[str, str]:
        """Outputs of jobs that have begun and not ended, with the number of a cluster's job."""
        top, found = self.base / ".snakemake/incomplete", {}
        for folder, _, names in os.walk(top):
            # A long name is in folders: "@" and its first part, and so on.
            above = [part.removeprefix("@") for part in Path(folder).relative_to(top).parts]
            for name in names:
                if no_file(Path(folder, name)) is not None:  # ended meanwhile, or no mark
                    continue
                try:
                    path = base64.urlsafe_b64decode("".join([*above, name])).decode()
                    content = Path(folder, name).read_text()
                except FileNotFoundError:  # the job has just ended
                    continue
                except ValueError:  # no name of an output
                    continue
                try:
                    number = json.loads(content).get("external_jobid")
                except ValueError:  # just being written
                    number = None
                found[path] = str(number or "")
        return found


def stray_failures(base: Path, results: str, known: "Sequence[Job]") -> list[tuple[str, Verdict]]:
    """Failures told in logs of steps that are not among ``known``, by rule: of constants."""
    rules = {part.rule for job in known for part in (*job.before, job)}
    found = []
    for path in sorted((base / results / "logs").glob("*/**/*.log")):
        rule = path.relative_to(base / results / "logs").parts[0]
        if rule not in rules and (told := _SENTENCE.findall(_tail(path, _TAIL))):
            log = os.path.relpath(path, base)
            verdict = Verdict(FAIL, printable(told[-1]), printable(log))
            found.append((printable(f"{path.stem} {rule}"), verdict))
    return found
