"""Kernels of the simulated frames: passages of reflections, spots, diffuse scattering, counts.

Units are those of worlds_physics.py: Q and k in 1/Å, positions in m, pixels continuous.
"""

from dataclasses import dataclass
from math import acos, erf, exp, sqrt

import numpy as np
from numba import njit

from tests.truth.worlds_physics import SPOT, Array, Family, Instrument, Sample

LONGEST = 0.5  # degrees of rotation in one row of a passage
PIECES = 4  # of these, in which the misfit is taken as linear: 10⁻⁴ frames
REACH = 5.0  # standard deviations to which profiles are painted


@dataclass(frozen=True)
class Intervals:
    """Pieces of frames in which the crystal moves smoothly; slips are between them."""

    frame: np.ndarray  # index of the frame of each
    first: Array  # continuous frames
    last: Array

    @classmethod
    def of(cls, sample: Sample, r: int) -> "Intervals":
        scan = sample.scans[r]
        pieces = max(1, int(np.ceil(abs(scan.step) / LONGEST - 1e-9)))
        nodes = np.arange(scan.n_frames * pieces + 1) / pieces
        slips = [f for r_slip, f, _ in sample.motion.slips if r_slip == r]
        nodes = np.unique(np.r_[nodes, slips])
        first, last = nodes[:-1], nodes[1:]
        return cls(np.floor((first + last) / 2).astype(int), first, last)


@njit(cache=True, inline="always")
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True)
def _misfit(Q, beam, rock, gamma):
    """Return how far Q is from the Ewald sphere, 1/Å.

    Along an arc for mosaic blocks, which keep |Q| (`rock` is 1/Å per radian of it); along the
    sphere's radius for a maximum that is broad by itself.
    """
    k, length = sqrt(np.sum(beam**2)), sqrt(np.sum(Q**2))
    if gamma > 0:
        return sqrt(np.sum((beam + Q) ** 2)) - k
    cosine = min(max(-np.sum(Q * beam) / k / length, -1.0), 1.0)
    return rock * (acos(cosine) - acos(length / 2 / k))


@njit(cache=True)
def _onto_sphere(Q, beam, mosaic, gamma):
    """Return where the Ewald sphere cuts a reflection's Gaussian around Q at its highest.

    The covariance is mosaic² |Q|² e eᵀ + γ², e the direction in which rocking moves Q: what
    mosaic spread does is a rotation, which keeps |Q|.
    """
    k = sqrt(np.sum(beam**2))
    for _ in range(4):
        ray = beam + Q
        length, size = sqrt(np.sum(ray**2)), sqrt(np.sum(Q**2))
        s = ray / length
        e = np.cross(np.cross(beam, Q), Q)
        e /= sqrt(np.sum(e**2))
        rocking = (mosaic * size) ** 2 * np.sum(e * s)
        step = (k - length) / (rocking * np.sum(e * s) + gamma**2)
        angle = step * rocking / size
        Q = np.cos(angle) * Q + np.sin(angle) * size * e + step * gamma**2 * s
    return Q


@njit(cache=True)
def _share(e0, e1, sigma):
    """Return ∫ N(e; σ) of a misfit going from e0 to e1, per part of the way, and its mean place."""
    a, b = e0 / sigma, e1 / sigma
    density, u = exp(-((a + b) ** 2) / 8) / 2.5066282746310002, 0.5
    if abs(b - a) > 1e-3:
        share = (erf(b / sqrt(2.0)) - erf(a / sqrt(2.0))) / 2
        density = share / (b - a)
        if abs(share) > 1e-12:
            mean = (exp(-a * a / 2) - exp(-b * b / 2)) / 2.5066282746310002 / share
            u = min(max((mean - a) / (b - a), 0.0), 1.0)
    return density / sigma, u


@njit(cache=True)
def _passages(h, strength, gamma, M, k0, k1, x0, x1, dphi, mosaic, geometry, pixel_size):
    """Return rows (interval, slow, fast, σ in pixels, intensity) of reflections' passages.

    In each of the parts of an interval (`M` has the crystal's matrices at their ends) the misfit e
    (see `_misfit`) goes linearly, so that ∫ N(e; σ) dφ = Δφ (Φ(e₁/σ) − Φ(e₀/σ)) / (e₁ − e₀).
    Spots of mosaic blocks are arcs with σ = mosaic / cos θ of azimuth about the beam.
    """
    origin, fast, slow = geometry[0], geometry[1], geometry[2]
    normal = np.cross(fast, slow)
    out, n = np.empty((1024, 5)), 0
    pieces = M.shape[1] - 1
    for i in range(len(h)):
        for j in range(len(M)):
            Q0, Q1 = M[j, 0] @ h[i], M[j, pieces] @ h[i]
            k, length = sqrt(np.sum(k0[j] ** 2)), sqrt(np.sum(Q0**2))
            if length >= 2 * k:
                continue
            rock = length * sqrt(1 - length**2 / 4 / k**2)
            e0, e1 = _misfit(Q0, k0[j], rock, gamma[i]), _misfit(Q1, k1[j], rock, gamma[i])
            sigma = sqrt((mosaic * rock) ** 2 + gamma[i] ** 2)
            if e0 * e1 > 0 and min(abs(e0), abs(e1)) > 5 * sigma:
                continue
            total, place, Qa, ea = 0.0, 0.0, Q0, e0
            Q = np.zeros(3)
            for m in range(pieces):
                t = (m + 1) / pieces
                Qb = M[j, m + 1] @ h[i]
                eb = _misfit(Qb, (1 - t) * k0[j] + t * k1[j], rock, gamma[i])
                density, u = _share(ea, eb, sigma)
                total += density / pieces
                place += density / pieces * (m + u) / pieces
                Q += density / pieces * ((1 - u) * Qa + u * Qb)
                Qa, ea = Qb, eb
            intensity = strength[i] * dphi[j] * total * k
            if gamma[i] == 0:  # the circle on which blocks diffract is as long as it is seen
                polar = min(max(-np.sum(Q * k0[j]) / k / sqrt(np.sum(Q**2)), -1.0), 1.0)
                intensity *= ((1 - length**2 / 4 / k**2) / max(1 - polar**2, 1e-6)) ** 0.25
            if intensity < 1e-3:
                continue
            u = place / total
            # The mean of a turn is shorter.
            Q *= ((1 - u) * length + u * sqrt(np.sum(Q1**2))) / sqrt(np.sum(Q**2))
            beam = (1 - u) * k0[j] + u * k1[j]
            ray = beam + _onto_sphere(Q, beam, mosaic, gamma[i])
            start = (1 - u) * x0[j] + u * x1[j]
            path = np.sum((origin - start) * normal) / np.sum(ray * normal)
            if path <= 0:
                continue
            spread = gamma[i] * path / pixel_size
            # Blocks that are turned about an axis across the ray diffract elsewhere on its cone.
            z = beam / k
            up = np.sum(ray * z) * z
            across = ray - up
            aside = np.cross(z, across)
            turned = mosaic / sqrt(1 - length**2 / 4 / k**2)
            width = turned * sqrt(np.sum(across**2)) * path / pixel_size
            parts = 1 if width < 0.02 else 2 * max(3, int(np.ceil(3.2 * width / 0.9))) + 1
            x = np.linspace(-3.2, 3.2, parts) if parts > 1 else np.zeros(1)
            weight = np.exp(-x * x / 2)
            weight /= np.sum(weight)
            for m in range(parts):
                part = up + np.cos(turned * x[m]) * across + np.sin(turned * x[m]) * aside
                path = np.sum((origin - start) * normal) / np.sum(part * normal)
                if path <= 0:
                    continue
                place = (start + path * part - origin) / pixel_size
                if n == len(out):
                    out = np.concatenate((out, np.empty_like(out)))
                out[n, 0], out[n, 1], out[n, 2] = j, np.sum(place * slow), np.sum(place * fast)
                out[n, 3], out[n, 4] = sqrt(SPOT**2 + spread**2), intensity * weight[m]
                n += 1
    return out[:n]


def ends(sample: Sample, r: int, intervals: Intervals) -> tuple[tuple[Array, ...], ...]:
    """Return the sample's states at both ends of intervals, on the inner side of a slip."""
    inside = 1e-9 * (intervals.last - intervals.first)
    states = (sample.state(r, intervals.first), sample.state(r, intervals.last - inside))
    return states[0], states[1]


def passages(sample: Sample, r: int, family: Family, scale: float) -> Array:
    """Return rows (frame, slow, fast, σ in pixels, counts) of a family's passages in scan r."""
    intervals = Intervals.of(sample, r)
    (t0, UB0, k0, x0), (t1, UB1, k1, x1) = ends(sample, r, intervals)
    matrices = [t0 @ family.T @ UB0]
    for part in np.arange(1, PIECES) / PIECES:
        turn, UB, _, _ = sample.state(r, (1 - part) * intervals.first + part * intervals.last)
        matrices.append(turn @ family.T @ UB)
    matrices.append(t1 @ family.T @ UB1)
    inst = sample.instrument
    dphi = np.radians(abs(sample.scans[r].step)) * (intervals.last - intervals.first)
    gamma = np.broadcast_to(np.asarray(family.gamma, float), len(family.hkl)).copy()
    rows = _passages(
        np.ascontiguousarray(family.position, float),
        scale * family.strength,
        gamma,
        np.ascontiguousarray(np.stack(matrices, axis=1)),
        k0,
        k1,
        np.broadcast_to(x0, k0.shape).copy(),
        np.broadcast_to(x1, k0.shape).copy(),
        dphi,
        np.radians(sample.mosaic),
        np.array([inst.origin, inst.fast, inst.slow]),
        inst.pixel_size,
    )
    near = np.all(np.abs(rows[:, 1:3] - np.array(inst.shape) / 2) < np.array(inst.shape), axis=1)
    rows = rows[near]
    rows[:, 0] = intervals.frame[rows[:, 0].astype(int)]
    return rows


@njit(cache=True)
def paint(image, rows, module, shift):
    """Add spots to an image (slow, fast), each a Gaussian integrated over the pixels.

    `module` has the module of every pixel, −1 in gaps; `shift` how far (slow, fast, pixels) each
    module is from where the header has it: a ray at x falls on the pixel x − shift.
    """
    n_slow, n_fast = image.shape
    for row in rows:
        sigma = row[3]
        reach = REACH * sigma + 4
        i0, i1 = max(0, int(row[1] - reach)), min(n_slow, int(row[1] + reach) + 1)
        j0, j1 = max(0, int(row[2] - reach)), min(n_fast, int(row[2] + reach) + 1)
        if i0 >= i1 or j0 >= j1:
            continue
        width = sigma * sqrt(2.0)
        a, b = np.empty(i1 - i0), np.empty(j1 - j0)
        for m in range(len(shift)):
            if m > 0 and shift[m, 0] == 0 and shift[m, 1] == 0:
                continue  # painted with module 0's shift, which is 0
            y, x = row[1] - shift[m, 0], row[2] - shift[m, 1]
            for i in range(i0, i1):
                a[i - i0] = (erf((i + 1 - y) / width) - erf((i - y) / width)) / 2
            for j in range(j0, j1):
                b[j - j0] = (erf((j + 1 - x) / width) - erf((j - x) / width)) / 2
            for i in range(i0, i1):
                if a[i - i0] < 1e-9:
                    continue
                for j in range(j0, j1):
                    q = module[i, j]
                    if q == m or (m == 0 and q > 0 and shift[q, 0] == 0 and shift[q, 1] == 0):
                        image[i, j] += row[4] * a[i - i0] * b[j - j0]


@njit(cache=True, fastmath=True)
def add_waves(out, s, waves, offset, change, amplitude, weight):
    """Add weight Σ amplitude cos(2π phase) to a flat image, averaged over the interval.

    The phase at ray s (3, pixels) is waves·s + offset in the middle of the interval and grows by
    change·(s, 1) over it.
    """
    block = 2048
    for first in range(0, len(out), block):
        part = out[first : first + block]
        x, y, z = (s[0][first:], s[1][first:], s[2][first:])
        for v in range(len(waves)):
            wx, wy, wz, w0 = waves[v, 0], waves[v, 1], waves[v, 2], offset[v]
            dx, dy, dz, d0 = change[v, 0], change[v, 1], change[v, 2], change[v, 3]
            a = amplitude[v] * weight
            for p in range(len(part)):
                t = wx * x[p] + wy * y[p] + wz * z[p] + w0
                d = dx * x[p] + dy * y[p] + dz * z[p] + d0
                u = 0.25 - abs(t - np.floor(t + 0.5))  # cos(2πt) = sin(2πu), to 1e-7
                q = u * u
                sine = 41.34170224039975 - q * (
                    81.60524927607504
                    - q
                    * (
                        76.70585975306136
                        - q * (42.05869394489765 - q * (15.09464257682299 - q * 3.819952584848281))
                    )
                )
                sine = u * (6.283185307179586 - q * sine)
                g = d * d  # sin(πd) / πd, to 1e-4 for half a period
                sinc = 1.6449340668482264 - g * (
                    0.8117424252833536 - g * (0.19075182412208422 - g * 0.02614784781765)
                )
                part[p] += a * sine * (1 - g * sinc)


@njit(cache=True)
def seed_kernels(seed):
    np.random.seed(seed)  # noqa: NPY002


@njit(cache=True)
def poisson(mean, out, seed):
    """Fill `out` with Poisson counts of the means: inversion below 20, else numpy's method."""
    state = np.uint64(seed)
    for p in range(len(mean)):
        m = mean[p]
        if m <= 0:
            out[p] = 0
        elif m < 20:
            state += np.uint64(0x9E3779B97F4A7C15)  # splitmix64
            z = state
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            u = (z >> np.uint64(11)) * (1.0 / 9007199254740992.0)
            term, n = exp(-m), 0
            while u > term and n < 200:
                u -= term
                n += 1
                term *= m / n
            out[p] = n
        else:
            out[p] = np.random.poisson(m)  # noqa: NPY002


def rays(inst: Instrument, shift: Array, module: np.ndarray, start: Array) -> tuple[Array, Array]:
    """Return unit vectors (3, pixels) to the pixels' centres and relative solid angles."""
    i, j = np.indices(inst.shape) + 0.5
    moved = shift[np.maximum(module, 0)]
    point = inst.point(i + moved[..., 0], j + moved[..., 1]) - start
    length = np.linalg.norm(point, axis=-1)
    distance = abs((inst.origin - start) @ np.cross(inst.fast, inst.slow))
    s = np.moveaxis(point / length[..., None], -1, 0).reshape(3, -1)
    return np.ascontiguousarray(s), ((distance / length) ** 3).ravel()
