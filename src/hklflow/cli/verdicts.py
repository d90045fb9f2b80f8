"""Verdicts on the scans from what all stages found so far, as `hklflow status` prints them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from hklflow.base.errors import HklflowError, printable
from hklflow.cli.progress import DONE, FAIL, OLD, Progress
from hklflow.quality import verdict

if TYPE_CHECKING:
    from hklflow.experiment.jobs import Job


@dataclass(frozen=True)
class ScanVerdict:
    """Verdict on one scan.

    Attributes
    ----------
    sample, scan : str
    verdict : {"passed", "doubtful", "failed"}
    reasons : list of str
    product : str
        The file that holds it; empty where the scan was stopped, which leaves none.
    """

    sample: str
    scan: str
    verdict: str
    reasons: list[str]
    product: str

    def as_dict(self) -> dict[str, Any]:
        """Give it for JSON."""
        return asdict(self)


def verdicts_of(progress: Progress, jobs: Sequence["Job"]) -> list[ScanVerdict]:
    """Read the verdicts of those jobs that are done, old or failed; others have none yet."""
    from hklflow import stage  # slow to import

    figures: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for job in jobs:
        if job.rule == "accept" or progress.of(job).state not in (DONE, OLD):
            continue
        rotation = job.key[2] if len(job.key) > 2 else ""
        for path in job.figures:
            name = verdict.product_name(PurePath(path).stem, rotation)
            figures.setdefault(job.key[:2], []).append((name, path))

    def read(named: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
        for name, path in named:
            try:
                yield name, stage.read_json(progress.base / path)
            except (HklflowError, OSError):  # just being made
                continue

    found = []
    for job in jobs:
        if job.rule != "accept":
            continue
        sample, scan = job.key[:2]
        state = progress.of(job)
        if state.state == FAIL:
            found.append(ScanVerdict(sample, scan, "failed", [state.reason], ""))
        elif state.state in (DONE, OLD):
            try:
                data = stage.read_json(progress.base / job.products[0])
                verdict.require(data, job.products[0])
                level, reasons = verdict.of_scan(data, read(figures.get(job.key[:2], ())))
            except (HklflowError, OSError, KeyError):  # of an older version, or just being made
                continue
            found.append(ScanVerdict(sample, scan, level, reasons, job.products[0]))
    return found


def lines(found: Sequence[ScanVerdict], *, failed: bool) -> Iterator[str]:
    """Count the verdicts, and give a line to each scan that needs a look, with its first reason.

    A scan that was stopped stands among the failed jobs already.

    Parameters
    ----------
    failed : bool
        Only scans that failed.
    """
    if not found:
        return
    yield ""
    yield f"verdicts: {verdict.counted([one.verdict for one in found])}"
    for level in ("failed",) if failed else ("failed", "doubtful"):
        for one in found:
            if one.verdict != level or not one.product:
                continue
            # A line for each scan: what follows is on the page, and in `--json`.
            first, *others = one.reasons
            more = f" (and {len(others)} more on the page of {one.sample})" if others else ""
            yield printable(f"{level}  {one.sample} {one.scan}: {' '.join(first.split())}{more}")
