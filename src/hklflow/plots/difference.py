"""Pictures of differences between two scans, in both spaces."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.plots.common import WIDEST, figure_of
from hklflow.plots.planes import REACH, group
from hklflow.volumes.planes import Cut

Floats = NDArray[np.float64]


def differences(
    hkl: tuple[Sequence[Cut], Floats],
    xyz: tuple[Sequence[Cut], Floats],
    title: str,
    near: float = 1.0,
) -> Figure:
    """Draw planes of the difference of S(Q) above planes of the difference of the 3D-ΔPDF.

    Parameters
    ----------
    hkl, xyz : (cuts, metric)
        Three planes each, and the metric (3, 3) of their space.
    near : float
        Distance in Å, see `planes.symmetric_range`.
    """
    near_origin = [one.within(xyz[1], REACH) for one in xyz[0]]
    figure = figure_of(WIDEST, 10.4)
    upper, lower = figure.subfigures(2, 1)  # type: ignore[misc]
    for part, (cuts, metric), direct, label in (
        (upper, hkl, False, "difference of S(Q)"),
        (lower, (near_origin, xyz[1]), True, "difference of 3D-ΔPDF"),
    ):
        group(part, (1, 3), cuts, metric, direct, True, label, near)
    figure.suptitle(title)
    return figure
