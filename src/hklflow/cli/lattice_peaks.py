"""Intensities of found peaks, and of reflections without a peak, for `hklflow lattice suggest`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow.base.errors import HklflowError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry import Rotation
    from hklflow.orientation.product import Orientation
    from hklflow.peaks.table import PeakTable

    Columns = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]

_TOLERANCE = 0.2  # largest deviation of an indexed peak from whole Miller indices
_MARGIN = 3.0  # frames and pixels at ends and edges where no peak is expected
_GRAZING = 0.1  # smallest ζ of an expected peak
_LIMIT = 10.0  # percentile of the found intensities that a reflection without peak may have


def observations(paths: Sequence[Path], orientation: "Orientation") -> "Columns":
    """Return hkl (n, 3), intensities and errors (n,) of peaks, and 0 for reflections without one.

    Raises
    ------
    HklflowError
        If the number of peak tables is not the number of rotations, or no peak is indexed.
    """
    import numpy as np

    from hklflow import nexus

    rotations = list(orientation.rotations.values())
    if len(paths) != len(rotations):
        raise HklflowError(
            f"{len(paths)} peak tables are given for the {len(rotations)} rotations "
            f"{', '.join(orientation.rotations)}; give one of each, in this order"
        )
    parts = [
        _of_rotation(nexus.read_peaks(path), rotation, orientation)
        for path, rotation in zip(paths, rotations, strict=True)
    ]
    hkl, value, error, found, expected = (np.concatenate(x) for x in zip(*parts, strict=True))
    limit = float(np.percentile(value, _LIMIT))
    missing = _without_peak(found, expected)
    hkl = np.concatenate([hkl, missing])
    value = np.concatenate([value, np.zeros(len(missing))])
    error = np.concatenate([error, np.full(len(missing), limit)])
    return hkl, value, error


def _without_peak(found: "NDArray[np.int64]", expected: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Return reflections without peak that were expected at two or more places.

    A single place may be in a gap of the detector or behind the beam stop.
    """
    import numpy as np

    from hklflow.bragg.unmerged import hemisphere

    unique, n = np.unique(hemisphere(expected), axis=0, return_counts=True)
    known = set(map(tuple, hemisphere(found).tolist()))
    several = [i for i, row in enumerate(unique.tolist()) if n[i] > 1 and tuple(row) not in known]
    missing: NDArray[np.int64] = unique[several]
    return missing


def _of_rotation(
    peaks: "PeakTable", rotation: "Rotation", orientation: "Orientation"
) -> "tuple[NDArray[Any], ...]":
    """Return whole peaks (hkl, I, σ; Lorentz factor corrected), hkl of all peaks, expected hkl."""
    import numpy as np

    from hklflow.geometry import lattice
    from hklflow.geometry.prediction import predict
    from hklflow.peaks.table import NOT_WHOLE

    free = rotation.hkl(orientation.ub, peaks.frame, peaks.slow, peaks.fast)
    hkl = np.rint(free).astype(np.int64)
    indexed = np.abs(free - hkl).max(axis=1, initial=0) < _TOLERANCE
    whole = indexed & ((peaks.flags & int(NOT_WHOLE)) == 0)
    if not whole.any():
        raise HklflowError(
            f"none of {len(peaks.frame)} peaks is whole and indexed by this orientation; integrate "
            "the scan, or give the orientation of these peaks"
        )
    q = np.linalg.norm(hkl[whole] @ orientation.ub.T, axis=1)
    # The Lorentz factor is 1/(ζ sin 2θ), and sin θ = |Q|/(2k).
    zeta = _zeta(rotation, orientation.ub, hkl[whole], peaks.frame[whole])
    factor = zeta * np.sin(2 * np.arcsin(np.clip(q / (2 * rotation.beam.k), 0, 1)))
    value = peaks.intensity[whole] * factor
    error = np.sqrt(peaks.var_intensity[whole]) * factor
    fine = np.isfinite(value) & (factor > 0)
    indices = lattice.indices_within(orientation.cell, float(np.percentile(q, 95)))
    predicted = predict(rotation, orientation.ub, indices, margin=-_MARGIN)
    expected = indices[predicted.index[predicted.zeta > _GRAZING]]
    expected = expected[np.any(expected != 0, axis=1)]
    return hkl[whole][fine], value[fine], error[fine], hkl[indexed], expected


def _zeta(
    rotation: "Rotation",
    ub: "NDArray[np.float64]",
    hkl: "NDArray[np.int64]",
    frame: "NDArray[np.float64]",
) -> "NDArray[np.float64]":
    """Return ζ of each peak: that of its nearest predicted crossing, NaN without one."""
    import numpy as np

    from hklflow.geometry.prediction import predict

    predicted = predict(rotation, ub, hkl, margin=5.0)
    zeta, nearest = np.full(len(hkl), np.nan), np.full(len(hkl), np.inf)
    away = np.abs(predicted.frame - frame[predicted.index])
    for i in np.argsort(-away):
        row = predicted.index[i]
        if away[i] <= nearest[row]:
            zeta[row], nearest[row] = predicted.zeta[i], away[i]
    return zeta
