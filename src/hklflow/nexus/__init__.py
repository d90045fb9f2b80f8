"""Writers and readers of all HDF5/NeXus layouts of hklflow.

Each product is one file with one NXentry. The ``@default`` attributes lead to an NXdata, which is
the default plot. The history is in ``/entry/workflow``, with one NXprocess for each stage that
contributed to the file.
"""

from hklflow.base.history import Record, calibrations
from hklflow.nexus.background import (
    read_background,
    read_surroundings,
    write_background,
    write_unmeasured,
)
from hklflow.nexus.disagreement import write_disagreement
from hklflow.nexus.grid_writer import PLANES, GridWriter
from hklflow.nexus.groups import read_groups, write_groups
from hklflow.nexus.masks import FrameMaskWriter, open_frame_mask, read_mask, write_mask
from hklflow.nexus.master import linked_files, write_master
from hklflow.nexus.peaks import read_peaks, write_peaks
from hklflow.nexus.powder import write_powder
from hklflow.nexus.provenance import read_provenance, write_provenance
from hklflow.nexus.reflections import read_reflections, write_reflections
from hklflow.nexus.scale import (
    absorption_correction,
    read_absorption,
    read_refined,
    read_scale,
    write_absorption,
    write_refined,
    write_scale,
    write_unknown_absorption,
)
from hklflow.nexus.scan import has_frames, read_scan, write_scan
from hklflow.nexus.series import Quantity, write_series
from hklflow.nexus.stack import Intensities, Member, open_members, read_box, write_stack
from hklflow.nexus.statistics import read_parts, read_rings, read_statistics, statistics_output
from hklflow.nexus.transform import TransformWriter
from hklflow.nexus.volume import (
    BACKGROUND_NOTES,
    OpenVolume,
    Volume,
    VolumeWriter,
    background_notes,
    corrections_note,
    open_volume,
    read_volume,
    require_one_grid,
    write_volume,
)

__all__ = [
    "BACKGROUND_NOTES",
    "PLANES",
    "FrameMaskWriter",
    "GridWriter",
    "Intensities",
    "Member",
    "OpenVolume",
    "Quantity",
    "Record",
    "TransformWriter",
    "Volume",
    "VolumeWriter",
    "absorption_correction",
    "background_notes",
    "calibrations",
    "corrections_note",
    "has_frames",
    "linked_files",
    "open_frame_mask",
    "open_members",
    "open_volume",
    "read_absorption",
    "read_background",
    "read_box",
    "read_groups",
    "read_mask",
    "read_parts",
    "read_peaks",
    "read_provenance",
    "read_refined",
    "read_reflections",
    "read_rings",
    "read_scale",
    "read_scan",
    "read_statistics",
    "read_surroundings",
    "read_volume",
    "require_one_grid",
    "statistics_output",
    "write_absorption",
    "write_background",
    "write_disagreement",
    "write_groups",
    "write_mask",
    "write_master",
    "write_peaks",
    "write_powder",
    "write_provenance",
    "write_refined",
    "write_reflections",
    "write_scale",
    "write_scan",
    "write_series",
    "write_stack",
    "write_unknown_absorption",
    "write_unmeasured",
    "write_volume",
]
