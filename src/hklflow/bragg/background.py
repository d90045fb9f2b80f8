"""Background around a reflection: a surface in S, fitted to a shell of voxels.

The surface is a plane. If the diffuse scattering is curved below the reflections, the surface also
has curvature along frame, slow and fast. The mean curvature and its spread among the reflections
are determined first (`Curvature`) and are the prior of each fit.

Voxels above the background (spots that are not predicted, hot pixels) are rejected in small cells.
A cell with improbable counts is rejected together with all neighbouring cells, whatever the counts
of these cells. The remaining voxels are therefore almost unbiased: a limit of 4.5 standard
deviations lowers the mean of a cell by only 3e-5 of its standard deviation.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.normal_sums import (
    V_CELL,
    V_COUNTS,
    V_NORM,
    V_READ,
    V_SHARE,
    V_USED,
    V_X,
    V_XX,
    V_Y,
    V_YY,
    V_Z,
    V_ZZ,
    normal_sums,
)
from hklflow.simd.jit import kernel

F64 = NDArray[np.float64]

_LIMIT = 4.5
# Largest relative deviation of a cell from the plane that curvature may explain.
_CURVED = 0.15
_ITERATIONS = 3
# Standard deviations: a curvature above the first is significant; above the second an outlier.
_KNOWN = 4.0
_OFF = 4.0
_FEWEST = 30
# Smallest spread of the curvature relative to its mean.
_VAGUE = 0.2
#: Number of terms of a plane, and of a curved surface.
PLANE, CURVED = 4, 7


@dataclass(frozen=True)
class Curvature:
    """Curvature of the background relative to its level, along (frame, slow, fast).

    ``S = S_0 (1 + ... + c_z z² + c_y y² + c_x x²)`` with z, y and x in voxels from the centre.

    Attributes
    ----------
    mean, spread : (3,) array
        Mean and standard deviation of c over the reflections, 1/voxel². All 0: the surface is a
        plane.
    """

    mean: F64 = field(default_factory=lambda: np.zeros(3))
    spread: F64 = field(default_factory=lambda: np.zeros(3))

    @property
    def terms(self) -> int:
        """Number of terms of the fitted surface."""
        return CURVED if np.any(self.spread > 0) else PLANE


def curvature_of(level: F64, bend: F64, variance: F64) -> Curvature:
    """Return the common curvature of backgrounds, from fits without a prior for the curvature.

    Parameters
    ----------
    level : (n,) array
    bend, variance : (n, 3) array
        Second-order terms and their variances.
    """
    known = np.all(np.isfinite(variance) & (variance > 0), axis=1) & np.isfinite(level)
    if known.sum() < _FEWEST or not level[known].mean() > 0:
        return Curvature()
    level, bend, variance = level[known], bend[known], variance[known]
    mean, spread, error = np.zeros(3), np.zeros(3), np.zeros(3)
    certain = False
    for a in range(3):
        keep = np.ones(len(level), dtype=bool)
        for _ in range(5):
            n, middle = keep.sum(), level[keep].mean()
            # Ratio of sums. Single ratios would get weights that depend on the noise of the level.
            mean[a] = bend[keep, a].sum() / level[keep].sum()
            off2 = (bend[:, a] - mean[a] * level) ** 2
            excess = off2 - variance[:, a]
            tau2 = max(float(excess[keep].mean()), 0.0)
            keep = off2 < _OFF**2 * (variance[:, a] + tau2)
        error[a] = np.sqrt(off2[keep].mean() / n) / middle
        certain |= abs(mean[a]) > _KNOWN * error[a]
        certain |= tau2 > _KNOWN * float(excess[keep].std()) / np.sqrt(n)
        spread[a] = np.sqrt(tau2) / middle
    if not certain:
        return Curvature()
    return Curvature(mean, np.maximum(np.maximum(spread, _VAGUE * np.abs(mean)), error))


@kernel
def level_at(level: F64, z: float, y: float, x: float) -> float:
    """Return S of a surface (7 terms) at coordinates in half boxes."""
    return (
        level[0]
        + z * (level[1] + z * level[4])
        + y * (level[2] + y * level[5])
        + x * (level[3] + x * level[6])
    )


@kernel
def level_of(level: F64, rows: F64, r: int) -> float:
    """Return S of a surface (7 terms) in row r of a list of sums over voxels."""
    return (
        level[0]
        + (rows[V_Z, r] * level[1] + rows[V_ZZ, r] * level[4])
        + (rows[V_Y, r] * level[2] + rows[V_YY, r] * level[5])
        + (rows[V_X, r] * level[3] + rows[V_XX, r] * level[6])
    )


@kernel
def least_level(rows: F64, m: int, level: float) -> float:
    """Return the smallest S that is used for the variance of a voxel.

    It is above 0: the fitted plane may cross zero, and zero counts do not prove zero intensity.
    """
    total = 0.0
    for r in range(m):
        total += rows[V_NORM, r]
    return max(0.1 * level, 0.5 / max(total, 1e-300))


@kernel
def _excess(n: float, mean: float, read: float) -> float:
    """Return the deviation of counts from their mean in standard deviations, with its sign."""
    if read > 0:
        return (n - mean) / math.sqrt(max(mean, 0.0) + read)
    # Signed root of the deviance, with continuity correction.
    x = n - 0.5 if n > mean else n + 0.5
    if x <= 0:
        return -math.sqrt(2 * mean)
    deviance = 2 * (x * math.log(x / mean) - (x - mean))
    return math.copysign(math.sqrt(max(deviance, 0.0)), x - mean)


@kernel
def _surface(rows: F64, m: int, intensity: float, prior: F64, level: F64, fisher: F64) -> None:
    """Fit the surface to the used voxels, starting from a constant."""
    size = len(fisher)
    counts = norms = 0.0
    for r in range(m):
        if rows[V_USED, r] > 0:
            counts += rows[V_COUNTS, r] - intensity * rows[V_NORM, r] * rows[V_SHARE, r]
            norms += rows[V_NORM, r]
    level[:] = 0.0
    level[0] = counts / norms
    low = max(0.1 * level[0], 0.5 / norms)
    # The level may reach zero within the box, but not far below.
    scale = max(level[0], math.sqrt(low / norms))
    right = np.empty(size)
    for _ in range(_ITERATIONS):
        fisher[:] = 0.0
        right[:] = 0.0
        for a in range(1, size):
            if a < 4:
                fisher[a, a] = 1 / scale**2
            else:
                fisher[a, a] = 1 / (scale * prior[a - 4, 1]) ** 2
                right[a] = fisher[a, a] * scale * prior[a - 4, 0]
        normal_sums(rows, m, level, low, intensity, intensity, fisher, right)
        level[:size] = np.linalg.solve(fisher, right)


@kernel
def fit_background(
    rows: F64,
    m: int,
    intensity: float,
    prior: F64,
    terms: int,
    n_cells: int,
    cells: tuple[int, int],
) -> tuple[F64, F64, int, float]:
    """Fit the background to m voxels of the shell.

    Parameters
    ----------
    rows
        Voxels, see `normal_sums`; sets the row of the used voxels.
    intensity
        Counts per norm of the reflection, whose tail is in the shell.
    prior, terms
        Mean and standard deviation (3, 2) of the curvature relative to the level, with lengths in
        half boxes; and the number of terms of the surface: `PLANE` or `CURVED`.
    n_cells, cells
        Number of cells, and number of cells along slow and fast.

    Returns
    -------
    level, fisher, n_used, low
        S at the centre, slopes and curvatures (7); information matrix (terms, terms); number of
        voxels used; smallest S for the variances.
    """
    level, fisher = np.zeros(7), np.eye(terms)
    rows[V_USED, :m] = 1.0
    norms = 0.0
    for r in range(m):
        norms += rows[V_NORM, r]
    if m < 5 or not norms > 0:
        return level, fisher, 0, np.nan
    _surface(rows, m, intensity, prior, level, fisher)
    low = least_level(rows, m, level[0])
    counts, mean, read = np.zeros(n_cells), np.zeros(n_cells), np.zeros(n_cells)
    for r in range(m):
        cell = int(rows[V_CELL, r])
        here = level_of(level, rows, r)
        counts[cell] += rows[V_COUNTS, r]
        mean[cell] += rows[V_NORM, r] * (max(here, low) + intensity * rows[V_SHARE, r])
        read[cell] += rows[V_READ, r]
    bad = np.zeros(n_cells, np.bool_)
    any_bad = False
    deep = n_cells // (cells[0] * cells[1])
    for cell in range(n_cells):
        if not mean[cell] > 0:
            continue
        high = _excess(counts[cell], (1 + _CURVED) * mean[cell], read[cell])
        low_side = _excess(counts[cell], (1 - _CURVED) * mean[cell], read[cell])
        if high > _LIMIT or low_side < -_LIMIT:
            any_bad = True
            z, y, x = cell // (cells[0] * cells[1]), cell // cells[1] % cells[0], cell % cells[1]
            for k in range(max(z - 1, 0), min(z + 2, deep)):
                for i in range(max(y - 1, 0), min(y + 2, cells[0])):
                    for j in range(max(x - 1, 0), min(x + 2, cells[1])):
                        bad[(k * cells[0] + i) * cells[1] + j] = True
    n_used = m
    if any_bad:
        n_used, norms = 0, 0.0
        for r in range(m):
            if bad[int(rows[V_CELL, r])]:
                rows[V_USED, r] = 0.0
            else:
                n_used += 1
                norms += rows[V_NORM, r]
        if n_used < 5 or not norms > 0:
            return level, fisher, 0, np.nan
        _surface(rows, m, intensity, prior, level, fisher)
    return level, fisher, n_used, low


@kernel
def background_chi2(rows: F64, m: int, intensity: float, level: F64, low: float) -> float:
    """Return chi² of the used voxels, with the arguments and results of `fit_background`."""
    chi2 = 0.0
    for r in range(m):
        if rows[V_USED, r] > 0:
            here = level_of(level, rows, r)
            tail = intensity * rows[V_SHARE, r]
            off = rows[V_COUNTS, r] - rows[V_NORM, r] * (here + tail)
            chi2 += off * off / (rows[V_NORM, r] * (max(here, low) + tail) + rows[V_READ, r])
    return chi2
