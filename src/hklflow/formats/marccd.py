"""Read MarCCD and Rayonix images: a TIFF file with a block of 3072 bytes about the measurement.

fabio knows them by the suffix ``.mccd`` only, and gives the tags of the TIFF file as header.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hklflow.formats.frame_headers import Image

_BLOCK = 1024  # bytes before the block
_NAME = b"MMX"
# Offsets in the block, from the structure frame_header of MarUSA; all are integers of 4 bytes.
_FIELDS = {
    "saturated_value": 104,
    "origin": 116,
    "orientation": 120,
    "view_direction": 124,
    "xtal_to_detector": 640,
    "beam_x": 644,
    "beam_y": 648,
    "exposure_time": 656,
    "start_twotheta": 668,
    "start_omega": 672,
    "start_chi": 676,
    "start_kappa": 680,
    "start_phi": 684,
    "start_xtal_to_detector": 696,
    "rotation_axis": 732,
    "rotation_range": 736,
    "detector_rotx": 740,
    "detector_roty": 744,
    "detector_rotz": 748,
    "pixelsize_x": 772,
    "pixelsize_y": 776,
    "mean_bias": 780,
    "photons_per_100adu": 784,
    "source_wavelength": 908,
}


@dataclass(frozen=True)
class MarccdImage(Image):
    """One image; the header has the integers of the block."""


def read_marccd(path: Path) -> MarccdImage | None:
    """Read an image; None if the file has no block of MarCCD."""
    with path.open("rb") as file:
        file.seek(_BLOCK)
        block = file.read(3072)
    if len(block) < 3072 or not block[4:20].startswith(_NAME):
        return None
    order = ">" if struct.unpack_from("<I", block, 28)[0] != 1234 else "<"
    header = {
        name: struct.unpack_from(f"{order}i", block, offset)[0] for name, offset in _FIELDS.items()
    }
    import fabio

    return MarccdImage(header, np.asarray(fabio.open(str(path)).data))
