r"""Scale of the frames, and its dependence on direction, from repeated measurements of S(Q).

A record g of voxel orbit v (see `repeats`) counts ``C ~ Poisson(N s S_v + B)`` with its norm N, its
expected background B, and the unknown scale s. S of each orbit is chosen so that the
likelihood of its records is largest; without a background this is the likelihood given the sum of
counts, a multinomial distribution in which S has cancelled exactly, for any number of counts.

    ln s = c(z) + g(u) + d(z, x, y) + e(z)

c is a curve over the frames z of each rotation, by which a transmission in the norm can also be
undone; d is smooth in z and in the place (x, y) on the detector, and its mean over the detector is
0. Both are sums of splines (`scale_splines`), whose prior has widths that the records choose
(`scale_prior`). e is the noise of single ranges of frames, such as that of a monitor
(`single_frames`). g, if requested, is a function of the direction of the scattered beam in the
frame of the crystal, the same for all rotations (`scale_outgoing`).

Where the records do not determine s, it keeps its prior and the width of this: the common scale;
rotations without common orbits; and any function of Q with the Laue symmetry, which no redundancy
can tell from S(Q) (the gauge).

Voxels are not points. S(Q) differs between the records of one orbit by a fraction τ, so that the
variance of the counts is ``μ + (τ μ)²``; orbits with many counts get less weight. The covariance
is ``P⁻¹ (R² J + K) P⁻¹``: P is the information with the prior's K, J the scatter of the orbits'
gradients, R² the scatter of a few groups of orbits over J. A group has orbits of similar S(Q). An
error of the model, such as a background that does not follow s, changes all of a group in the same
way; R is then above 1.

Counts that do not pass through the crystal, such as scattering of air, do not follow s. A share of
them that is the same for all pixels, but for the norm, is estimated by one step of Newton's method.
If it is clear, and not larger than the given width of the share allows, s is fitted again with this
background; S(Q) is not changed by it. What an unknown share does to s is stated separately from the
covariance, for the given width of the share, or for the estimate if this is larger.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.linalg.lapack import dpotri

from hklflow.base.errors import HklflowError
from hklflow.transform import scale_kernels as kernels
from hklflow.transform import single_frames
from hklflow.transform.repeats import Records
from hklflow.transform.scale_cells import Lattice
from hklflow.transform.scale_kernels import MORE_RUNS, RUNS, Fit, Table
from hklflow.transform.scale_prior import Normal, Prior, Widths
from hklflow.transform.scale_splines import Places, Splines

__all__ = ["Places", "Scale", "Splines", "refine"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NEWTON = 25
_AT_REST = 0.03  # change of the parameters in all, in units of their errors
_SLOW = 30  # times the work of a product in a matrix, if zeros are left out
_ROWS = 1000  # orbits that are summed together
# Repeated measurements for each parameter from which second derivatives are found: for steps, for
# the widths, and for the errors; orbits for each parameter.
_STEP, _LEARN_REPEATS, _REPEATS, _ORBITS = 20, 40, 60, 3
_TAU = 0.1  # assumed until it is known
_LEARN, _LEARN_COUNTS = 400_000, 2e6  # records, and their counts, from which widths are found
_GROUPS = 8  # of orbits that are alike in S(Q)
_WEAK, _ROUNDING = 0.01, 1e-5  # of the prior and the information, for the share of a background
# Errors from 0 of a share that is used, and the largest, in widths; above, one step is too rough.
_CLEAR, _WITHIN = 4.0, 1.5
_LARGEST = 0.5  # share that is believed
_ENOUGH, _OWN = 10, 0.2  # counts of an orbit, and the crystal's share of them, for its S


@dataclass(frozen=True)
class Scale:
    """Scale that the repeated measurements determine.

    Attributes
    ----------
    splines : Splines
    parameters : (p,) array
    covariance : (c, c) array
        Of the parameters of the curves and g, without the background that nobody knows.
    overlooked : (p,) array
        Error of the parameters by this background.
    unknown : float
        Share of the counts for which ``overlooked`` holds.
    excess : float
        Ratio by which groups of S(Q) scatter more than orbits do, R; at least 1.
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
    allowed : bool
        True if s was fitted with this share.
    """

    splines: Splines
    parameters: Floats
    covariance: Floats
    overlooked: Floats
    unknown: float
    excess: float
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
    allowed: bool

    def of_frames(self, rotation: int) -> tuple[Floats, Floats]:
        """Return s of the frames of a rotation (n,), and its relative covariance (n, n).

        The mean of ln s over the first rotation is 0. The dependence on direction is apart, and so
        is what a background does that nobody knows, see `off_by`.
        """
        basis = self._basis(rotation)
        own, variance = self.single[rotation]
        log = basis @ self.parameters + own - self.single[0][0].mean()
        basis = basis[:, : len(self.covariance)]
        return np.exp(log), basis @ self.covariance @ basis.T + np.diag(variance)

    def off_by(self, rotation: int) -> Floats:
        """Return the change of ln s of the frames (n,) by a background of the share `unknown`."""
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
    if through is not None:
        splines = splines.with_start(through)
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
        assert few.fisher is not None
        work.fisher = few.fisher * (work.counts.sum() / few.counts.sum())
    return work.run(a, _of_beam(records, splines, through), unknown, every)


def _of_beam(records: Records, splines: Splines, through: list[Floats] | None) -> Floats:
    """Return the norm of the records without the crystal's part of it."""
    norm = records.norm.astype(np.float64)
    for number, factor in enumerate(through or []):
        own = records.rotation == number
        frame = np.minimum(records.frame[own].astype(np.int64), splines.frames[number] - 1)
        norm[own] /= np.where(factor > 0, factor, 1.0)[frame]
    return norm


class Second(NamedTuple):
    """Fisher matrix, scatter of the gradients (empty: not asked for), and its diagonal."""

    fisher: Floats
    scatter: Floats
    squares: Floats


class _Work:
    """State of the fit."""

    def __init__(self, records: Records, splines: Splines) -> None:
        self.splines, self.n = splines, splines.size
        self.records, self.lattice = records, Lattice(splines)
        self.positions = self.lattice.positions(records)
        self.table = Table(records.rotation, records.counts, records.norm, records.background)
        self.starts = np.flatnonzero(np.diff(records.voxel, prepend=-1, append=-1))
        self.counts = np.add.reduceat(records.counts.astype(np.float64), self.starts[:-1])
        self.numbers = np.diff(self.starts)
        self.fisher: Floats | None = None  # for the weights at present
        self.off, self.info = np.empty((2, len(records)))
        self.set_tau(_TAU)
        self.prior = Prior(splines)
        self.widths = Widths()

    def expect(self, a: Floats) -> tuple[Floats, Floats]:
        """Compute the derivatives by the records' ln s; return χ² of the orbits and the gradient.

        The gradient is that of the likelihood.
        """
        chi2, sums = np.empty(len(self.counts)), np.zeros(self.lattice.size)
        data = self.positions, self.table, self.starts, self.fit
        kernels.expect(self.lattice.scale(a), *data, chi2, sums)
        return chi2, self.lattice.gathered(sums)

    def second(self, chosen: Ints, scatter: bool) -> Second:
        """Return the second derivatives by the chosen orbits, with the scatter if asked for."""
        share = len(chosen) / len(self.numbers)
        tables = self.lattice.near(), self.positions, self.table, self.starts
        sums, squares = np.zeros(self.lattice.size), np.zeros(self.n)
        means, of_own = np.zeros((self.n,) * 2), np.zeros((self.n if scatter else 0,) * 2)
        runs = RUNS if self.splines.outgoing is None else MORE_RUNS
        few = _few(self.numbers[chosen], self.n, runs)
        kernels.products(*tables, chosen[few], self.fit, sums, means, of_own, squares)
        means += means.T.copy()
        of_own += of_own.T.copy()
        many = chosen[~few]
        for begin in range(0, len(many), _ROWS):
            part = many[begin : begin + _ROWS]
            # Single precision is far better than the noise of a choice of orbits.
            mean, own = np.zeros((2, len(part), self.n), np.float32)
            kernels.rows(*tables, part, self.fit, sums, mean, own)
            means += mean.T @ mean
            squares += np.einsum("ij,ij->j", own, own)
            if scatter:
                of_own += own.T @ own
        fisher = self.lattice.squares(sums)
        fisher -= means
        return Second(fisher / share, of_own / share, squares / share)

    def learn(self) -> Floats:
        """Find τ and the widths of the prior; return the parameters."""
        a, few = np.zeros(self.n), _some(self.numbers, self.n, _STEP)
        self.expect(a)
        self.fisher = self.second(few, scatter=False).fisher
        a, chi2, _ = self.newton(a)
        self.set_tau(_tau(self.counts, self.numbers, chi2))
        _, gradient = self.expect(a)
        second = self.second(_some(self.numbers, self.n, _LEARN_REPEATS), scatter=False)
        ratio = second.squares / np.maximum(np.diag(second.fisher), 1e-12)
        over = max(1.0, float(np.median(ratio)))
        self.fisher = second.fisher
        for cycle in range(2):
            if cycle > 0:
                a, _, _ = self.newton(a)
                _, gradient = self.expect(a)
            normal = Normal(self.fisher / over, (self.fisher @ a + gradient) / over)
            self.widths = self.prior.learn(normal, self.widths)
        return a

    def set_tau(self, tau: float) -> None:
        """Give less weight to orbits with many counts."""
        self.tau = tau
        self.weight = 1 / (1 + tau**2 * self.counts / self.numbers)
        self.fit = Fit(self.off, self.info, self.weight)

    def run(self, a: Floats, of_beam: Floats, unknown: float, every: int) -> Scale:
        """Determine the scale from an approximation; see `refine`."""
        free = int(np.sum(self.numbers - 1))
        before = float(self.expect(np.zeros(self.n))[0].sum())
        a, chi2, at_rest = self.newton(a)
        chosen = _some(self.numbers, self.n, _REPEATS)
        second, prior = self.second(chosen, scatter=True), self.prior.matrix(self.widths)
        if not at_rest:
            # A part of the scale that few orbits tell may have had too small steps.
            self.fisher = second.fisher
            a, chi2, at_rest = self.newton(a)
            second = self.second(chosen, scatter=True)
        inverse = _inverse(cho_factor(second.fisher + prior, lower=True)[0])
        steady, with_s = self.background(of_beam, second.fisher, a, chosen)
        change = inverse @ with_s
        allowed = _CLEAR * steady[1] < steady[0] <= _WITHIN * unknown  # False for nan
        if allowed:
            below = self.table.background + steady[0] * self._of_all(of_beam)
            self.table = self.table._replace(background=below.astype(np.float32))
            a, chi2, at_rest = self.newton(a)
        noise, single = self.single(every)
        of_curves = inverse[:, : self.splines.n_course]
        excess = self.excess(of_curves, second.scatter)
        if abs(steady[0]) > 2 * steady[1]:
            unknown = max(unknown, min(abs(steady[0]), _LARGEST))
        return Scale(
            self.splines,
            a,
            of_curves.T @ (excess**2 * second.scatter + prior) @ of_curves,
            unknown * change,
            unknown,
            excess,
            self.widths,
            noise,
            single,
            self.tau,
            before / free,
            float(chi2.sum()) / free,
            free,
            float(np.sum(inverse * second.fisher)),
            at_rest,
            steady,
            allowed,
        )

    def _of_all(self, norm: Floats) -> Floats:
        """Return a background as the norm, with the sum of all counts."""
        return norm * (self.counts.sum() / norm.sum())

    def background(
        self, norm: Floats, fisher: Floats, a: Floats, chosen: Ints
    ) -> tuple[tuple[float, float], Floats]:
        """Return the share of the counts that does not follow s with its error.

        The background ``share * norm``, for a norm with the sum of all counts, is one more
        parameter; s and the S of the orbits change with it. The prior pulls s from the maximum of
        the likelihood, which looks like a share of several of its errors: the step is therefore
        one to the maximum with a weak prior, of all parameters together. The second result is the
        information (p,) that the parameters and the share have in common.
        """
        norm = self._of_all(norm)
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
        some[chosen] = self.weight[chosen] * (len(self.weight) / len(chosen))
        of_chosen, of_all = (np.repeat(w, self.numbers) for w in (some, self.weight))
        sums = np.zeros(self.lattice.size)
        kernels.scattered(self.positions, of_chosen * apart, sums)
        with_s = self.lattice.gathered(sums)
        prior = self.prior.matrix(self.widths)
        weak = _WEAK * prior + np.diag(_ROUNDING * np.diag(fisher))
        change = cho_solve(cho_factor(fisher + weak, lower=True), with_s)
        known = float(np.sum(of_chosen * apart * x) - with_s @ change)
        if known <= 0:
            return (np.nan, np.nan), with_s
        # At rest the gradient of the likelihood is the pull of the prior.
        pull = (prior - weak) @ a
        share = float(np.sum(of_all * self.off * x) - change @ pull) / known
        return (share, 1 / float(np.sqrt(known))), with_s

    def excess(self, of_curves: Floats, scatter: Floats) -> float:
        """Return by how much groups of S(Q) scatter more than orbits, as errors of the course.

        Parameters
        ----------
        of_curves : (p, c) array
            Columns of the inverse of the information for the parameters of the curves and g.
        scatter : (p, p) array
            Scatter of the orbits' gradients.
        """
        begin = self.starts[:-1]
        information = self.weight * np.add.reduceat(self.info, begin)
        order = np.argsort(self.counts / np.add.reduceat(self.table.norm, begin), kind="stable")
        part = np.cumsum(information[order])
        group = np.empty(len(order), np.int64)
        group[order] = np.minimum((part / part[-1] * _GROUPS).astype(np.int64), _GROUPS - 1)
        of_record, off = (
            np.repeat(group, self.numbers),
            np.repeat(self.weight, self.numbers) * self.off,
        )
        gradients = []
        for number in range(_GROUPS):
            sums = np.zeros(self.lattice.size)
            kernels.scattered(self.positions, np.where(of_record == number, off, 0.0), sums)
            gradients.append(self.lattice.gathered(sums))
        # The sum is the pull of the prior, in which each group has its share.
        share = np.bincount(group, information, _GROUPS) / part[-1]
        apart = np.array(gradients) - share[:, None] * np.sum(gradients, axis=0)
        covariance = of_curves.T @ scatter @ of_curves
        of_groups, of_orbits = 0.0, 0.0
        for number, frames in enumerate(self.splines.frames):
            basis = self.splines.of_curve(number, np.arange(frames) + 0.5)[:, : of_curves.shape[1]]
            basis -= basis.mean(axis=0)
            of_groups += float(np.sum((apart @ of_curves @ basis.T) ** 2))
            of_orbits += float(np.einsum("ij,jk,ik->", basis, covariance, basis, optimize=True))
        ratio = of_groups / max(of_orbits, 1e-30) * _GROUPS / (_GROUPS - 1)
        return float(np.sqrt(max(ratio, 1.0)))

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

        The second derivatives are those of a place before it.
        """
        assert self.fisher is not None
        prior = self.prior.matrix(self.widths)
        factor = cho_factor(self.fisher + prior)
        chi2, gradient = self.expect(a)
        for _ in range(_NEWTON):
            gradient -= prior @ a
            change = cho_solve(factor, gradient)
            size = float(np.max(np.abs(change), initial=0.0))
            a = a + change * min(1.0, 0.5 / max(size, 1e-12))
            left = gradient @ change
            chi2, gradient = self.expect(a)
            if left < _AT_REST**2:
                return a, chi2, True
        return a, chi2, False


def _inverse(lower: Floats) -> Floats:
    """Return the inverse of a matrix by the lower factor of Cholesky."""
    inverse, info = dpotri(lower, lower=1)
    if info:
        raise LinAlgError("the matrix is singular")
    return np.asarray(np.tril(inverse) + np.tril(inverse, -1).T)


def _few(numbers: Ints, size: int, runs: int) -> NDArray[np.bool_]:
    """Return True for orbits with so few records that it is faster to leave out zeros."""
    return np.asarray(_SLOW * (4.0 * runs * numbers) ** 2 < 2.0 * size**2)


def _some(numbers: Ints, size: int, repeats: int) -> Ints:
    """Return random orbits with so many repeated measurements for each parameter.

    There are also several orbits for each parameter, for the scatter of their gradients.
    """
    order = np.random.default_rng(0).permutation(len(numbers))
    enough = int(np.searchsorted(np.cumsum(numbers[order] - 1), repeats * size)) + 1
    return np.sort(order[: max(enough, _ORBITS * size)])


def _tau(counts: Floats, numbers: Ints, chi2: Floats) -> float:
    """Return the relative deviation of S(Q) within an orbit from the growth of χ²."""
    level, free = counts / numbers, numbers - 1
    part = np.digitize(level, np.quantile(level, np.linspace(0, 1, 9)[1:-1]))
    free_of = np.maximum(np.bincount(part, free), 1e-9)
    excess = np.bincount(part, chi2) / free_of - 1
    level_of = np.bincount(part, level * free) / free_of
    slope = np.sum(excess * level_of * free_of) / np.sum(level_of**2 * free_of)
    return float(np.sqrt(max(slope, 0.0)))
