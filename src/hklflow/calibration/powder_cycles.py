"""Cycles from a starting geometry to the refined geometry, for one image or several.

1. search: each ring is searched within some pixels; first a few inner rings with fixed tilts, then
   more rings. With all rings at once, a ring could be confused with its neighbour.
2. window: the fitted range is reduced to the width of the rings.
3. profile: the same sectors of all rings are fitted until convergence.

Medians of abs(Δ2θ) are compared only within a step, because the steps use different rings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.calibration.calibrants import Calibrant
from hklflow.calibration.converge import Cycle, Reason, converge
from hklflow.calibration.ring_fit import PARAMETERS, RingFit, Setting, propagated, robust_fit
from hklflow.calibration.rings import RingPoints, mean_two_theta, pixel_angle, ring_points
from hklflow.formats.poni import Poni
from hklflow.geometry import Detector
from hklflow.geometry.corrections import polarization as polarization_factor
from hklflow.geometry.corrections import solid_angle

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RING_SCHEDULE = (4, 8, 14, 22)

SEARCH_PIXELS = 12

FWHM = 2 * float(np.sqrt(2 * np.log(2)))


def response(detector: Detector, polarization: float) -> Floats:
    """Return the relative counts (slow, fast) that equal intensity gives over the image.

    Without this correction, a ring appears at too small an angle, because the response falls across
    its width.
    """
    return solid_angle(detector) * polarization_factor(detector, polarization)


@dataclass(frozen=True, kw_only=True)
class PowderSettings:
    """Settings of the refinement of a geometry.

    Attributes
    ----------
    calibrant : Calibrant
    wavelength : float
        Å; the starting value if it is refined.
    pixel_size : (slow, fast)
        Metres.
    orientation : int
        Orientation of the image, 1 to 4 as in `formats.poni`; not refined.
    distance : float or None
        Starting value in metres, accurate to some per cent; None: found from the rings.
    beam_centre : (slow, fast) or None
        Starting value in pixel coordinates, accurate to some pixels; None: found from the
        symmetry of the rings.
    polarization : float
        Fraction of the intensity with the electric vector along lab x.
    min_rings, min_points : int
        Least number of rings and points; fewer raise an error.
    max_cycles : int
        Largest number of cycles of the last loop.
    """

    calibrant: Calibrant
    wavelength: float
    pixel_size: tuple[float, float]
    orientation: int
    distance: float | None = None
    beam_centre: tuple[float, float] | None = None
    polarization: float
    min_rings: int
    min_points: int = 30
    max_cycles: int = 10


@dataclass(frozen=True)
class Image:
    """Counts (slow, fast; 0 for bad pixels), bad pixels and setting of an image."""

    counts: Floats
    bad: Bools
    setting: Setting


def prepared(counts: ArrayLike, bad: ArrayLike, setting: Setting | None = None) -> Image:
    """Check the shapes, and mask pixels that are not finite.

    Raises
    ------
    HklflowError
        If the shapes differ or the image is not 2-D.
    """
    values = np.ascontiguousarray(counts, dtype=np.float64)
    masked = np.asarray(bad, dtype=bool)
    if values.ndim != 2 or masked.shape != values.shape:
        raise HklflowError(
            f"the powder image is {values.shape} and its mask {masked.shape}; both must have the "
            "same 2-D shape"
        )
    masked = masked | ~np.isfinite(values)
    return Image(np.where(masked, 0.0, values), masked, setting or Setting())


@dataclass(frozen=True)
class _State:
    """State between cycles: the geometry, and its last fit (None at the start)."""

    poni: Poni
    fit: RingFit | None = None
    width: float = 0.0


@dataclass(frozen=True)
class Refined:
    """Result of `refine`."""

    fit: RingFit
    history: list[Cycle]
    reason: Reason


def beam_and_distance(detector: Detector) -> Floats:
    """Return the beam centre (slow, fast) in pixels and the distance along the beam in metres."""
    along = np.array([0.0, 0.0, 1.0])
    slow, fast = detector.intersect(along)
    return np.array([float(slow), float(fast), detector.distance / (detector.normal @ along)])


class _Cycles:
    """Steps of the loops: determine the ring points of all images, then fit the geometry."""

    def __init__(self, images: Sequence[Image], settings: PowderSettings) -> None:
        self.images, self.settings, self.calibrant = images, settings, settings.calibrant
        self.known: list[NDArray[np.int64]] | None = None

    def points(
        self, poni: Poni, n_rings: int | None, window: float | None, search: bool
    ) -> list[RingPoints]:
        """Return the points of each image on its `n_rings` innermost rings; None: on all rings."""
        wavelength = float(poni.wavelength or 0)
        rings = self.calibrant.two_theta(wavelength)
        points_of_images = []
        for image in self.images:
            detector = image.setting.detector(poni.detector())
            # The search does not need an accurate response.
            relative = 1.0 if search else response(detector, self.settings.polarization)
            points_of_images.append(
                ring_points(
                    image.counts / relative,
                    image.bad,
                    detector,
                    rings,
                    used=self.calibrant.used[: len(rings)],
                    innermost=n_rings,
                    window=window,
                    search=search,
                )
            )
        return points_of_images

    def require(self, points: Sequence[RingPoints], poni: Poni) -> None:
        """Raise an error if there are too few points."""
        n_points, n_rings = sum(map(len, points)), _n_rings(points)
        least_rings, least_points = self.settings.min_rings, self.settings.min_points
        if n_rings < least_rings or n_points < least_points:
            raise HklflowError(
                f"only {n_points} points on {n_rings} rings of {self.calibrant.name} were found; "
                f"{least_points} points on {least_rings} rings are needed; check distance "
                f"({poni.dist:.6g} m), beam centre, wavelength, calibrant and mask"
            )

    def step(
        self, state: _State, points: list[RingPoints], free: tuple[str, ...], what: str
    ) -> tuple[_State, Cycle]:
        """Refine the geometry against the points."""
        places = [image.setting for image in self.images]
        fit = robust_fit(points, places, self.calibrant.d, state.poni, free)
        everything = [part for pair in zip(fit.points, fit.rejected, strict=True) for part in pair]
        off = np.concatenate([part.residual for part in everything])
        width = float(np.median(np.concatenate([part.width for part in everything])))
        centre = beam_and_distance(fit.poni.detector())
        spread = propagated(
            lambda p: beam_and_distance(p.detector()), fit.poni, free, fit.covariance
        )
        cycle = Cycle(
            (float(centre[0]), float(centre[1])),
            float(centre[2]),
            float(np.sqrt(spread[2, 2])),
            float(np.median(np.abs(off))),
            FWHM * width,
            _n_rings(fit.points),
            sum(map(len, fit.points)),
            what,
        )
        return _State(fit.poni, fit, width), cycle


def _n_rings(points: Sequence[RingPoints]) -> int:
    return len(np.unique(np.concatenate([part.ring for part in points])))


def refine(
    images: Sequence[Image],
    poni: Poni,
    settings: PowderSettings,
    free: tuple[str, ...] = PARAMETERS,
) -> Refined:
    """Refine one geometry against the rings of images at known places of the detector.

    Raises
    ------
    HklflowError
        If there are too few points, or the loop does not converge in ``max_cycles``.
    """
    cycles = _Cycles(images, settings)
    state = _State(poni)
    history: list[Cycle] = []
    reach = SEARCH_PIXELS * pixel_angle(mean_two_theta(poni.detector()))
    n_found = 0
    for n_rings in RING_SCHEDULE:
        tilted = n_rings != RING_SCHEDULE[0]
        chosen = tuple(name for name in free if tilted or name in PARAMETERS[:3])

        def search(
            start: _State, n_rings: int = n_rings, chosen: tuple[str, ...] = chosen
        ) -> tuple[_State, Cycle]:
            points = cycles.points(start.poni, n_rings, reach, search=True)
            cycles.require(points, start.poni)
            return cycles.step(start, points, chosen, f"search {n_rings} rings")

        loop = converge(search, state, max_cycles=4)
        state, history = loop.state, history + loop.history
        if tilted and loop.cycle.rings == n_found:
            break  # there are no more rings
        n_found = loop.cycle.rings

    for _ in range(2):
        window = 4 * state.width if state.width else None
        points = cycles.points(state.poni, None, window, search=False)
        cycles.require(points, state.poni)
        state, cycle = cycles.step(state, points, free, "window")
        history.append(cycle)
    window = 4 * state.width
    known = [part.key for part in cycles.points(state.poni, None, window, search=False)]

    def profile(start: _State) -> tuple[_State, Cycle]:
        points = cycles.points(start.poni, None, window, search=False)
        for i, part in enumerate(points):
            # Keep only known sectors: at the detection limit, a sector could appear and disappear
            # in turn, and the loop would never end.
            points[i] = part.keep(np.isin(part.key, known[i]))
            known[i] = points[i].key
        cycles.require(points, start.poni)
        return cycles.step(start, points, free, "profile")

    final = converge(profile, state, max_cycles=settings.max_cycles)
    history += final.history
    if final.reason == "cap" or final.state.fit is None:
        last, before = final.history[-1], final.history[-2:][0]
        moved = np.hypot(*np.subtract(last.beam_centre, before.beam_centre))
        raise HklflowError(
            f"the geometry did not converge in {settings.max_cycles} cycles: in the last cycle the "
            f"beam centre moved by {moved:.2g} px, the distance by "
            f"{abs(last.distance - before.distance):.2g} m; check calibrant, wavelength and mask"
        )
    return Refined(final.state.fit, history, final.reason)
