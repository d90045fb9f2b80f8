"""Rao's score test: what else than the refined parameters residuals of a refinement may hold.

What is asked for is linear where it is small, and is fitted next to the refined parameters, which
would take up a part of it: the fall of χ² is that of a score test with these as nuisance parameters
(Rao, Proc. Camb. Phil. Soc. 44, 50, 1948). Where residuals exceed their errors beside it, its
variance is measured by sums over blocks of neighbouring peaks (`Left.weighed`): errors that are too
small, of each peak for itself, are not taken for those of a region.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc, gammaln

from hklflow.base.values import CELL_NAMES
from hklflow.geometry import Rotation, symmetry
from hklflow.geometry.parameters import choose
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks, Problem
from hklflow.orientation.transition import systematic

Floats = NDArray[np.float64]

ALIKE = 1e-6
"""Part of a column that the refinement cannot make, below which nothing is known of it."""
_CRYSTAL = (*CELL_NAMES, "u_x", "u_y", "u_z")
_LARGE = 1000.0  # fall of χ² beyond which its probability underflows
_PARTS = 3  # of the detector's sides; its square of a scan: as many regions as in `transition`


def taken_up(
    refined: Refined,
    peaks: Sequence[Peaks],
    group: symmetry.SpaceGroup,
    free: Sequence[str],
    rows: NDArray[np.int64],
) -> tuple[Problem, Floats, Floats]:
    """What was refined, its derivatives (3n, p) for some peaks (n,), and their residuals (3n,)."""
    problem = problem_of(refined, peaks, group, free)
    hkl = refined.hkl[rows].astype(np.float64)
    # At the edge of the blind region a reflection may cease to cross: it says nothing.
    nuisance = np.nan_to_num(problem.jacobian(problem.parameters.start(), hkl, rows))
    return problem, nuisance, (refined.residuals[rows] / problem.sigma[rows]).ravel()


def problem_of(
    refined: Refined, peaks: Sequence[Peaks], group: symmetry.SpaceGroup, free: Sequence[str]
) -> Problem:
    """Return the problem whose parameters are the refined ones, at their values."""
    constraints = symmetry.cell_constraints(group)
    chosen = choose(free, constraints, refined.cell, refined.u, refined.rotations)
    return Problem(chosen, peaks)


def bias(problem: Problem, nuisance: Floats, moved: Floats, chi2: float) -> float:
    """By how many σ cell and orientation make up for what moves the spots by ``moved`` (3n,)."""
    crystal = np.isin(problem.parameters.names, _CRYSTAL)
    if not crystal.any():
        return 0.0
    scale = np.maximum(np.linalg.norm(nuisance, axis=0), np.finfo(float).tiny)
    inverse = np.linalg.pinv(nuisance / scale, rcond=ALIKE)[crystal]
    sigma = np.sqrt(chi2) * np.linalg.norm(inverse, axis=1)
    return float(np.abs(inverse @ moved / np.maximum(sigma, np.finfo(float).tiny)).max())


@dataclass(frozen=True)
class Fit:
    """Fall of χ², the size with its covariance, and a factor (k, r) of that: ``f fᵀ``."""

    gain: float
    values: Floats
    covariance: Floats
    factor: Floats


def fitted(gram: Floats, gradient: Floats, whole: Floats) -> Fit:
    """Fit of columns of which the nuisance parameters' part was taken.

    Parameters
    ----------
    gram, gradient
        Of the columns less that part.
    whole
        Gram matrix of the columns as they are: what is far below it was rounding.
    """
    scale = np.sqrt(np.maximum(np.diag(whole), np.finfo(float).tiny))
    eigenvalues, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    good = eigenvalues > ALIKE
    factor = vectors[:, good] / np.sqrt(eigenvalues[good]) / scale[:, None]
    inverse = factor @ factor.T
    return Fit(float(gradient @ inverse @ gradient), -inverse @ gradient, inverse, factor)


def blocks(
    rotations: Sequence[Rotation], which: NDArray[np.int64], position: Floats
) -> tuple[NDArray[np.int64], ...]:
    """Blocks of neighbouring peaks (n,): regions of the detector, parts of the scans, and both.

    Parameters
    ----------
    rotations : sequence of Rotation
    which : (n,) array
        Rotation of each peak.
    position : (n, 3) array
        Slow, fast, frame.
    """
    region, part = np.zeros((2, len(position)), np.int64)
    for i, rotation in enumerate(rotations):
        mine, n = which == i, _PARTS**2
        ends = (*rotation.detector.shape, rotation.scan.n_frames)
        at = [
            np.clip(np.floor(k * x / end), 0, k - 1).astype(np.int64)
            for x, k, end in zip(position[mine].T, (_PARTS, _PARTS, n), ends, strict=True)
        ]
        region[mine], part[mine] = _PARTS * at[0] + at[1], n * i + at[2]
    return region, part, region + (region.max() + 1) * part


@dataclass(frozen=True)
class Left:
    """What is left (3n,) of the residuals beside what is known, of which ``basis`` (3n, p) is one.

    ``blocks`` are those of `blocks`.
    """

    basis: Floats
    residual: Floats
    blocks: tuple[NDArray[np.int64], ...]
    """Empty: what residuals have beyond their errors is each peak's own."""

    @classmethod
    def of(cls, residual: Floats, known: Floats, blocks: tuple[NDArray[np.int64], ...]) -> "Left":
        """Take from residuals (3n,) what columns ``known`` (3n, p) can explain."""
        basis, _ = np.linalg.qr(known / np.maximum(np.linalg.norm(known, axis=0), 1e-300))
        return cls(basis, residual - basis @ (basis.T @ residual), blocks)

    def beside(self, columns: Floats) -> Floats:
        """Columns without what is known."""
        beside: Floats = columns - self.basis @ (self.basis.T @ columns)
        return beside

    def weighed(self, own: Floats, fit: Fit) -> tuple[float, float]:
        """Fall of χ² over the variance, and the variance, of columns beside what is known (3n, k).

        The variance is the mean square of the score's sums over blocks, of residuals beside the
        fit too, over what it is of independent residuals of variance one (White, Econometrica 48,
        817, 1980, of clusters; the largest of all kinds of blocks counts). It is at most what it
        were if all that exceeds the errors were common to regions.

        Few blocks do not tell it well: of ν degrees of freedom, the fall is that of χ² which is
        as probable as F (Bartlett, Proc. R. Soc. A 160, 268, 1937):
        ``(ν + k/2 - 1) ln(1 + x / ν)``.
        """
        k, chi2 = fit.values.size, float(self.residual @ self.residual)
        n = len(self.residual) - self.basis.shape[1]
        most = variance_left(fit.gain, k, chi2, n)
        least = max((chi2 - fit.gain) / max(n - k, 1), 1.0)
        if not self.blocks:
            return fit.gain / least, least
        if most <= least:
            return fit.gain / most, most
        unit = own @ fit.factor
        score = unit * (self.residual + own @ fit.values)[:, None]
        fitted = np.hstack([self.basis, unit])
        variances, falls = [], []
        for block in self.blocks:
            square, expected, freedom = block_sums(score, unit, fitted, np.repeat(block, 3))
            if expected < ALIKE:  # all peaks that tell of it are in one block
                return fit.gain / most, most
            variances.append(max(square / expected, least))
            x = fit.gain / variances[-1]
            falls.append((freedom + k / 2 - 1) * np.log1p(x / freedom))
        return max(fit.gain / most, min(falls)), min(most, max(variances))


def block_sums(
    score: Floats, unit: Floats, fitted: Floats, block: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Sum of squares of a score's sums over blocks, what it is by chance, and degrees of freedom.

    Parameters
    ----------
    score : (m, r) array
        Orthonormal columns ``unit`` (m, r) times residuals.
    fitted : (m, p) array
        Orthonormal basis of all that was fitted: residuals beside it have covariance ``1 - f fᵀ``.
    block : (m,) array

    Returns
    -------
    square, expected, freedom : float
        With ``C_b`` the covariance (r, r) of the sum over a block, ``Σ tr C_b`` and
        ``(Σ tr C_b)² / (r Σ tr C_b²)`` (Satterthwaite, Biometrics Bull. 2, 110, 1946), of one
        column: what is common to a block may be so along one of them only.
    """
    square, expected, second = 0.0, 0.0, 0.0
    order = np.argsort(block, kind="stable")
    for rows in np.split(order, np.nonzero(np.diff(block[order]))[0] + 1):
        with_fitted = unit[rows].T @ fitted[rows]
        own = unit[rows].T @ unit[rows] - with_fitted @ with_fitted.T
        square += float(np.sum(score[rows].sum(axis=0) ** 2))
        expected += float(np.trace(own))
        second += float(np.sum(own**2))
    freedom = expected**2 / max(unit.shape[1] * second, np.finfo(float).tiny)
    return square, expected, freedom


def variance_left(gain: float, freedom: int, chi2: float, n: int) -> float:
    """Variance beside what explains a part of χ²; the peaks' own errors are not made smaller.

    What exceeds them is common to neighbouring peaks, as in `orientation.transition`.
    """
    reduced = max((chi2 - gain) / max(n - freedom, 1), 1.0)
    return reduced * systematic(reduced, max(n // 3, 1)) ** 2


def log_chance(gain: float, freedom: int) -> float:
    """Logarithm of the probability that χ² of so many parameters exceeds a value by chance."""
    a, y = freedom / 2, gain / 2
    if gain < _LARGE:
        return float(np.log(gammaincc(a, max(y, 0.0))))
    return float((a - 1) * np.log(y) - y - gammaln(a) + np.log1p((a - 1) / y))
