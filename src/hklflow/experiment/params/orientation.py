"""Parameters of the stages that index, refine, integrate, scale and merge."""

from typing import Any

from hklflow import stages
from hklflow.experiment import binned
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.layers import value_in
from hklflow.experiment.models import Config
from hklflow.experiment.step import Wildcards
from hklflow.formats.assemble import axes_by_rotation
from hklflow.geometry import correction
from hklflow.stage.import_settings import ImportSettings
from hklflow.stage.integration_settings import IntegrationSettings
from hklflow.stage.norms import Corrections
from hklflow.stage.reflection_settings import MergingSettings, ScalingSettings
from hklflow.stage.scan_limits import ScanLimits

_REPLACED = (
    "detector",
    "wavelength",
    "wavelengths",
    "axes",
)  # settings of `import_scan` that remedies replace


def _of_scan(experiment: Experiment, at: Wildcards) -> tuple[Config, dict[str, Any]]:
    """Return the settings of a scan, and the names of the scan and its rotations."""
    sample, scan = at["sample"], at["scan"]
    names = {"sample": sample, "scan": scan, "rotations": experiment.rotations(sample, scan)}
    return experiment.settings(sample, scan), names


def _engine(experiment: Experiment, own: Config) -> dict[str, Any]:
    """Return the settings of the programs that index and refine, without `start`."""
    used = "dials" in (own.orientation.engine, own.orientation.spots)
    return own.orientation.model_dump(exclude={"start"}) | _programs(experiment, used)


def _programs(experiment: Experiment, used: bool) -> dict[str, Any]:
    """Return the paths of the DIALS programs if the stage uses DIALS, else nothing.

    Stages without DIALS therefore do not run again if the paths change.
    """
    return experiment.config.dials.model_dump() if used else {}


def _limits(own: Config) -> ScanLimits:
    return ScanLimits(**{name: getattr(own.accept, name) for name in ScanLimits.model_fields})


def refine_parent(experiment: Experiment, at: Wildcards) -> stages.refine_parent.Params:
    """Return the parameters that refine a parent; the sample table adds a missing cell or group."""
    own, names = _of_scan(experiment, at)
    row = experiment.samples[at["sample"]]
    given = own.refine_parent.model_dump()
    given["space_group"] = given["space_group"] or row.space_group
    given["cell"] = given["cell"] or row.cell
    return stages.refine_parent.Params(
        **given,
        **_engine(experiment, own),
        accept=_limits(own),
        imported=_imported(experiment, own, names),
        **names,
    )


def _imported(experiment: Experiment, own: Config, names: dict[str, Any]) -> ImportSettings:
    """Return the corrections of a scan's import, and the layer in which to change them."""
    said, (sample, scan) = own.import_scan, (names["sample"], names["scan"])
    items = said.detector
    grouped = axes_by_rotation(said.axes)
    axes = [f"{name}:{text}" for name, texts in grouped.items() if name for text in texts]
    layer = ""
    for entry in experiment.layers_of(sample, scan):
        present = any(value_in(entry.data, ("import_scan", key))[0] for key in _REPLACED)
        if present and entry.name.startswith(("per_sample.", "per_scan.")):
            layer = entry.name
    if axes or said.wavelengths or any(correction.parse(item)[0] is not None for item in items):
        # There are items for rotations by their names, perhaps of other scans.
        layer = f"per_scan.{sample}/{scan}"
    return ImportSettings(
        detector=items, wavelengths=said.wavelengths, axes=tuple(axes), layer=layer
    )


def refine(experiment: Experiment, at: Wildcards) -> stages.refine.Params:
    """Return the parameters of the refinement of a scan."""
    own, names = _of_scan(experiment, at)
    return stages.refine.Params(
        **own.refine.model_dump(), **_engine(experiment, own), accept=_limits(own), **names
    )


def converge(experiment: Experiment, at: Wildcards) -> stages.converge.Params:
    """Return the parameters of the loop of refinement and integration of a scan."""
    own, names = _of_scan(experiment, at)
    integrate = binned.integrate(own.integrate, experiment.config.binning)
    fields = IntegrationSettings.model_fields
    return stages.converge.Params(
        **own.converge.model_dump(),
        flat_field=own.transform.flat_field,
        integrate=IntegrationSettings(**{name: getattr(integrate, name) for name in fields}),
        **names,
    )


def integrate(experiment: Experiment, at: Wildcards) -> stages.integrate.Params:
    """Return the parameters that integrate a rotation, with the corrections of the transform."""
    config = experiment.settings(at["sample"], at["scan"])
    own = binned.integrate(config.integrate, experiment.config.binning)
    corrections = {name: getattr(config.transform, name) for name in Corrections.model_fields}
    return stages.integrate.Params(
        **own.model_dump(),
        **_programs(experiment, own.engine == "dials"),
        **corrections,
        rotation=at["rotation"],
    )


def scale_reflections(experiment: Experiment, at: Wildcards) -> stages.scale_reflections.Params:
    """Return the parameters that scale the reflections of a scan."""
    own, names = _of_scan(experiment, at)
    return stages.scale_reflections.Params(
        **own.scale_reflections.model_dump(), rotations=names["rotations"]
    )


def merge_reflections(experiment: Experiment, at: Wildcards) -> stages.merge_reflections.Params:
    """Return the parameters that merge reflections; scaling sets the treatment of Friedel mates."""
    own, _ = _of_scan(experiment, at)
    return stages.merge_reflections.Params(
        **own.merge_reflections.model_dump(), anomalous=own.scale_reflections.anomalous
    )


def merge_crystals(experiment: Experiment, at: Wildcards) -> stages.merge_crystals.Params:
    """Return the parameters that merge a set of scans, with the settings of the first sample."""
    entry = experiment.config.crystals[at["crystals"]]
    own = experiment.settings(at["sample"])
    given = entry.leave_out
    return stages.merge_crystals.Params(
        **entry.model_dump(exclude={"scans", "leave_out"}),
        name=at["crystals"],
        scans=entry.scans,
        rotations=[
            f"{sample}/{scan}/{rotation}"
            for sample, scan in entry.keys
            for rotation in experiment.rotations(sample, scan)
        ],
        automatic=given == "auto",
        leave_out=[] if given == "auto" else list(given),
        scaling=ScalingSettings(**own.scale_reflections.model_dump()),
        merging=MergingSettings(**own.merge_reflections.model_dump()),
    )
