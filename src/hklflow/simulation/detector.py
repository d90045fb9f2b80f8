"""Simulated detector: geometry, response and defects.

This module does not use `geometry.rotation`, because it is the reference in the tests of
`geometry.rotation`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from hklflow.geometry.sensor import attenuation
from hklflow.simulation import geometry as sg

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DetectorModel:
    """A flat detector of one or several modules with gaps.

    Without tilt, fast is along -x and slow along -y of the lab (the image is seen along the beam).
    The detector is rotated about the sample: first by `in_plane` about z, then by `tilt[1]` about
    y, then by `tilt[0]` about x.

    Attributes
    ----------
    shape, pixel_size : (slow, fast)
        Number of pixels; size of a pixel in metres.
    distance : float
        Distance from the sample to the plane along its normal, metres.
    foot : (slow, fast)
        Pixel coordinates of the point that is nearest to the sample.
    tilt : (about x, about y)
        Rotations in radians.
    in_plane : float
        Rotation in radians.
    gaps : tuple of (slow start, slow stop, fast start, fast stop)
        Pixels in gaps, which do not exist.
    n_dead, n_hot, hot_counts
        Number of dead pixels, which have no counts; number of hot pixels, which have `hot_counts`
        additional counts in every frame. `seed` determines the positions.
    sensor_thickness, sensor_attenuation : float or None
        Thickness in metres, attenuation in 1/m. None: every photon is counted.
    sensor_material : str
        Material that raw files state if it gives the simulated attenuation; see `stated_material`.
    halo_fraction, halo_sigma, halo_minimum : float
        Halo of spots with more than `halo_minimum` counts. `halo_fraction` of the intensity is
        distributed over the same frames in a Gaussian with a width of `halo_sigma` pixels.
    """

    shape: tuple[int, int]
    distance: float
    foot: tuple[float, float]
    pixel_size: tuple[float, float] = (172e-6, 172e-6)
    tilt: tuple[float, float] = (0.0, 0.0)
    in_plane: float = 0.0
    gaps: tuple[tuple[int, int, int, int], ...] = ()
    n_dead: int = 0
    n_hot: int = 0
    hot_counts: float = 100.0
    seed: int = 0
    sensor_thickness: float | None = None
    sensor_attenuation: float | None = None
    sensor_material: str = "Si"
    halo_fraction: float = 0.0
    halo_sigma: float = 12.0
    halo_minimum: float = 0.0

    @cached_property
    def _rotation(self) -> Rotation:
        x, y = self.tilt
        return sg.chain(((1, 0, 0), (0, 1, 0), (0, 0, 1)), (x, y, self.in_plane))

    @property
    def fast(self) -> Floats:
        """Lab direction of increasing fast index, a unit vector."""
        return np.asarray(self._rotation.apply([-1.0, 0.0, 0.0]))

    @property
    def slow(self) -> Floats:
        """Lab direction of increasing slow index, a unit vector."""
        return np.asarray(self._rotation.apply([0.0, -1.0, 0.0]))

    @property
    def normal(self) -> Floats:
        """Unit normal in the lab, pointing downstream."""
        return np.asarray(self._rotation.apply([0.0, 0.0, 1.0]))

    @property
    def origin(self) -> Floats:
        """Lab position in metres of the outer corner of pixel (0, 0)."""
        return (
            self.distance * self.normal
            - self.foot[0] * self.pixel_size[0] * self.slow
            - self.foot[1] * self.pixel_size[1] * self.fast
        )

    @property
    def beam_centre(self) -> tuple[float, float]:
        """Pixel coordinates (slow, fast) of the direct beam."""
        slow, fast = self.project(np.array([0.0, 0.0, 1.0]))
        return float(slow), float(fast)

    def rays(self, slow: ArrayLike, fast: ArrayLike) -> Floats:
        """Return unit vectors (..., 3) from the sample to pixel coordinates."""
        position = (
            self.origin
            + np.multiply.outer(np.asarray(slow, dtype=np.float64) * self.pixel_size[0], self.slow)
            + np.multiply.outer(np.asarray(fast, dtype=np.float64) * self.pixel_size[1], self.fast)
        )
        unit: Floats = position / np.linalg.norm(position, axis=-1, keepdims=True)
        return unit

    def pixel_rays(self) -> Floats:
        """Return unit vectors (slow, fast, 3) to all pixel centres."""
        slow, fast = np.indices(self.shape, dtype=np.float64) + 0.5
        return self.rays(slow, fast)

    def project(self, ray: Floats) -> tuple[Floats, Floats]:
        """Return the pixel coordinates (slow, fast) of lab directions (..., 3); NaN if behind."""
        depth = ray @ self.normal
        reach = self.distance / np.where(depth > 0, depth, np.nan)
        return (
            self.foot[0] + ray @ self.slow * reach / self.pixel_size[0],
            self.foot[1] + ray @ self.fast * reach / self.pixel_size[1],
        )

    def response(self, ray: Floats, solid_angle: bool, polarization: float | None) -> Floats:
        """Return the counts per S of a pixel in direction (..., 3), 1 at normal incidence.

        The response is a product of three factors: ``cos α / r²`` relative to the point nearest to
        the sample (``cos³ α``), the polarisation ``p (1 - s_x²) + (1 - p) (1 - s_y²)``, and the
        efficiency of the sensor ``1 - exp(-μ t / cos α)``.
        """
        cos_alpha = ray @ self.normal
        result: Floats = cos_alpha**3 if solid_angle else np.ones_like(cos_alpha)
        if polarization is not None:
            result = result * (
                polarization * (1 - ray[..., 0] ** 2) + (1 - polarization) * (1 - ray[..., 1] ** 2)
            )
        if self.sensor_thickness is not None and self.sensor_attenuation is not None:
            depth = self.sensor_thickness * self.sensor_attenuation
            result = result * -np.expm1(-depth / cos_alpha)
        return result

    def stated_material(self, wavelength: float) -> str | None:
        """Return the sensor's material for the raw file; None if its attenuation differs.

        Without a thickness, the material has no effect, but DIALS requires a material.
        """
        if self.sensor_thickness is None:
            return self.sensor_material
        known, simulated = attenuation(self.sensor_material, wavelength), self.sensor_attenuation
        same = None not in (known, simulated) and np.isclose(known or 0, simulated or 0, rtol=1e-3)
        return self.sensor_material if same else None

    @cached_property
    def gap_mask(self) -> NDArray[np.bool_]:
        """True for pixels (slow, fast) in gaps."""
        mask = np.zeros(self.shape, dtype=bool)
        for s0, s1, f0, f1 in self.gaps:
            mask[s0:s1, f0:f1] = True
        return mask

    @cached_property
    def _odd_pixels(self) -> NDArray[np.int64]:
        good = np.flatnonzero(~self.gap_mask)
        picked = np.random.default_rng([self.seed, 0]).permutation(good)
        return picked[: self.n_dead + self.n_hot]

    @cached_property
    def dead_mask(self) -> NDArray[np.bool_]:
        """True for dead pixels (slow, fast), without gaps."""
        mask = np.zeros(self.shape, dtype=bool)
        mask.flat[self._odd_pixels[: self.n_dead]] = True
        return mask

    @cached_property
    def hot_mask(self) -> NDArray[np.bool_]:
        """True for hot pixels (slow, fast)."""
        mask = np.zeros(self.shape, dtype=bool)
        mask.flat[self._odd_pixels[self.n_dead :]] = True
        return mask
