"""Integrate predicted reflections on the frames of one rotation."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from hklflow.bragg import boxes as bx
from hklflow.bragg import centre_kernels, kernels, profiles
from hklflow.bragg.background import Curvature
from hklflow.bragg.collected import Collected, around
from hklflow.bragg.learning import FEWEST, Learned, keys, learn
from hklflow.bragg.measurement import Measurement
from hklflow.bragg.predicted import Spots, predicted_spots
from hklflow.bragg.profiles import Profile, Widths
from hklflow.bragg.reflections import ReflectionFlag, Reflections
from hklflow.bragg.scene import Blocks, Found, Frames, IntegrationParams, Scene, Shown, integrated
from hklflow.geometry.symmetry import SpaceGroup
from hklflow.peaks.table import PeakTable

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# A reflection is partial if more than this part of it is before or after the scan.
_CUT = 0.005
# Number of predicted spots among which strong ones are searched: if no peaks are given, and in
# addition to given peaks.
_SAMPLE = 20000
_OTHERS = 1000
# Largest number of strong peaks that are tried for each reference.
_TRIED = 1.5
# Chi² and I/σ above which a reflection is flagged as unlike the profile, see `kernels.UNLIKE`.
_UNLIKE = 4.0
_CLEARLY_SEEN = 10.0
# Fit and sum contradict each other if they differ by this number of standard deviations; relative
# error of both that is always tolerated, and the same in standard deviations of the sum.
_CONTRADICTION = 6.0
_ALIKE = 0.02
_ALIKE_NOISE = 0.3


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
    if peaks is not None and len(rows) >= FEWEST:
        widths = profiles.widths_of_peaks(peaks.select(matching), spots.zeta[rows], shape, step)
    else:
        widths = profiles.constant_widths(abs(step), (1.5, 1.5), shape, step)
    widths = _as_told(widths, params)
    # Peaks mark strong reflections; the other spots are used for the background.
    rows = rows[: int(_TRIED * params.references)]
    sample = _SAMPLE if len(rows) < 5 * FEWEST else _OTHERS
    others = np.random.default_rng(0).permutation(len(spots))[:sample]
    rows = np.concatenate([rows, np.setdiff1d(others, rows)])

    def predicted(
        widths: Widths, more: float, errors: Floats | None = None
    ) -> tuple[Scene, Integers]:
        """Return all spots that touch the scan, and the rows of those within ``more`` of it."""
        margin = np.ceil(bx.half_axes(widths.typical(), params.n_sigma).max()) + more
        spots = predicted_spots(rotation, ub, group, d_min, float(margin))
        return (scene := Scene(spots, widths, params, n_frames, errors)), scene.recorded(more)

    def wanted(widths: Widths) -> bx.Boxes:
        """Return the boxes to collect: widths and predictions may change a little."""
        scene, rows = predicted(widths, 2.0)
        rows = rows[2 * scene.half[rows, 0] < 1.2 * params.max_frames]
        return around(scene.centre[rows], scene.half[rows])

    if collected is None:
        collected = Collected(0.5e6 * params.memory)
    frames = Frames(measurement, collected, wanted, shown or _unseen)
    learned = learn(frames, spots, rows, widths, params)
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


def _run(
    frames: Frames,
    scene: Scene,
    rows: Integers,
    skip: NDArray[np.bool_],
    learned: Learned,
    params: IntegrationParams,
    label: str,
) -> Found:
    """Integrate the spots `rows`; NaN for spots that are too long or to ``skip`` (n,)."""
    short = np.flatnonzero(~scene.long[rows] & ~skip)
    boxes = bx.Boxes.around(scene.centre[rows[short]], scene.half[rows[short]])
    columns = np.full((len(rows), len(kernels.COLUMNS)), np.nan)
    flags = np.zeros(len(rows), np.int64)
    for filled in frames.filled(boxes, scene.widths, 1e6 * params.memory, label):
        mine = short[filled.group.rows]
        arguments = (frames.measurement, scene, rows[mine], filled, params)
        found = integrated(*arguments, learned.profile, learned.curvature)
        columns[mine], flags[mine] = found.columns, found.flags
    return Found(columns, flags)


def _table(
    measurement: Measurement,
    scene: Scene,
    rows: Integers,
    found: Found,
    learned: Learned,
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
    reference = np.array([key in learned.references for key in keys(spots)], dtype=bool)
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


def _unsure(scene: Scene, rows: Integers, column: dict[str, Floats], widths: Widths) -> Floats:
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
    if use.sum() < FEWEST:
        return 0.0
    total = column["sum"][use]
    off = (column["profile"][use] - total) / total
    expected = np.maximum(column["var_sum"][use] - column["var_profile"][use], 0) / total**2
    scatter = (1.4826 * float(np.median(np.abs(off)))) ** 2
    return float(np.sqrt(max(scatter - float(np.median(expected)), 0.0)))
