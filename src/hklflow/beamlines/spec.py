"""SPEC files: rotation scans with circles, counters, UB and images.

A scan is a rotation scan if its command names exactly one motor, and the motor is a sample circle.
Its column has the angles; in a step scan they are the centres of the exposures. The circles are
psic's (see `hklflow.formats.spec`) or from an instrument XML.
"""

from collections import Counter as Count
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.beamlines import (
    Found,
    FoundSample,
    FoundScan,
    Request,
    Unmatched,
    joined,
    name,
    rotation_of,
    scan_name,
)
from hklflow.beamlines.grouping import common
from hklflow.beamlines.nexus import links
from hklflow.beamlines.spec_angles import EVEN, angles_of, uneven
from hklflow.beamlines.spec_counters import (
    attenuation_of,
    column_of,
    exposure_of,
    monitor_of,
    motor_of,
    temperature_of,
)
from hklflow.beamlines.spec_images import Images, NotFoundError
from hklflow.beamlines.tree import folders
from hklflow.formats import spec
from hklflow.formats.header import Header
from hklflow.formats.raw import is_hdf5, open_frames
from hklflow.formats.spec import Counter, Floats, SpecScan
from hklflow.geometry import BEAM, Detector

_FIXED_BELOW = 10.0  # degrees: narrower scans have too few reflections to refine
_AGREE = 1e-3  # largest difference between SPEC's and hklflow's Miller indices
_STEPPED = {"ascan", "dscan", "lup", "rscan"}


@dataclass(frozen=True)
class Instrument:
    """Circles of the diffractometer, and other metadata in the XML files."""

    sample: Mapping[str, Floats]
    arm: Mapping[str, Floats]
    detector: Detector | None
    monitor: Counter | None
    attenuator: Counter | None
    notes: tuple[str, ...]


class Spec:
    """Plugin for SPEC files."""

    name = "spec"
    summary = "SPEC files with images or HDF5 stacks: angles, counters and UB of every scan"
    options: Mapping[str, str] = {
        "detector": "XML file of the detector geometry with its arm at zero; default: next to the "
        "SPEC file",
        "instrument": "XML file of circles and counters; default: next to the SPEC file, else psic",
        "angles": "part of the exposure to which the angles belong: start, middle (default), end",
        "uneven": f"largest deviation of an angle from even steps, in steps; default {EVEN:g}",
        "orientation": "use of SPEC's UB: fixed, start (of a refinement) or none; default: fixed "
        f"for scans of less than {_FIXED_BELOW:g} degrees, else start",
        "wavelength": "in Å, if it is not in the file",
        "temperature": "column with the temperature in K; default: line #X, if it is in kelvin",
    }

    def find(self, request: Request) -> Found:
        """Find the rotation scans of a SPEC file, and their images."""
        _check(request)
        request = _with_file(request)
        scans = spec.read_spec_scans(request.source)
        instrument = _instrument(request)
        images = Images(request)
        # A wrong template is reported once, not once per scan.
        images.filled(request.raw or "", 0)
        twice = Count(s.number if isinstance(s, SpecScan) else s[0] for s in scans)
        pairs: list[tuple[SpecScan, FoundScan]] = []
        lost: list[Unmatched] = []
        others: list[str] = []
        for scan in scans:
            if not isinstance(scan, SpecScan):
                if request.wants(scan[0]):
                    lost.append(Unmatched(f"scan {scan[0]}", str(scan[1])))
                continue
            if not request.wants(scan.number):
                continue
            circle = _circle(scan, instrument)
            if circle is None:
                others.append(scan.command.split("(")[0].split(" ")[0] or "no command")
                continue
            what = f"scan {scan.number} ({scan.command})"
            try:
                if twice[scan.number] > 1:
                    raise NotFoundError(
                        f"the file has {twice[scan.number]} scans with this number, and it is "
                        "unknown which one the images belong to: split the file"
                    )
                pairs.append((scan, _rotation_scan(scan, circle, instrument, images, request)))
            except NotFoundError as error:
                lost.append(Unmatched(what, str(error), error.candidates))
            except HklflowError as error:
                lost.append(Unmatched(what, str(error)))
        named = _named(pairs, request)
        numbers = {str(s.number if isinstance(s, SpecScan) else s[0]) for s in scans}
        notes = [*instrument.notes, *_others(others), *_clock(scans)]
        if pairs and instrument.detector is None:
            notes.append(
                "no geometry of the detector: use --option detector=FILE.xml, or a --calibration "
                "that was made with the detector's arm at the angles of the scans"
            )
        if absent := sorted((request.scans or frozenset()) - numbers):
            notes.append(f"the file has no scan {', '.join(absent)}")
        settings = _settings(named, request)
        if settings:
            notes.append(
                f"fixed orientation: {', '.join(settings)}; with few reflections a pair "
                "distribution is not possible: set `delta_pdf: []` in config.yaml"
            )
        return Found(
            tuple(named),
            samples=_samples(pairs, named),
            unmatched=tuple(lost),
            settings=settings,
            notes=tuple(notes),
        )


plugin = Spec()


def _check(request: Request) -> None:
    """Refuse invalid options."""
    for key, choices in (
        ("angles", ("start", "middle", "end")),
        ("orientation", ("fixed", "start", "none")),
    ):
        if request.options.get(key, choices[0]) not in choices:
            raise HklflowError(f"{key} is {request.options[key]!r}; use {', '.join(choices)}")
    _wavelength(request)
    uneven(request)


def _with_file(request: Request) -> Request:
    """Return the request with the only SPEC file of a folder, if the source is a folder."""
    if not request.source.is_dir():
        return request
    _, inside = next(folders(request.source))
    paths = [path for path in inside if path.is_file() and _is_spec(path)]
    if len(paths) == 1:
        return replace(request, source=paths[0])
    names = ", ".join(path.name for path in paths)
    description = f"{len(paths)} SPEC files ({names})" if paths else "no SPEC file"
    raise HklflowError(f"{request.source} is a folder with {description}; enter the SPEC file")


def _is_spec(path: Path) -> bool:
    """Return True if a file begins like a SPEC file: with its name, or with a scan."""
    with path.open("rb") as file:
        return file.read(3) in (b"#F ", b"#S ")


def _wavelength(request: Request) -> float | None:
    text = request.options.get("wavelength")
    try:
        value = None if text is None else float(text)
    except ValueError:
        value = 0.0
    if value is not None and not 0 < value < 100:
        raise HklflowError(f"wavelength is {text!r}; enter it in Å")
    return value


def _instrument(request: Request) -> Instrument:
    """Read circles, detector and counters from the named XML files, else from neighbours."""
    notes, files = [], {}
    beside = sorted(request.source.parent.glob("*.xml"))
    for kind in ("detector", "instrument"):
        path = request.path(kind)
        if path is None:
            near = [p for p in beside if spec.kind_of_xml(p) == kind]
            if len(near) == 1:
                path = near[0]
                notes.append(f"{kind}: {path.name}, next to the SPEC file")
            elif near:
                listed = ", ".join(p.name for p in near)
                notes.append(f"{kind}: several files ({listed}); select one: --option {kind}=FILE")
        files[kind] = path
    sample, arm = spec.psic_circles()
    monitor = attenuator = None
    if files["instrument"] is not None:
        sample, arm = spec.read_circles_xml(files["instrument"])
        monitor, attenuator = spec.read_counters_xml(files["instrument"])
    detector = None if files["detector"] is None else spec.read_detector_xml(files["detector"])
    return Instrument(sample, arm, detector, monitor, attenuator, tuple(notes))


def _circle(scan: SpecScan, instrument: Instrument) -> str | None:
    """Return the sample circle that a scan rotates; None for other scans."""
    named = [motor_of(scan, word) for word in scan.command.split()[1:]]
    motors = [motor for motor in named if motor is not None]
    if len(motors) != 1:
        return None
    return next((c for c in instrument.sample if motor_of(scan, c) == motors[0]), None)


def _rotation_scan(
    scan: SpecScan, circle: str, instrument: Instrument, images: Images, request: Request
) -> FoundScan:
    """Return all facts of a rotation scan; raise an error if it cannot be used."""
    notes: list[str] = []
    if scan.n_points < 2:
        raise HklflowError(f"it has {scan.n_points} points; it was aborted")
    notes += _aborted(scan)
    start, step, off = angles_of(scan, circle, request)
    notes += off
    angles = _positions(scan, [c for c in (*instrument.sample, *instrument.arm) if c != circle])
    goniometer = spec.circles_goniometer(
        dict(instrument.sample), {c: np.radians(angles[c]) for c in angles}, circle
    )
    turn = spec.arm_turn(
        dict(instrument.arm), {c: float(np.radians(angles[c])) for c in instrument.arm}
    )
    raw = images.of(scan.number, scan.n_points)
    datasets: tuple[tuple[str, str], ...] = ()
    with open_frames(raw) as frames:
        shape = frames.shape[1], frames.shape[2]
        if is_hdf5(raw):
            location = frames.dataset
            datasets = links(Path(raw)) if location is None else ((str(location[0]), location[1]),)
    detector = instrument.detector
    if detector is not None and tuple(detector.shape) != shape:
        raise HklflowError(
            f"its frames in {raw} have {shape} pixels (slow, fast), the detector's XML has "
            f"{detector.shape}; use the XML of this detector"
        )
    monitor, remarks = monitor_of(scan, instrument.monitor, request)
    temperature, read = temperature_of(scan, request)
    remarks += read
    exposure = exposure_of(scan, monitor is not None)
    notes += remarks
    if exposure is not None and exposure[1]:
        notes.append(exposure[1])
    facts = Header(
        wavelength=_wavelength(request) or scan.wavelength,
        detector=None if detector is None else spec.on_arm(detector, turn),
        goniometer=goniometer,
        start_deg=start,
        step_deg=step,
        n_frames=scan.n_points,
        exposure_time=None if exposure is None else exposure[0],
        monitor=monitor,
        transmission=attenuation_of(scan, instrument.attenuator, request),
        temperature=temperature,
    )
    header = joined(request.facts, facts)
    ub = None
    if scan.ub is not None and request.options.get("orientation") != "none":
        ub = spec.psic_ub(scan.ub)
        notes += _agreement(scan, header, ub, turn @ BEAM)
        notes += _covered(header, ub)
    return FoundScan(
        "",
        "",
        "",
        raw,
        header,
        shape,
        datasets=datasets,
        ub=ub,
        where=f"scan {scan.number} of {request.source.name}, {scan.command}",
        notes=tuple(notes),
    )


def _aborted(scan: SpecScan) -> list[str]:
    words = scan.command.split()
    numbers = [word for word in words if word.isdecimal()]
    if words[0] not in _STEPPED or len(words) < 6 or words[4] not in numbers:
        return []
    wanted = int(words[4]) + 1
    if wanted <= scan.n_points:
        return []
    return [f"aborted: {scan.n_points} of the {wanted} points in the command"]


def _positions(scan: SpecScan, circles: Sequence[str]) -> dict[str, float]:
    """Return the degrees of the circles that do not move."""
    motors = {c: motor_of(scan, c) for c in circles}
    missing = [c for c, motor in motors.items() if motor is None]
    if missing:
        raise HklflowError(
            f"its header has no motor {', '.join(missing)} (it has {', '.join(scan.motors)}); if "
            "this is not a psic, use --option instrument=FILE.xml with its circles"
        )
    for c in circles:
        moved = column_of(scan, c)
        if moved is not None and np.ptp(moved) > 1e-3:
            raise HklflowError(
                f"its column {c} moves by {np.ptp(moved):.3g} degrees: two scan axes"
            )
    return {c: scan.motors[motor] for c, motor in motors.items() if motor is not None}


def _agreement(scan: SpecScan, header: Header, ub: Floats, arm: Floats) -> list[str]:
    """Compare SPEC's h, k, l with the values for the direction of the detector's arm."""
    assert header.goniometer is not None
    if header.wavelength is None or not all(axis in scan.columns for axis in "HKL"):
        return []
    q = 2 * np.pi / header.wavelength * (arm - BEAM)
    column = column_of(scan, header.goniometer.names[header.goniometer.scan])
    assert column is not None
    ours = [
        np.linalg.solve(header.goniometer.rotation(float(a)) @ ub, q) for a in np.radians(column)
    ]
    off = float(np.abs(np.array(ours) - scan.hkl).max())
    if off < _AGREE:
        return [f"h, k, l of all points agree with SPEC's values to {off:.1g}"]
    return [
        f"warning: h, k, l of the points differ from SPEC's values by up to {off:.2g}: circles or "
        "UB are wrong; check the instrument"
    ]


def _covered(header: Header, ub: Floats) -> list[str]:
    """Return a note with the range of hkl that the frames cover, for the grid."""
    rotation = rotation_of(header)
    if rotation is None:
        return []
    ends = [np.linspace(0, n, 5) for n in (rotation.scan.n_frames, *rotation.detector.shape)]
    frame, slow, fast = (axis.ravel() for axis in np.meshgrid(*ends, indexing="ij"))
    hkl = rotation.hkl(ub, frame, slow, fast)
    low, high = hkl.min(axis=0), hkl.max(axis=0)
    parts = ", ".join(f"[{a:.3f}, {b:.3f}]" for a, b in zip(low, high, strict=True))
    return [f"its frames cover h, k, l [{parts}] (see `refine_parent: grid_range`)"]


def _named(pairs: Sequence[tuple[SpecScan, FoundScan]], request: Request) -> list[FoundScan]:
    """Name samples, scans and rotations: SPEC one temperature and UB make one scan."""
    original = request.sample or request.source.stem
    sample = name(original)
    known = [t for t in (rotation.header.temperature for _, rotation in pairs) if t is not None]
    # A temperature stated by the user needs no mean.
    means = common(known) if request.facts.temperature is None else {t: t for t in known}
    groups: dict[tuple[object, ...], str] = {}
    taken: set[str] = set()
    named = []
    for scan, rotation in pairs:
        measured = rotation.header.temperature
        temperature = None if measured is None else means[measured]
        ub = None if rotation.ub is None else np.round(rotation.ub, 6).tobytes()
        key = (scan.number,) if temperature is None else (temperature, ub)
        if key not in groups:
            plain = scan_name(temperature, f"S{scan.number}")
            groups[key] = plain if plain not in taken else f"{plain}-S{scan.number}"
            taken.add(groups[key])
        notes = rotation.notes
        if measured is not None and temperature is not None and abs(measured - temperature) > 0.05:
            notes += (f"the file says {measured:.6g} K, the scan has {temperature:g} K",)
        named.append(
            replace(
                rotation,
                sample=sample,
                scan=groups[key],
                rotation=f"S{scan.number}",
                header=replace(rotation.header, temperature=temperature),
                notes=notes,
                original=(original, "", ""),
            )
        )
    return named


def _samples(
    pairs: Sequence[tuple[SpecScan, FoundScan]], named: Sequence[FoundScan]
) -> dict[str, FoundSample]:
    cells = [scan.cell for scan, _ in pairs if scan.cell is not None]
    if not named or not cells:
        return {}
    a, b, c, alpha, beta, gamma = (float(x) for x in cells[0])
    return {named[0].sample: FoundSample(cell=(a, b, c, alpha, beta, gamma))}


def _settings(
    named: Sequence[FoundScan], request: Request
) -> dict[str, dict[str, dict[str, object]]]:
    """Return settings for scans that are too narrow to refine or to scale."""
    turned: dict[str, float] = {}
    for rotation in named:
        # Without a complete geometry there is no orientation to fix.
        if rotation.ub is not None and rotation_of(rotation.header) is not None:
            key, h = f"{rotation.sample}/{rotation.scan}", rotation.header
            turned[key] = turned.get(key, 0.0) + abs((h.step_deg or 0.0) * (h.n_frames or 0))
    asked = request.options.get("orientation")
    return {
        key: _narrow() if degrees < _FIXED_BELOW else {"orientation": {"fixed": True}}
        for key, degrees in turned.items()
        if asked == "fixed" or (asked is None and degrees < _FIXED_BELOW)
    }


def _narrow() -> dict[str, dict[str, object]]:
    return {"orientation": {"fixed": True}, "frame_scale": {"source": "none"}}


def _others(kinds: Sequence[str]) -> list[str]:
    if not kinds:
        return []
    counts = ", ".join(f"{n} {kind}" for kind, n in Count(kinds).most_common())
    return [f"{len(kinds)} scans do not rotate a single sample circle and are left out: {counts}"]


def _clock(scans: Sequence[SpecScan | tuple[int, HklflowError]]) -> list[str]:
    """Return notes about clocks that go backwards."""
    notes: list[str] = []
    last: tuple[datetime, int] | None = None
    for scan in scans:
        if not isinstance(scan, SpecScan):
            continue
        try:
            now = datetime.strptime(" ".join(scan.date.split()), "%a %b %d %H:%M:%S %Y")
        except ValueError:
            now = None
        if now is not None:
            if last is not None and now < last[0]:
                notes.append(
                    f"the clock goes backwards: scan {scan.number} began {scan.date}, before "
                    f"scan {last[1]}"
                )
            last = (now, scan.number)
        epoch = column_of(scan, "Epoch")
        if epoch is not None and np.any(np.diff(epoch) < 0):
            notes.append(f"the column Epoch of scan {scan.number} goes backwards")
    return notes
