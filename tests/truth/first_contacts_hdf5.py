"""HDF5 masters of first contacts: NXmx with all transformations, and Eiger's with angles only."""

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from tests.truth.first_contacts_crystal import Array
from tests.truth.first_contacts_write import Stated


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.require_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _number(parent: h5py.Group, name: str, value: float | Array, units: str) -> h5py.Dataset:
    parent[name] = value
    parent[name].attrs["units"] = units
    return parent[name]


def _axis(
    parent: h5py.Group,
    name: str,
    value: float | Array,
    kind: tuple[str, str],
    vector: Array,
    before: str,
    offset: Array | None = None,
) -> str:
    dataset = _number(parent, name, value, kind[1])
    dataset.attrs["transformation_type"] = kind[0]
    dataset.attrs["vector"] = vector
    dataset.attrs["depends_on"] = before
    if offset is not None:
        dataset.attrs["offset"] = offset
        dataset.attrs["offset_units"] = "m"
    return str(dataset.name)


def write_master(s: Stated, path: Path, frames: NDArray[np.int32], full: bool) -> None:
    """Write `<name>_master.h5` and its data files, of at most 50 frames."""
    stem = path.name.removesuffix("_master.h5")
    with h5py.File(path, "w") as file:
        entry = _group(file, "entry", "NXentry")
        if full:
            entry["definition"] = "NXmx"
        data = _group(entry, "data", "NXdata")
        for i, first in enumerate(range(0, len(frames), 50), 1):
            name = f"{stem}_data_{i:06d}.h5"
            part = frames[first : first + 50].astype("u4")
            with h5py.File(path.with_name(name), "w") as other:
                _group(other, "entry", "NXentry")
                group = _group(other, "entry/data", "NXdata")
                chunks = (1, *part.shape[1:])
                packing = dict(hdf5plugin.Bitshuffle(cname="lz4"))
                stack = group.create_dataset("data", data=part, chunks=chunks, **packing)
                stack.attrs["image_nr_low"], stack.attrs["image_nr_high"] = (
                    first + 1,
                    first + len(part),
                )
            data[f"data_{i:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
        instrument = _group(entry, "instrument", "NXinstrument")
        beam = _group(instrument, "beam", "NXbeam")
        _number(beam, "incident_wavelength", s.wavelength, "angstrom")
        detector = _group(instrument, "detector", "NXdetector")
        _detector(s, detector, len(frames), full)
        sample = _group(entry, "sample", "NXsample")
        if full:
            beam["incident_polarization_stokes"] = [1.0, 0.98, 0.0, 0.0]
        _goniometer(s, sample, len(frames), full)


def _detector(s: Stated, detector: h5py.Group, n: int, full: bool) -> None:
    pixel = s.pixel / 1e3
    detector["description"] = "Dectris EIGER2 Si 0.3M"
    detector["detector_number"] = "E-99-0999"
    _number(detector, "detector_distance", s.distance / 1e3, "m")
    _number(detector, "beam_center_x", s.centre[1], "pixel")
    _number(detector, "beam_center_y", s.centre[0], "pixel")
    _number(detector, "x_pixel_size", pixel, "m")
    _number(detector, "y_pixel_size", pixel, "m")
    _number(detector, "count_time", s.sweep.exposure, "s")
    _number(detector, "frame_time", s.sweep.exposure + 1e-6, "s")
    detector["sensor_material"] = "Si"
    _number(detector, "sensor_thickness", 4.5e-4, "m")
    detector["saturation_value"] = s.saturation
    detector["bit_depth_image"] = 32
    special = _group(detector, "detectorSpecific", "NXcollection")
    special["x_pixels_in_detector"], special["y_pixels_in_detector"] = s.shape[1], s.shape[0]
    special["countrate_correction_count_cutoff"] = s.saturation
    special["nimages"], special["ntrigger"] = n, 1
    special["pixel_mask"] = np.zeros(s.shape, "u4")
    if not full:
        if s.arm:
            goniometer = _group(detector, "goniometer", "NXtransformations")
            _number(goniometer, "two_theta", np.full(n, s.arm), "degree")
        return
    detector["pixel_mask"] = np.zeros(s.shape, "u4")
    chain = _group(detector, "transformations", "NXtransformations")
    base = _axis(chain, "arm", s.arm, ("rotation", "deg"), s.arm_axis, ".")
    z = np.array([0, 0, 1.0])
    base = _axis(chain, "det_z", s.distance / 1e3, ("translation", "m"), z, base)
    detector["depends_on"] = base
    module = _group(detector, "module", "NXdetector_module")
    module["data_origin"], module["data_size"] = np.array([0, 0]), np.array(s.shape)
    corner = -pixel * (s.centre[0] * s.slow + s.centre[1] * s.fast)
    length = float(np.linalg.norm(corner))
    shift = ("translation", "m")
    offset = _axis(module, "module_offset", length, shift, corner / length, base)
    _axis(module, "fast_pixel_direction", pixel, shift, s.fast, offset)
    _axis(module, "slow_pixel_direction", pixel, shift, s.slow, offset)


def _goniometer(s: Stated, sample: h5py.Group, n: int, full: bool) -> None:
    w = s.sweep
    moving = s.start + s.step * np.arange(n)
    if full:
        sample["name"] = "sugar"
        chain, before = _group(sample, "transformations", "NXtransformations"), "."
        for name, vector in s.axes:
            value = moving if name == w.scanned else np.array([w.angles[name]])
            before = _axis(chain, name, value, ("rotation", "deg"), vector, before)
            if name == w.scanned:
                _number(chain, f"{name}_end", moving + s.step, "deg")
                _number(chain, f"{name}_increment_set", s.step, "deg")
        sample["depends_on"] = before
        return
    chain = _group(sample, "goniometer", "NXtransformations")
    for name, _ in s.axes:
        value = moving if name == w.scanned else np.full(n, w.angles[name])
        step = s.step if name == w.scanned else 0.0
        _number(chain, name, value, "degree")
        _number(chain, f"{name}_end", value + step, "degree")
        _number(chain, f"{name}_increment", step, "degree")
        _number(chain, f"{name}_range_average", step, "degree")
        _number(chain, f"{name}_range_total", step * n, "degree")
