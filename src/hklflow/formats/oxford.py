"""Read frames of CrysAlisPro: ``OD SAPPHIRE`` (``.rodhypix``, ``.img``) and Esperanto files.

fabio reads the older compressions TY1 and TY5, but not TY6 of the HyPix detectors. A row in TY6
begins with its first pixel; then come differences of neighbours in blocks of 16. A block has one
byte with the numbers of bits of its two halves, the 8 differences of each half in that number of
bits, and the differences that are too large for a byte in 2 or 4 bytes. The differences behind the
last whole block have a byte each, or more with an escape byte. Esperanto files have the same rows;
they call them AGI_BITFIELD (fabio unpacks them in seconds per frame).

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
from hklflow.simd.jit import kernel

OXFORD, ESPERANTO = b"OD SAPPHIRE", b"ESPERANTO FORMAT"  # beginnings of the files

_SIZES = {"NX", "NY", "NHEADER", "NG", "NS", "NK", "NH"}
_TEXT = 256  # bytes at the beginning that have the text of the header
_ZERO = 127  # byte of the difference 0
_SHORT, _LONG = 254, 255  # escape bytes: the number follows in 2 or 4 bytes
_BLOCK = 16  # differences of a block

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
    slow, fast = shape
    size = int.from_bytes(packed[:4], "little")
    if fast < 1 or slow < 1 or len(packed) < 4 + size + 4 * slow:
        raise HklflowError(f"{path} is truncated: copy it again")
    rows = np.frombuffer(packed, np.uint8, size, 4)
    starts = np.frombuffer(packed, np.dtype("<u4"), slow, 4 + size).astype(np.int64)
    frame = np.empty(shape, np.int32)
    damaged = _rows(rows, starts, frame)
    if damaged >= 0:
        raise HklflowError(f"row {damaged} of {path} is damaged: copy it again")
    return frame


@kernel
def _number(data: NDArray[np.uint8], at: int, size: int) -> int:
    """Return a signed little-endian integer of 2 or 4 bytes."""
    value = 0
    for i in range(size):
        value |= int(data[at + i]) << (8 * i)
    return value - (1 << (8 * size)) if value >> (8 * size - 1) else value


@kernel
def _rows(data: NDArray[np.uint8], starts: NDArray[np.int64], out: NDArray[np.int32]) -> int:
    """Unpack all rows; return the number of the first damaged row, or -1."""
    for row in range(out.shape[0]):
        end = starts[row + 1] if row + 1 < len(starts) else data.size
        if not 0 <= starts[row] < end <= data.size or _row(data, starts[row], end, out[row]) != end:
            return row
    return -1


@kernel
def _row(data: NDArray[np.uint8], at: int, end: int, out: NDArray[np.int32]) -> int:
    """Unpack the row in the bytes at..end; return the end, or -1 if it has another length."""
    done, last = 0, 0
    fields = np.empty(_BLOCK, np.int64)
    while done < out.size:
        # The first pixel and those behind the last whole block have bytes of their own.
        if done == 0 or out.size - done < _BLOCK:
            if at >= end:
                return -1
            value = int(data[at])
            at += 1
            if value >= _SHORT:
                size = 2 if value == _SHORT else 4
                if at + size > end:
                    return -1
                value = _number(data, at, size) + _ZERO
                at += size
            last += value - _ZERO
            out[done] = last
            done += 1
            continue
        at = _fields(data, at, end, fields)
        if at < 0:
            return -1
        for i in range(_BLOCK):
            difference = int(fields[i])
            if difference >= _SHORT - _ZERO:
                size = 2 if difference == _SHORT - _ZERO else 4
                if at + size > end:
                    return -1
                difference = _number(data, at, size)
                at += size
            last += difference
            out[done] = last
            done += 1
    return at


@kernel
def _fields(data: NDArray[np.uint8], at: int, end: int, out: NDArray[np.int64]) -> int:
    """Store the 16 differences of a block without its escapes; return the address behind, or -1."""
    if at >= end:
        return -1
    both = int(data[at])
    at += 1
    for half in range(2):
        bits = (both >> (4 * half)) & 15
        if bits > 8 or at + bits > end:
            return -1
        word = np.uint64(0)
        for i in range(bits):
            word |= np.uint64(data[at + i]) << np.uint64(8 * i)
        at += bits
        zero = (1 << (bits - 1)) - 1 if bits > 1 else 0
        mask = np.uint64((1 << bits) - 1)
        for i in range(8):
            out[8 * half + i] = np.int64((word >> np.uint64(bits * i)) & mask) - zero
    return at
