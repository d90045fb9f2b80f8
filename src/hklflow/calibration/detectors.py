"""Detectors in pyFAI's list: compare pixel size, shape and gaps with an image.

The gaps reveal a mirrored or rotated image, unless they are symmetric (for PILATUS only a
transposed image is detected). Powder rings do not reveal it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.calibration.module_gaps import modules_from_gaps
from hklflow.geometry.modules import Modules
from hklflow.images.pixel_binning import bin_mask

Bools = NDArray[np.bool_]

TURNS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "as it is": lambda a: a,
    "flipped up-down": lambda a: a[::-1],
    "flipped left-right": lambda a: a[:, ::-1],
    "turned by 180°": lambda a: a[::-1, ::-1],
    "transposed": lambda a: a.T,
    "turned by 90° to the left": lambda a: np.rot90(a),
    "turned by 90° to the right": lambda a: np.rot90(a, -1),
    "transposed and turned by 180°": lambda a: a.T[::-1, ::-1],
}
"""Names of the possible orientations of an image (slow, fast), and their transformations."""


@dataclass(frozen=True)
class KnownDetector:
    """A detector in pyFAI's list.

    Attributes
    ----------
    name : str
    pixel_size : (slow, fast)
        Metres.
    gaps : (slow, fast) bool array
        True for pixels in gaps; its shape is the detector's shape.
    """

    name: str
    pixel_size: tuple[float, float]
    gaps: Bools

    @property
    def modules(self) -> list[tuple[int, int, int, int]]:
        """Rectangles (slow start, stop, fast start, stop) between the gaps."""
        return [tuple(box) for box in modules_from_gaps(self.gaps).tolist()]

    def binned(self, factor: int) -> "KnownDetector":
        """Return the detector whose pixels are blocks; a block with a part in a gap is a gap."""
        slow, fast = self.pixel_size
        gaps = bin_mask(self.gaps, factor)
        return KnownDetector(self.name, (factor * slow, factor * fast), gaps)

    def check(
        self, image: NDArray[Any], unlit: Bools, pixel_size: tuple[float, float] | None = None
    ) -> None:
        """Compare an image with the detector.

        Parameters
        ----------
        image : (slow, fast) array
        unlit : (slow, fast) bool array
            Pixels without counts: flagged, negative or 0.
        pixel_size : (slow, fast), optional
            Pixel size in the settings, metres.

        Raises
        ------
        HklflowError
            If shape or pixel size differ, or pixels in the detector's gaps have counts; the
            message names the orientation that would fit.
        """
        if pixel_size is not None and not np.allclose(pixel_size, self.pixel_size, rtol=1e-3):
            raise HklflowError(
                f"pixel_size {tuple(pixel_size)} m differs from {self.name}'s "
                f"{self.pixel_size} m; correct pixel_size or detector"
            )
        if not self.gaps.any():
            fit = {way: 1.0 for way, turn in TURNS.items() if turn(image).shape == self.gaps.shape}
        else:
            fit = {
                way: float(turn(unlit)[self.gaps].mean())
                for way, turn in TURNS.items()
                if turn(image).shape == self.gaps.shape
            }
        best = max(fit.values(), default=0.0)
        fitting = [way for way, share in fit.items() if share > best - 0.01]
        advice = (
            f"it fits if the image is {' or '.join(fitting)}"
            if best > 0.95
            else "no orientation fits: check the detector's name"
        )
        if image.shape != self.gaps.shape:
            raise HklflowError(
                f"the image has {image.shape} pixels but {self.name} has {self.gaps.shape}; "
                f"{advice}"
            )
        if "as it is" not in fitting or best <= 0.95:
            share = 100 * (1 - fit["as it is"])
            raise HklflowError(
                f"{share:.0f} % of the pixels in the gaps of {self.name} have counts; {advice}"
            )


def known_detector(name: str) -> KnownDetector:
    """Look up a detector in pyFAI, such as ``Pilatus 1M``.

    Raises
    ------
    HklflowError
        If pyFAI does not know the detector.
    """
    from pyFAI.detectors import ALL_DETECTORS, detector_factory

    lower = name.lower()
    spellings = (lower, lower.replace(" ", "_"), lower.replace(" ", ""))
    key = next((spelling for spelling in spellings if spelling in ALL_DETECTORS), None)
    if key is None:
        near = get_close_matches(spellings[-1], list(ALL_DETECTORS), n=3, cutoff=0.6)
        suggestion = f"perhaps {', '.join(near)}" if near else "for example Pilatus 1M or Eiger2 4M"
        raise HklflowError(f"pyFAI does not know the detector {name!r}; {suggestion}")
    detector = detector_factory(key)
    shape = detector.max_shape
    if shape is None or detector.pixel1 is None or detector.pixel2 is None:
        raise HklflowError(
            f"pyFAI does not know the shape of detector {name!r}; leave out `detector`"
        )
    mask = detector.mask
    gaps = np.zeros(shape, bool) if mask is None else np.asarray(mask) != 0
    return KnownDetector(name, (float(detector.pixel1), float(detector.pixel2)), gaps)


def detector_modules(name: str) -> Modules:
    """Return the ideal modules of a detector in pyFAI's list.

    Raises
    ------
    HklflowError
        If pyFAI does not know the name, or knows no gaps of this detector.
    """
    known = known_detector(name)
    if not known.gaps.any():
        raise HklflowError(
            f"pyFAI knows no gaps of detector {name!r}; use a mask of the gaps instead"
        )
    return Modules.ideal(modules_from_gaps(known.gaps), known.pixel_size[1] / known.pixel_size[0])
