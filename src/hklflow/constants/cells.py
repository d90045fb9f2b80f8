"""Match the memory cells of different measurements by the detector's cell numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.files import Constants


def cell_ids(constants: Constants) -> NDArray[np.int64]:
    """Return the numbers of the memory cells, (cells,)."""
    return np.asarray(constants.about["cell_ids"], np.int64)


def of_cells(
    constants: Constants, name: str, wanted: NDArray[np.int64], missing: float
) -> NDArray[Any]:
    """Return the values (..., cell, ss, fs) of a quantity in the requested memory cells.

    Parameters
    ----------
    constants : Constants
    name : str
    wanted : (cells,) array
        Numbers of the requested memory cells.
    missing : float
        Value of cells that were not measured.
    """
    values = constants[name]
    measured = cell_ids(constants)
    result = np.full((*values.shape[:-3], len(wanted), *values.shape[-2:]), missing, values.dtype)
    _, target, source = np.intersect1d(wanted, measured, return_indices=True)
    result[..., target, :, :] = values[..., source, :, :]
    return result


def require_same_asic(first: Mapping[str, Any], *others: Mapping[str, Any]) -> None:
    """Require that all measurements are of the same detector, module and ASIC.

    Raises
    ------
    HklflowError
        If detector, module or ASIC differ.
    """
    for other in others:
        for name in ("detector", "module", "asic"):
            if first[name] != other[name]:
                raise HklflowError(
                    f"{name} {other[name]} does not go with {name} {first[name]}; give files of "
                    "one ASIC"
                )
