"""Rehearse a stage: make the tests of `main` that need no pixels, for `hklflow check`.

A stage with such tests has a function ``rehearse(*, inputs, outputs, params, known)``. It calls the
functions that `main` calls, writes nothing, and leaves in ``known`` what later stages read, as far
as it follows from headers, tables and the configuration.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hklflow.base.errors import HklflowError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.formats.header import Header
    from hklflow.images.scan import RotationScan

T = TypeVar("T")
# Results that are kept for rotations with equal settings.
_KEPT = 64


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
        """Return the facts without images."""
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
    notes : list of str
        What `hklflow check` prints besides problems.
    """

    products: dict[Path, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _made: "OrderedDict[Hashable, Any]" = field(default_factory=OrderedDict)

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

    def bad(self, mask: Path) -> "NDArray[np.bool_] | None":
        """Return the pixels that are masked whatever the frames hold; None: unknown."""
        found: NDArray[np.bool_] | None = self.products.get(mask)
        return found

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what a function makes, or refuses, for a key; equal keys share the result.

        Most rotations of an experiment have the same geometry and the same mask.
        """
        if key not in self._made:
            try:
                self._made[key] = make()
            except HklflowError as error:
                self._made[key] = error
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        made: T | HklflowError = self._made[key]
        if isinstance(made, HklflowError):
            raise made.with_traceback(None)
        return made

    def forget_images(self, paths: Iterable[Path]) -> None:
        """Forget the images of products: an experiment has too many to hold."""
        import numpy as np

        for path in paths:
            match self.products.get(path):
                case np.ndarray():
                    self.products[path] = None
                case FrameFacts() as frames:
                    self.products[path] = frames.without_images()
                case ScanFacts() as scan:
                    self.products[path] = replace(scan, frames=scan.frames.without_images())


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
        return FrameFacts((n, slow, fast), frames.dtype, raw.header_of(source, frames), dataset)
