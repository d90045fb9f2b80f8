"""Frame statistics: sums of each frame and images from one pass over all frames."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.nexus.entry import add_array, add_group, create, open_entry

Floats = NDArray[np.float64]


def write_statistics(
    path: Path,
    arrays: Mapping[str, Any],
    images: Mapping[str, Any],
    radial: tuple[Any, Any, Any] | None = None,
    parts: tuple[Any, Any] | None = None,
) -> None:
    """Write arrays with one value per frame (n_frames,), and images (slow, fast).

    The first array is the default plot. `radial` has the centres of bins in |Q| (n,) in Å⁻¹, and
    counts and numbers of pixels (n_frames, n) in these bins. `parts` has the relative backgrounds
    (n_frames, n_parts) of parts of the detector, and the errors of these backgrounds.
    """
    signal, *others = arrays
    with create(path, "frame statistics", "frame_sums") as entry:
        sums = add_group(
            entry,
            "frame_sums",
            "NXdata",
            signal=signal,
            axes=["frame"],
            auxiliary_signals=others,
        )
        for name, values in arrays.items():
            add_array(sums, name, values)
        add_array(sums, "frame", np.arange(len(arrays[signal])) + 0.5)
        for name, image in images.items():
            group = add_group(entry, name, "NXdata", signal=name, axes=["slow", "fast"])
            add_array(group, name, image)
            add_array(group, "slow", np.arange(image.shape[0]) + 0.5, "pixel")
            add_array(group, "fast", np.arange(image.shape[1]) + 0.5, "pixel")
        if radial is not None:
            q, counts, pixels = radial
            group = add_group(entry, "radial", "NXdata", signal="counts", axes=["frame", "q"])
            add_array(group, "counts", counts)
            add_array(group, "pixels", pixels)
            add_array(group, "frame", np.arange(len(counts)) + 0.5)
            add_array(group, "q", q, "1/angstrom")
        if parts is not None:
            group = add_group(entry, "parts", "NXdata", signal="data", axes=["frame", "part"])
            add_array(group, "data", parts[0], "", long_name="background over level and shape")
            add_array(group, "data_errors", parts[1], "")
            add_array(group, "frame", np.arange(len(parts[0])) + 0.5)
            add_array(group, "part", np.arange(parts[0].shape[1]))


def read_statistics(path: Path, name: str) -> Floats:
    """Read one array or image that `write_statistics` wrote."""
    with open_entry(path) as entry:
        group = entry["frame_sums"] if name in entry["frame_sums"] else entry[name]
        values: Floats = group[name][()]
        return values


def read_rings(path: Path) -> Floats:
    """Read the counts (n_frames, n) in bins of |Q| that `write_statistics` wrote."""
    with open_entry(path) as entry:
        counts: Floats = entry["radial/counts"][()]
        return counts


def read_parts(path: Path) -> tuple[Floats, Floats]:
    """Read relative backgrounds (n_frames, n_parts) of parts of the detector, and their errors.

    Raises
    ------
    HklflowError
        If an older version wrote the file.
    """
    with open_entry(path) as entry:
        if "parts" not in entry:
            raise HklflowError(
                f"{path} has no backgrounds of parts of the detector, because an older hklflow "
                "wrote it; run `find_peaks` again"
            )
        return entry["parts/data"][()], entry["parts/data_errors"][()]
