"""NeXus file of the angles of all pixels."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hklflow.nexus.entry import add_array, add_group, create

if TYPE_CHECKING:
    from hklflow.geometry import Rotation


def write_pixel_angles(path: Path, rotations: Mapping[str, "Rotation"]) -> None:
    """Write polar angle, azimuth (degrees) and |Q| of the middle of each pixel of each rotation.

    The azimuth is that of NXRefine, arctan2(-x, y) in the laboratory: from up, towards -x.
    """
    first = next(iter(rotations))
    with create(path, "angles of the pixels", first) as entry:
        for name, rotation in rotations.items():
            axes = ["y_pixel", "x_pixel"]
            group = add_group(entry, name, "NXdata", signal="polar_angle", axes=axes)
            x, y, z = np.moveaxis(rotation.detector.pixel_centres(), -1, 0)
            two_theta = np.arctan2(np.hypot(x, y), z)
            add_array(group, "polar_angle", np.degrees(two_theta), "degree", long_name="2θ")
            add_array(group, "azimuthal_angle", np.degrees(np.arctan2(-x, y)), "degree")
            q = 2 * rotation.beam.k * np.sin(two_theta / 2)
            add_array(group, "Q", q, "1/angstrom")
            for axis, n in zip(axes, two_theta.shape, strict=True):
                add_array(group, axis, np.arange(n), "pixel")
            group["title"] = f"polar angle of the pixels, {name}"
