"""Worlds by which a quantitative S(Q) is judged: rotation scans as frames, with their truth.

`quantitative_catalogue.world(name, seed)` makes one, `quantitative_write.write(world, folder)` an
experiment of it. In frame z of rotation r a pixel expects

    beam(z) attenuator(z) { scale · W Ω [ T (S(hkl) + Compton) + T' fluorescence + T Bragg ]
                            + air before + t air behind + A capillary + walls + ice + leak }

with W polarisation and efficiency, Ω the solid angle (1 on the detector's normal), T and T' the
transmission of the crystal traced along rays (and through its capillary), t that of the straight
beam, A Paalman and Pings' factor of the capillary with the crystal in it. S is in electron units
per cell and averaged over the frame (two angles of Gauss) at the pixel's middle. The attenuator
stands behind the monitor.

Not simulated: extinction, multiple scattering, dead time, parallax, the shadow of the crystal on
the air's scattering, a change of attenuation and efficiency by the energy of Compton scattering.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit

from tests.truth.frames_paint import paint, passages, poisson, seed_kernels
from tests.truth.quantitative_absorption import Absorber, Array, weights
from tests.truth.quantitative_background import Optics, Surroundings
from tests.truth.quantitative_parts import empty, environment, images
from tests.truth.quantitative_structure import Crystal, add_rays
from tests.truth.worlds_draft import rng_of
from tests.truth.worlds_physics import (
    Family,
    Motion,
    Sample,
    Scan,
    busing_levy,
    reflections,
    rotation,
    wilson,
)

MASKED = 2**32 - 1
GAUSS = (0.5 - 0.5 / np.sqrt(3), 0.5 + 0.5 / np.sqrt(3))
NODES = (8, 8)  # directions (slow, fast) between which transmissions are splines
ANGLE = 4.0  # degrees at most between rotations that are traced
VOXEL = 0.1  # edge of the voxels of a typical grid, in h, k and l
DIAMOND = (3.567, 3.567, 3.567, 90.0, 90.0, 90.0)


@dataclass
class World:
    """A measurement as frames, with its truth. Rotations and frames are counted from 0."""

    name: str
    seed: int
    crystal: Crystal
    U: Array
    optics: Optics
    scans: tuple[Scan, ...]
    absorber: Absorber
    surroundings: Surroundings
    blind: np.ndarray  # (slow, fast) True in gaps, under the beam stop and in flagged pixels
    beam: list[Array]  # of each rotation, (frames,)
    attenuator: list[Array]
    monitor: list[Array] | None  # as recorded; None: not recorded
    counts_per_voxel: float  # mean diffuse counts of a voxel of 0.1 in h, k and l
    mosaic: float = 0.08  # degrees
    exposure: float = 0.1  # s
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        return self.optics.instrument.shape

    @property
    def UB(self) -> Array:
        return self.U @ self.crystal.B

    @cached_property
    def s(self) -> Array:
        """(slow, fast, 3) directions of the pixels' middles."""
        return self.optics.rays()[0]

    @cached_property
    def _rays(self) -> Array:
        return np.ascontiguousarray(self.s.reshape(-1, 3).T)

    @cached_property
    def norm(self) -> Array:
        """(slow, fast) W Ω: polarisation, efficiency and solid angle; 0 where blind."""
        s, omega = self.optics.rays()
        return np.where(self.blind, 0, self.optics.weight(s) * omega)

    @cached_property
    def _spot_norm(self) -> Array:
        """(slow, fast) W of spots, whose counts do not depend on the pixel's solid angle."""
        return np.where(self.blind, 0, self.optics.weight(self.s))

    @cached_property
    def q(self) -> Array:
        return self.optics.q(self.s)

    @cached_property
    def _level(self) -> Array:
        return self.crystal.level(self.q)

    @cached_property
    def _compton(self) -> Array:
        return self.crystal.compton(self.q)

    def S(self, hkl: Array) -> Array:
        """Return the coherent diffuse scattering at hkl (..., 3), electron units per cell."""
        return self.crystal.S(hkl)

    def hkl(self, r: int, frame: float, s: Array | None = None) -> Array:
        """Return hkl (..., 3) of directions (all pixels) at a continuous frame."""
        k = self.optics.instrument.k
        matrix = np.linalg.inv(self.scans[r].R(frame) @ self.UB)
        return k * ((self.s if s is None else s) - [0, 0, 1.0]) @ matrix.T

    def structure(self, r: int, z: int) -> Array:
        """Return S (slow, fast) of the pixels, averaged over a frame."""
        out = np.zeros(self.shape)
        k = self.optics.instrument.k
        for part in GAUSS:
            matrix = k * np.linalg.inv(self.scans[r].R(z + part) @ self.UB)
            add_rays(out.ravel(), self._rays, matrix, *self.crystal.waves)
        return out * self._level / len(GAUSS)

    # Transmissions

    @cached_property
    def node_pixels(self) -> tuple[Array, Array]:
        """Pixel coordinates (slow, fast) of the nodes of directions."""
        slow, fast = (np.linspace(0, n, m) for n, m in zip(self.shape, NODES, strict=True))
        return tuple(np.meshgrid(slow, fast, indexing="ij"))  # type: ignore[return-value]

    @cached_property
    def node_rays(self) -> Array:
        return self.optics.rays(at=self.node_pixels)[0]

    def _angles(self, r: int) -> Array:
        """Return the frames at which rotation r is traced."""
        scan = self.scans[r]
        n = max(6, int(np.ceil(abs(scan.step) * scan.n_frames / ANGLE)) + 1)
        return np.linspace(0, scan.n_frames, n)

    def nodes(self, r: int, kind: str) -> Array:
        """Return a transmission (frames, *NODES) at mid-frames and the nodes of directions.

        `kind` is sample, fluorescence or container; `through` is (frames,).
        """
        if (kind, r) not in self._kept:
            at, a = self._angles(r), self.absorber
            trace = {
                "sample": lambda R: a.sample(R, self.node_rays),
                "fluorescence": lambda R: a.sample(
                    R, self.node_rays, self.surroundings.fluorescence_mu
                ),
                "container": lambda R: a.container(R, self.node_rays),
                "through": lambda R: np.array(a.through(R, self.beam_size)),
            }[kind]
            table = np.array([trace(self.scans[r].R(f)) for f in at])
            middle = np.arange(self.scans[r].n_frames) + 0.5
            self._kept[kind, r] = np.tensordot(weights(at, middle), table, 1)
        return self._kept[kind, r]

    @property
    def beam_size(self) -> tuple[float, float]:
        """Edges (mm) of a beam that bathes the crystal."""
        low, high = self.absorber.body.box
        half = float(np.linalg.norm(np.maximum(high, -low)))
        return (2.2 * half, 2.2 * half)

    @cached_property
    def _spline(self) -> tuple[Array, Array]:
        return tuple(
            weights(np.linspace(0, n, m), np.arange(n) + 0.5)
            for n, m in zip(self.shape, NODES, strict=True)
        )  # type: ignore[return-value]

    def on_pixels(self, nodes: Array) -> Array:
        """Return a field given at the nodes of directions on all pixels."""
        slow, fast = self._spline
        return slow @ nodes @ fast.T

    def transmission(self, r: int, z: int) -> Array:
        """Return T (slow, fast) of a frame; with a small beam its share of the crystal too."""
        return self.on_pixels(self.nodes(r, "sample")[z])

    def factor(self, r: int, z: int) -> Array:
        """Return beam × attenuator × T of a frame (slow, fast): all that scales S but the pixel."""
        return self.beam[r][z] * self.attenuator[r][z] * self.transmission(r, z)

    # Counts

    @cached_property
    def scale(self) -> float:
        """Counts per electron unit and frame, for beam 1 and a pixel on the detector's normal."""
        signal = self._mean(lambda r, z: self.factor(r, z) * self.structure(r, z) * self.norm)
        return self.counts_per_voxel / (self.pixels_per_voxel * signal)

    @cached_property
    def pixels_per_voxel(self) -> float:
        """Mean number of pixels and frames in a visited voxel of `VOXEL` in h, k and l."""
        s = self.s[~self.blind]
        k = self.optics.instrument.k
        limit = np.ceil(self.q.max() * np.linalg.norm(np.linalg.inv(self.crystal.B), axis=1) + 1)
        size = 2 * (limit / VOXEL).astype(int) + 1
        seen, n = np.zeros(size, np.bool_), 0
        for scan in self.scans:
            for z in range(scan.n_frames):
                matrix = k * np.linalg.inv(scan.R(z + 0.5) @ self.UB) / VOXEL
                n += _visit(seen, s, matrix)
        return n / np.count_nonzero(seen)

    def _mean(self, image: Any) -> float:
        """Return the mean of images over pixels that see, of a few frames."""
        some = [
            (r, z)
            for r, scan in enumerate(self.scans)
            for z in np.linspace(0, scan.n_frames - 1, 6).astype(int)
        ]
        return float(np.mean([image(r, z)[~self.blind].mean() for r, z in some]))

    @cached_property
    def _sample(self) -> Sample:
        inst, cell = self.optics.instrument, np.array(self.crystal.cell)
        return Sample(inst, self.scans, Motion(), cell, self.U, self.mosaic)

    def _spots(self, r: int) -> tuple[Array, Array]:
        """Return rows of spots by frame for |F|² in electron units, and where frames begin."""
        if ("spots", r) not in self._kept:
            inst, scan = self.optics.instrument, self.scans[r]
            q_max = float(self.q.max()) * 1.02
            hkl, strength = self.crystal.structure_factors(q_max)
            hkl, strength = hkl[strength > 1e-3], strength[strength > 1e-3]
            families = [(self._sample, Family(hkl, hkl, strength, 0), self.crystal.volume)]
            families += self._diamonds(q_max) if self.surroundings.diamonds else []
            omega = (inst.pixel_size / abs(inst.origin @ self.optics.normal)) ** 2
            tables = []
            for sample, family, volume in families:
                step = np.radians(abs(scan.step))
                per = inst.wavelength**3 / (volume * step * omega)
                tables.append(passages(sample, r, family, per))
            rows = np.concatenate(tables)
            rows = rows[np.argsort(rows[:, 0], kind="stable")]
            self._kept["spots", r] = rows, np.searchsorted(rows[:, 0], np.arange(scan.n_frames + 1))
        return self._kept["spots", r]

    def _diamonds(self, q_max: float) -> list[tuple[Sample, Family, float]]:
        """Return two diamonds; their strength counts per cell of the crystal."""
        assert self.surroundings.diamonds
        rng, cell = rng_of(self.seed, self.name, "diamonds"), np.array(DIAMOND)
        hkl = reflections(busing_levy(cell), q_max)
        found = []
        for i in range(2):
            power = self.surroundings.diamonds.strength * wilson("Fd-3m", hkl, 5 + i)
            turn = rotation(rng.normal(size=3), rng.uniform(0, 360))
            inst = self.optics.instrument
            sample = Sample(inst, self.scans, Motion(), cell, turn, 0.12)
            found.append((sample, Family(hkl, hkl, power, 1), self.crystal.volume))
        return found

    def bragg(self, r: int, z: int) -> Array:
        """Return Bragg peaks (slow, fast) of a frame, as S would be that a pixel sees for Ω = 1."""
        rows, first = self._spots(r)
        image = np.zeros(self.shape)
        paint(
            image, rows[first[z] : first[z + 1]], np.zeros(self.shape, np.int64), np.zeros((1, 2))
        )
        return image

    @cached_property
    def _images(self) -> dict[str, Array]:
        """Images of the surroundings for beam 1."""
        return images(self)

    def parts(self, r: int, z: int) -> dict[str, Array]:
        """Return the expected counts (slow, fast) of a frame by their origin.

        `diffuse`, `bragg`, `compton` and `fluorescence` are of the crystal, all else is not.
        """
        T, beam = self.transmission(r, z), self.beam[r][z] * self.attenuator[r][z] * self.scale
        found = {
            "diffuse": T * self.norm * self.structure(r, z),
            "compton": T * self.norm * self._compton,
            "bragg": T * self._spot_norm * self.bragg(r, z),
        }
        return {n: beam * v for n, v in (found | environment(self, r, z)).items()}

    def background(self, r: int, z: int, *, of_sample: bool = False) -> Array:
        """Return the expected background (slow, fast), of the sample too (Compton) if asked."""
        own = ("diffuse", "bragg") if of_sample else ("diffuse", "bragg", "compton", "fluorescence")
        parts = self.parts(r, z)
        return np.sum([v for n, v in parts.items() if n not in own] or [0 * self.q], axis=0)

    def expected(self, r: int, z: int) -> Array:
        return np.sum(list(self.parts(r, z).values()), axis=0)

    def empty_expected(self) -> Array:
        """Return the expected counts (slow, fast) of one frame of the empty run."""
        return empty(self)

    def frame(self, r: int, z: int) -> np.ndarray:
        """Return a raw frame (slow, fast), uint32, with `MASKED` where blind."""
        return self._counted(self.expected(r, z), f"{r} {z}")

    def empty_frame(self, z: int) -> np.ndarray:
        return self._counted(self.empty_expected(), f"empty {z}")

    def frames(self, r: int) -> Iterator[np.ndarray]:
        for z in range(self.scans[r].n_frames):
            yield self.frame(r, z)

    def _counted(self, expected: Array, name: str) -> np.ndarray:
        seed = int(rng_of(self.seed, self.name, name).integers(2**31))
        seed_kernels(seed)
        out = np.empty(self.shape, np.uint32)
        poisson(np.ascontiguousarray(expected).ravel(), out.ravel(), seed)
        out[self.blind] = MASKED
        return out


@njit(cache=True)
def _visit(seen, s, matrix):
    n0, n1, n2 = seen.shape
    for i in range(len(s)):
        x, y, z = s[i, 0], s[i, 1], s[i, 2] - 1
        h = round(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z) + n0 // 2
        k = round(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z) + n1 // 2
        m = round(matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z) + n2 // 2
        seen[int(h), int(k), int(m)] = True
    return len(s)
