"""Simulated rotation scans with known truth.

Counts are Poisson distributed with the mean ``μ = N S(Q)``. N contains monitor, transmission, solid
angle, polarisation and sensor. S is an analytic diffuse model plus background and Bragg spots. A
reflection with the integral I (of S over its volume in Q, 1/Å³) gives ``N I / J`` counts in total.
``J = k³ ΔΩ |e·(s × z)| Δφ`` is the volume of Q that one pixel covers in one frame; J contains the
Lorentz factor. A reduction that averages S in voxels therefore gives the same I as a sum over the
peak.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.simulation import kernels
from hklflow.simulation.bragg import Spots, find_spots
from hklflow.simulation.detector import DetectorModel
from hklflow.simulation.models import (
    Background,
    Cosine,
    CrystalModel,
    Diffuse,
    Distortion,
    GoniometerModel,
    Ridge,
    ScanModel,
    Superlattice,
    Vector,
)

__all__ = [
    "GAP_VALUE",
    "Background",
    "Cosine",
    "CrystalModel",
    "DetectorModel",
    "Diffuse",
    "Distortion",
    "GoniometerModel",
    "Ridge",
    "ScanModel",
    "Simulation",
    "Superlattice",
    "TruePeaks",
    "module_gaps",
]

Floats = NDArray[np.float64]

GAP_VALUE = np.uint32(0xFFFFFFFF)
"""Value of `Simulation.frames` in gaps, as in EIGER files."""

_BEAM = np.array([0.0, 0.0, 1.0])


def module_gaps(
    modules: tuple[int, int], module_shape: tuple[int, int], gap: tuple[int, int]
) -> tuple[tuple[int, int], tuple[tuple[int, int, int, int], ...]]:
    """Return shape and gaps of a detector with ``modules`` (slow, fast), `gap` pixels apart."""
    shape = (
        modules[0] * (module_shape[0] + gap[0]) - gap[0],
        modules[1] * (module_shape[1] + gap[1]) - gap[1],
    )
    gaps = []
    for i in range(1, modules[0]):
        stop = i * (module_shape[0] + gap[0])
        gaps.append((stop - gap[0], stop, 0, shape[1]))
    for j in range(1, modules[1]):
        stop = j * (module_shape[1] + gap[1])
        gaps.append((0, shape[0], stop - gap[1], stop))
    return shape, tuple(gaps)


@dataclass(frozen=True)
class TruePeaks:
    """True reflections of a simulated scan, one row per crossing of the Ewald sphere.

    Attributes
    ----------
    hkl : (n, 3) array
        Indices; integers, except for superlattice reflections.
    frame, slow, fast : (n,) array
        Centre of the spot, which may be in a gap.
    sigma : (n, 3) array
        Standard deviations in frames, slow and fast pixels, without the pixel size.
    intensity : (n,) array
        Integral of S over the reflection, 1/Å³.
    counts : (n,) array
        Expected counts of the whole spot, including its halo, with the N at the centre of the spot.
    recorded : (n,) array
        Expected counts on live pixels within the scan.
    background : (n,) array
        Expected counts per pixel and frame under the centre, without Bragg spots and hot pixels.
    zeta : (n,) array
        Speed of the crossing, as in `prediction.Prediction`.
    clean : (n,) bool array
        True if all pixels within 3 standard deviations are live and within the scan.
    """

    hkl: Floats
    frame: Floats
    slow: Floats
    fast: Floats
    sigma: Floats
    intensity: Floats
    counts: Floats
    recorded: Floats
    background: Floats
    zeta: Floats
    clean: NDArray[np.bool_]


@dataclass(frozen=True)
class Simulation:
    """One rotation scan of one crystal at ``scan.temperature``.

    Attributes
    ----------
    n_sub : (frame, slow, fast)
        Numbers of sub-samples with which the diffuse S is averaged over each pixel and frame.
        (1, 1, 1): the value at the centre of the pixel in mid-frame.
    """

    detector: DetectorModel
    goniometer: GoniometerModel
    scan: ScanModel
    crystal: CrystalModel
    diffuse: Diffuse = field(default_factory=Diffuse)
    background: Background = field(default_factory=Background)
    n_sub: tuple[int, int, int] = (1, 1, 1)

    @cached_property
    def _crystal(self) -> CrystalModel:
        return self.crystal.at_temperature(self.scan.temperature)

    @cached_property
    def _diffuse(self) -> Diffuse:
        return self.diffuse.at_temperature(self.scan.temperature)

    @property
    def ub(self) -> Floats:
        """UB (3, 3) in 1/Å with 2π at the scan's temperature."""
        return self._crystal.ub

    @property
    def cell(self) -> Floats:
        """Cell (6,) in Å and degrees at the scan's temperature."""
        return np.asarray(self._crystal.cell)

    def hkl(self, frame: ArrayLike, slow: ArrayLike, fast: ArrayLike) -> Floats:
        """Return the Miller coordinates (n, 3) of frame and pixel coordinates (n,)."""
        q = self.scan.k * (self.detector.rays(slow, fast) - _BEAM)
        turned = self.goniometer.rotation(self.scan.angle(frame)) @ self.ub
        result: Floats = np.linalg.solve(turned, q[..., None])[..., 0]
        return result

    def s_of_hkl(self, hkl: ArrayLike) -> Floats:
        """Return the diffuse S (...) at hkl (..., 3), without Bragg reflections and background."""
        hkl = np.asarray(hkl, dtype=np.float64)
        return self._diffuse.s(hkl, np.sum((hkl @ self.ub.T) ** 2, axis=-1))

    @property
    def live(self) -> NDArray[np.bool_]:
        """True for pixels (slow, fast) that count photons."""
        return ~(self.detector.gap_mask | self.detector.dead_mask)

    @cached_property
    def _response(self) -> Floats:
        rays = self.detector.pixel_rays()
        response = self.detector.response(rays, self.scan.solid_angle, self.scan.polarization)
        return np.where(self.live, response, 0.0)

    @cached_property
    def _background(self) -> Floats:
        return self.background.level(np.arccos(self.detector.pixel_rays()[..., 2]), self.scan.k)

    def _range(self, start: int, stop: int | None) -> tuple[int, int]:
        stop = self.scan.n_frames if stop is None else stop
        if not 0 <= start <= stop <= self.scan.n_frames:
            raise HklflowError(
                f"frames {start} to {stop} are not in the simulated scan of "
                f"{self.scan.n_frames} frames"
            )
        return start, stop

    def norm(self, start: int = 0, stop: int | None = None) -> Floats:
        """Return the true N (n, slow, fast) of frames start to stop; 0 in gaps and dead pixels."""
        start, stop = self._range(start, stop)
        return self.scan.frame_factor[start:stop, None, None] * self._response

    def expected(self, start: int = 0, stop: int | None = None) -> Floats:
        """Return the expected counts μ (n, slow, fast) of frames start to stop; 0 in gaps."""
        start, stop = self._range(start, stop)
        out = np.empty((stop - start, *self.detector.shape))
        self._fill_diffuse(out, start)
        out += self._background
        out *= self._response
        out *= self.scan.frame_factor[start:stop, None, None]
        spots = self._spots
        if len(spots.counts):
            for fraction, width in self._kernels(spots):
                sigma = spots.sigma if width is None else self._halo_sigma(spots.sigma, width)
                kernels.add_spots(
                    out,
                    start,
                    self.scan.frame_factor,
                    spots.position,
                    sigma,
                    spots.counts * fraction,
                )
        out[:, self.detector.hot_mask] += self.detector.hot_counts
        out[:, ~self.live] = 0.0
        return out

    def frames(
        self, block: int = 8, start: int = 0, stop: int | None = None
    ) -> Iterator[NDArray[np.uint32]]:
        """Yield Poisson counts in blocks of up to `block` frames (n, slow, fast).

        Gaps have the value `GAP_VALUE`.

        Every frame has its own seed, so that counts do not depend on `block`.
        """
        start, stop = self._range(start, stop)
        for first in range(start, stop, block):
            mean = self.expected(first, min(first + block, stop))
            if not mean.min(initial=0.0) >= 0:
                raise HklflowError(
                    f"the simulated S(Q) is negative ({mean.min():.3g} expected counts from frame "
                    f"{first}); raise `flat` above the sum of the cosines' amplitudes"
                )
            counts = np.empty(mean.shape, dtype=np.uint32)
            for i in range(len(mean)):
                rng = np.random.default_rng([self.scan.seed, first + i])
                counts[i] = rng.poisson(mean[i])
            counts[:, self.detector.gap_mask] = GAP_VALUE
            yield counts

    def true_peaks(self) -> TruePeaks:
        """Return the reflections with the centre on the detector in the scan, sorted by frame."""
        spots, scan, detector = self._spots, self.scan, self.detector
        limits = np.array([scan.n_frames, *detector.shape])
        inside = np.all((spots.position >= 0) & (spots.position <= limits), axis=1)
        rows = np.flatnonzero(inside)
        rows = rows[np.argsort(spots.position[rows, 0], kind="stable")]
        position, sigma = spots.position[rows], spots.sigma[rows]
        counts_seen = np.zeros(len(rows))
        for fraction, width in self._kernels(spots):
            wide = sigma if width is None else self._halo_sigma(sigma, width)
            counts = (spots.counts * fraction)[rows]
            counts_seen += kernels.recorded(scan.frame_factor, self.live, position, wide, counts)
        nearest = np.minimum(position[:, 0].astype(np.int64), scan.n_frames - 1)
        factor = scan.frame_factor[nearest]
        rays = detector.rays(position[:, 1], position[:, 2])
        level = self.s_of_hkl(spots.hkl[rows])
        level = level + self.background.level(np.arccos(rays[:, 2]), scan.k)
        response = detector.response(rays, scan.solid_angle, scan.polarization)
        low, high = np.floor(position - 3 * sigma), np.floor(position + 3 * sigma) + 1
        clean = np.all((low >= 0) & (high <= limits), axis=1)
        for i in np.flatnonzero(clean):
            (_, s0, f0), (_, s1, f1) = low[i].astype(int), high[i].astype(int)
            clean[i] = self.live[s0:s1, f0:f1].all()
        return TruePeaks(
            hkl=spots.hkl[rows],
            frame=position[:, 0],
            slow=position[:, 1],
            fast=position[:, 2],
            sigma=sigma,
            intensity=spots.intensity[rows],
            counts=spots.counts[rows] * factor,
            recorded=counts_seen,
            background=factor * response * level,
            zeta=spots.zeta[rows],
            clean=clean,
        )

    def raw_header(self) -> dict[str, Any]:
        """Return the fields of ``formats.write_raw.NXmxHeader`` for this scan."""
        detector, scan, goniometer = self.detector, self.scan, self.goniometer
        return {
            "shape": detector.shape,
            "pixel_size": detector.pixel_size,
            "origin": detector.origin,
            "slow": detector.slow,
            "fast": detector.fast,
            "wavelength": scan.wavelength,
            "axis_names": goniometer.names,
            "axes": np.asarray(goniometer.axes, dtype=np.float64),
            "angles": np.asarray(goniometer.angles, dtype=np.float64),
            "scan_axis": goniometer.scan,
            "start": scan.start,
            "step": scan.step,
            "n_frames": scan.n_frames,
            "exposure": scan.exposure,
            "monitor": scan.monitor,
            "pixel_mask": detector.gap_mask.astype(np.uint32),
            "sensor_material": detector.stated_material(scan.wavelength),
            "sensor_thickness": detector.sensor_thickness,
            "temperature": scan.temperature,
            "attenuator_transmission": scan.attenuator,
            "polarization": scan.polarization,
        }

    def _fill_diffuse(self, out: Floats, start: int) -> None:
        model, detector = self._diffuse, self.detector
        sub = self.n_sub[0]
        frame = start + (np.arange(len(out) * sub) + 0.5) / sub
        turned = self.goniometer.rotation(self.scan.angle(frame)) @ self.ub
        waves: dict[tuple[float, ...], int] = {}

        def wave(vector: Vector, shift: float = 0.0) -> int:
            return waves.setdefault((*map(float, vector), shift), len(waves))

        cosine_wave = [wave(c.vector) for c in model.cosines]
        ridge_wave: list[int] = []
        first = [0]
        for ridge in model.ridges:
            ridge_wave.extend(wave(t, float(np.dot(ridge.centre, t))) for t in ridge.vectors)
            first.append(len(ridge_wave))
        table = np.array(list(waves), dtype=np.float64).reshape(-1, 4)
        kernels.diffuse(
            out,
            np.linalg.inv(turned),
            self.scan.k,
            kernels.Plane(
                detector.origin,
                detector.slow * detector.pixel_size[0],
                detector.fast * detector.pixel_size[1],
            ),
            self.n_sub,
            float(model.flat),
            kernels.Waves(
                np.ascontiguousarray(table[:, :3]),
                np.ascontiguousarray(table[:, 3]),
            ),
            kernels.Cosines(
                np.array(cosine_wave, dtype=np.int64),
                np.array([c.amplitude for c in model.cosines], dtype=np.float64),
            ),
            kernels.Ridges(
                np.array(ridge_wave, dtype=np.int64),
                np.array(first, dtype=np.int64),
                np.array([r.amplitude for r in model.ridges], dtype=np.float64),
                np.array([1 / (2 * np.pi**2 * r.width**2) for r in model.ridges], dtype=np.float64),
                np.array([r.profile == "gaussian" for r in model.ridges], dtype=np.bool_),
                np.array([r.q_squared for r in model.ridges], dtype=np.bool_),
            ),
        )

    def _kernels(self, spots: Spots) -> list[tuple[Floats, float | None]]:
        """Return the fractions (n,) of the counts in core and in halo, with the width of each."""
        strong = spots.counts * self.scan.frame_factor.max() >= self.detector.halo_minimum
        halo = np.where(strong, self.detector.halo_fraction, 0.0)
        parts: list[tuple[Floats, float | None]] = [(1 - halo, None)]
        if np.any(halo > 0):
            parts.append((halo, self.detector.halo_sigma))
        return parts

    @staticmethod
    def _halo_sigma(sigma: Floats, width: float) -> Floats:
        wide = np.full_like(sigma, width)
        wide[:, 0] = sigma[:, 0]
        return wide

    @cached_property
    def _spots(self) -> Spots:
        return find_spots(self.detector, self.goniometer, self.scan, self._crystal)
