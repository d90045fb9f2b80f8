"""Read frames of CrysAlisPro: ``OD SAPPHIRE`` (``.rodhypix``, ``.img``) and Esperanto files.

fabio reads the older compressions TY1 and TY5, but not TY6 of the HyPix detectors (see `ty6`).
Esperanto files have the same rows; they call them AGI_BITFIELD (fabio unpacks them in seconds per
frame).

The layout is the one of the class ``FormatROD`` of dxtbx, from the vendor's description.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.frame_headers import Image
from hklflow.formats.raw_frames import require_frame_size

OXFORD, ESPERANTO = b"OD SAPPHIRE", b"ESPERANTO FORMAT"  # beginnings of the files

_SIZES = {"NX", "NY", "NHEADER", "NG", "NS", "NK", "NH"}
_TEXT = 256  # bytes at the beginning that have the text of the header

# Section, offset in it, and type of each field; the text states the sizes of the sections.
_FIELDS = {
    "binning": ("general", 0, "<2h"),
    "images": ("general", 40, "<h"),
    "gain": ("special", 56, "<d"),
    "overflow threshold": ("special", 472, "<i"),
    "exposure": ("special", 480, "<d"),
    "detector type": ("special", 548, "<i"),
    "pixel size": ("special", 568, "<2d"),
    "start": ("goniometer", 284, "<4i"),
    "end": ("goniometer", 324, "<4i"),
    "radians per step": ("goniometer", 368, "<4d"),
    "zero": ("goniometer", 512, "<4i"),
    "beam rotation": ("goniometer", 552, "<2d"),
    "wavelengths": ("goniometer", 568, "<4d"),
    "detector rotation": ("goniometer", 640, "<3d"),
    "origin": ("goniometer", 664, "<2d"),
    "alpha": ("goniometer", 680, "<d"),
    "beta": ("goniometer", 688, "<d"),
    "distance": ("goniometer", 712, "<d"),
}


@dataclass(frozen=True)
class OxfordImage(Image):
    """One frame; the header has the file's own units: mm, degrees, motor steps."""


@dataclass(frozen=True)
class EsperantoImage(Image):
    """One frame of an Esperanto file; the header is the one of fabio."""


def read_crysalis(path: Path) -> Image | None:
    """Read one frame of CrysAlisPro; None for other files.

    Raises
    ------
    HklflowError
        If the file is truncated or damaged, or has an unknown compression.
    """
    with path.open("rb") as file:
        start = file.read(len(ESPERANTO))
    if start.startswith(OXFORD):
        return _read_oxford(path)
    return _read_esperanto(path) if start == ESPERANTO else None


def _read_esperanto(path: Path) -> EsperantoImage:
    import fabio

    image = fabio.openheader(str(path))
    shape = (int(image.shape[0]), int(image.shape[1]))
    require_frame_size(shape, str(path))
    if image.format != "AGI_BITFIELD":
        return EsperantoImage(dict(image.header), np.asarray(fabio.open(str(path)).data))
    packed = path.read_bytes()[image.HEADER_LINES * image.HEADER_WIDTH :]
    return EsperantoImage(dict(image.header), unpack_ty6(packed, shape, path))


def _read_oxford(path: Path) -> OxfordImage:
    content = path.read_bytes()
    text = content[:_TEXT].decode("latin-1")
    # NS occurs twice: sizes of the special and of the statistics section.
    words = [(key, int(value)) for key, value in re.findall(r"\b([A-Z]+)=\s*(\d+)", text)]
    sizes = dict(reversed(words))
    compression = re.search(r"COMPRESSION=\s*(\w+)", text)
    version = re.match(r"OD SAPPHIRE\s+([\d.]+)", text)
    if compression is None or version is None or not set(sizes) >= _SIZES:
        raise HklflowError(f"{path} has no complete header of CrysAlisPro; copy it again")
    first = _TEXT
    if float(version[1]) < 4:
        first = sizes["NHEADER"] - sum(n for key, n in words if key in {"NG", "NS", "NK", "NH"})
    sections = {"general": first, "special": first + sizes["NG"]}
    sections["goniometer"] = sections["special"] + sizes["NS"]
    header: dict[str, Any] = {}
    try:
        for name, (section, offset, kind) in _FIELDS.items():
            values = struct.unpack_from(kind, content, sections[section] + offset)
            header[name] = values[0] if len(values) == 1 else values
    except struct.error as error:
        raise HklflowError(f"{path} is truncated: copy it again") from error
    if header["images"] > 1:
        raise HklflowError(f"{path} has {header['images']} images; export one image in each file")
    shape = (sizes["NY"], sizes["NX"])
    require_frame_size(shape, str(path))
    if compression[1] == "TY6":
        return OxfordImage(header, unpack_ty6(content[sizes["NHEADER"] :], shape, path))
    if compression[1] in {"TY1", "TY5"}:
        import fabio

        return OxfordImage(header, np.asarray(fabio.open(str(path)).data))
    raise HklflowError(
        f"{path} has the compression {compression[1]}, which cannot be read; export the frames "
        "from CrysAlisPro as Esperanto"
    )


def unpack_ty6(packed: bytes, shape: tuple[int, int], path: Path) -> NDArray[np.int32]:
    """Unpack a frame: the size of the rows in 4 bytes, the rows, the beginning of each row.

    Raises
    ------
    HklflowError
        If the data are truncated or damaged.
    """
    # Not above: whoever reads the name of an image needs no compiler.
    from hklflow.formats.ty6 import ty6_rows

    slow, fast = shape
    size = int.from_bytes(packed[:4], "little")
    if fast < 1 or slow < 1 or len(packed) < 4 + size + 4 * slow:
        raise HklflowError(f"{path} is truncated: copy it again")
    rows = np.frombuffer(packed, np.uint8, size, 4)
    starts = np.frombuffer(packed, np.dtype("<u4"), slow, 4 + size).astype(np.int64)
    frame = np.empty(shape, np.int32)
    damaged = ty6_rows(rows, starts, frame)
    if damaged >= 0:
        raise HklflowError(f"row {damaged} of {path} is damaged: copy it again")
    return frame
