"""Write the map of the differences between rotations into the file of the merged volume."""

from typing import TYPE_CHECKING

import h5py
import numpy as np

from hklflow.nexus.entry import add_array, add_group

if TYPE_CHECKING:
    from hklflow.volumes.disagreement import DisagreementMap

NAME = "disagreement"
"""Name of the group in the entry, and in the master file."""


def write_disagreement(entry: h5py.Group, found: "DisagreementMap", names: list[str]) -> None:
    """Write the map: its plot is the significance, and a group has each rotation.

    Parameters
    ----------
    entry : group
        Entry of the merged volume.
    found : DisagreementMap
    names : list of str
        Names of the rotations.
    """
    axes = ["Ql", "Qk", "Qh"]
    group = add_group(entry, NAME, "NXdata", signal="significance", axes=axes)
    group["title"] = "largest difference of a rotation from the others"
    add_array(
        group,
        "significance",
        found.significance.astype(np.float32),
        long_name="largest difference from the other rotations (standard deviations)",
    )
    each = add_group(group, "rotations", "NXdata", signal="difference", axes=["rotation", *axes])
    each["title"] = "S of each rotation against the others, relative"
    add_array(
        each,
        "difference",
        found.difference.astype(np.float32),
        long_name="S of the rotation minus S of the others, relative",
    )
    add_array(each, "difference_errors", found.sigma.astype(np.float32))
    add_array(each, "rotation", np.arange(len(names)), names=names)
    for target in (group, each):
        for i, name in enumerate(axes[::-1]):
            label = f"{name} (r.l.u.)"
            add_array(target, name, found.axis(i), "r.l.u.", long_name=label)
