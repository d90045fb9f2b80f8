"""Module level of the calibration from the spots of one refined scan.

The refinement of cell and orientation used the same spots, so it absorbed a part of the module
displacements. Modules and model are therefore fitted in turn until the modules converge.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.calibration.module_data import BraggPeaks, bragg_peaks
from hklflow.calibration.modules import ModuleFit, fit_modules
from hklflow.geometry import Rotation
from hklflow.geometry.modules import Modules
from hklflow.geometry.symmetry import SpaceGroup
from hklflow.orientation.refinement import Refined, RefinementLimits, refine
from hklflow.orientation.residuals import Peaks

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_MIN_POINTS = 10  # modules with fewer spots keep their displacement
_CYCLES = 6
_REST = 0.1  # converged: largest change of a shift, in its σ


@dataclass(frozen=True)
class ModuleLevel:
    """Displaced modules, and the model refined with them.

    Attributes
    ----------
    fit : ModuleFit
        Last fit. Its table compares the fitted modules with the modules before the first fit.
    refined : Refined
        The scan refined with these modules.
    cycles : int
        Number of fits of the modules.
    """

    fit: ModuleFit
    refined: Refined
    cycles: int


def module_level(
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    ub: Floats,
    group: SpaceGroup,
    modules: Modules,
    *,
    free: Sequence[str],
    limits: RefinementLimits,
) -> ModuleLevel:
    """Fit modules and model in turn.

    Parameters
    ----------
    rotations : sequence of Rotation
        Rotations refined with ``modules``; or without modules, if ``modules`` are not displaced.
    peaks : sequence of Peaks
        Peaks that the refinement used; one list for each rotation.
    ub : (3, 3) array
        Orientation matrix, 1/Å.
    group : SpaceGroup
    modules : Modules
        Modules at the start.
    free : sequence of str
        Groups of parameters that are refined.
    limits : RefinementLimits

    Raises
    ------
    HklflowError
        If the spots cannot determine the modules, or modules and model do not converge.
    """
    start = [_with(rotation, modules) for rotation in rotations]
    now, refined, first = start, None, None
    before = modules
    for cycle in range(1, _CYCLES + 1):
        # `bragg_peaks` keeps only the peaks that the model indexes.
        lists = [bragg_peaks(r, ub, p) for r, p in zip(now, peaks, strict=True)]
        fit = fit_modules(before, bragg=lists, min_points=_MIN_POINTS)
        first = first or fit
        move = np.abs(fit.modules.shift - before.shift)
        before = fit.modules
        now = [_with(rotation, before) for rotation in rotations]
        refined = refine(now, peaks, ub, group, free=free, limits=limits)
        now, ub = refined.rotations, refined.ub
        if np.all(move <= _REST * fit.shift_sigma):
            return ModuleLevel(since(first, fit), refined, cycle)
    raise HklflowError(
        f"modules and orientation did not converge in {_CYCLES} fits of the modules; use "
        "a scan with more spots on each module, or powder images"
    )


def _with(rotation: Rotation, modules: Modules) -> Rotation:
    return replace(rotation, detector=replace(rotation.detector, modules=modules))


def since(first: ModuleFit, last: ModuleFit) -> ModuleFit:
    """Return the last fit; as residuals before the fit, it gets those of the first fit."""
    rows = zip(first.table, last.table, strict=True)
    return replace(last, table=tuple(replace(b, rms_before_px=a.rms_before_px) for a, b in rows))


def halves_agree(
    rotations: Sequence[Rotation],
    halves: tuple[Sequence[Peaks], Sequence[Peaks]],
    ub: Floats,
    modules: Modules,
) -> dict[str, Any]:
    """Fit the modules to two halves of the spots, and compare the difference with the error bars.

    Parameters
    ----------
    halves : (sequence of Peaks, sequence of Peaks)
        Two halves of the peaks, each with one list for each rotation.

    Returns
    -------
    dict
        ``figure``: rms of the differences divided by their errors, 1 if the error bars are right;
        ``modules``: number of modules that both halves determine; ``rms difference (px)``.

    Raises
    ------
    HklflowError
        If a half cannot determine the modules.
    """
    lists = [
        [bragg_peaks(_with(r, modules), ub, p) for r, p in zip(rotations, half, strict=True)]
        for half in halves
    ]
    # The mean motion of all fitted modules is fixed, so both halves must fit the same modules.
    counts = [_spots(half, modules) for half in lists]
    both = np.min(counts, axis=0) >= _MIN_POINTS
    fits = [
        fit_modules(
            modules,
            bragg=[_on(peaks, modules, both) for peaks in half],
            min_points=_MIN_POINTS,
        )
        for half in lists
    ]
    a, b = fits
    difference = (a.modules.shift - b.modules.shift)[both]
    sigma = np.hypot(a.shift_sigma, b.shift_sigma)[both]
    return {
        "figure": float(np.sqrt(np.mean((difference / sigma) ** 2))),
        "modules": int(both.sum()),
        "rms difference (px)": float(np.sqrt(np.mean(difference**2))),
    }


def _spots(lists: Sequence[BraggPeaks], modules: Modules) -> NDArray[np.int64]:
    numbers = np.concatenate([modules.module_at(p.slow, p.fast) for p in lists])
    return np.bincount(numbers[numbers >= 0], minlength=len(modules))


def _on(peaks: BraggPeaks, modules: Modules, selected: Mask) -> BraggPeaks:
    """Return the peaks on the selected modules."""
    numbers = modules.module_at(peaks.slow, peaks.fast)
    keep = (numbers >= 0) & selected[numbers]
    columns = ("slow", "fast", "off_slow", "off_fast", "sigma_slow", "sigma_fast")
    return BraggPeaks(peaks.detector, *(getattr(peaks, name)[keep] for name in columns))
