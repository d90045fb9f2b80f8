"""Columns and motors of a SPEC scan by name: monitor, attenuators, counting time."""

import re
from collections.abc import Iterable

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request
from hklflow.formats.spec import Counter, Floats, SpecScan

_COUNTING = ("seconds", "sec", "count_time", "exposure")
_ALIASES = {"del": "delta", "gam": "gamma", "th": "theta", "tth": "2-theta"}
_MONITOR = re.compile(r"mon|^ic\d*$|^i0*$|ion|izero", re.IGNORECASE)


def _plain(text: str) -> str:
    """Return the normalised name of a motor or column, for comparisons."""
    lower = "".join(text.lower().split())
    return _ALIASES.get(lower, lower)


def _find(wanted: str, names: Iterable[str]) -> str | None:
    """Return the equal name, else the only name that differs at most in case or spaces."""
    known = list(names)
    if wanted in known:
        return wanted
    alike = [candidate for candidate in known if _plain(candidate) == _plain(wanted)]
    return alike[0] if len(set(alike)) == 1 else None


def motor_of(scan: SpecScan, wanted: str) -> str | None:
    """Return the full name of a motor from its name or short name, in any case."""
    if wanted in scan.motors:
        return wanted
    short = _find(wanted, scan.mnemonics)
    return _find(wanted, scan.motors) if short is None else scan.mnemonics[short]


def column_of(scan: SpecScan, wanted: str) -> Floats | None:
    """Return the values of a column, by its name in any case; None if it does not exist."""
    label = _find(wanted, scan.columns)
    return None if label is None else scan.columns[label]


def _counter(scan: SpecScan, counter: Counter, what: str) -> Floats:
    values = column_of(scan, counter.column)
    if values is None:
        raise HklflowError(
            f"it has no column {counter.column!r} for {what}; its columns are "
            f"{', '.join(scan.columns)}"
        )
    return values / counter.unit


def monitor_of(
    scan: SpecScan, known: Counter | None, request: Request
) -> tuple[Floats | None, list[str]]:
    """Return the monitor column named by the user or an XML; else None and possible columns."""
    if request.monitor is not None:
        unit = 1.0
        if known is not None and known.column == request.monitor:
            unit = known.unit
        return _counter(scan, Counter(request.monitor, unit), "the monitor"), []
    if known is not None:
        values = _counter(scan, known, "the monitor of the instrument's XML")
        return values, [f"monitor: {known.column}, from the instrument's XML"]
    candidates = [
        label for label, v in scan.columns.items() if _MONITOR.search(label) and np.all(v > 0)
    ]
    return None, [
        f"no monitor: name it with --monitor (perhaps {', '.join(candidates) or 'none here'}), or "
        "set `import_scan: {monitor: none}`"
    ]


def temperature_of(scan: SpecScan, request: Request) -> tuple[float | None, list[str]]:
    """Return the temperature in K: mean of the column named by the user, else from line #X."""
    label = request.options.get("temperature")
    if label is None:
        return scan.temperature, []
    values = _counter(scan, Counter(label, 1.0), "the temperature")
    note = f"temperature: {label} from {values.min():.6g} to {values.max():.6g} K"
    return float(values.mean()), [note]


def attenuation_of(scan: SpecScan, known: Counter | None, request: Request) -> Floats | None:
    """Return the attenuators' transmission, from a column named by the user or an XML."""
    if request.attenuator is not None:
        return _counter(scan, Counter(request.attenuator, 1.0), "the attenuators")
    if known is None:
        return None
    return _counter(scan, known, "the attenuators of the instrument's XML")


def exposure_of(scan: SpecScan, monitored: bool) -> tuple[float, str] | None:
    """Return the exposure time of a frame in s, and a note; None if it is unknown."""
    columns = (column_of(scan, label) for label in _COUNTING)
    times = next((column for column in columns if column is not None), None)
    if times is None:
        return None
    mean = float(np.mean(times))
    if not mean > 0:
        raise HklflowError(f"its counting times are {times.min():g} to {times.max():g} s")
    if np.ptp(times) <= 0.01 * mean:
        return mean, ""
    note = f"the counting times are {times.min():g} to {times.max():g} s"
    if not monitored:
        raise HklflowError(
            f"{note}: frames can only be normalised by a monitor; name it with --monitor"
        )
    return mean, f"{note}: the monitor normalises the frames; the mean time is stored"
