"""Grid of repeated measurements: what it does with many, coarse or wide frames."""

import numpy as np
import pytest

from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan
from hklflow.transform import repeat_grid

CELL = (5.2, 5.2, 11.4, 90.0, 90.0, 90.0)
UB = np.diag(2 * np.pi / np.array(CELL[:3]))


def rotation(degrees: float, n_frames: int) -> Rotation:
    """Return frames of 240 x 256 pixels of 0.5 mm, at 71.5 mm and 0.3 Å."""
    pixel = 0.5e-3
    detector = Detector(
        shape=(240, 256),
        pixel_size=(pixel, pixel),
        origin=np.array([-128 * pixel, 120 * pixel, 71.5e-3]),
        slow=np.array((0.0, -1, 0)),
        fast=np.array((1.0, 0, 0)),
    )
    scan = Scan(start=0.0, step=np.radians(degrees), n_frames=n_frames)
    return Rotation(Beam(0.3), detector, Goniometer.single((0.0, 1.0, 0.0)), scan)


@pytest.mark.parametrize("n_frames", [100, 360])
def test_many_frames_with_coarse_pixels_are_compared(n_frames: int) -> None:
    """44 million pixels of frames, of which none can be summed before: more time, not nothing."""
    plan = repeat_grid.choose(2 * [rotation(0.5, n_frames)], UB, CELL, 18.0)
    assert plan is not None
    assert plan.block == (1, 1)


def test_wide_frames_have_no_grid() -> None:
    assert repeat_grid.choose([rotation(5.0, 36)], UB, CELL, 18.0) is None
