"""Parameters of a refinement: names, groups, and the model for given values.

A parameter is a change that is added to the starting model, so its starting value is 0. Only the
parameters of the cell are the free lengths and angles themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.values import CELL_NAMES
from hklflow.geometry import BEAM, Goniometer, Rotation, cross, lattice, rotation_matrix
from hklflow.geometry.symmetry import CellConstraints

Floats = NDArray[np.float64]

#: Groups of parameters; ``off_centre_0`` exists with other numbers for the other rotations.
GROUPS = (
    "cell",
    "orientation",
    "detector_x",
    "detector_y",
    "detector_z",
    "detector_rotation",
    "wavelength",
    "scan_offset",
    "misorientation",
    "off_centre_0",
)

_OFF_CENTRE = "off_centre_"

#: Name of the axis of a refined head.
HEAD = "misorientation"


@dataclass(frozen=True)
class Parameters:
    """Names of the refined parameters, and the model that these parameters change.

    Attributes
    ----------
    names : tuple of n str
        ``a`` ... ``gamma`` (Å, degrees); ``u_x``, ``u_y``, ``u_z`` (radians, rotation vector in
        the goniometer's frame, applied after the starting U); ``detector_x`` ... (metres, along
        axes that rotate with each detector: z along its normal, x and y in its plane, so that a
        wrong beam centre does not look like a wrong distance); ``detector_rotation_x`` ...
        (radians, about the same axes through the detector's centre); ``wavelength`` (Å, added);
        ``scan_offset_i`` (radians, added to the scan angle of rotation i);
        ``misorientation_i_x`` ... (radians, rotation vector of the head on the goniometer of
        rotation i); ``off_centre_i_1``, ``off_centre_i_2`` (metres, displacement of the crystal
        from the axis in rotation i, along the directions of `across`).
    constraints : CellConstraints
    cell : (6,) array
        Starting cell; kept if the cell is not refined.
    u : (3, 3) array
        Starting U.
    rotations : tuple of Rotation
        Starting geometry.
    """

    names: tuple[str, ...]
    constraints: CellConstraints
    cell: Floats
    u: Floats
    rotations: tuple[Rotation, ...]

    def start(self) -> Floats:
        """Return the values (n,) of the starting model."""
        cell = dict(zip(self.constraints.free, self.constraints.select(self.cell), strict=True))
        return np.array([cell.get(name, 0.0) for name in self.names])

    def steps(self) -> Floats:
        """Return steps (n,) for numerical derivatives: small, but well above rounding errors."""
        sizes = {"wavelength": 1e-5, "a": 1e-5, "b": 1e-5, "c": 1e-5}
        angles = {"alpha": 1e-4, "beta": 1e-4, "gamma": 1e-4}
        detector = {"detector_x": 1e-6, "detector_y": 1e-6, "detector_z": 1e-6}
        known = sizes | angles | detector
        return np.array([known.get(name, 1e-6) for name in self.names])

    def cell_of(self, values: ArrayLike) -> Floats:
        """Return the cell (6,) at values (n,)."""
        table = dict(zip(self.names, np.asarray(values, dtype=np.float64), strict=True))
        free = self.constraints.free
        if free[0] not in table:
            return self.cell
        return self.constraints.expand([table[name] for name in free])

    def cell_jacobian(self) -> Floats:
        """Compute the derivatives (6, n) of the cell."""
        jacobian = np.zeros((6, len(self.names)))
        for column, name in enumerate(self.constraints.free):
            if name in self.names:
                jacobian[:, self.names.index(name)] = self.constraints.matrix[:, column]
        return jacobian

    def u_of(self, values: ArrayLike) -> Floats:
        """Return U (3, 3) at values (n,)."""
        return _turn(self._vector(values, "u")) @ self.u

    def ub_of(self, values: ArrayLike) -> Floats:
        """Return UB (3, 3) in 1/Å with 2π at values (n,)."""
        return self.u_of(values) @ lattice.b_matrix(self.cell_of(values))

    def rotation_of(self, values: ArrayLike, i: int) -> Rotation:
        """Return the geometry of rotation ``i`` at values (n,)."""
        table = dict(zip(self.names, np.asarray(values, dtype=np.float64), strict=True))
        rotation = self.rotations[i]
        beam, scan = rotation.beam, rotation.scan
        offset = table.get(f"scan_offset_{i}", 0.0)
        return Rotation(
            beam=replace(beam, wavelength=beam.wavelength + table.get("wavelength", 0.0)),
            detector=rotation.detector.moved(
                *(
                    self._arms[i] @ self._vector(values, stem)
                    for stem in ("detector", "detector_rotation")
                )
            ),
            goniometer=with_head(rotation.goniometer, self._vector(values, f"misorientation_{i}")),
            scan=replace(scan, start=scan.start + offset),
        )

    def offset_of(self, values: ArrayLike, i: int) -> Floats | None:
        """Return the crystal's offset (3,) in m from the axis in rotation ``i``; None if fixed."""
        table = dict(zip(self.names, np.asarray(values, dtype=np.float64), strict=True))
        if f"{_OFF_CENTRE}{i}_1" not in table:
            return None
        two = [table[f"{_OFF_CENTRE}{i}_{n}"] for n in (1, 2)]
        offset: Floats = np.array(two) @ across(self.rotations[i])
        return offset

    @cached_property
    def _arms(self) -> list[Floats]:
        """Rotations (3, 3) from the axes of the detector of each rotation to lab axes.

        A tilt or a wrong distance of a detector on an arm is the same at every angle of the arm.
        """
        first = self.rotations[0].detector
        turns = []
        for detector in (rotation.detector for rotation in self.rotations):
            turn = tilt(first.normal)
            if not (
                np.array_equal(detector.slow, first.slow)
                and np.array_equal(detector.fast, first.fast)
            ):
                axes = np.column_stack([detector.slow, detector.fast, detector.normal])
                turn = axes @ np.array([first.slow, first.fast, first.normal]) @ turn
            turns.append(turn)
        return turns

    def _vector(self, values: ArrayLike, stem: str) -> Floats:
        table = dict(zip(self.names, np.asarray(values, dtype=np.float64), strict=True))
        return np.array([table.get(f"{stem}_{axis}", 0.0) for axis in "xyz"])


def across(rotation: Rotation) -> Floats:
    """Return two unit vectors (2, 3) across the rotation axis, in the goniometer's frame."""
    axis = rotation.goniometer.rotation(0.0).T @ rotation.goniometer.scan_axis_lab()
    _, _, basis = np.linalg.svd(axis[None])
    vectors: Floats = basis[1:]
    return vectors


def _turn(vector: Floats) -> Floats:
    angle = float(np.linalg.norm(vector))
    return rotation_matrix(vector, angle) if angle > 0 else np.eye(3)


def rotation_vector(turn: Floats) -> Floats:
    """Return the rotation vector (3,) in radians of a rotation (3, 3) by less than 180 degrees."""
    angle = lattice.rotation_angle(turn, np.eye(3))
    skew = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    return skew / 2 / np.sinc(angle / np.pi)


def with_head(goniometer: Goniometer, vector: Floats) -> Goniometer:
    """Return the goniometer with an additional fixed rotation as last axis."""
    angle = float(np.linalg.norm(vector))
    if angle == 0:
        return goniometer
    if goniometer.names[-1] == HEAD and goniometer.scan != len(goniometer.names) - 1:
        # One head is enough: the new rotation is combined with the old rotation.
        both = rotation_matrix(goniometer.axes[-1], goniometer.angles[-1]) @ _turn(vector)
        goniometer = without_head(goniometer)
        vector = rotation_vector(both)
        angle = float(np.linalg.norm(vector))
    return replace(
        goniometer,
        names=(*goniometer.names, HEAD),
        axes=np.vstack([goniometer.axes, vector / angle]),
        angles=np.append(goniometer.angles, angle),
    )


def without_head(goniometer: Goniometer) -> Goniometer:
    """Return the goniometer without its refined head."""
    if goniometer.names[-1] != HEAD:
        return goniometer
    return replace(
        goniometer,
        names=goniometer.names[:-1],
        axes=goniometer.axes[:-1],
        angles=goniometer.angles[:-1],
    )


def groups_of(names: Sequence[str]) -> list[str]:
    """Return the groups of parameters with these names, see `Parameters`."""
    groups = {
        "cell" if name in CELL_NAMES else "orientation" if name.startswith("u_") else _group(name)
        for name in names
    }
    return sorted(groups)


def _group(name: str) -> str:
    matching = [group for group in GROUPS if name == group or name.startswith(f"{group}_")]
    return matching[0] if matching else name.rpartition("_")[0]  # off_centre_1 and so on


def choose(
    groups: Sequence[str],
    constraints: CellConstraints,
    cell: ArrayLike,
    u: ArrayLike,
    rotations: Sequence[Rotation],
) -> Parameters:
    """Return the parameters of the requested groups.

    ``scan_offset`` and ``misorientation`` apply to all rotations except the first, because U refers
    to the first rotation.

    Raises
    ------
    HklflowError
        If a group is unknown, or if two groups describe the same change.
    """
    _refuse_degenerate(groups, len(rotations))
    names: list[str] = []
    for group in GROUPS:
        if group not in groups or group.startswith(_OFF_CENTRE):
            continue
        if group == "cell":
            names += constraints.free
        elif group == "orientation":
            names += [f"u_{axis}" for axis in "xyz"]
        elif group == "detector_rotation":
            names += [f"detector_rotation_{axis}" for axis in "xyz"]
        elif group == "scan_offset":
            names += [f"scan_offset_{i}" for i in range(1, len(rotations))]
        elif group == "misorientation":
            names += [f"misorientation_{i}_{a}" for i in range(1, len(rotations)) for a in "xyz"]
        else:
            names.append(group)
    for i in range(len(rotations)):
        if f"{_OFF_CENTRE}{i}" in groups:
            names += [f"{_OFF_CENTRE}{i}_{n}" for n in (1, 2)]
    return Parameters(
        tuple(names),
        constraints,
        np.asarray(cell, dtype=np.float64),
        np.asarray(u, dtype=np.float64),
        tuple(rotations),
    )


def _refuse_degenerate(groups: Sequence[str], n_rotations: int) -> None:
    offsets = {f"{_OFF_CENTRE}{i}" for i in range(n_rotations)}
    unknown = sorted(set(groups) - set(GROUPS) - offsets)
    if unknown or not groups:
        raise HklflowError(
            f"unknown parameters to refine: {', '.join(unknown) or 'none'}; choose from "
            f"{', '.join(GROUPS)}"
        )
    asked = set(groups)
    if {"wavelength", "cell"} <= asked:
        raise HklflowError(
            "wavelength and cell cannot be refined together: scaling both moves no spot (also with "
            "detector_z); fix one of them"
        )
    relative = asked & {"scan_offset", "misorientation"}
    if relative and n_rotations < 2:
        raise HklflowError(
            f"{' and '.join(sorted(relative))} cannot be refined with one rotation, because it has "
            "the same effect as orientation; use more rotations or leave it out"
        )
    if len(relative) == 2:
        raise HklflowError(
            "scan_offset and misorientation cannot be refined together: a misorientation about "
            "the scan axis is a scan offset; fix one of them"
        )


def tilt(normal: Floats) -> Floats:
    """Return the smallest rotation that maps the beam direction to the normal of a detector."""
    axis = cross(BEAM, normal)
    size = float(np.linalg.norm(axis))
    angle = float(np.arctan2(size, BEAM @ normal))
    return rotation_matrix(axis, angle) if size > 0 else np.eye(3)
