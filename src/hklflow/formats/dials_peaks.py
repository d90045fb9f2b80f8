"""Convert peaks to rows of a DIALS reflection table, and back.

Positions count pixel centres as + 0.5 in both. A detector with modules has one panel for each
module, as `dials_expt` writes it; positions are then relative to the corner of the panel.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats import dials_refl
from hklflow.formats.dials_refl import INDEXED, OBSERVED, STRONG, Refl
from hklflow.geometry import BEAM, Detector, Rotation
from hklflow.peaks.table import PeakFlag, PeakTable

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Matrix from lab axes (x to the left, z along the beam) to the axes of dxtbx, and back.
TO_DXTBX = np.diag([-1.0, 1.0, -1.0])


def peaks_to_refl(
    peaks: PeakTable,
    rotation: Rotation,
    *,
    experiment: int = 0,
    identifier: str | None = None,
    first_image: int = 1,
    hkl: ArrayLike | None = None,
    indexed: ArrayLike | None = None,
) -> Refl:
    """Return the strong spots as `dials.index` needs them; with hkl, as `dials.refine` does.

    Parameters
    ----------
    peaks : PeakTable
        The n peaks.
    rotation : Rotation
        Geometry of the experiment.
    experiment : int
        Number of the experiment in the ``.expt`` file.
    identifier : str, optional
        Identifier of the experiment in that file.
    first_image : int
        Number of the image of frame 0.
    hkl : (n, 3) int array, optional
    indexed : (n,) bool array, optional
        True for peaks with indices; default: all, if `hkl` is given.

    Raises
    ------
    HklflowError
        If shapes differ.
    """
    n = len(peaks)
    panel, fast, slow = on_panels(rotation.detector, peaks.slow, peaks.fast)
    slow_mm, fast_mm = (1e3 * size for size in rotation.detector.pixel_size)
    sign = 1.0 if rotation.scan.step > 0 else -1.0  # see `dials_expt.write_expt`
    angle = sign * rotation.scan.angle(peaks.frame)
    variance = [peaks.var_fast, peaks.var_slow, peaks.var_frame]
    scale = np.array([fast_mm, slow_mm, abs(rotation.scan.step)]) ** 2
    columns: dict[str, NDArray[Any]] = {
        "id": np.full(n, experiment, np.int32),
        "imageset_id": np.full(n, experiment, np.int32),
        "panel": panel.astype(np.uint64),
        "flags": np.full(n, OBSERVED | STRONG, np.uint64),
        "xyzobs.px.value": np.stack([fast, slow, peaks.frame + first_image - 1], axis=1),
        "xyzobs.px.variance": np.stack(variance, axis=1),
        "xyzobs.mm.value": np.stack([fast * fast_mm, slow * slow_mm, angle], axis=1),
        "xyzobs.mm.variance": np.stack(variance, axis=1) * scale,
        "intensity.sum.value": peaks.intensity,
        "intensity.sum.variance": peaks.var_intensity,
    }
    if hkl is not None:
        columns |= _indexed(peaks, rotation, np.asarray(hkl), indexed, columns["flags"])
    identifiers = {} if identifier is None else {experiment: identifier}
    return Refl(columns, identifiers, n)


def _indexed(
    peaks: PeakTable, rotation: Rotation, hkl: NDArray[Any], indexed: ArrayLike | None, flags: Any
) -> dict[str, NDArray[Any]]:
    """Return the columns that refinement needs."""
    n = len(peaks)
    known = np.ones(n, bool) if indexed is None else np.asarray(indexed, dtype=np.bool_)
    if hkl.shape != (n, 3) or known.shape != (n,):
        raise HklflowError(
            f"{n} peaks, but indices of shape {hkl.shape} and marks of shape {known.shape}; give "
            "one index and one mark for each peak"
        )
    q = rotation.q_lab(peaks.slow, peaks.fast)
    s1 = (q + rotation.beam.k * BEAM) / (2 * np.pi) @ TO_DXTBX
    # The peak enters the Ewald sphere if, about the axis, d|s0 + r(φ)|/dφ < 0.
    axis = rotation.goniometer.scan_axis_lab() * np.sign(rotation.scan.step)
    entering = np.cross(axis, q)[:, 2] < 0
    return {
        "miller_index": np.where(known[:, None], hkl, 0).astype(np.int32),
        "s1": s1,
        "entering": entering,
        "flags": np.where(known, flags | np.uint64(INDEXED), flags),
    }


def refl_to_peaks(
    refl: Refl, rotation: Rotation, *, experiment: int = 0, first_image: int = 1
) -> tuple[PeakTable, Integers, Integers]:
    """Return the peaks of one experiment.

    Widths, numbers of voxels and largest counts come from the shoeboxes; without shoeboxes they
    are NaN and 0. DIALS does not measure the significance of a fit and chi²: here the significance
    is the intensity over its σ, and chi² is NaN.

    Parameters
    ----------
    refl : Refl
    rotation : Rotation
        Geometry of the experiment, from `dials_expt.read_expt` or from hklflow.
    experiment : int
        Value of the column ``id``. Spots that are not indexed have ``id`` -1 and their experiment
        in ``imageset_id``.
    first_image : int
        Number of the image of frame 0.

    Returns
    -------
    peaks : PeakTable
        Sorted by (frame, slow, fast).
    hkl : (n, 3) int array
        0 0 0 for peaks that are not indexed.
    rows : (n,) int array
        Row of each peak in `refl`.

    Raises
    ------
    HklflowError
        If the table has no observed positions, or a panel that the detector does not have.
    """
    table = refl.columns
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise HklflowError(
            f"the reflection table has no {', '.join(missing)}; give strong.refl, indexed.refl or "
            "another table of observed spots"
        )
    rows = np.flatnonzero(_in_experiment(table, experiment) & (table["flags"] & STRONG != 0))
    table = {name: column[rows] for name, column in table.items()}
    slow, fast = on_image(rotation.detector, table["panel"], table["xyzobs.px.value"])
    frame = table["xyzobs.px.value"][:, 2] - (first_image - 1)
    var_fast, var_slow, var_frame = table["xyzobs.px.variance"].T
    intensity, variance = table["intensity.sum.value"], table["intensity.sum.variance"]
    n = len(rows)
    boxes = table.get("shoebox", [dials_refl.NO_SHOEBOX] * n)
    moments = dials_refl.shoebox_moments(boxes)
    with np.errstate(divide="ignore", invalid="ignore"):
        significance = np.where(variance > 0, intensity / np.sqrt(variance), 0.0)
    order = np.lexsort((fast, slow, frame))
    single = np.where(moments.n_frames == 1, int(PeakFlag.SINGLE_FRAME), 0)
    peaks = PeakTable(
        frame=frame,
        slow=slow,
        fast=fast,
        var_frame=var_frame,
        var_slow=var_slow,
        var_fast=var_fast,
        width_frame=moments.width_frame,
        width_slow=moments.width_slow,
        width_fast=moments.width_fast,
        intensity=intensity,
        var_intensity=variance,
        background=moments.background,
        n_pixels=moments.n_voxels,
        n_frames=moments.n_frames,
        maximum=moments.maximum,
        significance=significance,
        chi2=np.full(n, np.nan),
        flags=single | int(PeakFlag.MOMENTS),
        counts={"peaks": n},
    )
    indices = np.zeros((n, 3), np.int64)
    if "miller_index" in table:
        indices[:] = table["miller_index"]
    return peaks.select(order), indices[order], rows[order]


_NEEDED = (
    *("id", "panel", "flags", "xyzobs.px.value", "xyzobs.px.variance"),
    *("intensity.sum.value", "intensity.sum.variance"),
)


def _in_experiment(table: dict[str, NDArray[Any]], experiment: int) -> NDArray[np.bool_]:
    matched = table["id"] == experiment
    if "imageset_id" in table:
        matched = matched | ((table["id"] < 0) & (table["imageset_id"] == experiment))
    return np.asarray(matched)


def on_panels(detector: Detector, slow: Floats, fast: Floats) -> tuple[Integers, Floats, Floats]:
    """Return panels, and positions (fast, slow) on them, of pixel coordinates of the image."""
    if detector.modules is None:
        return np.zeros(len(slow), np.int64), fast, slow
    panel = detector.modules.nearest(slow, fast)
    corner = detector.modules.rectangles[panel]
    return panel, fast - corner[:, 2], slow - corner[:, 0]


def on_image(detector: Detector, panel: NDArray[Any], position: Floats) -> tuple[Floats, Floats]:
    """Return image coordinates (slow, fast) of positions (fast, slow, z) on panels."""
    n = 1 if detector.modules is None else len(detector.modules)
    if np.any(panel >= n):
        raise HklflowError(
            f"spots on panel {int(panel.max())}, but the detector has {n} panels; give the .expt "
            "file that belongs to these reflections"
        )
    if detector.modules is None:
        return position[:, 1], position[:, 0]
    corner = detector.modules.rectangles[panel.astype(np.int64)]
    return position[:, 1] + corner[:, 0], position[:, 0] + corner[:, 2]
