"""Compiled loops of `pdf`: half volume of Friedel mates, special positions, errors, extrema."""

from typing import Any

import numpy as np

from hklflow.simd.jit import kernel


@kernel
def fold(values, first, zero, reach, half):  # type: ignore[no-untyped-def]
    """Add planes (l, k, h) and their Friedel mates to the half with h >= 0.

    The indices l and k of ``half`` [l, k, h] are taken modulo its size. The real part of ``half``
    is the sum, the imaginary part the number of added voxels. ``zero``: index of Q = 0 along
    h, k, l; ``reach``: largest distance from this index, in voxels.
    """
    n_l, n_k, _ = half.shape
    for i in range(values.shape[0]):
        l = first + i - zero[2]  # noqa: E741
        if abs(l) > reach[2]:
            continue
        for j in range(values.shape[1]):
            k = j - zero[1]
            if abs(k) > reach[1]:
                continue
            for m in range(values.shape[2]):
                h = m - zero[0]
                value = values[i, j, m]
                if abs(h) > reach[0] or not np.isfinite(value):
                    continue
                if h >= 0:
                    half[l % n_l, k % n_k, h] += np.complex64(complex(value, 1.0))
                # In the plane h = 0, both mates are in the stored half.
                if h < 0 or (h == 0 and (k != 0 or l != 0)):
                    half[-l % n_l, -k % n_k, -h] += np.complex64(complex(value, 1.0))


@kernel
def stabilisers(l, moved, out):  # type: ignore[no-untyped-def]  # noqa: E741
    """Count the operations that map each voxel of a plane onto itself.

    ``moved`` (n, 3, 3): (W - 1) times the step of each column; ``out`` [k, h]: k runs from -reach
    to reach, h from 0.
    """
    out[:] = 0
    n_k, n_h = out.shape
    b = np.empty(3)
    for w in range(len(moved)):
        for j in range(n_k):
            k = j - n_k // 2
            # Solve a h + b = 0 along each axis: all h, one h or no h fulfil it.
            pivot = -1
            for i in range(3):
                b[i] = moved[w, i, 1] * k + moved[w, i, 2] * l
                if moved[w, i, 0] != 0:
                    pivot = i
            if pivot < 0:
                if max(abs(b[0]), abs(b[1]), abs(b[2])) < 1e-6:
                    out[j] += 1
                continue
            h = round(-b[pivot] / moved[w, pivot, 0])
            stays = 0 <= h < n_h
            for i in range(3):
                stays = stays and abs(moved[w, i, 0] * h + b[i]) < 1e-6
            if stays:
                out[j, h] += 1


@kernel
def add_variance(z, moves, weights, v, places, octant, sizes, out):  # type: ignore[no-untyped-def]
    """Compute the variance of one plane z: the sum over operations of V(x - Wᵀx).

    ``moves`` (n, 3, 3): 1 - Wᵀ on indices x, y, z. ``v`` [z, y, x]: V for z >= 0, with ``octant``
    only for x, y >= 0. ``places``: see `places`. ``out`` [y, x]: x = y = 0 is in the middle.
    """
    at_x, at_y, at_z, turned, middle = places
    n_y, n_x = out.shape
    out[:] = 0
    # With mirrors at x = 0 and y = 0, half of the rows and columns are enough.
    last_y = n_y // 2 if octant else n_y - 1
    last_x = n_x // 2 if octant else n_x - 1
    row = np.empty(n_x)
    for j in range(last_y + 1):
        y, x = j - n_y // 2, -(n_x // 2)
        row[:] = 0
        for t in range(len(moves)):
            move, weight = moves[t], weights[t]
            dx, dy, dz = move[0, 0], move[1, 0], move[2, 0]
            ux = (dx * x + move[0, 1] * y + move[0, 2] * z) % sizes[0] + middle[0]
            uy = (dy * x + move[1, 1] * y + move[1, 2] * z) % sizes[1] + middle[1]
            uz = (dz * x + move[2, 1] * y + move[2, 2] * z) % sizes[2] + middle[2]
            if dz == 0:
                plane, turn = v[at_z[uz]], turned[uz]
                for i in range(last_x + 1):
                    row[i] += weight * plane[at_y[turn, uy + dy * i], at_x[turn, ux + dx * i]]
                continue
            for i in range(last_x + 1):
                turn = turned[uz + dz * i]
                row[i] += (
                    weight * v[at_z[uz + dz * i], at_y[turn, uy + dy * i], at_x[turn, ux + dx * i]]
                )
        out[j] = row
    if octant:
        for j in range(last_y + 1):
            for i in range(last_x + 1, n_x):
                out[j, i] = out[j, 2 * (n_x // 2) - i]
        for j in range(last_y + 1, n_y):
            out[j] = out[2 * (n_y // 2) - j]


def places(sizes: tuple[int, int, int], furthest: int, octant: bool) -> tuple[Any, ...]:
    """Return tables that map indices, also beyond the period, to indices of the stored part of V.

    The tables of x and y have two rows; the second row is for negative z, where (x, y, z) is
    replaced by (-x, -y, -z). ``furthest``: largest element of the moves. ``middle``: position of
    index 0 in the tables.
    """
    both, middle = [], []
    for n in sizes:
        middle.append(furthest * n)
        u = np.arange(-furthest * n, (furthest + 1) * n) % n
        folded = np.minimum(u, n - u)
        both.append((folded, folded) if octant else (u, (n - u) % n))
    at_x, at_y = (np.array(pair, dtype=np.int32) for pair in both[:2])
    n = sizes[2]
    u = np.arange(-furthest * n, (furthest + 1) * n) % n
    turned = np.zeros(len(u), np.int32) if octant else (u > n // 2).astype(np.int32)
    return at_x, at_y, np.minimum(u, n - u).astype(np.int32), turned, np.array(middle)


@kernel
def extrema(planes, low, found):  # type: ignore[no-untyped-def]
    """Find voxels with |PDF| above ``low`` and not below |PDF| of the 26 neighbours.

    The first and the last plane serve only as neighbours. Return the number of these voxels;
    z, y, x of the first n voxels are written to ``found`` (n, 3).
    """
    count = 0
    n_z, n_y, n_x = planes.shape
    for z in range(1, n_z - 1):
        for y in range(n_y):
            for x in range(n_x):
                here = abs(planes[z, y, x])
                if here < low:
                    continue
                top = True
                for dz in range(-1, 2):
                    for dy in range(-1, 2):
                        for dx in range(-1, 2):
                            other = planes[z + dz, (y + dy) % n_y, (x + dx) % n_x]
                            if abs(other) > here:
                                top = False
                if top:
                    if count < len(found):
                        found[count, 0], found[count, 1], found[count, 2] = z, y, x
                    count += 1
    return count
