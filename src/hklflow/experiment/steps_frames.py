"""Part of the table of steps: from raw frames to the orientation of each scan."""

from hklflow.experiment import conditions as when
from hklflow.experiment.models import PoniFile, PowderImage
from hklflow.experiment.params import frames, orientation, section, volumes
from hklflow.experiment.sources import (
    CALIBRATION,
    CALIBRATION_FILE,
    FILES_OF_CALIBRATION,
    FRAMES,
    FRAMES_AS_REDUCED,
    GEOMETRY,
    LEFT_OUT_PEAKS,
    LINKED,
    RAW,
    RAW_FRAMES,
    REPEATED,
    ROTATION,
    RUNS_WITHOUT_CRYSTAL,
    SCAN,
    START,
    constants,
    of_earlier_rotations,
    of_first_rotation,
    of_parent,
    of_rotation,
    of_rotations,
    of_scan,
    parameter_files,
)
from hklflow.experiment.step import Output, Source, Step, figures

ABSORPTION = of_scan("absorption.nxs", when=when.has_shape)
"""Transmission by the crystal's shape; empty if the shape is not given."""

CALIBRATIONS = (
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
        runs=when.of_kind(PowderImage),
    ),
    Step(
        "import_poni",
        CALIBRATION,
        "calibration",
        reads={"poni": CALIBRATION_FILE},
        writes={"geometry": Output("geometry.json")},
        params=frames.import_poni,
        runs=when.of_kind(PoniFile),
    ),
)

ROTATIONS = (
    Step(
        "sum_scans",
        FRAMES,
        "import",
        reads={"raw": REPEATED, "linked": LINKED},
        writes={"sum": Output("sum.nxs")},
        params=frames.sum_scans,
        runs=when.summed,
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
        runs=when.corrected,
    ),
    Step(
        "bin_frames",
        ROTATION,
        "import",
        reads={"raw": RAW_FRAMES, "linked": LINKED},
        writes={"binned": Output("binned.nxs")},
        params=frames.bin_frames,
        runs=when.binned,
        in_all=when.quick_look,
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
        runs=when.artificial,
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
        runs=when.with_background,
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
            "background": Source(when.measured_background),
            "reference_background": Source(when.first_background),
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
            "orientation": of_scan("orientation.json", when=when.model_mask),
            "peaks": of_rotation("peaks.nxs", when=when.model_mask),
        },
        writes={
            "frame_mask": Output("frame_mask.nxs"),
            "picture": Output("frame_mask.png"),
        },
        params=frames.mask_3d,
        threads=True,
    ),
)

ORIENTATIONS = (
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
        runs=when.parents,
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
        runs=when.shaped,
        threads=True,
    ),
)
