"""Frames as DIALS reads them: an NXmx file of their own, and the spots that DIALS finds on it.

DIALS knows the formats of beamlines, hklflow those of `formats`; a copy with one geometry and one
mask is what both read, whatever the raw files are.
"""

import errno
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.dials.programs import Dials
from hklflow.geometry import Rotation
from hklflow.images import masks
from hklflow.images.scan import RotationScan
from hklflow.peaks.table import Peaks

FRAMES, IMPORTED, STRONG = "frames.nxs", "imported.expt", "strong.refl"

_LEAST = -0.5  # below whole counts; negative ones are flags
_THIN = 1e-9  # m; DIALS asks for a sensor's thickness, and would shift what a thick one sees


def flat(rotation: Rotation) -> Rotation:
    """Geometry with all pixels on one grid, the only one that is told to DIALS."""
    return replace(rotation, detector=rotation.detector.plane)


def write_frames(
    path: Path,
    scan: RotationScan,
    rotation: Rotation,
    bad: NDArray[np.bool_],
    blocks: Iterable[NDArray[Any]],
    dtype: np.dtype[Any],
) -> tuple[float, float]:
    """Write frames for DIALS.

    Parameters
    ----------
    path : Path
    scan : RotationScan
        Its saturation is told.
    rotation : Rotation
        Geometry.
    bad : (slow, fast) bool array
        Pixels that are not to be used.
    blocks : iterable of (n, slow, fast) arrays
        All frames, in order.
    dtype
        Of the frames.

    Returns
    -------
    least, most : float
        Counts beyond which DIALS takes a pixel for invalid.

    Raises
    ------
    HklflowError
        If the frames are those of an integrating detector, or there is no room for them.
    """
    if scan.underload < 0:
        raise HklflowError(
            f"the frames {scan.raw} are of an integrating detector, whose read noise DIALS does "
            "not know; use hklflow's own peak search and integration for them"
        )
    from hklflow.formats.write_raw import NXmxHeader, NXmxWriter, geometry_facts

    # Between whole counts: whether DIALS counts the limits in has changed.
    most = min(scan.saturation or np.inf, masks.flag_value(dtype) or np.inf, 2**31 - 1) - 0.5
    facts = geometry_facts(rotation.detector, rotation.goniometer) | {"sensor_thickness": _THIN}
    header = NXmxHeader(
        **facts,
        shape=rotation.detector.shape,
        n_frames=rotation.scan.n_frames,
        wavelength=rotation.beam.wavelength,
        start=rotation.scan.start,
        step=rotation.scan.step,
        exposure=float(np.mean(scan.exposure)),
        pixel_mask=bad.astype(np.uint32),
        polarization=rotation.beam.polarization,
        saturation=most,
        underload=_LEAST,
        instrument_name=None,
        sample_name=None,
        dtype=dtype,
    )
    with _room(path), NXmxWriter(path, header) as writer:
        for block in blocks:
            writer.append(block)
    return _LEAST, most


@contextmanager
def _room(path: Path) -> Iterator[None]:
    """Tell that it is the temporary folder which is full, not that of the outputs."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not _is_full(error):
            raise
        raise HklflowError(
            f"the temporary folder {tempfile.gettempdir()} is full: there is no room for {path}, "
            "the copy of the frames for DIALS; make room, or set TMPDIR to a folder that has it"
        ) from error


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it followed, is that of a full disk or quota."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    while error is not None:
        # HDF5 tells the number in its text only.
        if getattr(error, "errno", None) in codes or any(
            f"errno = {code}," in str(error) for code in codes
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def find_spots(
    dials: Dials, scan: RotationScan, rotation: Rotation, mask: Path, folder: Path, threads: int
) -> Peaks:
    """Search the frames of one rotation with `dials.find_spots`.

    Parameters
    ----------
    dials : Dials
    scan : RotationScan
    rotation : Rotation
        Geometry; positions do not depend on it.
    mask : Path
        Pixel mask.
    folder : Path
        Where DIALS runs; it has to hold a copy of the frames.
    threads : int

    Raises
    ------
    HklflowError
        If DIALS finds nothing or cannot read such frames.
    """
    from hklflow import nexus
    from hklflow.formats import raw
    from hklflow.formats.dials_peaks import refl_to_peaks
    from hklflow.formats.dials_refl import read_refl

    plane = flat(rotation)
    bad = nexus.read_mask(mask) != 0
    with raw.open_scan(scan) as frames:
        last = scan.first + rotation.scan.n_frames
        blocks = frames.stream(16, scan.first, last, threads=threads)
        write_frames(folder / FRAMES, scan, plane, bad, blocks, frames.dtype)
    strong = search(dials, folder, threads)
    (folder / FRAMES).unlink()
    return refl_to_peaks(read_refl(strong), plane)[0]


def search(dials: Dials, folder: Path, threads: int) -> Path:
    """Import the frames written to a folder and find their spots; returns the table."""
    dials.run("dials.import", [FRAMES, f"output.experiments={IMPORTED}"], folder, IMPORTED)
    arguments = [IMPORTED, f"output.reflections={STRONG}", f"nproc={threads}"]
    return dials.run("dials.find_spots", arguments, folder, STRONG)[0]
