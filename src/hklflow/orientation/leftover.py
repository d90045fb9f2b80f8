"""Analyse the peaks that a refined crystal does not explain: their frames and their lattice.

A second crystal, a twin, or the same crystal after a slip too large for the refinement has the same
cell. The lattice of this cell is therefore searched among the unexplained peaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice, symmetry
from hklflow.orientation.indexing import index_peaks
from hklflow.orientation.lattice_search import is_indexed
from hklflow.orientation.refinement import Refined, realigned
from hklflow.orientation.residuals import Peaks

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FEWEST = 25  # smallest number of peaks for the search of a lattice
_AT_AN_END = 6  # smallest number of peaks at an end of the scan to report a lost crystal
_SHARE = 0.3  # smallest fraction of the unexplained peaks that a lattice must explain
_TOLERANCE = 0.1  # largest deviation of h, k, l from integers
_CELL_TOLERANCE = 0.01
_DOUBT = 40.0  # decrease of -2 ln L above which a part of the scan counts as lost
_LESS = 0.5  # largest fraction of fitting peaks in a lost part, relative to the rest of the scan
_PROFILE = 7.35  # see `orientation.steadiness`
_SHORT = 0.03  # length of the shortest lost part, as a fraction of the frames: scan ends cut spots
# smallest number of peaks of a displaced part, and their fraction on the lattice
_FEW, _OWN = 8, 0.7
_SAME = 0.2  # degrees; below this rotation the peaks are badly fitted peaks of the same crystal
_NEAR = 3.0  # degrees, largest rotation of a displaced part of the same crystal
_MUCH = 0.35  # largest ratio of the deviations from integers for a much better fit
_NO_TWIN = np.cos(np.radians(2.0))
_MOST = 3
_EXACT = 1e-5  # relative change of a metric that counts as zero
_HALF_TURN = np.cos(np.radians(0.5))  # 0.5°: largest deviation of the rotation of a twin from 180°
# 1°: largest angle between an axis and its image, which is twice the error
_ON_AXIS = np.cos(np.radians(1.0))
_SHORT_VECTORS = np.array(
    sorted(
        (v for v in product(range(-2, 3), repeat=3) if v > (0, 0, 0) and gcd(*v) == 1),
        key=lambda v: (sum(x * x for x in v), [-x for x in v]),
    )
)


@dataclass(frozen=True)
class Crystal:
    """Lattice with the cell of the crystal, found among the unexplained peaks.

    Attributes
    ----------
    peaks : (n,) int array
        Indices of the peaks on this lattice.
    share : float
        Fraction of the intensity on this lattice, among peaks on only one of the two lattices.
    ub : (3, 3) array
    axis : (3,) array
        Axis of the smallest rotation from the first crystal, in the goniometer's frame.
    angle : float
        Angle of this rotation, degrees.
    law : str
        Two-fold axis of the twin law, such as ``[1 1 1]`` or ``(1 0 2)*``; empty if not a twin.
    """

    peaks: NDArray[np.int64]
    share: float
    ub: Floats
    axis: Floats
    angle: float
    law: str = ""


@dataclass(frozen=True)
class Lost:
    """Frames at one end of a rotation where far fewer peaks fit than elsewhere.

    Attributes
    ----------
    rotation : int
    first, last : float
        Frame coordinates.
    interval : (float, float)
        95 % interval of the frame at the border of the lost part.
    inside, outside : float
        Fractions of the peaks that fit, inside and outside the lost part.
    """

    rotation: int
    first: float
    last: float
    interval: tuple[float, float]
    inside: float
    outside: float


def lost(refined: Refined, peaks: Sequence[Peaks]) -> list[Lost]:
    """Return the parts at the ends of the rotations in which the crystal was lost."""
    starts = np.cumsum([0, *(len(p.frame) for p in peaks)])
    fits = refined.used | refined.held_out
    lost_ends = []
    for i, peaks_of_rotation in enumerate(peaks):
        n_frames = refined.rotations[i].scan.n_frames
        order = np.argsort(peaks_of_rotation.frame, kind="stable")
        frame = peaks_of_rotation.frame[order]
        hit = fits[starts[i] : starts[i + 1]][order].astype(np.float64)
        if len(hit) < 2 * _AT_AN_END:
            continue
        before, n = np.cumsum(hit)[:-1], np.arange(1, len(hit))
        after, m = hit.sum() - before, len(hit) - n
        gain = 2 * (_likely(before, n) + _likely(after, m) - _likely(hit.sum(), len(hit)))
        gain[: _AT_AN_END - 1] = gain[len(gain) - _AT_AN_END + 1 :] = 0
        best_cut = int(np.argmax(gain))
        shares = (before[best_cut] / n[best_cut], after[best_cut] / m[best_cut])
        if gain[best_cut] < _DOUBT or min(shares) > _LESS * max(shares):
            continue
        good = np.flatnonzero(gain > gain[best_cut] - _PROFILE)
        interval = (float(frame[good[0]]), float(frame[good[-1] + 1]))
        cut = float(0.5 * (frame[best_cut] + frame[best_cut + 1]))
        late = shares[1] < shares[0]
        ends = (cut, float(n_frames)) if late else (0.0, cut)
        if ends[1] - ends[0] < _SHORT * n_frames:
            continue
        lost_ends.append(Lost(i, *ends, interval, float(min(shares)), float(max(shares))))
    return lost_ends


def _likely(hits: ArrayLike, n: ArrayLike) -> Floats:
    """Return the logarithm of the likelihood of hits in n trials at their observed rate."""
    hits, n = np.asarray(hits, np.float64), np.asarray(n, np.float64)
    misses = n - hits
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, x * np.log(x / n), 0.0) for x in (hits, misses)]
    total: Floats = terms[0] + terms[1]
    return total


def unexplained(refined: Refined, group: symmetry.SpaceGroup) -> Mask:
    """Return True for peaks (n,) that do not fit the crystal or that the centring forbids."""
    primitive = refined.hkl @ group.to_primitive.T
    absent = np.abs(primitive - np.rint(primitive)).max(axis=1) > 1e-6
    left: Mask = ~(refined.used | refined.held_out) | absent
    return left


def crystals(
    ub: Floats, left: Mask, g: Floats, intensity: Floats, group: symmetry.SpaceGroup
) -> list[Crystal]:
    """Return lattices of the same cell among peaks that a crystal does not explain, largest first.

    Parameters
    ----------
    ub : (3, 3) array
        UB of the crystal, 1/Å with 2π.
    left : (n,) bool array
    g : (n, 3) array
        Scattering vectors of all peaks in the goniometer's frame, 1/Å with 2π.
    intensity : (n,) array
    group : SpaceGroup
        Space group; its setting is the setting of the cell.
    """
    left = left.copy()
    cell = lattice.decompose_ub(ub)[1]
    turns = symmetry.lattice_rotations(cell, group)
    exact = turns[[_is_exact(w, cell) for w in turns]]
    lattices: list[Crystal] = []
    while len(lattices) < _MOST and left.sum() >= _FEWEST:
        try:
            other = index_peaks(
                g[left],
                cell=cell,
                group=group,
                tolerance=_TOLERANCE,
                cell_tolerance=_CELL_TOLERANCE,
                min_fraction=_SHARE,
            )
        except HklflowError:
            break
        rows = np.flatnonzero(left)[other.indexed]
        if len(rows) < _FEWEST:
            break
        left[rows] = False
        apart = _turn(ub, other.ub, turns)[1]
        if apart > _NEAR or (apart > _SAME and _is_apart(ub, other.ub, g[rows])):
            axis, angle = _turn(ub, other.ub, exact)
            to_primitive = np.linalg.inv(group.to_primitive)
            share = _share_of(ub @ to_primitive, other.ub @ to_primitive, g, intensity)
            law = _law(ub, other.ub, exact)
            lattices.append(Crystal(rows, share, other.ub, axis, angle, law))
    return lattices


def crystal(
    ub: Floats,
    other: Floats,
    mine: Mask,
    theirs: Mask,
    intensity: Floats,
    group: symmetry.SpaceGroup,
) -> Crystal | None:
    """Return the second of two lattices.

    ``mine`` and ``theirs`` are peaks (n,) on only one of the two lattices. Return None if there are
    too few of them.
    """
    rows = np.flatnonzero(theirs)
    if len(rows) < _FEWEST:
        return None
    cell = lattice.decompose_ub(ub)[1]
    turns = symmetry.lattice_rotations(cell, group)
    exact = turns[[_is_exact(w, cell) for w in turns]]
    counts = np.maximum(np.nan_to_num(intensity), 0.0)
    share = float(counts[rows].sum() / counts[mine | theirs].sum())
    return Crystal(rows, share, other, *_turn(ub, other, exact), _law(ub, other, exact))


def _is_apart(ub: Floats, other: Floats, g: Floats) -> bool:
    """Return True if peaks (n, 3) fit another lattice much better than the lattice of the crystal.

    Badly centred peaks of the crystal itself, for example at a gap, also form a slightly rotated
    lattice, but they do not fit this lattice well.
    """
    deviation, deviation_other = (
        float(np.median(np.linalg.norm(miller - np.rint(miller), axis=1)))
        for miller in (g @ np.linalg.inv(x).T for x in (ub, other))
    )
    return deviation_other < _MUCH * deviation


def _is_exact(w: Floats, cell: Floats) -> bool:
    """Return True if a rotation on hkl leaves the metric of a cell unchanged."""
    metric = np.linalg.inv(lattice.metric(cell))
    size = np.sqrt(np.diag(metric))
    change = (w.T @ metric @ w - metric) / np.outer(size, size)
    return bool(np.abs(change).max() < _EXACT)


def _share_of(ub: Floats, other: Floats, g: Floats, intensity: Floats) -> float:
    """Return the fraction of the second lattice in the intensity that is on only one lattice."""
    counts = np.maximum(np.nan_to_num(intensity), 0.0)
    first, second = is_indexed(ub, g, _TOLERANCE), is_indexed(other, g, _TOLERANCE)
    counts_first, counts_second = counts[first & ~second].sum(), counts[second & ~first].sum()
    return float(counts_second / max(counts_first + counts_second, np.finfo(float).tiny))


def _law(ub: Floats, other: Floats, exact: Floats) -> str:
    """Return the two-fold axis of a twin law, as a short direct or reciprocal vector."""
    turns = [lattice.nearest_rotation(other @ w @ np.linalg.inv(ub)) for w in exact]
    if max(np.trace(turn) for turn in turns) > 1 + 2 * _NO_TWIN:
        return ""  # nearly the same lattice, whose symmetry contains half turns
    halves = np.array([turn for turn in turns if np.trace(turn) < 1 - 2 * _HALF_TURN])
    if not len(halves):
        return ""
    for basis, form in ((np.linalg.inv(ub).T, "[{} {} {}]"), (ub, "({} {} {})*")):
        directions = _SHORT_VECTORS @ basis.T
        directions = directions / np.linalg.norm(directions, axis=1)[:, None]
        along = np.einsum("ni,tij,nj->nt", directions, halves, directions).max(axis=1)
        if along.max() > _ON_AXIS:
            return form.format(*_SHORT_VECTORS[int(np.argmax(along > _ON_AXIS))])
    return ""


def turned(refined: Refined, g: Floats, intensity: Floats, rows: Mask) -> Crystal | None:
    """Return the crystal after a rotation by a few degrees, if most peaks in ``rows`` then fit."""
    numbers = np.flatnonzero(rows)
    if len(numbers) < _FEW:
        return None
    u = realigned(g[numbers], refined.u, refined.cell)
    ub = u @ lattice.b_matrix(refined.cell)
    miller = g[numbers] @ np.linalg.inv(ub).T
    near = np.abs(miller - np.rint(miller)).max(axis=1) < _TOLERANCE
    if near.mean() < _OWN:
        return None
    axis, angle = _turn(refined.ub, ub, np.eye(3)[None])
    return Crystal(numbers[near], _share(intensity, numbers), ub, axis, angle)


def _share(intensity: Floats, rows: NDArray[np.int64]) -> float:
    """Return the fraction of the intensity in ``rows``; negative or NaN values count as 0."""
    counts = np.maximum(np.nan_to_num(intensity), 0.0)
    return float(counts[rows].sum() / max(counts.sum(), np.finfo(float).tiny))


def _turn(ub: Floats, other: Floats, turns: Floats) -> tuple[Floats, float]:
    """Return axis and angle (degrees) of the smallest rotation between two lattices."""
    best = min(
        (lattice.nearest_rotation(other @ w @ np.linalg.inv(ub)) for w in (np.eye(3), *turns)),
        key=lambda turn: lattice.rotation_angle(turn, np.eye(3)),
    )
    angle = lattice.rotation_angle(best, np.eye(3))
    eigenvalues, vectors = np.linalg.eig(best)
    axis = np.real(vectors[:, np.argmin(np.abs(eigenvalues - 1))])
    skew = np.array([best[2, 1] - best[1, 2], best[0, 2] - best[2, 0], best[1, 0] - best[0, 1]])
    return (axis if axis @ skew >= 0 else -axis), float(np.degrees(angle))
