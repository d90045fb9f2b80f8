"""Open the product to export: a volume, or a stack of volumes along temperature."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow import __version__
from hklflow.base.axis import Axis
from hklflow.base.errors import HklflowError
from hklflow.base.history import WORD
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.nexus.grid_writer import PLANES
from hklflow.nexus.plottable import Plottable, open_plottable
from hklflow.nexus.provenance import read_provenance
from hklflow.nexus.stack import axis_of, volumes_of

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

_KINDS = {"difference": "difference of ", "delta": "3D-ΔPDF, ", "total": "total PDF, "}
_PARTIAL = re.compile(r"\.partial(\.[0-9a-f]{8})?\.")


@dataclass(frozen=True)
class Slab:
    """Planes of a volume.

    Attributes
    ----------
    first, last : int
        First plane, and end.
    data : (last - first, k, h) array
        Values; NaN if not measured, or the number that stands for it.
    errors : (last - first, k, h) array or None
        Standard deviations, NaN if not measured; None if the product has none.
    """

    first: int
    last: int
    data: Singles
    errors: Singles | None


@dataclass(frozen=True)
class Source:
    """Open volume, or one volume of a stack.

    Attributes
    ----------
    path : Path
        File that the user named.
    plottable : Plottable
    grid : Grid
    cell : (6,) array
        Cell, Å and degrees.
    facts : dict
        What the values are and where they come from, JSON-ready; see `facts_of`.
    unmeasured : float
        Number that stands for voxels without a value; may be NaN.
    only_errors : bool
        True: export the standard deviations in the place of the values.
    number : int or None
        Index in a stack; None for a single volume.
    """

    path: Path
    plottable: Plottable
    grid: Grid
    cell: Floats
    facts: dict[str, Any]
    unmeasured: float
    only_errors: bool = False
    number: int | None = None

    @property
    def direct(self) -> bool:
        """True for a pair distribution, on x, y, z; False for hkl."""
        return self.plottable.space == "xyz"

    @property
    def diagnosis(self) -> str:
        """Reasons why the product is diagnostic; empty if it is reduced."""
        return str(self.facts.get(WORD, ""))

    @property
    def has_errors(self) -> bool:
        """True if slabs have errors."""
        return self.plottable.errors is not None and not self.only_errors

    @property
    def basis(self) -> Floats:
        """Vectors (columns) of one unit of each axis, Cartesian, in `length_unit`.

        Reciprocal: the matrix B of Busing & Levy with 2π. Direct: a along x, b in the xy plane.
        """
        if not self.direct:
            return lattice.b_matrix(self.cell)
        return np.asarray(np.linalg.cholesky(lattice.metric(self.cell)).T)

    @property
    def lengths_and_angles(self) -> Floats:
        """Lengths of one unit of each axis in `length_unit`, and angles between axes, degrees."""
        return self.cell if self.direct else lattice.reciprocal(self.cell)

    @property
    def length_unit(self) -> str:
        """Unit of Cartesian coordinates."""
        return "Å" if self.direct else "1/Å, with 2π"

    def slabs(self) -> Iterator[Slab]:
        """Yield the volume in layers of chunks, so that it need not fit in memory."""
        for first in range(0, self.grid.array_shape[0], PLANES):
            last = min(first + PLANES, self.grid.array_shape[0])
            errors = self.plottable.errors if self.has_errors else None
            sigma = None if errors is None else self._read(errors, slice(first, last))
            yield Slab(first, last, self._values(slice(first, last)), sigma)

    def columns(self, first: int, last: int) -> Singles:
        """Return values (l, k, last - first) of a range of h."""
        return self._values(slice(None), slice(None), slice(first, last))

    def _values(self, *region: slice) -> Singles:
        errors = self.plottable.errors
        replaced = self.only_errors and errors is not None
        data = self._read(errors if replaced else self.plottable.signal, *region)
        if not np.isnan(self.unmeasured):
            data[~np.isfinite(data)] = self.unmeasured
        return data

    def _read(self, array: h5py.Dataset, *region: slice) -> Singles:
        at = () if self.number is None else (self.number,)
        values: Singles = array[(*at, *region)].astype(np.float32)
        return values


@dataclass(frozen=True)
class Stack:
    """Open stack of volumes; ``temperatures`` (K) and ``volumes`` are in ascending order.

    Along another axis its values are in the place of temperatures.
    """

    path: Path
    temperatures: Floats
    volumes: list[Source]
    axis: Axis

    @property
    def diagnosis(self) -> str:
        """Reasons why the stack is diagnostic; empty if it is reduced."""
        return next((volume.diagnosis for volume in self.volumes if volume.diagnosis), "")


def require_finished(path: Path) -> None:
    """Refuse a file under the temporary name of a job that runs or died.

    Raises
    ------
    HklflowError
    """
    if path.name.startswith(".") and _PARTIAL.search(path.name):
        raise HklflowError(
            f"{path} is not finished: a job still writes it, or died; export the product under its "
            "final name"
        )


@contextmanager
def open_volume(
    path: Path,
    inside: Sequence[str],
    unmeasured: float,
    only_errors: bool,
    *,
    hkl_only: bool,
) -> Iterator[Source]:
    """Open a merged, symmetrised or filled volume, a difference, or a pair distribution.

    Parameters
    ----------
    path : Path
        HDF5 file.
    inside : sequence of str
        Path to the volume in the file, as names; empty: the default plot.
    unmeasured : float
        Number that stands for voxels without a value.
    only_errors : bool
        True: export the standard deviations.
    hkl_only : bool
        True: refuse a pair distribution.

    Raises
    ------
    HklflowError
        If the file has no such volume, or no errors where errors shall be exported.
    """
    require_finished(path)
    with open_plottable(path, inside) as plottable:
        what = "a merged, symmetrised or filled volume, a difference or a pair distribution"
        if plottable is None or not plottable.space or plottable.signal.ndim != 3:
            kind = "no volume" if plottable is None else _kind(plottable)
            raise HklflowError(f"{path} has {kind}, and this format holds one volume; give {what}")
        _require_values(path, plottable, what)
        if hkl_only and plottable.space != "hkl":
            raise HklflowError(
                f"{path} is a pair distribution, and this format holds volumes of hkl; give S(Q), "
                "or choose ccp4, vtk, npy or yell"
            )
        if only_errors and plottable.errors is None:
            raise HklflowError(f"{path} has no errors of {plottable.name}; leave out --errors")
        facts = facts_of(path, plottable, plottable.notes, unmeasured)
        if only_errors:
            facts["quantity"] = f"standard deviation of: {facts['quantity']}"
        yield Source(
            path, plottable, plottable.grid(), plottable.cell(), facts, unmeasured, only_errors
        )


@contextmanager
def open_stack(path: Path, inside: Sequence[str], unmeasured: float) -> Iterator[Stack]:
    """Open a stack of volumes of hkl along temperature; see `open_volume`.

    Raises
    ------
    HklflowError
        If the file has no such stack, or its volumes are missing.
    """
    require_finished(path)
    with open_plottable(path, inside) as plottable:
        what = "a stack of S(Q) along temperature (`results/SAMPLE/stack_PARENT/transform.nxs`)"
        if plottable is None or plottable.signal.ndim != 4 or plottable.space != "hkl":
            kind = "no stack" if plottable is None else _kind(plottable)
            raise HklflowError(f"{path} has {kind}, and this format holds a series; give {what}")
        _require_members(path, plottable.signal)
        axis = axis_of(plottable.group)
        temperatures = np.asarray(plottable.group[axis.name][()], dtype=np.float64)
        cells = np.atleast_2d(plottable.group.parent["sample/unit_cell"][()])
        # A copied stack has its own values, and does not know the notes of its volumes.
        volumes: list[Source] = []
        notes: list[Mapping[str, Any]] = [plottable.notes] * len(temperatures)
        if plottable.signal.is_virtual:
            notes = [notes_of(*volume) for volume in volumes_of(plottable.signal, path)]
        for number, (kelvin, cell) in enumerate(zip(temperatures, cells, strict=True)):
            facts = facts_of(path, plottable, notes[number], unmeasured)
            place = f"{axis.name} in {axis.unit}"
            facts |= {place: float(kelvin), "cell": cell.tolist()}
            grid = plottable.grid()
            volumes.append(Source(path, plottable, grid, cell, facts, unmeasured, number=number))
        yield Stack(path, temperatures, volumes, axis)


def _kind(plottable: Plottable) -> str:
    if plottable.space and plottable.signal.ndim == 4:
        return "a stack of volumes"
    if plottable.space:
        return "a single volume"
    return f"no volume (it plots {plottable.name})"


def _require_values(path: Path, plottable: Plottable, what: str) -> None:
    if plottable.name == "counts" and "norm" in plottable.group:
        raise HklflowError(
            f"{path} has the counts and the norm of one rotation, not yet S(Q); give {what}"
        )
    if plottable.signal.dtype.kind != "f":
        raise HklflowError(
            f"{path}/{plottable.name} has no values to export (type {plottable.signal.dtype}); "
            f"give {what}"
        )


def _require_members(path: Path, signal: h5py.Dataset) -> None:
    """Refuse a stack whose volumes were moved: HDF5 would read NaN in their place."""
    for source in signal.virtual_sources() if signal.is_virtual else ():
        name = path.parent / source.file_name
        if not name.exists():
            raise HklflowError(
                f"{name} does not exist, and {path} reads it; keep the stack and its volumes in "
                "their folders, or run snakemake again"
            )


def notes_of(path: Path, inside: Sequence[str]) -> Mapping[str, Any]:
    """Return the notes of a volume; empty without."""
    with open_plottable(path, inside) as plottable:
        return {} if plottable is None else plottable.notes


def facts_of(
    path: Path, plottable: Plottable, notes: Mapping[str, Any], unmeasured: float
) -> dict[str, Any]:
    """Return what the values are, their conventions and their origin, JSON-ready.

    Parameters
    ----------
    notes : mapping
        Notes of the stage that made the volume.
    """
    from hklflow.geometry.symmetry import space_group

    direct = plottable.space == "xyz"
    symbol = notes.get("space_group")
    history = read_provenance(Path(plottable.group.file.filename))
    facts: dict[str, Any] = {
        "program": f"hklflow {__version__}",
        "source": path.name,
        "title": plottable.title,
        "quantity": _KINDS.get(str(notes.get("kind")), "") + plottable.label(plottable.signal),
        "units": str(plottable.signal.attrs.get("units", "")),
        "estimand": _estimand(plottable, direct, notes.get("kind")),
        "axes": "x y z in fractions of a b c" if direct else "h k l in r.l.u.",
        "voxels": "values at voxel centres",
        "convention": "r in Å" if direct else "Q = B h in 1/Å; B contains 2π",
        "cell": plottable.cell().tolist(),
        "Laue group": space_group(symbol).laue if symbol else None,
        "space group": symbol,
        "symmetrised": "operations" in notes,
        "unmeasured": None if np.isnan(unmeasured) else unmeasured,
        "stages": [f"{r['stage']} {r['stage_version']} (hklflow {r['version']})" for r in history],
    }
    if plottable.diagnosis:
        facts[WORD] = plottable.diagnosis
    return facts


def _estimand(plottable: Plottable, direct: bool, kind: str | None) -> str:
    if kind == "difference":
        return "difference of the values of two products in each voxel"
    if direct:
        return "Fourier transform of S(Q), see docs/pdf.md"
    if "punched" in plottable.group:
        return "photons / norm of each voxel; punched and unmeasured voxels are interpolated"
    return "photons / norm of each voxel (sum of counts / sum of norm)"


def as_json(facts: dict[str, Any], *, indent: int | None = None) -> str:
    """Return facts as JSON in ASCII."""
    return json.dumps(facts, indent=indent)
