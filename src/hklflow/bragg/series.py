"""Merged intensities of several scans, reflection by reflection."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.groups import Groups
from hklflow.core import series, symmetry
from hklflow.core.structure_factors import Crystal, IntensitySeries, StructureFactors
from hklflow.errors import HklflowError

Floats = NDArray[np.float64]

_ALIKE = 0.03  # of lengths, and radians: cells of one setting, thermal expansion and strain in them

Scan = tuple[Crystal, StructureFactors]


def line_up(scans: Sequence[Scan]) -> IntensitySeries:
    """Line up the reflections of the scans of one sample, from high to low temperature.

    Scans share rows if their space group is the same, in the same setting, and their cells are
    alike. Scale and ΔB relative to the parent are found by `hklflow.core.series.relative_scale`.

    Raises
    ------
    HklflowError
        If the scans are of several samples, or one is given twice.
    """
    names = [crystal.scan for crystal, _ in scans]
    samples = {crystal.sample for crystal, _ in scans}
    if len(samples) > 1 or len(set(names)) < len(names):
        raise HklflowError(
            f"scans {', '.join(names)} of {', '.join(sorted(samples))}; give each scan of one "
            "sample once"
        )
    known = [c.temperature is not None for c, _ in scans]
    order = sorted(
        range(len(scans)),
        key=lambda i: (not known[i], -(scans[i][0].temperature or 0.0), names[i]),
    )
    scans = [scans[i] for i in order]
    settings = _settings([crystal for crystal, _ in scans])
    blocks = []
    for setting in dict.fromkeys(settings):
        members = [i for i, other in enumerate(settings) if other == setting]
        blocks.append((setting, members, Groups.of(_hkl(scans, members))))
    n, t = sum(len(groups) for _, _, groups in blocks), len(scans)
    hkl = np.concatenate([groups.hkl for _, _, groups in blocks])
    d, intensity, sigma = np.full(n, np.nan), np.full((n, t), np.nan), np.full((n, t), np.nan)
    count = np.zeros((n, t), dtype=np.int64)
    start = 0
    for _, members, groups in blocks:
        ends = np.cumsum([0, *(len(scans[i][1]) for i in members)])
        for i, low, high in zip(members, ends[:-1], ends[1:], strict=True):
            rows, factors = start + groups.index[low:high], scans[i][1]
            intensity[rows, i], sigma[rows, i] = factors.mean.intensity, factors.mean.sigma
            count[rows, i] = factors.mean.n
            d[rows] = np.where(np.isnan(d[rows]), factors.d, d[rows])
        start += len(groups)
    relative, notes = _relative(scans)
    return IntensitySeries(
        hkl=hkl,
        d=d,
        settings=tuple(setting for setting, _, groups in blocks for _ in range(len(groups))),
        scans=tuple(crystal.scan for crystal, _ in scans),
        parents=tuple(crystal.parent for crystal, _ in scans),
        temperature=np.array(
            [np.nan if c.temperature is None else c.temperature for c, _ in scans]
        ),
        intensity=intensity,
        sigma=sigma,
        n=count,
        scale=np.array([r.scale for r in relative]),
        scale_sigma=np.array([r.scale_sigma for r in relative]),
        decay=np.array([r.debye_waller for r in relative]),
        decay_sigma=np.array([r.debye_waller_sigma for r in relative]),
        notes=tuple(notes),
    )


def _hkl(scans: Sequence[Scan], members: list[int]) -> NDArray[np.int64]:
    return np.concatenate([scans[i][1].hkl for i in members])


def _settings(crystals: list[Crystal]) -> list[str]:
    """Name of the setting of each scan: the parent of its first member."""
    firsts: list[Crystal] = []
    names = []
    for crystal in crystals:
        first = next((other for other in firsts if _alike(crystal, other)), None)
        if first is None:
            firsts.append(first := crystal)
        names.append(first.parent)
    return names


def _alike(one: Crystal, other: Crystal) -> bool:
    a, b = np.array(one.cell), np.array(other.cell)
    same = symmetry.space_group(one.space_group) == symmetry.space_group(other.space_group)
    near = np.all(np.abs(a[:3] / b[:3] - 1) < _ALIKE)
    return bool(same and near and np.all(np.abs(np.radians(a[3:] - b[3:])) < _ALIKE))


def _relative(scans: Sequence[Scan]) -> tuple[list[series.RelativeScale], list[str]]:
    """Scale of each scan relative to its parent, and what is said of those without."""
    by_name = {crystal.scan: (crystal, factors) for crystal, factors in scans}
    nan = float("nan")
    found, notes = [], []
    for crystal, factors in scans:
        parent = by_name.get(crystal.parent)
        if crystal.scan == crystal.parent:
            found.append(series.RelativeScale(1.0, 0.0, 0.0, 0.0, 0.0, 0))
            continue
        if parent is None or not _alike(crystal, parent[0]):
            why = "not given" if parent is None else "of another setting"
            notes.append(f"{crystal.scan}: no scale, its parent {crystal.parent} is {why}")
            found.append(series.RelativeScale(nan, nan, nan, nan, nan, 0))
            continue
        one = series.relative_scale({"": _plain(factors)}, {"": _plain(parent[1])})
        if one.scale != one.scale:
            notes.append(
                f"{crystal.scan}: no scale, it has {one.n} strong reflections in common with its "
                f"parent {crystal.parent}, and ten are needed"
            )
        found.append(one)
    return found, notes


def _plain(factors: StructureFactors) -> series.Reflections:
    """Merged reflections as the comparison of scans takes them."""
    keep = factors.mean.intensity > 0
    n = int(keep.sum())
    none = np.full(n, np.nan)
    return series.Reflections(
        hkl=factors.hkl[keep],
        side=np.zeros(n, dtype=np.int64),
        turn=np.zeros(n, dtype=np.int64),
        s=0.5 / factors.d[keep],
        zeta=none,
        intensity=factors.mean.intensity[keep],
        var=factors.mean.sigma[keep] ** 2,
        width=none,
        single=np.zeros(n, dtype=np.bool_),
    )
