"""Provide the start of a refinement: the geometry of a parent, or the result of a program."""

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
from hklflow.orientation.inherited import Inheritance
from hklflow.orientation.product import Orientation
from hklflow.orientation.unrefined import unrefined
from hklflow.stage.orientation.observed import Observed

Floats = NDArray[np.float64]

_MAX_MISFIT = 0.03  # largest difference of the geometries of two programs, relative to |Q|
_SAME_WAVELENGTH = 1e-4  # relative difference of wavelengths that count as equal


def inherited(observed: Observed, parent: Orientation) -> tuple[list[geometry.Rotation], list[str]]:
    """Return the rotations of a child with the detector and heads that the parent refined.

    The child uses the refined head rotation of the parent's rotation with the same goniometer
    setting. If several have this setting, it uses the one with the same name.

    Returns
    -------
    rotations : list of Rotation
    notes : list of str
        Sentences on rotations that keep their calibration because the calibration of the parent
        differs.
    """
    refined = [
        (calibrated, parent.rotation(name).detector)
        for name, calibrated in parent.calibrated_detectors.items()
    ]
    rotations, notes = [], []
    for name, scan in zip(observed.names, observed.scans, strict=True):
        detector_of_scan = scan.rotation.detector
        matching = [
            detector
            for calibrated, detector in refined
            if _same_calibration(calibrated, detector_of_scan)
        ]
        if not matching:
            notes.append(f"{name} has another calibration than the parent and keeps its own")
        detector = _with_sensor_of(detector_of_scan, matching[0]) if matching else detector_of_scan
        rotation = scan.rotation
        ordered = sorted(parent.rotations.items(), key=lambda item: item[0] != name)
        goniometer = _inherited_goniometer(
            rotation.goniometer, [refined.goniometer for _, refined in ordered]
        )
        rotations.append(geometry.Rotation(rotation.beam, detector, goniometer, rotation.scan))
    return rotations, notes


def inheritance(
    observed: Observed, parent: Orientation, rotations: Sequence[geometry.Rotation]
) -> Inheritance:
    """Return what the `inherited` rotations of a child have from its parent, with its errors."""
    heads = [one.goniometer for one in parent.rotations.values()]
    return Inheritance(
        tuple(parent.refined_parameters),
        parent.parameter_covariance,
        next(iter(parent.rotations.values())),
        tuple(
            any(
                _same_calibration(calibrated, scan.rotation.detector)
                for calibrated in parent.calibrated_detectors.values()
            )
            for scan in observed.scans
        ),
        tuple(
            next((j for j, head in enumerate(heads) if head is rotation.goniometer), None)
            for rotation in rotations
        ),
    )


def _with_sensor_of(detector: geometry.Detector, other: geometry.Detector) -> geometry.Detector:
    """Return the other detector with the sensor attenuation for the wavelength of this one."""
    return replace(
        other,
        sensor_thickness=detector.sensor_thickness,
        sensor_attenuation=detector.sensor_attenuation,
    )


def _same_calibration(a: geometry.Detector, b: geometry.Detector) -> bool:
    """Return True if two detectors have the same position; sensor attenuations may differ."""
    return geometry.detector_to_dict(_with_sensor_of(b, a)) == geometry.detector_to_dict(b)


def _inherited_goniometer(
    goniometer: geometry.Goniometer, parents: Sequence[geometry.Goniometer]
) -> geometry.Goniometer:
    """Return the goniometer of the first parent rotation that differs only by a refined head."""
    for refined in parents:
        bare = without_head(refined)
        if bare.names != goniometer.names or bare.scan != goniometer.scan:
            continue
        setting = np.arange(len(goniometer.names)) != goniometer.scan
        if np.allclose(bare.axes, goniometer.axes, atol=1e-9) and np.allclose(
            bare.angles[setting], goniometer.angles[setting], atol=1e-9
        ):
            return refined
    return goniometer


@dataclass(frozen=True)
class Start:
    """An orientation from another program, with its geometry.

    Attributes
    ----------
    rotations : list of Rotation
        Rotations of the scan with the detector of the file.
    ub : (3, 3) array
        UB in 1/Å with 2π in our goniometer's frame, in the setting of the file.
    group : SpaceGroup or None
        Space group in the file; None if the file has none.
    notes : list of str
        Sentences on geometry of the file that is not used.
    """

    rotations: list[geometry.Rotation]
    ub: Floats
    group: symmetry.SpaceGroup | None
    notes: list[str]


def started(path: Path, observed: Observed) -> Start:
    """Read an orientation and its detector.

    Parameters
    ----------
    path : Path
        Any file that `formats.models.read_model` supports.
    observed : Observed
        Rotations of the scan; the first rotation is the first one in the file. A rotation that is
        not in the file gets the detector of the first one, if the import gave both the same
        detector.

    Raises
    ------
    HklflowError
        If the file has no crystal, or is for another detector or geometry.
    """
    from hklflow.formats.models import read_model

    models, scan = read_model(path), observed.scans[0]
    model = models[0]
    # With the same number of frames, the frames are the same, even if they are numbered
    # differently.
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
    reduced, _ = on_geometry(model, taken, first)
    rotations, notes = [taken], []
    for name, other in zip(observed.names[1:], observed.scans[1:], strict=True):
        matching = [m for m in models[1:] if m.name == name]
        if matching:
            rotations.append(_with_geometry(_binned(matching[0], other), other.rotation))
        elif _same_calibration(other.rotation.detector, scan.rotation.detector):
            detector = _with_sensor_of(other.rotation.detector, taken.detector)
            rotations.append(replace(other.rotation, detector=detector))
        else:
            rotations.append(other.rotation)
            notes.append(f"{path} has no detector for {name}, which keeps its own calibration")
    model_wavelength, wavelength = model.rotation.beam.wavelength, scan.rotation.beam.wavelength
    if abs(model_wavelength / wavelength - 1) > _SAME_WAVELENGTH:
        notes.append(
            f"{path} was made with a wavelength of {model_wavelength:.6g} Å, the scan has "
            f"{wavelength:.6g} Å, which is kept: cell and wavelength do not belong together"
        )
    group = None if model.space_group is None else symmetry.space_group(model.space_group)
    assert reduced.ub is not None
    return Start(rotations, reduced.ub, group, notes)


def _with_geometry(model: Model, rotation: geometry.Rotation) -> geometry.Rotation:
    """Return a rotation with the detector of a model, and with its refined head if it has one."""
    # Round to the same digits as in the file of a parent.
    model_goniometer = geometry.from_dict(geometry.to_dict(model.rotation)).goniometer
    goniometer = _inherited_goniometer(rotation.goniometer, [model_goniometer])
    return replace(rotation, detector=detector_of(model, rotation), goniometer=goniometer)


def _binned(model: Model, scan: RotationScan) -> Model:
    """Return a model of unbinned frames with the detector of the binned frames of a scan."""
    model_detector = model.rotation.detector
    if scan.binning is None or tuple(model_detector.shape) != tuple(scan.binning.unbinned):
        return model
    detector = bin_detector(model_detector, scan.binning.factor)
    return replace(model, rotation=replace(model.rotation, detector=detector))


def reconciled(
    ub: ArrayLike,
    own: symmetry.SpaceGroup,
    group: symmetry.SpaceGroup,
    cell: ArrayLike | None,
    tolerance: float,
    where: str,
) -> Floats:
    """Return the UB of another program in the setting of a space group.

    Parameters
    ----------
    ub : (3, 3) array
        UB in 1/Å with 2π.
    own : SpaceGroup
        Group in the file of the UB; only its centring is used.
    group : SpaceGroup
    cell : (6,) array or None
        Expected cell of the group.
    tolerance : float
        Largest principal strain between equal cells.
    where : str
        Name of the UB in error messages.

    Returns
    -------
    ub : (3, 3) array
        The input UB if its cell is the expected cell, otherwise another basis of the lattice.

    Raises
    ------
    HklflowError
        If the lattice contradicts the space group, or its cell is not the expected cell.
    """
    given_cell = lattice.decompose_ub(ub)[1]
    metric = lattice.metric(given_cell)
    fits = reduction.strain(metric, symmetry.constrain_cell(given_cell, group)) < min(
        tolerance, 0.01
    )
    fits &= own.centring == group.centring
    if fits and (cell is None or reduction.strain(metric, cell) < tolerance):
        return np.asarray(ub, dtype=np.float64)
    primitive = np.asarray(ub, dtype=np.float64) @ np.linalg.inv(own.to_primitive)
    if cell is not None:
        settings = reduction.matching_settings(primitive, cell, group, tolerance)
        matches = [s.ub for s in settings if s.ratio == 1 and s.asymmetry < 0.01]
    else:
        small = lattice.decompose_ub(primitive)[1]
        matches = [
            primitive
            @ np.linalg.inv(setting.matrix)
            @ np.linalg.inv(symmetry.between_settings(setting.group, group))
            for setting in symmetry.bravais_settings(small, 1.5)
            if setting.group.bravais == group.bravais
        ]
    if not matches:
        expected = "" if cell is None else f" with the cell {_text(cell)}"
        raise HklflowError(
            f"{where} has the cell {_text(given_cell)} ({own.symbol}), which is not a lattice of "
            f"{group.symbol}{expected}; check space group and cell, or index again"
        )
    return matches[0]


def _text(cell: ArrayLike) -> str:
    return " ".join(f"{x:.5g}" for x in np.asarray(cell, dtype=np.float64))


def as_given(
    observed: Observed,
    rotations: Sequence[geometry.Rotation],
    ub: ArrayLike,
    tolerance: float,
) -> tuple[refinement.Refined, list[str]]:
    """Return a model without refinement, with its statistics, and notes on it.

    Parameters
    ----------
    tolerance : float
        Largest deviation of h, k and l of an indexed peak from integers.
    """
    compared = unrefined(rotations, observed.peaks, ub, tolerance)
    n = len(compared.indexed)
    notes = [
        f"the orientation is fixed: it is as given, its standard deviations are not known (0); "
        f"{compared.indexed.sum()} of {n} peaks are indexed by it"
    ]
    return compared, notes


def constraints_kept(cell: ArrayLike, group: symmetry.SpaceGroup) -> bool:
    """Return True if a given cell obeys the constraints of a space group within 1e-4."""
    lengths_angles = np.asarray(cell, dtype=np.float64)
    strain = reduction.strain(
        lattice.metric(lengths_angles), symmetry.constrain_cell(lengths_angles, group)
    )
    return bool(strain < 1e-4)
