"""Gain maps of three stages from the manufacturer or another measurement."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import STAGES, Integrating

_NUMBERS = "fiu"  # numpy's kinds of numeric types


def read_gain_map(path: Path, detector: Integrating, module: int, asic: int) -> NDArray[np.float64]:
    """Return gains (3, ss, fs) of an ASIC in ADU/keV; NaN where the map is 0 or not finite.

    Parameters
    ----------
    path : Path
        ``.npy``, HDF5 with a single such dataset, or ``.bin`` (PSI's format: doubles without a
        header): three planes high, medium, low (3, ss, fs), of one module or of all modules
        stacked along ss.
    detector : Integrating
    module, asic : int
        A map of a single module is used for this module, whatever its number.

    Raises
    ------
    HklflowError
        If the file contains no such planes, or lacks this module.
    """
    planes = _read(path, detector)
    if planes.dtype.kind not in _NUMBERS:
        raise HklflowError(f"{path} contains {planes.dtype}, not numbers; use gains in ADU/keV")
    rows, columns = detector.module
    if planes.ndim != 3 or planes.shape[0] != len(STAGES) or planes.shape[2] != columns:
        raise HklflowError(
            f"{path} has an array of shape {planes.shape}; a gain map of {detector.name} is "
            f"(3, ss, {columns}), for high, medium and low gain"
        )
    modules, rest = divmod(planes.shape[1], rows)
    if rest or modules == 0 or (modules > 1 and module >= modules):
        raise HklflowError(
            f"{path} has {planes.shape[1]} rows, and a module has {rows}; there is no module "
            f"{module}"
        )
    begin = module * rows if modules > 1 else 0
    ss, fs = detector.box(asic)
    gains = np.array(planes[:, begin : begin + rows][:, ss, fs], np.float64)
    gains[~np.isfinite(gains) | (gains == 0)] = np.nan
    return gains


def _read(path: Path, detector: Integrating) -> NDArray[Any]:
    if path.suffix == ".npy":
        try:
            planes: NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise HklflowError(f"{path} is not a valid array ({error}); save it again") from error
        return planes
    if path.suffix == ".bin":
        try:
            numbers = np.fromfile(path, np.float64)
        except OSError as error:
            raise HklflowError(
                f"{path} cannot be read ({error.strerror}); correct the path of the gain map"
            ) from error
        plane = len(STAGES) * detector.module[1]
        if numbers.size == 0 or numbers.size % plane:
            raise HklflowError(
                f"{path} has {numbers.size} doubles, which are not three planes of rows of "
                f"{detector.module[1]} pixels; use the gain map of this detector"
            )
        return numbers.reshape(len(STAGES), -1, detector.module[1])
    return _hdf5(path)


def _hdf5(path: Path) -> NDArray[Any]:
    import h5py

    from hklflow.formats.hdf5_file import open_file

    with open_file(path) as file:
        datasets: list[h5py.Dataset] = []

        def look(name: str, node: h5py.HLObject) -> None:
            if not isinstance(node, h5py.Dataset) or node.dtype.kind not in _NUMBERS:
                return
            if node.ndim == 3 and node.shape[0] == len(STAGES):
                datasets.append(node)

        file.visititems(look)
        if len(datasets) != 1:
            raise HklflowError(
                f"{path} has {len(datasets)} numeric datasets of shape (3, ss, fs); a gain map has "
                "exactly one, for high, medium and low gain"
            )
        planes: NDArray[Any] = datasets[0][()]
    return planes
