"""Simulated still frames of crystals at random orientations, by physics only.

The node of each reflection is a Gaussian density in reciprocal space: the size of the blocks gives
a round part, their spread of orientations a part across the scattering vector. The frame records
the density on the Ewald sphere, which is flat across a node. Detector and crystal are plain
arrays, and nothing of hklflow is used for the physics.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.truth import still_files

Floats = NDArray[np.float64]

_REACH = 3.5  # widths of a node that reach the Ewald sphere
_HALF = 7  # half width of the box of a spot, pixels


@dataclass(frozen=True)
class World:
    """Crystal, beam and detector.

    Attributes
    ----------
    cell : (3,) tuple
        Axes in Å; all angles are 90 degrees.
    laue : tuple of (3, 3) arrays
        Operations under which intensities are equal, with -1.
    shifts : (n, 2) array
        Displacement (slow, fast) of each module from its place on one grid, pixels.
    size : float
        Width of a node without mosaic spread, 1/Å.
    mosaicity : float
        Mosaic spread, degrees.
    """

    cell: tuple[float, float, float] = (21.0, 26.0, 33.0)
    laue: tuple[Any, ...] = tuple(
        np.diag(s) for s in ((1, 1, 1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1))
    )
    wavelength: float = 1.0
    distance: float = 0.085
    pixel: float = 172e-6
    module: tuple[int, int] = (252, 252)
    gap: int = 8
    shifts: Floats = field(default_factory=lambda: np.zeros((4, 2)))
    size: float = 4e-4
    mosaicity: float = 0.12
    blur: float = 0.75
    background: float = 4.0
    brightness: float = 3.0
    wilson_b: float = 12.0
    polarization: float = 0.99
    d_min: float = 2.0

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels (slow, fast) of a frame."""
        return tuple(2 * n + self.gap for n in self.module)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """First pixel (slow, fast) of each module."""
        step = [n + self.gap for n in self.module]
        return [(i * step[0], j * step[1]) for i in range(2) for j in range(2)]

    def box(self, m: int) -> tuple[slice, slice]:
        """Pixels of a module in the frame."""
        (slow, fast), (n, k) = self.corners[m], self.module
        return slice(slow, slow + n), slice(fast, fast + k)

    def gaps(self) -> NDArray[np.bool_]:
        """Return True for the pixels of no module."""
        bad = np.ones(self.shape, dtype=np.bool_)
        for m in range(4):
            bad[self.box(m)] = False
        return bad

    def reflections(self, seed: int = 0) -> tuple[NDArray[np.int64], Floats]:
        """Return all hkl to d_min and intensities with Wilson's law and a fall-off."""
        rng = np.random.default_rng(seed)
        most = np.ceil(np.array(self.cell) / self.d_min).astype(int)
        axes = [np.arange(-n, n + 1) for n in most]
        hkl = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        length = np.linalg.norm(hkl / np.array(self.cell), axis=1)
        hkl, length = (
            hkl[(length < 1 / self.d_min) & (length > 0)],
            length[(length < 1 / self.d_min) & (length > 0)],
        )
        key = self.unique(hkl)
        unique, index = np.unique(key, axis=0, return_inverse=True)
        value = rng.exponential(size=len(unique))[index.ravel()]
        return hkl, 1e3 * value * np.exp(-0.5 * self.wilson_b * length**2)

    def unique(self, hkl: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the largest of the equivalent hkl."""
        images = np.stack([sign * hkl @ op for op in self.laue for sign in (1, -1)])
        rank = (images[..., 0] * 1000 + images[..., 1]) * 1000 + images[..., 2]
        return images[np.argmax(rank, axis=0), np.arange(len(hkl))]


@dataclass(frozen=True)
class Frame:
    """A simulated frame: counts (slow, fast), and the orientation A = U B of the crystal, 1/Å."""

    counts: NDArray[np.int32]
    ub: Floats
    n_spots: int


def orientation(rng: np.random.Generator) -> Floats:
    """Return a rotation from the uniform distribution."""
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def frame(world: World, number: int, crystal: bool = True, seed: int = 0) -> Frame:
    """Simulate one frame; intensities, orientations and counts change with the seed.

    The lab frame is NeXus's: z along the beam, y up, x to the left seen by the beam. Rows of the
    frame go down, columns go to the right of the beam (the view from the sample).
    """
    rng = np.random.default_rng([seed, number])
    ub = orientation(rng) / np.array(world.cell)
    expected = np.where(world.gaps(), 0.0, world.background)
    n_spots = 0
    if crystal:
        hkl, intensity = world.reflections(seed)
        scale = world.brightness * np.exp(rng.normal(0, 0.3))
        decay = rng.normal(0, 2.0)
        n_spots = _add_spots(world, ub, hkl, intensity, scale, decay, expected)
    counts = rng.poisson(expected).astype(np.int32)
    counts[world.gaps()] = -1
    return Frame(counts, ub, n_spots)


def _add_spots(
    world: World,
    ub: Floats,
    hkl: NDArray[np.int64],
    intensity: Floats,
    scale: float,
    decay: float,
    expected: Floats,
) -> int:
    k = 1 / world.wavelength
    r = hkl @ ub.T
    s1 = r + np.array([0.0, 0.0, k])
    length = np.linalg.norm(s1, axis=1)
    normal = s1 / length[:, None]
    excess = length - k
    spread = np.radians(world.mosaicity)
    r2 = np.sum(r * r, axis=1)
    covariance = (world.size**2 + spread**2 * r2)[:, None, None] * np.eye(3)
    covariance -= spread**2 * r[:, :, None] * r[:, None, :]
    across = np.einsum("nij,nj->ni", covariance, normal)
    variance = np.einsum("ni,ni->n", normal, across)
    near = (np.abs(excess) < _REACH * np.sqrt(variance)) & (normal[:, 2] > 0.2)
    n_spots = 0
    for i in np.flatnonzero(near):
        # Density on the plane of the Ewald sphere, relative to the centre of a node of `size`.
        part = world.size / np.sqrt(variance[i]) * np.exp(-0.5 * excess[i] ** 2 / variance[i])
        centre = s1[i] - excess[i] / variance[i] * across[i]
        cosine = centre[2] / np.linalg.norm(centre)
        polarization = world.polarization * (1 - normal[i, 0] ** 2) + (1 - world.polarization) * (
            1 - normal[i, 1] ** 2
        )
        counts = scale * intensity[i] * part * polarization
        counts *= np.exp(-0.5 * decay * r2[i])
        on_plane = covariance[i] - np.outer(across[i], across[i]) / variance[i]
        # Centre and width on the detector plane z = distance; slow is -y, fast is -x.
        to_pixel = world.distance / world.pixel / centre[2]
        jacobian = -to_pixel * np.array(
            [[0, 1, -centre[1] / centre[2]], [1, 0, -centre[0] / centre[2]]]
        )
        widths = jacobian @ on_plane @ jacobian.T + world.blur**2 * np.eye(2)
        position = -to_pixel * centre[[1, 0]] + np.array(world.shape) / 2
        n_spots += _paint(world, position, widths, counts, expected) * (cosine > 0)
    return n_spots


def _paint(world: World, position: Floats, widths: Floats, counts: float, expected: Floats) -> int:
    """Add one spot to the module on which it lies."""
    inverse = np.linalg.inv(widths)
    for m in range(4):
        (slow, fast), shift = world.corners[m], world.shifts[m]
        # A module that moves by +shift records a spot at a smaller index.
        at = position - shift - (slow, fast)
        if not np.all((at > 0) & (at < world.module)):
            continue
        low = np.maximum(np.floor(at).astype(int) - _HALF, 0)
        high = np.minimum(np.floor(at).astype(int) + _HALF + 1, world.module)
        a, b = (np.arange(low[i], high[i]) + 0.5 - at[i] for i in range(2))
        form = (
            inverse[0, 0] * a[:, None] ** 2
            + inverse[1, 1] * b**2
            + 2 * inverse[0, 1] * np.outer(a, b)
        )
        density = np.exp(-0.5 * form) / (2 * np.pi * np.sqrt(np.linalg.det(widths)))
        expected[low[0] + slow : high[0] + slow, low[1] + fast : high[1] + fast] += counts * density
        return 1
    return 0


def write(path: Path, world: World, frames: Sequence[Frame]) -> None:
    """Write the frames as NXmx: one module, without the displacements."""
    size = 1e3 * world.pixel
    corner = np.array([*(size * np.array(world.shape[::-1]) / 2), 1e3 * world.distance])
    geometry = (size, corner, np.array([0, -1.0, 0]), np.array([-1.0, 0, 0]))
    counts = np.array([frame.counts for frame in frames])
    still_files.write(path, counts, geometry, world.wavelength, world.polarization)
