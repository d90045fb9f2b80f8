"""Find the plot of a NeXus file: the default plot, or the data at a path in the file."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (packed frames need its filters)
import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.values import CELL_NAMES
from hklflow.geometry.grid import Grid
from hklflow.nexus.default_view import PLANE_OF
from hklflow.nexus.entry import text

Floats = NDArray[np.float64]

_SPACES: dict[tuple[str, ...], str] = {("Ql", "Qk", "Qh"): "hkl", ("z", "y", "x"): "xyz"}


@dataclass(frozen=True)
class Plottable:
    """Open dataset with the metadata of its group.

    Attributes
    ----------
    group : h5py.Group
        Group of the dataset; if the dataset is a link, the group in the linked file.
    signal : h5py.Dataset
    name : str
        Name of the signal in its group; a link may have another name.
    axes : tuple of str
        Name of the axis of each dimension; empty for a dimension without an axis.
    """

    group: h5py.Group
    signal: h5py.Dataset
    name: str
    axes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Title of the group or of its entry, or the name of the signal; it tells a diagnosis."""
        nodes = (self.group, self.group.parent)
        titles = (text(node["title"]) for node in nodes if "title" in node)
        return next(titles, self.name) + (" (diagnostic)" if self.diagnosis else "")

    @property
    def diagnosis(self) -> str:
        """Reasons why the file is diagnostic; empty if it is not."""
        entry = self.group.file.get("entry")
        return "" if entry is None else str(entry.attrs.get("hklflow_diagnostic", ""))

    @property
    def errors(self) -> h5py.Dataset | None:
        """Standard deviations of the signal; None if the file has none."""
        for candidate in (f"{self.name}_errors", "errors"):
            errors = self.group.get(candidate)
            if errors is not None and errors.shape == self.signal.shape and candidate != self.name:
                return errors
        return None

    @property
    def space(self) -> str:
        """Letters of the axes of a volume, ``hkl`` or ``xyz``; empty for other data."""
        return _SPACES.get(self.axes[-3:], "") if len(self.axes) in (3, 4) else ""

    def axis(self, i: int) -> h5py.Dataset | None:
        """Return the values along a dimension; None if it has no axis."""
        return self.group.get(self.axes[i]) if self.axes[i] else None

    def label(self, of: h5py.Dataset) -> str:
        """Return the long name of a dataset, or its name and unit."""
        if "long_name" in of.attrs:
            return _word(of.attrs["long_name"])
        name = str(of.name).rsplit("/", 1)[-1].replace("_", " ")
        return f"{name} ({_word(of.attrs['units'])})" if of.attrs.get("units") else name

    @property
    def notes(self) -> dict[str, Any]:
        """Notes of the stage, as hklflow writes them."""
        entry = self.group.parent
        return json.loads(text(entry["notes/notes"])) if "notes/notes" in entry else {}

    def grid(self) -> Grid:
        """Return the grid of a volume, from hklflow's notes or from the axes.

        Raises
        ------
        HklflowError
            If the axes are not evenly spaced.
        """
        entry = self.group.parent
        if "notes/grid" in entry:
            return Grid.from_dict(json.loads(text(entry["notes/grid"])))
        axes = [np.asarray(self.group[name], dtype=np.float64) for name in self.axes[-1:-4:-1]]
        steps = [np.diff(axis).mean() if axis.size > 1 else 1.0 for axis in axes]
        for name, axis, step in zip(self.axes[-1:-4:-1], axes, steps, strict=True):
            if step <= 0 or np.any(np.abs(np.diff(axis) - step) > 1e-3 * step):
                raise HklflowError(
                    f"the steps of axis {name} of {self.group.file.filename} are not equal; planes "
                    "need a regular grid"
                )
        sizes = (axes[0].size, axes[1].size, axes[2].size)
        return Grid(np.array([axis[0] for axis in axes]), np.array(steps), sizes)

    def cell(self) -> Floats:
        """Return the cell (6,) in Å and degrees.

        Raises
        ------
        HklflowError
            If the file has no cell.
        """
        entries = (self.group.parent, self.group.file.get("entry"))
        samples = [entry["sample"] for entry in entries if entry is not None and "sample" in entry]
        for sample in samples:
            if "unit_cell" in sample:
                return np.asarray(sample["unit_cell"][()], dtype=np.float64).ravel()[:6]
            names = [f"unitcell_{part}" for part in CELL_NAMES]
            if all(name in sample for name in names):
                return np.array([float(np.asarray(sample[name][()]).ravel()[0]) for name in names])
        raise HklflowError(
            f"{self.group.file.filename} has no cell (`sample/unit_cell`), so the angles of a "
            "plane are not known"
        )


@contextmanager
def open_plottable(path: Path, inside: Sequence[str] = ()) -> Iterator[Plottable | None]:
    """Open the plot of a file.

    Parameters
    ----------
    path : Path
        HDF5 file.
    inside : sequence of str
        Path to a group or a dataset in the file, as names; empty: the default plot.

    Yields
    ------
    Plottable or None
        None if the file has no default plot.

    Raises
    ------
    HklflowError
        If the file cannot be read, the path does not exist in it, or a link is broken.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise HklflowError(
            f"{path} is not a readable HDF5 file ({' '.join(str(error).split())}); create it again"
        ) from error
    with file:
        node: Any = file
        for i, name in enumerate(inside):
            below = node.get(name) if isinstance(node, h5py.Group) else None
            if below is None:
                where = "/".join([str(path), *inside[:i]])
                raise HklflowError(f"there is no {name!r} in {where}, or its link is broken")
            node = below
        yield _plottable(node, path)


def _plottable(node: Any, path: Path) -> Plottable | None:
    if isinstance(node, h5py.Dataset):
        group = node.parent
        main = group.get(_word(group.attrs.get("signal", "")) or ".")
        same_shape = isinstance(main, h5py.Dataset) and main.shape == node.shape
        name = str(node.name).rsplit("/", 1)[-1]
        return Plottable(group, node, name, _axes(group, node) if same_shape else ("",) * node.ndim)
    while "default" in node.attrs:
        name = _word(node.attrs["default"])
        below = node.get(name)
        if below is None:
            raise HklflowError(
                f"the default plot of {path} is {name!r}, which does not exist; create the file "
                "again"
            )
        node = below
    if PLANE_OF in node.attrs:  # the plane is for viewers; the volume is the plot
        node = node.parent[_word(node.attrs[PLANE_OF])]
    signal = node.get(_word(node.attrs.get("signal", "")) or ".")
    if not isinstance(signal, h5py.Dataset):
        _require_linked(node, path)
        return None
    name = _word(node.attrs["signal"])
    if signal.file != node.file and _word(signal.parent.attrs.get("signal", "")) == name:
        node = signal.parent  # a master file links the datasets of a group one by one
    return Plottable(node, signal, name, _axes(node, signal))


def _require_linked(node: h5py.Group, path: Path) -> None:
    """Raise an error if the signal of a group is a link into a file that cannot be found."""
    name = _word(node.attrs.get("signal", ""))
    link = node.get(name, getlink=True) if name in node else None
    if isinstance(link, h5py.ExternalLink):
        raise HklflowError(
            f"{path} links its plot {name!r} to {path.parent / link.filename}, which is missing or "
            "damaged; move a file together with those to which it links, or create it again"
        )


def _axes(group: h5py.Group, signal: h5py.Dataset) -> tuple[str, ...]:
    axes = group.attrs.get("axes", [])
    words = [_word(name) for name in ([axes] if isinstance(axes, str | bytes) else axes)]
    words = ["" if word == "." or word not in group else word for word in words]
    n = int(signal.ndim)
    return tuple(words[:n]) + ("",) * (n - len(words))


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
