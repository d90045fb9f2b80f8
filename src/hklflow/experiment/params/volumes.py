"""Parameters of the stages from the transform to the page of a sample."""

from typing import Any

from hklflow import stages
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.models import Config
from hklflow.experiment.params import MASKED, quick_look, titled
from hklflow.experiment.params.orientation import refine_parent
from hklflow.experiment.sources import powder_numbers
from hklflow.experiment.step import Wildcards
from hklflow.stage import Along
from hklflow.stage.norms import Corrections


def _own(experiment: Experiment, at: Wildcards) -> Config:
    return experiment.settings(at["sample"], at.get("scan"))


def absorption(experiment: Experiment, at: Wildcards) -> stages.absorption.Params:
    """Return the parameters of the absorption of a scan, with the formula of the sample."""
    own = _own(experiment, at)
    return stages.absorption.Params(
        **own.absorption.model_dump(),
        sample_formula=experiment.samples[at["sample"]].formula,
        sample_cell=experiment.samples[at["sample"]].cell,
        annulus=own.find_peaks.annulus,
        title=f"transmission of {at['sample']} {at['scan']}{quick_look(experiment)}",
    )


def refine_scale(experiment: Experiment, at: Wildcards) -> stages.refine_scale.Params:
    """Return the parameters that refine the scale of a scan."""
    own = _own(experiment, at)
    names = Corrections.model_fields
    corrections = {name: getattr(own.transform, name) for name in names}
    return stages.refine_scale.Params(**own.refine_scale.model_dump(), corrections=corrections)


def unmeasured_background(
    experiment: Experiment, at: Wildcards
) -> stages.unmeasured_background.Params:
    """Return the parameters that bound the background of a scan without a measurement of it."""
    own = _own(experiment, at)
    corrections = {name: getattr(own.transform, name) for name in Corrections.model_fields}
    return stages.unmeasured_background.Params(
        subtract=own.background.unmeasured == "subtract",
        rings=own.background.rings,
        friedel=own.refine_scale.friedel,
        corrections=corrections,
    )


def transform(experiment: Experiment, at: Wildcards) -> stages.transform.Params:
    """Return the parameters that transform a rotation, or one block of its frames."""
    given = _own(experiment, at).transform.model_dump()
    blocks = (int(at.get("part", 0)), experiment.config.frame_blocks)
    return stages.transform.Params(**given, rotation=at["rotation"], part=blocks)


def add_transforms(_: Experiment, __: Wildcards) -> stages.add_transforms.Params:
    """Return the parameters that add the transforms of blocks of frames."""
    return stages.add_transforms.Params()


def merge(experiment: Experiment, at: Wildcards) -> stages.merge.Params:
    """Return the parameters that merge the rotations of a scan."""
    own = _own(experiment, at).merge
    return stages.merge.Params(**own.model_dump(), title=titled(experiment, "S(Q) of ", at))


def symmetrise(experiment: Experiment, at: Wildcards) -> stages.symmetrise.Params:
    """Return the parameters that average symmetry-equivalent voxels."""
    own = _own(experiment, at).symmetrise
    title = titled(experiment, "symmetrised S(Q) of ", at)
    return stages.symmetrise.Params(**own.model_dump(), title=title)


def fill(experiment: Experiment, at: Wildcards) -> stages.fill.Params:
    """Return the parameters that remove Bragg peaks and fill the holes (punch and fill)."""
    own = _own(experiment, at).fill
    title = titled(experiment, "diffuse S(Q) of ", at)
    return stages.fill.Params(**own.model_dump(), title=title)


def pdf(experiment: Experiment, at: Wildcards) -> stages.pdf.Params:
    """Return the parameters of the pair distribution function, ``delta`` or ``total``."""
    own = _own(experiment, at).pdf
    subject = {"delta": "3D-ΔPDF of ", "total": "total PDF of "}[at["which"]]
    return stages.pdf.Params(**own.model_dump(), title=titled(experiment, subject, at))


def planes(experiment: Experiment, at: Wildcards) -> stages.planes.Params:
    """Return the parameters of the pictures of planes."""
    return stages.planes.Params(**_own(experiment, at).planes.model_dump())


def difference(experiment: Experiment, at: Wildcards) -> stages.difference.Params:
    """Return the parameters of the difference from the reference scan."""
    reference = str(experiment.reference(at["sample"], at["scan"]))
    theirs = titled(experiment, "", {**at, "scan": reference, "kind": "transform"})
    own = _own(experiment, at).difference
    title = f"{titled(experiment, '', at)} minus {theirs}"
    return stages.difference.Params(**own.model_dump(), title=title)


def absolute_scale(experiment: Experiment, at: Wildcards) -> stages.absolute_scale.Params:
    """Return the parameters of the absolute scale of a scan, with the formula of the sample."""
    own = _own(experiment, at).absolute_scale
    return stages.absolute_scale.Params(
        **own.model_dump(),
        formula=experiment.samples[at["sample"]].formula,
        title=f"absolute scale of {at['sample']} {at['scan']}{quick_look(experiment)}",
    )


def scan_file(experiment: Experiment, at: Wildcards) -> stages.scan_file.Params:
    """Return the parameters of the master file of a scan, with its resolved configuration."""
    return stages.scan_file.Params.model_validate(
        {
            "title": f"{at['sample']} {at['scan']}{quick_look(experiment)}",
            "configuration": experiment.resolved_json(at["sample"], at["scan"]),
            "formula": experiment.samples[at["sample"]].formula or "",
            "powder_of": powder_numbers(experiment, at["sample"], at["scan"]),
        }
    )


def along_of(experiment: Experiment, sample: str, values: bool = True) -> Along:
    """Return the axis of the series of a sample, with the values and errors of its scans.

    Parameters
    ----------
    values : bool
        False for stages that have the values already.
    """
    axis = experiment.axis(sample)
    scans = {name: scan for (of, name), scan in experiment.scans.items() if of == sample}
    given = values and not axis.is_temperature
    return Along(
        name=axis.name,
        symbol=axis.symbol,
        unit=axis.unit,
        values={k: x.value for k, x in scans.items() if given and x.value is not None},
        errors={k: x.error for k, x in scans.items() if values and x.error > 0},
    )


def temperature_series(experiment: Experiment, at: Wildcards) -> stages.temperature_series.Params:
    """Return the parameters of the series of a sample."""
    return stages.temperature_series.Params(along=_without_errors(experiment, at["sample"]))


def features(experiment: Experiment, at: Wildcards) -> stages.features.Params:
    """Return the parameters of the diffuse features of a sample."""
    own = _own(experiment, at).features
    return stages.features.Params(
        **own.model_dump(), along=_without_errors(experiment, at["sample"])
    )


def order_parameters(experiment: Experiment, at: Wildcards) -> stages.order_parameters.Params:
    """Return the parameters of the order parameters of a sample."""
    own = _own(experiment, at).order_parameters
    return stages.order_parameters.Params(
        **own.model_dump(), along=along_of(experiment, at["sample"])
    )


def bragg_series(experiment: Experiment, at: Wildcards) -> stages.bragg_series.Params:
    """Return the parameters of the Bragg intensities of a sample."""
    own = _own(experiment, at).bragg_series
    return stages.bragg_series.Params(
        **own.model_dump(), along=_without_errors(experiment, at["sample"])
    )


def accept(experiment: Experiment, at: Wildcards) -> stages.accept.Params:
    """Return the limits of a scan, and its value along the axis of the series."""
    along = _without_errors(experiment, at["sample"])
    named = (at["scan"], experiment.scans[at["sample"], at["scan"]].parent)
    values = {name: x for name, x in along.values.items() if name in named}
    return stages.accept.Params(
        **_own(experiment, at).accept.model_dump(),
        along=along.model_copy(update={"values": values}),
    )


def _without_errors(experiment: Experiment, sample: str) -> Along:
    return along_of(experiment, sample).model_copy(update={"errors": {}})


def _stacked(experiment: Experiment, subject: str, at: Wildcards) -> dict[str, Any]:
    sample, parent = at["sample"], at["parent"]
    scans = experiment.stacked(sample, parent)
    along = along_of(experiment, sample, values=False)
    return {
        "title": f"{subject} of {sample} against {along.name}, parent {parent}{MASKED[at['kind']]}"
        f"{quick_look(experiment)}",
        "scans": scans,
        "temperatures": [experiment.scans[sample, scan].value for scan in scans],
        "along": along,
    }


def stack(experiment: Experiment, at: Wildcards) -> stages.stack.Params:
    """Return the parameters that stack the volumes of a parent and its children by temperature."""
    parent = refine_parent(experiment, {"sample": at["sample"], "scan": at["parent"]})
    return stages.stack.Params(
        **_own(experiment, at).stack.model_dump(),
        space_group=parent.space_group,
        **_stacked(experiment, "S(Q)", at),
    )


def cluster(experiment: Experiment, at: Wildcards) -> stages.cluster.Params:
    """Return the parameters that cluster the voxels of a parent and its children."""
    parent = refine_parent(experiment, {"sample": at["sample"], "scan": at["parent"]})
    return stages.cluster.Params(
        **_own(experiment, at).cluster.model_dump(),
        space_group=parent.space_group,
        **_stacked(experiment, "clusters of S(Q)", at),
    )


def stack_pdf(experiment: Experiment, at: Wildcards) -> stages.stack_pdf.Params:
    """Return the parameters that stack the 3D-ΔPDFs of a parent and its children by temperature."""
    return stages.stack_pdf.Params(
        **_own(experiment, at).stack_pdf.model_dump(),
        parent=at["parent"],
        **_stacked(experiment, "3D-ΔPDF", at),
    )


def sample_page(experiment: Experiment, at: Wildcards) -> stages.sample_page.Params:
    """Return the parameters of the page of a sample."""
    sample, paths = at["sample"], experiment.paths
    scans = experiment.scans_of(sample)
    values = [experiment.scans[sample, scan].value for scan in scans]
    return stages.sample_page.Params(
        sample=sample,
        results=paths.folder,
        shared=paths.unbinned.folder if experiment.config.binning > 1 else None,
        scans=scans,
        temperatures=[float("nan") if value is None else value for value in values],
        along=along_of(experiment, sample, values=False),
        title=f"{sample}{quick_look(experiment)}",
    )


def overview(experiment: Experiment, _: Wildcards) -> stages.overview.Params:
    """Return the parameters of the overview of all scans."""
    found = {name: _without_errors(experiment, name) for name in experiment.used_samples()}
    return stages.overview.Params(
        along={name: x for name, x in found.items() if not x.axis.is_temperature}
    )
