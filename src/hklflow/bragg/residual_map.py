"""Residuals of the spots by module and by frame.

If all spots of a module have a residual in common, the module is displaced: it is shifted along
slow and fast. With enough spots, a rotation in its plane and a different distance can also be seen
(the pattern is larger or smaller than predicted). Residuals are observed minus predicted. If a
module is shifted or rotated by s, they are -s.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Detector, Rotation
from hklflow.geometry.modules import Modules
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

_FIT_SPOTS = 50  # with fewer spots, no rotation and distance of a module are reported
_OUTLIER = 5.0  # robust standard deviations of the module


@dataclass(frozen=True)
class Spots:
    """Spots of all rotations that a refinement used.

    Attributes
    ----------
    rotations : list of Rotation
        Refined rotations.
    which : (n,) int array
        Index of the rotation of each spot.
    position : (n, 3) array
        Observed positions (slow, fast, frame).
    off : (n, 3) array
        Residuals: observed minus predicted.
    """

    rotations: Sequence[Rotation]
    which: Integers
    position: Floats
    off: Floats

    def select(self, keep: Mask) -> "Spots":
        """Return the rows chosen by a mask."""
        return Spots(self.rotations, self.which[keep], self.position[keep], self.off[keep])

    def along(self) -> Floats:
        """Return residuals (n, 2) in µm: radial, and tangential (from slow to fast)."""
        result = np.zeros((len(self.which), 2))
        for i, rotation in enumerate(self.rotations):
            mine = self.which == i
            outward = _outward(rotation.detector, self.position[mine, :2])
            off = self.off[mine, :2] * 1e6 * np.array(rotation.detector.pixel_size)
            result[mine, 0] = np.sum(off * outward, axis=1)
            result[mine, 1] = off[:, 1] * outward[:, 0] - off[:, 0] * outward[:, 1]
        return result


def used(refined: Refined, peaks: Sequence[Peaks]) -> Spots:
    """Return the spots that a refinement of these peaks used or held out."""
    which = np.repeat(np.arange(len(peaks)), [len(p.frame) for p in peaks])
    position = np.concatenate([p.position for p in peaks])
    everything = Spots(refined.rotations, which, position, refined.residuals)
    return everything.select(refined.used | refined.held_out)


def _outward(detector: Detector, position: Floats) -> Floats:
    """Return unit vectors (n, 2) in (slow, fast) along increasing 2θ, at pixels (n, 2)."""
    x, y, z = detector.lab(position[:, 0], position[:, 1]).T
    gradient = np.stack([x * z, y * z, -(x**2 + y**2)], axis=1)
    on_plane = np.stack([gradient @ detector.slow, gradient @ detector.fast], axis=1)
    length = np.linalg.norm(on_plane, axis=1, keepdims=True)
    unit: Floats = on_plane / np.maximum(length, np.finfo(float).tiny)
    return unit


@dataclass(frozen=True)
class Row:
    """Residuals (observed minus predicted) of one module, or of the whole detector.

    Attributes
    ----------
    module : int
        Number of the module; -1: all spots.
    rectangle : list of int
        First and last + 1 pixel along slow, then along fast.
    spots : int
    median_px, rms_px : list of float or None
        Median and rms along slow and fast, pixels; None without spots.
    median_um, rms_um : list of float or None
        Radial and tangential median and rms, µm; None without spots.
    sigma_um : list of float or None
        Standard errors of the medians, µm.
    z_um, z_sigma_um : float or None
        Apparent displacement of the module away from the sample and its error, µm; None with few
        spots.
    rotation_mrad, rotation_sigma_mrad : float or None
        Apparent rotation about the module's centre, from slow towards fast, and its error, mrad;
        None with few spots.
    """

    module: int
    rectangle: list[int]
    spots: int
    median_px: list[float] | None = None
    rms_px: list[float] | None = None
    median_um: list[float] | None = None
    rms_um: list[float] | None = None
    sigma_um: list[float] | None = None
    z_um: float | None = None
    z_sigma_um: float | None = None
    rotation_mrad: float | None = None
    rotation_sigma_mrad: float | None = None

    @property
    def rmsd_px(self) -> float:
        """Rms distance between observed and predicted positions, pixels; 0 without spots."""
        return 0.0 if self.rms_px is None else float(np.linalg.norm(self.rms_px))

    def to_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return asdict(self)


def by_module(spots: Spots, modules: Modules | None) -> list[Row]:
    """Return residuals of the whole detector, then of each module.

    Spots more than five robust standard deviations from the median of their module are left out.
    """
    shape = spots.rotations[0].detector.shape
    whole = Modules.ideal([(0, shape[0], 0, shape[1])]).rectangles[0]
    rows = [_row(-1, whole, spots)]
    if modules is not None:
        at = modules.module_at(spots.position[:, 0], spots.position[:, 1])
        rows += [_row(m, box, spots.select(at == m)) for m, box in enumerate(modules.rectangles)]
    return rows


def _row(module: int, box: Integers, spots: Spots) -> Row:
    off = spots.off[:, :2]
    if len(off):
        from_middle = np.abs(off - np.median(off, axis=0))
        scatter = 1.4826 * np.median(from_middle, axis=0)
        # The small term keeps all spots if the data are exact.
        spots = spots.select(np.all(from_middle <= _OUTLIER * scatter + 1e-9, axis=1))
    n, rectangle = len(spots.which), [int(x) for x in box]
    if n == 0:
        return Row(module, rectangle, 0)
    off, along = spots.off[:, :2], spots.along()
    error = 1.2533 * along.std(axis=0) / np.sqrt(n)  # error of a median of normal deviates
    found = _motion(box, spots) if n >= _FIT_SPOTS else (None, None, None, None)
    return Row(
        module,
        rectangle,
        n,
        np.median(off, axis=0).tolist(),
        np.sqrt(np.mean(off**2, axis=0)).tolist(),
        np.median(along, axis=0).tolist(),
        np.sqrt(np.mean(along**2, axis=0)).tolist(),
        error.tolist(),
        *found,
    )


def _motion(box: Integers, spots: Spots) -> tuple[float, float, float, float]:
    """Fit distance (µm) and rotation (mrad) of a module, with errors, by least squares.

    The model is ``off = shift + rotation × (x - c) + (x - c) Δz / D`` about the module's centre c:
    if the detector is farther away by Δz, all distances on it are larger by the fraction Δz / D.
    """
    detector = spots.rotations[0].detector
    size = np.array(detector.pixel_size)
    at = (spots.position[:, :2] - (box[::2] + box[1::2]) / 2) * size
    one, zero = np.ones(len(at)), np.zeros(len(at))
    design = np.concatenate(
        [
            np.stack([one, zero, -at[:, 1], at[:, 0]], axis=1),
            np.stack([zero, one, at[:, 0], at[:, 1]], axis=1),
        ]
    )
    off = (spots.off[:, :2] * size).T.ravel()
    normal = np.linalg.inv(design.T @ design)
    values = normal @ (design.T @ off)
    rest = off - design @ values
    sigma = np.sqrt(np.diag(normal) * (rest @ rest) / (len(off) - 4))
    distance = float(np.mean([rotation.detector.distance for rotation in spots.rotations]))
    return (
        1e6 * distance * float(values[3]),
        1e6 * distance * float(sigma[3]),
        1e3 * float(values[2]),
        1e3 * float(sigma[2]),
    )


def by_frame(spots: Spots, names: Sequence[str], blocks: int = 24) -> list[dict[str, Any]]:
    """Return median and rms residual (slow, fast, frame) of blocks of frames of each rotation."""
    rows: list[dict[str, Any]] = []
    for i, (name, rotation) in enumerate(zip(names, spots.rotations, strict=True)):
        mine = spots.which == i
        edges = np.linspace(0, rotation.scan.n_frames, blocks + 1)
        number = np.clip(np.searchsorted(edges, spots.position[mine, 2], "right") - 1, 0, None)
        for block in np.unique(np.minimum(number, blocks - 1)):
            off = spots.off[mine][np.minimum(number, blocks - 1) == block]
            rows.append(
                {
                    "rotation": name,
                    "frames": [float(edges[block]), float(edges[block + 1])],
                    "spots": len(off),
                    "median": np.median(off, axis=0).tolist(),
                    "rms": np.sqrt(np.mean(off**2, axis=0)).tolist(),
                }
            )
    return rows
