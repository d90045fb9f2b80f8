"""Sum over boxes of strong reflections, for learning widths and profiles."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.kernels import (
    BACKGROUND,
    BEND_FAST,
    BEND_FRAME,
    BEND_SLOW,
    KIND_MINE,
    KIND_OTHER,
    KIND_OUTSIDE,
    KIND_ZONE,
    SLOPE_FAST,
    SLOPE_FRAME,
    SLOPE_SLOW,
    SUM,
    Neighbours,
    Norms,
    Places,
    Voxels,
    box_of,
    fill_profile,
    sort_out,
)
from hklflow.peaks.fit import add_profile
from hklflow.simd.jit import kernel

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@kernel
def _level(fitted: F64, z: float, y: float, x: float) -> float:
    return (
        fitted[BACKGROUND]
        + z * (fitted[SLOPE_FRAME] + z * fitted[BEND_FRAME])
        + y * (fitted[SLOPE_SLOW] + y * fitted[BEND_SLOW])
        + x * (fitted[SLOPE_FAST] + x * fitted[BEND_FAST])
    )


class ProfileSums(NamedTuple):
    """Sums at the nodes of the profile corrections, (regions, m, m, m); ``mass`` is (m, m, m)."""

    observed: F64
    expected: F64
    variance: F64
    mass: F64


@kernel
def width_scores(
    voxels: Voxels,
    places: Places,
    norms: Norms,
    neighbours: Neighbours,
    rows: I64,
    fitted: F64,
    factors: F64,
    out: F64,
) -> None:
    """Compute ``-ln L`` of the projection along each axis, for a set of factors on the width.

    Parameters
    ----------
    rows
        Indices of the boxes (m,).
    fitted
        Results of `integrate_boxes` for all boxes.
    out
        Output: (m, 3, factors).

    The other parameters are as in `integrate_boxes`.
    """
    origin, (centre, sigma, half, _) = voxels.origin, places
    pixel_norm, frame_norm, read_variance = norms
    for m in range(len(rows)):
        i = rows[m]
        box = box_of(voxels, i)
        nz, ny, nx = box.shape
        kind = np.empty(box.shape, np.uint8)
        near = neighbours.rows[neighbours.start[i] : neighbours.start[i + 1]]
        sort_out(origin[i], centre[i], half[i], near, neighbours.centre, neighbours.half, kind)
        for axis in range(3):
            n = box.shape[axis]
            seen, under, exposed = np.zeros(n), np.zeros(n), np.zeros(n)
            number, read = np.zeros(n), np.zeros(n)
            good = np.ones(n, np.bool_)
            for k in range(nz):
                z = origin[i, 0] + k
                dz = z + 0.5 - centre[i, 0]
                if axis != 0 and abs(dz) > half[i, 0]:
                    continue
                for a in range(ny):
                    y = origin[i, 1] + a
                    dy = y + 0.5 - centre[i, 1]
                    if axis != 1 and abs(dy) > half[i, 1]:
                        continue
                    for b in range(nx):
                        x = origin[i, 2] + b
                        dx = x + 0.5 - centre[i, 2]
                        if axis != 2 and abs(dx) > half[i, 2]:
                            continue
                        at = k if axis == 0 else a if axis == 1 else b
                        if (
                            not math.isfinite(box[k, a, b])
                            or kind[k, a, b] == KIND_OTHER
                            or not pixel_norm[y, x] * frame_norm[z] > 0
                        ):
                            good[at] = False
                            continue
                        norm = pixel_norm[y, x] * frame_norm[z]
                        seen[at] += box[k, a, b]
                        exposed[at] += norm
                        number[at] += 1
                        under[at] += norm * max(_level(fitted[i], dz, dy, dx), 0.0)
                        if read_variance.size:
                            read[at] += read_variance[y, x]
            # Contiguous bins around the centre.
            middle = min(max(math.floor(centre[i, axis]) - origin[i, axis], 0), n - 1)
            low = middle
            while low >= 0 and good[low] and number[low] > 0:
                low -= 1
            high = middle
            while high < n and good[high] and number[high] > 0:
                high += 1
            share = np.empty(n)
            for f in range(len(factors)):
                share[:] = 0.0
                add_profile(origin[i, axis], centre[i, axis], factors[f] * sigma[i, axis], share)
                above = expected = 0.0
                for k in range(low + 1, high):
                    above += seen[k] - under[k]
                    expected += share[k] * exposed[k] / number[k]
                total = max(above, 0.0) / max(expected, 1e-300)
                value = 0.0
                for k in range(low + 1, high):
                    mean = under[k] + read[k] + total * share[k] * exposed[k] / number[k] + 1e-6
                    value += mean - max(seen[k] + read[k], 0.0) * math.log(mean)
                out[m, axis, f] = value


@kernel
def profile_sums(
    voxels: Voxels,
    places: Places,
    norms: Norms,
    neighbours: Neighbours,
    rows: I64,
    fitted: F64,
    region: I64,
    last: float,
    sums: ProfileSums,
) -> None:
    """Add reference reflections to the sums at the nodes of the profile corrections.

    Parameters
    ----------
    rows, fitted
        Same meaning as in `width_scores`.
    region, last
        Region (n,) of each box; coordinate of the last node.
    sums
        Sums to add to.
    """
    observed, expected, variance, mass = sums
    origin, (centre, sigma, half, _) = voxels.origin, places
    pixel_norm, frame_norm, read_variance = norms
    size = mass.shape[0]
    scale = (size - 1) / (2 * last)
    none = np.empty((0, 0, 0))
    # Sums of a line of voxels at the nodes along fast: mass, observed, expected, variance.
    line = np.empty((4, size))
    for r in range(len(rows)):
        i = rows[r]
        box = box_of(voxels, i)
        nz, ny, nx = box.shape
        kind, share = np.empty(box.shape, np.uint8), np.empty(box.shape)
        near = neighbours.rows[neighbours.start[i] : neighbours.start[i + 1]]
        sort_out(origin[i], centre[i], half[i], near, neighbours.centre, neighbours.half, kind)
        fill_profile(origin[i], centre[i], sigma[i], none, last, share)
        wide = np.sqrt(sigma[i] ** 2 + 1 / 12)
        where = region[i]
        for k in range(nz):
            z = origin[i, 0] + k
            dz = z + 0.5 - centre[i, 0]
            tz = (dz / wide[0] + last) * scale
            if not 0 <= tz < size - 1:
                continue
            iz = int(tz)
            for a in range(ny):
                y = origin[i, 1] + a
                dy = y + 0.5 - centre[i, 1]
                ty = (dy / wide[1] + last) * scale
                if not 0 <= ty < size - 1:
                    continue
                iy = int(ty)
                line[:] = 0.0
                for b in range(nx):
                    x = origin[i, 2] + b
                    dx = x + 0.5 - centre[i, 2]
                    tx = (dx / wide[2] + last) * scale
                    if not 0 <= tx < size - 1:
                        continue
                    ix = int(tx)
                    high = tx - ix
                    low = 1 - high
                    line[0, ix] += low * share[k, a, b]
                    line[0, ix + 1] += high * share[k, a, b]
                    what = kind[k, a, b]
                    mine = what in (KIND_MINE, KIND_ZONE, KIND_OUTSIDE)
                    if not mine or not math.isfinite(box[k, a, b]):
                        continue
                    norm = pixel_norm[y, x] * frame_norm[z]
                    if not norm > 0:
                        continue
                    under = norm * _level(fitted[i], dz, dy, dx)
                    peak = norm * fitted[i, SUM] * share[k, a, b]
                    above = box[k, a, b] - under
                    read = read_variance[y, x] if read_variance.size else 0.0
                    var = max(under, 0.0) + peak + read
                    line[1, ix] += low * above
                    line[1, ix + 1] += high * above
                    line[2, ix] += low * peak
                    line[2, ix + 1] += high * peak
                    line[3, ix] += low**2 * var
                    line[3, ix + 1] += high**2 * var
                for c in range(4):
                    m, n = iz + c // 2, iy + c % 2
                    weight = (tz - iz if c // 2 else 1 - tz + iz) * (
                        ty - iy if c % 2 else 1 - ty + iy
                    )
                    for x in range(size):
                        mass[m, n, x] += weight * line[0, x]
                        observed[where, m, n, x] += weight * line[1, x]
                        expected[where, m, n, x] += weight * line[2, x]
                        variance[where, m, n, x] += weight**2 * line[3, x]
