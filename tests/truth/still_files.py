"""Still frames as NXmx files, written with h5py from its definition."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tests.truth.frames_write import axis, group, measured

Floats = NDArray[np.float64]


def write(
    path: Path,
    frames: NDArray[Any],
    geometry: tuple[float, Floats, Floats, Floats],
    wavelength: float,
    polarization: float,
) -> None:
    """Write frames (n, slow, fast) of a detector of one module.

    ``geometry``: size of a pixel, corner of the first pixel (mm), directions slow and fast.
    """
    pixel, origin, slow, fast = geometry
    with h5py.File(path, "w") as file:
        entry = group(file, "entry", "NXentry")
        file.attrs["default"] = "entry"
        entry["definition"] = "NXmx"
        data = group(entry, "data", "NXdata")
        data.attrs["signal"] = "data"
        data.create_dataset("data", data=frames, chunks=(1, *frames.shape[1:]), compression="gzip")
        instrument = group(entry, "instrument", "NXinstrument")
        instrument["name"] = "simulated"
        beam = group(instrument, "beam", "NXbeam")
        measured(beam, "incident_wavelength", wavelength, "angstrom")
        beam["incident_polarization_stokes"] = [1.0, 2 * polarization - 1, 0.0, 0.0]
        detector = group(instrument, "detector", "NXdetector")
        measured(detector, "x_pixel_size", pixel, "mm")
        measured(detector, "y_pixel_size", pixel, "mm")
        detector["saturation_value"] = 10**6
        module = group(detector, "module", "NXdetector_module")
        module["data_origin"] = np.array([0, 0])
        module["data_size"] = np.array(frames.shape[1:])
        length = float(np.linalg.norm(origin))
        shift = ("translation", "mm")
        offset = axis(module, "module_offset", length, shift, origin / length)
        axis(module, "fast_pixel_direction", pixel, shift, fast, offset.name)
        axis(module, "slow_pixel_direction", pixel, shift, slow, offset.name)
