"""How much of the modelled maxima the data around the holes need.

A model of `tails` may be right in the tails and wrong inside of a hole, and the spectrum alone may
recover what is as wide as a hole. Therefore the holes are widened by a rim of measured voxels. The
spectrum predicts the rim, with a model that is fitted beyond it, and without. Its share is the one
that fits the rim best: 1 if the model is right, 0 if the spectrum needs none.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes import control
from hklflow.volumes.fill import BEST, PUNCHED, Target, fill, find_holes
from hklflow.volumes.refill import is_judged, refill
from hklflow.volumes.spectrum import SpectrumFill
from hklflow.volumes.tails import Tails

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Progress = Callable[[Iterable[int], int, str], Iterable[int]]

# Error of what is expected of the share: a model can be wrong by its size.
_SPREAD = 1.0
# Error of the share inside of a hole, where the rim determines it: part of 1, and of the share.
_FLOOR, _PART = 0.15, 0.15
# Error of the share if the rim cannot tell.
_UNKNOWN = 0.25
_FEWEST = 3  # sets of equivalent reflections


def weigh(
    target: Target,
    tails: Tails,
    q_max: float,
    threads: int = 1,
    progress: Progress = lambda items, *_: items,
    memory: float = np.inf,
) -> None:
    """Give a model of maxima the share that the rim of the holes needs.

    The rim cannot tell if kriging is kept, which cannot be asked for the rim, or if the data beyond
    the rim do not determine a model: then its share is its probability, with an error.

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
        share = _measured(target, tails, q_max, threads, progress, memory)
        tails.weigh(*(share or usual(tails)))


def usual(tails: Tails) -> tuple[float, float]:
    """Return the share that is expected of a model, and its error."""
    doubt = tails.likely * (1 - tails.likely)
    return tails.likely, float(np.sqrt(_UNKNOWN**2 + doubt))


def _measured(
    target: Target,
    tails: Tails,
    q_max: float,
    threads: int,
    progress: Progress,
    memory: float,
) -> tuple[float, float] | None:
    """Return the share and its error; None if the rim cannot tell."""
    wider = tails.beyond_rim()
    if not wider.found:
        return None
    holes = find_holes(target, (target.code == PUNCHED).view(np.uint8))
    found = control.controls(target, holes, q_max)
    model = control.best_of(found, BEST)
    fill(target, model, rough=is_judged(found, model))
    given = target, holes, found, model, q_max, threads, progress
    again = refill(*given, rough=True, memory=memory)[2]
    if again is None:
        return None
    voxels, number = tails.rim()
    plain, modelled = _predicted(target, again, wider, voxels)
    places = tuple(voxels.T)
    weights = 1 / target.errors[places].astype(np.float64) ** 2
    measured = target.data[places].astype(np.float64)
    own = np.isfinite(plain) & np.isfinite(modelled) & np.isfinite(measured * weights)
    values = (measured - plain)[own], (modelled - plain)[own], weights[own] / len(target.images)
    return _share(*values, number[own], tails.likely)


def _predicted(
    target: Target, again: SpectrumFill, wider: Tails, voxels: Indices
) -> tuple[Floats, Floats]:
    """Return what S of voxels (n, 3) would be, without and with a model, if they were holes."""
    places, none = tuple(voxels.T), np.zeros(len(voxels))
    plain, _ = again.predicted(voxels, none)
    before = target.data[places].astype(np.float64)
    wider.subtract()
    again.read()
    added = before - target.data[places]
    modelled = again.predicted(voxels, none)[0] + added
    wider.add()
    return plain, modelled


def _share(
    left: Floats, change: Floats, weights: Floats, number: Indices, expected: float
) -> tuple[float, float] | None:
    """Return the share s for which s · change is nearest to what is left, and its error.

    Voxels (n,) around equivalent reflections have the same number: they share the errors of the
    fill and of the model. ``weights`` are such that equivalent voxels count as one.
    """
    upper = np.bincount(number, weights * change * left)
    lower = np.bincount(number, weights * change**2)
    if np.count_nonzero(lower) < _FEWEST:
        return None
    total = lower.sum()
    share = upper.sum() / total
    several = np.count_nonzero(lower)
    scatter = np.sum((upper - share * lower) ** 2) * several / (several - 1) / total**2
    variance = max(scatter, 1 / total)
    known = 1 / variance + 1 / _SPREAD**2
    mean = max((share / variance + expected / _SPREAD**2) / known, 0.0)
    return mean, float(np.sqrt(1 / known + _FLOOR**2 + (_PART * mean) ** 2))
