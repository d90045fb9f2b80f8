"""Facts of a Bluesky run: angles, exposure, monitor, temperature and wavelength."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.base.values import HC
from hklflow.beamlines import Request, joined
from hklflow.beamlines.image_logs import angle_settings
from hklflow.formats.bluesky import Run, Stream, kind_of
from hklflow.formats.frame_log import FrameLog
from hklflow.formats.header import Header

PARTS = {"start": 0.0, "middle": 0.5, "end": 1.0}
"""Parts of a frame to which the angles may belong, as fractions of its width."""

_CIRCLES = ("phi", "omega", "chi", "kappa", "theta", "th", "eta", "mu", "keta", "kphi")


def run_facts(run: Run, request: Request) -> tuple[Header, str, list[str]]:
    """Return header, goniometer settings and notes."""
    stream, n = run.primary, len(run.primary.rows)
    columns, kinds = _columns(run)
    log = FrameLog(Path("its events"), columns, kinds, [])
    rows = list(range(n))
    words, angles = angle_settings(log, rows, _axis(run, columns, request))
    notes = []
    if angles.start_deg is not None and angles.step_deg is not None:
        part = request.options.get("angles", "start")
        start = angles.start_deg - PARTS[part] * angles.step_deg
        words = words.replace(f"={angles.start_deg:.8g}:", f"={start:.8g}:")
        angles = replace(angles, start_deg=start)
        if "angles" not in request.options:
            notes.append(
                "angles are taken for those at the beginning of the frames: --option angles=middle "
                "or angles=end if they are not"
            )
    wavelength, doubt = _wavelength(run, request)
    notes += [] if doubt is None else [doubt]
    header = Header(
        n_frames=n,
        exposure_time=_constant(_exposure(stream, columns, request), "exposure"),
        monitor=_one(request.monitor, columns, ()),
        transmission=_one(request.attenuator, columns, ()),
        temperature=_temperature(run, request),
        wavelength=wavelength,
    )
    if header.monitor is None:
        notes.append("no monitor: name its data key with --monitor")
    return joined(header, angles), words, notes


def _columns(run: Run) -> tuple[dict[str, Any], dict[str, str]]:
    """Return numbers for each event, and kinds; circles that rest are in the stream baseline."""
    columns: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    n = len(run.primary.rows)
    for stream_name in ("primary", "baseline"):
        stream = run.streams.get(stream_name, Stream())
        for key in stream.keys:
            numbers = stream.numbers(key)
            kind, factor, offset = stream.kind(key)
            circle = kind == "angle" and key.lower().split("_")[-1] in _CIRCLES
            scanned = kind == "angle" and key in (run.start.get("motors") or ())
            resting = stream_name == "baseline"
            if numbers is None or key in columns or (resting and not circle):
                continue
            values = numbers * factor + offset
            columns[key] = np.full(n, values.mean()) if resting else values
            # Setpoints and mirrors are angles too, but not of the goniometer.
            kinds[key] = kind if kind != "angle" or circle or scanned else ""
    return columns, kinds


def _axis(run: Run, columns: Mapping[str, Any], request: Request) -> str | None:
    named = request.options.get("axis")
    motors = [m for m in run.start.get("motors") or () if m in columns]
    return named or (motors[0] if len(motors) == 1 else None)


def _one(key: str | None, columns: Mapping[str, Any], usual: tuple[str, ...]) -> Any:
    """Return the column of a stated key, else the only one with a usual ending; None if absent."""
    if key is not None:
        if key not in columns:
            raise HklflowError(f"its events have no {key}; they have {', '.join(columns)}")
        return columns[key]
    found = [name for name in columns if name.lower().endswith(usual)] if usual else []
    return columns[found[0]] if len(found) == 1 else None


def _exposure(stream: Stream, columns: Mapping[str, Any], request: Request) -> Any:
    constant = {key: np.array([value]) for key, value in stream.configuration.items()}
    usual = ("acquire_time", "exposure_time", "count_time")
    return _one(request.options.get("exposure"), {**constant, **columns}, usual)


def _constant(values: Any, what: str) -> float | None:
    if values is None:
        return None
    if np.ptp(values) > 1e-3 * abs(np.median(values)):
        raise HklflowError(
            f"its {what} changes from {values.min():g} to {values.max():g}; split the run"
        )
    return float(np.median(values))


def _quantity(run: Run, option: str, kind: str) -> float:
    """Return the mean of a key that the user states as ``KEY`` or ``KEY:UNIT``, in K or eV.

    Raises
    ------
    HklflowError
        If no stream has the key, or its unit is not of the kind.
    """
    streams = (run.primary, run.streams.get("baseline", Stream()))
    key, unit = option, ""
    if ":" in option and not any(option in stream.keys for stream in streams):
        key, _, unit = option.rpartition(":")
    for stream in streams:
        values = stream.numbers(key)
        if key not in stream.keys or values is None:
            continue
        unit = unit or stream.unit(key)
        measured, factor, offset = kind_of(unit)
        if measured != kind:
            usual = {"temperature": "degC", "energy": "keV"}[kind]
            raise HklflowError(
                f"{key} has {f'the unit {unit!r}' if unit else 'no unit'}, which is no unit of "
                f"{kind}: state it, for example --option {kind}={key}:{usual}"
            )
        return float(values.mean()) * factor + offset
    known = [name for stream in streams for name in stream.keys if stream.numbers(name) is not None]
    raise HklflowError(f"its events have no {key}; they have {', '.join(known)}")


def _temperature(run: Run, request: Request) -> float | None:
    option = request.options.get("temperature")
    return None if option is None else round(_quantity(run, option, "temperature"), 2)


def _wavelength(run: Run, request: Request) -> tuple[float | None, str | None]:
    """Return the wavelength from the photon energy, and the reason if it is not known."""
    key = request.options.get("energy")
    if key is None:
        streams = (run.primary, run.streams.get("baseline", Stream()))
        keys = {k for stream in streams for k in stream.keys if k.lower().endswith("energy")}
        if len(keys) != 1:
            listed = f" ({', '.join(sorted(keys))})" if keys else ""
            return None, f"it has {len(keys)} energies{listed}: --option energy=KEY"
        key = keys.pop()
    try:
        energy = _quantity(run, key, "energy")
    except HklflowError as error:
        if "energy" in request.options:
            raise
        return None, str(error)
    if not 0 < energy < np.inf:
        raise HklflowError(f"{key} is {energy:g} eV, not a photon energy: --option energy=KEY")
    return HC / energy, None
