"""Find spots that are not reflections of the crystal: of diamond anvils, of a second crystal.

They rotate with the sample, and a pixel that they cross counts more than all other measurements of
the same S(Q). These are compared with their median, which a few spots do not change.
"""

import numpy as np
from numpy.typing import NDArray

from hklflow.transform.repeats import Records

Floats = NDArray[np.float64]

_OUTLIER = 6.0
_DIFFERENT = 0.3  # S(Q) times the transmission differs by this fraction within an orbit at most
_PRIOR_COUNTS = 0.5  # of a record, so that a median of few counts is not 0
_SHELLS = 40
_ROUNDS = 2
_REACH = 1  # blocks of pixels, and ranges of frames


def find(records: Records, q: Floats, block: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return True for the records that spots or their neighbourhood disturb.

    Parameters
    ----------
    records : Records
        Joined records, ordered by orbit.
    q : (records,) array
        |Q|, 1/Å.
    block : (int, int, int)
        Frames and pixels (slow, fast) that are neighbours of a spot.
    """
    C, N = records.counts.astype(np.float64), records.norm.astype(np.float64)
    of = np.cumsum(np.diff(records.voxel, prepend=records.voxel[:1]) != 0)
    span = max(float(np.ptp(q)), 1e-30)
    shell = np.minimum(((q - q.min()) / span * _SHELLS).astype(int), _SHELLS - 1)
    hot = np.zeros(len(C), np.bool_)
    for _ in range(_ROUNDS):
        sums = [np.bincount(shell[~hot], x[~hot], _SHELLS) for x in (C, N)]
        level = np.maximum(sums[0] / np.maximum(sums[1], 1e-30), 1e-30)[shell]
        expected = N * _lower_median(of, (C + _PRIOR_COUNTS) / (N + _PRIOR_COUNTS / level))[of]
        hot = C - expected > _OUTLIER * np.sqrt(
            np.maximum(expected, 1) + (_DIFFERENT * expected) ** 2
        )
    return _with_neighbours(records, hot, block)


def _lower_median(of: NDArray[np.int64], values: Floats) -> Floats:
    """Return the median of the values of each orbit; of an even number the lower one."""
    order = np.lexsort((values, of))
    n = np.bincount(of)
    return np.asarray(values[order][np.cumsum(n) - n + (n - 1) // 2])


def _with_neighbours(
    records: Records, hot: NDArray[np.bool_], block: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """Mark records next to the marked ones, on the detector and in the frames."""
    at = [
        np.rint(x.astype(np.float64) / b).astype(np.int64) + _REACH
        for x, b in zip((records.frame, records.slow, records.fast), block, strict=True)
    ]
    size = [int(x.max(initial=0)) + _REACH + 1 for x in at]
    first = (records.rotation * size[0] + at[0]) * size[1]
    code = (first + at[1]) * size[2] + at[2]
    near = np.unique(code[hot])
    step = np.arange(-_REACH, _REACH + 1)
    for unit in (1, size[2], size[1] * size[2]):
        near = np.unique((near[:, None] + unit * step).ravel())
    return np.isin(code, near)
