"""Table of the formats of single frames: where each keeps its facts, in which units and directions.

The directions are those of the lab frame as seen from the sample, looking along the beam. Each
entry names the public source of its conventions. A new format is a new entry of `FORMATS`.
"""

from typing import Any

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.formats.frame_bruker import (
    bruker_angles,
    bruker_gain,
    bruker_mounting,
    bruker_notes,
    bruker_scanned,
    bruker_unmounted,
)
from hklflow.formats.frame_crysalis import (
    crysalis_axes,
    esperanto_angles,
    esperanto_mounting,
    esperanto_notes,
    oxford_angles,
    oxford_mounting,
    oxford_notes,
)
from hklflow.formats.frame_headers import (
    DOWN,
    RIGHT,
    SMALL,
    UP,
    Axis,
    Fields,
    Format,
    ImageDirections,
    Mounting,
    Vector,
    complete,
)
from hklflow.images.gain import Stated

_STILL = np.eye(3)
_RAXIS_SCANS = ("Horizontal", "Vertical", "Front/Back")


# ------------------------------------------------------------------------ MarCCD, Rayonix

# Zero in images with the first pixel at the upper left, as seen from the sample.
_MAR_VIEW = ("origin", "orientation", "view_direction")
# The goniometer block of MarCCD counts its axes in this order.
_MAR_AXES = ("twotheta", "omega", "chi", "kappa", "phi", "delta", "gamma")


def _usual_mounting(facts: tuple[float, ...] | None, slow: Vector = DOWN) -> Mounting | None:
    """Return a detector normal to the beam; facts: pixel x, y, distance, beam x, y."""
    if facts is None or min(facts[:3]) <= 0:
        return None
    px, py, distance, x, y = facts
    return Mounting(slow, RIGHT, (py, px), (y, x), distance, _STILL)


_UNMOUNTED = "the header states no pixel size, distance or beam centre: give a --calibration"


def _marccd_axes(fields: Fields) -> list[Axis]:
    number = int(fields.number("rotation_axis") or 0)
    width = fields.number("rotation_range", scale=1e-3) or 0.0
    axes = []
    for i, name in enumerate(_MAR_AXES[1:5], start=1):
        start = fields.number(f"start_{name}", scale=1e-3)
        if start is None:
            return []
        # Some programs do not write the angle at the end.
        axes.append(Axis(name, None, start, start + (width if i == number else 0.0)))
    return axes


def _marccd_unmounted(fields: Fields) -> str:
    if any(fields.number(name) for name in _MAR_VIEW):
        values = ", ".join(f"{name} {fields.number(name) or 0:g}" for name in _MAR_VIEW)
        return f"the image is stored in another order than usual ({values}): give a --calibration"
    return _UNMOUNTED


def _marccd_mounting(fields: Fields, image: ImageDirections | None) -> Mounting | None:
    if any(fields.number(name) for name in _MAR_VIEW):
        return None
    distance = fields.positive("xtal_to_detector", scale=1e-6) or fields.positive(
        "start_xtal_to_detector", scale=1e-6
    )
    facts = complete(
        fields.positive("pixelsize_x", scale=1e-9),
        fields.positive("pixelsize_y", scale=1e-9),
        distance,
        fields.positive("beam_x", scale=1e-3),
        fields.positive("beam_y", scale=1e-3),
    )
    return _usual_mounting(facts)


def _marccd_notes(fields: Fields) -> list[str]:
    notes = []
    tilts = [fields.number(f"detector_rot{axis}", scale=1e-3) or 0.0 for axis in "xyz"]
    if max(map(abs, tilts)) > SMALL:
        notes.append(f"not used: rotations of the detector, {' '.join(f'{x:g}' for x in tilts)}°")
    return notes


def _marccd_gain(fields: Fields) -> Stated:
    photons = fields.positive("photons_per_100adu", scale=0.01)
    return Stated(None if photons is None else 1 / photons, fields.number("mean_bias", scale=1e-3))


# ------------------------------------------------------------------------ image plates


def _raxis_axes(fields: Fields) -> list[Axis]:
    datum = fields.number("Phi Datum") or 0.0
    start, stop = fields.number("Phi Oscillation Start"), fields.number("Phi Oscillation Stop")
    if start is None or stop is None:
        return []
    # The spindle is vertical or horizontal, and turns either way.
    names = ("omega", "chi", "mu")
    angles = [fields.number(f"{name.title()} Angle") or 0.0 for name in names]
    fixed = [Axis(name, None, at, at) for name, at in zip(names, angles, strict=True) if at]
    return [*fixed, Axis("phi", None, datum + start, datum + stop)]


def _raxis_mounting(fields: Fields, image: ImageDirections | None) -> Mounting | None:
    if fields.number("IP shape"):
        raise HklflowError(
            f"{fields.path} is of a curved image plate; hklflow reduces flat detectors only"
        )
    facts = complete(
        fields.positive("X Pixel Length", scale=1e-3),
        fields.positive("Y Pixel Length", scale=1e-3),
        fields.positive("Crystal-to-detector Distance", scale=1e-3),
        fields.number("Direct beam X position"),
        fields.number("Direct beam Y position"),
    )
    usual = not any(fields.number(f"{name} Scan") for name in _RAXIS_SCANS)
    return _usual_mounting(facts, slow=UP) if usual else None


def _raxis_unmounted(fields: Fields) -> str:
    if any(fields.number(f"{name} Scan") for name in _RAXIS_SCANS):
        return "the plate was read in another order than usual: give a --calibration"
    return _UNMOUNTED


# ------------------------------------------------------------------------------ the table

_BRUKER = Format(
    source="header keys: Bruker, BIS frame file formats; directions for PHOTON II and III: "
    "DIALS (dxtbx, FormatBrukerPhoton)",
    wavelength=lambda f: f.positive("WAVELEN", 0),
    exposure=lambda f: f.positive("CUMULAT", 0),
    axes=bruker_angles,
    scanned=bruker_scanned,
    mounting=bruker_mounting,
    unmounted=bruker_unmounted,
    saturation=lambda f: f.positive("CCDPARM", 4),
    notes=bruker_notes,
    gain=bruker_gain,
)

FORMATS: dict[str, Format] = {
    "Bruker100Image": _BRUKER,
    "BrukerImage": _BRUKER,
    "OxfordImage": Format(
        source="DIALS (dxtbx, FormatROD), from the vendor's description of 2016; the sum of motor "
        "angle and software zero correction counts",
        wavelength=lambda f: f.positive("wavelengths", 2),
        exposure=lambda f: f.positive("exposure"),
        axes=lambda f: crysalis_axes(f.number("alpha"), oxford_angles(f)),
        mounting=oxford_mounting,
        saturation=lambda f: f.positive("overflow threshold"),
        notes=oxford_notes,
    ),
    "EsperantoImage": Format(
        source="keys: fabio (esperantoimage); directions: as for OD SAPPHIRE files, because "
        "CrysAlisPro reads both",
        wavelength=lambda f: f.positive("dalpha12") or f.positive("dalpha1"),
        exposure=lambda f: f.positive("dexposuretimeinsec"),
        axes=lambda f: crysalis_axes(f.number("dalphaindeg"), esperanto_angles(f)),
        mounting=esperanto_mounting,
        saturation=lambda f: f.positive("loverflowthreshold"),
        notes=esperanto_notes,
    ),
    "MarccdImage": Format(
        source="header of 3072 bytes: MarUSA, in fabio (marccdimage); mounting: DIALS (dxtbx, "
        "FormatTIFFRayonix)",
        wavelength=lambda f: f.positive("source_wavelength", scale=1e-5),
        exposure=lambda f: f.positive("exposure_time", scale=1e-3),
        axes=_marccd_axes,
        mounting=_marccd_mounting,
        two_theta=lambda f: f.number("start_twotheta", scale=1e-3),
        saturation=lambda f: f.positive("saturated_value"),
        unmounted=_marccd_unmounted,
        notes=_marccd_notes,
        gain=_marccd_gain,
    ),
    "RaxisImage": Format(
        source="Rigaku, structure of the R-AXIS header; mounting: DIALS (dxtbx, FormatRAXIS)",
        wavelength=lambda f: f.positive("Wavelength"),
        exposure=lambda f: f.positive("Exposure Time", scale=60),
        axes=_raxis_axes,
        mounting=_raxis_mounting,
        two_theta=lambda f: f.number("2Theta Angle"),
        unmounted=_raxis_unmounted,
        gain=lambda f: Stated(),
    ),
}


def format_of(image: Any) -> Format | None:
    """Return the entry of an opened image; None if its header is not used."""
    return FORMATS.get(type(image).__name__)
