"""Constants files from the truth of simulated ASICs."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.constants.files import (
    Constants,
    Quantity,
    add_quantities,
    create_detector,
    module_name,
)
from hklflow.constants.simulate import Truth


def constants_of(truth: Truth, detector: str, module: int = 0, **more: NDArray[Any]) -> Constants:
    """Constants that know the truth; ``more`` replaces quantities or adds some."""
    values = {
        "offset": truth.offset,
        "noise": truth.noise,
        "gain": truth.gain,
        "gain_threshold": 0.5 * (truth.level[1:] + truth.level[:-1]),
        "constants_status": np.zeros(truth.offset.shape, np.uint32),
        "pixel_mask": np.zeros(truth.shape, np.uint32),
    }
    about = {"detector": detector, "module": module, "cell_ids": list(range(truth.cells))}
    return Constants(about, {name: Quantity(v) for name, v in (values | more).items()})


def write_constants(path: Path, modules: list[Constants]) -> Path:
    """Write a detector's file of such modules."""
    about = {"detector": modules[0].about["detector"]}
    with create_detector(path, "constants", about) as group:
        for constants in modules:
            place = group.create_group(module_name(constants.about["module"]))
            add_quantities(place, constants)
    return path
