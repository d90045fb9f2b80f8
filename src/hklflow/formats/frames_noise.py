"""Noise of the frames of a scan, read from groups of consecutive frames."""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from hklflow.formats import raw
from hklflow.formats.header import Header
from hklflow.images.gain_estimate import FEWEST_FRAMES, FRAMES, NoiseLine, has_tiles
from hklflow.images.masks import flag_value, flagged
from hklflow.images.scan import RotationScan

GROUPS = 12  # of consecutive frames, over the scan


def noise_line(
    scan: RotationScan, header: Header, offset: float, groups: int = GROUPS
) -> NoiseLine:
    """Return the noise of groups of frames as stored, without the pixels that are flagged.

    Parameters
    ----------
    offset : float
        ADU.
    groups : int
        Largest number of groups.
    """
    line = NoiseLine(offset)
    shape = scan.rotation.detector.shape
    starts, size = _groups(scan, groups)
    if not starts or not has_tiles(shape):
        return line
    masked = np.zeros(shape, bool) if header.pixel_mask is None else header.pixel_mask
    with raw.open_scan(replace(scan, gain=None, left_out=())) as frames:
        from_value = min(
            flag_value(frames.dtype) or np.inf,
            np.inf if scan.saturation is None else scan.saturation,
        )
        lowest = -np.inf if frames.dtype.kind == "f" else 0.0
        for first in starts:
            block = frames.read(first, first + size)
            line.note_negative(block, masked)
            bad = masked.copy()
            for frame in block:
                bad |= flagged(frame, from_value, lowest)
            line.add(block, bad)
    return line


def _groups(scan: RotationScan, most: int) -> tuple[list[int], int]:
    """Return the first frames of groups without frames that are left out, and their size."""
    end = scan.first + scan.rotation.scan.n_frames
    edges = [scan.first - 1, *(n for n in scan.left_out if scan.first <= n < end), end]
    runs = [(low + 1, high) for low, high in pairwise(edges)]
    size = min(FRAMES, max(stop - start for start, stop in runs))
    if size < FEWEST_FRAMES:
        return [], size
    starts = [first for low, high in runs for first in range(low, high - size + 1, size)]
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(most, len(starts))).astype(int))
    return [starts[i] for i in chosen], size
