"""Frames of an integrating detector, read as photons with read noise.

`hklflow.images.gain` has the noise model. A scan with a gain is read through `InPhotons`, so that
every stage sees photons; the variance of the read noise comes from `raw.read_variance`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hklflow.formats.raw_frames import Frames
from hklflow.images.gain import Gain
from hklflow.images.masks import flag_value, flagged
from hklflow.images.scan import RotationScan

if TYPE_CHECKING:
    from hklflow.formats.bands import PackedFrames

LOWEST = float(np.finfo(np.float32).min)
"""Smallest valid value of frames in photons: read noise has no limit, and flags are NaN."""


class InPhotons(Frames):
    """Frames in photons, float32; values that are flags become NaN.

    Parameters
    ----------
    frames : Frames
        The frames as stored, in ADU; closed with this object.
    gain : Gain
    """

    dtype = np.dtype(np.float32)

    def __init__(self, frames: Frames, gain: Gain) -> None:
        self._frames, self._gain = frames, gain
        self.shape, self.files = frames.shape, frames.files

    def _converted(self, stored: NDArray[Any], out: NDArray[Any]) -> None:
        np.subtract(stored, np.float32(self._gain.offset), out=out, casting="unsafe")
        out /= np.float32(self._gain.adu_per_photon)
        if stored.dtype.kind != "f":
            out[flagged(stored, flag_value(stored.dtype))] = np.nan

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self._converted(self._frames._read(start, stop), out)
        return out

    def _prepare(self) -> None:
        self._frames._prepare()

    def _fill(self, start: int, stop: int, out: NDArray[Any]) -> None:
        stored = np.empty((stop - start, *self.shape[1:]), self._frames.dtype)
        self._frames._fill(start, stop, stored)
        self._converted(stored, out)

    def _pack(
        self, start: int, stop: int, memory: NDArray[np.uint8]
    ) -> "tuple[PackedFrames | None, NDArray[np.uint8]]":
        return None, memory

    def _announce(self, start: int, stop: int) -> None:
        self._frames._announce(start, stop)

    def close(self) -> None:
        """Close the frames as stored."""
        self._frames.close()


def in_photons(scan: RotationScan, gain: Gain, underload: float | None) -> RotationScan:
    """Return the scan with a gain, and its limits in photons.

    Parameters
    ----------
    underload : float or None
        Smallest valid value of frames of floating point, ADU; None: every number is valid.
    """
    return replace(
        scan,
        gain=gain,
        saturation=None if scan.saturation is None else gain.photons(scan.saturation),
        underload=LOWEST if underload is None else gain.photons(underload),
    )
