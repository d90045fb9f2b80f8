r"""Correlation lengths of a diffuse feature, from the voxels of all its copies in one volume.

The model of a voxel of copy *c*, at Δ from its centre, is

.. math:: S = A_c \sum_{arms} f(Δ - Δ_{arm} - s; κ) / <f> + b_c + g_c · Δ

with the line shape *f* of `series.line_shape`. κ (1/Å) along the axes and the shift *s* are common
to all copies; intensity, background and its gradient belong to the copy, and are eliminated
(variable projection). <f> is the mean over the cell of the reciprocal lattice: A is the integral of
the feature over this cell.

Intervals are those of the profile likelihood, with all other parameters and the kind of line shape
fitted: a symmetric error bar is wrong where κ is much smaller than the resolution. ξ = 1/κ.

Errors that follow the counts of each voxel would favour voxels with too few counts. Therefore the
variance of a voxel is that of the S of a first fit.

Voxels that symmetry makes equal hold the information of one; each of *m* equal voxels has m times
its variance. Residuals that depend on their neighbours (interpolated volumes, a wrong line shape)
make all variances larger, by χ² per degree of freedom and by the correlations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc

from hklflow.series import line_shape
from hklflow.series.feature_copies import Axes, Copy
from hklflow.series.line_shape import LineShape, Smearing

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Model = Literal["lattice", "chains"]
Determined = Literal["value", "longer", "shorter"]

_INNER, _OUTER, _LIMIT = 1.0, 3.8415, 2.7055  # Δχ² of 68 %, 95 %, and 95 % one-sided
_LEAST = 0.02  # smallest κ that is tried, in σ of the resolution
_MOST = 0.5  # largest κ that is tried, in periods of the reciprocal lattice
_STARTS = (0.3, 1.0, 3.0, 9.0)  # κ of which the best starts the fit, in σ of resolution and voxel
_SEEN = 16.0  # smallest χ² that a feature takes away, besides chance
_CORRELATED = 3.0  # correlation that is not chance, in standard deviations
_MOVE = 2e-3  # of ln κ, and r.l.u., for derivatives
# Factor of all variances for what the model leaves out (gradients of the structure factor, thermal
# diffuse scattering): in simulated series, errors of ln ξ are 1.3 times those of noise alone.
_UNKNOWN = 1.7
_FARTHEST = 0.15  # largest shift, r.l.u.
_FLOOR = 0.1
_SETTLED = 0.01  # change of χ² at which a fit ends


@dataclass(frozen=True)
class Voxels:
    """Voxels of all copies of a feature in one volume, sorted by copy.

    Attributes
    ----------
    copies : sequence of Copy
        Copies that have voxels.
    copy : (n,) int array
        Number of the copy, from 0.
    distance : (n, 3) array
        Δ from the centre of the copy, hkl.
    data, sigma : (n,) arrays
        S and its standard deviation.
    per_unit, extra : (n,) arrays
        Variance of S is ``per_unit`` · (expected S) + ``extra``: for counts, 1/norm and 0. NaN: σ
        is used.
    equal : (n,) array
        Number of voxels of the list that symmetry makes equal to this one, itself included.
    widening : (c,) array
        Width of the resolution at each copy, relative to that of the `Smearing`.
    """

    copies: Sequence[Copy]
    copy: Integers
    distance: Floats
    data: Floats
    sigma: Floats
    per_unit: Floats
    extra: Floats
    equal: Floats
    widening: Floats


@dataclass(frozen=True)
class Interval:
    """A positive number and its intervals; an end of 0 or infinity is not determined.

    Attributes
    ----------
    value, sigma : float
        The most likely value; half the interval of 68 %.
    inner, outer : (float, float)
        Intervals of 68 and 95 %.
    limit : (float, float)
        One-sided limits (95 %): lower and upper.
    """

    value: float
    sigma: float
    inner: tuple[float, float]
    outer: tuple[float, float]
    limit: tuple[float, float]

    def inverse(self) -> "Interval":
        """Return the intervals of 1/value."""

        def inverted(ends: tuple[float, float]) -> tuple[float, float]:
            low, high = (np.inf if x == 0 else 1 / x for x in ends)
            return float(high), float(low)

        inner = inverted(self.inner)
        return Interval(
            1 / self.value,
            (inner[1] - inner[0]) / 2,
            inner,
            inverted(self.outer),
            inverted(self.limit),
        )


@dataclass(frozen=True)
class Fit:
    """Parameters of a feature in one volume.

    Attributes
    ----------
    seen : bool
        True if S departs from a plane in the windows by more than noise.
    gain : float
        χ² that the feature takes away.
    model : str
        The more likely line shape, "lattice" or "chains".
    other : float
        Δχ² of the other line shape; infinite if there is none.
    intensity, intensity_sigma : float
        Mean integral of the copies over the cell of the reciprocal lattice, S × r.l.u.³. If the
        feature is not seen, see `with_shape_of`.
    amplitude : (c,) array
        Integral of each copy.
    xi : tuple of Interval
        ξ of each axis, Å.
    covariance : (n, n) array
        Covariance of ln ξ.
    determined : tuple of str
        For each ξ: "value", "longer" (κ is below a tenth of the resolution, only the lower limit
        holds) or "shorter" (the feature is flat, only the upper limit holds).
    shift, shift_sigma : (3,) arrays
        Departure of the position from the given one, hkl.
    chi2, freedom : float
        χ² before `inflation`, degrees of freedom.
    inflation : float
        Factor by which all variances are enlarged.
    calculated : (n,) array
        S of the fitted model in each voxel.
    """

    seen: bool
    gain: float
    model: Model
    other: float
    intensity: float
    intensity_sigma: float
    amplitude: Floats
    xi: tuple[Interval, ...]
    covariance: Floats
    determined: tuple[Determined, ...]
    shift: Floats
    shift_sigma: Floats
    chi2: float
    freedom: float
    inflation: float
    calculated: Floats


@dataclass(frozen=True)
class _Group:
    """Voxels of copies that are alike: rows, table axes, indices into the table, and arms."""

    rows: Integers
    axes: list[Floats]
    index: tuple[Integers, Integers, Integers]
    arms: tuple[tuple[Floats, Floats], ...]


class _Problem:
    """Residuals of a feature as a function of ln κ and shift, for one line shape."""

    def __init__(
        self, voxels: Voxels, axes: Axes, smearing: Smearing, relative_error: float, model: Model
    ) -> None:
        self.voxels, self.axes, self.smearing, self.model = voxels, axes, smearing, model
        total = voxels.sigma**2 + (relative_error * voxels.data) ** 2
        self.weight = 1 / np.sqrt(total * voxels.equal)
        self.starts = np.searchsorted(voxels.copy, np.arange(len(voxels.copies)))
        self.groups = _groups(voxels, smearing.step)
        self.levels, self.shares = _levels(voxels.widening)
        # Signs of the operations matter only if the form has elements off the diagonal.
        form = axes.form(np.ones(len(axes.names)))
        self.oblique = bool(np.abs(form - np.diag(np.diag(form))).max() > 1e-9 * np.abs(form).max())
        self.planes = self._planes()
        self.data = self._apart((voxels.data * self.weight)[:, None])[:, 0]
        first = [axes.first_of(i) for i in range(len(axes.names))]
        vectors = np.linalg.pinv(axes.columns.T)  # hkl of a unit along each axis
        scale = axes.length / np.linalg.norm(vectors, axis=0)
        widths = [
            np.sqrt(np.einsum("in,ij,jn->n", axes.columns, matrix, axes.columns)) * scale
            for matrix in (smearing.covariance, smearing.total)
        ]
        self.resolution, self.whole = widths[0][first], widths[1][first]
        self.low = np.log(_LEAST * self.resolution)
        self.high = np.log(_MOST * axes.length[first])

    def _sum(self, values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(values, self.starts, axis=0))

    def _planes(self) -> Floats:
        """Return an orthonormal base (n, 4) of constant and gradient, times the weights."""
        base = np.zeros((len(self.weight), 4))
        ends = [*self.starts[1:], len(self.weight)]
        for first, last in zip(self.starts, ends, strict=True):
            distance = self.voxels.distance[first:last]
            scale = np.maximum(np.abs(distance).max(axis=0), 1e-9)
            design = np.column_stack([np.ones(last - first), distance / scale])
            u, s, _ = np.linalg.svd(design * self.weight[first:last, None], full_matrices=False)
            kept = s > 1e-6 * s[0]
            base[first:last, : int(kept.sum())] = u[:, kept]
        return base

    def _apart(self, values: Floats) -> Floats:
        """Return weighted values (n, m) without their part in the planes of the copies."""
        part = np.stack([self._sum(self.planes * values[:, [i]]) for i in range(values.shape[1])])
        back = np.einsum("nj,mnj->nm", self.planes, part[:, self.voxels.copy])
        return np.asarray(values - back)

    def shape(self, parameters: Floats) -> Floats:
        """Return the line shape (n,) of all voxels, summed over the arms."""
        n = len(self.axes.names)
        kappa = np.exp(parameters[:n])
        moved = self.axes.shifts @ parameters[n:]
        values = np.zeros(len(self.voxels.data))
        known: dict[bytes, LineShape] = {}
        for group in self.groups:
            shares = self.shares[self.voxels.copy[group.rows]]
            for level, share in zip(self.levels, shares.T, strict=True):
                table: Floats = np.zeros(())
                for operation, offset in group.arms:
                    key = np.append(np.abs(operation).ravel(), level).tobytes()
                    key += operation.tobytes() if self.oblique else b""
                    if key not in known:
                        known[key] = self._line_shape(kappa, operation, level)
                    place = offset + operation @ moved
                    axes = [x - p for x, p in zip(group.axes, place, strict=True)]
                    table = table + known[key].on(axes)
                values[group.rows] += share * table[group.index]
        return values

    def _line_shape(self, kappa: Floats, operation: Floats, level: float) -> LineShape:
        """Return the line shape of an arm for a width of the resolution."""
        smearing = replace(self.smearing, covariance=self.smearing.covariance * level**2)
        if self.model == "lattice":
            inverse = np.linalg.inv(operation)
            form = inverse.T @ self.axes.form(kappa) @ inverse
            return line_shape.lattice(form, smearing)
        # Operations only exchange axes.
        order = np.argmax(np.abs(operation), axis=1)
        return line_shape.chains(self.axes.spacings(kappa)[order], smearing)

    def solved(self, parameters: Floats) -> tuple[Floats, Floats, Floats]:
        """Return weighted shape (n,) without planes, and intensities (c,) with their variances."""
        shape = self._apart((self.shape(parameters) * self.weight)[:, None])[:, 0]
        size = np.maximum(self._sum(shape**2), 1e-300)
        return shape, self._sum(shape * self.data) / size, 1 / size

    def residuals(self, parameters: Floats) -> Floats:
        """Return residuals (n,), whose squares add to χ²."""
        shape, intensity, _ = self.solved(parameters)
        return np.asarray(self.data - intensity[self.voxels.copy] * shape)

    def calculated(self, parameters: Floats) -> Floats:
        """Return S (n,) of the model with the best factors and planes."""
        return np.asarray(self.voxels.data - self.residuals(parameters) / self.weight)

    def slopes(self, parameters: Floats, value: Floats) -> Floats:
        """Return the derivatives (n, p) of the residuals."""
        found = np.empty((len(value), len(parameters)))
        for i in range(len(parameters)):
            move = np.zeros(len(parameters))
            # Into the range, at whose ends the line shape still depends on κ.
            move[i] = -_MOVE if parameters[i] > self.upper[i] - _MOVE else _MOVE
            found[:, i] = (self.residuals(parameters + move) - value) / move[i]
        return found

    @property
    def lower(self) -> Floats:
        """Smallest values of the parameters."""
        return np.append(self.low, np.full(self.axes.shifts.shape[1], -_FARTHEST))

    @property
    def upper(self) -> Floats:
        """Largest values of the parameters."""
        return np.append(self.high, np.full(self.axes.shifts.shape[1], _FARTHEST))

    def best(
        self, start: Floats, fixed: Sequence[int] = (), most: int = 12
    ) -> tuple[Floats, float]:
        """Return the best parameters and χ² by Levenberg and Marquardt; some can be fixed."""
        free = np.array([i for i in range(len(start)) if i not in fixed], dtype=int)
        point = np.clip(start, self.lower, self.upper)
        value = self.residuals(point)
        chi2, damping = float(value @ value), 1e-3
        if not len(free):
            return point, chi2
        for _ in range(most):
            slope = self.slopes(point, value)[:, free]
            normal, gradient = slope.T @ slope, slope.T @ value
            before = chi2
            for _ in range(6):
                scale = np.diag(normal) + 1e-9 * np.trace(normal) + 1e-300
                step = np.linalg.solve(normal + damping * np.diag(scale), -gradient)
                move = np.zeros(len(point))
                move[free] = np.clip(step, -1.5, 1.5)
                trial = np.clip(point + move, self.lower, self.upper)
                new = self.residuals(trial)
                if float(new @ new) < chi2:
                    point, value, chi2 = trial, new, float(new @ new)
                    damping = max(damping / 10, 1e-9)
                    break
                damping *= 10
            if before - chi2 < _SETTLED:
                break
        return point, chi2


def _levels(widening: Floats) -> tuple[Floats, Floats]:
    """Return widths of the resolution (l,), and the share (c, l) of each at the copies."""
    low, high = float(widening.min()), float(widening.max())
    if high < 1.02 * low:
        return np.array([(low + high) / 2]), np.ones((len(widening), 1))
    levels = np.array([low, (low + high) / 2, high])
    shares = [np.prod([(widening - b) / (a - b) for b in levels if b != a], axis=0) for a in levels]
    return levels, np.array(shares).T


def _groups(voxels: Voxels, step: Floats) -> list[_Group]:
    """Return the copies that can share a table of the line shape."""
    keys: dict[bytes, list[int]] = {}
    starts = np.searchsorted(voxels.copy, np.arange(len(voxels.copies) + 1))
    for c, copy in enumerate(voxels.copies):
        part = np.mod(np.round(voxels.distance[starts[c]] / step, 3) + 1e-6, 1.0)
        arms = [np.concatenate([w.ravel(), offset]) for w, offset in copy.others]
        key = np.round(np.concatenate([part, *arms]), 3) + 0.0
        keys.setdefault(key.tobytes(), []).append(c)
    groups = []
    for members in keys.values():
        rows = np.concatenate([np.arange(starts[c], starts[c + 1]) for c in members])
        found = [np.unique(np.round(x, 6), return_inverse=True) for x in voxels.distance[rows].T]
        h, k, l = (inverse for _, inverse in found)  # noqa: E741
        axes = [axis for axis, _ in found]
        groups.append(_Group(rows, axes, (h, k, l), voxels.copies[members[0]].others))
    return groups


def fit(
    voxels: Voxels,
    axes: Axes,
    smearing: Smearing,
    relative_error: float,
    resolution_error: float,
) -> Fit:
    """Fit one feature in one volume.

    Parameters
    ----------
    voxels : Voxels
    axes : Axes
    smearing : Smearing
        Resolution (where ``widening`` is 1) and size of the voxels.
    relative_error : float
        Relative error of S of each voxel besides its noise.
    resolution_error : float
        Relative error of the width of the resolution; it widens the intervals.
    """
    n, m = len(axes.names), axes.shifts.shape[1]
    models: list[Model] = ["lattice"]
    if axes.on_axes:
        oblique = np.abs(np.triu(axes.metric, 1)) > 1e-6 * axes.metric.max()
        tied_oblique = any(axes.tied[i] == axes.tied[j] for i, j in np.argwhere(oblique))
        if axes.columns.shape[1] == 1:
            models = ["chains"]
        elif not tied_oblique:
            models = ["lattice", "chains"]

    def best(model: Model, known: Voxels, starts: list[Floats]) -> tuple[_Problem, Floats, float]:
        problem = _Problem(known, axes, smearing, relative_error, model)
        point = min(starts, key=lambda x: float(np.sum(problem.residuals(x) ** 2)))
        return problem, *problem.best(point)

    whole = _Problem(voxels, axes, smearing, relative_error, models[0]).whole
    starts = [np.append(np.log(factor * whole), np.zeros(m)) for factor in _STARTS]
    first = best(models[0], voxels, starts)
    voxels = _expected(voxels, first[0].calculated(first[1]))
    found = [best(model, voxels, [*starts, first[1]]) for model in models]
    problem, point, chi2 = min(found, key=lambda x: x[2])
    gain = float(np.sum(problem.data**2)) - chi2
    residuals = problem.residuals(point)
    independent = float(np.sum(1 / voxels.equal))
    freedom = max(independent - 5 * len(voxels.copies) - n - m, 1.0)
    inflation = _UNKNOWN * _inflation(voxels, residuals, smearing.step, freedom)
    covariance = _covariance(problem, point, inflation)
    intensity, intensity_sigma = _intensity(problem, point, covariance, inflation)
    chance = len(voxels.copies) + 4 * np.sqrt(2 * len(voxels.copies))
    seen = bool(gain / inflation > _SEEN + chance and intensity > 0)
    near = [x for x in found if (x[2] - chi2) / inflation < _OUTER]
    kappa = [_profile(near, chi2, i, inflation) for i in range(n)] if seen else []
    if seen and resolution_error > 0:
        wider = replace(smearing, covariance=smearing.covariance * (1 + resolution_error) ** 2)
        other = _Problem(voxels, axes, wider, relative_error, problem.model)
        moves = other.best(point, most=4)[0][:n] - point[:n]
        kappa = [_widened(x, float(move)) for x, move in zip(kappa, moves, strict=True)]
        covariance[:n, :n] += np.outer(moves, moves)
    moved_var = axes.shifts @ covariance[n:, n:] @ axes.shifts.T
    rise = [(x[2] - chi2) / inflation for x in found if x[0] is not problem]
    return Fit(
        seen=seen,
        gain=gain / inflation,
        model=problem.model,
        other=min(rise, default=np.inf),
        intensity=intensity,
        intensity_sigma=intensity_sigma,
        amplitude=problem.solved(point)[1],
        xi=tuple(x.inverse() for x in kappa),
        covariance=covariance[:n, :n],
        determined=tuple(
            _determined(x, float(r)) for x, r in zip(kappa, problem.resolution, strict=False)
        ),
        shift=axes.shifts @ point[n:],
        shift_sigma=np.sqrt(np.maximum(np.diag(moved_var), 0)),
        chi2=chi2,
        freedom=freedom,
        inflation=inflation,
        calculated=problem.calculated(point),
    )


def with_shape_of(
    other: Fit, unseen: Fit, voxels: Voxels, axes: Axes, smearing: Smearing, relative_error: float
) -> Fit:
    """Return a fit that did not see the feature, with its intensity for the shape of another fit.

    The width of a feature that is not seen is not determined; with a width of its own, its
    intensity would have an error as large as the background.

    Parameters
    ----------
    other : Fit
        Fit of the same feature in another volume, which saw it: κ, their errors, and position.
    unseen : Fit
    voxels, axes, smearing, relative_error
        Those of ``unseen``; see `fit`.
    """
    n, m = len(axes.names), axes.shifts.shape[1]
    place = np.linalg.lstsq(axes.shifts, other.shift, rcond=None)[0] if m else np.zeros(0)
    point = np.append(-np.log([xi.value for xi in other.xi]), place)
    covariance = np.zeros((n + m, n + m))
    covariance[:n, :n] = other.covariance
    problem = _Problem(voxels, axes, smearing, relative_error, other.model)
    expected = _expected(voxels, problem.calculated(point))
    problem = _Problem(expected, axes, smearing, relative_error, other.model)
    intensity, sigma = _intensity(problem, point, covariance, unseen.inflation)
    amplitude = problem.solved(point)[1]
    return replace(unseen, intensity=intensity, intensity_sigma=sigma, amplitude=amplitude)


def _expected(voxels: Voxels, calculated: Floats) -> Voxels:
    """Return voxels with the variance of calculated S, at least of a tenth of the mean S."""
    starts = np.searchsorted(voxels.copy, np.arange(len(voxels.copies)))
    number = np.bincount(voxels.copy)
    mean = np.add.reduceat(np.abs(voxels.data), starts) / number
    floor = np.maximum(_FLOOR * mean[voxels.copy], 1e-300)
    variance = voxels.per_unit * np.maximum(calculated, floor) + voxels.extra
    known = np.isfinite(variance) & (variance > 0)
    return replace(voxels, sigma=np.where(known, np.sqrt(np.abs(variance)), voxels.sigma))


def _widened(kappa: Interval, move: float) -> Interval:
    """Return intervals with a further error of ln κ in them."""

    def wider(ends: tuple[float, float], factor: float) -> tuple[float, float]:
        low, high = ends
        if low > 0:
            low = kappa.value * np.exp(-np.hypot(np.log(kappa.value / low), factor * move))
        if np.isfinite(high):
            high = kappa.value * np.exp(np.hypot(np.log(high / kappa.value), factor * move))
        return float(low), float(high)

    inner = wider(kappa.inner, 1.0)
    return Interval(
        kappa.value,
        (inner[1] - inner[0]) / 2,
        inner,
        wider(kappa.outer, 1.96),
        wider(kappa.limit, 1.645),
    )


def _determined(kappa: Interval, resolution: float) -> Determined:
    """Return "longer" if κ may be smaller than a tenth of the half width of the resolution."""
    if kappa.inner[0] < 0.1 * np.sqrt(2 * np.log(2)) * resolution:
        return "longer"
    return "shorter" if np.isinf(kappa.inner[1]) else "value"


def _inflation(voxels: Voxels, residuals: Floats, step: Floats, freedom: float) -> float:
    """Return the factor of all variances from χ² and from the correlation of neighbours."""
    chi2 = float(np.sum(residuals**2))
    factor = chi2 / freedom if float(gammaincc(freedom / 2, chi2 / 2)) < 0.01 else 1.0
    r = residuals * np.sqrt(voxels.equal)
    place = np.rint((voxels.distance - voxels.distance.min(axis=0)) / step).astype(np.int64) + 1
    size = place.max(axis=0) + 2
    total, pairs = 0.0, 0
    for c in range(len(voxels.copies)):
        rows = voxels.copy == c
        field, there = np.zeros(size), np.zeros(size, np.bool_)
        at = tuple(place[rows].T)
        field[at], there[at] = r[rows], True
        for d in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
            total += float(np.sum(field * np.roll(field, d, (0, 1, 2))))
            pairs += int((there & np.roll(there, d, (0, 1, 2))).sum())
    independent = float(np.mean(1 / voxels.equal))
    each = total / max(pairs, 1) / float(np.mean(r**2))
    if each < _CORRELATED / np.sqrt(max(pairs, 1) * independent):
        return factor
    # Neighbours along one axis, and along several axes, whose correlations are products.
    return factor * (1 + 2 * each) ** 3


def _covariance(problem: _Problem, point: Floats, inflation: float) -> Floats:
    """Return the covariance of ln κ and shifts from the slopes of the residuals."""
    slope = problem.slopes(point, problem.residuals(point))
    return np.asarray(inflation * np.linalg.pinv(slope.T @ slope, rcond=1e-12, hermitian=True))


def _intensity(
    problem: _Problem, point: Floats, covariance: Floats, inflation: float
) -> tuple[float, float]:
    """Return the mean intensity of the copies and its standard deviation."""

    def mean(at: Floats) -> tuple[float, float]:
        _, each, variance = problem.solved(at)
        return float(each.mean()), float(variance.sum()) / len(each) ** 2

    value, var = mean(point)
    slope = np.zeros(len(point))
    for i in range(len(point)):
        move = np.zeros(len(point))
        move[i] = 0.02 if i < len(problem.axes.names) else 1e-3
        slope[i] = (mean(point + move)[0] - mean(point - move)[0]) / move[i] / 2
    return value, float(np.sqrt(inflation * var + slope @ covariance @ slope))


def _profile(
    models: Sequence[tuple[_Problem, Floats, float]], chi2: float, number: int, inflation: float
) -> Interval:
    """Return the intervals of one κ from the profile of χ², over all line shapes."""
    found = [_crossings(*model, chi2, number, inflation) for model in models]
    best = min(models, key=lambda model: model[2])
    ends = [
        (min(x[i][0] for x in found if x[i]), max(x[i][1] for x in found if x[i])) for i in range(3)
    ]
    value = float(np.exp(best[1][number]))
    return Interval(value, (ends[0][1] - ends[0][0]) / 2, *ends)


def _crossings(
    problem: _Problem, point: Floats, own: float, chi2: float, number: int, inflation: float
) -> list[tuple[float, float]]:
    """Return the κ between which χ² is below each of the levels; empty if it is nowhere.

    √Δχ² is nearly linear in ln κ, so that a few points of the profile on each side are enough.
    """
    covariance = _covariance(problem, point, inflation)
    own_rise = (own - chi2) / inflation
    # Along the valley of χ² all parameters move together.
    step = float(np.clip(np.sqrt(covariance[number, number]), 0.02, 0.7))
    valley = covariance[:, number] / max(covariance[number, number], 1e-12)
    valley[number] = 1.0
    levels = (_INNER, _OUTER, _LIMIT)
    sides = []
    for direction, end in ((-1.0, problem.low[number]), (1.0, problem.high[number])):
        x, y, at = [0.0], [np.sqrt(max(own_rise, 0.0))], point
        while y[-1] < np.sqrt(_OUTER):
            target = float(point[number] + direction * (x[-1] + step))
            last = (target - end) * direction >= 0
            target = float(end) if last else target
            start = at + valley * (target - at[number])
            start[number] = target
            at, value = problem.best(start, (number,), most=3)
            x.append(abs(target - float(point[number])))
            y.append(max(np.sqrt(max((value - chi2) / inflation, 0.0)), y[-1]))
            if last:
                break
            slope = (y[-1] - y[-2]) / max(x[-1] - x[-2], 1e-9)
            step = float(np.clip(1.0 / max(slope, 1e-3), 0.5 * step, 2.5 * step))
        unknown = 0.0 if direction < 0 else np.inf
        sides.append(
            [
                float(np.exp(point[number] + direction * np.interp(np.sqrt(level), y, x)))
                if y[-1] >= np.sqrt(level)
                else unknown
                for level in levels
            ]
        )
    return [
        (low, high) if level > own_rise else ()  # type: ignore[misc]
        for level, low, high in zip(levels, *sides, strict=True)
    ]
