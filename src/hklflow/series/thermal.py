r"""Course with temperature that all of reciprocal space shares: scale, Debye-Waller factor, heat.

A voxel without a transition follows

    S(Q, T) = c(T) exp(-2 B(T) s²) (a + b T) + r(s, T),   s = |Q| / 4π

``c`` is the scale of a scan, ``B`` the Debye-Waller factor relative to the mean of the scans, and
``b T`` the thermal diffuse scattering. ``r`` is the common departure of weak voxels of the same
|Q|, such as scattering without a Debye-Waller factor or a background that drifts. a and b differ
between voxels. c and B are fitted to voxels that are strong at all temperatures (reflections), r to
the weaker half of the voxels: in both, features that appear at a transition are few.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2

Floats = NDArray[np.float64]

_TUKEY = 4.685  # 95 % of the efficiency of least squares for normal errors
_STRONG = 5.0  # ratio to the median of the block above which a voxel is strong
_STRONG_ERROR = 0.02  # relative error of the mean of a group of strong voxels, besides the noise
_FEWEST = 30  # voxels of a group of weak voxels
_ENOUGH = 20  # groups of strong voxels without which c and B are fitted to the weak
_ROUNDS = 12
_MANY = 100  # groups of weak voxels without which their scatter is not known
_ALL_BUT = 0.95  # share of the groups whose scatter is within the error

# Widths of the priors of ln c and of B (Å²): weak, for what the data cannot tell apart.
_SCALE, _B = 0.1, 1.0


def heat(temperatures: Floats, order: int) -> Floats:
    """Return the courses (T, order + 1) of a voxel without a transition: 1, T, and higher powers.

    T is scaled to -1 to 1, so that the columns are well conditioned.
    """
    low, high = temperatures.min(), temperatures.max()
    return np.vander((2 * temperatures - low - high) / (high - low), order + 1, increasing=True)


@dataclass(frozen=True)
class Groups:
    """Means of S over groups of voxels that are close to each other and alike in S.

    Attributes
    ----------
    strong : (g,) bool array
        Groups of voxels that are strong at all temperatures; all others are of weak voxels.
    s2 : (g,) array
        Mean of s² = (|Q| / 4π)², 1/Å².
    mean, sigma : (g, T) arrays
    """

    strong: NDArray[np.bool_]
    s2: Floats
    mean: Floats
    sigma: Floats

    def select(self, chosen: NDArray[np.bool_]) -> "Groups":
        """Return some of the groups."""
        return Groups(self.strong[chosen], self.s2[chosen], self.mean[chosen], self.sigma[chosen])


def group(block: NDArray[np.int64], s2: Floats, data: Floats, errors: Floats) -> Groups:
    """Return means over strong voxels, and over the weaker half of the voxels, of each block.

    Parameters
    ----------
    block : (n,) int array
        Block of each voxel.
    s2 : (n,) array
    data, errors : (n, T) arrays
        Voxels that were measured at all temperatures.
    """
    level, lowest = data.mean(axis=1), data.min(axis=1)
    order = np.lexsort((level, block))
    rows: list[tuple[bool, float, Floats, Floats]] = []
    for mine in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
        middle = level[mine[len(mine) // 2]]
        strong = mine[lowest[mine] > _STRONG * max(middle, 0.0) + 5 * errors[mine].max(axis=1)]
        weak = mine[: len(mine) // 2]
        for is_strong, chosen, least in ((True, strong, 1), (False, weak, _FEWEST)):
            if len(chosen) >= least:
                sigma = np.sqrt(np.sum(errors[chosen] ** 2, axis=0)) / len(chosen)
                rows.append((is_strong, s2[chosen].mean(), data[chosen].mean(axis=0), sigma))
    strongs, places, means, sigmas = zip(*rows, strict=True)
    return Groups(np.array(strongs), np.array(places), np.array(means), np.array(sigmas))


@dataclass(frozen=True)
class Thermal:
    """Course that all of reciprocal space shares.

    Attributes
    ----------
    courses : (T, p) array
        Courses of a voxel after division by scale and Debye-Waller factor, see `heat`.
    scale : (T,) array
        Scale of each scan; the mean of its logarithm is 0.
    b : (T,) array
        Debye-Waller factor B in Å²; its mean is 0.
    s2 : (q,) array
        s² of the shells, ascending.
    common : (q, T) array
        Common departure of the voxels of a shell, in the units of S.
    level : (q,) array
        S of the weaker half of the voxels of a shell.
    scatter : float
        Relative error of weak voxels besides noise, common to neighbours: that of all but 5 % of
        the groups. Infinite if there are too few groups.
    """

    courses: Floats
    scale: Floats
    b: Floats
    s2: Floats
    common: Floats
    level: Floats
    scatter: float

    def table(self, s2: Floats) -> tuple[Floats, Floats]:
        """Return divisor c exp(-2 B s²) and common departure, (n, T) each, at n values of s²."""
        divisor = self.scale * np.exp(-2 * np.outer(s2, self.b))
        common = [np.interp(s2, self.s2, column) for column in self.common.T]
        return divisor, np.stack(common, axis=1)


def fit(groups: Groups, temperatures: Floats, order: int, n_shells: int) -> Thermal:
    """Fit scale and Debye-Waller factor, then the common departure, to the means of groups."""
    courses = heat(temperatures, order)
    weak = groups.select(~groups.strong)
    few = np.count_nonzero(groups.strong) < _ENOUGH
    log_c, b = _scale(weak if few else groups.select(groups.strong), temperatures, courses)
    factor = np.exp(log_c - 2 * np.outer(weak.s2, b))
    _, residual = _levels(factor[..., None] * courses, weak.mean, weak.sigma, 1 / weak.sigma**2)
    edges = np.quantile(weak.s2, np.linspace(0, 1, n_shells + 1)[1:-1])
    of = np.searchsorted(edges, weak.s2)
    shells = [of == i for i in np.unique(of)]
    common = [np.median(residual[shell] * weak.sigma[shell], axis=0) for shell in shells]
    centres = np.array([weak.s2[shell].mean() for shell in shells])
    level = np.array([np.median(weak.mean[shell]) for shell in shells])
    found = Thermal(courses, np.exp(log_c), b, centres, np.array(common), level, np.inf)
    return replace(found, scatter=_scatter(weak, found))


def _scatter(weak: Groups, course: Thermal) -> float:
    """Return the relative error of groups of weak voxels besides their noise."""
    if len(weak.s2) < _MANY:
        return np.inf
    divisor, common = course.table(weak.s2)
    y, sigma = (weak.mean - common) / divisor, weak.sigma / divisor
    n_t, p = course.courses.shape
    columns = np.broadcast_to(course.courses, (len(y), n_t, p))
    limit = chi2.ppf(_ALL_BUT, n_t - p)

    def too_large(error: float) -> float:
        width = np.hypot(sigma, error * y.mean(axis=1, keepdims=True))
        _, residual = _levels(columns, y, width, 1 / width**2)
        return float(np.quantile(np.sum(residual**2, axis=1), _ALL_BUT) - limit)

    if too_large(0.0) <= 0:
        return 0.0
    return np.inf if too_large(1.0) > 0 else float(brentq(too_large, 0.0, 1.0, xtol=1e-4))


def _scale(groups: Groups, temperatures: Floats, courses: Floats) -> tuple[Floats, Floats]:
    """Return ln c and B of each temperature, both with mean 0.

    Gauss-Newton with Tukey's biweight; the coefficients a, b of each group are eliminated.
    """
    n_g, n_t = groups.mean.shape
    sigma = np.hypot(groups.sigma, _STRONG_ERROR * np.abs(groups.mean))
    # A scale that is linear in T is left to b T of each voxel: hardly any voxel tells them apart.
    line = np.linalg.qr(heat(temperatures, 1))[0]
    prior = np.diag(np.repeat([1 / _SCALE**2, 1 / _B**2], n_t))
    prior[:n_t, :n_t] += 1e12 * line @ line.T
    prior[n_t:, n_t:] += 1e12 / n_t
    x = np.zeros(2 * n_t)
    every = np.arange(n_t)
    for step in range(_ROUNDS):
        factor = np.exp(np.clip(x[:n_t] - 2 * np.outer(groups.s2, x[n_t:]), -20, 20))
        columns = factor[..., None] * courses
        trust = np.ones_like(sigma)
        for _ in range(3 if step else 1):
            level, residual = _levels(columns, groups.mean, sigma, trust / sigma**2)
            wide = max(1.0, 1.4826 * float(np.median(np.abs(residual))))
            trust = np.clip(1 - (residual / (_TUKEY * wide)) ** 2, 0, None) ** 2
        weight = np.sqrt(trust) / sigma
        slope = np.einsum("gtp,gp->gt", columns, level)
        jacobian = np.zeros((n_g, n_t, 2, n_t))
        jacobian[:, every, 0, every] = weight * slope
        jacobian[:, every, 1, every] = weight * slope * -2 * groups.s2[:, None]
        flat = jacobian.reshape(n_g, n_t, 2 * n_t)
        q, _ = np.linalg.qr(columns * weight[..., None])
        flat -= q @ (q.transpose(0, 2, 1) @ flat)
        rows = flat.reshape(-1, 2 * n_t)
        right = (weight * (groups.mean - slope)).ravel()
        x += np.linalg.solve(rows.T @ rows + prior, rows.T @ right - prior @ x)
    return x[:n_t] - x[:n_t].mean(), x[n_t:] - x[n_t:].mean()


def _levels(columns: Floats, target: Floats, sigma: Floats, w: Floats) -> tuple[Floats, Floats]:
    """Return coefficients (g, p) of columns (g, T, p) with weights w, and residuals in σ (g, T)."""
    normal = np.einsum("gt,gtp,gtq->gpq", w, columns, columns)
    normal += 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(columns.shape[2])
    normal += 1e-300 * np.eye(columns.shape[2])
    level = np.linalg.solve(normal, np.einsum("gt,gtp->gp", w * target, columns)[..., None])[..., 0]
    return level, (target - np.einsum("gtp,gp->gt", columns, level)) / sigma
