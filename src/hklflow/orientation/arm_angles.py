"""Find the angle of a detector's arm that a header does not state.

Angles are tried one after the other, each with other beam centres. Arm and beam centre move the
spots alike, so the angle is then chosen for which the beam centre stays where it is stated.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from hklflow.geometry import Rotation
from hklflow.orientation import hypotheses
from hklflow.orientation.hypotheses import REACH, Fitted, Hypothesis, polished
from hklflow.orientation.residuals import Peaks

_STEP = 0.06  # between two angles, as a fraction of the detector's opening
_FARTHEST = 100.0  # degrees
_BEYOND = 4  # steps beyond the sharpest angle
_LARGEST = 20.0  # change of an angle at once, in units of the next constant
_DIFFERENCE = 0.3  # degrees, for derivatives


def found(
    rotations: Sequence[Rotation], peaks: Sequence[Peaks], reaches: list[float], most: float
) -> list[Fitted]:
    """Return the angles that form a lattice, up to those that index a fraction ``most`` of peaks.

    At an angle that is off by some lattice rows, a deformed lattice may index the peaks of a short
    rotation: larger angles are tried until none is sharper.
    """
    fits: list[Fitted] = []
    best: Fitted | None = None
    step = _step(rotations)
    farthest = _FARTHEST
    for hypothesis in _angles(step):
        arm = np.array(hypothesis.correction.arm)
        angle = float(np.linalg.norm(arm))
        if angle > farthest:
            break
        if best is not None and arm @ best.hypothesis.correction.arm <= 0:
            continue  # about another axis or in the other direction
        one = hypotheses.fitted(hypothesis, rotations, peaks, reaches)
        if one is None:
            continue
        fits.append(_with_stated_centre(one, rotations, peaks))
        sharper = best is None or fits[-1].sharpness > best.sharpness
        if fits[-1].count > most * one.of and sharper:
            best = fits[-1]
            farthest = min(angle + _BEYOND * step, _FARTHEST)
    return fits


def as_shift(arm: Fitted, rotations: Sequence[Rotation], peaks: Sequence[Peaks]) -> Fitted | None:
    """Return the shift of the beam centre that has the effect of an arm's small angle.

    With a beam centre that is wrong by many pixels the lattice may be found only near an angle that
    takes back most of the error. None: the angle is too large for a shift.
    """
    detector = rotations[0].detector
    middle = 0.5 * np.array(detector.shape)
    moved = arm.hypothesis.correction.applied(detector)
    shift = middle - np.array(detector.plane.intersect(moved.plane.lab(*middle)))
    if not np.linalg.norm(shift) < REACH * max(detector.shape):
        return None
    return polished(Hypothesis("as stated").with_shift(shift), arm.ub, rotations, peaks)


def _step(rotations: Sequence[Rotation]) -> float:
    """Return the difference of two angles in degrees."""
    detector = rotations[0].detector
    side = max(n * p for n, p in zip(detector.shape, detector.pixel_size, strict=True))
    return float(np.degrees(_STEP * side / detector.distance))


def _angles(step: float) -> Iterator[Hypothesis]:
    """Yield angles about lab y and x, small angles first."""
    for i in range(1, int(_FARTHEST / step) + 1):
        for axis in (1, 0):
            for sign in (1, -1):
                yield Hypothesis("arm").with_arm(sign * i * step * np.eye(3)[axis])


def _with_stated_centre(
    fit: Fitted, rotations: Sequence[Rotation], peaks: Sequence[Peaks]
) -> Fitted:
    """Return the angle for which the beam centre moves as little as possible."""
    for _ in range(3):
        arm = np.array(fit.hypothesis.correction.arm)
        step = _DIFFERENCE * arm / np.linalg.norm(arm)
        moved = polished(fit.hypothesis.with_arm(arm + step), fit.ub, rotations, peaks)
        shift = np.array(fit.hypothesis.correction.shift)
        slope = np.array(moved.hypothesis.correction.shift) - shift
        if not slope.any() or moved.count < 0.5 * fit.count:
            return fit
        turn = -float(slope @ shift) / float(slope @ slope)
        turn = float(np.clip(turn, -_LARGEST, _LARGEST))
        near = fit.hypothesis.with_arm(arm + turn * step).with_shift(shift + turn * slope)
        better = polished(near, fit.ub, rotations, peaks)
        if better.count < 0.95 * fit.count:
            return fit
        fit = better
    return fit
