"""Sentences on the thermal expansion of a cell."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.bragg.expansion import Expansion
from hklflow.bragg.order_parameter import Interval
from hklflow.quality.order_words import decimals, number

Floats = NDArray[np.float64]

_SQUARE = 1e-6  # degrees; angles that differ less from 90 are 90
_ALIKE = 1e-9  # relative; equal by symmetry
_AGREE = 3.0  # standard deviations between two temperatures of transition that agree


def sentences(
    parent: str, found: Expansion, cell: Sequence[float], axis: Axis = TEMPERATURE
) -> list[str]:
    """Return the mean expansion, and the strain below a transition if there is one.

    Along pressure it is the linear compressibility, along other axes the relative change. The side
    on which a strain begins is not determined there, so no spontaneous strain is given.

    Parameters
    ----------
    parent : str
        Name of the parent of the scans.
    cell : (6,) sequence
        Cell of the reference, which says by its angles what the axes of the tensor are.
    """
    low, high = found.temperature[[0, -1]]
    if not axis.is_temperature:
        return _along_axis(parent, found, cell, axis)
    words = _along(found.mean * 1e6, found.mean_covariance * 1e12, cell)
    lines = [
        f"the cell of parent {parent} expands by {words} (in 10⁻⁶/K, mean between {low:g} and "
        f"{high:g} K)"
    ]
    if found.t_c is not None:
        words = _along(found.strain * 100, found.strain_covariance * 1e4, cell, signed=True)
        lines.append(
            f"at T_c = {number(found.t_c, ' K')} the cell departs from the expansion by phonons; "
            f"spontaneous strain at {low:g} K: {words} (in %)"
        )
    return lines


def _along_axis(parent: str, found: Expansion, cell: Sequence[float], axis: Axis) -> list[str]:
    """Return the mean change of a cell along another axis, and its transition if there is one."""
    low, high = found.temperature[[0, -1]]
    sign = -1.0 if axis.is_pressure else 1.0
    # Thousandths or millionths, so that numbers are readable.
    power = 3 if float(np.abs(found.mean).max()) > 1e-4 else 6
    scale = 10.0**power
    words = _along(
        sign * found.mean * scale, found.mean_covariance * scale**2, cell, signed=sign > 0
    )
    unit = "10⁻³" if power == 3 else "10⁻⁶"
    mean = f"(in {unit}/{axis.unit}, mean {axis.between(low, high)})"
    if axis.units == "":
        mean = f"(in {unit}, mean {axis.between(low, high)})"
    if axis.is_pressure:
        lines = [f"the linear compressibility of parent {parent} is {words} {mean}"]
    else:
        lines = [f"the cell of parent {parent} changes {axis.course} by {words} {mean}"]
    if found.t_c is not None:
        lines.append(
            f"at {axis.onset} = {number(found.t_c, axis.suffix)} the cell departs from a smooth "
            "change"
        )
    else:
        lines.append(
            f"the cell of parent {parent} changes smoothly {axis.between(low, high)}: no "
            "transition is claimed"
        )
    return lines


def agreement(cell: Interval, vector: str, order: Interval, axis: Axis = TEMPERATURE) -> str:
    """Compare the temperature of a transition in the cell with that of an order parameter."""
    off = abs(cell.value - order.value) / float(np.hypot(cell.sigma, order.sigma))
    verdict = (
        "agree" if off < _AGREE else f"differ by {off:.1f} σ: two transitions, or one is wrong"
    )
    return (
        f"{axis.onset} of the cell ({number(cell, axis.suffix)}) and of the reflections at "
        f"{vector} ({number(order, axis.suffix)}) {verdict}"
    )


def _along(tensor: Floats, covariance: Floats, cell: Sequence[float], signed: bool = False) -> str:
    """Write a tensor along its axes: a, b, c if they are orthogonal, or its principal axes."""
    angles = np.asarray(cell)[3:]
    square = np.abs(angles - 90) < _SQUARE
    hexagonal = square[:2].all() and abs(angles[2] - 120) < _SQUARE
    if square.all() or hexagonal:
        rows = np.eye(6)[:3]
        names = ("a", "b", "c")
    else:
        rows, names = _principal(tensor), ("principal axis 1", "2", "3")
    values, sigmas = rows @ tensor, np.sqrt(np.einsum("ai,ij,aj->a", rows, covariance, rows))
    parts: dict[tuple[float, float], list[str]] = {}
    for name, value, sigma in zip(names, values, sigmas, strict=True):
        near = [x for x in parts if np.allclose(x, (value, sigma), rtol=_ALIKE, atol=0)]
        parts.setdefault(near[0] if near else (float(value), float(sigma)), []).append(name)
    lines = []
    for (value, sigma), mine in parts.items():
        digits = decimals(sigma)
        sign = "+" if signed else ""
        text = f"{value:{sign}.{digits}f} ± {sigma:.{digits}f}".replace("-", "−")
        lines.append(f"{text} along {' and '.join(mine)}")
    return ", ".join(lines)


def _principal(tensor: Floats) -> Floats:
    """Return the rows (3, 6) that give the principal values of a tensor."""
    xx, yy, zz, yz, xz, xy = tensor
    axes = np.linalg.eigh(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))[1].T
    x, y, z = axes.T
    return np.stack([x * x, y * y, z * z, 2 * y * z, 2 * x * z, 2 * x * y], axis=1)
