"""Verdicts of `accept` on the scans, as `hklflow status` prints them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hklflow.cli.progress import DONE, FAIL, OLD, Progress
from hklflow.core import verdict
from hklflow.errors import HklflowError, printable

if TYPE_CHECKING:
    from hklflow.config.jobs import Job


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
                level, reasons = data["verdict"], verdict.reasons(data)
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
            first, *others = one.reasons
            more = f" (and {len(others)} more in {one.product})" if others else ""
            yield printable(f"{level}  {one.sample} {one.scan}: {' '.join(first.split())}{more}")
