"""Groups of a master file whose data are links to the datasets of products."""

import os
from pathlib import Path

import h5py

from hklflow.base.errors import HklflowError
from hklflow.nexus.default_view import PLANE, PLANE_OF
from hklflow.nexus.entry import open_entry


class Links:
    """Writer of groups with relative links to the datasets of products.

    Each dataset is linked, not its group, because nexusformat, and so NeXpy, finds nothing in a
    group that is a link.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, parent: h5py.Group, name: str, target: Path, inside: str) -> None:
        """Create a group like ``/entry/<inside>`` of a product: links to the data, copies of axes.

        Single values are copied, too, so that programs read them without the product.
        """
        with open_entry(target) as other:
            source = other[inside]
            group = parent.create_group(name)
            # signal, axes, default slice, and the angles with which NeXpy draws skewed cells
            for key, value in source.attrs.items():
                group.attrs[key] = value
            # Copies of the axes stay with a part of the data that a program takes from the group.
            copied = {"title", *source.attrs.get("axes", [])}
            for dataset in source:
                if isinstance(source[dataset], h5py.Group):
                    self.add(group, dataset, target, f"{inside}/{dataset}")
                elif dataset in copied or source[dataset].shape == ():
                    other.copy(source[dataset], group, name=dataset)
                else:
                    self.link(group, dataset, target, f"/entry/{inside}/{dataset}")

    def add_if_there(self, parent: h5py.Group, name: str, target: Path, inside: str) -> None:
        """Create a group as `add` if the product has it."""
        with open_entry(target) as other:
            if inside not in other:
                return
        self.add(parent, name, target, inside)

    def add_filled(self, group: h5py.Group, filled: Path, symmetrised: Path) -> None:
        """Add links to a filled volume to the group of its symmetrised volume."""
        with open_entry(symmetrised) as whole, open_entry(filled) as other:
            shape, filled_shape = (file["transform/data"].shape for file in (whole, other))
        if filled_shape != shape:
            raise HklflowError(
                f"{filled} has {filled_shape} voxels and {symmetrised} has {shape}; use one grid "
                "for both"
            )
        self.link(group, "filled_data", filled, "/entry/transform/data")
        self.link(group, "filled_data_errors", filled, "/entry/transform/data_errors")
        self.link(group, "punched", filled, "/entry/transform/punched")
        group.attrs["auxiliary_signals"] = ["filled_data", "punched"]

    def add_default(self, entry: h5py.Group, name: str, target: Path) -> None:
        """Make the plane of a volume the default plot; volumes of older versions have none."""
        with open_entry(target) as other:
            if PLANE not in other:
                return
        self.add(entry, PLANE, target, PLANE)
        entry[PLANE].attrs[PLANE_OF] = name
        entry.attrs["default"] = PLANE

    def link(self, group: h5py.Group, name: str, target: Path, inside: str) -> None:
        """Link one dataset, or an axis, of a file."""
        group[name] = h5py.ExternalLink(os.path.relpath(target, self._folder), inside)
