"""Convert panels of other programs' detectors to modules of one flat `Detector`."""

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Detector
from hklflow.geometry.modules import Modules

_HEIGHT, _TILT = 1e-5, 1e-4  # m and rad: tolerances for panels of one plane


def joined(
    parts: list[Detector], corners: NDArray[np.int64], least: tuple[int, int], where: str
) -> Detector:
    """Join flat panels that are pieces of one image to one plane with modules.

    The pixel grid of the image is placed so that the mean displacement is zero; this does not
    change the positions of the modules.

    Parameters
    ----------
    parts : list of n Detector
    corners : (n, 2) int array
        First pixel (slow, fast) of each panel in the image.
    least : (slow, fast)
        Smallest shape of the image.
    where : str
        Origin of the data, for errors.

    Raises
    ------
    HklflowError
        If pixel sizes differ, or the panels do not lie in one plane.
    """
    first = parts[0]
    if any(part.pixel_size != first.pixel_size for part in parts):
        raise HklflowError(f"the panels have pixels of different sizes, so not one image: {where}")
    normal = np.mean([np.cross(p.fast, p.slow) for p in parts], axis=0)
    normal /= np.linalg.norm(normal)
    shapes = np.array([part.shape for part in parts])
    middles = corners + 0.5 * shapes
    centres = np.array([p.lab(*(0.5 * np.array(p.shape))) for p in parts])
    tilt = max(float(np.linalg.norm(np.cross(p.fast, p.slow) - normal)) for p in parts)
    height = (centres - centres.mean(axis=0)) @ normal
    if tilt > _TILT or np.max(np.abs(height)) > _HEIGHT:
        raise HklflowError(
            f"the {len(parts)} panels lie up to {1e3 * np.max(np.abs(height)):.3g} mm off one "
            f"plane and {np.degrees(tilt):.3g} degrees inclined to it; hklflow needs flat "
            f"detectors whose modules are displaced in the plane: {where}"
        )
    boxes = np.stack(
        [corners[:, 0], corners[:, 0] + shapes[:, 0], corners[:, 1], corners[:, 1] + shapes[:, 1]],
        axis=1,
    )
    # Mean fast direction of the panels, in the plane.
    fast = np.mean([p.fast for p in parts], axis=0)
    fast -= (fast @ normal) * normal
    fast /= np.linalg.norm(fast)
    slow = np.cross(normal, fast)
    size = np.array(first.pixel_size)
    offsets = (centres - centres.mean(axis=0)) @ np.stack([slow, fast], axis=1) / size
    shift = offsets - (middles - middles.mean(axis=0))
    shift -= shift.mean(axis=0)
    origin = centres.mean(axis=0) - middles.mean(axis=0) * size @ np.stack([slow, fast])
    angles = np.array([np.arctan2(p.slow @ fast, p.slow @ slow) for p in parts])
    modules = Modules(boxes, shift, angles, float(size[1] / size[0]))
    return Detector(
        shape=(max(least[0], int(boxes[:, 1].max())), max(least[1], int(boxes[:, 3].max()))),
        pixel_size=first.pixel_size,
        origin=origin,
        slow=slow,
        fast=fast,
        sensor_thickness=first.sensor_thickness,
        sensor_attenuation=first.sensor_attenuation,
        modules=modules,
    )
