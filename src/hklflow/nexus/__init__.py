"""Every HDF5/NeXus layout of hklflow: what is written here is read here.

Each product is one file with one NXentry whose chain of ``@default`` leads to an
NXdata that plots itself. History is kept in ``/entry/workflow`` as one NXprocess
for each stage that led to the file.
"""

from hklflow.nexus.masks import FrameMaskWriter, open_frame_mask, read_mask, write_mask
from hklflow.nexus.master import linked_files, write_master
from hklflow.nexus.peaks import read_peaks, write_peaks
from hklflow.nexus.provenance import Record, read_provenance, write_provenance
from hklflow.nexus.scan import has_frames, read_scan, write_scan
from hklflow.nexus.statistics import read_statistics, write_statistics
from hklflow.nexus.volume import (
    OpenVolume,
    Volume,
    VolumeWriter,
    open_volume,
    read_volume,
    write_volume,
)

__all__ = [
    "FrameMaskWriter",
    "OpenVolume",
    "Record",
    "Volume",
    "VolumeWriter",
    "has_frames",
    "linked_files",
    "open_frame_mask",
    "open_volume",
    "read_mask",
    "read_peaks",
    "read_provenance",
    "read_scan",
    "read_statistics",
    "read_volume",
    "write_mask",
    "write_master",
    "write_peaks",
    "write_provenance",
    "write_scan",
    "write_statistics",
    "write_volume",
]
