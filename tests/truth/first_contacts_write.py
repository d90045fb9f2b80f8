"""Writers of raw data as instruments write them, for first_contacts.py: series of images.

`Stated` is what a header says of a rotation, which need not be true. Conventions are those of the
formats' publishers (Dectris' mini header, the imgCIF dictionary, ADSC, MarCCD), as the
documentation quotes them.
"""

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fabio.compression import compByteOffset
from numpy.typing import NDArray

from tests.truth.first_contacts_crystal import Array, Sweep


@dataclass
class Stated:
    """What the files say of one rotation; arm and circles in degrees, lengths in mm."""

    wavelength: float
    distance: float
    centre: tuple[float, float]  # slow, fast, pixels from the outer corner, arm at zero
    pixel: float
    shape: tuple[int, int]
    arm: float
    arm_axis: Array
    fast: Array
    slow: Array
    start: float
    step: float
    sweep: Sweep  # for names of circles, settings, exposure
    axes: tuple[tuple[str, Array], ...]
    circles: bool = True  # the header names the circles
    saturation: int = 65535


def _cbf(path: Path, header: str, image: NDArray[np.int32]) -> None:
    """Write a CBF with byte offsets."""
    packed = compByteOffset(np.ascontiguousarray(image))
    digest = base64.b64encode(hashlib.md5(packed).digest()).decode()
    lines = [
        "_array_data.data",
        ";",
        "--CIF-BINARY-FORMAT-SECTION--",
        "Content-Type: application/octet-stream;",
        '     conversions="x-CBF_BYTE_OFFSET"',
        "Content-Transfer-Encoding: BINARY",
        f"X-Binary-Size: {len(packed)}",
        "X-Binary-ID: 1",
        'X-Binary-Element-Type: "signed 32-bit integer"',
        "X-Binary-Element-Byte-Order: LITTLE_ENDIAN",
        f"Content-MD5: {digest}",
        f"X-Binary-Number-of-Elements: {image.size}",
        f"X-Binary-Size-Fastest-Dimension: {image.shape[1]}",
        f"X-Binary-Size-Second-Dimension: {image.shape[0]}",
        "X-Binary-Size-Padding: 4095",
        "",
        "",
    ]
    text = "###CBF: VERSION 1.5, CBFlib v0.7.8 - SLS/DECTRIS PILATUS detectors\r\n\r\n" + header
    tail = "\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n\r\n"
    data = (text + "\r\n".join(lines)).encode() + b"\x0c\x1a\x04\xd5" + packed + bytes(4095)
    path.write_bytes(data + tail.encode())


def _mini(s: Stated, z: int) -> str:
    """Return Dectris' text header."""
    w, pixel = s.sweep, s.pixel / 1e3
    angle = s.start + s.step * z
    lines = [
        "Detector: PILATUS3 0.2M, S/N 99-0999",
        "2024-03-01T12:00:00.000",
        f"Pixel_size {pixel * 1e6:.0f}e-6 m x {pixel * 1e6:.0f}e-6 m",
        "Silicon sensor, thickness 0.001000 m",
        f"Exposure_time {w.exposure:.7f} s",
        f"Exposure_period {w.exposure + 0.003:.7f} s",
        "Tau = 0 s",
        f"Count_cutoff {s.saturation} counts",
        f"Threshold_setting: {12398.4 / s.wavelength / 2:.0f} eV",
        "Gain_setting: autog (vrf = 1.000)",
        "N_excluded_pixels = 0",
        "Excluded_pixels: badpix_mask.tif",
        "Flat_field: (nil)",
        "Trim_file: p300k.bin",
        "Image_path: /ramdisk/",
        f"Wavelength {s.wavelength:.5f} A",
        "Energy_range (0, 0) eV",
        f"Detector_distance {s.distance / 1e3:.6f} m",
        "Detector_Voffset 0.00000 m",
        f"Beam_xy ({s.centre[1]:.2f}, {s.centre[0]:.2f}) pixels",
        "Flux 0.0",
        "Filter_transmission 1.0000",
        f"Start_angle {angle:.4f} deg.",
        f"Angle_increment {s.step:.4f} deg.",
        f"Detector_2theta {s.arm:.4f} deg.",
        "Polarization 0.990",
    ]
    if s.circles:
        for name, _ in s.axes:
            moves = name == w.scanned
            lines.append(f"{name.capitalize()} {angle if moves else w.angles[name]:.4f} deg.")
            lines.append(f"{name.capitalize()}_increment {s.step if moves else 0:.4f} deg.")
        lines.append(f"Oscillation_axis {w.scanned.upper()}")
    text = "".join(f"# {line}\r\n" for line in lines)
    return (
        '_array_data.header_convention "PILATUS_1.2"\r\n_array_data.header_contents\r\n;\r\n'
        + text
        + ";\r\n\r\n"
    )


def _imgcif(s: Stated, z: int) -> str:
    """Return imgCIF axes: Z to the source, X along the goniometer's first axis."""
    w = s.sweep
    Z = np.array([0, 0, -1.0])
    X = np.asarray(s.axes[0][1], float)
    X = X - X @ Z * Z
    X = X / np.linalg.norm(X) if np.linalg.norm(X) > 0.1 else np.array([-1.0, 0, 0])
    M = np.array([X, np.cross(Z, X), Z])

    def vector(v: Array) -> str:
        return " ".join(f"{x:.8f}" for x in M @ v + 0.0)

    corner = -s.pixel * (s.centre[0] * s.slow + s.centre[1] * s.fast)
    rows = [f"SOURCE general source . {vector(Z)} . . ."]
    rows.append(f"GRAVITY general gravity . {vector(np.array([0, -1.0, 0]))} . . .")
    before = "."
    for name, axis in s.axes:
        rows.append(f"GONIO_{name.upper()} rotation goniometer {before} {vector(axis)} . . .")
        before = f"GONIO_{name.upper()}"
    rows.append(f"DET_ARM rotation detector . {vector(s.arm_axis)} . . .")
    rows.append("DET_Z translation detector DET_ARM 0 0 -1 0 0 0")
    rows.append(f"ELEMENT_X translation detector DET_Z {vector(s.fast)} {vector(corner)}")
    rows.append(f"ELEMENT_Y translation detector ELEMENT_X {vector(s.slow)} 0 0 0")
    angle = s.start + s.step * z
    frame = [
        f"FRAME1 GONIO_{n.upper()} {angle if n == w.scanned else w.angles[n]:.5f} 0.0"
        for n, _ in s.axes
    ]
    frame += [f"FRAME1 DET_ARM {s.arm:.5f} 0.0", f"FRAME1 DET_Z 0.0 {s.distance:.5f}"]
    scan = []
    for n, _ in s.axes:
        moves = n == w.scanned
        values = (s.start, s.step * w.n_frames, s.step) if moves else (w.angles[n], 0, 0)
        scan.append(f"SCAN1 GONIO_{n.upper()} " + " ".join(f"{v:.5f}" for v in values) + " 0 0 0")
    scan += [f"SCAN1 DET_ARM {s.arm:.5f} 0 0 0 0 0", f"SCAN1 DET_Z 0 0 0 {s.distance:.5f} 0 0"]
    blocks = {
        "diffrn_radiation_wavelength": (["id", "wavelength", "wt"], [f"W1 {s.wavelength:.5f} 1.0"]),
        "diffrn_scan_frame": (
            ["frame_id", "frame_number", "integration_time", "scan_id"],
            [f"FRAME1 {z + 1} {w.exposure:.5f} SCAN1"],
        ),
        "diffrn_scan_axis": (
            [
                "scan_id",
                "axis_id",
                "angle_start",
                "angle_range",
                "angle_increment",
                "displacement_start",
                "displacement_range",
                "displacement_increment",
            ],
            scan,
        ),
        "diffrn_scan_frame_axis": (["frame_id", "axis_id", "angle", "displacement"], frame),
        "axis": (
            [
                "id",
                "type",
                "equipment",
                "depends_on",
                "vector[1]",
                "vector[2]",
                "vector[3]",
                "offset[1]",
                "offset[2]",
                "offset[3]",
            ],
            rows,
        ),
        "array_structure_list": (
            ["array_id", "index", "dimension", "precedence", "direction", "axis_set_id"],
            [
                f"ARRAY1 1 {s.shape[1]} 1 increasing ELEMENT_X",
                f"ARRAY1 2 {s.shape[0]} 2 increasing ELEMENT_Y",
            ],
        ),
        "array_structure_list_axis": (
            ["axis_set_id", "axis_id", "displacement", "displacement_increment"],
            [f"ELEMENT_{a} ELEMENT_{a} {s.pixel / 2:.6f} {s.pixel:.6f}" for a in "XY"],
        ),
        "array_intensities": (
            ["array_id", "binary_id", "linearity", "gain", "overload", "undefined_value"],
            [f"ARRAY1 1 linear 1.0 {s.saturation} -1"],
        ),
        "diffrn_detector_element": (["id", "detector_id"], ["ELEMENT1 DETECTOR1"]),
        "diffrn_data_frame": (
            ["id", "detector_element_id", "array_id", "binary_id"],
            ["FRAME1 ELEMENT1 ARRAY1 1"],
        ),
    }
    text = "data_image_1\r\n\r\n_diffrn.id DIFFRN1\r\n_diffrn.crystal_id XTAL1\r\n"
    text += "_diffrn_radiation.polarizn_source_ratio 0.98\r\n"
    for category, (columns, lines) in blocks.items():
        text += "loop_\r\n" + "".join(f"_{category}.{c}\r\n" for c in columns)
        text += "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return text


def mini_cbf(s: Stated, path: Path, z: int, image: NDArray[np.int32]) -> None:
    _cbf(path, "data_image\r\n\r\n" + _mini(s, z), image)


def full_cbf(s: Stated, path: Path, z: int, image: NDArray[np.int32]) -> None:
    _cbf(path, _imgcif(s, z), image)


def smv(s: Stated, path: Path, z: int, image: NDArray[np.int32]) -> None:
    """Write an image of ADSC."""
    w, angle = s.sweep, s.start + s.step * z
    fields = {
        "HEADER_BYTES": 1024,
        "DIM": 2,
        "BYTE_ORDER": "little_endian",
        "TYPE": "unsigned_short",
        "SIZE1": s.shape[1],
        "SIZE2": s.shape[0],
        "PIXEL_SIZE": f"{s.pixel:.4f}",
        "BIN": "2x2",
        "DETECTOR_SN": 999,
        "DATE": "Fri Mar  1 12:00:00 2024",
        "TIME": f"{w.exposure:.2f}",
        "DISTANCE": f"{s.distance:.3f}",
        "TWOTHETA": f"{s.arm:.3f}",
        "PHI": f"{angle:.4f}",
        "OSC_START": f"{angle:.4f}",
        "OSC_RANGE": f"{s.step:.4f}",
        "WAVELENGTH": f"{s.wavelength:.5f}",
        # As MOSFLM has it, and programs read it: X along slow, Y along fast.
        "BEAM_CENTER_X": f"{s.centre[0] * s.pixel:.3f}",
        "BEAM_CENTER_Y": f"{s.centre[1] * s.pixel:.3f}",
        "AXIS": w.scanned,
        "CCD_IMAGE_SATURATION": 65535,
    }
    text = "{\n" + "".join(f"{k}={v};\n" for k, v in fields.items()) + "}\n"
    data = np.clip(image, 0, 65535).astype("<u2").tobytes()
    path.write_bytes(text.encode().ljust(1024, b" ") + data)


def marccd(s: Stated, path: Path, z: int, image: NDArray[np.int32]) -> None:
    """Write an image of MarCCD: a TIFF whose header has the frame header at byte 1024."""
    w, angle = s.sweep, s.start + s.step * z
    head = bytearray(4096)
    tags = [
        (256, 4, s.shape[1]),
        (257, 4, s.shape[0]),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 4096),
        (277, 3, 1),
        (278, 4, s.shape[0]),
        (279, 4, 2 * image.size),
    ]
    struct.pack_into("<2sHIH", head, 0, b"II", 42, 8, len(tags))
    for i, (tag, kind, value) in enumerate(tags):
        struct.pack_into("<HHII", head, 10 + 12 * i, tag, kind, 1, value)
    at = 1024

    def put(offset: int, *values: float) -> None:
        struct.pack_into(f"<{len(values)}i", head, at + offset, *(round(v) for v in values))

    put(0, 2)
    head[at + 4 : at + 7] = b"MMX"
    put(28, 1234, 1234, 4096)
    put(80, s.shape[1], s.shape[0], 2, s.shape[1], 16, 0, 65535)
    settings = {n: angle if n == w.scanned else w.angles[n] for n, _ in s.axes}
    ends = {n: a + (s.step if n == w.scanned else 0) for n, a in settings.items()}
    order = ("twotheta", "omega", "chi", "kappa", "phi", "delta", "gamma")
    begin = [settings.get(n, s.arm if n == "twotheta" else 0) * 1e3 for n in order]
    end = [ends.get(n, s.arm if n == "twotheta" else 0) * 1e3 for n in order]
    away = s.distance * 1e3
    times = [w.exposure * 1e3, w.exposure * 1e3, 0, 1]
    axis = ("twotheta", "omega", "chi", "kappa", "phi").index(w.scanned)
    put(640, away, s.centre[1] * 1e3, s.centre[0] * 1e3, *times)
    put(668, *begin, away, *end, away, axis, s.step * 1e3)
    put(772, s.pixel * 1e6, s.pixel * 1e6)
    put(908, s.wavelength * 1e5)
    path.write_bytes(bytes(head) + np.clip(image, 0, 65535).astype("<u2").tobytes())


def plain_tiff(s: Stated, path: Path, z: int, image: NDArray[np.int32]) -> None:
    from fabio.tifimage import TifImage

    TifImage(data=image.astype(np.int32)).write(str(path))


def edf(s: Stated, path: Path, z: int, image: NDArray[np.int32]) -> None:
    from fabio.edfimage import EdfImage

    EdfImage(data=image.astype(np.int32), header={"title": "frame"}).write(str(path))


WRITERS: dict[str, tuple[str, Callable[[Stated, Path, int, NDArray[np.int32]], None]]] = {
    "cbf mini": (".cbf", mini_cbf),
    "cbf sparse": (".cbf", mini_cbf),
    "cbf full": (".cbf", full_cbf),
    "smv": (".img", smv),
    "marccd": (".mccd", marccd),
    "tiff": (".tif", plain_tiff),
    "edf": (".edf", edf),
}


def poni(s: Stated, path: Path) -> None:
    """Write a geometry of pyFAI: orientation 2 is an image seen from the sample, rows downwards."""
    turned = s.arm * s.arm_axis
    config = {"pixel1": s.pixel / 1e3, "pixel2": s.pixel / 1e3}
    config |= {"max_shape": list(s.shape), "orientation": 2}
    lines = [
        "# Calibrated with LaB6",
        "poni_version: 2.1",
        "Detector: Detector",
        f"Detector_config: {json.dumps(config)}",
        f"Distance: {s.distance / 1e3:.8f}",
        f"Poni1: {(s.shape[0] - s.centre[0]) * s.pixel / 1e3:.8f}",
        f"Poni2: {s.centre[1] * s.pixel / 1e3:.8f}",
        f"Rot1: {-np.radians(turned[1]):.8f}",
        f"Rot2: {np.radians(turned[0]):.8f}",
        "Rot3: 0.0",
        f"Wavelength: {s.wavelength * 1e-10:.8e}",
    ]
    path.write_text("\n".join(lines) + "\n")
