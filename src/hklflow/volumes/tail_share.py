"""How much of the modelled maxima the data around the holes need.

A model of `tails` may be right in the tails and wrong inside of a hole, and the spectrum alone may
recover what is as wide as a hole. Therefore the holes are widened by a rim of measured voxels. The
spectrum predicts the rim, with a model that is fitted beyond it, and without. The share of a model
is the one that fits the rim best: 1 if the model is right, 0 if the spectrum needs none. Elastic
waves have the share 1, because 1/q² does not end inside of a hole; the rim tells how likely they
are, compared with other models and with no maxima.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes import control
from hklflow.volumes.fill import BEST, PUNCHED, Target, fill, find_holes
from hklflow.volumes.fill_kernels import numbers_of
from hklflow.volumes.refill import is_judged, refill
from hklflow.volumes.spectrum import LEARNING, SpectrumFill
from hklflow.volumes.tails import Share, Tails

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Progress = Callable[[Iterable[int], int, str], Iterable[int]]

# Error of what is expected of the share: a model can be wrong by its size.
_SPREAD = 1.0
# Error of the share inside of a hole, where the rim determines it: part of 1, and of the share.
_FLOOR, _PART = 0.15, 0.15
# Error of elastic waves in the rim, and in the hole, if the fit around it is right: dispersion.
_OF_RIM, _OF_WAVES = 0.25, 0.03
# Error of the share if the rim cannot tell.
_UNKNOWN = 0.25
_FEWEST = 3  # sets of equivalent reflections
_ROUNDS = 2  # of the spectrum; a third changes V by 0.1 %


def weigh(
    target: Target,
    tails: Tails,
    q_max: float,
    threads: int = 1,
    progress: Progress = lambda items, *_: items,
    memory: float = np.inf,
) -> None:
    """Give a model of maxima the share that the rim of the holes needs.

    The rim cannot tell if kriging is kept, which cannot be asked for the rim: the probability of
    maxima is then that of their tails. If the data beyond the rim do not determine a model, that of
    all data is asked. A model whose size is open keeps it: the rim tells only how likely it is.

    Parameters
    ----------
    target : Target
        S and σ; the holes are filled in place.
    tails : Tails
        Not subtracted.
    q_max : float
        1/Å.
    memory : float
        Largest number of bytes for the spectrum.
    """
    if tails.found:
        waves, others = _measured(target, tails, q_max, threads, progress, memory) or usual()
        if tails.undecided:
            # The size of the model is not that of the one beyond the rim.
            expected = usual()
            waves = expected[0]._replace(evidence=waves.evidence)
            others = expected[1]._replace(evidence=others.evidence)
        tails.weigh(waves, others)


def usual() -> tuple[Share, Share]:
    """Return the shares that are expected of elastic waves, and of other models."""
    return Share(1.0, _OF_WAVES), Share(1.0, _UNKNOWN)


def _measured(
    target: Target,
    tails: Tails,
    q_max: float,
    threads: int,
    progress: Progress,
    memory: float,
) -> tuple[Share, Share] | None:
    """Return the shares of elastic waves and of others; None if the rim cannot tell."""
    wider = tails.beyond_rim()
    if not wider.found:
        # Its A_G are fitted in the rim, too, which a true model and none differ in by far more.
        wider = tails
    elif tails.undecided and not wider.undecided:
        # There are more voxels beyond the rim, and fewer cosines describe other scattering there.
        tails.likely = max(tails.likely, wider.likely)
    holes = find_holes(target, numbers_of(target.code, PUNCHED, PUNCHED))
    found = control.controls(target, holes, q_max)
    model = control.best_of(found, BEST)
    fill(target, model, rough=is_judged(found, model))
    given = target, holes, found, model, q_max, threads, progress
    # If kriging is kept, nothing needs its values: the holes are filled again in any case.
    again = refill(*given, rough=False, memory=memory, rounds=_ROUNDS)[2]
    if again is None:
        return None
    voxels, number = tails.rim()
    places = tuple(voxels.T)
    weights = 1 / target.errors[places].astype(np.float64) ** 2 / len(target.images)
    measured = target.data[places].astype(np.float64)
    plain = again.predicted(voxels, np.zeros(len(voxels)), LEARNING)[0]
    sums: dict[bool, tuple[Floats, Floats]] = {}
    for elastic in wider.classes:
        wider.only(elastic)
        change = _predicted(target, again, wider, voxels) - plain
        own = np.isfinite(plain) & np.isfinite(change) & np.isfinite(measured * weights)
        left, change, weight = (measured - plain)[own], change[own], weights[own]
        upper: Floats = np.bincount(number[own], weight * change * left).astype(np.float64)
        lower: Floats = np.bincount(number[own], weight * change**2).astype(np.float64)
        if np.count_nonzero(lower) < _FEWEST:
            return None
        sums[elastic] = upper, lower
    stretch = min(_variance(*x) * x[1].sum() for x in sums.values())
    none = Share(1.0, 0.0, -np.inf)
    waves, others = (
        _share(*sums[elastic], elastic, stretch) if elastic in sums else none
        for elastic in (True, False)
    )
    return waves, others


def _predicted(target: Target, again: SpectrumFill, wider: Tails, voxels: Indices) -> Floats:
    """Return what S of voxels (n, 3) would be with a model, if they were holes.

    Afterwards the spectrum has read S without the model.
    """
    places = tuple(voxels.T)
    before = target.data[places].astype(np.float64)
    wider.subtract()
    again.read()
    added = before - target.data[places]
    modelled: Floats = again.predicted(voxels, np.zeros(len(voxels)), LEARNING)[0] + added
    wider.add()
    return modelled


def _variance(upper: Floats, lower: Floats) -> float:
    """Return the variance of the share, from its scatter between sets and at least from noise."""
    several = np.count_nonzero(lower)
    total = lower.sum()
    left = upper - upper.sum() / total * lower
    scatter = np.sum(left**2) * several / (several - 1) / total**2
    return float(max(scatter, 1 / total))


def _share(upper: Floats, lower: Floats, elastic: bool, stretch: float) -> Share:
    """Return the share s for which s · change is nearest to what is left.

    The evidence is that of maxima against none: s is 1 with a spread, or 0. The share of elastic
    waves, 1/q² up to the reflection, is 1: the rim tells how likely they are.

    Parameters
    ----------
    upper, lower : (n,) arrays
        Sums of change · left and change² around each set of equivalent reflections, in units of
        the noise, and such that equivalent voxels count as one. Within a set, voxels share the
        errors of the fill and of the model.
    stretch : float
        χ² per degree of freedom of the rim, the same for all models.
    """
    total = lower.sum()
    share = upper.sum() / total
    variance = _variance(upper, lower)
    spread = (_OF_RIM if elastic else _SPREAD) ** 2
    evidence = share**2 * total / stretch - (share - 1) ** 2 / (spread + variance)
    evidence = 0.5 * float(evidence + np.log(variance / (spread + variance)))
    if elastic:
        return Share(1.0, _OF_WAVES, evidence)
    known = 1 / variance + 1 / spread
    mean = max((share / variance + 1 / spread) / known, 0.0)
    error = np.sqrt(1 / known + _FLOOR**2 + (_PART * mean) ** 2)
    return Share(mean, float(error), evidence)
