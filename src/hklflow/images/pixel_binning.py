"""Binned frames: detector, masks and images for frames whose pixels are sums of blocks.

With factor b, block (i, j) contains the pixels b i to b i + b - 1 along slow and b j to b j + b - 1
along fast. A pixel coordinate x of the unbinned frames is x / b in the binned frames. Rows and
columns at the far ends that do not fill a block are cut off.
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
    """Binning of frames.

    Attributes
    ----------
    factor : int
        Pixels along each side of a block: 2, 4 or 8.
    unbinned : (slow, fast)
        Number of pixels of the unbinned frames.

    Raises
    ------
    HklflowError
        If the factor is not 2, 4 or 8, or a block is larger than the frame.
    """

    factor: int
    unbinned: tuple[int, int]

    def __post_init__(self) -> None:
        if self.factor not in FACTORS or min(self.unbinned) < self.factor:
            raise HklflowError(
                f"frames of {self.unbinned} pixels cannot be binned {self.factor} x {self.factor}; "
                "binning must be 2, 4 or 8, and the frame at least one block large"
            )

    @property
    def words(self) -> str:
        """The binning for messages."""
        return f"frames of {self.unbinned} pixels binned {self.factor} x {self.factor}"

    def to_dict(self) -> dict[str, Any]:
        """Return the binning for JSON."""
        return {"factor": self.factor, "unbinned": list(self.unbinned)}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of blocks (slow, fast)."""
        return self.unbinned[0] // self.factor, self.unbinned[1] // self.factor

    def require(self, shape: tuple[int, ...], what: str) -> None:
        """Refuse ``what`` if its shape is not the shape of the unbinned frames."""
        if tuple(shape) != tuple(self.unbinned):
            raise HklflowError(
                f"{what} is for {tuple(shape)} pixels (slow, fast), but the frames had "
                f"{self.unbinned} before they were binned {self.factor} x {self.factor}; give the "
                "file for the unbinned frames"
            )


def blocks(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """View an image (slow, fast) as (blocks slow, factor, blocks fast, factor)."""
    n_slow, n_fast = image.shape[0] // factor, image.shape[1] // factor
    whole = image[: n_slow * factor, : n_fast * factor]
    return whole.reshape(n_slow, factor, n_fast, factor)


def bin_mask(bad: BoolImage, factor: int) -> BoolImage:
    """Mark the blocks with a bad pixel."""
    return np.asarray(blocks(bad, factor).any(axis=(1, 3)))


def bin_bits(bits: Bits, factor: int) -> Bits:
    """Return the bitwise or of the bits of each block."""
    joined: Bits = np.bitwise_or.reduce(blocks(bits, factor), axis=(1, 3))
    return joined


def bin_sum(image: NDArray[Any], factor: int) -> NDArray[np.float64]:
    """Sum each block."""
    sums: NDArray[np.float64] = blocks(image, factor).sum(axis=(1, 3), dtype=np.float64)
    return sums


def bin_mean(image: NDArray[Any], factor: int) -> NDArray[np.float64]:
    """Return the mean of each block; 0 if a pixel's value is not positive or not finite.

    This rule is for flat fields: the counts of a block are the sum over all its pixels, so a block
    has no norm if the response of one pixel is unknown.
    """
    bad = ~(np.isfinite(image) & (image > 0))
    total = bin_sum(np.where(bad, 0.0, image), factor)
    return np.where(bin_mask(bad, factor), 0.0, total / factor**2)


def bin_detector(detector: Detector, factor: int) -> Detector:
    """Return the detector of the binned frames: the same plane, corner and axes.

    A module keeps only the blocks that are completely inside it; see also `outside_modules`.

    Raises
    ------
    HklflowError
        If a module does not contain a complete block.
    """
    binning = PixelBinning(factor, detector.shape)
    modules = None if detector.modules is None else bin_modules(detector.modules, factor)
    slow, fast = detector.pixel_size
    return replace(
        detector, shape=binning.shape, pixel_size=(factor * slow, factor * fast), modules=modules
    )


def bin_modules(modules: Modules, factor: int) -> Modules:
    """Return the modules of the binned frames; see `bin_detector`."""
    boxes = modules.rectangles
    reduced = np.stack([-(-boxes[:, ::2] // factor), boxes[:, 1::2] // factor], axis=2)
    if np.any(reduced[..., 1] <= reduced[..., 0]):
        small = int(np.argwhere(reduced[..., 1] <= reduced[..., 0])[0, 0])
        raise HklflowError(
            f"module {small} {boxes[small].tolist()} does not contain a block of {factor} x "
            f"{factor} pixels; use a smaller `binning`"
        )
    # The smaller rectangle has another centre, and the rotation about the old centre has moved it.
    middle = factor * reduced.sum(axis=2) / 2
    moved = np.stack(modules.displaced(middle[:, 0], middle[:, 1]), axis=1)
    rectangles = reduced.reshape(-1, 4)
    return Modules(rectangles, (moved - middle) / factor, modules.rotation, modules.aspect)


def outside_modules(detector: Detector) -> BoolImage:
    """Mark the pixels (slow, fast) outside all modules; none if the detector has no modules.

    For a binned detector these are the blocks in gaps, and the blocks that extend over several
    modules, because their position is not defined.
    """
    outside = np.full(detector.shape, detector.modules is not None)
    if detector.modules is not None:
        for s0, s1, f0, f1 in detector.modules.rectangles.tolist():
            outside[s0:s1, f0:f1] = False
    return outside
