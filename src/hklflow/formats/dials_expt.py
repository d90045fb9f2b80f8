"""Read and write experiment lists of DIALS (``.expt``) without DIALS.

The file is JSON: lists of models (beam, detector, goniometer, scan, crystal, imageset) and of
experiments that refer to one model of each kind by its number. The schemas of DIALS 3.12 and of
later versions are read; the schema of 3.12 is written, which later versions read too.

The axes of dxtbx are x = -x, y = y, z = -z of `geometry.frames`, lengths are in mm, angles in
degrees, scattering vectors in 1/Å without 2π. The beam of dxtbx may have any direction; here it is
along z, so the reader rotates the whole model until it is. The axes of a goniometer begin with the
axis nearest to the crystal in dxtbx, and end with it here.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file
from hklflow.formats.dials_panels import detector_from_panels, panels_of
from hklflow.formats.dials_peaks import TO_DXTBX
from hklflow.formats.raw import HDF5_SUFFIXES
from hklflow.geometry import Beam, Goniometer, Rotation, Scan
from hklflow.geometry.model import Model, fraction_along_x, onto_beam, sound, with_one_crystal

Floats = NDArray[np.float64]

_IDENTITY = np.eye(3).ravel().tolist()
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
_UNEVEN = 1e-4  # largest deviation of an angle from a constant step, in steps


def read_expt(path: str | Path) -> list[Model]:
    """Read the rotation experiments of a DIALS file.

    Raises
    ------
    HklflowError
        If the file is not an experiment list, an experiment is a still, or the panels of a
        detector do not lie in one plane.
    """
    path = Path(path)
    require_file(path, "experiment file")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise HklflowError(
            f"{path} is not JSON ({error}); the file is truncated or not a .expt file of DIALS"
        ) from None
    if not isinstance(content, dict) or content.get("__id__") != "ExperimentList":
        raise HklflowError(f"{path} is not an experiment list; give a .expt file of DIALS")
    models = []
    try:
        for number, experiment in enumerate(content["experiment"]):
            with np.errstate(all="ignore"):  # `sound` refuses values that are not finite
                models.append(sound(_read_one(path, number, experiment, content)))
    except _DAMAGE as error:
        raise HklflowError(
            f"experiment {len(models)} in {path} is damaged ({type(error).__name__}: {error}); "
            "write the file again"
        ) from None
    if not models:
        raise HklflowError(f"{path} contains no experiment; import images first")
    return models


def _read_one(path: Path, number: int, experiment: Mapping[str, Any], content: Any) -> Model:
    def part(name: str) -> Any:
        index = experiment.get(name)
        if index is None:
            return None
        if not 0 <= int(index) < len(content[name]):
            raise HklflowError(
                f"experiment {number} in {path} refers to {name} {index}, but the file has "
                f"{len(content[name])}: it is damaged; write the file again"
            )
        return content[name][int(index)]

    beam, detector, goniometer, scan = map(part, ("beam", "detector", "goniometer", "scan"))
    if beam is None or detector is None:
        raise HklflowError(f"experiment {number} in {path} lacks beam or detector; import it again")
    if goniometer is None or scan is None:
        raise HklflowError(
            f"experiment {number} in {path} is a still (no goniometer or scan); hklflow "
            "reduces rotation scans: give the file of a rotation scan"
        )
    source = np.asarray(beam["direction"], dtype=np.float64)
    turn = onto_beam(TO_DXTBX @ -source) @ TO_DXTBX
    notes: list[str] = []
    first_image, our_scan = _scan_from(scan, number, path)
    crystal, imageset = part("crystal"), part("imageset") or {}
    ub, varying, group = (None, None, None) if crystal is None else _crystal_from(crystal, turn)
    if varying is not None:
        notes.append("the crystal varies during the scan; its static orientation is used")
    for name, other in (("beam", beam), ("goniometer", goniometer)):
        if any(key.endswith("_at_scan_points") for key in other):
            notes.append(f"the {name} varies during the scan; its static part is used")
    plane, trusted, parallax = detector_from_panels(detector, turn, f"experiment {number}, {path}")
    if parallax:
        notes.append(
            "DIALS corrects the parallax in the sensor, the geometry of hklflow does not: spots "
            "differ by a fraction of a pixel where rays are oblique"
        )
    return Model(
        rotation=Rotation(
            Beam(float(beam["wavelength"]), _polarization(beam, turn, notes)),
            plane,
            _goniometer_from(goniometer, turn),
            our_scan,
        ),
        ub=ub,
        space_group=group,
        raw=imageset.get("template"),
        first_image=first_image,
        name=f"f{number + 1}",
        mask=imageset.get("mask") or None,
        trusted_range=trusted,
        ub_at_frames=varying,
        notes=tuple(notes),
    )


def _polarization(beam: Mapping[str, Any], turn: Floats, notes: list[str]) -> float:
    """Return the fraction of the intensity with the electric vector along lab x."""
    if "polarization_fraction" not in beam:
        notes.append("the polarization is not in the file; the beam is taken as unpolarized")
        return 0.5
    normal = turn @ np.asarray(beam["polarization_normal"], np.float64)
    fraction, oblique = fraction_along_x(float(beam["polarization_fraction"]), normal)
    if oblique:
        notes.append(
            "the plane of polarization is oblique; its part along horizontal and vertical is used"
        )
    return fraction


def _goniometer_from(data: Mapping[str, Any], turn: Floats) -> Goniometer:
    if "axes" in data:
        axes = np.asarray(data["axes"], np.float64).reshape(-1, 3)[::-1]
        names = data.get("names") or [f"axis_{i}" for i in range(len(axes))]
        angles = np.radians(np.asarray(data["angles"], np.float64))[::-1]
        return Goniometer(
            tuple(map(str, reversed(names))),
            axes @ turn.T,
            angles,
            len(axes) - 1 - int(data["scan_axis"]),
        )
    # R = S R(axis, angle) F: the rotations S and F become axes around the scanned axis.
    outer, inner = (
        _axis_angle("setting", turn @ _matrix(data, "setting_rotation") @ turn.T),
        _axis_angle("fixed", turn @ _matrix(data, "fixed_rotation") @ turn.T),
    )
    scanned = [("phi", turn @ np.asarray(data["rotation_axis"], np.float64), 0.0)]
    chain = [*outer, *scanned, *inner]
    return Goniometer(
        tuple(name for name, _, _ in chain),
        np.array([axis for _, axis, _ in chain]),
        np.array([angle for _, _, angle in chain]),
        len(outer),
    )


def _matrix(data: Mapping[str, Any], name: str) -> Floats:
    return np.asarray(data.get(name, _IDENTITY), np.float64).reshape(3, 3)


def _axis_angle(name: str, turn: Floats) -> list[tuple[str, Floats, float]]:
    from scipy.spatial.transform import Rotation as Turn

    vector = Turn.from_matrix(turn).as_rotvec()
    angle = float(np.linalg.norm(vector))
    return [] if angle < 1e-14 else [(name, vector / angle, angle)]


def _scan_from(data: Mapping[str, Any], number: int, path: Path) -> tuple[int, Scan]:
    first, last = (int(x) for x in data["image_range"])
    n = last - first + 1
    if "properties" in data:
        table = data["properties"]
        angles = np.asarray(table["oscillation"], np.float64)
        steps = np.diff(angles) if n > 1 else np.asarray(table["oscillation_width"], np.float64)
        start, step = float(angles[0]), float(np.mean(steps))
        if len(angles) != n or np.any(np.abs(steps - step) > _UNEVEN * abs(step)):
            raise HklflowError(
                f"the {len(angles)} angles of experiment {number} in {path} are not {n} equal "
                "steps; hklflow reduces scans with a constant step"
            )
    else:
        start, step = (float(x) for x in data["oscillation"])
    if step == 0 or n < 1:
        raise HklflowError(
            f"experiment {number} in {path} has {n} images of {step} degrees: not a rotation scan; "
            "give the file of a rotation scan"
        )
    return first, Scan(float(np.radians(start)), float(np.radians(step)), n)


def _crystal_from(data: Mapping[str, Any], turn: Floats) -> tuple[Floats, Floats | None, str]:
    axes = np.array([data[f"real_space_{name}"] for name in "abc"], dtype=np.float64)
    ub = 2 * np.pi * turn @ np.linalg.inv(axes)
    varying = data.get("A_at_scan_points")
    if varying is not None:
        points = np.asarray(varying, np.float64).reshape(-1, 3, 3)
        varying = 2 * np.pi * turn @ points
    return ub, varying, f"Hall: {str(data['space_group_hall_symbol']).strip()}"


def write_expt(
    path: str | Path,
    models: Sequence[Model],
    *,
    modules: bool = True,
    exposure: ArrayLike | float = 1.0,
) -> list[str]:
    """Write models as experiments that share their crystal, if they have a crystal.

    A rotation with a negative step is written as a positive rotation about the reversed axis,
    which DIALS requires.

    Parameters
    ----------
    modules : bool
        True writes one panel for each displaced module, at its true place. DIALS cannot match such
        a detector with images of one panel: False writes the plane only, for programs that read
        the images.
    exposure : float or (n_frames,) array
        Exposure time of each frame, seconds.

    Returns
    -------
    list of str
        Identifiers of the experiments.

    Raises
    ------
    HklflowError
        If only some of the models have a crystal.
    """
    with_crystal = [model.ub is not None for model in models]
    if any(with_crystal) != all(with_crystal) or not models:
        raise HklflowError(
            f"{sum(with_crystal)} of {len(models)} models have a crystal; give models that all "
            "have a crystal, or none with one"
        )
    if all(with_crystal):
        models = with_one_crystal(models)
    content: dict[str, Any] = {"__id__": "ExperimentList", "experiment": []}
    content |= {name: [] for name in ("imageset", "beam", "detector", "goniometer", "scan")}
    content |= {"crystal": [], "profile": [], "scaling_model": []}
    identifiers = []
    for model in models:
        parts = _parts(model, modules, exposure)
        identifier = str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([model.name, parts])))
        experiment: dict[str, Any] = {"__id__": "Experiment", "identifier": identifier}
        for name, part in parts.items():
            # Equal models are written once: DIALS refines a model for all experiments that share
            # it.
            if part not in content[name] or name in ("imageset", "scan"):
                content[name].append(part)
            experiment[name] = len(content[name]) - 1 - content[name][::-1].index(part)
        content["experiment"].append(experiment)
        identifiers.append(identifier)
    Path(path).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return identifiers


def _parts(model: Model, modules: bool, exposure: ArrayLike | float) -> dict[str, Any]:
    rotation = model.rotation
    scan, goniometer = rotation.scan, rotation.goniometer
    if scan.step < 0:
        axes = goniometer.axes.copy()
        axes[goniometer.scan] *= -1
        goniometer = replace(goniometer, axes=axes)
        scan = Scan(-scan.start, -scan.step, scan.n_frames)
    detector = rotation.detector if modules else rotation.detector.plane
    parts: dict[str, Any] = {
        "beam": _beam(rotation.beam),
        "detector": panels_of(detector, model.trusted_range),
        "goniometer": _goniometer(goniometer),
        "scan": _scan(scan, model.first_image, exposure),
    }
    if model.ub is not None:
        cell_axes = np.linalg.inv(TO_DXTBX @ np.asarray(model.ub) / (2 * np.pi))
        hall = _hall(model.space_group)
        crystal = {f"real_space_{name}": cell_axes[i].tolist() for i, name in enumerate("abc")}
        parts["crystal"] = {"__id__": "crystal", **crystal, "space_group_hall_symbol": hall}
    if model.raw is not None:
        parts["imageset"] = _imageset(model)
    return parts


def _hall(group: str | None) -> str:
    if group is None:
        return " P 1"
    from hklflow.geometry.symmetry import space_group

    return space_group(group).hall


def _beam(beam: Beam) -> dict[str, Any]:
    # The electric vector is along x in both frames: the normal of its plane is y.
    return {
        "direction": (TO_DXTBX @ [0.0, 0.0, -1.0]).tolist(),
        "wavelength": beam.wavelength,
        "divergence": 0.0,
        "sigma_divergence": 0.0,
        "polarization_normal": [0.0, 1.0, 0.0],
        "polarization_fraction": beam.polarization,
        "flux": 0.0,
        "transmission": 1.0,
    }


def _goniometer(goniometer: Goniometer) -> dict[str, Any]:
    return {
        "axes": (goniometer.axes @ TO_DXTBX.T)[::-1].tolist(),
        "angles": np.degrees(goniometer.angles)[::-1].tolist(),
        "names": list(goniometer.names)[::-1],
        "scan_axis": len(goniometer.names) - 1 - goniometer.scan,
    }


def _scan(scan: Scan, first_image: int, exposure: ArrayLike | float) -> dict[str, Any]:
    n = scan.n_frames
    seconds = np.ones(n) * np.asarray(exposure, np.float64)
    return {
        "image_range": [first_image, first_image + n - 1],
        "batch_offset": 0,
        "oscillation": [float(np.degrees(scan.start)), float(np.degrees(scan.step))],
        "exposure_time": seconds.tolist(),
        "epochs": (np.cumsum(seconds) - seconds).tolist(),
        "valid_image_ranges": {},
    }


def _imageset(model: Model) -> dict[str, Any]:
    raw, n = str(model.raw), model.rotation.scan.n_frames
    one_file: dict[str, Any] = {}
    if Path(raw).suffix.lower() in HDF5_SUFFIXES:
        start = model.first_image - 1
        one_file = {"single_file_indices": list(range(start, start + n))}
    elif "#" not in raw:
        raise HklflowError(
            f"{raw} is neither an HDF5 file nor a pattern with # for the digits, such as "
            "x_####.cbf; DIALS needs an HDF5 file or such a pattern"
        )
    empty = dict.fromkeys(("gain", "pedestal", "dx", "dy"))
    return {
        "__id__": "ImageSequence",
        "template": raw,
        **one_file,
        "mask": model.mask,
        **empty,
        "params": {},
    }
