"""Checks of a raw run: each check detects one kind of fault.

Losses are warnings, because the remaining frames are good; contradictions are errors. No check
reads pixels. Checks do not overlap, so that each fault is reported once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.constants.preprocess import Facts, trains_of
from hklflow.constants.raw_frames import NO_TRAIN, Part, Trains, from_ranges, listed

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Raw:
    """A run to be checked.

    Attributes
    ----------
    facts : dict
    parts : dict
        Parts of each module, in order.
    """

    facts: Facts
    parts: Mapping[int, Sequence[Part]]

    @property
    def outliers(self) -> Trains:
        """Trains that do not belong to the run."""
        return from_ranges(self.facts["trains"]["outliers"]).astype(np.uint64)

    @property
    def trains(self) -> dict[int, Trains]:
        """Trains of each module, sorted, without outliers."""
        return {
            number: np.setdiff1d(trains_of(parts), self.outliers)
            for number, parts in self.parts.items()
        }

    @property
    def whole(self) -> list[int]:
        """Modules with the largest number of files."""
        most = max(len(parts) for parts in self.parts.values())
        return [number for number, parts in self.parts.items() if len(parts) == most]

    def each(self) -> Iterator[Part]:
        """Iterate over the parts of all modules."""
        for parts in self.parts.values():
            yield from parts


Check = Callable[[Raw], Iterable[str]]
"""Function that yields one phrase for each fault, and nothing if the run is good."""

CHECKS: dict[str, tuple[Severity, Check]] = {}


def _check(severity: Severity) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        CHECKS[check.__name__] = (severity, check)
        return check

    return add


@dataclass(frozen=True)
class Finding:
    """Outcome of a check; ``message`` is its sentence for the report."""

    name: str
    severity: Severity
    passed: bool
    message: str


def check_run(raw: Raw) -> list[Finding]:
    """Run all checks."""
    findings = []
    for name, (severity, check) in CHECKS.items():
        wrong = list(check(raw))
        sentence = _sentence(wrong) if wrong else f"{check.__doc__}"
        findings.append(Finding(name, severity, not wrong, sentence))
    return findings


def require_checks(names: Sequence[str]) -> None:
    """Refuse names of no check.

    Raises
    ------
    HklflowError
    """
    if unknown := sorted({*names} - {*CHECKS, "all"}):
        raise HklflowError(f"unknown check {', '.join(unknown)}; use {', '.join(CHECKS)}, or all")


def fatal(
    findings: Sequence[Finding], strict: Sequence[str], ignore: Sequence[str]
) -> list[Finding]:
    """Return the failed checks that end the run: errors not ignored, and warnings in ``strict``.

    Raises
    ------
    HklflowError
        If a name is unknown.
    """
    require_checks([*strict, *ignore])
    strict = list(CHECKS) if "all" in strict else strict
    ignore = list(CHECKS) if "all" in ignore else ignore
    return [
        finding
        for finding in findings
        if not finding.passed
        and (finding.name in strict or (finding.severity == "error" and finding.name not in ignore))
    ]


def _sentence(wrong: Sequence[str]) -> str:
    more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return "; ".join(wrong[:3]) + more


# ------------------------------------------------------------- files and modules


@_check("warning")
def modules_complete(raw: Raw) -> Iterator[str]:
    """All expected modules are present, and no others."""
    missing = raw.facts["missing"]
    if missing:
        yield f"module {_numbers(missing)} has no files"
    other = sorted(set(raw.parts) - set(raw.facts["expected"]))
    if other:
        yield f"module {_numbers(other)} is not an expected module"


@_check("warning")
def parts_equal(raw: Raw) -> Iterator[str]:
    """All modules have the same number of files."""
    most = max(len(parts) for parts in raw.parts.values())
    for number, parts in raw.parts.items():
        if len(parts) < most:
            yield f"module {number} has {len(parts)} of {most} files"


@_check("warning")
def parts_in_row(raw: Raw) -> Iterator[str]:
    """The files of every module are numbered from 0 without a gap."""
    numbers = sorted({part.number for part in raw.each()})
    if numbers != list(range(len(numbers))):
        yield f"files are numbered {_numbers(numbers)}: some are missing"
    for number, parts in raw.parts.items():
        twice = [n for n, times in Counter(part.number for part in parts).items() if times > 1]
        if twice:
            yield f"module {number} has more than one file with number {_numbers(twice)}"


# ---------------------------------------------------------------- inside a file


@_check("error")
def frame_arrays_equal(raw: Raw) -> Iterator[str]:
    """Images, cells and trains of the frames are arrays of equal length."""
    yield from _unequal(raw, "frames")


@_check("error")
def train_arrays_equal(raw: Raw) -> Iterator[str]:
    """Header, detector and trailer have the same number of trains."""
    yield from _unequal(raw, "trains")


def _unequal(raw: Raw, kind: str) -> Iterator[str]:
    for part in raw.each():
        lengths = part.lengths.get(kind, {})
        if len(set(lengths.values())) > 1:
            text = ", ".join(f"{name} {n}" for name, n in lengths.items())
            yield f"{part.path.name} has arrays of unequal length ({text})"


@_check("error")
def index_within_data(raw: Raw) -> Iterator[str]:
    """The index lists only stored frames."""
    for part in raw.each():
        rows, _ = listed(part.first, part.count)
        # `frame_arrays_equal` checks for arrays of unequal length.
        stored = max([len(part.train), *part.lengths.get("frames", {}).values()])
        beyond = int(np.count_nonzero((rows < 0) | (rows >= stored)))
        if beyond:
            yield f"{part.path.name} lists {beyond} frames beyond its {stored} stored frames"


@_check("error")
def no_surplus_frames(raw: Raw) -> Iterator[str]:
    """Every frame with a train is listed by the index."""
    for part in raw.each():
        surplus = np.count_nonzero((part.record() < 0) & (part.train[: part.stored] != NO_TRAIN))
        if surplus:
            yield f"{part.path.name} has {surplus} frames that are not listed in the index"


@_check("error")
def frame_trains(raw: Raw) -> Iterator[str]:
    """The train number stored with each frame equals the train that lists the frame."""
    for part in raw.each():
        record = part.record()
        rows = np.flatnonzero(record >= 0)
        wrong = np.count_nonzero(part.trains[record[rows]] != part.train[rows])
        if wrong:
            yield f"{part.path.name} has {wrong} frames listed under another train"


@_check("warning")
def pulses_counted(raw: Raw) -> Iterator[str]:
    """The number of frames of each train agrees with the detector's header."""
    for part in raw.each():
        if part.pulses is not None:
            wrong = np.count_nonzero((part.pulses != part.count) & (part.trains != NO_TRAIN))
            if wrong:
                yield f"{part.path.name} has {wrong} trains whose length differs from its header"


# ----------------------------------------------------------------------- trains


@_check("error")
def trains_rising(raw: Raw) -> Iterator[str]:
    """The train numbers of a module increase from file to file and from record to record."""
    for number, parts in raw.parts.items():
        lists = [part.trains for part in parts]
        for place in range(1, len(lists)):
            if parts[place].cut and np.array_equal(lists[place][:1], parts[place - 1].trains[-1:]):
                lists[place] = lists[place][1:]
        trains = np.concatenate(lists).astype(np.int64)
        trains = trains[(trains != NO_TRAIN) & ~np.isin(trains, raw.outliers)]
        falls = np.flatnonzero(np.diff(trains) <= 0)
        if len(falls):
            before, after = trains[falls[0]], trains[falls[0] + 1]
            yield f"train {after} of module {number} comes after {before}"


@_check("error")
def no_embedded_zeros(raw: Raw) -> Iterator[str]:
    """There is no train without number between other trains."""
    for part in raw.each():
        known = np.flatnonzero(part.trains != NO_TRAIN)
        zeros = np.count_nonzero(part.trains[: known[-1] + 1] == NO_TRAIN) if len(known) else 0
        if zeros:
            yield f"{part.path.name} has {zeros} trains without number between other trains"


@_check("warning")
def no_trailing_zeros(raw: Raw) -> Iterator[str]:
    """No file ends with frames of a train without number."""
    for part in raw.each():
        known = np.flatnonzero(part.trains != NO_TRAIN)
        end = known[-1] + 1 if len(known) else 0
        lost = int(part.count[end:].sum())
        if lost:
            yield f"{part.path.name} ends with {lost} frames of a train without number"


@_check("warning")
def no_suspect_trains(raw: Raw) -> Iterator[str]:
    """All train numbers came from the machine."""
    for part in raw.each():
        if part.suspect is not None and part.suspect.any():
            yield f"{part.path.name} has {int(part.suspect.sum())} doubtful train numbers"


@_check("warning")
def no_outliers(raw: Raw) -> Iterator[str]:
    """No train number is far from all others."""
    ranges = raw.facts["trains"]["outliers"]
    if ranges:
        yield f"the trains {_ranges(ranges)} are far from the other trains of the run"


@_check("warning")
def modules_aligned(raw: Raw) -> Iterator[str]:
    """All modules begin and end with the same train."""
    trains = {
        n: trains_of_module
        for n, trains_of_module in raw.trains.items()
        if n in raw.whole and len(trains_of_module)
    }
    if not trains:
        return
    first = min(int(trains_of_module[0]) for trains_of_module in trains.values())
    last = max(int(trains_of_module[-1]) for trains_of_module in trains.values())
    for number, trains_of_module in trains.items():
        late, early = int(trains_of_module[0]) - first, last - int(trains_of_module[-1])
        if late or early:
            yield f"module {number} begins {late} trains late and ends {early} early"


@_check("warning")
def no_lost_trains(raw: Raw) -> Iterator[str]:
    """No module lacks trains that other modules have."""
    trains = raw.trains
    everywhere = np.unique(np.concatenate(list(trains.values())))
    for number, trains_of_module in trains.items():
        if len(trains_of_module):
            within = everywhere[
                (everywhere > trains_of_module[0]) & (everywhere < trains_of_module[-1])
            ]
            lost = len(np.setdiff1d(within, trains_of_module))
            if lost:
                yield f"module {number} lacks {lost} of {len(everywhere)} trains"


@_check("warning")
def no_gaps(raw: Raw) -> Iterator[str]:
    """No train between the first and the last one is missing in all modules."""
    gaps = raw.facts["trains"]["gaps"]
    if gaps:
        yield f"no module has the trains {_ranges(gaps)}"


# ------------------------------------------------------------------------ cells


@_check("warning")
def no_lost_pulses(raw: Raw) -> Iterator[str]:
    """All trains have the same number of frames."""
    usual = Counter(n for part in raw.each() for n in part.count[part.trains != NO_TRAIN].tolist())
    if not usual:
        return
    most = usual.most_common(1)[0][0]
    for part in raw.each():
        good = (part.trains != NO_TRAIN) & ~np.isin(part.trains, raw.outliers)
        odd = np.count_nonzero(part.count[good] != most)
        if odd:
            yield f"{part.path.name} has {odd} trains without exactly {most} frames"


@_check("error")
def cells_once(raw: Raw) -> Iterator[str]:
    """Each train has at most one frame of each memory cell."""
    for part in raw.each():
        record = part.record()
        numbered = (record >= 0) & (part.trains[record] != NO_TRAIN)
        rows = np.flatnonzero(numbered & (part.cell[: part.stored] >= 0))
        twice = len(rows) - len(np.unique(record[rows] << 16 | part.cell[rows]))
        if twice:
            yield f"{part.path.name} has {twice} repeated frames of a memory cell in the same train"


@_check("error")
def cells_equal(raw: Raw) -> Iterator[str]:
    """All modules use the same memory cells."""
    cells = {
        number: tuple(c for c in np.unique(np.concatenate([p.cell for p in parts])) if c >= 0)
        for number, parts in raw.parts.items()
    }
    usual = Counter(cells.values()).most_common(1)[0][0]
    for number, used in cells.items():
        if used != usual:
            yield (
                f"module {number} uses {len(used)} memory cells, which are not the {len(usual)} "
                "cells of the other modules"
            )


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def _ranges(ranges: Sequence[Sequence[int]]) -> str:
    texts = [str(a) if a == b else f"{a} to {b}" for a, b in ranges[:5]]
    return ", ".join(texts) + (" ..." if len(ranges) > 5 else "")


def report(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as plain data (JSON)."""
    return {"checks": [vars(finding) for finding in findings]}
