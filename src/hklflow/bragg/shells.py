"""Statistics of merged reflections in resolution shells of equal volume."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.groups import Groups
from hklflow.bragg.merging import Merged
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Row = dict[str, Any]

_TRIALS = 5  # number of random splits averaged in CC1/2
_FEWEST = 3  # smallest number of unique reflections for a correlation
_PER_SHELL = 10


@dataclass(frozen=True)
class Statistics:
    """Statistics of each shell, from low to high resolution, and of all reflections.

    ``fall_off`` has B and its standard deviation in Å², from ``exp(-2 B (sin θ / λ)²)`` fitted to
    the mean intensities of the shells. This B includes the decrease of the form factors; the B of a
    Wilson plot would require the composition.
    """

    rows: list[Row]
    overall: Row
    fall_off: Row


def statistics(
    merged: Merged,
    cell: Sequence[float],
    group: SpaceGroup,
    n_rotations: int,
    n_shells: int,
    seed: int,
) -> Statistics:
    """Compute R values, CC1/2, completeness and similar statistics of the shells.

    R_merge, R_meas and R_pim are ``Σ f(n) Σ |I - <I>| / Σ Σ I`` over reflections with n ≥ 2
    observations; f = 1, √(n / (n - 1)), √(1 / (n - 1)) (Diederichs & Karplus, Nat. Struct.
    Biol. 4, 269, 1997; Weiss, J. Appl. Cryst. 34, 130, 2001). CC1/2 is the correlation between the
    means of two halves of the observations of each reflection, and CC* = √(2 CC / (1 + CC))
    (Karplus & Diederichs, Science 336, 1030, 2012). The halves are random, or rotations of odd and
    even number, or frames of odd and even number. Unknown values are None.

    Parameters
    ----------
    merged : Merged
    cell : sequence of 6 floats
    group : SpaceGroup
    n_rotations : int
    n_shells : int
        Largest number of shells; each has at least ten reflections.
    seed : int
        Seed of the random halves.
    """
    groups, observed = merged.equivalents, merged.observed
    exact = symmetry.constrain_cell(cell, group)
    d = lattice.d_spacing(exact, groups.hkl)
    apart = merged.factors.plus is not None
    # The limit is slightly smaller, so that the smallest spacing itself is included.
    possible = symmetry.possible_reflections(exact, group, d.min() * (1 - 1e-9), anomalous=apart)
    n_shells = max(1, min(n_shells, len(groups) // _PER_SHELL))
    edges = np.linspace(0.0, (1 / d.min()) ** 3 * (1 + 1e-9), n_shells + 1)
    shell = np.digitize(d**-3, edges) - 1
    there = np.digitize(lattice.d_spacing(exact, possible) ** -3.0, edges) - 1
    mean, total = groups.mean(observed.intensity, observed.sigma**-2)
    halves = _Halves(merged, n_rotations, np.random.default_rng(seed))
    figures = _Figures(observed.intensity, groups, mean, np.sqrt(total), halves)
    rows = []
    with np.errstate(divide="ignore"):
        limits = edges ** (-1 / 3)
    for number in range(n_shells):
        row = figures.row(shell == number, int((there == number).sum()))
        low = None if number == 0 else float(limits[number])
        rows.append({"d max": low, "d min": float(limits[number + 1]), **row})
    everything = figures.row(np.ones(len(groups), dtype=np.bool_), len(possible))
    overall = {"d max": float(d.max()), "d min": float(d.min()), **everything}
    return Statistics(rows, overall, _fall_off(merged, group, rows))


class _Halves:
    """Pairs of means (m,) of two halves of the observations of each group."""

    def __init__(self, merged: Merged, n_rotations: int, rng: np.random.Generator) -> None:
        groups, observed = merged.equivalents, merged.observed
        weight = observed.sigma**-2

        def split(second: Bools) -> tuple[Floats, Floats]:
            return (
                groups.mean(observed.intensity, weight * ~second)[0],
                groups.mean(observed.intensity, weight * second)[0],
            )

        self.by: dict[str, list[tuple[Floats, Floats]]] = {
            "CC1/2": [split(_random_half(groups, rng)) for _ in range(_TRIALS)],
            "CC of odd and even frames": [split(np.floor(observed.frame) % 2 == 1)],
        }
        if n_rotations > 1:
            self.by["CC of rotations"] = [split(observed.rotation % 2 == 1)]


def _random_half(groups: Groups, rng: np.random.Generator) -> Bools:
    """Split each group randomly into halves (n,); of an odd number, one half gets one more."""
    order = np.lexsort((rng.random(len(groups.index)), groups.index))
    start = np.cumsum(groups.n) - groups.n
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - start[groups.index[order]]
    first = rng.integers(0, 2, len(groups))
    half: Bools = (place + first[groups.index]) % 2 == 1
    return half


@dataclass(frozen=True)
class _Figures:
    intensity: Floats
    groups: Groups
    mean: Floats
    root_weight: Floats
    halves: _Halves

    def row(self, use: Bools, possible: int) -> Row:
        """Compute the statistics of the used groups (m,)."""
        n = self.groups.n
        several = use & (n >= 2)
        row: Row = {
            "observations": int(n[use].sum()),
            "unique": int(use.sum()),
            "possible": possible,
            "completeness": _ratio(use.sum(), possible),
            "multiplicity": _ratio(n[use].sum(), use.sum()),
            "mean I": _ratio(self.mean[use].sum(), use.sum()),
            "I/sigma": _ratio((self.mean * self.root_weight)[use].sum(), use.sum()),
        }
        index = self.groups.index
        away = self.groups.sum(np.abs(self.intensity - self.mean[index]))[several]
        total = float(self.groups.sum(self.intensity)[several].sum())
        m = n[several].astype(np.float64)
        for name, factor in (
            ("R_merge", np.ones(len(m))),
            ("R_meas", np.sqrt(m / (m - 1))),
            ("R_pim", np.sqrt(1 / (m - 1))),
        ):
            row[name] = _ratio(float((factor * away).sum()), total) if total > 0 else None
        for name, pairs in self.halves.by.items():
            found = [_correlation(a[use], b[use]) for a, b in pairs]
            known = [cc for cc in found if cc is not None]
            row[name] = float(np.mean(known)) if len(known) == len(found) else None
            if name == "CC1/2":
                row["CC*"] = cc_star(row[name])
        return row


def _ratio(a: float, b: float) -> float | None:
    return float(a / b) if b else None


def _correlation(a: Floats, b: Floats) -> float | None:
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < _FEWEST or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return None
    return float(np.corrcoef(a[both], b[both])[0, 1])


def cc_star(half: float | None) -> float | None:
    """Return CC*, the correlation with the true intensities; None if CC1/2 is negative."""
    return None if half is None or half < 0 else float(np.sqrt(2 * half / (1 + half)))


def _fall_off(merged: Merged, group: SpaceGroup, rows: list[Row]) -> Row:
    """Fit a line to the logarithms of the shells' mean intensities."""
    factors = merged.factors
    s2 = 0.25 / factors.d**2
    level = factors.mean.intensity / group.epsilon(factors.hkl)
    at, values = [], []
    for row in rows:
        inside = (factors.d >= row["d min"]) & (factors.d < (row["d max"] or np.inf))
        mean = float(level[inside].mean()) if inside.any() else 0.0
        if mean > 0:
            at.append(float(s2[inside].mean()))
            values.append(np.log(mean))
    if len(at) < 4:
        return {"B": None, "B sigma": None, "why not": f"{len(at)} shells have a positive mean"}
    fitted, covariance = np.polyfit(at, values, 1, cov="unscaled")
    scatter = np.sum((np.polyval(fitted, at) - values) ** 2) / (len(at) - 2)
    return {"B": -fitted[0] / 2, "B sigma": 0.5 * float(np.sqrt(covariance[0, 0] * scatter))}


def line(table: Statistics) -> str:
    """Return the statistics of all reflections as one line of text."""
    row = table.overall
    shown = {
        "completeness": "{:.1%}",
        "multiplicity": "{:.2f}",
        "I/sigma": "{:.1f}",
        "R_meas": "{:.4f}",
        "R_pim": "{:.4f}",
        "CC1/2": "{:.4f}",
    }
    parts = [
        f"{name} {text.format(row[name]) if row[name] is not None else 'not known'}"
        for name, text in shown.items()
    ]
    return f"{row['unique']} unique reflections to {row['d min']:.3f} Å, {', '.join(parts)}"
