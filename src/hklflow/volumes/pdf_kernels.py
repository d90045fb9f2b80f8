"""Compiled loops of `pdf`: half volume of Friedel mates, special positions, errors, extrema."""

import math
from typing import Any

import numpy as np

from hklflow.simd.jit import kernel

# Coefficients of sin(x) / x in x², the last one first.
_SINE = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(10, -1, -1))


@kernel
def fold(values, first, zero, reach, unit, squared, half):  # type: ignore[no-untyped-def]
    """Add planes (l, k, h) and their Friedel mates to the half with h >= 0.

    The indices l and k of ``half`` [l, k, 2 h] are taken modulo its size. ``half`` has pairs: the
    sum of values, or of their squares, in units of ``unit`` (float32), and the number of added
    voxels. ``zero``: index of Q = 0 along h, k, l; ``reach``: largest distance
    from this index, in voxels.
    """
    n_l, n_k, _ = half.shape
    middle, reach_h = zero[0], reach[0]
    last_h = min(reach_h, values.shape[2] - 1 - middle)
    last_mate = min(reach_h, middle)
    for i in range(values.shape[0]):
        l = first + i - zero[2]  # noqa: E741
        if abs(l) > reach[2]:
            continue
        for j in range(values.shape[1]):
            k = j - zero[1]
            if abs(k) > reach[1]:
                continue
            row, own, mate = values[i, j], half[l % n_l, k % n_k], half[-l % n_l, -k % n_k]
            part = row[middle : middle + last_h + 1]
            for h in range(part.size):
                value = part[h] / unit
                value = value * value if squared else value
                known = abs(value) < np.inf
                own[2 * h] += value if known else np.float32(0)
                own[2 * h + 1] += np.float32(known)
            # In the plane h = 0, both mates are in the stored half.
            start = int(l == 0 and k == 0)
            part = row[middle - last_mate : middle - start + 1]
            for i_h in range(part.size):
                value = part[part.size - 1 - i_h] / unit
                value = value * value if squared else value
                known, h = abs(value) < np.inf, start + i_h
                mate[2 * h] += value if known else np.float32(0)
                mate[2 * h + 1] += np.float32(known)


@kernel
def average(part, weights, stays, halved, sums):  # type: ignore[no-untyped-def]
    """Replace the sums (k, h) of `fold` by means times a weight; return the columns in use.

    Parameters
    ----------
    part : (k, h) array
        Gets the means; 0 where no voxel was added.
    weights : (k, h) array
    stays : (k, h) or (0, 0) array
        Numbers by which the squares of the weights are divided; (0, 0): the weights are factors.
    halved : bool
        True: divide by the square of the number of added voxels.
    sums : (4,) array
        Gets the weights of known and of missing voxels, the number of missing voxels, and the sum
        of squares, of both halves.
    """
    n_k, n_h = part.shape
    last = 0
    for k in range(n_k):
        for h in range(n_h):
            w, number = weights[k, h], part[k, h].imag
            twice = 1.0 if h == 0 else 2.0
            if not w > 0:
                # Voxels beyond the taper are known or not.
                sums[0] += twice * w if number > 0 else 0.0
                part[k, h] = 0
                continue
            last = max(last, h + 1)
            if not number > 0:
                sums[1] += twice * w
                sums[2] += twice
                part[k, h] = 0
                continue
            sums[0] += twice * w
            factor = w * w / stays[k, h] if stays.size else w
            value = part[k, h].real * (factor / (number * number if halved else number))
            sums[3] += twice * value * value
            part[k, h] = np.complex64(complex(value, 0.0))
    return last


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
def tukey(metric, h, k, z, q_max, flat, out):  # type: ignore[no-untyped-def]
    """Write the Tukey window (k, h) of a plane l = ``z``; see `tapers.Taper`.

    ``metric`` (3, 3): reciprocal metric tensor with 2π, 1/Å²; ``h``, ``k``: coordinates, ``k``
    symmetric to 0.
    """
    even, wide = metric[0, 1] == 0 and metric[1, 2] == 0, max(1 - flat, 1e-12)
    for j in range(k.size):
        if even and j > k.size // 2:
            out[j] = out[k.size - 1 - j]
            continue
        for i in range(h.size):
            q2 = metric[0, 0] * h[i] * h[i] + metric[1, 1] * k[j] * k[j] + metric[2, 2] * z * z
            mixed = metric[0, 1] * h[i] * k[j] + metric[0, 2] * h[i] * z + metric[1, 2] * k[j] * z
            t = np.sqrt(max(q2 + 2 * mixed, 0.0)) / q_max
            down = min(max((t - flat) / wide, 0.0), 1.0)
            # cos(π down) = -sin(x); the next term of the series is below 1e-18.
            x = np.pi * (down - 0.5)
            x2, sine = x * x, 0.0
            for c in _SINE:
                sine = sine * x2 + c
            out[j, i] = 0.5 * (1 - x * sine) if t <= 1 + 1e-9 else 0.0


@kernel
def weigh(code, weights, mates, zero, reach, sums):  # type: ignore[no-untyped-def]
    """Add up the taper of a plane (k, h) by its codes; ``sums`` (n,).

    ``weights``, ``mates`` [k, h]: taper of this plane and of the plane -l, k from -reach, h >= 0.
    """
    own = np.zeros(sums.size)
    for j in range(max(zero[1] - reach[1], 0), min(zero[1] + reach[1] + 1, code.shape[0])):
        k = j - zero[1]
        here, there = weights[k + reach[1]], mates[reach[1] - k]
        for m in range(max(zero[0] - reach[0], 0), min(zero[0] + reach[0] + 1, code.shape[1])):
            h = m - zero[0]
            own[code[j, m]] += here[h] if h >= 0 else there[-h]
    sums += own


@kernel
def hole_fields(  # type: ignore[no-untyped-def]
    code, sigma, unit, tapers, stays, codes, origin, zero, reach, fields
):
    """Fill the fields of a plane (k, h) for the covariance at lattice vectors.

    Parameters
    ----------
    code, sigma : (k, h) arrays
        Codes of the whole plane and σ.
    unit : float
        Unit of σ in the fields.
    tapers, stays : (2, k, h) arrays
        Taper w of this plane and of the plane -l, and the number n of operations that leave a voxel
        in place; k from -reach, h >= 0.
    codes : three ints
        Measured, punched, not measured.
    origin : (2,) array
        First indices along h and k within reach.
    fields : (4, k, h) array of zeros
        Gets w² σ² / n of measured voxels, w² / n of punched ones, w² / n and w σ of those that were
        not measured.

    Returns
    -------
    weight, noise : float
        Sums of w² / n, and of the first field.
    gaps : bool
        True if there are voxels that were not measured.
    """
    weight, noise, gaps = 0.0, 0.0, False
    for j in range(fields.shape[1]):
        k = origin[1] + j - zero[1]
        for i in range(fields.shape[2]):
            h = origin[0] + i - zero[0]
            mate, row = (0, k + reach[1]) if h >= 0 else (1, reach[1] - k)
            w = tapers[mate, row, abs(h)]
            square = w * w / stays[mate, row, abs(h)]
            weight += square
            kind, error = code[origin[1] + j, origin[0] + i], sigma[origin[1] + j, origin[0] + i]
            if kind == codes[1]:
                fields[1, j, i] = square
            if not abs(error) < np.inf:
                continue
            if kind == codes[0]:
                variance = square * (np.float64(error) / unit) ** 2
                noise += variance
                fields[0, j, i] = variance
            elif kind == codes[2]:
                gaps = True
                fields[2, j, i], fields[3, j, i] = square, w * (error / unit)
    return weight, noise, gaps


@kernel
def add_variance(  # type: ignore[no-untyped-def]
    z, moves, weights, v, places, sizes, first, columns, ends, scale, least, out
):
    """Compute σ on one plane z, from the variance: the sum over operations of V(x - Wᵀx).

    Parameters
    ----------
    moves : (n, 3, 3) array
        1 - Wᵀ on indices x, y, z.
    weights : (n,) array
    v : (z, y, x) array
        V for z >= 0, or of an octant.
    places : tuple
        See `places`.
    first, columns, ends
        See `Plan.distinct`.
    scale, least : float
        σ is ``scale`` times the root of the variance, which is at least ``least``.
    out : (y, x) array
        x = y = 0 is in the middle.
    """
    at_x, at_y, at_z, turned, middle = places
    n_y, n_x = out.shape
    row = np.empty(n_x)
    for j in range(n_y):
        own = columns[ends[j] : ends[j + 1]]
        n, y = own.size, j - n_y // 2
        if n == 0:
            continue
        row[:n] = 0
        for t in range(len(moves)):
            move, weight = moves[t], weights[t]
            dx, dy, dz = move[0, 0], move[1, 0], move[2, 0]
            # Of the column 0, which is x = -(n_x // 2).
            x = -(n_x // 2)
            ux = (dx * x + move[0, 1] * y + move[0, 2] * z) % sizes[0] + middle[0]
            uy = (dy * x + move[1, 1] * y + move[1, 2] * z) % sizes[1] + middle[1]
            uz = (dz * x + move[2, 1] * y + move[2, 2] * z) % sizes[2] + middle[2]
            if dz == 0:
                plane, turn = v[at_z[uz]], turned[uz]
                if dy == 0:
                    line = plane[at_y[turn, uy]]
                    for i in range(n):
                        row[i] += weight * line[at_x[turn, ux + dx * own[i]]]
                    continue
                for i in range(n):
                    row[i] += (
                        weight * plane[at_y[turn, uy + dy * own[i]], at_x[turn, ux + dx * own[i]]]
                    )
                continue
            for i in range(n):
                turn = turned[uz + dz * own[i]]
                row[i] += (
                    weight
                    * v[
                        at_z[uz + dz * own[i]],
                        at_y[turn, uy + dy * own[i]],
                        at_x[turn, ux + dx * own[i]],
                    ]
                )
        for i in range(n):
            out[j, own[i]] = scale * np.sqrt(max(row[i], least))
    flat = out.reshape(-1)
    for j in range(n_y):
        for i in range(n_x):
            out[j, i] = flat[first[j, i]]


@kernel
def mirror(plane, out):  # type: ignore[no-untyped-def]
    """Copy a plane (y, x), inverted at x = y = 0, which is in the middle."""
    n_y, n_x = plane.shape
    last_y, last_x = 2 * (n_y // 2), 2 * (n_x // 2)
    for y in range(n_y):
        row, target = plane[y], out[(last_y - y) % n_y]
        # The first column of an even size has itself as its mate.
        target[0] = row[last_x % n_x]
        for x in range(1, n_x):
            target[x] = row[last_x - x]


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
