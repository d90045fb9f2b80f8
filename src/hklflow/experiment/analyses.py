"""Analyses of a scan: the same raw frames, reduced with other parameters under another name.

An entry ``sample/scan@name`` of ``per_scan`` is an analysis. It is a scan in every way: it has its
own products, gates, page and jobs. Only its rows of the table are those of the scan it analyses.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hklflow.base.names import ANALYSIS
from hklflow.experiment.tables import Scan, check_name, length_problem

Key = tuple[str, str]
"""Sample and scan."""


def with_analyses(
    scans: Mapping[Key, Scan], per_scan: Mapping[str, Mapping[str, Any]], problems: list[str]
) -> dict[Key, Scan]:
    """Return the scans, each followed by its analyses; add wrong names to ``problems``.

    The parent of an analysis is the analysis of its scan's parent with the same name, if there is
    one, else the parent of its scan. An analysis with its own `refine_parent` is its own parent.
    """
    named: dict[Key, list[str]] = {}
    for entry in per_scan:
        sample, _, own = entry.partition("/")
        base, mark, name = own.partition(ANALYSIS)
        # An unknown scan is reported with the other unknown scans of `per_scan`.
        if mark and (sample, base) in scans:
            before = len(problems)
            check_name(name, "analysis", f"config: per_scan.{entry}", problems)
            if (problem := length_problem(own, "scan with analysis")) is not None:
                problems.append(f"config: per_scan.{entry}: {problem}")
            if len(problems) == before:
                named.setdefault((sample, base), []).append(name)
    found: dict[Key, Scan] = {}
    for key, scan in scans.items():
        found[key] = scan
        for name in named.get(key, ()):
            found[key[0], scan.name + ANALYSIS + name] = _analysis(scan, name, named, per_scan)
    return found


def _analysis(
    scan: Scan,
    name: str,
    named: Mapping[Key, Iterable[str]],
    per_scan: Mapping[str, Mapping[str, Any]],
) -> Scan:
    own = scan.name + ANALYSIS + name
    if scan.parent == scan.name or "refine_parent" in per_scan[f"{scan.sample}/{own}"]:
        parent = own
    elif name in named.get((scan.sample, scan.parent), ()):
        parent = scan.parent + ANALYSIS + name
    else:
        parent = scan.parent
    return replace(scan, name=own, parent=parent)
