"""Make the geometry of a candidate from a measurement, a file or the set-points."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.base.values import HC
from hklflow.cli.calibration import levels, several
from hklflow.cli.calibration.of_state import binning_of_state, check_state
from hklflow.stages import import_poni, powder_calibration

if TYPE_CHECKING:
    from hklflow.calibration.store import Version
    from hklflow.cli.calibration.target import Target

Record = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """Source and parameters of a candidate, as stored in ``parameters.json``.

    Attributes
    ----------
    source : str
        ``powder``, ``modules`` (from powder images, with or without scans), ``bragg``, ``poni``,
        ``geometry`` (a file of this workflow) or ``default``.
    files : sequence of Path
        Images, products, or the imported file.
    params : mapping
        Parameters that the user gave; the set-points of the state are used for the others.
    offsets, arms_deg : sequence of float
        Settings of each image: distance beyond the first image in m, arm angle in degrees.
    scans : sequence of str
        Each ``sample/scan`` whose Bragg peaks are used.
    products : sequence of Path
        Products of these scans.
    parent : int or None
        Number of the version that the refinement starts from. None: the start is not a version.
    """

    source: str
    files: tuple[Path, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    offsets: tuple[float, ...] = ()
    arms_deg: tuple[float, ...] = ()
    scans: tuple[str, ...] = ()
    products: tuple[Path, ...] = ()
    parent: int | None = None

    def to_dict(self) -> Record:
        """Return the request as a dictionary for JSON."""
        paths = {key: [str(path) for path in getattr(self, key)] for key in ("files", "products")}
        return asdict(self) | paths

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Request":
        """Return the request in the content of a ``parameters.json``."""
        names = {item.name for item in fields(cls)}
        values = {key: value for key, value in data.items() if key in names}
        if missing := sorted({"source", "files", "params"} - values.keys()):
            raise HklflowError(f"parameters.json lacks {', '.join(missing)}; propose it again")
        for key in ("offsets", "arms_deg", "scans"):
            values[key] = tuple(values.get(key, ()))
        for key in ("files", "products"):
            values[key] = tuple(Path(path) for path in values.get(key, ()))
        return cls(**values)


def from_state(target: "Target") -> Record:
    """Return the parameters of a powder calibration that the state and the entry define."""
    state, entry = target.state.values, target.geometry
    params = {
        "pixel_size": state.get("pixel_size"),
        "wavelength": HC / state["energy"] if "energy" in state else None,
        "distance": state.get("distance"),
        "sensor_thickness": state.get("thickness"),
        "sensor_attenuation": entry.sensor_attenuation,
        "polarization": entry.polarization,
        "orientation": entry.orientation,
        "binning": state.get("binning"),
    }
    return {name: value for name, value in params.items() if value is not None}


def settings(pairs: Sequence[str]) -> Record:
    """Return the settings from ``key=value`` texts of `--set`; a value that is not JSON is text.

    Raises
    ------
    HklflowError
        If a text has no `=`.
    """
    params: Record = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise HklflowError(f"--set {pair!r} is not key=value; write for example max_rings=14")
        try:
            params[key.strip().replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            params[key.strip().replace("-", "_")] = value
    # Absolute paths stay valid if the next iteration is made from another folder.
    for key in ("mask_image", "dark", "flat", "standard", "empty", "table", "groups"):
        if params.get(key) is not None:
            params[key] = str(Path(params[key]).absolute())
    if "calibrant" in params:
        params["calibrant"] = calibrant(params["calibrant"])
    return params


def calibrant(name: str) -> str:
    """Return the name of a calibrant, or the absolute path of its file."""
    from hklflow.calibration.calibrants import is_file

    return str(Path(name).absolute()) if is_file(name) else name


def read_files(request: Request) -> list[Path]:
    """Return all files that a request reads, for the record."""
    paths = [request.params.get(key) for key in ("mask_image", "dark", "flat", "groups")]
    name = str(request.params.get("calibrant", ""))
    paths += [name] if name.startswith("/") else []
    return [*request.files, *request.products, *(Path(path) for path in paths if path)]


def powder_params(target: "Target", params: Mapping[str, Any]) -> powder_calibration.Params:
    """Return the parameters of a powder calibration from the state and from the user.

    The values of the user have priority over the values of the state.

    Raises
    ------
    HklflowError
        If a parameter is wrong, or the state already defines it; only the distance, a start value,
        may be in both.
    """
    known = from_state(target)
    if taken := sorted({name.replace("-", "_") for name in params} & (set(known) - {"distance"})):
        raise HklflowError(
            f"--set {', '.join(taken)}: the entry {target.name} and its state define this; change "
            "it there"
        )
    try:
        return powder_calibration.Params.model_validate({**known, **params})
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']} (it is {item['input']!r})"
            for item in error.errors()
        ]
        raise HklflowError("; ".join(problems)) from error


def make_files(target: "Target", request: Request, folder: Path) -> dict[str, Path]:
    """Make the geometry of a request in a folder.

    Returns
    -------
    dict of Path
        File of each product, by its name.

    Raises
    ------
    HklflowError
        If a file is missing or the calibration fails.
    """
    for path in request.files:
        if not path.is_file():
            raise HklflowError(f"{path} does not exist; give the file of the calibration")
    binning = binning_of_state(target)
    if binning is not None and request.source in ("modules", "bragg"):
        raise HklflowError(
            f"the state of {target.name} is of {binning.words}, and modules are fitted to frames "
            "as measured only; propose them for a state with `binning: 1`, for binned frames, too"
        )
    geometry, poni = folder / "geometry.json", folder / "geometry.poni"
    files = {"geometry.json": geometry, "geometry.poni": poni}
    if request.source == "modules":
        # Their profiles are of the geometry before the modules move, so none is `powder.nxs`.
        profiles = [folder / f"powder_{number}.nxs" for number, _ in enumerate(request.files, 1)]
        stage.write_json(geometry, _from_rings(target, request, profiles))
        files |= {path.name: path for path in profiles}
    elif request.source == "bragg":
        stage.write_json(geometry, _from_bragg(target, request))
    elif request.source == "powder" and len(request.files) > 1:
        params = powder_params(target, request.params)
        others = [f"powder_{number}.nxs" for number in range(2, len(request.files) + 1)]
        kept = [folder / name for name in ("powder.nxs", *others)]
        series = several.series(request.files, params, request.offsets, request.arms_deg, kept)
        stage.write_json(geometry, series)
        files |= {path.name: path for path in kept}
    elif request.source == "powder":
        files |= {name: folder / name for name in ("rings.png", "powder.nxs")}
        powder_calibration.main(
            inputs=powder_calibration.Inputs(image=request.files[0]),
            outputs=powder_calibration.Outputs(
                geometry=geometry,
                poni=poni,
                picture=files["rings.png"],
                powder=files["powder.nxs"],
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
    params: Record = {
        name: known[name]
        for name in ("polarization", "sensor_thickness", "sensor_attenuation")
        if name in known
    }
    binning = binning_of_state(target)
    # A shape in the file is used, and `check_state` compares it with the state.
    if (shape := target.state.values.get("shape")) is not None and read_poni(path).shape is None:
        params["shape"] = tuple(shape) if binning is None else binning.shape
    import_poni.main(
        inputs=import_poni.Inputs(poni=path),
        outputs=import_poni.Outputs(geometry=geometry),
        params=import_poni.Params.model_validate(params),
    )
    if binning is not None:  # PONI files do not record it; `check_state` compares shape and pixels
        data = stage.read_json(geometry)
        stage.write_json(geometry, data | powder_calibration.said_binning(binning))


def bragg_products(
    target: "Target", scan_name: str
) -> "tuple[Version, Path, dict[str, dict[str, Path]]]":
    """Return the products of a scan that are needed to fit its modules.

    Parameters
    ----------
    scan_name : str
        ``sample/scan``.

    Returns
    -------
    version : Version
        Version of the geometry that all products were made with.
    orientation : Path
        The scan's ``orientation.json``.
    files : dict
        Files by the name of the product and then of the rotation.

    Raises
    ------
    HklflowError
        If the scan does not exist, or a product is missing or was made with another version.
    """
    from hklflow.nexus import calibrations

    experiment = target.experiment
    if (b := experiment.config.binning) > 1:
        raise HklflowError(
            f"--bragg {scan_name}: `binning` is {b}, and versions of the store are of frames as "
            "measured if they have modules; set `binning: 1` and reduce the scan so"
        )
    sample, _, scan = scan_name.partition("/")
    if (sample, scan) not in experiment.scans:
        raise HklflowError(f"--bragg {scan_name}: there is no such scan; write sample/scan")
    rotations = experiment.rotations(sample, scan)
    other = {experiment.rotation(sample, scan, name).calibration for name in rotations}
    if other != {target.name}:
        raise HklflowError(
            f"--bragg {scan_name}: its rotations have the calibrations "
            f"{', '.join(str(name) for name in sorted(map(str, other)))}, not only {target.name}"
        )
    versions = {experiment.version(sample, scan, name).number for name in rotations}
    if len(versions) > 1:
        raise HklflowError(
            f"--bragg {scan_name}: its rotations have several versions "
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
    target: "Target", used: "Version", orientation: Path, scan_name: str
) -> Path | None:
    """Return ``modules.json`` of a scan; None if its refinement found no displaced modules.

    Parameters
    ----------
    used, orientation
        Version and orientation file that `bragg_products` returns.
    scan_name : str
        ``sample/scan``.

    Raises
    ------
    HklflowError
        If ``modules.json`` was made with another version or another orientation of the scan.
    """
    from hklflow.nexus import calibrations

    sample, _, scan = scan_name.partition("/")
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


def _from_rings(target: "Target", request: Request, profiles: Sequence[Path]) -> Record:
    """Return a geometry with the parts of levels fitted to powder images, and to scans if given."""
    settings = levels.settings_of(request.params)
    groups = levels.read_groups(settings.groups, target.state.values)
    given = {key: value for key, value in request.params.items() if key not in levels.NAMES}
    params = powder_params(target, given)
    scans = _bragg_scans(target, request)
    return levels.calibrate(
        settings, groups, request.files, params, scans, params.detector, profiles
    )


def _from_bragg(target: "Target", request: Request) -> Record:
    """Return a geometry with the parts of levels fitted to the Bragg peaks of scans."""
    name = request.params.get("detector")
    if unknown := sorted(set(request.params) - {"detector", *levels.NAMES}):
        raise HklflowError(
            f"--set {', '.join(unknown)} is not for --bragg; only detector is, and --groups"
        )
    settings = levels.settings_of(request.params)
    groups = levels.read_groups(settings.groups, target.state.values)
    scans = _bragg_scans(target, request)
    if uses_loop(request.scans, request.params):
        used, orientation, _ = bragg_products(target, request.scans[0])
        found = converged_modules(target, used, orientation, request.scans[0])
        if found is not None:
            return several.modules_of_loop(scans[0].start, found)
    name = None if name is None else str(name)
    return levels.calibrate(settings, groups, scans=scans, detector_name=name)


def uses_loop(scans: Sequence[str], params: Mapping[str, Any]) -> bool:
    """Return True if the modules of the stage `converge` answer a request, if they exist."""
    same = tuple(params.get("levels", ("module",))) == ("module",)
    return len(scans) == 1 and same and not set(params) - {"levels"}


def _bragg_scans(target: "Target", request: Request) -> "list[levels.BraggScan]":
    """Return the products of the scans of a request.

    Raises
    ------
    HklflowError
        If a scan is given twice, or scans were made with different versions.
    """
    scans, versions = [], {}
    for name in request.scans:
        if name in versions:
            raise HklflowError(f"--bragg {name} is given twice; give each scan once")
        used, orientation, files = bragg_products(target, name)
        versions[name] = used.name
        start = stage.read_json(used.artefact("geometry.json"))
        named = (files["scan.nxs"], files["peaks.nxs"], files["mask.nxs"])
        scans.append(levels.BraggScan(start, orientation, *named))
    if len(set(versions.values())) > 1:
        raise HklflowError(
            "--bragg: the scans were reduced with different versions ("
            f"{', '.join(f'{name} with {used}' for name, used in versions.items())}); reduce them "
            "with one, by `pin`"
        )
    return scans


def _checked(path: Path) -> Record:
    """Return the geometry in a file without its metrics.

    The metrics may belong to another geometry, or the file may have been changed by hand.
    """
    from hklflow.formats.assemble import calibrated

    data = stage.read_json(path)
    try:
        calibrated(data, path, any_binning=True)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise HklflowError(
            f"{path} is not a geometry of this workflow ({type(error).__name__}: {error}); give a "
            "geometry.json"
        ) from error
    more: Record = {key: data[key] for key in ("sensor_material", "binning") if key in data}
    return {
        "source": f"geometry:{path}",
        "detector": data["detector"],
        "beam": data["beam"],
        **more,
    }


def _set_points(target: "Target") -> Record:
    """Return the geometry of the set-points, with the beam in the middle of the detector."""
    from hklflow.calibration.powder_guess import guess_poni
    from hklflow.geometry import detector_to_dict
    from hklflow.images.pixel_binning import bin_detector

    known, shape = from_state(target), target.state.values.get("shape")
    lacking = [n for n in ("pixel_size", "wavelength", "distance") if n not in known]
    if shape is None or lacking:
        raise HklflowError(
            f"the state of {target.name} has no "
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
    binning = binning_of_state(target)
    if binning is not None:
        detector = bin_detector(detector, binning.factor)
        centre = (centre[0] / binning.factor, centre[1] / binning.factor)
    return {
        **powder_calibration.said_binning(binning),
        "source": "default",
        "detector": detector_to_dict(detector),
        "beam": {"wavelength_A": known["wavelength"], "polarization": known["polarization"]},
        "beam_centre_px": centre,
    }


def _write_poni(geometry: Path, path: Path) -> None:
    from hklflow.formats import assemble, poni

    detector, beam = assemble.calibrated(stage.read_json(geometry), geometry, any_binning=True)
    # A PONI file cannot contain modules: write the plane of the detector, and a note.
    plane = poni.poni_from_detector(detector.plane, wavelength=beam.wavelength)
    poni.write_poni(path, plane, poni.modules_note(detector))
