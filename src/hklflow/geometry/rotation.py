"""Detector, goniometer and beam: conversion of pixels to Q and back.

Indexing, refinement, masks and transform use these functions, so that all agree on pixel positions.
Frames of reference are defined in `geometry.frames`. Pixel coordinates always refer to the image;
only `Detector.lab` and `Detector.intersect` handle displaced modules.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry.modules import Modules

Floats = NDArray[np.float64]

BEAM = np.array([0.0, 0.0, 1.0])


def _vector(value: ArrayLike) -> Floats:
    return np.asarray(value, dtype=np.float64)


def cross(first: Floats, second: Floats) -> Floats:
    """Return the cross product (..., 3), as `numpy.cross`, which takes ten times as long for (3,).

    A refinement computes it some 10 000 times.
    """
    a, b, c = first[..., 0], first[..., 1], first[..., 2]
    x, y, z = second[..., 0], second[..., 1], second[..., 2]
    product = np.empty(np.broadcast_shapes(first.shape, second.shape))
    product[..., 0] = b * z - c * y
    product[..., 1] = c * x - a * z
    product[..., 2] = a * y - b * x
    return product


def rotation_matrix(axis: ArrayLike, angle: ArrayLike) -> Floats:
    """Return the active right-handed rotation about an axis (Rodrigues' formula).

    Parameters
    ----------
    axis : (3,) array
        Axis of any length.
    angle : (...) array
        Rotation angles in radians.

    Returns
    -------
    (..., 3, 3) array
    """
    x, y, z = _vector(axis) / np.linalg.norm(_vector(axis))
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    phi = np.asarray(angle, dtype=np.float64)[..., None, None]
    return np.eye(3) + np.sin(phi) * skew + (1 - np.cos(phi)) * (skew @ skew)


@dataclass(frozen=True)
class Beam:
    """The incident beam, along lab z.

    Attributes
    ----------
    wavelength : float
        Wavelength, Å.
    polarization : float
        Fraction of the intensity with the electric vector along lab x (0 to 1).
    """

    wavelength: float
    polarization: float = 0.5

    @property
    def k(self) -> float:
        """Wavenumber 2π/λ in 1/Å."""
        return 2 * np.pi / self.wavelength


@dataclass(frozen=True)
class Detector:
    """A flat area detector at its setting, with optional displacements of modules in its plane.

    Attributes
    ----------
    shape : (slow, fast)
        Number of pixels.
    pixel_size : (slow, fast)
        Size of a pixel, metres.
    origin : (3,) array
        Lab position of the outer corner of pixel (0, 0), in metres.
    slow, fast : (3,) array
        Unit vectors in the lab frame along increasing slow and fast index.
    sensor_thickness : float or None
        Thickness in metres. None: all photons are absorbed at the surface.
    sensor_attenuation : float or None
        Linear attenuation coefficient of the sensor in 1/m.
    modules : Modules or None
        Displacements of the modules on the plane given by origin, slow and fast. None: all pixels
        are on one grid.
    """

    shape: tuple[int, int]
    pixel_size: tuple[float, float]
    origin: Floats
    slow: Floats
    fast: Floats
    sensor_thickness: float | None = None
    sensor_attenuation: float | None = None
    modules: Modules | None = None

    def __post_init__(self) -> None:
        for name in ("origin", "slow", "fast"):
            object.__setattr__(self, name, _vector(getattr(self, name)))
        skew = abs(float(self.slow @ self.fast))
        lengths = (float(np.linalg.norm(self.slow)), float(np.linalg.norm(self.fast)))
        if skew > 1e-6 or max(abs(length - 1) for length in lengths) > 1e-6:
            raise HklflowError(
                f"the detector's slow and fast axes must be orthogonal unit vectors: lengths "
                f"{lengths[0]:.8g} and {lengths[1]:.8g}, slow · fast = {skew:.3g}; "
                "check the geometry file"
            )
        if self.modules is not None:
            self._check_modules(self.modules)

    def _check_modules(self, modules: Modules) -> None:
        low, high = modules.rectangles.min(axis=0)[::2], modules.rectangles.max(axis=0)[1::2]
        if np.any(low < 0) or np.any(high > self.shape):
            raise HklflowError(
                f"the modules reach from pixel {low.tolist()} to {high.tolist()}, but the detector "
                f"has {self.shape} pixels; use the modules of this detector (and of its binning)"
            )
        aspect = self.pixel_size[1] / self.pixel_size[0]
        if abs(modules.aspect / aspect - 1) > 1e-9:
            raise HklflowError(
                f"the modules are for pixels of aspect (fast / slow) {modules.aspect:.9g}, but the "
                f"detector has {aspect:.9g}; use the modules of this detector"
            )

    @property
    def plane(self) -> "Detector":
        """Detector without displacements: all pixels are on one grid."""
        return self if self.modules is None else replace(self, modules=None)

    def patch(self, module: int) -> "Detector":
        """Return one module as a flat detector that begins at the first pixel of the module.

        Raises
        ------
        ValueError
            If the detector has no modules.
        """
        if self.modules is None:
            raise ValueError("the detector has no modules")
        s0, s1, f0, f1 = (int(x) for x in self.modules.rectangles[module])
        angle = self.modules.rotation[module]
        # `lab` is evaluated inside the module, because its corner may belong to a neighbour.
        inner = self.lab(s0 + 0.5, f0 + 0.5)
        slow = np.cos(angle) * self.slow + np.sin(angle) * self.fast
        fast = np.cos(angle) * self.fast - np.sin(angle) * self.slow
        corner = inner - 0.5 * (self.pixel_size[0] * slow + self.pixel_size[1] * fast)
        return replace(
            self, shape=(s1 - s0, f1 - f0), origin=corner, slow=slow, fast=fast, modules=None
        )

    @cached_property
    def normal(self) -> Floats:
        """Unit normal of the detector, pointing downstream (away from the sample)."""
        normal = cross(self.fast, self.slow)
        return normal if normal @ self.origin >= 0 else -normal

    @property
    def distance(self) -> float:
        """Perpendicular distance from the sample to the detector's plane, in metres."""
        return float(self.origin @ self.normal)

    def lab(self, slow: ArrayLike, fast: ArrayLike) -> Floats:
        """Return the lab position (..., 3) in metres of pixel coordinates (slow, fast)."""
        if self.modules is not None:
            slow, fast = self.modules.displaced(slow, fast)
        slow_m = np.asarray(slow, dtype=np.float64)[..., None] * self.pixel_size[0]
        fast_m = np.asarray(fast, dtype=np.float64)[..., None] * self.pixel_size[1]
        return self.origin + slow_m * self.slow + fast_m * self.fast

    def pixel_centres(self) -> Floats:
        """Return the lab positions (slow, fast, 3) in metres of all pixel centres."""
        return self.lab(
            np.arange(self.shape[0])[:, None] + 0.5, np.arange(self.shape[1])[None, :] + 0.5
        )

    def intersect(self, direction: ArrayLike) -> tuple[Floats, Floats]:
        """Return the pixel coordinates (slow, fast) where rays from the sample meet the detector.

        Parameters
        ----------
        direction : (..., 3) array
            Lab directions of any length. Rays that do not reach the plane give NaN. Rays that hit
            no module use the nearest module, see `geometry.modules`.
        """
        ray = np.asarray(direction, dtype=np.float64)
        normal = self.normal
        along = ray @ normal
        with np.errstate(divide="ignore", invalid="ignore"):
            length = np.where(along > 0, self.distance / along, np.nan)
        offset = ray * length[..., None] - self.origin
        slow, fast = (
            offset @ self.slow / self.pixel_size[0],
            offset @ self.fast / self.pixel_size[1],
        )
        return (slow, fast) if self.modules is None else self.modules.undisplaced(slow, fast)

    def moved(self, shift: ArrayLike, rotation: ArrayLike = (0.0, 0.0, 0.0)) -> "Detector":
        """Return the detector rotated about its centre and then shifted.

        Parameters
        ----------
        shift : (3,) array
            Shift in metres along lab x, y, z.
        rotation : (3,) array
            Rotation vector in lab axes: its direction is the axis, its length the angle in radians.
        """
        vector = _vector(rotation)
        angle = float(np.linalg.norm(vector))
        turn = rotation_matrix(vector, angle) if angle > 0 else np.eye(3)
        centre = self.plane.lab(self.shape[0] / 2, self.shape[1] / 2)
        return replace(
            self,
            origin=centre + turn @ (self.origin - centre) + _vector(shift),
            slow=turn @ self.slow,
            fast=turn @ self.fast,
        )


@dataclass(frozen=True)
class Goniometer:
    """A chain of rotation axes; one axis is scanned.

    Attributes
    ----------
    names : tuple of n str
    axes : (n, 3) array
        Lab vectors of the axes when all angles are zero; the first axis is fixed to the laboratory.
    angles : (n,) array
        Settings of the axes in radians; the setting of the scan axis is ignored.
    scan : int
        Index of the scan axis.
    """

    names: tuple[str, ...]
    axes: Floats
    angles: Floats
    scan: int

    def __post_init__(self) -> None:
        axes = _vector(self.axes).reshape(-1, 3)
        lengths = np.linalg.norm(axes, axis=1)
        directed = np.isfinite(lengths) & (lengths > 0)
        if not len(self.names) == len(axes) == np.size(self.angles) or not directed.all():
            raise HklflowError(
                f"goniometer: {len(self.names)} names, {len(axes)} axes and "
                f"{np.size(self.angles)} angles; the numbers must agree and axes must be finite "
                "and not zero: check `goniometer`"
            )
        object.__setattr__(self, "axes", axes / lengths[:, None])
        object.__setattr__(self, "angles", _vector(self.angles).reshape(-1))

    @classmethod
    def single(cls, axis: ArrayLike, name: str = "phi") -> "Goniometer":
        """Create a goniometer with one axis."""
        return cls((name,), _vector(axis)[None], np.zeros(1), 0)

    def rotation(self, scan_angle: ArrayLike) -> Floats:
        """Return R_lab_gonio (..., 3, 3) for scan-axis angles (...) in radians."""
        result = np.eye(3)
        for i, axis in enumerate(self.axes):
            angle = scan_angle if i == self.scan else self.angles[i]
            result = result @ rotation_matrix(axis, angle)
        return result

    def scan_axis_lab(self) -> Floats:
        """Return the unit vector along the scan axis in the lab at this setting."""
        outer = np.eye(3)
        for axis, angle in zip(self.axes[: self.scan], self.angles[: self.scan], strict=True):
            outer = outer @ rotation_matrix(axis, angle)
        return outer @ self.axes[self.scan]

    def inner(self) -> Floats:
        """Return the rotation (3, 3) by the axes between scan axis and crystal."""
        result = np.eye(3)
        for axis, angle in zip(
            self.axes[self.scan + 1 :], self.angles[self.scan + 1 :], strict=True
        ):
            result = result @ rotation_matrix(axis, angle)
        return result


@dataclass(frozen=True)
class Scan:
    """Angles of the scan axis: frame coordinate z is at ``start + z * step``.

    Attributes
    ----------
    start, step : float
        Angle at frame coordinate 0, and angle per frame, radians.
    n_frames : int
    """

    start: float
    step: float
    n_frames: int

    def angle(self, frame: ArrayLike) -> Floats:
        """Return the scan-axis angle in radians at frame coordinates (mid-frame is z + 0.5)."""
        return self.start + np.asarray(frame, dtype=np.float64) * self.step

    def frame(self, angle: ArrayLike) -> Floats:
        """Return the frame coordinate of scan-axis angles in radians."""
        return (np.asarray(angle, dtype=np.float64) - self.start) / self.step


@dataclass(frozen=True)
class Rotation:
    """Complete geometry of one rotation scan."""

    beam: Beam
    detector: Detector
    goniometer: Goniometer
    scan: Scan

    def q_lab(self, slow: ArrayLike, fast: ArrayLike) -> Floats:
        """Return the scattering vectors (..., 3) in the lab, 1/Å, of pixel coordinates."""
        position = self.detector.lab(slow, fast)
        return self.beam.k * (directions(position) - BEAM)

    def q_crystal(self, frame: ArrayLike, slow: ArrayLike, fast: ArrayLike) -> Floats:
        """Return the scattering vectors (..., 3) in the goniometer's frame: ``R⁻¹ Q_lab``, 1/Å."""
        rotation = self.goniometer.rotation(self.scan.angle(frame))
        return np.einsum("...ji,...j->...i", rotation, self.q_lab(slow, fast))

    def hkl(self, ub: ArrayLike, frame: ArrayLike, slow: ArrayLike, fast: ArrayLike) -> Floats:
        """Return the Miller coordinates (..., 3) of (frame, slow, fast): ``(R U B)⁻¹ Q_lab``."""
        return self.q_crystal(frame, slow, fast) @ np.linalg.inv(_vector(ub)).T


def directions(position: Floats) -> Floats:
    """Return unit vectors (..., 3) along positions, 3 times as fast as with `numpy.linalg.norm`."""
    length = np.sqrt(np.einsum("...i,...i->...", position, position))
    unit: Floats = position / length[..., None]
    return unit


def two_theta(detector: Detector) -> Floats:
    """Return the scattering angle (slow, fast) in radians of all pixel centres."""
    position = detector.pixel_centres()
    return np.arctan2(np.hypot(position[..., 0], position[..., 1]), position[..., 2])


def azimuth(detector: Detector) -> Floats:
    """Return the azimuth (slow, fast) in radians of all pixel centres.

    The azimuth is the ``chi`` of pyFAI: it is counted from -lab x (pyFAI's axis 2) towards lab y,
    in (-π, π].
    """
    position = detector.pixel_centres()
    return np.arctan2(position[..., 1], -position[..., 0])


def q_max(rotation: Rotation) -> float:
    """Return the largest |Q| in 1/Å on the detector (at one of its corners)."""
    return reach(rotation.detector, rotation.beam.wavelength)


def reach(detector: Detector, wavelength: float) -> float:
    """Return the largest |Q| in 1/Å at a detector's corners, for a wavelength in Å."""
    n_slow, n_fast = detector.shape
    corners = detector.lab(np.array([0, 0, n_slow, n_slow]), np.array([0, n_fast, 0, n_fast]))
    return float(np.linalg.norm(Beam(wavelength).k * (directions(corners) - BEAM), axis=-1).max())


def to_dict(rotation: Rotation) -> dict[str, Any]:
    """Return a JSON-ready description (metres, degrees, Å); `from_dict` reads it."""
    detector, goniometer = rotation.detector, rotation.goniometer
    return {
        "beam": {
            "wavelength_A": rotation.beam.wavelength,
            "polarization": rotation.beam.polarization,
        },
        "detector": detector_to_dict(detector),
        "goniometer": {
            "names": list(goniometer.names),
            "axes": goniometer.axes.tolist(),
            "angles_deg": np.degrees(goniometer.angles).tolist(),
            "scan": goniometer.scan,
        },
        "scan": {
            "start_deg": float(np.degrees(rotation.scan.start)),
            "step_deg": float(np.degrees(rotation.scan.step)),
            "n_frames": rotation.scan.n_frames,
        },
    }


def detector_to_dict(detector: Detector) -> dict[str, Any]:
    """Return a JSON-ready description of a detector in metres, with ``modules`` if it has any."""
    modules = {} if detector.modules is None else {"modules": detector.modules.to_dict()}
    return {
        "shape": list(detector.shape),
        "pixel_size_m": list(detector.pixel_size),
        "origin_m": detector.origin.tolist(),
        "slow": detector.slow.tolist(),
        "fast": detector.fast.tolist(),
        "sensor_thickness_m": detector.sensor_thickness,
        "sensor_attenuation_per_m": detector.sensor_attenuation,
        **modules,
    }


def detector_from_dict(data: dict[str, Any]) -> Detector:
    """Create a detector from the description of `detector_to_dict`."""
    return Detector(
        shape=(int(data["shape"][0]), int(data["shape"][1])),
        pixel_size=(float(data["pixel_size_m"][0]), float(data["pixel_size_m"][1])),
        origin=_vector(data["origin_m"]),
        slow=_vector(data["slow"]),
        fast=_vector(data["fast"]),
        sensor_thickness=data["sensor_thickness_m"],
        sensor_attenuation=data["sensor_attenuation_per_m"],
        modules=Modules.from_dict(data["modules"]) if "modules" in data else None,
    )


def from_dict(data: dict[str, Any]) -> Rotation:
    """Create a rotation from the description of `to_dict`."""
    goniometer, scan = data["goniometer"], data["scan"]
    return Rotation(
        Beam(float(data["beam"]["wavelength_A"]), float(data["beam"]["polarization"])),
        detector_from_dict(data["detector"]),
        Goniometer(
            tuple(goniometer["names"]),
            _vector(goniometer["axes"]),
            np.radians(goniometer["angles_deg"]),
            int(goniometer["scan"]),
        ),
        Scan(
            float(np.radians(scan["start_deg"])),
            float(np.radians(scan["step_deg"])),
            int(scan["n_frames"]),
        ),
    )
