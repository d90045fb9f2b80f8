"""Peaks that a refined crystal does not explain: when they were seen, and whose they are.

A second crystal, a twin, or the same crystal after a slip that was too large to be refined over
have the cell of the first: its lattice is looked for among the peaks that are left.
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

_FEWEST = 25  # peaks in which a lattice is looked for
_AT_AN_END = 6  # peaks of a part that may be lost
_SHARE = 0.3  # of them that a lattice must explain
_TOLERANCE = 0.1  # of h, k, l
_CELL_TOLERANCE = 0.01
_DOUBT = 40.0  # fall of -2 ln L from which on peaks are lost in a part of the scan
_LESS = 0.5  # times the share that fits elsewhere
_PROFILE = 7.35  # see `orientation.steadiness`
_SHORT = 0.03  # of the frames: spots that the ends of a scan cut are odd ones
_FEW, _OWN = 8, 0.7  # peaks of a part that are needed, and the share that must be on it
_SAME = 0.2  # degrees: peaks of the crystal itself that do not fit it
_NEAR = 3.0  # degrees: nothing else is turned by more
_MUCH = 0.35  # times the deviations from integers: much better
_NO_TWIN = np.cos(np.radians(2.0))
_MOST = 3
_EXACT = 1e-5  # relative change of a metric that is none
_HALF_TURN = np.cos(np.radians(0.5))  # of what a twin's rotation may miss a half turn by
_ON_AXIS = np.cos(np.radians(1.0))  # of the angle between an axis and its image: twice the error
_SHORT_VECTORS = np.array(
    sorted(
        (v for v in product(range(-2, 3), repeat=3) if v > (0, 0, 0) and gcd(*v) == 1),
        key=lambda v: (sum(x * x for x in v), [-x for x in v]),
    )
)


@dataclass(frozen=True)
class Crystal:
    """A lattice of the same cell among the peaks that are left.

    Attributes
    ----------
    peaks : (n,) int array
        Which of all peaks are on it.
    share : float
        Of the intensity of the peaks that are on one of the two lattices only.
    ub : (3, 3) array
    axis : (3,) array
        Of the smallest turn from the first crystal, in the goniometer's frame.
    angle : float
        Degrees.
    law : str
        Two-fold rotation that makes it a twin, as ``[1 1 1]`` or ``(1 0 2)*``; empty: none.
    """

    peaks: NDArray[np.int64]
    share: float
    ub: Floats
    axis: Floats
    angle: float
    law: str = ""


@dataclass(frozen=True)
class Lost:
    """Frames at an end of a rotation on which far fewer peaks fit than on the others.

    Attributes
    ----------
    rotation : int
    first, last : float
        Frame coordinates.
    interval : (float, float)
        Where it begins (of the first frames: ends), with 95 % confidence.
    inside, outside : float
        Fractions of the peaks that fit.
    """

    rotation: int
    first: float
    last: float
    interval: tuple[float, float]
    inside: float
    outside: float


def lost(refined: Refined, peaks: Sequence[Peaks]) -> list[Lost]:
    """Ends of the rotations where the crystal was lost."""
    starts = np.cumsum([0, *(len(p.frame) for p in peaks)])
    fits = refined.used | refined.held_out
    found = []
    for i, own in enumerate(peaks):
        n_frames = refined.rotations[i].scan.n_frames
        order = np.argsort(own.frame, kind="stable")
        frame = own.frame[order]
        hit = fits[starts[i] : starts[i + 1]][order].astype(np.float64)
        if len(hit) < 2 * _AT_AN_END:
            continue
        before, n = np.cumsum(hit)[:-1], np.arange(1, len(hit))
        after, m = hit.sum() - before, len(hit) - n
        gain = 2 * (_likely(before, n) + _likely(after, m) - _likely(hit.sum(), len(hit)))
        gain[: _AT_AN_END - 1] = gain[len(gain) - _AT_AN_END + 1 :] = 0
        at = int(np.argmax(gain))
        shares = (before[at] / n[at], after[at] / m[at])
        if gain[at] < _DOUBT or min(shares) > _LESS * max(shares):
            continue
        good = np.flatnonzero(gain > gain[at] - _PROFILE)
        interval = (float(frame[good[0]]), float(frame[good[-1] + 1]))
        cut = float(0.5 * (frame[at] + frame[at + 1]))
        late = shares[1] < shares[0]
        ends = (cut, float(n_frames)) if late else (0.0, cut)
        if ends[1] - ends[0] < _SHORT * n_frames:
            continue
        found.append(Lost(i, *ends, interval, float(min(shares)), float(max(shares))))
    return found


def _likely(hits: ArrayLike, n: ArrayLike) -> Floats:
    """Logarithm of the likelihood of so many hits in n at their own rate."""
    hits, n = np.asarray(hits, np.float64), np.asarray(n, np.float64)
    misses = n - hits
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, x * np.log(x / n), 0.0) for x in (hits, misses)]
    total: Floats = terms[0] + terms[1]
    return total


def unexplained(refined: Refined, group: symmetry.SpaceGroup) -> Mask:
    """Peaks (n,) that do not fit the crystal, or are where its centring allows none."""
    primitive = refined.hkl @ group.to_primitive.T
    absent = np.abs(primitive - np.rint(primitive)).max(axis=1) > 1e-6
    left: Mask = ~(refined.used | refined.held_out) | absent
    return left


def crystals(
    ub: Floats, left: Mask, g: Floats, intensity: Floats, group: symmetry.SpaceGroup
) -> list[Crystal]:
    """Lattices of the same cell among peaks that a crystal leaves, the largest first.

    Parameters
    ----------
    ub : (3, 3) array
        The crystal's, 1/Å with 2π.
    left : (n,) bool array
    g : (n, 3) array
        Scattering vectors of all peaks in the goniometer's frame, 1/Å with 2π.
    intensity : (n,) array
    group : SpaceGroup
        In whose setting the cell is.
    """
    left = left.copy()
    cell = lattice.decompose_ub(ub)[1]
    turns = symmetry.lattice_rotations(cell, group)
    exact = turns[[_is_exact(w, cell) for w in turns]]
    found: list[Crystal] = []
    while len(found) < _MOST and left.sum() >= _FEWEST:
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
            found.append(Crystal(rows, share, other.ub, axis, angle, law))
    return found


def crystal(
    ub: Floats,
    other: Floats,
    mine: Mask,
    theirs: Mask,
    intensity: Floats,
    group: symmetry.SpaceGroup,
) -> Crystal | None:
    """The second of two lattices, by the peaks (n,) on the first only, and on the second only.

    None if these are too few.
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
    """Return True if peaks (n, 3) fit another lattice much better than the crystal's own.

    Odd peaks of the crystal itself, as those that a gap cuts, are on a lattice that is turned a
    little, but not well.
    """
    own, theirs = (
        float(np.median(np.linalg.norm(miller - np.rint(miller), axis=1)))
        for miller in (g @ np.linalg.inv(x).T for x in (ub, other))
    )
    return theirs < _MUCH * own


def _is_exact(w: Floats, cell: Floats) -> bool:
    """Return True if a rotation on hkl leaves a cell's metric as it is."""
    metric = np.linalg.inv(lattice.metric(cell))
    size = np.sqrt(np.diag(metric))
    change = (w.T @ metric @ w - metric) / np.outer(size, size)
    return bool(np.abs(change).max() < _EXACT)


def _share_of(ub: Floats, other: Floats, g: Floats, intensity: Floats) -> float:
    """What peaks of the second primitive lattice have of the intensity on one of them only."""
    counts = np.maximum(np.nan_to_num(intensity), 0.0)
    first, second = is_indexed(ub, g, _TOLERANCE), is_indexed(other, g, _TOLERANCE)
    mine, theirs = counts[first & ~second].sum(), counts[second & ~first].sum()
    return float(theirs / max(mine + theirs, np.finfo(float).tiny))


def _law(ub: Floats, other: Floats, exact: Floats) -> str:
    """The two-fold rotation about a short direct or reciprocal vector that relates lattices."""
    turns = [lattice.nearest_rotation(other @ w @ np.linalg.inv(ub)) for w in exact]
    if max(np.trace(turn) for turn in turns) > 1 + 2 * _NO_TWIN:
        return ""  # nearly the lattice itself, of which half turns are symmetries
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
    """The crystal itself, turned by a few degrees, if most of some peaks (n,) are on it then."""
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
    """What some peaks have of all intensity; what is below 0, or not known, counts as none."""
    counts = np.maximum(np.nan_to_num(intensity), 0.0)
    return float(counts[rows].sum() / max(counts.sum(), np.finfo(float).tiny))


def _turn(ub: Floats, other: Floats, turns: Floats) -> tuple[Floats, float]:
    """Axis, and angle in degrees, of the smallest turn from one lattice to the other."""
    best = min(
        (lattice.nearest_rotation(other @ w @ np.linalg.inv(ub)) for w in (np.eye(3), *turns)),
        key=lambda turn: lattice.rotation_angle(turn, np.eye(3)),
    )
    angle = lattice.rotation_angle(best, np.eye(3))
    eigenvalues, vectors = np.linalg.eig(best)
    axis = np.real(vectors[:, np.argmin(np.abs(eigenvalues - 1))])
    skew = np.array([best[2, 1] - best[1, 2], best[0, 2] - best[2, 0], best[1, 0] - best[0, 1]])
    return (axis if axis @ skew >= 0 else -axis), float(np.degrees(angle))
