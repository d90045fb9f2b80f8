"""Scale observations by the agreement of equivalents.

``Σ (I - g <I>)² / σ'²`` is minimised. <I> is the weighted mean of equivalents on one scale
(Hamilton, Rollett & Sparks, Acta Cryst. 18, 129, 1965). The logarithm of the scale g is linear in
the parameters, see `hklflow.bragg.scale_model`. Scales, error model and outliers are determined in
turn until convergence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hklflow.bragg import error_model, scale_model
from hklflow.bragg.error_model import ErrorModel, Spread
from hklflow.bragg.groups import Groups
from hklflow.bragg.observations import Observations
from hklflow.bragg.outliers import find_outliers
from hklflow.bragg.reflections import ReflectionFlag
from hklflow.bragg.scale_model import Curve, Kind, Plan, ScaleModel
from hklflow.bragg.structure_factors import Scaled
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_HUBER = 4.0  # standard deviations: the influence of larger deviations does not increase further
_STRONG = 2.0  # smallest I/σ of a mean that is used to determine scales
_FEW = 0.05  # largest fraction of groups that may disagree by chance
_CYCLES = 20
_CHANGE = 4.0  # largest plausible ratio of scales within a rotation; absorption changes them less
_BLOCK = 20_000  # observations
_RESTS = 1e-4  # converged: largest change of ln g


@dataclass(frozen=True)
class Settings:
    """Settings of scaling; see the stage `scale_reflections`."""

    anomalous: bool
    scale_interval: float
    decay: bool
    decay_interval: float
    absorption: int
    error_model: Literal["refine", "none"]
    outlier_sigma: float


@dataclass(frozen=True)
class Scaling:
    """Result of scaling; arrays of shape (n,).

    Attributes
    ----------
    scale : array
        Scale g, by which observed intensities and errors are divided.
    counting, variance : array
        Variances on one scale. ``counting``: from counting statistics, for the mean intensity of
        the group. ``variance``: from the error model.
    outlier : bool array
    curves : list of Curve
        Curves of each rotation.
    absorption : (smallest, largest)
        Range of the absorption factors; (1, 1) if absorption was not refined.
    errors : ErrorModel
    spread : Spread
    plan : Plan
    cycles : int
    rested : bool
    notes : tuple of str
        Reasons why parameters were not refined, and problems.
    """

    scale: Floats
    counting: Floats
    variance: Floats
    outlier: Bools
    curves: list[Curve]
    absorption: tuple[float, float]
    errors: ErrorModel
    spread: Spread
    plan: Plan
    cycles: int
    rested: bool
    notes: tuple[str, ...]

    @property
    def n_outliers(self) -> int:
        """Number of observations that disagree with their equivalents."""
        return int(self.outlier.sum())

    def scaled(self, observed: Observations) -> Scaled:
        """Return the table of the scaled reflections."""
        return Scaled(
            hkl=observed.hkl,
            rotation=observed.rotation,
            frame=observed.frame,
            angle=observed.angle,
            d=observed.d,
            intensity=observed.intensity / self.scale,
            sigma=np.sqrt(self.variance),
            sigma_counting=observed.sigma / self.scale,
            scale=self.scale,
            flags=observed.flags | np.where(self.outlier, int(ReflectionFlag.OUTLIER), 0),
        )

    def metrics(self, names: list[str]) -> dict[str, Any]:
        """Return the statistics of scaling for JSON; ``names`` are the names of the rotations."""
        errors = self.errors
        return {
            "rotations": {
                name: {
                    "nodes of scale": self.plan.nodes["scale"][i],
                    "nodes of B": self.plan.nodes["decay"][i],
                    "scale (mean, least, largest)": _summary(np.exp(curve.log_scale)),
                    "B in Å² (mean, least, largest)": _summary(curve.decay),
                    "on the scale of": names[self.plan.linked[i]],
                }
                for i, (name, curve) in enumerate(zip(names, self.curves, strict=True))
            },
            "absorption factors (least, largest)": self.absorption,
            "degree of absorption": self.plan.degree,
            "error model": {
                "a": errors.a,
                "a sigma": errors.a_sigma,
                "b": errors.b,
                "b sigma": errors.b_sigma,
                "deviations": errors.deviations,
            },
            "deviations of equivalents": {
                "intensity": self.spread.intensity,
                "observations": self.spread.n,
                "rms over counting errors": self.spread.before,
                "rms over errors of the model": self.spread.after,
            },
            "outliers": self.n_outliers,
            "cycles": self.cycles,
            "converged": self.rested,
        }


def _summary(values: Floats) -> list[float]:
    return [float(np.mean(values)), float(np.min(values)), float(np.max(values))]


def scale(
    observed: Observations,
    group: SpaceGroup,
    spans: list[tuple[float, float]],
    settings: Settings,
    names: Sequence[str],
    crystals: Sequence[int],
) -> Scaling:
    """Scale the observations of one or several scans.

    Parameters
    ----------
    observed : Observations
    group : SpaceGroup
        Space group; its Laue group (without Friedel's law if ``anomalous``) defines equivalents.
    spans : list of (low, high)
        Angles of the scanned axis in each rotation, degrees.
    settings : Settings
    names : sequence of str
        Names of the rotations, for notes.
    crystals : sequence of int
        Number of the crystal of each rotation, from 0; each crystal has its own absorption.
    """
    groups = Groups.of(group.asymmetric(observed.hkl, anomalous=settings.anomalous))
    use = (observed.flags & int(ReflectionFlag.ABSENT)) == 0
    intervals: dict[Kind, float] = {"scale": settings.scale_interval}
    if settings.decay:
        intervals["decay"] = settings.decay_interval
    made = scale_model.plan(
        observed, groups, use, spans, intervals, settings.absorption, names, crystals
    )
    work = _Work(observed, groups, use, ScaleModel.of(made, observed), settings)
    cycles, rested = work.run()
    notes = [*made.notes]
    if settings.error_model == "refine" and work.errors.why_not:
        notes.append(f"error model is not refined, because {work.errors.why_not}")
    if not rested:
        notes.append(f"scales still changed after {cycles} cycles")
    counting, variance = work.variances()
    value = observed.intensity / work.g
    if np.sum(~work.agree) > _FEW * len(groups):
        notes.append(
            f"{np.sum(~work.agree)} of {len(groups)} unique reflections have equivalents that do "
            f"not agree, which determines their errors: the Laue group {group.laue} may be too high"
        )
    curves = work.model.curves(work.parameters, work.covariance)
    for number, curve in enumerate(curves):
        change = float(np.exp(np.ptp(curve.log_scale)))
        if change > _CHANGE:
            notes.append(
                f"the scale of {names[number]} changes by a factor of {change:.3g}: check its "
                "frames and its integration"
            )
    absorption = work.model.absorption(work.parameters) if made.degree else np.ones(1)
    return Scaling(
        scale=work.g,
        counting=counting,
        variance=variance,
        outlier=work.outlier,
        curves=curves,
        absorption=(float(absorption.min()), float(absorption.max())),
        errors=work.errors,
        spread=error_model.spread(value, counting, variance, groups, work.kept),
        plan=made,
        cycles=cycles,
        rested=rested,
        notes=tuple(notes),
    )


class _Work:
    """State of the iteration."""

    def __init__(
        self,
        observed: Observations,
        groups: Groups,
        use: Bools,
        model: ScaleModel,
        settings: Settings,
    ) -> None:
        self.observed, self.groups, self.use = observed, groups, use
        self.model, self.settings = model, settings
        self.outlier = np.zeros(len(observed), dtype=np.bool_)
        self.agree = np.ones(len(groups), dtype=np.bool_)
        n = model.matrix.shape[1]
        self.parameters, self.covariance = np.zeros(n), np.zeros((n, n))
        self.effective = 0.0
        self.errors = ErrorModel()
        self.mean = np.zeros(len(observed))
        self.restart()

    @property
    def kept(self) -> Bools:
        """Mask (n,) of the observations that determine the error model.

        Groups that do not agree are left out, unless there are more of them than chance explains.
        """
        kept = self.use & ~self.outlier
        if np.sum(~self.agree) > _FEW * len(self.groups):
            return kept
        return kept & self.agree[self.groups.index]

    @property
    def g(self) -> Floats:
        """Scales (n,) of the observations."""
        factors: Floats = np.exp(self.model.matrix @ self.parameters)
        return factors

    def restart(self) -> None:
        """Compute means and errors with estimators that are robust against outliers."""
        g = self.g
        value, counting = self.observed.intensity / g, (self.observed.sigma / g) ** 2
        errors, middle = error_model.robust_start(value, counting, self.groups, self.use)
        if self.settings.error_model == "refine":
            self.errors = errors
        # Groups of absent reflections have no used observations and no median.
        self.mean = np.where(np.isfinite(middle), middle, value)

    def run(self) -> tuple[int, bool]:
        """Iterate; return the number of cycles, and True if converged."""
        before = np.full(len(self.observed), np.inf)
        for cycle in range(1, _CYCLES + 1):
            self._fit_scales()
            if cycle == 1:
                self.restart()
            previous = self.outlier
            self._judge()
            change = float(np.max(np.abs(np.log(self.g) - before)))
            before = np.log(self.g)
            if change < _RESTS and np.array_equal(previous, self.outlier):
                return cycle, True
        return _CYCLES, False

    def variances(self) -> tuple[Floats, Floats]:
        """Return variances (n,) on one scale: from counting, and from the error model."""
        g = self.g
        counting = self.observed.expected_variance(g * self.mean) / g**2
        return counting, self.errors.variance(counting, self.mean)

    def _judge(self) -> None:
        """Update outliers, error model and means at the present scales."""
        value = self.observed.intensity / self.g
        for _ in range(2):
            counting, variance = self.variances()
            self.outlier, self.agree = find_outliers(
                value, variance, self.groups, self.use, self.settings.outlier_sigma
            )
            kept = self.kept
            if self.settings.error_model == "refine":
                self.errors = error_model.fit(
                    value, counting, self.mean, self.groups, kept, self.effective
                )
            weight = np.where(self.use & ~self.outlier, 1 / self.variances()[1], 0.0)
            mean = self.groups.mean(value, weight)[0][self.groups.index]
            self.mean = np.where(np.isfinite(mean), mean, value)

    def _fit_scales(self) -> None:
        """Refine the parameters by Gauss-Newton at the present errors and outliers."""
        matrix, groups, observed = self.model.matrix, self.groups, self.observed
        if not matrix.shape[1]:
            return
        used = self.use & ~self.outlier & self.agree[groups.index]
        used = used & (groups.sum(used)[groups.index] >= 2)
        for _ in range(8):
            g = self.g
            variance = self.variances()[1] * g**2
            weight = np.where(used, 1 / variance, 0.0)
            mean, total = groups.mean(observed.intensity / g, weight * g**2)
            expected = g * mean[groups.index]
            residual = observed.intensity - expected
            with np.errstate(divide="ignore", invalid="ignore"):
                left = variance - g**2 / total[groups.index]
                size = np.abs(residual) / np.sqrt(left)
                strong = mean * np.sqrt(total) > _STRONG
            weight *= np.where(size > _HUBER, _HUBER / np.maximum(size, _HUBER), 1.0)
            weight *= strong[groups.index]
            pull = np.where(weight > 0, weight * residual * expected, 0.0)
            curvature = np.where(weight > 0, weight * expected**2, 0.0)
            normal = _normal(matrix, curvature, groups)
            gradient = matrix.T @ pull - self.model.restraint @ self.parameters
            inverted = _pseudo_inverse(normal + self.model.restraint)
            step = inverted @ gradient
            largest = float(np.max(np.abs(matrix @ step), initial=0.0))
            self.parameters = self.parameters + step * min(1.0, 1.0 / max(largest, 1e-12))
            self.parameters = self.model.gauge @ self.parameters
            value = observed.intensity / self.g
            fresh = groups.mean(value, weight * self.g**2)[0][groups.index]
            self.mean = np.where(np.isfinite(fresh), fresh, value)
            if largest < 0.1 * _RESTS:
                break
        self.effective = float(np.trace(inverted @ normal))
        self.covariance = self.model.gauge @ inverted @ self.model.gauge.T


def _normal(matrix: sparse.csr_array, weight: Floats, groups: Groups) -> Floats:
    """Return the normal matrix (p, p) of deviations from weighted means of groups.

    The means change with the scales, so a change that is common to a group has no effect.
    """
    rows = np.argsort(groups.index, kind="stable")
    rows = rows[weight[rows] > 0]
    normal = np.zeros((matrix.shape[1], matrix.shape[1]))
    first = np.flatnonzero(np.diff(groups.index[rows], prepend=-1))
    # Blocks of whole groups: dense multiplication is much faster than sparse.
    cuts = first[np.unique(np.searchsorted(first, np.arange(0, len(rows), _BLOCK)) % len(first))]
    for start, stop in pairwise([*cuts.tolist(), len(rows)]) if len(rows) else ():
        block, w = matrix[rows[start:stop]].toarray(), weight[rows[start:stop]]
        begins = first[(first >= start) & (first < stop)] - start
        weighted = w[:, None] * block
        shared, total = np.add.reduceat(weighted, begins), np.add.reduceat(w, begins)
        normal += block.T @ weighted - shared.T @ (shared / total[:, None])
    return normal


def _pseudo_inverse(normal: Floats) -> Floats:
    """Return the inverse on the determined parameters; others (the gauge) remain unchanged."""
    size = np.sqrt(np.maximum(np.diag(normal), 1e-300))
    values, vectors = np.linalg.eigh(normal / np.outer(size, size))
    kept = values > 1e-9 * max(float(values.max(initial=0.0)), 1e-30)
    inverse: Floats = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    return inverse / np.outer(size, size)
