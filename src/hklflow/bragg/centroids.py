"""Choose the spots for a refinement: found peaks, and centroids of integrated reflections.

If a reflection was also found as a peak, only the peak is used. If this peak was rejected as a
maximum of the diffuse scattering, the reflection is not used, because the diffuse scattering shifts
its centroid. Some peaks are held out to judge the refinements. These peaks and their integrated
reflections are never fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg import boxes
from hklflow.bragg.predicted import Spots
from hklflow.bragg.profiles import Widths
from hklflow.bragg.reflections import ReflectionFlag, Reflections
from hklflow.geometry import Rotation
from hklflow.orientation import arcs
from hklflow.orientation.residuals import Peaks, compare

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

_SAME_SPOT = 4.0  # pixels; largest distance of a peak from the prediction of its reflection
_OUTLIER = 5.0  # robust standard deviations

#: Possible results of `judge` for an integrated reflection; the first that applies is taken.
FATES = (
    "held out",
    "found as a peak",
    "found as a maximum",
    "partial",
    "overlap",
    "overload",
    "no background",
    "long",
    "cut by edge or mask",
    "weak",
    "unlike the profile",
    "far from its prediction",
    "grazing",
    "given to the refinement",
)
_UNFIT = (
    ReflectionFlag.PARTIAL,
    ReflectionFlag.OVERLAP,
    ReflectionFlag.OVERLOAD,
    ReflectionFlag.NO_BACKGROUND,
    ReflectionFlag.LONG,
    ReflectionFlag.EDGE | ReflectionFlag.MASKED,
)


@dataclass(frozen=True)
class Acceptance:
    """Criteria for using a centroid.

    Attributes
    ----------
    significance : float
        Smallest intensity over its σ.
    correlation : float
        Smallest correlation with the learned profile.
    zeta : float
        Smallest ζ; reflections with a smaller ζ cross the Ewald sphere more slowly.
    """

    significance: float
    correlation: float
    zeta: float = 0.05


def hold_out(peaks: Sequence[Peaks]) -> list[Mask]:
    """Choose the peaks to hold out: 1 of 20; if there are few peaks, up to 1 of 5.

    With 400 peaks or more, `orientation.refinement.refine` holds out the same peaks of this list.
    The starting model is then also independent of the held-out peaks.
    """
    sizes = [len(p.frame) for p in peaks]
    every = int(np.clip(sum(sizes) // 20, 5, 20))
    held = np.arange(sum(sizes)) % every == every // 2
    return np.split(held, np.cumsum(sizes)[:-1])


def without(peaks: Peaks, fewer: Peaks) -> Peaks:
    """Return the peaks of a list that are not in ``fewer``, a part of the same list."""
    left = {tuple(row) for row in fewer.position.tolist()}
    return peaks.select(np.array([tuple(x) not in left for x in peaks.position.tolist()], np.bool_))


def same_reflection(hkl: Integers, at: Floats, table: Reflections | Spots) -> Integers:
    """Return the rows (n,) of the reflections of the peaks; -1 for peaks without a reflection.

    Parameters
    ----------
    hkl : (n, 3) int array
    at : (n, 3) array
        Positions of the peaks (slow, fast, frame).
    table : Reflections or Spots
    """
    _, number = np.unique(np.concatenate([hkl, table.hkl]), axis=0, return_inverse=True)
    mine, theirs = np.split(number.ravel(), [len(hkl)])
    order = np.argsort(theirs, kind="stable")
    first = np.searchsorted(theirs[order], mine, "left")
    last = np.searchsorted(theirs[order], mine, "right")
    found, least = np.full(len(hkl), -1, dtype=np.int64), np.full(len(hkl), np.inf)
    # A reflection crosses the sphere only a few times.
    for step in range(int(np.max(last - first, initial=0))):
        rows = np.flatnonzero(first + step < last)
        there = order[first[rows] + step]
        far = np.hypot(at[rows, 0] - table.slow[there], at[rows, 1] - table.fast[there])
        frames = np.abs(at[rows, 2] - table.frame[there])
        nearer = (far < _SAME_SPOT) & (frames < least[rows])
        found[rows[nearer]], least[rows[nearer]] = there[nearer], frames[nearer]
    return found


def found_as_peaks(
    peaks: Peaks, rotation: Rotation, ub: Floats, tolerance: float, spots: Spots
) -> Mask:
    """Return a mask of the predicted spots (n,): True for spots that the peak search found.

    Parameters
    ----------
    ub : (3, 3) array
        Orientation matrix, 1/Å.
    tolerance : float
        Largest deviation of h, k and l of a peak from integers.
    """
    miller = rotation.hkl(ub, peaks.frame, peaks.slow, peaks.fast)
    hkl = np.rint(miller).astype(np.int64)
    indexed = np.abs(miller - hkl).max(axis=1) < tolerance
    rows = same_reflection(hkl[indexed], peaks.position[indexed], spots)
    return np.isin(np.arange(len(spots)), rows)


def placed(
    table: Reflections, rotation: Rotation, widths: Widths, n_sigma: float, spread: float
) -> Reflections:
    """Correct centroids for the arcs of a mosaic crystal: return the spots of the mean block.

    Parameters
    ----------
    widths : Widths
        Widths used in the integration.
    n_sigma : float
        Half axes of the foregrounds in units of the widths.
    spread : float
        Mosaic spread, radian².
    """
    half = boxes.half_axes(widths.at(table.zeta, table.slow, table.fast), n_sigma)[:, 1:]
    off = arcs.within(rotation, table.slow, table.fast, half, spread, widths.mosaic)
    changed = {}
    for name, by in zip(("slow", "fast", "frame"), off, strict=True):
        changed[f"observed_{name}"] = getattr(table, f"observed_{name}") - by
        changed[f"var_{name}"] = getattr(table, f"var_{name}") + (arcs.UNSURE * by) ** 2
    return replace(table, **changed)


def judge(
    table: Reflections,
    rotation: Rotation,
    ub: Floats,
    found: Integers,
    held: Integers,
    accept: Acceptance,
    offset: Floats | None = None,
    maxima: Integers | None = None,
) -> Integers:
    """Return the index (n,) in `FATES` for each integrated reflection.

    Parameters
    ----------
    rotation : Rotation
        Model for the test of centroids against predictions.
    ub : (3, 3) array
        Orientation matrix, 1/Å.
    found, held : int arrays
        Rows of reflections with a fitted peak, and with a held-out peak.
    offset : (3,) array or None
        Displacement of the crystal from the axis, see `orientation.residuals.compare`.
    maxima : int array or None
        Rows of reflections whose peaks were rejected as maxima of the diffuse scattering.
    """
    n = len(table)
    observed = np.stack([table.observed_slow, table.observed_fast, table.observed_frame], axis=1)
    variance = np.stack([table.var_slow, table.var_fast, table.var_frame], axis=1)
    measured = np.isfinite(observed).all(axis=1) & np.isfinite(variance).all(axis=1)
    measured &= np.all(np.nan_to_num(variance) > 0, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        significance = np.nan_to_num(table.intensity_sum / table.sigma_sum)
    like = np.nan_to_num(table.correlation) >= accept.correlation
    like &= ~table.has(ReflectionFlag.UNLIKE | ReflectionFlag.CONTRADICTION)
    at = np.where(measured[:, None], observed, np.stack([table.slow, table.fast, table.frame], 1))
    off, zeta = compare(rotation, ub, table.hkl.astype(np.float64), at, offset)
    none = np.zeros(0, np.int64)
    in_found, in_held, in_maxima = (
        np.isin(np.arange(n), rows) for rows in (found, held, none if maxima is None else maxima)
    )
    bad = [in_held, in_found, in_maxima, *(table.has(flag) for flag in _UNFIT)]
    bad += [~(measured & (significance >= accept.significance)), ~like]
    still = ~np.any(bad, axis=0) & np.isfinite(off).all(axis=1) & (zeta > accept.zeta)
    far = np.zeros(n, dtype=np.bool_)
    if still.any():
        weighted = np.abs(off[still]) / np.sqrt(variance[still])
        scatter = np.maximum(1.4826 * np.median(weighted, axis=0), 0.1)
        far[still] = np.any(weighted > _OUTLIER * scatter, axis=1)
    bad += [far, ~(np.isfinite(off).all(axis=1) & (zeta > accept.zeta))]
    fate: Integers = np.argmax(np.stack([*bad, np.ones(n, dtype=np.bool_)]), axis=0)
    return fate


def joined(peaks: Peaks, table: Reflections, use: Mask, floor: Floats) -> Peaks:
    """Append the centroids of the used reflections to the peaks.

    Parameters
    ----------
    floor : (3,) array
        Variances (slow, fast, frame) to add to the variances from counting statistics.
    """
    columns = ("observed_frame", "observed_slow", "observed_fast")
    values = [getattr(table, name)[use] for name in columns]
    variances = [
        table.var_frame[use] + floor[2],
        table.var_slow[use] + floor[0],
        table.var_fast[use] + floor[1],
    ]
    names = Peaks.__dataclass_fields__
    return Peaks(
        *(
            np.concatenate([getattr(peaks, name), more])
            for name, more in zip(names, [*values, *variances], strict=True)
        )
    )
