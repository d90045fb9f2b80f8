"""The background around a reflection: a plane in S, fitted to a shell of voxels.

Voxels that are more than background (spots that nobody predicted, hot pixels) are left out by
cells of voxels: a cell goes if its counts are improbable, and so do the cells around it, whose own
counts were not asked. So what is left is a fair sample: a limit of 4.5 standard deviations takes
3e-5 of one cell's standard deviation off its mean.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

F64 = NDArray[np.float64]

# As in `kernels`, which imports from here.
_COUNTS, _NORM, _SHARE, _READ, _Z, _Y, _X, _CELL = range(8)
_LIMIT = 4.5
# Relative departure of a cell from the plane that is curvature, not something else.
_CURVED = 0.15
_ITERATIONS = 3


@njit(cache=True, nogil=True)
def least_level(rows: F64, m: int, level: float) -> float:
    """Least S for which a voxel's variance is taken.

    A plane may cross zero, and no counts at all are no proof of zero.
    """
    total = 0.0
    for r in range(m):
        total += rows[r, _NORM]
    return max(0.1 * level, 0.5 / max(total, 1e-300))


@njit(cache=True, nogil=True)
def _excess(n: float, mean: float, read: float) -> float:
    """Standard deviations by which counts are above their mean; negative below."""
    if read > 0:
        return (n - mean) / math.sqrt(max(mean, 0.0) + read)
    # Signed root of the deviance, with a correction for continuity.
    x = n - 0.5 if n > mean else n + 0.5
    if x <= 0:
        return -math.sqrt(2 * mean)
    deviance = 2 * (x * math.log(x / mean) - (x - mean))
    return math.copysign(math.sqrt(max(deviance, 0.0)), x - mean)


@njit(cache=True, nogil=True)
def _plane(
    rows: F64, m: int, intensity: float, used: NDArray[np.bool_], level: F64, fisher: F64
) -> None:
    """Fit the plane to the used voxels; from a constant at the start."""
    counts = norms = 0.0
    for r in range(m):
        if used[r]:
            counts += rows[r, _COUNTS] - intensity * rows[r, _NORM] * rows[r, _SHARE]
            norms += rows[r, _NORM]
    level[:] = 0.0
    level[0] = counts / norms
    low = max(0.1 * level[0], 0.5 / norms)
    # The level may go to zero within the box, not far beyond.
    scale = max(level[0], math.sqrt(low / norms))
    x = np.empty(4)
    x[0] = 1.0
    right = np.empty(4)
    for _ in range(_ITERATIONS):
        fisher[:] = 0.0
        right[:] = 0.0
        for a in range(1, 4):
            fisher[a, a] = 1 / scale**2
        for r in range(m):
            if not used[r]:
                continue
            norm = rows[r, _NORM]
            x[1], x[2], x[3] = rows[r, _Z], rows[r, _Y], rows[r, _X]
            here = level[0] + level[1] * x[1] + level[2] * x[2] + level[3] * x[3]
            tail = intensity * rows[r, _SHARE]
            weight = norm / (norm * (max(here, low) + tail) + rows[r, _READ])
            y = weight * (rows[r, _COUNTS] - norm * tail)
            weight *= norm
            for a in range(4):
                right[a] += y * x[a]
                for b in range(a + 1):
                    fisher[a, b] += weight * x[a] * x[b]
        for a in range(4):
            for b in range(a):
                fisher[b, a] = fisher[a, b]
        level[:] = np.linalg.solve(fisher, right)


@njit(cache=True, nogil=True)
def fit_background(
    rows: F64,
    m: int,
    intensity: float,
    n_cells: int,
    cells: tuple[int, int],
    used: NDArray[np.bool_],
) -> tuple[F64, F64, int, float]:
    """Fit the background to m voxels of the shell.

    Parameters
    ----------
    rows
        Columns as in `kernels`.
    intensity
        Counts per norm of the reflection whose tail is in the shell.
    n_cells, cells
        Number of cells, and how many there are along slow and fast.
    used
        Filled: which voxels were fitted.

    Returns
    -------
    level, fisher, n_used, chi2
        S at the centre and slopes (4), their information (4, 4), voxels used, reduced chi².
    """
    level, fisher = np.zeros(4), np.eye(4)
    used[:m] = True
    norms = 0.0
    for r in range(m):
        norms += rows[r, _NORM]
    if m < 5 or not norms > 0:
        return level, fisher, 0, np.nan
    _plane(rows, m, intensity, used, level, fisher)
    low = least_level(rows, m, level[0])
    counts, mean, read = np.zeros(n_cells), np.zeros(n_cells), np.zeros(n_cells)
    for r in range(m):
        cell = int(rows[r, _CELL])
        here = level[0] + level[1] * rows[r, _Z] + level[2] * rows[r, _Y] + level[3] * rows[r, _X]
        counts[cell] += rows[r, _COUNTS]
        mean[cell] += rows[r, _NORM] * (max(here, low) + intensity * rows[r, _SHARE])
        read[cell] += rows[r, _READ]
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
            used[r] = not bad[int(rows[r, _CELL])]
            if used[r]:
                n_used += 1
                norms += rows[r, _NORM]
        if n_used < 5 or not norms > 0:
            return level, fisher, 0, np.nan
        _plane(rows, m, intensity, used, level, fisher)
    chi2 = 0.0
    for r in range(m):
        if used[r]:
            here = (
                level[0] + level[1] * rows[r, _Z] + level[2] * rows[r, _Y] + level[3] * rows[r, _X]
            )
            tail = intensity * rows[r, _SHARE]
            off = rows[r, _COUNTS] - rows[r, _NORM] * (here + tail)
            chi2 += off * off / (rows[r, _NORM] * (max(here, low) + tail) + rows[r, _READ])
    return level, fisher, n_used, chi2 / max(n_used - 4, 1)
