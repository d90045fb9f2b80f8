"""Make and judge a normalisation from a measurement of a standard."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from hklflow import stage
from hklflow.base.described import Described
from hklflow.base.errors import HklflowError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.calibration.store import Version
    from hklflow.cli.calibration.build import Request
    from hklflow.cli.calibration.target import Target
    from hklflow.constants.counters import Measured
    from hklflow.constants.standard import Normalization
    from hklflow.experiment.models import StoredNormalization
    from hklflow.geometry import Beam, Detector

Record = dict[str, Any]
FILE = "normalization.nxs"


class Standard(Described):
    """Measurement of a standard, from the options of `propose` and from `--set`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    standard: str
    """Raw file or pattern of the frames with the standard."""
    empty: str | None = None
    """Raw file or pattern of the frames without the standard."""
    scattering: Literal["elastic", "fluorescence"] = "elastic"
    """Kind of scattering: elastic (glassy carbon, vanadium-like) or fluorescence."""
    table: Path | None = None
    """Text file with |Q| in 1/Å and the scattering of the standard; None: isotropic."""
    attenuation: float | None = Field(None, gt=0)
    """Attenuation of the fluorescence in the sensor, 1/m; None: the sensor absorbs all photons."""
    transmission: float = Field(1.0, gt=0, le=1)
    """Transmission of the standard for the scattering of the empty measurement."""
    standard_error: float = Field(0.0, ge=0, lt=1)
    """Relative error of the standard's scattering, for the absolute factor."""
    groups: Path | None = None
    """Groups of pixels (`hklflow groups make`): one factor for each group; None: for each pixel."""


def init_files(target: "Target", folder: Path) -> dict[str, Path]:
    """Write the files of version 0: all pixels respond alike."""
    from hklflow.constants import standard

    shape = target.state.values.get("shape")
    if shape is None:
        raise HklflowError(f"the state of {target.name} has no shape; add the shape of the frames")
    path = folder / FILE
    standard.write_normalization(path, standard.ideal((int(shape[0]), int(shape[1]))))
    return {FILE: path}


def candidate(
    target: "Target", name: str, request: "Request", folder: Path
) -> tuple[dict[str, Path], Record]:
    """Compute the normalisation of a request, and write its files.

    Returns
    -------
    files : dict of Path
        File of each product, by its name.
    record : dict
        Record for the store.

    Raises
    ------
    HklflowError
        If a file cannot be read, or the measurement does not give a normalisation.
    """
    from hklflow.constants import standard

    given = _standard(request.params)
    entry = _entry(target)
    geometry_file, used = _geometry(target, entry.geometry)
    result = _measured(given, geometry_file)
    _check_state(target, result)
    files = {key: folder / key for key in (FILE, "metrics.json", "parameters.json", "report.html")}
    standard.write_normalization(files[FILE], result)
    metrics = dict(result.about)
    del metrics["detector"]
    before = target.accepted()
    if before is not None:
        metrics["change"] = _change(result, before)
    gates = _gates(target, metrics)
    stage.write_json(files["metrics.json"], {"metrics": metrics, "gates": gates})
    stage.write_json(files["parameters.json"], request.to_dict())
    paths = [p for text in (given.standard, given.empty) if text for p in _files_of(text)]
    paths += [geometry_file, *(path for path in (given.table, given.groups) if path is not None)]
    record: Record = {
        "source": "standard",
        "inputs": [{"path": str(p), "sha256": stage.fingerprint(p)} for p in paths],
        "metrics": stage.read_json(files["metrics.json"])["metrics"],
        "gates": gates,
        "parentVersion": None,
        "geometryVersionUsed": used,
    }
    files |= _report(target, name, request, result, record, files["report.html"])
    return files, record


def _standard(params: Any) -> Standard:
    try:
        return Standard.model_validate(dict(params))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']} (it is {item['input']!r})"
            for item in error.errors()
        ]
        raise HklflowError(f"--set: {'; '.join(problems)}") from error


def _entry(target: "Target") -> "StoredNormalization":
    target.require("normalization")
    return target.experiment.config.normalizations[target.name]


def _geometry(target: "Target", name: str) -> tuple[Path, Record]:
    """Return the file of the geometry that is used now, and its name for the record."""
    experiment = target.experiment
    path = experiment.base / experiment.calibration_file(name)
    if not path.is_file():
        raise HklflowError(f"{path} does not exist; run `snakemake {path}` first")
    used: Record = {"name": name, "sha256": stage.fingerprint(path)}
    if experiment.stored_kinds.get(name) == "geometry":
        used |= {
            "name": path.parent.name,
            "stateId": experiment.state(name).id,
            "version": int(path.parent.name.removeprefix("v_")),
        }
    return path, used


def _files_of(source: str) -> list[Path]:
    from hklflow.formats.sources import files_of

    return [Path(path) for path in files_of(source, Path())]


def _measured(given: Standard, geometry_file: Path) -> "Normalization":
    """Read the frames and compute the normalisation."""
    from dataclasses import replace

    import numpy as np

    from hklflow.constants import standard
    from hklflow.constants.grouped import grouped
    from hklflow.geometry import corrections, detector_to_dict

    run, absolute = _moments(given.standard, needs_monitor=given.empty is not None)
    empty = None
    if given.empty is not None:
        empty = (_moments(given.empty, needs_monitor=True)[0].moments, given.transmission)
    detector, beam = _detector(geometry_file, run)
    if given.scattering == "elastic":
        expected, factors = standard.expected_elastic(detector, beam, _table(given.table))
    else:
        expected, factors = standard.expected_fluorescence(detector, given.attenuation)
    area = corrections.pixel_area(detector)
    result = standard.normalization(run.moments, expected, run.bits, area, empty)
    if given.groups is not None:
        weights = run.moments.light * expected
        flat, errors, of_groups = grouped(
            given.groups, result.flat, result.errors, weights, result.bits, detector, beam
        )
        figures = {"median_error": float(np.nanmedian(errors)), "groups": of_groups}
        result = replace(result, flat=flat, errors=errors, about=result.about | figures)
    about = result.about | {
        "standard": given.scattering,
        "factors": factors,
        "detector": detector_to_dict(detector),
        "wavelength_A": beam.wavelength,
    }
    if absolute and given.scattering == "elastic":
        error = (about["absolute_error"] / about["absolute"]) ** 2 + given.standard_error**2
        about["absolute_error"] = about["absolute"] * error**0.5
    else:
        about |= {"absolute": None, "absolute_error": None}
    return replace(result, about=about)


def _moments(source: str, *, needs_monitor: bool) -> "tuple[Measured, bool]":
    """Sum the frames relative to the monitor; return also if there is a monitor."""
    from dataclasses import replace

    import numpy as np

    from hklflow.constants import counters, standard
    from hklflow.formats import raw
    from hklflow.images.masks import MaskBit

    with raw.open_frames(source) as frames:
        header = raw.header_of(source, frames)
        n = frames.shape[0]
    levels = standard.incident(header, n)
    if levels is None and needs_monitor:
        raise HklflowError(
            f"{source} has no monitor for its {n} frames, so the empty measurement cannot be "
            "scaled; add the monitor to the files of both measurements"
        )
    run = counters.measure(source, 8, levels=True if levels is None else levels, trusted=True)
    never = (run.moments.frames == 0) & (run.bits == 0)
    bits = np.where(never, np.uint32(MaskBit.GAP), run.bits)
    return replace(run, bits=bits), levels is not None


def _detector(path: Path, run: "Measured") -> "tuple[Detector, Beam]":
    """Return the geometry; an unknown attenuation of the sensor follows from its material."""
    from dataclasses import replace

    from hklflow.formats import assemble
    from hklflow.geometry import sensor

    data = stage.read_json(path)
    detector, beam = assemble.calibrated(data, path)
    material = data.get("sensor_material") or run.header.sensor_material
    if detector.sensor_thickness is None and run.header.detector is not None:
        detector = replace(detector, sensor_thickness=run.header.detector.sensor_thickness)
    if detector.sensor_attenuation is None and material is not None:
        attenuation = sensor.attenuation(material, beam.wavelength)
        detector = replace(detector, sensor_attenuation=attenuation)
    return detector, beam


def _table(path: Path | None) -> "NDArray[np.float64] | None":
    import numpy as np

    if path is None:
        return None
    try:
        table = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise HklflowError(
            f"{path} is not a table of numbers ({error}); write |Q| and the scattering in each line"
        ) from error
    rising = table.shape[1] >= 2 and len(table) > 1 and np.all(np.diff(table[:, 0]) > 0)
    if not rising or not np.all(table[:, 1] > 0):
        raise HklflowError(
            f"{path} needs two columns, rising |Q| in 1/Å and positive scattering; correct the file"
        )
    return np.asarray(table[:, :2])


def _check_state(target: "Target", result: "Normalization") -> None:
    """Raise an error if the frames do not fit the state."""
    from hklflow.base.values import HC

    values, problems = target.state.values, []
    shape, energy = values.get("shape"), values.get("energy")
    if shape is not None and tuple(shape) != result.flat.shape:
        problems.append(f"frames of {result.flat.shape} pixels, not {tuple(shape)}")
    found = HC / result.about["wavelength_A"]
    if energy is not None and abs(found / energy - 1) > 1e-3:
        problems.append(f"an energy of {found:.1f} eV, not {energy:.1f} eV")
    if problems:
        raise HklflowError(
            f"the measurement has {' and '.join(problems)}, as {target.name} says; give the files "
            "of this state, or correct the configuration"
        )


def _change(result: "Normalization", before: "Version") -> Record:
    """Return rms and mean difference from the accepted normalisation, in standard errors."""
    import numpy as np

    from hklflow.constants.files import open_constants

    with open_constants(before.artefact(FILE)) as constants:
        module = constants.module(0, ("flatfield", "flatfield_errors"))
    difference = result.flat - module["flatfield"]
    sigma = np.hypot(result.errors, module["flatfield_errors"])
    both = np.isfinite(difference) & (sigma > 0)
    return {
        "version": before.number,
        "rms": float(np.sqrt(np.mean(difference[both] ** 2))) if both.any() else None,
        "rms in standard errors": float(np.sqrt(np.mean((difference[both] / sigma[both]) ** 2)))
        if both.any()
        else None,
    }


def _gates(target: "Target", metrics: Record) -> list[Record]:
    limits = _entry(target).gates
    unusable = metrics["unusable"] / max(metrics["pixels"], 1)
    tested = (
        ("error", metrics["median_error"], limits.max_error, "the median error of the response"),
        ("unusable", unusable, limits.max_unusable, "the fraction of pixels without a response"),
        (
            "large_scale",
            metrics["large_scale"],
            limits.max_large_scale,
            "the range of the smooth part of the response",
        ),
        (
            "background",
            metrics["background"],
            limits.max_background,
            "the fraction of the counts from the empty measurement",
        ),
    )
    return [
        {
            "name": name,
            "value": value,
            "limit": limit,
            "passed": bool(value <= limit),
            "sentence": f"{what} is {value:.3g}, which "
            f"{'is within' if value <= limit else 'exceeds'} {limit:g}",
        }
        for name, value, limit, what in tested
        if limit is not None
    ]


def _report(
    target: "Target",
    name: str,
    request: "Request",
    result: "Normalization",
    record: Record,
    path: Path,
) -> dict[str, Path]:
    """Write the page with which a person judges, and its picture; return the picture."""
    import json
    from html import escape

    import numpy as np

    from hklflow import plots
    from hklflow.calibration import report

    picture = path.with_name("response.png")
    title = f"normalisation {name} of {target.name}"
    plots.save(plots.pixel_mask(np.nan_to_num(result.flat), result.bits, title), picture)
    figures = [(key, value) for key, value in record["metrics"].items() if key != "change"]
    figures += [(f"change: {k}", v) for k, v in record["metrics"].get("change", {}).items()]
    made = [(item["path"], item["sha256"]) for item in record["inputs"]]
    sections = [
        ("Verdict", report.verdict(record["gates"])),
        ("Gates", report.gates_table(record["gates"])),
        ("Response", report.figure(picture, "Relative response of the pixels.")),
        ("Figures", report.table(("figure", "value"), figures)),
        ("Geometry", f"<p>{escape(str(record['geometryVersionUsed']['name']))}</p>"),
        ("Made from", report.table(("file", "SHA-256"), made)),
        ("With", f"<pre>{escape(json.dumps(request.to_dict(), indent=1))}</pre>"),
    ]
    path.write_text(report.page(title, sections), encoding="utf-8")
    return {picture.name: picture}
