"""Checks of a plugin's result before anything is written: types, paths, shapes, numbers.

A wrong type is a defect of the plugin and ends the import. An implausible number is left out with a
note: the fact is then unknown, and the user can set it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from hklflow.base.errors import HklflowError, shortened
from hklflow.beamlines import Found, FoundSample, FoundScan, Unmatched
from hklflow.formats.header import Header
from hklflow.formats.raw_frames import MOST_PIXELS
from hklflow.geometry import Detector, Goniometer, plausible
from hklflow.images.gain import Stated
from hklflow.images.pixel_binning import PixelBinning

Fits = Callable[[Any], bool]
Kind = tuple[str, Fits]
"""Description of the expected value, and a function that tests a value."""


def checked(result: Found, plugin: str) -> Found:
    """Return a plugin's result without implausible numbers; each gets a note.

    Parameters
    ----------
    result : Found
    plugin : str
        Name of the plugin, for messages.

    Raises
    ------
    HklflowError
        If anything differs in type or form from `hklflow.beamlines`.
    """
    for where, item, kinds in _items(result):
        for field, (what, fits) in kinds.items():
            value = getattr(item, field)
            if not fits(value):
                shown = shortened(" ".join(repr(value).split()))  # arrays have line breaks
                raise HklflowError(
                    f"the plugin of beamline {plugin} gives {where}{field} = {shown}, which is not "
                    f"{what}; report it to the author of the plugin"
                )
    return replace(result, scans=tuple(map(_possible, result.scans)))


def _items(result: Found) -> Iterator[tuple[str, Any, Mapping[str, Kind]]]:
    """Yield the objects with fields to check, containers before their items."""
    yield "", result, _FOUND
    for scan in result.scans:
        where = f"{shortened(repr(scan.where or scan.raw))}: "
        yield where, scan, _SCAN
        yield where, scan.header, _HEADER
        if scan.header.detector is not None:
            yield f"{where}detector.", scan.header.detector, _DETECTOR
        if scan.header.goniometer is not None:
            axes = range(len(scan.header.goniometer.names))
            kinds = {"scan": (f"one of the numbers {[*axes]}", axes.__contains__)}
            yield f"{where}goniometer.", scan.header.goniometer, {"names": _several(_TEXT)} | kinds
    for name, sample in result.samples.items():
        yield f"sample {name}: ", sample, _SAMPLE
    for lost in result.unmatched:
        yield "", lost, _LOST


def _possible(scan: FoundScan) -> FoundScan:
    """Return the scan without implausible numbers."""
    header, notes = scan.header, []
    for fields, problem in _problems(header):
        header = replace(header, **dict.fromkeys(fields))
        notes.append(f"left out: {problem}")
    return scan if not notes else replace(scan, header=header, notes=(*scan.notes, *notes))


def _problems(header: Header) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the fields with implausible numbers, and the reasons."""
    for name, problem in (
        ("wavelength", plausible.wavelength_problem),
        ("exposure_time", plausible.exposure_problem),
        ("temperature", plausible.temperature_problem),
        ("saturation", plausible.saturation_problem),
        ("detector", plausible.detector_problem),
    ):
        value = getattr(header, name)
        if value is None:
            continue
        for one in (np.min(value), np.max(value)) if np.ndim(value) else (value,):
            if (problem_text := problem(one)) is not None:
                yield (name,), problem_text
                break
    polarization = header.polarization
    if polarization is not None and not 0 <= polarization <= 1:
        problem_text = (
            f"the polarisation is {polarization:g}, outside 0 to 1: set `import_scan: polarization`"
        )
        yield ("polarization",), problem_text
    start, step = header.start_deg, header.step_deg
    # If the steps are unknown, only the start is checked.
    usual = plausible.STEPS[1]
    told_step = plausible.step_problem(0.0 if start is None else start, step or usual)
    if told_step is not None:
        yield ("start_deg", "step_deg"), told_step


# ---------------------------------------------------------------------- kinds of values


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value > 0)


def _is_shape(value: Any) -> bool:
    return _is_tuple(value, _is_count, 2) and int(value[0]) * int(value[1]) <= MOST_PIXELS


def _is_path(value: Any) -> bool:
    return _is_text(value) and Path(value).is_absolute()


def _is_tuple(value: Any, fits: Fits, length: int | None = None) -> bool:
    fine = isinstance(value, (tuple, list)) and length in (None, len(value))
    return fine and all(map(fits, value))


def _is_array(value: Any, shape: tuple[int, ...] | None = None) -> bool:
    numeric = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    return numeric and shape in (None, value.shape)


def _is_settings(value: Any, depth: int) -> bool:
    fine = isinstance(value, Mapping) and all(map(_is_text, value))
    return fine and (depth == 1 or all(_is_settings(inner, depth - 1) for inner in value.values()))


def _instance(kind: type) -> Kind:
    return f"a {kind.__name__}", lambda value: isinstance(value, kind)


def _several(kind: Kind) -> Kind:
    return f"a tuple of items, each {kind[0]}", lambda value: _is_tuple(value, kind[1])


def _or_none(kind: Kind) -> Kind:
    return f"{kind[0]} or None", lambda value: value is None or kind[1](value)


_TEXT: Kind = ("text", _is_text)
_NUMBER = _or_none(("a number", _is_number))
_SHAPE: Kind = (f"(slow, fast) of at most {MOST_PIXELS} pixels", _is_shape)
_NUMBERS = _or_none(
    ("a number or an array of numbers", lambda value: _is_number(value) or _is_array(value))
)
_ARRAY = _or_none(("an array of numbers", _is_array))

_FOUND: dict[str, Kind] = {
    "scans": _several(_instance(FoundScan)),
    "samples": (
        "a mapping of names to FoundSample",
        lambda value: (
            isinstance(value, Mapping)
            and all(map(_is_text, value))
            and all(isinstance(sample, FoundSample) for sample in value.values())
        ),
    ),
    "unmatched": _several(_instance(Unmatched)),
    "general": ("a mapping of sections", lambda value: _is_settings(value, 2)),
    "settings": ("a mapping of scans to sections", lambda value: _is_settings(value, 3)),
    "notes": _several(_TEXT),
}
_SCAN: dict[str, Kind] = {
    **dict.fromkeys(("sample", "scan", "rotation", "parent", "calibration"), _TEXT),
    **dict.fromkeys(("goniometer", "where"), _TEXT),
    "raw": ("an absolute path", _is_path),
    "header": _instance(Header),
    "shape": _SHAPE,
    "light": _instance(bool),
    "datasets": (
        "a tuple of (absolute path of a file, path in it)",
        lambda value: _is_tuple(
            value, lambda item: _is_tuple(item, _is_text, 2) and _is_path(item[0])
        ),
    ),
    "ub": _or_none(
        (
            "a (3, 3) array of finite numbers",
            lambda value: _is_array(value, (3, 3)) and bool(np.isfinite(value).all()),
        )
    ),
    "space_group": _or_none(_TEXT),
    "notes": _several(_TEXT),
    "original": ("three texts", lambda value: _is_tuple(value, _is_text, 3)),
}
_HEADER: dict[str, Kind] = {
    **dict.fromkeys(("wavelength", "start_deg", "step_deg"), _NUMBER),
    **dict.fromkeys(("temperature", "saturation", "underload", "polarization"), _NUMBER),
    "n_frames": _or_none(("a whole number above 0", _is_count)),
    "detector": _or_none(_instance(Detector)),
    "goniometer": _or_none(_instance(Goniometer)),
    "binning": _or_none(_instance(PixelBinning)),
    **dict.fromkeys(("transmission", "exposure_time"), _NUMBERS),
    **dict.fromkeys(("sensor_material", "monitor_doubt", "temperature_doubt"), _or_none(_TEXT)),
    **dict.fromkeys(("saturation_doubt", "detector_doubt"), _or_none(_TEXT)),
    "notes": _or_none(_several(_TEXT)),
    "integrates": _or_none(("True or False", lambda value: isinstance(value, bool))),
    "gain": _or_none(_instance(Stated)),
    "readouts": _or_none(("a whole number above 0", _is_count)),
    # The writer checks that they match the frames.
    **dict.fromkeys(("monitor", "angles_deg", "pixel_mask", "read_variance"), _ARRAY),
}
_DETECTOR: dict[str, Kind] = {
    "shape": _SHAPE,
    "pixel_size": ("two numbers", lambda value: _is_tuple(value, _is_number, 2)),
    **dict.fromkeys(("sensor_thickness", "sensor_attenuation"), _NUMBER),
}
_SAMPLE: dict[str, Kind] = {
    "space_group": _or_none(_TEXT),
    "cell": _or_none(("six numbers", lambda value: _is_tuple(value, _is_number, 6))),
    "formula": _TEXT,
}
_LOST: dict[str, Kind] = {"what": _TEXT, "why": _TEXT, "candidates": _several(_TEXT)}
