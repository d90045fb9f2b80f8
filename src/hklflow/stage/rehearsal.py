"""Rehearse a stage: make the tests of `main` that need no pixels, for `hklflow check`.

A stage with such tests has a function ``rehearse(*, inputs, outputs, params, known)``. It calls the
functions that `main` calls, writes nothing, and leaves in ``known`` what later stages read, as far
as it follows from headers, tables and the configuration.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.formats.header import Header
    from hklflow.images.scan import RotationScan

T = TypeVar("T")


@dataclass(frozen=True)
class FrameFacts:
    """Frames of a rotation without their pixels.

    Attributes
    ----------
    shape : (n, slow, fast)
    dtype
        Type of the pixels.
    header : Header
    dataset
        Dataset of the frames in one HDF5 file, or None.
    """

    shape: tuple[int, int, int]
    dtype: "np.dtype[Any]"
    header: "Header"
    dataset: "tuple[Path, str] | None" = None

    def without_images(self) -> "FrameFacts":
        """Return the facts without images, of which an experiment has too many to hold."""
        header = replace(self.header, pixel_mask=None, read_variance=None)
        return replace(self, header=header)


@dataclass(frozen=True)
class ScanFacts:
    """A scan file before it is written.

    Attributes
    ----------
    scan : RotationScan
    frames : FrameFacts
    calibrated : bool
        False if the detector's geometry will come from pixels: a calibrant image.
    """

    scan: "RotationScan"
    frames: FrameFacts
    calibrated: bool


@dataclass
class Known:
    """What is known of the products before any job has run.

    Attributes
    ----------
    products : dict
        Path of a product -> what a later stage reads from it; None: it needs pixels.
    """

    products: dict[Path, Any] = field(default_factory=dict)

    def of(self, path: Path, read: Callable[[Path], T]) -> T | None:
        """Return what is known of a product, or read a file from outside; None: not known yet."""
        if path in self.products:
            made: T | None = self.products[path]
            return made
        return read(path)

    def scan(self, path: Path) -> ScanFacts | None:
        """Return what is known of a scan file."""
        found: ScanFacts | None = self.products.get(path)
        return found

    def frames(self, raw: Path, pattern: str | None) -> FrameFacts | None:
        """Return what is known of raw, summed, corrected or binned frames."""
        return self.of(raw, lambda path: read_facts(pattern or str(path)))

    def take_bad(self, mask: Path) -> "NDArray[np.bool_] | None":
        """Return and forget the pixels that are masked whatever the frames hold; None: unknown."""
        found: NDArray[np.bool_] | None = self.products.get(mask)
        self.products[mask] = None
        return found


def read_facts(source: str) -> FrameFacts:
    """Read shape, type and header of the frames of a file or series.

    Raises
    ------
    HklflowError
        If the files cannot be read.
    """
    from hklflow.formats import raw

    with raw.open_frames(source) as frames:
        n, slow, fast = frames.shape
        dataset = frames.dataset
        return FrameFacts((n, slow, fast), frames.dtype, raw.read_header(source), dataset)
