"""The experiment: configuration file and tables, validated together before anything runs.

Each stage's section of ``config.yaml`` is that stage's own ``Params`` (or ``Settings``),
so a parameter is written down once. All problems are collected and reported together.

A field that has an imported module's name would shadow it in the class body, so the
stage modules are reached through their package.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

import hklflow.stages.find_maximum
import hklflow.stages.find_peaks
import hklflow.stages.import_poni
import hklflow.stages.import_scan
import hklflow.stages.mask_3d
import hklflow.stages.merge
import hklflow.stages.overview
import hklflow.stages.pixel_mask
import hklflow.stages.powder_calibration
import hklflow.stages.refine
import hklflow.stages.refine_parent
import hklflow.stages.scan_file
import hklflow.stages.simulate
import hklflow.stages.transform  # noqa: F401  (used as `stages.transform`)
from hklflow import stages
from hklflow.errors import HklflowError
from hklflow.flags import files, flags
from hklflow.paths import Paths
from hklflow.tables import (
    Rotation,
    Sample,
    Scan,
    check_name,
    raw_problems,
    read_samples,
    read_scans,
    series_ends,
)

__all__ = [
    "Calibration",
    "Config",
    "Experiment",
    "PoniFile",
    "PowderImage",
    "Rotation",
    "Sample",
    "Scan",
    "Simulation",
    "files",
    "flags",
    "load",
    "simulated_raws",
    "simulation_description",
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PowderImage(stages.powder_calibration.Params):
    """A calibration from the image of a powder calibrant."""

    image: str
    """Calibrant image."""


class PoniFile(stages.import_poni.Params):
    """A calibration from a PONI file."""

    poni: str
    """PONI file."""


def _kind(value: Any) -> str:
    is_poni = isinstance(value, PoniFile) or (isinstance(value, dict) and "poni" in value)
    return "poni" if is_poni else "image"


Calibration = Annotated[
    Annotated[PowderImage, Tag("image")] | Annotated[PoniFile, Tag("poni")], Discriminator(_kind)
]


class Simulation(_Section):
    """What `rule simulate` makes of the raw files; see `hklflow.stages.simulate`."""

    scan: dict[str, Any]
    """What all raw files share."""
    samples: dict[str, dict[str, Any]]
    """Crystal, diffuse scattering and background of each sample."""
    rotations: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What is different in a rotation, by its name."""
    powder: dict[str, Any] = Field(default_factory=dict)
    """The calibrant image."""


class Config(_Section):
    """The experiment's configuration file."""

    results: str = "results"
    """Folder of all products."""
    samples: str = "config/samples.tsv"
    """Table of samples."""
    scans: str = "config/scans.tsv"
    """Table of scans and their rotations."""
    calibrations: dict[str, Calibration] = Field(default_factory=dict)
    """Detector geometries, by the name that the table of scans uses."""
    import_scan: stages.import_scan.Params = stages.import_scan.Params()
    """Import of the frames."""
    pixel_mask: stages.pixel_mask.Params = stages.pixel_mask.Params()
    """Pixel mask."""
    find_maximum: stages.find_maximum.Params = stages.find_maximum.Params()
    """Frame statistics and transmission."""
    find_peaks: stages.find_peaks.Params = stages.find_peaks.Params()
    """Peak search."""
    refine_parent: stages.refine_parent.Settings = stages.refine_parent.Settings()
    """Indexing and refinement of parents, and the hkl grid."""
    refine: stages.refine.Settings = stages.refine.Settings()
    """Refinement of every scan from its parent's orientation."""
    mask_3d: stages.mask_3d.Params = stages.mask_3d.Params()
    """3-D artefact mask."""
    transform: stages.transform.Settings = stages.transform.Settings()
    """Transform to hkl."""
    merge: stages.merge.Settings = stages.merge.Settings()
    """Merge of the rotations."""
    simulation: Simulation | None = None
    """Only for simulated experiments: what `rule simulate` makes of each raw file."""


# ----------------------------------------------------------------------- experiment


@dataclass(frozen=True)
class Experiment:
    """A validated experiment; what the rules ask."""

    config: Config
    base: Path
    samples: dict[str, Sample]
    scans: dict[tuple[str, str], Scan]

    @cached_property
    def paths(self) -> Paths:
        """Patterns of all products."""
        return Paths(self.config.results)

    def rotations(self, sample: str, scan: str) -> list[str]:
        """Names of the rotations of a scan."""
        return list(self.scans[sample, scan].rotations)

    def rotation(self, sample: str, scan: str, rotation: str) -> Rotation:
        """One row of the table of scans."""
        return self.scans[sample, scan].rotations[rotation]

    def all_rotations(self) -> list[tuple[str, str, str]]:
        """(sample, scan, rotation) of every row."""
        return [(s, n, r) for (s, n), scan in self.scans.items() for r in scan.rotations]

    def raw_inputs(self, rotation: Rotation) -> list[str]:
        """Raw files that the import depends on: the file, or the ends of a series."""
        if rotation.is_series and self.config.simulation is None:
            return series_ends(rotation.raw, self.base)
        return [rotation.raw]

    def import_params(self, sample: str, scan: str, rotation: str) -> stages.import_scan.Params:
        """Parameters of an import: configuration, then what the table says of this rotation."""
        row = self.rotation(sample, scan, rotation)
        settings = {name: value for name, (value, step) in row.goniometer.items() if step is None}
        scanned = [
            (name, start, step)
            for name, (start, step) in row.goniometer.items()
            if step is not None
        ]
        given = self.config.import_scan.model_dump()
        given["angles"] = given["angles"] | settings
        if scanned:
            given["scan_axis"], given["start"], given["step"] = scanned[0]
        if row.is_series:
            given["pattern"] = row.raw
        if (temperature := self.scans[sample, scan].temperature) is not None:
            given["temperature"] = temperature
        return stages.import_scan.Params(**given)

    def refine_parent_params(self, sample: str, scan: str) -> stages.refine_parent.Params:
        """Parameters of a parent's refinement: configuration and the table of samples."""
        row = self.samples[sample]
        return stages.refine_parent.Params(
            **self.config.refine_parent.model_dump(),
            sample=sample,
            scan=scan,
            rotations=self.rotations(sample, scan),
            space_group=row.space_group,
            cell=row.cell,
        )

    def refine_params(self, sample: str, scan: str) -> stages.refine.Params:
        """Parameters of a scan's refinement."""
        return stages.refine.Params(
            **self.config.refine.model_dump(),
            sample=sample,
            scan=scan,
            rotations=self.rotations(sample, scan),
        )

    def transform_params(self, rotation: str) -> stages.transform.Params:
        """Parameters of one rotation's transform."""
        return stages.transform.Params(**self.config.transform.model_dump(), rotation=rotation)

    def merge_params(self, sample: str, scan: str, kind: str) -> stages.merge.Params:
        """Parameters of a merge."""
        temperature = self.scans[sample, scan].temperature
        at = "" if temperature is None else f" at {temperature:g} K"
        masked = ", 3-D masked" if kind == "masked_transform" else ""
        title = f"S(Q) of {sample} {scan}{at}{masked}"
        return stages.merge.Params(**self.config.merge.model_dump(), title=title)


def load(data: Mapping[str, Any], base: Path) -> Experiment:
    """Validate configuration and tables together.

    Parameters
    ----------
    data : mapping
        Content of the configuration file.
    base : Path
        Folder of the experiment; the paths of the tables are relative to it.

    Raises
    ------
    HklflowError
        With every problem, one in a line.
    """
    problems: list[str] = []
    config = _config(data, problems)
    axes = _axes(config, problems)
    simulated = bool(data.get("simulation"))
    samples = read_samples(base / config.samples, problems)
    scans = read_scans(base / config.scans, samples, problems)
    for scan in scans.values():
        for row in scan.rotations.values():
            if row.calibration and row.calibration not in (data.get("calibrations") or {}):
                problems.append(
                    f"{row.where}: calibration {row.calibration!r} is not one of "
                    f"{', '.join(config.calibrations) or 'none defined'}"
                )
            problems += [
                f"{row.where}: there is no goniometer axis {name} (the axes are {', '.join(axes)})"
                for name in row.goniometer
                if axes and name not in axes
            ]
            if not simulated:
                problems += [f"{row.where}: {problem}" for problem in raw_problems(row, base)]
    for name, calibration in config.calibrations.items():
        check_name(name, "calibration", "config", problems)
        given = calibration.poni if isinstance(calibration, PoniFile) else calibration.image
        if not simulated and not (base / given).is_file():
            problems.append(f"config: calibrations.{name}: {given} does not exist")
    if not scans and not problems:
        problems.append(f"{base / config.scans} has no scans")
    experiment = Experiment(config, base, samples, scans)
    if not problems:
        problems += _simulation_problems(experiment)
    if problems:
        raise _report(problems)
    return experiment


def _config(data: Mapping[str, Any], problems: list[str]) -> Config:
    """Validate the configuration; sections with a problem are replaced by their defaults.

    So the tables are looked at too, and all problems are in one report.
    """
    try:
        return Config.model_validate(dict(data))
    except ValidationError as error:
        problems += [f"config: {told}" for told in _validation_problems(error)]
        spoilt = {str(item["loc"][0]) for item in error.errors()}
        return Config.model_validate({k: v for k, v in data.items() if k not in spoilt})


def _validation_problems(error: ValidationError) -> Iterable[str]:
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        shown = "" if isinstance(item["input"], dict) else f" (it is {item['input']!r})"
        yield f"{where}: {item['msg']}{shown}"


def _axes(config: Config, problems: list[str]) -> tuple[str, ...]:
    """Names of the goniometer axes; none if the raw files say them."""
    from hklflow.formats.assemble import parse_axes

    try:
        return tuple(parse_axes(config.import_scan.axes) or ())
    except HklflowError as error:
        problems.append(f"config: import_scan.axes: {error}")
        return ()


def _simulation_problems(experiment: Experiment) -> Iterable[str]:
    simulation = experiment.config.simulation
    names = {rotation for _, _, rotation in experiment.all_rotations()}
    for name in sorted(set(simulation.rotations) - names if simulation else ()):
        yield f"config: simulation.rotations: no rotation is named {name!r}"
    for raw in simulated_raws(experiment):
        if _is_measured(experiment.base / raw):
            yield (
                f"config: {raw} exists and was not simulated, but `simulation` would make it anew; "
                "remove the `simulation` section, it is for simulated data only"
            )
        try:
            simulation_description(experiment, raw)
        except HklflowError as error:
            yield str(error)
        except ValidationError as error:
            for problem in _validation_problems(error):
                yield f"config: simulation of {raw}: {problem}"


def _is_measured(path: Path) -> bool:
    """Whether a raw HDF5 file exists that `rule simulate` has not written."""
    if path.suffix != ".nxs" or not path.is_file():
        return False
    from hklflow import nexus

    try:
        return "simulate" not in {record["stage"] for record in nexus.read_provenance(path)}
    except HklflowError:  # damaged: whatever it was, it cannot be used
        return False


def _report(problems: list[str]) -> HklflowError:
    plural = "s" if len(problems) > 1 else ""
    listed = "\n  ".join(problems)
    return HklflowError(f"{len(problems)} problem{plural} in the experiment:\n  {listed}")


# ----------------------------------------------------------------------- simulation


def simulated_raws(experiment: Experiment) -> list[str]:
    """Raw files that `rule simulate` makes; none in a real experiment."""
    if experiment.config.simulation is None:
        return []
    rotations = [experiment.rotation(*key).raw for key in experiment.all_rotations()]
    calibrations = experiment.config.calibrations.values()
    images = [c.image for c in calibrations if isinstance(c, PowderImage)]
    return rotations + images


def simulation_description(experiment: Experiment, raw: str) -> stages.simulate.Description:
    """Describe what `rule simulate` puts in one raw file: configuration and the file's row.

    The seed follows from the file's name, so that every file has its own noise.
    """
    simulation = experiment.config.simulation
    if simulation is None:
        raise HklflowError(f"{raw} is not simulated: the configuration has no `simulation`")
    given = dict(simulation.scan) | {"seed": zlib.crc32(raw.encode())}
    for sample, scan, rotation in experiment.all_rotations():
        row = experiment.rotation(sample, scan, rotation)
        if row.raw != raw:
            continue
        if sample not in simulation.samples:
            raise HklflowError(f"config: simulation.samples has no {sample!r}")
        given |= simulation.samples[sample] | simulation.rotations.get(rotation, {})
        given["angles"] = {name: value for name, (value, step) in row.goniometer.items()}
        for name, (start, step) in row.goniometer.items():
            if step is not None:
                given |= {"scan_axis": name, "start": start, "step": step}
        given["temperature"] = experiment.scans[sample, scan].temperature
        return stages.simulate.Description.model_validate(given)
    given["powder"] = simulation.powder
    return stages.simulate.Description.model_validate(given)
