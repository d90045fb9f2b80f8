"""Numba kernels of the simulator: diffuse scattering per pixel, Gaussian spots.

Loops are serial, as in all kernels of hklflow. Threads of Numba use OpenMP. After iotbx has loaded
the OpenMP of its wheel, two threads can process the same part, so that spots appear twice.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]

# cos 2πx for |x| <= 1/2 as a series in x²: terms after the 14th are below 1e-15.
# A polynomial can be vectorised by the compiler, `math.cos` cannot.
_SERIES = tuple(
    float((-1) ** n * (2 * math.pi) ** (2 * n) / math.factorial(2 * n)) for n in range(15)
)
_REACH = 6.0


@njit(inline="always")
def _cos_turns(x):  # type: ignore[no-untyped-def]
    x = x - math.floor(x + 0.5)
    t = x * x
    value = _SERIES[14]
    value = value * t + _SERIES[13]
    value = value * t + _SERIES[12]
    value = value * t + _SERIES[11]
    value = value * t + _SERIES[10]
    value = value * t + _SERIES[9]
    value = value * t + _SERIES[8]
    value = value * t + _SERIES[7]
    value = value * t + _SERIES[6]
    value = value * t + _SERIES[5]
    value = value * t + _SERIES[4]
    value = value * t + _SERIES[3]
    value = value * t + _SERIES[2]
    value = value * t + _SERIES[1]
    return value * t + _SERIES[0]


class Plane(NamedTuple):
    """Outer corner of a detector's pixel (0, 0), and the steps from pixel to pixel, metres."""

    origin: Floats
    slow: Floats
    fast: Floats


class Waves(NamedTuple):
    """Waves ``cos 2π(h·vectors[w] - shifts[w])``."""

    vectors: Floats
    shifts: Floats


class Cosines(NamedTuple):
    """Terms: an amplitude times a wave, which is given by its index."""

    wave: NDArray[np.int64]
    amplitude: Floats


class Ridges(NamedTuple):
    """Ridges of intensity; ridge r is made of the waves ``wave[first[r] : first[r + 1]]``."""

    wave: NDArray[np.int64]
    first: NDArray[np.int64]
    amplitude: Floats
    scale: Floats
    gaussian: NDArray[np.bool_]
    q_squared: NDArray[np.bool_]


@kernel(fastmath={"contract"}, error_model="numpy")
def diffuse(  # type: ignore[no-untyped-def]
    out, to_hkl, k, plane, n_sub, flat, sources, cosines, ridges
):
    """Write the mean of S over sub-samples of each pixel and frame into out (n, slow, fast).

    ``to_hkl`` (n * n_sub[0], 3, 3) converts Q in the lab to hkl for each sub-frame. ``plane`` is a
    `Plane`, ``sources`` are `Waves`; `Cosines` and `Ridges` refer to them.
    """
    origin, slow_step, fast_step = plane
    vectors, shifts = sources
    cosine_wave, cosine_amplitude = cosines
    ridge_wave, ridge_first, ridge_amplitude, ridge_scale, ridge_gaussian, ridge_q2 = ridges
    n, n_slow, n_fast = out.shape
    sub_frame, sub_slow, sub_fast = n_sub
    share = 1.0 / (sub_frame * sub_slow * sub_fast)
    for row in range(n * n_slow):
        z, i = row // n_slow, row % n_slow
        total = np.zeros(n_fast)
        s = np.empty(n_fast)
        u = np.empty(n_fast)
        h0 = np.empty(n_fast)
        h1 = np.empty(n_fast)
        h2 = np.empty(n_fast)
        q2 = np.empty(n_fast)
        waves = np.empty((len(vectors), n_fast))
        for a in range(sub_slow):
            y = i + (a + 0.5) / sub_slow
            rx = origin[0] + y * slow_step[0]
            ry = origin[1] + y * slow_step[1]
            rz = origin[2] + y * slow_step[2]
            for b in range(sub_fast):
                for c in range(sub_frame):
                    m = to_hkl[z * sub_frame + c]
                    for j in range(n_fast):
                        x = j + (b + 0.5) / sub_fast
                        px = rx + x * fast_step[0]
                        py = ry + x * fast_step[1]
                        pz = rz + x * fast_step[2]
                        scale = k / math.sqrt(px * px + py * py + pz * pz)
                        px = px * scale
                        py = py * scale
                        pz = pz * scale - k
                        h0[j] = m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz
                        h1[j] = m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz
                        h2[j] = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz
                        q2[j] = px * px + py * py + pz * pz
                        s[j] = flat
                    # Each wave is computed only once, because many terms use the same wave and the
                    # cosine takes most of the time.
                    for t in range(len(vectors)):
                        v0, v1, v2 = vectors[t, 0], vectors[t, 1], vectors[t, 2]
                        shift = shifts[t]
                        wave = waves[t]
                        for j in range(n_fast):
                            wave[j] = _cos_turns(h0[j] * v0 + h1[j] * v1 + h2[j] * v2 - shift)
                    for t in range(len(cosine_wave)):
                        amplitude = cosine_amplitude[t]
                        wave = waves[cosine_wave[t]]
                        for j in range(n_fast):
                            s[j] += amplitude * wave[j]
                    for r in range(len(ridge_amplitude)):
                        u[:] = 0.0
                        for t in range(ridge_first[r], ridge_first[r + 1]):
                            wave = waves[ridge_wave[t]]
                            for j in range(n_fast):
                                u[j] += 1.0 - wave[j]
                        if ridge_gaussian[r]:
                            for j in range(n_fast):
                                u[j] = ridge_amplitude[r] * math.exp(-0.5 * u[j] * ridge_scale[r])
                        else:
                            for j in range(n_fast):
                                u[j] = ridge_amplitude[r] / (1.0 + u[j] * ridge_scale[r])
                        if ridge_q2[r]:
                            for j in range(n_fast):
                                u[j] *= q2[j]
                        for j in range(n_fast):
                            s[j] += u[j]
                    for j in range(n_fast):
                        total[j] += s[j]
        for j in range(n_fast):
            out[z, i, j] = total[j] * share


@kernel
def _weights(centre, sigma, n):  # type: ignore[no-untyped-def]
    """Return first cell and integrals of a normal distribution over cells of unit width."""
    first = max(0, math.floor(centre - _REACH * sigma))
    stop = min(n, math.floor(centre + _REACH * sigma) + 1)
    values = np.empty(max(0, stop - first))
    scale = 1.0 / (math.sqrt(2.0) * sigma)
    for i in range(len(values)):
        low = math.erf((first + i - centre) * scale)
        values[i] = 0.5 * (math.erf((first + i + 1 - centre) * scale) - low)
    return first, values


@kernel
def add_spots(  # type: ignore[no-untyped-def]
    out, first_frame, factor, position, sigma, counts
):
    """Add Gaussian spots, integrated over pixels and frames, to out (n, slow, fast).

    Every frame adds the spots in the same order, so that the result does not depend on blocks.

    ``position`` and ``sigma`` (m, 3) are (frame, slow, fast); ``counts`` (m,) are per unit of
    ``factor`` (n_frames,).
    """
    n, n_slow, n_fast = out.shape
    for z in range(n):
        frame = first_frame + z
        for p in range(len(counts)):
            reach = _REACH * sigma[p, 0]
            if position[p, 0] + reach < frame or position[p, 0] - reach > frame + 1:
                continue
            scale = 1.0 / (math.sqrt(2.0) * sigma[p, 0])
            low = math.erf((frame - position[p, 0]) * scale)
            high = math.erf((frame + 1 - position[p, 0]) * scale)
            height = 0.5 * (high - low) * factor[frame] * counts[p]
            s0, slow = _weights(position[p, 1], sigma[p, 1], n_slow)
            f0, fast = _weights(position[p, 2], sigma[p, 2], n_fast)
            for i in range(len(slow)):
                line = height * slow[i]
                for j in range(len(fast)):
                    out[z, s0 + i, f0 + j] += line * fast[j]


@kernel
def recorded(factor, live, position, sigma, counts):  # type: ignore[no-untyped-def]
    """Sum the expected counts (m,) of spots on live pixels (slow, fast) within the scan."""
    result = np.zeros(len(counts))
    for p in range(len(counts)):
        z0, frames = _weights(position[p, 0], sigma[p, 0], len(factor))
        s0, slow = _weights(position[p, 1], sigma[p, 1], live.shape[0])
        f0, fast = _weights(position[p, 2], sigma[p, 2], live.shape[1])
        exposed = 0.0
        for z in range(len(frames)):
            exposed += frames[z] * factor[z0 + z]
        live_share = 0.0
        for i in range(len(slow)):
            for j in range(len(fast)):
                if live[s0 + i, f0 + j]:
                    live_share += slow[i] * fast[j]
        result[p] = counts[p] * exposed * live_share
    return result
