"""Join the ASICs of a module, and the modules of the detector.

Missing ASICs and modules are filled with NaN, marked ``NO_DARK_DATA`` and masked as dead.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants import files
from hklflow.constants.detectors import Integrating
from hklflow.constants.status import Bit
from hklflow.images.masks import MaskBit
from hklflow.nexus.entry import add_array, open_entry

# Value of pixels without data, where it is not NaN or 0.
_ABSENT = {"constants_status": Bit.NO_DARK_DATA, "pixel_mask": MaskBit.DEAD}


def join_asics(
    group: h5py.Group, detector: Integrating, module: int, asics: Mapping[int, Path]
) -> dict[str, Any]:
    """Join the ASICs of a module, one quantity after the other.

    Parameters
    ----------
    group : h5py.Group
        Group for the module's quantities.
    detector : Integrating
    module : int
    asics : mapping
        File of each ASIC number; ASICs missing from the mapping are treated as absent.

    Returns
    -------
    dict
        Description of the module.

    Raises
    ------
    HklflowError
        If a file belongs to another ASIC, or the files do not match each other.
    """
    with ExitStack() as stack:
        parts = {
            number: stack.enter_context(open_entry(path))["instrument/detector"]
            for number, path in asics.items()
        }
        abouts = {number: files.about_of(part) for number, part in parts.items()}
        for number, about in abouts.items():
            if (about["module"], about["asic"]) != (module, number):
                raise HklflowError(
                    f"{asics[number]} has ASIC {about['asic']} of module {about['module']}, not "
                    f"ASIC {number} of module {module}; check the paths"
                )
        first = next(iter(abouts.values()))
        reference = next(iter(parts.values()))
        for number, part in parts.items():
            if set(part) != set(reference) or abouts[number]["cell_ids"] != first["cell_ids"]:
                raise HklflowError(
                    f"{asics[number]} has other quantities or memory cells than the module's "
                    "other ASICs; process all ASICs of a module with the same settings"
                )
        for name, dataset in reference.items():
            whole = _filled(name, dataset.shape[:-2], detector.module, dataset.dtype)
            for number, part in parts.items():
                if part[name].shape[:-2] != dataset.shape[:-2]:
                    raise HklflowError(
                        f"{name} of {asics[number]} has shape {part[name].shape}, and "
                        f"{dataset.shape} in another ASIC; process all ASICs of a module with "
                        "the same settings"
                    )
                whole[..., *detector.box(number)] = part[name][()]
            attrs = dict(dataset.attrs)
            if "source" in attrs:
                attrs["source"] = _sources([part[name].attrs["source"] for part in parts.values()])
            add_array(group, name, whole, **attrs)
    absent = [number for number in range(detector.asics) if number not in asics]
    about = {key: value for key, value in first.items() if key != "asic"}
    return about | {"absent_asics": absent}


def join_modules(
    group: h5py.Group, modules: Mapping[int, Path], absent: Sequence[int]
) -> dict[str, Any]:
    """Join the files of the modules; absent modules are filled and marked as absent.

    Parameters
    ----------
    group : h5py.Group
        ``/entry/instrument/detector`` of the detector's file.
    modules : mapping
        File of each module number.
    absent : sequence of int

    Returns
    -------
    dict
        Description of the detector.
    """
    with ExitStack() as stack:
        parts = {
            number: stack.enter_context(open_entry(path))["instrument/detector"]
            for number, path in modules.items()
        }
        abouts = {number: files.about_of(part) for number, part in parts.items()}
        for number, part in parts.items():
            part.file.copy(part, group, files.module_name(number))
        first = next(iter(parts))
        for number in absent:
            place = group.create_group(files.module_name(number))
            files.set_about(place, abouts[first] | {"module": number, "absent": True})
            for name, dataset in parts[first].items():
                shape = dataset.shape
                empty = _filled(name, shape[:-2], (shape[-2], shape[-1]), dataset.dtype)
                add_array(place, name, empty, **dataset.attrs)
    return {
        "detector": abouts[first]["detector"],
        "cell_ids": abouts[first]["cell_ids"],
        "digital": abouts[first]["digital"],
        "runs": abouts[first]["runs"],
        "measures": abouts[first]["measures"],
        "modules": sorted([*modules, *absent]),
        "absent_modules": list(absent),
        "absent_asics": {str(n): about["absent_asics"] for n, about in abouts.items()},
    }


def _filled(
    name: str, leading: tuple[int, ...], size: tuple[int, int], dtype: np.dtype[Any]
) -> NDArray[Any]:
    empty = np.nan if dtype.kind == "f" else int(_ABSENT.get(name, 0))
    return np.full((*leading, *size), empty, dtype)


def _sources(attributes: Sequence[Any]) -> Any:
    """Return the sources of a quantity per stage; several sources of the ASICs are joined by |."""
    rows = [[str(item) for item in np.atleast_1d(attribute)] for attribute in attributes]
    joined = ["|".join(dict.fromkeys(column)) for column in zip(*rows, strict=True)]
    return joined if np.ndim(attributes[0]) else joined[0]
