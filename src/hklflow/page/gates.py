"""Table of the gates of `accept`: each gate with its value, its limit and its result."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hklflow.base.values import CELL_NAMES
from hklflow.orientation.limits import Limits
from hklflow.quality import remedies
from hklflow.quality.gates import failures, untested

_UNTESTED = "not tested"
_MOTION = "Motion (pixel, frame)"
_OPEN: dict[str, Any] = {
    "max_unindexed_rise": math.inf,
    "max_absent": math.inf,
    "min_strain": math.inf,
    "max_expansion": math.inf,
    "max_shift": math.inf,
    "max_crystal": math.inf,
    "max_unindexed": math.inf,
}


@dataclass(frozen=True)
class Gate:
    """One gate of one scan, as text."""

    name: str
    figure: str
    limit: str
    passed: bool


def table(accepted: Mapping[str, Any]) -> list[Gate]:
    """List the gates of a scan.

    Parameters
    ----------
    accepted : mapping
        Product of `accept`: numbers of the scan and its parent, limits, temperatures.
    """
    limits = Limits(**accepted["limits"])
    figures, parent = accepted["figures"], accepted["parent_figures"]

    def holds(*names: str) -> bool:
        # To test a single gate, remove the limits of all other gates.
        alone = replace(limits, **{key: x for key, x in _OPEN.items() if key not in names})
        return not failures(figures, parent, alone, accepted)

    if untested(figures, parent, accepted) is not None:
        return [Gate("Gates", _UNTESTED, "too few peaks", True)]
    rise = figures["fraction unindexed"] - parent["fraction unindexed"]
    absent = figures["absent reflections"]["fraction"] - parent["absent reflections"]["fraction"]
    relations = sorted(figures["relations"], key=lambda r: (-limits.broken(r), -r["relative"]))
    relation = "none to keep"
    if relations:
        worst = relations[0]
        relation = f"{_greek(worst['relation'])}: {worst['relative']:.3%}, {worst['z']:.1f}σ"
    return [
        Gate(
            "Rise of peaks not indexed",
            _signed(rise, 1),
            f"{limits.max_unindexed_rise:.1%}",
            holds("max_unindexed_rise"),
        ),
        Gate(
            "Rise of forbidden peaks",
            _signed(absent, 1),
            f"{limits.max_absent:.1%}",
            holds("max_absent"),
        ),
        Gate(
            "Relations of the cell",
            relation,
            f"{limits.min_strain:.2%} and {limits.min_z:g}σ",
            holds("min_strain"),
        ),
        _size(accepted, limits, holds("max_expansion")),
        Gate(_MOTION, _motion(figures), f"{limits.max_shift:g}", holds("max_shift")),
        Gate(
            "Peaks not indexed",
            _share_unindexed(figures),
            f"{limits.max_unindexed:.1%}",
            holds("max_unindexed"),
        ),
        Gate(
            "Second crystal", _crystal(figures), f"{limits.max_crystal:.1%}", holds("max_crystal")
        ),
    ]


def _motion(figures: Mapping[str, Any]) -> str:
    """Return the largest shift of the spots; not tested for a fixed orientation."""
    if "motions" not in figures:
        return _UNTESTED
    if figures["lost"]:
        return "crystal lost"
    sizes = [m[f"shift in {x}"] for m in figures["motions"] for x in ("pixels", "frames")]
    return f"{max(sizes):.2g}" if sizes else "none"


def _crystal(figures: Mapping[str, Any]) -> str:
    if "other crystals" not in figures:
        return _UNTESTED
    shares = [other["share"] for other in figures["other crystals"]]
    return f"{max(shares):.1%}" if shares else "none"


def _share_unindexed(figures: Mapping[str, Any]) -> str:
    shares = [left["fraction"] for left in figures.get("unindexed", ())]
    return f"{max(shares):.1%}" if shares else _UNTESTED


def _size(accepted: Mapping[str, Any], limits: Limits, passed: bool) -> Gate:
    figures, parent = accepted["figures"], accepted["parent_figures"]
    name = "Change of the cell"
    along = remedies.along(accepted)[0]
    if not along.is_temperature:
        return Gate(name, _UNTESTED, f"not along {along.name}", passed)
    temperatures = (accepted["temperature"], accepted["parent_temperature"])
    if None in temperatures:
        return Gate(name, _UNTESTED, "no temperature", passed)
    axes = zip(CELL_NAMES[:3], figures["cell"], parent["cell"], strict=False)
    changes = [(axis, math.log(value / before)) for axis, value, before in axes]
    axis, largest = max(changes, key=lambda change: abs(change[1]))
    step = abs(temperatures[0] - temperatures[1])
    limit = limits.max_expansion * step + limits.min_jump
    return Gate(name, f"{axis} {_signed(largest, 3)}", f"{limit:.2%} + {limits.min_z:g}σ", passed)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}%}".replace("-", "−")


def _greek(relation: str) -> str:
    for name, letter in (("alpha", "α"), ("beta", "β"), ("gamma", "γ")):
        relation = relation.replace(name, letter)
    return relation
