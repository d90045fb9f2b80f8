"""Frames of vendors' formats, written by fabio or from the formats' descriptions."""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from fabio.bruker100image import Bruker100Image
from fabio.compression import agi_bitfield
from fabio.esperantoimage import EsperantoImage

STEP = 1e-4  # degrees of a motor step


def write_sfrm(path: Path, pixels: np.ndarray, **more: str) -> Path:
    """A frame of a PHOTON II on a D8 goniometer, by fabio."""
    image = Bruker100Image(data=pixels.astype(np.int32))
    rows, columns = pixels.shape
    image.header.update(
        {
            "FORMAT": "100",
            "HDRBLKS": 15,
            "TYPE": "Some Frame",
            "SITE": "Test",
            "MODEL": "D8",
            "USER": "nobody",
            "SAMPLE": "quartz",
            "SETNAME": "x",
            "CUMULAT": "2.5",
            "ELAPSDR": "2.5",
            "ELAPSDA": "2.5",
            "RANGE": "0.5",
            "START": "10.0",
            "INCREME": "0.5",
            "ANGLES": "20.0 10.0 30.0 54.7",
            "ENDING": "20.0 10.5 30.0 54.7",
            "AXIS": "2",
            "NROWS": f"{rows}",
            "NCOLS": f"{columns}",
            "NPIXELB": "1 1",
            "WAVELEN": "0.710730 0.709300 0.713590",
            "CENTER": "380.0 500.0 381.5 502.5",
            "DISTANC": "5.0 5.1",
            "DETTYPE": "CMOS-PHOTONII 37.037037 0.1 0 0.425 0.035 1",
            "CCDPARM": "5.0 36.6 260.0 0.0 600000.0",
            "NEXP": "1 0 64 0 0",
        }
        | more
    )
    image.write(str(path))
    return path


def write_esperanto(path: Path, pixels: np.ndarray, **more: float) -> Path:
    """A frame of CrysAlisPro's exchange format, by fabio."""
    image = EsperantoImage(data=pixels)
    image.header.update(
        {
            "format": 1,
            "dexposuretimeinsec": 0.25,
            "loverflowthreshold": 900000,
            "drealpixelsizex": 0.1,
            "drealpixelsizey": 0.1,
            "timestampstring": "now",
            "filename": "",
            "dom_s": 10.0,
            "dom_e": 10.5,
            "dth_s": 25.0,
            "dth_e": 25.0,
            "dka_s": 40.0,
            "dka_e": 40.0,
            "dph_s": -70.0,
            "dph_e": -70.0,
            "detectorrotindeg_x": 0.3,
            "detectorrotindeg_y": -0.2,
            "dxorigininpix": 150.5,
            "dyorigininpix": 99.25,
            "dalphaindeg": 50.0,
            "ddistanceinmm": 60.0,
            "dzerocorrectionsoftindeg_om": 1.5,
            "dalpha1": 0.7093,
            "dalpha2": 0.71359,
            "dalpha12": 0.71073,
            "orientation-type": "MIRROR",
            "historystring": "",
        }
        | more
    )
    image.write(str(path))
    return path


def write_rodhypix(
    path: Path,
    pixels: np.ndarray,
    *,
    start: tuple[float, ...],
    end: tuple[float, ...],
    images: int = 1,
    binning: int = 1,
    zero: float = 0.0,
) -> Path:
    """A frame of a HyPix detector, from the vendor's description as dxtbx and fabio state it.

    The facts are those of `write_esperanto`. fabio packs the pixels: AGI_BITFIELD is TY6.
    """
    rows, columns = pixels.shape
    text = (
        "OD SAPPHIRE  4.0\r\n"
        "COMPRESSION=TY6(  7.6)\r\n"
        f"NX={columns:4d} NY={rows:4d} OI={0:7d} OL={0:7d} \r\n"
        f"NHEADER={6576:7d} NG={512:7d} NS={768:7d} NK={1024:7d} NS={512:7d} NH={2048:7d}\r\n"
        f"NSUPPLEMENT={0:7d}\r\nTIME=Thu Jan 01 00:00:00 2026\r\n"
    )
    head = bytearray(6576)
    head[:256] = text.encode().ljust(255) + b"\x1a"

    def put(offset: int, kind: str, *values: float) -> None:
        struct.pack_into(f"<{len(values)}{kind}", head, offset, *values)

    general, special, goniometer = 256, 256 + 512, 256 + 512 + 768
    put(general, "h", binning, binning)
    put(general + 22, "h", columns, rows, columns, rows)
    put(general + 36, "I", rows * columns)
    put(general + 40, "h", images)
    put(special + 56, "d", 1.0)
    put(special + 472, "i", 900000)
    put(special + 480, "d", 0.25, 0.0)
    put(special + 548, "i", 9)
    put(special + 568, "d", 0.1, 0.1)
    put(goniometer + 284, "i", *(round(angle / STEP) for angle in start))
    put(goniometer + 324, "i", *(round(angle / STEP) for angle in end))
    put(goniometer + 368, "d", *[math.radians(STEP)] * 10)
    put(goniometer + 512, "i", round(1.5 / STEP), round(zero / STEP), 0, 0)
    put(goniometer + 568, "d", 0.7093, 0.71359, 0.71073, 0.63229)
    put(goniometer + 640, "d", 0.3, -0.2, 0.0)
    put(goniometer + 664, "d", 150.5, 99.25)
    put(goniometer + 680, "d", 50.0, 0.0)
    put(goniometer + 712, "d", 60.0)
    path.write_bytes(bytes(head) + agi_bitfield.compress(pixels.astype(np.int32)))
    return path


def write_marccd(path: Path, pixels: np.ndarray, *, phi: float, **more: int) -> Path:
    """A MarCCD image, a TIFF with the block of MarUSA at 1024 and the pixels at 4096."""
    rows, columns = pixels.shape
    head = bytearray(4096)
    tags = [
        (256, 4, columns),
        (257, 4, rows),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 4096),
        (277, 3, 1),
        (278, 4, rows),
        (279, 4, 2 * rows * columns),
    ]
    struct.pack_into("<2sHIH", head, 0, b"II", 42, 8, len(tags))
    for i, (tag, kind, value) in enumerate(tags):
        struct.pack_into("<HHII", head, 10 + 12 * i, tag, kind, 1, value)
    # Offsets from 1024, in the order of the structure frame_header of MarUSA.
    values = (
        {
            80: columns,
            84: rows,
            88: 2,
            104: 65535,
            112: 1,  # images
            640: 120_000,  # distance, µm
            644: 1000 * 30,  # beam x, pixels / 1000
            648: 1000 * 20,
            652: 1500,  # integration time, ms
            656: 1500,
            672: 0,  # omega
            676: 54_000,  # chi
            684: round(1000 * phi),
            708: 54_000,
            716: round(1000 * phi) + 500,
            732: 4,  # rotation axis: phi
            736: 500,
            772: 79_000,  # pixel, nm
            776: 79_000,
            780: 10_000,  # bias
            784: 50,  # photons per 100 ADU
            908: 71_073,  # wavelength, fm
        }
        | {int(key[1:]): value for key, value in more.items()}
    )
    struct.pack_into("<I16s", head, 1024, 2, b"MMX")
    struct.pack_into("<I", head, 1024 + 28, 1234)
    for offset, value in values.items():
        struct.pack_into("<i", head, 1024 + offset, value)
    struct.pack_into("<32s", head, 1024 + 1344, b"010112002026.00")
    path.write_bytes(bytes(head) + pixels.astype("<u2").tobytes())
    return path


def write_raxis(
    path: Path,
    pixels: np.ndarray,
    *,
    start: float,
    curved: int = 0,
    angles: Mapping[str, float] = MappingProxyType({}),
) -> Path:
    """An image of an R-AXIS plate, from Rigaku's description of the header."""
    rows, columns = pixels.shape
    head = bytearray(2048)
    head[:20] = b"R-AXIS4   R-AXIS4   "

    def put(offset: int, kind: str, *values: float) -> None:
        struct.pack_into(f">{len(values)}{kind}", head, offset, *values)

    head[256:268] = b"2026-01-01  "
    put(292, "f", 0.71073)
    put(344, "f", 150.0)
    put(448, "i", curved)
    put(520, "f", 0.0, start, start + 1.0)
    put(532, "i", 1)
    put(536, "f", 3.0)  # minutes
    put(540, "f", 32.0, 41.0)
    for name, offset in (("omega", 548), ("chi", 552), ("mu", 560)):
        put(offset, "f", angles.get(name, 0.0))
    put(768, "i", columns, rows)
    put(776, "f", 0.1, 0.1)
    put(784, "i", len(head), rows)
    head[812:822] = b"IRIS      "  # big-endian
    path.write_bytes(bytes(head) + pixels.astype(">u2").tobytes())
    return path
