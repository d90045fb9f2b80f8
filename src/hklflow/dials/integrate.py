"""DIALS as the engine of integration."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.measurement import Measurement
from hklflow.core.reflections import Reflections
from hklflow.core.scan import RotationScan
from hklflow.core.symmetry import SpaceGroup
from hklflow.errors import HklflowError

Floats = NDArray[np.float64]


def integrate(
    measurement: Measurement,
    scan: RotationScan,
    ub: Floats,
    group: SpaceGroup,
    *,
    prefix: Path | None = None,
    threads: int = 1,
) -> Reflections:
    """Integrate one rotation with DIALS, its model held as it is.

    Parameters
    ----------
    measurement : Measurement
        Its rotation is the refined one.
    scan : RotationScan
        The scan as imported.
    ub : (3, 3) array
        1/Å with 2π.
    group : SpaceGroup
    prefix : Path, optional
        Folder of the programs; None: PATH.
    threads : int

    Returns
    -------
    Reflections
        In the unit of `core.reflections`: DIALS's counts times our volume over our norm.

    Raises
    ------
    HklflowError
        If DIALS is absent, fails, or cannot read such frames.
    """
    raise HklflowError("DIALS cannot integrate yet")
