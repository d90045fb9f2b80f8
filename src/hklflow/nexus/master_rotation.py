"""Entry of one rotation in a master file, as NXRefine reads it, and ours beside it.

``instrument`` has the refined geometry in the units and conventions of NXRefine (mm, degrees, and
pixels and frames by their index); ``peaks`` has NXRefine's columns ``x``, ``y``, ``z`` and the
angles of each peak. ``instrument/detector/module_000``, ... and ``instrument/axes`` are the same
geometry as in NXmx, in metres. ``instrument/calibration`` is the powder image of the geometry, with
its profile and the parameters of pyFAI before any refinement with Bragg peaks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.formats.nxrefine import write_instrument
from hklflow.geometry.model import Model
from hklflow.nexus.entry import add_array, add_group, open_entry
from hklflow.nexus.links import Links
from hklflow.nexus.modules import add_modules
from hklflow.nexus.peaks import read_peaks
from hklflow.nexus.powder import POWDER

if TYPE_CHECKING:
    from hklflow.geometry import Goniometer, Rotation
    from hklflow.orientation.product import Orientation

# Fields of the detector that are taken from the scan file.
_OF_SCAN = (
    "distance",
    "x_pixel_size",
    "y_pixel_size",
    "saturation_value",
    "underload_value",
    "gain",
)

# Group in the file of each product.
_INSIDE = {
    "peaks": "peaks",
    "frame_sums": "frame_sums",
    "frame_scale": "frame_scale",
    "mask3d": "mask",
    "transform": "transform",
    "masked_transform": "transform",
}

# Name in the file of the frame statistics, and in `frame_sums` of the master file.
_IMAGES = {
    "summed": "summed_data",
    "maximum": "maximum",
    "partial_sums": "partial_sums",
    "radial": "radial",
}


def write_rotation(
    group: h5py.Group,
    name: str,
    products: Mapping[str, Path],
    orientation: "Orientation",
    links: Links,
) -> None:
    """Write the entry of a rotation.

    Parameters
    ----------
    products : mapping
        Files by name: "scan" (the scan file, if it links frames), "instrument" (the scan file),
        "peaks", "frame_sums", "frame_scale", "mask3d", "transform", "masked_transform", and
        "powder", if the geometry is from a powder image.
    """
    rotation = orientation.rotation(name)
    for product, target in products.items():
        if product == "instrument":
            _add_instrument(group, name, target, orientation)
        elif product == "scan":
            _add_frames(group, target, rotation, links)
        elif product == "powder":
            links.add(group["instrument"], "calibration", target, POWDER)
        else:
            links.add(group, product, target, _INSIDE[product])
    if "peaks" in products:
        _add_peaks(group["peaks"], products["peaks"], rotation)
    if "frame_sums" in products:
        _add_images(group["frame_sums"], products["frame_sums"], links)
    group.attrs["default"] = "frame_sums"


def _add_images(group: h5py.Group, statistics: Path, links: Links) -> None:
    """Link the images of a rotation; `summed_data` is NXRefine's name."""
    with open_entry(statistics) as other:
        names = {name: new for name, new in _IMAGES.items() if name in other}
    for name, new in names.items():
        links.add(group, new, statistics, name)


def _add_instrument(group: h5py.Group, name: str, scan: Path, orientation: "Orientation") -> None:
    """Write the refined geometry, and what the scan file says of detector and frames."""
    rotation = orientation.rotation(name)
    model = Model(rotation, orientation.ub, orientation.space_group, name=name)
    notes: list[str] = []
    try:
        write_instrument(group, model, orientation.cell, notes)
    except HklflowError as error:
        # NXRefine cannot describe it; the distance then has the unit m of the scan file.
        del group["instrument"]
        notes = [f"no geometry for NXRefine: {error}"]
    instrument = add_group(group, "instrument", "NXinstrument")
    if notes:
        instrument["notes"] = "; ".join(notes)
    detector = add_group(instrument, "detector", "NXdetector")
    add_modules(detector, rotation.detector)
    _add_axes(instrument, rotation)
    with open_entry(scan) as other:
        measured = other["instrument/detector"]
        for key in _OF_SCAN:
            if key in measured and key not in detector:
                other.copy(measured[key], detector, name=key)
        if "monochromator" not in instrument:
            other.copy("instrument/monochromator", instrument)
        attenuator = add_group(instrument, "attenuator", "NXattenuator")
        frames = other["frames"]
        other.copy(frames["attenuation"], attenuator, name="attenuator_transmission")
        monitor = add_group(group, "monitor", "NXmonitor", signal="data", axes=["rotation_angle"])
        other.copy(frames["monitor"], monitor, name="data")
        other.copy(frames["rotation_angle"], monitor, name="rotation_angle")


def _add_axes(instrument: h5py.Group, rotation: "Rotation") -> None:
    """Write the goniometer as a chain of NXtransformations; the scanned axis has all values."""
    goniometer: Goniometer = rotation.goniometer
    group = add_group(instrument, "axes", "NXtransformations")
    before = "."
    for i, (name, vector, setting) in enumerate(
        zip(goniometer.names, goniometer.axes, goniometer.angles, strict=True)
    ):
        values = np.degrees(setting)
        if i == goniometer.scan:
            values = np.degrees(rotation.scan.angle(np.arange(rotation.scan.n_frames) + 0.5))
        kind = {"transformation_type": "rotation", "depends_on": before}
        add_array(group, name, values, "deg", vector=vector, **kind)
        before = f"{group.name}/{name}"


def _add_frames(group: h5py.Group, scan: Path, rotation: "Rotation", links: Links) -> None:
    """Link the frames that a scan file links, directly: nexusformat follows only one link.

    The axes are those of NXRefine: numbers of frames and pixels of the rotation, from 0.
    """
    with open_entry(scan) as other:
        link = other["data"].get("data", getlink=True)
        shape = other["data/data"].shape if other["data"].get("data") is not None else None
        first = int(other["raw/first_frame"][()])
    data = add_group(group, "data", "NXdata", signal="data")
    links.link(data, "data", scan.parent / link.filename, link.path)
    if shape is None or len(shape) != 3:
        return  # the frames are not there now, or one by one
    data["frame_number"] = np.arange(shape[0]) - first
    for name, n, pixels in zip(
        ("y_pixel", "x_pixel"), shape[1:], rotation.detector.shape, strict=True
    ):
        data[name] = (np.arange(n) + 0.5) * pixels / n - 0.5  # binned pixels are larger
    data.attrs["axes"] = ["frame_number", "y_pixel", "x_pixel"]
    data.attrs["default_slice"] = [str(shape[0] // 2), ".", "."]
    data.attrs["SILX_style"] = '{"signal_scale_type": "log"}'


def _add_peaks(group: h5py.Group, path: Path, rotation: "Rotation") -> None:
    """Add indices of pixel and frame, and angles in degrees, of each peak.

    The polar angle is 2θ. The azimuthal angle is measured about the beam, as in NXRefine: it is
    arctan2(-x, y) in the laboratory, where z is along the beam and y is up.
    """
    peaks = read_peaks(path)
    for name, values in (("x", peaks.fast), ("y", peaks.slow), ("z", peaks.frame)):
        add_array(group, name, values - 0.5)
    lab = rotation.detector.lab(peaks.slow, peaks.fast)
    x, y, z = np.moveaxis(np.asarray(lab), -1, 0)
    add_array(group, "polar_angle", np.degrees(np.arctan2(np.hypot(x, y), z)), "degree")
    add_array(group, "azimuthal_angle", np.degrees(np.arctan2(-x, y)), "degree")
    add_array(group, "rotation_angle", np.degrees(rotation.scan.angle(peaks.frame)), "degree")
    group["intensity"] = group.get("int_sum", getlink=True)
