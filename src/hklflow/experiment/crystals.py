"""Problems of the sets of scans that are merged: section `crystals` of the configuration."""

import re
from collections.abc import Collection, Iterator, Mapping

from hklflow.base.names import measured
from hklflow.experiment.models import Config, SeveralScans
from hklflow.experiment.tables import Sample


def problems(
    config: Config, samples: Mapping[str, Sample], scans: Collection[tuple[str, str]]
) -> Iterator[str]:
    """Yield the problems of all sets.

    Parameters
    ----------
    config : Config
    samples : mapping
        Rows of the table of samples.
    scans : collection of (str, str)
        Sample and scan of every scan of the experiment.
    """
    known = {f"{sample}/{scan}" for sample, scan in scans}
    for name, entry in config.crystals.items():
        where = f"config: crystals.{name}"
        for scan in entry.scans:
            if scan not in known:
                yield f"{where}: there is no scan {scan!r} (scans are named `sample/scan`)"
        for scan in sorted({scan for scan in entry.scans if entry.scans.count(scan) > 1}):
            yield f"{where}: {scan} is given twice; give each scan once"
        of_base: dict[str, list[str]] = {}
        for scan in dict.fromkeys(entry.scans):
            of_base.setdefault(measured(scan), []).append(scan)
        for same in of_base.values():
            if len(same) > 1:
                yield f"{where}: {' and '.join(same)} have the same frames; give one of them"
        yield from (f"{where}: {problem}" for problem in _of_substances(entry, samples))
        if entry.leave_out == "auto":
            continue
        for scan in entry.leave_out:
            if scan not in entry.scans:
                yield f"{where}: leave_out names {scan!r}, which is not among its scans"
        if len(set(entry.scans) - set(entry.leave_out)) < 2:
            yield f"{where}: leave_out leaves fewer than two scans; remove the set or name fewer"


def _of_substances(entry: SeveralScans, samples: Mapping[str, Sample]) -> Iterator[str]:
    """Yield a sentence if the formulas of the samples have different elements."""
    first: dict[frozenset[str], Sample] = {}
    for name, _ in entry.keys:
        if name in samples and (formula := samples[name].formula):
            elements = frozenset(re.findall("[A-Z][a-z]?", formula))
            first.setdefault(elements, samples[name])
    if len(first) > 1:
        formulas = " and ".join(f"{one.name} ({one.formula})" for one in first.values())
        yield f"{formulas} are different substances; make a set of each, or correct the formulas"
