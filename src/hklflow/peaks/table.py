"""What a peak search is told and what it returns: parameters, flags, table."""

from dataclasses import dataclass, fields
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Columns that a peak fills, in the order of `Peaks`.
FIELDS = (
    *("frame", "slow", "fast", "var_frame", "var_slow", "var_fast"),
    *("width_frame", "width_slow", "width_fast", "intensity", "var_intensity", "background"),
    *("n_pixels", "n_frames", "maximum", "significance", "chi2", "flags"),
)


class PeakFlag(IntFlag):
    """What to know about a peak before it is used.

    ``EDGE`` within two widths of the detector's edge or beyond it; ``MASKED`` invalid
    voxels within two widths; ``SCAN_END`` within two widths of the scan's first or last
    frame; ``LONG`` four widths cover more frames than `PeakParams.max_frames`; ``OVERLAP``
    fitted together with a touching peak; ``SINGLE_FRAME`` contained in one frame: its
    centre is the middle of it, with the variance 1/12; ``OVERLOAD`` has saturated voxels,
    which the fit leaves out; ``MOMENTS`` the fit did not converge and the row holds
    moments of the counts above background; ``FIT_FAILED`` not even those could be had, and
    the row only says where the strong voxels are; ``WIDEST`` its width on the detector is the
    largest that the fit allows, half of `PeakParams.window`: it may be wider.
    """

    EDGE = 1
    MASKED = 2
    SCAN_END = 4
    LONG = 8
    OVERLAP = 16
    SINGLE_FRAME = 32
    FIT_FAILED = 64
    OVERLOAD = 128
    MOMENTS = 256
    WIDEST = 512


UNUSABLE = PeakFlag.FIT_FAILED | PeakFlag.SCAN_END | PeakFlag.OVERLOAD
"""Peaks whose centroid cannot be trusted; those at edges and gaps are fitted well."""
NOT_WHOLE = (
    PeakFlag.EDGE
    | PeakFlag.MASKED
    | PeakFlag.SCAN_END
    | PeakFlag.LONG
    | PeakFlag.OVERLAP
    | PeakFlag.FIT_FAILED
    | PeakFlag.OVERLOAD
    | PeakFlag.MOMENTS
)
"""Peaks whose intensity or width is not that of one whole reflection."""


@dataclass(frozen=True)
class PeakParams:
    """What counts as a peak.

    Parameters
    ----------
    n_sigma
        Standard deviations by which a box of 1, 3 or 5 voxels must exceed its background.
    threshold
        Counts above which a voxel is strong whatever its background.
    window
        Half size of the background's window, pixels; wider than a peak. Standard deviations
        of a peak are at most half of it.
    gain
        Variance of the counts over the counts: 1 for a counting detector, more for an
        integrating one. None measures it on the background of the first frame, with what
        the background's texture adds.
    min_pixels
        Least number of voxels within two widths that exceed the background by its noise;
        a cosmic ray or a hot pixel on one frame has one.
    min_significance
        Least intensity over its Poisson uncertainty (see `Peaks`). With all parameters
        free half of it is asked, unless an edge or a gap cuts the peak.
    max_frames
        Blobs on more frames than this are rejected: hot pixels, streaks, ice.
    max_pixels
        Blobs that extend over more pixels than this in slow or fast are rejected.
    margin_pixels, margin_frames
        Added on each side of the strong voxels for the fit.
    prominence
        Standard deviations by which a maximum rises above its pass to be a peak by itself.
    saturation
        Counts from which a voxel is saturated: found, but left out of the fit.
    invalid_from
        Counts from which a value is a flag and not a measurement.
    valid_from
        Counts below which a float is one; of integers negative ones always are.

    Raises
    ------
    HklflowError
        If a value is out of range.
    """

    n_sigma: float
    threshold: float
    window: int
    gain: float | None
    min_pixels: int
    min_significance: float
    max_frames: int
    max_pixels: int
    margin_pixels: int
    margin_frames: int
    prominence: float
    saturation: float = np.inf
    invalid_from: float = np.inf
    valid_from: float = 0.0

    def __post_init__(self) -> None:
        limits = {
            "n_sigma": 1.0,
            "threshold": 0.0,
            "window": 2,
            "min_pixels": 1,
            "min_significance": 0.0,
            "max_frames": 1,
            "max_pixels": 1,
            "margin_pixels": 1,
            "margin_frames": 1,
            "prominence": 0.0,
            "saturation": 1.0,
            "invalid_from": 1.0,
        }
        if self.gain is not None and not 0 < self.gain < np.inf:
            raise HklflowError(
                f"gain = {self.gain} in the peak search; give a positive number of counts "
                "per photon, or None to measure it"
            )
        for name, least in limits.items():
            value = getattr(self, name)
            if not value >= least:
                raise HklflowError(
                    f"{name} = {value} in the peak search is too small; give at least {least:g}"
                )


@dataclass(frozen=True)
class Peaks:
    """Table of peaks, sorted by (frame, slow, fast); all arrays have the shape (n,).

    Parameters
    ----------
    frame, slow, fast
        Centroid in the convention of `hklflow.geometry.frames`.
    var_frame, var_slow, var_fast
        Variances of the centroid from counting statistics, times chi2 where that is above
        one, plus the floor.
    width_frame, width_slow, width_fast
        Standard deviations of the peak, frames and pixels.
    intensity, var_intensity
        Counts of the whole peak above background, also of its parts in gaps and beyond
        edges, and their variance with all parameters free.
    background
        Counts per voxel at the centre.
    n_pixels, n_frames
        Voxels within two widths that exceed the background by its noise, and frames with
        such voxels.
    maximum
        Largest counts in a valid voxel within two widths.
    significance
        Intensity over its Poisson uncertainty with background, for the fitted shape:
        ``A sqrt(sum P² / mu)``.
    chi2
        Pearson's chi² of the fit per degree of freedom; NaN where there is no fit.
    flags
        Bits of `PeakFlag`.
    counts
        ``candidates = peaks + too_long + too_large + too_small + insignificant +
        duplicate``; ``blobs`` is the number of connected blobs, ``candidates - blobs`` the
        number that splitting added, ``frames`` the number of frames seen.
    afterglow
        Fields of `peaks.afterglow.Afterglow`; None where it was not measured.
    """

    frame: F64
    slow: F64
    fast: F64
    var_frame: F64
    var_slow: F64
    var_fast: F64
    width_frame: F64
    width_slow: F64
    width_fast: F64
    intensity: F64
    var_intensity: F64
    background: F64
    n_pixels: I64
    n_frames: I64
    maximum: F64
    significance: F64
    chi2: F64
    flags: I64
    counts: dict[str, int]
    afterglow: dict[str, Any] | None = None

    def __len__(self) -> int:
        return int(self.frame.size)

    def select(self, keep: NDArray[np.bool_] | I64) -> "Peaks":
        """Rows chosen by a mask or by indices; what is of the search stays."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen = {n: x[keep] for n, x in columns.items() if isinstance(x, np.ndarray)}
        return Peaks(**columns | chosen | {"counts": dict(self.counts)})


def significant(rows: F64, least: float) -> NDArray[np.bool_]:
    """Whether rows (n, len(FIELDS)) are peaks and not fluctuations.

    A wide bump of the background passes as a known shape, not with all parameters free. A
    peak that is cut by an edge or a gap need not: its total is an extrapolation.
    """
    column = {name: rows[:, k] for k, name in enumerate(FIELDS)}
    cut = (column["flags"].astype(np.int64) & (PeakFlag.EDGE | PeakFlag.MASKED)) != 0
    free = column["intensity"] >= 0.5 * least * np.sqrt(column["var_intensity"])
    return np.asarray((column["significance"] >= least) & (cut | free))


def without_duplicates(columns: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Keep the most significant of peaks that are nearer to each other than their widths.

    The two sides of a reflection that a wide gap divides are fitted to the same centre.
    """
    at = np.stack([columns[n] for n in ("frame", "slow", "fast")], axis=1)
    width = np.stack([columns[f"width_{n}"] for n in ("frame", "slow", "fast")], axis=1)
    width = np.maximum(width, 0.5)
    keep = np.ones(len(at), bool)
    if len(at) < 2:
        return keep
    from scipy.spatial import cKDTree

    pairs = cKDTree(at).query_pairs(float(np.percentile(width, 99)) * 2.0, output_type="ndarray")
    apart = np.abs(at[pairs[:, 0]] - at[pairs[:, 1]]) / np.maximum(
        width[pairs[:, 0]], width[pairs[:, 1]]
    )
    same = pairs[(apart < 1.0).all(axis=1)]
    strength = columns["significance"]
    for a, b in same[np.lexsort((same[:, 1], same[:, 0]))]:
        if keep[a] and keep[b]:
            keep[b if strength[a] >= strength[b] else a] = False
    return keep
