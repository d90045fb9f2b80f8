"""Propose what to do with a scan that no longer fits its parent, with settings to paste.

This module is plain Python, like `quality.gates`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.base.names import ANALYSIS

_SAME = 0.02  # largest difference between equal propagation vectors, in each component
_MARGIN = 0.05  # added to the observed fraction of unindexed peaks in a proposed limit


def module_calibration(sample: str, scan: str) -> str:
    """Return the command that calibrates the detector modules with the peaks of a scan."""
    version = f"{sample}-{scan}".replace(ANALYSIS, "-")
    return (
        f"hklflow calibration propose {version} --level module --bragg {sample}/{scan} "
        '--author "..."'
    )


def proposal(
    figures: Mapping[str, Any],
    parent: Mapping[str, Any],
    identity: Mapping[str, Any],
    *,
    rise: float | None,
    unindexed: float | None,
    broken: bool,
    absent: bool,
    jumped: bool,
) -> str:
    """Return the sentence that proposes what to do.

    Parameters
    ----------
    figures, parent, identity : mapping
        As for `quality.gates.failures`.
    rise : float or None
        Increase of the fraction of unindexed peaks, if it exceeds its limit.
    unindexed : float or None
        Fraction of unindexed peaks, if it exceeds its limit.
    broken : bool
        True if a relation of the cell is broken.
    absent : bool
        True if forbidden reflections are observed.
    jumped : bool
        True if the change of an axis or of the volume exceeds its limit.
    """
    satellites = _modulation(figures, parent)
    if satellites and rise is not None and not (broken or absent or jumped):
        return _kept(identity, satellites, rise, unindexed)
    scan = identity["scan"]
    place = _beyond(identity)
    group, cell, others, why = _lattice(figures, parent, identity, rise, broken or absent)
    numbers = [_number(value) for value in cell]
    settings = f"space_group: {group}, cell: [{', '.join(numbers)}]"
    alternatives = f" (or {', '.join(others)})" if others else ""
    copied, more = "", ""
    if satellites:
        # If satellites outnumber the main reflections, indexing would not find the main lattice.
        file = f"{scan}_start.json"
        copied = f"copy results/{identity['sample']}/{scan}/orientation.json to {file}, "
        more = f", orientation: {{start: {file}}}"
        if unindexed is not None:
            more += f", accept: {{max_unindexed: {_above(unindexed)}}}"
        why += f"the main reflections without {satellites}; "
        settings += _main_only(figures)
    # An analysis with its own `refine_parent` is its own parent.
    table = "" if ANALYSIS in scan else f"in scans.tsv put `{scan}` in the column `parent`, and "
    todo = f"make {scan} a parent, also of the scans {place}"
    if scan == identity["parent"]:
        table, todo = "", f"{scan} is a parent: correct its lattice"
    return (
        f"{todo}, e.g. {why}space "
        f"group {group}{alternatives}, cell {' '.join(numbers)}: {copied}{table}"
        f"in config.yaml `per_scan: {{{identity['sample']}/{scan}: "
        f"{{refine_parent: {{{settings}}}{more}}}}}`"
    )


def along(identity: Mapping[str, Any]) -> tuple[Axis, float | None, float | None]:
    """Return the axis of the series, and the values of the scan and its parent."""
    if "axis" not in identity:
        return TEMPERATURE, identity["temperature"], identity["parent_temperature"]
    return Axis(**identity["axis"]), identity["value"], identity["parent_value"]


def _beyond(identity: Mapping[str, Any]) -> str:
    """Return which other scans need the new parent: those on the far side of the parent's."""
    axis, here, parent = along(identity)
    if here is None:
        return f"beyond {identity['scan']}"
    if parent is None or parent == here:
        return f"beyond {axis.at(here)}"
    return f"{'below' if here < parent else 'above'} {axis.at(here)}"


def _main_only(figures: Mapping[str, Any]) -> str:
    """Return settings that index only the main reflections among many satellites."""
    nearest = min(max(map(abs, x["vector"])) for x in figures["incommensurate"])
    fraction = max(0.6 * (1 - figures["fraction unindexed"]), 0.05)
    return f", min_indexed: {min(fraction, 0.5):.2f}, hkl_tolerance: {min(0.6 * nearest, 0.25):.2f}"


def _lattice(
    figures: Mapping[str, Any],
    parent: Mapping[str, Any],
    identity: Mapping[str, Any],
    rise: float | None,
    lower: bool,
) -> tuple[str, Sequence[float], Sequence[str], str]:
    """Return space group, cell, other groups, and the description of a superlattice."""
    group, cell, others = identity["space_group"], figures["cell"], []
    if lower and figures["subgroups"]:
        best, *rest = figures["subgroups"]
        group, cell = best["space_group"], best["cell"]
        others = [x["space_group"] for x in rest]
    offsets = [x for x in figures["offsets"] if rise is not None or is_new(x, parent)]
    larger = figures.get("superlattice")
    if larger is not None and (offsets or lower):
        group, cell, others = larger["space_group"], larger["cell"], larger["others"]
    if not offsets:
        return group, cell, others, ""
    first = vector_text(offsets[0]["vector"])
    vector = f"a superlattice with the propagation vector {first}, in "
    if larger is not None:
        vector += f"{larger['volume']} times the parent's primitive cell; "
        return group, cell, others, vector
    # Without a free cell, it is unknown which arms of the vector occur.
    times = offsets[0]["multiples"]
    vector += f"the parent's cell multiplied {' x '.join(map(str, times))} or a smaller one; "
    if lower:
        return group, cell, others, vector
    cell = [x * n for x, n in zip(figures["cell"], (*times, 1, 1, 1), strict=True)]
    return offsets[0]["space_group"], cell, [], vector


def is_new(offset: Mapping[str, Any], parent: Mapping[str, Any]) -> bool:
    """Return True if the parent has no peaks at a propagation vector."""
    known = [*parent["offsets"], *parent.get("incommensurate", ())]
    return not any(is_same_vector(offset["vector"], other["vector"]) for other in known)


def is_same_vector(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return True if two propagation vectors agree within the scatter of their peaks."""
    return all(abs(x - y) < _SAME for x, y in zip(first, second, strict=True))


def _modulation(figures: Mapping[str, Any], parent: Mapping[str, Any]) -> str:
    """Return incommensurate satellites as text if they are most of the new peaks, else empty."""
    new = [x for x in figures.get("incommensurate", ()) if is_new(x, parent)]
    # Peaks of a twin are at many such positions, with a few peaks at each.
    if not new or max(x["peaks"] for x in new) < 0.5 * figures["unindexed peaks"]:
        return ""
    if figures.get("other crystals"):
        return ""
    vectors = " and ".join(vector_text(x["vector"], x["sigma"]) for x in new[:2])
    return f"the satellites at {vectors}, which are incommensurate: no cell indexes them"


def _above(fraction: float) -> str:
    """Return a limit, as text, that is above a fraction."""
    return f"{math.ceil(100 * min(fraction + _MARGIN, 1.0)) / 100:.2f}"


def _kept(
    identity: Mapping[str, Any], satellites: str, rise: float, unindexed: float | None
) -> str:
    limits = f"max_unindexed_rise: {_above(rise)}"
    if unindexed is not None:
        limits += f", max_unindexed: {_above(unindexed)}"
    name = f"{identity['sample']}/{identity['scan']}"
    return (
        f"{identity['scan']} has {satellites}. Its main reflections fit the parent: give it no "
        f"other cell. To use the parent's cell, with the satellites between its reflections, set "
        f"in config.yaml `per_scan: {{{name}: {{accept: {{{limits}}}}}}}`"
    )


def _number(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _denominator(x: float) -> int | None:
    return next((n for n in (1, 2, 3, 4, 6, 12) if abs(x * n - round(x * n)) < 1e-6), None)


def vector_text(vector: Sequence[float], sigma: Sequence[float] | None = None) -> str:
    """Format a propagation vector with fractions, such as ``(1/2, 1/2, 0)``.

    Incommensurate components have an error, such as ``(0, 0, 0.2876(4))``.
    """
    parts = []
    for i, x in enumerate(vector):
        n = _denominator(x)
        if n is None or (sigma is not None and sigma[i] > 0):
            parts.append(_with_error(x, 0.0 if sigma is None else sigma[i]))
        else:
            parts.append(f"{round(x * n)}/{n}" if n > 1 else f"{round(x)}")
    return f"({', '.join(parts)})"


def _with_error(x: float, sigma: float) -> str:
    """Format a value with its standard uncertainty in the last digits, such as ``0.2876(4)``."""
    if sigma <= 0:
        return f"{x:.4f}"
    digits = max(-math.floor(math.log10(sigma)), 0)
    if round(sigma * 10**digits) < 2:
        digits += 1
    return f"{x:.{digits}f}({round(sigma * 10**digits)})"
