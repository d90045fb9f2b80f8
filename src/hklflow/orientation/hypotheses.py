"""Try other geometries when peaks cannot be indexed with the stated geometry.

Each hypothesis changes one thing that headers often state wrongly: the sense or the direction of
the rotation axis, the order of the pixels, the unit of the wavelength, the distance, the angle of
the detector's arm; and with each of them the beam centre. `orientation.local_lattice` finds a
lattice for each; the best ones are fitted and compared. Nothing is applied: the caller reports what
would index the peaks.

Some errors have the same effect on the positions of peaks. The hypotheses name one of them:
distance, wavelength, pixel size and cell; a reversed axis and a mirrored image; the beam centre and
the zero of the arm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import BEAM, Detector, Rotation, rotation_matrix
from hklflow.geometry.correction import Correction
from hklflow.orientation import local_lattice
from hklflow.orientation.lattice_search import MIN_PEAKS, deviations, fit
from hklflow.orientation.residuals import Peaks

Floats = NDArray[np.float64]

KEV_A = 12.398420
"""Energy in keV times wavelength in Å."""
REACH = 0.055
"""Largest shift of the beam centre, as a fraction of the detector's side."""
_USUAL = (0.1, 3.0)  # wavelengths in Å of which a unit may be wrong
_FACTORS = np.exp(np.linspace(np.log(0.5), np.log(2.0), 11))  # of the distance
_PROMISING = 0.3  # fraction of the peaks from which a hypothesis is fitted
_SHARP = 0.1  # deviation of h, k and l of the peaks that are counted
_EXACT = 1e-6  # rms deviation below which peaks are at integers
_SAME = 5e-4  # relative change of a wavelength or distance that changes nothing
_ACROSS = 0.5  # sine of the angle between beam and rotation axis from which images are mirrored
_PARALLEL = np.cos(np.radians(3))  # between the axes of a reflected and of a mirrored detector
_TRIED = 3  # shifts of a hypothesis that are fitted


@dataclass(frozen=True)
class Hypothesis:
    """A geometry instead of the stated one.

    Attributes
    ----------
    kind : str
        ``as stated``, ``axis``, ``mirrored``, ``wavelength``, ``distance`` or ``arm``.
    factor : float
        Of the wavelength.
    stretch : float
        Of the distance.
    turn : float
        Rotation of the goniometer's axes about the beam, in degrees.
    reverse : bool
        The scan's angles have the opposite sign.
    correction : Correction
        Of the detector, without distance.
    only : tuple of int or None
        Numbers of the rotations that are changed; None: all.
    """

    kind: str
    factor: float = 1.0
    stretch: float = 1.0
    turn: float = 0.0
    reverse: bool = False
    correction: Correction = field(default_factory=Correction)
    only: tuple[int, ...] | None = None

    def chosen(self, rotations: Sequence[Rotation]) -> tuple[int, ...]:
        """Return the numbers of the rotations that are changed."""
        return tuple(range(len(rotations))) if self.only is None else self.only

    @property
    def changes(self) -> bool:
        """False if this is the stated geometry, nearly."""
        scaled = max(abs(self.factor - 1), abs(self.stretch - 1)) > _SAME
        return scaled or bool(self.turn) or self.reverse or bool(self.correction.items())

    def correction_of(self, rotation: Rotation) -> Correction:
        """Return the correction of a rotation's detector, with its distance."""
        if self.stretch == 1:
            return self.correction
        return replace(self.correction, distance=self.stretch * rotation.detector.distance)

    def applied(self, rotations: Sequence[Rotation]) -> list[Rotation]:
        """Return the rotations with this geometry."""
        chosen = self.chosen(rotations)
        return [self._changed(r) if i in chosen else r for i, r in enumerate(rotations)]

    def _changed(self, rotation: Rotation) -> Rotation:
        goniometer, scan = rotation.goniometer, rotation.scan
        if self.turn:
            about = rotation_matrix([0, 0, 1], np.radians(self.turn))
            goniometer = replace(goniometer, axes=goniometer.axes @ about.T)
        if self.reverse:
            scan = replace(scan, start=-scan.start, step=-scan.step)
        return replace(
            rotation,
            beam=replace(rotation.beam, wavelength=self.factor * rotation.beam.wavelength),
            detector=self.correction_of(rotation).applied(rotation.detector),
            goniometer=goniometer,
            scan=scan,
        )

    def with_shift(self, shift: Sequence[float] | Floats) -> "Hypothesis":
        """Return the hypothesis with another shift of the beam centre."""
        return replace(
            self, correction=replace(self.correction, shift=(float(shift[0]), float(shift[1])))
        )

    def with_arm(self, arm: Floats) -> "Hypothesis":
        """Return the hypothesis with another rotation vector of the arm, in degrees."""
        vector = (float(arm[0]), float(arm[1]), float(arm[2]))
        return replace(self, correction=replace(self.correction, arm=vector))


@dataclass(frozen=True)
class Fitted:
    """A hypothesis whose lattice indexes peaks.

    Attributes
    ----------
    hypothesis : Hypothesis
    ub : (3, 3) array
        Primitive lattice, 1/Å with 2π.
    count, of : int
        Number of peaks within 0.1 of integers h, k and l, and of all peaks.
    rms : float
        Rms deviation of these peaks from integers, per component.
    """

    hypothesis: Hypothesis
    ub: Floats
    count: int
    of: int
    rms: float

    @property
    def sharpness(self) -> float:
        """Logarithm by which the peaks are nearer to integers than by chance, summed over peaks.

        With a wrong geometry a deformed lattice may index nearly all peaks, but not as sharply.
        """
        by_chance = _SHARP / np.sqrt(3)
        return float(self.count * np.log(by_chance / max(self.rms, _EXACT)))


def simple(rotations: Sequence[Rotation], cell: ArrayLike | None) -> list[Hypothesis]:
    """Return the hypotheses of one change each, without the arm."""
    tried = [Hypothesis("as stated"), Hypothesis("axis", reverse=True)]
    tried += [Hypothesis("axis", turn=turn) for turn in (90.0, 270.0)]
    flat = all(r.detector.modules is None for r in rotations)  # modules cannot be mirrored
    for sides in (("fast",), ("slow",), ("slow", "fast")) if flat else ():
        for turn in (0.0, 90.0):
            mirrored = Correction(mirrored=sides)
            tried.append(Hypothesis("mirrored", turn=turn, correction=mirrored))
    wavelength = rotations[0].beam.wavelength
    low, high = _USUAL
    for factor in (10.0, 0.1, KEV_A / wavelength**2):  # in nm, in 0.1 Å, the energy in keV
        if low < factor * wavelength < high and (cell is not None or factor > 1):
            tried.append(Hypothesis("wavelength", factor=factor))
    return tried + [Hypothesis("distance", stretch=float(x)) for x in _FACTORS if x != 1]


def mirror_image(reversed_axis: Hypothesis, rotations: Sequence[Rotation]) -> Hypothesis | None:
    """Return the mirrored images that have the effect of a reversed axis; None: there are none.

    A reflection in the plane of beam and rotation axis reverses the sense of the rotation. The
    reflected detector is one with mirrored pixels if it is nearly perpendicular to this plane; its
    beam centre stays where it is in the image.
    """
    corrections = [
        _mirrored(reversed_axis.correction.applied(rotations[i].detector), rotations[i])
        for i in reversed_axis.chosen(rotations)
    ]
    if corrections[0] is None or any(c != corrections[0] for c in corrections):
        return None
    return Hypothesis("mirrored", correction=corrections[0], only=reversed_axis.only)


def _mirrored(detector: Detector, stated: Rotation) -> Correction | None:
    """Return the correction of the stated detector whose result is a reflected detector."""
    across = np.cross(stated.goniometer.scan_axis_lab(), BEAM)
    if stated.detector.modules is not None or np.linalg.norm(across) < _ACROSS:
        return None
    across = across / np.linalg.norm(across)
    origin, slow, fast = (
        v - 2 * (v @ across) * across for v in (detector.origin, detector.slow, detector.fast)
    )
    for side in ("fast", "slow"):
        one = Correction(mirrored=(side,)).applied(stated.detector)
        if min(one.slow @ slow, one.fast @ fast) > _PARALLEL:
            away = (one.origin - origin) @ np.transpose([one.slow, one.fast])
            shift = np.round(away / one.pixel_size, 1) + 0.0
            return Correction(shift=(float(shift[0]), float(shift[1])), mirrored=(side,))
    return None


def exchanged(peaks: Sequence[Peaks]) -> list[Peaks]:
    """Return peaks of no lattice: the positions of each table with the frames of other peaks."""
    rng = np.random.default_rng(0)
    return [replace(p, frame=rng.permutation(p.frame)) for p in peaks]


def fitted(
    hypothesis: Hypothesis,
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    reaches: list[float],
    least: float = _PROMISING,
) -> Fitted | None:
    """Return a hypothesis with the beam centre that indexes most peaks best; None: no lattice.

    Parameters
    ----------
    reaches : list of float
        Maximum lengths of lattice vectors in Å of the successive searches.
    least : float
        Fraction of the peaks that must be indexed.
    """
    changed = hypothesis.applied(rotations)
    best = None
    for shifted in local_lattice.found(changed, peaks, reaches, REACH)[:_TRIED]:
        if shifted.count < max(least * shifted.of, MIN_PEAKS):
            break
        # A shift of the corrected detector is one in its own plane, as in `Correction`.
        one = polished(hypothesis.with_shift(shifted.shift), shifted.ub, rotations, peaks)
        if best is None or one.sharpness > best.sharpness:
            best = one
    return best


def polished(
    hypothesis: Hypothesis,
    ub: Floats,
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    shifts: bool = True,
) -> Fitted:
    """Fit the lattice and, with ``shifts``, the beam centre to the indexed peaks.

    ``G + J shift = UB h`` is linear in the shift and in UB.
    """
    pixel = 0.5
    tolerance = 0.3
    for _ in range(6):
        shift = np.array(hypothesis.correction.shift)

        def g_at(s: Floats, one: Hypothesis = hypothesis) -> Floats:
            return local_lattice.vectors(one.with_shift(s).applied(rotations), peaks)

        g = g_at(shift)
        away = deviations(ub, g)
        used = away < tolerance
        h = np.rint(g[used] @ np.linalg.inv(ub).T)
        if used.sum() < MIN_PEAKS or np.linalg.matrix_rank(h) < 3:
            break
        tolerance = float(np.clip(5 * np.median(away[used]), 0.05, tolerance))
        along = [(g_at(shift + d) - g_at(shift - d))[used] / (2 * pixel) for d in pixel * np.eye(2)]
        ub, moved = linear_fit(h, g[used], along if shifts else [])
        if shifts:
            hypothesis = hypothesis.with_shift(shift + moved)
    return counted(hypothesis, ub, rotations, peaks)


def linear_fit(h: Floats, g: Floats, along: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Solve ``g + Σ along[k] x[k] = UB h`` by least squares.

    Parameters
    ----------
    h, g : (n, 3) array
    along : sequence of (n, 3) arrays
        Derivatives of ``g``.

    Returns
    -------
    ub : (3, 3) array
    x : (len(along),) array
        0 along directions that the peaks do not determine.
    """
    rows = np.zeros((len(h), 3, 9 + len(along)))
    for i in range(3):
        rows[:, i, 3 * i : 3 * i + 3] = h
    for k, derivative in enumerate(along):
        rows[:, :, 9 + k] = -derivative
    scale = np.linalg.norm(rows, axis=(0, 1))
    scale[scale == 0] = 1.0
    flat = rows.reshape(-1, rows.shape[2]) / scale
    unknown = np.linalg.lstsq(flat, g.ravel(), rcond=1e-6)[0] / scale
    return unknown[:9].reshape(3, 3), unknown[9:]


def counted(
    hypothesis: Hypothesis, ub: Floats, rotations: Sequence[Rotation], peaks: Sequence[Peaks]
) -> Fitted:
    """Return a hypothesis with the number of peaks that it indexes."""
    g = local_lattice.vectors(hypothesis.applied(rotations), peaks)
    ub = fit(ub, g, np.ones(len(g)), _SHARP)
    away = g @ np.linalg.inv(ub).T
    away -= np.rint(away)
    good = np.abs(away).max(axis=1) < _SHARP
    rms = float(np.sqrt(np.mean(away[good] ** 2))) if good.any() else np.inf
    return Fitted(hypothesis, ub, int(good.sum()), len(g), rms)
