"""Still frames as NXmx files, written with h5py from its definition, and their experiments."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
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


def experiment(folder: Path, name: str, entry: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Write an experiment of still frames alone; return its configuration."""
    for part in ("config", "raw"):
        (folder / part).mkdir(parents=True)
    columns = {
        "samples": ("sample", "space_group", "a", "b", "c", "alpha", "beta", "gamma"),
        "scans": ("sample", "scan", "temperature", "parent", "rotation", "raw"),
    }
    for table, names in columns.items():
        (folder / f"config/{table}.tsv").write_text("\t".join(names) + "\n")
    config = {table: f"config/{table}.tsv" for table in columns}
    config |= {"stills": {name: entry}, **sections}
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    return config
