"""Frames whose pixels are sums of blocks: detector, masks and images at their resolution.

Block (i, j) of factor b is the pixels b i to b i + b - 1 along slow and b j to b j + b - 1 along
fast: pixel coordinates x of the frames as measured are x / b of the block sums. Rows and columns
at the far ends that do not fill a block are cut off.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Detector
from hklflow.geometry.modules import Modules
from hklflow.images.masks import Bits, BoolImage

FACTORS = (2, 4, 8)


@dataclass(frozen=True)
class PixelBinning:
    """How frames of block sums were made.

    Attributes
    ----------
    factor : int
        Pixels along each side of a block: 2, 4 or 8.
    unbinned : (slow, fast)
        Pixels of the frames as measured.

    Raises
    ------
    HklflowError
        If the factor is another, or a block is larger than the frame.
    """

    factor: int
    unbinned: tuple[int, int]

    def __post_init__(self) -> None:
        if self.factor not in FACTORS or min(self.unbinned) < self.factor:
            raise HklflowError(
                f"frames of {self.unbinned} pixels cannot be summed in blocks of {self.factor} x "
                f"{self.factor}; binning is 2, 4 or 8, and a frame has a block at least"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Blocks (slow, fast)."""
        return self.unbinned[0] // self.factor, self.unbinned[1] // self.factor

    def require(self, shape: tuple[int, ...], what: str) -> None:
        """Refuse what is not for the frames as measured."""
        if tuple(shape) != tuple(self.unbinned):
            raise HklflowError(
                f"{what} is for {tuple(shape)} pixels (slow, fast), the frames had {self.unbinned} "
                f"before they were binned {self.factor} x {self.factor}; give what is for unbinned "
                "frames"
            )


def blocks(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """View of an image (slow, fast) as (blocks slow, factor, blocks fast, factor)."""
    n_slow, n_fast = image.shape[0] // factor, image.shape[1] // factor
    whole = image[: n_slow * factor, : n_fast * factor]
    return whole.reshape(n_slow, factor, n_fast, factor)


def bin_mask(bad: BoolImage, factor: int) -> BoolImage:
    """Mark the blocks of which any pixel is bad."""
    return np.asarray(blocks(bad, factor).any(axis=(1, 3)))


def bin_bits(bits: Bits, factor: int) -> Bits:
    """Join the bits of a block's pixels."""
    found: Bits = np.bitwise_or.reduce(blocks(bits, factor), axis=(1, 3))
    return found


def bin_sum(image: NDArray[Any], factor: int) -> NDArray[np.float64]:
    """Sum each block."""
    found: NDArray[np.float64] = blocks(image, factor).sum(axis=(1, 3), dtype=np.float64)
    return found


def bin_mean(image: NDArray[Any], factor: int) -> NDArray[np.float64]:
    """Mean of each block; 0 where a pixel's value is not positive or not finite.

    For a flat field: a block's counts are those of all its pixels, so one with a pixel of unknown
    response has no norm.
    """
    bad = ~(np.isfinite(image) & (image > 0))
    total = bin_sum(np.where(bad, 0.0, image), factor)
    return np.where(bin_mask(bad, factor), 0.0, total / factor**2)


def bin_detector(detector: Detector, factor: int) -> Detector:
    """Describe the detector of the block sums: the same plane, corner and axes.

    A module keeps the blocks that are all its own; `outside_modules` tells the others.

    Raises
    ------
    HklflowError
        If a module holds no whole block.
    """
    binning = PixelBinning(factor, detector.shape)
    modules = None if detector.modules is None else bin_modules(detector.modules, factor)
    slow, fast = detector.pixel_size
    return replace(
        detector, shape=binning.shape, pixel_size=(factor * slow, factor * fast), modules=modules
    )


def bin_modules(modules: Modules, factor: int) -> Modules:
    """Describe the modules of the block sums; see `bin_detector`."""
    boxes = modules.rectangles
    reduced = np.stack([-(-boxes[:, ::2] // factor), boxes[:, 1::2] // factor], axis=2)
    if np.any(reduced[..., 1] <= reduced[..., 0]):
        small = int(np.argwhere(reduced[..., 1] <= reduced[..., 0])[0, 0])
        raise HklflowError(
            f"module {small} {boxes[small].tolist()} holds no block of {factor} x {factor} pixels; "
            "use a smaller `binning`"
        )
    # A smaller rectangle turns about another centre, which the turn of the old one has moved.
    middle = factor * reduced.sum(axis=2) / 2
    moved = np.stack(modules.displaced(middle[:, 0], middle[:, 1]), axis=1)
    rectangles = reduced.reshape(-1, 4)
    return Modules(rectangles, (moved - middle) / factor, modules.rotation, modules.aspect)


def outside_modules(detector: Detector) -> BoolImage:
    """Mark the pixels (slow, fast) that are in no module; none if the detector has no modules.

    Of a binned detector these are blocks in gaps, and those of several modules, which are
    nowhere.
    """
    outside = np.full(detector.shape, detector.modules is not None)
    if detector.modules is not None:
        for s0, s1, f0, f1 in detector.modules.rectangles.tolist():
            outside[s0:s1, f0:f1] = False
    return outside
