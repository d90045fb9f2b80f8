"""Assemble one rotation scan from the tables, the calibration and the header of the raw file.

Precedence: tables and configuration, then the calibration (for detector, wavelength and
polarisation), then the header of the raw file. One message reports all missing values.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.formats.header import Header
from hklflow.geometry import correction, left_out, plausible
from hklflow.images.pixel_binning import PixelBinning
from hklflow.images.scan import RotationScan

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Said:
    """Values from tables and configuration; see `hklflow.stages.import_scan` for the fields."""

    wavelength: float | None = None
    polarization: float | None = None
    axes: dict[str, tuple[float, float, float]] | None = None
    angles: dict[str, float] = field(default_factory=dict)
    scan_axis: str | None = None
    detector: Sequence[str] = ()
    start: float | None = None
    step: float | None = None
    n_frames: int | None = None
    first_frame: int = 0
    last_frame: int | None = None
    leave_out: Sequence[str] = ()
    monitor: str = "file"
    exposure: float | None = None
    attenuation: float | None = None
    saturation: float | None = None
    temperature: float | None = None
    binning: int = 1


_AXIS = re.compile(r"(?:([A-Za-z0-9][A-Za-z0-9.+-]*):)?([^:]*=.*)")


def axes_by_rotation(texts: Sequence[str]) -> dict[str | None, tuple[str, ...]]:
    """Return the texts of goniometer axes by the name of the rotation in front; None: no name."""
    groups: dict[str | None, tuple[str, ...]] = {}
    for text in texts:
        match = _AXIS.fullmatch(text)
        # `parse_axes` refuses a text of another form.
        key, axis = match.groups() if match else (None, text)
        groups[key] = (*groups.get(key, ()), axis)
    return groups


def parse_axes(texts: Sequence[str]) -> dict[str, tuple[float, float, float]] | None:
    """Return the goniometer axes of texts ``name=x,y,z``; None if there are no texts.

    Raises
    ------
    HklflowError
        If a text does not have this form.
    """
    axes: dict[str, tuple[float, float, float]] = {}
    for text in texts:
        name, _, vector = (part.strip() for part in text.partition("="))
        try:
            x, y, z = (float(part) for part in vector.split(","))
            if not name:
                raise ValueError("no name")
        except ValueError as error:
            raise HklflowError(
                f"goniometer axis {text!r} is not `name=x,y,z`, such as `phi=-1,0,0`"
            ) from error
        if name in axes or not 0 < math.hypot(x, y, z) < math.inf:
            what = "is given twice" if name in axes else "has no direction"
            raise HklflowError(f"goniometer axis {text!r} {what}; give each axis once, as a vector")
        axes[name] = (x, y, z)
    return axes or None


def calibrated_binning(data: dict[str, Any], path: Path) -> PixelBinning | None:
    """Return the binning of the frames a calibration product was made from; None: as measured.

    Raises
    ------
    HklflowError
        If the binning in the file is damaged.
    """
    if (made := data.get("binning")) is None:
        return None
    try:
        slow, fast = made["unbinned"]
        return PixelBinning(int(made["factor"]), (int(slow), int(fast)))
    except (LookupError, TypeError, ValueError) as error:
        raise HklflowError(
            f"the binning in {path} is damaged ({type(error).__name__}: {error}); calibrate again"
        ) from error


def calibrated(
    data: dict[str, Any], path: Path, any_binning: bool = False
) -> tuple[geometry.Detector, geometry.Beam]:
    """Return the detector and the beam of a calibration product.

    Parameters
    ----------
    any_binning : bool
        Accept a calibration of binned frames, too. The caller compares `calibrated_binning`.

    Raises
    ------
    HklflowError
        If the file is not a calibration product, or one of binned frames.
    """
    made = calibrated_binning(data, path)
    if made is not None and not any_binning:
        raise HklflowError(
            f"{path} is a calibration of {made.words}, which is never used for frames as measured; "
            "give a calibration of the frames as measured"
        )
    if "detector" not in data or "beam" not in data:
        raise HklflowError(f"{path} contains no detector geometry; give a calibration product")
    beam = data["beam"]
    try:
        return (
            geometry.detector_from_dict(data["detector"]),
            geometry.Beam(float(beam["wavelength_A"]), float(beam["polarization"])),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise HklflowError(
            f"the geometry in {path} is damaged ({type(error).__name__}: {error}); calibrate again"
        ) from error


def scan(
    raw: str,
    shape: tuple[int, int, int],
    header: Header,
    said: Said,
    detector: geometry.Detector | None,
    beam: geometry.Beam | None,
) -> RotationScan:
    """Assemble and check one scan.

    Parameters
    ----------
    raw : str
        File or pattern, for messages and the record.
    shape : (n, slow, fast)
        Shape of the raw frames.
    detector, beam
        From the calibration, or None.

    Raises
    ------
    HklflowError
        If a value is missing or contradicts the frames; one message reports all problems.
    """
    problems: list[str] = []
    n_raw = shape[0]
    frames, out = _frames(said, n_raw, problems)
    used = np.zeros(n_raw, np.bool_)
    used[frames] = True
    used[list(out)] = False
    beam = _beam(header, said, beam, problems)
    detector = _detector(
        detector or header.detector, said, shape[1:], header.detector_doubt, problems
    )
    goniometer = _goniometer(header, said, problems)
    start, step = _angles(header, said, n_raw, problems)
    exposure = _exposures(header, said, used, problems)
    monitor = _monitor(header, said, used, exposure, problems)
    attenuation = _attenuation(header, said, used, problems)
    temperature = _plausible(
        _first(said.temperature, header.temperature), plausible.temperature_problem, problems
    )
    if said.temperature is None and header.temperature_doubt is not None:
        problems.append(header.temperature_doubt)
    saturation = _plausible(
        _first(said.saturation, header.saturation), plausible.saturation_problem, problems
    )
    underload = _first(header.underload, 0.0)
    if not math.isfinite(underload):
        problems.append(f"the smallest valid value (underload) is {underload:g}: correct the file")
    if problems:
        raise HklflowError(f"{raw}: " + "; ".join(problems))
    # A missing value is a problem above.
    assert beam
    assert detector
    assert goniometer
    n = frames.stop - frames.start
    angles = geometry.Scan(np.radians(start + step * frames.start), np.radians(step), n)
    return RotationScan(
        raw=raw,
        first=frames.start,
        rotation=geometry.Rotation(beam, detector, goniometer, angles),
        monitor=monitor[frames],
        exposure=exposure[frames],
        attenuation=attenuation[frames],
        monitor_source="none" if said.monitor == "none" else raw,
        temperature=temperature,
        saturation=saturation,
        underload=underload,
        left_out=out,
    )


def incident(header: Header, said: Said, n_raw: int, problems: list[str]) -> Floats:
    """Return the incident intensity of each raw frame: monitor times transmission of attenuators.

    Problems are added to ``problems``; their cures name keys of `import_scan`.
    """
    used = np.ones(n_raw, np.bool_)
    exposure = _exposures(header, said, used, problems)
    monitor = _monitor(header, said, used, exposure, problems)
    return monitor * _attenuation(header, said, used, problems)


def _plausible(
    value: float | None,
    problem_of: Callable[[float], str | None],
    problems: list[str],
    missing: str | None = None,
) -> float | None:
    """Return the value; note its problem, or that it is missing."""
    problem = missing if value is None else problem_of(value)
    problems += [problem] if problem else []
    return value


def _frames(said: Said, n_raw: int, problems: list[str]) -> tuple[slice, tuple[int, ...]]:
    """Return the raw frames that are used, and those within the raw file that are left out."""
    if said.n_frames not in (None, n_raw):
        problems.append(
            f"the raw file has {n_raw} frames but the scan table expects {said.n_frames}: it is "
            "truncated or still being written, or the table's `frames` is wrong"
        )
    last = n_raw - 1 if said.last_frame is None else said.last_frame
    if not 0 <= said.first_frame <= last < n_raw:
        problems.append(
            f"frames {said.first_frame} to {last} are not within 0 to {n_raw - 1}: set "
            "`first_frame` and `last_frame`"
        )
        last = n_raw - 1
    return slice(said.first_frame, last + 1), _left_out(said, n_raw, last, problems)


def _beam(
    header: Header, said: Said, beam: geometry.Beam | None, problems: list[str]
) -> geometry.Beam | None:
    wavelength = _plausible(
        _first(said.wavelength, beam.wavelength if beam else None, header.wavelength),
        plausible.wavelength_problem, problems,
        "the wavelength is not known: set `import_scan: wavelength` in Å",
    )  # fmt: skip
    polarization = _first(
        said.polarization, beam.polarization if beam else None, header.polarization
    )
    if polarization is None or not 0 <= polarization <= 1:
        what = "not known" if polarization is None else f"{polarization:g}, outside 0 to 1"
        problems.append(
            f"the polarisation is {what}: set `import_scan: polarization` (0.5: unpolarised)"
        )
    if wavelength is None or polarization is None:
        return None
    return geometry.Beam(float(wavelength), float(polarization))


def _detector(
    detector: geometry.Detector | None,
    said: Said,
    shape: tuple[int, int],
    doubt: str | None,
    problems: list[str],
) -> geometry.Detector | None:
    """Return the detector with the stated corrections."""
    if detector is None:
        problems.append(
            doubt or "the detector's geometry is not known: give the row a `calibration`"
        )
    elif tuple(detector.shape) != tuple(shape):
        problems.append(
            f"frames have {shape} pixels but the geometry has {detector.shape}: give the "
            "calibration of this detector"
        )
    else:
        detector = _corrected(detector, said, problems)
        if (problem := plausible.detector_problem(detector)) is not None:
            problems.append(problem)
    return detector


def _corrected(detector: geometry.Detector, said: Said, problems: list[str]) -> geometry.Detector:
    try:
        correct = correction.of_items(said.detector).binned(said.binning)
    except ValueError as error:
        problems.append(f"`detector`: {error}")
        return detector
    if correct.mirrored and detector.modules is not None:
        problems.append(
            "`detector`: the calibration has displaced modules, which cannot be mirrored: "
            "calibrate with the `orientation` of the images"
        )
    return correct.applied(detector)


def _left_out(said: Said, n_raw: int, last: int, problems: list[str]) -> tuple[int, ...]:
    """Return the numbers of the raw frames that are left out."""
    frames: set[int] = set()
    for item in said.leave_out:
        rotation, first, end = left_out.parse(item)
        if rotation is not None:
            problems.append(f"`leave_out` {item!r}: give the frames of this rotation only")
        elif end >= n_raw:
            problems.append(
                f"`leave_out` {item!r}: the raw frames are numbered 0 to {n_raw - 1}; give numbers "
                "in this range"
            )
        else:
            frames.update(range(first, end + 1))
    if frames and frames.issuperset(range(said.first_frame, last + 1)):
        problems.append("`leave_out` leaves no frame: take the row out of the scan table instead")
    return tuple(sorted(frames))


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _goniometer(header: Header, said: Said, problems: list[str]) -> geometry.Goniometer | None:
    known = header.goniometer
    if said.axes is not None:
        names = tuple(said.axes)
        axes: ArrayLike = list(said.axes.values())
        settings = {}
        scan_axis = said.scan_axis or (names[0] if len(names) == 1 else None)
    elif known is not None:
        names, axes = known.names, known.axes
        settings = dict(zip(names, np.degrees(known.angles), strict=True))
        # The scanned axis has no fixed angle: the header's angle of this axis is not used.
        del settings[names[known.scan]]
        scan_axis = said.scan_axis or names[known.scan]
    else:
        problems.append("the goniometer is not known: set `import_scan: axes` in the configuration")
        return None
    # An axis at 0 that has no direction changes nothing, and may not exist.
    angles_of = {n: angle for n, angle in said.angles.items() if angle != 0 or n in names}
    unknown = [name for name in (*angles_of, scan_axis or "") if name and name not in names]
    if scan_axis is None or unknown:
        what = f"no goniometer axis {', '.join(unknown)}" if unknown else "unknown scan axis"
        problems.append(f"{what} (the axes are {', '.join(names)}): name one of them")
        return None
    settings = {scan_axis: 0.0} | settings | angles_of
    missing = [name for name in names if name not in settings]
    if missing:
        problems.append(
            f"the angle of goniometer axis {', '.join(missing)} is not known: give it in the "
            "scan table, `axis=degrees`"
        )
        return None
    for name in names:
        if (problem := plausible.setting_problem(name, settings[name])) is not None:
            problems.append(problem)
    angles = np.radians([settings[name] for name in names])
    return geometry.Goniometer(names, np.asarray(axes, float), angles, names.index(scan_axis))


def _angles(header: Header, said: Said, n_raw: int, problems: list[str]) -> tuple[float, float]:
    start, step = said.start, said.step
    known = header.goniometer
    if known is None or said.scan_axis in (None, known.names[known.scan]):
        # The angles of the header belong to the axis that the header names as scanned.
        start, step = _first(start, header.start_deg), _first(step, header.step_deg)
    if step is None and header.angles_deg is not None:
        bad = np.flatnonzero(~np.isfinite(header.angles_deg))
        if len(bad):
            what = f"not all known (frame {bad[0]} has {header.angles_deg[bad[0]]:g})"
        else:
            steps = np.diff(header.angles_deg)
            at = int(np.argmax(np.abs(steps - np.median(steps))))
            what = (
                f"not evenly spaced (steps from {steps.min():g} to {steps.max():g} deg, "
                f"{steps[at]:g} deg from frame {at} to {at + 1})"
            )
        problems.append(
            f"the scan angles are {what}: give `axis=start:step` in the scan table if the "
            "steps were equal, or split the scan"
        )
        return 0.0, 1.0
    if start is None or step is None or step == 0:
        problems.append(
            f"the start ({start}) or the step ({step}) of the scan is not known: give both in "
            "the scan table, `axis=start:step` in degrees"
        )
        return 0.0, 1.0
    if (problem := plausible.step_problem(start, step)) is None and None in (said.start, said.step):
        # Only a header can be in radians: a value in a table is in degrees.
        problem = plausible.radian_doubt(start, step, n_raw)
    if problem is not None:
        problems.append(problem)
        return 0.0, 1.0
    return float(start), float(step)


def _exposures(header: Header, said: Said, used: NDArray[np.bool_], problems: list[str]) -> Floats:
    """Return the exposure of each raw frame."""
    n_raw = len(used)
    stated = _first(said.exposure, header.exposure_time)
    if stated is None:
        problems.append("the exposure time is not known: set `import_scan: exposure` in seconds")
        return np.ones(n_raw)
    times = np.asarray(stated, dtype=np.float64)
    if times.shape not in ((), (n_raw,)):
        problems.append(
            f"the exposure times have the shape {times.shape} for {n_raw} frames: correct the "
            "file, or set `import_scan: exposure` in seconds"
        )
        return np.ones(n_raw)
    times = np.broadcast_to(times, (n_raw,))
    checked = times[used] if used.any() else times
    for worst in (checked.min(), checked.max()):
        if (problem := plausible.exposure_problem(float(worst))) is not None:
            problems.append(problem)
            return np.ones(n_raw)
    return _completed(times, (times > 0) & np.isfinite(times), used)


def _monitor(
    header: Header,
    said: Said,
    used: NDArray[np.bool_],
    exposure: Floats,
    problems: list[str],
) -> Floats:
    n_raw = len(used)
    if said.monitor == "none":
        # A monitor counts during the exposure; without a monitor the exposure time replaces it.
        return exposure
    if said.monitor != "file":
        problems.append(f"monitor {said.monitor!r} is neither `file` nor `none`")
        return np.ones(n_raw)
    if header.monitor is None:
        problems.append(
            header.monitor_doubt
            or "the raw file has no monitor: set `import_scan: {monitor: none}` if the "
            "experiment has none"
        )
        return np.ones(n_raw)
    monitor = np.asarray(header.monitor, dtype=np.float64)
    if monitor.shape != (n_raw,):
        problems.append(
            f"the monitor has the shape {monitor.shape} for {n_raw} frames: correct the file, or "
            "set `import_scan: {monitor: none}`"
        )
        return np.ones(n_raw)
    good = np.isfinite(monitor) & (monitor > 0)
    if len(bad := np.flatnonzero(used & ~good)):
        items = ", ".join(left_out.written(bad.tolist()))
        problems.append(
            f"the monitor must have one positive value for each of {n_raw} frames (frame {bad[0]} "
            f"has {monitor[bad[0]]:g}): leave out the frames without beam "
            f"(`import_scan: {{leave_out: [{items}]}}`), or set "
            "`import_scan: {monitor: none}`"
        )
        return np.ones(n_raw)
    low, high = plausible.MONITORS
    good &= (monitor >= low) & (monitor <= high)
    if len(bad := np.flatnonzero(used & ~good)):
        items = ", ".join(left_out.written(bad.tolist()))
        problems.append(
            f"the monitor of frame {bad[0]} is {monitor[bad[0]]:g}, outside the plausible range "
            f"{low:g} to {high:g}: copy the file again, leave such frames out "
            f"(`import_scan: {{leave_out: [{items}]}}`), or set "
            "`import_scan: {monitor: none}`"
        )
        return np.ones(n_raw)
    return _completed(monitor, good, used)


def _attenuation(
    header: Header, said: Said, used: NDArray[np.bool_], problems: list[str]
) -> Floats:
    n_raw = len(used)
    # A beamline without attenuators records no transmission: then it is 1.
    transmission = np.asarray(_first(said.attenuation, header.transmission, 1.0), dtype=np.float64)
    fits = transmission.shape in ((), (1,), (n_raw,))
    values = np.broadcast_to(transmission, (n_raw,)) if fits else transmission
    good = (values > plausible.FAINTEST) & (values <= 1)
    if not fits or not good[used].all():
        problems.append(
            f"the transmission of the attenuators (shape {transmission.shape}, "
            f"{transmission.min():g} to {transmission.max():g}) must be above "
            f"{plausible.FAINTEST:g} and at most 1, one value or one for each of {n_raw} frames: "
            "set `import_scan: attenuation`"
        )
        return np.ones(n_raw)
    return _completed(values, good, used)


def _completed(values: Floats, good: NDArray[np.bool_], used: NDArray[np.bool_]) -> Floats:
    """Replace bad values of unused frames by the median of the used frames."""
    if good.all() or not used.any():
        return values.copy()
    return np.where(good, values, np.median(values[used]))


def summary(scan: RotationScan) -> str:
    """Return one line with the main values, for a person to check."""
    rotation = scan.rotation
    angles = np.degrees(rotation.scan.angle(np.array([0, rotation.scan.n_frames])))
    settings = ", ".join(
        f"{name} {np.degrees(angle):g}"
        for i, (name, angle) in enumerate(
            zip(rotation.goniometer.names, rotation.goniometer.angles, strict=True)
        )
        if i != rotation.goniometer.scan
    )
    out = len(scan.left_out)
    return (
        f"{rotation.scan.n_frames} frames{f' ({out} left out)' if out else ''}, "
        f"{rotation.goniometer.names[rotation.goniometer.scan]} {angles[0]:g} to {angles[1]:g} deg"
        f"{' at ' + settings if settings else ''}, wavelength {rotation.beam.wavelength:g} Å, "
        f"distance {1e3 * rotation.detector.distance:.3f} mm"
    )
