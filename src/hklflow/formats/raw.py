"""Read raw frames and their headers, whatever the format.

`open_frames` returns frames in blocks, `read_header` returns geometry and measurement; a field of
the header is None if it is not in the file.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.formats.header import Header
from hklflow.formats.raw_frames import Frames
from hklflow.formats.series import Raw
from hklflow.formats.text_headers import NOTHING_STATED, Choices
from hklflow.images.scan import RotationScan

HDF5_SUFFIXES = {".h5", ".hdf5", ".nxs", ".nx5", ".nexus", ".hdf"}
IMAGE_SUFFIXES = {
    ".cbf",
    ".edf",
    ".esper",
    ".esperanto",
    ".img",
    ".mccd",
    ".osc",
    ".rodhypix",
    ".sfrm",
    ".stk",
    ".tif",
    ".tiff",
}


def is_hdf5(raw: Raw) -> bool:
    """Return True if `raw` is the name of one HDF5 file, by its suffix."""
    return isinstance(raw, (str, Path)) and Path(raw).suffix.lower() in HDF5_SUFFIXES


def open_frames(raw: Raw) -> Frames:
    """Open the frames of one rotation.

    Parameters
    ----------
    raw : path, pattern or list of paths
        An HDF5 file (NXmx or Eiger master, a plain stack, or a light scan file that links
        frames), or images (CBF, TIFF, SMV, EDF, frames of CrysAlisPro, and what else fabio reads):
        one file, a list, a glob (``scan_*.cbf``), a template (``scan_####.cbf``) or a printf
        pattern (``scan_%05d.tif``).

    Raises
    ------
    HklflowError
        If a file does not exist, or frames are missing from the series.
    """
    from hklflow.formats.images import ImageSeries
    from hklflow.formats.light import images_of

    if is_hdf5(raw):
        images = images_of(Path(str(raw)))
        if images is None:
            from hklflow.formats.nxframes import NexusFrames

            return NexusFrames(Path(str(raw)))
        raw = images
    return ImageSeries(raw)


def open_scan(scan: RotationScan) -> Frames:
    """Open the frames of a scan in photons; all pixels of frames that are left out are flagged.

    Raises
    ------
    HklflowError
        As for `open_frames`.
    """
    frames = open_frames(scan.raw)
    if scan.left_out:
        from hklflow.formats.left_out import PartlyLeftOut

        frames = PartlyLeftOut(frames, scan.left_out)
    if scan.gain is not None:
        from hklflow.formats.photons import InPhotons

        frames = InPhotons(frames, scan.gain)
    return frames


def read_header(raw: Raw, choices: Choices = NOTHING_STATED) -> Header:
    """Read geometry and measurement from the header of the raw files.

    Parameters
    ----------
    raw : path, pattern or list of paths
        As for `open_frames`.
    choices : Choices
        Facts that the user states where the header leaves the geometry open.
    """
    if is_hdf5(raw):
        with open_frames(raw) as frames:
            return header_of(raw, frames, choices)
    from hklflow.formats.images import read_image_header

    return _without_zero(read_image_header(raw, choices))


def header_of(raw: Raw, frames: Frames, choices: Choices = NOTHING_STATED) -> Header:
    """Read the header of raw files with open frames; see `read_header`."""
    if not is_hdf5(raw):
        return read_header(raw, choices)
    from hklflow.formats.nxmx import read_nexus_header

    return _without_zero(read_nexus_header(Path(str(raw)), frames, choices))


def _without_zero(header: Header) -> Header:
    """Return the header without a saturation of 0 counts, which means that it is not set.

    With a saturation of 0 counts every pixel would be saturated.
    """
    if header.saturation != 0:
        return header
    return replace(
        header,
        saturation=None,
        saturation_doubt="the saturation of 0 counts in the raw file is ignored, so no pixel is "
        "flagged as saturated: set `import_scan: saturation` if it is known",
    )


def read_variance(scan: RotationScan) -> NDArray[np.float32] | None:
    """Return the variance of the read noise (slow, fast) in photons², for integrating detectors.

    None for photon counters. Pixels that cannot be used have 0.
    """
    if scan.gain is not None:
        return np.full(scan.rotation.detector.shape, scan.gain.read_variance, np.float32)
    # Files of photon counters need not be opened.
    variance = read_header(scan.raw).read_variance if scan.underload < 0 else None
    return None if variance is None else variance.astype(np.float32)


def read_mask_bits(raw: Raw) -> NDArray[np.uint32] | None:
    """Read the bits of the pixel mask (slow, fast) of an HDF5 file; None if it has none."""
    from hklflow.formats.nxmx import mask_bits

    with open_frames(raw) as frames:
        return mask_bits(Path(str(raw)), (frames.shape[1], frames.shape[2]))
