r"""Scale of the frames, and its dependence on direction, from repeated measurements of S(Q).

A record g of voxel orbit v (see `repeats`) counts ``C ~ Poisson(N s S_v + B)`` with its norm N, its
expected background B, and the unknown scale s. S of each orbit is chosen so that the
likelihood of its records is largest; without a background this is the likelihood given the sum of
counts, a multinomial distribution in which S has cancelled exactly, for any number of counts.

    ln s = c(z) + d(z, x, y) + e(z)

c is a curve over the frames z of each rotation; d is smooth in z and in the place (x, y) on the
detector, and its mean over the detector is 0. Both are sums of splines (`scale_splines`), whose
prior has widths that the records choose (`scale_prior`). e is the noise of single ranges of frames,
such as that of a monitor (`single_frames`).

Where the records do not determine s, it keeps its prior and the width of this: the common scale;
rotations without common orbits; and any function of Q with the Laue symmetry, which no redundancy
can tell from S(Q) (the gauge).

Voxels are not points. S(Q) differs between the records of one orbit by a fraction τ, so that the
variance of the counts is ``μ + (τ μ)²``; orbits with many counts get less weight. The covariance
is ``P⁻¹ (J + K) P⁻¹``: P is the information with the prior's K, J the scatter of the orbits'
gradients.

Counts that do not pass through the crystal, such as scattering of air, do not follow s. A share of
them that is the same for all pixels, but for the norm, is estimated by one step of Newton's method,
as a test: it is not subtracted. What an unknown share of a given width does to s is stated
separately from the covariance.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from hklflow.base.errors import HklflowError
from hklflow.simd.jit import kernel
from hklflow.transform import single_frames
from hklflow.transform.repeats import Records
from hklflow.transform.scale_prior import Normal, Prior, Widths
from hklflow.transform.scale_splines import COLUMNS, NEAR, Places, Splines, columns

__all__ = ["Places", "Scale", "Splines", "refine"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NEWTON = 25
_AT_REST = 0.03  # change of the parameters in all, in units of their errors
_WORK = 4e10  # products of which second derivatives are summed
_SLOW = 30  # times the work of a product in a matrix, if zeros are left out
_ROWS = 1000  # orbits that are summed together
_TAU = 0.1  # assumed until it is known
_LEARN, _LEARN_COUNTS = 400_000, 2e6  # records, and their counts, from which widths are found
_ENOUGH, _OWN = 10, 0.2  # counts of an orbit, and the crystal's share of them, for its S


class _Table(NamedTuple):
    """Records, as the kernels take them."""

    rotation: NDArray[np.uint16]
    frame: NDArray[np.float32]
    slow: NDArray[np.float32]
    fast: NDArray[np.float32]
    counts: NDArray[np.float32]
    norm: NDArray[np.float32]
    background: NDArray[np.float32]


@kernel
def _orbit(counts, signal, background, first, last):  # type: ignore[no-untyped-def]
    """Return S of an orbit for which the likelihood of its records is largest.

    ``signal`` are the expected counts for S = 1.
    """
    total, whole, below = 0.0, 0.0, 0.0
    for g in range(first, last):
        total += counts[g]
        whole += signal[g]
        below += background[g]
    if below <= 0 or total == 0:
        return total / whole
    s = max(total - below, 0.01 * total) / whole
    for _ in range(20):
        slope, change = 0.0, -whole
        for g in range(first, last):
            mean = signal[g] * s + background[g]
            ratio = counts[g] * signal[g] / mean
            change += ratio
            slope += ratio * signal[g] / mean
        if slope <= 0:
            return s
        new = max(s + change / slope, 0.1 * s)
        if abs(new - s) < 1e-7 * s:
            return new
        s = new
    return s


@kernel
def _expect(layout, records, starts, a, off, info, chi2):  # type: ignore[no-untyped-def]
    """Write the derivative of the likelihood by ln s of each record, its information, and χ²."""
    near = np.empty((3, NEAR))
    index, value = np.empty(COLUMNS, np.int64), np.empty(COLUMNS)
    signal = info
    for g in range(len(records.counts)):
        log_s = 0.0
        for j in range(columns(layout, records, g, near, index, value)):
            log_s += value[j] * a[index[j]]
        signal[g] = records.norm[g] * np.exp(log_s)
    for v in range(len(starts) - 1):
        s = _orbit(records.counts, signal, records.background, starts[v], starts[v + 1])
        chi2[v] = 0.0
        for g in range(starts[v], starts[v + 1]):
            own = signal[g] * s
            mean = own + records.background[g]
            if own <= 0:
                off[g] = 0.0
                info[g] = 0.0
                continue
            ratio = own / mean
            off[g] = ratio * (records.counts[g] - mean)
            info[g] = own * ratio
            chi2[v] += (records.counts[g] - mean) ** 2 / mean


@kernel
def _gradient(layout, records, starts, off, weight, gradient):  # type: ignore[no-untyped-def]
    near = np.empty((3, NEAR))
    index, value = np.empty(COLUMNS, np.int64), np.empty(COLUMNS)
    for v in range(len(starts) - 1):
        for g in range(starts[v], starts[v + 1]):
            part = weight[v] * off[g]
            for j in range(columns(layout, records, g, near, index, value)):
                gradient[index[j]] += part * value[j]


@kernel
def _of_orbit(layout, records, first, last, fit, weight, fisher, mean, own):  # type: ignore[no-untyped-def]
    """Add the records of an orbit to the upper triangle of the Fisher matrix.

    The square of ``mean`` (p,) has to be subtracted, because S is not known; ``own`` (p,) is the
    gradient.
    """
    off, info = fit
    near = np.empty((3, NEAR))
    index, value = np.empty(COLUMNS, np.int64), np.empty(COLUMNS)
    total = 0.0
    for g in range(first, last):
        total += info[g]
    if total <= 0:
        return
    root = np.sqrt(weight / total)
    for g in range(first, last):
        n = columns(layout, records, g, near, index, value)
        for j in range(n):
            i, b = index[j], weight * info[g] * value[j]
            mean[i] += root * info[g] * value[j]
            own[i] += weight * off[g] * value[j]
            for k in range(j, n):  # indices ascend
                fisher[i, index[k]] += b * value[k]


@kernel
def _second(layout, records, starts, chosen, fit, weight, fisher, mean, own):  # type: ignore[no-untyped-def]
    """Add the chosen orbits to the Fisher matrix; each gets a row in ``mean`` and in ``own``."""
    for row in range(len(chosen)):
        v = chosen[row]
        first, last = starts[v], starts[v + 1]
        _of_orbit(layout, records, first, last, fit, weight[v], fisher, mean[row], own[row])


@kernel
def _second_of_few(layout, records, starts, chosen, fit, weight, fisher, scatter):  # type: ignore[no-untyped-def]
    """Add the chosen orbits to the upper triangles of the Fisher matrix and the scatter.

    Only the products of parameters on which an orbit depends are formed.
    """
    mean, own = np.zeros((2, len(fisher)))
    for v in chosen:
        mean[:] = 0.0
        own[:] = 0.0
        _of_orbit(layout, records, starts[v], starts[v + 1], fit, weight[v], fisher, mean, own)
        depends = np.flatnonzero(mean)
        for p in range(len(depends)):
            i = depends[p]
            for j in depends[p:]:
                fisher[i, j] -= mean[i] * mean[j]
                scatter[i, j] += own[i] * own[j]


@dataclass(frozen=True)
class Scale:
    """Scale that the repeated measurements determine.

    Attributes
    ----------
    splines : Splines
    parameters : (p,) array
    covariance : (p, p) array
        Without the background that nobody knows.
    overlooked : (p,) array
        Error of the parameters if this background has its standard deviation.
    widths : Widths
        Widths of the prior of the coefficients.
    noise : float
        Standard deviation of the factors of single ranges of frames; 0: none is seen.
    single : list of ((n,) array, (n,) array)
        Logarithms of these factors and their variances, for the frames of each rotation.
    tau : float
        Fraction by which S(Q) differs between the records of an orbit.
    chi2 : float
        Reduced χ² of the records, with the variance of photons alone, before any scale.
    chi2_after : float
        The same for the scale that was found.
    repeats : int
        Number of records less the number of orbits.
    determined : float
        Number of parameters that the records determine.
    at_rest : bool
        False: the fit did not converge.
    steady : (float, float)
        Share of the counts that does not follow s (background that is not yet subtracted), and its
        error; nan: not known.
    """

    splines: Splines
    parameters: Floats
    covariance: Floats
    overlooked: Floats
    widths: Widths
    noise: float
    single: list[tuple[Floats, Floats]]
    tau: float
    chi2: float
    chi2_after: float
    repeats: int
    determined: float
    at_rest: bool
    steady: tuple[float, float]

    def of_frames(self, rotation: int) -> tuple[Floats, Floats]:
        """Return s of the frames of a rotation (n,), and its relative covariance (n, n).

        The mean of ln s over the first rotation is 0. The dependence on direction is apart, and so
        is what a background does that nobody knows, see `off_by`.
        """
        basis = self._basis(rotation)
        own, variance = self.single[rotation]
        log = basis @ self.parameters + own - self.single[0][0].mean()
        return np.exp(log), basis @ self.covariance @ basis.T + np.diag(variance)

    def off_by(self, rotation: int) -> Floats:
        """Return the error of ln s of the frames (n,) if the unknown background has its width."""
        return self._basis(rotation) @ self.overlooked

    def _basis(self, rotation: int) -> Floats:
        """Return the splines of ln s of the frames, with a mean of 0 over the first rotation."""
        own, first = (
            self.splines.of_curve(r, np.arange(self.splines.frames[r]) + 0.5) for r in (rotation, 0)
        )
        return own - first.mean(axis=0)


def refine(
    records: Records,
    splines: Splines,
    *,
    unknown: float,
    every: int,
    through: list[Floats] | None = None,
) -> Scale:
    """Determine the scale.

    Parameters
    ----------
    records : Records
        Records of all rotations, see `Records.joined`.
    splines : Splines
    unknown : float
        Standard deviation of the share of the counts that is a background nobody knows.
    every : int
        Frames of a range, which were summed.
    through : list of (n_frames,) arrays, optional
        The crystal's part of the norm of the frames of each rotation, which a background does not
        follow: the transmission of the start; None: 1.

    Raises
    ------
    HklflowError
        If no orbit was measured twice.
    """
    if len(records) == 0:
        raise HklflowError("no part of S(Q) was measured twice: the scale can't be determined")
    work = few = _Work(records, splines)
    share = max(_LEARN / len(records), _LEARN_COUNTS / max(float(work.counts.sum()), 1.0))
    if share < 0.5:
        # Random orbits: neighbours are alike.
        some = np.random.default_rng(1).random(len(work.numbers)) < share
        few = _Work(records.take(np.repeat(some, work.numbers)), splines)
    a = few.learn()
    if few is not work:
        work.set_tau(few.tau)
        work.widths = few.widths
    return work.run(a, _of_beam(records, splines, through), unknown, every)


def _of_beam(records: Records, splines: Splines, through: list[Floats] | None) -> Floats:
    """Return the norm of the records without the crystal's part of it."""
    norm = records.norm.astype(np.float64)
    for number, factor in enumerate(through or []):
        own = records.rotation == number
        frame = np.minimum(records.frame[own].astype(np.int64), splines.frames[number] - 1)
        norm[own] /= np.where(factor > 0, factor, 1.0)[frame]
    return norm


class _Work:
    """State of the fit."""

    def __init__(self, records: Records, splines: Splines) -> None:
        self.splines, self.layout, self.n = splines, splines.layout(), splines.size
        self.records = _Table(*(getattr(records, name) for name in _Table._fields))
        self.starts = np.flatnonzero(np.diff(records.voxel, prepend=-1, append=-1))
        self.counts = np.add.reduceat(records.counts.astype(np.float64), self.starts[:-1])
        self.numbers = np.diff(self.starts)
        self.fisher: Floats | None = None  # of the last place, for the weights at present
        self.set_tau(_TAU)
        self.chosen = _some(self.numbers, self.n)
        self.share = len(self.chosen) / len(self.numbers)
        self.off, self.info = np.empty((2, len(records)))
        self.prior = Prior(splines)
        self.widths = Widths()

    def expect(self, a: Floats) -> Floats:
        """Compute the derivatives by the records' ln s; return χ² of the orbits."""
        chi2 = np.empty(len(self.counts))
        _expect(self.layout, self.records, self.starts, a, self.off, self.info, chi2)
        return chi2

    def gradient(self) -> Floats:
        """Return the gradient of the likelihood."""
        found = np.zeros(self.n)
        _gradient(self.layout, self.records, self.starts, self.off, self.weight, found)
        return found

    def second(self) -> tuple[Floats, Floats]:
        """Return the Fisher matrix, and the scatter of the gradients, from the chosen orbits."""
        fisher, scatter = np.zeros((2, self.n, self.n))
        tables = self.layout, self.records, self.starts
        of_fit = (self.off, self.info), self.weight
        few = _few(self.numbers[self.chosen], self.n)
        _second_of_few(*tables, self.chosen[few], *of_fit, fisher, scatter)
        many = self.chosen[~few]
        for begin in range(0, len(many), _ROWS):
            chosen = many[begin : begin + _ROWS]
            mean, own = np.zeros((2, len(chosen), self.n))
            _second(*tables, chosen, *of_fit, fisher, mean, own)
            fisher -= mean.T @ mean
            scatter += own.T @ own
        # Both are symmetric; only the upper triangles are whole.
        fisher, scatter = (np.triu(x) + np.triu(x, 1).T for x in (fisher, scatter))
        return fisher / self.share, scatter / self.share

    def learn(self) -> Floats:
        """Find τ and the widths of the prior; return the parameters."""
        a = np.zeros(self.n)
        for cycle in range(2):
            a, chi2, _ = self.newton(a)
            if cycle == 0:
                self.set_tau(_tau(self.counts, self.numbers, chi2))
            fisher, scatter = self.second()
            ratio = np.diag(scatter) / np.maximum(np.diag(fisher), 1e-12)
            over = max(1.0, float(np.median(ratio)))
            self.fisher = fisher
            normal = Normal(fisher / over, (fisher @ a + self.gradient()) / over)
            self.widths = self.prior.learn(normal, self.widths)
        return a

    def set_tau(self, tau: float) -> None:
        """Give less weight to orbits with many counts."""
        self.tau = tau
        self.fisher = None
        self.weight = 1 / (1 + tau**2 * self.counts / self.numbers)

    def run(self, a: Floats, of_beam: Floats, unknown: float, every: int) -> Scale:
        """Determine the scale from an approximation; see `refine`."""
        free = int(np.sum(self.numbers - 1))
        before = float(self.expect(np.zeros(self.n)).sum())
        a, chi2, at_rest = self.newton(a)
        fisher, scatter = self.second()
        prior = self.prior.matrix(self.widths)
        inverse: Floats = np.asarray(np.linalg.inv(fisher + prior), np.float64)
        steady, change = self.background(of_beam, inverse)
        noise, single = self.single(every)
        return Scale(
            self.splines,
            a,
            inverse @ (scatter + prior) @ inverse,
            unknown * change,
            self.widths,
            noise,
            single,
            self.tau,
            before / free,
            float(chi2.sum()) / free,
            free,
            float(np.sum(inverse * fisher)),
            at_rest,
            steady,
        )

    def background(self, norm: Floats, inverse: Floats) -> tuple[tuple[float, float], Floats]:
        """Return the share of the counts that does not follow s with its error, and what 1 does.

        The background ``share * norm``, for a norm with the sum of all counts, is one more
        parameter; s and the S of the orbits change with it. The second result is the change of the
        parameters (p,) if a share of 1 were overlooked.
        """
        norm = norm * (self.counts.sum() / norm.sum())
        begin, info = self.starts[:-1], np.maximum(self.info, 1e-30)
        # info is own² / (own + background) for the counts `own` of the crystal.
        own = (info + np.sqrt(info**2 + 4 * info * self.records.background)) / 2
        of_crystal = np.repeat(
            np.add.reduceat(own, begin) / np.maximum(self.counts, 1), self.numbers
        )
        # Where S is almost 0 its inverse is noise.
        use = (np.repeat(self.counts, self.numbers) >= _ENOUGH) & (of_crystal > _OWN)
        x = np.where(use & (self.info > 0), norm / own, 0.0)
        mean = np.add.reduceat(self.info * x, begin)
        mean /= np.maximum(np.add.reduceat(self.info, begin), 1e-30)
        apart = self.info * (x - np.repeat(mean, self.numbers))
        # Of the orbits of the second derivatives: a difference of both follows.
        some = np.zeros(len(self.weight))
        some[self.chosen] = self.weight[self.chosen] / self.share
        with_s = np.zeros(self.n)
        _gradient(self.layout, self.records, self.starts, apart, some, with_s)
        of_chosen, of_all = (np.repeat(w, self.numbers) for w in (some, self.weight))
        known = float(np.sum(of_chosen * apart * x) - with_s @ inverse @ with_s)
        if known <= 0:
            return (np.nan, np.nan), inverse @ with_s
        share = float(np.sum(of_all * self.off * x)) / known
        return (share, 1 / float(np.sqrt(known))), inverse @ with_s

    def single(self, every: int) -> tuple[float, list[tuple[Floats, Floats]]]:
        """Return the noise of single ranges, and factors of the frames with their variances."""
        weight = np.repeat(self.weight, self.numbers)
        of_orbit = np.repeat(np.add.reduceat(self.info, self.starts[:-1]), self.numbers)
        information = weight * self.info * (1 - self.info / np.maximum(of_orbit, 1e-30))
        rotations = []
        for number, n in enumerate(self.splines.frames):
            own = self.records.rotation == number
            place = self.records.frame[own] / every
            parts = (weight * self.off)[own], information[own]
            rotations.append(single_frames.Ranges.of_records(place, -(-n // every), *parts))
        noise, found = single_frames.solve(rotations)
        frames = [np.arange(n) // every for n in self.splines.frames]
        return noise, [(e[z], v[z]) for (e, v), z in zip(found, frames, strict=True)]

    def newton(self, a: Floats) -> tuple[Floats, Floats, bool]:
        """Return the maximum, χ², and True if the steps came to rest.

        The second derivatives are those of the start, or of a fit before it with the same weights.
        """
        chi2, prior = self.expect(a), self.prior.matrix(self.widths)
        fisher = self.second()[0] if self.fisher is None else self.fisher
        factor = cho_factor(fisher + prior)
        for _ in range(_NEWTON):
            gradient = self.gradient() - prior @ a
            change = cho_solve(factor, gradient)
            size = float(np.max(np.abs(change), initial=0.0))
            a = a + change * min(1.0, 0.5 / max(size, 1e-12))
            chi2 = self.expect(a)
            if gradient @ change < _AT_REST**2:
                return a, chi2, True
        return a, chi2, False


def _work(numbers: Ints, size: int) -> tuple[Floats, Floats]:
    """Return the work of orbits for the second derivatives, with and without zeros.

    Products with zeros are formed fast.
    """
    without = _SLOW * np.minimum(COLUMNS * numbers, size).astype(np.float64) ** 2
    return np.full(len(numbers), 2.0 * size**2), without


def _few(numbers: Ints, size: int) -> NDArray[np.bool_]:
    """Return True for orbits with so few records that zeros are left out."""
    with_zeros, without = _work(numbers, size)
    return np.asarray(without < with_zeros)


def _some(numbers: Ints, size: int) -> Ints:
    """Return random orbits whose second derivatives take limited time.

    They must have many more records than there are parameters.
    """
    order = np.random.default_rng(0).permutation(len(numbers))
    least = np.minimum(*_work(numbers[order], size))
    work = np.cumsum(least + 5e3 * numbers[order])
    return np.sort(order[: max(1, int(np.searchsorted(work, _WORK)))])


def _tau(counts: Floats, numbers: Ints, chi2: Floats) -> float:
    """Return the relative deviation of S(Q) within an orbit from the growth of χ²."""
    level, free = counts / numbers, numbers - 1
    part = np.digitize(level, np.quantile(level, np.linspace(0, 1, 9)[1:-1]))
    free_of = np.maximum(np.bincount(part, free), 1e-9)
    excess = np.bincount(part, chi2) / free_of - 1
    level_of = np.bincount(part, level * free) / free_of
    slope = np.sum(excess * level_of * free_of) / np.sum(level_of**2 * free_of)
    return float(np.sqrt(max(slope, 0.0)))
