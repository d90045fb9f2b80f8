"""Every HDF5/NeXus layout of hklflow: what is written here is read here.

Each product is one file with one NXentry whose chain of ``@default`` leads to an
NXdata that plots itself. History is kept in ``/entry/workflow`` as one NXprocess
for each stage that led to the file.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow import __version__
from hklflow.core import geometry
from hklflow.core.binning import Grid
from hklflow.core.lattice import reciprocal
from hklflow.core.peaks import Peaks
from hklflow.core.scan import RotationScan
from hklflow.errors import HklflowError

Floats = NDArray[np.float64]
Record = dict[str, Any]

_PACKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


# ------------------------------------------------------------------ small helpers


@contextmanager
def _create(path: Path, title: str, default: str) -> Iterator[h5py.Group]:
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file.attrs["default"] = "entry"
        file.attrs["creator"] = f"hklflow {__version__}"
        entry = _group(file, "entry", "NXentry")
        entry.attrs["default"] = default
        entry["title"] = title
        yield entry


@contextmanager
def _open(path: Path) -> Iterator[h5py.Group]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise HklflowError(
            f"{path} is not a readable HDF5 file ({error}); make it again"
        ) from error
    with file:
        try:
            yield file.get("entry", file)  # raw files of others may have no `entry`
        except KeyError as error:
            raise HklflowError(
                f"{path} is another product than is needed here ({error}); check the path"
            ) from error


def _group(parent: h5py.Group, name: str, nx_class: str, **attrs: Any) -> h5py.Group:
    group = parent.require_group(name)
    group.attrs["NX_class"] = nx_class
    for key, value in attrs.items():
        group.attrs[key] = value
    return group


def _array(group: h5py.Group, name: str, data: Any, units: str | None = None, **attrs: Any) -> None:
    array = np.asarray(data)
    packed = _PACKED if array.size > 1024 else {}
    dataset = group.create_dataset(name, data=array, **packed)
    if units is not None:
        dataset.attrs["units"] = units
    for key, value in attrs.items():
        dataset.attrs[key] = value


def _text(dataset: h5py.Dataset) -> str:
    value = dataset[()]
    return value.decode() if isinstance(value, bytes) else str(value)


def _smallest(counts: Floats) -> NDArray[Any]:
    """Counts as uint32 when they are whole and fit: exact, and half the space."""
    whole = counts.size > 0 and counts.max() < 2**32 and bool(np.all(counts == np.rint(counts)))
    return counts.astype(np.uint32) if whole else counts


# --------------------------------------------------------------------- provenance


def write_provenance(path: Path, history: Sequence[Record]) -> None:
    """Store the history of a file, replacing what it has."""
    with h5py.File(path, "r+") as file:
        entry = file["entry"]
        if "workflow" in entry:
            del entry["workflow"]
        workflow = _group(entry, "workflow", "NXcollection")
        for i, record in enumerate(history):
            process = _group(workflow, f"process_{i:03d}_{record['stage']}", "NXprocess")
            process["program"] = f"hklflow.stages.{record['stage']}"
            process["version"] = f"{record['version']} (stage {record['stage_version']})"
            process["date"] = record["started"]
            process["sequence_index"] = i
            note = _group(process, "record", "NXnote")
            note["type"] = "application/json"
            note["data"] = json.dumps(record)


def read_provenance(path: Path) -> list[Record]:
    """History of a file, oldest first; empty if it has none."""
    with _open(path) as entry:
        if "workflow" not in entry:
            return []
        processes = sorted(
            (p for p in entry["workflow"].values() if f"{p.name}/record/data" in p.file),
            key=lambda p: int(p["sequence_index"][()]),
        )
        return [json.loads(_text(p["record/data"])) for p in processes]


# -------------------------------------------------------------------------- scans


def write_scan(
    path: Path, scan: RotationScan, title: str, dataset: tuple[Path, str] | None
) -> None:
    """Write a scan file.

    Parameters
    ----------
    dataset : (file, path in file) or None
        HDF5 dataset of the frames, linked so that viewers find it.
    """
    rotation = scan.rotation
    n = rotation.scan.n_frames
    with _create(path, title, "frames") as entry:
        raw = _group(entry, "raw", "NXcollection")
        raw["path"] = scan.raw
        raw["first_frame"] = scan.first
        raw["geometry"] = json.dumps(geometry.to_dict(rotation))
        frames = _group(entry, "frames", "NXdata", signal="monitor", axes=["rotation_angle"])
        angle = np.degrees(rotation.scan.angle(np.arange(n) + 0.5))
        _array(frames, "rotation_angle", angle, "deg", long_name="scan angle at mid-frame")
        _array(frames, "monitor", scan.monitor, "", long_name=f"monitor ({scan.monitor_source})")
        _array(frames, "exposure", scan.exposure, "s")
        _array(frames, "attenuation", scan.attenuation, "")
        instrument = _group(entry, "instrument", "NXinstrument")
        mono = _group(instrument, "monochromator", "NXmonochromator")
        _array(mono, "wavelength", rotation.beam.wavelength, "angstrom")
        detector = _group(instrument, "detector", "NXdetector")
        _array(detector, "distance", rotation.detector.distance, "m")
        _array(detector, "x_pixel_size", rotation.detector.pixel_size[1], "m")
        _array(detector, "y_pixel_size", rotation.detector.pixel_size[0], "m")
        if scan.saturation is not None:
            _array(detector, "saturation_value", scan.saturation)
        goniometer = _group(instrument, "goniometer", "NXtransformations")
        for name, axis, setting in zip(
            rotation.goniometer.names,
            rotation.goniometer.axes,
            rotation.goniometer.angles,
            strict=True,
        ):
            _array(goniometer, name, np.degrees(setting), "deg", vector=axis)
        sample = _group(entry, "sample", "NXsample")
        if scan.temperature is not None:
            _array(sample, "temperature", scan.temperature, "K")
        if dataset is not None:
            data = _group(entry, "data", "NXdata", signal="data")
            data["data"] = h5py.ExternalLink(os.path.relpath(dataset[0], path.parent), dataset[1])


def read_scan(path: Path) -> RotationScan:
    """Read a scan file."""
    with _open(path) as entry:
        frames = entry["frames"]
        detector = entry["instrument/detector"]
        source = str(frames["monitor"].attrs["long_name"])
        return RotationScan(
            raw=_text(entry["raw/path"]),
            first=int(entry["raw/first_frame"][()]),
            rotation=geometry.from_dict(json.loads(_text(entry["raw/geometry"]))),
            monitor=frames["monitor"][()],
            exposure=frames["exposure"][()],
            attenuation=frames["attenuation"][()],
            monitor_source=source.removeprefix("monitor (").removesuffix(")"),
            temperature=_optional(entry["sample"], "temperature"),
            saturation=_optional(detector, "saturation_value"),
        )


def has_frames(path: Path) -> bool:
    """Whether a scan file links an HDF5 dataset of frames (image series have none)."""
    with _open(path) as entry:
        return "data" in entry


def _optional(group: h5py.Group, name: str) -> float | None:
    return float(group[name][()]) if name in group else None


# -------------------------------------------------------------------------- masks


def write_mask(path: Path, bits: NDArray[np.uint32]) -> None:
    """Write a pixel mask: NXmx bits, 0 where the pixel is good."""
    with _create(path, "pixel mask", "mask") as entry:
        data = _group(entry, "mask", "NXdata", signal="pixel_mask", axes=["slow", "fast"])
        _array(data, "pixel_mask", bits.astype(np.uint32))
        _array(data, "slow", np.arange(bits.shape[0]) + 0.5, "pixel")
        _array(data, "fast", np.arange(bits.shape[1]) + 0.5, "pixel")


def read_mask(path: Path) -> NDArray[np.uint32]:
    """Read the bits of a pixel mask (slow, fast)."""
    with _open(path) as entry:
        bits: NDArray[np.uint32] = entry["mask/pixel_mask"][()]
        return bits


class FrameMaskWriter:
    """Write a 3-D mask frame block by frame block, bit-packed along fast."""

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self._path, self._shape = path, shape
        self._flagged = np.zeros(shape[0])

    def __enter__(self) -> "FrameMaskWriter":
        n, n_slow, n_fast = self._shape
        self._context = _create(self._path, "3-D artefact mask", "flagged")
        entry = self._context.__enter__()
        mask = _group(entry, "mask", "NXcollection")
        self._bits = mask.create_dataset(
            "bits",
            shape=(n, n_slow, (n_fast + 7) // 8),
            dtype=np.uint8,
            chunks=(1, n_slow, (n_fast + 7) // 8),
            **_PACKED,
        )
        self._bits.attrs["description"] = "numpy.packbits along the fast axis; 1 = excluded"
        self._bits.attrs["shape"] = self._shape
        self._entry = entry
        self._next = 0
        return self

    def append(self, packed: NDArray[np.uint8], flagged: Floats) -> None:
        """Add packed frames (n, slow, ceil(fast / 8)) and their flagged fractions (n,)."""
        stop = self._next + len(packed)
        self._bits[self._next : stop] = packed
        self._flagged[self._next : stop] = flagged
        self._next = stop

    def __exit__(self, *error: Any) -> None:
        data = _group(self._entry, "flagged", "NXdata", signal="fraction", axes=["frame"])
        _array(data, "fraction", self._flagged, "", long_name="excluded fraction of the frame")
        _array(data, "frame", np.arange(self._shape[0]) + 0.5)
        self._context.__exit__(*error)


@contextmanager
def open_frame_mask(path: Path) -> Iterator[h5py.Dataset]:
    """Packed bits of a 3-D mask: index the dataset by frame."""
    with _open(path) as entry:
        yield entry["mask/bits"]


# --------------------------------------------------------------- frame statistics


def write_statistics(path: Path, arrays: Mapping[str, Any], images: Mapping[str, Any]) -> None:
    """Write per-frame arrays (n_frames,) and images (slow, fast) of one pass over the frames."""
    with _create(path, "frame statistics", "frame_sums") as entry:
        sums = _group(
            entry,
            "frame_sums",
            "NXdata",
            signal="transmission",
            axes=["frame"],
            auxiliary_signals=[name for name in arrays if name != "transmission"],
        )
        for name, values in arrays.items():
            _array(sums, name, values)
        _array(sums, "frame", np.arange(len(arrays["transmission"])) + 0.5)
        for name, image in images.items():
            group = _group(entry, name, "NXdata", signal=name, axes=["slow", "fast"])
            _array(group, name, image)
            _array(group, "slow", np.arange(image.shape[0]) + 0.5, "pixel")
            _array(group, "fast", np.arange(image.shape[1]) + 0.5, "pixel")


def read_statistics(path: Path, name: str) -> Floats:
    """One of the arrays or images of `write_statistics`."""
    with _open(path) as entry:
        group = entry["frame_sums"] if name in entry["frame_sums"] else entry[name]
        values: Floats = group[name][()]
        return values


# -------------------------------------------------------------------------- peaks

_NX_REFLECTIONS = {
    "frame": "observed_frame",
    "slow": "observed_px_y",
    "fast": "observed_px_x",
    "var_frame": "observed_frame_var",
    "var_slow": "observed_px_y_var",
    "var_fast": "observed_px_x_var",
    "intensity": "int_sum",
    "var_intensity": "int_sum_var",
    "background": "background_mean",
}


def write_peaks(path: Path, peaks: Peaks) -> None:
    """Write a peak table as NXreflections (``observed_px_x`` is fast, ``_y`` slow)."""
    with _create(path, "peaks", "picture") as entry:
        table = _group(entry, "peaks", "NXreflections")
        for column in fields(peaks):
            value = getattr(peaks, column.name)
            if isinstance(value, np.ndarray):
                _array(table, _NX_REFLECTIONS.get(column.name, column.name), value)
            else:
                table.attrs[column.name] = json.dumps(value)
        picture = _group(entry, "picture", "NXdata", signal="intensity", axes=["frame"])
        order = np.argsort(peaks.frame)
        _array(picture, "intensity", peaks.intensity[order], "counts")
        _array(picture, "frame", peaks.frame[order])


def read_peaks(path: Path) -> Peaks:
    """Read a peak table."""
    with _open(path) as entry:
        table = entry["peaks"]
        columns: dict[str, Any] = {}
        for column in fields(Peaks):
            name = _NX_REFLECTIONS.get(column.name, column.name)
            if name in table:
                columns[column.name] = table[name][()]
            else:
                columns[column.name] = json.loads(table.attrs[column.name])
        return Peaks(**columns)


# ------------------------------------------------------------------------ volumes


@dataclass(frozen=True)
class Volume:
    """Accumulated counts and norm on a grid, with S and its errors once derived.

    Attributes
    ----------
    grid : Grid
    cell : (6,) array
        Å and degrees: the scale and the angles of the axes.
    counts, norm : (l, k, h) arrays
    data, errors : (l, k, h) arrays or None
        S and σ(S); NaN where nothing was measured.
    notes : dict
        What was done, in words and numbers.
    """

    grid: Grid
    cell: Floats
    counts: Floats
    norm: Floats
    data: Floats | None = None
    errors: Floats | None = None
    notes: dict[str, Any] = field(default_factory=dict)


class VolumeWriter:
    """Write a volume slab by slab along l, so that it need not fit in memory.

    The default plot is S(Q) (or the counts, before the merge). Axes label voxel centres.
    The NXdata carries the angles between its axes and the axes carry their
    ``scaling_factor`` in 1/Å, which NeXpy uses to draw skewed cells with their true shape.

    Parameters
    ----------
    counts_dtype : numpy dtype
        Of the counts as stored.
    derived : bool
        Whether S and its errors will be written too.
    """

    def __init__(
        self, path: Path, grid: Grid, cell: Floats, title: str, counts_dtype: Any, derived: bool
    ) -> None:
        self._grid, self._cell, self._title = grid, cell, title
        self._context = _create(path, title, "transform")
        # The norm is a sum of up to 1e5 terms: single precision keeps 6e-8 of it.
        self._types: dict[str, Any] = {"counts": counts_dtype, "norm": np.float32}
        if derived:
            self._types = {"data": np.float32, "data_errors": np.float32} | self._types

    def __enter__(self) -> "VolumeWriter":
        lengths, angles = np.split(reciprocal(self._cell), 2)
        self._entry = self._context.__enter__()
        self._group = _group(
            self._entry,
            "transform",
            "NXdata",
            signal=next(iter(self._types)),
            axes=["Ql", "Qk", "Qh"],
            Ql_indices=0,
            Qk_indices=1,
            Qh_indices=2,
            # between (Qh, Qk), (Qh, Ql), (Qk, Ql), in the order NeXpy expects
            angles=angles[::-1].copy(),
        )
        shape = self._grid.array_shape
        chunks = (min(16, shape[0]), min(64, shape[1]), min(64, shape[2]))
        for name, dtype in self._types.items():
            self._group.create_dataset(name, shape=shape, dtype=dtype, chunks=chunks, **_PACKED)
        for i, name in enumerate(("Qh", "Qk", "Ql")):
            _array(
                self._group,
                name,
                self._grid.axis(i),
                "r.l.u.",
                long_name=f"{name} (r.l.u.)",
                scaling_factor=lengths[i],
            )
        self._group["title"] = self._title
        sample = _group(self._entry, "sample", "NXsample")
        _array(sample, "unit_cell", self._cell, "angstrom, degree")
        return self

    def write(self, first: int, **arrays: Floats) -> None:
        """Write planes from ``first`` on: counts, norm and, if derived, data and data_errors."""
        for name in self._types:
            self._group[name][first : first + len(arrays[name])] = arrays[name]

    def note(self, notes: Mapping[str, Any]) -> None:
        """Record what was done, in words and numbers."""
        group = _group(self._entry, "notes", "NXcollection")
        group["grid"] = json.dumps(self._grid.to_dict())
        group["notes"] = json.dumps(notes)

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def write_volume(path: Path, volume: Volume, title: str) -> None:
    """Write a volume that is in memory; see `VolumeWriter`."""
    counts = _smallest(volume.counts)
    derived = volume.data is not None and volume.errors is not None
    arrays = {"counts": counts, "norm": volume.norm}
    if volume.data is not None and volume.errors is not None:
        arrays |= {"data": volume.data, "data_errors": volume.errors}
    with VolumeWriter(path, volume.grid, volume.cell, title, counts.dtype, derived) as writer:
        writer.write(0, **arrays)
        writer.note(volume.notes)


@dataclass(frozen=True)
class OpenVolume:
    """A volume on disk, read by planes; see `open_volume`."""

    grid: Grid
    cell: Floats
    group: h5py.Group

    @property
    def counts_are_whole(self) -> bool:
        """Whether the counts are integers."""
        return bool(np.issubdtype(self.group["counts"].dtype, np.integer))

    def slab(self, first: int, last: int) -> tuple[Floats, Floats]:
        """Counts and norm (last - first, k, h) of some planes, as float64."""
        planes = slice(first, last)
        return (
            self.group["counts"][planes].astype(np.float64),
            self.group["norm"][planes].astype(np.float64),
        )


@contextmanager
def open_volume(path: Path) -> Iterator[OpenVolume]:
    """Open a volume without reading it."""
    with _open(path) as entry:
        grid = Grid.from_dict(json.loads(_text(entry["notes/grid"])))
        yield OpenVolume(grid, entry["sample/unit_cell"][()], entry["transform"])


def read_volume(path: Path) -> Volume:
    """Read a volume (counts and norm as float64)."""
    with _open(path) as entry:
        group = entry["transform"]
        derived = "data" in group
        return Volume(
            grid=Grid.from_dict(json.loads(_text(entry["notes/grid"]))),
            cell=entry["sample/unit_cell"][()],
            counts=group["counts"][()].astype(np.float64),
            norm=group["norm"][()].astype(np.float64),
            data=group["data"][()] if derived else None,
            errors=group["data_errors"][()] if derived else None,
            notes=json.loads(_text(entry["notes/notes"])),
        )


# -------------------------------------------------------------------- master file


def write_master(
    path: Path,
    title: str,
    volumes: Mapping[str, Path],
    rotations: Mapping[str, Mapping[str, Path]],
    orientation: Mapping[str, Any],
) -> None:
    """Write the light file of one scan that links all of its products.

    Layout as NeXpy and NXRefine users know it: ``entry/transform``,
    ``entry/masked_transform`` and one entry ``fN`` for each rotation with its
    frames, peaks, frame sums and transforms. All links are relative.
    """

    def link(parent: h5py.Group, name: str, target: Path, inside: str) -> None:
        parent[name] = h5py.ExternalLink(os.path.relpath(target, path.parent), inside)

    with _create(path, title, next(iter(volumes))) as entry:
        for name, target in volumes.items():
            link(entry, name, target, "/entry/transform")
        sample = _group(entry, "sample", "NXsample")
        cell = np.asarray(orientation["cell"])
        sample["space_group"] = str(orientation["space_group"])
        for i, name in enumerate(("a", "b", "c", "alpha", "beta", "gamma")):
            units = "angstrom" if i < 3 else "degree"
            _array(sample, f"unitcell_{name}", cell[i], units, sigma=orientation["cell_sigma"][i])
        if orientation.get("temperature") is not None:
            _array(sample, "temperature", orientation["temperature"], "K")
        _array(sample, "orientation_matrix", orientation["U"])
        _array(sample, "ub_matrix", orientation["UB"], "1/angstrom")
        for i, (name, products) in enumerate(rotations.items()):
            group = _group(
                entry.file,
                f"f{i + 1}",
                "NXentry",
                default="transform" if "transform" in products else "frame_sums",
            )
            group["title"] = f"{title}, rotation {name}"
            for product, target in products.items():
                inside = {
                    "scan": "/entry/data",
                    "peaks": "/entry/peaks",
                    "frame_sums": "/entry/frame_sums",
                    "mask3d": "/entry/mask",
                    "transform": "/entry/transform",
                    "masked_transform": "/entry/transform",
                    "instrument": "/entry/instrument",
                }[product]
                link(group, "data" if product == "scan" else product, target, inside)


def linked_files(path: Path) -> Iterable[str]:
    """Relative names of the files that a master file links."""
    with h5py.File(path, "r") as file:
        for entry in file.values():
            for name in entry:
                target = entry.get(name, getlink=True)
                if isinstance(target, h5py.ExternalLink):
                    yield target.filename
