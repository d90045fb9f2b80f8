"""The table of steps, with inputs, outputs, parameters and conditions of each step.

Rules, targets, planning (`hklflow check`), status and freshness follow from this table. A step has
the same names of inputs and outputs as its stage. `hklflow.experiment.steps_constants` contains the
steps that make constants of detectors.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from hklflow.experiment.models import PoniFile, PowderImage
from hklflow.experiment.params import frames, orientation, section, volumes
from hklflow.experiment.sources import (
    CALIBRATION,
    CALIBRATION_FILE,
    CRYSTALS,
    EXPERIMENT,
    FIGURES_OF_SCANS,
    FILES_OF_CALIBRATION,
    FLAT_FIELD,
    FLAT_FIELDS,
    FRAMES,
    FRAMES_AS_REDUCED,
    GEOMETRY,
    KINDS,
    LEFT_OUT_PEAKS,
    LINKED,
    OF_SCALE_REFERENCE,
    PAGE,
    PART,
    POWDERS,
    RAW,
    RAW_FRAMES,
    REPEATED,
    ROTATION,
    RUNS_WITHOUT_CRYSTAL,
    SAMPLE,
    SCAN,
    SCAN_OF_ALL_ROTATIONS,
    STACK,
    START,
    WHOLE_VOLUME,
    constants,
    of_crystals,
    of_earlier_rotations,
    of_first_rotation,
    of_kinds,
    of_parent,
    of_parts,
    of_reference,
    of_rotation,
    of_rotations,
    of_scan,
    of_scans,
    of_scans_rotations,
    of_series,
    of_stacked,
    parameter_files,
    pdf_kinds,
    prepares,
    shown_of_sample,
    symmetrised_kinds,
)
from hklflow.experiment.step import Jobs, Output, Source, Step, Wildcards, figures, picture
from hklflow.stages.cluster import FEWEST

if TYPE_CHECKING:
    from hklflow.experiment.models import Config

_OVERVIEW, _PLANES = "0 Overview", "2 Planes"


# ------------------------------------------------------------------------- conditions


def _of_kind(kind: type) -> "Callable[[Jobs, Wildcards], Iterable[Wildcards]]":
    def runs(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
        if isinstance(plan.experiment.config.calibrations[at["calibration"]], kind):
            yield {}

    return runs


def _corrected(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    if plan.experiment.is_corrected(at["sample"], at["scan"]) and prepares(plan, at):
        yield {}


def _summed(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    row = plan.experiment.rotation(at["sample"], at["scan"], at["rotation"])
    corrected = plan.experiment.is_corrected(at["sample"], at["scan"])
    if row.is_sum and not corrected and prepares(plan, at):
        yield {}


def _binned(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    return ({},) if prepares(plan, at) else ()


def _artificial(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    settings = plan.experiment.settings(at["sample"], at["scan"])
    if settings.normalization.artificial is not None:
        yield {}


def _parents(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    if plan.experiment.scans[at["sample"], at["scan"]].parent == at["scan"]:
        yield {}


def _kinds(_: Jobs, __: Wildcards) -> Iterator[Wildcards]:
    return ({"kind": kind} for kind in KINDS)


def _symmetrised(plan: Jobs, _: Wildcards) -> Iterator[Wildcards]:
    return ({"kind": kind} for kind in symmetrised_kinds(plan.experiment.config))


def _pdf_kinds(plan: Jobs, _: Wildcards) -> Iterator[Wildcards]:
    return ({"kind": kind} for kind in pdf_kinds(plan.experiment.config))


def _pdfs(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    for kind in _pdf_kinds(plan, at):
        yield from ({"which": which, **kind} for which in ("delta", "total"))


def _planes(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    for kind in _pdf_kinds(plan, at):
        yield from ({"volume": volume, **kind} for volume in ("symm", "delta_pdf"))


def _differences(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    reference = plan.experiment.reference(at["sample"], at["scan"])
    return () if reference is None else _pdf_kinds(plan, at)


def _absolute_scales(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    if plan.experiment.settings(at["sample"], at["scan"]).absolute_scale.is_requested:
        yield {}


def _stacks(plan: Jobs, _: Wildcards) -> Iterator[Wildcards]:
    yield from ({"kind": kind} for kind in KINDS)
    yield from ({"kind": f"symm_{kind}"} for kind in pdf_kinds(plan.experiment.config))


def _clusters(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    """Yield the kinds of volume of a stack that are clustered."""
    experiment, sample = plan.experiment, at["sample"]
    scans = experiment.stacked(sample, at["parent"])
    different = {experiment.scans[sample, scan].value for scan in scans}
    wished = experiment.settings(sample, None).cluster.run and len(different) >= FEWEST
    return _pdf_kinds(plan, at) if wished else ()


def _has_features(plan: Jobs, at: Wildcards) -> bool:
    """Return True if diffuse features are defined or searched for the sample of the job."""
    features = plan.experiment.settings(at["sample"], None).features
    return bool(features.define) or features.find


def _features(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    return ({},) if _has_features(plan, at) else ()


def _model_mask(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the 3-D mask of the job contains the Bragg reflections of the model."""
    return plan.experiment.settings(at["sample"], at["scan"]).mask_3d.model


def _has_shape(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the shape of the crystal is given."""
    return plan.experiment.settings(at["sample"], at["scan"]).absorption.shape is not None


def _shaped(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    return ({},) if _has_shape(plan, at) else ()


def _scale_is_refined(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the transform uses the scale from repeated measurements."""
    return plan.experiment.settings(at["sample"], at["scan"]).refine_scale.use


def _refined_scales(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    if _scale_is_refined(plan, at):
        yield {}


def _has_absolute_scale(plan: Jobs, at: Wildcards) -> bool:
    return plan.experiment.config.bragg and any(True for _ in _absolute_scales(plan, at))


def _has_structure_factors(plan: Jobs, at: Wildcards) -> bool:
    return plan.experiment.config.bragg


def _has_differences(plan: Jobs, at: Wildcards) -> bool:
    return any(True for _ in _differences(plan, at))


def _in_blocks(config: "Config") -> bool:
    return config.frame_blocks > 1


def _backgrounds(plan: Jobs, at: Wildcards) -> list[str]:
    """Return the backgrounds of the rotations of the job's scan that have one."""
    if _is_subtracted(plan, at):
        return [plan.paths.scan("unmeasured_background.nxs").format(**at)]
    every = ({**at, "rotation": r} for r in plan.experiment.rotations(at["sample"], at["scan"]))
    pattern = plan.paths.rotation("background.nxs")
    return [pattern.format(**one) for one in every if _has_background(plan, one)]


def _has_background(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the rotation of the job has runs without the crystal."""
    own = plan.experiment.settings(at["sample"], at["scan"]).background
    return bool(own.of_rotation(at["rotation"]))


def _with_background(plan: Jobs, at: Wildcards) -> Iterable[Wildcards]:
    return ({},) if _has_background(plan, at) else ()


def _is_subtracted(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the background of the job's scan is subtracted without a measurement."""
    own = plan.experiment.settings(at["sample"], at["scan"]).background
    return own.unmeasured == "subtract"


def _without_measurement(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    if plan.experiment.settings(at["sample"], at["scan"]).background.unmeasured is not None:
        yield {}


def _background(plan: Jobs, at: Wildcards) -> list[str]:
    """Return the background of the job's rotation, or of its scan, if there is one."""
    if _is_subtracted(plan, at):
        return [plan.paths.scan("unmeasured_background.nxs").format(**at)]
    return _measured_background(plan, at)


def _measured_background(plan: Jobs, at: Wildcards) -> list[str]:
    """Return the background of the job's rotation from runs without the crystal, if any."""
    pattern = plan.paths.rotation("background.nxs")
    return [pattern.format(**at)] if _has_background(plan, at) else []


def _first_background(plan: Jobs, at: Wildcards) -> list[str]:
    """Return the background of the first rotation of the job's scan, if it was measured."""
    first = next(iter(plan.experiment.rotations(at["sample"], at["scan"])))
    return _measured_background(plan, {**at, "rotation": first})


def _structure_factors(config: "Config") -> bool:
    return config.bragg


def _not_in_blocks(config: "Config") -> bool:
    return not _in_blocks(config)


def _quick_look(config: "Config") -> bool:
    return config.binning > 1


ABSORPTION = of_scan("absorption.nxs", when=_has_shape)
"""Transmission by the crystal's shape; empty if the shape is not given."""

# ----------------------------------------------------------------- before the scans

_CALIBRATIONS = (
    Step(
        "simulate", RAW, "import", reads={}, writes={"raw": Output("{raw}")}, params=frames.simulate
    ),
    Step(
        "powder_calibration",
        CALIBRATION,
        "calibration",
        reads={"image": CALIBRATION_FILE, "files": FILES_OF_CALIBRATION},
        writes={
            "geometry": Output("geometry.json"),
            "poni": Output("geometry.poni"),
            "picture": Output("rings.png"),
            "powder": Output("powder.nxs"),
        },
        params=frames.powder_calibration,
        runs=_of_kind(PowderImage),
    ),
    Step(
        "import_poni",
        CALIBRATION,
        "calibration",
        reads={"poni": CALIBRATION_FILE},
        writes={"geometry": Output("geometry.json")},
        params=frames.import_poni,
        runs=_of_kind(PoniFile),
    ),
)

# ------------------------------------------------------------------------ rotations

_ROTATIONS = (
    Step(
        "sum_scans",
        FRAMES,
        "import",
        reads={"raw": REPEATED, "linked": LINKED},
        writes={"sum": Output("sum.nxs")},
        params=frames.sum_scans,
        runs=_summed,
    ),
    Step(
        "correct_frames",
        FRAMES,
        "import",
        reads={"raw": REPEATED, "linked": LINKED, "constants": constants(counter=False)},
        writes={
            "frames": Output("corrected.nxs"),
            "picture": Output("corrected.png"),
            "metrics": figures("corrected.json"),
        },
        params=frames.correct_frames,
        runs=_corrected,
    ),
    Step(
        "bin_frames",
        ROTATION,
        "import",
        reads={"raw": RAW_FRAMES, "linked": LINKED},
        writes={"binned": Output("binned.nxs")},
        params=frames.bin_frames,
        runs=_binned,
        in_all=_quick_look,
        threads=True,
    ),
    Step(
        "import_scan",
        ROTATION,
        "import",
        reads={"raw": FRAMES_AS_REDUCED, "linked": LINKED, "geometry": GEOMETRY},
        writes={"scan": Output("scan.nxs")},
        params=frames.import_scan,
    ),
    Step(
        "pixel_mask",
        ROTATION,
        "mask",
        reads={
            "scan": of_rotation("scan.nxs"),
            "files": parameter_files("pixel_mask"),
            "constants": constants(counter=True),
        },
        writes={
            "mask": Output("mask.nxs"),
            "picture": Output("mask.png"),
            "metrics": figures("mask.json"),
        },
        params=frames.pixel_mask,
    ),
    Step(
        "artificial_normalization",
        ROTATION,
        "mask",
        reads={"scan": of_rotation("scan.nxs"), "mask": of_rotation("mask.nxs")},
        writes={
            "normalization": Output("artificial_normalization.nxs"),
            "picture": Output("artificial_normalization.png"),
            "metrics": figures("artificial_normalization.json"),
        },
        params=frames.artificial_normalization,
        runs=_artificial,
        threads=True,
    ),
    Step(
        "find_peaks",
        ROTATION,
        "peaks",
        reads={"scan": of_rotation("scan.nxs"), "mask": of_rotation("mask.nxs")},
        writes={
            "peaks": Output("peaks.nxs"),
            "picture": Output("peaks.png"),
            "metrics": figures("peaks.json"),
            "statistics": Output("statistics.nxs"),
            "statistics_picture": Output("statistics.png"),
            "statistics_metrics": figures("statistics.json"),
        },
        params=frames.find_peaks,
        threads=True,
    ),
    Step(
        "background",
        ROTATION,
        "peaks",
        reads={
            "scan": of_rotation("scan.nxs"),
            "mask": of_rotation("mask.nxs"),
            "statistics": of_rotation("statistics.nxs"),
            "absorption": ABSORPTION,
            "files": RUNS_WITHOUT_CRYSTAL,
        },
        writes={
            "background": Output("background.nxs"),
            "picture": Output("background.png"),
            "metrics": figures("background.json"),
        },
        params=frames.background,
        runs=_with_background,
    ),
    Step(
        "frame_scale",
        ROTATION,
        "peaks",
        reads={
            "scan": of_rotation("scan.nxs"),
            "statistics": of_rotation("statistics.nxs"),
            "reference_scan": of_first_rotation("scan.nxs"),
            "reference": of_first_rotation("statistics.nxs"),
            "earlier": of_earlier_rotations("statistics.nxs"),
            "absorption": ABSORPTION,
            "background": Source(_measured_background),
            "reference_background": Source(_first_background),
        },
        writes={
            "scale": Output("scale.nxs"),
            "picture": Output("scale.png"),
            "metrics": figures("scale.json"),
        },
        params=section("frame_scale"),
    ),
    Step(
        "mask_3d",
        ROTATION,
        "mask",
        reads={
            "scan": of_rotation("scan.nxs"),
            "mask": of_rotation("mask.nxs"),
            "orientation": of_scan("orientation.json", when=_model_mask),
            "peaks": of_rotation("peaks.nxs", when=_model_mask),
        },
        writes={
            "frame_mask": Output("frame_mask.nxs"),
            "picture": Output("frame_mask.png"),
        },
        params=frames.mask_3d,
        threads=True,
    ),
)

# --------------------------------------------------------- orientation of every scan

_ORIENTATIONS = (
    Step(
        "refine_parent",
        SCAN,
        "refine",
        reads={
            "scans": of_rotations("scan.nxs"),
            "peaks": of_rotations("peaks.nxs"),
            "masks": of_rotations("mask.nxs"),
            "start": START,
            "list": LEFT_OUT_PEAKS,
        },
        writes={
            "orientation": Output("parent.json"),
            "picture": Output("parent.png"),
        },
        params=orientation.refine_parent,
        runs=_parents,
        threads=True,
    ),
    Step(
        "refine",
        SCAN,
        "refine",
        reads={
            "parent": of_parent("parent.json"),
            "scans": of_rotations("scan.nxs"),
            "peaks": of_rotations("peaks.nxs"),
            "masks": of_rotations("mask.nxs"),
            "list": LEFT_OUT_PEAKS,
        },
        writes={
            "orientation": figures("orientation.json"),
            "picture": Output("residuals.png"),
        },
        params=orientation.refine,
        threads=True,
    ),
    Step(
        "accept",
        SCAN,
        "accept",
        reads={"orientation": of_scan("orientation.json"), "parent": of_parent("parent.json")},
        writes={"accepted": figures("accepted.json")},
        params=volumes.accept,
    ),
    Step(
        "absorption",
        SCAN,
        "scale",
        reads={
            "orientation": of_scan("orientation.json"),
            "accepted": of_scan("accepted.json"),
            "scans": of_rotations("scan.nxs"),
        },
        writes={
            "absorption": Output("absorption.nxs"),
            "picture": Output("absorption.png"),
            "metrics": figures("absorption.json"),
        },
        params=volumes.absorption,
        runs=_shaped,
        threads=True,
    ),
)

# -------------------------------------------------------------------------- volumes

_TRANSFORM = Step(
    "transform",
    ROTATION,
    "transform",
    reads={
        "scan": of_rotation("scan.nxs"),
        "mask": of_rotation("mask.nxs"),
        "scale": of_rotation("scale.nxs"),
        "absorption": ABSORPTION,
        "refined": of_scan("refined_scale.nxs", when=_scale_is_refined),
        "frame_mask": of_rotation("frame_mask.nxs"),
        "orientation": of_scan("orientation.json"),
        "accepted": of_scan("accepted.json"),
        "background": Source(_background),
        "files": parameter_files("transform"),
        "flat_field": FLAT_FIELD,
    },
    writes={kind: Output(f"{kind}.nxs") for kind in KINDS},
    params=volumes.transform,
    exists=_not_in_blocks,
    threads=True,
)

_VOLUMES = (
    Step(
        "unmeasured_background",
        SCAN,
        "merge",
        reads={
            "scans": of_rotations("scan.nxs"),
            "masks": of_rotations("mask.nxs"),
            "scales": of_rotations("scale.nxs"),
            "absorption": ABSORPTION,
            "frame_masks": of_rotations("frame_mask.nxs"),
            "orientation": of_scan("orientation.json"),
            "accepted": of_scan("accepted.json"),
            "files": parameter_files("transform"),
            "flat_fields": FLAT_FIELDS,
        },
        writes={
            "background": Output("unmeasured_background.nxs"),
            "picture": Output("unmeasured_background.png"),
            "metrics": figures("unmeasured_background.json"),
        },
        params=volumes.unmeasured_background,
        runs=_without_measurement,
    ),
    Step(
        "refine_scale",
        SCAN,
        "scale",
        reads={
            "scans": of_rotations("scan.nxs"),
            "masks": of_rotations("mask.nxs"),
            "scales": of_rotations("scale.nxs"),
            "absorption": ABSORPTION,
            "frame_masks": of_rotations("frame_mask.nxs"),
            "orientation": of_scan("orientation.json"),
            "accepted": of_scan("accepted.json"),
            "files": parameter_files("transform"),
            "flat_fields": FLAT_FIELDS,
            "backgrounds": Source(_backgrounds),
        },
        writes={
            "refined": Output("refined_scale.nxs"),
            "picture": Output("refined_scale.png"),
            "metrics": figures("refined_scale.json"),
        },
        params=volumes.refine_scale,
        runs=_refined_scales,
    ),
    _TRANSFORM,
    replace(_TRANSFORM, level=PART, exists=_in_blocks, parts_of="add_transforms"),
    Step(
        "add_transforms",
        ROTATION,
        "transform",
        reads={
            "parts": of_parts("transform.nxs"),
            "masked_parts": of_parts("masked_transform.nxs"),
        },
        writes={kind: Output(f"{kind}.nxs") for kind in KINDS},
        params=volumes.add_transforms,
        exists=_in_blocks,
    ),
    Step(
        "merge",
        SCAN,
        "merge",
        reads={"volumes": of_rotations("{kind}.nxs")},
        writes={
            "volume": Output("{kind}.nxs"),
            "slices": Output("{kind}.png"),
            "coverage": Output("{kind}_coverage.png"),
            "metrics": figures("{kind}.json"),
        },
        params=volumes.merge,
        over=("kind",),
        runs=_kinds,
    ),
    Step(
        "symmetrise",
        SCAN,
        "symm",
        reads={"volumes": of_rotations("{kind}.nxs"), "orientation": of_scan("orientation.json")},
        writes={
            "symmetrised": Output("symm_{kind}.nxs"),
            "picture": Output("symm_{kind}.png"),
            "metrics": figures("symm_{kind}.json"),
        },
        params=volumes.symmetrise,
        over=("kind",),
        runs=_symmetrised,
        threads=True,
    ),
    Step(
        "fill",
        SCAN,
        "fill",
        reads={
            "symmetrised": of_scan("symm_{kind}.nxs"),
            "orientation": of_scan("orientation.json"),
            "whole": WHOLE_VOLUME,
        },
        writes={
            "filled": Output("filled_{kind}.nxs"),
            "picture": Output("filled_{kind}.png"),
            "metrics": figures("filled_{kind}.json"),
        },
        params=volumes.fill,
        over=("kind",),
        runs=_pdf_kinds,
        threads=True,
    ),
    Step(
        "pdf",
        SCAN,
        "pdf",
        reads={"filled": of_scan("filled_{kind}.nxs"), "symmetrised": WHOLE_VOLUME},
        writes={
            "pdf": Output("{which}_pdf_{kind}.nxs"),
            "picture": Output("{which}_pdf_{kind}.png"),
            "metrics": figures("{which}_pdf_{kind}.json"),
        },
        params=volumes.pdf,
        over=("which", "kind"),
        runs=_pdfs,
        threads=True,
    ),
    Step(
        "planes",
        SCAN,
        "pdf",
        reads={"volume": of_scan("{volume}_{kind}.nxs")},
        writes={
            "picture": picture(
                "planes_{volume}_{kind}.png", _PLANES, "planes of {volume}_{kind}", "planes"
            )
        },
        params=volumes.planes,
        over=("volume", "kind"),
        runs=_planes,
    ),
    Step(
        "difference",
        SCAN,
        "pdf",
        reads={
            "symmetrised": of_scan("symm_{kind}.nxs"),
            "reference": of_reference("symm_{kind}.nxs"),
            "delta_pdf": of_scan("delta_pdf_{kind}.nxs"),
            "reference_pdf": of_reference("delta_pdf_{kind}.nxs"),
        },
        writes={
            "difference": Output("difference_{kind}.nxs"),
            "pdf_difference": Output("pdf_difference_{kind}.nxs"),
            "picture": Output("difference_{kind}.png"),
            "metrics": figures("difference_{kind}.json"),
        },
        params=volumes.difference,
        over=("kind",),
        runs=_differences,
    ),
)

# ------------------------------------------------------------------ average structure

_REFLECTIONS = (
    Step(
        "converge",
        SCAN,
        "bragg",
        reads={
            "orientation": of_scan("orientation.json"),
            "accepted": of_scan("accepted.json"),
            "scans": of_rotations("scan.nxs"),
            "masks": of_rotations("mask.nxs"),
            "scales": of_rotations("scale.nxs"),
            "peaks": of_rotations("peaks.nxs"),
            "files": parameter_files("transform"),
        },
        writes={
            "converged": Output("converged.json"),
            "history": figures("convergence.json"),
            "picture": Output("convergence.png"),
            "modules": Output("modules.json"),
        },
        params=orientation.converge,
        in_all=_structure_factors,
        threads=True,
    ),
    Step(
        "integrate",
        ROTATION,
        "bragg",
        reads={
            "scan": of_rotation("scan.nxs"),
            "mask": of_rotation("mask.nxs"),
            "scale": of_rotation("scale.nxs"),
            "absorption": ABSORPTION,
            "peaks": of_rotation("peaks.nxs"),
            "orientation": of_scan("converged.json"),
            "accepted": of_scan("accepted.json"),
            "files": parameter_files("transform"),
            "flat_field": FLAT_FIELD,
        },
        writes={
            "reflections": Output("reflections.nxs"),
            "picture": Output("reflections.png"),
            "metrics": figures("reflections.json"),
        },
        params=orientation.integrate,
        in_all=_structure_factors,
        threads=True,
    ),
    Step(
        "scale_reflections",
        SCAN_OF_ALL_ROTATIONS,
        "bragg",
        reads={
            "reflections": of_rotations("reflections.nxs"),
            "orientation": of_scan("converged.json"),
        },
        writes={
            "scaled": Output("scaled.nxs"),
            "picture": Output("scaled.png"),
            "metrics": figures("scaled.json"),
        },
        params=orientation.scale_reflections,
        in_all=_structure_factors,
    ),
    Step(
        "merge_reflections",
        SCAN_OF_ALL_ROTATIONS,
        "bragg",
        reads={"scaled": of_scan("scaled.nxs"), "orientation": of_scan("converged.json")},
        writes={
            "factors": Output("structure_factors.nxs"),
            "mtz": Output("structure_factors.mtz"),
            "hkl": Output("structure_factors.hkl"),
            "table": Output("structure_factors.tsv"),
            "picture": Output("structure_factors.png"),
            "metrics": figures("structure_factors.json"),
        },
        params=orientation.merge_reflections,
        in_all=_structure_factors,
    ),
    Step(
        "merge_crystals",
        CRYSTALS,
        "series",
        reads={
            "reflections": of_crystals("reflections.nxs", rotations=True),
            "orientations": of_crystals("converged.json", rotations=False),
        },
        writes={
            "factors": Output("structure_factors.nxs"),
            "mtz": Output("structure_factors.mtz"),
            "hkl": Output("structure_factors.hkl"),
            "table": Output("structure_factors.tsv"),
            "scaled": Output("scaled.nxs"),
            "picture": Output("structure_factors.png"),
            "comparison": Output("scans.png"),
            "metrics": figures("structure_factors.json"),
        },
        params=orientation.merge_crystals,
        in_all=_structure_factors,
    ),
    Step(
        "bragg_series",
        SAMPLE,
        "series",
        reads={"factors": of_scans("structure_factors.nxs")},
        writes={
            "table": picture(
                "intensities.tsv",
                _OVERVIEW,
                "{sample}: Bragg intensities of the series (table)",
                "intensities",
            ),
            "series": Output("intensities.nxs"),
            "picture": picture(
                "intensities.png",
                _OVERVIEW,
                "{sample}: Bragg intensities of the series",
                "intensities",
            ),
        },
        params=volumes.bragg_series,
        in_all=_structure_factors,
    ),
)

# ------------------------------------------------------------------------ all together

_TOGETHER = (
    Step(
        "absolute_scale",
        SCAN,
        "bragg",
        reads={
            "volume": of_scan("transform.nxs"),
            "scaled": of_scan("scaled.nxs"),
            "reference_files": OF_SCALE_REFERENCE,
            "files": parameter_files("absolute_scale"),
        },
        writes={
            "picture": Output("absolute_scale.png"),
            "metrics": figures("absolute_scale.json"),
        },
        params=volumes.absolute_scale,
        runs=_absolute_scales,
        in_all=_structure_factors,
    ),
    Step(
        "scan_file",
        SCAN,
        "file",
        reads={
            "orientation": of_scan("orientation.json"),
            "transform": of_scan("transform.nxs"),
            "masked_transform": of_scan("masked_transform.nxs"),
            "scans": of_rotations("scan.nxs"),
            "statistics": of_rotations("statistics.nxs"),
            "scales": of_rotations("scale.nxs"),
            "peaks": of_rotations("peaks.nxs"),
            "frame_masks": of_rotations("frame_mask.nxs"),
            "rotation_transforms": of_rotations("transform.nxs"),
            "rotation_masked_transforms": of_rotations("masked_transform.nxs"),
            "powders": POWDERS,
            "symmetrised": of_kinds("symm_{kind}.nxs", symmetrised_kinds),
            "filled": of_kinds("filled_{kind}.nxs"),
            "total_pdfs": of_kinds("total_pdf_{kind}.nxs"),
            "delta_pdfs": of_kinds("delta_pdf_{kind}.nxs"),
            "absolute_scale": of_scan("absolute_scale.json", when=_has_absolute_scale),
            "structure_factors": of_scan("structure_factors.nxs", when=_has_structure_factors),
            "differences": of_kinds("difference_{kind}.nxs", when=_has_differences),
            "pdf_differences": of_kinds("pdf_difference_{kind}.nxs", when=_has_differences),
        },
        writes={"master": Output("{sample}_{scan}.nxs")},
        params=volumes.scan_file,
    ),
    Step(
        "temperature_series",
        SAMPLE,
        "series",
        reads={
            "orientations": of_scans("orientation.json"),
            "peaks": of_scans_rotations("peaks.nxs"),
            "scales": of_scans_rotations("scale.nxs"),
        },
        writes={
            "table": picture(
                "series.tsv",
                _OVERVIEW,
                "{sample}: series (table)",
                "temperature_series",
            ),
            "series": Output("series.nxs"),
            "picture": picture("series.png", _OVERVIEW, "{sample}: series", "temperature_series"),
            "findings": figures("findings.json"),
        },
        params=volumes.temperature_series,
    ),
    Step(
        "features",
        SAMPLE,
        "stacks",
        reads={
            "volumes": of_scans("symm_transform.nxs"),
            "orientations": of_scans("orientation.json"),
            "series": of_series("series.tsv"),
        },
        writes={
            "table": picture(
                "features.tsv", _OVERVIEW, "{sample}: diffuse features (table)", "features"
            ),
            "picture": picture("features.png", _OVERVIEW, "{sample}: diffuse features", "features"),
            "results": figures("features.json"),
        },
        params=volumes.features,
        runs=_features,
    ),
    Step(
        "order_parameters",
        SAMPLE,
        "stacks",
        reads={
            "volumes": of_scans("transform.nxs"),
            "orientations": of_scans("orientation.json"),
            "series": of_series("series.tsv"),
            "findings": of_series("findings.json"),
            "features": of_series("features.json", when=_has_features),
        },
        writes={
            "table": picture(
                "order.tsv",
                _OVERVIEW,
                "{sample}: order parameters (table)",
                "order_parameters",
            ),
            "picture": picture(
                "order.png", _OVERVIEW, "{sample}: order parameters", "order_parameters"
            ),
            "orders": figures("order.json"),
        },
        params=volumes.order_parameters,
    ),
    Step(
        "stack",
        STACK,
        "stacks",
        reads={"volumes": of_stacked("{kind}.nxs")},
        writes={
            "stack": Output("{kind}.nxs"),
            "table": picture(
                "{kind}.tsv",
                _OVERVIEW,
                "{sample}: reflections, parent {parent}, {kind} (table)",
                "reflections",
            ),
            "picture": picture(
                "{kind}.png",
                _OVERVIEW,
                "{sample}: reflections, parent {parent}, {kind}",
                "reflections",
            ),
        },
        params=volumes.stack,
        over=("kind",),
        runs=_stacks,
    ),
    Step(
        "cluster",
        STACK,
        "stacks",
        reads={"volumes": of_stacked("symm_{kind}.nxs")},
        writes={
            "clusters": Output("cluster_{kind}.nxs"),
            "picture": picture(
                "cluster_{kind}.png",
                _OVERVIEW,
                "{sample}: clusters, parent {parent}, {kind}",
                "clusters",
            ),
            "metrics": figures("cluster_{kind}.json"),
        },
        params=volumes.cluster,
        over=("kind",),
        runs=_clusters,
    ),
    Step(
        "stack_pdf",
        STACK,
        "stacks",
        reads={
            "volumes": of_stacked("delta_pdf_{kind}.nxs"),
            "series": of_series("series.tsv"),
        },
        writes={
            "stack": Output("delta_pdf_{kind}.nxs"),
            "table": picture(
                "delta_pdf_{kind}.tsv",
                _OVERVIEW,
                "{sample}: 3D-ΔPDF, parent {parent}, {kind} (table)",
                "stack_pdf",
            ),
            "picture": picture(
                "delta_pdf_{kind}.png",
                _OVERVIEW,
                "{sample}: 3D-ΔPDF, parent {parent}, {kind}",
                "stack_pdf",
            ),
            "changes": picture(
                "pdf_series_{kind}.tsv",
                _OVERVIEW,
                "{sample}: changes of the 3D-ΔPDF, parent {parent}, {kind} (table)",
                "stack_pdf",
            ),
            "changes_picture": picture(
                "pdf_series_{kind}.png",
                _OVERVIEW,
                "{sample}: changes of the 3D-ΔPDF, parent {parent}, {kind}",
                "stack_pdf",
            ),
            "results": figures("pdf_series_{kind}.json"),
        },
        params=volumes.stack_pdf,
        over=("kind",),
        runs=_pdf_kinds,
    ),
    Step(
        "sample_page",
        PAGE,
        "page",
        reads={
            "pictures": shown_of_sample(pictures=True),
            "figures": shown_of_sample(pictures=False),
        },
        writes={
            "page": Output(""),
            "small": picture("in_report_", _OVERVIEW, "{sample}: all on one page", "sample_page"),
            "statement": Output("findings.md"),
        },
        params=volumes.sample_page,
        threads=True,
    ),
    Step(
        "overview",
        EXPERIMENT,
        "overview",
        reads={
            "orientations": of_scans("orientation.json"),
            "metrics": of_scans("transform.json"),
            "accepted": of_scans("accepted.json"),
            "figures": FIGURES_OF_SCANS,
        },
        writes={
            "table": picture("summary.tsv", _OVERVIEW, "table of all scans", "summary"),
            "page": Output("overview.html"),
            "series": picture("series.png", _OVERVIEW, "cell of all scans", "series"),
        },
        params=volumes.overview,
    ),
)

STEPS: tuple[Step, ...] = (
    *_CALIBRATIONS,
    *_ROTATIONS,
    *_ORIENTATIONS,
    *_VOLUMES,
    *_REFLECTIONS,
    *_TOGETHER,
)
"""All steps in the order of the workflow, except the steps of detector constants."""

STRUCTURE_FACTORS = frozenset(step.rule for step in _REFLECTIONS)
"""Names of the rules of the average structure; the target `bragg` requests all of them."""
