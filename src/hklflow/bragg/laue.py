"""Test if the Laue group is too high: compare R_meas with its subgroups."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.groups import Groups
from hklflow.bragg.structure_factors import Scaled
from hklflow.geometry import subgroups, symmetry
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# The Laue group is in doubt if its R_meas exceeds the R_meas of a subgroup by this factor,
_TIMES = 2.0
_MORE = 0.05  # and by this difference.
_FEWEST = 30  # deviations of equivalents


@dataclass(frozen=True)
class LaueGroup:
    """Agreement of equivalents in a Laue group: R_meas, and number of deviations from the means.

    ``r_meas`` is None without equivalents. ``symbol`` is the Laue group, with a space group that
    shows its axes.
    """

    symbol: str
    order: int
    r_meas: float | None
    deviations: int


@dataclass(frozen=True)
class LaueGroups:
    """The given Laue group and its subgroups, in this order, and warnings."""

    groups: tuple[LaueGroup, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return a list for JSON."""
        return [vars(group) for group in self.groups]


def examine(table: Scaled, group: SpaceGroup) -> LaueGroups:
    """Compare the Laue group with its subgroups; outliers are included.

    Parameters
    ----------
    table : Scaled
        Observations without systematic absences.
    group : SpaceGroup
    """
    different: dict[frozenset[bytes], tuple[str, Integers]] = {}
    for sub in subgroups.subgroups(group):
        key = frozenset(np.ascontiguousarray(m).tobytes() for m in sub.laue_operations)
        laue = symmetry.space_group(f"Hall: {sub.hall}").laue
        different.setdefault(key, (f"{laue} ({sub.symbol})", sub.laue_operations))
    found = []
    for symbol, operations in different.values():
        r_meas, deviations = _r_meas(table, operations)
        found.append(LaueGroup(symbol, len(operations), r_meas, deviations))
    given, *others = sorted(found, key=lambda g: (-g.order, g.symbol))
    known = [g for g in others if g.deviations >= _FEWEST and g.r_meas is not None]
    warnings = []
    if known and given.r_meas is not None:
        # Choose the most symmetric of the groups that agree about as well as the best group.
        least = min(g.r_meas for g in known if g.r_meas is not None)
        good = [g for g in known if g.r_meas is not None and g.r_meas <= 1.3 * least + 0.01]
        best = max(good, key=lambda g: g.order)
        if given.r_meas > _TIMES * least and given.r_meas > least + _MORE:
            warnings.append(
                f"the Laue group {group.laue} is contradicted: its equivalents have R_meas "
                f"{given.r_meas:.3f}, those of {best.symbol} have {best.r_meas:.3f}"
            )
    return LaueGroups((given, *others), tuple(warnings))


def _r_meas(table: Scaled, operations: Integers) -> tuple[float | None, int]:
    """Return R_meas with unweighted means, and the number of deviations."""
    turned = np.einsum("oij,nj->noi", operations, table.hkl)
    # The last equivalent in the order of h, k, l represents all equivalents.
    span = 2 * int(np.abs(turned).max(initial=0)) + 1
    code = (turned[..., 0] * span + turned[..., 1]) * span + turned[..., 2]
    chosen = turned[np.arange(len(turned)), np.argmax(code, axis=1)]
    groups = Groups.of(chosen)
    several = groups.n >= 2
    mean = groups.sum(table.intensity) / groups.n
    away = groups.sum(np.abs(table.intensity - mean[groups.index]))[several]
    n = groups.n[several]
    total = float((mean[several] * n).sum())
    if not several.any() or total <= 0:
        return None, 0
    return float(np.sum(np.sqrt(n / (n - 1.0)) * away) / total), int(np.sum(n - 1))
