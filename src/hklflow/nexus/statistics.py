"""Frame statistics: sums of each frame and images from one pass over all frames."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.statistics_parts import LEFT_OUT, OUTSIDE
from hklflow.nexus.default_view import set_view
from hklflow.nexus.entry import PACKED, add_array, add_group, create, open_entry

Floats = NDArray[np.float64]


@contextmanager
def statistics_output(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], part_ends: Sequence[int]
) -> "Iterator[StatisticsOutput]":
    """Create the file of frame statistics, with empty partial sums of frames.

    Parameters
    ----------
    shape : (slow, fast)
    dtype : dtype
        Type of the frames. Partial sums of integers are exact, and signed if the frames are; of
        floating-point frames, they are rounded to float32.
    part_ends : sequence of int
        Numbers of frames, increasing, after which a partial sum ends; empty: no partial sums.
    """
    with create(path, "frame statistics", "frame_sums") as entry:
        partial = _partial_sums(entry, shape, dtype, part_ends) if part_ends else None
        yield StatisticsOutput(entry, partial)


def _partial_sums(
    entry: h5py.Group, shape: tuple[int, ...], dtype: np.dtype[Any], part_ends: Sequence[int]
) -> h5py.Dataset:
    name, axes = "partial_sums", ["frame", "slow", "fast"]
    starts = np.array([0, *part_ends[:-1]])
    sizes = np.array(part_ends) - starts
    if dtype.kind == "f":
        kind: np.dtype[Any] = np.dtype(np.float32)
    else:
        narrow = 2.0 ** (8 * dtype.itemsize) * sizes.max() <= 2.0**32
        kind = np.dtype(f"{dtype.kind}{4 if narrow else 8}")
    group = add_group(entry, name, "NXdata", signal=name, axes=axes)
    sums = group.create_dataset(name, (len(sizes), *shape), kind, chunks=(1, *shape), **PACKED)
    add_array(group, "frame", starts + 0.5 * sizes)
    add_array(group, "first_frame", starts)
    add_array(group, "n_frames", sizes)
    for axis, n in zip(axes[1:], shape, strict=True):
        add_array(group, axis, np.arange(n) + 0.5, "pixel")
    group["title"] = f"sums over {len(sizes)} ranges of frames"
    set_view(group, [len(sizes) // 2], signed=False)
    return sums


class StatisticsOutput:
    """Open file of frame statistics; see `statistics_output`."""

    def __init__(self, entry: h5py.Group, partial: h5py.Dataset | None) -> None:
        self._entry, self._partial, self._next = entry, partial, 0

    def add_part(self, image: NDArray[Any]) -> None:
        """Write the next partial sum (slow, fast)."""
        assert self._partial is not None
        self._partial[self._next] = image
        self._next += 1

    def write(
        self,
        arrays: Mapping[str, Any],
        images: Mapping[str, Any],
        radial: tuple[Any, Any, Any] | None = None,
        parts: tuple[Any, Any, Any, Any] | None = None,
    ) -> None:
        """Write arrays with one value per frame (n_frames,), and images (slow, fast).

        The first array is the default plot. `radial` has the centres of bins in |Q| (n,) in Å⁻¹,
        and counts and numbers of pixels (n_frames, n) in these bins. `parts` has the relative
        backgrounds (n_frames, n_parts) of parts of the detector, the errors of these backgrounds,
        their shape (n_parts,), and an image (slow, fast) of the pixels; see `read_parts`.
        """
        signal, *others = arrays
        entry = self._entry
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
            group["title"] = f"{name}, all frames"
            add_array(group, "slow", np.arange(image.shape[0]) + 0.5, "pixel")
            add_array(group, "fast", np.arange(image.shape[1]) + 0.5, "pixel")
            set_view(group, (), signed=False)
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
            what = "expected background of the part over the background of the frame"
            add_array(group, "shape", parts[2], "", description=what)
            what = f"part of each pixel of the annulus; {OUTSIDE}: outside, {LEFT_OUT}: small part"
            add_array(group, "pixels", parts[3], description=what)


def read_statistics(path: Path, name: str) -> Floats:
    """Read one array or image of the frame statistics."""
    with open_entry(path) as entry:
        group = entry["frame_sums"] if name in entry["frame_sums"] else entry[name]
        values: Floats = group[name][()]
        return values


def read_rings(path: Path) -> Floats:
    """Read the counts (n_frames, n) in bins of |Q| of the frame statistics."""
    with open_entry(path) as entry:
        counts: Floats = entry["radial/counts"][()]
        return counts


class Parts(NamedTuple):
    """Background between the peaks in parts of the detector.

    Attributes
    ----------
    values, errors : (n_frames, n_parts) array
        Background of a part, divided by the background of the frame and by ``shape``.
    shape : (n_parts,) array
    image : (slow, fast) array
        See `images.statistics.StatisticsResult`.
    """

    values: Floats
    errors: Floats
    shape: Floats
    image: NDArray[np.int8]


def read_parts(path: Path) -> Parts:
    """Read the backgrounds of parts of the detector.

    Raises
    ------
    HklflowError
        If an older version wrote the file.
    """
    with open_entry(path) as entry:
        if "parts/pixels" not in entry:
            raise HklflowError(
                f"{path} has no backgrounds of parts of the detector, because an older hklflow "
                "wrote it; run `find_peaks` again"
            )
        group = entry["parts"]
        return Parts(*(group[name][()] for name in ("data", "data_errors", "shape", "pixels")))
