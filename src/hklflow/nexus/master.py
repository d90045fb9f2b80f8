"""The master file of one scan, which links all of its products."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hklflow.nexus.entry import add_array, add_group, create


def write_master(
    path: Path,
    title: str,
    volumes: Mapping[str, Path],
    rotations: Mapping[str, Mapping[str, Path]],
    orientation: Mapping[str, Any],
    configuration: str = "",
) -> None:
    """Write the light file of one scan that links all of its products.

    Layout as NeXpy and NXRefine users know it: ``entry/transform``,
    ``entry/masked_transform`` and one entry ``fN`` for each rotation with its
    frames, peaks, frame sums, scale and 3-D mask. All links are relative.
    ``entry/configuration`` holds the scan's configuration as JSON, all layers joined.
    """

    def link(parent: h5py.Group, name: str, target: Path, inside: str) -> None:
        parent[name] = h5py.ExternalLink(os.path.relpath(target, path.parent), inside)

    with create(path, title, next(iter(volumes))) as entry:
        for name, target in volumes.items():
            link(entry, name, target, "/entry/transform")
        sample = add_group(entry, "sample", "NXsample")
        cell = np.asarray(orientation["cell"])
        sample["space_group"] = str(orientation["space_group"])
        for i, name in enumerate(("a", "b", "c", "alpha", "beta", "gamma")):
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
                link(group, "data" if product == "scan" else product, target, inside)


def linked_files(path: Path) -> Iterable[str]:
    """Relative names of the files that a master file links."""
    with h5py.File(path, "r") as file:
        for entry in file.values():
            for name in entry:
                target = entry.get(name, getlink=True)
                if isinstance(target, h5py.ExternalLink):
                    yield target.filename
