r"""Gradient and Fisher matrix of a peak's likelihood, in strips of eight columns.

Each derivative of the model of `peaks.fit` is a product of a function of z, a function of y and a
function of x. There are five functions on each axis, and 15 products of two functions. For each
column of a frame, 15 sums over y are computed: ``w`` (1/mu) times a product of two functions of y.
The sums of a frame are multiplied by products of functions of z and added over the frames. The last
step multiplies by products of functions of x and adds the columns.
"""

import math

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.control import Variable, assume, span
from hklflow.simd.define import word
from hklflow.simd.jit import kernel
from hklflow.simd.kinds import F64 as DOUBLE
from hklflow.simd.kinds import I64 as INTEGER
from hklflow.simd.lanes import splat
from hklflow.simd.memory import load, store
from hklflow.simd.value import Value, constant, convert, maximum, multiply_add, reinterpret

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

N_PARAMETERS = 10
#: Columns of a strip; the width of a box is a multiple of this.
STRIP = 8
LEAST_BACKGROUND = 1e-3
#: Number of the function of z, of y and of x in the derivative with respect to each parameter. The
#: functions of z are P, dP/dz, P again, dP/d ln s, level; they contain the amplitude, except for
#: the first function and the level. The functions of y and of x are P, dP/dx, dP/d ln s, 1,
#: distance from the middle.
_OF_Z = (0, 1, 2, 2, 3, 2, 2, 4, 4, 4)
_OF_Y = (0, 0, 1, 0, 0, 2, 0, 3, 4, 3)
_OF_X = (0, 0, 0, 1, 0, 0, 2, 3, 3, 4)


def _pair(a: int, b: int) -> int:
    """Return the number of a pair of functions, in the order of the upper triangle."""
    a, b = min(a, b), max(a, b)
    return 5 * a - a * (a - 1) // 2 + b - a


#: Pairs of parameters (lower triangle).
_ENTRIES = [(a, b) for a in range(N_PARAMETERS) for b in range(a + 1)]
_PAIRS = [tuple(_pair(table[a], table[b]) for table in (_OF_Z, _OF_Y, _OF_X)) for a, b in _ENTRIES]
_N_ENTRIES, _N_PAIRS = len(_ENTRIES), 15
#: Rows of the sums over frames: matrix, gradient, chi², -ln L.
_N_SUMS = _N_ENTRIES + N_PARAMETERS + 2
#: Pair of functions of x for each row; the function 1 stands for a missing function.
_X_PAIR = [x for *_, x in _PAIRS] + [_pair(x, 3) for x in _OF_X] + 2 * [_pair(3, 3)]


def _columns(address: Value, strip: int = 0) -> Value:
    """Return the eight numbers of a strip; strips are contiguous in memory."""
    return load(DOUBLE, address, STRIP * strip, lanes=STRIP)


def _number(address: Value, k: int) -> Value:
    """Return one number in all lanes."""
    return splat(load(DOUBLE, address, k), STRIP)


def _inverse_and_logarithm(mu: Value) -> tuple[Value, Value]:
    """Return ``1 / mu`` and ``ln mu`` of numbers above 0, the logarithm to 1e-12.

    mu = 2^e m with m from 0.707 to 1.414; ln m = 2 artanh((m - 1) / (m + 1)).
    """
    bits = reinterpret(mu, INTEGER)
    exponent = (bits - 0x3FE6A09E667F3BCD) >> 52
    m = reinterpret(bits - (exponent << 52), DOUBLE)
    above = m + 1.0
    # Only one division is needed for both results.
    both = 1.0 / (mu * above)
    s = (m - 1.0) * (both * mu)
    t = s * s
    series = t.like(1 / 13)
    for k in (11, 9, 7, 5, 3, 1):
        series = multiply_add(t, series, 1 / k)
    logarithm = multiply_add(convert(exponent, DOUBLE), s.like(math.log(2.0)), s * 2.0 * series)
    return both * above, logarithm


@word(*[INTEGER] * 7)
def _add_strip(
    box: Value, row: Value, n_rows: Value, of_x: Value, of_y: Value, of_z: Value, sums: Value
) -> None:
    """Add eight columns of a frame to its sums.

    ``row`` is the distance of two rows in bytes, ``n_rows`` the number of rows, at least 1. All
    other arguments are pointers to arrays. ``box`` has three pointers, to the first row of counts,
    of usable voxels and of the counts of other peaks. ``of_x`` has P (8 columns), then the distance
    from the middle (8 columns). ``of_y`` has the 5 functions and their 15 products for each row.
    ``of_z`` has the 15 products, the 5 functions, ``A P``, and the level times the background and
    times its two slopes.
    """
    assume(n_rows > 0)
    boxes = [load(INTEGER, box, k) for k in range(3)]
    profile, along = _columns(of_x), _columns(of_x, 1)
    height, flat, rise, slope = (_number(of_z, 20 + k) for k in range(4))
    flat = multiply_add(slope, along, flat)
    profile = height * profile
    # Sums of w times the products of functions of y; sums of the pull times the functions of y;
    # chi²; -ln L.
    totals = [Variable(constant(DOUBLE, 0.0, STRIP)) for _ in range(_N_PAIRS + 5 + 2)]
    with span(n_rows) as index:
        counts, use, extra = (_columns(address + index * row) for address in boxes)
        here = of_y + index * (8 * 20)
        background = maximum(multiply_add(rise, _number(here, 4), flat), LEAST_BACKGROUND)
        mu = multiply_add(profile, _number(here, 0), background + extra)
        inverse, logarithm = _inverse_and_logarithm(mu)
        w = use * inverse
        off = counts - mu
        pull = w * off
        terms = [(w, _number(here, 5 + k)) for k in range(_N_PAIRS)]
        terms += [(pull, _number(here, k)) for k in range(5)]
        terms += [(pull, off), (use, mu - counts * logarithm)]
        for total, (a, b) in zip(totals, terms, strict=True):
            total.value = multiply_add(a, b, total.value)
    parts = [(totals[y], z) for z, y, _ in _PAIRS]
    parts += [(totals[_N_PAIRS + y], 15 + z) for z, y in zip(_OF_Z, _OF_Y, strict=True)]
    for k, (total, z) in enumerate(parts):
        store(multiply_add(total.value, _number(of_z, z), _columns(sums, k)), sums, STRIP * k)
    for k, total in enumerate(totals[-2:], len(parts)):
        store(total.value + _columns(sums, k), sums, STRIP * k)


@kernel
def profile(start: int, centre: float, log_width: float, out: F64, n: int) -> None:
    """Compute the integral over each of the first `n` voxels, and its derivatives.

    Row 0 of `out`: the integral; row 1: derivative with respect to the centre; row 2: with respect
    to ln(width). Other rows are not changed.
    """
    width = math.exp(log_width)
    inverse, root, norm = 1.0 / width, math.sqrt(0.5), 1.0 / math.sqrt(2.0 * math.pi)
    u0 = (start - centre) * inverse
    e0, g0 = math.erf(u0 * root), math.exp(-0.5 * u0 * u0) * norm
    for k in range(n):
        u1 = (start + k + 1 - centre) * inverse
        e1, g1 = math.erf(u1 * root), math.exp(-0.5 * u1 * u1) * norm
        out[0, k] = 0.5 * (e1 - e0)
        out[1, k] = (g0 - g1) * inverse
        out[2, k] = u0 * g0 - u1 * g1
        u0, e0, g0 = u1, e1, g1


@kernel
def _products(values: F64) -> None:
    """Append the 15 products of the five numbers in each row."""
    for k in range(values.shape[0]):
        n = 5
        for a in range(5):
            for b in range(a, 5):
                values[k, n] = values[k, a] * values[k, b]
                n += 1


@word(*[INTEGER] * 4)
def _add_columns(sums: Value, shape: Value, row: Value, whole: Value) -> None:
    """Multiply the sums of a strip by their functions of x, and add them to the total.

    All arguments but one are addresses: of the sums (rows, 8), of the strip's first function of x,
    and of the totals (rows, 8). ``row`` is the distance of two functions in bytes.
    """
    functions = [_columns(shape + k * row) for k in range(5)]
    pairs = [functions[a] * functions[b] for a in range(5) for b in range(a, 5)]
    for n, pair in enumerate(_X_PAIR):
        store(_columns(whole, n) + _columns(sums, n) * pairs[pair], whole, STRIP * n)


@kernel(fastmath=True)
def _spread(whole: F64, gradient: F64, fisher: F64) -> tuple[float, float]:
    """Add the columns and fill gradient and matrix; return chi² and -ln L."""
    added = np.empty(_N_SUMS)
    for n in range(_N_SUMS):
        total = 0.0
        for t in range(STRIP):
            total += whole[n, t]
        added[n] = total
    n = 0
    for a in range(N_PARAMETERS):
        for b in range(a + 1):
            fisher[a, b] = fisher[b, a] = added[n]
            n += 1
        gradient[a] = added[_N_ENTRIES + a]
    return added[_N_SUMS - 2], added[_N_SUMS - 1]


@kernel
def normal_equations(
    counts: F64,
    use: F64,
    extra: F64,
    level: F64,
    origin: I64,
    p: F64,
    middle: F64,
    gradient: F64,
    fisher: F64,
) -> tuple[float, float]:
    """Fill gradient and Fisher matrix; return -ln L and Pearson's chi².

    The arguments have the same meaning as in `peaks.fit.fit_peak`; ``middle`` is the point where
    the slopes of the background contribute 0.
    """
    nz, ny, nx = counts.shape
    along, shape = np.empty((3, max(nz, ny))), np.zeros((5, nx))
    of_z, of_y = np.empty((nz, 24)), np.empty((ny, 20))
    profile(origin[0], p[1], p[4], along, nz)
    for k in range(nz):
        values, functions = of_z[k], of_z[k, 15:20]
        functions[0], functions[1] = along[0, k], p[0] * along[1, k]
        functions[2], functions[3] = p[0] * along[0, k], p[0] * along[2, k]
        functions[4] = level[k]
        n = 0
        for a in range(5):
            for b in range(a, 5):
                values[n] = functions[a] * functions[b]
                n += 1
        values[20], values[21] = p[0] * along[0, k], level[k] * p[7]
        values[22], values[23] = level[k] * p[8], level[k] * p[9]
    profile(origin[1], p[2], p[5], along, ny)
    for k in range(ny):
        of_y[k, 0], of_y[k, 1], of_y[k, 2] = along[0, k], along[1, k], along[2, k]
        of_y[k, 3], of_y[k, 4] = 1.0, origin[1] + k + 0.5 - middle[1]
    _products(of_y)
    profile(origin[2], p[3], p[6], shape, nx)
    for k in range(nx):
        shape[3, k], shape[4, k] = 1.0, origin[2] + k + 0.5 - middle[2]
    sums, of_x = np.empty((_N_SUMS, STRIP)), np.empty((2, STRIP))
    whole, box = np.zeros((_N_SUMS, STRIP)), np.empty(3, np.int64)
    row, frame = 8 * nx, 8 * nx * ny
    for j in range(0, nx, STRIP):
        of_x[0], of_x[1] = shape[0, j : j + STRIP], shape[4, j : j + STRIP]
        sums[:] = 0.0
        for k in range(nz):
            at = k * frame + 8 * j
            box[0], box[1] = counts.ctypes.data + at, use.ctypes.data + at
            box[2] = extra.ctypes.data + at
            _add_strip(
                box.ctypes.data, row, ny, of_x.ctypes.data, of_y.ctypes.data,
                of_z.ctypes.data + k * 8 * 24, sums.ctypes.data,
            )  # fmt: skip
        _add_columns(sums.ctypes.data, shape.ctypes.data + 8 * j, 8 * nx, whole.ctypes.data)
    chi2, minus_log = _spread(whole, gradient, fisher)
    return minus_log, chi2
