"""Staphylococcal nuclease: reduction of the ten frames in plain numpy, step by step.

Nothing here uses hklflow: frames are read as bytes, and the geometry comes as numbers (of hklflow's
orientation file or of DIALS). All vectors are in the lab: z along the beam, y up.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SIZE, HEADER, PIXEL, N_FRAMES = 1024, 512, 8e-5, 10
K = 2 * np.pi / 0.9080
BEAM = (500.5, 532.5)
"""Pixel (slow, fast) of the direct beam, for radii in pixels."""
LIMITS = np.array([42, 42, 55])
SHELL = 0.02
"""Width in 1/Å of the shells of |Q| whose mean is subtracted."""


def read_frames(data: Path) -> Floats:
    """Read the frames (10, slow, fast): 16-bit unsigned integers after a header of 512 bytes."""
    names = sorted(data.glob("snc_newhead_*.img"))
    raw = [np.frombuffer(name.read_bytes(), "<u2", SIZE * SIZE, HEADER) for name in names]
    return np.stack(raw).reshape(-1, SIZE, SIZE).astype(np.float64)


def radius() -> Floats:
    """Return the distance in pixels (slow, fast) of each pixel centre from the direct beam."""
    centre = np.arange(SIZE) + 0.5
    return np.hypot(centre[:, None] - BEAM[0], centre[None, :] - BEAM[1])


@dataclass
class Geometry:
    """Flat detector and orientation; the axis of rotation is -x.

    Attributes
    ----------
    origin, slow, fast : (3,) array
        Outer corner of the first pixel in metres, and unit vectors along the detector.
    ub : (3, 3) array
        Q of the crystal at an angle of 0 is ``ub @ hkl``, in 1/Å with 2π.
    """

    origin: Floats
    slow: Floats
    fast: Floats
    ub: Floats

    @cached_property
    def ray(self) -> Floats:
        """Unit vectors (slow, fast, 3) from the sample to the pixels."""
        at = (np.arange(SIZE) + 0.5) * PIXEL
        place = self.origin + at[:, None, None] * self.slow + at[None, :, None] * self.fast
        return place / np.linalg.norm(place, axis=-1, keepdims=True)

    @property
    def normal(self) -> Floats:
        """Unit vector (3,) away from the sample."""
        normal = np.cross(self.fast, self.slow)
        return normal * np.sign(normal @ self.origin) / np.linalg.norm(normal)

    def pixel(self, ray: Floats) -> NDArray[np.int_]:
        """Return the pixels (n, 2) that rays (n, 3) meet."""
        along = (self.origin @ self.normal) / (ray @ self.normal)
        place = ray * along[:, None] - self.origin
        return np.floor(place @ np.stack([self.slow, self.fast], 1) / PIXEL).astype(int)

    def hkl(self, degrees: float, good: Bools) -> Floats:
        """Return h, k, l (n, 3) of the good pixels at an angle of the scan."""
        return (K * (self.ray[good] - [0, 0, 1])) @ np.linalg.inv(turn(degrees) @ self.ub).T


def turn(degrees: float) -> Floats:
    """Return the matrix of a right-handed rotation about -x."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1.0, 0, 0], [0, c, s], [0, -s, c]])


def from_orientation(orientation: dict[str, Any]) -> Geometry:
    """Return the geometry with the numbers of hklflow's orientation file."""
    (rotation,) = orientation["rotations"].values()
    detector = rotation["detector"]
    axes = [np.array(detector[name]) for name in ("origin_m", "slow", "fast")]
    return Geometry(*axes, np.array(orientation["UB"]))


def from_dials(data: Path, like: Floats) -> Geometry:
    """Return the geometry that DIALS refined; its axes x, z are opposite to the lab's.

    Its indices are those of the matrix ``like``, of the four that the point group 4 allows.

    The reference lacks the direction of the beam: the beam meets the pixel that the authors of the
    data give.
    """
    reference = json.loads((data / "reference.json").read_text())
    model, flip = reference["model"], np.diag([-1.0, 1.0, -1.0])
    detector = model["detector"]
    origin, slow, fast = (flip @ np.array(detector[name]) for name in ("origin_mm", "slow", "fast"))
    origin *= 1e-3
    at = reference["authors_model"]["beam_px"]
    beam = origin + PIXEL * (at[0] * fast + at[1] * slow)
    angle = -np.arctan2(beam[0], beam[2])  # about y: in the plane of beam and axis
    c, s = np.cos(angle), np.sin(angle)
    upright = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    ub = 2 * np.pi * flip @ np.array(model["A_UB_invA"])
    ub = upright @ ub
    fourfold = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    choices = [ub @ np.linalg.matrix_power(fourfold, n) for n in range(4)]
    nearest = min(choices, key=lambda choice: float(np.abs(choice - like).sum()))
    return Geometry(upright @ origin, upright @ slow, upright @ fast, nearest)


@dataclass
class Recipe:
    """Choices of the reduction.

    Attributes
    ----------
    scale : (10,) array
        Scale of each frame.
    fraction : float
        Fraction p of the intensity with the electric vector along x. The degree of polarisation
        P = 2p - 1 is 0.93 at 0.965.
    solid_angle : str
        ``alpha``: cos³ of the angle to the detector's normal; ``two theta``: cos³ 2θ, as for a
        detector without tilt; ``none``.
    phases : tuple of float
        Angles in a frame, in degrees from its first angle, at which its counts are placed.
    ratios : bool
        Take the mean of n/N in each voxel and not Σn/ΣN.
    corner : float
        Voxel v holds hkl from ``v - 0.5 + corner`` to ``v + 0.5 + corner``.
    punch : float or None
        Leave out pixels as near to integer h, k and l.
    """

    scale: Floats
    fraction: float = 0.965
    solid_angle: str = "alpha"
    phases: tuple[float, ...] = (0.5,)
    ratios: bool = False
    corner: float = 0.0
    punch: float | None = None

    def norm(self, geometry: Geometry) -> Floats:
        """Return the part of the norm (slow, fast) that depends on the pixel."""
        x, y, z = np.moveaxis(geometry.ray, -1, 0)
        factor = self.fraction * (1 - x**2) + (1 - self.fraction) * (1 - y**2)
        power = {"alpha": geometry.ray @ geometry.normal, "two theta": z, "none": np.ones_like(z)}
        return factor * power[self.solid_angle] ** 3


def reduce(frames: Floats, good: Bools, geometry: Geometry, recipe: Recipe) -> Floats:
    """Return S (l, k, h) of the voxels around integer hkl; NaN where nothing is measured."""
    shape = tuple(2 * LIMITS[::-1] + 1)
    sums = np.zeros((2, int(np.prod(shape))))
    pixel = recipe.norm(geometry)[good]
    for z, frame in enumerate(frames):
        for phase in recipe.phases:
            hkl = geometry.hkl(z + phase, good)
            voxel = np.rint(hkl - recipe.corner).astype(int)
            inside = np.all(np.abs(voxel) <= LIMITS, axis=1)
            if recipe.punch is not None:
                inside &= np.abs(hkl - np.rint(hkl)).max(axis=1) > recipe.punch
            at = np.ravel_multi_index(tuple((voxel[inside] + LIMITS)[:, ::-1].T), shape)
            count, norm = frame[good][inside], pixel[inside] * recipe.scale[z]
            if recipe.ratios:
                count, norm = count / norm, np.ones_like(norm)
            sums += [np.bincount(at, weights, sums.shape[1]) for weights in (count, norm)]
    with np.errstate(invalid="ignore"):
        return (sums[0] / sums[1]).reshape(shape)


def ring_scale(frames: Floats, good: Bools) -> Floats:
    """Return the mean of the pixels between 100 and 500 pixels from the beam, of mean 1."""
    where = good & (radius() > 100) & (radius() < 500)
    level = np.array([frame[where].mean() for frame in frames])
    return level / level.mean()


def overlap_scale(
    frames: Floats, good: Bools, geometry: Geometry, recipe: Recipe, fineness: int = 5
) -> Floats:
    """Return the scale of each frame, of mean 1, from voxels that successive frames share.

    A small voxel between the reflections has one S(Q). The ratio of its two measurements is
    therefore the ratio of the scales of the two frames, for any S(Q). The medians above and below
    the beam are averaged: from frame to frame, the crossed part of a voxel moves up in one half of
    the detector and down in the other.
    """
    pixel = recipe.norm(geometry)
    rows = np.nonzero(good)[0]
    size, means = 2 * fineness * (LIMITS + 3) + 1, []
    for z, frame in enumerate(frames):
        hkl = geometry.hkl(z + recipe.phases[0], good)
        between = np.abs(hkl - np.rint(hkl)).max(axis=1) > 0.25
        voxel = np.rint(hkl[between] * fineness).astype(int) + size // 2
        name, at = np.unique(np.ravel_multi_index(tuple(voxel.T), size), return_inverse=True)
        values = (np.ones(at.size), frame[good][between], pixel[good][between], rows[between])
        n, count, norm, row = (np.bincount(at, value) for value in values)
        kept = n > 3
        means.append((name[kept], (count / norm)[kept], (row / n)[kept] < BEAM[0]))
    steps = [0.0]
    for (name_0, s_0, above), (name_1, s_1, _) in pairwise(means):
        _, a, b = np.intersect1d(name_0, name_1, assume_unique=True, return_indices=True)
        ratio = np.log(s_1[b] / s_0[a])
        steps.append(float(np.median(ratio[above[a]]) + np.median(ratio[~above[a]])) / 2)
    scale = np.exp(np.cumsum(steps))
    return scale / scale.mean()


def crossings(geometry: Geometry) -> tuple[Floats, Floats]:
    """Return angles (n,) in degrees at which reflections cross the sphere, and their rays (n, 3).

    Reflections of |Q| between 1 and 3 /Å are taken, without those that cross at a small angle.
    """
    ranges = (np.arange(-n, n + 1) for n in LIMITS // 2)
    hkl = np.stack([axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")], axis=1)
    x, y, z = (hkl @ geometry.ub.T).T
    length = np.sqrt(x**2 + y**2 + z**2)
    across, height = np.hypot(y, z), -(length**2) / (2 * K)
    fit = (length > 1) & (length < 3) & (np.abs(height) < 0.9 * across)
    x, y, z, across, height = (value[fit] for value in (x, y, z, across, height))
    # The rotation takes y, z to c y + s z, c z - s y; on the sphere, the second is the height.
    sides = []
    for sign in (1, -1):
        angle = np.degrees(sign * np.arccos(height / across) - np.arctan2(y, z))
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        end = c * y + s * z
        sides.append(((angle + 180) % 360 - 180, np.stack([x, end, height], 1) / K + [0, 0, 1]))
    return np.concatenate([a for a, _ in sides]), np.concatenate([r for _, r in sides])


def rocking(frames: Floats, good: Bools, geometry: Geometry, edges: Floats) -> Floats:
    """Return the mean excess over the surroundings at reflections, by angle of crossing.

    The geometry predicts the angle at which a reflection crosses the sphere. A frame that is
    exposed while the crystal rotates by 1° sees all reflections that cross in this 1°. A still
    sees only the reflections that cross at the angle of the still.

    Parameters
    ----------
    frames, good, geometry
    edges
        Edges in degrees of the bins of the angle at which the reflection crosses, minus the angle
        of the frame's middle.
    """
    angle, ray = crossings(geometry)
    pixel = geometry.pixel(ray)
    sums = np.zeros((2, len(edges) - 1))
    for z, frame in enumerate(frames):
        off = angle - (z + 0.5)
        near = np.flatnonzero((off >= edges[0]) & (off < edges[-1]))
        for (i, j), where in zip(pixel[near], np.digitize(off[near], edges) - 1, strict=True):
            if (
                min(i, j) < 6
                or max(i, j) > SIZE - 7
                or not good[i - 6 : i + 7, j - 6 : j + 7].all()
            ):
                continue
            box = frame[i - 6 : i + 7, j - 6 : j + 7]
            edge = np.concatenate(
                [box[:2].ravel(), box[-2:].ravel(), box[2:-2, [0, 1, -2, -1]].ravel()]
            )
            sums[:, where] += box[4:9, 4:9].mean() / np.median(edge) - 1, 1
    return sums[0] / sums[1]


def harmonics(
    frames: Floats, good: Bools, geometry: Geometry, recipe: Recipe, degrees: tuple[float, float]
) -> Floats:
    """Return cos φ, sin φ, cos 2φ, sin 2φ (4,) of the corrected frames around a ring of 2θ.

    The mean of the frames is divided by its median at the same 2θ; φ is 0 along x. Scattering that
    does not depend on direction has none of these harmonics.
    """
    x, y, z = np.moveaxis(geometry.ray, -1, 0)
    angle = np.degrees(np.arccos(z))
    ring = good & (angle >= degrees[0]) & (angle < degrees[1])
    mean = np.mean(frames / recipe.scale[:, None, None], axis=0)[ring]
    value = mean / recipe.norm(geometry)[ring]
    narrow = ((angle[ring] - degrees[0]) / 0.25).astype(int)
    value /= np.array([np.median(value[narrow == i]) for i in range(narrow.max() + 1)])[narrow]
    phi = np.arctan2(y, x)[ring]
    sector = np.floor((phi / (2 * np.pi) % 1) * 72).astype(int)
    known = [i for i in range(72) if np.count_nonzero(sector == i) > 20]
    level = [np.median(value[sector == i]) for i in known]  # reflections do not count
    at = (np.array(known) + 0.5) / 72 * 2 * np.pi
    shapes = [np.ones_like(at), np.cos(at), np.sin(at), np.cos(2 * at), np.sin(2 * at)]
    return np.linalg.lstsq(np.stack(shapes, 1), np.array(level), rcond=None)[0][1:]


def correlations(a: Floats, b: Floats, ub: Floats) -> tuple[float, float, float]:
    """Return the correlation of two volumes, and of their deviations from the mean of each shell.

    Returns
    -------
    of_values : float
        Correlation of the values.
    of_deviations : float
        Correlation of the deviations, to which the reflections contribute most.
    of_ranks : float
        Rank correlation of the deviations, to which all voxels contribute alike.
    """
    hkl = (np.moveaxis(np.indices(a.shape), 0, -1) - LIMITS[::-1])[..., ::-1]
    shell = (np.linalg.norm(hkl @ ub.T, axis=-1) / SHELL).astype(int)
    both = np.isfinite(a) & np.isfinite(b)
    shell = shell[both]
    number = np.maximum(np.bincount(shell), 1)
    values = [volume[both] for volume in (a, b)]
    off = [v - (np.bincount(shell, v) / number)[shell] for v in values]
    ranks = [np.argsort(np.argsort(v)) for v in off]
    of_values, of_off, of_ranks = (float(np.corrcoef(x)[0, 1]) for x in (values, off, ranks))
    return of_values, of_off, of_ranks


def fold(values: Floats, axes: list[Floats]) -> Floats:
    """Return sums (l, k, h) over the voxels around integer hkl of a volume with finer voxels.

    Parameters
    ----------
    values : (l, k, h) array
    axes
        Centres of the voxels along h, k, l. The step is 1/3, so that no voxel is shared.
    """
    out = np.zeros(2 * LIMITS[::-1] + 1)
    at = [np.rint(axis).astype(int) + limit for axis, limit in zip(axes, LIMITS, strict=True)]
    inside = [(i >= 0) & (i <= 2 * limit) for i, limit in zip(at, LIMITS, strict=True)]
    places = np.ix_(*(i[ok] for i, ok in zip(at[::-1], inside[::-1], strict=True)))
    np.add.at(out, places, values[np.ix_(*inside[::-1])])
    return out
