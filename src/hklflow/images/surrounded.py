r"""Level between the peaks without the counts of the surroundings.

With the incident intensity m and the transmission T of the crystal, the level of frame z is

.. math:: L_z = m_z (T_z a + \sum_k f_k(z)\, b_k), \qquad f_k(z) = d_k(z) + t_k T_z .

a is the level of the crystal, b that of a run without the crystal in the same pixels, and f its
factor. T times a constant is therefore the level without the part of the backgrounds that does not
pass through the crystal, :math:`L_z / m_z - \sum_k d_k(z)\, b_k`, whatever ``t``.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Surroundings(NamedTuple):
    """Counts per pixel of the surroundings on each frame, for an incident intensity of 1.

    Attributes
    ----------
    level : (n_frames,) array
        In the pixels of the signal of `frame_scale`.
    annulus : (n_frames,) array
        In the annulus between the peaks.
    parts : (n_frames, n_parts) array
        In the parts of the annulus.
    direct_error : float
        Standard error of the part of ``level`` that does not pass through the crystal.
    """

    level: Floats
    annulus: Floats
    parts: Floats
    direct_error: float


def mean_level(level: Floats, variance: Floats, pixels: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the mean of an image over pixels where it is known, and its variance; 0 if nowhere."""
    use = pixels & np.isfinite(level)
    n = int(np.count_nonzero(use))
    if n == 0:
        return 0.0, 0.0
    return float(level[use].mean()), float(np.nan_to_num(variance[use]).sum()) / n**2


def course_error(curve: Floats, level: float, direct_error: float) -> Floats:
    """Return the relative error (n_frames,) of a course by that of the background.

    Parameters
    ----------
    curve : (n_frames,) array
        Course with the median 1.
    level : float
        Level of the crystal for a course of 1.
    direct_error : float
        Error of the background that does not pass through the crystal, in the same unit.
    """
    return np.asarray(np.abs(curve - 1) * direct_error / level)


def parts_of_crystal(
    values: Floats, errors: Floats, shape: Floats, level: Floats, counts: Floats, of_parts: Floats
) -> tuple[Floats, Floats]:
    """Return the levels of parts of the detector, over the common level, without surroundings.

    Parameters
    ----------
    values, errors : (n_frames, n_parts) array
        Levels of the parts, over the common level and the shape; and their errors.
    shape : (n_parts,) array
    level, counts : (n_frames,) array
        Common level, and the counts of the surroundings in it.
    of_parts : (n_frames, n_parts) array
        Counts of the surroundings in the parts.
    """
    whole = level[:, None] * shape
    rest, common = values * whole - of_parts, (level - counts)[:, None]
    known = np.isfinite(rest) & np.isfinite(common)
    sums = [np.where(known, x, 0.0).sum(axis=0) for x in (rest, common + 0 * rest)]
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = common * (sums[0] / sums[1])
        expected = np.where(expected > 0, expected, np.nan)
        return rest / expected, errors * whole / expected
