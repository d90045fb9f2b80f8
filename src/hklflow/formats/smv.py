"""Headers of SMV images (ADSC and compatible detectors)."""

import bz2
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.header import Header, per_frame
from hklflow.formats.mini_cbf import require_end
from hklflow.formats.text_headers import Choices, flat_detector, goniometer_of, on_arm
from hklflow.images.gain import Stated

#: Keys that are used, that describe the storage, or that only repeat others.
USED = {
    "HEADER_BYTES", "DIM", "BYTE_ORDER", "TYPE", "SIZE1", "SIZE2", "PIXEL_SIZE", "DISTANCE",
    "BEAM_CENTER_X", "BEAM_CENTER_Y", "WAVELENGTH", "TIME", "OSC_START", "OSC_RANGE", "AXIS",
    "TWOTHETA", "CCD_IMAGE_SATURATION", "DETECTOR_SN", "IMAGE_PEDESTAL", "DARK_PEDESTAL",
    "OMEGA", "CHI", "KAPPA", "PHI",
}  # fmt: skip
_MOTORS = ("OMEGA", "CHI", "KAPPA", "PHI")


def head(path: Path) -> str:
    """Return the text of an SMV header, from ``{`` to ``}``."""
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
    try:
        with openers.get(path.suffix.lower(), open)(path, "rb") as file:
            text = file.read(65536).partition(b"}")[0]
    except (OSError, EOFError) as error:
        raise HklflowError(
            f"the header of {path} cannot be read ({error}); the file is damaged: copy it again"
        ) from error
    return text.decode("latin-1")


def keys_of(text: str) -> dict[str, str]:
    """Return the keys of a header, in capitals."""
    pairs = re.findall(r"^\s*([A-Za-z]\w*)\s*=\s*([^;\n]*);?", text, re.MULTILINE)
    return {key.upper(): value.strip() for key, value in pairs}


def number(keys: dict[str, str], name: str, path: Path) -> float | None:
    """Return the number of a key; None if it is absent or empty.

    Raises
    ------
    HklflowError
        If the value is not a number.
    """
    text = keys.get(name, "")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise HklflowError(
            f"{name} is {text!r} in {path}, not a number; correct the header or give the value "
            "in the configuration"
        ) from None


def settings(keys: dict[str, str], path: Path) -> dict[str, float]:
    """Return the angles of the motors in a header, degrees."""
    values = {name.lower(): number(keys, name, path) for name in _MOTORS}
    return {name: value for name, value in values.items() if value is not None}


def scanned(keys: dict[str, str]) -> str | None:
    """Return the name of the scanned motor; None if the header does not name it."""
    word = keys.get("AXIS", "").lower()
    return word if word.upper() in _MOTORS else None


def read_smv(files: list[Path], shape: tuple[int, int], choices: Choices) -> Header:
    """Read the headers of a series of SMV images.

    Parameters
    ----------
    files : list of Path
    shape : (slow, fast)
        Number of pixels.

    Raises
    ------
    HklflowError
        If a number in a header cannot be read, or the angles of the first and the last image
        contradict the step.
    """
    path, text = files[0], head(files[0])
    keys = keys_of(text)
    row = choices.instrument_of("SMV", text)
    size = number(keys, "PIXEL_SIZE", path)
    distance = number(keys, "DISTANCE", path)
    names = ("BEAM_CENTER_X", "BEAM_CENTER_Y") if row is None or row.beam is None else row.beam
    x, y = (number(keys, name, path) for name in names)
    pixel = (size * 1e-3, size * 1e-3) if size else None
    # X runs along the slow direction of the image, Y along the fast one (Mosflm's frame).
    beam = (x / size, y / size) if size and x is not None and y is not None else None
    detector = flat_detector(shape, pixel, distance * 1e-3 if distance else None, beam, row)
    detector, doubt = on_arm(detector, number(keys, "TWOTHETA", path), row, choices)
    if row is not None and row.unsupported:
        detector, doubt = None, f"{row.where}: {row.unsupported}; give the row a `calibration`"
    notes: list[str] = []
    goniometer = None
    if row is not None:
        axis = choices.axis or scanned(keys)
        goniometer = goniometer_of(row, settings(keys, path), axis, row.axes, notes)
    if row is not None and row.beam is not None and beam is not None:
        notes.append(f"the beam centre is from {names[0]} and {names[1]} ({row.source})")
    start, step = choices.start_deg, choices.step_deg
    if step is None:
        start, step = number(keys, "OSC_START", path), number(keys, "OSC_RANGE", path)
        # A step of 0 in a scan is an empty field, and then the start is empty too.
        if not step:
            notes.append(_no_step(files, start, keys))
            start = step = None
        elif len(files) > 1:
            last = number(keys_of(head(files[-1])), "OSC_START", files[-1])
            require_end(files, start, step, last)
    return Header(
        n_frames=len(files),
        wavelength=number(keys, "WAVELENGTH", path) or None,
        detector=detector,
        detector_doubt=doubt,
        goniometer=goniometer,
        start_deg=start,
        step_deg=step,
        exposure_time=_exposures(files),
        saturation=number(keys, "CCD_IMAGE_SATURATION", path) or None,
        notes=tuple(notes) or None,
        integrates=True,
        gain=Stated(offset=_pedestal(keys, path)),
    )


def _exposures(files: list[Path]) -> float | NDArray[np.float64] | None:
    """Return the exposure of the frames; None: it is empty."""
    times = [number(keys_of(head(path)), "TIME", path) or 0.0 for path in files]
    return per_frame(times) if any(times) else None


def _pedestal(keys: dict[str, str], path: Path) -> float | None:
    """Return the value without photons: ADSC and Rigaku name it differently."""
    ours = number(keys, "IMAGE_PEDESTAL", path)
    return number(keys, "DARK_PEDESTAL", path) if ours is None else ours


def _no_step(files: list[Path], start: float | None, keys: dict[str, str]) -> str:
    """Return the note about a header without the width of a frame."""
    name = scanned(keys) or "NAME"
    last = number(keys_of(head(files[-1])), "OSC_START", files[-1])
    what = "OSC_RANGE is not stated" if "OSC_RANGE" not in keys else "OSC_RANGE is 0"
    if start is not None and last is not None and len(files) > 1 and last != start:
        apart = (last - start) / (len(files) - 1)
        return (
            f"{what}, and the images start {apart:g} degrees apart: if each turns through "
            f"this angle, --option axis={name}={start:g}:{apart:g}; stills are not supported"
        )
    return f"{what}, so the angles of the scan are not known: --option axis={name}=start:step"
