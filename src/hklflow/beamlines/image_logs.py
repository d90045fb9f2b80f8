"""Facts of a scan from a text log of its frames (`formats.frame_log`)."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request, joined
from hklflow.formats.frame_log import FrameLog
from hklflow.formats.header import Header, per_frame


def from_log(
    log: FrameLog,
    images: list[tuple[int, Path]],
    request: Request,
    part: list[tuple[int, Path]],
) -> tuple[Header, str, list[str]]:
    """Return header, goniometer settings and notes from the log of a series.

    Parameters
    ----------
    images : list of (number, path)
        The whole series.
    part : list of (number, path)
        Images whose facts are returned.
    """
    paths, numbers = [path for _, path in images], [number for number, _ in images]
    rows, notes = log.rows_of(paths, numbers)
    chosen = set(part)
    rows = [row for row, image in zip(rows, images, strict=True) if image in chosen]
    notes += log.clock(rows)
    n = len(rows)
    header = Header(n_frames=n)

    def column(
        wanted: str | None, *usual: str
    ) -> "np.ndarray[tuple[int], np.dtype[np.float64]] | None":
        if wanted is not None and wanted.lower() not in log.columns:
            raise HklflowError(
                f"{log.path} has no column {wanted}; it has {', '.join(log.columns)}"
            )
        label = wanted.lower() if wanted is not None else log.first(*usual)
        return None if label is None else log.columns[label][rows]

    monitor = column(request.monitor, "monitor", "i0")
    transmission = column(request.attenuator, "transmission", "attenuator_transmission")
    exposure = column(None, "exposure", "exposure_time", "count_time")
    temperature = column(None, "temperature", "temp", "sample_temperature")
    if temperature is not None and np.ptp(temperature) > 1:
        notes.append(f"the temperature changes by {np.ptp(temperature):.3g} K during the scan")
    header = replace(
        header,
        monitor=monitor,
        transmission=transmission,
        exposure_time=None if exposure is None else per_frame(exposure),
        temperature=None if temperature is None else round(float(temperature.mean()), 2),
    )
    words, angles = angle_settings(log, rows, request.options.get("axis"))
    return joined(header, angles), words, notes


def angle_settings(log: FrameLog, rows: list[int], axis: str | None) -> tuple[str, Header]:
    """Return settings for the table, and start and step of the scan."""
    values = {name: log.columns[name][rows] for name in log.angles}
    moving = [name for name, angle in values.items() if np.ptp(angle) > 0.01]
    if axis is not None and axis not in values:
        raise HklflowError(f"{log.path} has no column {axis} of angles")
    if axis is None and len(moving) > 1:
        raise HklflowError(
            f"{log.path}: {', '.join(moving)} move during the scan; name the scan axis: --option "
            "axis=NAME"
        )
    words, scan = [], Header()
    for name, angle in values.items():
        if name != (axis or (moving[0] if moving else None)):
            words.append(f"{name}={np.mean(angle):.6g}")
            continue
        if len(angle) < 2:
            continue
        step = float((angle[-1] - angle[0]) / (len(angle) - 1))
        even = angle[0] + step * np.arange(len(angle))
        worst = int(np.abs(angle - even).argmax())
        if step == 0 or abs(angle[worst] - even[worst]) > 0.25 * abs(step):
            raise HklflowError(
                f"{log.path}: {name} is not evenly spaced: frame {worst} is at {angle[worst]:g} "
                f"degrees, not {even[worst]:.6g}"
            )
        words.append(f"{name}={angle[0]:.8g}:{step:.8g}")
        scan = Header(start_deg=float(angle[0]), step_deg=step)
    return " ".join(words), scan
