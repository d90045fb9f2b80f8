"""Picture of the transmission by the crystal's shape."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from hklflow.plots.common import SMALL, figure_of

if TYPE_CHECKING:
    from hklflow.geometry import Rotation
    from hklflow.transform.absorption import Absorption
    from hklflow.transform.shape_family import Gauge


def absorption(
    found: "Mapping[str, Absorption]", rotations: "Mapping[str, Rotation]", title: str
) -> Figure:
    """Draw the transmission by frame with its range over directions, and against 2θ.

    Parameters
    ----------
    found, rotations : mapping
        Transmission and geometry of each rotation by its name.
    """
    figure = figure_of(9, 6.5)
    frames, angles = figure.subplots(2, 1)
    for number, (name, one) in enumerate(found.items()):
        rotation, colour = rotations[name], f"C{number % 10}"
        T, direction = one.transmissions, one.direction
        middles = np.minimum(direction.middles, rotation.scan.n_frames)
        at = np.degrees(rotation.scan.angle(middles))
        low, high = T.min(axis=(1, 2)), T.max(axis=(1, 2))
        frames.fill_between(at, low, high, color=colour, alpha=0.25, lw=0)
        every = np.degrees(rotation.scan.angle(np.arange(len(one.curve)) + 0.5))
        frames.plot(every, one.curve, lw=1.2, color=colour, label=name)
        two_theta = _two_theta(rotation, direction.slow, direction.fast).ravel()
        edges = np.linspace(0, two_theta.max() * (1 + 1e-9), 25)
        shell = np.digitize(two_theta, edges) - 1
        flat = T.reshape(len(T), -1)
        used = [i for i in range(24) if np.any(shell == i)]
        middle = (edges[1:] + edges[:-1])[used] / 2
        ends = [np.quantile(flat[:, shell == i], [0.0, 0.5, 1.0]) for i in used]
        low, centre, high = np.array(ends).T
        angles.fill_between(middle, low, high, color=colour, alpha=0.25, lw=0)
        angles.plot(middle, centre, lw=1.2, color=colour)
    frames.set_xlabel("scan angle (deg)")
    frames.set_ylabel("transmission\n(mean, range over directions)", **SMALL)
    angles.set_xlabel("2θ (deg)")
    angles.set_ylabel("transmission\n(median, range over frames)", **SMALL)
    limits = [(one.transmissions.min(), one.transmissions.max()) for one in found.values()]
    for axes in (frames, angles):
        axes.set_ylim(0.95 * min(low for low, _ in limits), 1.05 * max(high for _, high in limits))
    frames.legend(loc="best", fontsize=9)
    figure.suptitle(title)
    return figure


def unknown_absorption(gauge: "Gauge", title: str) -> Figure:
    """Draw the factor of |Q| of each shape, their mean, and its standard uncertainty."""
    figure = figure_of(9, 4.5)
    axes = figure.subplots()
    axes.plot(gauge.q, 100 * gauge.members.T, lw=0.4, color="0.7")
    low, high = (100 * (gauge.mean + sign * gauge.sigma) for sign in (-1, 1))
    axes.fill_between(gauge.q, low, high, color="C0", alpha=0.3, lw=0, label="uncertainty (1 σ)")
    axes.plot(gauge.q, 100 * gauge.mean, lw=1.5, color="C0", label="mean, in the norm")
    axes.plot(
        gauge.q, 100 * gauge.by_direction, lw=1.2, color="C1", ls="--",
        label="uncertainty that depends on the direction of Q",
    )  # fmt: skip
    axes.set_xlabel("|Q| (1/Å)")
    what = "ln transmission × 100, relative to its mean\n(gray: single shapes)"
    axes.set_ylabel(what, fontsize=SMALL["fontsize"])
    axes.legend(loc="best", fontsize=SMALL["fontsize"])
    figure.suptitle(title)
    return figure


def _two_theta(rotation: "Rotation", slow: np.ndarray, fast: np.ndarray) -> np.ndarray:
    """Return 2θ (slow, fast) in degrees of places on the detector."""
    at = rotation.detector.lab(slow[:, None], fast[None, :])
    return np.degrees(np.arccos(at[..., 2] / np.linalg.norm(at, axis=-1)))
