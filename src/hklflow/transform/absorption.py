r"""Transmission of a crystal from its shape, by rays.

    T(R, s) = ∫ I(x, y) exp(-μ (l_in + l_out)) dV / V

l_in and l_out are the lengths of the incident and the scattered ray in the crystal, R the
goniometer's rotation, s the direction of the scattered ray, I the profile of the beam (1 on its
axis) and V the volume of the crystal. For a beam that is wider than the crystal, T is 1 without
absorption.

The volume is divided into chords along the incident beam. Their places across the beam are a
Fibonacci lattice on a rectangle around the crystal's shadow; the length of a chord is 0 at the
edge, so that the lattice rule is accurate. Along a chord the integral is Gauss and Legendre's.

T is traced at some angles and directions, and interpolated by cubic splines of ln T.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Rotation
from hklflow.simd.jit import kernel
from hklflow.transform.crystal_shape import Body
from hklflow.transform.direction import Direction

Floats = NDArray[np.float64]

_CHORDS = (987, 610)  # Fibonacci numbers: chords, and the generator of their lattice
_FINE = (2584, 1597)
_ANGLE = 1.0  # degrees between rotations that are traced
_PLACES = 13  # directions that are traced along each side of the detector
_GAUSS = (5, 20)  # fewest and most points of a chord
_TAILS = 2.5  # of a Gaussian profile, in full widths
_LOG2E = 1 / np.log(2)
_ROUND = 1.5 * 2.0**52
_STEP = 0.02  # relative change of the size for a derivative
_SHELLS = 12
_TESTS = 24  # rotations that are traced again with more chords


class Profile(NamedTuple):
    """Profile of the beam: widths (mm) along lab x and y.

    Full widths at half maximum of a Gaussian, or the widths of a rectangle with even intensity.
    """

    x: float
    y: float
    gaussian: bool


class Crystal(NamedTuple):
    """Body, its attenuation in 1/mm, and the beam's profile (None: wider than the crystal)."""

    body: Body
    mu: float
    beam: Profile | None = None


class Traced(NamedTuple):
    """Transmissions, and their derivatives -d ln T / d ln μ and -d ln T / d ln size."""

    transmission: Floats
    by_mu: Floats
    by_size: Floats


@kernel(fastmath={"nnan", "ninf", "nsz", "contract", "arcp"})
def _trace(places, points, planes, quadric, curved, rays, mu, total):  # type: ignore[no-untyped-def]
    """Add the integral, and that of depth × integrand, over chords (n, 3): x, y, weight.

    Returns the sum of weight × length. `rays` is (3, n); the loops over rays are vectorised.
    """
    n_planes, n = len(planes), rays.shape[1]
    away = np.full((n_planes, n), 1e12)
    for k in range(n_planes):
        for j in range(n):
            rise = planes[k, 0] * rays[0, j] + planes[k, 1] * rays[1, j] + planes[k, 2] * rays[2, j]
            if rise > 1e-9:
                away[k, j] = 1 / rise
    bent, square, depth = np.zeros((3, n)), np.zeros(n), np.empty(n)
    power = np.empty(n)
    bits = power.view(np.int64)
    for j in range(n):
        for i in range(3):
            for m in range(3):
                bent[i, j] += quadric[i, m] * rays[m, j]
            square[j] += bent[i, j] * rays[i, j]
        square[j] = max(square[j], 1e-12)
    length = 0.0
    for c in range(len(places)):
        x, y, share = places[c, 0], places[c, 1], places[c, 2]
        begin, end = _chord(x, y, planes, quadric, curved)
        if end <= begin or share == 0:
            continue
        length += share * (end - begin)
        for g in range(len(points)):
            z = begin + (end - begin) * points[g, 0]
            weight = share * (end - begin) * points[g, 1]
            depth[:] = 1e9
            for k in range(n_planes):
                gap = planes[k, 3] - planes[k, 0] * x - planes[k, 1] * y - planes[k, 2] * z
                for j in range(n):
                    depth[j] = min(depth[j], gap * away[k, j])
            if curved:
                ax = quadric[0, 0] * x + quadric[0, 1] * y + quadric[0, 2] * z
                ay = quadric[1, 0] * x + quadric[1, 1] * y + quadric[1, 2] * z
                az = quadric[2, 0] * x + quadric[2, 1] * y + quadric[2, 2] * z
                inner = min(ax * x + ay * y + az * z - 1, 0.0)
                for j in range(n):
                    b = bent[0, j] * x + bent[1, j] * y + bent[2, j] * z
                    far = (np.sqrt(b * b - square[j] * inner) - b) / square[j]
                    depth[j] = min(depth[j], far)
            for j in range(n):
                # exp(-x) = 2^whole exp(rest), |rest| < 0.35. With 1.5 · 2^52 added, the last bits
                # of a number are its nearest whole number.
                depth[j] = min(mu * (z - begin + depth[j]), 600.0)
                power[j] = _ROUND - depth[j] * _LOG2E
            for j in range(n):
                rest = (_ROUND - power[j]) / _LOG2E - depth[j]
                bits[j] = (bits[j] + 1023) << 52
                series = 1 + rest / 7
                for q in range(6, 0, -1):
                    series = 1 + rest * (1.0 / q) * series
                part = weight * power[j] * series
                total[0, j] += part
                total[1, j] += depth[j] * part
    return length


@kernel
def _chord(x, y, planes, quadric, curved):  # type: ignore[no-untyped-def]
    """Return the ends along z of the body's chord at x and y; equal ends: there is none."""
    begin, end = -1e9, 1e9
    for k in range(len(planes)):
        gap = planes[k, 3] - planes[k, 0] * x - planes[k, 1] * y
        if planes[k, 2] > 1e-12:
            end = min(end, gap / planes[k, 2])
        elif planes[k, 2] < -1e-12:
            begin = max(begin, gap / planes[k, 2])
        elif gap < 0:
            return 0.0, 0.0
    if curved:
        a = quadric[2, 2]
        b = quadric[2, 0] * x + quadric[2, 1] * y
        c = quadric[0, 0] * x * x + 2 * quadric[0, 1] * x * y + quadric[1, 1] * y * y - 1
        if a > 1e-12:
            root = b * b - a * c
            if root <= 0:
                return 0.0, 0.0
            begin = max(begin, (-b - np.sqrt(root)) / a)
            end = min(end, (-b + np.sqrt(root)) / a)
        elif c > 0:
            return 0.0, 0.0
    return begin, end


def _chords(body: Body, beam: Profile | None, lattice: tuple[int, int]) -> Floats:
    """Return x, y and weight (n, 3) of chords; the weight is area times intensity."""
    axes = np.linalg.eigh(body.spread()[:2, :2])[1].T
    full = np.c_[axes, np.zeros(2)]
    low, high = (np.array([sign * body.reach(sign * a) for a in full]) for sign in (-1, 1))
    narrow = False
    if beam is not None:
        half = np.array([beam.x, beam.y]) * (_TAILS if beam.gaussian else 0.5)
        narrow = bool(np.prod(2 * half) < np.prod(high - low))
    if narrow:
        place, weight = _on_lattice(-half, half, lattice)
    elif len(body.planes) == 0:
        place, weight = _on_ellipse(body.radii, lattice)
    else:
        place, weight = _on_lattice(low, high, lattice)
        place = place @ axes
    if beam is not None:
        x, y = place.T / np.array([[beam.x], [beam.y]])
        even = ((abs(x) <= 0.5) & (abs(y) <= 0.5)).astype(float)
        weight = weight * (np.exp(-4 * np.log(2) * (x**2 + y**2)) if beam.gaussian else even)
    return np.c_[place, weight]


def _on_lattice(low: Floats, high: Floats, lattice: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return places (n, 2) of a Fibonacci lattice on a rectangle, and their areas."""
    n, generator = lattice
    i = np.arange(n)
    u = np.stack([(i + 0.5) / n, (i * generator / n + 0.5) % 1], axis=-1)
    return low + (high - low) * u, np.full(n, np.prod(high - low) / n)


def _on_ellipse(radii: Floats, lattice: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return places on the shadow of an ellipsoid, and their areas.

    With the length c of a chord over the longest one, the area is c dc dφ, and all is smooth in c.
    """
    m = int(np.sqrt(lattice[0] / 12))
    c, weight = np.polynomial.legendre.leggauss(m)
    c, angle = (c + 1) / 2, (np.arange(2 * m) + 0.5) * np.pi / m
    edge = np.linalg.cholesky((radii.T @ radii)[:2, :2])
    r = np.sqrt(1 - c**2)
    place = np.stack([np.outer(r, np.cos(angle)), np.outer(r, np.sin(angle))], axis=-1)
    area = np.linalg.det(edge) * np.repeat(c * weight / 2, 2 * m) * np.pi / m
    return place.reshape(-1, 2) @ edge.T, area


def transmission(
    crystal: Crystal, rotation: Floats, rays: Floats, lattice: tuple[int, int] = _CHORDS
) -> tuple[Floats, Floats]:
    """Return T and -d ln T / d ln μ of rays.

    Parameters
    ----------
    rotation : (3, 3) array
        From the holder's frame to the lab's.
    rays : (..., 3) array
        Unit vectors of the scattered rays, in the lab.
    """
    body = crystal.body.turned(rotation)
    places = _chords(body, crystal.beam, lattice)
    n = int(np.clip(round(_GAUSS[0] + 1.5 * crystal.mu * body.longest), *_GAUSS))
    at, weight = np.polynomial.legendre.leggauss(n)
    points = np.stack([(at + 1) / 2, weight / 2], axis=-1)
    flat = np.ascontiguousarray(rays.reshape(-1, 3).T)
    total = np.zeros((2, flat.shape[1]))
    curved = bool(np.any(body.quadric))
    length = _trace(
        places, points, body.planes, body.quadric, curved, flat, float(crystal.mu), total
    )
    volume = length if crystal.beam is None else body.volume
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(total[0] > 0, total[1] / total[0], 0)
    shape = rays.shape[:-1]
    return (total[0] / volume).reshape(shape), slope.reshape(shape)


def _with_size(crystal: Crystal, rotation: Floats, rays: Floats) -> tuple[Floats, Floats, Floats]:
    """Return T and its derivatives of one rotation."""
    found, by_mu = transmission(crystal, rotation, rays)
    if crystal.beam is None:  # only μ times size matters
        return found, by_mu, by_mu
    ends = []
    for factor in (1 - _STEP / 2, 1 + _STEP / 2):
        body = crystal.body.scaled(factor)
        ends.append(np.log(transmission(crystal._replace(body=body), rotation, rays)[0]))
    return found, by_mu, (ends[0] - ends[1]) / _STEP


@dataclass(frozen=True)
class Absorption:
    """Transmission of a rotation.

    Attributes
    ----------
    curve : (n_frames,) array
        T of each frame: the mean over the nodes of the background's annulus.
    direction : Direction
        T over ``curve``.
    by_mu, by_size : (ranges, m, n) arrays
        Derivatives -d ln T / d ln μ and -d ln T / d ln size, on the nodes of ``direction``.
    error, largest_error : float
        Relative error of interpolation and integrals (rms, and the largest), by tracing again.
    """

    curve: Floats
    direction: Direction
    by_mu: Floats
    by_size: Floats
    error: float
    largest_error: float

    @property
    def transmissions(self) -> Floats:
        """T (ranges, m, n) on the nodes, in the middles of the ranges of frames."""
        middles = np.minimum(self.direction.middles.astype(np.int64), len(self.curve) - 1)
        return np.asarray(np.exp(self.direction.log) * self.curve[middles, None, None])


def over_all_directions(crystal: Crystal) -> tuple[float, float]:
    """Return the smallest and largest T of some hundred random orientations and directions."""
    from scipy.spatial.transform import Rotation as Turn

    rng = np.random.default_rng(0)
    rays = rng.normal(size=(_TESTS, 3))
    rays /= np.linalg.norm(rays, axis=1)[:, None]
    turns = Turn.random(2 * _TESTS, rng=rng).as_matrix()
    found = np.array([transmission(crystal, turn, rays)[0] for turn in turns])
    return float(found.min()), float(found.max())


def of_rotation(
    crystal: Crystal, rotation: Rotation, annulus: Sequence[float], nodes: int, threads: int
) -> Absorption:
    """Return the transmission of a rotation for all its frames and directions.

    Parameters
    ----------
    annulus : (float, float)
        Ends of the background's |Q| over the largest |Q| of the detector.
    nodes : int
        Nodes of the factor of the direction along each side of the detector.
    """
    n = rotation.scan.n_frames
    layout = Direction.layout(rotation, nodes)
    at = _angles(rotation)
    # T of a polyhedron has edges where rays leave along a face, that of round bodies is smooth.
    places = min(_PLACES, nodes) if np.any(crystal.body.quadric) else nodes
    slow, fast = (np.linspace(0, size, places) for size in rotation.detector.shape)
    rays = _rays(rotation, slow, fast)
    with ThreadPoolExecutor(threads) as pool:  # the kernel releases the interpreter's lock
        traced = list(pool.map(lambda z: _with_size(crystal, _turn(rotation, z), rays), at))
    T, by_mu, by_size = (np.array(part) for part in zip(*traced, strict=True))
    across = _weights(slow, layout.slow), _weights(fast, layout.fast)

    def on_nodes(values: Floats, frames: Floats) -> Floats:
        return np.asarray(
            np.einsum("zt,tij,si,fj->zsf", _weights(at, frames), values, *across, optimize=True)
        )

    used = _in_annulus(rotation, layout, annulus)
    every_frame = on_nodes(np.log(T), np.asarray(np.arange(n) + 0.5, np.float64))
    curve = np.exp(every_frame)[:, used].mean(axis=1)
    every = layout.every
    begins = np.arange(0, n, every)
    log = every_frame - np.log(curve)[:, None, None]
    log = np.add.reduceat(log, begins) / np.diff([*begins, n])[:, None, None]
    middles = np.asarray(np.minimum(layout.middles, n), np.float64)
    direction = Direction(every, layout.slow, layout.fast, log)
    slopes = on_nodes(by_mu, middles), on_nodes(by_size, middles)
    return Absorption(curve, direction, *slopes, *_errors(crystal, rotation, curve, direction))


def shell_means(
    parts: Sequence[tuple[Rotation, Direction, Floats]],
) -> tuple[Floats, Floats]:
    """Return the mean of fields (ranges, m, n) on nodes in shells of |Q|, and numbers of nodes."""
    q = [np.linalg.norm(r.q_lab(d.slow[:, None], d.fast[None, :]), axis=-1) for r, d, _ in parts]
    edges = np.linspace(0, max(float(one.max()) for one in q) * (1 + 1e-9), _SHELLS + 1)
    total, number = np.zeros(_SHELLS), np.zeros(_SHELLS)
    for of_node, (_, _, field) in zip(q, parts, strict=True):
        shell = np.digitize(of_node, edges[1:-1]).ravel()
        total += np.bincount(shell, field.sum(axis=0).ravel(), _SHELLS)
        number += np.bincount(shell, minlength=_SHELLS) * len(field)
    used = number > 0
    return total[used] / number[used], number[used]


def _angles(rotation: Rotation) -> Floats:
    """Return the frame coordinates of the rotations that are traced."""
    n = rotation.scan.n_frames
    span = abs(np.degrees(rotation.scan.step)) * n
    return np.linspace(0, n, max(4, int(np.ceil(span / _ANGLE)) + 1))


def _turn(rotation: Rotation, frame: float) -> Floats:
    return rotation.goniometer.rotation(rotation.scan.angle(frame))


def _rays(rotation: Rotation, slow: Floats, fast: Floats) -> Floats:
    """Return the unit vectors (slow, fast, 3) of places on the detector."""
    at = rotation.detector.lab(slow[:, None], fast[None, :])
    return np.asarray(at / np.linalg.norm(at, axis=-1, keepdims=True))


def _weights(nodes: Floats, at: Floats) -> Floats:
    """Return the matrix (at, nodes) of a cubic spline through values at nodes."""
    from scipy.interpolate import CubicSpline

    return np.asarray(CubicSpline(nodes, np.eye(len(nodes)))(at))


def _in_annulus(
    rotation: Rotation, layout: Direction, annulus: Sequence[float]
) -> NDArray[np.bool_]:
    """Return True for the nodes in the annulus; if there is none, for all."""
    q = np.linalg.norm(rotation.q_lab(layout.slow[:, None], layout.fast[None, :]), axis=-1)
    used = (q >= annulus[0] * q.max()) & (q <= annulus[1] * q.max())
    return used if used.any() else np.ones_like(used)


def _errors(
    crystal: Crystal, rotation: Rotation, curve: Floats, direction: Direction
) -> tuple[float, float]:
    """Return relative errors at random frames and directions, by tracing with more chords."""
    rng = np.random.default_rng(0)
    size = rotation.detector.shape
    off = []
    for z in rng.integers(0, rotation.scan.n_frames, _TESTS):
        slow, fast = (np.sort(rng.uniform(0, m, _PLACES)) for m in size)
        rays = _rays(rotation, slow, fast)
        T, _ = transmission(crystal, _turn(rotation, z + 0.5), rays, lattice=_FINE)
        off.append(direction.at(int(z), slow, fast) + np.log(curve[z]) - np.log(T))
    return float(np.sqrt(np.mean(np.square(off)))), float(np.max(np.abs(off)))
