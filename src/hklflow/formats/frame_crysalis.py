"""Frames of CrysAlisPro: angles, mounting of the detector, notes.

Directions are those of the class ``FormatROD`` of dxtbx, in this program's lab frame: omega, theta
and phi turn clockwise seen from above, kappa clockwise seen from the detector; the rows go upwards.
The software zero corrections are added to the motors' angles.
"""

import math

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.formats.frame_headers import (
    DOWN,
    LEFT,
    RIGHT,
    SMALL,
    UP,
    UPSTREAM,
    Axis,
    Fields,
    ImageDirections,
    Mounting,
    complete,
    rotation,
    two_lines,
)


def crysalis_axes(alpha: float | None, angles: dict[str, tuple[float, float]]) -> list[Axis]:
    """Return the axes of a kappa goniometer; alpha: angle between kappa and omega, degrees."""
    if alpha is None or not angles:
        return []
    tilt = math.radians(alpha)
    kappa = (0.0, -math.cos(tilt), -math.sin(tilt))
    directions = {"omega": DOWN, "kappa": kappa, "phi": DOWN}
    return [Axis(name, directions[name], *angles[name]) for name in directions]


def _binning(fields: Fields) -> tuple[int, int]:
    """Return by how many pixels the frame is binned, x and y."""
    x, y = (int(n or 1) for n in (fields.numbers("binning") or [1, 1])[:2])
    return int(fields.positive("lbx") or x), int(fields.positive("lby") or y)


def _beam(fields: Fields, x: float, y: float) -> tuple[float, float]:
    """Return the origin (x, y) in pixels of the frame.

    The descriptions do not say which pixels count in binned frames: the beam meets the detector
    near its middle with the arm at zero, so the nearer of the two is taken (and reported).
    """
    bins = _binning(fields)
    middle = (fields.shape[1] / 2, fields.shape[0] / 2)
    whole, binned = (x, y), (x / bins[0], y / bins[1])
    return min(whole, binned, key=lambda place: math.dist(place, middle))


def _crysalis_mounting(
    fields: Fields, theta: float, rotations: list[float], facts: tuple[float, ...] | None
) -> Mounting | None:
    """Return the mounting; facts: pixel x, y and distance in mm, origin x, y in pixels."""
    if facts is None or min(facts[:3]) <= 0:
        return None
    px, py, distance = facts[:3]
    x, y = _beam(fields, *facts[3:])
    placed = rotation(DOWN, theta)
    if len(rotations) > 1:
        placed = placed @ rotation(LEFT, rotations[1]) @ rotation(UPSTREAM, rotations[0])
    return Mounting(UP, RIGHT, (1e-3 * py, 1e-3 * px), (y, x), 1e-3 * distance, placed)


def _binning_note(fields: Fields, origin: tuple[float, ...] | None) -> list[str]:
    """Return the note on the beam centre of binned frames."""
    bins = _binning(fields)
    if max(bins) == 1 or origin is None:
        return []
    x, y = _beam(fields, *origin)
    pixels = "binned pixels" if (x, y) == origin else "pixels before binning"
    return [
        f"the frames are binned {bins[0]} x {bins[1]}: the origin {origin[0]:g}, {origin[1]:g} is "
        f"taken to be in {pixels} (beam centre {x:g}, {y:g}), and the pixel size to be that of a "
        "binned pixel; check both, or give a --calibration"
    ]


def _zero_note(zeros: dict[str, float]) -> list[str]:
    """Return the note on the software zero corrections (degrees)."""
    listed = ", ".join(f"{name} {zero:g}°" for name, zero in zeros.items() if abs(zero) > SMALL)
    if not listed:
        return []
    return [
        f"the software zero corrections are added to the angles ({listed}); no public description "
        "states their sign: if peaks are not indexed, check the beam centre"
    ]


def _crysalis_notes(
    lines: list[float], third: float | None, beta: float | None, beam: list[float]
) -> list[str]:
    notes = []
    if len(lines) > 1 and lines[1] - lines[0] > 1e-4:
        notes.append(two_lines(lines[0], lines[1]))
    unused = {"third rotation of the detector": third, "beta of the goniometer": beta}
    unused |= {f"rotation of the beam about e{2 + i}": value for i, value in enumerate(beam)}
    notes += [
        f"not used: {name}, {value:g}°"
        for name, value in unused.items()
        if value is not None and abs(value) > SMALL
    ]
    return notes


_OXFORD_AXES = ("omega", "theta", "kappa", "phi")
_ESPERANTO_AXES = ("om", "th", "ka", "ph")


def oxford_angles(fields: Fields) -> dict[str, tuple[float, float]]:
    """Return start and end of each axis in degrees, with the zero corrections added."""
    steps = np.degrees(np.nan_to_num(fields.numbers("radians per step")))
    start, end, zero = (np.array(fields.numbers(key)) for key in ("start", "end", "zero"))
    pairs = zip((start + zero) * steps, (end + zero) * steps, strict=True)
    return {name: (float(a), float(b)) for name, (a, b) in zip(_OXFORD_AXES, pairs, strict=True)}


def oxford_mounting(fields: Fields, image: ImageDirections | None) -> Mounting | None:
    """Return the mounting of an OD SAPPHIRE file."""
    facts = complete(
        fields.number("pixel size", 0),
        fields.number("pixel size", 1),
        fields.number("distance"),
        fields.number("origin", 0),
        fields.number("origin", 1),
    )
    theta = oxford_angles(fields)["theta"][0]
    return _crysalis_mounting(fields, theta, fields.numbers("detector rotation"), facts)


def oxford_notes(fields: Fields) -> list[str]:
    """Return notes on facts of an OD SAPPHIRE file that are not used."""
    if fields.number("detector type") in {12, 14}:
        raise HklflowError(
            f"{fields.path} is of a curved HyPix-Arc detector; hklflow reduces flat detectors only"
        )
    steps = np.degrees(np.nan_to_num(fields.numbers("radians per step")))
    zeros = dict(zip(_OXFORD_AXES, steps * fields.numbers("zero"), strict=True))
    notes = _binning_note(fields, complete(fields.number("origin"), fields.number("origin", 1)))
    if (gain := fields.positive("gain")) is not None and gain != 1:
        notes.append(
            f"not used: gain, {gain:.4g}; if the detector is a CCD, set `import_scan: gain` to it "
            "(ADU per photon) or to `measure`"
        )
    return (notes + _zero_note(zeros)) + _crysalis_notes(
        fields.numbers("wavelengths")[:2],
        fields.number("detector rotation", 2),
        fields.number("beta"),
        fields.numbers("beam rotation"),
    )


def esperanto_angles(fields: Fields) -> dict[str, tuple[float, float]]:
    """Return start and end of each axis in degrees, with the zero corrections added."""
    angles = {}
    for name, short in zip(_OXFORD_AXES, _ESPERANTO_AXES, strict=True):
        start, end = fields.number(f"d{short}_s"), fields.number(f"d{short}_e")
        zero = fields.number(f"dzerocorrectionsoftindeg_{short}") or 0.0
        if start is None or end is None:
            return {}
        angles[name] = (start + zero, end + zero)
    return angles


def esperanto_mounting(fields: Fields, image: ImageDirections | None) -> Mounting | None:
    """Return the mounting of an Esperanto file."""
    facts = complete(
        fields.number("drealpixelsizex"),
        fields.number("drealpixelsizey"),
        fields.number("ddistanceinmm"),
        fields.number("dxorigininpix"),
        fields.number("dyorigininpix"),
    )
    theta = esperanto_angles(fields).get("theta", (0.0, 0.0))[0]
    rotations = [fields.number(f"detectorrotindeg_{axis}") or 0.0 for axis in "xy"]
    return _crysalis_mounting(fields, theta, rotations, facts)


def esperanto_notes(fields: Fields) -> list[str]:
    """Return notes on facts of an Esperanto file that are not used."""
    zeros = {
        name: fields.number(f"dzerocorrectionsoftindeg_{short}") or 0.0
        for name, short in zip(_OXFORD_AXES, _ESPERANTO_AXES, strict=True)
    }
    origin = complete(fields.number("dxorigininpix"), fields.number("dyorigininpix"))
    lines = [fields.number(key) or 0.0 for key in ("dalpha1", "dalpha2")]
    beam = [fields.number(key) or 0.0 for key in ("dbeam2indeg", "dbeam3indeg")]
    notes = _binning_note(fields, origin) + _zero_note(zeros)
    notes += _crysalis_notes(
        lines, fields.number("detectorrotindeg_z"), fields.number("dbetaindeg"), beam
    )
    if (thickness := fields.number("dsithicknessmmforpixeldetector")) is not None and thickness > 0:
        notes.append(f"not used: thickness of the sensor, {thickness:g} mm")
    return notes
