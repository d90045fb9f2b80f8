"""Model for exchange with other programs: geometry of a rotation and orientation of its crystal.

Formats of other programs are read to a `Model` and written from a `Model`, so that only
`hklflow.formats` contains the conventions of other programs. If a crystal is measured in several
rotations, there are several models with the same UB.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.base.values import MOST_FRAMES
from hklflow.geometry import BEAM, Rotation, lattice, rotation_matrix
from hklflow.geometry.parameters import HEAD, without_head

Floats = NDArray[np.float64]

_OBLIQUE = 0.01


@dataclass(frozen=True, eq=False)
class Model:
    """Geometry of one rotation, and the crystal in it.

    Attributes
    ----------
    rotation : Rotation
    ub : (3, 3) array or None
        Orientation matrix, 1/Å with 2π, in the goniometer's frame. None: there is no crystal.
    space_group : str or None
        Symbol for `geometry.symmetry.space_group`. Hall symbols begin with ``Hall:``, because
        ``P 2`` means different axes in the two notations.
    raw : str or None
        HDF5 file of the frames, or pattern of the images with # for digits.
    first_image : int
        Number of the image that contains frame 0; images are counted from 1.
    name : str
        Name of the rotation.
    mask : str or None
        File of a pixel mask in the format of the program.
    trusted_range : (float, float) or None
        Smallest and largest valid counts. None: the file does not state them.
    ub_at_frames : (n_frames + 1, 3, 3) array or None
        UB at the edges of the frames, for a model that varies during the scan; `ub` is the constant
        part.
    notes : tuple of str
        Contents of the file that the model cannot represent.
    """

    rotation: Rotation
    ub: Floats | None = None
    space_group: str | None = None
    raw: str | None = None
    first_image: int = 1
    name: str = "rotation"
    mask: str | None = None
    trusted_range: tuple[float, float] | None = None
    ub_at_frames: Floats | None = None
    notes: tuple[str, ...] = ()

    @property
    def crystal(self) -> tuple[Floats, Floats]:
        """Return U (3, 3) and the cell (6,).

        Raises
        ------
        HklflowError
            If there is no crystal in the model.
        """
        if self.ub is None:
            raise HklflowError(
                f"the model of {self.name} has a geometry but no crystal; index it first"
            )
        return lattice.decompose_ub(self.ub)


def sound(model: Model) -> Model:
    """Check the numbers of a model that was read, and return the model.

    Raises
    ------
    HklflowError
        If a number is not finite, is not positive where required, the number of frames is
        implausible, or the space group is unknown.
    """
    from hklflow.geometry.symmetry import space_group

    rotation = model.rotation
    detector, goniometer, scan = rotation.detector, rotation.goniometer, rotation.scan
    modules = detector.modules
    parts: dict[str, list[ArrayLike]] = {
        "wavelength or polarization": [rotation.beam.wavelength, rotation.beam.polarization],
        "detector": [detector.origin, detector.slow, detector.fast, detector.pixel_size],
        "modules": [] if modules is None else [modules.shift, modules.rotation],
        "goniometer": [goniometer.axes, goniometer.angles],
        "scan": [scan.start, scan.step],
        "UB": [] if model.ub is None else [model.ub],
    }
    for name, values in parts.items():
        if not all(np.isfinite(value).all() for value in values):
            raise HklflowError(f"{name} of {model.name} is not finite; correct the file")
    positive = (rotation.beam.wavelength, *detector.pixel_size, *detector.shape, scan.n_frames)
    if min(positive) <= 0 or scan.step == 0 or not 0 <= goniometer.scan < len(goniometer.names):
        raise HklflowError(
            f"{model.name} has wavelength {rotation.beam.wavelength:g} Å, {detector.shape} pixels "
            f"of {detector.pixel_size} m, {scan.n_frames} frames of {scan.step:g} radians about "
            f"axis {goniometer.scan} of {len(goniometer.names)}; correct the file"
        )
    if scan.n_frames > MOST_FRAMES:
        raise HklflowError(
            f"{model.name} has {scan.n_frames} frames, more than {MOST_FRAMES}; correct the file"
        )
    if model.space_group is not None:
        space_group(model.space_group)
    if model.ub is not None and abs(np.linalg.det(model.ub)) < 1e-12:
        raise HklflowError(f"UB of {model.name} is singular; correct the file")
    if model.ub is not None and np.linalg.det(model.ub) < 0:
        raise HklflowError(
            f"UB of {model.name} is left-handed (its determinant is "
            f"{np.linalg.det(model.ub):.3g}); reverse or swap axes of the crystal in the file"
        )
    return model


def onto_beam(direction: ArrayLike) -> Floats:
    """Return the smallest rotation (3, 3) that maps the direction of a beam to lab z."""
    unit = np.asarray(direction, np.float64) / np.linalg.norm(direction)
    axis = np.cross(unit, BEAM)
    sine = float(np.linalg.norm(axis))
    if sine == 0:
        return np.eye(3) if unit[2] > 0 else np.diag([1.0, -1.0, -1.0])
    return rotation_matrix(axis, np.arctan2(sine, unit[2]))


def fraction_along_x(fraction: float, normal: ArrayLike) -> tuple[float, bool]:
    """Convert the polarised fraction in a plane with this normal to `Beam.polarization`.

    Returns
    -------
    polarization : float
    oblique : bool
        True if the plane is so oblique that a fraction along lab x cannot describe the intensity
        to 1 %.

    Raises
    ------
    HklflowError
        If the normal is along the beam.
    """
    field = np.cross(np.asarray(normal, np.float64), BEAM)
    if not np.linalg.norm(field) > 1e-6 * np.linalg.norm(normal):
        raise HklflowError(
            f"the normal {np.asarray(normal).tolist()} of the plane of polarization is along the "
            "beam; correct the file"
        )
    along, across = field[:2] / np.linalg.norm(field)
    oblique = abs(2 * along * across * (2 * fraction - 1)) > _OBLIQUE
    return float(fraction * along**2 + (1 - fraction) * across**2), bool(oblique)


def angles_of(u: ArrayLike) -> Floats:
    """Return the angles (3,) in degrees of the rotations about x, then y, then z that give U."""
    from scipy.spatial.transform import Rotation as Turn

    return np.asarray(Turn.from_matrix(np.asarray(u)).as_euler("xyz", degrees=True))


def with_one_crystal(models: Sequence[Model]) -> list[Model]:
    """Return the models with the UB of the first model.

    A difference in orientation becomes an additional goniometer axis (head) of the rotation, as in
    refinement. A different cell is reported in the notes.
    """
    first = models[0]
    u, cell = first.crystal
    same = [first]
    for model in models[1:]:
        own_u, own_cell = model.crystal
        notes = list(model.notes)
        change = np.max(np.abs(own_cell / cell - 1))
        if change > 1e-9:
            notes.append(
                f"its cell, {_numbers(own_cell)}, was replaced by the cell of {first.name}, "
                f"{_numbers(cell)}"
            )
        turn = lattice.nearest_rotation(own_u @ u.T)
        angle = lattice.rotation_angle(turn, np.eye(3))
        rotation = model.rotation
        if angle > 1e-12:
            rotation = replace(rotation, goniometer=_headed(rotation.goniometer, turn))
        if np.degrees(angle) > 0.5:
            notes.append(
                f"its crystal is rotated by {np.degrees(angle):.3g} degrees relative to "
                f"{first.name}"
            )
        same.append(replace(model, rotation=rotation, ub=first.ub, notes=tuple(notes)))
    return same


def _headed(goniometer: geometry.Goniometer, turn: Floats) -> geometry.Goniometer:
    """Return the goniometer with a head as last axis; an existing head is combined with it."""
    from scipy.spatial.transform import Rotation as Turn

    bare = without_head(goniometer)
    if len(bare.names) != len(goniometer.names):
        turn = rotation_matrix(goniometer.axes[-1], goniometer.angles[-1]) @ turn
    vector = Turn.from_matrix(turn).as_rotvec()  # also for rotations by 180 degrees
    angle = float(np.linalg.norm(vector))
    if angle == 0:
        return bare
    return replace(
        bare,
        names=(*bare.names, HEAD),
        axes=np.vstack([bare.axes, vector / angle]),
        angles=np.append(bare.angles, angle),
    )


def _numbers(cell: Floats) -> str:
    return " ".join(f"{x:.6g}" for x in cell)


def to_orientation(models: Sequence[Model]) -> dict[str, Any]:
    """Return the content of an ``orientation.json`` for JSON, as far as the models have it.

    Raises
    ------
    HklflowError
        If a model has no crystal, or two models have the same name.
    """
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise HklflowError(
            f"rotations {', '.join(names)}: names must differ; rename them in the file"
        )
    shared = with_one_crystal(models)
    u, cell = shared[0].crystal
    ub = shared[0].ub
    assert ub is not None
    return {
        "space_group": _plain_symbol(shared[0].space_group),
        "cell": cell.tolist(),
        "U": u.tolist(),
        "UB": np.asarray(ub).tolist(),
        "rotations": {m.name: geometry.to_dict(m.rotation) for m in shared},
        "warnings": [f"{m.name}: {note}" for m in shared for note in m.notes],
    }


def _plain_symbol(group: str | None) -> str | None:
    """Return the Hermann-Mauguin symbol if it describes the same setting, else the input."""
    if group is None or not (group.startswith("Hall:") or group.isdigit()):
        return group
    from hklflow.geometry.symmetry import space_group

    known = space_group(group)
    try:
        return known.symbol if space_group(known.symbol) == known else group
    except HklflowError:
        return group


def _require_agreement(data: dict[str, Any], ub: Floats) -> None:
    """Require that U and cell give UB; if not, one of them was edited."""
    if "U" not in data or "cell" not in data:
        return
    try:
        u, cell = (np.asarray(data[name], dtype=np.float64) for name in ("U", "cell"))
        turned = bool(np.allclose(u @ u.T, np.eye(3), atol=1e-6) and np.linalg.det(u) > 0)
        apart = np.abs(u @ lattice.b_matrix(cell) - ub).max() / np.abs(ub).max()
    except (TypeError, ValueError) as error:
        raise HklflowError(f"U or cell are not numeric ({error}); correct the file") from None
    if not turned:
        raise HklflowError("U is not a rotation: its rows must be orthogonal unit vectors")
    if not apart < 1e-6:
        raise HklflowError(
            f"U and the cell do not give UB (off by {apart:.2g}): one was edited; correct the file"
        )


def from_orientation(data: dict[str, Any]) -> list[Model]:
    """Read the models in the content of an ``orientation.json`` or ``converged.json``.

    Raises
    ------
    HklflowError
        If an entry is absent or malformed.
    """
    try:
        with np.errstate(all="ignore"):  # results that are not finite are reported below
            ub = np.asarray(data["UB"], dtype=np.float64)
            rotations = {
                name: geometry.from_dict(entry) for name, entry in data["rotations"].items()
            }
        group = data["space_group"]
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise HklflowError(
            f"this is not an orientation of hklflow: {type(error).__name__} {error}; use an "
            "orientation.json, converged.json or a start.json of `hklflow model import`"
        ) from None
    if ub.shape != (3, 3) or not np.isfinite(ub).all() or not rotations:
        raise HklflowError(
            f"UB of shape {ub.shape} and {len(rotations)} rotations are not an orientation; use "
            "a finite (3, 3) matrix and at least one rotation"
        )
    _require_agreement(data, ub)
    group = None if group is None else str(group)
    return [sound(Model(rotation, ub, group, name=name)) for name, rotation in rotations.items()]
