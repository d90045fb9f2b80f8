"""Read series of single images: CBF, SMV, TIFF, EDF, and whatever else fabio reads.

Numbers of a header are used only if the format defines them: CBF (`formats.mini_cbf`), SMV
(`formats.smv`) and the formats of `formats.frame_table`. TIFF and EDF give pixels only: the
geometry in TIFF headers is often a left-over of another experiment.
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
from hklflow.formats.frame_headers import (
    NO_DIRECTIONS,
    Fields,
    FrameFacts,
    StatedDirections,
    series_facts,
)
from hklflow.formats.frame_table import format_of
from hklflow.formats.header import Header
from hklflow.formats.marccd import read_marccd
from hklflow.formats.oxford import read_crysalis
from hklflow.formats.raw_frames import Frames, require_frame_size
from hklflow.formats.series import Raw, find_files
from hklflow.formats.text_headers import NOTHING_STATED, Choices

# fabio only logs such damage, and returns zeros for the missing pixels.
_DAMAGED = re.compile("checksum|could not broadcast|too small|incomplete", re.IGNORECASE)

# fabio does not notice a truncated file of these formats.
_UNSAFE = {"Mar345Image": "mar345", "KcdImage": "KCD"}

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
        if (kind := _UNSAFE.get(type(image).__name__)) is not None:
            raise HklflowError(
                f"{path} is a {kind} image, which hklflow does not read, because a truncated file "
                "would pass unnoticed: convert the images to CBF"
            )
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


def read_image_header(raw: Raw, choices: Choices = NOTHING_STATED) -> Header:
    """Read the headers of a series of images.

    Parameters
    ----------
    raw : path, pattern or list of paths
    choices : Choices
        Facts that the user states about the headers.

    Raises
    ------
    HklflowError
        If a number in a header cannot be read, or the angles of the first and the last image
        contradict the step.
    """
    from hklflow.formats.mini_cbf import read_cbf
    from hklflow.formats.smv import read_smv

    files = find_files(raw)
    image = _open(files[0], 0)
    if (facts := _frame_facts(files, image, NO_DIRECTIONS)) is not None:
        return facts.header
    kind = type(image).__name__
    if kind == "CbfImage":
        if len(files) > 1:
            _open(files[-1], len(files) - 1)  # a copy that was cut off ends here, not in a job
        return read_cbf(files, image.data, choices)
    # fabio takes SMV for its superset d*TREK.
    if kind in {"AdscImage", "DtrekImage"}:
        shape = (int(image.data.shape[0]), int(image.data.shape[1]))
        return read_smv(files, shape, choices)
    return Header(n_frames=len(files))


def read_frame_facts(raw: Raw, stated: StatedDirections = NO_DIRECTIONS) -> FrameFacts | None:
    """Return what the headers of a series state; None if its format is not in the table of formats.

    Parameters
    ----------
    stated : StatedDirections

    Raises
    ------
    HklflowError
        If a header is damaged, or the last frame is not where the first frame and the step say.
    """
    files = find_files(raw)
    return _frame_facts(files, _open(files[0], 0), stated)


def _frame_facts(files: list[Path], opened: Any, stated: StatedDirections) -> FrameFacts | None:
    table = format_of(opened)
    if table is None:
        return None
    end = opened if len(files) == 1 else _open(files[-1], len(files) - 1)
    first, last = (
        Fields(path, dict(frame.header), (int(frame.data.shape[0]), int(frame.data.shape[1])))
        for path, frame in ((files[0], opened), (files[-1], end))
    )
    return series_facts(table, first, last, len(files), stated)


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
