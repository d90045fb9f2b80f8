"""Where a refinement starts: a parent's geometry, or what another program found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice, reduction, symmetry
from hklflow.geometry.model import Model
from hklflow.geometry.model_compare import detector_of, on_geometry
from hklflow.geometry.parameters import without_head
from hklflow.images.pixel_binning import bin_detector
from hklflow.images.scan import RotationScan
from hklflow.orientation import refinement
from hklflow.orientation.product import Orientation
from hklflow.orientation.unrefined import unrefined
from hklflow.stage.orientation.observed import Observed

Floats = NDArray[np.float64]

_MAX_MISFIT = 0.03  # of two programs' geometries, relative to |Q|
_SAME_WAVELENGTH = 1e-4  # relative


def inherited(observed: Observed, parent: Orientation) -> tuple[list[geometry.Rotation], list[str]]:
    """Geometry of a child's rotations as the parent refined it: detector and heads.

    The small turn of the head that the parent found at a goniometer setting is taken over by
    the rotation at the same setting; of several such by that of the same name.

    Returns
    -------
    rotations : list of Rotation
    notes : list of str
        Which rotations keep their own calibration because the parent had another one.
    """
    refined = [
        (calibrated, parent.rotation(name).detector)
        for name, calibrated in parent.calibrated_detectors.items()
    ]
    rotations, notes = [], []
    for name, scan in zip(observed.names, observed.scans, strict=True):
        own = scan.rotation.detector
        matching = [
            detector for calibrated, detector in refined if _same_calibration(calibrated, own)
        ]
        if not matching:
            notes.append(f"{name} has another calibration than the parent and keeps its own")
        detector = _with_sensor_of(own, matching[0]) if matching else own
        rotation = scan.rotation
        ordered = sorted(parent.rotations.items(), key=lambda item: item[0] != name)
        goniometer = _inherited_goniometer(
            rotation.goniometer, [refined.goniometer for _, refined in ordered]
        )
        rotations.append(geometry.Rotation(rotation.beam, detector, goniometer, rotation.scan))
    return rotations, notes


def _with_sensor_of(own: geometry.Detector, other: geometry.Detector) -> geometry.Detector:
    """Detector where another one is; the sensor's attenuation is for the own wavelength."""
    return replace(
        other,
        sensor_thickness=own.sensor_thickness,
        sensor_attenuation=own.sensor_attenuation,
    )


def _same_calibration(a: geometry.Detector, b: geometry.Detector) -> bool:
    """Return True if two detectors are at the same place, whatever their sensors attenuate."""
    return geometry.detector_to_dict(_with_sensor_of(b, a)) == geometry.detector_to_dict(b)


def _inherited_goniometer(
    own: geometry.Goniometer, parents: Sequence[geometry.Goniometer]
) -> geometry.Goniometer:
    """Goniometer of the first of the parent's rotations that differs by a refined head only."""
    for refined in parents:
        bare = without_head(refined)
        if bare.names != own.names or bare.scan != own.scan:
            continue
        setting = np.arange(len(own.names)) != own.scan
        if np.allclose(bare.axes, own.axes, atol=1e-9) and np.allclose(
            bare.angles[setting], own.angles[setting], atol=1e-9
        ):
            return refined
    return own


@dataclass(frozen=True)
class Start:
    """An orientation that another program made, and the geometry that it was made with.

    Attributes
    ----------
    rotations : list of Rotation
        Of the scan, with the detector of the file.
    ub : (3, 3) array
        1/Å with 2π in our goniometer's frame, in the setting of the file.
    group : SpaceGroup or None
        None where the file names none.
    notes : list of str
        Where the geometry of the file was not taken.
    """

    rotations: list[geometry.Rotation]
    ub: Floats
    group: symmetry.SpaceGroup | None
    notes: list[str]


def started(path: Path, observed: Observed) -> Start:
    """Read an orientation and the detector that goes with it.

    Parameters
    ----------
    path : Path
        Any file that `formats.models.read_model` knows.
    observed : Observed
        The rotations it is for: the first of them is the file's first. A rotation of which the
        file knows nothing has the first one's detector, if the import gave both the same.

    Raises
    ------
    HklflowError
        If the file has no crystal, or is for another detector or another geometry.
    """
    from hklflow.formats.models import read_model

    models, scan = read_model(path), observed.scans[0]
    model = models[0]
    # As many frames: the same ones, whatever number the first has in the file.
    same = model.rotation.scan.n_frames == scan.rotation.scan.n_frames
    first = model.first_image - 1 if same else scan.first
    model = _binned(model, scan)
    _, misfit = on_geometry(model, scan.rotation, first)
    if misfit > _MAX_MISFIT:
        raise HklflowError(
            f"{path} has another geometry: its Miller indices of pixels and this scan's scattering "
            f"vectors differ by {misfit:.1%} (limit {_MAX_MISFIT:.0%}); check wavelength, beam "
            "centre, distance, rotation axis and step of both"
        )
    taken = _with_geometry(model, scan.rotation)
    ours, _ = on_geometry(model, taken, first)
    rotations, notes = [taken], []
    for name, other in zip(observed.names[1:], observed.scans[1:], strict=True):
        own = [m for m in models[1:] if m.name == name]
        if own:
            rotations.append(_with_geometry(_binned(own[0], other), other.rotation))
        elif _same_calibration(other.rotation.detector, scan.rotation.detector):
            detector = _with_sensor_of(other.rotation.detector, taken.detector)
            rotations.append(replace(other.rotation, detector=detector))
        else:
            rotations.append(other.rotation)
            notes.append(f"{path} has no detector for {name}, which keeps its own calibration")
    theirs, wavelength = model.rotation.beam.wavelength, scan.rotation.beam.wavelength
    if abs(theirs / wavelength - 1) > _SAME_WAVELENGTH:
        notes.append(
            f"{path} was made with a wavelength of {theirs:.6g} Å, the scan has "
            f"{wavelength:.6g} Å, which is kept: cell and wavelength do not belong together"
        )
    group = None if model.space_group is None else symmetry.space_group(model.space_group)
    assert ours.ub is not None
    return Start(rotations, ours.ub, group, notes)


def _with_geometry(model: Model, own: geometry.Rotation) -> geometry.Rotation:
    """A rotation of ours with the detector of a model, and its refined head if it has one."""
    # To the digit as a parent's file would hold it.
    theirs = geometry.from_dict(geometry.to_dict(model.rotation)).goniometer
    goniometer = _inherited_goniometer(own.goniometer, [theirs])
    return replace(own, detector=detector_of(model, own), goniometer=goniometer)


def _binned(model: Model, scan: RotationScan) -> Model:
    """Model of the frames as measured, with the detector of the scan's block sums."""
    theirs = model.rotation.detector
    if scan.binning is None or tuple(theirs.shape) != tuple(scan.binning.unbinned):
        return model
    detector = bin_detector(theirs, scan.binning.factor)
    return replace(model, rotation=replace(model.rotation, detector=detector))


def reconciled(
    ub: ArrayLike,
    own: symmetry.SpaceGroup,
    group: symmetry.SpaceGroup,
    cell: ArrayLike | None,
    tolerance: float,
    where: str,
) -> Floats:
    """UB of another program, in the setting of a space group.

    Parameters
    ----------
    ub : (3, 3) array
        1/Å with 2π.
    own : SpaceGroup
        The group that goes with it; only its centring is used.
    group : SpaceGroup
    cell : (6,) array or None
        Expected cell of the group.
    tolerance : float
        Largest principal strain between two cells that are the same.
    where : str
        What the UB is, for the sentence of the error.

    Returns
    -------
    ub : (3, 3) array
        As given if its cell is the expected one, else on another basis of the same lattice.

    Raises
    ------
    HklflowError
        If the lattice cannot be that of the space group, or its cell is not the expected one.
    """
    given = lattice.decompose_ub(ub)[1]
    metric = lattice.metric(given)
    fits = reduction.strain(metric, symmetry.constrain_cell(given, group)) < min(tolerance, 0.01)
    fits &= own.centring == group.centring
    if fits and (cell is None or reduction.strain(metric, cell) < tolerance):
        return np.asarray(ub, dtype=np.float64)
    primitive = np.asarray(ub, dtype=np.float64) @ np.linalg.inv(own.to_primitive)
    if cell is not None:
        settings = reduction.matching_settings(primitive, cell, group, tolerance)
        found = [s.ub for s in settings if s.ratio == 1 and s.asymmetry < 0.01]
    else:
        small = lattice.decompose_ub(primitive)[1]
        found = [
            primitive
            @ np.linalg.inv(setting.matrix)
            @ np.linalg.inv(symmetry.between_settings(setting.group, group))
            for setting in symmetry.bravais_settings(small, 1.5)
            if setting.group.bravais == group.bravais
        ]
    if not found:
        expected = "" if cell is None else f" with the cell {_text(cell)}"
        raise HklflowError(
            f"{where} has the cell {_text(given)} ({own.symbol}), which is no lattice of "
            f"{group.symbol}{expected}; check space group and cell, or index again"
        )
    return found[0]


def _text(cell: ArrayLike) -> str:
    return " ".join(f"{x:.5g}" for x in np.asarray(cell, dtype=np.float64))


def as_given(
    observed: Observed,
    rotations: Sequence[geometry.Rotation],
    ub: ArrayLike,
    tolerance: float,
) -> tuple[refinement.Refined, list[str]]:
    """Model that is taken as it is, with its figures, and what is to be said of it.

    Parameters
    ----------
    tolerance : float
        Largest deviation of h, k, l from integers of an indexed peak.
    """
    found = unrefined(rotations, observed.peaks, ub, tolerance)
    n = len(found.indexed)
    notes = [
        f"the orientation is fixed: it is as given, its standard deviations are not known (0); "
        f"{found.indexed.sum()} of {n} peaks are indexed by it"
    ]
    return found, notes


def constraints_kept(cell: ArrayLike, group: symmetry.SpaceGroup) -> bool:
    """Whether a cell that was given obeys a space group's relations, to 1e-4."""
    own = np.asarray(cell, dtype=np.float64)
    strain = reduction.strain(lattice.metric(own), symmetry.constrain_cell(own, group))
    return bool(strain < 1e-4)
