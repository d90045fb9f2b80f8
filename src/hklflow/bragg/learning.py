"""Learn widths of spots, errors of predictions and profiles from strong reflections."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.bragg import boxes as bx
from hklflow.bragg import kernels, learning_kernels, profiles
from hklflow.bragg.background import Curvature, curvature_of
from hklflow.bragg.measurement import Measurement
from hklflow.bragg.predicted import Spots
from hklflow.bragg.profiles import Profile, Widths
from hklflow.bragg.scene import Frames, IntegrationParams, Scene, integrated, kernel_boxes

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Smallest number of reflections to learn from.
FEWEST = 10
# Largest number of passes over the frames to learn widths; another pass follows if the widths
# change by more than the factor.
_LEARNING_PASSES = 4
_CHANGED = 1.15
# Largest number of iterations with the same voxels; converged if the widths change by less than
# the factor.
_ITERATIONS = 6
_CONVERGED = 1.01
# Counts in a shell that are needed to determine its curvature; number of boxes for the curvature,
# and for the widths.
_BACKGROUND_COUNTS = 100.0
_FOR_CURVATURE = 500
_FOR_WIDTHS = 600


@dataclass(frozen=True)
class Learned:
    """Quantities learned from the references.

    Attributes
    ----------
    errors : (3,) array
        Standard deviations of predicted centres in (frame, slow, fast), for frames at ζ = 1.
    """

    widths: Widths
    errors: Floats
    profile: Profile
    curvature: Curvature
    references: frozenset[tuple[int, int, int, int]]


def learn(
    frames: Frames,
    spots: Spots,
    candidates: Integers,
    widths: Widths,
    params: IntegrationParams,
) -> Learned:
    """Learn widths and profiles from the strong spots among the candidates.

    Parameters
    ----------
    frames : Frames
    spots : Spots
        All predicted spots.
    candidates : int array
        Rows of the spots that may be strong, most likely ones first.
    widths : Widths
        Start values.
    params : IntegrationParams

    Raises
    ------
    HklflowError
        If fewer than `FEWEST` candidates are strong.
    """
    measurement = frames.measurement
    n_frames = measurement.rotation.scan.n_frames
    for number in range(_LEARNING_PASSES):
        scene = Scene(spots, widths, params, n_frames)
        rows = candidates[~scene.long[candidates]]
        boxes = bx.Boxes.around(scene.centre[rows], scene.half[rows])
        room = np.cumsum(boxes.n_voxels) * 4 <= 0.5e6 * params.memory
        rows, boxes = rows[room], bx.Boxes(boxes.origin[room], boxes.shape[room])
        label = "learn profiles" if number == 0 else f"learn profiles, round {number + 1}"
        kept = bx.together(frames.filled(boxes, widths, 0.5e6 * params.memory, label), boxes)
        curvature = _curvature(measurement, scene, rows, kept, params)
        found = _strong(measurement, scene, rows, kept, params, curvature)
        # Weak spots stay weak with other widths, and a part of the spots is enough for the widths.
        sample = _thinned(kept, _FOR_CURVATURE)
        kept = kept.select(found.likely)
        some = _thinned(kept, _FOR_WIDTHS)
        before = widths
        for _ in range(_ITERATIONS):
            found = _strong(measurement, scene, rows, some, params, curvature)
            if len(found.rows) < FEWEST:
                raise HklflowError(
                    f"only {len(found.rows)} reflections are strong enough for learning the widths "
                    "of spots; check the orientation, or set a lower `strong`, or better start "
                    "values `mosaic` and `spot`"
                )
            previous = widths
            widths = _wider(measurement, scene, found, widths)
            scene = Scene(spots, widths, params, n_frames)
            if _change(previous, widths) < _CONVERGED:
                break
        if _change(before, widths) < _CHANGED:
            break
    curvature = _curvature(measurement, scene, rows, sample, params)
    found = _strong(measurement, scene, rows, kept, params, curvature, fits=kernels.CENTRES)
    errors = _errors(scene, found)
    scene = Scene(spots, widths, params, n_frames, errors)
    found = _strong(measurement, scene, rows, kept, params, curvature, fits=kernels.CENTRES)
    profile = _profile(measurement, scene, found)
    references = frozenset(keys(spots.select(found.rows)))
    return Learned(widths, errors, profile, curvature, references)


def keys(spots: Spots) -> list[tuple[int, int, int, int]]:
    """Return keys that distinguish all crossings of reflections."""
    return [
        (*hkl, round(frame))
        for hkl, frame in zip(spots.hkl.tolist(), spots.frame.tolist(), strict=True)
    ]


def _thinned(kept: bx.Filled, number: int) -> bx.Filled:
    """Return about this number of boxes, evenly chosen."""
    every = -(-len(kept.offset) // number) or 1
    return kept.select(np.arange(0, len(kept.offset), every))


def _curvature(
    measurement: Measurement,
    scene: Scene,
    rows: Integers,
    kept: bx.Filled,
    params: IntegrationParams,
) -> Curvature:
    """Return the curvature of the background, determined from an even sample of the kept boxes."""
    kept = _thinned(kept, _FOR_CURVATURE)
    # Weak prior: at half a box from the centre, the level may be ten times the level at the centre.
    free = Curvature(np.zeros(3), 10 / np.median(0.5 * kept.shape, axis=0) ** 2)
    arguments = (measurement, scene, rows[kept.group.rows], kept, params)
    found = integrated(*arguments, None, free, fits=kernels.SUMS)
    column = dict(zip(kernels.COLUMNS, found.columns[found.flags == 0].T, strict=True))
    counts = column["background"] * column["norm"] * column["n_background"]
    if not np.nanmedian(counts) >= _BACKGROUND_COUNTS:
        return Curvature()
    names = ("frame", "slow", "fast")
    bend = np.stack([column[f"bend_{name}"] for name in names], axis=1)
    variance = np.stack([column[f"var_bend_{name}"] for name in names], axis=1)
    return curvature_of(column["background"], bend, variance)


@dataclass(frozen=True)
class _Strong:
    """Filled boxes, and the strong reflections among them.

    Attributes
    ----------
    filled : Filled
    likely : int array
        Indices of the boxes whose reflections may be strong with other widths.
    spots : int array
        Rows of the reflections of all boxes.
    local, rows : int arrays
        Indices of the boxes of the strong reflections, and the rows of these reflections.
    columns : array
        Results of `kernels.integrate_boxes` for all boxes.
    """

    filled: bx.Filled
    likely: Integers
    spots: Integers
    local: Integers
    columns: Floats

    @property
    def rows(self) -> Integers:
        return self.spots[self.local]


def _strong(
    measurement: Measurement,
    scene: Scene,
    rows: Integers,
    filled: bx.Filled,
    params: IntegrationParams,
    curvature: Curvature,
    *,
    fits: int = kernels.SUMS,
) -> _Strong:
    """Integrate the filled boxes and choose the references."""
    mine = rows[filled.group.rows]
    found = integrated(measurement, scene, mine, filled, params, None, curvature, fits=fits)
    ratio = found.columns[:, kernels.SUM] / np.sqrt(found.columns[:, kernels.VAR_SUM])
    likely = np.flatnonzero(ratio > 0.3 * params.strong)
    reach, frame = scene.half[mine, 0], scene.centre[mine, 0]
    whole = (frame > reach) & (frame < scene.n_frames - reach)
    whole &= scene.spots.zeta[mine] > params.min_zeta
    ratio[~(whole & (found.flags == 0) & (ratio >= params.strong))] = -1.0
    good = np.sort(ratio[ratio > 0])[::-1]
    least = good[params.references - 1] if len(good) > params.references else params.strong
    return _Strong(filled, likely, mine, np.flatnonzero(ratio >= least), found.columns)


def _wider(measurement: Measurement, scene: Scene, found: _Strong, widths: Widths) -> Widths:
    """Return the widths that maximise the likelihood of the projected reference reflections."""
    scores = np.empty((len(found.local), 3, len(profiles.FACTORS)))
    boxes = kernel_boxes(measurement, scene, found.spots, found.filled)
    learning_kernels.width_scores(*boxes, found.local, found.columns, profiles.FACTORS, scores)
    at = scene.spots.select(found.rows)
    counts = found.columns[found.local, kernels.COUNTS]
    return profiles.better_widths(widths, scores, at.slow, at.fast, counts)


def _change(before: Widths, after: Widths) -> float:
    """Return the largest ratio between two models of the widths, at the detector centre."""
    ratio = np.log(after.typical() / before.typical())
    return float(np.exp(np.abs(ratio).max()))


def _errors(scene: Scene, found: _Strong) -> Floats:
    """Return the standard deviations (3,) of predicted centres, for frames at ζ = 1."""
    seen = found.columns[found.local, kernels.FRAME : kernels.FAST + 1]
    variance = found.columns[found.local, kernels.VAR_FRAME : kernels.VAR_FAST + 1]
    sigma = scene.sigma[found.rows]
    off = seen - scene.centre[found.rows]
    scale = np.ones_like(off)
    scale[:, 0] = scene.spots.zeta[found.rows]
    return profiles.position_errors(off * scale, variance * scale**2, sigma * scale)


def _profile(measurement: Measurement, scene: Scene, found: _Strong) -> Profile:
    regions = profiles.regions_for(len(found.rows))
    spots = scene.spots.select(found.spots)
    region = profiles.region_of(spots, regions, scene.n_frames, scene.widths.shape)
    count = np.bincount(region[found.local], minlength=int(np.prod(regions)))
    predicted = _corrections(measurement, scene, found, region, len(count), moved=False)
    sharp = _corrections(measurement, scene, found, region, len(count), moved=True)
    return Profile(predicted, sharp, profiles.NODES, regions, count)


def _corrections(
    measurement: Measurement,
    scene: Scene,
    found: _Strong,
    region: Integers,
    number: int,
    *,
    moved: bool,
) -> Floats:
    """Return profile corrections about the predicted centres; if ``moved``, the fitted ones."""
    m = len(profiles.NODES)
    observed, expected, variance = (np.zeros((number, m, m, m)) for _ in range(3))
    sums = learning_kernels.ProfileSums(observed, expected, variance, np.zeros((m, m, m)))
    boxes = kernel_boxes(measurement, scene, found.spots, found.filled)
    if moved:
        places = boxes.places
        likely = found.columns[:, kernels.LIKELY_FRAME : kernels.LIKELY_FAST + 1]
        places = places._replace(centre=np.where(np.isfinite(likely), likely, places.centre))
        boxes = boxes._replace(places=places)
    learning_kernels.profile_sums(
        *boxes, found.local, found.columns, region, float(profiles.NODES[-1]), sums
    )
    mass = sums.mass / len(found.rows)
    return profiles.learned(sums.observed, sums.expected, sums.variance, mass)
