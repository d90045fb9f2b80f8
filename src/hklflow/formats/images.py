"""Read series of single images: CBF, SMV, TIFF, EDF, and whatever else fabio reads.

Numbers of a header are used only if the format defines them: the miniCBF text of PILATUS and EIGER
detectors, the keys of SMV, and the formats of `hklflow.formats.frame_table`. TIFF and EDF give
pixels only: the geometry in TIFF headers is often a left-over of another experiment.

Neither miniCBF nor SMV states how the detector is mounted. The usual mounting is assumed: seen from
the sample, fast runs to the right (-lab x) and slow downwards (-lab y). The scan axis is not stated
either and remains None.
"""

import logging
import math
import re
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file
from hklflow.formats.frame_headers import Fields, FrameFacts, ImageDirections, series_facts
from hklflow.formats.frame_table import format_of
from hklflow.formats.header import Header
from hklflow.formats.marccd import read_marccd
from hklflow.formats.oxford import read_crysalis
from hklflow.formats.raw_frames import Frames, require_frame_size
from hklflow.formats.series import Raw, find_files
from hklflow.geometry import Detector

FAST, SLOW = np.array([-1.0, 0.0, 0.0]), np.array([0.0, -1.0, 0.0])

LENGTHS = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6}


# fabio only logs such damage, and returns zeros for the missing pixels.
_DAMAGED = re.compile("checksum|could not broadcast|too small|incomplete", re.IGNORECASE)

_log = threading.local()  # log of fabio for the image that this thread opens


class _Ear(logging.Handler):
    """Collect the log of fabio without printing: only the log reports damage (wrong checksum)."""

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(_log, "messages"):
            _log.messages.append(record.getMessage())


@cache
def _fabio() -> Any:
    import fabio

    log = logging.getLogger("fabio")
    log.addHandler(_Ear())
    log.propagate = False
    return fabio


def _require_whole_cbf(path: Path, frame: int) -> None:
    """Require that a CBF is as long as its header says: fabio's decoder would never return."""
    with path.open("rb") as file:
        head = file.read(65536)
        length = file.seek(0, 2)
    start = head.find(b"\x0c\x1a\x04\xd5")
    size = re.search(rb"X-Binary-Size:\s*(\d+)", head)
    if start < 0 or size is None or start + 4 + int(size[1]) > length:
        raise HklflowError(
            f"frame {frame} cannot be read from {path}: the file of {length} bytes is truncated; "
            "copy it again"
        )


def _require_whole_raxis(header: Any, path: Path, frame: int) -> None:
    """Require that whole records precede the pixels: fabio counts pixels from the end."""
    if path.suffix.lower() in {".gz", ".bz2"}:
        return  # decompressing notices what is missing
    before = path.stat().st_size - 2 * int(header["X Pixels"]) * int(header["Y Pixels"])
    record = int(header["Record Length"])
    if before < 1024 or record < 1 or before % record:
        raise HklflowError(
            f"frame {frame} cannot be read from {path}: it has no whole records of {record} bytes "
            "before its pixels, so it is truncated; copy it again"
        )


def _require_possible(head: Any, path: Path, frame: int) -> None:
    """Require a possible image size that agrees with the number of pixels in the header."""
    shape = tuple(map(int, head.shape))
    require_frame_size(shape, str(path))
    packed = str(head.header.get("X-Binary-Number-of-Elements", "")).strip()
    if packed.isdigit() and int(packed) != math.prod(shape):
        raise HklflowError(
            f"frame {frame} cannot be read from {path} ({packed} pixels are stored for an image of "
            f"{' x '.join(map(str, shape))}); the file is damaged: copy it again"
        )


def _open(path: Path, frame: int) -> Any:
    """Open one image with fabio; errors name the file and the frame."""
    require_file(path, f"frame {frame} cannot be read:", "copy it again")
    fabio = _fabio()
    _log.messages = []
    image: Any = None
    pixels = why = None
    try:
        if path.suffix.lower() == ".cbf":
            _require_whole_cbf(path, frame)
        # These decoders allocate what the header claims.
        if {".cbf", ".edf"} & set(map(str.lower, path.suffixes[-2:])):
            _require_possible(fabio.openheader(str(path)), path, frame)
        image = read_crysalis(path) or read_marccd(path) or fabio.open(str(path))
        if type(image).__name__ == "RaxisImage":
            _require_whole_raxis(image.header, path, frame)
        pixels = image.data
    except HklflowError:
        raise
    # fabio has no common error class: each format raises what its decoder raises.
    except Exception as error:  # noqa: BLE001
        why = f"{type(error).__name__}: {error}"
    damage = [message for message in _log.messages if _DAMAGED.search(message)]
    if pixels is None or damage:
        why = " ".join((why or "".join([*damage, *_log.messages][:1]) or "no pixels").split())
        raise HklflowError(
            f"frame {frame} cannot be read from {path} ({why}); the "
            "file is truncated, damaged or has another format: copy it again"
        )
    if image.nframes != 1 or pixels.ndim != 2 or not pixels.size or pixels.dtype.kind not in "iuf":
        raise HklflowError(
            f"{path} contains {image.nframes} images of {pixels.dtype} with the shape "
            f"{pixels.shape}; each file of a series must have one image of numbers (slow, fast): "
            "convert it"
        )
    return image


def _pixels(image: Any) -> NDArray[Any]:
    """Return the pixels; formats that store each frame in the smallest type get one type."""
    pixels: NDArray[Any] = image.data
    if format_of(image) is not None and pixels.dtype.kind in "iu":
        return pixels.astype(np.int32)
    return pixels


class ImageSeries(Frames):
    """Series of images, one in each file; see `raw.open_frames` for the names of the files."""

    def __init__(self, raw: Raw) -> None:
        self.files = find_files(raw)
        first = _pixels(_open(self.files[0], 0))
        self.shape = (len(self.files), first.shape[0], first.shape[1])
        self.dtype = first.dtype

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        block = np.empty((stop - start, *self.shape[1:]), self.dtype)
        for frame in range(start, stop):
            pixels = _pixels(_open(self.files[frame], frame))
            if pixels.shape != self.shape[1:] or pixels.dtype != self.dtype:
                raise HklflowError(
                    f"frame {frame} ({self.files[frame]}) is {pixels.shape} {pixels.dtype} but "
                    f"the first is {self.shape[1:]} {self.dtype}; the series mixes "
                    "scans: copy it again, or give each scan its own pattern"
                )
            block[frame - start] = pixels
        return block


def read_image_header(raw: Raw) -> Header:
    """Read the header of the first image and, for the angles, of the last image.

    Raises
    ------
    HklflowError
        If a number in a header cannot be read, or the angles of the first and the last image
        contradict the step.
    """
    files = find_files(raw)
    image = _open(files[0], 0)
    if (facts := _frame_facts(files, image, None)) is not None:
        return facts.header
    kind = type(image).__name__
    if kind == "CbfImage":
        header, start, step = _read_cbf(image, files[0])
        last = _cbf_text(_open(files[-1], len(files) - 1)) if len(files) > 1 else ""
        last_start = _cbf_number(last, "Start_angle", files[-1])
        header["monitor"] = _cbf_flux(files)
    # fabio takes SMV for its superset d*TREK.
    elif kind in {"AdscImage", "DtrekImage"}:
        header, start, step = _read_smv(image, files[0])
        keys = _open(files[-1], len(files) - 1).header if len(files) > 1 else {}
        last_start = _smv_number(keys, "OSC_START", files[-1])
    else:
        return Header(n_frames=len(files))
    values = {**header, "n_frames": len(files)}
    # A step of 0 in a scan is an empty field, and then the start is empty too.
    if step:
        values.update(start_deg=start, step_deg=step)
        if start is not None and last_start is not None:
            expected = start + step * (len(files) - 1)
            off = (last_start - expected + 180) % 360 - 180
            if abs(off) > 0.05 * abs(step):
                raise HklflowError(
                    f"the last image {files[-1]} starts at {last_start:g}° but {len(files)} "
                    f"frames of {step:g}° from {start:g}° should end with {expected:g}°; frames "
                    "are missing or the header is wrong: give the angles in scans.tsv"
                )
    return Header(**values)


def read_frame_facts(raw: Raw, image: ImageDirections | None = None) -> FrameFacts | None:
    """Return what the headers of a series state; None if its format is not in the table of formats.

    Parameters
    ----------
    image : ImageDirections, optional
        Directions of columns and rows, if the user states them.

    Raises
    ------
    HklflowError
        If a header is damaged, or the last frame is not where the first frame and the step say.
    """
    files = find_files(raw)
    return _frame_facts(files, _open(files[0], 0), image)


def _frame_facts(
    files: list[Path], opened: Any, image: ImageDirections | None
) -> FrameFacts | None:
    table = format_of(opened)
    if table is None:
        return None
    end = opened if len(files) == 1 else _open(files[-1], len(files) - 1)
    first, last = (
        Fields(path, dict(frame.header), (int(frame.data.shape[0]), int(frame.data.shape[1])))
        for path, frame in ((files[0], opened), (files[-1], end))
    )
    return series_facts(table, first, last, len(files), image)


def _flat_detector(
    shape: tuple[int, int],
    pixel: tuple[float, float] | None,
    distance: float | None,
    beam: tuple[float, float] | None,
    thickness: float | None = None,
) -> Detector | None:
    """Return a detector normal to the beam; pixel and beam are (slow, fast), beam in pixels."""
    if pixel is None or distance is None or beam is None:
        return None
    origin = -beam[0] * pixel[0] * SLOW - beam[1] * pixel[1] * FAST
    origin = origin + np.array([0.0, 0.0, distance])
    return Detector(shape, pixel, origin, SLOW, FAST, sensor_thickness=thickness)


def _cbf_text(image: Any) -> str:
    return str(image.header.get("_array_data.header_contents", ""))


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def _cbf_number(text: str, key: str, path: Path, *, length: bool = False) -> float | None:
    """Return the value of a line ``# Key value unit``; None if it is absent or "not set"."""
    line = re.search(rf"^#?\s*{key}\s*[:=]?\s+(.*)$", text, re.MULTILINE)
    if line is None:
        return None
    match = re.match(rf"({_NUMBER})\s*(\S*)", line[1].strip())
    if match is None:
        return None
    return _length(match[1], match[2].strip("().,"), path) if length else float(match[1])


def _length(number: str, unit: str, path: Path) -> float:
    """Return a length in metres."""
    if unit not in LENGTHS:
        raise HklflowError(
            f"the length {number} {unit} in the header of {path} has no known unit "
            f"({', '.join(LENGTHS)}); correct the header, or give the geometry with a calibration"
        )
    return float(number) * LENGTHS[unit]


def _read_cbf(image: Any, path: Path) -> tuple[dict[str, Any], float | None, float | None]:
    text = _cbf_text(image)
    shape = (int(image.data.shape[0]), int(image.data.shape[1]))
    pixel = beam = None
    if match := re.search(rf"Pixel_size\s+({_NUMBER})\s*(\S+)\s*x\s*({_NUMBER})\s*(\S+)", text):
        # The header gives fast x slow.
        pixel = (_length(match[3], match[4], path), _length(match[1], match[2], path))
    if match := re.search(rf"Beam_xy\s+\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)", text):
        beam = (float(match[2]), float(match[1]))
    thickness = None
    material = re.search(r"^#?\s*(\S.*?)\s+sensor,\s*thickness", text, re.MULTILINE)
    if match := re.search(rf"thickness\s+({_NUMBER})\s*(\S+)", text):
        thickness = _length(match[1], match[2].strip(","), path)
    distance = _cbf_number(text, "Detector_distance", path, length=True)
    bad = image.data < 0
    values = {
        "wavelength": _cbf_number(text, "Wavelength", path),
        "detector": _flat_detector(shape, pixel, distance, beam, thickness),
        "sensor_material": None if material is None else material[1],
        "exposure_time": _cbf_number(text, "Exposure_time", path),
        "transmission": _cbf_number(text, "Filter_transmission", path),
        "polarization": _cbf_number(text, "Polarization", path),
        "saturation": _cbf_number(text, "Count_cutoff", path),
        # In a miniCBF negative counts are flags: -1 between modules, -2 bad pixel.
        "pixel_mask": bad if np.any(bad) else None,
    }
    start = _cbf_number(text, "Start_angle", path)
    return values, start, _cbf_number(text, "Angle_increment", path)


def _cbf_flux(files: list[Path]) -> NDArray[np.float64] | None:
    """Return the flux of each frame; None if a header lacks it or has the idle value 0."""
    flux = []
    for frame, path in enumerate(files):
        if path.suffix.lower() == ".cbf":
            with path.open("rb") as file:
                text = file.read(16384).partition(b"\x0c\x1a\x04\xd5")[0].decode("latin-1")
        else:
            text = _cbf_text(_open(path, frame))
        value = _cbf_number(text, "Flux", path)
        if not value:
            return None
        flux.append(value)
    return np.array(flux)


def _smv_number(keys: Any, name: str, path: Path) -> float | None:
    value = {str(key).upper(): value for key, value in dict(keys).items()}.get(name)
    # fabio may leave the rest of the header block behind the last value.
    text = "" if value is None else str(value).partition(";")[0].strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise HklflowError(
            f"{name} is {text!r} in {path}, not a number; correct the header or give the value "
            "in the configuration"
        ) from None


def _read_smv(image: Any, path: Path) -> tuple[dict[str, Any], float | None, float | None]:
    keys = image.header
    shape = (int(image.data.shape[0]), int(image.data.shape[1]))
    size = _smv_number(keys, "PIXEL_SIZE", path)
    distance = _smv_number(keys, "DISTANCE", path)
    x, y = _smv_number(keys, "BEAM_CENTER_X", path), _smv_number(keys, "BEAM_CENTER_Y", path)
    pixel = (size * 1e-3, size * 1e-3) if size else None
    # X runs along the slow direction of the image, Y along the fast one (Mosflm's frame).
    beam = (x / size, y / size) if size and x is not None and y is not None else None
    detector = _flat_detector(shape, pixel, distance * 1e-3 if distance else None, beam)
    values = {
        "wavelength": _smv_number(keys, "WAVELENGTH", path) or None,
        "detector": detector,
        "exposure_time": _smv_number(keys, "TIME", path) or None,
        "saturation": _smv_number(keys, "CCD_IMAGE_SATURATION", path) or None,
    }
    return values, _smv_number(keys, "OSC_START", path), _smv_number(keys, "OSC_RANGE", path)


def read_image(path: Path) -> NDArray[Any]:
    """Return the pixels (slow, fast) of one image: any format that fabio reads, or .npy.

    Raises
    ------
    HklflowError
        If the file cannot be read or is not an image.
    """
    if path.suffix == ".npy":
        pixels = np.load(path, allow_pickle=False)
        if pixels.ndim != 2:
            raise HklflowError(f"{path} has {pixels.ndim} dimensions; give one image (slow, fast)")
        return np.asarray(pixels)
    return np.asarray(_open(path, 0).data)
