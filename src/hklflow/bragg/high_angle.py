"""Absolute scale of S(Q) from its high-angle limit.

The mean of S over a zone of the reciprocal lattice is ``k (|F|² + D(Q) + C(Q))``: the zone's
reflection, the diffuse scattering of independent atoms, and Compton scattering, all in electron
units per cell. At high angles, where |F|² is small, the motions of neighbouring atoms no longer
matter and D tends to Σ c |f|² (Krogh-Moe, Acta Cryst. 9, 951, 1956; Norman, ibid. 10, 370, 1957).
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.structure import Structure
from hklflow.geometry import lattice
from hklflow.volumes.zones import Zones

Floats = NDArray[np.float64]

_TUKEY = 4.685
_SHELLS = 6


@dataclass(frozen=True)
class Expected:
    """Scattering that a structure predicts for the mean of each zone, electron units per cell.

    Attributes
    ----------
    q : (n,) array
        |Q| of the zone's centre, 1/Å.
    bragg : (n,) array
        |F|².
    smooth : (n,) array
        D(Q) + C(Q), mean over the measured voxels.
    compton, level : (n,) arrays
        C(Q), and D(Q) over the high-angle limit: 1 where reflections have vanished.
    """

    q: Floats
    bragg: Floats
    smooth: Floats
    compton: Floats
    level: Floats

    @property
    def total(self) -> Floats:
        """Sum of all scattering."""
        return self.bragg + self.smooth

    def select(self, keep: NDArray[np.bool_]) -> "Expected":
        """Return the zones chosen by a mask."""
        return Expected(*(getattr(self, column.name)[keep] for column in fields(self)))


def smooth_curve(structure: Structure, wavelength: float, q_max: float) -> Floats:
    """Return |Q| and D(Q) + C(Q) as curve (2, m) up to a largest |Q| (1/Å)."""
    q = np.linspace(0, q_max, 1000)
    return np.stack([q, structure.diffuse(q, wavelength) + structure.compton(q, wavelength)])


def expected(zones: Zones, cell: Floats, structure: Structure, wavelength: float) -> Expected:
    """Return the scattering that the structure predicts for each zone.

    Parameters
    ----------
    zones : Zones
        With the mean of `smooth_curve` as their curve.
    """
    q = np.linalg.norm(zones.hkl @ lattice.b_matrix(cell).T, axis=1)
    nodes = np.linspace(0, max(float(q.max(initial=0.0)), 0.1), 400)
    compton = structure.compton(nodes, wavelength)
    level = structure.diffuse(nodes, wavelength) / structure.limit(nodes, wavelength)
    return Expected(
        q,
        structure.intensities(zones.hkl, wavelength),
        zones.curve,
        np.interp(q, nodes, compton),
        np.interp(q, nodes, level),
    )


@dataclass(frozen=True)
class HighAngleFit:
    """Ratio of S to the expected scattering at high angles.

    Attributes
    ----------
    ratio, sigma : float
        k and its error, from the differences of the eight octants of hkl.
    trend, trend_sigma : float
        Relative change of the ratio from the lower to the upper end of the range of |Q|.
    bragg, compton : float
        Shares of Bragg and Compton scattering in the expected scattering.
    q_min, q_max : float
        Range of |Q| of the zones, 1/Å.
    n : int
        Number of zones.
    shells : (m, 3) array
        |Q|, ratio and its error in shells.
    """

    ratio: float
    sigma: float
    trend: float
    trend_sigma: float
    bragg: float
    compton: float
    q_min: float
    q_max: float
    n: int
    shells: Floats


def fit_high_angle(zones: Zones, model: Expected) -> HighAngleFit:
    """Fit the ratio k, and its trend with |Q|, to the zones of the high angles."""
    low, high = float(model.q.min()), float(model.q.max())
    x = (model.q - (low + high) / 2) / max(high - low, 1e-9)
    ratio = zones.mean / model.total
    noise = np.sqrt(zones.variance) / model.total
    centre = float(np.median(ratio))
    spread = 1.4826 * float(np.median(np.abs(ratio - centre)))
    # Structure of the diffuse scattering makes zones differ by more than counting does.
    error = np.hypot(np.maximum(noise, np.median(noise)), spread)
    u = (ratio - centre) / error / _TUKEY
    weight = np.where(np.abs(u) < 1, 1.0, 0.0) / error**2
    octant = (zones.hkl >= 0) @ np.array([4, 2, 1])
    mean, trend = _line(x, ratio, weight)
    parts = np.array(
        [_line(x[octant != o], ratio[octant != o], weight[octant != o]) for o in np.unique(octant)]
    )
    n = len(parts)
    sigma = np.sqrt((n - 1) / n * np.sum((parts - parts.mean(axis=0)) ** 2, axis=0))
    return HighAngleFit(
        mean, float(sigma[0]), trend, float(sigma[1]),
        float(np.average(model.bragg / model.total, weights=weight)),
        float(np.average(model.compton / model.total, weights=weight)),
        low, high, len(ratio), _shells(model.q, ratio, weight),
    )  # fmt: skip


def _line(x: Floats, y: Floats, weight: Floats) -> tuple[float, float]:
    """Return the weighted mean, and the slope of a straight line over its value at x = 0."""
    root = np.sqrt(weight)
    columns = np.stack([root, root * x], axis=1)
    value, slope = np.linalg.lstsq(columns, root * y, None)[0]
    return float(np.average(y, weights=weight)), float(slope / value)


def _shells(q: Floats, ratio: Floats, weight: Floats) -> Floats:
    """Return |Q|, mean ratio and its error in shells with equal numbers of zones."""
    order = np.argsort(q, kind="stable")
    rows = []
    for part in np.array_split(order, _SHELLS):
        if not len(part) or not weight[part].any():
            continue
        w = weight[part] / weight[part].sum()
        mean = float(w @ ratio[part])
        error = float(np.sqrt(w**2 @ (ratio[part] - mean) ** 2))
        rows.append((float(w @ q[part]), mean, error))
    return np.array(rows).reshape(-1, 3)
