"""Follow the vector of satellites over temperature, and say if it moves and locks in.

The positions of all scans are compared with a constant vector, and with courses that move along one
direction: in one line, or constant up to a temperature and moving above it (lock-in), with or
without a jump. A move is claimed if it is far more likely than none, also without any one of the
scans: one bad scan is no move.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.bragg import satellite_position
from hklflow.bragg.order_parameter import Interval
from hklflow.bragg.satellite_position import Position
from hklflow.volumes.satellite_voxels import Star, Voxels

Floats = NDArray[np.float64]

FEWEST = 3
"""Positions without which a move is not determined."""
_FLOOR = 1e-4  # error of a position beyond counts, r.l.u.
_CLAIM = 7.0  # ln of the likelihood ratio of a move; more by ln of the number of scans
_LOCKED = 3.5  # ln of the likelihood ratio of lock-in over a line
_FLAT = 3  # scans below the temperature of a lock-in that is claimed
_FEWEST_FLAT = 2  # scans below the lowest temperature of its interval
_RECENTRE = 0.25  # displacement over the half-width of the box above which the box is moved
_LARGEST = 6  # largest denominator of a vector that is called commensurate
_NEAR = 0.003  # largest error of a vector that is called commensurate, r.l.u.
_GRID, _FINE = 60, 300  # temperatures of lock-in that are tried for a claim, for its interval


@dataclass(frozen=True)
class Course:
    """The vector of one kind of satellites against temperature.

    Attributes
    ----------
    star : Star
    temperature : (n,) array
        K, from cold to warm.
    positions : list of Position or None
        None if no reflection was measured in a scan.
    vectors : (n, 3) array
        Vector of each scan on the most likely course; boxes of moving reflections are there.
    moves : bool or None
        True if a move is claimed; None if too few positions are measured.
    ratio : float
        ln of the likelihood of the most likely move over that of a constant vector.
    locked : Interval or None
        Temperature below which the vector is constant, K; None if lock-in is not claimed.
    commensurate : (3,) array or None
        Simple fractions that the locked vector agrees with.
    limit : float
        Largest displacement between two scans that the data allow (95 %), r.l.u.
    mean, mean_sigma : (3,) arrays
        Mean vector of all scans or, if it locks in, of the scans below.
    """

    star: Star
    temperature: Floats
    positions: list[Position | None]
    vectors: Floats
    moves: bool | None
    ratio: float
    locked: Interval | None
    commensurate: Floats | None
    limit: float
    mean: Floats
    mean_sigma: Floats

    @property
    def seen(self) -> list[int]:
        """Scans with a position, from cold to warm."""
        return [i for i, x in enumerate(self.positions) if x is not None and x.seen]

    def sigma(self, scan: int) -> Floats:
        """Return the errors (3,) of the vector of a scan, r.l.u."""
        position = self.positions[scan]
        if position is None:
            return np.full(3, np.nan)
        return _sigma(self.star, position.covariance)


def _sigma(star: Star, covariance: Floats) -> Floats:
    return np.sqrt(np.einsum("if,fg,ig->i", star.basis, covariance, star.basis))


def follow(
    gather: Sequence[Callable[[Floats], Voxels | None]],
    star: Star,
    strength: ArrayLike,
    half_width: ArrayLike,
) -> list[Position | None]:
    """Return the positions of all scans; the box of each is on the vector of its neighbour.

    Parameters
    ----------
    gather : sequence of functions
        For each scan, from cold to warm: the voxels in boxes on the arms of a vector.
    strength : (n,) array
        Intensity over σ of each scan; the strongest is the first.
    half_width : (3,) array
        Half-width of the boxes, r.l.u.
    """
    half = np.asarray(half_width, np.float64)
    start = int(np.argmax(np.nan_to_num(strength, nan=-np.inf)))
    # A box extends to four standard deviations of a reflection.
    width = np.mean([r @ np.diag((half / 4) ** 2) @ r.T for r in star.little], axis=0)
    found: list[Position | None] = [None] * len(gather)
    found[start] = _one(gather[start], star, star.vector, width, half, usual=False)
    first = found[start]
    if first is None or not first.seen:
        return found
    for scans in (range(start - 1, -1, -1), range(start + 1, len(gather))):
        centre = first.vector
        for i in scans:
            one = found[i] = _one(gather[i], star, centre, first.width, half, usual=True)
            if one is not None and one.seen:
                centre = one.vector
    return found


def _one(
    gather: Callable[[Floats], Voxels | None],
    star: Star,
    centre: Floats,
    width: Floats,
    half: Floats,
    usual: bool,
) -> Position | None:
    found: Position | None = None
    for _ in range(3):
        voxels = gather(centre)
        if voxels is None:
            return None
        found = satellite_position.fit(voxels, star, centre, width, usual)
        off = np.abs(found.vector - centre)
        if not found.seen or np.all(off < _RECENTRE * half):
            break
        centre = found.vector
    return found


@dataclass(frozen=True)
class _Line:
    """Best course of one shape: q = q₀ + d f(T)."""

    chi2: float
    values: Floats  # (2, f): q₀ and d
    covariance: Floats  # (2 f, 2 f)


def course(temperature: ArrayLike, positions: Sequence[Position | None], star: Star) -> Course:
    """Return what the positions of all scans say; scans from cold to warm."""
    t = np.asarray(temperature, np.float64)
    f = star.basis.shape[1]
    still = np.tile(star.vector, (len(t), 1))
    none = np.zeros(3)
    if f == 0:
        return Course(
            star, t, list(positions), still, False, -np.inf, None, None, 0.0, star.vector, none
        )
    rows = [i for i, x in enumerate(positions) if x is not None and x.seen]
    free = np.array([x.free for i in rows if (x := positions[i]) is not None]).reshape(-1, f)
    error = np.array([x.covariance for i in rows if (x := positions[i]) is not None])
    if len(rows) < FEWEST or np.ptp(t[rows]) == 0:
        nan = np.full(3, np.nan)
        return Course(
            star, t, list(positions), still, None, 0.0, None, None, np.inf, star.vector, nan
        )
    weight = np.asarray(np.linalg.inv(error.reshape(-1, f, f) + _FLOOR**2 * np.eye(f)), np.float64)
    at = t[rows]
    shapes = _shapes(at)
    constant = _fitted(free, weight, np.zeros((len(rows), 0)))
    lines = [_fitted(free, weight, x) for _, x in shapes]
    # Errors that are too small, from the scatter about the best course.
    best = min(lines, key=lambda x: x.chi2)
    enlarged = max(best.chi2 / max(len(rows) * f - 2 * f - 1, 1), 1.0)
    ratio = _ratio(free, weight, at, enlarged)
    needed = _CLAIM + np.log(len(rows))
    without = [
        _ratio(free[use], weight[use], at[use], enlarged)
        for use in ~np.eye(len(rows), dtype=np.bool_)
    ]
    moves = bool(ratio > needed and min(without) > needed)
    mean = star.vector + star.basis @ constant.values[0]
    sigma = _sigma(star, constant.covariance * max(constant.chi2 / max(len(rows) * f - f, 1), 1.0))
    limit = _limit(free, weight, at, star)
    if not moves:
        vectors = np.tile(mean, (len(t), 1))
        return Course(
            star, t, list(positions), vectors, False, ratio, None, None, limit, mean, sigma
        )
    chosen, locked = _lock_in(free, weight, at, shapes, lines, enlarged)
    line, (low, _) = lines[chosen], shapes[chosen]
    # Above and below the measured positions the vector is that of the nearest one.
    free_course = _values(line, _shape(np.clip(t, at[0], at[-1]), at, *low))
    commensurate = None
    if locked is not None:
        mean = star.vector + star.basis @ line.values[0]
        sigma = _sigma(star, enlarged * line.covariance[:f, :f])
        commensurate = _fractions(mean, sigma)
    return Course(
        star=star,
        temperature=t,
        positions=list(positions),
        vectors=star.vector + free_course @ star.basis.T,
        moves=True,
        ratio=ratio,
        locked=locked,
        commensurate=commensurate,
        limit=limit,
        mean=mean,
        mean_sigma=sigma,
    )


Kind = tuple[float | None, bool]


def _shape(t: Floats, at: Floats, start: float | None, jump: bool) -> Floats:
    """Return the columns (n, 1 or 2) of a course: 0 up to ``start`` and linear above it."""
    span = float(np.ptp(at))
    if start is None:
        return np.asarray((t - at[0]) / span)[:, None]
    line = np.maximum(t - start, 0) / span
    return np.stack([line, (t > start).astype(float)], axis=1) if jump else line[:, None]


def _shapes(at: Floats, flat: int = _FLAT, cells: int = _GRID) -> list[tuple[Kind, Floats]]:
    """Return a line, and lock-in above ``flat`` scans, with and without a jump.

    Without a jump it is in the middle of each of some equal cells.
    """
    kinds: list[Kind] = [(None, False)]
    places = np.unique(at)
    if len(places) >= flat + 2:
        edges = np.linspace(places[flat - 1], places[-2], cells + 1)
        kinds += [(float(x), False) for x in (edges[1:] + edges[:-1]) / 2]
    # Two scans above a jump.
    kinds += [
        (float((a + b) / 2), True)
        for a, b in zip(places[flat - 1 : -2], places[flat:-1], strict=True)
    ]
    return [(kind, _shape(at, at, *kind)) for kind in kinds]


def _fitted(free: Floats, weight: Floats, columns: Floats) -> _Line:
    """Return the best values of a constant and of the amplitudes (f) of each column."""
    f = free.shape[1]
    basis = np.concatenate([np.ones((len(free), 1)), columns], axis=1)
    design = np.einsum("nk,fg->nfkg", basis, np.eye(f)).reshape(len(free), f, -1)
    normal = np.einsum("nfp,nfg,ngq->pq", design, weight, design)
    right = np.einsum("nfp,nfg,ng->p", design, weight, free)
    covariance = np.linalg.pinv(normal)
    values = covariance @ right
    off = free - np.einsum("nfp,p->nf", design, values)
    chi2 = float(np.einsum("nf,nfg,ng->", off, weight, off))
    return _Line(chi2, values.reshape(-1, f), covariance)


def _values(line: _Line, columns: Floats) -> Floats:
    return np.asarray(line.values[0] + columns @ line.values[1:])


def _ratio(free: Floats, weight: Floats, at: Floats, enlarged: float) -> float:
    """Return ln of the likelihood ratio of the best move and no move, less the cost of a move."""
    if len(np.unique(at)) < 2:
        return -np.inf
    f = free.shape[1]
    constant = _fitted(free, weight, np.zeros((len(at), 0))).chi2
    gains = []
    for (start, jump), columns in _shapes(at):
        cost = f * (1 + jump) + (start is not None)
        gain = constant - _fitted(free, weight, columns).chi2
        gains.append(0.5 * gain / enlarged - 0.5 * cost * np.log(len(at)))
    return float(max(gains))


def _limit(free: Floats, weight: Floats, at: Floats, star: Star) -> float:
    """Return the upper limit (95 %) of the displacement between the ends or across a step."""
    places = np.unique(at)
    steps = [(at > (a + b) / 2).astype(float) for a, b in itertools.pairwise(places[1:-1])]
    columns = [_shape(at, at, None, False)[:, 0], *steps]
    limits = []
    f = free.shape[1]
    for column in columns:
        line = _fitted(free, weight, column[:, None])
        grown = max(line.chi2 / max(len(at) * f - 2 * f, 1), 1.0)
        error = np.sqrt(grown * np.diag(line.covariance)[f:])
        limits.append(float(np.linalg.norm(np.abs(line.values[1]) + 1.645 * error)))
    return max(limits)


def _lock_in(
    free: Floats,
    weight: Floats,
    at: Floats,
    shapes: Sequence[tuple[Kind, Floats]],
    lines: Sequence[_Line],
    enlarged: float,
) -> tuple[int, Interval | None]:
    """Return the number of the most likely course, and the temperature of lock-in if claimed."""
    scores = _scores(lines, shapes, enlarged, len(at))
    best = int(np.argmax(scores))
    if best == 0 or scores[best] - scores[0] < _LOCKED:
        return (best if best and scores[best] > scores[0] else 0), None
    # The posterior of the temperature, also where fewer scans are below it than a claim needs.
    wider = _shapes(at, _FEWEST_FLAT, _FINE)
    scores = _scores([_fitted(free, weight, x) for _, x in wider], wider, enlarged, len(at))
    pieces: list[tuple[float, float, float]] = []  # low, high, ln mass
    edges = np.unique(at)
    half = float(edges[-2] - edges[_FEWEST_FLAT - 1]) / _FINE / 2
    for ((start, jump), _), score in zip(wider, scores, strict=True):
        if start is None:
            continue
        if jump:
            j = int(np.searchsorted(edges, start))
            low, high = float(edges[j - 1]), float(edges[j])
        else:
            low, high = start - half, start + half
        pieces.append((low, high, float(score) + np.log(max(high - low, 1e-9))))
    mass = np.exp(np.array([x[2] for x in pieces]) - max(x[2] for x in pieces))
    mass /= mass.sum()
    first, last = (np.array([x[i] for x in pieces]) for i in (0, 1))
    middle = (first + last) / 2
    mean = float(mass @ middle)
    sigma = float(np.sqrt(mass @ ((middle - mean) ** 2 + (last - first) ** 2 / 12)))
    x = np.linspace(first.min(), last.max(), 2001)
    wide = np.maximum(last - first, 1e-9)
    below = np.clip((x[:, None] - first) / wide, 0, 1) @ mass
    ends = [float(y) for y in np.interp([0.1587, 0.8413, 0.025, 0.975], below, x)]
    return best, Interval(mean, sigma, (ends[0], ends[1]), (ends[2], ends[3]))


def _scores(
    lines: Sequence[_Line], shapes: Sequence[tuple[Kind, Floats]], enlarged: float, n: int
) -> Floats:
    """Return ln of the likelihood of each course of n positions, less the cost of its parameters.

    A jump that leads away from the direction in which the vector moves is no lock-in.
    """
    scores = np.empty(len(shapes))
    for k, (line, ((start, jump), _)) in enumerate(zip(lines, shapes, strict=True)):
        cost = line.values.shape[1] * (1 + jump) + (start is not None)
        scores[k] = -0.5 * line.chi2 / enlarged - 0.5 * cost * np.log(n)
        if jump and float(line.values[1] @ line.values[2]) < 0:
            scores[k] = -np.inf
    return scores


def _fractions(vector: Floats, sigma: Floats) -> Floats | None:
    """Return the simple fractions that agree with a vector within 3 σ; None if there are none."""
    if np.any(sigma > _NEAR):
        return None
    plain = np.array([float(Fraction(float(x)).limit_denominator(_LARGEST)) for x in vector])
    return plain if np.all(np.abs(plain - vector) <= 3 * sigma + _FLOOR) else None
