"""A measurement as raw frames, counted pixel by pixel, and its truth; see frames.py.

What a pixel expects in frame z is

    beam(z) · { W [illuminated(z) · T(z) · (spots + D · S(hkl) · Ω) + (air + rings) · Ω] }

with W = polarisation · sensitivity · efficiency · shadow, Ω the relative solid angle and T the
transmission of the crystal. Photons are Poisson; then come afterglow, defects, saturation, gaps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtr

from tests.truth.frames_paint import (
    Intervals,
    add_waves,
    ends,
    paint,
    passages,
    poisson,
    rays,
    seed_kernels,
)
from tests.truth.worlds_draft import Draft, Record, rng_of, true_spots
from tests.truth.worlds_physics import Array, Rows, Sample

MASKED = 2**32 - 1  # what a gap holds
SATURATION = 2**20 - 1
GLOWING = 50  # counts from which a pixel glows afterwards, for three frames


@dataclass
class FrameWorld:
    """A measurement as frames, with its truth. Scans and frames are counted from 0."""

    kind: str
    system: str
    seed: int
    draft: Draft  # crystal, families of reflections, true instrument, and what the header states
    effects: tuple[Record, ...]
    scale: float  # counts per |F|²/Lorentz
    air: float  # counts per pixel-frame near the beam
    diffuse: float  # counts per pixel-frame for S = 1, on the detector's normal
    vectors: Array  # (waves, 3) of S(hkl), in units of the cell
    amplitudes: Array  # (waves,)
    crystals: list[tuple[Array, float]]  # rotation and share of each crystal
    module: np.ndarray  # (slow, fast) module of each pixel, −1 in gaps
    shift: Array  # (modules, 2) pixels from where the header has a module, module 0: none
    sensitivity: Array  # (slow, fast)
    shadow: Array  # (slow, fast), transmission of the beam stop
    beam: Array  # (scans, frames) incident intensity, 1 at first
    illuminated: Array  # (scans, frames) share of the crystal in the beam
    monitor: Array  # (scans, frames) as recorded
    polarization: float
    sensor: tuple[float, float] | None = None  # thickness (m), attenuation (1/m)
    saturation: int = SATURATION
    afterglow: float = 0.0  # share of a pixel's counts that comes again on the next frame
    transmission: Callable[["FrameWorld", int, int], Array | float] | None = None
    rings: Callable[["FrameWorld"], Array] | None = None  # counts for Ω = 1
    grains: list[Rows] = field(default_factory=list)  # spots without a lattice
    defects: Callable[[Array, np.random.Generator], None] | None = None
    temperature: float = 300.0
    parent: "FrameWorld | None" = None
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def sample(self) -> Sample:
        return self.draft.sample

    @property
    def shape(self) -> tuple[int, int]:
        return self.sample.instrument.shape

    @cached_property
    def spots(self) -> Rows:
        """True spots as in `Sample.spots`, before counting; intensity without polarisation."""
        return true_spots(self.draft)[0]

    def S(self, hkl: Array) -> Array:
        """Return the diffuse S of positions hkl (n, 3) of the (first) crystal; its mean is 1."""
        return 1 + np.cos(2 * np.pi * hkl @ self.vectors.T) @ self.amplitudes

    def hkl(self, r: int, frame: Array, slow: Array, fast: Array, T: Array | None = None) -> Array:
        """Return hkl (n, 3) of continuous frames and pixels of the true instrument."""
        turn, UB, k, start = self.sample.state(r, frame)
        s = self.sample.instrument.point(slow, fast) - start
        Q = self.sample.instrument.k * s / np.linalg.norm(s, axis=1, keepdims=True) - k
        matrix = turn @ (np.eye(3) if T is None else T) @ UB
        return np.linalg.solve(matrix, Q[..., None])[..., 0]

    @cached_property
    def _rays(self) -> tuple[Array, Array]:
        return rays(self.sample.instrument, self.shift, self.module, np.zeros(3))

    @cached_property
    def solid_angle(self) -> Array:
        return self._rays[1].reshape(self.shape)

    @cached_property
    def weight(self) -> Array:
        """(slow, fast): polarisation, sensitivity, efficiency of the sensor, shadow; 0 in gaps."""
        s, p, inst = self._rays[0], self.polarization, self.sample.instrument
        weight = p * (1 - s[0] ** 2) + (1 - p) * (1 - s[1] ** 2)
        if self.sensor:
            depth = self.sensor[0] * self.sensor[1]
            weight = weight * -np.expm1(-depth / abs(np.cross(inst.fast, inst.slow) @ s))
        weight = weight.reshape(self.shape) * self.sensitivity * self.shadow
        return np.where(self.module < 0, 0, weight)

    @cached_property
    def q(self) -> Array:
        """(slow, fast): |Q| in 1/Å."""
        return (self.sample.instrument.k * np.sqrt(2 - 2 * self._rays[0][2])).reshape(self.shape)

    @cached_property
    def background(self) -> Array:
        """(slow, fast): what does not come from the crystal, at beam 1."""
        air = self.air * (0.3 + np.exp(-2.5 * self.q / self.draft.q_max))
        extra = self.rings(self) if self.rings else 0
        return (air + extra) * self.weight * self.solid_angle

    def passages(self, r: int) -> tuple[Array, Array]:
        """Return rows (frame, slow, fast, σ, counts) by frame, and where each frame begins."""
        if ("rows", r) not in self._kept:
            d = self.draft
            tables = [passages(self.sample, r, f, self.scale) for f in (d.main, *d.families)]
            tables += [_grains(rows, r, len(self.beam[r])) for rows in self.grains]
            rows = np.concatenate(tables)
            rows = rows[np.argsort(rows[:, 0], kind="stable")]
            first = np.searchsorted(rows[:, 0], np.arange(len(self.beam[r]) + 1))
            self._kept["rows", r] = rows, first
        return self._kept["rows", r]

    def bragg(self, r: int, z: int) -> Array:
        """Return the spots of a frame (slow, fast), before polarisation and transmission."""
        rows, first = self.passages(r)
        image = np.zeros(self.shape)
        paint(image, rows[first[z] : first[z + 1]], self.module, self.shift)
        return image

    def _waves(self, r: int) -> tuple[Intervals, list[tuple[Array, ...]]]:
        if ("waves", r) not in self._kept:
            at, k = Intervals.of(self.sample, r), self.sample.instrument.k
            (t0, U0, k0, _), (t1, U1, k1, _) = ends(self.sample, r, at)
            t, U, km, start = self.sample.state(r, (at.first + at.last) / 2)
            found = []
            for T, share in self.crystals:
                v0, v, v1 = (
                    self.vectors @ np.linalg.inv(a @ T @ b) for a, b in ((t0, U0), (t, U), (t1, U1))
                )
                w0, w, w1 = (
                    np.einsum("jvi,ji->jv", a, b) for a, b in ((v0, k0), (v, km), (v1, k1))
                )
                change = np.concatenate([k * (v1 - v0), -(w1 - w0)[..., None]], axis=2)
                found.append((k * v, -w, change, np.full(len(w), share), start))
            self._kept["waves", r] = at, found
        return self._kept["waves", r]

    def structure(self, r: int, z: int) -> Array:
        """Return S of a frame (slow, fast), averaged over the frame and the crystals."""
        at, crystals = self._waves(r)
        image = np.ones(self.shape)
        moves = np.any(self.sample.motion.offset) or np.any(self.sample.motion.beam_shift)
        for j in np.nonzero(at.frame == z)[0]:
            s = self._rays[0]
            if moves:
                start = np.broadcast_to(crystals[0][4], (len(at.frame), 3))[j]
                s = rays(self.sample.instrument, self.shift, self.module, start)[0]
            for wave, offset, change, share, _ in crystals:
                weight = share[j] * (at.last[j] - at.first[j])
                add_waves(image.ravel(), s, wave[j], offset[j], change[j], self.amplitudes, weight)
        return image

    def expected(self, r: int, z: int) -> Array:
        """Return the expected photons of a frame (slow, fast); 0 in gaps."""
        T = self.transmission(self, r, z) if self.transmission else 1.0
        crystal = self.bragg(r, z) + self.diffuse * self.structure(r, z) * self.solid_angle
        crystal *= self.illuminated[r, z] * T * self.weight
        return self.beam[r, z] * (crystal + self.background)

    def photons(self, r: int, z: int) -> np.ndarray:
        """Return counted photons (slow, fast) of a frame, before the detector's faults."""
        if ("photons", r, z) not in self._kept:
            seed = int(rng_of(self.seed, self.kind, f"{r} {z}").integers(2**31))
            seed_kernels(seed)
            out = np.empty(self.shape, np.uint32)
            poisson(self.expected(r, z).ravel(), out.ravel(), seed)
            old = [k for k in self._kept if k[0] == "photons" and not (k[1] == r and z - 4 < k[2])]
            for key in old:
                del self._kept[key]
            self._kept["photons", r, z] = out
        return self._kept["photons", r, z]

    def frame(self, r: int, z: int) -> np.ndarray:
        """Return a raw frame (slow, fast), uint32, with `MASKED` in gaps."""
        counts = self.photons(r, z).copy()
        rng = rng_of(self.seed, self.kind, f"detector {r} {z}")
        for back in range(1, min(z, 3) + 1 if self.afterglow else 0):
            before = self.photons(r, z - back)
            strong = before > GLOWING
            counts[strong] += rng.poisson(self.afterglow**back * before[strong]).astype(np.uint32)
        if self.defects:
            self.defects(counts, rng)
        np.minimum(counts, self.saturation, out=counts)
        counts[self.module < 0] = MASKED
        return counts

    def frames(self, r: int) -> Iterator[np.ndarray]:
        for z in range(len(self.beam[r])):
            yield self.frame(r, z)


def _grains(rows: Rows, r: int, n_frames: int) -> Array:
    """Return rows (frame, slow, fast, σ, counts) of spots that are Gaussians in frames."""
    keep = rows["rotation"] == r
    x, w = rows["frame"][keep], rows["width_frame"][keep]
    edges = np.floor(x)[:, None] + np.arange(-12, 14)
    share = np.diff(ndtr((edges - x[:, None]) / w[:, None]), axis=1)
    i, j = np.nonzero(share > 1e-6)
    frame, at = edges[i, j], np.nonzero(keep)[0][i]
    table = np.c_[frame, rows["slow"][at], rows["fast"][at], rows["width_slow"][at]]
    table = np.c_[table, rows["intensity"][at] * share[i, j]]
    return table[(frame >= 0) & (frame < n_frames)]
