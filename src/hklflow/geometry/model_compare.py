"""Comparison of two models of one crystal, and the transfer of a crystal to another geometry."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import BEAM, Detector, Rotation, lattice, reduction, rotation_matrix, symmetry
from hklflow.geometry.model import Model

Floats = NDArray[np.float64]

_SAME_CELL = 0.03  # largest principal strain between cells of the same lattice
_SAME_INDEX = 0.02  # largest difference between elements of equal index matrices
_PLAINLY_LESS = 0.1  # degrees by which a reindexed crystal must be nearer to be reported


@dataclass(frozen=True)
class Comparison:
    """Difference between two crystals.

    Attributes
    ----------
    degrees : float
        Misorientation after the best symmetry operation of the Laue group, or after `reindexed`.
    reindexed : bool
        True if the best fit needs a symmetry of the lattice that the Laue group does not have. Both
        programs then index the same spots, but with different orientations of the structure.
    matrix : (3, 3) array
        ``h_first = matrix @ h_second``.
    cells : (2, 6) array
        Both cells in the setting of the first model.
    """

    degrees: float
    reindexed: bool
    matrix: Floats
    cells: Floats


def compare(first: Model, second: Model, group: symmetry.SpaceGroup) -> Comparison:
    """Compare the crystals of two rotations, in the laboratory at scan angle zero.

    The cells may have different settings; the result uses the setting of the first model.

    Parameters
    ----------
    group : SpaceGroup
        Space group of the first model.

    Raises
    ------
    HklflowError
        If a model has no crystal, or the lattices differ.
    """
    (_, cell), (_, other_cell) = first.crystal, second.crystal
    ub, other = (m.rotation.goniometer.rotation(0.0) @ np.asarray(m.ub) for m in (first, second))
    other_group = group if second.space_group is None else symmetry.space_group(second.space_group)
    primitive = other @ np.linalg.inv(other_group.to_primitive)
    settings = reduction.matching_settings(primitive, cell, group, _SAME_CELL)
    settings = [s for s in settings if s.ratio == 1]
    if not settings:
        texts = [" ".join(f"{x:.4f}" for x in c) for c in (cell, other_cell)]
        raise HklflowError(
            f"the cells {texts[0]} ({group.symbol}) and {texts[1]} ({other_group.symbol}) do not "
            "describe the same lattice; check the space groups and that both files have this "
            "crystal"
        )
    matches = []
    for setting in settings:
        matrix = np.linalg.solve(setting.ub, other)
        turn = lattice.nearest_rotation(setting.ub @ np.linalg.inv(ub))
        matches.append((np.degrees(lattice.rotation_angle(turn, np.eye(3))), matrix, setting.cell))
    alike = [item for item in matches if _is_same_indexing(item[1], group, other_group, cell)]
    nearest = min(matches, key=lambda item: item[0])
    plain = min(alike, key=lambda item: item[0], default=None)
    reindexed = plain is None or nearest[0] < plain[0] - _PLAINLY_LESS
    chosen = nearest if plain is None or reindexed else plain
    cells = np.stack([cell, chosen[2]])
    return Comparison(float(chosen[0]), reindexed, np.round(chosen[1] * 12) / 12, cells)


def _is_same_indexing(
    matrix: Floats, group: symmetry.SpaceGroup, other_group: symmetry.SpaceGroup, cell: Floats
) -> bool:
    """Return False if a change of indices is a lattice symmetry that the Laue group lacks."""
    if group.bravais != other_group.bravais:
        return True  # the second model has no such symmetry, so its structure is unknown
    operation = matrix @ np.linalg.inv(symmetry.between_settings(other_group, group))
    if np.any(np.abs(group.laue_operations - operation).max(axis=(1, 2)) < _SAME_INDEX):
        return True
    reciprocal = np.linalg.inv(lattice.metric(cell))
    turned = np.linalg.inv(operation.T @ reciprocal @ operation)
    return bool(reduction.strain(turned, cell) > _SAME_CELL)  # a different choice of axes


def on_geometry(model: Model, rotation: Rotation, first: int) -> tuple[Model, float]:
    """Transfer the crystal of a model to the geometry of one of hklflow's scans.

    The model gives Miller indices for pixels and frames; the scan gives scattering vectors for the
    same pixels and frames. The matrix between indices and vectors gives the rotation of the
    crystal. The cell of the model is kept. The definitions of the laboratory frames do not matter.

    Parameters
    ----------
    rotation : Rotation
        Geometry of the scan.
    first : int
        Raw number of the scan's first frame, from 0.

    Returns
    -------
    model : Model
        Model with this rotation and its UB.
    misfit : float
        Rms of the residual divided by the rms of the scattering vectors.

    Raises
    ------
    HklflowError
        If there is no crystal, or the detectors have different shapes.
    """
    _, _ = model.crystal
    theirs = model.rotation
    if theirs.detector.shape != rotation.detector.shape:
        raise HklflowError(
            f"{model.name} is for a detector of {theirs.detector.shape} pixels (slow, fast), the "
            f"scan has {rotation.detector.shape}; use the orientation of this scan"
        )
    n = rotation.scan.n_frames
    ends = [np.linspace(0, size, 7) for size in (n, *rotation.detector.shape)]
    frame, slow, fast = (axis.ravel() for axis in np.meshgrid(*ends, indexing="ij"))
    assert model.ub is not None
    hkl = theirs.hkl(model.ub, frame + first + 1 - model.first_image, slow, fast)
    g = rotation.q_crystal(frame, slow, fast)
    between = np.linalg.lstsq(hkl @ model.ub.T, g, rcond=None)[0].T
    ub = np.asarray(lattice.nearest_rotation(between) @ model.ub, np.float64)
    misfit = float(np.sqrt(np.mean((g - hkl @ ub.T) ** 2) / np.mean(g**2)))
    return replace(model, rotation=rotation, ub=ub, first_image=first + 1), misfit


def detector_of(model: Model, rotation: Rotation) -> Detector:
    """Return the position of a model's detector in the laboratory frame of one of hklflow's scans.

    Both laboratory frames have the same beam direction. The frame of the model is rotated about the
    beam so that the crystals rotate about the same direction. Modules and sensor are taken from the
    rotation.
    """
    turns = [
        r.goniometer.scan_axis_lab() * np.sign(r.scan.step) for r in (rotation, model.rotation)
    ]
    (x, y), (x_0, y_0) = (turn[:2] for turn in turns)
    # If the rotation axis is along the beam, the angle between the frames is unknown.
    angle = np.arctan2(x_0 * y - y_0 * x, x_0 * x + y_0 * y) if np.hypot(x, y) > 0.1 else 0.0
    turned = rotation_matrix(BEAM, angle)
    theirs = model.rotation.detector
    return replace(
        rotation.detector,
        origin=turned @ theirs.origin,
        slow=turned @ theirs.slow,
        fast=turned @ theirs.fast,
    )
