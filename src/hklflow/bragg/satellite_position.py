r"""Fit position and width of the reflections of a propagation vector in one scan.

All reflections of the star are fitted at once, each in its own box. A voxel expects
:math:`\mu = M (b (c + g \cdot p) + a w \sum_j G(\delta - B p))`: norm M, background b of the shell,
relative intensity w of the reflection, and a Gaussian G of the displacement δ of each arm in the
frame of the vector. Free are the intensity a, the level c and slope g of the background, and the
displacement p along the directions B that symmetry leaves free. They follow by maximum likelihood
of the counts (Fisher's scoring); the covariance of the Gaussian is the second moment of the photons
that most likely belong to the reflection (expectation maximisation).

The covariance of p is the inverse of the Fisher matrix. It is enlarged if the positions of single
reflections scatter by more, because of an error of the orientation matrix.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes.satellite_voxels import Star, Voxels

Floats = NDArray[np.float64]

SEEN = 5.0
"""Smallest intensity over its standard deviation of a position that counts."""
_ROUNDS = 40
_CLOSE = 0.02  # change in standard deviations at which the fit has converged
_STEP = 1.0  # largest step of the position, in widths of the reflection
_USUAL = 20.0  # photons that the expected covariance counts as
_SHARPEST = 3.0  # smallest variance over that of a place in half a voxel: a quarter of a voxel
_FEWEST = 6  # reflections from which their scatter is known


@dataclass(frozen=True)
class Position:
    """Position of the reflections of a vector in one scan.

    Attributes
    ----------
    vector : (3,) array
        Propagation vector, r.l.u.
    free : (f,) array
        Displacement from the vector of the star along its free directions, r.l.u.
    covariance : (f, f) array
        Of ``free``.
    significance : float
        Intensity over its standard deviation.
    photons : float
        Photons of all fitted reflections.
    width : (3, 3) array
        Covariance of the Gaussian in the frame of the vector, r.l.u.², without the voxel.
    enlarged : float
        Factor of the errors, from the scatter between reflections; at least 1.
    """

    vector: Floats
    free: Floats
    covariance: Floats
    significance: float
    photons: float
    width: Floats
    enlarged: float

    @property
    def seen(self) -> bool:
        """True if the reflections are strong enough for a position."""
        return self.significance > SEEN


@dataclass(frozen=True)
class _Model:
    """Expected counts of all voxels, and their derivatives."""

    expected: Floats  # (v,)
    slopes: Floats  # (v, 2 + 2 f): intensity, background, its slope, position
    own: Floats  # (n,): expected photons of the reflection, in each part of a voxel
    away: Floats  # (n, 3): displacement of each part from the reflection


def fit(voxels: Voxels, star: Star, centre: Floats, width: Floats, usual: bool) -> Position:
    """Return the position of the reflections near ``centre``.

    Parameters
    ----------
    centre : (3,) array
        Vector from which the offsets of the voxels are measured.
    width : (3, 3) array
        Expected covariance, r.l.u.².
    usual : bool
        True: few photons have the expected covariance; False: it is only the first value.
    """
    f = star.basis.shape[1]
    free, covariance = np.zeros(f), width
    background = float(np.sum(voxels.norm * voxels.background))
    amplitude = max(float(voxels.counts.sum()) - background, 1.0) / max(
        float(np.sum(voxels.norm * voxels.weight)), 1e-300
    )
    # The Gaussian has the integral 1: its amplitude is an intensity per volume of the box.
    span = np.ptp(voxels.offset, axis=0)
    amplitude *= float(np.prod(span))
    height, level, slope = amplitude, 1.0, np.zeros(f)
    model = _model(voxels, star, height, level, slope, free, covariance)
    for _ in range(_ROUNDS):
        step, fisher = _step(voxels, model)
        size = np.sqrt(np.linalg.eigvalsh(star.basis.T @ covariance @ star.basis)) if f else None
        move = step[2 + f :]
        if size is not None:
            move = move * min(1.0, _STEP * float(size[0]) / max(float(np.abs(move).max()), 1e-12))
        height = max(height + step[0], 0.1 * height)
        level = max(level + step[1], 0.1 * level)
        slope = slope + step[2 : 2 + f]
        free = free + move
        last = covariance
        covariance = _moment(voxels, star, model, width, _USUAL if usual else 0.0)
        model = _model(voxels, star, height, level, slope, free, covariance)
        error = np.sqrt(np.diag(_inverse(fisher))[2 + f :])
        same = np.allclose(last, covariance, rtol=0, atol=_CLOSE * float(np.trace(covariance)))
        if same and (f == 0 or np.all(np.abs(move) < _CLOSE * error)):
            break
    scores, fisher = _scores(voxels, model)
    inverse = _inverse(fisher)
    enlarged = _scatter(scores, fisher, 2 + f) if f else 1.0
    height_error = float(np.sqrt(max(inverse[0, 0], 1e-300)))
    return Position(
        vector=centre + star.basis @ free,
        free=free + star.basis.T @ (centre - star.vector),
        covariance=np.asarray(inverse[2 + f :, 2 + f :] * enlarged**2, np.float64),
        significance=height / height_error,
        photons=float(model.own.sum()),
        width=covariance,
        enlarged=enlarged,
    )


def _model(
    voxels: Voxels,
    star: Star,
    height: float,
    level: float,
    slope: Floats,
    free: Floats,
    covariance: Floats,
) -> _Model:
    v, part = len(voxels.counts), voxels.voxel
    away = voxels.offset - star.basis @ free
    inverse = np.linalg.inv(covariance + voxels.edge)
    turned = away @ inverse
    density = np.exp(-0.5 * np.einsum("ni,ni->n", turned, away))
    density *= np.sqrt(np.linalg.det(inverse) / (2 * np.pi) ** 3) / voxels.parts
    strength = voxels.norm * voxels.weight

    def summed(x: Floats) -> Floats:
        return np.asarray(np.bincount(part, x, v), np.float64)

    gaussian = strength * summed(density)
    towards = turned @ star.basis
    moved = [strength * summed(density * x) for x in towards.T]
    # The background of a voxel is sloped along the displacement in the frame of the vector.
    number = np.maximum(np.bincount(part, minlength=v), 1)
    along = [summed(x) / number for x in (voxels.offset @ star.basis).T]
    floor = voxels.norm * voxels.background
    base = floor * (level + sum((g * x for g, x in zip(slope, along, strict=True)), np.zeros(v)))
    expected = np.maximum(base, 0.05 * floor) + height * gaussian
    columns = [gaussian, floor, *(floor * x for x in along), *(height * x for x in moved)]
    own = height * strength[part] * density
    return _Model(np.maximum(expected, 1e-12), np.stack(columns, axis=1), own, away)


def _step(voxels: Voxels, model: _Model) -> tuple[Floats, Floats]:
    weighted = model.slopes / (model.expected * voxels.noise)[:, None]
    fisher = weighted.T @ model.slopes
    return _inverse(fisher) @ (weighted.T @ (voxels.counts - model.expected)), fisher


def _inverse(fisher: Floats) -> Floats:
    """Return the inverse of a Fisher matrix on the parameters that are determined.

    The height has the unit of S, other parameters have none: no unit may decide what is determined.
    """
    scale = np.sqrt(np.maximum(np.diag(fisher), 1e-300))
    size = np.outer(scale, scale)
    return np.asarray(np.linalg.pinv(fisher / size, rcond=1e-10, hermitian=True) / size)


def _moment(voxels: Voxels, star: Star, model: _Model, width: Floats, usual: float) -> Floats:
    """Return the covariance of the photons that belong to the reflections."""
    photons = model.own * np.maximum(voxels.counts / model.expected, 0)[voxels.voxel]
    photons = photons / voxels.noise[voxels.voxel]
    total = np.einsum("n,ni,nj->ij", photons, model.away, model.away)
    total += usual * (width + voxels.edge)
    mean = total / max(float(photons.sum()) + usual, 1e-12)
    mean = np.mean([r @ mean @ r.T for r in star.little], axis=0)
    # The covariance over its smallest one must not be below 1 in any direction.
    least = np.linalg.cholesky(np.mean([r @ voxels.edge @ r.T for r in star.little], axis=0))
    inverse = np.linalg.inv(least)
    values, vectors = np.linalg.eigh(inverse @ (mean - voxels.edge) @ inverse.T)
    root = least @ vectors
    return np.asarray((root * np.maximum(values, _SHARPEST)) @ root.T)


def _scores(voxels: Voxels, model: _Model) -> tuple[Floats, Floats]:
    """Return the scores of each reflection (r, p) and the Fisher matrix."""
    weighted = model.slopes / (model.expected * voxels.noise)[:, None]
    each = weighted * (voxels.counts - model.expected)[:, None]
    n = int(voxels.place.max()) + 1
    columns = [np.asarray(np.bincount(voxels.place, x, n), np.float64) for x in each.T]
    scores = np.stack(columns, axis=1)
    return scores[np.bincount(voxels.place, minlength=n) > 0], weighted.T @ model.slopes


def _scatter(scores: Floats, fisher: Floats, first: int) -> float:
    """Return the scatter of the reflections' positions over that of counts, at least 1."""
    if len(scores) < _FEWEST:
        return 1.0
    # Scores of the position, with the best values of the other parameters.
    other = fisher[:first, :first]
    mixed = _inverse(other) @ fisher[:first, first:]
    own = scores[:, first:] - scores[:, :first] @ mixed
    left = fisher[first:, first:] - fisher[first:, :first] @ mixed
    ratio = np.trace(_inverse(left) @ (own.T @ own)) / left.shape[0]
    n = len(scores)
    return float(np.sqrt(max(ratio * n / (n - 1), 1.0)))
