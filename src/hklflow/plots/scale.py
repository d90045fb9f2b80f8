"""Picture of the scale of the frames."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.images.frame_scale import FrameScale, Status
from hklflow.plots.common import SMALL, figure_of

Floats = NDArray[np.float64]

# Values of single frames behind the curve, by the status of the frame.
_POINTS = {Status.USED: ("0.65", "used"), Status.REPLACED: ("orangered", "replaced")}


def frame_scale(scale: FrameScale, angle: Floats, axis: str, title: str) -> Figure:
    """Draw monitor, attenuators, transmission with the values of single frames, and the scale.

    Parameters
    ----------
    angle : (n_frames,) array
        Scan angle at mid-frame in degrees.
    axis : str
        Name of the scanned axis.
    """
    figure = figure_of(9, 8.4)
    transmission = scale.transmission
    monitor, attenuators, curve, last = figure.subplots(
        4, 1, sharex=True, height_ratios=[1, 0.7, 2, 1.2]
    )
    monitor.plot(angle, scale.monitor, lw=0.8, color="C0")
    monitor.set_ylabel("monitor", **SMALL)
    attenuators.plot(angle, scale.attenuation, lw=0.8, color="C0", drawstyle="steps-mid")
    attenuators.set_ylabel("attenuators'\ntransmission", **SMALL)
    low, high = _range(transmission.ratio, transmission.transmission)
    for status, (colour, name) in _POINTS.items():
        mine = transmission.status == status
        if mine.any():
            # Values far outside the range are drawn at the border.
            shown = np.clip(transmission.ratio[mine], low, high)
            text = f"{mine.sum()} {name}"
            curve.plot(angle[mine], shown, ".", ms=3, color=colour, label=text, clip_on=False)
    if (mine := transmission.status == Status.INTERPOLATED).any():
        at = np.full(int(mine.sum()), low)
        curve.plot(angle[mine], at, "|", color="C4", label=f"{mine.sum()} interpolated")
    curve.plot(angle, transmission.transmission, lw=1.4, color="C3", label="transmission")
    curve.fill_between(
        angle,
        transmission.transmission - transmission.errors,
        transmission.transmission + transmission.errors,
        color="C3",
        alpha=0.3,
        lw=0,
    )
    curve.set_ylim(low, high)
    curve.set_ylabel(f"transmission over its median\n(from: {scale.source})", **SMALL)
    curve.legend(loc="best", fontsize=9, ncols=2)
    last.plot(angle, scale.scale, lw=1.2, color="C2")
    last.set_ylabel(f"scale\n(rotation {scale.rotation:.4g})", **SMALL)
    for panel in (monitor, attenuators, last):
        values = panel.lines[0].get_ydata()
        # A constant must not look like noise of 1e-15.
        middle = float(np.mean(values))
        if np.ptp(values) < 1e-3 * abs(middle):
            panel.set_ylim(0.99 * middle, 1.01 * middle)
    last.set_xlabel(f"{axis} at mid-frame (deg)")
    figure.suptitle(title)
    return figure


def _range(ratio: Floats, curve: Floats) -> tuple[float, float]:
    """Return a range with the curve and nearly all values of single frames."""
    values = np.concatenate([np.percentile(ratio[np.isfinite(ratio)], [0.5, 99.5]), curve])
    low, high = float(values.min()), float(values.max())
    margin = max(0.08 * (high - low), 0.005 * high)
    return low - margin, high + margin
