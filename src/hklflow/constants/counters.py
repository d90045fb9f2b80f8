"""Photon counters: sum frames pixel by pixel, read the raw file's flags, find defects.

The constants of a counter are images of the whole detector (ss, fs). The reasons for masking are
bits of the NXmx ``pixel_mask``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.files import Quantity, read_part
from hklflow.formats.header import Header
from hklflow.formats.raw import is_hdf5, open_frames, read_header
from hklflow.formats.raw_frames import Frames
from hklflow.images.masks import Bits, BoolImage, MaskBit, flag_value, flagged
from hklflow.images.pixel_moments import Moments, PixelMoments

Shown = Callable[[Iterable[Any], int], Iterable[Any]]

#: Bits of pixels that do not exist as sensor pixels; they do not count as defects.
ABSENT = MaskBit.GAP | MaskBit.VIRTUAL
#: Probability that a good pixel is flagged as hot.
HOT_CHANCE = 1e-9


@dataclass(frozen=True)
class Measured:
    """Sum of one run.

    Attributes
    ----------
    source : str
        Path of the raw file, or pattern of the images.
    moments : Moments
    bits : (ss, fs) uint32 array
        Mask bits from the raw file.
    header : Header
    levels : (n,) array
        Relative intensity of each frame; 1 if levels were not requested.
    """

    source: str
    moments: Moments
    bits: Bits
    header: Header
    levels: NDArray[np.float64]

    @property
    def about(self) -> dict[str, Any]:
        """Return plain data that describe the run, for files of constants."""
        return {
            "raw": self.source,
            "frames": len(self.levels),
            "exposure_s": self.header.exposure_time,
        }


def measure(
    source: str,
    size: int,
    threads: int = 1,
    *,
    levels: bool | NDArray[np.float64] = False,
    trusted: bool = False,
    saturation: float | None = None,
    shown: Shown = lambda items, total: items,
) -> Measured:
    """Sum the frames of a run; only one block of frames is in memory.

    Parameters
    ----------
    source : str
        File or pattern, as for `hklflow.formats.raw.open_frames`.
    size : int
        Number of frames in each block.
    threads : int
    levels : bool or (n,) array
        Compute the intensity of each frame from its pixels, so that a changing beam does not make
        pixels look noisy. Frames without light are left out. An array gives the intensities.
    trusted : bool
        Leave out saturated counts.
    saturation : float, optional
        Smallest saturated count. None: the value in the raw file.
    shown : callable
        Wraps the iteration over the blocks to show progress.

    Raises
    ------
    HklflowError
        If there are fewer than 2 frames (with light).
    """
    header = read_header(source)
    levels_of_blocks: list[NDArray[np.float64]] = []
    with open_frames(source) as frames:
        n, *shape = frames.shape
        bits = known_bits(source, frames)
        limit = float(flag_value(frames.dtype) or np.inf)
        if trusted:
            limit = min(limit, saturation or header.saturation or np.inf)
        moments = PixelMoments(np.zeros(shape, bool), flag_from=limit)
        for block in shown(frames.stream(size, threads=threads), n):
            of_block = np.ones(len(block))
            if isinstance(levels, np.ndarray):
                of_block = levels[sum(map(len, levels_of_blocks)) :][: len(block)]
            elif levels:
                of_block = np.array([frame_level(frame, bits != 0) for frame in block])
            lit = of_block > 0
            moments.add(block[lit] if not lit.all() else block, of_block[lit])
            levels_of_blocks.append(of_block)
        if not trusted:
            bits = bits | masked_always(frames, moments.result(), bits)
    level = np.concatenate(levels_of_blocks)
    if (level > 0).sum() < 2:
        raise HklflowError(
            f"{source} has only {int((level > 0).sum())} frames with light; at least 2 are "
            "needed, 10 or more are better"
        )
    return Measured(source, moments.result(), bits, header, level)


def known_bits(source: str, frames: Frames) -> Bits:
    """Return the mask bits (ss, fs) of the raw file.

    An NXmx file stores the bits. In the first image of a series, -1 marks a gap and other negative
    values mark pixels that the vendor excludes (DEAD).
    """
    if is_hdf5(source):
        from hklflow.formats.raw import read_mask_bits

        bits = read_mask_bits(Path(source))
        return np.zeros(frames.shape[1:], np.uint32) if bits is None else bits
    return _negative(frames.read(0, 1)[0])


def masked_always(frames: Frames, moments: Moments, bits: Bits) -> Bits:
    """Return the bits of pixels that no frame measured and that have no bit yet."""
    never = (moments.frames == 0) & (bits == 0)
    if not never.any():
        return np.zeros_like(bits)
    flags = _negative(frames.read(0, 1)[0])
    return np.where(never, np.where(flags != 0, flags, np.uint32(MaskBit.GAP)), 0).astype(np.uint32)


def _negative(image: NDArray[Any]) -> Bits:
    bits = np.where(image < 0, np.uint32(MaskBit.DEAD), np.uint32(0))
    bits[image == -1] = MaskBit.GAP
    return bits.astype(np.uint32)


def frame_level(frame: NDArray[Any], bad: BoolImage) -> float:
    """Return the relative intensity of a frame: its mean counts.

    Counts of a pixel are limited to about four times the median, so that hot and noisy pixels do
    not change the mean. The level is 0 if there are no counts.
    """
    limit = flag_value(frame.dtype)
    values = frame[~bad & ~flagged(frame, limit)].astype(np.float64)
    if not len(values):
        return 0.0
    return float(np.minimum(values, 4 * np.median(values) + 4).mean())


def hot_in_the_dark(moments: Moments, bits: Bits) -> tuple[BoolImage, float]:
    """Return the pixels that count too much in the dark, and the dark counts of good pixels.

    A pixel is hot if the probability of its counts, or more, is below `HOT_CHANCE`. The expected
    rate is the mean over the good pixels; its iteration starts above the median.

    Parameters
    ----------
    moments : Moments
        Moments of the dark frames.
    bits : (ss, fs) uint32 array
        Bits of known pixels, which are not tested.

    Returns
    -------
    tuple
        Hot pixels, bool (ss, fs), and counts per frame of the other pixels.
    """
    from scipy.stats import poisson

    judged = (bits == 0) & (moments.frames > 0)
    if not judged.any():
        raise HklflowError(
            "all pixels of the dark frames are masked or were not measured; check the raw file"
        )
    frames, total = moments.frames[judged], moments.total[judged]
    rate = float(np.median(total / frames) + 1 / frames.max())
    hot = np.zeros(len(total), bool)
    for turn in range(50):
        expected = np.maximum(rate * np.arange(frames.max() + 1), 1e-12)
        limits = np.asarray(poisson.isf(HOT_CHANCE, expected))
        before, hot = hot, total > limits[frames]
        rate = float(total[~hot].sum() / max(int(frames[~hot].sum()), 1))
        if turn and np.array_equal(before, hot):
            break
    image = np.zeros(bits.shape, bool)
    image[judged] = hot
    return image, rate


def with_clusters(bits: Bits) -> Bits:
    """Add the bit CLUSTER to defects that touch (corners count); gaps are not defects."""
    from scipy.ndimage import label

    defective = (bits & ~np.uint32(ABSENT | MaskBit.CLUSTER)) != 0
    defective &= (bits & np.uint32(ABSENT)) == 0
    groups, n = label(defective, np.ones((3, 3)))
    sizes = np.bincount(groups.ravel(), minlength=n + 1)
    sizes[0] = 0
    return np.where(sizes[groups] > 1, bits | np.uint32(MaskBit.CLUSTER), bits)


def mask_quantity(bits: Bits) -> Quantity:
    """Return the bits with their meanings, in the form of `hklflow.nexus.write_mask`."""
    meanings = {
        "bit_values": np.array(list(MaskBit), np.uint32),
        "bit_meanings": [bit.label for bit in MaskBit],
    }
    return Quantity(bits.astype(np.uint32), "", meanings)


def numbers(bits: Bits) -> dict[str, int]:
    """Count the pixels of every bit that occurs, and all masked pixels."""
    counts = {bit.label: int(((bits & np.uint32(bit)) != 0).sum()) for bit in MaskBit}
    return {"masked": int((bits != 0).sum())} | {name: n for name, n in counts.items() if n}


def part_mask(path: Path, shape: tuple[int, ...]) -> Bits:
    """Return the pixel mask in the file of one measurement.

    Raises
    ------
    HklflowError
        If the mask belongs to another detector.
    """
    bits: Bits = read_part(path)["pixel_mask"]
    if bits.shape != shape:
        raise HklflowError(
            f"{path} has {bits.shape} pixels, the frames have {shape}; use measurements of one "
            "detector"
        )
    return bits


def common_exposure(stated: Mapping[str, ArrayLike | None], setting: float | None) -> float:
    """Return the exposure of a frame in seconds: the user's value, else the runs' common value.

    Raises
    ------
    HklflowError
        If the runs differ, or the exposure is unknown.
    """
    exposures = {source: setting or exposure for source, exposure in stated.items()}
    for source, exposure in exposures.items():
        if exposure is None:
            raise HklflowError(f"{source} states no exposure; set `exposure` in seconds")
    stated_values = [value for value in exposures.values() if value is not None]
    values = [float(x) for value in stated_values for x in np.ravel(value)]
    if max(values) - min(values) > 1e-6 * max(values):
        raise HklflowError(
            f"the runs have different exposures {sorted(set(values))} s; measure all transmissions "
            "with the same exposure"
        )
    return values[0]
