"""`hklflow watch`: add scans whose raw files are complete, and run the workflow again.

The watch repeats: check the raw files, add complete scans, run snakemake. While snakemake runs, no
scan is added. A signal only sets a flag that the loop checks, so a table is never half-written.
"""

import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.cli import planned
from hklflow.cli.complete import NOT_THERE, Settling, missing
from hklflow.cli.folder import Folder, experiment, read_table
from hklflow.cli.lock import only_one
from hklflow.cli.options import Directory
from hklflow.cli.plan import filled
from hklflow.cli.runner import Run, default_command

_NAP = 0.1  # s; longest delay before a signal is handled
_TRIES = 3  # number of runs of snakemake for the same scans if the runs fail
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def watch_experiment(
    directory: Directory = Path(),
    *,
    interval: float = 30.0,
    settle: float = 60.0,
    hours: float = 24.0,
    until_complete: bool = False,
    once: bool = False,
    command: Annotated[str, Parameter(show_default=False)] = "",
) -> int:
    """Add planned scans as soon as their raw files are complete, and run snakemake.

    `config/planned.tsv` has the columns of the table of scans, and a row for each rotation that is
    still to be measured. If `raw` contains `{temperature}` or `{scan}`, the row applies to all
    files whose names match, and the matching text replaces the placeholder in the other columns.
    A scan is added when all its rotations are complete and its parent is in the table.

    Example: `hklflow watch quartz_2026 --hours 48 -- snakemake --cores 8`

    Stop the watch with Ctrl-C (which stops snakemake too), or with `touch config/watch.stop`
    (which waits for the current run to end).

    Parameters
    ----------
    interval
        Seconds between two checks of the raw files.
    settle
        Seconds for which a raw file must be unchanged. Use a time longer than any pause of the
        detector's writer, and enter `frames` in the table if you can.
    hours
        Hours after which the watch ends; an active run is finished first.
    until_complete
        End when all planned scans are added and run.
    once
        Add the scans that are complete now, run once, and end.
    command
        Command to run in the experiment's folder instead of `snakemake`. The command can also be
        written after `--`.
    """
    for name, value in (("interval", interval), ("hours", hours)):
        if not value > 0:
            raise HklflowError(f"--{name} is {value:g}; it must be more than 0")
    if not settle >= 0:
        raise HklflowError(f"--settle is {settle:g}; it must be 0 or more")
    folder = experiment(directory)
    words = shlex.split(command) or default_command(folder.base)
    watch = Watch(folder, words, interval, Settling(settle))
    watch.check(until_complete)
    with only_one(folder.base / "config/watch.lock") as left, watch.signals():
        if left:
            tell(f"an earlier watch was killed and left its lock ({left}); this watch continues")
        if watch.stop_file.exists():
            watch.stop_file.unlink()
            tell(f"{watch.stop_file.name} of an earlier watch removed")
        if once:
            return watch.once(settle)
        return watch.run(time.monotonic() + hours * 3600, until_complete)


def tell(what: str) -> None:
    """Print a line about an event, with the time."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what}", flush=True)


@dataclass
class Watch:
    """Watch of an experiment's folder."""

    folder: Folder
    command: Sequence[str]
    interval: float
    settling: Settling
    signal: int = 0
    """Number of the first signal that asked the watch to stop; 0 without a signal."""
    code: int = 0
    """Exit code of the last run of snakemake."""
    _run: Run | None = None
    _reasons: dict[str, str] = field(default_factory=dict)

    @property
    def plan(self) -> Path:
        """Path of the table of planned scans."""
        return self.folder.base / "config/planned.tsv"

    @property
    def stop_file(self) -> Path:
        """Path of the file that stops the watch after the current run."""
        return self.folder.base / "config/watch.stop"

    def check(self, until_complete: bool) -> None:
        """Raise an error if a table is missing or not valid."""
        if not self.plan.is_file():
            raise HklflowError(
                f"{self.plan} does not exist; copy the line of column names of the table of "
                "scans to it, and add a row for each rotation that will be measured"
            )
        try:
            self.pending()
        except OSError as error:
            raise HklflowError(
                f"{error.filename} cannot be reached ({error.strerror}); correct the rows of "
                f"{self.plan}"
            ) from error
        if until_complete and (open_ended := planned.templates(read_table(self.plan))):
            raise HklflowError(
                f"{self.plan}, row {open_ended[0]['#']}: {open_ended[0]['raw']} is never "
                "complete; leave out --until-complete, or write a row for each scan"
            )

    # ------------------------------------------------------------------ the loop

    def run(self, deadline: float, until_complete: bool) -> int:
        """Add scans and run snakemake until the watch ends; return the exit code."""
        tell(f"watching {self.folder.base} for the scans of {self.plan.name}")
        # An earlier watch may have added scans without running snakemake.
        due = _TRIES if self.rows() else 0
        while True:
            due = _TRIES if self.look() else due
            if due and not self.signal:
                self.snakemake()
                # The reason for a failure may be temporary, such as another snakemake or a file
                # server that cannot be reached: try again.
                due = due - 1 if self.code else 0
            if why := self._why_end(deadline, until_complete):
                tell(f"end: {why}")
                return 128 + self.signal if self.signal else self.code
            self._wait(min(time.monotonic() + self.interval, deadline))

    def once(self, settle: float) -> int:
        """Check the raw files up to three times, add complete scans, and run snakemake once."""
        # The second check finds settled files, the third settled data files that are linked.
        for _ in range(3):
            self.settling.waiting = False
            self.look()
            if self.signal or not self.settling.waiting:
                break
            self._wait(time.monotonic() + settle)
        if not self.signal and self.rows():
            self.snakemake()
        tell("end: only one run was requested")
        return 128 + self.signal if self.signal else self.code

    def _why_end(self, deadline: float, until_complete: bool) -> str:
        if self.signal:
            return f"signal {signal.Signals(self.signal).name}"
        if self.stop_file.exists():
            self.stop_file.unlink()
            return f"{self.stop_file.name} was there"
        if until_complete and self.told_pending() == []:
            return "all planned scans are in the table"
        return "time is up" if time.monotonic() >= deadline else ""

    def _wait(self, until: float) -> None:
        while not self.signal and not self.stop_file.exists():
            rest = until - time.monotonic()
            if rest <= 0:
                return
            time.sleep(min(_NAP, rest))

    # ------------------------------------------------------------------ the tables

    def rows(self) -> bool:
        """Return True if the table of scans has any row."""
        return bool(read_table(self.folder.table("scans")).rows)

    def pending(self) -> list[planned.Planned]:
        """Return the planned scans that are not in the table of scans yet."""
        present = read_table(self.folder.table("scans"))
        return planned.pending(read_table(self.plan), present, self.folder.base)

    def told_pending(self) -> list[planned.Planned] | None:
        """Return the pending scans; if a table is not valid, print the problem and return None."""
        try:
            scans = self.pending()
        # The watch continues if a file server cannot be reached for some time.
        except (HklflowError, OSError) as error:
            self._tell_once("tables", str(error))
            return None
        self._reasons.pop("tables", None)
        return scans

    def look(self) -> bool:
        """Add all complete scans; return True if any scan was added."""
        complete = [scan for scan in self.told_pending() or [] if self._is_complete(scan)]
        added = False
        # A child may come before its parent: repeat until no more scan can be added.
        while complete and not self.signal:
            done = [scan for scan in complete if self._add(scan)]
            complete = [scan for scan in complete if scan not in done]
            added = added or bool(done)
            if not done:
                break
        return added

    def _is_complete(self, scan: planned.Planned) -> bool:
        gaps = [missing(row, self.folder.base, self.settling) for row in scan.rows]
        # If no file of the scan exists, print nothing.
        if any(gaps) and set(gaps) != {NOT_THERE}:
            row, gap = next((r, g) for r, g in zip(scan.rows, gaps, strict=True) if g)
            self._tell_once(scan.name, f"{row['raw']} is {gap}" if gap == NOT_THERE else gap)
        return not any(gaps)

    def _add(self, scan: planned.Planned) -> bool:
        try:
            for note in filled(self.folder.base, [row["raw"] for row in scan.rows]):
                tell(note)
            columns = read_table(self.folder.table("scans")).columns
            self.folder.add("scans", [{k: row.get(k, "") for k in columns} for row in scan.rows])
        except (HklflowError, OSError) as error:
            self._tell_once(scan.name, str(error))
            return False
        self._reasons.pop(scan.name, None)
        tell(f"{scan.name} added")
        return True

    def _tell_once(self, name: str, reason: str) -> None:
        """Print why a scan waits, unless the same reason was printed before."""
        if self._reasons.get(name) != reason:
            self._reasons[name] = reason
            tell(f"{name} waits: {' '.join(reason.split())}")

    # ------------------------------------------------------------------ snakemake

    def snakemake(self) -> None:
        """Run the workflow, print if the run failed, and keep the exit code."""
        tell(f"run: {shlex.join(self.command)}")
        self._run = Run(self.command, self.folder.base)
        if self.signal:  # a signal came while the command was started
            self._run.stop()
        last_check = time.monotonic()
        while (code := self._run.ended()) is None:
            time.sleep(_NAP)
            if time.monotonic() - last_check >= self.interval and not self.signal:
                # Only check the files, so that their settling time already runs.
                for scan in self.told_pending() or []:
                    self._is_complete(scan)
                last_check = time.monotonic()
        self._run = None
        self.code = code if code >= 0 else 128 - code
        what = "done" if code == 0 else f"failed with exit code {self.code}"
        tell(f"run {what}" + ("" if code == 0 else "; new scans will still be run"))

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Handle signals: set the flag of the watch and stop snakemake."""

        def answer(number: int, _frame: FrameType | None) -> None:
            self.signal = self.signal or number
            if self._run is not None:
                self._run.stop()

        before: dict[int, Callable[[int, FrameType | None], object] | int | None]
        before = {number: signal.signal(number, answer) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            sys.stdout.flush()
