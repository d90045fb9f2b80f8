"""Test residuals of a refinement for effects that were not refined, by Rao's score test.

A small effect changes the residuals linearly. It is fitted together with the refined parameters,
which absorb a part of the effect. The decrease of χ² is the statistic of a score test in which the
refined parameters are nuisance parameters (Rao, Proc. Camb. Phil. Soc. 44, 50, 1948). If the
remaining residuals exceed their errors, their variance is measured from sums over blocks of
neighbouring peaks (`Left.weighed`). This distinguishes errors that are too small for each single
peak from errors that are common to a region.
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
"""Smallest part of a column that must be independent of the refined parameters."""
_CRYSTAL = (*CELL_NAMES, "u_x", "u_y", "u_z")
_LARGE = 1000.0  # decrease of χ² above which its probability underflows
_PARTS = 3  # regions along each side of the detector; its square along a scan, as in `transition`


def taken_up(
    refined: Refined,
    peaks: Sequence[Peaks],
    group: symmetry.SpaceGroup,
    free: Sequence[str],
    rows: NDArray[np.int64],
) -> tuple[Problem, Floats, Floats]:
    """Return the refined problem, its derivatives (3n, p) and residuals (3n,) for peaks (n,)."""
    problem = problem_of(refined, peaks, group, free)
    hkl = refined.hkl[rows].astype(np.float64)
    # Near the rotation axis a reflection may cease to cross the sphere; its derivative is set to 0.
    nuisance = np.nan_to_num(problem.jacobian(problem.parameters.start(), hkl, rows))
    return problem, nuisance, (refined.residuals[rows] / problem.sigma[rows]).ravel()


def problem_of(
    refined: Refined, peaks: Sequence[Peaks], group: symmetry.SpaceGroup, free: Sequence[str]
) -> Problem:
    """Return the problem with the refined parameters, at their refined values."""
    constraints = symmetry.cell_constraints(group)
    chosen = choose(free, constraints, refined.cell, refined.u, refined.rotations)
    return Problem(chosen, peaks)


def bias(problem: Problem, nuisance: Floats, moved: Floats, chi2: float) -> float:
    """Return the error in σ of cell and orientation if an effect moves spots by ``moved`` (3n,)."""
    crystal = np.isin(problem.parameters.names, _CRYSTAL)
    if not crystal.any():
        return 0.0
    scale = np.maximum(np.linalg.norm(nuisance, axis=0), np.finfo(float).tiny)
    inverse = np.linalg.pinv(nuisance / scale, rcond=ALIKE)[crystal]
    sigma = np.sqrt(chi2) * np.linalg.norm(inverse, axis=1)
    return float(np.abs(inverse @ moved / np.maximum(sigma, np.finfo(float).tiny)).max())


@dataclass(frozen=True)
class Fit:
    """Result of a fit.

    Attributes
    ----------
    gain : float
        Decrease of χ².
    values, covariance
        Fitted values and their covariance.
    factor : (k, r) array
        Factor f of the covariance, ``f fᵀ``.
    """

    gain: float
    values: Floats
    covariance: Floats
    factor: Floats


def fitted(gram: Floats, gradient: Floats, whole: Floats) -> Fit:
    """Fit columns after subtraction of the part that the nuisance parameters explain.

    Parameters
    ----------
    gram, gradient
        Gram matrix and gradient of these columns.
    whole
        Gram matrix of the columns before the subtraction; far smaller values are rounding errors.
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
    """Return the block number (n,) of each peak, for three kinds of blocks of neighbouring peaks.

    The kinds are detector regions, parts of the scans, and both.

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
        of_rotation, n = which == i, _PARTS**2
        ends = (*rotation.detector.shape, rotation.scan.n_frames)
        cells = [
            np.clip(np.floor(k * x / end), 0, k - 1).astype(np.int64)
            for x, k, end in zip(position[of_rotation].T, (_PARTS, _PARTS, n), ends, strict=True)
        ]
        region[of_rotation], part[of_rotation] = _PARTS * cells[0] + cells[1], n * i + cells[2]
    return region, part, region + (region.max() + 1) * part


@dataclass(frozen=True)
class Left:
    """Residuals (3n,) after a fit of known columns, which have an orthonormal ``basis`` (3n, p)."""

    basis: Floats
    residual: Floats
    blocks: tuple[NDArray[np.int64], ...]
    """Results of the function `blocks`. If empty, the residuals beyond the errors are assumed to be
    independent from peak to peak.
    """

    @classmethod
    def of(cls, residual: Floats, known: Floats, blocks: tuple[NDArray[np.int64], ...]) -> "Left":
        """Subtract from residuals (3n,) the part that columns ``known`` (3n, p) explain."""
        basis, _ = np.linalg.qr(known / np.maximum(np.linalg.norm(known, axis=0), 1e-300))
        return cls(basis, residual - basis @ (basis.T @ residual), blocks)

    def beside(self, columns: Floats) -> Floats:
        """Return the part of the columns that is independent of the known columns."""
        beside: Floats = columns - self.basis @ (self.basis.T @ columns)
        return beside

    def weighed(self, own: Floats, fit: Fit) -> tuple[float, float]:
        """Return the decrease of χ² divided by the variance, and the variance, for columns (3n, k).

        The variance is the mean square of sums of the score over blocks, divided by the value for
        independent residuals of variance one (White, Econometrica 48, 817, 1980, for clusters). The
        residuals are those after the fit. The largest value of all kinds of blocks is used, limited
        to the value for an excess that is common to whole regions.

        If there are few blocks, the variance is uncertain. With ν degrees of freedom of the
        variance, the decrease of χ² is replaced by the χ² value that has the same probability as
        the F ratio (Bartlett, Proc. R. Soc. A 160, 268, 1937): ``(ν + k/2 - 1) ln(1 + x / ν)``.
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
            if expected < ALIKE:  # all peaks that determine the effect are in one block
                return fit.gain / most, most
            variances.append(max(square / expected, least))
            x = fit.gain / variances[-1]
            falls.append((freedom + k / 2 - 1) * np.log1p(x / freedom))
        return max(fit.gain / most, min(falls)), min(most, max(variances))


def block_sums(
    score: Floats, unit: Floats, fitted: Floats, block: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Return the sum of squares of block sums, its expectation, and its degrees of freedom.

    Parameters
    ----------
    score : (m, r) array
        Products of orthonormal columns ``unit`` (m, r) and residuals.
    fitted : (m, p) array
        Orthonormal basis of all that was fitted: the residuals have the covariance ``1 - f fᵀ``.
    block : (m,) array

    Returns
    -------
    square, expected, freedom : float
        Expectation ``Σ tr C_b`` and degrees of freedom ``(Σ tr C_b)² / (r Σ tr C_b²)``
        (Satterthwaite, Biometrics Bull. 2, 110, 1946), where ``C_b`` is the covariance (r, r) of
        the sum over a block. The degrees of freedom are for one column, because an effect common
        to a block may involve only one column.
    """
    square, expected, second = 0.0, 0.0, 0.0
    order = np.argsort(block, kind="stable")
    for rows in np.split(order, np.nonzero(np.diff(block[order]))[0] + 1):
        with_fitted = unit[rows].T @ fitted[rows]
        residual_covariance = unit[rows].T @ unit[rows] - with_fitted @ with_fitted.T
        square += float(np.sum(score[rows].sum(axis=0) ** 2))
        expected += float(np.trace(residual_covariance))
        second += float(np.sum(residual_covariance**2))
    freedom = expected**2 / max(unit.shape[1] * second, np.finfo(float).tiny)
    return square, expected, freedom


def variance_left(gain: float, freedom: int, chi2: float, n: int) -> float:
    """Return the variance after a fit that explains a part of χ², at least 1.

    The excess over the errors is common to neighbouring peaks, as in `orientation.transition`.
    """
    reduced = max((chi2 - gain) / max(n - freedom, 1), 1.0)
    return reduced * systematic(reduced, max(n // 3, 1)) ** 2


def log_chance(gain: float, freedom: int) -> float:
    """Return the logarithm of the chance that χ² of ``freedom`` parameters exceeds ``gain``."""
    a, y = freedom / 2, gain / 2
    if gain < _LARGE:
        return float(np.log(gammaincc(a, max(y, 0.0))))
    return float((a - 1) * np.log(y) - y - gammaln(a) + np.log1p((a - 1) / y))
