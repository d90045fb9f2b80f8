r"""Scale of the frames from repeated measurements of S(Q).

A record g of orbit v counts ``C_vg ~ Poisson(N_vg s_g S_v)`` (see `repeats`). Given the counts of
an orbit, ``C_v = Σ_g C_vg``, its records are multinomial with ``p_g = N_g s_g / Σ N s``: S(Q) has
cancelled exactly, for any number of counts. ``ln s = B a`` is maximised over a with Newton's
method; the logarithm of the likelihood is concave in a.

B contains cubic B-splines in the frame number of each rotation, and further columns that may depend
on the direction (absorption). The number of splines is generous; a prior on their second
differences makes the curve smooth, and its width maximises the marginal likelihood. The mean of
ln s of each rotation has a prior of 0 ± 1. Where the records do not determine a (the common scale;
rotations without common orbits; functions of Q with the Laue symmetry), it keeps its prior and the
width of this.

Voxels are not points. S(Q) differs between the records of one orbit by a fraction τ, so that the
variance of the counts is ``μ + (τ μ)²``; records with many counts get less weight, and the
covariance is the sandwich ``F⁻¹ J F⁻¹`` with J from the residuals of the orbits.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline

from hklflow.base.errors import HklflowError
from hklflow.simd.jit import kernel
from hklflow.transform.repeats import Records

Floats = NDArray[np.float64]

_NEWTON = 30
_AT_REST = 1e-6  # change of ln s
_LEVEL = 1.0  # prior: standard deviation of the mean of ln s of a rotation
_NULL = 1e-10  # eigenvalue, relative to the largest, below which a direction is not determined


@kernel
def _log_scale(first, spline, fixed, a, out):  # type: ignore[no-untyped-def]
    """Write ln s of each record."""
    n_splines = len(a) - fixed.shape[1]
    for g in range(len(first)):
        log_s = 0.0
        for j in range(spline.shape[1]):
            log_s += spline[g, j] * a[first[g] + j]
        for j in range(fixed.shape[1]):
            log_s += fixed[g, j] * a[n_splines + j]
        out[g] = log_s


@kernel
def _expect(starts, counts, norm, log_s, expected, chi2):  # type: ignore[no-untyped-def]
    """Write the expected counts of each record given those of its orbit, and χ² of the orbit."""
    for v in range(len(starts) - 1):
        total, whole = 0.0, 0.0
        for g in range(starts[v], starts[v + 1]):
            expected[g] = norm[g] * np.exp(log_s[g])
            whole += expected[g]
            total += counts[g]
        chi2[v] = 0.0
        for g in range(starts[v], starts[v + 1]):
            expected[g] *= total / whole
            if total > 0:
                chi2[v] += (counts[g] - expected[g]) ** 2 / expected[g]


@kernel
def _gradient(starts, counts, expected, first, spline, fixed, weight, gradient):  # type: ignore[no-untyped-def]
    n_splines = len(gradient) - fixed.shape[1]
    for v in range(len(starts) - 1):
        for g in range(starts[v], starts[v + 1]):
            off = weight[v] * (counts[g] - expected[g])
            for j in range(spline.shape[1]):
                gradient[first[g] + j] += off * spline[g, j]
            for j in range(fixed.shape[1]):
                gradient[n_splines + j] += off * fixed[g, j]


@kernel
def _matrices(starts, counts, expected, first, spline, fixed, weight, fisher, scatter):  # type: ignore[no-untyped-def]
    """Add the Fisher matrix, and the scatter of the gradients of the orbits."""
    n_near, n_fixed, n = spline.shape[1], fixed.shape[1], len(fisher)
    n_splines = n - n_fixed
    at, seen = np.empty(n, np.int64), np.zeros(n, np.bool_)
    mean, own = np.zeros(n), np.zeros(n)
    where, values = np.empty(n_near + n_fixed, np.int64), np.empty(n_near + n_fixed)
    where[n_near:] = n_splines + np.arange(n_fixed)
    for v in range(len(starts) - 1):
        total, w = 0.0, weight[v]
        for g in range(starts[v], starts[v + 1]):
            total += expected[g]
        if total <= 0:
            continue
        at[:n_fixed] = where[n_near:]
        n_at = n_fixed
        for g in range(starts[v], starts[v + 1]):
            for j in range(n_near):
                where[j] = first[g] + j
                values[j] = spline[g, j]
                if not seen[where[j]]:
                    seen[where[j]] = True
                    at[n_at] = where[j]
                    n_at += 1
            for j in range(n_fixed):
                values[n_near + j] = fixed[g, j]
            off = counts[g] - expected[g]
            for j in range(len(where)):
                mean[where[j]] += expected[g] * values[j]
                own[where[j]] += off * values[j]
                b = w * expected[g] * values[j]
                for i in range(len(where)):
                    fisher[where[j], where[i]] += b * values[i]
        for i in range(n_at):
            c = at[i]
            for j in range(n_at):
                fisher[c, at[j]] -= w / total * mean[c] * mean[at[j]]
                scatter[c, at[j]] += w * w * own[c] * own[at[j]]
        for i in range(n_at):
            mean[at[i]] = 0.0
            own[at[i]] = 0.0
            seen[at[i]] = False


@dataclass(frozen=True)
class Curves:
    """Cubic B-splines in the frame number, for each rotation.

    Attributes
    ----------
    frames : tuple of int
        Number of frames of each rotation.
    splines : tuple of int
        Number of splines of each rotation.
    """

    frames: tuple[int, ...]
    splines: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of splines of all rotations."""
        return sum(self.splines)

    def knots(self, rotation: int) -> Floats:
        """Return the knots of a rotation."""
        n = self.splines[rotation]
        inner = np.linspace(0, self.frames[rotation], n - 2)
        return np.concatenate([np.zeros(3), inner, np.full(3, self.frames[rotation])])

    def near(self, rotation: int, frame: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
        """Return the first of the four splines at each frame position, and their values (n, 4)."""
        x = np.clip(np.asarray(frame, np.float64), 0, self.frames[rotation] * (1 - 1e-12))
        basis = BSpline.design_matrix(x, self.knots(rotation), 3)
        first = np.asarray(basis.indices[::4], np.int64) + sum(self.splines[:rotation])
        return first, np.asarray(basis.data).reshape(-1, 4)

    def matrix(self, rotation: int, frame: ArrayLike) -> Floats:
        """Return the splines at frame positions, (n, size)."""
        first, values = self.near(rotation, frame)
        matrix = np.zeros((len(first), self.size))
        np.put_along_axis(matrix, first[:, None] + np.arange(4), values, axis=1)
        return matrix

    def roughness(self) -> Floats:
        """Return the matrix of the squared second differences, (size, size)."""
        made = np.zeros((self.size, self.size))
        begin = 0
        for n in self.splines:
            d = np.diff(np.eye(n), 2, axis=0)
            made[begin : begin + n, begin : begin + n] = d.T @ d
            begin += n
        return made


@dataclass(frozen=True)
class Scale:
    """Scale that the repeated measurements determine.

    Attributes
    ----------
    curves : Curves
    parameters : (p,) array
        Coefficients a of ln s.
    covariance : (p, p) array
    smoothness : float
        Precision of the prior on second differences of the splines.
    tau : float
        Fraction by which S(Q) differs between the records of an orbit.
    chi2 : float
        Reduced χ² of the records, with the variance of photons alone.
    repeats : int
        Number of records less the number of orbits.
    determined : float
        Number of parameters that the records determine.
    """

    curves: Curves
    parameters: Floats
    covariance: Floats
    smoothness: float
    tau: float
    chi2: float
    repeats: int
    determined: float

    def of_frames(self, rotation: int) -> tuple[Floats, Floats]:
        """Return s of the frames of a rotation (n,), and its relative covariance (n, n).

        The mean of ln s over the first rotation is 0.
        """
        basis = self.curves.matrix(rotation, np.arange(self.curves.frames[rotation]) + 0.5)
        mean = self.curves.matrix(0, np.arange(self.curves.frames[0]) + 0.5).mean(axis=0)
        basis = basis - mean
        n = self.curves.size
        return (
            np.exp(basis @ self.parameters[:n]),
            basis @ self.covariance[:n, :n] @ basis.T,
        )


def refine(
    records: Records, curves: Curves, fixed: Floats | None = None, prior: Floats | None = None
) -> Scale:
    """Determine the scale.

    Parameters
    ----------
    records : Records
        Records of all rotations, see `Records.joined`.
    curves : Curves
    fixed : (n, d) array, optional
        Further columns of B at each record.
    prior : (d, d) array, optional
        Inverse of the covariance of the coefficients of ``fixed``, whose prior mean is 0.

    Raises
    ------
    HklflowError
        If no orbit was measured twice.
    """
    if len(records) == 0:
        raise HklflowError("no part of S(Q) was measured twice: the scale can't be determined")
    starts = np.flatnonzero(np.diff(records.voxel, prepend=-1, append=-1))
    first = np.empty(len(records), np.int64)
    spline = np.empty((len(records), 4))
    for number in range(len(curves.frames)):
        mine = records.rotation == number
        first[mine], spline[mine] = curves.near(number, records.frame[mine])
    if fixed is None or prior is None:
        fixed, prior = np.zeros((len(records), 0)), np.zeros((0, 0))
    return _Work(records, starts, _Basis(first, spline, fixed), curves, prior).run()


class _Basis(NamedTuple):
    """B of the records: first of the four splines (n,), their values (n, 4), other columns."""

    first: NDArray[np.int64]
    spline: Floats
    fixed: Floats


class _Work:
    """State of the fit."""

    def __init__(
        self,
        records: Records,
        starts: NDArray[np.int64],
        basis: _Basis,
        curves: Curves,
        prior: Floats,
    ) -> None:
        self.records, self.starts, self.curves, self._basis = records, starts, curves, basis
        self.n = curves.size + basis.fixed.shape[1]
        self.counts = np.add.reduceat(records.counts.astype(np.float64), starts[:-1])
        self.numbers = np.diff(starts)
        self.weight = np.ones(len(self.counts))
        self.rough, self.given = np.zeros((2, self.n, self.n))
        self.rough[: curves.size, : curves.size] = curves.roughness()
        self.given[curves.size :, curves.size :] = prior
        for number in range(len(curves.frames)):
            middle = np.arange(curves.frames[number]) + 0.5
            mean = curves.matrix(number, middle).mean(axis=0)
            self.given[: curves.size, : curves.size] += np.outer(mean, mean) / _LEVEL**2

    def expect(self, a: Floats) -> tuple[Floats, Floats]:
        """Return the expected counts of the records, and χ² of the orbits."""
        log_s, expected = np.empty((2, len(self.records)))
        chi2 = np.empty(len(self.counts))
        _log_scale(*self._basis, a, log_s)
        _expect(self.starts, self.records.counts, self.records.norm, log_s, expected, chi2)
        return expected, chi2

    def gradient(self, expected: Floats) -> Floats:
        """Return the gradient of the likelihood."""
        found = np.zeros(self.n)
        counts = self.records.counts
        _gradient(self.starts, counts, expected, *self._basis, self.weight, found)
        return found

    def matrices(self, expected: Floats) -> tuple[Floats, Floats]:
        """Return the Fisher matrix, and the scatter of the gradients."""
        found = np.zeros((2, self.n, self.n))
        counts = self.records.counts
        _matrices(self.starts, counts, expected, *self._basis, self.weight, *found)
        return found[0], found[1]

    def run(self) -> Scale:
        a, smooth = np.zeros(self.n), 1.0
        for cycle in range(3):
            a, expected, chi2 = self._newton(a, smooth)
            free = self.numbers - 1
            if cycle == 0:
                reduced = chi2.sum() / free.sum()
                tau = self._tau(chi2)
                self.weight = 1 / (1 + tau**2 * self.counts / self.numbers)
            fisher, scatter = self.matrices(expected)
            information = fisher @ _inverse(scatter) @ fisher
            best = a + _inverse(fisher) @ self.gradient(expected)
            smooth = _smoothness(information, best, self.rough, self.given)
        covariance = _inverse(information + smooth * self.rough + self.given)
        return Scale(
            self.curves,
            covariance @ (information @ best),
            covariance,
            smooth,
            tau,
            float(reduced),
            int(free.sum()),
            float(np.trace(covariance @ information)),
        )

    def _newton(self, a: Floats, smooth: float) -> tuple[Floats, Floats, Floats]:
        """Return the maximum, expected counts and χ²; the Fisher matrix is kept between steps."""
        expected, chi2 = self.expect(a)
        prior = smooth * self.rough + self.given
        for step in range(_NEWTON):
            if step < 2:
                inverse = _inverse(self.matrices(expected)[0] + prior)
            change = inverse @ (self.gradient(expected) - prior @ a)
            size = float(np.max(np.abs(change), initial=0.0))
            a = a + change * min(1.0, 1.0 / max(size, 1e-12))
            expected, chi2 = self.expect(a)
            if size < _AT_REST:
                break
        return a, expected, chi2

    def _tau(self, chi2: Floats) -> float:
        """Return the relative deviation of S(Q) within an orbit from the growth of χ²."""
        level, free = self.counts / self.numbers, self.numbers - 1
        part = np.digitize(level, np.quantile(level, np.linspace(0, 1, 9)[1:-1]))
        free_of = np.maximum(np.bincount(part, free), 1e-9)
        excess = np.bincount(part, chi2) / free_of - 1
        level_of = np.bincount(part, level * free) / free_of
        slope = np.sum(excess * level_of * free_of) / np.sum(level_of**2 * free_of)
        return float(np.sqrt(max(slope, 0.0)))


def _inverse(matrix: Floats) -> Floats:
    """Return the pseudo-inverse of a symmetric matrix; directions that it lacks are 0."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > _NULL * max(float(values.max(initial=0.0)), 1e-300)
    return np.asarray((vectors[:, kept] / values[kept]) @ vectors[:, kept].T)


def _smoothness(information: Floats, target: Floats, rough: Floats, given: Floats) -> float:
    """Return the precision of the roughness that maximises the marginal likelihood."""
    values = np.linalg.eigvalsh(rough)
    rank = int(np.sum(values > 1e-9 * values.max()))
    b = information @ target

    def evidence(smooth: float) -> float:
        v, u = np.linalg.eigh(information + smooth * rough + given)
        kept = v > _NULL * v.max()
        explained = np.sum((u[:, kept].T @ b) ** 2 / v[kept])
        return float(0.5 * (rank * np.log(smooth) - np.sum(np.log(v[kept])) + explained))

    tried = 10.0 ** np.arange(-2, 9.1, 0.25)
    return float(tried[int(np.argmax([evidence(s) for s in tried]))])
