"""Observed peaks, and their deviations from the predictions of a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import BEAM, Rotation, cross
from hklflow.geometry.parameters import Parameters
from hklflow.geometry.prediction import crossing_angles
from hklflow.peaks.table import PeakTable

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Peaks:
    """Observed peaks of one rotation.

    Attributes
    ----------
    frame, slow, fast : (n,) array
        Centroids.
    var_frame, var_slow, var_fast : (n,) array
        Variances of the centroids.
    """

    frame: Floats
    slow: Floats
    fast: Floats
    var_frame: Floats
    var_slow: Floats
    var_fast: Floats

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
            if getattr(self, name).shape != self.frame.shape or self.frame.ndim != 1:
                raise HklflowError(
                    f"peaks: {name} has shape {getattr(self, name).shape}, frame "
                    f"{self.frame.shape}; give one value per peak"
                )
        values = np.stack([getattr(self, name) for name in self.__dataclass_fields__])
        if not np.all(np.isfinite(values)) or np.any(values[3:] <= 0):
            raise HklflowError(
                f"peaks: {np.sum(~np.isfinite(values))} values are not finite and "
                f"{np.sum(values[3:] <= 0)} variances not positive; drop these peaks"
            )

    @classmethod
    def of(cls, table: PeakTable) -> "Peaks":
        """Return the centroids of a peak table."""
        return cls(*(getattr(table, name) for name in cls.__dataclass_fields__))

    def select(self, keep: NDArray[np.bool_]) -> "Peaks":
        """Return the peaks selected by a mask (n,)."""
        return Peaks(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))

    @property
    def position(self) -> Floats:
        """Centroids (n, 3) in the order (slow, fast, frame)."""
        return np.stack([self.slow, self.fast, self.frame], axis=1)

    @property
    def sigma(self) -> Floats:
        """Standard deviations (n, 3) in the order (slow, fast, frame)."""
        return np.sqrt(np.stack([self.var_slow, self.var_fast, self.var_frame], axis=1))


CENTROID = tuple(Peaks.__dataclass_fields__)
"""Columns of a peak table from which `Peaks` is made."""


class Problem:
    """Peaks of all rotations in one list, and their residuals for the parameters of a model."""

    def __init__(self, parameters: Parameters, peaks: Sequence[Peaks]) -> None:
        self.parameters = parameters
        self.which = np.repeat(np.arange(len(peaks)), [len(p.frame) for p in peaks])
        self.position = np.concatenate([p.position for p in peaks])
        self.sigma = np.concatenate([p.sigma for p in peaks])

    def miller(self, values: Floats) -> Floats:
        """Return the Miller coordinates (n, 3) of all peaks."""
        hkl = np.empty_like(self.position)
        ub = self.parameters.ub_of(values)
        for i in range(len(self.parameters.rotations)):
            slow, fast, frame = self.position[self.which == i].T
            hkl[self.which == i] = self.parameters.rotation_of(values, i).hkl(ub, frame, slow, fast)
        return hkl

    def residuals(
        self, values: Floats, hkl: Floats, rows: NDArray[np.int64]
    ) -> tuple[Floats, Floats]:
        """Return observed minus predicted (m, 3) and zeta (m,) for the peaks ``rows`` (m,)."""
        difference = np.zeros((len(rows), 3))
        zeta = np.zeros(len(rows))
        for of_rotation, rotation, off, q in self._by_rotation(values, hkl, rows):
            difference[of_rotation], zeta[of_rotation] = off, _zeta(rotation, q)
        return difference, zeta

    def _by_rotation(
        self, values: Floats, hkl: Floats, rows: NDArray[np.int64], only: int | None = None
    ) -> Iterator[tuple[NDArray[np.bool_], Rotation, Floats, Floats]]:
        """Yield peaks, geometry, differences and Q of each rotation, or of ``only`` one."""
        ub = self.parameters.ub_of(values)
        for i in range(len(self.parameters.rotations)) if only is None else (only,):
            of_rotation = self.which[rows] == i
            if of_rotation.any():
                rotation = self.parameters.rotation_of(values, i)
                offset = self.parameters.offset_of(values, i)
                position = self.position[rows[of_rotation]]
                found = differences(rotation, ub, hkl[of_rotation], position, offset)
                yield of_rotation, rotation, *found

    def jacobian(self, values: Floats, hkl: Floats, rows: NDArray[np.int64]) -> Floats:
        """Return the derivatives (3 m, p) of the weighted residuals, by central differences."""
        sigma = self.sigma[rows]
        columns = []
        for j, step in enumerate(self.parameters.steps()):
            name = self.parameters.names[j].split("_")
            # A parameter of one rotation does not move the peaks of the others.
            only = next((int(part) for part in name if part.isdigit()), None)
            up, down = values.copy(), values.copy()
            up[j] += step
            down[j] -= step
            change = np.zeros((len(rows), 3))
            ends = [self._by_rotation(end, hkl, rows, only) for end in (up, down)]
            for (of_rotation, _, after, _), (_, _, before, _) in zip(*ends, strict=True):
                change[of_rotation] = after - before
            columns.append((change / (2 * step) / sigma).ravel())
        return np.stack(columns, axis=1)


def compare(
    rotation: Rotation,
    ub: Floats,
    hkl: Floats,
    position: Floats,
    offset: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Return observed minus predicted (n, 3), in pixels and frames, and |zeta| (n,).

    Both are NaN for a reflection that does not cross the Ewald sphere.

    Parameters
    ----------
    rotation : Rotation
    ub : (3, 3) array
        UB in 1/Å.
    hkl : (n, 3) array
    position : (n, 3) array
        Observed (slow, fast, frame).
    offset : (3,) array or None
        Offset of the crystal from the rotation axis, in the goniometer's frame, metres.
    """
    difference, q = differences(rotation, ub, hkl, position, offset)
    return difference, _zeta(rotation, q)


def _zeta(rotation: Rotation, q: Floats) -> Floats:
    normal = cross(q, BEAM)
    length = np.linalg.norm(normal, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        zeta = np.abs(normal @ rotation.goniometer.scan_axis_lab()) / length
    return np.nan_to_num(zeta)


def differences(
    rotation: Rotation, ub: Floats, hkl: Floats, position: Floats, offset: Floats | None
) -> tuple[Floats, Floats]:
    """Return observed minus predicted (n, 3) of `compare`, and the scattering vectors (n, 3)."""
    angles, circles = crossing_angles(rotation, ub, hkl)
    observed = rotation.scan.angle(position[:, 2])
    # Take the crossing nearest to the observed peak, without whole turns.
    ahead = (angles - observed[:, None] + np.pi) % (2 * np.pi) - np.pi
    nearest = np.argmin(np.where(np.isnan(ahead), np.inf, np.abs(ahead)), axis=1)
    rows = np.arange(len(hkl))
    q = circles.at(angles[rows, nearest])
    ray = q + rotation.beam.k * BEAM
    slow, fast = rotation.detector.intersect(ray)
    if offset is not None:
        place = rotation.goniometer.rotation(angles[rows, nearest]) @ offset
        moved = displacement(rotation, place, ray)
        slow, fast = slow + moved[:, 0], fast + moved[:, 1]
    difference = np.stack(
        [position[:, 0] - slow, position[:, 1] - fast, -ahead[rows, nearest] / rotation.scan.step],
        axis=1,
    )
    return difference, q


def displacement(rotation: Rotation, place: Floats, ray: Floats) -> Floats:
    """Return the displacement (n, 2) in pixels of spots whose rays start at places (n, 3) in m.

    The end of the ray moves by the vector to the starting place, projected along the ray onto the
    detector plane.
    """
    detector = rotation.detector
    along = (place @ detector.normal) / (ray @ detector.normal)
    moved = place - along[:, None] * ray
    return np.stack(
        [
            moved @ detector.slow / detector.pixel_size[0],
            moved @ detector.fast / detector.pixel_size[1],
        ],
        axis=1,
    )
