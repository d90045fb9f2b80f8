"""Statistics of fitted modules, one row per module, in radial and tangential directions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.calibration.module_data import two_theta_gradient
from hklflow.geometry import Detector
from hklflow.geometry.modules import Modules

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModuleRow:
    """Statistics of one module.

    Attributes
    ----------
    module, points : int
    radial_um, tangential_um, rotation_mrad : float
        Displacement. The tangential direction is the radial direction rotated by 90°, from slow
        towards fast.
    radial_sigma_um, tangential_sigma_um, rotation_sigma_mrad : float
        σ of the displacement; 0 for parameters that were held.
    rms_before_px, rms_after_px : float or None
        Rms residual of the points with the starting and the fitted geometry; None without points.
    """

    module: int
    points: int
    radial_um: float
    tangential_um: float
    rotation_mrad: float
    radial_sigma_um: float
    tangential_sigma_um: float
    rotation_sigma_mrad: float
    rms_before_px: float | None
    rms_after_px: float | None


def table(
    modules: Modules,
    covariance: Floats,
    detectors: Sequence[Detector],
    points: Sequence[int],
    before: Sequence[float | None],
    after: Sequence[float | None],
) -> tuple[ModuleRow, ...]:
    """Create the rows of the table.

    Parameters
    ----------
    covariance : (3 n, 3 n) array
        Covariance of shift along slow and fast (pixels) and rotation (radians) of each module.
    detectors : sequence of Detector
        Detectors of all images and scans: radial is the mean direction of increasing 2θ.
    points, before, after : sequence of n
        Numbers of points and rms residuals.
    """
    rows = []
    for m in range(len(modules)):
        to_um = _radial(modules, m, detectors) * 1e6 * np.array(detectors[0].pixel_size)
        block = covariance[3 * m : 3 * m + 3, 3 * m : 3 * m + 3]
        shift = to_um @ modules.shift[m]
        sigma = np.sqrt(np.diag(to_um @ block[:2, :2] @ to_um.T))
        rows.append(
            ModuleRow(
                module=m,
                points=int(points[m]),
                radial_um=float(shift[0]),
                tangential_um=float(shift[1]),
                rotation_mrad=1e3 * float(modules.rotation[m]),
                radial_sigma_um=float(sigma[0]),
                tangential_sigma_um=float(sigma[1]),
                rotation_sigma_mrad=1e3 * float(np.sqrt(block[2, 2])),
                rms_before_px=before[m],
                rms_after_px=after[m],
            )
        )
    return tuple(rows)


def _radial(modules: Modules, m: int, detectors: Sequence[Detector]) -> Floats:
    """Return unit vectors (2, 2) in (slow, fast): the radial direction, and 90° from it."""
    outward = np.zeros(2)
    for detector in detectors:
        position = detector.plane.lab(*(modules.centres[m] + modules.shift[m]))
        _, gradient = two_theta_gradient(position[None])
        along = np.array([gradient[0] @ detector.slow, gradient[0] @ detector.fast])
        outward += along / max(float(np.linalg.norm(along)), 1e-300)
    outward /= max(float(np.linalg.norm(outward)), 1e-300)
    return np.array([outward, [-outward[1], outward[0]]])
