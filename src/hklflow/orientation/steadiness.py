"""Whether crystal and beam kept still: what the residuals of a refinement say along the scan.

A refinement takes the crystal to be one rigid body on the rotation axis. Each way of breaking that
moves the spots in its own pattern: a slip turns the crystal from one frame on, a drift or a wobble
as frames pass, a crystal off the axis shifts its spots round and round. Each is asked for by the
test of `orientation.score`. Motions have one to six parameters, and a slip may be at any frame:
they are compared by how probable their falls of χ² are in a scan at rest. What is least probable is
reported first, then what else is left.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from hklflow.geometry import BEAM, Goniometer, Rotation, rotation_matrix, symmetry
from hklflow.geometry.parameters import across
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks, compare, displacement
from hklflow.orientation.score import (
    ALIKE,
    Fit,
    Left,
    bias,
    blocks,
    fitted,
    log_chance,
    problem_of,
    taken_up,
)

Floats = NDArray[np.float64]

OFF_CENTRE = "off centre"

_BY_CHANCE = 5e-4  # of the scans at rest something is told: with all other doubts one in a thousand
_MOST = 3  # motions of a rotation that are told
_ECHO = 1e-3  # of the largest fall of χ²: what is left of it where it was not linear
_FEWEST = 10  # peaks on either side of a slip
_TELLING = 20  # peaks of a rotation that tell of a motion
_PROFILE = 7.35  # fall of χ² at the ends of the 95 % interval of a change (1 - exp(-x/2))² = 0.95
_AS_WELL = 9.0  # difference of their -2 ln p up to which two motions are not told apart: 3 σ
_TURNS = (1, 2, 3)  # periods of a wobble in a turn of the goniometer


@dataclass(frozen=True)
class Motion:
    """What moved in one rotation.

    Attributes
    ----------
    kind : str
        ``slip``, ``drift``, ``wobble``, ``off centre``, ``beam position``, ``beam direction`` or
        ``cell``.
    rotation : int
    chi2 : float
        Fall of χ² over the variance that is left.
    values, sigma : (k,) array
        Degrees for slip and drift (about x, y, z of the goniometer's frame; of a drift over the
        whole scan), wobble (cosine and sine of each) and beam direction (about lab x and y);
        metres for off centre (two directions across the axis) and beam position (lab x and y);
        Å and degrees for the free parameters of the cell, over the whole scan.
    size : float
        Length of the values; of a wobble the amplitude, of a cell the largest relative change.
    size_sigma : float
    frame : float or None
        Of a slip.
    interval : (float, float) or None
        Frames between which it happened, with 95 % confidence.
    periods : int or None
        Of a wobble, in a full turn.
    shift : (float, float)
        Rms by which spots are off for it, pixels and frames, after all that was refined.
    bias : float
        By how many of their standard deviations cell and orientation are off for it, the largest.
    others : tuple of str
        Kinds of motions that explain the residuals as well.
    """

    kind: str
    rotation: int
    chi2: float
    values: Floats
    sigma: Floats
    size: float
    size_sigma: float
    shift: tuple[float, float]
    bias: float = 0.0
    frame: float | None = None
    interval: tuple[float, float] | None = None
    periods: int | None = None
    others: tuple[str, ...] = ()

    def of_size(self, values: Floats, covariance: Floats) -> "Motion":
        """The same with values that were measured otherwise."""
        size, sigma = length(values, covariance)
        return replace(
            self, values=values, sigma=np.sqrt(np.diag(covariance)), size=size, size_sigma=sigma
        )


def length(values: Floats, covariance: Floats) -> tuple[float, float]:
    """Length of a vector and its standard deviation."""
    size = _length(values)
    return size, float(np.sqrt(values @ covariance @ values)) / max(size, np.finfo(float).tiny)


@dataclass(frozen=True)
class _Candidate:
    """A motion and the columns (3n, k) that it adds to the normal equations."""

    kind: str
    columns: Floats
    periods: int | None = None


def motions(
    refined: Refined,
    peaks: Sequence[Peaks],
    group: symmetry.SpaceGroup,
    free: Sequence[str],
    *,
    shared: bool = True,
) -> list[Motion]:
    """What moved during the scans of a refinement, what explains most first.

    Parameters
    ----------
    refined : Refined
    peaks : sequence of Peaks
        That it was given.
    group : SpaceGroup
        By whose constraints the cell was refined.
    free : sequence of str
        What was refined: these take up what they can.
    shared : bool
        True: neighbouring peaks may share what residuals have beyond their errors, and a motion is
        one only beyond that. False: that is each peak's own, as the errors of the refinement
        assume; what is found then may be a motion or a fault of the detector.
    """
    rows = np.nonzero(refined.used | refined.held_out)[0]
    if not len(rows):
        return []
    hkl = refined.hkl.astype(np.float64)
    problem, nuisance, residual = taken_up(refined, peaks, group, free, rows)
    turning = problem_of(refined, peaks, group, ["cell", "orientation"])
    moving = np.nan_to_num(turning.jacobian(turning.parameters.start(), hkl[rows], rows))
    names = turning.parameters.names
    of_cell = moving[:, : len(names) - 3]
    scenes = [
        _Scene(
            rotation,
            i,
            problem.position[rows][:, 2],
            problem.sigma[rows],
            problem.which[rows] == i,
            f"off_centre_{i}_1" in refined.names,
        )
        for i, rotation in enumerate(refined.rotations)
    ]
    pairs = [
        (scene, candidate)
        for scene in scenes
        if scene.mine.sum() >= _TELLING
        for candidate in _candidates(scene, refined.ub, hkl[rows], moving[:, -3:], of_cell)
    ]
    found: list[Motion] = []
    known = nuisance
    own = blocks(refined.rotations, problem.which[rows], problem.position[rows]) if shared else ()
    largest = 0.0
    offsets = [_refined_offset(refined, nuisance, scene) for scene in scenes if scene.centred]
    while len(found) < _MOST * len(scenes):
        left = Left.of(residual, known, own)
        best = _best(pairs, left, moving[:, -3:], refined.cell, names)
        # Where a motion is not linear it leaves a part of its χ², whatever the errors are.
        if best is None or best[1] < _ECHO * largest:
            break
        motion, gain, columns, moved = best
        largest = max(largest, gain)
        found.append(replace(motion, bias=bias(problem, nuisance, moved, refined.chi2)))
        known = np.hstack([known, columns])
    return sorted(offsets + found, key=lambda motion: -motion.chi2)


def _refined_offset(refined: Refined, nuisance: Floats, scene: "_Scene") -> Motion:
    """What is off the axis, of a refinement that had it as a parameter."""
    own = np.array([name.startswith(f"off_centre_{scene.number}_") for name in refined.names])
    values, covariance = refined.values[own], refined.covariance[np.ix_(own, own)]
    basis, _ = np.linalg.qr(nuisance[:, ~own])
    beside = nuisance[:, own] - basis @ (basis.T @ nuisance[:, own])
    size, sigma = length(values, covariance)
    return Motion(
        OFF_CENTRE,
        scene.number,
        float(values @ np.linalg.solve(covariance, values)),
        values,
        refined.sigma[own],
        size,
        sigma,
        scene.shift(beside, values),
    )


@dataclass(frozen=True)
class _Scene:
    """One rotation among the peaks (n,) of all: which are its own, when they were seen, and σ."""

    rotation: Rotation
    number: int
    frame: Floats
    sigma: Floats
    mine: NDArray[np.bool_]
    centred: bool
    """Whether the crystal's offset from the axis was refined."""

    @property
    def time(self) -> Floats:
        """From 0 at the rotation's first frame to 1 at its last; 0 elsewhere."""
        return np.where(self.mine, self.frame / self.rotation.scan.n_frames, 0.0)

    def shift(self, columns: Floats, values: Floats) -> tuple[float, float]:
        """Rms by which values of columns move spots, pixels and frames."""
        moved = (columns @ values).reshape(-1, 3)[self.mine] * self.sigma[self.mine]
        squares = np.mean(moved**2, axis=0)
        return float(np.sqrt(squares[0] + squares[1])), float(np.sqrt(squares[2]))

    def with_time(self, columns: Floats, function: Floats) -> Floats:
        """Columns (3n, k) times a function of time (n,)."""
        return columns * np.repeat(function, 3)[:, None]


def _candidates(
    scene: _Scene, ub: Floats, hkl: Floats, turns: Floats, of_cell: Floats
) -> Iterator[_Candidate]:
    """All motions but slips, which are one for each frame."""
    rotation, t = scene.rotation, scene.time
    yield _Candidate("drift", scene.with_time(turns, t))
    angle = rotation.scan.angle(scene.frame)
    # What the goniometer does wrong again and again is fixed in the laboratory.
    back = np.swapaxes(rotation.goniometer.rotation(angle), 1, 2)
    in_lab = np.einsum("nia,nab->nib", turns.reshape(-1, 3, 3), back).reshape(-1, 3)
    for periods in _TURNS:
        waves = [
            scene.with_time(in_lab, np.where(scene.mine, wave(periods * angle), 0.0))
            for wave in (np.cos, np.sin)
        ]
        yield _Candidate("wobble", np.hstack(waves), periods)
    moved = _Moved(scene, ub, hkl)
    if not scene.centred:
        columns = [moved.sample(turn_with=o) for o in across(rotation)]
        yield _Candidate(OFF_CENTRE, np.stack(columns, axis=1))
    lab = np.eye(3)[:2]
    shifted = np.stack([moved.sample(fixed=b) for b in lab], axis=1)
    yield _Candidate("beam position", scene.with_time(shifted, t))
    turned = np.stack([moved.beam(axis) for axis in lab], axis=1)
    yield _Candidate("beam direction", scene.with_time(turned, t))
    if of_cell.shape[1]:
        yield _Candidate("cell", scene.with_time(of_cell, t))


class _Moved:
    """Derivatives of the weighted residuals of one rotation's peaks by displacements."""

    def __init__(self, scene: _Scene, ub: Floats, hkl: Floats) -> None:
        self._scene, self._ub, self._hkl = scene, ub, hkl

    def sample(self, *, turn_with: Floats | None = None, fixed: Floats | None = None) -> Floats:
        """Per metre that what is lit is off, turning with the crystal or fixed in the lab."""
        rotation, mine = self._scene.rotation, self._scene.mine
        angle = rotation.scan.angle(self._scene.frame[mine])
        at = rotation.goniometer.rotation(angle)
        lab = np.zeros(3) if fixed is None else fixed
        offset = np.tile(lab, (len(at), 1)) if turn_with is None else at @ turn_with
        q = np.einsum("nij,nj->ni", at, self._hkl[mine] @ self._ub.T)
        pixels = np.zeros((len(mine), 3))
        pixels[mine, :2] = displacement(rotation, offset, q + rotation.beam.k * BEAM)
        return (-pixels / self._scene.sigma).ravel()

    def beam(self, axis: Floats) -> Floats:
        """Per radian that the beam turns about a lab axis: all else turns back."""
        step = 1e-5
        up, down = (self._with_beam(axis, sign * step) for sign in (1, -1))
        derivative = np.zeros((len(self._hkl), 3))
        derivative[self._scene.mine] = (up - down) / (2 * step)
        return (np.nan_to_num(derivative) / self._scene.sigma).ravel()

    def _with_beam(self, axis: Floats, angle: float) -> Floats:
        rotation, mine = self._scene.rotation, self._scene.mine
        back = rotation_matrix(axis, -angle)
        detector, goniometer = rotation.detector, rotation.goniometer
        turned = replace(
            rotation,
            detector=replace(
                detector,
                origin=back @ detector.origin,
                slow=back @ detector.slow,
                fast=back @ detector.fast,
            ),
            goniometer=Goniometer(
                ("beam", *goniometer.names),
                np.vstack([axis, goniometer.axes]),
                np.append(-angle, goniometer.angles),
                goniometer.scan + 1,
            ),
        )
        centre = np.zeros((int(mine.sum()), 3))
        centre[:, 2] = self._scene.frame[mine]
        return compare(turned, self._ub, self._hkl[mine], centre)[0]


@dataclass(frozen=True)
class _Found:
    """A motion that was fitted, and -2 ln of the probability that it explains so much by chance."""

    credit: float
    variance: float
    fit: Fit
    scene: _Scene
    candidate: _Candidate
    frame: float | None = None
    interval: tuple[float, float] | None = None


def _best(
    pairs: Sequence[tuple[_Scene, _Candidate]],
    left: Left,
    turns: Floats,
    cell: Floats,
    names: Sequence[str],
) -> tuple[Motion, float, Floats, Floats] | None:
    """What explains most beyond what is known, its fall of χ², columns, and how it moves spots.

    None: none does. The last (3n,) is weighted as the residuals are.
    """
    found = []
    for scene, candidate in pairs:
        own = left.beside(candidate.columns)
        fit = fitted(own.T @ own, own.T @ left.residual, candidate.columns.T @ candidate.columns)
        fall, variance = left.weighed(own, fit)
        credit = -2 * log_chance(fall, candidate.columns.shape[1])
        found.append(_Found(credit, variance, fit, scene, candidate))
    for scene in {id(scene): scene for scene, _ in pairs}.values():
        found += _slip(scene, left, turns)
    if not found:
        return None
    best = max(found, key=lambda one: one.credit)
    # Bonferroni: one of as many trials may reach it.
    if best.credit < -2 * np.log(_BY_CHANCE / len(found)):
        return None
    columns = best.candidate.columns
    shift = best.scene.shift(left.beside(columns), best.fit.values)
    motion = _motion(best, shift, cell, names)
    as_well = {
        one.candidate.kind
        for one in found
        if one.scene is best.scene and best.credit - one.credit < _AS_WELL
    }
    motion = replace(motion, others=tuple(sorted(as_well - {motion.kind})))
    return motion, best.fit.gain, columns, columns @ best.fit.values


def log_chance_of_slip(gain: float, freedom: int, n_peaks: int) -> float:
    """Logarithm of the probability that a slip at one of all frames exceeds a value by chance.

    Of the largest of χ² before and after every peak but the outer `_FEWEST` (Vostrikova, Theory
    Probab. Appl. 26, 356, 1981): ``x^{d/2} exp(-x/2) / (2^{d/2} Γ(d/2)) (T - d T / x + 4 / x)``,
    T = 2 ln((1 - h) / h) where h is the part of the peaks before the first.
    """
    h = _FEWEST / n_peaks
    whole, a, y = 2 * np.log((1 - h) / h), freedom / 2, gain / 2
    if y <= a:  # it is far in the tail that this holds
        return 0.0
    trials = whole * (1 - a / y) + 2 / y
    return float(min(a * np.log(y) - y - gammaln(a) + np.log(trials), 0.0))


def _slip(scene: _Scene, left: Left, turns: Floats) -> list[_Found]:
    """Best turn of the crystal from some frame on: sums from there to the end, for all frames."""
    rows = np.nonzero(scene.mine)[0]
    rows = rows[np.argsort(-scene.frame[rows], kind="stable")]
    d = turns.reshape(-1, 3, 3)[rows]
    j = left.basis.reshape(-1, 3, left.basis.shape[1])[rows]
    r = left.residual.reshape(-1, 3)[rows]
    gram = np.cumsum(np.einsum("nia,nib->nab", d, d), axis=0)
    cross = np.cumsum(np.einsum("nia,nip->nap", d, j), axis=0)
    gradient = np.cumsum(np.einsum("nia,ni->na", d, r), axis=0)
    inner = slice(_FEWEST - 1, len(rows) - _FEWEST)
    if inner.stop <= inner.start:
        return []
    own = gram[inner] - np.einsum("nap,nbp->nab", cross[inner], cross[inner])
    scale = np.sqrt(np.einsum("naa->na", gram[inner]))
    eigenvalues, vectors = np.linalg.eigh(own / scale[:, :, None] / scale[:, None, :])
    along = np.einsum("nab,na->nb", vectors, gradient[inner] / scale)
    gains = np.where(eigenvalues > ALIKE, along**2 / np.maximum(eigenvalues, ALIKE), 0).sum(axis=1)
    at = int(np.argmax(gains))
    fit = fitted(own[at], gradient[inner][at], gram[inner][at])
    frames = scene.frame[rows]
    # Between the first peak of the turned part and the last before it.
    ends = np.stack([frames[inner.start + 1 : inner.stop + 1], frames[inner]], axis=1)
    frame = float(ends[at].mean())
    step = np.where(scene.mine & (scene.frame > frame), 1.0, 0.0)
    candidate = _Candidate("slip", scene.with_time(turns, step))
    fall, variance = left.weighed(left.beside(candidate.columns), fit)
    as_good = gains > gains[at] - _PROFILE * variance
    low, high = float(ends[as_good, 0].min()), float(ends[as_good, 1].max())
    # Beyond the last frame that was looked at it may have been as well.
    interval = (
        0.0 if as_good[-1] else low,
        float(scene.rotation.scan.n_frames) if as_good[0] else high,
    )
    credit = -2 * log_chance_of_slip(fall, 3, len(rows))
    return [_Found(credit, variance, fit, scene, candidate, frame, interval)]


def _motion(
    found: _Found, shift: tuple[float, float], cell: Floats, names: Sequence[str]
) -> Motion:
    candidate, fit, scale = found.candidate, found.fit, found.variance
    degrees = candidate.kind in ("slip", "drift", "wobble", "beam direction")
    unit = float(np.degrees(1.0)) if degrees else 1.0
    values, covariance = unit * fit.values, unit**2 * scale * fit.covariance
    sizes: dict[str, Callable[[Floats], float]]
    sizes = {"wobble": _amplitude, "cell": _Change(cell, names[:-3])}
    size = sizes.get(candidate.kind, _length)
    step = 1e-6 * float(np.abs(values).max())
    slope = [(size(values + s) - size(values - s)) / (2 * step) for s in step * np.eye(len(values))]
    return Motion(
        candidate.kind,
        found.scene.number,
        fit.gain / scale,
        values,
        np.sqrt(np.diag(covariance)),
        size(values),
        float(np.sqrt(max(slope @ covariance @ np.array(slope), 0.0))),
        shift,
        frame=found.frame,
        interval=found.interval,
        periods=candidate.periods,
    )


@dataclass(frozen=True)
class _Change:
    """Largest relative change of the cell; of angles in radians."""

    cell: Floats
    names: Sequence[str]

    def __call__(self, values: Floats) -> float:
        own = [self.cell["abc".index(x)] if x in "abc" else np.degrees(1.0) for x in self.names]
        return float(np.abs(values / np.array(own)).max())


def _length(values: Floats) -> float:
    return float(np.linalg.norm(values))


def _amplitude(values: Floats) -> float:
    """Largest angle of a turn ``a cos x + b sin x`` about axes a and b."""
    return float(np.linalg.svd(values.reshape(2, 3), compute_uv=False)[0])
