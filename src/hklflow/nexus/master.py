"""The master file of one scan, which links all of its products."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.base.values import CELL_NAMES
from hklflow.nexus.entry import add_array, add_group, create, open_entry

SYMMETRISED = {"transform": "symm_transform", "masked_transform": "masked_symm_transform"}
"""Kind of volume -> its symmetrised one in the master file, in NXRefine's words."""
DELTA_PDF = {"transform": "pdf", "masked_transform": "masked_pdf"}
TOTAL_PDF = {"transform": "total_pdf", "masked_transform": "masked_total_pdf"}
DIFFERENCE = {"transform": "difference", "masked_transform": "masked_difference"}
PDF_DIFFERENCE = {"transform": "pdf_difference", "masked_transform": "masked_pdf_difference"}


def write_master(
    path: Path,
    title: str,
    volumes: Mapping[str, Path],
    rotations: Mapping[str, Mapping[str, Path]],
    orientation: Mapping[str, Any],
    configuration: str = "",
    *,
    symmetrised: Mapping[str, Path] | None = None,
    filled: Mapping[str, Path] | None = None,
    pdfs: Mapping[str, Path] | None = None,
    differences: Mapping[str, Path] | None = None,
) -> None:
    """Write the light file of one scan that links all of its products.

    Layout as NeXpy and NXRefine users know it: ``entry/transform``,
    ``entry/masked_transform``, the symmetrised volumes and the pair distributions, and one
    entry ``fN`` for each rotation with its frames, peaks, frame sums, scale and 3-D mask, and a
    copy of its instrument. All links are relative. ``entry/configuration`` holds the scan's
    configuration as JSON, all layers joined. The default plot is the first symmetrised volume (it
    has the fewest holes), else the first of ``volumes``.

    Parameters
    ----------
    volumes, symmetrised, pdfs, differences : mapping
        Name in the master -> file; differences are volumes of S(Q), those of pair distributions
        are among ``pdfs``.
    filled : mapping
        Name of a symmetrised volume -> the file without its Bragg reflections. It has no group
        of its own: NXRefine keeps ``filled_data`` beside the ``data`` it came from.

    Raises
    ------
    HklflowError
        If a filled volume has no symmetrised one, or another shape; or a file cannot be read.
    """
    symmetrised, filled = symmetrised or {}, filled or {}
    if alone := sorted(filled.keys() - symmetrised.keys()):
        raise HklflowError(
            f"{filled[alone[0]]} is a filled volume without a symmetrised one; give "
            "`symmetrised` for each of `filled`"
        )

    def link(parent: h5py.Group, name: str, target: Path, inside: str) -> None:
        parent[name] = h5py.ExternalLink(os.path.relpath(target, path.parent), inside)

    with create(path, title, next(iter([*symmetrised, *volumes]))) as entry:
        for name, target in {**volumes, **(differences or {})}.items():
            link(entry, name, target, "/entry/transform")
        for name, target in symmetrised.items():
            _join(entry, name, target, filled.get(name), link)
        for name, target in (pdfs or {}).items():
            link(entry, name, target, "/entry/pdf")
        sample = add_group(entry, "sample", "NXsample")
        cell = np.asarray(orientation["cell"])
        sample["space_group"] = str(orientation["space_group"])
        for i, name in enumerate(CELL_NAMES):
            units = "angstrom" if i < 3 else "degree"
            add_array(
                sample, f"unitcell_{name}", cell[i], units, sigma=orientation["cell_sigma"][i]
            )
        if orientation.get("temperature") is not None:
            add_array(sample, "temperature", orientation["temperature"], "K")
        add_array(sample, "orientation_matrix", orientation["U"])
        add_array(sample, "ub_matrix", orientation["UB"], "1/angstrom")
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
                inside = {
                    "scan": "/entry/data",
                    "peaks": "/entry/peaks",
                    "frame_sums": "/entry/frame_sums",
                    "frame_scale": "/entry/frame_scale",
                    "mask3d": "/entry/mask",
                    "instrument": "/entry/instrument",
                }[product]
                if product == "instrument":
                    # nexusformat, and so NeXpy, cannot follow a link to groups within groups.
                    with open_entry(target) as other:
                        other.copy("instrument", group)
                    continue
                link(group, "data" if product == "scan" else product, target, inside)


def _join(entry: h5py.Group, name: str, symmetrised: Path, filled: Path | None, link: Any) -> None:
    """Give a symmetrised volume and its filled one as one NXdata, made of links."""
    group = add_group(entry, name, "NXdata")
    with open_entry(symmetrised) as other:
        source = other["transform"]
        # signal, axes and the angles by which NeXpy draws skewed cells
        for key, value in source.attrs.items():
            group.attrs[key] = value
        for dataset in source:
            link(group, dataset, symmetrised, f"/entry/transform/{dataset}")
        shape = source["data"].shape
    if filled is None:
        return
    with open_entry(filled) as other:
        found = other["transform/data"].shape
    if found != shape:
        raise HklflowError(
            f"{filled} has {found} voxels and {symmetrised} has {shape}; make both on one grid"
        )
    link(group, "filled_data", filled, "/entry/transform/data")
    link(group, "filled_data_errors", filled, "/entry/transform/data_errors")
    link(group, "punched", filled, "/entry/transform/punched")
    group.attrs["auxiliary_signals"] = ["filled_data", "punched"]


def linked_files(path: Path) -> Iterable[str]:
    """Relative names of the files that a master file links."""
    with h5py.File(path, "r") as file:
        yield from _targets(file)


def _targets(group: h5py.Group) -> Iterator[str]:
    for name in group:
        found = group.get(name, getlink=True)
        if isinstance(found, h5py.ExternalLink):
            yield found.filename
        elif group.get(name, getclass=True) is h5py.Group:
            yield from _targets(group[name])
