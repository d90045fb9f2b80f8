r"""Error of centroids from pixels and frames that are not much smaller than the spot.

A spot sampled by voxels of size 1 has the centre of mass :math:`x + \sum_k \frac{(-1)^k}{\pi k}
\mathrm{Im}[\varphi(2\pi k)\,e^{2\pi i k x}]`, where :math:`\varphi` is the characteristic function
of its profile (Poisson's sum). For all places in the voxel, the variance of the error is

.. math:: \sum_k \frac{|\varphi(2\pi k)|^2}{2\pi^2 k^2},

1/12 for a point. A fit does better only if it knows the profile. The profile of a crystal of ``n``
blocks, each with the width ``c``, a part of the width ``w`` of the spot, has the mean

.. math:: |\varphi(q)|^2 = e^{-q^2c^2}\left[\tfrac1n + (1 - \tfrac1n) e^{-q^2(w^2-c^2)}\right].
"""

import numpy as np
from numpy.typing import NDArray

_BLOCKS = 3.5  # effective number of blocks: (sum of intensities)² / sum of squares
_BLOCK = 0.4  # width of a block relative to the width of the spot
_ORDERS = 30
POINT = 1 / 12  #: variance of a point in a voxel


def with_sampling(variance: NDArray[np.float64], width: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add the error of sampling to variances (n,) of centroids; at most the error of a point.

    Parameters
    ----------
    variance : (n,) array
        Variance from counting statistics, in voxels².
    width : (n,) array
        Standard deviation of the spot, in voxels.
    """
    q = 2 * np.pi * np.arange(1, _ORDERS + 1)[:, None]
    core = np.exp(-((q * _BLOCK * width) ** 2))
    whole = np.exp(-((q * width) ** 2))
    squares = core / _BLOCKS + (1 - 1 / _BLOCKS) * whole
    sampled = np.sum(2 * squares / q**2, axis=0)
    return np.maximum(variance, np.minimum(variance + sampled, POINT))
