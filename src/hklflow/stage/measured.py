"""Provide the frames of one rotation for the integration, from its scan file."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hklflow.bragg.measurement import Measurement
    from hklflow.geometry import Rotation
    from hklflow.images.scan import RotationScan
    from hklflow.stage.norms import Norm


def measurement(
    scan: "RotationScan",
    rotation: "Rotation",
    norm: "Norm",
    *,
    block: int,
    threads: int,
) -> "Measurement":
    """Return the frames of a scan with the geometry of a model; each pass opens the file again.

    Parameters
    ----------
    rotation : Rotation
        Refined geometry.
    block : int
        Number of frames that are read at a time.
    """
    import numpy as np

    from hklflow.bragg.measurement import Measurement
    from hklflow.formats import raw
    from hklflow.images import masks

    n = rotation.scan.n_frames

    def blocks() -> "Iterator[NDArray[Any]]":
        with raw.open_scan(scan) as frames:
            yield from frames.stream(block, scan.first, scan.first + n, threads=threads)

    with raw.open_scan(scan) as frames:
        flag = masks.flag_value(frames.dtype) or np.inf
    return Measurement(
        rotation,
        norm.pixel,
        norm.frame,
        blocks,
        invalid_from=flag,
        saturation=scan.saturation or np.inf,
        valid_from=scan.underload,
        read_variance=raw.read_variance(scan),
    )
