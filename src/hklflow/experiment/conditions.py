"""Conditions of steps: which jobs of the table of steps exist, and which inputs they have."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from hklflow.experiment import sources
from hklflow.experiment.sources import KINDS, prepares
from hklflow.experiment.step import Jobs, Wildcards
from hklflow.stages.cluster import FEWEST

if TYPE_CHECKING:
    from hklflow.experiment.models import Config


def of_kind(kind: type) -> "Callable[[Jobs, Wildcards], Iterable[Wildcards]]":
    """Return the condition that a calibration is of a kind."""

    def runs(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
        if isinstance(plan.experiment.config.calibrations[at["calibration"]], kind):
            yield {}

    return runs


def corrected(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    """Yield once if the frames of the rotation are corrected."""
    if plan.experiment.is_corrected(at["sample"], at["scan"]) and prepares(plan, at):
        yield {}


def summed(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    """Yield once if the rotation is the sum of several files, and is not corrected."""
    row = plan.experiment.rotation(at["sample"], at["scan"], at["rotation"])
    corrected = plan.experiment.is_corrected(at["sample"], at["scan"])
    if row.is_sum and not corrected and prepares(plan, at):
        yield {}


def binned(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    """Yield once if frames are prepared for a quick look."""
    return ({},) if prepares(plan, at) else ()


def artificial(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    """Yield once if the norm of the scan is artificial."""
    settings = plan.experiment.settings(at["sample"], at["scan"])
    if settings.normalization.artificial is not None:
        yield {}


def parents(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    """Yield once for a parent."""
    if plan.experiment.scans[at["sample"], at["scan"]].parent == at["scan"]:
        yield {}


def kinds(_: Jobs, __: Wildcards) -> Iterator[Wildcards]:
    """Yield the kinds of volume: with and without the 3-D mask."""
    return ({"kind": kind} for kind in KINDS)


def symmetrised(plan: Jobs, _: Wildcards) -> Iterator[Wildcards]:
    """Yield the kinds of volume that are symmetrised."""
    return ({"kind": kind} for kind in sources.symmetrised_kinds(plan.experiment.config))


def pdf_kinds(plan: Jobs, _: Wildcards) -> Iterator[Wildcards]:
    """Yield the kinds of volume that have a pair distribution."""
    return ({"kind": kind} for kind in sources.pdf_kinds(plan.experiment.config))


def pdfs(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    """Yield all pair distributions of a scan."""
    for kind in pdf_kinds(plan, at):
        yield from ({"which": which, **kind} for which in ("delta", "total"))


def planes(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    """Yield the volumes that are drawn as oblique planes."""
    for kind in pdf_kinds(plan, at):
        yield from ({"volume": volume, **kind} for volume in ("symm", "delta_pdf"))


def differences(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    """Yield the kinds of volume from which a reference is subtracted."""
    reference = plan.experiment.reference(at["sample"], at["scan"])
    return () if reference is None else pdf_kinds(plan, at)


def absolute_scales(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    """Yield once if an absolute scale is requested."""
    if plan.experiment.settings(at["sample"], at["scan"]).absolute_scale.is_requested:
        yield {}


def stacks(plan: Jobs, _: Wildcards) -> Iterator[Wildcards]:
    """Yield the kinds of volume that are stacked."""
    yield from ({"kind": kind} for kind in KINDS)
    yield from ({"kind": f"symm_{kind}"} for kind in sources.pdf_kinds(plan.experiment.config))


def clusters(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    """Yield the kinds of volume of a stack that are clustered."""
    experiment, sample = plan.experiment, at["sample"]
    scans = experiment.stacked(sample, at["parent"])
    different = {experiment.scans[sample, scan].value for scan in scans}
    wished = experiment.settings(sample, None).cluster.run and len(different) >= FEWEST
    return pdf_kinds(plan, at) if wished else ()


def has_features(plan: Jobs, at: Wildcards) -> bool:
    """Return True if diffuse features are defined or searched for the sample of the job."""
    features = plan.experiment.settings(at["sample"], None).features
    return bool(features.define) or features.find


def features(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    """Yield once if the stack has diffuse features."""
    return ({},) if has_features(plan, at) else ()


def model_mask(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the 3-D mask of the job contains the Bragg reflections of the model."""
    return plan.experiment.settings(at["sample"], at["scan"]).mask_3d.model


def has_shape(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the shape of the crystal is given."""
    return plan.experiment.settings(at["sample"], at["scan"]).absorption.shape is not None


def shaped(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    """Yield once if the shape of the crystal is given."""
    return ({},) if has_shape(plan, at) else ()


def scale_is_refined(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the transform uses the scale from repeated measurements."""
    return plan.experiment.settings(at["sample"], at["scan"]).refine_scale.use


def refined_scales(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    """Yield once if the transform uses the scale from repeated measurements."""
    if scale_is_refined(plan, at):
        yield {}


def has_absolute_scale(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the structure factors get an absolute scale."""
    return plan.experiment.config.bragg and any(True for _ in absolute_scales(plan, at))


def has_structure_factors(plan: Jobs, at: Wildcards) -> bool:
    """Return True if structure factors are made in every run."""
    return plan.experiment.config.bragg


def has_differences(plan: Jobs, at: Wildcards) -> bool:
    """Return True if a reference is subtracted from the scan."""
    return any(True for _ in differences(plan, at))


def in_blocks(config: "Config") -> bool:
    """Return True if rotations are transformed in blocks of frames."""
    return config.frame_blocks > 1


def backgrounds(plan: Jobs, at: Wildcards) -> list[str]:
    """Return the backgrounds of the rotations of the job's scan that have one."""
    if is_subtracted(plan, at):
        return [plan.paths.scan("unmeasured_background.nxs").format(**at)]
    every = ({**at, "rotation": r} for r in plan.experiment.rotations(at["sample"], at["scan"]))
    pattern = plan.paths.rotation("background.nxs")
    return [pattern.format(**one) for one in every if has_background(plan, one)]


def has_background(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the rotation of the job has runs without the crystal."""
    own = plan.experiment.settings(at["sample"], at["scan"]).background
    return bool(own.of_rotation(at["rotation"]))


def with_background(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    """Yield once if the rotation has runs without the crystal."""
    return ({},) if has_background(plan, at) else ()


def is_subtracted(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the background of the job's scan is subtracted without a measurement."""
    own = plan.experiment.settings(at["sample"], at["scan"]).background
    return own.unmeasured == "subtract"


def without_measurement(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    """Yield once if the background is determined without a measurement."""
    if plan.experiment.settings(at["sample"], at["scan"]).background.unmeasured is not None:
        yield {}


def background(plan: Jobs, at: Wildcards) -> list[str]:
    """Return the background of the job's rotation, or of its scan, if there is one."""
    if is_subtracted(plan, at):
        return [plan.paths.scan("unmeasured_background.nxs").format(**at)]
    return measured_background(plan, at)


def measured_background(plan: Jobs, at: Wildcards) -> list[str]:
    """Return the background of the job's rotation from runs without the crystal, if any."""
    pattern = plan.paths.rotation("background.nxs")
    return [pattern.format(**at)] if has_background(plan, at) else []


def first_background(plan: Jobs, at: Wildcards) -> list[str]:
    """Return the background of the first rotation of the job's scan, if it was measured."""
    first = next(iter(plan.experiment.rotations(at["sample"], at["scan"])))
    return measured_background(plan, {**at, "rotation": first})


def structure_factors(config: "Config") -> bool:
    """Return True if structure factors are made in every run."""
    return config.bragg


def not_in_blocks(config: "Config") -> bool:
    """Return True if rotations are transformed as a whole."""
    return not in_blocks(config)


def quick_look(config: "Config") -> bool:
    """Return True for a quick look on binned frames."""
    return config.binning > 1
