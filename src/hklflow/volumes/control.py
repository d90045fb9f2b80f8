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
from hklflow.volumes.fill import MODELS, UNJUDGED, Holes, Pattern, Target, most_of, support_of
from hklflow.volumes.interpolants import OTHERS
from hklflow.volumes.spectrum import SpectrumFill

Floats = NDArray[np.float64]

_WANTED, _FEWEST, _TRIALS = 80, 10, 8000
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


def controls(target: Target, holes: list[Holes], seed: int = 0) -> dict[str, Control]:
    """Fill control holes with every interpolant; return {} if there are fewer than ten holes.

    Parameters
    ----------
    holes : list of Holes
        Punched holes that `find_holes` returned.
    """
    chosen = _chosen(target, holes, seed)
    if chosen is None:
        return {}
    bases, voxels, support = chosen
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
    target: Target, holes: list[Holes], spectrum: SpectrumFill, model: str, seed: int = 0
) -> Control | None:
    """Fill control holes by the spectrum; return None if there are fewer than ten within q_max.

    Parameters
    ----------
    target : Target
        Filled volume.
    holes, seed
        As for `controls`.
    model : str
        Kriging whose errors the filled voxels have.
    """
    chosen = _chosen(target, holes, seed)
    if chosen is None:
        return None
    bases, voxels, support = chosen
    places = bases[:, None] + voxels
    pattern = Pattern(voxels, support, target.edges, model)
    errors = pattern.kriging.fill(
        *pattern.measured(target, bases), pattern.twins(target, bases)
    ).errors
    filled = spectrum.predicted(places.reshape(-1, 3), errors.ravel())
    values, errors = (x.reshape(places.shape[:2]) for x in filled)
    if np.isfinite(values).all(axis=1).sum() < _FEWEST:
        return None
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
    target: Target, holes: list[Holes], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None:
    """Return first voxels of control holes, and their voxels and support; None if too few."""
    if not holes:
        return None
    common = max(holes, key=lambda item: (len(item.bases), len(item.voxels)))
    support = support_of(common.voxels, target.edges, most_of(len(common.voxels), True))
    for least in _MEASURED:
        bases = _places(target, common, support, least, np.random.default_rng(seed))
        if len(bases) >= _FEWEST:
            return bases, common.voxels, support
    return None


def _truth(
    target: Target, bases: NDArray[np.int64], voxels: NDArray[np.int64]
) -> tuple[Floats, Floats]:
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


def _places(
    target: Target,
    common: Holes,
    support: NDArray[np.int64],
    least: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the first voxels (n, 3) of control holes."""
    size = common.voxels.max(axis=0) - common.voxels.min(axis=0) + 1
    shape = target.data.shape
    # Real holes repeat within about this distance; farther away the diffuse scattering differs.
    shift = rng.integers(-3 * size, 3 * size + 1, (_TRIALS, 3))
    trials = common.bases[rng.integers(len(common.bases), size=_TRIALS)] + shift
    trials = np.unique(trials, axis=0)
    rng.shuffle(trials)
    chosen: list[NDArray[np.int64]] = []
    for start in range(0, len(trials), 200):
        bases = trials[start : start + 200]
        parts = []
        for offsets in (common.voxels, support):
            values, sigma = np.empty((2, len(bases), len(offsets)))
            kernels.gather(target.data, target.errors, target.code, bases, offsets, values, sigma)
            parts.append(np.isfinite(values) & (sigma > 0))
        good = parts[0].all(axis=1) & (parts[1].mean(axis=1) >= least)
        for base in bases[good]:
            inner, outer = (
                kernels.canonical(
                    np.ravel_multi_index(tuple((base + offsets).T), shape, mode="clip"),
                    target.images,
                    shape,
                )
                for offsets in (common.voxels, support)
            )
            if not np.isin(inner, outer[outer >= 0]).any():
                chosen.append(base)
        if len(chosen) >= _WANTED:
            break
    return np.array(chosen[:_WANTED], dtype=np.int64).reshape(-1, 3)
