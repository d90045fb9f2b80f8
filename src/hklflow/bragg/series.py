"""Align the merged intensities of several scans, reflection by reflection."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.bragg.groups import Groups
from hklflow.bragg.structure_factors import Crystal, IntensitySeries, StructureFactors
from hklflow.geometry import symmetry
from hklflow.orientation import series

Floats = NDArray[np.float64]

_MOST = 30  # iterations of the relative scale
_ALIKE = 0.03  # largest difference of two cells with the same setting: lengths relative, radians

Scan = tuple[Crystal, StructureFactors]


def line_up(scans: Sequence[Scan]) -> IntensitySeries:
    """Align the reflections of the scans of one sample, sorted from high to low temperature.

    Two scans share the rows of the table if they have the same space group in the same setting, and
    similar cells. Scale and ΔB relative to the parent are reported, not applied.

    Raises
    ------
    HklflowError
        If the scans are of several samples, or a scan is given twice.
    """
    names = [crystal.scan for crystal, _ in scans]
    samples = {crystal.sample for crystal, _ in scans}
    if len(samples) > 1 or len(set(names)) < len(names):
        raise HklflowError(
            f"scans {', '.join(names)} of {', '.join(sorted(samples))}: give scans of one sample, "
            "each once"
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
    """Return the setting of each scan, named after the parent of the first scan that has it."""
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
    """Return the scale of each scan relative to its parent, and notes on scans without a scale."""
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
            notes.append(
                f"{crystal.scan} has no scale, because its parent {crystal.parent} is {why}"
            )
            found.append(series.RelativeScale(nan, nan, nan, nan, nan, 0))
            continue
        one = _against(factors, parent[1])
        if one.scale != one.scale:
            notes.append(
                f"{crystal.scan} has no scale: it has only {one.n} strong reflections in common "
                f"with its parent {crystal.parent}, and ten are needed"
            )
        found.append(one)
    return found, notes


def _against(factors: StructureFactors, parent: StructureFactors) -> series.RelativeScale:
    """Fit ``I = k I_parent exp(-2 ΔB s²)``; intensities, not logarithms: they may be negative."""
    groups = Groups.of(np.concatenate([factors.hkl, parent.hkl]))
    mine, theirs = groups.index[: len(factors)], groups.index[len(factors) :]
    strong = parent.mean.intensity > series.STRONG * parent.mean.sigma
    _, ours, its = np.intersect1d(mine, theirs[strong], return_indices=True)
    its = np.flatnonzero(strong)[its]
    if len(ours) < series.FEWEST:
        nan = float("nan")
        return series.RelativeScale(nan, nan, nan, nan, nan, len(ours))
    found, sigma = factors.mean.intensity[ours], factors.mean.sigma[ours]
    known, error = parent.mean.intensity[its], parent.mean.sigma[its]
    design = np.stack([np.ones(len(ours)), -2 * (0.5 / parent.d[its]) ** 2], axis=1)
    x = np.array([np.log(max(found.sum() / known.sum(), 1e-6)), 0.0])
    for _ in range(_MOST):
        model = known * np.exp(design @ x)
        # Variance relative to the model; the error of the model is included.
        var = (sigma / model) ** 2 + (error / known) ** 2
        change, covariance, tau = series.robust_line(design, found / model - 1, var)
        x = x + np.clip(change, -1.0, 1.0)
        if np.all(np.abs(change) < 1e-3 * np.sqrt(np.diag(covariance))):
            break
    off = np.sqrt(np.diag(covariance))
    k = float(np.exp(x[0]))
    return series.RelativeScale(k, k * float(off[0]), float(x[1]), float(off[1]), tau, len(ours))
