"""Test of the ΔPDF at vectors r for a change with temperature, beyond factors and errors in common.

Scan i has the values y_i (n,) of the lattice vectors, with the covariance C_i of noise and fill:

    y_i = c_i f + o_i u + a_i g + errors

f is the ΔPDF without a change. The factor c_i is common to all vectors: an error of the scale, or a
Debye-Waller factor. The offset o_i is an error of the fill, common to all holes: u is the strongest
mode of the mean covariance, and its excess over the next mode is the variance of o_i, which is
enlarged because the fill knows it badly. g is the ripple of the peak at the origin: a_i is what
background, Compton scattering or displacements change of the self part. c_i, o_i and a_i are fitted
by generalised least squares to the vectors that do not change, f to all scans in turn. Vectors that
change are taken out of the fit one after the other, the most significant first.

A vector is tested for constancy (χ² with one degree of freedom less than scans) and for a straight
line in T (χ² with one degree of freedom); the smaller probability counts, twice. The rule of
Benjamini and Hochberg (J. R. Stat. Soc. B 57, 289, 1995) limits the share of false discoveries.

The factors may be free, or those of the reflections (scale and Debye-Waller factor). If one strong
vector changes and others do not, or the other way round, is decided by which explanation is the
cheaper: each vector that changes, and free factors together, have the price of their parameters and
of the choice among vectors. If more than half of the vectors change, nothing is fitted: vectors
are compared with the factors of the reflections.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_FREE = 0.7  # standard deviation of ln c of free factors
_LEAST = 0.05  # smallest factor
_DOUBT = 9.0  # factor of the variance of the common offset
_SELF = 1.0  # standard deviation of the change of the self part, relative
_FEWEST = 10  # vectors that determine factors and offsets
_ROUNDS = 60
_STEPS = 25
_STILL = 1e-6  # relative change of the factors at which the fit has converged


@dataclass(frozen=True)
class Values:
    """ΔPDF of T scans, divided by their scales.

    Attributes
    ----------
    temperature : (T,) array
        K.
    lattice : (T, n) array
        At lattice vectors, S per Å³.
    covariance : (T, n, n) array
        Of each scan, without the error of the scale.
    others : (T, m) array
        At vectors that are far from lattice vectors; m may be 0.
    others_sigma : (T, m) array
    ripple : (n + m,) array
        Image of the peak at the origin at the lattice vectors and the others.
    tested : (n,) bool array
        Lattice vectors that are tested; the others only help to find what is common.
    log_factor, log_sigma : (T,) arrays
        ln c as the reflections give it, and its standard deviation.
    """

    temperature: Floats
    lattice: Floats
    covariance: Floats
    others: Floats
    others_sigma: Floats
    ripple: Floats
    tested: Bools
    log_factor: Floats
    log_sigma: Floats


@dataclass(frozen=True)
class Changes:
    """Result of the test; vectors are the lattice vectors, then the others.

    Attributes
    ----------
    factor, factor_sigma : (T,) arrays
        Common factor c of each scan.
    departure, sigma : (T, n + m) arrays
        ΔPDF without what is common, and its standard deviation for comparisons of scans: an error
        that is the same in all scans is not contained.
    chi2 : (n + m,) array
        Of constancy, after division by ``excess``.
    p : (n + m,) array
        Probability without a change.
    changed : (n + m,) bool array
        Claimed vectors.
    limit : float
        Largest p that is claimed; 0 without a claim.
    excess : float
        Factor by which χ² of vectors that do not change exceeds the stated errors; at least 1.
        ``sigma`` contains it.
    free : bool
        True if the factors were fitted without those of the reflections.
    fitted : bool
        False if factors and offsets were not fitted, because most vectors change or there are few.
    """

    factor: Floats
    factor_sigma: Floats
    departure: Floats
    sigma: Floats
    chi2: Floats
    p: Floats
    changed: Bools
    limit: float
    excess: float
    free: bool
    fitted: bool


def changes(values: Values, rate: float) -> Changes:
    """Return the vectors that change, with a share ``rate`` of false discoveries."""
    fits = [_Fit(values, free) for free in (False, True)]
    bound, free = (fit.claims(rate) for fit in fits)
    # Free factors that no vectors determine explain everything.
    if free.fitted and fits[1].score(free) < fits[0].score(bound):
        return free
    return bound


def claimed(p: Floats, rate: float) -> float:
    """Return the largest p that the rule of Benjamini and Hochberg claims; 0 if it claims none."""
    order = np.sort(p)
    below = np.flatnonzero(order <= rate * np.arange(1, len(p) + 1) / max(len(p), 1))
    return float(order[below[-1]]) if len(below) else 0.0


class _Fit:
    """Common factors and offsets of the scans, fitted to vectors that do not change."""

    def __init__(self, values: Values, free: bool) -> None:
        self._values, self._free = values, free
        sigma = np.hypot(values.log_sigma, _FREE) if free else values.log_sigma
        # The gauge: c of the scan whose factor is known best.
        sigma = np.where(values.log_sigma == values.log_sigma.min(), values.log_sigma, sigma)
        self._prior = np.exp(values.log_factor)
        n_t, n = values.lattice.shape
        mode, variance = _mode(values.covariance) if n else (np.zeros(0), np.zeros(n_t))
        # Modes (n + m, 2): offset and ripple. Other vectors have no error of the fill.
        offset = np.concatenate([mode, np.zeros(values.others.shape[1])])
        self._modes = np.stack([offset, values.ripple], axis=1)
        self._precision = np.zeros((n_t, 3, 3))
        self._precision[:, 0, 0] = 1 / np.maximum(self._prior * sigma, 1e-6) ** 2
        # Amplitudes of modes whose variance is 0 are 0.
        self._precision[:, 1, 1] = 1 / np.maximum(_DOUBT * variance, 1e-300)
        self._precision[:, 2, 2] = 1 / _SELF**2
        # What the offset explains is no error of a vector.
        self._own = values.covariance - variance[:, None, None] * np.outer(mode, mode)

    def claims(self, rate: float) -> Changes:
        """Return the vectors that change."""
        n = self._values.lattice.shape[1]
        out = np.zeros(n, np.bool_)
        growing = True
        for _ in range(_ROUNDS):
            found = self._tested(~out, rate)
            if not found.fitted:
                break
            now = found.p[:n] <= found.limit
            new, gone = now & ~out, out & ~now
            if growing and new.any():
                # A strong vector that changes makes others look as if they did.
                most = max(1, int(new.sum()) // 4)
                out[np.flatnonzero(new)[np.argsort(-found.chi2[:n][new])[:most]]] = True
            elif gone.any():
                growing = False
                out &= now
            else:
                break
        return found

    def score(self, found: Changes) -> float:
        """Return χ² with the price of all parameters; the smaller, the better."""
        values = self._values
        n_t, still = len(values.lattice), ~found.changed
        # A vector that changes, and a free factor, have as many parameters as degrees of freedom.
        price = (n_t - 1) + 2 * np.log(max(len(still), 2))
        total = float(found.chi2[still].sum()) + float(found.changed.sum()) * price
        if self._free:
            return total + price
        away = (np.log(np.maximum(found.factor, 1e-6)) - values.log_factor) / values.log_sigma
        return total + float(np.sum(away**2))

    def _tested(self, still: Bools, rate: float) -> Changes:
        """Fit to the vectors that are ``still`` (n,), and test all."""
        values = self._values
        n_t, n = values.lattice.shape
        fitted = still.sum() >= max(_FEWEST, n / 2)
        if not fitted:
            still = np.zeros(n, np.bool_)
        beta, errors, gains, level = self._common(still)
        every = np.concatenate([values.lattice, values.others], axis=1)
        departure = (every - beta[:, 1:] @ self._modes.T) / beta[:, :1]
        design = np.concatenate([level[:, None], self._modes], axis=1)
        sigma = np.empty_like(every)
        for i in range(n_t):
            own = np.concatenate([np.diag(self._own[i]), values.others_sigma[i] ** 2])
            variance = own + np.einsum("np,pq,nq->n", design, errors[i], design)
            variance[:n] -= 2 * np.sum(design[:n].T * (gains[i] @ self._own[i][still]), axis=0)
            sigma[i] = np.sqrt(np.maximum(variance, 1e-6 * own)) / beta[i, 0]
        factor, wide = beta[:, 0], np.sqrt(errors[:, 0, 0])
        return self._judged(departure, sigma, (factor, wide), still, rate)

    def _judged(
        self,
        departure: Floats,
        sigma: Floats,
        factors: tuple[Floats, Floats],
        still: Bools,
        rate: float,
    ) -> Changes:
        values = self._values
        n_t = len(departure)
        of_all, of_line = _chi2(departure, sigma, values.temperature)
        excess = 1.0
        if still.any():
            middle = float(np.median(of_all[: len(still)][still]))
            excess = max(1.0, middle / float(chi2.median(n_t - 1)))
        p = chi2.sf(of_all / excess, n_t - 1)
        if n_t > 2:
            p = np.minimum(1.0, 2 * np.minimum(p, chi2.sf(of_line / excess, 1)))
        tested = np.concatenate([values.tested, np.ones(values.others.shape[1], np.bool_)])
        limit = claimed(p[tested], rate)
        return Changes(
            factor=factors[0],
            factor_sigma=factors[1],
            departure=departure,
            sigma=sigma * np.sqrt(excess),
            chi2=of_all / excess,
            p=p,
            changed=tested & (p <= limit),
            limit=limit,
            excess=excess,
            free=self._free,
            fitted=bool(still.any()),
        )

    def _common(self, still: Bools) -> tuple[Floats, Floats, list[Floats], Floats]:
        """Return c, o, a (T, 3), their covariance (T, 3, 3), their gains (3, n), and f (n + m,)."""
        values, n_t = self._values, len(self._values.lattice)
        beta = np.zeros((n_t, 3))
        beta[:, 0] = self._prior
        prior = beta.copy()
        errors: Floats = np.linalg.inv(self._precision).astype(np.float64)
        weights = [np.linalg.inv(own[np.ix_(still, still)]) for own in self._own]
        every = np.concatenate([values.lattice, values.others], axis=1)
        sigma = np.concatenate(
            [np.sqrt(np.einsum("tnn->tn", self._own)), values.others_sigma], axis=1
        )
        gains = [np.zeros((3, int(still.sum())))] * n_t
        for _ in range(_STEPS):
            before = beta[:, 0].copy()
            level = _mean((every - beta[:, 1:] @ self._modes.T) / beta[:, :1], sigma / beta[:, :1])
            if not still.any():
                break
            design = np.concatenate([level[:, None], self._modes], axis=1)[: len(still)][still]
            for i in range(n_t):
                weighted = design.T @ weights[i]
                errors[i] = np.linalg.inv(weighted @ design + self._precision[i])
                gains[i] = errors[i] @ weighted
                right = weighted @ values.lattice[i][still] + self._precision[i] @ prior[i]
                beta[i] = errors[i] @ right
            beta[:, 0] = np.maximum(beta[:, 0], _LEAST)
            if np.abs(beta[:, 0] / before - 1).max() < _STILL:
                break
        return beta, errors, gains, level


def _mode(covariance: Floats) -> tuple[Floats, Floats]:
    """Return the strongest mode u (n,) of the mean covariance, and the variances (T,) of o.

    The mode of a single scan may be another one. 1/(uᵀ C⁻¹ u) is the largest variance of o u that
    is a part of C; if u is an eigenvector of C, it is the eigenvalue.
    """
    strengths, modes = np.linalg.eigh(covariance.mean(axis=0))
    u: Floats = modes[:, -1]
    part = 1 / np.array([u @ np.linalg.solve(own, u) for own in covariance])
    share = 1 - strengths[-2] / strengths[-1] if len(strengths) > 1 else 0.0
    return u, share * part


def _mean(values: Floats, sigma: Floats) -> Floats:
    """Return the weighted mean (n,) over scans of values (T, n)."""
    weight = 1 / sigma**2
    mean: Floats = (weight * values).sum(axis=0) / weight.sum(axis=0)
    return mean


def _chi2(values: Floats, sigma: Floats, temperature: Floats) -> tuple[Floats, Floats]:
    """Return χ² (n,) of constancy, and the part of it that a straight line in T describes."""
    weight = 1 / sigma**2
    away = values - _mean(values, sigma)
    t = temperature[:, None] - _mean(np.broadcast_to(temperature[:, None], values.shape), sigma)
    slope = (weight * t * away).sum(axis=0)
    square = (weight * t * t).sum(axis=0)
    line = np.divide(slope**2, square, out=np.zeros_like(slope), where=square > 0)
    return (weight * away**2).sum(axis=0), line
