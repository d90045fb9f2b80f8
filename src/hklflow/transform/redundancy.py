r"""Scale of the frames, and its dependence on direction, from repeated measurements of S(Q).

A record g of voxel orbit v (see `repeats`) counts ``C ~ Poisson(N s S_v + B)`` with its norm N, its
expected background B, and the unknown scale s. S of each orbit is chosen so that the
likelihood of its records is largest; without a background this is the likelihood given the sum of
counts, a multinomial distribution in which S has cancelled exactly, for any number of counts.

    ln s = c(z) + d(z, x, y)

c is a curve over the frames z of each rotation; d is smooth in z and in the place (x, y) on the
detector, and its mean over the detector is 0. Both are sums of uniform cubic B-splines (and their
products). Their number is generous; a prior on second differences makes them smooth (P-splines:
Eilers & Marx, Stat. Sci. 11, 89, 1996), and its two precisions maximise the marginal likelihood.

The prior of c is 0 ± `_LEVEL` for the mean of a rotation, ± `_CURVE` for deviations from it, and
that of d is 0 ± `_DIRECTION`. Where the records do not determine s, it keeps its prior and the
width of this: the common scale; rotations without common orbits; and any function of Q with the
Laue symmetry, which no redundancy can tell from S(Q) (the gauge).

Voxels are not points. S(Q) differs between the records of one orbit by a fraction τ, so that the
variance of the counts is ``μ + (τ μ)²``; orbits with many counts get less weight. The covariance
is ``P⁻¹ (J + K) P⁻¹``: P is the information with the prior's K, J the scatter of the orbits'
gradients.

Counts that do not pass through the crystal, such as scattering of air, do not follow s. A share of
them that is the same for all pixels, but for the norm, is estimated by one step of Newton's method,
as a test: it is not subtracted.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

from hklflow.base.errors import HklflowError
from hklflow.simd.jit import kernel
from hklflow.transform.repeats import Records

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NEWTON = 25
_AT_REST = 0.03  # change of the parameters in all, in units of their errors
_LEVEL, _CURVE, _DIRECTION = 1.0, 0.1, 0.3
_CENTRE = 1e-3  # standard deviation of the mean of d over the detector
_WORK = 4e10  # products of which second derivatives are summed
_ROWS = 1000  # orbits that are summed together
_TAU = 0.1  # assumed until it is known
_LEARN = 400_000  # records from which τ and the precisions are found
_ENOUGH, _OWN = 10, 0.2  # counts of an orbit, and the crystal's share of them, for its S
_NEAR = 4  # cubic splines that are not 0 at a place


class _Layout(NamedTuple):
    """Sizes for the kernels: of each rotation, and of the detector."""

    frames: Ints
    curve: Ints
    angle: Ints
    first_curve: Ints
    first_direction: Ints
    detector: Ints
    shape: Ints


@dataclass(frozen=True)
class Splines:
    """Splines of ln s.

    Attributes
    ----------
    frames : tuple of int
        Number of frames of each rotation.
    curve : tuple of int
        Intervals of c of each rotation.
    angle : tuple of int
        Intervals of d along the frames of each rotation.
    detector : (int, int)
        Intervals of d along (slow, fast); (0, 0): ln s does not depend on direction.
    shape : (int, int)
        Pixels of the detector.
    """

    frames: tuple[int, ...]
    curve: tuple[int, ...]
    angle: tuple[int, ...]
    detector: tuple[int, int]
    shape: tuple[int, int]

    @property
    def directed(self) -> bool:
        """True if ln s depends on direction."""
        return self.detector[0] > 0

    @property
    def places(self) -> int:
        """Number of splines of the detector."""
        return (self.detector[0] + 3) * (self.detector[1] + 3) if self.directed else 0

    @property
    def size(self) -> int:
        """Number of parameters."""
        layout = self.layout()
        if self.directed:
            return int(layout.first_direction[-1] + (self.angle[-1] + 3) * self.places)
        return int(layout.first_curve[-1] + self.curve[-1] + 3)

    def layout(self) -> _Layout:
        """Return the sizes for the kernels; all curves come first."""
        curve = np.array(self.curve, np.int64)
        angle = np.array(self.angle, np.int64)
        ends = np.cumsum(curve + 3)
        more = np.cumsum((angle + 3) * self.places)
        return _Layout(
            np.array(self.frames, np.int64),
            curve,
            angle,
            np.concatenate([[0], ends[:-1]]),
            ends[-1] + np.concatenate([[0], more[:-1]]),
            np.array(self.detector, np.int64),
            np.array(self.shape, np.int64),
        )

    def of_curve(self, rotation: int, frame: ArrayLike) -> Floats:
        """Return the splines of c at frame positions (n, size)."""
        layout = self.layout()
        own = _basis(np.asarray(frame) / self.frames[rotation], self.curve[rotation])
        matrix = np.zeros((len(own), self.size))
        begin = layout.first_curve[rotation]
        matrix[:, begin : begin + own.shape[1]] = own
        return matrix

    def of_direction(self, rotation: int, a: Floats, frame: ArrayLike, at: "Places") -> Floats:
        """Return d (frames, slow, fast) at frame positions and places on the detector."""
        n = self.angle[rotation] + 3
        begin = self.layout().first_direction[rotation]
        own = a[begin : begin + n * self.places]
        own = own.reshape(n, self.detector[0] + 3, self.detector[1] + 3)
        along = _basis(np.asarray(frame) / self.frames[rotation], self.angle[rotation])
        slow = _basis(np.asarray(at.slow) / self.shape[0], self.detector[0])
        fast = _basis(np.asarray(at.fast) / self.shape[1], self.detector[1])
        return np.einsum("zi,ijk,sj,fk->zsf", along, own, slow, fast, optimize=True)


class Places(NamedTuple):
    """Places on the detector in pixels, of a grid along (slow, fast)."""

    slow: Floats
    fast: Floats


def _basis(x: Floats, n: int) -> Floats:
    """Return the n + 3 uniform cubic B-splines of n intervals at x from 0 to 1."""
    t = np.clip(np.asarray(x, np.float64), 0, 1) * n
    i = np.minimum(t.astype(np.int64), n - 1)
    u = t - i
    near = np.stack(
        [(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3], -1
    )
    made = np.zeros((len(t), n + 3))
    np.put_along_axis(made, i[:, None] + np.arange(_NEAR), near / 6, axis=1)
    return made


@kernel(inline="always")
def _near(x, n, out):  # type: ignore[no-untyped-def]
    """Write the four splines that are not 0 at x; return the first."""
    t = min(max(x, 0.0), 1.0) * n
    i = min(int(t), n - 1)
    u = t - i
    out[0] = (1 - u) ** 3 / 6
    out[1] = (3 * u**3 - 6 * u**2 + 4) / 6
    out[2] = (-3 * u**3 + 3 * u**2 + 3 * u + 1) / 6
    out[3] = u**3 / 6
    return i


@kernel
def _columns(layout, records, g, near, index, value):  # type: ignore[no-untyped-def]
    """Write parameters and their factors of ln s of a record; return their number."""
    r = records.rotation[g]
    z = records.frame[g] / layout.frames[r]
    i = _near(z, layout.curve[r], near[0]) + layout.first_curve[r]
    for j in range(4):
        index[j], value[j] = i + j, near[0, j]
    if layout.detector[0] == 0:
        return 4
    n_fast = layout.detector[1] + 3
    places = (layout.detector[0] + 3) * n_fast
    i = _near(z, layout.angle[r], near[0])
    x = _near(records.slow[g] / layout.shape[0], layout.detector[0], near[1])
    y = _near(records.fast[g] / layout.shape[1], layout.detector[1], near[2])
    m = 4
    for j in range(4):
        for k in range(4):
            b = near[0, j] * near[1, k]
            first = layout.first_direction[r] + (i + j) * places + (x + k) * n_fast + y
            for l in range(4):  # noqa: E741
                index[m], value[m] = first + l, b * near[2, l]
                m += 1
    return m


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
    near = np.empty((3, 4))
    index, value = np.empty(68, np.int64), np.empty(68)
    signal = info
    for g in range(len(records.counts)):
        log_s = 0.0
        for j in range(_columns(layout, records, g, near, index, value)):
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
    near = np.empty((3, 4))
    index, value = np.empty(68, np.int64), np.empty(68)
    for v in range(len(starts) - 1):
        for g in range(starts[v], starts[v + 1]):
            part = weight[v] * off[g]
            for j in range(_columns(layout, records, g, near, index, value)):
                gradient[index[j]] += part * value[j]


@kernel
def _second(layout, records, starts, chosen, off, info, weight, fisher, mean, own):  # type: ignore[no-untyped-def]
    """Add the records of the chosen orbits to the upper triangle of the Fisher matrix.

    Each orbit gets a row in ``mean``, whose square has to be subtracted because S is not known, and
    its gradient in ``own``.
    """
    near = np.empty((3, 4))
    index, value = np.empty(68, np.int64), np.empty(68)
    for row in range(len(chosen)):
        v = chosen[row]
        total = 0.0
        for g in range(starts[v], starts[v + 1]):
            total += info[g]
        if total <= 0:
            continue
        root = np.sqrt(weight[v] / total)
        for g in range(starts[v], starts[v + 1]):
            n = _columns(layout, records, g, near, index, value)
            w = weight[v] * info[g]
            for j in range(n):
                i, b = index[j], w * value[j]
                mean[row, i] += root * info[g] * value[j]
                own[row, i] += weight[v] * off[g] * value[j]
                for k in range(j, n):  # indices ascend
                    fisher[i, index[k]] += b * value[k]


@dataclass(frozen=True)
class Scale:
    """Scale that the repeated measurements determine.

    Attributes
    ----------
    splines : Splines
    parameters : (p,) array
    covariance : (p, p) array
    precision : (float, float)
        Precisions of the priors on second differences of c and of d.
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
    precision: tuple[float, float]
    tau: float
    chi2: float
    chi2_after: float
    repeats: int
    determined: float
    at_rest: bool
    steady: tuple[float, float]

    def of_frames(self, rotation: int) -> tuple[Floats, Floats]:
        """Return s of the frames of a rotation (n,), and its relative covariance (n, n).

        The mean of ln s over the first rotation is 0. The dependence on direction is apart.
        """
        splines = self.splines
        basis = splines.of_curve(rotation, np.arange(splines.frames[rotation]) + 0.5)
        basis = basis - splines.of_curve(0, np.arange(splines.frames[0]) + 0.5).mean(axis=0)
        return np.exp(basis @ self.parameters), basis @ self.covariance @ basis.T


def refine(records: Records, splines: Splines) -> Scale:
    """Determine the scale.

    Parameters
    ----------
    records : Records
        Records of all rotations, see `Records.joined`.
    splines : Splines

    Raises
    ------
    HklflowError
        If no orbit was measured twice.
    """
    if len(records) == 0:
        raise HklflowError("no part of S(Q) was measured twice: the scale can't be determined")
    work = _Work(records, splines)
    few = work
    if len(records) > 2 * _LEARN:
        # Random orbits: neighbours are alike.
        rest = np.random.default_rng(1).random(len(work.numbers)) * len(records) < _LEARN
        few = _Work(records.take(np.repeat(rest, work.numbers)), splines)
    a = few.learn()
    work.set_tau(few.tau)
    work.precision = few.precision
    return work.run(a)


class _Work:
    """State of the fit."""

    def __init__(self, records: Records, splines: Splines) -> None:
        self.splines, self.layout, self.n = splines, splines.layout(), splines.size
        self.records = _Table(*(getattr(records, name) for name in _Table._fields))
        self.starts = np.flatnonzero(np.diff(records.voxel, prepend=-1, append=-1))
        self.counts = np.add.reduceat(records.counts.astype(np.float64), self.starts[:-1])
        self.numbers = np.diff(self.starts)
        self.set_tau(_TAU)
        self.chosen = _some(self.numbers, self.n)
        self.share = len(self.chosen) / len(self.numbers)
        self.off, self.info = np.empty((2, len(records)))
        self.rough, self.given = _priors(splines)
        self.precision = 1e3, 1e2

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
        fisher, scatter, taken = np.zeros((3, self.n, self.n))
        for begin in range(0, len(self.chosen), _ROWS):
            chosen = self.chosen[begin : begin + _ROWS]
            mean, own = np.zeros((2, len(chosen), self.n))
            tables = self.layout, self.records, self.starts, chosen, self.off, self.info
            _second(*tables, self.weight, fisher, mean, own)
            taken += mean.T @ mean
            scatter += own.T @ own
        fisher = np.triu(fisher) + np.triu(fisher, 1).T
        return (fisher - taken) / self.share, scatter / self.share

    def learn(self) -> Floats:
        """Find τ and the precisions of the priors; return the parameters."""
        a = np.zeros(self.n)
        for cycle in range(2):
            a, chi2, _ = self.newton(a)
            if cycle == 0:
                self.set_tau(_tau(self.counts, self.numbers, chi2))
            fisher, scatter = self.second()
            self.precision = self._precisions(fisher, scatter, fisher @ a + self.gradient())
        return a

    def set_tau(self, tau: float) -> None:
        """Give less weight to orbits with many counts."""
        self.tau = tau
        self.weight = 1 / (1 + tau**2 * self.counts / self.numbers)

    def run(self, a: Floats) -> Scale:
        """Determine the scale from an approximation."""
        free = int(np.sum(self.numbers - 1))
        before = float(self.expect(np.zeros(self.n)).sum())
        a, chi2, at_rest = self.newton(a)
        fisher, scatter = self.second()
        prior = self._prior(self.precision)
        inverse: Floats = np.asarray(np.linalg.inv(fisher + prior), np.float64)
        return Scale(
            self.splines,
            a,
            inverse @ (scatter + prior) @ inverse,
            self.precision,
            self.tau,
            before / free,
            float(chi2.sum()) / free,
            free,
            float(np.sum(inverse * fisher)),
            at_rest,
            self.steady(inverse),
        )

    def steady(self, inverse: Floats) -> tuple[float, float]:
        """Return the share of the counts that does not follow s, and its error.

        The background β N is one more parameter, with the derivative N of the expected counts; s
        and the S of the orbits change with it.
        """
        begin, info = self.starts[:-1], np.maximum(self.info, 1e-30)
        # info is own² / (own + background) for the counts `own` of the crystal.
        own = (info + np.sqrt(info**2 + 4 * info * self.records.background)) / 2
        of_crystal = np.repeat(
            np.add.reduceat(own, begin) / np.maximum(self.counts, 1), self.numbers
        )
        # Where S is almost 0 its inverse is noise.
        use = (np.repeat(self.counts, self.numbers) >= _ENOUGH) & (of_crystal > _OWN)
        x = np.where(use & (self.info > 0), self.records.norm / own, 0.0)
        mean = np.add.reduceat(self.info * x, begin)
        mean /= np.maximum(np.add.reduceat(self.info, begin), 1e-30)
        apart = self.info * (x - np.repeat(mean, self.numbers))
        with_s = np.zeros(self.n)
        _gradient(self.layout, self.records, self.starts, apart, self.weight, with_s)
        weight = np.repeat(self.weight, self.numbers)
        known = float(np.sum(weight * apart * x) - with_s @ inverse @ with_s)
        share = float(self.records.norm.sum(dtype=np.float64) / self.counts.sum())
        if known <= 0:
            return np.nan, np.nan
        return float(np.sum(weight * self.off * x)) / known * share, share / np.sqrt(known)

    def _prior(self, precision: tuple[float, float]) -> Floats:
        return precision[0] * self.rough[0] + precision[1] * self.rough[1] + self.given

    def newton(self, a: Floats) -> tuple[Floats, Floats, bool]:
        """Return the maximum, χ², and True if the steps came to rest.

        The second derivatives are those of the start.
        """
        chi2, prior = self.expect(a), self._prior(self.precision)
        factor = cho_factor(self.second()[0] + prior)
        for _ in range(_NEWTON):
            gradient = self.gradient() - prior @ a
            change = cho_solve(factor, gradient)
            size = float(np.max(np.abs(change), initial=0.0))
            a = a + change * min(1.0, 0.5 / max(size, 1e-12))
            chi2 = self.expect(a)
            if gradient @ change < _AT_REST**2:
                return a, chi2, True
        return a, chi2, False

    def _precisions(self, fisher: Floats, scatter: Floats, b: Floats) -> tuple[float, float]:
        """Return the precisions of the roughness that maximise the marginal likelihood."""
        over = max(1.0, float(np.median(np.diag(scatter) / np.maximum(np.diag(fisher), 1e-12))))
        fisher, b = fisher / over, b / over
        # Linear functions, of one or three variables, are not rough.
        ranks = [
            sum(m + 1 for m in self.splines.curve),
            sum((m + 3) * self.splines.places - 8 for m in self.splines.angle),
        ]

        def evidence(tried: list[float]) -> float:
            try:
                factor = cho_factor(fisher + self._prior((tried[0], tried[1])), lower=True)
            except np.linalg.LinAlgError:
                return -np.inf
            log_det = 2 * np.sum(np.log(np.diag(factor[0])))
            prior = sum(rank * np.log(t) for rank, t in zip(ranks, tried, strict=True))
            return float(0.5 * (prior - log_det + b @ cho_solve(factor, b)))

        best = list(self.precision)
        for step in (1.0, 0.5):
            for which in (0, 1) if self.splines.directed else (0,):
                best[which] = _climb(evidence, best, which, step)
        return best[0], best[1]


def _priors(splines: Splines) -> tuple[tuple[Floats, Floats], Floats]:
    """Return the roughness of c and of d, and what is given of the prior's precision."""
    n, layout = splines.size, splines.layout()
    rough, given = np.zeros((2, n, n)), np.zeros((n, n))
    for r in range(len(splines.frames)):
        m = splines.curve[r] + 3
        own = slice(layout.first_curve[r], layout.first_curve[r] + m)
        rough[0][own, own] = _second_differences(m)
        # Equal coefficients are the level; the rest are deviations from it.
        given[own, own] += np.eye(m) / _CURVE**2 + (1 / _LEVEL**2 - m / _CURVE**2) / m**2
        if not splines.directed:
            continue
        sizes = splines.angle[r] + 3, splines.detector[0] + 3, splines.detector[1] + 3
        one = [np.eye(k) for k in sizes]
        bent = [_second_differences(k) for k in sizes]
        begin = layout.first_direction[r]
        own = slice(begin, begin + int(np.prod(sizes)))
        for which in range(3):
            part = [bent[i] if i == which else one[i] for i in range(3)]
            rough[1][own, own] += np.kron(part[0], np.kron(part[1], part[2]))
        given[own, own] += np.eye(int(np.prod(sizes))) / _DIRECTION**2
        middle = [_basis((np.arange(k) + 0.5) / k, k).mean(axis=0) for k in splines.detector]
        centre = np.outer(*middle).reshape(-1)
        given[own, own] += np.kron(one[0], np.outer(centre, centre)) / _CENTRE**2
    return (rough[0], rough[1]), given


def _second_differences(n: int) -> Floats:
    d = np.diff(np.eye(n), 2, axis=0)
    return np.asarray(d.T @ d)


def _climb(evidence: Any, start: list[float], which: int, step: float) -> float:
    """Return the value of one of the numbers, changed by 10**step until evidence falls."""
    best, at = evidence(start), list(start)
    for direction in (step, -step):
        while 1e-3 < (value := at[which] * 10**direction) < 1e9:
            tried = [value if i == which else x for i, x in enumerate(at)]
            found = evidence(tried)
            if found <= best:
                break
            best, at = found, tried
    return at[which]


def _some(numbers: Ints, size: int) -> Ints:
    """Return random orbits whose second derivatives take limited time.

    They must have many more records than there are parameters.
    """
    order = np.random.default_rng(0).permutation(len(numbers))
    work = np.cumsum(2.0 * size**2 + 5e3 * numbers[order])
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
