"""Frames of Bruker, FORMAT 86 and 100: angles, mounting of the detector, notes.

Directions are known for PHOTON II and III: those of DIALS for omega scans. Sources disagree about
CCD detectors (dxtbx, FormatBrukerFixedChi; the imgCIF description of a Kappa APEX II), and none
states those of PHOTON 100, so nothing is assumed for them. Angles are signed: with a
negative increment an axis turns backwards.
"""

from hklflow.base.errors import HklflowError
from hklflow.formats.frame_headers import (
    DOWN,
    RIGHT,
    SMALL,
    UP,
    UPSTREAM,
    Axis,
    Fields,
    ImageDirections,
    Mounting,
    rotation,
    two_lines,
)
from hklflow.images.gain import Stated

# Order of ANGLES and ENDING, counted from 1 by AXIS.
_BRUKER_AXES = ("2theta", "omega", "phi", "chi")


def bruker_angles(fields: Fields) -> list[Axis]:
    """Return the axes; the scanned one from START and INCREME, the others from ANGLES."""
    starts, ends = fields.numbers("ANGLES")[:4], fields.numbers("ENDING")[:4]
    if len(starts) < 4 or len(ends) < 4:
        return []
    turns = {"omega": UP, "chi": UPSTREAM, "phi": DOWN}
    known = _is_photon(fields)
    angles = dict(zip(_BRUKER_AXES, zip(starts, ends, strict=True), strict=True))
    scanned = bruker_scanned(fields)
    increment, width = fields.number("INCREME"), fields.number("RANGE")
    if scanned in turns and increment and width and abs(abs(increment) - abs(width)) > 0.01 * width:
        raise HklflowError(
            f"frames of {fields.path} are {width:g}° wide and begin every {increment:g}°; hklflow "
            "needs frames without gaps and overlaps"
        )
    if scanned in turns and increment:
        start = fields.number("START")
        start = angles[scanned][0] if start is None else start
        angles[scanned] = (start, start + increment)
    return [Axis(name, turns[name] if known else None, *angles[name]) for name in turns]


def bruker_scanned(fields: Fields) -> str | None:
    """Return the name of the axis that AXIS counts."""
    number = int(fields.number("AXIS") or 0)
    return _BRUKER_AXES[number - 1] if 1 <= number <= len(_BRUKER_AXES) else None


def _is_photon(fields: Fields) -> bool:
    return fields.text("DETTYPE").upper().startswith("CMOS-PHOTONII")


def bruker_mounting(fields: Fields, image: ImageDirections | None) -> Mounting | None:
    """Return the mounting: known for PHOTON II and III, else the directions must be stated."""
    # CENTER: x, y of the raw frame, then of the unwarped frame; DISTANC: to the window, then to the
    # phosphor; DETTYPE: name, pixels per cm of a frame of 512 pixels.
    centre, distance = fields.numbers("CENTER"), fields.numbers("DISTANC")
    words = fields.text("DETTYPE").split()
    directions = image or ((RIGHT, UP) if _is_photon(fields) else None)
    two_theta = fields.number("ANGLES") or 0.0
    if directions is None or (abs(two_theta) > SMALL and not _is_photon(fields)):
        return None
    if len(centre) < 2 or not distance or len(words) < 2:
        return None
    try:
        per_cm = float(words[1])
    except ValueError:
        return None
    pixel = 1e-2 / per_cm * (0.5 if _is_photon(fields) else 512 / fields.shape[1])
    x, y = centre[-2:] if len(centre) > 3 else centre[:2]
    return Mounting(
        directions[1],
        directions[0],
        (pixel, pixel),
        (y, x),
        1e-2 * distance[min(1, len(distance) - 1)],
        rotation(UP, two_theta),
    )


def bruker_notes(fields: Fields) -> list[str]:
    """Return notes on the axes and on a source with two lines."""
    notes = []
    if bruker_scanned(fields) == "phi":
        notes.append(
            "directions of the axes are certain for omega scans only: index this one alone"
        )
    lines = fields.numbers("WAVELEN")
    if len(lines) > 2 and lines[2] > lines[1] > 0:
        notes.append(two_lines(lines[1], lines[2]))
    return notes


def bruker_gain(fields: Fields) -> Stated | None:
    """Return gain and read noise; None if a photon is one ADU, as from a photon counter.

    CCDPARM: read noise in electrons, electrons per ADU, electrons per photon, bias, full scale.
    """
    parameters = fields.numbers("CCDPARM")
    if len(parameters) < 3 or min(parameters[1:3]) <= 0:
        return Stated()
    noise, per_adu, per_photon = parameters[:3]
    if per_photon == per_adu:
        return None
    return Stated(per_photon / per_adu, None, noise / per_adu if noise > 0 else None)


def bruker_unmounted(fields: Fields) -> str:
    """Return the question for the directions of the image."""
    two_theta = fields.number("ANGLES") or 0.0
    if abs(two_theta) > SMALL and not _is_photon(fields):
        return (
            f"the detector arm is at {two_theta:g}°, and which way it turns is not known: give a "
            "--calibration with the arm there"
        )
    name = fields.text("DETTYPE").partition(" ")[0] or "(not named)"
    return (
        f"the directions of columns and rows of the detector {name} are not known: --option "
        "image=right,up (or right,down, left,up, left,down), as seen from the sample"
    )
