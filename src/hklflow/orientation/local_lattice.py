"""Find a lattice from differences of neighbouring peaks, and the beam centre that fits it.

A wrong beam centre displaces all scattering vectors of a frame by nearly the same vector, which
rotates with the crystal in its own frame. Differences of peaks that are near on the detector and in
angle do not contain it, so the lattice and its orientation are found first. The beam centre is then
the shift with which most peaks are at lattice points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation
from hklflow.geometry.correction import Correction
from hklflow.orientation.lattice_search import MIN_PEAKS, find_lattice
from hklflow.orientation.residuals import Peaks

Floats = NDArray[np.float64]

_MOST = 400  # peaks that are used, nearest to the origin
_NEIGHBOURS = 25  # mean number of peaks in the window of angles
_WINDOWS = np.radians([0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0])
_NEAREST = 6  # differences for each peak, the shortest ones
_ROWS = 12.0  # longest difference in lattice rows; longer ones do not show the lattice
_TOLERANCE = 0.2  # of h, k and l for the lattice of differences and for the shift
_STEP = 0.15  # of h, k or l between two shifts
_AT_ONCE = 2_000_000  # numbers in memory
_GRID = 300  # peaks with which shifts are compared
_PIXEL = 0.5  # for derivatives


@dataclass(frozen=True)
class Shifted:
    """Lattice of the differences, and a shift of the beam centre with which it indexes the peaks.

    Attributes
    ----------
    ub : (3, 3) array
        Primitive lattice, 1/Å with 2π.
    shift : (slow, fast)
        Pixels by which the beam centre moves.
    count : int
        Indexed peaks of ``of`` peaks.
    of : int
    """

    ub: Floats
    shift: tuple[float, float]
    count: int
    of: int


def vectors(rotations: Sequence[Rotation], peaks: Sequence[Peaks]) -> Floats:
    """Return the scattering vectors (n, 3) of all peaks in the goniometer's frame, 1/Å."""
    return np.concatenate(
        [r.q_crystal(p.frame, p.slow, p.fast) for r, p in zip(rotations, peaks, strict=True)]
    ).reshape(-1, 3)


def shifted(rotations: Sequence[Rotation], shift: tuple[float, float]) -> list[Rotation]:
    """Return the rotations with the beam centre moved by pixels (slow, fast)."""
    from dataclasses import replace

    move = Correction(shift=shift)
    return [replace(r, detector=move.applied(r.detector)) for r in rotations]


def found(
    rotations: Sequence[Rotation], peaks: Sequence[Peaks], reaches: list[float], reach: float
) -> list[Shifted]:
    """Return the lattice of the differences with the best shifts of the beam centre, best first.

    Parameters
    ----------
    reaches : list of float
        Maximum lengths of lattice vectors in Å of the successive searches.
    reach : float
        Largest shift, as a fraction of the detector's larger side.

    Returns
    -------
    list of Shifted
        Local maxima; empty if the differences form no lattice.
    """
    g = vectors(rotations, peaks)
    near = np.sort(np.argsort(np.linalg.norm(g, axis=1), kind="stable")[:_MOST])
    differences = _differences(rotations, peaks, g, near)
    length = np.linalg.norm(differences, axis=1)
    differences = differences[length * reaches[0] < 2 * np.pi * _ROWS]
    if len(differences) < 3 * MIN_PEAKS:
        return []
    try:
        ub = find_lattice(differences, np.ones(len(differences)), _TOLERANCE, reaches)
    except HklflowError:
        return []
    limit = reach * max(rotations[0].detector.shape)
    some = near[:: max(len(near) // _GRID, 1)]
    return _shifts(ub, lambda s: vectors(shifted(rotations, s), peaks)[some], limit)


def _differences(
    rotations: Sequence[Rotation], peaks: Sequence[Peaks], g: Floats, near: NDArray[np.int64]
) -> Floats:
    """Return the shortest differences (m, 3) of peaks at nearly equal angles of one rotation."""
    # Rotations are set apart by more than a window.
    parts = [r.scan.angle(p.frame) for r, p in zip(rotations, peaks, strict=True)]
    angle = np.concatenate([10.0 * np.pi * i + part for i, part in enumerate(parts)])[near]
    order = np.argsort(angle, kind="stable")
    angle, g = angle[order], g[near][order]
    for window in _WINDOWS:
        first = np.searchsorted(angle, angle - window)
        if np.mean(np.searchsorted(angle, angle + window) - first) >= _NEIGHBOURS:
            break
    number = np.arange(len(g))
    earlier = (number < number[:, None]) & (number >= first[:, None])
    squared = np.full(earlier.shape, np.inf)
    one, other = np.nonzero(earlier)
    squared[one, other] = ((g[one] - g[other]) ** 2).sum(axis=1)
    most = min(_NEAREST, len(g))
    nearest = np.argpartition(squared, most - 1, axis=1)[:, :most] if len(g) else earlier[:, :0]
    one = np.repeat(number, most)[earlier[number[:, None], nearest].ravel()]
    other = nearest[earlier[number[:, None], nearest]]
    away: Floats = g[one] - g[other]
    return away


def _shifts(
    ub: Floats, g_of: Callable[[tuple[float, float]], Floats], limit: float
) -> list[Shifted]:
    """Return the local maxima of the number of indexed peaks over shifts up to ``limit`` pixels."""
    inverse = np.linalg.inv(ub).T
    h = g_of((0.0, 0.0)) @ inverse
    along = [
        (g_of((_PIXEL * s, _PIXEL * f)) - g_of((-_PIXEL * s, -_PIXEL * f))) @ inverse / (2 * _PIXEL)
        for s, f in ((1, 0), (0, 1))
    ]
    fastest = max(float(np.linalg.norm(a, axis=1).max(initial=0.0)) for a in along)
    n = int(np.ceil(limit * fastest / _STEP))
    steps = np.arange(-n, n + 1) * _STEP / max(fastest, 1e-12)
    counts = np.zeros((len(steps), len(steps)), np.int64)
    rows = max(_AT_ONCE // max(3 * len(h), 1), 1)
    for i, slow in enumerate(steps):
        for first in range(0, len(steps), rows):
            part = slice(first, first + rows)
            miller = h + slow * along[0] + steps[part, None, None] * along[1]
            good = np.abs(miller - np.rint(miller)).max(axis=2) < _TOLERANCE
            counts[i, part] = good.sum(axis=1)
    around = np.pad(counts, 1, constant_values=-1)
    largest = np.max(
        [around[i : i + len(steps), j : j + len(steps)] for i in range(3) for j in range(3)], axis=0
    )
    peaks = np.argwhere((counts == largest) & (counts > 0))
    order = np.argsort(-counts[tuple(peaks.T)], kind="stable")
    return [
        Shifted(ub, (float(steps[i]), float(steps[j])), int(counts[i, j]), len(h))
        for i, j in peaks[order]
    ]
