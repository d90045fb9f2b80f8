"""Refinement of all levels of a detector in turn, in rounds until no pixel moves.

Each level is fitted together with the geometry of each powder image and scan. Ring points are
measured again before each fit, with the present geometry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.calibration.bragg_level import since
from hklflow.calibration.levels import Hierarchy, LevelSettings
from hklflow.calibration.module_data import BraggPeaks, ring_image
from hklflow.calibration.modules import ModuleFit, fit_modules
from hklflow.calibration.powder_cycles import response
from hklflow.geometry import Detector
from hklflow.geometry.modules import Modules

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Powder:
    """A powder image whose geometry is known to some pixels.

    Attributes
    ----------
    counts : (slow, fast) array
    bad : (slow, fast) bool array
    detector : Detector
    rings : (n,) array
        2θ of the rings, radians, increasing.
    polarization : float
    """

    counts: Floats
    bad: Mask
    detector: Detector
    rings: Floats
    polarization: float


@dataclass(frozen=True)
class Round:
    """One pass over the levels.

    Attributes
    ----------
    moved_px : dict of float
        Largest motion of a pixel by each level.
    change_px : float
        Largest motion of a pixel by all levels together.
    """

    moved_px: dict[str, float]
    change_px: float

    def sentence(self, number: int) -> str:
        """Return a sentence on the round."""
        each = ", ".join(f"{level} {moved:.4f} px" for level, moved in self.moved_px.items())
        return f"round {number}: {each}; largest change of a pixel {self.change_px:.4f} px"


@dataclass(frozen=True)
class LevelFit:
    """Result of the rounds.

    Attributes
    ----------
    fit : ModuleFit
        Fit of the last level, compared with the residuals before the first module moved.
    rounds : tuple of Round
    settled : bool
        The last round moved no pixel by more than the tolerance.
    """

    fit: ModuleFit
    rounds: tuple[Round, ...]
    settled: bool

    def metrics(self, settings: LevelSettings, parts: Hierarchy) -> dict[str, Any]:
        """Return the statistics for JSON."""
        found = self.fit.metrics() | {"levels": {k: len(v) for k, v in parts.parts.items()}}
        if settings.most_rounds > 1:
            found["rounds"] = [
                {"round": i, **{f"{k}_px": v for k, v in r.moved_px.items()},
                 "largest_change_px": r.change_px}
                for i, r in enumerate(self.rounds, 1)
            ]  # fmt: skip
            found["tolerance_px"] = settings.tolerance
        return found


def refine_levels(
    parts: Hierarchy,
    images: Sequence[Powder],
    bragg: Sequence[BraggPeaks],
    settings: LevelSettings,
    report: Callable[[str], None] = lambda sentence: None,
) -> LevelFit:
    """Refine all levels in turn until no pixel moves by more than the tolerance.

    Parameters
    ----------
    parts : Hierarchy
    images : sequence of Powder
    bragg : sequence of BraggPeaks
        Used by all levels but the detector.
    settings : LevelSettings
    report : callable, optional
        Function that gets a sentence on each round.

    Raises
    ------
    HklflowError
        If the level detector has no image, or the data cannot determine a level.
    """
    if "detector" in settings.levels and not images:
        raise HklflowError(
            "the level detector needs powder images (--image); leave it out for Bragg peaks alone"
        )
    modules, detectors = parts.leaves, [image.detector for image in images]
    fit = first = None
    rounds: list[Round] = []
    while len(rounds) < settings.most_rounds:
        places = [_corners(modules, detectors)]
        moved: dict[str, float] = {}
        larger = None
        for level in settings.ordered:
            points = [
                ring_image(
                    np.where(image.bad, 0.0, image.counts / response(here, image.polarization)),
                    image.bad,
                    here,
                    image.rings,
                )
                for image, detector in zip(images, detectors, strict=True)
                for here in (replace(detector, modules=modules),)
            ]
            if level == "detector":
                fit = fit_modules(modules, points, levels=("detector",))
            else:
                fit = fit_modules(
                    modules,
                    points,
                    bragg,
                    parts=parts.parts[level],
                    keep_common=True,
                    larger=larger,
                )
                first, larger = first or fit, parts.parts[level]
            modules, detectors = fit.modules, list(fit.detectors)
            places.append(_corners(modules, detectors))
            moved[level] = _largest(places[-2], places[-1])
        rounds.append(Round(moved, _largest(places[0], places[-1])))
        if settings.most_rounds > 1:
            report(rounds[-1].sentence(len(rounds)))
        if rounds[-1].change_px <= settings.tolerance:
            break
    assert fit is not None
    assert first is not None
    settled = rounds[-1].change_px <= settings.tolerance
    return LevelFit(since(first, fit), tuple(rounds), settled)


def _corners(modules: Modules, detectors: Sequence[Detector]) -> Floats:
    """Return the positions (detectors + 1, 4 modules, 3) of the corners of all modules, in pixels.

    The first positions are those on the plane of the detector, the others in the laboratory.
    """
    s0, s1, f0, f1 = modules.rectangles.T
    inside = 1e-6  # an edge may be in the cell of a neighbour
    slow = np.concatenate([s0 + inside, s0 + inside, s1 - inside, s1 - inside])
    fast = np.concatenate([f0 + inside, f1 - inside, f0 + inside, f1 - inside])
    plane = np.stack([*modules.displaced(slow, fast), np.zeros(len(slow))], axis=1)
    return np.stack(
        [
            plane,
            *(replace(d, modules=modules).lab(slow, fast) / min(d.pixel_size) for d in detectors),
        ]
    )


def _largest(before: Floats, after: Floats) -> float:
    return float(np.linalg.norm(after - before, axis=-1).max())
