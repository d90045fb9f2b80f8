"""Integrate predicted reflections on the frames of one rotation."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from hklflow.base.errors import HklflowError
from hklflow.bragg import boxes as bx
from hklflow.bragg import centre_kernels, kernels, learning_kernels, profiles
from hklflow.bragg.background import Curvature, curvature_of
from hklflow.bragg.collected import Collected, around
from hklflow.bragg.measurement import Measurement
from hklflow.bragg.predicted import Spots, predicted_spots
from hklflow.bragg.profiles import Profile, Widths
from hklflow.bragg.reflections import ReflectionFlag, Reflections
from hklflow.geometry.symmetry import SpaceGroup
from hklflow.peaks.table import PeakTable

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Blocks = Iterable[NDArray[Any]]
Shown = Callable[[Blocks, str], Blocks]

# Smallest number of reflections to learn from.
_FEWEST = 10
# A reflection is partial if more than this part of it is before or after the scan.
_CUT = 0.005
# Number of predicted spots among which strong ones are searched: if no peaks are given, and in
# addition to given peaks.
_SAMPLE = 20000
_OTHERS = 1000
# Largest number of strong peaks that are tried for each reference.
_TRIED = 1.5
# Largest number of passes over the frames to learn widths; another pass follows if the widths
# change by more than the factor.
_LEARNING_PASSES = 4
_CHANGED = 1.15
# Largest number of iterations with the same voxels; converged if the widths change by less than
# the factor.
_TURNS = 6
_RESTS = 1.01
# Counts in a shell that are needed to determine its curvature; number of boxes for the curvature,
# and for the widths.
_BACKGROUND_COUNTS = 100.0
_FOR_CURVATURE = 500
_FOR_WIDTHS = 600
# Chi² and I/σ above which a reflection is flagged as unlike the profile, see `kernels.UNLIKE`.
_UNLIKE = 4.0
_CLEARLY_SEEN = 10.0
# Fit and sum contradict each other if they differ by this number of standard deviations; relative
# error of both that is always tolerated, and the same in standard deviations of the sum.
_CONTRADICTION = 6.0
_ALIKE = 0.02
_ALIKE_NOISE = 0.3


@dataclass(frozen=True)
class IntegrationParams:
    """Parameters of the integration.

    Attributes
    ----------
    n_sigma : float
        Half axes of the foreground in standard deviations of the spot; half a voxel is added.
    mosaic : float or None
        Start value of the standard deviation of the rocking curve about the scan axis at ζ = 1,
        radians. None: determined from the peaks; without peaks, one frame.
    spot : (slow, fast) or None
        Start values of the standard deviations of a spot, pixels. None: determined from the peaks;
        without peaks, 1.5.
    strong : float
        Smallest I/σ of a reflection that is used to learn widths and profiles.
    references : int
        Largest number of reflections that are used to learn widths and profiles.
    max_frames : int
        Reflections with more frames in the foreground are not integrated.
    min_zeta : float
        Reflections with a smaller ζ are flagged ``LONG``.
    overlap : float
        Largest share of a reflection (by its profile) in the foreground of other reflections.
        Above it, the reflection is flagged; below it, the shared voxels are left out.
    min_recorded : float
        Smallest part of a reflection that must lie on summed voxels to determine an intensity.
    memory : float
        Memory for the voxels of the reflections that are processed at the same time, MB.
    threads : int
    """

    n_sigma: float
    mosaic: float | None
    spot: tuple[float, float] | None
    strong: float
    references: int
    max_frames: int
    min_zeta: float
    overlap: float
    min_recorded: float
    memory: float
    threads: int


@dataclass(frozen=True)
class Integrated:
    """Reflections of one rotation, with the learned widths, profile and curvature.

    Attributes
    ----------
    reflections : Reflections
        Reflections sorted by frame.
    widths : Widths
    profile : Profile
    curvature : Curvature
        Curvature of the background; zero if a plane is sufficient.
    chi2 : (n,) array
        Reduced chi² of the foreground relative to the model of background and profile.
    background_chi2 : (n,) array
        Reduced chi² of the background.
    profile_error : float
        Relative error of fitted intensities due to the profile, included in ``sigma_profile``.
    counters : dict
        ``predicted = integrated + without an intensity + too long + beyond the detector``.
    """

    reflections: Reflections
    widths: Widths
    profile: Profile
    curvature: Curvature
    chi2: Floats
    background_chi2: Floats
    profile_error: float
    counters: dict[str, int]


def integrate(
    measurement: Measurement,
    ub: ArrayLike,
    group: SpaceGroup,
    peaks: PeakTable | None,
    params: IntegrationParams,
    *,
    d_min: float | None = None,
    shown: Shown | None = None,
    collected: Collected | None = None,
    left_out: Callable[[Spots], NDArray[np.bool_]] | None = None,
) -> Integrated:
    """Integrate all predicted reflections of one rotation.

    Parameters
    ----------
    measurement : Measurement
    ub : (3, 3) array
        Orientation matrix, 1/Å with 2π.
    group : SpaceGroup
    peaks : PeakTable or None
        Found peaks, for the start values of the widths.
    params : IntegrationParams
    d_min : float, optional
        Smallest d-spacing, Å; None: up to the edge of the detector.
    shown : callable, optional
        Wrapper of the blocks of frames of each pass, with its name, to show progress.
    collected : Collected, optional
        Voxels from an earlier integration of the same frames; new ones are collected if needed.
    left_out : callable, optional
        Function that marks the spots (n,) that need no intensity: their values are NaN.

    Raises
    ------
    HklflowError
        If there are too few strong reflections for learning the widths.
    """
    rotation = measurement.rotation
    shape, step, n_frames = rotation.detector.shape, rotation.scan.step, rotation.scan.n_frames
    spots = predicted_spots(rotation, ub, group, d_min)
    rows, matching = (
        profiles.matched(spots, peaks) if peaks is not None else (np.zeros(0, np.int64),) * 2
    )
    if peaks is not None and len(rows) >= _FEWEST:
        widths = profiles.widths_of_peaks(peaks.select(matching), spots.zeta[rows], shape, step)
    else:
        widths = profiles.constant_widths(abs(step), (1.5, 1.5), shape, step)
    widths = _as_told(widths, params)
    # Peaks mark strong reflections; the other spots are used for the background.
    rows = rows[: int(_TRIED * params.references)]
    sample = _SAMPLE if len(rows) < 5 * _FEWEST else _OTHERS
    others = np.random.default_rng(0).permutation(len(spots))[:sample]
    rows = np.concatenate([rows, np.setdiff1d(others, rows)])

    def predicted(
        widths: Widths, more: float, errors: Floats | None = None
    ) -> tuple[_Scene, Integers]:
        """Return all spots that touch the scan, and the rows of those within ``more`` of it."""
        margin = np.ceil(bx.half_axes(widths.typical(), params.n_sigma).max()) + more
        spots = predicted_spots(rotation, ub, group, d_min, float(margin))
        return (scene := _Scene(spots, widths, params, n_frames, errors)), scene.recorded(more)

    def wanted(widths: Widths) -> bx.Boxes:
        """Return the boxes to collect: widths and predictions may change a little."""
        scene, rows = predicted(widths, 2.0)
        rows = rows[2 * scene.half[rows, 0] < 1.2 * params.max_frames]
        return around(scene.centre[rows], scene.half[rows])

    if collected is None:
        collected = Collected(0.5e6 * params.memory)
    frames = _Frames(measurement, collected, wanted, shown or _unseen)
    learned = _learn(frames, spots, rows, widths, params)
    scene, rows = predicted(learned.widths, 0.0, learned.errors)
    skip = np.zeros(len(rows), np.bool_)
    if left_out is not None:
        skip = left_out(scene.spots.select(rows))
    found = _run(frames, scene, rows, skip, learned, params, "integrate")
    return _table(measurement, scene, rows, found, learned, params)


def _unseen(blocks: Blocks, _: str) -> Blocks:
    return blocks


def _as_told(widths: Widths, params: IntegrationParams) -> Widths:
    """Return the start widths, replaced by the values that the parameters give."""
    if params.spot is not None:
        mosaic = widths.mosaic
        widths = profiles.constant_widths(mosaic, params.spot, widths.shape, widths.step)
    return widths if params.mosaic is None else replace(widths, mosaic=params.mosaic)


class _Scene:
    """Foregrounds of all spots with their widths; ``long`` marks spots that are not integrated."""

    def __init__(
        self,
        spots: Spots,
        widths: Widths,
        params: IntegrationParams,
        n_frames: int,
        errors: Floats | None = None,
    ):
        """``errors`` (3,): see `_Learned`; without them, the widths."""
        self.spots, self.widths, self.n_frames = spots, widths, n_frames
        self.centre = spots.centre
        self.sigma = widths.at(spots.zeta, spots.slow, spots.fast)
        self.error = self.sigma
        if errors is not None:
            self.error = np.broadcast_to(errors, (len(spots), 3)).copy()
            self.error[:, 0] /= spots.zeta
        self.half = bx.half_axes(self.sigma, params.n_sigma)
        self.long = 2 * self.half[:, 0] > params.max_frames

    def recorded(self, more: float) -> Integers:
        """Return the rows of spots that are in the scan with their centre on the detector.

        Detector and scan are extended by ``more`` on all sides, in pixels and frames.
        """
        spots, reach, (n_slow, n_fast) = self.spots, self.half[:, 0] + more, self.widths.shape
        on = (spots.slow >= -more) & (spots.slow <= n_slow + more)
        on &= (spots.fast >= -more) & (spots.fast <= n_fast + more)
        in_time = (spots.frame > -reach) & (spots.frame < self.n_frames + reach)
        return np.flatnonzero(on & in_time)

    @cached_property
    def cells(self) -> bx.Cells:
        """Foregrounds of all spots by their position on the detector."""
        return bx.cells_of(self.centre, self.half)


@dataclass(frozen=True)
class _Learned:
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


@dataclass(frozen=True)
class _Found:
    columns: Floats
    flags: Integers


@dataclass(frozen=True)
class _Frames:
    """Frames of the rotation, and the voxels that were collected from them.

    Attributes
    ----------
    wanted : callable
        Function that returns the boxes to collect for given widths.
    """

    measurement: Measurement
    collected: Collected
    wanted: Callable[[Widths], bx.Boxes]
    shown: Shown

    def filled(
        self, boxes: bx.Boxes, widths: Widths, memory: float, label: str
    ) -> Iterator[bx.Filled]:
        """Yield filled boxes, from the collected voxels if they fit into the memory (bytes)."""
        n_frames = self.measurement.rotation.scan.n_frames
        dealt = bx.passes(bx.groups(boxes, n_frames, memory), n_frames, memory)
        if not self.collected.holds(boxes):
            wanted = self.wanted(widths)
            counter = self.measurement.read_variance is None
            if self.collected.has_room_for(wanted, integers=counter):
                limit = self.collected.limit
                groups = bx.passes(bx.groups(wanted, n_frames, limit), n_frames, limit)
                self.collected.collect(self._read(groups, wanted, "collect reflections"))
            else:
                self.collected.collect(())
            if not self.collected.holds(boxes):
                yield from self._read(dealt, boxes, label)
                return
        yield from self.collected.filled(itertools.chain(*dealt), boxes)

    def _read(
        self, dealt: list[list[bx.Group]], boxes: bx.Boxes, label: str
    ) -> Iterator[bx.Filled]:
        """Yield boxes filled from the frames, in a pass for each list of groups."""
        measurement = self.measurement
        n_frames = measurement.rotation.scan.n_frames
        for number, groups in enumerate(dealt):
            name = label if len(dealt) == 1 else f"{label}, pass {number + 1} of {len(dealt)}"
            waiting, active, first = groups[::-1], list[bx.Filled](), 0
            for block in self.shown(measurement.blocks(), name):
                end = first + len(block)
                while waiting and waiting[-1].first < end:
                    active.append(bx.Filled(waiting.pop(), boxes))
                for filled in active:
                    bx.fill(
                        block,
                        first,
                        filled.origin,
                        filled.shape,
                        filled.offset,
                        measurement.invalid_from,
                        measurement.valid_from,
                        filled.counts,
                    )
                yield from (filled for filled in active if filled.group.last <= end)
                active = [filled for filled in active if filled.group.last > end]
                first = end
            if first != n_frames:
                raise HklflowError(
                    f"the frames ended after {first} of {n_frames}; check that the raw file is "
                    "complete"
                )


def _run(
    frames: _Frames,
    scene: _Scene,
    rows: Integers,
    skip: NDArray[np.bool_],
    learned: _Learned,
    params: IntegrationParams,
    label: str,
) -> _Found:
    """Integrate the spots `rows`; NaN for spots that are too long or to ``skip`` (n,)."""
    short = np.flatnonzero(~scene.long[rows] & ~skip)
    boxes = bx.Boxes.around(scene.centre[rows[short]], scene.half[rows[short]])
    columns = np.full((len(rows), len(kernels.COLUMNS)), np.nan)
    flags = np.zeros(len(rows), np.int64)
    for filled in frames.filled(boxes, scene.widths, 1e6 * params.memory, label):
        mine = short[filled.group.rows]
        arguments = (frames.measurement, scene, rows[mine], filled, params)
        found = _integrated(*arguments, learned.profile, learned.curvature)
        columns[mine], flags[mine] = found.columns, found.flags
    return _Found(columns, flags)


def _integrated(
    measurement: Measurement,
    scene: _Scene,
    rows: Integers,
    filled: bx.Filled,
    params: IntegrationParams,
    profile: Profile | None = None,
    curvature: Curvature | None = None,
    *,
    fits: int = kernels.FITS,
) -> _Found:
    """Integrate the filled boxes of the spots `rows`; ``fits``: see `kernels.integrate_boxes`."""
    n = len(rows)
    columns, flags = np.empty((n, len(kernels.COLUMNS))), np.zeros(n, np.int64)
    region = np.zeros(n, np.int64)
    correction = sharp = np.empty((0, 0, 0, 0))
    if profile is not None:
        correction, sharp = profile.correction, profile.sharp
        region = profiles.region_of(
            scene.spots.select(rows), profile.regions, scene.n_frames, scene.widths.shape
        )
    curvature = curvature or Curvature()
    bend = np.stack([curvature.mean, curvature.spread])
    boxes = _boxes(measurement, scene, rows, filled)
    start = boxes.neighbours.start
    surface = kernels.Surface(bend, curvature.terms)
    cuts = kernels.Cuts(measurement.saturation, params.overlap, params.min_recorded)

    def work(part: slice) -> None:
        kernels.integrate_boxes(
            kernels.Voxels(
                filled.counts, filled.offset[part], filled.origin[part], filled.shape[part]
            ),
            kernels.Places(*(values[part] for values in boxes.places)),
            boxes.norms,
            boxes.neighbours._replace(start=start[part.start : part.stop + 1]),
            kernels.LearnedProfiles(correction, sharp, float(profiles.NODES[-1]), region[part]),
            surface,
            cuts,
            fits,
            columns[part],
            flags[part],
        )

    edges = [n * i // params.threads for i in range(params.threads + 1)]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]
    if len(parts) == 1:
        work(parts[0])
    else:
        with ThreadPoolExecutor(params.threads) as pool:
            list(pool.map(work, parts))
    return _Found(columns, flags)


def _read_variance(measurement: Measurement) -> NDArray[np.float32]:
    known = measurement.read_variance
    return np.empty((0, 0), np.float32) if known is None else known


# ------------------------------------------------------------------------------ learning


def _learn(
    frames: _Frames,
    spots: Spots,
    candidates: Integers,
    widths: Widths,
    params: IntegrationParams,
) -> _Learned:
    """Learn widths and profiles from the strong spots among the candidates."""
    measurement = frames.measurement
    n_frames = measurement.rotation.scan.n_frames
    for turn in range(_LEARNING_PASSES):
        scene = _Scene(spots, widths, params, n_frames)
        rows = candidates[~scene.long[candidates]]
        boxes = bx.Boxes.around(scene.centre[rows], scene.half[rows])
        room = np.cumsum(boxes.n_voxels) * 4 <= 0.5e6 * params.memory
        rows, boxes = rows[room], bx.Boxes(boxes.origin[room], boxes.shape[room])
        label = "learn profiles" if turn == 0 else f"learn profiles, round {turn + 1}"
        kept = bx.together(frames.filled(boxes, widths, 0.5e6 * params.memory, label), boxes)
        curvature = _curvature(measurement, scene, rows, kept, params)
        found = _strong(measurement, scene, rows, kept, params, curvature)
        # Weak spots stay weak with other widths, and a part of the spots is enough for the widths.
        sample = _thinned(kept, _FOR_CURVATURE)
        kept = kept.select(found.likely)
        some = _thinned(kept, _FOR_WIDTHS)
        before = widths
        for _ in range(_TURNS):
            found = _strong(measurement, scene, rows, some, params, curvature)
            if len(found.rows) < _FEWEST:
                raise HklflowError(
                    f"only {len(found.rows)} reflections are strong enough for learning the widths "
                    "of spots; check the orientation, or set a lower `strong`, or better start "
                    "values `mosaic` and `spot`"
                )
            previous = widths
            widths = _wider(measurement, scene, found, widths)
            scene = _Scene(spots, widths, params, n_frames)
            if _change(previous, widths) < _RESTS:
                break
        if _change(before, widths) < _CHANGED:
            break
    curvature = _curvature(measurement, scene, rows, sample, params)
    found = _strong(measurement, scene, rows, kept, params, curvature, fits=kernels.CENTRES)
    errors = _errors(scene, found)
    scene = _Scene(spots, widths, params, n_frames, errors)
    found = _strong(measurement, scene, rows, kept, params, curvature, fits=kernels.CENTRES)
    profile = _profile(measurement, scene, found)
    references = frozenset(_keys(spots.select(found.rows)))
    return _Learned(widths, errors, profile, curvature, references)


def _thinned(kept: bx.Filled, number: int) -> bx.Filled:
    """Return about this number of boxes, evenly chosen."""
    every = -(-len(kept.offset) // number) or 1
    return kept.select(np.arange(0, len(kept.offset), every))


def _curvature(
    measurement: Measurement,
    scene: _Scene,
    rows: Integers,
    kept: bx.Filled,
    params: IntegrationParams,
) -> Curvature:
    """Return the curvature of the background, determined from an even sample of the kept boxes."""
    kept = _thinned(kept, _FOR_CURVATURE)
    # Weak prior: at half a box from the centre, the level may be ten times the level at the centre.
    free = Curvature(np.zeros(3), 10 / np.median(0.5 * kept.shape, axis=0) ** 2)
    arguments = (measurement, scene, rows[kept.group.rows], kept, params)
    found = _integrated(*arguments, None, free, fits=kernels.SUMS)
    column = dict(zip(kernels.COLUMNS, found.columns[found.flags == 0].T, strict=True))
    counts = column["background"] * column["norm"] * column["n_background"]
    if not np.nanmedian(counts) >= _BACKGROUND_COUNTS:
        return Curvature()
    names = ("frame", "slow", "fast")
    bend = np.stack([column[f"bend_{name}"] for name in names], axis=1)
    variance = np.stack([column[f"var_bend_{name}"] for name in names], axis=1)
    return curvature_of(column["background"], bend, variance)


def _keys(spots: Spots) -> list[tuple[int, int, int, int]]:
    """Return keys that distinguish all crossings of reflections."""
    return [
        (*hkl, round(frame))
        for hkl, frame in zip(spots.hkl.tolist(), spots.frame.tolist(), strict=True)
    ]


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
    scene: _Scene,
    rows: Integers,
    filled: bx.Filled,
    params: IntegrationParams,
    curvature: Curvature,
    *,
    fits: int = kernels.SUMS,
) -> _Strong:
    """Integrate the filled boxes and choose the references."""
    mine = rows[filled.group.rows]
    found = _integrated(measurement, scene, mine, filled, params, None, curvature, fits=fits)
    ratio = found.columns[:, kernels.SUM] / np.sqrt(found.columns[:, kernels.VAR_SUM])
    likely = np.flatnonzero(ratio > 0.3 * params.strong)
    reach, frame = scene.half[mine, 0], scene.centre[mine, 0]
    whole = (frame > reach) & (frame < scene.n_frames - reach)
    whole &= scene.spots.zeta[mine] > params.min_zeta
    ratio[~(whole & (found.flags == 0) & (ratio >= params.strong))] = -1.0
    good = np.sort(ratio[ratio > 0])[::-1]
    least = good[params.references - 1] if len(good) > params.references else params.strong
    return _Strong(filled, likely, mine, np.flatnonzero(ratio >= least), found.columns)


class _Boxes(NamedTuple):
    """Arguments of the kernels for filled boxes."""

    voxels: kernels.Voxels
    places: kernels.Places
    norms: kernels.Norms
    neighbours: kernels.Neighbours


def _boxes(measurement: Measurement, scene: _Scene, spots: Integers, filled: bx.Filled) -> _Boxes:
    """Return the arguments of the kernels for the filled boxes of some spots."""
    start, near = bx.neighbours(bx.Boxes(filled.origin, filled.shape), spots, scene.cells)
    return _Boxes(
        kernels.Voxels(filled.counts, filled.offset, filled.origin, filled.shape),
        kernels.Places(
            scene.centre[spots], scene.sigma[spots], scene.half[spots], scene.error[spots]
        ),
        kernels.Norms(measurement.pixel_norm, measurement.frame_norm, _read_variance(measurement)),
        kernels.Neighbours(start, near, scene.centre, scene.half),
    )


def _wider(measurement: Measurement, scene: _Scene, found: _Strong, widths: Widths) -> Widths:
    """Return the widths that maximise the likelihood of the projected reference reflections."""
    scores = np.empty((len(found.local), 3, len(profiles.FACTORS)))
    boxes = _boxes(measurement, scene, found.spots, found.filled)
    learning_kernels.width_scores(*boxes, found.local, found.columns, profiles.FACTORS, scores)
    at = scene.spots.select(found.rows)
    counts = found.columns[found.local, kernels.COUNTS]
    return profiles.better_widths(widths, scores, at.slow, at.fast, counts)


def _change(before: Widths, after: Widths) -> float:
    """Return the largest ratio between two models of the widths, at the detector centre."""
    ratio = np.log(after.typical() / before.typical())
    return float(np.exp(np.abs(ratio).max()))


def _errors(scene: _Scene, found: _Strong) -> Floats:
    """Return the standard deviations (3,) of predicted centres, for frames at ζ = 1."""
    seen = found.columns[found.local, kernels.FRAME : kernels.FAST + 1]
    variance = found.columns[found.local, kernels.VAR_FRAME : kernels.VAR_FAST + 1]
    sigma = scene.sigma[found.rows]
    off = seen - scene.centre[found.rows]
    scale = np.ones_like(off)
    scale[:, 0] = scene.spots.zeta[found.rows]
    return profiles.position_errors(off * scale, variance * scale**2, sigma * scale)


def _profile(measurement: Measurement, scene: _Scene, found: _Strong) -> Profile:
    regions = profiles.regions_for(len(found.rows))
    spots = scene.spots.select(found.spots)
    region = profiles.region_of(spots, regions, scene.n_frames, scene.widths.shape)
    count = np.bincount(region[found.local], minlength=int(np.prod(regions)))
    predicted = _corrections(measurement, scene, found, region, len(count), moved=False)
    sharp = _corrections(measurement, scene, found, region, len(count), moved=True)
    return Profile(predicted, sharp, profiles.NODES, regions, count)


def _corrections(
    measurement: Measurement,
    scene: _Scene,
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
    boxes = _boxes(measurement, scene, found.spots, found.filled)
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


# ------------------------------------------------------------------------------- results


def _table(
    measurement: Measurement,
    scene: _Scene,
    rows: Integers,
    found: _Found,
    learned: _Learned,
    params: IntegrationParams,
) -> Integrated:
    spots = scene.spots.select(rows)
    column = dict(zip(kernels.COLUMNS, found.columns.T, strict=True))
    flags = found.flags.copy()
    volume = spots.volume
    sigma_frame = scene.sigma[rows, 0]
    cut = 1 - ndtr((scene.n_frames - spots.frame) / sigma_frame) + ndtr(-spots.frame / sigma_frame)
    flags[cut > _CUT] |= ReflectionFlag.PARTIAL
    flags[spots.absent] |= ReflectionFlag.ABSENT
    long = scene.long[rows]
    flags[long | (spots.zeta < params.min_zeta)] |= ReflectionFlag.LONG
    flags[~np.isfinite(column["profile"])] |= ReflectionFlag.NO_PROFILE
    with np.errstate(invalid="ignore"):
        strong = column["sum"] > _CLEARLY_SEEN * np.sqrt(column["var_sum"])
    flags[strong & (column["unlike"] > _UNLIKE)] |= ReflectionFlag.UNLIKE
    reference = np.array([key in learned.references for key in _keys(spots)], dtype=bool)
    flags[reference] |= ReflectionFlag.REFERENCE
    error = _profile_error(column, reference)
    unsure = _unsure(scene, rows, column, learned.widths)
    # Sums of reflections that do not fit the profile are used instead of the fits.
    contradiction = contradict(column, error) & ((flags & int(ReflectionFlag.UNLIKE)) == 0)
    flags[contradiction] |= ReflectionFlag.CONTRADICTION
    table = Reflections(
        hkl=spots.hkl,
        frame=spots.frame,
        slow=spots.slow,
        fast=spots.fast,
        zeta=spots.zeta,
        volume=volume,
        d=spots.d,
        intensity_sum=column["sum"] * volume,
        sigma_sum=np.sqrt(column["var_sum"]) * volume,
        intensity_profile=column["profile"] * volume,
        sigma_profile=np.sqrt(column["var_profile"] + (error * column["profile"]) ** 2) * volume,
        counts=column["counts"],
        recorded=column["recorded"],
        background=column["background"],
        background_sigma=np.sqrt(column["var_background"]),
        norm=column["norm"],
        observed_frame=column["frame"],
        observed_slow=column["slow"],
        observed_fast=column["fast"],
        var_frame=column["var_frame"] + unsure[:, 0],
        var_slow=column["var_slow"] + unsure[:, 1],
        var_fast=column["var_fast"] + unsure[:, 2],
        n_foreground=np.nan_to_num(column["n_foreground"]).astype(np.int64),
        n_background=np.nan_to_num(column["n_background"]).astype(np.int64),
        correlation=column["correlation"],
        flags=flags,
    )
    no_background = table.has(ReflectionFlag.NO_BACKGROUND)
    none = ~np.isfinite(table.intensity_sum)
    counters = {
        "predicted": len(scene.spots),
        "beyond the detector or the scan": len(scene.spots) - len(table),
        "too long": int(long.sum()),
        "no background": int((no_background & ~long).sum()),
        "too little recorded": int((none & ~no_background & ~long).sum()),
        "integrated": int((~none).sum()),
    }
    return Integrated(
        table,
        learned.widths,
        learned.profile,
        learned.curvature,
        column["chi2"],
        column["background_chi2"],
        error,
        counters,
    )


def _unsure(scene: _Scene, rows: Integers, column: dict[str, Floats], widths: Widths) -> Floats:
    """Return the largest variances (n, 3) of centroids due to an unknown width of the spot.

    A centroid of a narrow spot is known by its distance from the border of the voxel, in widths of
    the spot. The learned width contains errors of predictions, and a width at the lower limit is
    only an upper bound.
    """
    sigma, error = scene.sigma[rows], scene.error[rows]
    narrower = np.sqrt(np.maximum(sigma**2 - error**2, 0.0))
    if widths.bound:
        narrower[:, 0] = 0.0
    at = np.stack([column[name] for name in ("frame", "slow", "fast")], axis=1)
    var = np.stack([column[f"var_{name}"] for name in ("frame", "slow", "fast")], axis=1)
    off = (at - np.round(at)) * (1 - narrower / sigma)
    # Centres that are only known to be in a voxel do not depend on the width.
    tied = (sigma < profiles.NARROW) & (var < centre_kernels.VOXEL)
    return np.asarray(np.where(tied, np.minimum(off**2, centre_kernels.VOXEL - var), 0.0))


def contradict(column: dict[str, Floats], error: float) -> NDArray[np.bool_]:
    """Return True for reflections (n,) whose fit and sum differ far beyond noise.

    Fit and sum use the same voxels. If the fit is efficient, the variance of their difference is
    the difference of their variances.

    Parameters
    ----------
    error : float
        Relative error of the profile.
    """
    total, var = column["sum"], column["var_sum"]
    expected = np.maximum(var - column["var_profile"], 0) + _ALIKE_NOISE**2 * var
    expected += (_ALIKE**2 + error**2) * total**2
    with np.errstate(invalid="ignore"):
        return np.asarray((column["profile"] - total) ** 2 > _CONTRADICTION**2 * expected)


def _profile_error(column: dict[str, Floats], reference: NDArray[np.bool_]) -> float:
    """Return the scatter between fitted and summed intensities that exceeds counting statistics.

    Only reference reflections are used. Fit and sum use the same voxels, so the variance of their
    difference is the difference of their variances.
    """
    use = reference & np.isfinite(column["profile"]) & np.isfinite(column["sum"])
    if use.sum() < _FEWEST:
        return 0.0
    total = column["sum"][use]
    off = (column["profile"][use] - total) / total
    expected = np.maximum(column["var_sum"][use] - column["var_profile"][use], 0) / total**2
    scatter = (1.4826 * float(np.median(np.abs(off)))) ** 2
    return float(np.sqrt(max(scatter - float(np.median(expected)), 0.0)))
