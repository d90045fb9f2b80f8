"""Read and write orientation and geometry in NeXus files of NXRefine.

One group for each rotation (f1, f2, ...) with ``instrument/detector``, ``instrument/goniometer``
and ``instrument/monochromator``; the cell is in ``/entry/sample``. The laboratory of NXRefine has x
along the beam, z up and y = z × x: the axes (x, y, z) of hklflow are its (y, z, x).

Detector: ``D⁻¹ = R1(roll) R2(pitch) R3(yaw)``, and the rows of ``detector_orientation`` are the
x, y, z of the detector with all tilts zero. Goniometer: ``R2(theta) R3(omega) R1(chi) R3(phi)``,
phi is scanned. R1, R2, R3 rotate about x, y, z.

NXRefine counts pixels and frames by their index: the centre of pixel x is x pixels from the beam
centre, and frame z is at ``phi + z step``. Coordinates of hklflow are half a pixel and half a frame
more.

``orientation_matrix`` times A⁻¹, with a, b, c as the columns of A, is UB without 2π. For oblique
axes this A⁻¹ is not the matrix of the reciprocal axes. The refined matrix of NXRefine compensates
for that and is then not a rotation. With A⁻ᵀ the matrix would be a rotation. The
reader takes the version whose cell agrees with the cell in the file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.values import CELL_NAMES
from hklflow.formats.hdf5_output import hdf5_output
from hklflow.formats.nxrefine_fields import (
    DETECTOR,
    GONIOMETER,
    find,
    has_orientation,
    number,
    numbers,
    opened,
    rotation_names,
    words,
)
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice
from hklflow.geometry.model import Model, sound

Floats = NDArray[np.float64]

_TO_OURS = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
_NAMES = ("theta", "omega", "chi", "phi")
_AXES = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
UNPOLARIZED = "the polarization is not in the file; the beam is taken as unpolarized"
_DEFAULT_ORIENTATION = "-y +z -x"  # of old files, which do not store it


def goniometer_of(degrees: Sequence[float]) -> Goniometer:
    """Return the goniometer of NXRefine at theta, omega and chi in degrees; phi is scanned."""
    return Goniometer(_NAMES, _AXES @ _TO_OURS.T, np.radians([*degrees, 0.0]), 3)


def read_nxrefine(path: str | Path) -> list[Model]:
    """Read the rotations of an NXRefine file that have an orientation.

    Raises
    ------
    HklflowError
        If the file is not of NXRefine, or no rotation has an orientation.
    """
    with opened(path) as file:
        names = [n for n in rotation_names(file) if has_orientation(file, n)]
        if not names:
            raise HklflowError(
                f"{path} has no rotation with instrument/detector/orientation_matrix; give a file "
                "of NXRefine with a refined lattice"
            )
        return [read_rotation(file, name) for name in names]


def read_rotation(file: Any, name: str) -> Model:
    """Read the geometry of one rotation, with its orientation if it has one.

    Raises
    ------
    HklflowError
        If a number that NXRefine always writes is missing, or a number is impossible.
    """
    group = file[name]
    notes: list[str] = []
    phi = numbers(group, f"{GONIOMETER}/phi")
    phi_field = find(group, f"{GONIOMETER}/phi")
    step = float(phi[1] - phi[0]) if len(phi) > 1 else float(phi_field.attrs.get("step", 0.0))
    if step == 0:
        raise HklflowError(f"phi of {name} in {file.filename} has no step; give a rotation scan")
    frames = find(group, "data/frame_number")
    if frames is None:
        notes.append("the file does not give the number of frames: 1 is used")
    old_theta = number(group, f"{GONIOMETER}/goniometer_pitch", 0.0)
    angles = [number(group, f"{GONIOMETER}/theta", old_theta)]
    angles += [number(group, f"{GONIOMETER}/{axis}", 0.0) for axis in ("omega", "chi")]
    notes.append(UNPOLARIZED)
    ub = _ub(file, group, notes) if has_orientation(file, name) else None
    model = Model(
        rotation=Rotation(
            Beam(number(group, "instrument/monochromator/wavelength")),
            _detector(group),
            goniometer_of(angles),
            Scan(
                float(np.radians(phi[0] - 0.5 * step)),
                float(np.radians(step)),
                1 if frames is None else int(frames.size),
            ),
        ),
        ub=ub,
        space_group=words(file, "entry/sample/space_group") or None,
        name=name,
        notes=tuple(notes),
    )
    offsets = [number(group, f"{GONIOMETER}/{axis}", 0.0) for axis in ("xs", "ys", "zs")]
    if any(offsets):
        model = replace(model, notes=(*notes, _told_offsets(offsets, model.rotation)))
    return sound(model)


def _told_offsets(offsets: Sequence[float], rotation: Rotation) -> str:
    """Return what it means that the place of the crystal (mm) is not used.

    A crystal that is d off the axis changes the direction of a ray of length L by at most d / L,
    and L is at least the distance of the detector.
    """
    detector, off = rotation.detector, 1e-3 * float(np.linalg.norm(offsets))
    return (
        f"the offsets {list(offsets)} mm of the crystal from the axis are not used: spots are off "
        f"by up to {off / min(detector.pixel_size):.2g} pixels in the centre of the detector, and "
        f"S(Q) is shifted by up to {rotation.beam.k * off / detector.distance:.2g} 1/Å; centre the "
        "crystal, or refine its place with converge"
    )


def _cell_axes(cell: Sequence[float] | Floats) -> Floats:
    """Return A (3, 3) in Å: columns a along x, b in the xy plane, c."""
    return np.asarray(np.linalg.cholesky(lattice.metric(cell)).T)


def _ub(file: Any, group: Any, notes: list[str]) -> Floats:
    sample = file["entry"] if find(file, "entry/sample/unitcell_a") is not None else group
    cell = np.array([number(sample, f"sample/unitcell_{name}") for name in CELL_NAMES])
    matrix = numbers(group, f"{DETECTOR}/orientation_matrix").reshape(3, 3)
    axes = _cell_axes(cell)
    candidates = [2 * np.pi * _TO_OURS @ matrix @ np.linalg.inv(a) for a in (axes, axes.T)]
    off = [np.max(np.abs(lattice.decompose_ub(ub)[1] / cell - 1)) for ub in candidates]
    # The second is used only if it agrees far better; for right angles the two are the same.
    second = 10 * off[1] < off[0] > 1e-6
    if second:
        notes.append("the orientation matrix goes with reciprocal axes, unlike in NXRefine of 2026")
    chosen = int(second)
    skew = float(np.abs(matrix @ matrix.T - np.eye(3)).max())
    if skew > 1e-3:
        notes.append(
            f"the orientation matrix is not a rotation (by {skew:.2g}): cell and orientation are "
            "separated again"
        )
    if off[chosen] > 1e-6:
        cell_text = " ".join(f"{x:.6g}" for x in lattice.decompose_ub(candidates[chosen])[1])
        notes.append(
            f"the cell in the orientation matrix, {cell_text}, differs from the cell in the file"
        )
    return candidates[chosen]


def _signed_axes(text: str) -> Floats:
    """Return unit vectors as rows, from text such as ``-y +z -x``."""
    rows = np.zeros((3, 3))
    words = text.split()
    for row, word in zip(rows, words, strict=True):
        row["xyz".index(word[-1])] = -1.0 if word[0] == "-" else 1.0
    return rows


def _detector(group: Any) -> Detector:
    where = f"{group.name} of {group.file.filename}"
    stored = find(group, f"{DETECTOR}/detector_orientation")
    if stored is not None and stored.shape == (3, 3):
        orientation = np.asarray(stored[()], dtype=np.float64)
    else:
        text = words(group, f"{DETECTOR}/detector_orientation") or _DEFAULT_ORIENTATION
        orientation = _signed_axes(text)
    if not np.allclose(orientation @ orientation.T, np.eye(3), atol=1e-6):
        raise HklflowError(f"detector_orientation in {where} is not orthogonal; correct it")
    roll, pitch, yaw = (number(group, f"{DETECTOR}/{n}", 0.0) for n in ("roll", "pitch", "yaw"))
    tilt = _rotation_about(0, roll) @ _rotation_about(1, pitch) @ _rotation_about(2, yaw)
    fast, slow, _ = (tilt @ orientation.T).T
    size = 1e-3 * numbers(group, f"{DETECTOR}/pixel_size")
    size_fast, size_slow = float(size[0]), float(size[-1])
    centre = [number(group, f"{DETECTOR}/beam_center_{axis}") + 0.5 for axis in "xy"]
    distance = 1e-3 * number(group, f"{DETECTOR}/distance")
    corner = -centre[0] * size_fast * fast - centre[1] * size_slow * slow
    n_slow, n_fast = (int(n) for n in numbers(group, f"{DETECTOR}/shape"))
    return Detector(
        shape=(n_slow, n_fast),
        pixel_size=(size_slow, size_fast),
        origin=_TO_OURS @ (corner + np.array([distance, 0.0, 0.0])),
        slow=_TO_OURS @ slow,
        fast=_TO_OURS @ fast,
    )


def _rotation_about(axis: int, degrees: float) -> Floats:
    from hklflow.geometry import rotation_matrix

    return rotation_matrix(np.eye(3)[axis], np.radians(degrees))


def write_nxrefine(path: str | Path, models: Sequence[Model]) -> list[str]:
    """Write geometry, cell and orientation of rotations as NXRefine reads them.

    A goniometer that is not NXRefine's is written as the theta and chi that give phi its
    direction; the orientation matrix of each rotation contains the rest.

    Returns
    -------
    list of str
        Notes on all that the file cannot store.

    Raises
    ------
    HklflowError
        If a model has no crystal, pixels are not square, or the beam does not meet the plane of
        the detector.
    """
    notes: list[str] = []
    names = [model.name for model in models]
    if not all(name[-1:].isdigit() for name in names) or len(set(names)) < len(names):
        names = [f"f{i + 1}" for i in range(len(models))]
        notes.append("names of rotations end in a digit in NXRefine: they are named f1, f2, ...")
    first = models[0]
    cell = first.crystal[1]
    with hdf5_output(Path(path)) as file:
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry")
        sample = _group(entry, "sample", "NXsample")
        for name, value in zip(CELL_NAMES, cell, strict=True):
            _put(sample, f"unitcell_{name}", value, "Angstrom" if len(name) == 1 else "degree")
        if first.space_group is not None:
            write_symmetry(sample, first.space_group)
        for name, model in zip(names, models, strict=True):
            _write_one(_group(file, name, "NXentry"), model, cell, notes)
            file[name]["sample"] = sample
    return notes


def write_symmetry(sample: Any, symbol: str) -> None:
    """Write space group, Laue group, crystal system and centring to an NXsample."""
    from hklflow.geometry.symmetry import space_group

    group = space_group(symbol)
    sample["space_group"] = group.symbol
    sample["laue_group"] = group.laue
    # NXRefine has no trigonal cells.
    system = group.crystal_system
    sample["unit_cell_group"] = "hexagonal" if system == "trigonal" else system
    sample["lattice_centring"] = group.centring


def _group(parent: Any, name: str, nx_class: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _put(group: Any, name: str, value: Any, units: str = "", **attrs: float) -> None:
    group[name] = value
    if units:
        group[name].attrs["units"] = units
    for key, attribute in attrs.items():
        group[name].attrs[key] = attribute


def _write_one(group: Any, model: Model, cell: Floats, notes: list[str]) -> None:
    rotation, scan = model.rotation, model.rotation.scan
    write_instrument(group, model, cell, notes)
    data = _group(group, "data", "NXdata")
    for name, n in zip(
        ("frame_number", "y_pixel", "x_pixel"),
        (scan.n_frames, *rotation.detector.shape),
        strict=True,
    ):
        data[name] = np.arange(n)
    data.attrs["axes"] = ["frame_number", "y_pixel", "x_pixel"]


def write_instrument(group: Any, model: Model, cell: Floats, notes: list[str]) -> None:
    """Write wavelength, detector, goniometer and orientation of a rotation to its NXentry.

    Parameters
    ----------
    cell : (6,) array
        Cell of the sample, Å and degrees.
    notes : list of str
        Notes on all that the file cannot store are appended.

    Raises
    ------
    HklflowError
        If pixels are not square, or the beam does not meet the plane of the detector.
    """
    rotation, scan = model.rotation, model.rotation.scan
    instrument = _group(group, "instrument", "NXinstrument")
    mono = _group(instrument, "monochromator", "NXmonochromator")
    _put(mono, "wavelength", rotation.beam.wavelength, "Angstrom")
    detector = _group(instrument, "detector", "NXdetector")
    _write_detector(detector, rotation.detector, model.name, notes)
    angles, outer = _as_theta_chi(rotation.goniometer)
    model_cell = model.crystal[1]
    if np.max(np.abs(model_cell / cell - 1)) > 1e-9:
        notes.append(f"{model.name}: its cell is replaced by the cell of the first rotation")
    turned = outer.T @ rotation.goniometer.rotation(0.0) @ np.asarray(model.ub)
    matrix = _TO_OURS.T @ turned / (2 * np.pi) @ _cell_axes(cell)
    _put(detector, "orientation_matrix", matrix)
    goniometer = _group(instrument, "goniometer", "NXtransformations")
    step = float(np.degrees(scan.step))
    start = float(np.degrees(scan.start))
    step_and_end = {"step": step, "end": start + step * scan.n_frames}
    _put(goniometer, "phi", start + 0.5 * step, "degree", **step_and_end)
    for name, angle in zip(_NAMES, np.degrees(angles), strict=False):
        _put(goniometer, name, float(angle), "degree")
    _put(goniometer, "goniometer_pitch", float(np.degrees(angles[0])), "degree")


def _as_theta_chi(goniometer: Goniometer) -> tuple[Floats, Floats]:
    """Return the angles theta, omega, chi, and their rotation (3, 3) in the lab frame."""
    bare = goniometer.names[: len(_NAMES)]
    ours = _AXES @ _TO_OURS.T
    if bare == _NAMES and goniometer.scan == 3 and np.allclose(goniometer.axes[:4], ours, atol=0):
        angles = goniometer.angles[:3]
    else:
        x, y, z = _TO_OURS.T @ goniometer.scan_axis_lab()
        angles = np.array([np.arctan2(x, z), 0.0, np.arctan2(-y, np.hypot(x, z))])
    theta, omega, chi = np.degrees(angles)
    chain = _rotation_about(1, theta) @ _rotation_about(2, omega) @ _rotation_about(0, chi)
    return angles, _TO_OURS @ chain @ _TO_OURS.T


def _write_detector(group: Any, detector: Detector, name: str, notes: list[str]) -> None:
    size_slow, size = detector.pixel_size
    if abs(size / size_slow - 1) > 1e-9:
        raise HklflowError(
            f"the detector of {name} has pixels of {1e6 * size_slow:.6g} x {1e6 * size:.6g} µm; "
            "NXRefine needs square pixels"
        )
    if detector.modules is not None:
        notes.append(f"{name}: the displacements of the detector modules are not written")
    fast, slow, origin = (_TO_OURS.T @ v for v in (detector.fast, detector.slow, detector.origin))
    axes = np.stack([fast, slow, np.cross(fast, slow)], axis=1)
    if abs(axes[0, 2]) < 1e-6:
        raise HklflowError(
            f"the beam is parallel to the detector of {name}; NXRefine has no such geometry"
        )
    # The beam meets the plane where origin + size (x fast + y slow) = distance along x.
    system = np.stack([size * fast, size * slow, [-1.0, 0.0, 0.0]], axis=1)
    x, y, distance = np.linalg.solve(system, -origin)
    if distance <= 0:
        raise HklflowError(
            f"the plane of the detector of {name} is upstream of the sample; NXRefine needs a "
            "detector in transmission"
        )
    nearest = max(_right_angles(), key=lambda rows: float(np.sum(rows.T * axes)))
    tilt = axes @ nearest
    values = {
        "yaw": np.arctan2(-tilt[0, 1], tilt[0, 0]),
        "pitch": np.arctan2(tilt[0, 2], np.hypot(tilt[0, 0], tilt[0, 1])),
        "roll": np.arctan2(-tilt[1, 2], tilt[2, 2]),
    }
    for key, angle in values.items():
        _put(group, key, float(np.degrees(angle)), "degree")
    group["detector_orientation"] = " ".join(
        f"{'-' if row.sum() < 0 else '+'}{'xyz'[int(np.abs(row).argmax())]}" for row in nearest
    )
    _put(group, "distance", 1e3 * distance, "mm")
    _put(group, "pixel_size", 1e3 * size, "mm")
    _put(group, "beam_center_x", x - 0.5, "pixel")
    _put(group, "beam_center_y", y - 0.5, "pixel")
    _put(group, "translation_x", 0.0, "mm")
    _put(group, "translation_y", 0.0, "mm")
    group["shape"] = list(detector.shape)


def _right_angles() -> Iterable[Floats]:
    """Yield the 24 rotations (3, 3) among the signed permutations of the axes."""
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            rows = np.eye(3)[list(order)] * np.array(signs)[:, None]
            if np.linalg.det(rows) > 0:
                yield rows
