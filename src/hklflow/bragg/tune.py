"""Find parameters of the peak search that find many reflections and few false spots.

Blocks of consecutive frames, spread over a scan, are searched with different settings. With S
spots, I of them indexed beyond chance, the score is

    I (1 - U / S) = I² / S,    U = S - I unindexed;

a class of weak spots improves the score if more than half of them are indexed. A fraction
``p = (2 tolerance)³`` of random spots has h, k and l near integers. If I' spots are near integers,
``I = (I' - p S) / (1 - p)``. Lattice and orientation are the same for all settings.

The search begins at the best point of a coarse grid of the three correlated parameters. It changes
one parameter after the other, first over its full range, then to neighbouring values, until nothing
changes. Of all values with a score equal to the best within noise, the one with the fewest
unindexed spots is chosen, then the one nearest to the present value. The noise is the error of the
difference of two scores, from the scatter between blocks (jackknife), because two settings have
most of their spots in common.
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
"""Function from scattering vectors (n, 3) to UB (3, 3), both 1/Å; raises `HklflowError`."""

TOLERANCE = 0.15
"""Largest deviation of h, k, l from integers of an indexed spot."""

#: Values that are tried. Other parameters, such as margins, affect only the fit and matter little.
LADDERS: dict[str, tuple[float, ...]] = {
    "n_sigma": (3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.5, 10.0, 12.0, 15.0),
    "min_significance": (4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0),
    "window": (4, 5, 6, 7, 9, 11, 14, 18),
    "min_pixels": (1, 2, 3, 4, 6, 8, 12),
    "max_frames": (4, 6, 9, 13, 18, 25),
    "prominence": (1.5, 2.0, 3.0, 4.0, 6.0, 10.0),
}

#: Start grid of the search, in addition to the present setting: all combinations.
GRID: dict[str, tuple[float, ...]] = {
    "n_sigma": (4.0, 5.0, 7.0, 10.0),
    "min_significance": (5.0, 8.0),
    "window": (6, 9),
}

_CLEARLY = 3.5  # standard deviations of a significant gain over the present setting
_LENGTH = 50  # frames of a block; long enough that its ends cut few peaks
_SHORTEST = 10
_FEWEST, _ENOUGH = 4, 8  # blocks
_PASSES = 6
# Settings for finding a lattice, in addition to the present one.
_OTHERS = ((5.0, 8.0), (8.0, 12.0), (12.0, 20.0))
_STRONG = 100, 3000  # smallest and largest number of strong spots for finding a lattice
_AS_GOOD = 0.95  # smallest score relative to the best lattice
# Flags of spots with unreliable centroids; the ends of a block cut spots.


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
        Function that returns an iterator over the frames: arrays (n, slow, fast) in order.
    invalid_from, saturation, valid_from : float
        Same meaning as in `PeakParams`.
    """

    rotation: Rotation
    first: int
    bad: NDArray[np.bool_]
    read: Callable[[], Iterable[NDArray[Any]]]
    invalid_from: float = np.inf
    saturation: float = np.inf
    valid_from: float = 0.0

    def spots(self, params: PeakParams) -> tuple[Floats, Floats]:
        """Return scattering vectors (n, 3) in 1/Å and significance (n,) of found spots."""
        limits = {n: getattr(self, n) for n in ("invalid_from", "saturation", "valid_from")}
        found = find_peaks(self.read(), self.bad, replace(params, **limits), first_frame=self.first)
        place = np.stack([found.frame, found.slow, found.fast])
        use = ((found.flags & int(UNUSABLE)) == 0) & np.isfinite(place).all(axis=0)
        return self.rotation.q_crystal(*place[:, use]), found.significance[use]


@dataclass(frozen=True)
class Trial:
    """Result of one setting: numbers of spots and of indexed spots in every block."""

    params: PeakParams
    found: Floats
    indexed: Floats
    tolerance: float

    @property
    def total(self) -> int:
        """Number of spots in all blocks."""
        return int(self.found.sum())

    @property
    def beyond_chance(self) -> float:
        """Number of indexed spots, minus the number expected by chance."""
        return float(_beyond_chance(self.found.sum(), self.indexed.sum(), self.tolerance))

    @property
    def false(self) -> int:
        """Number of unindexed spots, rounded."""
        return round(self.total - self.beyond_chance)

    @property
    def score(self) -> float:
        """Indexed spots times the indexed fraction, both beyond chance."""
        return float(_score(self.found.sum(), self.indexed.sum(), self.tolerance))

    def better_than(self, other: "Trial") -> tuple[float, float]:
        """Return the difference of the scores, and its standard deviation."""
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
    """Trials of one parameter with the others fixed, and its values before and after."""

    name: str
    trials: tuple[Trial, ...]
    before: float
    after: float

    @property
    def values(self) -> Floats:
        """Values (n,) of the parameter, ascending."""
        return np.array([getattr(trial.params, self.name) for trial in self.trials], np.float64)


@dataclass(frozen=True)
class Tuning:
    """Result of the search for better parameters.

    Attributes
    ----------
    start, best : Trial
    sweeps : tuple of Sweep
        Sweeps in the order of the search.
    n_trials : int
    ub : (3, 3) array
        Matrix used for indexing, 1/Å.
    """

    start: Trial
    best: Trial
    sweeps: tuple[Sweep, ...]
    n_trials: int
    ub: Floats

    @property
    def changed(self) -> dict[str, float]:
        """Parameters of `best` that differ from `start`."""
        return {
            name: getattr(self.best.params, name)
            for name in LADDERS
            if getattr(self.best.params, name) != getattr(self.start.params, name)
        }

    @property
    def gain(self) -> tuple[float, float]:
        """Difference in score between `best` and `start`, and its standard deviation."""
        return self.best.better_than(self.start)

    @property
    def worth_it(self) -> bool:
        """True if the gain is significant: more than 3.5 standard deviations.

        By chance, the best of many trials on the same blocks is better by about two standard
        deviations.
        """
        gain, sigma = self.gain
        return bool(self.changed) and gain > _CLEARLY * sigma


def spread(
    n_frames: Sequence[int], max_frames: int, every: int | None
) -> list[tuple[int, int, int]]:
    """Choose blocks of frames spread over the rotations of a scan.

    Parameters
    ----------
    n_frames : sequence of int
        Number of frames of each rotation.
    max_frames : int
        Largest number of frames of a peak; blocks are at least twice as long.
    every : int or None
        Use every n-th block; None: about eight blocks.

    Returns
    -------
    list of (rotation, first, last)
        Number of the rotation, first frame and last frame (exclusive).

    Raises
    ------
    HklflowError
        If there are fewer than four blocks.
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
            f"every {step}. block of {len(blocks)} blocks of {length} frames leaves fewer than "
            f"{_FEWEST} blocks, which are needed for the noise of the score; give --every from 1 "
            f"to {max((len(blocks) - 1) // (_FEWEST - 1), 1)}"
        )
    return blocks[::step]


def tune(
    blocks: Sequence[Block],
    start: PeakParams,
    lattice: Floats | Index,
    *,
    unset: PeakParams,
    tolerance: float = TOLERANCE,
    report: Callable[[str, Trial], None] = lambda what, trial: None,
) -> Tuning:
    """Search for better parameters than the present ones.

    Parameters
    ----------
    blocks : sequence of Block
    start : PeakParams
        Present parameters.
    lattice : (3, 3) array or callable
        UB in 1/Å with 2π, or a function that finds it from scattering vectors.
    unset : PeakParams
        Default parameters, which are also tried to find the lattice.
    tolerance : float
        Largest deviation of h, k, l from integers of an indexed spot.
    report : callable
        Callback for each trial, with the name and value of its parameters.

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
            report(what, known[params])
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
    """Return the values of a sweep: every second value, or the neighbours of the present value."""
    everything = sorted({*ladder, present, start})
    at = everything.index(present)
    if coarse:
        return [v for k, v in enumerate(everything) if (k - at) % 2 == 0]
    return everything[max(at - 2, 0) : at + 3]


def _typed(values: dict[str, float]) -> dict[str, Any]:
    """Convert values to integers for integer parameters."""
    whole = {field.name for field in fields(PeakParams) if field.type is int}
    return {name: int(value) if name in whole else value for name, value in values.items()}


def _cleanest_of_the_best(trials: list[Trial], values: list[float], present: float) -> Trial:
    """Return the trial with the fewest unindexed spots, of those equal to the best within noise.

    If several have the same number, return the one nearest to the present value.
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
    """Revert each change that neither improves the score nor reduces the unindexed spots."""
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
    """Return the UB that best fits the strong spots of several settings.

    A bad setting gives too few spots, or so many false spots that a wrong lattice fits them.
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
            # With only a few false spots, indexing may fail.
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
    # Of equally good lattices, choose the one with the smallest cell.
    volumes = np.array([np.linalg.det(ub) for ub in lattices])
    volumes[scores < _AS_GOOD * scores.max()] = 0.0
    return lattices[int(np.argmax(np.abs(volumes)))]
