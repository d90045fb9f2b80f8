"""Detector of HDF5 files without modules, as the writer of Eiger detectors describes it.

Such a file states the angle of the detector's arm (`detector/goniometer/two_theta`) without its
axis, and may state the directions of the pixels (`detector/geometry/orientation/value`).
"""

from typing import Any

import numpy as np

from hklflow.formats.instruments import Instrument, recognised
from hklflow.formats.nxfile import constant, find, numbers, word
from hklflow.formats.text_headers import Choices, flat_detector, on_arm
from hklflow.geometry import Detector

# Degrees, and cosines of directions: what nobody set on purpose.
_NO_ARM = 1e-3
_USUAL = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def instrument_of(detector: Any, choices: Choices) -> Instrument | None:
    """Return the stated instrument, or the one with the serial number of the detector."""
    node = find(detector, "detector_number")
    number = "" if node is None else word(node)
    return choices.instrument or (recognised("HDF5", number) if number else None)


def simple_detector(
    group: Any, shape: tuple[int, int], thickness: float | None, choices: Choices
) -> tuple[Detector | None, str | None]:
    """Return the detector of a file without modules, and the reason if it cannot be used.

    Parameters
    ----------
    group : NXdetector
    shape : (slow, fast)
        Number of pixels.
    thickness : float or None
        Thickness of the sensor, metres.
    choices : Choices
        Facts that the user states.
    """
    centre = [find(group, f"beam_center_{axis}") for axis in "xy"]
    sizes = [find(group, f"{axis}_pixel_size") for axis in "xy"]
    distances = [find(group, name) for name in ("detector_distance", "distance")]
    distance = next((node for node in distances if node is not None), None)
    if any(node is None for node in (distance, *centre, *sizes)):
        return None, None
    fast, slow = (constant(node, "length") for node in sizes)
    x, y = (float(np.ravel(numbers(node))[0]) for node in centre)
    row = instrument_of(group, choices)
    detector = flat_detector(
        shape, (slow, fast), constant(distance, "length"), (y, x), row, thickness
    )
    node = find(group, "geometry/orientation/value")
    written = np.ravel(numbers(node)) if node is not None else np.zeros(0)
    if len(written) == 6 and written.any() and np.abs(written - _USUAL).max() > _NO_ARM:
        return None, (
            f"{group.file.filename} says that the pixels run along {written[:3].tolist()} and "
            f"{written[3:].tolist()}, which is not the usual mounting: give the row a `calibration`"
        )
    node = find(group, "goniometer/two_theta")
    arm = float(np.ravel(numbers(node))[0]) if node is not None and node.size else 0.0
    return on_arm(detector, arm if abs(arm) > _NO_ARM else None, row, choices)
