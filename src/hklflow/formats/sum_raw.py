"""Sum repeated scans to one NXmx file, if they were taken under equal conditions.

Only the counts, the monitor, the exposure, the mask and, within a tolerance, the temperature may
differ between the scans.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.header import Header
from hklflow.formats.raw import is_hdf5, open_frames, read_header
from hklflow.formats.raw_frames import Frames
from hklflow.formats.series import find_files
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter, described
from hklflow.geometry import Detector
from hklflow.images.frame_sum import FrameSum, SumType, largest_count, sum_types

# Tolerances for equal settings that were read back twice: relative, and for angles and pixels as
# fractions of a frame's width and of a pixel.
RELATIVE, PART = 1e-5, 0.01
_COMPARED = 5  # number of frames compared; independent scans differ in at least one


@dataclass(frozen=True)
class Repeat:
    """One of the repeated scans.

    Attributes
    ----------
    name : str
        File or pattern of the scan.
    frames : Frames
    header : Header
    mask : (slow, fast) uint32 array or None
        Bits of the pixel mask as in NXmx.
    """

    name: str
    frames: Frames
    header: Header
    mask: NDArray[np.uint32] | None


def open_repeats(names: Sequence[str], stack: ExitStack) -> list[Repeat]:
    """Open repeated scans; the stack closes them.

    Raises
    ------
    HklflowError
        If there are fewer than two scans, or one is given twice.
    """
    if len(names) < 2:
        raise HklflowError(
            f"a sum of {len(names)} scan ({', '.join(names)}); give two or more repeated scans"
        )
    opened: dict[Path, str] = {}
    repeats = []
    for name in names:
        first = Path(name) if is_hdf5(name) else find_files(name)[0]
        if (other := opened.setdefault(first.resolve(), name)) != name or names.count(name) > 1:
            raise HklflowError(f"{name} and {other} are the same scan; give each scan once")
        repeats.append(_open(name, stack))
    return repeats


def require_distinct(repeats: Sequence[Repeat]) -> None:
    """Require that scans have different counts: equal counts mean a copy, whatever the header.

    Raises
    ------
    HklflowError
    """
    n = min(repeat.frames.shape[0] for repeat in repeats)
    chosen = sorted({n * i // _COMPARED for i in range(_COMPARED)})
    names: dict[bytes, str] = {}
    for repeat in repeats:
        frames = [repeat.frames.read(frame, frame + 1) for frame in chosen]
        digest = hashlib.blake2b(b"".join(frame.tobytes() for frame in frames)).digest()
        # Frames without counts are equal in all scans.
        if any(frame.any() for frame in frames) and digest in names:
            raise HklflowError(
                f"{repeat.name} has the same counts as {names[digest]} in all of the "
                f"frames {', '.join(map(str, chosen))}: it is a copy and would count twice; give "
                "each scan once"
            )
        names[digest] = repeat.name


def _open(name: str, stack: ExitStack) -> Repeat:
    frames = stack.enter_context(open_frames(name))
    header = read_header(name)
    if is_hdf5(name):
        from hklflow.formats.raw import read_mask_bits

        return Repeat(name, frames, header, read_mask_bits(Path(name)))
    bad = header.pixel_mask
    return Repeat(name, frames, header, None if bad is None else bad.astype(np.uint32))


# ------------------------------------------------------------------------- equal conditions


def require_alike(repeats: Sequence[Repeat], temperature_tolerance: float) -> None:
    """Require that all scans have the same conditions as the first.

    Parameters
    ----------
    temperature_tolerance : float
        Largest difference between the temperatures of two scans, K.

    Raises
    ------
    HklflowError
        If scans differ; the message lists all differences with both values and both files.
    """
    first, *others = repeats
    problems = [
        f"{what}: {value} in {first.name} but {other_value} in {other.name}"
        for other in others
        for what, value, other_value in _differences(first, other)
    ]
    # The largest difference, between whichever two scans.
    known = [r for r in repeats if r.header.temperature is not None]
    if known:
        coldest = min(known, key=lambda r: r.header.temperature or 0.0)
        warmest = max(known, key=lambda r: r.header.temperature or 0.0)
        low, high = coldest.header.temperature or 0.0, warmest.header.temperature or 0.0
        if high - low > temperature_tolerance:
            problems.append(
                f"temperature: {low:g} K in {coldest.name} but {high:g} K in {warmest.name} "
                f"(temperature_tolerance is {temperature_tolerance:g} K)"
            )
    if problems:
        raise HklflowError(
            "the scans were not taken under identical conditions: " + "; ".join(problems)
        )


def _differences(a: Repeat, b: Repeat) -> Iterator[tuple[str, str, str]]:
    """Yield the name of each difference between two scans, and both values."""
    n = (a.frames.shape[0], b.frames.shape[0])
    if n[0] != n[1]:
        yield "number of frames", str(n[0]), str(n[1])
    shapes = [" x ".join(map(str, r.frames.shape[1:])) for r in (a, b)]
    if shapes[0] != shapes[1]:
        yield "frame shape", f"{shapes[0]} pixels", f"{shapes[1]} pixels"
    x, y = a.header, b.header
    yield from _number("wavelength", x.wavelength, y.wavelength, "Å")
    yield from _number("polarisation", x.polarization, y.polarization)
    yield from _number("saturation value", x.saturation, y.saturation, "counts")
    yield from _compare(
        "attenuators' transmission", x.transmission, y.transmission, _attenuators, _alike
    )
    for what, value, other_value in (
        ("exposure time", x.exposure_time, y.exposure_time),
        ("monitor", x.monitor, y.monitor),
        ("temperature", x.temperature, y.temperature),
    ):
        # Values may differ, but a value that one scan lacks cannot be added.
        if (value is None) != (other_value is None):
            yield what, _stated(value), _stated(other_value)
    yield from _compare("gain", x.gain, y.gain, str, _equal)
    yield from _compare("sensor material", x.sensor_material, y.sensor_material, str, _equal)
    if x.detector is None or y.detector is None or shapes[0] == shapes[1]:
        yield from _detectors(x.detector, y.detector)
    yield from _goniometers(x, y)
    yield from _angles(x, y, min(n))


def _compare(
    what: str,
    a: Any,
    b: Any,
    shown: Callable[[Any], str],
    same: Callable[[Any, Any], bool],
) -> Iterator[tuple[str, str, str]]:
    if (a is None) != (b is None) or (a is not None and not same(a, b)):
        yield what, _stated(a, shown), _stated(b, shown)


def _stated(value: Any, shown: Callable[[Any], str] = lambda _: "stated") -> str:
    return "not stated" if value is None else shown(value)


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b)


def _close(a: Any, b: Any) -> bool:
    return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, rtol=RELATIVE, atol=0))


def _alike(a: Any, b: Any) -> bool:
    """Return True if values agree; each is one value or one for each frame."""
    return (np.size(a) == 1 or np.size(b) == 1 or np.shape(a) == np.shape(b)) and bool(
        np.allclose(a, b, rtol=RELATIVE, atol=0)
    )


def _number(
    what: str, a: float | None, b: float | None, units: str = ""
) -> Iterator[tuple[str, str, str]]:
    return _compare(what, a, b, lambda v: f"{v:.10g} {units}".strip(), _close)


def _attenuators(value: Any) -> str:
    values = np.unique(value)
    return f"{values[0]:.6g}" if len(values) == 1 else f"{values[0]:.6g} to {values[-1]:.6g}"


def _vector(value: Any) -> str:
    return "(" + ", ".join(f"{v:.7g}" for v in value) + ")"


def _detectors(a: Detector | None, b: Detector | None) -> Iterator[tuple[str, str, str]]:
    if a is None or b is None:
        yield from _compare("detector geometry", a, b, _stated, _equal)
        return
    yield from _compare("pixel size", a.pixel_size, b.pixel_size, _metres, _close)
    yield from _compare("sensor thickness", a.sensor_thickness, b.sensor_thickness, str, _close)
    pixel = min(a.pixel_size)
    yield from _compare(
        "detector origin",
        a.origin,
        b.origin,
        _metres,
        lambda u, v: bool(np.abs(u - v).max() <= PART * pixel),
    )
    for name in ("slow", "fast"):
        # Rotation that moves the far end of the detector by this fraction of a pixel.
        limit = PART / max(a.shape)
        yield from _compare(
            f"detector {name} direction",
            getattr(a, name),
            getattr(b, name),
            _vector,
            lambda u, v, limit=limit: bool(np.abs(u - v).max() <= limit),  # type: ignore[misc]
        )


def _metres(value: Any) -> str:
    return f"{_vector(1e3 * np.asarray(value))} mm"


def _width(header: Header) -> float:
    """Return the tolerance of an angle in degrees: a fraction of a frame's width (or of 0.1°)."""
    return PART * abs(header.step_deg or 0.1)


def _goniometers(x: Header, y: Header) -> Iterator[tuple[str, str, str]]:
    a, b = x.goniometer, y.goniometer
    if a is None or b is None:
        yield from _compare("goniometer", a, b, _stated, _equal)
        return
    if a.names != b.names:
        yield "goniometer axes", ", ".join(a.names), ", ".join(b.names)
        return
    if a.scan != b.scan:
        yield "scanned axis", a.names[a.scan], b.names[b.scan]
    for i, name in enumerate(a.names):
        yield from _compare(
            f"direction of axis {name}",
            a.axes[i],
            b.axes[i],
            _vector,
            lambda u, v: bool(np.abs(u - v).max() <= RELATIVE),
        )
        if i not in (a.scan, b.scan):
            yield from _compare(
                f"setting of axis {name}",
                float(np.degrees(a.angles[i])),
                float(np.degrees(b.angles[i])),
                lambda v: f"{v:.6g}°",
                lambda u, v: abs(u - v) <= _width(x),
            )


def _angles(x: Header, y: Header, n: int) -> Iterator[tuple[str, str, str]]:
    def shown(value: float) -> str:
        return f"{value:.6g}°"

    yield from _compare(
        "start of the scan", x.start_deg, y.start_deg, shown, lambda u, v: abs(u - v) <= _width(x)
    )
    # The last frame stays within the same tolerance.
    yield from _compare(
        "step of the scan",
        x.step_deg,
        y.step_deg,
        shown,
        lambda u, v: abs(u - v) * n <= 5 * _width(x),
    )
    yield from _compare(
        "angles of the frames",
        x.angles_deg,
        y.angles_deg,
        lambda v: f"{v[0]:.6g} to {v[-1]:.6g}°",
        lambda u, v: len(u) == len(v) and bool(np.abs(u - v).max() <= _width(x)),
    )


# ------------------------------------------------------------------------------- sum


def write_sum(
    path: Path,
    repeats: Sequence[Repeat],
    saturation: float | None,
    size: int,
    progress: Callable[[Iterator[Any]], Iterator[Any]] = iter,
) -> SumType:
    """Write the sum of scans that were taken under equal conditions.

    Parameters
    ----------
    saturation : float or None
        Counts from which a pixel of one scan is saturated.
    size : int
        Frames held in memory at a time.
    progress : callable
        Wraps the iterator over the blocks.

    Returns
    -------
    SumType
        Type in which the sum is stored.

    Raises
    ------
    HklflowError
        If the frames are not integers, or a scan cannot be read.
    """
    kinds = types_of_sum(repeats, saturation)
    for kind in kinds:
        # If a count needs 64 bits, the whole stack is written again in 64 bits.
        if _write(path, repeats, saturation, kind, size, progress):
            return kind
    raise HklflowError(
        f"a sum of {', '.join(r.name for r in repeats)} is above {kinds[-1].limit}, the limit of "
        f"{kinds[-1].dtype}; the frames are damaged or do not contain counts"
    )


def types_of_sum(repeats: Sequence[Repeat], saturation: float | None) -> list[SumType]:
    """Return the types in which a sum can be stored, the smallest first.

    Raises
    ------
    HklflowError
        If the frames are not integers.
    """
    for repeat in repeats:
        # Name the file in the error.
        try:
            largest_count(repeat.frames.dtype, saturation)
        except HklflowError as error:
            raise HklflowError(f"{repeat.name}: {error}") from error
    return list(sum_types([repeat.frames.dtype for repeat in repeats], saturation))


class _DoesNotFitError(Exception):
    """Error for a sum above the limit of the chosen type."""


def _write(
    path: Path,
    repeats: Sequence[Repeat],
    saturation: float | None,
    kind: SumType,
    size: int,
    progress: Callable[[Iterator[Any]], Iterator[Any]],
) -> bool:
    _, slow, fast = repeats[0].frames.shape
    try:
        with NXmxWriter(path, _described(repeats, kind)) as writer:
            parts = zip(*(repeat.frames.blocks(size) for repeat in repeats), strict=True)
            for blocks in progress(parts):
                total = FrameSum((len(blocks[0]), slow, fast))
                for block in blocks:
                    total.add(block, saturation)
                stored = total.stored(kind)
                if stored is None:
                    raise _DoesNotFitError
                writer.append(stored)
    except _DoesNotFitError:
        return False
    return True


def _described(repeats: Sequence[Repeat], kind: SumType) -> NXmxHeader:
    header, shape = header_of_sum(repeats, kind), repeats[0].frames.shape
    masks = [repeat.mask for repeat in repeats if repeat.mask is not None]
    return replace(
        described(header, shape[1:], shape[0]),
        dtype=kind.dtype,
        saturation=kind.saturation,
        pixel_mask=np.bitwise_or.reduce(masks) if masks else None,
    )


def header_of_sum(repeats: Sequence[Repeat], kind: SumType) -> Header:
    """Return the header of the sum: common values, and values that are added or averaged."""
    headers = [repeat.header for repeat in repeats]
    masks = [repeat.mask != 0 for repeat in repeats if repeat.mask is not None]
    temperatures = [h.temperature for h in headers if h.temperature is not None]
    return replace(
        headers[0],
        saturation=kind.saturation,
        readouts=sum(header.readouts or 1 for header in headers),
        exposure_time=_added([h.exposure_time for h in headers]),
        monitor=_added([h.monitor for h in headers]),
        temperature=float(np.mean(temperatures)) if temperatures else None,
        pixel_mask=np.bitwise_or.reduce(masks) if masks else None,
    )


def _added(values: Sequence[Any]) -> Any:
    return None if values[0] is None else reduce(np.add, values)
