"""State of each job, from its products, its logs and the files of snakemake.

From the start of a job to its end, snakemake 9 keeps a mark for each output in
``.snakemake/incomplete/`` (the name in base64, with the job number on a cluster). While a run is
active, and after a run was killed, ``.snakemake/locks/`` contains lock files. A stage renames its
products when they are complete, so a product without a mark is complete. This module reads only
files; it does not ask snakemake or a cluster.
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
    "scale",
    "transform",
    "merge",
    "symm",
    "fill",
    "pdf",
    "bragg",
    "file",
)
"""Groups of steps of a scan, in the order of the workflow."""
OF_ROTATION = frozenset({"import", "mask", "peaks", "transform"})
"""Groups of steps that a scan has for each rotation."""
DONE, OLD, RUN, LOST, FAIL, HELD, WAIT = "done", "old", "run", "lost", "fail", "held", "wait"
STATES: Mapping[str, str] = {
    DONE: "its products exist, are complete, and are not older than their inputs",
    OLD: "its products exist, but the configuration or an input has changed",
    RUN: "it has started, and snakemake is running",
    LOST: "it has started and not ended, and no snakemake is running here",
    FAIL: "it ended with an error",
    HELD: "it waits for a job that failed",
    WAIT: "it has not started",
}
"""States of a job, with an explanation of each."""

_SENTENCE = re.compile(r"^hklflow \w+: (.*)$", re.MULTILINE)
_TAIL = 20_000  # bytes read from the end of a job's log
_RUNS = 3  # number of newest runs whose logs are read
_RUN_TAIL = 8_000_000  # bytes read from the end of a run's log
_HASHED = 1_000_000  # bytes; snakemake also compares the hash of smaller files, not only their time


@dataclass(frozen=True)
class Verdict:
    """State of a job.

    Attributes
    ----------
    state : str
        Key of `STATES`.
    reason : str
        Reason for a failure or for an outdated product; empty for other states.
    log : str
        Log file of a failure; empty if there is no log.
    number : str
        Number of the job on a cluster; empty if the job was not submitted to a cluster.
    """

    state: str
    reason: str = ""
    log: str = ""
    number: str = ""


@dataclass(frozen=True)
class Run:
    """State of the snakemake run in an experiment.

    Attributes
    ----------
    alive : bool
        True if snakemake runs on this machine, or if another machine or user has the lock and may
        run snakemake.
    locked : bool
        True if there is a lock: a run is active or was killed.
    since : float
        Time of the newest lock in seconds since 1970; 0 without a lock.
    where : str
        Process, machine or user of the run, for messages.
    """

    alive: bool
    locked: bool
    since: float = 0.0
    where: str = ""


def run_of(base: Path) -> Run:
    """Return the state of the snakemake run in an experiment's folder."""
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
    """Yield the process numbers of snakemake in a folder, on this machine."""
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
        except OSError:  # the process has ended or belongs to another user
            continue


def _host(base: Path) -> str:
    """Return the machine of the newest run from its log; empty if the log does not name it."""
    for path in _run_logs(base)[:1]:
        found = re.search(r"^\s*Host: (\S+)$", _head(path), re.MULTILINE)
        return found[1] if found else ""
    return ""


def _run_logs(base: Path) -> list[Path]:
    """Return the logs of snakemake's runs, newest first."""
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
    """Return the end of a file; empty if the file is missing or is not a regular file.

    Reading a pipe would block.
    """
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
    """States of all jobs of an experiment.

    Parameters
    ----------
    base : Path
        Folder of the experiment.
    jobs : sequence of Job
        All jobs of the experiment.
    run : Run
        State of the snakemake run.
    outdated : mapping of Job to text
        Jobs whose products do not match the present configuration or inputs, with the reason.
    """

    base: Path
    jobs: "Sequence[Job]"
    run: Run
    outdated: "Mapping[Job, str]" = field(default_factory=dict)
    _verdicts: "dict[Job, Verdict]" = field(default_factory=dict)
    _times: dict[str, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Read the marks before the products: a job that ends in between still counts as running.
        self._marks = self._read_marks()
        self._makers = {product: job for job in self.jobs for product in job.products}

    def of(self, job: "Job") -> Verdict:
        """Return the state of a job."""
        if job not in self._verdicts:
            self._verdicts[job] = self._judge(job)
        return self._verdicts[job]

    def needs(self, job: "Job") -> "list[Job]":
        """Return the jobs whose products a job reads."""
        found = (self._makers.get(path) for path in job.inputs)
        return list(dict.fromkeys(maker for maker in found if maker is not None))

    def waiting(self, failed: "Job") -> "list[Job]":
        """Return the jobs that wait for a failed job."""
        return [job for job in self.jobs if failed in self._causes(job)]

    def _causes(self, job: "Job") -> "frozenset[Job]":
        """Return the failed jobs that a job depends on, directly or through other jobs."""
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
        """Return True if an input is newer than the products and has changed.

        As in snakemake, a newer small file with the recorded hash counts as unchanged.
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
        recorded = {self._recorded(product).get(path, "") for product in job.products}
        with file.open("rb") as content:
            return recorded == {f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"}

    def _recorded(self, product: str) -> Mapping[str, Any]:
        """Return the hashes of a product's inputs in snakemake's record; empty without a record."""
        name = base64.urlsafe_b64encode(product.encode()).decode()
        parts = [name[i : i + 254] for i in range(0, len(name), 254)]
        folders = ["@" + part for part in parts[:-1]]
        text = _tail(Path(self.base, ".snakemake/metadata", *folders, parts[-1]), _RUN_TAIL)
        try:
            found = json.loads(text).get("input_checksums", {})
        except ValueError:  # no record, or a record that is being written
            return {}
        return found if isinstance(found, dict) else {}

    def _failure(self, job: "Job") -> Verdict | None:
        """Return the failure of a job without products; None if the job did not fail."""
        for log in job.logs:
            path = self.base / log
            text = _tail(path, _TAIL)
            # Ignore logs that are older than the active run: the run will try the job again.
            if not text or (self.run.alive and path.stat().st_mtime < self.run.since):
                continue
            if found := _SENTENCE.findall(text):
                return Verdict(FAIL, printable(found[-1]), log)
            if "Traceback (most recent call last)" in text:
                return Verdict(FAIL, printable(text.rstrip().rsplit("\n", 1)[-1]), log)
        for log in job.logs:
            if sentence := self._told_by_snakemake(log):
                return Verdict(FAIL, printable(sentence), log)
        return None

    def _told_by_snakemake(self, log: str) -> str:
        """Return snakemake's message about a job that ended without a message in its log."""
        for text in self._runs:
            for block in re.split(r"^(?=Error in rule )", text, flags=re.MULTILINE)[1:]:
                if f"log: {log} (check" in block:
                    message = re.search(r"^ +message: (?!None$)(.+)$", block, re.MULTILINE)
                    return message[1] if message else "it ended without a word, as if killed"
        return ""

    @cached_property
    def _runs(self) -> list[str]:
        """Ends of the logs of the newest runs; of an active run, only its own log."""
        newest = _run_logs(self.base)[: 1 if self.run.alive else _RUNS]
        return [_tail(path, _RUN_TAIL) for path in newest]

    # ------------------------------------------------------------------ files

    def _time(self, path: str) -> int | None:
        """Return the modification time of a file in ns; None if the file does not exist."""
        if path not in self._times:
            try:
                # Tens of thousands of files are checked, and `Path` would double the time.
                found = os.stat(os.path.join(self.base, path))  # noqa: PTH116, PTH118
                self._times[path] = found.st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                self._times[path] = None
        return self._times[path]

    def _read_marks(self) -> dict[str, str]:
        """Return the outputs of started, unfinished jobs, with the job number on a cluster."""
        top, found = self.base / ".snakemake/incomplete", {}
        for folder, _, names in os.walk(top):
            # A long name is split: folders named "@" plus a part, then the file with the rest.
            above = [part.removeprefix("@") for part in Path(folder).relative_to(top).parts]
            for name in names:
                # The job has ended, or the file is not a mark.
                if no_file(Path(folder, name)) is not None:
                    continue
                try:
                    path = base64.urlsafe_b64decode("".join([*above, name])).decode()
                    content = Path(folder, name).read_text()
                except FileNotFoundError:  # the job has just ended
                    continue
                except ValueError:  # the file's name is not an encoded output
                    continue
                try:
                    number = json.loads(content).get("external_jobid")
                except ValueError:  # the mark is being written
                    number = None
                found[path] = str(number or "")
        return found


def stray_failures(base: Path, results: str, known: "Sequence[Job]") -> list[tuple[str, Verdict]]:
    """Return failures in the logs of rules without a job in ``known``: rules for constants."""
    rules = {part.rule for job in known for part in (*job.before, job)}
    found = []
    for path in sorted((base / results / "logs").glob("*/**/*.log")):
        rule = path.relative_to(base / results / "logs").parts[0]
        if rule not in rules and (sentences := _SENTENCE.findall(_tail(path, _TAIL))):
            log = os.path.relpath(path, base)
            verdict = Verdict(FAIL, printable(sentences[-1]), printable(log))
            found.append((printable(f"{path.stem} {rule}"), verdict))
    return found
