"""Photon counters: frames summed pixel by pixel, what the raw file flags, defects.

What is known of a counter stands on the whole image (ss, fs). Reasons are bits of NXmx
``pixel_mask``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.files import Quantity, read_part
from hklflow.formats.header import Header
from hklflow.formats.raw import is_hdf5, open_frames, read_header
from hklflow.formats.raw_frames import Frames
from hklflow.images.masks import Bits, BoolImage, MaskBit, flag_value, flagged
from hklflow.images.pixel_moments import Moments, PixelMoments

Shown = Callable[[Iterable[Any], int], Iterable[Any]]

#: Bits of pixels that never were to count: they are no defects.
ABSENT = MaskBit.GAP | MaskBit.VIRTUAL
#: Chance of a good pixel to be taken for a hot one.
HOT_CHANCE = 1e-9


@dataclass(frozen=True)
class Measured:
    """One run, summed.

    Attributes
    ----------
    source : str
        File, or pattern of the images.
    moments : Moments
    bits : (ss, fs) uint32 array
        What the raw file flags.
    header : Header
    levels : (n,) array
        Relative intensity of each frame; 1 where it was not asked for.
    """

    source: str
    moments: Moments
    bits: Bits
    header: Header
    levels: NDArray[np.float64]

    @property
    def about(self) -> dict[str, Any]:
        """Plain data for files of constants."""
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
    levels: bool = False,
    trusted: bool = False,
    saturation: float | None = None,
    shown: Shown = lambda items, total: items,
) -> Measured:
    """Sum the frames of a run; only a block of them is in memory.

    Parameters
    ----------
    source : str
        As for `hklflow.formats.raw.open_frames`.
    size : int
        Frames of a block.
    threads : int
    levels : bool
        Take the intensity of each frame from its pixels, so that a beam that changes does not
        make them look noisy. Frames without light are left out.
    trusted : bool
        Leave saturated counts out.
    saturation : float, optional
        Counts that are saturated; None: what the raw file says.
    shown : callable
        Passes the blocks through and shows progress.

    Raises
    ------
    HklflowError
        If there are fewer than 2 frames (with light).
    """
    header = read_header(source)
    found: list[NDArray[np.float64]] = []
    with open_frames(source) as frames:
        n, *shape = frames.shape
        bits = known_bits(source, frames)
        limit = float(flag_value(frames.dtype) or np.inf)
        if trusted:
            limit = min(limit, saturation or header.saturation or np.inf)
        moments = PixelMoments(np.zeros(shape, bool), flag_from=limit)
        for block in shown(frames.stream(size, threads=threads), n):
            of_block = np.ones(len(block))
            if levels:
                of_block = np.array([frame_level(frame, bits != 0) for frame in block])
            lit = of_block > 0
            moments.add(block[lit] if not lit.all() else block, of_block[lit])
            found.append(of_block)
        if not trusted:
            bits = bits | masked_always(frames, moments.result(), bits)
    level = np.concatenate(found)
    if (level > 0).sum() < 2:
        raise HklflowError(
            f"{source} has {int((level > 0).sum())} frames with light; 2 or more are needed, "
            "better some ten"
        )
    return Measured(source, moments.result(), bits, header, level)


def known_bits(source: str, frames: Frames) -> Bits:
    """Bits (ss, fs) that the raw file itself says.

    An NXmx file has them; of a series, in the first image -1 is a gap and other negative values
    are pixels that the vendor excludes (DEAD).
    """
    if is_hdf5(source):
        from hklflow.formats.raw import read_mask_bits

        bits = read_mask_bits(Path(source))
        return np.zeros(frames.shape[1:], np.uint32) if bits is None else bits
    return _negative(frames.read(0, 1)[0])


def masked_always(frames: Frames, moments: Moments, bits: Bits) -> Bits:
    """Bits of pixels that no frame measured and that have none yet."""
    never = (moments.frames == 0) & (bits == 0)
    if not never.any():
        return np.zeros_like(bits)
    told = _negative(frames.read(0, 1)[0])
    return np.where(never, np.where(told != 0, told, np.uint32(MaskBit.GAP)), 0).astype(np.uint32)


def _negative(image: NDArray[Any]) -> Bits:
    bits = np.where(image < 0, np.uint32(MaskBit.DEAD), np.uint32(0))
    bits[image == -1] = MaskBit.GAP
    return bits.astype(np.uint32)


def frame_level(frame: NDArray[Any], bad: BoolImage) -> float:
    """Relative intensity of a frame: mean counts, each pixel's cut at four times the median.

    So hot and noisy pixels have no say in it. 0 if there are no counts.
    """
    limit = flag_value(frame.dtype)
    values = frame[~bad & ~flagged(frame, limit)].astype(np.float64)
    if not len(values):
        return 0.0
    return float(np.minimum(values, 4 * np.median(values) + 4).mean())


def hot_in_the_dark(moments: Moments, bits: Bits) -> tuple[BoolImage, float]:
    """Pixels that count too much without X-rays, and what the others count in a frame.

    A pixel is hot if so many counts, or more, have a chance below `HOT_CHANCE`. The rate of the
    good pixels is their mean; that of the median is where the search for it starts, from above.

    Parameters
    ----------
    moments : Moments
        Of the dark frames.
    bits : (ss, fs) uint32 array
        Pixels that are not judged.

    Returns
    -------
    tuple
        bool (ss, fs), and counts per frame.
    """
    from scipy.stats import poisson

    judged = (bits == 0) & (moments.frames > 0)
    if not judged.any():
        raise HklflowError("no pixel is left to judge in the dark frames; check the raw file")
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
    """Add the bit CLUSTER where defective pixels touch (corners count); gaps are no defects."""
    from scipy.ndimage import label

    defective = (bits & ~np.uint32(ABSENT | MaskBit.CLUSTER)) != 0
    defective &= (bits & np.uint32(ABSENT)) == 0
    groups, n = label(defective, np.ones((3, 3)))
    sizes = np.bincount(groups.ravel(), minlength=n + 1)
    sizes[0] = 0
    return np.where(sizes[groups] > 1, bits | np.uint32(MaskBit.CLUSTER), bits)


def mask_quantity(bits: Bits) -> Quantity:
    """Bits with their meanings, as `hklflow.nexus.write_mask` has them."""
    meanings = {
        "bit_values": np.array(list(MaskBit), np.uint32),
        "bit_meanings": [bit.label for bit in MaskBit],
    }
    return Quantity(bits.astype(np.uint32), "", meanings)


def numbers(bits: Bits) -> dict[str, int]:
    """Pixels of every bit that occurs, and of all."""
    found = {bit.label: int(((bits & np.uint32(bit)) != 0).sum()) for bit in MaskBit}
    return {"masked": int((bits != 0).sum())} | {name: n for name, n in found.items() if n}


def part_mask(path: Path, shape: tuple[int, ...]) -> Bits:
    """Pixel mask of the file of one measurement.

    Raises
    ------
    HklflowError
        If it is of another detector.
    """
    bits: Bits = read_part(path)["pixel_mask"]
    if bits.shape != shape:
        raise HklflowError(
            f"{path} is of {bits.shape} pixels, the frames have {shape}; give measurements of one "
            "detector"
        )
    return bits


def common_exposure(stated: Mapping[str, float | None], said: float | None) -> float:
    """Exposure of a frame in seconds, the same in all runs: as it was said, else as they state it.

    Raises
    ------
    HklflowError
        If runs differ, or nobody says it.
    """
    exposures = {source: said or exposure for source, exposure in stated.items()}
    for source, exposure in exposures.items():
        if exposure is None:
            raise HklflowError(f"{source} states no exposure; give `exposure` in seconds")
    values = [value for value in exposures.values() if value is not None]
    if max(values) - min(values) > 1e-6 * max(values):
        raise HklflowError(
            f"the runs have exposures of {sorted(set(values))} s; measure all transmissions alike"
        )
    return values[0]
