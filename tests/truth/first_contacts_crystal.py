"""Crystals and their spots on frames, for simulated first contacts (first_contacts.py).

The laboratory is that of NeXus: z along the beam, y up, x to the left as one looks downstream.
Lengths of cells and wavelengths are in Å, of detectors in mm; Q has the factor 2π. Nothing here
comes from the program under test: symmetry is that of gemmi.

A reflection crosses the Ewald sphere at an angle found by Newton's method; its rocking curve is a
Gaussian, integrated over each frame; its spot is a Gaussian, integrated over the pixels. The spot
keeps the place of the crossing, which is right to the square of the mosaic spread.
"""

from dataclasses import dataclass, replace

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]

GROUPS = {
    "triclinic": ["P -1", "P 1"],
    "monoclinic": ["P 1 21/c 1", "C 1 2/m 1", "P 1 21 1"],
    "orthorhombic": ["P n m a", "C m c m", "P 21 21 21", "I m m m", "P b c a"],
    "tetragonal": ["P 41 21 2", "I 4/m c m", "P 4/m m m", "P 4/m"],
    "trigonal": ["R -3 m", "P 32 2 1", "P -3"],
    "hexagonal": ["P 63/m m c", "P 6/m", "P 61 2 2"],
    "cubic": ["F m -3 m", "P m -3 m", "I a -3 d", "P a -3", "F d -3 m"],
}


def turn(axis: Array, degrees: float | Array) -> Array:
    """Return the right-handed rotation (..., 3, 3) about an axis."""
    n = np.asarray(axis, float) / np.linalg.norm(axis)
    angle = np.radians(np.asarray(degrees, float))[..., None, None]
    cross = np.array([[0, -n[2], n[1]], [n[2], 0, -n[0]], [-n[1], n[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def b_matrix(cell: Array) -> Array:
    """Return B of Busing and Levy, times 2π."""
    a, b, c, *angles = cell
    al, be, ga = np.radians(angles)
    metric = np.array(
        [
            [a * a, a * b * np.cos(ga), a * c * np.cos(be)],
            [a * b * np.cos(ga), b * b, b * c * np.cos(al)],
            [a * c * np.cos(be), b * c * np.cos(al), c * c],
        ]
    )
    return 2 * np.pi * np.linalg.cholesky(np.linalg.inv(metric)).T


def cell_of(UB: Array) -> Array:
    """Return the cell of a matrix of reciprocal axes (columns, times 2π)."""
    direct = 2 * np.pi * np.linalg.inv(UB)
    length = np.linalg.norm(direct, axis=1)
    cosine = [direct[i] @ direct[j] / length[i] / length[j] for i, j in ((1, 2), (0, 2), (0, 1))]
    return np.r_[length, np.degrees(np.arccos(np.clip(cosine, -1, 1)))]


@dataclass(frozen=True)
class Crystal:
    system: str
    group: str
    cell: Array
    UB: Array  # in the laboratory, all circles at zero
    mosaic: float  # standard deviation, degrees
    b_factor: float
    seed: int

    @property
    def primitive(self) -> Array:
        """Reciprocal axes of a primitive cell."""
        centring = gemmi.find_spacegroup_by_name(self.group).centring_type()
        vectors = {
            "P": np.eye(3),
            "A": [[1, 0, 0], [0, 0.5, 0.5], [0, -0.5, 0.5]],
            "C": [[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]],
            "I": [[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]],
            "F": [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
            "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
        }[centring]
        return self.UB @ np.linalg.inv(np.asarray(vectors, float))


def draw_cell(system: str, rng: np.random.Generator, group: str = "") -> Array:
    """Return a cell with axes of 4 to 40 Å, of 60 to 12 000 Å³."""
    while True:
        a, b, c = np.exp(rng.uniform(*np.log([4, 40]), 3))
        angles = np.array([90.0, 90, 90])
        if system == "triclinic":
            angles = rng.uniform(75, 105, 3)
        elif system == "monoclinic":
            angles[1] = rng.uniform(91, 115)
        elif system in ("trigonal", "hexagonal"):
            b, angles = a, np.array([90.0, 90, 120])
        elif system == "tetragonal":
            b = a
        elif system == "cubic":
            b = c = a
        axes = np.array([a, b, c])
        volume = gemmi.UnitCell(*axes, *angles).volume
        lattice = gemmi.find_spacegroup_by_name(group).centring_type() if group else "P"
        volume /= {"F": 4, "R": 3}.get(lattice, 1 if lattice == "P" else 2)
        if 55 < volume < 12000 and axes.max() / axes.min() < 6:
            return np.round(np.r_[axes, angles], 4)


def draw_crystal(seed: int, rng: np.random.Generator) -> Crystal:
    system = str(rng.choice(list(GROUPS)))
    group = str(rng.choice(GROUPS[system]))
    cell = draw_cell(system, rng, group)
    quaternion = rng.normal(size=4)
    axis, angle = (
        quaternion[1:],
        2 * np.degrees(np.arctan2(np.linalg.norm(quaternion[1:]), quaternion[0])),
    )
    UB = turn(axis, angle) @ b_matrix(cell)
    mosaic, b = float(rng.uniform(0.04, 0.15)), float(rng.uniform(0.5, 2.5))
    return Crystal(system, group, cell, UB, mosaic, b, seed)


def reflections(crystal: Crystal, q_max: float) -> tuple[Array, Array]:
    """Return hkl (n, 3) up to |Q| and |F|² that obey the symmetry, of Wilson's distribution."""
    direct = np.linalg.norm(2 * np.pi * np.linalg.inv(crystal.UB), axis=1)
    limit = np.ceil(q_max * direct / (2 * np.pi)).astype(int)
    grid = [np.arange(-n, n + 1) for n in limit]
    hkl = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, 3)
    q = np.linalg.norm(hkl @ crystal.UB.T, axis=1)
    hkl, q = hkl[(q < q_max) & (q > 0.1)], q[(q < q_max) & (q > 0.1)]
    operations = gemmi.find_spacegroup_by_name(crystal.group).operations()
    keep = ~operations.systematic_absences(hkl.astype(np.int32))
    hkl, q = hkl[keep], q[keep]
    turned = [np.array(op.rot) // 24 for op in operations.sym_ops]
    key = np.full(len(hkl), -np.inf)
    for W in turned:
        image = hkl @ W
        number = (image[:, 0] * 1009 + image[:, 1]) * 1009 + image[:, 2]
        key = np.maximum(key, np.abs(number))  # Friedel's law
    _, first = np.unique(key, return_inverse=True)
    rng = np.random.default_rng([crystal.seed, 7])
    strength = rng.exponential(1.0, first.max() + 1 if len(first) else 0)[first]
    return hkl.astype(float), strength * np.exp(-2 * crystal.b_factor * (q / 4 / np.pi) ** 2)


@dataclass(frozen=True)
class Detector:
    """A flat detector: `corner` is the outer corner of the first pixel, mm in the laboratory."""

    shape: tuple[int, int]  # slow, fast
    pixel: float  # mm
    corner: Array
    fast: Array
    slow: Array

    @classmethod
    def facing(
        cls, shape: tuple[int, int], pixel: float, distance: float, centre: tuple[float, float]
    ) -> "Detector":
        """Return a detector across the beam; seen from the sample fast runs right, slow down."""
        fast, slow = np.array([-1.0, 0, 0]), np.array([0, -1.0, 0])
        corner = np.array([0, 0, distance]) - pixel * (centre[0] * slow + centre[1] * fast)
        return cls(shape, pixel, corner, fast, slow)

    def turned(self, axis: Array, degrees: float) -> "Detector":
        """Return the detector with its arm rotated about the sample."""
        R = turn(axis, degrees)
        return replace(self, corner=R @ self.corner, fast=R @ self.fast, slow=R @ self.slow)

    def hit(self, rays: Array) -> tuple[Array, Array]:
        """Return where rays from the sample meet the plane: slow, fast in pixels, else NaN."""
        normal = np.cross(self.fast, self.slow)
        with np.errstate(all="ignore"):
            path = (self.corner @ normal) / (rays @ normal)
        point = np.where(path > 0, path, np.nan)[:, None] * rays - self.corner
        return point @ self.slow / self.pixel, point @ self.fast / self.pixel

    def q_max(self, wavelength: float) -> float:
        corners = [
            self.corner
            + self.pixel * (i * self.shape[0] * self.slow + j * self.shape[1] * self.fast)
            for i in (0, 1)
            for j in (0, 1)
        ]
        cosine = [p[2] / np.linalg.norm(p) for p in corners]
        return float(4 * np.pi / wavelength * np.sin(np.arccos(min(cosine)) / 2))


@dataclass(frozen=True)
class Sweep:
    """One rotation: circles from the laboratory to the crystal, one of which is scanned."""

    axes: tuple[tuple[str, Array], ...]
    angles: dict[str, float]
    scanned: str
    start: float
    step: float
    n_frames: int
    exposure: float
    detector: Detector
    arm: float = 0.0

    def matrix(self, angle: Array) -> Array:
        """Return the rotation (n, 3, 3) of the crystal at angles of the scanned circle."""
        R = np.broadcast_to(np.eye(3), (len(angle), 3, 3))
        for name, axis in self.axes:
            R = R @ turn(
                axis, angle if name == self.scanned else np.full(len(angle), self.angles[name])
            )
        return R


def crossings(crystal: Crystal, sweep: Sweep, wavelength: float) -> dict[str, Array]:
    """Return the reflections that cross the sphere and meet the detector during a sweep."""
    k = 2 * np.pi / wavelength
    hkl, strength = reflections(crystal, min(sweep.detector.q_max(wavelength), 2 * k))
    outer, inner, seen = np.eye(3), np.eye(3), False
    axis = np.zeros(3)
    for name, direction in sweep.axes:
        if name == sweep.scanned:
            axis, seen = np.asarray(direction, float), True
        elif not seen:
            outer = outer @ turn(direction, sweep.angles[name])
        else:
            inner = inner @ turn(direction, sweep.angles[name])
    # |k + R Q|² = k²: A cos φ + B sin φ = C
    Q0 = hkl @ (inner @ crystal.UB).T
    beam = outer.T @ np.array([0, 0, k])
    along = Q0 @ axis
    A = Q0 @ beam - along * (axis @ beam)
    B = np.cross(axis, Q0) @ beam
    C = -np.sum(Q0**2, axis=1) / 2 - along * (axis @ beam)
    size = np.hypot(A, B)
    with np.errstate(all="ignore"):
        half, middle = np.arccos(C / size), np.arctan2(B, A)
    low, high = sorted((sweep.start, sweep.start + sweep.step * sweep.n_frames))
    found = []
    for sign in (1, -1):
        phi = np.degrees(middle + sign * half)
        with np.errstate(invalid="ignore"):
            phi = low - 2 + np.mod(phi - low + 2, 360)
            ok = np.nonzero(phi < high + 2)[0]
        R = sweep.matrix(phi[ok])
        Q = np.einsum("nij,nj->ni", R, hkl[ok] @ crystal.UB.T)
        ray = Q + np.array([0, 0, k])
        slow, fast = sweep.detector.hit(ray)
        e = np.cross(outer @ axis, Q)
        zeta = np.abs(e @ [0, 0, k]) / k / np.linalg.norm(np.cross(Q, [0, 0, k]) / k, axis=1)
        Lorentz = 1 / np.maximum(np.abs(e @ [0, 0, k]) / k / k, 0.01)
        inside = (slow > -5) & (slow < sweep.detector.shape[0] + 5) & (fast > -5)
        inside &= (fast < sweep.detector.shape[1] + 5) & (zeta > 0.05)
        frame = (phi[ok] - sweep.start) / sweep.step
        width = crystal.mosaic / zeta / abs(sweep.step)
        rows = np.c_[frame, slow, fast, width, strength[ok] * Lorentz * wavelength**2, hkl[ok]]
        found.append(rows[inside])
    rows = np.concatenate(found)
    names = ("frame", "slow", "fast", "width", "strength")
    return {n: rows[:, i] for i, n in enumerate(names)} | {"hkl": rows[:, 5:]}


def images(
    sweep: Sweep,
    spots: dict[str, Array],
    scale: float,
    spot: float,
    background: Array,
    rng: np.random.Generator,
    times: Array,
) -> NDArray[np.int32]:
    """Return counted photons (frames, slow, fast): spots of width `spot` pixels, and background.

    Frames are exposed `times` (n,) as long as the sweep's exposure.
    """
    n, shape = sweep.n_frames, sweep.detector.shape
    level = 0.9995 * background.max() * times.max()
    cut = (
        rng.poisson(level, (n, *shape)).astype(np.int32)
        if level > 3
        else _few(level, (n, *shape), rng)
    )
    if np.ptp(background) > 0:  # a share of the photons, which is Poisson again
        if np.ptp(times) > 0:
            background = times[:, None, None] * background
        cut = (
            rng.binomial(cut, np.minimum(background / level, 1))
            if level > 3
            else _thin(cut, background / level, rng)
        )
    first = np.floor(spots["frame"] - 4 * spots["width"]).astype(int)
    count = np.ceil(8 * spots["width"]).astype(int) + 2
    which = np.repeat(np.arange(len(first)), count)
    frame = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    z = (frame - spots["frame"][which]) / spots["width"][which]
    share = ndtr(z + 1 / spots["width"][which]) - ndtr(z)
    counts = scale * spots["strength"][which] * share * times[np.clip(frame, 0, n - 1)]
    keep = (frame >= 0) & (frame < n) & (counts > 0.3)
    which, frame, counts = which[keep], frame[keep], counts[keep]
    reach = int(np.ceil(4.5 * spot)) + 1
    offset = np.arange(-reach, reach + 1)
    profile = []
    base = []
    for name in ("slow", "fast"):
        x = spots[name][which]
        i = np.floor(x).astype(int)[:, None] + offset
        profile.append(ndtr((i + 1 - x[:, None]) / spot) - ndtr((i - x[:, None]) / spot))
        base.append(i)
    mean = counts[:, None, None] * profile[0][:, :, None] * profile[1][:, None, :]
    i, j = np.broadcast_arrays(base[0][:, :, None], base[1][:, None, :])
    f = np.broadcast_to(frame[:, None, None], mean.shape)
    ok = (mean > 1e-4) & (i >= 0) & (i < shape[0]) & (j >= 0) & (j < shape[1])
    np.add.at(cut, (f[ok], i[ok], j[ok]), rng.poisson(mean[ok]).astype(np.int32))
    return cut


def _few(mean: float, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int32]:
    """Return Poisson counts of a small mean by the method of scattered photons."""
    size = int(np.prod(shape))
    where = rng.integers(0, size, rng.poisson(mean * size))
    return np.bincount(where, minlength=size).astype(np.int32).reshape(shape)


def _thin(counts: NDArray[np.int32], share: Array, rng: np.random.Generator) -> NDArray[np.int32]:
    """Keep each photon with a probability of its pixel (slow, fast)."""
    where = np.nonzero(counts.ravel())[0]
    number = counts.ravel()[where]
    kept = rng.binomial(number, np.minimum(share.ravel()[where % share.size], 1))
    out = np.zeros(counts.size, np.int32)
    out[where] = kept
    return out.reshape(counts.shape)
