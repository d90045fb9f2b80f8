"""Write single images: miniCBF series, and one image as TIFF or CBF.

The functions take plain arrays and numbers, so that simulated scans and tests can write the files
of a beamline. Files are written under a temporary name and renamed when complete: a crash leaves no
file that looks finished.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError


def partial(path: Path) -> Path:
    """Return the temporary name of a file that is not yet complete."""
    return path.with_name(f".{path.name}.partial")


def write_cbf_series(
    folder: Path,
    prefix: str,
    blocks: Iterable[NDArray[Any]],
    *,
    wavelength: float,
    distance: float,
    beam_centre: tuple[float, float],
    pixel_size: tuple[float, float],
    start: float,
    step: float,
    exposure: float,
    monitor: ArrayLike,
    pixel_mask: ArrayLike,
    sensor_thickness: float | None = None,
    saturation: int = 2**20,
) -> list[Path]:
    """Write frames as miniCBF files with PILATUS header lines.

    Names are ``<prefix>_00001.cbf`` and so on. A miniCBF cannot store tilts or the goniometer.

    Parameters
    ----------
    wavelength : float
        Wavelength, Å.
    distance : float
        Detector distance, metres.
    beam_centre : (slow, fast)
        Pixel coordinates of the direct beam.
    pixel_size : (slow, fast)
        Pixel size, metres.
    start, step : float
        Start of the scan and step, radians.
    exposure : float
        Exposure time, seconds.
    monitor : (n_frames,) array
        Monitor of each frame, written as ``Flux``.
    pixel_mask : (slow, fast) array
        Non-zero pixels are written as -1.

    Returns
    -------
    list of Path

    Raises
    ------
    HklflowError
        If the number of monitor values differs from the number of frames.
    """
    flux = np.asarray(monitor, dtype=np.float64)
    bad = np.asarray(pixel_mask) != 0
    paths: list[Path] = []
    wrong = HklflowError(
        f"the series {prefix} in {folder} has {len(flux)} monitor values, but the number of frames "
        "differs; give one value per frame"
    )
    for z, frame in enumerate(frame for block in blocks for frame in block):
        if z >= len(flux):
            raise wrong
        # Readers of PILATUS files parse these lines.
        lines = [
            "# Detector: PILATUS-like, simulated",
            f"# Pixel_size {pixel_size[1]:.9g} m x {pixel_size[0]:.9g} m",
            f"# Exposure_time {exposure:.9g} s",
            f"# Exposure_period {exposure:.9g} s",
            f"# Count_cutoff {saturation} counts",
            f"# Wavelength {wavelength:.9g} A",
            f"# Detector_distance {distance:.9g} m",
            f"# Beam_xy ({beam_centre[1]:.6f}, {beam_centre[0]:.6f}) pixels",
            f"# Flux {flux[z]:.9g}",
            f"# Start_angle {np.degrees(start + z * step):.9g} deg.",
            f"# Angle_increment {np.degrees(step):.9g} deg.",
        ]
        if sensor_thickness is not None:
            lines.insert(1, f"# Silicon sensor, thickness {sensor_thickness:.9g} m")
        counts = np.where(bad, -1, frame.astype(np.int64)).astype(np.int32)
        path = Path(folder) / f"{prefix}_{z + 1:05d}.cbf"
        _write_cbf(path, counts, "\r\n".join(lines))
        paths.append(path)
    if len(paths) != len(flux):
        raise wrong
    return paths


def write_image(path: Path, image: NDArray[Any]) -> None:
    """Write one image (slow, fast) as TIFF or CBF, according to the suffix.

    Raises
    ------
    HklflowError
        If the suffix is neither .tif, .tiff nor .cbf.
    """
    path = Path(path)
    if path.suffix.lower() == ".cbf":
        _write_cbf(path, np.asarray(image, dtype=np.int32), "")
    elif path.suffix.lower() in {".tif", ".tiff"}:
        from fabio.tifimage import TifImage

        _write_whole(TifImage(data=np.asarray(image)), path)
    else:
        raise HklflowError(
            f"{path} has the suffix {path.suffix!r}; images are written as .tif, .tiff or .cbf"
        )


def _write_cbf(path: Path, counts: NDArray[np.int32], text: str) -> None:
    from fabio.cbfimage import CbfImage

    header = {"_array_data.header_convention": "PILATUS_1.2", "_array_data.header_contents": text}
    _write_whole(CbfImage(data=counts, header=header if text else {}), path)


def _write_whole(image: Any, path: Path) -> None:
    """Write an image of fabio completely, or not at all."""
    try:
        image.write(str(partial(path)))
        partial(path).replace(path)
    finally:
        partial(path).unlink(missing_ok=True)
