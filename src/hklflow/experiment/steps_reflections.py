"""Part of the table of steps: the average structure."""

from hklflow.experiment import conditions as when
from hklflow.experiment.params import orientation, volumes
from hklflow.experiment.sources import (
    CRYSTALS,
    FLAT_FIELD,
    OVERVIEW,
    ROTATION,
    SAMPLE,
    SCAN,
    SCAN_OF_ALL_ROTATIONS,
    of_crystals,
    of_rotation,
    of_rotations,
    of_scan,
    of_scans,
    parameter_files,
)
from hklflow.experiment.step import Output, Step, figures, picture
from hklflow.experiment.steps_frames import ABSORPTION

REFLECTIONS = (
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
        in_all=when.structure_factors,
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
        in_all=when.structure_factors,
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
        in_all=when.structure_factors,
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
        in_all=when.structure_factors,
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
        in_all=when.structure_factors,
    ),
    Step(
        "bragg_series",
        SAMPLE,
        "series",
        reads={"factors": of_scans("structure_factors.nxs")},
        writes={
            "table": picture(
                "intensities.tsv",
                OVERVIEW,
                "{sample}: Bragg intensities of the series (table)",
                "intensities",
            ),
            "series": Output("intensities.nxs"),
            "picture": picture(
                "intensities.png",
                OVERVIEW,
                "{sample}: Bragg intensities of the series",
                "intensities",
            ),
        },
        params=volumes.bragg_series,
        in_all=when.structure_factors,
    ),
)
