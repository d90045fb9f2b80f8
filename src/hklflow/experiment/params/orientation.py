"""Parameters of the stages that index, refine and integrate a scan."""

from typing import Any

from hklflow import stages
from hklflow.experiment import binned
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.models import Config
from hklflow.experiment.step import Wildcards
from hklflow.stage.integration_settings import IntegrationSettings
from hklflow.stage.norms import Corrections
from hklflow.stage.scan_limits import ScanLimits


def _of_scan(experiment: Experiment, at: Wildcards) -> tuple[Config, dict[str, Any]]:
    """Return the settings of a scan, and its names."""
    sample, scan = at["sample"], at["scan"]
    names = {"sample": sample, "scan": scan, "rotations": experiment.rotations(sample, scan)}
    return experiment.settings(sample, scan), names


def _engine(experiment: Experiment, own: Config) -> dict[str, Any]:
    """Return the programs that index and refine; the starting orientation is an input."""
    used = "dials" in (own.orientation.engine, own.orientation.spots)
    return own.orientation.model_dump(exclude={"start"}) | _programs(experiment, used)


def _programs(experiment: Experiment, used: bool) -> dict[str, Any]:
    """Return the place of DIALS for stages that use it; a new place reruns no other stage."""
    return experiment.config.dials.model_dump() if used else {}


def _limits(own: Config) -> ScanLimits:
    return ScanLimits(**{name: getattr(own.accept, name) for name in ScanLimits.model_fields})


def refine_parent(experiment: Experiment, at: Wildcards) -> stages.refine_parent.Params:
    """Return the parameters to refine a parent: configuration, else table of samples."""
    own, names = _of_scan(experiment, at)
    row = experiment.samples[at["sample"]]
    given = own.refine_parent.model_dump()
    given["space_group"] = given["space_group"] or row.space_group
    given["cell"] = given["cell"] or row.cell
    return stages.refine_parent.Params(
        **given, **_engine(experiment, own), accept=_limits(own), **names
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
    """Return the parameters to integrate a rotation, with the transform's norm factors."""
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
    """Return the parameters to scale the reflections of a scan."""
    own, names = _of_scan(experiment, at)
    return stages.scale_reflections.Params(
        **own.scale_reflections.model_dump(), rotations=names["rotations"]
    )


def merge_reflections(experiment: Experiment, at: Wildcards) -> stages.merge_reflections.Params:
    """Return the parameters to merge reflections; Friedel mates are treated as in scaling."""
    own, _ = _of_scan(experiment, at)
    return stages.merge_reflections.Params(
        **own.merge_reflections.model_dump(), anomalous=own.scale_reflections.anomalous
    )
