"""Diffuse maxima inside of the holes at reflections, from their tails around the holes.

The models of `tail_models` have the same shape at all reflections, so that it is known well from
the voxels around many holes; A_G, B_G and C_G belong to one reflection and its equivalents. Nothing
is known inside of the holes: models that fit equally well are averaged, and what they differ by in
the holes is part of the error.

A_G is nearer to its expected value α G² exp(−β G²) than measured, the more the less it is known.
Maxima that do not grow with G² do not come from displacements, and are left to the spectrum.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from hklflow.geometry import lattice
from hklflow.volumes import tail_kernels
from hklflow.volumes.fill import MEASURED, PUNCHED, Target
from hklflow.volumes.spectrum import SpectrumFill
from hklflow.volumes.tail_data import Ring, around, inside, nearest, orbits, rings, strongest
from hklflow.volumes.tail_fit import Fit, Problem
from hklflow.volumes.tail_growth import Growth, expected
from hklflow.volumes.tail_limits import Limits, limits
from hklflow.volumes.tail_models import KINDS, Family, Kind, Voxels, products
from hklflow.volumes.tapers import Taper

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Longest lattice vectors R times the radius, and whether other scattering has deep minima at the
# reflections; all but the first are tried if the first does not describe the tails. Between one and
# two radii, cos(R·q) changes its sign up to twice; longer correlations end inside of a hole.
_OTHERS = ((2.4, False), (2.4, True), (4.2, True))
_REACH = 2.0  # outer end of the fitted voxels, in radii of a hole
_FADE = 1.5  # end of the model, in outer ends: it goes to 0 beyond the fitted voxels
# Least outer end, in radii of a hole: with 1.2 to 1.4, maxima in holes were up to a million times
# too large in simulations, with 1.6 not.
_NARROWEST = 1.5
_INNER = 0.5  # taper within which the rim is compared
_RIM = 0.3  # width of the rim, in radii of a hole
_MOST = 120  # reflections that determine the shape
_FEWEST = 2  # reflections without which the shape is not known
# χ² per degree of freedom of a model that does not describe the tails. With very many counts no
# model does: it must then explain most of what a model without maxima does not, and its errors grow
# by the root of χ². If it explains less than some of it, the tails are something else.
_BAD, _MOSTLY, _SOME = 2.0, 0.75, 0.4
_UNLIKELY = 0.03  # probability of maxima below which none are modelled
# Kinds that are unlike each other: if S has minima by all of them, no other has maxima. And the
# change of χ², in its standard deviations by noise, that is no noise.
_UNLIKE, _CERTAIN = (KINDS[0], KINDS[5], KINDS[7]), 5.0
_CLEAR = 3.0  # size of maxima, in its σ, that all parameters are fitted for
_SAMPLES = 12  # drawn models of elastic waves, and of others
_IGNORED = 0.003  # weight of all models but elastic waves below which none of them are drawn
_UNLIKELIEST = 600.0  # difference of χ² beyond which a weight is as good as 0
_ELASTIC = 0.1  # least weight of elastic waves before the rim is asked
_SMALL = 0.1  # variance of a mode of their scatter that is left out, in that of the noise
# Part of their scatter that is left out: σ of lattice vectors changes by less than 1 %.
_LEFT_OUT = 0.01
_AT_A_TIME = 1_000_000  # numbers that are computed at a time
_TRIES = 4  # lengths of a step that are tried
# Difference of χ², relative to it, that does not choose between models: the other diffuse
# scattering is not exactly b.
_ALIKE = 0.0005
_KEPT = 2e8  # bytes of M that are kept: most reflections lie alike in their voxels
_NEAR = 2.0  # voxels from a reflection within which M is no parabola within a voxel


class Share(NamedTuple):
    """Share of models of a class, its error, and the ln of their evidence, compared with none."""

    mean: float
    error: float
    evidence: float = 0.0


class Tails:
    """Model of the diffuse maxima at the reflections of a volume.

    Parameters
    ----------
    target : Target
        S and σ, not filled.
    positions : (n, 3) array
        hkl of the reflections.
    radius : float
        Radius of the holes, 1/Å.
    q_max : float
        1/Å.
    narrowest : float, optional
        Least outer end of the fitted voxels, in radii of a hole.

    Attributes
    ----------
    narrow : bool
        True if reflections are too close to each other for a model.
    found : bool
        True if the voxels around the holes may need maxima inside of them.
    likely : float
        Probability that they do.
    undecided : bool
        True if the data neither show nor exclude maxima: σ contains what there may be.
    rises : bool
        True if a model with maxima fits much better than one without, even if not well.
    chi2 : float
        χ² per degree of freedom of the model.
    share : float
        Mean part of the model that is used.
    shares : dict
        Weight of each kind of model, if there are maxima.
    classes : tuple of bool
        Of the drawn models: elastic waves (True), always, and others (False).
    """

    def __init__(
        self,
        target: Target,
        positions: Floats,
        radius: float,
        q_max: float,
        narrowest: float = _NARROWEST,
    ) -> None:
        self._target, self._radius, self._q_max = target, radius, q_max
        self._taper = Taper("tukey", q_max, 0.5)
        self._b = lattice.b_matrix(target.cell)
        rotations = np.array([self._b @ w @ np.linalg.inv(self._b) for w in target.operations])
        apart = nearest(positions, self._b)
        self._outer = min(_REACH * radius, 0.5 * apart)
        self._end = min(_FADE * self._outer, apart - radius)
        edges = self._b * target.grid.step
        families = [
            Family.of(rotations, self._b, longest / radius, radius, edges, dips)
            for longest, dips in _OTHERS
        ]
        self._family = families[0]
        length = np.linalg.norm(positions @ self._b.T, axis=1)
        edge = np.linalg.norm(edges, axis=0).max()
        self._rim = radius + max(_RIM * radius, 0.5 * float(edge))
        self._positions = positions[(length > 0.5 * apart) & (length < q_max)]
        self._orbit, first = orbits(self._positions, target.operations)
        self._centres = self._positions[first]
        self._squares = np.sum((self._centres @ self._b.T) ** 2, axis=1)
        self._random = np.random.default_rng(0)
        self.found, self.rises, self.chi2 = False, False, float("nan")
        self.undecided = False
        self.likely, self.share, self.shares = 0.0, 1.0, dict[Kind, float]()
        self._samples: list[tuple[Kind, Floats, Floats]] = []
        self._known: dict[bytes, Floats] = {}
        self._mean, self.classes = np.zeros(0), tuple[bool, ...]()
        self._holes, self._lost = np.zeros(0, np.int64), np.zeros((0, 0))
        self.narrow = self._outer < narrowest * radius
        if self.narrow:
            return
        everywhere = around(target, self._centres, radius, self._outer)
        data = strongest(everywhere, _MOST)
        if sum(len(item.ring.members) for item in data) < _FEWEST:
            return
        tried: list[tuple[Fit, Problem, Family]] = []
        for family in families:
            some = Problem(family, data, len(self._centres))
            tried.append((some.fitted(KINDS[0]), some, family))
            if _described(tried[0][0], some):
                break
        fit, some, self._family = min(tried, key=lambda item: item[0].cost)
        whole = Problem(self._family, everywhere, len(self._centres))
        found = self._fits(fit, some, whole)
        if isinstance(found, Limits):
            self._draw_within(found)
        elif found is not None:
            self._draw(*found, some, whole)

    def summary(self) -> dict[str, Any]:
        """Return what was found, for the metrics of the fill."""
        if not self.found:
            return {"found": False, "chi-squared per degree of freedom": self.chi2}
        kinds = np.array([values[:2] for _, values, _ in self._samples])
        kappa, end = np.exp([_median(column, self._mean) for column in kinds.T])
        return {
            "found": True,
            "chi-squared per degree of freedom": self.chi2,
            "probability": self.likely,
            "undecided": self.undecided,
            "share of the model": self.share,
            "powers": {
                f"{p:g}": sum(share for kind, share in self.shares.items() if kind.power == p)
                for p in sorted({kind.power for kind in self.shares})
            },
            "kappa in 1/Å": float(kappa),
            "cutoff in 1/Å": float(end),
        }

    def subtract(self) -> None:
        """Subtract the model from S."""
        if self.found:
            self._add(-self._mean)

    def add(self) -> None:
        """Add the model to S."""
        if self.found:
            self._add(self._mean)

    def settle(self, again: SpectrumFill | None) -> None:
        """Find how wrong S in the holes is if the model is.

        What a wrong model adds inside of a hole, the fill of the rest takes off again, as far as
        it sees it around the hole.

        Parameters
        ----------
        again : SpectrumFill or None
            Fill of S without the model; None if it was filled by kriging.
        """
        if not self.found:
            return
        target = self._target
        self._holes = np.flatnonzero(target.code == PUNCHED) if again is None else again.holes
        flat = target.data.reshape(-1)
        before = flat[self._holes].astype(np.float64)
        lost, added = [], np.zeros(len(self._samples))
        for mode in self._modes():
            self._add(mode - added)
            added = mode
            change = flat[self._holes] - before
            lost.append(change if again is None else change - again.change())
        self._add(-added)
        self._lost = np.array(lost).reshape(-1, len(self._holes))

    def restore(self) -> None:
        """Add the model to S, and its error to that of the filled voxels."""
        if self.found:
            self.add()
            errors = self._target.errors.reshape(-1)
            total = errors[self._holes] ** 2 + np.sum(self._lost**2, axis=0)
            errors[self._holes] = np.sqrt(total)

    # -------------------------------------------------------------------------- rim

    def beyond_rim(self) -> "Tails":
        """Return a model from the voxels beyond the rim of the holes."""
        # It need not reach farther into the holes than the rim.
        return Tails(self._target, self._positions, self._rim, self._q_max, narrowest=0)

    def rim(self) -> tuple[Indices, Indices]:
        """Return the measured voxels (n, 3), (l, k, h), in the rim of the holes.

        Also the number (n,) of the set of equivalent reflections that each belongs to.
        """
        target = self._target
        found, numbers = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
        for ring in rings(target, self._positions, self._radius * (1 + 1e-9), self._rim):
            for number, corner in zip(ring.members, ring.corners, strict=True):
                places, own = inside(target, ring, corner)
                q = self._positions[number] @ self._b.T + ring.q[own]
                # Near q_max, where the taper is small, the spectrum knows little.
                kept = self._taper(np.linalg.norm(q, axis=1)) > _INNER
                voxels = np.stack(places, axis=1)[kept & (target.code[places] == MEASURED)]
                found.append(voxels)
                numbers.append(np.full(len(voxels), self._orbit[number]))
        return np.concatenate(found), np.concatenate(numbers)

    def only(self, elastic: bool) -> None:
        """Let the model be the mean of the drawn elastic waves, or of the other drawn models."""
        self._give(self._are_elastic() == elastic)

    def weigh(self, elastic: Share, others: Share) -> None:
        """Give elastic waves and other models a share, which has an error, and their evidence.

        If the evidence for maxima is too small, there is no model.
        """
        from scipy.special import ndtri

        are = self._are_elastic()
        prior = {
            own: sum(x for kind, x in self.shares.items() if kind.elastic == own)
            for own in (True, False)
        }
        evidence = np.array([0.0, elastic.evidence, others.evidence])
        odds = np.exp(evidence - evidence.max())
        odds *= np.append(1 - self.likely, self.likely * np.array([prior[True], prior[False]]))
        odds /= odds.sum()
        self.likely = float(1 - odds[0])
        if self.likely < _UNLIKELY:
            self.found, self.rises = False, False
            return
        weights, scaled = np.zeros(len(are)), list(self._samples)
        for own, part, share in zip((True, False), odds[1:], (elastic, others), strict=True):
            at = np.flatnonzero(are == own)
            strata = ndtri((np.arange(len(at)) + 0.5) / max(len(at), 1))
            shares = np.maximum(share.mean + share.error * self._random.permutation(strata), 0.0)
            weights[at] = part
            for i, factor in zip(at, shares, strict=True):
                kind, values, amplitude = self._samples[i]
                scaled[i] = kind, values, amplitude * factor
            scale = float(part) / self.likely / max(prior[own], 1e-300)
            self.shares |= {k: x * scale for k, x in self.shares.items() if k.elastic == own}
        self._samples = scaled
        self.share = float(odds[1:] @ [elastic.mean, others.mean])
        self._give(weights)
        self._mean *= self.likely

    def _are_elastic(self) -> NDArray[np.bool_]:
        return np.array([kind.elastic for kind, _, _ in self._samples], dtype=bool)

    def _give(self, weights: NDArray[Any]) -> None:
        """Set the weights of classes of drawn models, the same for each model of a class.

        Their sum is 1, or less if there may be no maxima.
        """
        are = self._are_elastic()
        number = np.where(are, are.sum(), (~are).sum())
        self._mean = weights / number
        self._mean /= self._mean.sum()

    # -------------------------------------------------------------------------- fit

    def _fits(
        self, first: Fit, data: Problem, whole: Problem
    ) -> tuple[list[Fit], Growth] | Limits | None:
        """Return models, and the growth of their A_G; or limits if the data leave maxima open.

        None if there are no maxima.

        Parameters
        ----------
        first : Fit
            Of the first kind.
        """
        plain = data.fitted(None)
        fits = {KINDS[0]: first}
        for kind in _UNLIKE:
            fits[kind] = fits.get(kind) or data.fitted(kind, first)
            if not self._dips(plain, fits[kind], data, whole):
                break
        else:
            self.chi2 = _per_degree(first, data)
            return None
        maxima = [fits.get(kind) or data.fitted(kind, first) for kind in KINDS]
        # ln of the evidence for maxima that keep their size, or grow, against none. A_G of each
        # reflection reduces χ² by 1 even if there is no maximum; α, β and their spread are what is
        # new.
        needed = data.reflections + 3 * np.log(data.number)
        keep = np.array([(plain.cost - fit.cost) / _per_degree(fit, data) for fit in maxima])
        keep = 0.5 * (keep - needed)
        growths = [self._growth(fit, data, whole) for fit in maxima]
        sure = np.array([growth.sure if growth else -np.inf for growth in growths])
        grow = keep + sure
        self.likely = _odds(keep, grow)
        i = int(np.argmax(grow))
        best, growth = maxima[i], growths[i]
        self.chi2 = _per_degree(best, data)
        explained = (plain.chi2 - best.chi2) / max(plain.chi2 - data.number, 1.0)
        self.rises = self.likely > _UNLIKELY and explained > _SOME
        usable = growth is not None and self.rises
        usable = usable and (self.chi2 <= _BAD or explained >= _MOSTLY)
        limited = self._limits(plain, data)
        if limited is not None and not (usable and self.likely > _odds(limited.keep, limited.grow)):
            return limited
        return (maxima, growth) if growth is not None and usable else None

    def _limits(self, plain: Fit, data: Problem) -> Limits | None:
        """Return how large maxima may be; None if the data show or exclude them."""
        if not _described(plain, data):
            return None
        found = limits(plain, data, self._family, self._squares, _per_degree(plain, data))
        likely = _odds(found.keep, found.grow)
        # What is clear is clearer with all parameters.
        return found if found.pull < _CLEAR and likely > _UNLIKELY else None

    def _draw_within(self, found: Limits) -> None:
        """Draw models whose size the data do not determine."""
        self.likely, self.rises = _odds(found.keep, found.grow), False
        for (kind, _), share in zip(found.shapes, found.shares.tolist(), strict=True):
            self.shares[kind] = self.shares.get(kind, 0.0) + share
        self.classes = (True, False)
        for elastic in self.classes:
            self._samples += found.drawn(elastic, _SAMPLES, self._squares, self._random)
        waves = sum(share for kind, share in self.shares.items() if kind.elastic)
        self._give(np.where(self._are_elastic(), waves, 1 - waves))
        self.found = self.undecided = True

    def _dips(self, plain: Fit, fit: Fit, data: Problem, whole: Problem) -> bool:
        """Return True if S has minima at the reflections, and certainly not for noise."""
        amplitude, error = whole.amplitudes(fit, fit.values)
        known = np.isfinite(error)
        weighted = amplitude[known] / error[known] ** 2
        # A_G of each reflection reduces χ² by 1 even if S is flat.
        excess = (plain.chi2 - fit.chi2) / _per_degree(fit, data) - data.reflections
        return bool(
            max(weighted.sum(), weighted @ self._squares[known]) < 0
            and excess > _CERTAIN * np.sqrt(2 * data.reflections)
        )

    def _growth(self, fit: Fit, data: Problem, whole: Problem) -> Growth | None:
        """Return the growth of the A_G of a fit; None as in `expected`."""
        amplitude, error = whole.amplitudes(fit, fit.values)
        return expected(amplitude, error * np.sqrt(_per_degree(fit, data)), self._squares)

    def _draw(self, fits: list[Fit], growth: Growth, data: Problem, whole: Problem) -> None:
        """Draw models from what the data allow: the kind, the shape, and all A_G."""
        kinds = [fit.kind for fit in fits if fit.kind]
        scale = self.chi2 * (1 + _ALIKE * data.number)
        likely = [fit.chi2 / scale + kind.cost for fit, kind in zip(fits, kinds, strict=True)]
        shares = np.exp(-0.5 * np.minimum(np.array(likely) - min(likely), _UNLIKELIEST))
        shares /= shares.sum()
        are = np.array([kind.elastic for kind in kinds])
        # Elastic waves are in every crystal, and a fit of the tails does not exclude them: the rim
        # can.
        waves = float(shares[are].sum())
        if waves < _ELASTIC:
            shares *= np.where(are, _ELASTIC / waves, (1 - _ELASTIC) / (1 - waves))
        self.shares = dict(zip(kinds, shares.tolist(), strict=True))
        profile = self._squares * np.exp(-growth.decay * self._squares)
        parts = {elastic: float(shares[are == elastic].sum()) for elastic in (True, False)}
        self.classes = tuple(elastic for elastic, part in parts.items() if part > _IGNORED)
        for elastic in self.classes:
            own = np.flatnonzero(are == elastic)
            # Strata instead of random numbers: the shares are kept, whatever the number of samples.
            steps = np.cumsum(shares[own]) / parts[elastic]
            which = np.searchsorted(steps, (np.arange(_SAMPLES) + 0.5) / _SAMPLES)
            for i in own[np.minimum(which, len(own) - 1)]:
                values = self._shape(fits[i], kinds[i], scale, data)
                mean = self._amplitudes(fits[i], values, profile, growth, whole)
                self._samples.append((kinds[i], values, mean))
        self._give(np.array([parts[kind.elastic] for kind, _, _ in self._samples]))
        self.found = True

    def _amplitudes(
        self, fit: Fit, values: Floats, profile: Floats, growth: Growth, whole: Problem
    ) -> Floats:
        """Draw A_G of all sets of equivalents."""
        amplitude, error = whole.amplitudes(fit, values)
        error = error * np.sqrt(self.chi2)
        alpha = np.nansum(amplitude * profile / error**2) / np.nansum(profile**2 / error**2)
        mean, width = alpha * profile, growth.spread * abs(alpha) * profile
        known = np.where(np.isfinite(error), 1 / error**2, 0.0)
        variance = 1 / (known + 1 / width**2)
        mean = variance * (known * np.nan_to_num(amplitude) + mean / width**2)
        drawn: Floats = mean + np.sqrt(variance) * self._random.normal(size=len(mean))
        return drawn

    def _shape(self, fit: Fit, kind: Kind, scale: float, data: Problem) -> Floats:
        """Return parameters near a fit, as unlikely as Gaussian ones.

        χ² is not a parabola far from the fit: the length of a step is such that χ² grows by what it
        would grow in a parabola.
        """
        eigenvalues, vectors = np.linalg.eigh(fit.covariance * scale)
        step = self._random.normal(size=len(fit.values))
        shift = vectors @ (np.sqrt(np.maximum(eigenvalues, 0)) * step)
        wanted, length = scale * float(step @ step), 1.0
        for _ in range(_TRIES):
            drawn: Floats = np.clip(fit.values + length * shift, *self._family.bounds(kind))
            grown = data.chi2(kind, drawn) - fit.chi2
            length = float(np.clip(length * np.sqrt(wanted / max(grown, 0.1 * wanted)), 0.1, 1.5))
        return drawn

    def shifts(self, vectors: Floats) -> Floats:
        """Return how far the ΔPDF moves with the errors that `settle` found.

        Parameters
        ----------
        vectors : (n, 3) array
            Lattice vectors in unit cells, where cos(Q·r) is cos(q·r).

        Returns
        -------
        (m, n) array
            S per Å³, for the usual taper; the mean of their products is the covariance. No rows if
            no maxima were found.
        """
        target, number = self._target, len(self._lost)
        total = np.zeros((number, len(vectors)))
        if not number:
            return total
        r = vectors @ (2 * np.pi * np.linalg.inv(self._b))
        for ring in rings(target, self._positions, -1.0, self._radius * (1 + 1e-9)):
            lost = np.zeros((number, len(ring.q)))
            for member, corner in zip(ring.members, ring.corners, strict=True):
                places, own = inside(target, ring, corner)
                numbers = np.ravel_multi_index(places, target.data.shape)
                at = np.minimum(np.searchsorted(self._holes, numbers), len(self._holes) - 1)
                big = self._positions[member] @ self._b.T + ring.q[own]
                w = self._taper(np.linalg.norm(big, axis=1)) * (self._holes[at] == numbers)
                lost[:, own] += w * self._lost[:, at]
            total += lost @ np.cos(ring.q @ r.T)
        total *= abs(np.linalg.det(self._b)) * np.prod(target.grid.step) / (2 * np.pi) ** 3
        return total * np.sqrt(number)

    # -------------------------------------------------------------------------- model in a volume

    def _maxima(self, q: Floats) -> Floats:
        """Return M (m, n, 6) of the drawn models at q (n, 3), as means over voxels."""
        key = q.tobytes()
        if key in self._known:
            return self._known[key]
        family = self._family
        edge = np.linalg.norm(family.edges, axis=0).max()
        near = np.linalg.norm(q, axis=1) < _NEAR * edge
        voxels = Voxels.at(q[near], family.edges)
        maxima = np.empty((len(self._samples), len(q), 6))
        for own, (kind, values, _) in zip(maxima, self._samples, strict=True):
            own[:] = family.maximum(values, kind, q)
            own[near] = family.integrated(values, kind, voxels)
        if sum(x.nbytes for x in self._known.values()) + maxima.nbytes < _KEPT:
            self._known[key] = maxima
        return maxima

    def _modes(self) -> list[Floats]:
        """Return sums over the drawn models that have their scatter in the holes, but for noise."""
        # The last is none, with the weight that the models leave.
        weights = np.append(self._mean, max(1 - self._mean.sum(), 0.0))
        apart = np.sqrt(weights)[:, None] * (np.eye(len(weights))[:, :-1] - self._mean)
        scatter = np.zeros((len(weights), len(weights)))
        for ring in rings(self._target, self._positions, -1.0, self._radius * (1 + 1e-9)):
            for centres, _, sums in self._modelled(ring, apart):
                big = centres[:, None] + ring.q
                models = np.einsum("gmnp,gnp->mgn", sums, products(big))
                models *= self._taper(np.linalg.norm(big, axis=2))
                scatter += np.tensordot(models, models, ((1, 2), (1, 2)))
        values, vectors = np.linalg.eigh(scatter)
        # What all holes share adds up at a lattice vector, and noise of all voxels does not.
        code = self._target.code
        some = tuple(slice(None, None, n // 50 + 1) for n in code.shape)
        known = code[some] == MEASURED
        noise = np.nanmedian(self._target.errors[some][known]) ** 2
        least = _SMALL * noise * np.count_nonzero(known)
        least /= max(np.count_nonzero(code[some] == PUNCHED), 1)
        # Ascending: all but the last ones are too small, or together a small part of the whole.
        small = np.cumsum(np.maximum(values, 0)) < _LEFT_OUT * scatter.trace()
        kept = np.flatnonzero((values > least) & ~small)
        return [vectors[:, i] @ apart for i in kept]

    def _modelled(
        self, ring: Ring, weights: Floats
    ) -> Iterator[tuple[Floats, Indices, NDArray[np.float32]]]:
        """Return some reflections at a time, and weighted sums of the models around them.

        Parameters
        ----------
        ring : Ring
        weights : (m, models) array

        Returns
        -------
        (g, 3) array
            Reflections, 1/Å.
        (g, 3) int array
            Their voxels (l, k, h).
        (g, m, n, 6) array
            A_G M / G² around them.
        """
        share = (np.linalg.norm(ring.q, axis=1) - self._outer) / (self._end - self._outer)
        fade = np.cos(0.5 * np.pi * np.clip(share, 0, 1)) ** 2
        maxima = (self._maxima(ring.q) * fade[:, None]).astype(np.float32)
        amplitudes = np.array([sample[2] for sample in self._samples]) / self._squares
        shape = len(weights), *maxima.shape[1:]
        step = max(_AT_A_TIME // int(np.prod(shape)), 1)
        for start in range(0, len(ring.members), step):
            members = ring.members[start : start + step]
            factors = weights * amplitudes[:, self._orbit[members]].T[:, None]
            sums = factors.reshape(-1, len(maxima)).astype(np.float32) @ maxima.reshape(
                len(maxima), -1
            )
            centres = self._positions[members] @ self._b.T
            yield centres, ring.corners[start : start + step], sums.reshape(-1, *shape)

    def _add(self, weights: Floats) -> None:
        for ring in rings(self._target, self._positions, -1.0, self._end):
            for centres, corners, sums in self._modelled(ring, weights[None]):
                around = corners, ring.offsets, centres, ring.q, sums[:, 0]
                tail_kernels.add(self._target.data, *around)


def _odds(keep: Floats | float, grow: Floats | float) -> float:
    """Return the probability of maxima that grow, from ln of the evidence against none."""
    return float(np.exp(logsumexp(grow) - logsumexp(np.r_[0.0, keep, grow])))


def _described(fit: Fit, data: Problem) -> bool:
    """Return True if χ² of a fit may be noise."""
    return bool(fit.chi2 < data.number + _CERTAIN * np.sqrt(2 * data.number))


def _per_degree(fit: Fit, data: Problem) -> float:
    """Return χ² per degree of freedom, at least 1."""
    free = data.number - 5 * data.reflections - len(fit.values)
    return float(max(fit.chi2 / max(free, 1.0), 1.0))


def _median(values: Floats, weights: Floats) -> float:
    """Return the weighted median of values (n,)."""
    order = np.argsort(values)
    half = np.searchsorted(np.cumsum(weights[order]), 0.5 * weights.sum())
    return float(values[order][min(half, len(values) - 1)])
