"""Modules of a detector as NXdetector_module groups, for other programs."""

import h5py
import numpy as np

from hklflow.geometry import Detector
from hklflow.nexus.entry import add_array, add_group


def add_modules(group: h5py.Group, detector: Detector) -> None:
    """Add NXdetector_module groups as in NXmx; a detector without modules is one module."""
    if detector.modules is None:
        rows, columns = detector.shape
        boxes, patches = [(0, rows, 0, columns)], [detector]
    else:
        boxes = [tuple(box) for box in detector.modules.rectangles]
        patches = [detector.patch(m) for m in range(len(boxes))]
    for m, (box, patch) in enumerate(zip(boxes, patches, strict=True)):
        module = add_group(group, f"module_{m:03d}", "NXdetector_module")
        add_array(module, "data_origin", box[::2])
        add_array(module, "data_size", patch.shape)
        far = float(np.linalg.norm(patch.origin))
        shift = {"transformation_type": "translation"}
        place = {"vector": patch.origin / far, "depends_on": ".", **shift}
        add_array(module, "module_offset", far, "m", **place)
        for name, size, vector in (
            ("slow_pixel_direction", patch.pixel_size[0], patch.slow),
            ("fast_pixel_direction", patch.pixel_size[1], patch.fast),
        ):
            carrier = f"{module.name}/module_offset"
            add_array(module, name, size, "m", vector=vector, depends_on=carrier, **shift)
