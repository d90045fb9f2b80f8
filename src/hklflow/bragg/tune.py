"""Parameters of the peak search that find the most reflections and the least else.

Blocks of consecutive frames, spread over a scan, are searched with one setting after the other.
With S spots of which the lattice indexes I beyond chance, the score is

    I (1 - U / S) = I² / S,    U = S - I unindexed;

a weak class of spots is worth finding as long as more than half of it is indexed. Of spots at
random a fraction ``p = (2 tolerance)³`` has h, k and l near integers; so of I' spots that have,
``I = (I' - p S) / (1 - p)`` count. Lattice and orientation are the same for all settings.

The search begins at the best of a coarse grid over the three parameters that depend on each other,
and goes along one parameter after the other, first over all of its range, then over the neighbours,
until nothing changes. Of values that are as good within the noise of their difference the one with
the fewest unindexed spots is taken, and of these the nearest to the present one: the noise is that
between the blocks (jackknife), and most of the spots of two settings are the same.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation
from hklflow.orientation.lattice_search import fit, is_indexed
from hklflow.peaks.search import PeakParams, find_peaks
from hklflow.peaks.table import UNUSABLE

Floats = NDArray[np.float64]
Index = Callable[[Floats], Floats]
"""UB (3, 3) of scattering vectors (n, 3) in 1/Å, or an `HklflowError`."""

TOLERANCE = 0.15
"""Largest deviation of h, k, l from integers of an indexed spot."""

#: Values that are tried. Margins and the like are of the fit, and hardly change what is found.
LADDERS: dict[str, tuple[float, ...]] = {
    "n_sigma": (3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.5, 10.0, 12.0, 15.0),
    "min_significance": (4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0),
    "window": (4, 5, 6, 7, 9, 11, 14, 18),
    "min_pixels": (1, 2, 3, 4, 6, 8, 12),
    "max_frames": (4, 6, 9, 13, 18, 25),
    "prominence": (1.5, 2.0, 3.0, 4.0, 6.0, 10.0),
}

#: Where the search begins, beside the present setting: all combinations.
GRID: dict[str, tuple[float, ...]] = {
    "n_sigma": (4.0, 5.0, 7.0, 10.0),
    "min_significance": (5.0, 8.0),
    "window": (6, 9),
}

_CLEARLY = 3.5  # standard deviations of the gain over the present setting
_LENGTH = 50  # frames of a block: few peaks are cut by its ends
_SHORTEST = 10
_FEWEST, _ENOUGH = 4, 8  # blocks
_PASSES = 6
# Settings with which a lattice is looked for, beside the present one.
_OTHERS = ((5.0, 8.0), (8.0, 12.0), (12.0, 20.0))
_STRONG = 100, 3000  # least and largest number of strong spots for that
_AS_GOOD = 0.95  # of the best lattice's score
# Spots whose centroid cannot be trusted; at the ends of a block they are cut.


@dataclass(frozen=True)
class Block:
    """Consecutive frames of one rotation.

    Attributes
    ----------
    rotation : Rotation
    first : int
        Number of the first frame.
    bad : (slow, fast) bool array
    read : callable
        Gives the frames anew: arrays (n, slow, fast) in order.
    invalid_from, saturation, valid_from : float
        As in `PeakParams`.
    """

    rotation: Rotation
    first: int
    bad: NDArray[np.bool_]
    read: Callable[[], Iterable[NDArray[Any]]]
    invalid_from: float = np.inf
    saturation: float = np.inf
    valid_from: float = 0.0

    def spots(self, params: PeakParams) -> tuple[Floats, Floats]:
        """Scattering vectors (n, 3) in 1/Å and significance (n,) of the spots that are found."""
        limits = {n: getattr(self, n) for n in ("invalid_from", "saturation", "valid_from")}
        found = find_peaks(self.read(), self.bad, replace(params, **limits), first_frame=self.first)
        place = np.stack([found.frame, found.slow, found.fast])
        use = ((found.flags & int(UNUSABLE)) == 0) & np.isfinite(place).all(axis=0)
        return self.rotation.q_crystal(*place[:, use]), found.significance[use]


@dataclass(frozen=True)
class Trial:
    """What one setting finds: spots, and those that the lattice indexes, of every block."""

    params: PeakParams
    found: Floats
    indexed: Floats
    tolerance: float

    @property
    def total(self) -> int:
        """Spots of all blocks."""
        return int(self.found.sum())

    @property
    def beyond_chance(self) -> float:
        """Indexed spots that are not there by chance."""
        return float(_beyond_chance(self.found.sum(), self.indexed.sum(), self.tolerance))

    @property
    def false(self) -> int:
        """Spots that are not indexed, to whole ones."""
        return round(self.total - self.beyond_chance)

    @property
    def score(self) -> float:
        """Indexed spots times the fraction that is indexed, both beyond chance."""
        return float(_score(self.found.sum(), self.indexed.sum(), self.tolerance))

    def better_than(self, other: "Trial") -> tuple[float, float]:
        """Difference of the scores, and its standard deviation."""
        n = len(self.found)
        without = [
            _score(t.found.sum() - t.found, t.indexed.sum() - t.indexed, t.tolerance) * n / (n - 1)
            for t in (self, other)
        ]
        difference = without[0] - without[1]
        spread = np.sum((difference - difference.mean()) ** 2) * (n - 1) / n
        return self.score - other.score, float(np.sqrt(spread))


def _beyond_chance(found: Any, indexed: Any, tolerance: float) -> Any:
    chance = (2 * tolerance) ** 3
    return np.maximum((indexed - chance * found) / (1 - chance), 0.0)


def _score(found: Any, indexed: Any, tolerance: float) -> Any:
    return _beyond_chance(found, indexed, tolerance) ** 2 / np.maximum(found, 1.0)


@dataclass(frozen=True)
class Sweep:
    """Trials along one parameter, the others as they stood then; the value before and after."""

    name: str
    trials: tuple[Trial, ...]
    before: float
    after: float

    @property
    def values(self) -> Floats:
        """Values (n,) of the parameter, rising."""
        return np.array([getattr(trial.params, self.name) for trial in self.trials], np.float64)


@dataclass(frozen=True)
class Tuning:
    """What the search for better parameters came to.

    Attributes
    ----------
    start, best : Trial
    sweeps : tuple of Sweep
        In the order in which they were made.
    n_trials : int
    ub : (3, 3) array
        With which spots are indexed, 1/Å.
    """

    start: Trial
    best: Trial
    sweeps: tuple[Sweep, ...]
    n_trials: int
    ub: Floats

    @property
    def changed(self) -> dict[str, float]:
        """Parameters that `best` has otherwise than `start`."""
        return {
            name: getattr(self.best.params, name)
            for name in LADDERS
            if getattr(self.best.params, name) != getattr(self.start.params, name)
        }

    @property
    def gain(self) -> tuple[float, float]:
        """What `best` scores more than `start`, and the standard deviation of that."""
        return self.best.better_than(self.start)

    @property
    def worth_it(self) -> bool:
        """Whether the gain is beyond the noise: more than 3.5 standard deviations.

        The best of many trials on the same blocks is by chance some two of them better.
        """
        gain, sigma = self.gain
        return bool(self.changed) and gain > _CLEARLY * sigma


def spread(
    n_frames: Sequence[int], max_frames: int, every: int | None
) -> list[tuple[int, int, int]]:
    """Blocks of frames spread over the rotations of a scan.

    Parameters
    ----------
    n_frames : sequence of int
        Of each rotation.
    max_frames : int
        Of a peak; blocks are at least twice as long.
    every : int or None
        Take every so-many-th block; None: so that about eight are taken.

    Returns
    -------
    list of (rotation, first, last)
        Numbers of the rotation and of the frames, the last one exclusive.

    Raises
    ------
    HklflowError
        If that leaves less than four blocks.
    """
    length = max(_LENGTH, 2 * max_frames)
    if sum(n // length for n in n_frames) < _FEWEST:
        length = max(sum(n_frames) // _FEWEST, 1)
        while length > 1 and sum(n // length for n in n_frames) < _FEWEST:
            length -= 1
    if length < _SHORTEST:
        raise HklflowError(
            f"{sum(n_frames)} frames are too few to tune the peak search on {_FEWEST} blocks of "
            f"{_SHORTEST} frames; keep the parameters"
        )
    blocks = [
        (rotation, first, first + length)
        for rotation, n in enumerate(n_frames)
        for first in range(0, n - length + 1, length)
    ]
    step = max(len(blocks) // _ENOUGH, 1) if every is None else every
    if step < 1 or len(blocks[::step]) < _FEWEST:
        raise HklflowError(
            f"every {step}. block of {len(blocks)} blocks of {length} frames leaves less than "
            f"{_FEWEST}, whose scatter is the noise of the score; give --every from 1 to "
            f"{max((len(blocks) - 1) // (_FEWEST - 1), 1)}"
        )
    return blocks[::step]


def tune(
    blocks: Sequence[Block],
    start: PeakParams,
    lattice: Floats | Index,
    *,
    unset: PeakParams,
    tolerance: float = TOLERANCE,
    told: Callable[[str, Trial], None] = lambda what, trial: None,
) -> Tuning:
    """Look for better parameters than the present ones.

    Parameters
    ----------
    blocks : sequence of Block
    start : PeakParams
        The present ones.
    lattice : (3, 3) array or callable
        UB in 1/Å with 2π, or what finds it in scattering vectors.
    unset : PeakParams
        Those of a configuration that sets none: the lattice is looked for with them, too.
    tolerance : float
        Largest deviation of h, k, l from integers of an indexed spot.
    told : callable
        Gets the name and value of what was tried, and the trial, as they come.

    Raises
    ------
    HklflowError
        If no lattice can be found.
    """
    ub = _indexed_by(blocks, start, unset, lattice) if callable(lattice) else lattice
    known: dict[PeakParams, Trial] = {}

    def tried(params: PeakParams, what: str) -> Trial:
        if params not in known:
            vectors = [block.spots(params)[0] for block in blocks]
            known[params] = Trial(
                params,
                np.array([len(g) for g in vectors], np.float64),
                np.array([is_indexed(ub, g, tolerance).sum() for g in vectors], np.float64),
                tolerance,
            )
            told(what, known[params])
        return known[params]

    best = first = tried(start, "present setting")
    for corner in product(*GRID.values()):
        given = dict(zip(GRID, corner, strict=True))
        what = ", ".join(f"{name} = {value:g}" for name, value in given.items())
        trial = tried(replace(start, **_typed(given)), what)
        best = max(best, trial, key=lambda trial: trial.score)
    sweeps: list[Sweep] = []
    for number in range(_PASSES):
        before = best
        for name, ladder in LADDERS.items():
            present = getattr(best.params, name)
            values = _values(ladder, present, getattr(start, name), coarse=number == 0)
            trials = [
                tried(replace(best.params, **_typed({name: v})), f"{name} = {v:g}") for v in values
            ]
            best = _cleanest_of_the_best(trials, values, present)
            sweeps.append(Sweep(name, tuple(trials), present, getattr(best.params, name)))
        if best is before:
            break
    best = _without_idle_changes(best, first, tried)
    return Tuning(first, best, tuple(sweeps), len(known), ub)


def _values(ladder: Sequence[float], present: float, start: float, *, coarse: bool) -> list[float]:
    """Values of a sweep: every other one of all, or the neighbours of the present one."""
    everything = sorted({*ladder, present, start})
    at = everything.index(present)
    if coarse:
        return [v for k, v in enumerate(everything) if (k - at) % 2 == 0]
    return everything[max(at - 2, 0) : at + 3]


def _typed(values: dict[str, float]) -> dict[str, Any]:
    """Whole numbers where the parameter is one."""
    whole = {field.name for field in fields(PeakParams) if field.type is int}
    return {name: int(value) if name in whole else value for name, value in values.items()}


def _cleanest_of_the_best(trials: list[Trial], values: list[float], present: float) -> Trial:
    """Of those as good as the best within the noise the cleanest, then the nearest to the present.

    Where the score cannot tell, what is not indexed is not worth having.
    """
    best = max(trials, key=lambda trial: trial.score)
    as_good = []
    for k, trial in enumerate(trials):
        loss, sigma = best.better_than(trial)
        if loss <= sigma:
            as_good.append(k)
    at = values.index(present)
    return trials[min(as_good, key=lambda k: (trials[k].false, abs(k - at), -trials[k].score))]


def _without_idle_changes(
    best: Trial, start: Trial, tried: Callable[[PeakParams, str], Trial]
) -> Trial:
    """Take back each change without which the spots are as good within the noise, and as clean."""
    for name in LADDERS:
        old = getattr(start.params, name)
        if getattr(best.params, name) != old:
            less = tried(replace(best.params, **{name: old}), f"{name} = {old:g} again")
            loss, sigma = best.better_than(less)
            best = less if loss <= sigma and less.false <= best.false else best
    return best


def _indexed_by(
    blocks: Sequence[Block], start: PeakParams, unset: PeakParams, index: Index
) -> Floats:
    """UB that fits the strong spots of several settings best, the present one among them.

    A bad setting gives too few spots, or so many false ones that a lattice is made to fit them.
    """
    tuned = {name: getattr(unset, name) for name in LADDERS}
    others = [replace(start, **tuned | {"n_sigma": a, "min_significance": b}) for a, b in _OTHERS]
    clouds, lattices = [], []
    problem = "none was looked for"
    for params in [start, *others]:
        found = [block.spots(params) for block in blocks]
        g, significance = (np.concatenate(part) for part in zip(*found, strict=True))
        number = min(max(len(g) // 2, _STRONG[0]), _STRONG[1])
        g = g[np.argsort(-significance, kind="stable")[:number]]
        clouds.append(g)
        try:
            lattices.append(fit(index(g), g, np.ones(len(g)), TOLERANCE))
        except HklflowError as error:
            # The search for a lattice need not get along with a handful of noise.
            problem = str(error)
    if not lattices:
        raise HklflowError(
            "no setting of the peak search gives spots that can be indexed, so there is no score: "
            f"{problem}"
        )
    scores = np.array(
        [
            sum(_score(len(g), is_indexed(ub, g, TOLERANCE).sum(), TOLERANCE) for g in clouds)
            for ub in lattices
        ]
    )
    # Of lattices that index the same the one with the smallest cell.
    volumes = np.array([np.linalg.det(ub) for ub in lattices])
    volumes[scores < _AS_GOOD * scores.max()] = 0.0
    return lattices[int(np.argmax(np.abs(volumes)))]
