"""Result of a fit of modules, with a row per module in radial and tangential directions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

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


@dataclass(frozen=True)
class ModuleFit:
    """Result of a fit of modules.

    Attributes
    ----------
    modules : Modules
    shift_sigma : (n, 2) array
        Pixels; 0 for parameters that were held.
    rotation_sigma : (n,) array
        Radians; 0 for parameters that were held.
    detectors : tuple of Detector
        Geometry of each powder image, with the modules.
    condition : float
        Condition number of the normal matrix, scaled to a unit diagonal, within the constraints.
    chi2 : float
        Reduced χ²; if it is above 1, the standard deviations are multiplied by its square root.
    points, rejected : int
        Number of used points, and of points left out as outliers or because they are on no module.
    table : tuple of ModuleRow
    """

    modules: Modules
    shift_sigma: Floats
    rotation_sigma: Floats
    detectors: tuple[Detector, ...]
    condition: float
    chi2: float
    points: int
    rejected: int
    table: tuple[ModuleRow, ...]

    def metrics(self) -> dict[str, Any]:
        """Return the statistics of the fit for JSON."""
        names = ("condition", "chi2", "points", "rejected")
        return {
            **{name: getattr(self, name) for name in names},
            "modules": [asdict(row) for row in self.table],
            "largest_sigma_px": float(np.max(self.shift_sigma)),
            "rms_shift_px": float(np.sqrt(np.mean(self.modules.shift**2))),
            "improvement": self.improvement,
        }

    @property
    def improvement(self) -> float:
        """Ratio of the rms residual after the fit to the rms residual before."""
        rows = [row for row in self.table if row.rms_before_px and row.rms_after_px is not None]
        before, after = (
            sum(row.points * float(getattr(row, f"rms_{when}_px")) ** 2 for row in rows)
            for when in ("before", "after")
        )
        return float(np.sqrt(after / before))


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
