"""Control holes: compare the filled values with measured values.

A control hole has the shape of the most common hole. It lies at a random position near the real
holes, in the same shells of |Q| and near the same diffuse scattering. All voxels of a control hole,
and most of its support, were measured. No voxel of a control hole has an equivalent in the support
of this hole.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes import fill_kernels as kernels
from hklflow.volumes.fill import (
    MEASURED,
    MODELS,
    UNJUDGED,
    Holes,
    Pattern,
    Target,
    most_of,
    radii,
    support_of,
)
from hklflow.volumes.interpolants import OTHERS
from hklflow.volumes.spectrum import SpectrumFill
from hklflow.volumes.tapered import reach

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_WANTED, _FEWEST, _TRIALS = 80, 10, 8000
# The spectrum predicts control holes in groups. All voxels of a group and their equivalents are
# taken from it at once: up to this part of the measured voxels changes the errors in the holes by
# less than 4 %, a seventh by 10 %. A group costs as much as a round of the spectrum; small volumes,
# where a round is cheap, need several groups for enough holes.
_SHARE, _GROUPS, _ENOUGH = 0.05, 16, 20
_SAMPLES = 200_000  # voxels that tell how many were measured
# Smallest measured fraction of the support; the second value is used if reflections are close to
# each other.
_MEASURED = (0.97, 0.6)
# Ratio of the errors of the spectrum and of kriging above which the spectrum failed.
_FAILED = 2.0


@dataclass(frozen=True)
class Control:
    """Deviations of an interpolant from the measured values of the control holes.

    Attributes
    ----------
    rms : float
        Rms of (fill - measured) / σ, with the σ of the measurement; the noise of the measurement is
        subtracted in quadrature.
    bias : float
        Mean of (fill - measured) / σ.
    error : float
        Standard error of the bias, from the scatter of the bias between holes.
    pull : float
        Rms of (fill - measured) / sqrt(σ_fill² + σ_measured²); NaN if the interpolant has no
        errors.
    pulls : (n,) array
        (fill - measured) / sqrt(σ_fill² + σ_measured²) of each voxel.
    holes : int
        Number of control holes.
    """

    rms: float
    bias: float
    error: float
    pull: float
    pulls: Floats
    holes: int


def controls(target: Target, holes: list[Holes], q_max: float, seed: int = 0) -> dict[str, Control]:
    """Fill control holes with every interpolant; return {} if there are fewer than ten holes.

    Parameters
    ----------
    holes : list of Holes
        Punched holes that `find_holes` returned.
    q_max : float
        1/Å. Control holes lie where the spectrum predicts S, so that it is compared with kriging in
        the same holes.
    """
    chosen = _chosen(target, holes, q_max, seed)
    if chosen is None:
        return {}
    groups, voxels, support = chosen
    bases = np.concatenate(groups)
    truth, sigma = _truth(target, bases, voxels)
    judged = {}
    for model in MODELS:
        pattern = Pattern(voxels, support, target.edges, model)
        values, noise = pattern.measured(target, bases)
        filled = pattern.kriging.fill(values, noise, pattern.twins(target, bases))
        judged[model] = _judge(filled.values, filled.errors, truth, sigma)
    whole = np.isfinite(values).all(axis=1)
    if whole.sum() >= _FEWEST:
        for name, weights in OTHERS.items():
            others = values[whole] @ weights(voxels, support, target.edges).T
            errors = np.full(others.shape, np.nan)
            judged[name] = _judge(others, errors, truth[whole], sigma[whole])
    return judged


def of_spectrum(
    target: Target,
    holes: list[Holes],
    q_max: float,
    spectrum: SpectrumFill,
    model: str,
    seed: int = 0,
) -> Control | None:
    """Fill control holes by the spectrum; return None if there are fewer than ten.

    Parameters
    ----------
    target : Target
        Filled volume.
    holes, q_max, seed
        As for `controls`.
    model : str
        Kriging whose errors the filled voxels have.
    """
    chosen = _chosen(target, holes, q_max, seed)
    if chosen is None:
        return None
    groups, voxels, support = chosen
    bases = np.concatenate(groups)
    pattern = Pattern(voxels, support, target.edges, model)
    errors = pattern.kriging.fill(
        *pattern.measured(target, bases), pattern.twins(target, bases)
    ).errors
    ends = np.cumsum([len(group) for group in groups])[:-1]
    filled = [
        spectrum.predicted((group[:, None] + voxels).reshape(-1, 3), own.ravel())
        for group, own in zip(groups, np.split(errors, ends), strict=True)
    ]
    values, errors = (np.concatenate(x).reshape(errors.shape) for x in zip(*filled, strict=True))
    return _judge(values, errors, *_truth(target, bases, voxels))


def better(spectrum: Control, kriging: Control) -> bool:
    """Return True if the control holes do not speak against the fill by the spectrum.

    They cannot see the error that all holes share, for which the spectrum is taken. In simulations
    (`benchmarks/holes_truth.py`), it was up to 1.4 times worse than kriging in them, and better in
    the holes; therefore they only reject a fill that failed.
    """
    return spectrum.rms <= _FAILED * max(kriging.rms, 0.2)


def best_of(judged: dict[str, Control], default: str) -> str:
    """Return the kriging with the smallest rms, but only if it is 2 % better than the default.

    Without control holes it is `UNJUDGED`.
    """
    rms = {name: item.rms for name, item in judged.items() if name in MODELS}
    if default not in rms:
        return UNJUDGED
    least = min(rms, key=lambda name: rms[name])
    return least if rms[least] < 0.98 * rms[default] else default


def _chosen(
    target: Target, holes: list[Holes], q_max: float, seed: int
) -> tuple[list[Indices], Indices, Indices] | None:
    """Return first voxels of groups of control holes, and their voxels and support.

    None if they are too few.
    """
    near = [
        Holes(item.voxels, item.bases[_inside(target, item.bases, item.voxels, q_max)])
        for item in holes
    ]
    near = [item for item in near if len(item.bases)]
    if not near:
        return None
    common = max(near, key=lambda item: (len(item.bases), len(item.voxels)))
    taken = len(common.voxels) * len(target.images)
    most = max(int(_SHARE * _measured(target, q_max) / taken), 1)
    support = support_of(common.voxels, target.edges, most_of(len(common.voxels), True))
    for least in _MEASURED:
        rng = np.random.default_rng(seed)
        groups = _grouped(_candidates(target, common, support, q_max, least, rng), most)
        if sum(len(group) for group in groups) >= _FEWEST:
            return groups, common.voxels, support
    return None


def _inside(target: Target, bases: Indices, voxels: Indices, q_max: float) -> NDArray[np.bool_]:
    """Return which holes (n,) lie in the grid and where the spectrum predicts all their voxels."""
    inside = np.all(bases + voxels.min(axis=0) >= 0, axis=1)
    inside &= np.all(bases + voxels.max(axis=0) < target.data.shape, axis=1)
    limit, shape = reach(q_max), target.data.shape
    # A hole whose first voxel is farther from the limit than from its last voxel is not cut by it.
    size = float(np.linalg.norm(voxels @ target.edges, axis=1).max())
    first = radii(target, np.ravel_multi_index(tuple(bases[inside].T), shape))
    within = first < limit - size * (1 + 1e-6)
    cut = ~within & (first < limit + size * (1 + 1e-6))
    places = bases[inside][cut, None] + voxels
    numbers = np.ravel_multi_index(tuple(np.moveaxis(places, -1, 0)), shape)
    lengths = radii(target, numbers.ravel()).reshape(numbers.shape)
    within[cut] = (lengths < limit).all(axis=1)
    inside[inside] = within
    return inside


def _measured(target: Target, q_max: float) -> float:
    """Return the number of measured voxels that the spectrum can predict, from a sample."""
    size = target.data.size
    numbers = np.random.default_rng(0).integers(size, size=min(size, _SAMPLES))
    within = radii(target, numbers) < reach(q_max)
    return size * float(np.mean(within & (target.code.reshape(-1)[numbers] == MEASURED)))


def _truth(target: Target, bases: Indices, voxels: Indices) -> tuple[Floats, Floats]:
    truth, sigma = np.empty((2, len(bases), len(voxels)))
    kernels.gather(target.data, target.errors, target.code, bases, voxels, truth, sigma)
    return truth, sigma


def _judge(filled: Floats, errors: Floats, truth: Floats, sigma: Floats) -> Control:
    known = np.isfinite(filled).all(axis=1)
    filled, errors, truth, sigma = (x[known] for x in (filled, errors, truth, sigma))
    residual = (filled - truth) / sigma
    pulls = ((filled - truth) / np.sqrt(errors**2 + sigma**2)).ravel()
    by_hole = residual.mean(axis=1)
    return Control(
        rms=float(np.sqrt(max(float(np.mean(residual**2)) - 1, 0.0))),
        bias=float(residual.mean()),
        error=float(by_hole.std() / np.sqrt(len(by_hole))),
        pull=float(np.sqrt(np.mean(pulls**2))),
        pulls=pulls,
        holes=len(filled),
    )


@dataclass(frozen=True)
class _Candidate:
    """First voxel of a control hole, and the numbers of its voxels, and of these and its support.

    Equivalent voxels have the same number.
    """

    base: Indices
    inner: frozenset[int]
    whole: frozenset[int]


def _candidates(
    target: Target,
    common: Holes,
    support: Indices,
    q_max: float,
    least: float,
    rng: np.random.Generator,
) -> list[_Candidate]:
    """Return control holes that were measured and are not their own support."""
    size = common.voxels.max(axis=0) - common.voxels.min(axis=0) + 1
    # Real holes repeat within about this distance; farther away the diffuse scattering differs.
    shift = rng.integers(-3 * size, 3 * size + 1, (_TRIALS, 3))
    trials = common.bases[rng.integers(len(common.bases), size=_TRIALS)] + shift
    trials = np.unique(trials, axis=0)
    rng.shuffle(trials)
    found: dict[frozenset[int], _Candidate] = {}
    for start in range(0, len(trials), 200):
        bases = trials[start : start + 200]
        bases = bases[_inside(target, bases, common.voxels, q_max)]
        parts = []
        for offsets in (common.voxels, support):
            values, sigma = np.empty((2, len(bases), len(offsets)))
            kernels.gather(target.data, target.errors, target.code, bases, offsets, values, sigma)
            parts.append(np.isfinite(values) & (sigma > 0))
        good = parts[0].all(axis=1) & (parts[1].mean(axis=1) >= least)
        for base in bases[good]:
            inner, outer = (_numbers(target, base + item) for item in (common.voxels, support))
            if inner.isdisjoint(outer):
                found[inner] = _Candidate(base, inner, inner | outer)
        if len(found) >= 3 * _WANTED:
            break
    return list(found.values())


def _grouped(candidates: list[_Candidate], most: int) -> list[Indices]:
    """Return the first voxels (n, 3) of groups of at most ``most`` control holes.

    No voxel of a hole is in another hole of its group or in its support: the spectrum would have to
    fill two holes in one, and kriging not.
    """
    groups: list[Indices] = []
    left = _WANTED
    for _ in range(_GROUPS):
        own: list[Indices] = []
        others: list[_Candidate] = []
        taken: set[int] = set()
        for candidate in candidates:
            if len(own) < min(most, left) and taken.isdisjoint(candidate.whole):
                own.append(candidate.base)
                taken |= candidate.inner
            else:
                others.append(candidate)
        if not own or (groups and left <= _WANTED - _ENOUGH):
            break
        groups.append(np.array(own))
        left -= len(own)
        candidates = others
    return groups


def _numbers(target: Target, voxels: Indices) -> frozenset[int]:
    """Return the numbers of voxels (n, 3); equivalent voxels have the same number."""
    shape = target.data.shape
    inside = np.all((voxels >= 0) & (voxels < shape), axis=1)
    numbers = np.ravel_multi_index(tuple(voxels[inside].T), shape)
    least = kernels.canonical(numbers, target.images, shape)
    return frozenset(np.where(least < 0, numbers, least).tolist())
