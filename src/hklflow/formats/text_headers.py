"""What the user states about headers that leave it open, and numbers in text headers."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.formats.instruments import Axes, Instrument, Unit, Vector, recognised, to_lab
from hklflow.geometry import Detector, Goniometer, rotation_matrix

LENGTHS = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6}
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Choices:
    """Facts about headers that the user states; None: as the header and the table say.

    Attributes
    ----------
    instrument : Instrument or None
        Instrument that wrote the headers.
    axis : str or None
        Name of the scanned axis.
    start_deg, step_deg : float or None
        Start of the scan and width of a frame, degrees.
    arm : (3,) tuple or None
        Axis of the detector's arm, a lab vector.
    transmission : str or None
        Unit of the filters' transmission; `none` leaves it out.
    """

    instrument: Instrument | None = None
    axis: str | None = None
    start_deg: float | None = None
    step_deg: float | None = None
    arm: Vector | None = None
    transmission: Unit | None = None

    def any(self) -> bool:
        """Return True if something is stated, so that the header alone gives another result."""
        return self != NOTHING_STATED

    def instrument_of(self, files: str, header: str) -> Instrument | None:
        """Return the stated instrument, or else the instrument that the header names."""
        return self.instrument or recognised(files, header)


NOTHING_STATED = Choices()


def length_in_metres(number: str, unit: str, path: Path) -> float:
    """Return a length in metres.

    Raises
    ------
    HklflowError
        If the unit is unknown.
    """
    if unit not in LENGTHS:
        raise HklflowError(
            f"the length {number} {unit} in the header of {path} has no known unit "
            f"({', '.join(LENGTHS)}); correct the header, or give the geometry with a calibration"
        )
    return float(number) * LENGTHS[unit]


def on_arm(
    detector: Detector | None, degrees: float | None, row: Instrument | None, choices: Choices
) -> tuple[Detector | None, str | None]:
    """Return the detector rotated with its arm, and the reason if the axis of the arm is unknown.

    Parameters
    ----------
    detector : Detector or None
        Detector with its arm at zero.
    degrees : float or None
        Angle of the arm.
    row : Instrument or None
        Instrument that wrote the header.
    """
    if detector is None or not degrees:
        return detector, None
    axis = choices.arm
    if axis is None and row is not None and row.arm is not None:
        x, y, z = to_lab(row.arm)
        axis = (float(x), float(y), float(z))
    if axis is None:
        return None, (
            f"the header says that the detector's arm is at {degrees:g} degrees, but not about "
            "which axis: give --option arm=x,y,z to `hklflow import` (lab vector of the axis, "
            "such as -1,0,0), --option instrument=NAME, or a `calibration` made with the arm at "
            "this angle"
        )
    turn = rotation_matrix(np.asarray(axis) / np.linalg.norm(axis), np.radians(degrees))
    moved = Detector(
        detector.shape,
        detector.pixel_size,
        turn @ detector.origin,
        turn @ detector.slow,
        turn @ detector.fast,
        sensor_thickness=detector.sensor_thickness,
    )
    return moved, None


def flat_detector(
    shape: tuple[int, int],
    pixel: tuple[float, float] | None,
    distance: float | None,
    beam: tuple[float, float] | None,
    row: Instrument | None,
    thickness: float | None = None,
) -> Detector | None:
    """Return a detector normal to the beam; pixel and beam are (slow, fast), beam in pixels.

    Without an instrument, the usual mounting is assumed: seen from the sample, fast runs to the
    right (-lab x) and slow downwards (-lab y).
    """
    if row is not None and row.centred and beam is None:
        beam = (shape[0] / 2, shape[1] / 2)
    if pixel is None or distance is None or beam is None:
        return None
    slow, fast = to_lab(
        [(0.0, -1.0, 0.0), (1.0, 0.0, 0.0)] if row is None else [row.slow, row.fast]
    )
    origin = -beam[0] * pixel[0] * slow - beam[1] * pixel[1] * fast
    origin = origin + np.array([0.0, 0.0, distance])
    return Detector(shape, pixel, origin, slow, fast, sensor_thickness=thickness)


def goniometer_of(
    row: Instrument,
    settings: dict[str, float],
    scanned: str | None,
    axes: Axes,
    notes: list[str],
) -> Goniometer | None:
    """Return the goniometer of an instrument, with a note; None if an axis is not in the table.

    Parameters
    ----------
    settings : dict of float
        Angles of the motors in the header, degrees.
    scanned : str or None
        Name of the scanned motor.
    axes : Axes
        Axes of the instrument; a single axis is the scanned axis, whatever its name.
    """
    if not axes:
        return None
    if len(axes) == 1:
        axes = ((scanned or axes[0][0], axes[0][1]),)
    names = [name for name, _ in axes]
    scanned = scanned or names[0]
    others = [f"{n}={v:g}" for n, v in settings.items() if v and n not in names]
    if scanned not in names:
        others.append(scanned)
    if others:
        x, y, z = to_lab(axes[0][1]) + 0.0
        notes.append(
            f"{row.where} has the axis {names[0]}={x:g},{y:g},{z:g} ({row.source}), but the "
            f"direction of {', '.join(others)} is not known: set `import_scan: axes`"
        )
        return None
    notes.append(f"the direction of {', '.join(names)} is that of {row.where} ({row.source})")
    return Goniometer(
        tuple(names),
        to_lab([vector for _, vector in axes]) + 0.0,
        np.radians([settings.get(name, 0.0) for name in names]),
        names.index(scanned),
    )


def parse_axis(text: str | None) -> tuple[str | None, float | None, float | None]:
    """Return name, start and step of ``phi`` or ``phi=0:0.1`` (degrees).

    Raises
    ------
    HklflowError
        If the text has another form.
    """
    if text is None:
        return None, None, None
    match = re.fullmatch(rf"([A-Za-z]\w*)(?:=({NUMBER}):({NUMBER}))?", text.strip())
    if match is None or (match[3] is not None and float(match[3]) == 0):
        raise HklflowError(
            f"--option axis={text} is not the name of an axis, or name=start:step in degrees such "
            "as axis=phi=0:0.1"
        )
    return (
        match[1],
        None if match[2] is None else float(match[2]),
        None if match[3] is None else float(match[3]),
    )


def parse_vector(text: str | None) -> Vector | None:
    """Return the lab vector ``x,y,z``.

    Raises
    ------
    HklflowError
        If the text is not three numbers, or they have no direction.
    """
    if text is None:
        return None
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        x = y = z = 0.0
    if not 0 < np.linalg.norm((x, y, z)) < np.inf:
        raise HklflowError(f"--option arm={text} is not a lab vector x,y,z such as -1,0,0")
    return x, y, z


def parse_unit(text: str | None) -> Unit | None:
    """Return the unit of a transmission.

    Raises
    ------
    HklflowError
        If it is not a unit.
    """
    units: dict[str, Unit] = {"fraction": "fraction", "percent": "percent", "none": "none"}
    if text is None or text in units:
        return None if text is None else units[text]
    raise HklflowError(f"--option transmission={text} is none of fraction, percent and none")
