"""Test if crystal and beam were steady, from the residuals of a refinement along the scan.

A refinement assumes one rigid crystal on the rotation axis. Each motion moves the spots in its own
pattern. A slip rotates the crystal from one frame on. A drift or a wobble rotates it gradually. A
crystal off the axis shifts its spots periodically. Each motion is tested by `orientation.score`.
Motions have one to six parameters, and a slip may be at any frame. They are therefore compared by
the probability that a scan without motion has the same decrease of χ². The least probable motion is
reported first, then further motions in the remaining residuals.
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

_BY_CHANCE = 5e-4  # fraction of steady scans with a wrong report; with all other doubts 1e-3
_MOST = 3  # largest number of reported motions of a rotation
_ECHO = 1e-3  # fraction of the largest decrease of χ² that a nonlinear motion leaves
_FEWEST = 10  # smallest number of peaks on either side of a slip
_TELLING = 20  # smallest number of peaks in a rotation to detect a motion
# decrease of χ² at the ends of the 95 % interval of a change, (1 - exp(-x/2))² = 0.95
_PROFILE = 7.35
_AS_WELL = 9.0  # difference of -2 ln p below which two motions are not distinguished: 3 σ
# χ² of three coordinates that one of a thousand peaks exceeds: the slip cuts the spot in two
_CUT = 16.27
_MEDIAN = 2.366  # median of χ² of three coordinates
_NEXT = 5  # number of peaks next to a slip that are tested for spots that the slip cuts in two
_WITHIN = 0.5  # distance of a slip from the centroid of a spot that it does not displace, frames
_TURNS = (1, 2, 3)  # numbers of periods of a wobble in 360° of the goniometer


@dataclass(frozen=True)
class Motion:
    """Motion of crystal or beam during one rotation.

    Attributes
    ----------
    kind : str
        ``slip``, ``drift``, ``wobble``, ``off centre``, ``beam position``, ``beam direction`` or
        ``cell``.
    rotation : int
    chi2 : float
        Decrease of χ² divided by the remaining variance.
    values, sigma : (k,) array
        Values of the motion. Slip: rotation in degrees about x, y, z of the goniometer's frame.
        Drift: rotation in degrees about these axes, over the whole scan. Wobble: cosine and sine
        amplitude in degrees for each of these axes. Beam direction: degrees about lab x and y. Off
        centre: metres, along two directions perpendicular to the axis. Beam position: metres along
        lab x and y. Cell: Å and degrees of the free parameters, over the whole scan.
    size : float
        Length of the values; for a wobble the amplitude, for a cell the largest relative change.
    size_sigma : float
    frame : float or None
        Frame of a slip; None for other motions.
    interval : (float, float) or None
        Frames between which a slip happened, with 95 % confidence; None for other motions.
    periods : int or None
        Number of periods of a wobble in a full rotation of the goniometer; None for other motions.
    shift : (float, float)
        Rms displacement of the spots by the motion, pixels and frames, after the refinement.
    bias : float
        Largest resulting error of cell and orientation, in their standard deviations.
    others : tuple of str
        Kinds of motions that explain the residuals equally well.
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
        """Return the motion with the values of another measurement."""
        size, sigma = length(values, covariance)
        return replace(
            self, values=values, sigma=np.sqrt(np.diag(covariance)), size=size, size_sigma=sigma
        )


def length(values: Floats, covariance: Floats) -> tuple[float, float]:
    """Return the length of a vector and its standard deviation."""
    size = _length(values)
    return size, float(np.sqrt(values @ covariance @ values)) / max(size, np.finfo(float).tiny)


@dataclass(frozen=True)
class _Candidate:
    """A motion, with the columns (3n, k) that it adds to the normal equations."""

    kind: str
    columns: Floats
    periods: int | None = None

    def without(self, peaks: NDArray[np.bool_]) -> "_Candidate":
        """Return the candidate that some peaks (n,) do not see."""
        return replace(self, columns=np.repeat(~peaks, 3)[:, None] * self.columns)


def motions(
    refined: Refined,
    peaks: Sequence[Peaks],
    group: symmetry.SpaceGroup,
    free: Sequence[str],
    *,
    shared: bool = True,
) -> list[Motion]:
    """Return the motions during the scans of a refinement; the most significant comes first.

    Parameters
    ----------
    refined : Refined
    peaks : sequence of Peaks
        Peaks of the refinement.
    group : SpaceGroup
        Space group whose constraints the cell obeyed in the refinement.
    free : sequence of str
        Groups of parameters that were refined; they absorb a part of a motion.
    shared : bool
        True: the excess of residuals over the errors may be common to neighbouring peaks, and a
        motion must be significant in addition to it. False: the excess is independent from peak to
        peak, as in the errors of the refinement; a result may then be a motion or a distortion of
        the detector.
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
    reported: list[Motion] = []
    known = nuisance
    peak_blocks = (
        blocks(refined.rotations, problem.which[rows], problem.position[rows]) if shared else ()
    )
    largest = 0.0
    offsets = [_refined_offset(refined, nuisance, scene) for scene in scenes if scene.centred]
    whole = np.ones(len(residual))  # 0 for peaks at a slip, which may cut their spots in two
    while len(reported) < _MOST * len(scenes):
        left = Left.of(whole * residual, whole[:, None] * known, peak_blocks)
        best = _best(pairs, left, whole[:, None] * moving[:, -3:], refined.cell, names)
        # A large (nonlinear) motion leaves a part of its χ² in the residuals after the linear fit.
        if best is None or best[1] < _ECHO * largest:
            break
        motion, gain, columns, moved = best
        largest = max(largest, gain)
        reported.append(replace(motion, bias=bias(problem, nuisance, moved, refined.chi2)))
        known = np.hstack([known, columns])
        if motion.interval is not None:
            scene = scenes[motion.rotation]
            after = Left.of(whole * residual, whole[:, None] * known, peak_blocks)
            interval = scene.with_cut_spots(motion.interval, after.residual)
            reported[-1] = replace(reported[-1], interval=interval)
            at_slip = (scene.frame >= interval[0]) & (scene.frame <= interval[1]) & scene.mine
            whole = whole * np.repeat(~at_slip, 3)
            pairs = [(x, candidate.without(at_slip)) for x, candidate in pairs]
    return sorted(offsets + reported, key=lambda motion: -motion.chi2)


def _refined_offset(refined: Refined, nuisance: Floats, scene: "_Scene") -> Motion:
    """Return the offset from the axis, if the offset was a parameter of the refinement."""
    is_offset = np.array([name.startswith(f"off_centre_{scene.number}_") for name in refined.names])
    values, covariance = refined.values[is_offset], refined.covariance[np.ix_(is_offset, is_offset)]
    basis, _ = np.linalg.qr(nuisance[:, ~is_offset])
    beside = nuisance[:, is_offset] - basis @ (basis.T @ nuisance[:, is_offset])
    size, sigma = length(values, covariance)
    return Motion(
        OFF_CENTRE,
        scene.number,
        float(values @ np.linalg.solve(covariance, values)),
        values,
        refined.sigma[is_offset],
        size,
        sigma,
        scene.shift(beside, values),
    )


@dataclass(frozen=True)
class _Scene:
    """One rotation among the peaks (n,) of all rotations: a mask of its peaks, frames and σ."""

    rotation: Rotation
    number: int
    frame: Floats
    sigma: Floats
    mine: NDArray[np.bool_]
    centred: bool
    """True if the offset of the crystal was refined."""

    @property
    def time(self) -> Floats:
        """Time (n,): 0 at the first frame of the rotation, 1 at its last, 0 for other rotations."""
        return np.where(self.mine, self.frame / self.rotation.scan.n_frames, 0.0)

    def shift(self, columns: Floats, values: Floats) -> tuple[float, float]:
        """Return the rms displacement of spots, in pixels and frames, by columns times values."""
        moved = (columns @ values).reshape(-1, 3)[self.mine] * self.sigma[self.mine]
        squares = np.mean(moved**2, axis=0)
        return float(np.sqrt(squares[0] + squares[1])), float(np.sqrt(squares[2]))

    def with_cut_spots(
        self, interval: tuple[float, float], residual: Floats
    ) -> tuple[float, float]:
        """Return the interval (frames) of a slip with the spots that the slip cuts in two.

        A part of such a spot is where the crystal was before the slip, the other part where it is
        after, so that its centroid fits neither. A slip at the edge of a spot does not displace
        its centroid.

        Parameters
        ----------
        interval : (float, float)
            Interval for spots that are before or after the slip.
        residual : (3n,) array
            Residuals after the fit of the slip, divided by the errors of the peaks.
        """
        squares = np.sum(residual.reshape(-1, 3)[self.mine] ** 2, axis=1)
        frame = self.frame[self.mine]
        order = np.argsort(frame, kind="stable")
        frame = frame[order]
        variance = max(float(np.median(squares)) / _MEDIAN, 1.0)
        off = squares[order] > _CUT * variance
        first, last = (int(i) for i in np.searchsorted(frame, interval, "left"))
        while (before := np.flatnonzero(off[max(first - _NEXT, 0) : first])).size:
            first = max(first - _NEXT, 0) + int(before[0])
        last += int(last < len(frame) and frame[last] == interval[1])
        while (after := np.flatnonzero(off[last : last + _NEXT])).size:
            last += int(after[-1]) + 1
        low = min(interval[0], frame[min(first, len(frame) - 1)])
        high = max(interval[1], frame[max(last - 1, 0)])
        end = float(self.rotation.scan.n_frames)
        return max(float(low) - _WITHIN, 0.0), min(float(high) + _WITHIN, end)

    def with_time(self, columns: Floats, function: Floats) -> Floats:
        """Return columns (3n, k) times a function of time (n,)."""
        return columns * np.repeat(function, 3)[:, None]


def _candidates(
    scene: _Scene, ub: Floats, hkl: Floats, turns: Floats, of_cell: Floats
) -> Iterator[_Candidate]:
    """Yield all motions except slips, which are tested at every frame."""
    rotation, t = scene.rotation, scene.time
    yield _Candidate("drift", scene.with_time(turns, t))
    angle = rotation.scan.angle(scene.frame)
    # A periodic error of the goniometer is fixed to the laboratory.
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
    """Derivatives of the weighted residuals of one rotation by offsets of crystal and beam."""

    def __init__(self, scene: _Scene, ub: Floats, hkl: Floats) -> None:
        self._scene, self._ub, self._hkl = scene, ub, hkl

    def sample(self, *, turn_with: Floats | None = None, fixed: Floats | None = None) -> Floats:
        """Return derivatives by an offset of the sample in metres, fixed to crystal or lab."""
        rotation, on_rotation = self._scene.rotation, self._scene.mine
        angle = rotation.scan.angle(self._scene.frame[on_rotation])
        orientation = rotation.goniometer.rotation(angle)
        lab = np.zeros(3) if fixed is None else fixed
        offset = (
            np.tile(lab, (len(orientation), 1)) if turn_with is None else orientation @ turn_with
        )
        q = np.einsum("nij,nj->ni", orientation, self._hkl[on_rotation] @ self._ub.T)
        pixels = np.zeros((len(on_rotation), 3))
        pixels[on_rotation, :2] = displacement(rotation, offset, q + rotation.beam.k * BEAM)
        return (-pixels / self._scene.sigma).ravel()

    def beam(self, axis: Floats) -> Floats:
        """Return derivatives by a rotation of the beam about a lab axis, per radian."""
        step = 1e-5
        up, down = (self._with_beam(axis, sign * step) for sign in (1, -1))
        derivative = np.zeros((len(self._hkl), 3))
        derivative[self._scene.mine] = (up - down) / (2 * step)
        return (np.nan_to_num(derivative) / self._scene.sigma).ravel()

    def _with_beam(self, axis: Floats, angle: float) -> Floats:
        rotation, on_rotation = self._scene.rotation, self._scene.mine
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
        centre = np.zeros((int(on_rotation.sum()), 3))
        centre[:, 2] = self._scene.frame[on_rotation]
        return compare(turned, self._ub, self._hkl[on_rotation], centre)[0]


@dataclass(frozen=True)
class _Found:
    """A fitted motion, with the chance probability p of its decrease of χ² (as -2 ln p)."""

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
    """Return the most significant motion, its decrease of χ², columns and displacements.

    Return None if no motion is significant. Displacements (3n,) are weighted like the residuals.
    """
    tested = []
    for scene, candidate in pairs:
        independent = left.beside(candidate.columns)
        fit = fitted(
            independent.T @ independent,
            independent.T @ left.residual,
            candidate.columns.T @ candidate.columns,
        )
        fall, variance = left.weighed(independent, fit)
        credit = -2 * log_chance(fall, candidate.columns.shape[1])
        tested.append(_Found(credit, variance, fit, scene, candidate))
    for scene in {id(scene): scene for scene, _ in pairs}.values():
        tested += _slip(scene, left, turns)
    if not tested:
        return None
    best = max(tested, key=lambda entry: entry.credit)
    # Bonferroni correction for the number of tested motions.
    if best.credit < -2 * np.log(_BY_CHANCE / len(tested)):
        return None
    columns = best.candidate.columns
    shift = best.scene.shift(left.beside(columns), best.fit.values)
    motion = _motion(best, shift, cell, names)
    as_well = {
        entry.candidate.kind
        for entry in tested
        if entry.scene is best.scene and best.credit - entry.credit < _AS_WELL
    }
    motion = replace(motion, others=tuple(sorted(as_well - {motion.kind})))
    return motion, best.fit.gain, columns, columns @ best.fit.values


def log_chance_of_slip(gain: float, freedom: int, n_peaks: int) -> float:
    """Return the logarithm of the chance that the best of all slips exceeds ``gain``.

    A slip may be at any peak except the first and last `_FEWEST` peaks (Vostrikova, Theory Probab.
    Appl. 26, 356, 1981): ``x^{d/2} exp(-x/2) / (2^{d/2} Γ(d/2)) (T - d T / x + 4 / x)`` with T = 2
    ln((1 - h) / h), where h is the fraction of the peaks before the first tested peak.
    """
    h = _FEWEST / n_peaks
    whole, a, y = 2 * np.log((1 - h) / h), freedom / 2, gain / 2
    if y <= a:  # the formula is valid only for large values
        return 0.0
    trials = whole * (1 - a / y) + 2 / y
    return float(min(a * np.log(y) - y - gammaln(a) + np.log(trials), 0.0))


def _slip(scene: _Scene, left: Left, turns: Floats) -> list[_Found]:
    """Return the best slip over all frames, from sums from each frame to the end."""
    # Peaks at an earlier slip have no derivatives.
    rows = np.nonzero(scene.mine & np.any(turns.reshape(-1, 9) != 0, axis=1))[0]
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
    independent = gram[inner] - np.einsum("nap,nbp->nab", cross[inner], cross[inner])
    scale = np.sqrt(np.einsum("naa->na", gram[inner]))
    eigenvalues, vectors = np.linalg.eigh(independent / scale[:, :, None] / scale[:, None, :])
    along = np.einsum("nab,na->nb", vectors, gradient[inner] / scale)
    gains = np.where(eigenvalues > ALIKE, along**2 / np.maximum(eigenvalues, ALIKE), 0).sum(axis=1)
    best_cut = int(np.argmax(gains))
    fit = fitted(independent[best_cut], gradient[inner][best_cut], gram[inner][best_cut])
    frames = scene.frame[rows]
    # The slip is between the last peak before it and the first peak of the rotated part.
    ends = np.stack([frames[inner.start + 1 : inner.stop + 1], frames[inner]], axis=1)
    frame = float(ends[best_cut].mean())
    step = np.where(scene.mine & (scene.frame > frame), 1.0, 0.0)
    candidate = _Candidate("slip", scene.with_time(turns, step))
    fall, variance = left.weighed(left.beside(candidate.columns), fit)
    as_good = gains > gains[best_cut] - _PROFILE * variance
    low, high = float(ends[as_good, 0].min()), float(ends[as_good, 1].max())
    # The slip may also be beyond the last tested frame.
    interval = (
        0.0 if as_good[-1] else low,
        float(scene.rotation.scan.n_frames) if as_good[0] else high,
    )
    credit = -2 * log_chance_of_slip(fall, 3, len(rows))
    return [_Found(credit, variance, fit, scene, candidate, frame, interval)]


def _motion(
    fitted_motion: _Found, shift: tuple[float, float], cell: Floats, names: Sequence[str]
) -> Motion:
    candidate, fit, scale = fitted_motion.candidate, fitted_motion.fit, fitted_motion.variance
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
        fitted_motion.scene.number,
        fit.gain / scale,
        values,
        np.sqrt(np.diag(covariance)),
        size(values),
        float(np.sqrt(max(slope @ covariance @ np.array(slope), 0.0))),
        shift,
        frame=fitted_motion.frame,
        interval=fitted_motion.interval,
        periods=candidate.periods,
    )


@dataclass(frozen=True)
class _Change:
    """Largest relative change of the cell; angles in radians."""

    cell: Floats
    names: Sequence[str]

    def __call__(self, values: Floats) -> float:
        units = [self.cell["abc".index(x)] if x in "abc" else np.degrees(1.0) for x in self.names]
        return float(np.abs(values / np.array(units)).max())


def _length(values: Floats) -> float:
    return float(np.linalg.norm(values))


def _amplitude(values: Floats) -> float:
    """Return the largest angle of a rotation ``a cos x + b sin x`` about axes a and b."""
    return float(np.linalg.svd(values.reshape(2, 3), compute_uv=False)[0])
