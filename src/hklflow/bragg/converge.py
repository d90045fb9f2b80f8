"""Refinement loop: refine, integrate with the model, refine with the integrated reflections.

Each iteration is judged by found peaks that are never fitted. The result is the last model that no
other model beats. The starting model takes part, so the result is never worse than the start.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.bragg.centroids import (
    FATES,
    Acceptance,
    hold_out,
    joined,
    judge,
    same_reflection,
)
from hklflow.bragg.reflections import Reflections
from hklflow.bragg.residual_map import Spots, used
from hklflow.geometry import Rotation, lattice
from hklflow.geometry.symmetry import SpaceGroup
from hklflow.orientation.refinement import Refined, RefinementLimits, refine
from hklflow.orientation.residuals import Peaks, compare

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

_WORST = 5.0  # robust standard deviations: limit of a residual in the score
_BEATEN = 2.0  # standard errors by which a better score must differ

Integrate = Callable[[Sequence[Rotation], Floats], Sequence[Reflections]]
"""``integrate(rotations, ub)``: returns the reflections of each rotation; reads all frames."""


@dataclass(frozen=True)
class Rest:
    """Criteria for convergence, and limits of the loop.

    Attributes
    ----------
    cell : float
        Largest change of a length or angle of the cell, over its σ.
    orientation : float
        Largest change of an orientation, degrees.
    rmsd : float
        Largest relative change of the rms residuals.
    indexed : float
        Largest change of the indexed fraction of the found peaks.
    cycles : int
        Largest number of refinements.
    integrations : int
        Largest number of integrations.
    reintegrate : float
        Integrate again if the predictions have moved by more than this, in pixels or frames.
    """

    cell: float
    orientation: float
    rmsd: float
    indexed: float
    cycles: int
    integrations: int
    reintegrate: float


@dataclass(frozen=True)
class RefinedModel:
    """Cell, orientation and geometry of all rotations.

    Attributes
    ----------
    rotations : sequence of Rotation
    ub : (3, 3) array
        Orientation matrix, 1/Å.
    cell, cell_sigma : (6,) array
        Cell and its σ, Å and degrees.
    offsets : mapping
        Displacement (3,) of the crystal from the axis, m, for the rotations (by number) in which it
        was refined; see `orientation.residuals.compare`.
    """

    rotations: Sequence[Rotation]
    ub: Floats
    cell: Floats
    cell_sigma: Floats
    offsets: Mapping[int, Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, refined: Refined) -> "RefinedModel":
        """Return the model of a refinement."""
        return cls(refined.rotations, refined.ub, refined.cell, refined.cell_sigma, refined.offsets)


@dataclass(frozen=True)
class Seen:
    """Comparison of the peaks of all rotations with a model; n in the order of the rotations.

    Attributes
    ----------
    hkl : (n, 3) int array
    off : (n, 3) array
        Observed minus predicted (slow, fast, frame).
    indexed, sharp : (n,) bool array
        ``indexed``: h, k, l are near integers. ``sharp``: the reflection crosses the Ewald sphere
        quickly enough to be compared.
    """

    hkl: Integers
    off: Floats
    indexed: Mask
    sharp: Mask


def seen(model: RefinedModel, peaks: Sequence[Peaks], limits: RefinementLimits) -> Seen:
    """Compare peaks with a model, without refinement."""
    parts = []
    for i, (rotation, p) in enumerate(zip(model.rotations, peaks, strict=True)):
        miller = rotation.hkl(model.ub, p.frame, p.slow, p.fast)
        hkl = np.rint(miller)
        near = (np.abs(miller - hkl).max(axis=1) < limits.hkl) & np.any(hkl != 0, axis=1)
        off, zeta = compare(rotation, model.ub, hkl, p.position, model.offsets.get(i))
        sharp = near & np.isfinite(off).all(axis=1) & (zeta > limits.zeta)
        parts.append((hkl.astype(np.int64), off, near, sharp))
    return Seen(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Iteration:
    """One refinement of the loop; iteration 0 is the start, without a refinement.

    Attributes
    ----------
    number : int
        0 is the start.
    model : RefinedModel
    refined : Refined or None
        None for the start.
    spots : Spots or None
        Spots used, with residuals relative to this model; None for the start.
    integrations : int
        Number of integrations before this refinement, which uses the last one; 0: peaks only.
    change : dict
        Change from the previous iteration: ``cell`` (in σ), ``orientation`` (degrees), ``rmsd``
        (relative), ``indexed``. Empty for the start.
    rmsd : (3,) array
        Rms residuals of the peaks and centroids used; for the start, of the indexed peaks.
    rmsd_held_out : (3,) array
        Rms residuals of the held-out peaks that are indexed, without outliers.
    losses : (m,) array
        Contribution of each held-out peak to the squared score, see `Loop`.
    fraction_indexed : float
        Indexed fraction of all found peaks.
    peaks, reflections : dict
        Number of spots by outcome; empty ``reflections`` if none were integrated.
    seconds : float
        Duration of the refinement and the integration after it.
    """

    number: int
    model: RefinedModel
    refined: Refined | None
    spots: Spots | None
    integrations: int
    change: dict[str, float]
    rmsd: Floats
    rmsd_held_out: Floats
    losses: Floats
    fraction_indexed: float
    peaks: dict[str, int]
    reflections: dict[str, int]
    seconds: float

    @property
    def score(self) -> float:
        """Score of the model, see `Loop`."""
        return float(np.sqrt(np.mean(self.losses)))


@dataclass
class Outcome:
    """Result of the loop.

    Attributes
    ----------
    iterations : list of Iteration
        All iterations; the first is the start.
    best : int
        Index of the kept iteration, see `Loop`.
    converged : bool
    reason : str
        Reason why the loop ended.
    data : list of Peaks
        Spots of the best refinement; if the start is the best, the peaks that are not held out.
    tables : sequence of Reflections or None
        Reflections of the last integration.
    integrations : int
    """

    iterations: list[Iteration]
    best: int
    converged: bool
    reason: str
    data: list[Peaks]
    tables: Sequence[Reflections] | None
    integrations: int

    @property
    def kept(self) -> Iteration:
        """The best iteration."""
        return self.iterations[self.best]


@dataclass
class Loop:
    """Refinement loop of one scan.

    The score of a model is the root mean square of the residuals of the held-out peaks. The
    residuals are relative to the scatter under the first refined model, so the score is about 1.
    Residuals above 5 count as 5, and so does a peak without index. A model beats another if its
    squared score is smaller by two standard errors of the difference, computed peak by peak. The
    last model that no other model beats is kept.

    Attributes
    ----------
    peaks : sequence of Peaks
        Peaks found in each rotation.
    group : SpaceGroup
        Space group, with its constraints on the cell.
    free : sequence of str
        Groups of parameters to refine.
    integrate : callable or None
        `Integrate`; None: only the found peaks are used.
    limits : RefinementLimits
        Limits of the refinement.
    rest : Rest
    accept : Acceptance
    maxima : sequence of Peaks
        Peaks of each rotation that were rejected as maxima of the diffuse scattering; empty: none.
    """

    peaks: Sequence[Peaks]
    group: SpaceGroup
    free: Sequence[str]
    integrate: Integrate | None
    limits: RefinementLimits
    rest: Rest
    accept: Acceptance
    maxima: Sequence[Peaks] = ()

    def __post_init__(self) -> None:
        self.held = hold_out(self.peaks)
        self.fitted = [p.select(~h) for p, h in zip(self.peaks, self.held, strict=True)]
        self.judges = [p.select(h) for p, h in zip(self.peaks, self.held, strict=True)]
        # The peak search adds the same floor to all variances, for errors of the geometry. The
        # smallest variance is close to this floor.
        self.floor = np.min([p.sigma.min(axis=0, initial=np.inf) for p in self.peaks], axis=0) ** 2
        self.scatter: Floats | None = None

    @property
    def total(self) -> int:
        """Number of found peaks that can be used in the refinement."""
        return sum(len(p.frame) for p in self.peaks)

    def run(self, start: RefinedModel) -> Outcome:
        """Iterate from a starting model.

        Raises
        ------
        HklflowError
            If the first refinement fails, because the start is wrong.
        """
        iterations: list[Iteration] = []
        data: list[list[Peaks]] = [self.fitted]
        tables: Sequence[Reflections] | None = None
        model = integrated_with = start
        integrations, converged = 0, False
        reason = f"still moving after {self.rest.cycles} refinements"
        for number in range(1, self.rest.cycles + 1):
            clock = time.perf_counter()
            given, fates = self._union(model, tables)
            try:
                refined = refine(
                    model.rotations, given, model.ub, self.group, free=self.free,
                    limits=self.limits,
                )  # fmt: skip
            except HklflowError as error:
                if number == 1:
                    raise
                reason = f"refinement {number} failed: {error}"
                break
            if not iterations:
                self._set_scatter(RefinedModel.of(refined))
                iterations.append(self._start(start))
            before, model = model, RefinedModel.of(refined)
            moved = self._moved(model, integrated_with)
            stale = tables is None or moved > self.rest.reintegrate
            again = self.integrate is not None and integrations < self.rest.integrations and stale
            now = self._iteration(
                number, refined, model, given, fates, integrations, before, iterations[-1]
            )
            converged = number > 1 and not again and self._rests(now.change)
            if again and not converged and number < self.rest.cycles:
                assert self.integrate is not None
                tables, integrated_with = self.integrate(model.rotations, model.ub), model
                integrations += 1
            iterations.append(replace(now, seconds=time.perf_counter() - clock))
            data.append(given)
            if converged:
                reason = f"converged after {number} refinements and {integrations} integrations"
                break
        best = _unbeaten([item.losses for item in iterations])
        return Outcome(iterations, best, converged, reason, data[best], tables, integrations)

    def _union(
        self, model: RefinedModel, tables: Sequence[Reflections] | None
    ) -> tuple[list[Peaks], Integers | None]:
        """Return the peaks and accepted centroids to fit, and the `FATES` of all reflections."""
        if tables is None:
            return self.fitted, None
        given, fates = [], []
        for i, table in enumerate(tables):
            offset = model.offsets.get(i)
            own = {} if offset is None else {0: offset}
            one = RefinedModel([model.rotations[i]], model.ub, model.cell, model.cell_sigma, own)
            rows = []
            for peaks in (self.fitted[i], self.judges[i], *self.maxima[i : i + 1]):
                under = seen(one, [peaks], self.limits)
                at = same_reflection(under.hkl[under.indexed], peaks.position[under.indexed], table)
                rows.append(at[at >= 0])
            found, held, *maxima = rows
            fate = judge(
                table, model.rotations[i], model.ub, found, held, self.accept, offset, *maxima
            )
            use = fate == len(FATES) - 1
            given.append(joined(self.fitted[i], table, use, self.floor))
            fates.append(fate)
        return given, np.concatenate(fates)

    def _start(self, start: RefinedModel) -> Iteration:
        under = seen(start, self.fitted, self.limits)
        sigma = np.concatenate([p.sigma for p in self.fitted])[under.sharp]
        return Iteration(
            number=0,
            model=start,
            refined=None,
            spots=None,
            integrations=0,
            change={},
            rmsd=_rms(under.off[under.sharp][_near(under.off[under.sharp] / sigma)]),
            rmsd_held_out=self.rmsd_held_out(start),
            losses=self._losses(start),
            fraction_indexed=self._fraction(start),
            peaks={},
            reflections={},
            seconds=0.0,
        )

    def _iteration(
        self,
        number: int,
        refined: Refined,
        model: RefinedModel,
        given: Sequence[Peaks],
        fates: Integers | None,
        integrations: int,
        before: RefinedModel,
        last: Iteration,
    ) -> Iteration:
        spots = used(refined, given)
        fraction = self._fraction(model)
        change = {
            "cell": _in_sigma(model.cell - before.cell, model.cell_sigma),
            "orientation": _turned(model, before),
            "rmsd": float(np.max(np.abs(_px_frames(refined.rmsd) / _px_frames(last.rmsd) - 1))),
            "indexed": abs(fraction - last.fraction_indexed),
        }
        # In each list, peaks come before centroids.
        peak = np.concatenate(
            [
                np.arange(len(p.frame)) < len(f.frame)
                for p, f in zip(given, self.fitted, strict=True)
            ]
        )
        counts = _became(refined, peak)
        counts["held out"] = sum(int(h.sum()) for h in self.held)
        reflections: dict[str, int] = {}
        if fates is not None:
            reflections = {
                name: int(np.sum(fates == i)) for i, name in enumerate(FATES[:-1])
            } | _became(refined, ~peak)
        return Iteration(
            number, model, refined, spots, integrations, change, refined.rmsd,
            self.rmsd_held_out(model), self._losses(model), fraction, counts, reflections, 0.0,
        )  # fmt: skip

    def _rests(self, change: dict[str, float]) -> bool:
        return all(change[name] < getattr(self.rest, name) for name in change)

    def _moved(self, model: RefinedModel, other: RefinedModel) -> float:
        """Return the 95 % quantile of the shifts of predicted peaks, in pixels or frames."""
        now, then = (seen(m, self.fitted, self.limits) for m in (model, other))
        both = now.sharp & then.sharp & np.all(now.hkl == then.hkl, axis=1)
        if both.sum() < 0.5 * now.sharp.sum():
            return float("inf")
        return float(np.quantile(np.abs(now.off - then.off)[both].max(axis=1), 0.95))

    def _fraction(self, model: RefinedModel) -> float:
        return float(seen(model, self.peaks, self.limits).indexed.mean())

    def _weighted(self, model: RefinedModel) -> tuple[Floats, Mask]:
        under = seen(model, self.judges, self.limits)
        sigma = np.concatenate([p.sigma for p in self.judges])
        return np.abs(under.off) / sigma, under.sharp

    def _set_scatter(self, model: RefinedModel) -> None:
        weighted, sharp = self._weighted(model)
        if not sharp.any():
            raise HklflowError(
                f"the refined model indexes none of the {len(sharp)} held-out peaks that judge the "
                "refinements; index again or find more peaks"
            )
        self.scatter = np.maximum(1.4826 * np.median(weighted[sharp], axis=0), 0.1)

    def _losses(self, model: RefinedModel) -> Floats:
        assert self.scatter is not None
        weighted, sharp = self._weighted(model)
        size = np.full(weighted.shape, _WORST)
        size[sharp] = np.minimum(weighted[sharp] / self.scatter, _WORST)
        losses: Floats = np.mean(size**2, axis=1)
        return losses

    def rmsd_held_out(self, model: RefinedModel) -> Floats:
        """Return rms residuals (3,) of the held-out peaks that are indexed, without outliers."""
        under = seen(model, self.judges, self.limits)
        off = under.off[under.sharp]
        return _rms(off[_near(off)])


def _unbeaten(losses: Sequence[Floats]) -> int:
    """Return the index of the last model that no other model beats."""
    n = len(losses[0])
    for i in reversed(range(len(losses))):
        worse = [losses[i] - other for other in losses]
        if all(d.mean() <= _BEATEN * d.std() / np.sqrt(n) for d in worse):
            return i
    raise AssertionError("no model beats the model with the smallest loss")


def _became(refined: Refined, rows: Mask) -> dict[str, int]:
    """Count the spots of one class by their outcome in a refinement."""
    indexed, used, checks = (x[rows] for x in (refined.indexed, refined.used, refined.held_out))
    return {
        "not indexed": int(np.sum(~indexed)),
        "grazing or outlier": int(np.sum(indexed & ~used & ~checks)),
        "check of the fit": int(checks.sum()),
        "used": int(used.sum()),
    }


def _in_sigma(change: Floats, sigma: Floats) -> float:
    free = sigma > 0
    return float(np.max(np.abs(change[free] / sigma[free]), initial=0.0))


def _turned(a: RefinedModel, b: RefinedModel) -> float:
    """Return the largest rotation in degrees of crystal and goniometer head between two models."""
    u, v = (lattice.decompose_ub(m.ub)[0] for m in (a, b))
    return max(
        float(
            np.degrees(
                lattice.rotation_angle(
                    x.goniometer.rotation(0.0) @ u, y.goniometer.rotation(0.0) @ v
                )
            )
        )
        for x, y in zip(a.rotations, b.rotations, strict=True)
    )


def _px_frames(rmsd: Floats) -> Floats:
    return np.maximum([np.hypot(rmsd[0], rmsd[1]), rmsd[2]], 1e-12)


def _near(off: Floats) -> Mask:
    """Return a mask (n,) that is False for outliers."""
    if not len(off):
        return np.zeros(0, dtype=np.bool_)
    scatter = 1.4826 * np.median(np.abs(off), axis=0)
    near: Mask = np.all(np.abs(off) <= _WORST * scatter + 1e-9, axis=1)
    return near


def _rms(off: Floats) -> Floats:
    if not len(off):
        return np.full(3, np.nan)
    root: Floats = np.sqrt(np.mean(off**2, axis=0))
    return root
