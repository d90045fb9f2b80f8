"""Scan file: geometry, monitor and exposure of one rotation, and a link to its frames."""

import json
import os
from pathlib import Path

import h5py
import numpy as np

from hklflow import geometry
from hklflow.images.gain import Gain
from hklflow.images.pixel_binning import PixelBinning
from hklflow.images.scan import RotationScan
from hklflow.nexus.entry import add_array, add_group, create, open_entry, text
from hklflow.nexus.modules import add_modules


def write_scan(
    path: Path, scan: RotationScan, title: str, dataset: tuple[Path, str] | None
) -> None:
    """Write a scan file.

    Parameters
    ----------
    dataset : (file, path in file) or None
        HDF5 dataset of the frames, to which a link for viewers is created. None: no link.
    """
    rotation = scan.rotation
    n = rotation.scan.n_frames
    with create(path, title, "frames") as entry:
        raw = add_group(entry, "raw", "NXcollection")
        raw["path"] = scan.raw
        raw["first_frame"] = scan.first
        if scan.left_out:
            raw["left_out"] = np.array(scan.left_out, np.int64)
        if scan.binning is not None:
            raw["binning"] = scan.binning.factor
            raw["unbinned_shape"] = scan.binning.unbinned
        raw["geometry"] = json.dumps(geometry.to_dict(rotation))
        frames = add_group(entry, "frames", "NXdata", signal="monitor", axes=["rotation_angle"])
        angle = np.degrees(rotation.scan.angle(np.arange(n) + 0.5))
        add_array(frames, "rotation_angle", angle, "deg", long_name="scan angle at mid-frame")
        add_array(frames, "monitor", scan.monitor, "", long_name=f"monitor ({scan.monitor_source})")
        add_array(frames, "exposure", scan.exposure, "s")
        add_array(frames, "attenuation", scan.attenuation, "")
        instrument = add_group(entry, "instrument", "NXinstrument")
        mono = add_group(instrument, "monochromator", "NXmonochromator")
        add_array(mono, "wavelength", rotation.beam.wavelength, "angstrom")
        detector = add_group(instrument, "detector", "NXdetector")
        add_array(detector, "distance", rotation.detector.distance, "m")
        add_array(detector, "x_pixel_size", rotation.detector.pixel_size[1], "m")
        add_array(detector, "y_pixel_size", rotation.detector.pixel_size[0], "m")
        if rotation.detector.modules is not None:
            add_modules(detector, rotation.detector)
        if scan.saturation is not None:
            add_array(detector, "saturation_value", scan.saturation)
        if scan.underload != 0:
            add_array(detector, "underload_value", scan.underload)
        if scan.gain is not None:
            _add_gain(detector, scan.gain)
        goniometer = add_group(instrument, "goniometer", "NXtransformations")
        for name, axis, setting in zip(
            rotation.goniometer.names,
            rotation.goniometer.axes,
            rotation.goniometer.angles,
            strict=True,
        ):
            add_array(goniometer, name, np.degrees(setting), "deg", vector=axis)
        sample = add_group(entry, "sample", "NXsample")
        if scan.temperature is not None:
            add_array(sample, "temperature", scan.temperature, "K")
        if dataset is not None:
            data = add_group(entry, "data", "NXdata", signal="data")
            data["data"] = h5py.ExternalLink(os.path.relpath(dataset[0], path.parent), dataset[1])


def read_scan(path: Path) -> RotationScan:
    """Read a scan file."""
    with open_entry(path) as entry:
        frames = entry["frames"]
        detector = entry["instrument/detector"]
        source = str(frames["monitor"].attrs["long_name"])
        return RotationScan(
            raw=text(entry["raw/path"]),
            first=int(entry["raw/first_frame"][()]),
            rotation=geometry.from_dict(json.loads(text(entry["raw/geometry"]))),
            monitor=frames["monitor"][()],
            exposure=frames["exposure"][()],
            attenuation=frames["attenuation"][()],
            monitor_source=source.removeprefix("monitor (").removesuffix(")"),
            temperature=_optional(entry["sample"], "temperature"),
            saturation=_optional(detector, "saturation_value"),
            underload=_optional(detector, "underload_value") or 0.0,
            binning=_binning(entry["raw"]),
            left_out=_left_out(entry["raw"]),
            gain=_gain(detector),
        )


def _add_gain(detector: h5py.Group, gain: Gain) -> None:
    group = add_group(detector, "gain", "NXcollection")
    add_array(group, "adu_per_photon", gain.adu_per_photon)
    add_array(group, "offset", gain.offset, "ADU")
    add_array(group, "read_noise", gain.read_noise, "ADU")
    add_array(group, "relative_error", gain.relative_error)
    group["source"] = gain.source
    group["doubts"] = json.dumps(gain.doubts)


def _gain(detector: h5py.Group) -> Gain | None:
    if "gain" not in detector:
        return None
    group = detector["gain"]
    names = "adu_per_photon", "offset", "read_noise", "relative_error"
    gain, offset, noise, error = (float(group[name][()]) for name in names)
    doubts = tuple(json.loads(text(group["doubts"])))
    return Gain(gain, offset, noise, text(group["source"]), doubts, error)


def _binning(raw: h5py.Group) -> PixelBinning | None:
    if "binning" not in raw:
        return None
    slow, fast = (int(pixels) for pixels in raw["unbinned_shape"][()])
    return PixelBinning(int(raw["binning"][()]), (slow, fast))


def _left_out(raw: h5py.Group) -> tuple[int, ...]:
    return tuple(raw["left_out"][()].tolist()) if "left_out" in raw else ()


def has_frames(path: Path) -> bool:
    """Return True if a scan file links an HDF5 dataset of frames (image series have none)."""
    with open_entry(path) as entry:
        return "data" in entry


def _optional(group: h5py.Group, name: str) -> float | None:
    return float(group[name][()]) if name in group else None
