r"""Correct the positions and errors of peaks that the first or last frame of a scan cuts.

A spot moves on the detector while the crystal rotates: the azimuth of the diffracted beam about the
incident beam is the azimuth of Q(φ) of the mean block, whether mosaic spread, divergence or
bandwidth makes the rocking curve wide. The spot of a cut curve is therefore not the spot of the
whole curve, but the spot at the mean frame of the measured part. For a Gaussian curve with the
centre c and the width w this frame is

.. math:: c + w\,\frac{g(\alpha) - g(\beta)}{G(\beta) - G(\alpha)}, \quad
   \alpha = -\frac{c}{w}, \ \beta = \frac{n - c}{w},

with the density g and the distribution G of the normal distribution, and n frames.

The centre is extrapolated as if the curve were a Gaussian. If it is a Gaussian, the error of the
fit is right. The curve of a crystal of few blocks has another shape, and its centre has an
additional error, about twice the fraction of the curve beyond the end, times the width (measured
curves of L-cysteine, cut at known places: 0.6 to 1 of this value). An error of the centre also
moves the spot that belongs to the centre.
"""

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import BEAM, Rotation

Floats = NDArray[np.float64]

_STEP = 1e-4  # radian, step of the numerical derivative


def whole(
    rotation: Rotation,
    frame: Floats,
    slow: Floats,
    fast: Floats,
    var_frame: Floats,
    var_slow: Floats,
    var_fast: Floats,
    width: Floats,
) -> tuple[Floats, ...]:
    """Return centres and variances (n,) of whole curves from the fits of their measured parts.

    The order is that of the arguments. ``width`` (n,) is the width of the rocking curves in frames.
    """
    from scipy.special import ndtr

    first, last = -frame / width, (rotation.scan.n_frames - frame) / width
    density = (np.exp(-(first**2) / 2) - np.exp(-(last**2) / 2)) / np.sqrt(2 * np.pi)
    measured = ndtr(last) - ndtr(first)
    late = width * density / measured
    share = 2 * (1 - measured)  # 1 for a centre at an end
    shape = (share * width) ** 2
    of_centre = share * var_frame + shape
    move_slow, move_fast = _motion(rotation, slow, fast)
    return (
        frame,
        slow - move_slow * late,
        fast - move_fast * late,
        var_frame + shape,
        var_slow + move_slow**2 * of_centre,
        var_fast + move_fast**2 * of_centre,
    )


def _motion(rotation: Rotation, slow: Floats, fast: Floats) -> tuple[Floats, Floats]:
    """Return the motion (n,) of spots at constant 2θ along slow and fast, pixels per frame."""
    q = rotation.q_lab(slow, fast) / rotation.beam.k
    across = q - np.outer(q @ BEAM, BEAM)
    aside = np.cross(BEAM, across)
    turned = np.cross(rotation.goniometer.scan_axis_lab(), q)
    with np.errstate(divide="ignore", invalid="ignore"):
        azimuth = np.sum(turned * aside, axis=1) / np.sum(across**2, axis=1)
    ray = q + BEAM
    ahead = rotation.detector.intersect(ray + _STEP * azimuth[:, None] * aside)
    position = rotation.detector.intersect(ray)
    move = (np.stack(ahead) - np.stack(position)) * (rotation.scan.step / _STEP)
    return np.nan_to_num(move[0]), np.nan_to_num(move[1])
