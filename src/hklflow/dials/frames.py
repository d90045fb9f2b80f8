"""Write frames for DIALS as an NXmx file, and find spots on them with DIALS.

DIALS and hklflow read different formats of raw files. DIALS can always read the copy of the frames,
which has hklflow's geometry and mask.
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
from hklflow.peaks.table import PeakTable

FRAMES, IMPORTED, STRONG = "frames.nxs", "imported.expt", "strong.refl"

_LEAST = -0.5  # smallest valid value, between -1 (a flag) and 0 counts
_THIN = 1e-9  # m; DIALS needs a sensor thickness, and would shift the spots of a thick sensor


def flat(rotation: Rotation) -> Rotation:
    """Return the geometry with all pixels on one grid; DIALS gets only such a geometry."""
    return replace(rotation, detector=rotation.detector.plane)


def require_counter(scan: RotationScan) -> None:
    """Refuse frames of an integrating detector.

    Raises
    ------
    HklflowError
    """
    if scan.underload < 0:
        raise HklflowError(
            f"the frames {scan.raw} are from an integrating detector, and DIALS does not handle "
            "its read noise; use hklflow's own peak search and integration"
        )


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
        Scan with its saturation.
    rotation : Rotation
        Geometry.
    bad : (slow, fast) bool array
        Bad pixels.
    blocks : iterable of (n, slow, fast) arrays
        All frames, in order.
    dtype
        Type of the frames.

    Returns
    -------
    least, most : float
        Limits of valid counts in DIALS.

    Raises
    ------
    HklflowError
        If the detector is integrating, or the disk is full.
    """
    require_counter(scan)
    from hklflow.formats.write_raw import NXmxHeader, NXmxWriter, geometry_facts

    # The limits are between integers, because versions of DIALS differ in whether a limit itself is
    # a valid count.
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
    with room(path), NXmxWriter(path, header) as writer:
        for block in blocks:
            writer.append(block)
    return _LEAST, most


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Report a full temporary folder, so that the user does not look at the output folder."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not _is_full(error):
            raise
        raise HklflowError(
            f"the temporary folder {tempfile.gettempdir()} is full: there is no space for {path}, "
            "the copy of the frames for DIALS; free some space, or set TMPDIR to another folder"
        ) from error


def _is_full(error: BaseException | None) -> bool:
    """Return True if an error, or one of its causes, is a full disk or quota."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    while error is not None:
        # HDF5 gives the error number only in its text.
        if getattr(error, "errno", None) in codes or any(
            f"errno = {code}," in str(error) for code in codes
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def find_spots(
    dials: Dials, scan: RotationScan, rotation: Rotation, mask: Path, folder: Path, threads: int
) -> PeakTable:
    """Search the frames of one rotation with `dials.find_spots`.

    Parameters
    ----------
    dials : Dials
    scan : RotationScan
    rotation : Rotation
        Geometry; the positions of the spots do not depend on the geometry.
    mask : Path
        Pixel mask.
    folder : Path
        Folder in which DIALS runs; it must have space for a copy of the frames.
    threads : int

    Raises
    ------
    HklflowError
        If DIALS finds no spots or cannot read these frames.
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
    """Import the frames in a folder and find their spots; return the path of the table."""
    dials.run("dials.import", [FRAMES, f"output.experiments={IMPORTED}"], folder, IMPORTED)
    arguments = [IMPORTED, f"output.reflections={STRONG}", f"nproc={threads}"]
    return dials.run("dials.find_spots", arguments, folder, STRONG)[0]
