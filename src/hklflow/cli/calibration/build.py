"""From a measurement to the files of a candidate: geometry, figures, gates, report page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.base.values import HC
from hklflow.cli.calibration import several
from hklflow.stages import import_poni, powder_calibration

if TYPE_CHECKING:
    from hklflow.calibration.store import Version
    from hklflow.cli.calibration.target import Target

"""Planck's constant times the speed of light in eV Å (CODATA 2018)."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What a candidate is made of; `parameters.json` of a version holds it.

    Attributes
    ----------
    source : str
        ``powder``, ``modules`` (of powder images), ``bragg``, ``poni``, ``geometry`` (a file of
        this workflow) or ``default``.
    files : sequence of Path
        Images, products, or the file that is imported.
    params : mapping
        Parameters of the stage that makes it, as given; the state's set-points lie below.
    offsets, arms_deg : sequence of float
        Settings of several images: metres beyond the first, degrees of the arm.
    scan : str
        ``sample/scan`` whose Bragg peaks are used.
    parent : int or None
        Version that the refinement starts from.
    """

    source: str
    files: tuple[Path, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    offsets: tuple[float, ...] = ()
    arms_deg: tuple[float, ...] = ()
    scan: str = ""
    parent: int | None = None

    def to_dict(self) -> Record:
        """JSON-ready."""
        return asdict(self) | {"files": [str(path) for path in self.files]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Request":
        """Request of a ``parameters.json``."""
        names = {item.name for item in fields(cls)}
        given = {key: value for key, value in data.items() if key in names}
        if missing := sorted({"source", "files", "params"} - given.keys()):
            raise HklflowError(f"parameters.json lacks {', '.join(missing)}; propose it anew")
        for key in ("offsets", "arms_deg"):
            given[key] = tuple(given.get(key, ()))
        return cls(**given | {"files": tuple(Path(path) for path in data["files"])})


def from_state(target: "Target") -> Record:
    """Parameters of a powder calibration that the set-points of the state say."""
    state, entry = target.state.values, target.geometry
    given = {
        "pixel_size": state.get("pixel_size"),
        "wavelength": HC / state["energy"] if "energy" in state else None,
        "distance": state.get("distance"),
        "sensor_thickness": state.get("thickness"),
        "sensor_attenuation": entry.sensor_attenuation,
        "polarization": entry.polarization,
        "orientation": entry.orientation,
    }
    return {name: value for name, value in given.items() if value is not None}


def settings(pairs: Sequence[str]) -> Record:
    """Read ``key=value`` of `--set`; values are JSON, or text where they are not.

    Raises
    ------
    HklflowError
        If one has no `=`.
    """
    found: Record = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise HklflowError(f"--set {pair!r} is not key=value; write for example max_rings=14")
        try:
            found[key.strip().replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            found[key.strip().replace("-", "_")] = value
    # Who iterates from another folder means the same files.
    for key in ("mask_image", "dark", "flat"):
        if found.get(key) is not None:
            found[key] = str(Path(found[key]).absolute())
    if "calibrant" in found:
        found["calibrant"] = calibrant(found["calibrant"])
    return found


def calibrant(given: str) -> str:
    """Name of a calibrant, or the absolute path of its file."""
    from hklflow.calibration.calibrants import is_file

    return str(Path(given).absolute()) if is_file(given) else given


def read_files(request: Request) -> list[Path]:
    """Every file that a request reads, for the record."""
    named = [request.params.get(key) for key in ("mask_image", "dark", "flat")]
    known = str(request.params.get("calibrant", ""))
    named += [known] if known.startswith("/") else []
    return [*request.files, *(Path(path) for path in named if path)]


def powder_params(target: "Target", given: Mapping[str, Any]) -> powder_calibration.Params:
    """Parameters of a powder calibration: the state's, and above them what was given.

    Raises
    ------
    HklflowError
        With every parameter that is wrong.
    """
    known = from_state(target)
    if taken := sorted({name.replace("-", "_") for name in given} & (set(known) - {"distance"})):
        raise HklflowError(
            f"--set {', '.join(taken)}: the entry {target.name} and its state say that; mend them"
        )
    try:
        return powder_calibration.Params.model_validate({**known, **given})
    except ValidationError as error:
        told = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']} (it is {item['input']!r})"
            for item in error.errors()
        ]
        raise HklflowError("; ".join(told)) from error


def make_files(target: "Target", request: Request, folder: Path) -> dict[str, Path]:
    """Make the geometry of a request in a folder.

    Returns
    -------
    dict of Path
        Name of the artefact -> file.

    Raises
    ------
    HklflowError
        If a file is missing or the calibration fails.
    """
    for path in request.files:
        if not path.is_file():
            raise HklflowError(f"{path} does not exist; give the file of the calibration")
    geometry, poni = folder / "geometry.json", folder / "geometry.poni"
    files = {"geometry.json": geometry, "geometry.poni": poni}
    if request.source == "modules":
        params = powder_params(target, request.params)
        stage.write_json(geometry, several.modules_of_rings(request.files, params))
    elif request.source == "bragg":
        stage.write_json(geometry, _from_bragg(target, request))
    elif request.source == "powder" and len(request.files) > 1:
        params = powder_params(target, request.params)
        found = several.series(request.files, params, request.offsets, request.arms_deg)
        stage.write_json(geometry, found)
    elif request.source == "powder":
        files["rings.png"] = folder / "rings.png"
        powder_calibration.main(
            inputs=powder_calibration.Inputs(image=request.files[0]),
            outputs=powder_calibration.Outputs(
                geometry=geometry, poni=poni, picture=files["rings.png"]
            ),
            params=powder_params(target, request.params),
        )
    elif request.source == "poni":
        _import_poni(target, request, geometry)
    elif request.source == "geometry":
        stage.write_json(geometry, _checked(request.files[0]))
    else:
        stage.write_json(geometry, _set_points(target))
    data = stage.read_json(geometry)
    if not poni.exists():
        _write_poni(geometry, poni)
    check_state(target, data, geometry)
    return files


def _import_poni(target: "Target", request: Request, geometry: Path) -> None:
    from hklflow.formats.poni import read_poni

    known, path = from_state(target), request.files[0]
    given: Record = {
        name: known[name]
        for name in ("polarization", "sensor_thickness", "sensor_attenuation")
        if name in known
    }
    # What the file says itself is compared with the state.
    if (shape := target.state.values.get("shape")) is not None and read_poni(path).shape is None:
        given["shape"] = tuple(shape)
    import_poni.main(
        inputs=import_poni.Inputs(poni=path),
        outputs=import_poni.Outputs(geometry=geometry),
        params=import_poni.Params.model_validate(given),
    )


def bragg_products(
    target: "Target", given: str
) -> "tuple[Version, Path, dict[str, dict[str, Path]]]":
    """What a scan's modules are found from, all made with one version of this state.

    Parameters
    ----------
    given : str
        ``sample/scan``.

    Returns
    -------
    version : Version
    orientation : Path
    files : dict
        Name of a product -> rotation -> file.

    Raises
    ------
    HklflowError
        If there is no such scan, a product is absent, or was made with another version.
    """
    from hklflow.nexus import calibrations

    experiment = target.experiment
    if (b := experiment.config.binning) > 1:
        raise HklflowError(
            f"--bragg {given}: `binning` is {b}, and versions of the store are of frames as "
            "measured; set `binning: 1` and reduce the scan so"
        )
    sample, _, scan = given.partition("/")
    if (sample, scan) not in experiment.scans:
        raise HklflowError(f"--bragg {given}: there is no such scan; write sample/scan")
    rotations = experiment.rotations(sample, scan)
    other = {experiment.rotation(sample, scan, name).calibration for name in rotations}
    if other != {target.name}:
        raise HklflowError(
            f"--bragg {given}: its rotations have the calibrations "
            f"{', '.join(str(name) for name in sorted(map(str, other)))}, not only {target.name}"
        )
    versions = {experiment.version(sample, scan, name).number for name in rotations}
    if len(versions) > 1:
        raise HklflowError(
            f"--bragg {given}: its rotations have several versions "
            f"({', '.join(map(str, sorted(versions)))}); reduce them with one, by `pin`"
        )

    def product(pattern: str, **more: str) -> Path:
        path = experiment.base / pattern.format(sample=sample, scan=scan, **more)
        if not path.is_file():
            raise HklflowError(f"{path} does not exist; run `snakemake {path}` first")
        return path

    def of_rotations(name: str) -> dict[str, Path]:
        return {r: product(experiment.paths.rotation(name), rotation=r) for r in rotations}

    used = experiment.version(sample, scan, rotations[0])
    orientation = product(experiment.paths.scan("orientation.json"))
    files = {name: of_rotations(name) for name in ("scan.nxs", "peaks.nxs", "mask.nxs")}
    sha256 = stage.fingerprint(used.artefact("geometry.json"))
    for path in (orientation, *(p for paths in files.values() for p in paths.values())):
        made_with = {str(item["sha256"]) for item in calibrations(stage.provenance(path))}
        if sha256 not in made_with:
            raise HklflowError(
                f"{path} was not made with {used.name}, which is used now; run `snakemake` first"
            )
    return used, orientation, files


def converged_modules(
    target: "Target", used: "Version", orientation: Path, given: str
) -> Path | None:
    """``modules.json`` of a scan's converging refinement, if that found displaced modules.

    Parameters
    ----------
    used, orientation
        Of `bragg_products`.
    given : str
        ``sample/scan``.

    Raises
    ------
    HklflowError
        If it was made with another version, or from another orientation than the scan has now.
    """
    from hklflow.nexus import calibrations

    sample, _, scan = given.partition("/")
    pattern = target.experiment.paths.scan("modules.json")
    path = target.experiment.base / pattern.format(sample=sample, scan=scan)
    if not path.is_file() or stage.read_json(path)["fit"] is None:
        return None
    history = stage.provenance(path)
    versions = {str(item["sha256"]) for item in calibrations(history)}
    read = {str(item["sha256"]) for item in history[-1]["inputs"]["orientation"]}
    if (
        stage.fingerprint(used.artefact("geometry.json")) not in versions
        or stage.fingerprint(orientation) not in read
    ):
        raise HklflowError(
            f"{path} was made before {orientation} or with another version than {used.name}; run "
            f"`snakemake {path}` first, or remove it to fit the peaks as found"
        )
    return path


def _from_bragg(target: "Target", request: Request) -> Record:
    """Modules from the peaks of a scan that was reduced with a version of this state."""
    used, orientation, files = bragg_products(target, request.scan)
    name = request.params.get("detector")
    if unknown := sorted(set(request.params) - {"detector"}):
        raise HklflowError(f"--set {', '.join(unknown)} is not for --bragg; only detector is")
    converged = converged_modules(target, used, orientation, request.scan)
    if name is None and converged is not None:
        return several.modules_of_loop(stage.read_json(used.artefact("geometry.json")), converged)
    return several.modules_of_peaks(
        stage.read_json(used.artefact("geometry.json")),
        orientation,
        files["scan.nxs"],
        files["peaks.nxs"],
        files["mask.nxs"],
        None if name is None else str(name),
    )


def _checked(path: Path) -> Record:
    """Geometry of a file; figures that stand in it are another one's, or were changed by hand."""
    from hklflow.formats.assemble import calibrated

    data = stage.read_json(path)
    try:
        calibrated(data, path)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise HklflowError(
            f"{path} is no geometry of this workflow ({type(error).__name__}: {error}); give a "
            "geometry.json"
        ) from error
    material = {key: data[key] for key in ("sensor_material",) if key in data}
    return {
        "source": f"geometry:{path}",
        "detector": data["detector"],
        "beam": data["beam"],
        **material,
    }


def _set_points(target: "Target") -> Record:
    """Geometry that the set-points describe, the beam in the middle of the detector."""
    from hklflow.calibration.powder_guess import guess_poni
    from hklflow.geometry import detector_to_dict

    known, shape = from_state(target), target.state.values.get("shape")
    lacking = [n for n in ("pixel_size", "wavelength", "distance") if n not in known]
    if shape is None or lacking:
        raise HklflowError(
            f"the state of {target.name} does not say "
            f"{', '.join(lacking + (['shape'] if shape is None else []))}, which the default "
            "geometry needs"
        )
    shape = (int(shape[0]), int(shape[1]))
    centre = (shape[0] / 2, shape[1] / 2)
    poni = guess_poni(
        shape, tuple(known["pixel_size"]), known["distance"], centre, known["orientation"],
        known["wavelength"],
    )  # fmt: skip
    detector = replace(
        poni.detector(),
        sensor_thickness=known.get("sensor_thickness"),
        sensor_attenuation=known.get("sensor_attenuation"),
    )
    return {
        "source": "default",
        "detector": detector_to_dict(detector),
        "beam": {"wavelength_A": known["wavelength"], "polarization": known["polarization"]},
        "beam_centre_px": centre,
    }


def _write_poni(geometry: Path, path: Path) -> None:
    from hklflow.formats import assemble, poni

    detector, beam = assemble.calibrated(stage.read_json(geometry), geometry)
    # A PONI file cannot hold modules: it says so, and has the plane that they are in.
    plane = poni.poni_from_detector(detector.plane, wavelength=beam.wavelength)
    poni.write_poni(path, plane, poni.modules_note(detector))


def check_state(target: "Target", data: Record, path: Path) -> None:
    """Refuse a geometry that cannot be one of this state.

    Raises
    ------
    HklflowError
        If shape, pixel size, energy (to a step of the state) or polarisation differ.
    """
    from hklflow.formats.assemble import calibrated

    detector, beam = calibrated(data, path)
    values, problems = target.state.values, []
    if (shape := values.get("shape")) is not None and tuple(shape) != detector.shape:
        problems.append(f"a detector of {detector.shape} pixels, not {tuple(shape)}")
    if (size := values.get("pixel_size")) is not None and any(
        abs(a / b - 1) > 1e-6 for a, b in zip(detector.pixel_size, size, strict=True)
    ):
        problems.append(f"pixels of {detector.pixel_size} m, not {tuple(size)}")
    if (energy := values.get("energy")) is not None:
        found, step = HC / beam.wavelength, target.schema.keys["energy"].step or 0.0
        # A wavelength that was refined has a gate of its own.
        refined = "wavelength" in data.get("sigma", {})
        if abs(found - energy) > (1e-3 * energy if refined else step):
            problems.append(f"an energy of {found:.1f} eV, not {energy:.1f} eV")
    if abs(beam.polarization - target.geometry.polarization) > 1e-9:
        problems.append(
            f"a polarisation of {beam.polarization}, not {target.geometry.polarization}"
        )
    if problems:
        raise HklflowError(
            f"the geometry has {' and '.join(problems)}, as {target.name} says; give the file of "
            "this state, or mend the configuration"
        )
