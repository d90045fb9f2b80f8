"""Facts in the headers of single frames: how a table entry becomes geometry and measurement.

`hklflow.formats.frame_table` says where each format keeps its facts, and in which units and
directions; this module turns the facts of the first and the last frame into a `Header`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.header import Header
from hklflow.geometry import Detector, Goniometer, rotation_matrix
from hklflow.images.gain import Stated

Vector = tuple[float, float, float]
ImageDirections = tuple[Vector, Vector]
"""Directions of increasing columns and of increasing rows."""

# Directions in the lab frame as seen from the sample, looking along the beam.
UP: Vector = (0.0, 1.0, 0.0)
DOWN: Vector = (0.0, -1.0, 0.0)
RIGHT: Vector = (-1.0, 0.0, 0.0)
LEFT: Vector = (1.0, 0.0, 0.0)
DOWNSTREAM: Vector = (0.0, 0.0, 1.0)
UPSTREAM: Vector = (0.0, 0.0, -1.0)

SMALL = 0.01  # degrees; smaller angles of a detector or a beam are zero
IMAGES = {
    f"{column},{row}": (columns, rows)
    for column, columns in (("right", RIGHT), ("left", LEFT))
    for row, rows in (("up", UP), ("down", DOWN))
}
"""Directions of increasing columns and rows by their names, as seen from the sample."""

_MOVED = 1e-4  # degrees; encoders and rounding stay below


@dataclass(frozen=True)
class Image:
    """One frame that this program decodes itself, with the attributes of fabio's images."""

    header: Mapping[str, Any]
    data: NDArray[Any]
    nframes: int = 1


@dataclass(frozen=True)
class Fields:
    """Header of a frame as the format has it; errors name the file and the key."""

    path: Path
    values: Mapping[str, Any]
    shape: tuple[int, int]

    def text(self, key: str) -> str:
        """Return the text of a key; empty if it is absent."""
        value = self.values.get(key)
        return "" if value is None else str(value).strip()

    def numbers(self, key: str) -> list[float]:
        """Return all numbers of a key, which may be a text of words or a sequence."""
        value = self.values.get(key)
        if value is None:
            return []
        words = value.split() if isinstance(value, str) else np.ravel(value).tolist()
        try:
            return [float(word) for word in words]
        except ValueError:
            raise HklflowError(
                f"{key} is {str(value)[:60]!r} in {self.path}, not numbers; fix the header"
            ) from None

    def number(self, key: str, index: int = 0, scale: float = 1.0) -> float | None:
        """Return one number of a key, times a scale; None if it is absent."""
        numbers = self.numbers(key)
        return numbers[index] * scale if index < len(numbers) else None

    def positive(self, key: str, index: int = 0, scale: float = 1.0) -> float | None:
        """Return one number of a key, times a scale; None if it is absent, zero or negative."""
        value = self.number(key, index, scale)
        return value if value is not None and value > 0 else None


@dataclass(frozen=True)
class StatedDirections:
    """Directions in the laboratory that the user states; None: as the header says.

    Attributes
    ----------
    image : ImageDirections or None
        Directions of increasing columns and of increasing rows.
    arm : Vector or None
        Axis of the detector's arm.
    """

    image: ImageDirections | None = None
    arm: Vector | None = None


NO_DIRECTIONS = StatedDirections()


@dataclass(frozen=True)
class Axis:
    """A goniometer axis: its lab vector with all angles at zero, or None, and its angles (degrees).

    The axis fixed to the laboratory is the first.
    """

    name: str
    direction: Vector | None
    start: float
    end: float

    @property
    def moves(self) -> bool:
        """True if the angle changes during the frame."""
        return abs(self.end - self.start) > _MOVED


@dataclass(frozen=True)
class Mounting:
    """Detector at zero of all its axes, and the rotation (3, 3) that takes it to its place.

    Attributes
    ----------
    slow, fast : Vector
    pixel : (slow, fast)
        Metres.
    beam : (slow, fast)
        Pixels, from the corner of the first pixel; at zero of all axes.
    distance : float
        Metres.
    rotation : (3, 3) array
    """

    slow: Vector
    fast: Vector
    pixel: tuple[float, float]
    beam: tuple[float, float]
    distance: float
    rotation: NDArray[np.float64]

    def detector(self, shape: tuple[int, int]) -> Detector:
        """Return the detector at its place."""
        slow, fast = np.array(self.slow), np.array(self.fast)
        origin = (
            self.distance * np.array(DOWNSTREAM)
            - self.beam[0] * self.pixel[0] * slow
            - self.beam[1] * self.pixel[1] * fast
        )
        return Detector(
            shape,
            self.pixel,
            self.rotation @ origin,
            self.rotation @ slow,
            self.rotation @ fast,
        )


def rotation(axis: Vector, degrees: float) -> NDArray[np.float64]:
    """Return the right-handed rotation (3, 3) about an axis."""
    return np.asarray(rotation_matrix(np.array(axis), math.radians(degrees)))


def complete(*values: float | None) -> tuple[float, ...] | None:
    """Return the values; None if one is absent."""
    return None if None in values else tuple(value for value in values if value is not None)


def two_lines(alpha1: float, alpha2: float) -> str:
    """Return the note on a source with two lines (Å)."""
    return (
        f"Kα1 and Kα2 ({alpha1:g} and {alpha2:g} Å) are taken as one line at their mean; peaks at "
        "large angles are split"
    )


def nothing(fields: Fields) -> None:
    """Return None: the format does not state this."""


@dataclass(frozen=True)
class Format:
    """Where a format keeps its facts; each function returns None if the header lacks the fact.

    Attributes
    ----------
    source : str
        Public source of the conventions.
    wavelength : function -> float
        Å.
    exposure : function -> float
        Seconds of a frame.
    axes : function -> list of Axis
        Axes of the goniometer, the one fixed to the laboratory first.
    mounting : function of the fields and the stated directions of the image -> Mounting
        Detector at the first frame.
    unmounted : function -> str
        What to do where the mounting is not known.
    saturation : function -> float
        Counts.
    two_theta : function -> float
        Angle in degrees of a detector arm whose axis the header does not state; the mounting is
        then the one at zero of the arm.
    scanned : function -> str
        Name of the scanned axis; default: the axis that moves during a frame.
    notes : function -> list of str
        Facts in the header that are not used, with the cure.
    gain : function -> Stated
        Gain, offset and read noise of an integrating detector; None: the detector counts photons.
    """

    source: str
    wavelength: Callable[[Fields], float | None]
    exposure: Callable[[Fields], float | None]
    axes: Callable[[Fields], list[Axis]]
    mounting: Callable[[Fields, ImageDirections | None], Mounting | None]
    saturation: Callable[[Fields], float | None] = nothing
    two_theta: Callable[[Fields], float | None] = nothing
    scanned: Callable[[Fields], str | None] = nothing
    unmounted: Callable[[Fields], str] = lambda fields: (
        "the header does not state the whole geometry of the detector: give a --calibration"
    )
    notes: Callable[[Fields], list[str]] = lambda fields: []
    gain: Callable[[Fields], Stated | None] = nothing


@dataclass(frozen=True)
class FrameFacts:
    """Header of a series, settings of axes without directions, and notes for the user.

    Attributes
    ----------
    header : Header
    settings : str
        Column `goniometer` of the table of scans; empty if the header has the directions.
    notes : tuple of str
    """

    header: Header
    settings: str = ""
    notes: tuple[str, ...] = ()


def series_facts(
    table: Format, first: Fields, last: Fields, n_frames: int, stated: StatedDirections
) -> FrameFacts:
    """Return the facts of a series from its first and last frame.

    Parameters
    ----------
    stated : StatedDirections

    Raises
    ------
    HklflowError
        If the angles of the last frame do not follow from those of the first.
    """
    axes = table.axes(first)
    notes = list(table.notes(first))
    scan = _scan_axis(table, first, axes)
    gain = table.gain(first)
    mounting, remarks = _mounting(table, first, stated)
    notes += remarks
    header = Header(
        wavelength=table.wavelength(first),
        exposure_time=_exposure(table.exposure(first), table.exposure(last), last.path),
        saturation=table.saturation(first),
        detector=None if mounting is None else mounting.detector(first.shape),
        n_frames=n_frames,
        integrates=None if gain is None else True,
        gain=gain,
    )
    if scan is None:
        return FrameFacts(header, "", (*notes, "the headers state no angles of the scan"))
    start, step = axes[scan].start, axes[scan].end - axes[scan].start
    _require_followed(axes, table.axes(last), scan, n_frames, last.path)
    if any(axis.direction is None for axis in axes):
        words = [f"{axis.name}={axis.start:.6g}" for i, axis in enumerate(axes) if i != scan]
        words.append(f"{axes[scan].name}={start:.8g}:{step:.8g}")
        swept = replace(header, start_deg=start, step_deg=step)
        return FrameFacts(swept, " ".join(words), tuple(notes))
    goniometer = Goniometer(
        tuple(axis.name for axis in axes),
        np.array([axis.direction for axis in axes]),
        np.radians([axis.start for axis in axes]),
        scan,
    )
    return FrameFacts(
        replace(header, start_deg=start, step_deg=step, goniometer=goniometer), "", tuple(notes)
    )


def _exposure(first: float | None, last: float | None, path: Path) -> float | None:
    """Return the exposure of a frame.

    Raises
    ------
    HklflowError
        If that of the last frame is another one.
    """
    if first is not None and last is not None and abs(last - first) > 1e-3 * first:
        raise HklflowError(
            f"the exposure is {first:g} s in the first frame and {last:g} s in the last one, "
            f"{path}: put the frames of each exposure in a folder of their own and import both"
        )
    return first


def _mounting(
    table: Format, fields: Fields, stated: StatedDirections
) -> tuple[Mounting | None, list[str]]:
    """Return the mounting of the detector, rotated with its arm, and notes; None: not known."""
    mounting = table.mounting(fields, stated.image)
    if mounting is None:
        return None, [table.unmounted(fields)]
    if stated.arm is not None and table.two_theta is nothing:
        raise HklflowError(
            f"--option arm is for MarCCD and R-AXIS images, which {fields.path} is not: leave the "
            "option out"
        )
    degrees = table.two_theta(fields) or 0.0
    if abs(degrees) <= SMALL:
        return mounting, []
    at = f"the detector arm is at {degrees:g}°"
    if stated.arm is None:
        return None, [
            f"{at} about an axis that the header does not state: give --option arm=x,y,z (lab "
            "vector of the axis, such as -1,0,0), or a --calibration"
        ]
    axis = np.array(stated.arm) / np.linalg.norm(stated.arm)
    turn = rotation_matrix(axis, math.radians(degrees))
    turned = replace(mounting, rotation=turn @ mounting.rotation)
    return turned, [f"{at}; its axis is from --option arm"]


def _scan_axis(table: Format, fields: Fields, axes: Sequence[Axis]) -> int | None:
    """Return the index of the scanned axis; None for a still image.

    Raises
    ------
    HklflowError
        If several axes move during a frame.
    """
    named = table.scanned(fields)
    moving = [i for i, axis in enumerate(axes) if axis.moves]
    if named is not None:
        moving = [i for i in moving if axes[i].name == named]
    if len(moving) > 1:
        names = ", ".join(axes[i].name for i in moving)
        raise HklflowError(
            f"{names} move during the frame {fields.path}; hklflow reduces rotations about one axis"
        )
    return moving[0] if moving else None


def _require_followed(
    axes: Sequence[Axis], last: Sequence[Axis], scan: int, n_frames: int, path: Path
) -> None:
    """Require that the last frame is where the first frame and the step say."""
    name, step = axes[scan].name, axes[scan].end - axes[scan].start
    # Some formats list only the axes that are not at zero.
    first, ends = ({axis.name: axis.start for axis in listed} for listed in (axes, last))
    for axis in dict.fromkeys((*first, *ends)):
        expected = first.get(axis, 0.0) + (step * (n_frames - 1) if axis == name else 0.0)
        end = ends.get(axis, 0.0)
        off = (end - expected + 180) % 360 - 180
        if abs(off) > 0.05 * abs(step):
            raise HklflowError(
                f"{axis} is {end:g}° in the last frame {path}, but {n_frames} frames of "
                f"{step:g}° should have it at {expected:g}°; frames are missing, or the axis moved "
                "between frames: split the series"
            )
