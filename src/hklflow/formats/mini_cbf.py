"""Headers of CBF images: the text of PILATUS and EIGER detectors, and imgCIF axes.

Axes that a header states go before the table of instruments (`formats.instruments`), and the table
before the usual mounting (seen from the sample, fast to the right and slow downwards).
"""

import bz2
import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.header import Header
from hklflow.formats.imgcif import ImgCif, plain_name, read_imgcif
from hklflow.formats.instruments import Instrument
from hklflow.formats.text_headers import (
    NUMBER,
    Choices,
    flat_detector,
    goniometer_of,
    length_in_metres,
    on_arm,
)
from hklflow.geometry import Detector, Goniometer

MOTORS = ("omega", "chi", "kappa", "phi")

_LONGEST = 1 << 20  # bytes of a header
_PIXELS = b"\x0c\x1a\x04\xd5"
_COMMENTS = {"This", "Template", "CBF_template_file"}
_USED = {"Detector", "Pixel_size", "Exposure_time", "Count_cutoff", "Wavelength", "Beam_xy"}
_USED |= {"Detector_distance", "Flux", "Filter_transmission", "Start_angle", "Angle_increment"}
_USED |= {"Detector_2theta", "Polarization", "Oscillation_axis", "Alpha"}
_USED |= {name for motor in MOTORS for name in (motor.title(), f"{motor.title()}_increment")}


def head(path: Path) -> str:
    """Return the text of a CBF before its pixels, also of a compressed file."""
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
    text = b""
    try:
        with openers.get(path.suffix.lower(), open)(path, "rb") as file:
            while _PIXELS not in text and len(text) < _LONGEST:
                part = file.read(16384)
                if not part:
                    break
                text += part
    except (OSError, EOFError) as error:
        raise HklflowError(
            f"the header of {path} cannot be read ({error}); the file is damaged: copy it again"
        ) from error
    return text.partition(_PIXELS)[0].decode("latin-1").replace("\r\n", "\n")


@dataclass(frozen=True)
class Fields:
    """Fields of the text header of one image.

    Attributes
    ----------
    text : str
        Whole text of the file before its pixels.
    path : Path
        The file, for messages.
    """

    text: str
    path: Path

    @property
    def block(self) -> str:
        """The lines of the text header, without imgCIF."""
        contents = self.text.partition("_array_data.header_contents")[2] or self.text
        return re.split(r"\n(?=_|loop_|--CIF)", contents)[0]

    def line(self, key: str) -> str | None:
        """Return the text behind a key; None if the header does not have it."""
        match = re.search(rf"^#?\s*{key}\s*[:=]?\s+(.*)$", self.block, re.MULTILINE)
        return None if match is None else match[1].strip()

    def number(self, key: str) -> float | None:
        """Return the value of a line ``# Key value unit``; None if it is absent or "not set"."""
        match = re.match(NUMBER, self.line(key) or "")
        return None if match is None else float(match[0])

    def length(self, key: str) -> float | None:
        """Return a length in metres; None if it is absent or "not set"."""
        match = re.match(rf"({NUMBER})\s*(\S*)", self.line(key) or "")
        if match is None:
            return None
        return length_in_metres(match[1], match[2].strip("().,"), self.path)

    def motors(self, suffix: str = "") -> dict[str, float]:
        """Return the angles of the goniometer's motors, or their increments, degrees."""
        values = {name: self.number(f"(?i:{name}){suffix}") for name in MOTORS}
        return {name: value for name, value in values.items() if value is not None}

    def settings(self, row: Instrument | None = None) -> dict[str, float]:
        """Return the motors that exist: a header may have columns of another goniometer.

        Zero kappa and alpha beside chi are an Eulerian cradle; with alpha, chi is no motor.
        """
        motors, alpha = self.motors(), self.number("Alpha") or 0.0
        if row is not None and row.chi_is_omega and alpha and "chi" in motors:
            motors["omega"] = motors.pop("chi")
        if "chi" in motors and "kappa" in motors:
            if alpha == 0 and motors["kappa"] == 0:
                del motors["kappa"]
            elif alpha != 0 and motors["chi"] == 0:
                del motors["chi"]
        return motors

    def scanned(self) -> str | None:
        """Return the name of the scanned motor; None if the header does not name it.

        Raises
        ------
        HklflowError
            If several motors move.
        """
        moving = [name for name, step in self.motors("_increment").items() if step]
        if len(moving) > 1:
            raise HklflowError(
                f"{', '.join(moving)} move during the scan, as the header of {self.path} says; "
                "hklflow reduces scans of one axis"
            )
        word = plain_name((self.line("Oscillation_axis") or "").split(" ")[0])
        # `X.CW` and `X, CW` are directions, which camserver writes whatever moves.
        return word if word in MOTORS else (moving[0] if moving else None)

    def unused(self) -> list[str]:
        """Return the fields that hklflow does not use, with their values."""
        fields = re.findall(r"^#\s*([A-Z]\w*)\s*[:=]?\s+(.*)$", self.block, re.MULTILINE)
        listed = [
            f"{key} {value.strip()}"
            for key, value in fields
            if key not in _USED | _COMMENTS and "sensor, thickness" not in value
        ]
        offset = self.number("Detector_Voffset")
        return [text for text in listed if offset or not text.startswith("Detector_Voffset")]


def read_cbf(files: list[Path], pixels: NDArray[Any], choices: Choices) -> Header:
    """Read the headers of a series of CBF images.

    Parameters
    ----------
    files : list of Path
    pixels : (slow, fast) array
        First image.

    Raises
    ------
    HklflowError
        If a number in a header cannot be read, or the angles of the first and the last image
        contradict the step.
    """
    first = Fields(head(files[0]), files[0])
    row = choices.instrument_of("CBF", first.text)
    shape = (int(pixels.shape[0]), int(pixels.shape[1]))
    axes = read_imgcif(first.text, shape, str(files[0]))
    stated = axes or ImgCif()
    notes: list[str] = []
    detector, doubt, thickness = _detector(first, axes, row, choices, shape, notes)
    if detector is not None and thickness is not None:
        detector = replace(detector, sensor_thickness=thickness)
    material = re.search(r"^#?\s*(\S.*?)\s+sensor,\s*thickness", first.block, re.MULTILINE)
    goniometer = _goniometer(first, axes, row, choices, notes)
    bad = pixels < 0
    flux, filters = _every_frame(files)
    header = Header(
        n_frames=len(files),
        wavelength=_stated(first.number("Wavelength"), stated.wavelength),
        detector=detector,
        detector_doubt=doubt,
        goniometer=goniometer,
        sensor_material=None if material is None else material[1],
        exposure_time=_stated(first.number("Exposure_time"), stated.exposure_time),
        monitor=flux,
        transmission=_transmission(filters, row, choices, notes),
        polarization=first.number("Polarization"),
        saturation=_stated(first.number("Count_cutoff"), stated.saturation),
        # In a miniCBF negative counts are flags: -1 between modules, -2 bad pixel.
        pixel_mask=bad if np.any(bad) else None,
        notes=None,
    )
    start, step = _angles(files, first, axes, choices)
    return replace(header, start_deg=start, step_deg=step, notes=tuple(notes) or None)


def _stated(text: float | None, axes: float | None) -> float | None:
    """Return the value of the text header, or of the imgCIF part if it is absent or 0."""
    return axes if axes is not None and not text else text


def _detector(
    fields: Fields,
    axes: ImgCif | None,
    row: Instrument | None,
    choices: Choices,
    shape: tuple[int, int],
    notes: list[str],
) -> tuple[Detector | None, str | None, float | None]:
    """Return the detector, the reason if it is not known, and the thickness of the sensor."""
    thickness = None
    if match := re.search(rf"thickness\s+({NUMBER})\s*(\S+)", fields.block):
        thickness = length_in_metres(match[1], match[2].strip(","), fields.path)
        if not thickness < 0.1:
            notes.append(f"a sensor {thickness:g} m thick is impossible: the thickness is not used")
            thickness = None
    if row is not None and row.unsupported:
        return None, f"{row.where}: {row.unsupported}", thickness
    if axes is not None and axes.detector is not None:
        _compare(fields, axes, notes)
        return axes.detector, None, thickness
    pixel = beam = None
    size = rf"Pixel_size\s+({NUMBER})\s*(\S+)\s*x\s*({NUMBER})\s*(\S+)"
    if match := re.search(size, fields.block):
        # The header gives fast x slow.
        pixel = (
            length_in_metres(match[3], match[4], fields.path),
            length_in_metres(match[1], match[2], fields.path),
        )
    if match := re.search(rf"Beam_xy\s+\(\s*({NUMBER})\s*,\s*({NUMBER})\s*\)", fields.block):
        beam = (float(match[2]), float(match[1]))
    distance = fields.length("Detector_distance")
    detector = flat_detector(shape, pixel, distance, beam, row, thickness)
    if axes is not None and axes.doubt is not None:
        notes.append(f"{axes.doubt}: the detector is taken from the text header")
    if row is not None and row.centred and beam is None and detector is not None:
        notes.append(
            f"no beam centre in the header: {row.where} has it at the detector's centre "
            f"({row.source}); calibrate, or refine the detector"
        )
    arm = fields.number("Detector_2theta")
    moved, doubt = on_arm(detector, arm, row, choices)
    if moved is not None and arm:
        source = "--option arm" if choices.arm is not None or row is None else row.source
        notes.append(f"the detector's arm is at {arm:g} degrees; its axis is from {source}")
    return moved, doubt, thickness


def _compare(fields: Fields, axes: ImgCif, notes: list[str]) -> None:
    """Note where the text header contradicts the imgCIF axes, which are used."""
    assert axes.detector is not None
    arm, distance = fields.number("Detector_2theta"), fields.length("Detector_distance")
    if arm is not None and abs(arm - axes.arm_deg) > 0.1:
        notes.append(
            f"Detector_2theta is {arm:g} degrees in the text header, but {axes.arm_deg:g} in the "
            "imgCIF axes, which are used"
        )
    elif axes.arm_deg:
        notes.append(f"the detector's arm is at {axes.arm_deg:g} degrees, as the imgCIF axes say")
    if distance and abs(axes.detector.distance / distance - 1) > 0.01:
        notes.append(
            f"Detector_distance is {1e3 * distance:g} mm in the text header, but "
            f"{1e3 * axes.detector.distance:g} mm in the imgCIF axes, which are used"
        )
    start, step = fields.number("Start_angle"), fields.number("Angle_increment")
    if start is None or not step or axes.start_deg is None or axes.step_deg is None:
        return
    if abs(start - axes.start_deg) > 0.05 * abs(step) or abs(step / axes.step_deg - 1) > 0.01:
        notes.append(
            f"Start_angle {start:g} and Angle_increment {step:g} of the text header are not those "
            f"of the imgCIF axes, {axes.start_deg:g} and {axes.step_deg:g}, which are used"
        )


def _goniometer(
    fields: Fields,
    axes: ImgCif | None,
    row: Instrument | None,
    choices: Choices,
    notes: list[str],
) -> Goniometer | None:
    """Return the goniometer of the imgCIF axes or of the instrument; None if it is not known."""
    settings, scanned = fields.settings(row), choices.axis or fields.scanned()
    if axes is not None and axes.goniometer is not None:
        known = axes.goniometer
        extra = [f"{n} {v:g}" for n, v in settings.items() if v and n not in known.names]
        if extra:
            notes.append(
                f"{', '.join(extra)} of the text header has no axis in the imgCIF part: the axes "
                "are used as they stand there"
            )
        if choices.axis is not None and choices.axis in known.names:
            return replace(known, scan=known.names.index(choices.axis))
        return known
    if row is None:
        return None
    return goniometer_of(
        row,
        settings,
        scanned,
        row.axes_of(fields.line("Oscillation_axis") or "", fields.number("Alpha") or 0.0),
        notes,
    )


def _angles(
    files: list[Path], first: Fields, axes: ImgCif | None, choices: Choices
) -> tuple[float | None, float | None]:
    """Return start and step of the scan in degrees; None if they are not known.

    Raises
    ------
    HklflowError
        If the last image does not start where it should.
    """
    if choices.step_deg is not None:
        return choices.start_deg, choices.step_deg
    start, step = first.number("Start_angle"), first.number("Angle_increment")
    if axes is not None and axes.step_deg is not None:
        start, step = axes.start_deg, axes.step_deg
    # A step of 0 in a scan is an empty field, and then the start is empty too.
    if not step:
        return None, None
    if len(files) > 1:
        last = Fields(head(files[-1]), files[-1]).number("Start_angle")
        require_end(files, start, step, last)
    return start, step


def require_end(files: list[Path], start: float | None, step: float, last: float | None) -> None:
    """Require that the last image starts where a scan of all images has it.

    Raises
    ------
    HklflowError
        If it starts elsewhere.
    """
    if start is None or last is None:
        return
    expected = start + step * (len(files) - 1)
    off = (last - expected + 180) % 360 - 180
    if abs(off) > 0.05 * abs(step):
        raise HklflowError(
            f"the last image {files[-1]} starts at {last:g}° but {len(files)} frames of {step:g}° "
            f"from {start:g}° should end with {expected:g}°; frames are missing or the header is "
            "wrong: give the angles in scans.tsv"
        )


def _every_frame(
    files: list[Path],
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return flux and filter transmission of each frame.

    None: a header lacks the field, or it has its idle value 0.
    """
    columns: dict[str, list[float] | None] = {"Flux": [], "Filter_transmission": []}
    for path in files:
        fields = Fields(head(path), path)
        for key, values in columns.items():
            if values is not None:
                value = fields.number(key)
                columns[key] = [*values, value] if value else None
        if not any(columns.values()):
            return None, None
    flux, filters = (None if v is None else np.array(v) for v in columns.values())
    return flux, filters


def _transmission(
    filters: NDArray[np.float64] | None,
    row: Instrument | None,
    choices: Choices,
    notes: list[str],
) -> float | NDArray[np.float64] | None:
    """Return the transmission of the filters as a fraction, and note its unit where it is open."""
    if filters is None:
        return None
    unit = choices.transmission or (row.transmission if row is not None else None)
    high = float(filters.max())
    shown = f"{filters.min():g}" + (f" to {high:g}" if np.ptp(filters) else "")
    if unit is None:
        # The field has no unit. A fraction cannot exceed 1.
        unit = "percent" if 1 < high <= 100 else "fraction"
        if unit == "percent":
            notes.append(f"Filter_transmission {shown} is above 1, so it is in per cent")
        elif high != 1:
            notes.append(
                f"Filter_transmission {shown} is taken as a fraction; if this instrument writes "
                "per cent: --option transmission=percent"
            )
    elif unit == "percent":
        notes.append(f"Filter_transmission {shown} is in per cent")
    values = filters / (100 if unit == "percent" else 1)
    return values if np.ptp(values) else float(values[0])
