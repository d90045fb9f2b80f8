"""Pixel masks of one detector image: their bits, gaps and flagged pixels.

A mask is a bool array (slow, fast), True = bad. The reasons are kept in a bit-valued
array with the bits of NXmx ``pixel_mask`` (see :class:`MaskBit`); ``bad = bits != 0``.
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
        """Name for people, in lower case."""
        return str(self.name).lower().replace("_", " ")


def flag_value(dtype: np.dtype[Any]) -> int | None:
    """Return the value that marks a pixel without a measurement in unsigned raw frames.

    NXmx and DECTRIS write the largest number of the type (2^16 - 1, 2^32 - 1). Signed and
    floating types have no such value (None): there negative numbers and NaN are the flags.
    """
    return int(np.iinfo(dtype).max) if np.issubdtype(dtype, np.unsignedinteger) else None


def flagged(
    frames: NDArray[Any], flag_from: float | None = None, valid_from: float = 0.0
) -> BoolImage:
    """Mark values that are no measurement: not finite, below ``valid_from``, or ``>= flag_from``.

    Parameters
    ----------
    frames
        (..., slow, fast), any real type.
    flag_from
        Smallest value that is a flag, see :func:`flag_value`; None where there is none.
    valid_from
        Smallest value that is a measurement; below 0 where read noise makes values negative.
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
        raise HklflowError("no frames to find the gaps in: check the range of frames")
    return gaps


def combine(
    shape: tuple[int, int], parts: Iterable[tuple[MaskBit, BoolImage]], base: Bits | None = None
) -> Bits:
    """Set one bit per reason.

    Parameters
    ----------
    shape
        (slow, fast).
    parts
        (bit, bool image) in any order.
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
            raise HklflowError(f"mask {bit.name} has shape {image.shape}, the image has {shape}")
        bits[image] |= np.uint32(bit)
    return bits


def bad_pixels(bits: Bits) -> BoolImage:
    """Mark every pixel with any bit set, (slow, fast) bool."""
    return np.asarray(bits != 0)
