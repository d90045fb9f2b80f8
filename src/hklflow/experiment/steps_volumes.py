"""Part of the table of steps: volumes of S(Q) and pair distributions."""

from dataclasses import replace

from hklflow.experiment import conditions as when
from hklflow.experiment.params import volumes
from hklflow.experiment.sources import (
    FLAT_FIELD,
    FLAT_FIELDS,
    KINDS,
    PART,
    ROTATION,
    SCAN,
    WHOLE_VOLUME,
    of_parts,
    of_reference,
    of_rotation,
    of_rotations,
    of_scan,
    parameter_files,
)
from hklflow.experiment.step import Output, Source, Step, figures, picture
from hklflow.experiment.steps_frames import ABSORPTION

_TRANSFORM = Step(
    "transform",
    ROTATION,
    "transform",
    reads={
        "scan": of_rotation("scan.nxs"),
        "mask": of_rotation("mask.nxs"),
        "scale": of_rotation("scale.nxs"),
        "absorption": ABSORPTION,
        "refined": of_scan("refined_scale.nxs", when=when.scale_is_refined),
        "frame_mask": of_rotation("frame_mask.nxs"),
        "orientation": of_scan("orientation.json"),
        "accepted": of_scan("accepted.json"),
        "background": Source(when.background),
        "files": parameter_files("transform"),
        "flat_field": FLAT_FIELD,
    },
    writes={kind: Output(f"{kind}.nxs") for kind in KINDS},
    params=volumes.transform,
    exists=when.not_in_blocks,
    threads=True,
)

VOLUMES = (
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
        runs=when.without_measurement,
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
            "backgrounds": Source(when.backgrounds),
        },
        writes={
            "refined": Output("refined_scale.nxs"),
            "picture": Output("refined_scale.png"),
            "metrics": figures("refined_scale.json"),
        },
        params=volumes.refine_scale,
        runs=when.refined_scales,
    ),
    _TRANSFORM,
    replace(_TRANSFORM, level=PART, exists=when.in_blocks, parts_of="add_transforms"),
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
        exists=when.in_blocks,
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
        runs=when.kinds,
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
        runs=when.symmetrised,
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
        runs=when.pdf_kinds,
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
        runs=when.pdfs,
        threads=True,
    ),
    Step(
        "planes",
        SCAN,
        "pdf",
        reads={"volume": of_scan("{volume}_{kind}.nxs")},
        writes={
            "picture": picture(
                "planes_{volume}_{kind}.png", "2 Planes", "planes of {volume}_{kind}", "planes"
            )
        },
        params=volumes.planes,
        over=("volume", "kind"),
        runs=when.planes,
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
        runs=when.differences,
    ),
)
