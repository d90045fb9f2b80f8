"""A volume in a file: its kind and metadata, and blocks of its voxels."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.nexus.chunk_reader import reader
from hklflow.nexus.plottable import open_plottable
from hklflow.volumes.extrema import operations_of
from hklflow.volumes.planes import metric_of

if TYPE_CHECKING:
    from hklflow.nexus.plottable import Plottable

Floats = NDArray[np.float64]

KINDS = {
    "transform": "counts and norm",
    "merged": "S(Q)",
    "symmetrised": "symmetrised S(Q)",
    "filled": "S(Q) without Bragg reflections",
    "difference": "difference of S(Q)",
    "delta": "3D-ΔPDF",
    "total": "total PDF",
    "difference of PDFs": "difference of 3D-ΔPDFs",
    "other": "volume",
}
"""Kinds of volumes, with their labels in plots."""

# Half-width in voxels of the neighbourhood that determines the errors of a rotation, as in merge.
_POOL = 2
THREADS = min(4, os.cpu_count() or 1)
"""Blocks of a file that are decompressed at the same time."""
_BLOCK = (16, 64, 64)
_PART = 262144  # voxels
OTHER = ("counts", "norm", "variance", "background", "data_background", "punched")


@dataclass(frozen=True)
class Source:
    """A volume on hkl or xyz in a file; `open` gives its arrays.

    Attributes
    ----------
    path : Path
    inside : sequence of str
        Names of the groups that lead to the volume; empty: the default plot of the file.
    kind : str
        One of `KINDS`.
    direct : bool
        True for a volume of direct space.
    grid : Grid
    cell : (6,) array
        Å and degrees.
    operations : (n, 3, 3) array
        Operations under which voxels are one measurement; only the identity if none is known.
    title, unit : str
    notes : mapping
        Notes of the stage.
    """

    path: Path
    inside: Sequence[str]
    kind: str
    direct: bool
    grid: Grid
    cell: Floats
    operations: Floats
    title: str
    unit: str
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> Floats:
        """Metric tensor (3, 3) of the axes, 1/Å² or Å²."""
        return metric_of(self.cell, self.direct)

    @property
    def usual_estimand(self) -> Literal["ratio", "mean"]:
        """Estimand of cuts that name none: ``ratio`` for volumes with counts and norm."""
        return "ratio" if self.kind in ("transform", "merged", "symmetrised") else "mean"

    @property
    def names(self) -> str:
        """Letters of the axes."""
        return "xyz" if self.direct else "hkl"

    @property
    def lengths(self) -> Floats:
        """Lengths (3,) of the unit vectors of the axes: a* in 1/Å, or a in Å."""
        return np.asarray(np.sqrt(np.diag(self.metric)))

    def contains(self, axes: Sequence[Floats] | Floats) -> NDArray[np.bool_]:
        """Return True for points within the voxels of the volume; see `hklflow.results.regions`."""
        within: Any = np.ones((), np.bool_)
        for axis, first, step, n in zip(
            axes, self.grid.first, self.grid.step, self.grid.shape, strict=True
        ):
            place = (axis - first) / step
            within = within & (place >= -0.5 - 1e-6) & (place <= n - 0.5 + 1e-6)
        return np.asarray(within)

    @property
    def ranges(self) -> str:
        """Ranges of the axes, for messages."""
        ends = [self.grid.axis(i)[[0, -1]] for i in range(3)]
        named = zip(self.names, ends, strict=True)
        return ", ".join(f"{name} from {a:g} to {b:g}" for name, (a, b) in named)

    @contextmanager
    def open(self) -> Iterator["Arrays"]:
        """Open the file; the arrays can be read until it is closed again."""
        with open_plottable(self.path, self.inside) as plottable:
            if plottable is None:
                raise HklflowError(f"{self.path} has changed since it was opened; open it again")
            yield Arrays(plottable, self.kind)


class Arrays:
    """Arrays of an open volume, read block by block."""

    def __init__(self, plottable: "Plottable", kind: str) -> None:
        home = home_of(plottable)
        group = home.group
        self._signal, self._kind = reader(home.signal), kind
        self._errors = None if home.errors is None else reader(home.errors)
        self._other: dict[str, Any] = {
            name: reader(group[name])
            for name in OTHER
            if kind != "other" and name in group and group[name].shape == plottable.signal.shape
        }

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Shapes (l, k, h) of parts to read: blocks in the file, several along h, k or l."""
        block = self._signal.chunks or _BLOCK
        several = max(_PART // math.prod(block), 1)
        l, k, h = block  # noqa: E741
        return [(l, k, several * h), (l, several * k, h), (several * l, k, h)]

    @property
    def has_ratio(self) -> bool:
        """True if the volume has counts and norm."""
        return {"counts", "norm"} <= self._other.keys()

    @property
    def has_background(self) -> bool:
        """True if a background was subtracted, and is stored."""
        return self.has_sums_of_background or "data_background" in self._other

    @property
    def has_sums_of_background(self) -> bool:
        """True if the subtracted background is stored as sums of counts, with the variance."""
        return {"background", "variance", "counts", "norm"} <= self._other.keys()

    def has(self, name: str) -> bool:
        """Return True if the volume has this array."""
        return self.plane(name) is not None

    def read(self, region: tuple[slice, ...], *names: str) -> dict[str, NDArray[Any]]:
        """Read a region (l, k, h).

        Parameters
        ----------
        names : str
            ``data``, ``errors`` and names of other arrays; arrays that the volume lacks are left
            out.
        """
        derived = ("data", "errors") if self._kind == "transform" else ()
        stored = {n: self.plane(n) for n in names if n not in derived}
        arrays = {n: array[region] for n, array in stored.items() if array is not None}
        return arrays | (self._derived(region) if any(n in derived for n in names) else {})

    def _derived(self, region: tuple[slice, ...]) -> dict[str, NDArray[Any]]:
        """Return S and its errors of a rotation as the stage merge derives them."""
        from hklflow.transform import estimator

        wide = tuple(slice(max(part.start - _POOL, 0), part.stop + _POOL) for part in region)
        own = tuple(
            slice(part.start - more.start, part.stop - more.start)
            for part, more in zip(region, wide, strict=True)
        )
        stored = [self._other[n] for n in ("counts", "norm", "variance") if n in self._other]
        counts, norm, *rest = (array[wide].astype(np.float64) for array in stored)
        data, errors = np.empty((2, *counts.shape))
        everywhere = slice(0, counts.shape[0]), slice(0, counts.shape[1])
        variance = rest[0] if rest else None
        estimator.derive(counts, norm, *everywhere, _POOL, data, errors, variance)
        return {"data": data[own], "errors": errors[own]}

    def plane(self, name: str) -> Any:
        """Return ``data``, ``errors`` or another array; it is sliced like an array."""
        if self._kind == "transform" and name in ("data", "errors"):
            return _Derived(self, name)
        return {"data": self._signal, "errors": self._errors, **self._other}.get(name)


@dataclass(frozen=True)
class _Derived:
    arrays: Arrays
    name: str

    def __getitem__(self, region: tuple[slice, ...]) -> NDArray[Any]:
        return self.arrays.read(region, self.name)[self.name]


def source_of(path: Path, inside: Sequence[str], plottable: "Plottable") -> Source:
    """Return the description of an open volume.

    Raises
    ------
    HklflowError
        If the file has no cell, or its axes are not regular.
    """
    home = home_of(plottable)
    notes = home.notes
    direct = plottable.space == "xyz"
    # Another array of a volume, such as its multiplicity, is no S: only its mean has a meaning.
    main = home.name == "data" or (home.name == "counts" and "data" not in home.group)
    kind = _kind(home.group, notes, direct) if main else "other"
    known = notes.get("operations") if main and kind != "transform" else None
    unit = plottable.signal.attrs.get("units") if kind != "transform" else None
    return Source(
        path,
        tuple(inside),
        kind,
        direct,
        home.grid(),
        (home if "sample" in home.group.parent else plottable).cell(),
        operations_of(known, direct),
        plottable.title,
        str(unit or ("S per angstrom^3" if direct else "counts per unit norm")),
        notes,
    )


def home_of(plottable: "Plottable") -> "Plottable":
    """Return the plot in the file that holds the arrays, and has the notes; see master files.

    A file of another program, which a wrapper links to, may hold the array alone: then the plot
    itself is returned.
    """
    signal = plottable.signal
    if any(axis and axis not in signal.parent for axis in plottable.axes):
        return plottable
    return replace(plottable, group=signal.parent, name=str(signal.name).rsplit("/", 1)[-1])


def _kind(group: h5py.Group, notes: Mapping[str, Any], direct: bool) -> str:
    named = notes.get("kind")
    if direct:
        return "difference of PDFs" if named == "difference" else str(named or "other")
    if "punched" in group:
        return "filled"
    if named == "difference":
        return "difference"
    if not {"counts", "norm"} <= group.keys():
        return "other"
    if "data" not in group:
        return "transform"
    return "symmetrised" if "operations" in notes else "merged"
