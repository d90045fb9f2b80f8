"""Still frames from rays: the second, independent world.

Each spot is the sum of many rays. A ray has a wavelength of the beam's band, a direction of the
beam's divergence and hits a block of the crystal with an orientation of its own; the block is
small, so its node is a round Gaussian, and the ray leaves to a point of the node that lies on its
Ewald sphere. The ray ends where it meets the plane of the detector, which is tilted. No width of a
spot and no partiality is written as a formula."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from tests.truth import still_files

Floats = NDArray[np.float64]
CRYSTAL, NONE, DARK, TWO = "crystal", "none", "dark", "two"
GAP = 2**32 - 1  # value of pixels between modules


@dataclass(frozen=True)
class Rays:
    """Crystal, beam and detector; lengths in mm and Å, angles in radians.

    Attributes
    ----------
    cell : (a, c)
        Hexagonal cell.
    mirrors : bool
        True for the Laue group 6/mmm, False for 6/m, whose spots have two indexings.
    stated : float
        Distance in the file's header, relative to the true one.
    """

    cell: tuple[float, float] = (30.0, 24.0)
    wavelength: float = 0.9
    band: float = 2e-4
    divergence: float = 2e-4
    mosaic: float = 2.0e-3
    block: float = 3e-4  # 1/Å, width of a node without 2π
    distance: float = 78.0
    stated: float = 1.0
    tilt: tuple[float, float, float] = (0.025, -0.03, 0.01)
    beam: tuple[float, float] = (251.7, 269.3)  # slow, fast pixel of the normal from the crystal
    pixel: float = 0.172
    modules: tuple[int, int] = (3, 2)
    size: tuple[int, int] = (165, 256)
    gap: int = 9
    spread: float = 0.6  # pixels, of the sensor
    background: float = 3.0
    brightness: float = 2500.0
    wilson_b: float = 14.0
    d_min: float = 1.9
    polarization: float = 0.98
    n_rays: int = 600
    mirrors: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels (slow, fast)."""
        n, m = self.modules
        return n * (self.size[0] + self.gap) - self.gap, m * (self.size[1] + self.gap) - self.gap

    def gaps(self) -> NDArray[np.bool_]:
        """Return True between modules."""
        rows, columns = (
            np.arange(n) % (size + self.gap) >= size
            for n, size in zip(self.shape, self.size, strict=True)
        )
        return rows[:, None] | columns

    def reciprocal(self) -> Floats:
        """Return a*, b*, c* as columns, 1/Å without 2π, c* along z."""
        a, c = self.cell
        direct = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]])
        return np.linalg.inv(direct)

    def plane(self, stated: bool = False) -> tuple[Floats, Floats, Floats]:
        """Return the corner of the first pixel (mm), and the directions slow and fast."""
        turn = Rotation.from_euler("xyz", self.tilt).as_matrix()
        slow, fast = turn @ [0.0, -1.0, 0.0], turn @ [-1.0, 0.0, 0.0]
        foot = np.array([0, 0, self.distance * (self.stated if stated else 1.0)])
        return foot - self.pixel * (self.beam[0] * slow + self.beam[1] * fast), slow, fast

    def structure(self) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
        """Return all hkl, their intensities, and the number of the set of equivalents of each."""
        rng = np.random.default_rng(77)
        n = int(np.ceil(max(self.cell) / self.d_min)) + 1
        grid = np.mgrid[-n : n + 1, -n : n + 1, -n : n + 1].reshape(3, -1).T
        length = np.linalg.norm(grid @ self.reciprocal().T, axis=1)
        keep = (length > 0) & (length < 1 / self.d_min)
        hkl, length = grid[keep], length[keep]
        # The six-fold axis, the mirror across it, and in 6/mmm mirrors along it.
        turned = [hkl]
        for _ in range(5):
            h, k, along = turned[-1].T
            turned.append(np.stack([h + k, -h, along], axis=1))
        turned += [one * [1, 1, -1] for one in turned]
        turned += [one[:, [1, 0, 2]] for one in turned] if self.mirrors else []
        rank = np.stack([(one[:, 0] * 1000 + one[:, 1]) * 1000 + one[:, 2] for one in turned])
        unique, which = np.unique(rank.max(axis=0), return_inverse=True)
        which = which.ravel()
        value = rng.exponential(size=len(unique))[which]
        return hkl, value * np.exp(-self.wilson_b * length**2 / 2), which


@dataclass(frozen=True)
class Shot:
    """One frame: its kind, its counts and its crystals (orientations as rotations)."""

    kind: str
    counts: NDArray[np.uint32]
    crystals: tuple[Floats, ...]


def shoot(world: Rays, kind: str, number: int) -> Shot:
    """Simulate one frame."""
    rng = np.random.default_rng([5, number])
    many = {CRYSTAL: 1, NONE: 0, DARK: 0, TWO: 2}[kind]
    crystals = tuple(Rotation.random(rng=rng).as_matrix() for _ in range(many))
    expected = np.full(world.shape, 0.0 if kind == DARK else world.background)
    for crystal in crystals:
        expected += _spots(world, crystal, world.brightness * rng.uniform(0.5, 1.5), rng)
    counts = rng.poisson(expected).astype(np.uint32)
    counts[world.gaps()] = GAP
    return Shot(kind, counts, crystals)


def _spots(world: Rays, crystal: Floats, scale: float, rng: np.random.Generator) -> Floats:
    image = np.zeros(world.shape)
    for _, at, counts in spots(world, crystal, scale, rng):
        pixels = np.floor(at + world.spread * rng.normal(size=at.shape)).astype(int)
        on = np.all((pixels >= 0) & (pixels < world.shape), axis=1)
        np.add.at(image, tuple(pixels[on].T), counts[on])
    return image


def spots(
    world: Rays, crystal: Floats, scale: float, rng: np.random.Generator
) -> Iterator[tuple[int, Floats, Floats]]:
    """Yield the number in `structure` of a spot, and pixels (n, 2) and counts (n,) of its rays."""
    hkl, intensity, _ = world.structure()
    nodes = hkl @ (crystal @ world.reciprocal()).T
    k = 1 / world.wavelength
    away = np.abs(np.linalg.norm(nodes + np.array([0, 0, k]), axis=1) - k)
    length = np.linalg.norm(nodes, axis=1)
    reach = 5 * (world.block + (world.mosaic + world.divergence + world.band) * length)
    origin, slow, fast = world.plane()
    normal, n = np.cross(slow, fast), world.n_rays
    for number in np.flatnonzero(away < reach):
        waves = k / (1 + world.band * rng.normal(size=n))
        tilt = world.divergence * rng.normal(size=(2, n))
        incoming = np.stack([tilt[0], tilt[1], np.ones(n)], axis=1)
        incoming *= (waves / np.linalg.norm(incoming, axis=1))[:, None]
        turns = Rotation.from_rotvec(world.mosaic * rng.normal(size=(n, 3)))
        out = incoming + turns.apply(nodes[number])
        long = np.linalg.norm(out, axis=1)
        weight = np.exp(-0.5 * ((long - waves) / world.block) ** 2)
        # A point of the node at random, then back onto the sphere of this ray.
        out = out * (waves / long)[:, None] + world.block * rng.normal(size=(n, 3))
        out *= (waves / np.linalg.norm(out, axis=1))[:, None]
        along = out @ normal
        ahead = along * (origin @ normal) > 0
        hit = out * (origin @ normal / np.where(ahead, along, 1.0))[:, None] - origin
        across = out / waves[:, None]
        polarization = world.polarization * (1 - across[:, 0] ** 2)
        polarization += (1 - world.polarization) * (1 - across[:, 1] ** 2)
        counts = scale * intensity[number] * weight * polarization / n
        yield number, np.stack([hit @ slow, hit @ fast], axis=1)[ahead] / world.pixel, counts[ahead]


def write(path: Path, world: Rays, shots: Sequence[Shot]) -> None:
    """Write the frames as NXmx: one module, gaps as the largest value of the type."""
    geometry = (world.pixel, *world.plane(stated=True))
    frames = np.array([shot.counts for shot in shots])
    still_files.write(path, frames, geometry, world.wavelength, world.polarization)


def tables(
    world: Rays, n: int, error: float, pollution: Sequence[int] = ()
) -> tuple[list[Floats], NDArray[np.int64], NDArray[np.int64], Floats, Floats, Floats]:
    """Integrate n frames with errors of counting, without pixels.

    Parameters
    ----------
    error : float
        Standard deviation of each component of the orientations that are returned, radians.
    pollution : sequence of int
        Frames of another crystal, with intensities of its own.

    Returns
    -------
    orientations : list of (3, 3) arrays, with errors
    frame : (m,) int array
    number : (m,) int array
        Number in `Rays.structure`.
    at : (m, 2) array
        Pixels (slow, fast).
    counts, variance : (m,) arrays
    """
    rng = np.random.default_rng(31)
    foreign = rng.exponential(size=len(world.structure()[0]))
    orientations, rows = [], []
    for frame in range(n):
        crystal = Rotation.random(rng=rng).as_matrix()
        slip = Rotation.from_rotvec(error * rng.normal(size=3)).as_matrix()
        orientations.append(slip @ crystal)
        scale = world.brightness * np.exp(0.4 * rng.normal())
        for number, at, counts in spots(world, crystal, scale, rng):
            if counts.sum() <= 0:
                continue
            middle = np.average(at, axis=0, weights=counts)
            if not (np.all(middle > 3) and np.all(middle < np.array(world.shape) - 3)):
                continue
            expected = counts.sum() * (foreign[number] if frame in pollution else 1.0)
            level = world.background * 50
            counted = rng.poisson(expected + level) - level
            rows.append((frame, number, *middle, counted, max(counted, 0) + level))
    columns = np.array(rows).T
    return (
        orientations,
        columns[0].astype(np.int64),
        columns[1].astype(np.int64),
        columns[2:4].T,
        columns[4],
        columns[5],
    )
