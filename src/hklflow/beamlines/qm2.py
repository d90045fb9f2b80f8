"""QM2 of CHESS (ID4B): fly scans of phi in a SPEC file, and stacks of CBF images.

The SPEC file has the name of the sample. Next to it are the images,
``raw6M/<sample>/<label>/<temperature>/<sample>_<scan>/``. Folders, counters and the axes with
their signs are those of NXRefine's plugin for QM2.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Found, FoundScan, Request, Unmatched, joined
from hklflow.beamlines.grouping import Single, grouped
from hklflow.beamlines.images import numbered
from hklflow.beamlines.spec_angles import angles_of, uneven
from hklflow.beamlines.spec_counters import (
    attenuation_of,
    column_of,
    exposure_of,
    monitor_of,
    motor_of,
)
from hklflow.beamlines.tree import folders, is_experiment
from hklflow.formats import spec
from hklflow.formats.header import Header
from hklflow.formats.nxrefine import goniometer_of
from hklflow.formats.raw import IMAGE_SUFFIXES, open_frames
from hklflow.formats.spec import Floats, SpecScan

_MONITOR = "flyc1"
_TEMPERATURE = "sampleT"
_ENDS = 2  # readings at each end of a fly scan that may be outliers
_OUTLIER = 0.05  # relative difference from the next good reading


class QM2:
    """Plugin for beamline QM2 of CHESS."""

    name = "qm2"
    summary = "SPEC file with CBF stacks of beamline QM2 (ID4B) at CHESS"
    options: Mapping[str, str] = {
        "angles": "part of a frame to which the column phi belongs: start, middle (default), end",
        "uneven": "largest deviation of an angle from even steps, in steps",
        "label": "folder below the sample's: the crystal; default: all",
    }

    def find(self, request: Request) -> Found:
        """Search for scans; see `hklflow.beamlines.Beamline`."""
        source = request.source
        if not source.is_file():
            raise HklflowError(f"{source} is a folder; enter the SPEC file, named like the sample")
        if request.options.get("angles", "middle") not in {"start", "middle", "end"}:
            raise HklflowError(f"angles is {request.options['angles']!r}; use start, middle or end")
        uneven(request)
        scans = {s.number: s for s in spec.read_spec_scans(source) if isinstance(s, SpecScan)}
        top = source.parent if request.raw is None else Path(request.raw).absolute()
        stacks = _stacks(top, source.name, request)
        singles: list[Single] = []
        lost: list[Unmatched] = []
        for number, folder in stacks:
            if not request.wants(number):
                continue
            try:
                if number not in scans:
                    raise HklflowError(f"{source.name} has no readable scan {number}")
                singles.append(_single(scans[number], folder, request))
            except HklflowError as error:
                lost.append(Unmatched(str(folder), str(error)))
        if not singles and not lost:
            raise HklflowError(
                f"no folder {source.name}_NNN with images is below {top}; name the folder of the "
                "images: --raw FOLDER"
            )
        return Found(tuple(grouped(request, singles)), unmatched=tuple(lost))


def _stacks(top: Path, sample: str, request: Request) -> list[tuple[int, Path]]:
    """Return scan number and folder of each stack of images."""
    name = re.compile(rf"{re.escape(sample)}_(\d+)", re.ASCII)
    label = request.options.get("label")
    found = []
    for folder, _ in folders(top, skip=is_experiment, depth=7):
        match = name.fullmatch(folder.name)
        if match is not None and label in (None, folder.parent.parent.name):
            found.append((int(match[1]), folder))
    return sorted(found)


def _single(scan: SpecScan, folder: Path, request: Request) -> Single:
    """Return the rotation of one scan."""
    series = numbered([p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES])
    series = [one for one in series if len(one.images) > 1]
    if len(series) != 1:
        raise HklflowError(f"it has {len(series)} series of images, not one")
    [images] = series
    if fault := images.fault():
        raise HklflowError(fault)
    n = len(images.images)
    scan, notes = _of_frames(scan, n)
    start, step, remarks = angles_of(scan, "phi", request)
    temperature = column_of(scan, _TEMPERATURE)
    exposure = exposure_of(scan, True)
    monitor, monitor_notes = _monitor(scan, request)
    with open_frames(images.pattern) as frames:
        shape = frames.shape[1:]
    header = Header(
        wavelength=scan.wavelength,
        goniometer=goniometer_of(_settings(scan)),
        start_deg=start,
        step_deg=step,
        n_frames=n,
        exposure_time=None if exposure is None else exposure[0],
        monitor=monitor,
        transmission=attenuation_of(scan, None, request),
        temperature=None if temperature is None else round(float(temperature.mean()), 2),
    )
    sample, label, warm = request.source.name, folder.parent.parent.name, folder.parent.name
    digits = re.fullmatch(r"(\d+(?:[p.]\d+)?)K?", warm)
    return Single(
        FoundScan(
            "",
            "",
            "",
            images.pattern,
            joined(request.facts, header),
            (shape[0], shape[1]),
            where=f"scan {scan.number} of {sample}, {label} {warm}",
            notes=(*notes, *remarks, *monitor_notes),
        ),
        f"{label}_{f'{digits[1]}K' if digits else warm}_s{scan.number}",
        f"{sample}-{label}",
    )


def _of_frames(scan: SpecScan, n_frames: int) -> tuple[SpecScan, list[str]]:
    """Return the scan with one point for each frame: a fly scan may log more."""
    points = scan.n_points
    if points < n_frames:
        raise HklflowError(
            f"scan {scan.number} has {points} points for {n_frames} images; it was aborted, or the "
            "images are of another scan"
        )
    if points == n_frames:
        return scan, []
    columns = {key: values[:n_frames] for key, values in scan.columns.items()}
    note = f"{points} points for {n_frames} images: the first {n_frames} are used"
    return replace(scan, columns=columns), [note]


def _settings(scan: SpecScan) -> list[float]:
    """Return theta, omega and chi of NXRefine, in degrees."""
    degrees = {}
    for circle in ("th", "chi"):
        motor = motor_of(scan, circle)
        if motor is None:
            raise HklflowError(f"the header of scan {scan.number} has no motor {circle}")
        degrees[circle] = scan.motors[motor]
    return [degrees["th"], 0.0, 90.0 - degrees["chi"]]


def _monitor(scan: SpecScan, request: Request) -> tuple[Floats | None, list[str]]:
    """Return the monitor of each frame, without the outliers at the ends of fly scans."""
    named = request.monitor or (_MONITOR if column_of(scan, _MONITOR) is not None else None)
    values, notes = monitor_of(scan, None, replace(request, monitor=named))
    if values is None:
        return None, notes
    notes = [] if request.monitor else [f"monitor: {_MONITOR}"]
    values = values.copy()
    if len(values) > 4 * _ENDS:
        for ends, inner in ((slice(None, _ENDS), _ENDS), (slice(-_ENDS, None), -_ENDS - 1)):
            if np.any(np.abs(values[ends] - values[inner]) > _OUTLIER * abs(values[inner])):
                values[ends] = values[inner]
                place = "first" if inner > 0 else "last"
                notes.append(
                    f"the {place} {_ENDS} readings of {named} are outliers, as at the ends of fly "
                    "scans: the next reading is used"
                )
    return values, notes


plugin = QM2()
