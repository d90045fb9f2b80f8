"""Master file of one scan, with links to all of its products."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from hklflow.base.errors import HklflowError
from hklflow.base.values import CELL_NAMES
from hklflow.nexus.default_view import PLANE, PLANE_OF
from hklflow.nexus.entry import add_array, add_group, create, open_entry
from hklflow.orientation.product import Orientation

SYMMETRISED = {"transform": "symm_transform", "masked_transform": "masked_symm_transform"}
"""Name of the symmetrised volume in the master file for each kind of volume, as in NXRefine."""
DELTA_PDF = {"transform": "pdf", "masked_transform": "masked_pdf"}
TOTAL_PDF = {"transform": "total_pdf", "masked_transform": "masked_total_pdf"}
DIFFERENCE = {"transform": "difference", "masked_transform": "masked_difference"}
PDF_DIFFERENCE = {"transform": "pdf_difference", "masked_transform": "masked_pdf_difference"}

# Group in the file of each product of a rotation.
_INSIDE = {
    "peaks": "peaks",
    "frame_sums": "frame_sums",
    "frame_scale": "frame_scale",
    "mask3d": "mask",
}


def write_master(
    path: Path,
    title: str,
    volumes: Mapping[str, Path],
    rotations: Mapping[str, Mapping[str, Path]],
    orientation: Orientation,
    configuration: str = "",
    *,
    symmetrised: Mapping[str, Path] | None = None,
    filled: Mapping[str, Path] | None = None,
    pdfs: Mapping[str, Path] | None = None,
    differences: Mapping[str, Path] | None = None,
    absolute_scale: Mapping[str, Any] | None = None,
) -> None:
    """Write the master file of one scan: a small file with links to all of its products.

    The layout follows NeXpy and NXRefine: ``entry/transform``, ``entry/masked_transform``, the
    symmetrised volumes and the pair distributions. Each rotation has an entry ``fN`` with its
    frames, peaks, frame sums, scale and 3-D mask, and a copy of its instrument. All links are
    relative. ``entry/configuration`` has the complete configuration of the scan as JSON. The
    default plot is a plane of the first symmetrised volume (which has the fewest holes), else of
    the first of ``volumes``.

    Parameters
    ----------
    volumes, symmetrised, pdfs, differences : mapping
        Maps a name in the master file to a file. ``differences`` are volumes of S(Q); differences
        of pair distributions are in ``pdfs``.
    filled : mapping
        Maps the name of a symmetrised volume to the file without Bragg reflections. As in NXRefine,
        a filled volume has no separate group: ``filled_data`` is next to ``data``.
    absolute_scale : mapping, optional
        Metrics of the stage `absolute_scale`, for ``entry/absolute_scale``.

    Raises
    ------
    HklflowError
        If a filled volume has no symmetrised volume, or another shape; or a file cannot be
        read.
    """
    symmetrised, filled = symmetrised or {}, filled or {}
    if missing := sorted(filled.keys() - symmetrised.keys()):
        raise HklflowError(
            f"{filled[missing[0]]} is a filled volume without a symmetrised volume; give "
            "`symmetrised` for each of `filled`"
        )

    default = next(iter([*symmetrised, *volumes]))
    with create(path, title, default) as entry:
        links = _Links(path.parent)
        for name, target in {**volumes, **(differences or {}), **symmetrised}.items():
            links.add(entry, name, target, "transform")
        for name, target in filled.items():
            links.add_filled(entry[name], target, symmetrised[name])
        for name, target in (pdfs or {}).items():
            links.add(entry, name, target, "pdf")
        links.add_default(entry, default, {**volumes, **symmetrised}[default])
        sample = add_group(entry, "sample", "NXsample")
        sample["space_group"] = orientation.space_group
        for i, name in enumerate(CELL_NAMES):
            units = "angstrom" if i < 3 else "degree"
            value, sigma = orientation.cell[i], orientation.cell_sigma[i]
            add_array(sample, f"unitcell_{name}", value, units, sigma=sigma)
        if orientation.temperature is not None:
            add_array(sample, "temperature", orientation.temperature, "K")
        add_array(sample, "orientation_matrix", orientation.u)
        add_array(sample, "ub_matrix", orientation.ub, "1/angstrom")
        if absolute_scale is not None:
            note_scale(entry, absolute_scale)
        if configuration:
            note = add_group(entry, "configuration", "NXnote")
            note["type"] = "application/json"
            note["data"] = configuration
        for i, (name, products) in enumerate(rotations.items()):
            group = add_group(
                entry.file,
                f"f{i + 1}",
                "NXentry",
                default="transform" if "transform" in products else "frame_sums",
            )
            group["title"] = f"{title}, rotation {name}"
            for product, target in products.items():
                if product == "instrument":
                    with open_entry(target) as other:
                        other.copy("instrument", group)
                elif product == "scan":
                    links.add_frames(group, target)
                else:
                    links.add(group, product, target, _INSIDE[product])


def note_scale(entry: h5py.Group, metrics: Mapping[str, Any]) -> None:
    """Write the factor that makes S(Q) electron units per cell; the volumes are not multiplied."""
    group = add_group(entry, "absolute_scale", "NXcollection")
    group["description"] = metrics["meaning"]
    if metrics["factor"] is not None:
        add_array(group, "factor", metrics["factor"])
        add_array(group, "factor_errors", metrics["sigma"])
        group["method"] = metrics["method"]
    note = add_group(group, "findings", "NXnote")
    note["type"] = "application/json"
    note["data"] = json.dumps(dict(metrics))


class _Links:
    """Writer of groups with relative links to the datasets of products.

    Each dataset is linked, not its group, because nexusformat, and so NeXpy, finds nothing in a
    group that is a link.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, parent: h5py.Group, name: str, target: Path, inside: str) -> None:
        """Create a group like ``/entry/<inside>`` of a product: axes, and links to the data."""
        with open_entry(target) as other:
            source = other[inside]
            group = parent.create_group(name)
            # signal, axes, default slice, and the angles with which NeXpy draws skewed cells
            for key, value in source.attrs.items():
                group.attrs[key] = value
            # Copies of the axes stay with a part of the data that a program takes from the group.
            copied = {"title", *source.attrs.get("axes", [])}
            for dataset in source:
                if dataset in copied:
                    other.copy(source[dataset], group, name=dataset)
                else:
                    self._link(group, dataset, target, f"/entry/{inside}/{dataset}")

    def add_filled(self, group: h5py.Group, filled: Path, symmetrised: Path) -> None:
        """Add links to a filled volume to the group of its symmetrised volume."""
        with open_entry(symmetrised) as whole, open_entry(filled) as other:
            shape, filled_shape = (file["transform/data"].shape for file in (whole, other))
        if filled_shape != shape:
            raise HklflowError(
                f"{filled} has {filled_shape} voxels and {symmetrised} has {shape}; use one grid "
                "for both"
            )
        self._link(group, "filled_data", filled, "/entry/transform/data")
        self._link(group, "filled_data_errors", filled, "/entry/transform/data_errors")
        self._link(group, "punched", filled, "/entry/transform/punched")
        group.attrs["auxiliary_signals"] = ["filled_data", "punched"]

    def add_default(self, entry: h5py.Group, name: str, target: Path) -> None:
        """Make the plane of a volume the default plot; volumes of older versions have none."""
        with open_entry(target) as other:
            if PLANE not in other:
                return
        self.add(entry, PLANE, target, PLANE)
        entry[PLANE].attrs[PLANE_OF] = name
        entry.attrs["default"] = PLANE

    def add_frames(self, group: h5py.Group, scan: Path) -> None:
        """Link the frames that a scan file links, directly: nexusformat follows only one link."""
        with open_entry(scan) as other:
            link = other["data"].get("data", getlink=True)
        data = add_group(group, "data", "NXdata", signal="data")
        self._link(data, "data", scan.parent / link.filename, link.path)

    def _link(self, group: h5py.Group, name: str, target: Path, inside: str) -> None:
        group[name] = h5py.ExternalLink(os.path.relpath(target, self._folder), inside)


def linked_files(path: Path) -> Iterable[str]:
    """Yield the relative names of the files that a master file links."""
    with h5py.File(path, "r") as file:
        yield from _targets(file)


def _targets(group: h5py.Group) -> Iterator[str]:
    for name in group:
        target = group.get(name, getlink=True)
        if isinstance(target, h5py.ExternalLink):
            yield target.filename
        elif group.get(name, getclass=True) is h5py.Group:
            yield from _targets(group[name])
