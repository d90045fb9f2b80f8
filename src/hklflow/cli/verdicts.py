"""Verdicts on the scans from the results of all finished stages, for `hklflow status`."""

import re
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
        Names of the sample and the scan.
    verdict : {"passed", "doubtful", "failed"}
        Worst level of all tests.
    reasons : list of str
        Reasons for the verdict.
    product : str
        File with the verdict; empty if the scan was stopped, because then there is no file.
    """

    sample: str
    scan: str
    verdict: str
    reasons: list[str]
    product: str

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as a dictionary for JSON."""
        return asdict(self)


def verdicts_of(progress: Progress, jobs: Sequence["Job"]) -> list[ScanVerdict]:
    """Return the verdicts of the scans whose job `accept` is done, old or failed."""
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
            except (HklflowError, OSError):  # the file is being written
                continue

    verdicts = []
    for job in jobs:
        if job.rule != "accept":
            continue
        sample, scan = job.key[:2]
        state = progress.of(job)
        if state.state == FAIL:
            verdicts.append(ScanVerdict(sample, scan, "failed", [state.reason], ""))
        elif state.state in (DONE, OLD):
            try:
                data = stage.read_json(progress.base / job.products[0])
                verdict.require(data, job.products[0])
                level, reasons = verdict.of_scan(data, read(figures.get(job.key[:2], ())))
            except (HklflowError, OSError, KeyError):  # an older version, or being written
                continue
            verdicts.append(ScanVerdict(sample, scan, level, reasons, job.products[0]))
    return verdicts


def lines(found: Sequence[ScanVerdict], *, failed: bool) -> Iterator[str]:
    """Yield the number of scans with each verdict, and a line for each doubtful or failed scan.

    Scans that were stopped have no line, because `hklflow status` lists them as failed jobs.

    Parameters
    ----------
    found : sequence of ScanVerdict
        Verdicts on the scans.
    failed : bool
        Yield only lines for failed scans.
    """
    if not found:
        return
    yield ""
    yield f"verdicts: {verdict.counted([scan.verdict for scan in found])}"
    for level in ("failed",) if failed else ("failed", "doubtful"):
        for scan in found:
            if scan.verdict != level or not scan.product:
                continue
            # Print only the first reason; the page of the sample and `--json` have all reasons.
            first, *others = scan.reasons
            # Sentences of gates begin with the scan, which the line names.
            first = re.sub(rf"^({re.escape(scan.sample)} )?{re.escape(scan.scan)}: ", "", first)
            more = f" (and {len(others)} more on the page of {scan.sample})" if others else ""
            yield printable(f"{level}  {scan.sample} {scan.scan}: {' '.join(first.split())}{more}")
