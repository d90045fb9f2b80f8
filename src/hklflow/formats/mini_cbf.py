"""Headers of CBF images: the text of PILATUS and EIGER detectors, and imgCIF axes.

Axes that a header states go before the table of instruments (`formats.instruments`), and the table
before the usual mounting (seen from the sample, fast to the right and slow downwards).
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.cbf_columns import columns, transmission
from hklflow.formats.cbf_fields import Fields, head
from hklflow.formats.header import Header, per_frame
from hklflow.formats.imgcif import ImgCif, read_imgcif
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

_COUNTERS = re.compile("pilatus|eiger", re.IGNORECASE)
"""Detectors that count photons, by the name in the header."""


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
    if axes is not None and choices.instrument is not None:
        notes.append("the imgCIF axes are not used, because --option instrument is stated")
        axes = None
    detector, doubt, thickness = _detector(first, axes, row, choices, shape, notes)
    if detector is not None and thickness is not None:
        detector = replace(detector, sensor_thickness=thickness)
    material = re.search(r"^#?\s*(\S.*?)\s+sensor,\s*thickness", first.block, re.MULTILINE)
    goniometer = _goniometer(first, axes, row, choices, notes)
    bad = pixels < 0
    flux, filters, exposures = columns(files, ("Flux", "Filter_transmission", "Exposure_time"))
    if flux.doubt is not None:
        notes.append(f"{flux.doubt}, or set `import_scan: {{monitor: none}}`")
    header = Header(
        n_frames=len(files),
        wavelength=_stated(first.number("Wavelength"), stated.wavelength),
        detector=detector,
        detector_doubt=doubt,
        goniometer=goniometer,
        sensor_material=None if material is None else material[1],
        exposure_time=_exposures(files, shape, stated)
        if exposures.values is None
        else per_frame(exposures.values),
        monitor=flux.values,
        monitor_doubt=flux.doubt
        and f"{flux.doubt}, so there is no monitor: correct the headers, "
        "or set `import_scan: {monitor: none}`",
        transmission=transmission(filters, row, choices, notes),
        # 0 is the value of a field that nobody filled in.
        polarization=first.number("Polarization") or None,
        saturation=_stated(first.number("Count_cutoff"), stated.saturation),
        # In a miniCBF negative counts are flags: -1 between modules, -2 bad pixel.
        pixel_mask=bad if np.any(bad) else None,
        notes=None,
        integrates=False if _COUNTERS.search(first.line("Detector") or "") else None,
    )
    start, step = _angles(files, first, axes, choices, shape, notes)
    return replace(header, start_deg=start, step_deg=step, notes=tuple(notes) or None)


def _exposures(
    files: list[Path], shape: tuple[int, int], stated: ImgCif
) -> float | NDArray[np.float64] | None:
    """Return the exposure of the frames from their imgCIF part."""
    last = read_imgcif(head(files[-1]), shape, str(files[-1])) if len(files) > 1 else None
    if stated.exposure_time is None or last is None or last.exposure_time == stated.exposure_time:
        return stated.exposure_time
    parts = [read_imgcif(head(path), shape, str(path)) or ImgCif() for path in files]
    return per_frame([part.exposure_time or 0.0 for part in parts])


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
    if axes is not None and axes.detector is not None and choices.arm is None:
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
    empty = beam == (0.0, 0.0)
    detector = flat_detector(shape, pixel, distance, None if empty else beam, row, thickness)
    if empty and detector is None:
        why = "Beam_xy is (0, 0) in the header, an empty field: give the row a `calibration`"
        return None, why, thickness
    if axes is not None and choices.arm is not None and detector is None:
        raise HklflowError(
            "--option arm moves the detector of the text header, but the text header of "
            f"{fields.path} does not state pixel size, distance and beam centre: leave the option "
            "out, then the imgCIF axes place the detector"
        )
    if axes is not None and axes.doubt is not None:
        notes.append(f"{axes.doubt}: the detector is taken from the text header")
    if row is not None and row.centred and (empty or beam is None) and detector is not None:
        notes.append(
            f"no beam centre in the header: {row.where} has it at the detector's centre "
            f"({row.source}); calibrate, or refine the detector"
        )
    arm = _arm(fields, axes, choices, notes)
    moved, doubt = on_arm(detector, arm, row, choices)
    if moved is not None and arm:
        source = "--option arm" if choices.arm is not None or row is None else row.source
        notes.append(f"the detector's arm is at {arm:g} degrees; its axis is from {source}")
    return moved, doubt, thickness


def _arm(fields: Fields, axes: ImgCif | None, choices: Choices, notes: list[str]) -> float | None:
    """Return the angle of the arm for the detector of the text header, degrees."""
    text = fields.number("Detector_2theta")
    other = None if axes is None else axes.arm_deg
    if not other or text == other:
        return text
    if text is None or (text == 0 and choices.arm is not None):
        return other
    notes.append(
        f"Detector_2theta {text:g} degrees of the text header is used; the imgCIF axes have "
        f"{other:g}"
    )
    return text


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


def _compare_angles(fields: Fields, axes: ImgCif, notes: list[str]) -> None:
    """Note where the text header contradicts the angles of the imgCIF axes, which are used."""
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
        return known if choices.axis is None else _scanned_by_choice(axes, choices, fields.path)
    if row is None:
        return None
    return goniometer_of(
        row,
        settings,
        scanned,
        row.axes_of(fields.line("Oscillation_axis") or "", fields.number("Alpha") or 0.0),
        notes,
    )


def _scanned_by_choice(axes: ImgCif, choices: Choices, path: Path) -> Goniometer:
    """Return the goniometer of the imgCIF axes, with the scanned axis that the user states.

    Raises
    ------
    HklflowError
        If it is no axis, or another axis moves and the angles of the stated one are not known.
    """
    known, axis = axes.goniometer, choices.axis
    assert known is not None
    assert axis is not None
    if axis not in known.names:
        raise HklflowError(
            f"--option axis={axis} is none of the imgCIF axes in {path} "
            f"({', '.join(known.names)}): name one of these, or state --option instrument=NAME"
        )
    scan = known.names.index(axis)
    if scan != known.scan and axes.step_deg is not None and choices.step_deg is None:
        raise HklflowError(
            f"{known.names[known.scan]} moves in the imgCIF axes of {path}, not {axis}: leave "
            f"--option axis out, or state the angles too, axis={axis}=start:step"
        )
    return replace(known, scan=scan)


def _angles(
    files: list[Path],
    first: Fields,
    axes: ImgCif | None,
    choices: Choices,
    shape: tuple[int, int],
    notes: list[str],
) -> tuple[float | None, float | None]:
    """Return start and step of the scan in degrees; None if they are not known.

    Raises
    ------
    HklflowError
        If the last image does not start where it should.
    """
    if choices.step_deg is not None:
        return choices.start_deg, choices.step_deg
    text = first.number("Start_angle"), first.number("Angle_increment")
    start, step = text
    if axes is not None and axes.step_deg is not None:
        _compare_angles(first, axes, notes)
        start, step = axes.start_deg, axes.step_deg
    # A step of 0 in a scan is an empty field, and then the start is empty too.
    if not step:
        return None, None
    if len(files) > 1:
        _require_followed(files, (start, step), text, shape)
    return start, step


def _require_followed(
    files: list[Path],
    used: tuple[float | None, float],
    text: tuple[float | None, float | None],
    shape: tuple[int, int],
) -> None:
    """Require that the last image is where start and step say, by the part of the header used."""
    start, step = used
    last = Fields(head(files[-1]), files[-1])
    end = last.number("Start_angle")
    if used != text:
        axes = read_imgcif(last.text, shape, str(files[-1]))
        if axes is not None and axes.start_deg not in (None, start):
            require_end(files, start, step, axes.start_deg)
            return
        # The axes state only the start of the scan; the text header states that of each frame.
        start, step = text[0], text[1] or step
    require_end(files, start, step, end)


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
