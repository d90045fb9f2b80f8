"""Absorption of convex bodies by tracing rays through them; see quantitative.py.

Lengths are in mm, attenuations in 1/mm. A body is fixed in the frame of the goniometer's head,
which is the lab where the goniometer's matrix R is 1; its centre is on the rotation axis.
"""

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.stats import qmc

Array = NDArray[np.float64]

FAR = 1e3  # mm, beyond every body


@dataclass(frozen=True)
class Body:
    """Intersection of half-spaces n·x ≤ d and of quadrics xᵀ A x ≤ 1, bounded."""

    name: str
    planes: Array  # (n, 4): unit normal, distance
    quadrics: Array  # (m, 3, 3)
    reach: float  # half the edge of a cube that holds the body
    size: tuple[float, ...]  # as the body's maker was called

    def points(self, n: int, seed: int = 0) -> tuple[Array, Array]:
        """Return about n points (n, 3) and weights of sum 1, for integrals over the body.

        They are Gauss's in ellipsoids and elliptic cylinders, quasi-random in polyhedra.
        """
        if len(self.quadrics) == 1 and len(self.planes) in (0, 2):
            values, axes = np.linalg.eigh(self.quadrics[0])
            if len(self.planes) == 0:
                x, weight = _ball(n)
                x = x / np.sqrt(values)
            else:  # the first axis is the cylinder's, of eigenvalue 0
                x, weight = _rod(n)
                x = x * [self.planes[0, 3], *values[1:] ** -0.5]
            return np.ascontiguousarray(x @ axes.T), weight
        sobol, found, have = qmc.Sobol(3, seed=seed), [], 0
        low, high = self.box
        while have < n:
            x = low + (high - low) * sobol.random(1 << 13)
            x = x[self.contains(x)]
            found.append(x)
            have += len(x)
        return np.ascontiguousarray(np.concatenate(found)[:n]), np.full(n, 1 / n)

    @property
    def box(self) -> tuple[Array, Array]:
        """Corners of a box along the axes that holds the body."""
        high = np.full(3, self.reach)
        for A in self.quadrics:
            with np.errstate(divide="ignore"):
                flat = 1 / np.sqrt(np.maximum(np.diag(A), 0))  # exact for axes along x, y, z
            if np.allclose(A, np.diag(np.diag(A))):
                high = np.minimum(high, flat)
        low = -high
        for *n, d in self.planes:
            for i in range(3):
                if abs(n[i]) > 1 - 1e-9:
                    high[i] = min(high[i], d) if n[i] > 0 else high[i]
                    low[i] = max(low[i], -d) if n[i] < 0 else low[i]
        return low, high

    def contains(self, x: Array) -> NDArray[np.bool_]:
        inside = np.all(x @ self.planes[:, :3].T <= self.planes[:, 3], axis=1)
        for A in self.quadrics:
            inside &= np.einsum("ni,ij,nj->n", x, A, x) <= 1
        return inside


def _gauss(n: int, power: int) -> tuple[Array, Array]:
    """Return n points on (0, 1) and weights for the density x^power, of sum 1."""
    x, w = np.polynomial.legendre.leggauss(n)
    x = (x + 1) / 2
    w = w * x**power
    return x, w / w.sum()


def _ball(n: int) -> tuple[Array, Array]:
    m = max(4, round((n / 4) ** (1 / 3)))
    r, w = _gauss(m, 2)
    z, v = np.polynomial.legendre.leggauss(2 * m)
    angle = (np.arange(2 * m) + 0.5) * np.pi / m
    R, Z, P = np.meshgrid(r, z, angle, indexing="ij")
    across = R * np.sqrt(1 - Z**2)
    x = np.stack([across * np.cos(P), across * np.sin(P), R * Z], -1).reshape(-1, 3)
    return x, np.repeat(np.outer(w, v / 2).ravel(), 2 * m) / (2 * m)


def _rod(n: int) -> tuple[Array, Array]:
    """Return points of a cylinder of radius 1 about x, from −1 to 1."""
    m = max(4, round((n / 4) ** (1 / 3)))
    r, w = _gauss(m, 1)
    y, v = np.polynomial.legendre.leggauss(2 * m)
    angle = (np.arange(2 * m) + 0.5) * np.pi / m
    R, L, P = np.meshgrid(r, y, angle, indexing="ij")
    x = np.stack([L, R * np.cos(P), R * np.sin(P)], -1).reshape(-1, 3)
    return x, np.repeat(np.outer(w, v / 2).ravel(), 2 * m) / (2 * m)


def ellipsoid(a: float, b: float, c: float) -> Body:
    """Return an ellipsoid of half-axes along x, y, z."""
    A = np.diag([a, b, c]) ** 2.0
    A = np.diag(1 / np.diag(A))
    return Body("ellipsoid", np.empty((0, 4)), A[None], max(a, b, c), (a, b, c))


def sphere(radius: float) -> Body:
    body = ellipsoid(radius, radius, radius)
    return Body("sphere", body.planes, body.quadrics, radius, (radius,))


def cylinder(a: float, b: float, half: float) -> Body:
    """Return a needle along y with half-axes a (x) and b (z), of length 2 `half`."""
    A = np.diag([1 / a**2, 0.0, 1 / b**2])
    planes = np.array([[0, 1, 0, half], [0, -1, 0, half]], float)
    return Body("cylinder", planes, A[None], max(a, b, half), (a, b, half))


def facets(normals: Array, distances: Array, name: str = "facets") -> Body:
    """Return a polyhedron of outer normals and distances from its centre."""
    unit = normals / np.linalg.norm(normals, axis=1)[:, None]
    planes = np.c_[unit, distances]
    reach = 2 * float(np.max(distances))
    return Body(name, planes, np.empty((0, 3, 3)), reach, tuple(map(float, distances)))


def plate(x: float, y: float, z: float, turn: Array | None = None) -> Body:
    """Return a plate of edges 2x, 2y, 2z, turned by a matrix."""
    normals = np.concatenate([np.eye(3), -np.eye(3)])
    R = np.eye(3) if turn is None else turn
    body = facets(normals @ R.T, np.array([x, y, z, x, y, z]), "plate")
    return Body("plate", body.planes, body.quadrics, float(np.linalg.norm([x, y, z])), (x, y, z))


@njit(cache=True)
def path(planes, quadrics, p, u):
    """Return the length within a body of the ray from p along the unit vector u."""
    t0, t1 = 0.0, 1e3
    for k in range(len(planes)):
        rise = planes[k, 0] * u[0] + planes[k, 1] * u[1] + planes[k, 2] * u[2]
        gap = planes[k, 3] - planes[k, 0] * p[0] - planes[k, 1] * p[1] - planes[k, 2] * p[2]
        if rise > 1e-12:
            t1 = min(t1, gap / rise)
        elif rise < -1e-12:
            t0 = max(t0, gap / rise)
        elif gap < 0:
            return 0.0
    for k in range(len(quadrics)):
        A = quadrics[k]
        a, b, c = 0.0, 0.0, -1.0
        for i in range(3):
            for j in range(3):
                a += u[i] * A[i, j] * u[j]
                b += u[i] * A[i, j] * p[j]
                c += p[i] * A[i, j] * p[j]
        if a < 1e-12:
            if c > 0:
                return 0.0
            continue
        root = b * b - a * c
        if root <= 0:
            return 0.0
        t0, t1 = max(t0, (-b - sqrt(root)) / a), min(t1, (-b + sqrt(root)) / a)
    return max(0.0, t1 - t0)


@dataclass(frozen=True)
class Tube:
    """Capillary along y: an annulus of inner and outer radius, and its attenuation."""

    inner: float
    outer: float
    half: float  # half the length that the beam sees
    mu: float

    def bodies(self) -> tuple[Body, Body]:
        """Return the full cylinder and its hole."""
        long = 50 * self.outer
        return cylinder(self.outer, self.outer, long), cylinder(self.inner, self.inner, long)

    def points(self, n: int, seed: int = 1) -> Array:
        u = qmc.Sobol(3, seed=seed).random(n)
        r = np.sqrt(self.inner**2 + u[:, 0] * (self.outer**2 - self.inner**2))
        angle = 2 * np.pi * u[:, 1]
        y = (2 * u[:, 2] - 1) * self.half
        return np.ascontiguousarray(np.c_[r * np.cos(angle), y, r * np.sin(angle)])


@dataclass(frozen=True)
class Beam:
    """Beam's profile: flat over everything (None), or Gaussian of FWHM (mm) along x and y."""

    fwhm: tuple[float, float] | None = None

    def intensity(self, x: Array, y: Array) -> Array:
        """Return the intensity (peak 1) at places across the beam."""
        if self.fwhm is None:
            return np.ones(np.shape(x))
        a, b = self.fwhm
        return np.exp(-4 * np.log(2) * ((x / a) ** 2 + (y / b) ** 2))


@njit(cache=True, fastmath=True)
def _average(points, weight, beam, rays, bodies, mu, mu_out):
    """Return Σ weight exp(−μ·path) of points over rays (n, 3); the frame is the bodies'.

    The lengths are those of `path`, with all that depends on a point or on a ray alone done once.
    """
    n, n_bodies = len(rays), len(bodies)
    out, depth = np.zeros(n), np.empty(n)
    for i in range(len(points)):
        p = points[i]
        entry = 0.0
        for b in range(n_bodies):
            entry += mu[b] * path(bodies[b][0], bodies[b][1], p, -beam)
        if weight[i] * np.exp(-entry) < 1e-9 / len(points):
            continue
        depth[:] = entry
        for b in range(n_bodies):
            if mu_out[b] != 0:
                _leave(depth, bodies[b][0], bodies[b][1], p, rays, mu_out[b])
        for j in range(n):
            out[j] += weight[i] * np.exp(-depth[j])
    return out


@njit(cache=True, fastmath=True)
def _leave(depth, planes, quadrics, p, rays, mu):
    """Add μ times the lengths of rays from p within a body."""
    gaps, c, inside = np.empty(len(planes)), np.full(len(quadrics), -1.0), True
    for k in range(len(planes)):
        n = planes[k]
        gaps[k] = n[3] - n[0] * p[0] - n[1] * p[1] - n[2] * p[2]
        inside &= gaps[k] >= 0
    for k in range(len(quadrics)):
        for i in range(3):
            for j in range(3):
                c[k] += p[i] * quadrics[k, i, j] * p[j]
        inside &= c[k] <= 0
    if not inside:
        for j in range(len(rays)):
            depth[j] += mu * path(planes, quadrics, p, rays[j])
        return
    for j in range(len(rays)):
        x, y, z = rays[j, 0], rays[j, 1], rays[j, 2]
        t = 1e3
        for k in range(len(planes)):
            rise = planes[k, 0] * x + planes[k, 1] * y + planes[k, 2] * z
            if rise > 1e-12 and gaps[k] < t * rise:
                t = gaps[k] / rise
        for k in range(len(quadrics)):
            A = quadrics[k]
            ax = A[0, 0] * x + A[0, 1] * y + A[0, 2] * z
            ay = A[1, 0] * x + A[1, 1] * y + A[1, 2] * z
            az = A[2, 0] * x + A[2, 1] * y + A[2, 2] * z
            a = ax * x + ay * y + az * z
            if a > 1e-12:
                half = ax * p[0] + ay * p[1] + az * p[2]
                t = min(t, (sqrt(max(half * half - a * c[k], 0.0)) - half) / a)
        depth[j] += mu * t


@dataclass(frozen=True)
class Absorber:
    """Sample in a beam, with or without a capillary around it."""

    body: Body
    mu: float
    beam: Beam = Beam()
    tube: Tube | None = None
    n_points: int = 2500
    seed: int = 0

    @cached_property
    def _points(self) -> tuple[Array, Array]:
        return self.body.points(self.n_points, self.seed)

    def _matter(self, sample: bool, mu_out: float | None = None) -> tuple:
        parts = [(self.body, self.mu if sample else 0.0)]
        out = [self.mu if mu_out is None else mu_out] if sample else [0.0]
        if self.tube:
            whole, hole = self.tube.bodies()
            parts += [(whole, self.tube.mu), (hole, -self.tube.mu)]
            out += [self.tube.mu, -self.tube.mu]
        bodies = tuple((b.planes, b.quadrics) for b, _ in parts)
        return bodies, np.array([mu for _, mu in parts]), np.array(out)

    def _mean(self, points: Array, share: Array, R: Array, rays: Array, matter: tuple) -> Array:
        """Return the mean over points; `rays` (..., 3) are in the lab."""
        lab = points @ R.T
        weight = self.beam.intensity(lab[:, 0], lab[:, 1]) * share
        inside = np.ascontiguousarray(rays.reshape(-1, 3) @ R)
        found = _average(points, weight, np.ascontiguousarray(R[2]), inside, *matter)
        return found.reshape(rays.shape[:-1])

    def sample(self, R: Array, rays: Array, mu_out: float | None = None) -> Array:
        """Return the factor of scattering in the sample (Paalman and Pings' A_s,sc).

        It is 1 for a bathed sample without attenuation; a smaller beam's share is in it.
        `mu_out` is the attenuation on the way out, of fluorescence.
        """
        return self._mean(*self._points, R, rays, self._matter(True, mu_out))

    def container(self, R: Array, rays: Array, sample: bool = True) -> Array:
        """Return the factor of scattering in the capillary (A_c,sc; without the sample A_c,c)."""
        if self.tube is None:
            raise ValueError("there is no capillary")
        points = self.tube.points(1 << 10)
        share = np.full(len(points), 1 / len(points))
        return self._mean(points, share, R, rays, self._matter(sample))

    def through(self, R: Array, width: tuple[float, float]) -> float:
        """Return the sample's transmission of the straight beam, averaged over the beam.

        A beam that bathes the sample is taken as a rectangle of `width` (mm) along x and y.
        """
        n = 41
        a, b = width if self.beam.fwhm is None else 2.5 * np.array(self.beam.fwhm)
        x, y = np.meshgrid(*[(np.arange(n) + 0.5) / n - 0.5] * 2, indexing="ij")
        x, y = a * x.ravel(), b * y.ravel()
        start = np.c_[x, y, np.full(n * n, -FAR / 4)] @ R
        u = np.ascontiguousarray(R[2])
        chord = _chords(self.body.planes, self.body.quadrics, np.ascontiguousarray(start), u)
        weight = self.beam.intensity(x, y)
        return float(weight @ np.exp(-self.mu * chord) / weight.sum())


@njit(cache=True)
def _chords(planes, quadrics, start, u):
    out = np.empty(len(start))
    for i in range(len(start)):
        out[i] = path(planes, quadrics, start[i], u)
    return out


def weights(nodes: Array, at: Array) -> Array:
    """Return the matrix (at, nodes) of a cubic spline through values at nodes."""
    return CubicSpline(nodes, np.eye(len(nodes)))(at)
