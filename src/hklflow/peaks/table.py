"""Parameters, flags and table of a peak search."""

from dataclasses import dataclass, fields
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Columns of a peak, in the order of `PeakTable`.
FIELDS = (
    *("frame", "slow", "fast", "var_frame", "var_slow", "var_fast"),
    *("width_frame", "width_slow", "width_fast", "intensity", "var_intensity", "background"),
    *("n_pixels", "n_frames", "maximum", "significance", "chi2", "flags"),
)


class PeakFlag(IntFlag):
    """Flags of a peak.

    ``EDGE``: within two widths of the detector's edge or outside it; ``MASKED``: invalid voxels
    within two widths; ``SCAN_END``: within two widths of the first or last frame of the scan;
    if the fitted centre is beyond the scan, ``frame`` is the end of the scan, and the distance is
    part of ``var_frame``;
    ``LONG``: four widths cover more frames than `PeakParams.max_frames`; ``OVERLAP``: fitted
    together with a touching peak; ``SINGLE_FRAME``: contained in one frame, so its centre is the
    middle of the frame with the variance 1/12; ``OVERLOAD``: has saturated voxels, which the fit
    leaves out; ``MOMENTS``: the fit did not converge, and the row has moments of the counts above
    background; ``FIT_FAILED``: the moments failed, too, and the row has only the position of the
    strong voxels; ``WIDEST``: the fitted width on the detector is at its upper limit, half of
    `PeakParams.window`, and the true width may be larger.
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
"""Flags of peaks with unreliable centroids; peaks at edges and gaps are fitted well."""
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
"""Flags of peaks whose intensity or width does not belong to a single, complete reflection."""


@dataclass(frozen=True)
class PeakParams:
    """Criteria of the peak search.

    Parameters
    ----------
    n_sigma
        Standard deviations by which a box of 1, 3 or 5 voxels must exceed its background.
    threshold
        Counts above which a voxel is strong, whatever its background.
    window
        Half size of the window for the background, pixels; it must be wider than a peak. The
        standard deviations of a peak are limited to half of this size.
    gain
        Ratio variance/mean of the counts: 1 for a counting detector, larger for an integrating
        detector. None: estimated from the background of the first frame, including the texture of
        the background.
    min_pixels
        Smallest number of voxels within two widths that exceed the background by its noise; a
        cosmic ray, or a hot pixel on one frame, has only one such voxel.
    min_significance
        Smallest ratio of intensity to its Poisson error (see `PeakTable`). With all parameters
        free, half of this ratio is required, unless an edge, a gap or an end of the scan cuts
        the peak.
    max_frames
        Largest number of frames of a blob; longer blobs (hot pixels, streaks, ice) are rejected.
    max_pixels
        Largest extent of a blob along slow or fast, pixels; larger blobs are rejected.
    margin_pixels, margin_frames
        Margin of the fit on each side of the strong voxels.
    prominence
        Standard deviations by which a separate maximum must exceed the pass to the next maximum.
    saturation
        Smallest count of a saturated voxel. Saturated voxels are found, but excluded from the fit.
    invalid_from
        Smallest value that is a flag instead of a measurement.
    valid_from
        Smallest valid value of floats; negative integers are always flags.

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
class PeakTable:
    """Table of peaks, sorted by (frame, slow, fast); all arrays have the shape (n,).

    Parameters
    ----------
    frame, slow, fast
        Centroid in the convention of `hklflow.geometry.frames`.
    var_frame, var_slow, var_fast
        Variances of the centroid: from counting statistics, times chi2 if chi2 is above 1, plus the
        error floor.
    width_frame, width_slow, width_fast
        Standard deviations of the peak, frames and pixels.
    intensity, var_intensity
        Counts of the whole peak above background, including its parts in gaps and beyond edges,
        and their variance with all parameters free.
    background
        Counts per voxel at the centre.
    n_pixels, n_frames
        Number of voxels within two widths that exceed the background by its noise, and number of
        frames with such voxels.
    maximum
        Largest counts of a valid voxel within two widths.
    significance
        Ratio of intensity to its Poisson error with background, for the fitted shape:
        ``A sqrt(sum P² / mu)``.
    chi2
        Pearson's chi² of the fit per degree of freedom; NaN without a fit.
    flags
        Bits of `PeakFlag`.
    counts
        ``candidates = peaks + too_long + too_large + too_small + insignificant + duplicate``;
        ``blobs`` is the number of connected blobs, ``candidates - blobs`` the number that
        splitting added, ``frames`` the number of frames read.
    afterglow
        Fields of `peaks.afterglow.Afterglow`; None if the afterglow was not measured.
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

    def select(self, keep: NDArray[np.bool_] | I64) -> "PeakTable":
        """Return the rows chosen by a mask or by indices; counts of the search are kept."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen = {n: x[keep] for n, x in columns.items() if isinstance(x, np.ndarray)}
        return PeakTable(**columns | chosen | {"counts": dict(self.counts)})


def cut_by_ends(frame: F64, width: F64, n_frames: float) -> NDArray[np.bool_]:
    """Return a mask of peaks (n,): True within two widths of the first or last frame of a scan.

    ``n_frames`` is infinite while the end of the scan is not known.
    """
    return np.asarray((frame - 2 * width < 0) | (frame + 2 * width > n_frames))


def significant(rows: F64, least: float, n_frames: float) -> NDArray[np.bool_]:
    """Return a mask of rows (n, len(FIELDS)): True for peaks, False for fluctuations.

    A wide feature of the background may pass the test with a fixed shape, but not the test with all
    parameters free. The second test is omitted for a peak that an edge, a gap or an end of the scan
    cuts, because its intensity is extrapolated.
    """
    column = {name: rows[:, k] for k, name in enumerate(FIELDS)}
    cut = (column["flags"].astype(np.int64) & (PeakFlag.EDGE | PeakFlag.MASKED)) != 0
    cut |= cut_by_ends(column["frame"], column["width_frame"], n_frames)
    free = column["intensity"] >= 0.5 * least * np.sqrt(column["var_intensity"])
    return np.asarray((column["significance"] >= least) & (cut | free))


def without_duplicates(columns: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Return a mask that keeps the most significant of peaks closer together than their widths.

    Such duplicates occur if a wide gap divides a reflection: both sides give the same centre.
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
