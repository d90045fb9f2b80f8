"""Absolute scale of S(Q) from Bragg intensities: against a model, or against another scan.

The model of an intensity is ``I = s exp(-2 ΔB s²) E / √(1 + x g E)`` with s = sin θ/λ. E is the
expected intensity: |F|² (2π)³/V of a structure in 1/Å³, or the intensity of the reference scan. ΔB
is the difference of the Debye-Waller factors. x is the extinction of SHELX (Larson, 1970) with
g = λ³ / sin 2θ. The intensities are those before the scaling of reflections: they have the norm of
S(Q). Their common errors, such as absorption that is not corrected, are smooth in the angle of the
scan, and the errors of a model are common to equivalents. The errors of the parameters are from two
jackknifes therefore, over blocks of angles and over groups of unique reflections.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from hklflow.bragg.groups import Groups
from hklflow.bragg.reflections import ReflectionFlag
from hklflow.bragg.structure import Structure
from hklflow.bragg.structure_factors import Scaled
from hklflow.geometry.symmetry import SpaceGroup, reindexing_operators

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ROUNDS = 6
_STRONG = 10.0  # I/σ of the intensities that tell the scatter
_TUKEY = 4.685
_BLOCK = 30.0  # degrees
_FEWEST_BLOCKS = 6  # of a rotation
_GROUPS = 20
_KNOWN = 20.0  # I/σ of reflections of a reference


@dataclass(frozen=True)
class Intensities:
    """Intensities and what is expected of them; arrays (n,).

    Attributes
    ----------
    observed, sigma : array
        Intensity with the norm of S(Q), and its error by counting, 1/Å³.
    expected : array
        Expected intensity.
    expected_sigma : array
        Its error; 0 for a model.
    s : array
        sin θ/λ, 1/Å.
    block : int array
        Block of scan angles.
    group : int array
        Group of unique reflections.
    """

    observed: Floats
    sigma: Floats
    expected: Floats
    expected_sigma: Floats
    s: Floats
    block: Integers
    group: Integers


def as_measured(scaled: Scaled) -> Scaled:
    """Return the usable reflections with the norm of S(Q): before they were scaled."""
    kept = scaled.select(
        ~scaled.has(ReflectionFlag.ABSENT | ReflectionFlag.OUTLIER) & (scaled.sigma_counting > 0)
    )
    return replace(
        kept,
        intensity=kept.intensity * kept.scale,
        sigma=kept.sigma * kept.scale,
        sigma_counting=kept.sigma_counting * kept.scale,
        scale=np.ones(len(kept)),
    )


def against_structure(
    measured: Scaled, structure: Structure, cell: ArrayLike, group: SpaceGroup, wavelength: float
) -> tuple[Intensities, Floats]:
    """Return intensities with the intensities of a structure, and the operator of its indexing.

    A lattice may have more symmetry than the structure. Of the ways to index it, the operator W of
    ``h_structure = W h`` is chosen that agrees best.
    """
    families = Groups.of(group.asymmetric(measured.hkl))
    operators = [np.eye(3), *reindexing_operators(cell, group)]
    # Friedel mates and equivalents have one value: the mean that the space group allows.
    tables = [
        structure.intensities(families.hkl @ w.T, wavelength)[families.index] for w in operators
    ]
    best = max(range(len(tables)), key=lambda i: _agreement(measured, tables[i]))
    expected = tables[best] * (2 * np.pi) ** 3 / structure.volume
    return _gathered(measured, families, expected, np.zeros(len(measured))), operators[best]


def against_reference(measured: Scaled, reference: Scaled, group: SpaceGroup) -> Intensities:
    """Return intensities with the mean intensities of a reference scan, where it is precise."""
    theirs = Groups.of(group.asymmetric(reference.hkl))
    n = theirs.n
    mean = theirs.sum(reference.intensity) / n
    sigma = np.sqrt(theirs.sum(reference.sigma_counting**2)) / n
    precise = np.flatnonzero(mean > _KNOWN * sigma)
    places = {tuple(theirs.hkl[i]): i for i in precise.tolist()}
    rows = group.asymmetric(measured.hkl)
    at = np.array([places.get(tuple(row), -1) for row in rows.tolist()], dtype=np.int64)
    common = at >= 0
    families = Groups.of(rows[common])
    at = at[common]
    return _gathered(measured.select(common), families, mean[at], sigma[at])


def _agreement(measured: Scaled, expected: Floats) -> float:
    """Return the correlation of the roots of intensities, which strong ones do not dominate."""
    roots = np.sqrt(np.maximum(measured.intensity, 0.0)), np.sqrt(np.maximum(expected, 0.0))
    return float(np.corrcoef(*roots)[0, 1]) if len(expected) > 2 else 0.0


def _gathered(measured: Scaled, families: Groups, expected: Floats, error: Floats) -> Intensities:
    groups = np.random.default_rng(0).integers(_GROUPS, size=len(families))
    return Intensities(
        measured.intensity,
        measured.sigma_counting,
        expected,
        error,
        0.5 / measured.d,
        _blocks(measured.rotation, measured.angle),
        groups[families.index],
    )


def _blocks(rotation: Integers, angle: Floats) -> Integers:
    """Return the number of the block of scan angles of each reflection."""
    block = np.zeros(len(angle), dtype=np.int64)
    for i, number in enumerate(np.unique(rotation)):
        own = rotation == number
        low, span = angle[own].min(), np.ptp(angle[own])
        width = max(min(_BLOCK, span / _FEWEST_BLOCKS), 1e-9)
        block[own] = 10_000 * i + np.floor((angle[own] - low) / width)
    return block


@dataclass(frozen=True)
class RatioFit:
    """Result of `fit_ratio`; every error is from the jackknifes.

    Attributes
    ----------
    log_scale, log_scale_sigma : float
        ln s.
    delta_b, delta_b_sigma : float
        Å².
    extinction, extinction_sigma : float
        x; 0 and 0 if it is not fitted.
    scatter : float
        Relative scatter of an intensity about the fit, beyond counting.
    block_scatter : float
        Relative scatter of the blocks about the fit, beyond noise.
    correlation : float
        Correlation of ln I and ln E of strong reflections.
    strong, n, blocks : int
        Number of strong reflections, of all, and of blocks.
    """

    log_scale: float
    log_scale_sigma: float
    delta_b: float
    delta_b_sigma: float
    extinction: float
    extinction_sigma: float
    scatter: float
    block_scatter: float
    correlation: float
    strong: int
    n: int
    blocks: int

    def figures(self) -> dict[str, Any]:
        """Return numbers for the metrics."""
        return {
            "reflections": self.n,
            "strong reflections": self.strong,
            "blocks of angles": self.blocks,
            "scatter of the intensities": self.scatter,
            "scatter of the blocks": self.block_scatter,
            "correlation of ln I": self.correlation,
            "delta B": self.delta_b,
            "delta B sigma": self.delta_b_sigma,
            "extinction": self.extinction,
            "extinction sigma": self.extinction_sigma,
        }


def fit_ratio(data: Intensities, wavelength: float, extinction: bool) -> RatioFit:
    """Fit scale, ΔB and (if asked) extinction to intensities, robustly.

    Parameters
    ----------
    extinction : bool
        Fit x, which is not negative.
    """
    sin2 = np.sin(2 * np.arcsin(np.clip(data.s * wavelength, 0, 1 - 1e-9)))
    g = wavelength**3 / np.maximum(sin2, 1e-3) * data.expected
    free = 3 if extinction else 2
    p = np.array([np.log(np.median(_positive_ratio(data))), 0.0, 0.0])
    scatter, weights = 0.3, np.ones(len(data.s))
    for _ in range(_ROUNDS):
        m = _model(p, data, g)
        variance = data.sigma**2 + (np.exp(p[0]) * data.expected_sigma) ** 2
        strong = m > _STRONG * np.sqrt(variance)
        scatter = _scatter(data.observed[strong] / m[strong] - 1, variance[strong] / m[strong] ** 2)
        error = np.sqrt(variance + (scatter * m) ** 2)
        u = (data.observed - m) / error / _TUKEY
        weights = np.where(np.abs(u) < 1, (1 - u**2) ** 2, 0.0) / error**2
        p[:free] = _least_squares(p, free, data, g, weights)
    m = _model(p, data, g)
    by_angle, block_scatter = _jackknife(p, free, data, g, weights, data.block)
    by_group, _ = _jackknife(p, free, data, g, weights, data.group)
    spread = np.sqrt(by_angle + by_group)
    n = len(np.unique(data.block))
    strong = (m > _STRONG * data.sigma) & (data.observed > 0)
    logs = np.log(data.observed[strong]), np.log(m[strong])
    correlation = float(np.corrcoef(*logs)[0, 1]) if strong.sum() > 2 else 0.0
    sigma = np.zeros(3)
    sigma[:free] = spread
    return RatioFit(
        float(p[0]), float(sigma[0]), float(p[1]), float(sigma[1]), float(p[2]), float(sigma[2]),
        scatter, block_scatter, correlation, int(strong.sum()), len(data.s), n,
    )  # fmt: skip


def _positive_ratio(data: Intensities) -> Floats:
    """Return I/E of the strong half of the intensities, which are positive."""
    z = data.observed / data.sigma
    chosen = (z >= np.median(z)) & (data.observed > 0) & (data.expected > 0)
    ratios = data.observed[chosen] / data.expected[chosen]
    return ratios if len(ratios) else np.ones(1)


def _model(p: Floats, data: Intensities, g: Floats) -> Floats:
    damped = np.exp(p[0] - 2 * p[1] * data.s**2) * data.expected
    found: Floats = damped / np.sqrt(1 + p[2] * g)
    return found


def _derivatives(p: Floats, free: int, data: Intensities, g: Floats) -> tuple[Floats, Floats]:
    """Return the model (n,) and its derivatives (n, free)."""
    m = _model(p, data, g)
    columns = [m, -2 * data.s**2 * m, -0.5 * g / (1 + p[2] * g) * m]
    return m, np.stack(columns[:free], axis=1)


def _least_squares(p: Floats, free: int, data: Intensities, g: Floats, weights: Floats) -> Floats:
    root, start = np.sqrt(weights), p.copy()

    def full(q: Floats) -> Floats:
        return np.concatenate([q, start[free:]])

    def residuals(q: Floats) -> Floats:
        return root * (data.observed - _model(full(q), data, g))

    def jacobian(q: Floats) -> Floats:
        return -root[:, None] * _derivatives(full(q), free, data, g)[1]

    low = np.array([-np.inf, -np.inf, 0.0])[:free]
    fit = optimize.least_squares(
        residuals, start[:free], jacobian, bounds=(low, np.inf), x_scale="jac"
    )
    found: Floats = fit.x
    return found


def _scatter(deviation: Floats, variance: Floats) -> float:
    """Return the relative scatter beyond the variance by counting, from the median deviation."""
    if len(deviation) < 5:
        return 0.3
    total = 1.4826 * np.median(np.abs(deviation - np.median(deviation)))
    return float(np.clip(np.sqrt(max(total**2 - np.median(variance), 0.0)), 0.005, 1.0))


def _jackknife(
    p: Floats, free: int, data: Intensities, g: Floats, weights: Floats, parts: Integers
) -> tuple[Floats, float]:
    """Return the variances (free,) of the parameters by leaving out parts, and a scatter.

    The scatter is the rms of the weighted means of observed / model - 1 in the parts, beyond the
    noise of the means.
    """
    m, columns = _derivatives(p, free, data, g)
    names, index = np.unique(parts, return_inverse=True)
    n, w = len(names), weights * m**2
    normal, right = np.zeros((n, free, free)), np.zeros((n, free))
    np.add.at(normal, index, weights[:, None, None] * columns[:, :, None] * columns[:, None, :])
    np.add.at(right, index, (weights * (data.observed - m))[:, None] * columns)
    total, pull = normal.sum(axis=0), right.sum(axis=0)
    # An x at its bound of 0 has no free step.
    used = free - 1 if free == 3 and p[2] == 0 else free
    steps = np.zeros((n, free))
    for i in range(n):
        rest = (total - normal[i])[:used, :used]
        steps[i, :used] = np.linalg.lstsq(rest, (pull - right[i])[:used], None)[0]
    sums = np.bincount(index, w, n)
    filled = sums > 0
    level = np.bincount(index, w * (data.observed / m - 1), n)[filled] / sums[filled]
    beyond = float(np.var(level) - np.mean(1 / sums[filled]))
    variance = (n - 1) / n * np.sum((steps - steps.mean(axis=0)) ** 2, axis=0)
    return variance, float(np.sqrt(max(beyond, 0.0)))
