"""Files of groups of pixels."""

import json
from pathlib import Path

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.images.pixel_groups import PixelGroups
from hklflow.nexus.entry import add_array, add_group, create, open_entry, text


def write_groups(path: Path, groups: PixelGroups) -> None:
    """Write groups of pixels: label image, names, definition, and the detector's fingerprint."""
    by = groups.rule.get("by", "image")
    with create(path, f"groups of pixels by {by}", "groups") as entry:
        data = add_group(entry, "groups", "NXdata", signal="labels", axes=["slow", "fast"])
        add_array(data, "labels", groups.labels, long_name="group of each pixel, 0 = none")
        add_array(data, "slow", np.arange(groups.labels.shape[0]) + 0.5, "pixel")
        add_array(data, "fast", np.arange(groups.labels.shape[1]) + 0.5, "pixel")
        about = add_group(entry, "definition", "NXcollection")
        about["names"] = list(groups.names)
        add_array(about, "numbers", np.arange(1, len(groups.names) + 1))
        add_array(about, "pixels", groups.counts())
        about["rule"] = json.dumps(groups.rule, sort_keys=True)
        about["fingerprint"] = json.dumps(groups.fingerprint, sort_keys=True)


def read_groups(path: Path) -> PixelGroups:
    """Read groups of pixels.

    Raises
    ------
    HklflowError
        If the file is not a file of groups, or its label image was changed.
    """
    with open_entry(path) as entry:
        about = entry["definition"]
        names = tuple(name.decode() for name in about["names"][()])
        rule, fingerprint = (json.loads(text(about[key])) for key in ("rule", "fingerprint"))
        labels, pixels = entry["groups/labels"][()], about["pixels"][()]
    if list(labels.shape) != fingerprint.get("shape"):
        raise HklflowError(
            f"{path}: the label image has {labels.shape} pixels, and the fingerprint of the "
            f"detector {fingerprint.get('shape')}; make the groups again"
        )
    groups = PixelGroups(labels, names, rule, fingerprint)
    if not np.array_equal(groups.counts(), pixels):
        raise HklflowError(
            f"{path}: the groups do not have the numbers of pixels that were written; the file was "
            "changed, make the groups again"
        )
    return groups
