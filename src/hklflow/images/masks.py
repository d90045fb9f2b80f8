"""Pixel masks of one detector image: their bits, gaps and flagged pixels.

A mask is a bool array (slow, fast), True = bad. The reasons are stored in an array with
the bits of NXmx ``pixel_mask`` (see :class:`MaskBit`); ``bad = bits != 0``.
"""

from collections.abc import Iterable
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError

BoolImage = NDArray[np.bool_]
Bits = NDArray[np.uint32]


class MaskBit(IntFlag):
    """Bits of NXmx ``NXdetector/pixel_mask``."""

    GAP = 1
    DEAD = 2
    UNDER_RESPONDING = 4
    OVER_RESPONDING = 8
    NOISY = 16
    CLUSTER = 64
    USER = 256
    VIRTUAL = 1 << 31

    @property
    def label(self) -> str:
        """Name for display, in lower case."""
        return str(self.name).lower().replace("_", " ")


def flag_value(dtype: np.dtype[Any]) -> int | None:
    """Return the value that marks invalid pixels in raw frames of a type; None if there is none.

    For unsigned types, NXmx and DECTRIS write the largest number (2^16 - 1, 2^32 - 1). For signed
    and floating-point types, negative numbers and NaN are the flags.
    """
    return int(np.iinfo(dtype).max) if np.issubdtype(dtype, np.unsignedinteger) else None


def flagged(
    frames: NDArray[Any], flag_from: float | None = None, valid_from: float = 0.0
) -> BoolImage:
    """Mark invalid values: not finite, below ``valid_from``, or ``>= flag_from``.

    Parameters
    ----------
    frames
        (..., slow, fast), any real type.
    flag_from
        Smallest value that is a flag, see :func:`flag_value`. None: no value is a flag.
    valid_from
        Smallest valid value; it is below 0 for data with read noise, which may be negative.
    """
    bad = ~np.isfinite(frames) | (frames < valid_from)
    if flag_from is not None:
        bad |= frames >= flag_from
    return np.asarray(bad)


def find_gaps(blocks: Iterable[NDArray[Any]], flag_from: float | None = None) -> BoolImage:
    """Find pixels that are flagged on every frame (gaps between modules, disabled pixels).

    Parameters
    ----------
    blocks
        Frames (n, slow, fast) in order.
    flag_from
        See :func:`flagged`.

    Returns
    -------
    NDArray
        bool (slow, fast).
    """
    gaps: BoolImage | None = None
    for block in blocks:
        always = np.asarray(flagged(block, flag_from).all(axis=0))
        gaps = always if gaps is None else gaps & always
    if gaps is None:
        raise HklflowError("there are no frames to find gaps in: check the range of frames")
    return gaps


def combine(
    shape: tuple[int, int], parts: Iterable[tuple[MaskBit, BoolImage]], base: Bits | None = None
) -> Bits:
    """Combine masks: set one bit for each reason.

    Parameters
    ----------
    shape
        (slow, fast).
    parts
        Pairs (bit, bool image) in any order.
    base
        Bits (slow, fast) to start from, such as the ``pixel_mask`` of the raw file.

    Returns
    -------
    NDArray
        uint32 (slow, fast).
    """
    bits = np.zeros(shape, np.uint32) if base is None else np.array(base, np.uint32)
    for bit, image in parts:
        if image.shape != shape or bits.shape != shape:
            raise HklflowError(
                f"the mask {bit.name} has shape {image.shape}, but the image {shape}; give the "
                "mask of this detector"
            )
        bits[image] |= np.uint32(bit)
    return bits


def bad_pixels(bits: Bits) -> BoolImage:
    """Return True for pixels (slow, fast) with any bit set."""
    return np.asarray(bits != 0)
