"""Compute the quality of a model that was not refined."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import Rotation, lattice
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks, compare

Floats = NDArray[np.float64]


def unrefined(
    rotations: Sequence[Rotation], peaks: Sequence[Peaks], ub: ArrayLike, tolerance: float
) -> Refined:
    """Compare a model with peaks; the list of peaks may be empty.

    Parameters
    ----------
    rotations : sequence of Rotation
    peaks : sequence of Peaks
        Peaks of each rotation.
    ub : (3, 3) array
        UB in 1/Å with 2π.
    tolerance : float
        Largest deviation of h, k and l of an indexed peak from integers.

    Returns
    -------
    Refined
        A result without parameters; all standard deviations are 0. No peak is ``used``. Indexed
        peaks that cross the Ewald sphere are ``held_out``; ``rmsd`` and ``chi2`` come from them
        (NaN without such peaks).
    """
    ub = np.asarray(ub, dtype=np.float64)
    u, cell = lattice.decompose_ub(ub)
    miller = np.concatenate(
        [r.hkl(ub, p.frame, p.slow, p.fast) for r, p in zip(rotations, peaks, strict=True)]
    ).reshape(-1, 3)
    hkl = np.rint(miller)
    indexed = (np.abs(miller - hkl).max(axis=1) < tolerance) & np.any(hkl != 0, axis=1)
    starts = np.cumsum([0, *(len(p.frame) for p in peaks)])
    residuals = np.full(miller.shape, np.nan)
    for i, (rotation, peaks_of_rotation) in enumerate(zip(rotations, peaks, strict=True)):
        peak_rows = np.arange(starts[i], starts[i + 1])
        rows = peak_rows[indexed[peak_rows]]
        if len(rows):
            residuals[rows] = compare(
                rotation, ub, hkl[rows], peaks_of_rotation.position[rows - starts[i]]
            )[0]
    crossing = indexed & np.all(np.isfinite(residuals), axis=1)
    rmsd, chi2 = np.full(3, np.nan), float("nan")
    if crossing.any():
        rmsd = np.sqrt(np.mean(residuals[crossing] ** 2, axis=0))
        sigma = np.concatenate([p.sigma for p in peaks])
        chi2 = float(np.mean((residuals[crossing] / sigma[crossing]) ** 2))
    none, several = np.zeros(0), np.zeros((0, 0))
    return Refined(
        cell=cell,
        cell_sigma=np.zeros(6),
        cell_covariance=np.zeros((6, 6)),
        u=u,
        ub=ub,
        orientation_sigma=np.zeros(3),
        rotations=list(rotations),
        names=(),
        values=none,
        sigma=none,
        covariance=several,
        hkl=hkl.astype(np.int64),
        indexed=indexed,
        used=np.zeros(len(hkl), dtype=np.bool_),
        held_out=crossing,
        residuals=residuals,
        rmsd=rmsd,
        rmsd_held_out=rmsd if crossing.any() else None,
        fraction_indexed=float(indexed.mean()) if len(indexed) else float("nan"),
        correlations=[],
        condition=float("nan"),
        chi2=chi2,
        cycles=0,
        steps=0,
        warnings=[],
    )
