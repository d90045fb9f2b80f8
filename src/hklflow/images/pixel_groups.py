"""Groups of pixels: a label for each pixel, with the detector that the labels were made for.

Label k (1, 2, ...) is group k; label 0 is a pixel in no group, such as a gap. Therefore no pixel is
in two groups; a partition also leaves no good pixel out, see `PixelGroups.require_partition`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import (
    Beam,
    Detector,
    azimuth,
    detector_from_dict,
    detector_to_dict,
    two_theta,
)
from hklflow.images.masks import BoolImage
from hklflow.images.pixel_binning import PixelBinning, blocks

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = NDArray[np.int32]

#: Sizes of modules (slow, fast) whose chips are known, and their chips along slow and fast.
#: The lines between chips belong to the nearer chip: PILATUS 97 x 60 pixels and one line, EIGER
#: 256 x 256 pixels and two lines.
CHIPS = {(195, 487): (2, 8), (514, 1030): (2, 4)}
_MOVED = 0.5  # pixels that a detector may have moved before sectors and bands are made again
_WAVELENGTH = 1e-3  # relative change of the wavelength before bands of |Q| are made again


@dataclass(frozen=True, eq=False)
class PixelGroups:
    """Named groups of the pixels of one detector.

    Attributes
    ----------
    labels : (slow, fast) int32 array
        Number of each pixel's group; 0: in no group.
    names : tuple of str
        Name of group 1, 2, ...
    rule : dict
        Plain data: ``by`` and the parameters of the definition.
    fingerprint : dict
        Plain data about the detector: ``shape``, and if known ``model`` (name), ``serial``,
        ``geometry`` (its file and version), ``pixels`` (`detector_to_dict`), ``wavelength_A``.
    """

    labels: Labels
    names: tuple[str, ...]
    rule: dict[str, Any]
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise HklflowError(f"labels of {labels.dtype} {labels.shape} are not an image of "
                               "whole numbers; make the groups again")  # fmt: skip
        if labels.size and (labels.min() < 0 or labels.max() > len(self.names)):
            raise HklflowError(
                f"labels are from {labels.min()} to {labels.max()}, and there are "
                f"{len(self.names)} names; make the groups again"
            )
        if len(set(self.names)) != len(self.names) or not self.names:
            raise HklflowError("groups need names that differ; make the groups again")
        object.__setattr__(self, "labels", labels.astype(np.int32))
        shape = [int(n) for n in labels.shape]
        object.__setattr__(self, "fingerprint", {**self.fingerprint, "shape": shape})

    def counts(self, bad: BoolImage | None = None) -> Ints:
        """Return the number of (good) pixels of each group, (n,)."""
        chosen = self.labels if bad is None else self.labels[~bad]
        return np.bincount(chosen.ravel(), minlength=len(self.names) + 1)[1:]

    def select(self, names: Sequence[str]) -> BoolImage:
        """Return True for the pixels of the named groups.

        Raises
        ------
        HklflowError
            If there is no group of this name.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            some = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
            raise HklflowError(
                f"there is no group of pixels {', '.join(map(repr, unknown))}; the groups are "
                f"{some} (`hklflow groups show` lists them)"
            )
        return np.isin(self.labels, [self.names.index(name) + 1 for name in names])

    def require(
        self,
        shape: tuple[int, ...],
        detector: Detector | None = None,
        beam: Beam | None = None,
        serial: str | None = None,
    ) -> None:
        """Refuse frames of another detector than the groups were made for.

        Parameters
        ----------
        shape : (slow, fast)
            Shape of the frames.
        detector, beam : optional
            Geometry of the frames. Sectors and bands depend on it, other groups do not.
        serial : str, optional
            Serial number of the detector.

        Raises
        ------
        HklflowError
        """
        by, made = self.rule.get("by", "image"), self.fingerprint
        if tuple(shape) != self.labels.shape:
            raise HklflowError(
                f"the groups of pixels (by {by}) are for a detector of {self.labels.shape} pixels "
                f"(slow, fast), and the frames have {tuple(shape)}; make the groups for this "
                "detector (`hklflow groups make`)"
            )
        if serial is not None and made.get("serial") not in (None, serial):
            raise HklflowError(
                f"the groups of pixels are for the detector with serial number {made['serial']}, "
                f"and this is {serial}; make the groups for this detector"
            )
        if by not in ("sector", "band") or detector is None or "pixels" not in made:
            return
        away = _moved(detector_from_dict(made["pixels"]), detector)
        if away > _MOVED:
            raise HklflowError(
                f"the detector has moved by up to {away:.3g} pixels since the groups by {by} were "
                "made; make the groups again with the present geometry"
            )
        then = made.get("wavelength_A")
        if (
            self.rule.get("unit") == "1/Å"
            and beam is not None
            and then is not None
            and abs(beam.wavelength / then - 1) > _WAVELENGTH
        ):
            raise HklflowError(
                f"the bands of |Q| were made for {then:.6g} Å, and the wavelength is "
                f"{beam.wavelength:.6g} Å; make the groups again with the present geometry"
            )

    def require_partition(self, bad: BoolImage) -> None:
        """Refuse groups that leave good pixels out.

        Raises
        ------
        HklflowError
            The message names the first of these pixels.
        """
        lost = np.argwhere((self.labels == 0) & ~bad)
        if len(lost):
            raise HklflowError(
                f"{len(lost)} unmasked pixels are in no group (by {self.rule.get('by')}), the "
                f"first at (slow, fast) = ({lost[0][0]}, {lost[0][1]}); mask these pixels, or "
                "define groups that contain them"
            )

    def binned(self, binning: PixelBinning | None) -> "PixelGroups":
        """Return the groups of binned frames; a block with pixels of two groups is in no group.

        Raises
        ------
        HklflowError
            If the groups are not for the unbinned frames.
        """
        if binning is None or self.labels.shape == binning.shape:
            return self
        binning.require(self.labels.shape, "the groups of pixels")
        parts = blocks(self.labels, binning.factor)
        low, high = parts.min(axis=(1, 3)), parts.max(axis=(1, 3))
        return replace(self, labels=np.where(low == high, low, 0).astype(np.int32))

    def rectangles(self) -> Ints:
        """Return the rectangles (n, 4) of the groups: start and stop along slow, then along fast.

        Raises
        ------
        HklflowError
            If a group is not one rectangle, or has no pixel.
        """
        boxes = []
        for k, name in enumerate(self.names, start=1):
            inside = self.labels == k
            slow, fast = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
            if not len(slow):
                raise HklflowError(f"group {name!r} has no pixel; leave it out of the groups")
            box = slow[0], slow[-1] + 1, fast[0], fast[-1] + 1
            if not inside[box[0] : box[1], box[2] : box[3]].all():
                raise HklflowError(
                    f"group {name!r} is not a rectangle of pixels, so it cannot move as a module; "
                    "use groups by module, chip or quadrant"
                )
            boxes.append(box)
        return np.array(boxes, dtype=np.int64)


def by_module(shape: tuple[int, int], rectangles: ArrayLike) -> PixelGroups:
    """Return one group for each rectangle (n, 4) of pixels: start, stop along slow, then fast."""
    return _of_boxes(shape, np.asarray(rectangles), "module {:02d}", {"by": "module"})


def by_chip(
    shape: tuple[int, int], rectangles: ArrayLike, chips: tuple[int, int] | None
) -> PixelGroups:
    """Return one group for each chip: the modules are divided into equal parts.

    Parameters
    ----------
    rectangles : (n, 4) int array
        Modules.
    chips : (slow, fast) or None
        Number of chips of a module; None: known from the size of the module, see `CHIPS`.

    Raises
    ------
    HklflowError
        If the chips of a module of this size are not known, or are more than its pixels.
    """
    boxes, names = chip_boxes(rectangles, chips)
    groups = _of_boxes(shape, boxes, names, {"by": "chip"})
    given = None if chips is None else [int(n) for n in chips]
    return replace(groups, rule={"by": "chip", "chips": given})


def chip_boxes(
    rectangles: ArrayLike, chips: tuple[int, int] | None
) -> tuple[Ints, tuple[str, ...]]:
    """Return the rectangles (m, 4) of the chips of modules (n, 4), and their names; see `by_chip`.

    Raises
    ------
    HklflowError
        If the chips of a module of this size are not known, or are more than its pixels.
    """
    boxes, names = [], []
    for m, (s0, s1, f0, f1) in enumerate(np.asarray(rectangles).tolist()):
        size = s1 - s0, f1 - f0
        division = chips or CHIPS.get(size)
        if division is None:
            raise HklflowError(
                f"the chips of a module of {size[0]} x {size[1]} pixels are not known; give their "
                "number along slow and fast, such as --chips 2,8"
            )
        if min(division) < 1 or division[0] > size[0] or division[1] > size[1]:
            raise HklflowError(
                f"a module of {size[0]} x {size[1]} pixels cannot have {division[0]} x "
                f"{division[1]} chips; correct --chips"
            )
        slow, fast = _edges(s0, s1, division[0]), _edges(f0, f1, division[1])
        for c, (i, j) in enumerate(np.ndindex(*division)):
            boxes.append((slow[i], slow[i + 1], fast[j], fast[j + 1]))
            names.append(f"module {m:02d} chip {c:02d}")
    return np.array(boxes, dtype=np.int64), tuple(names)


def by_quadrant(shape: tuple[int, int], centre: tuple[float, float] | None) -> PixelGroups:
    """Return the four quadrants about a point of the detector.

    A pixel with its middle on a border belongs to the quadrant beyond the border.

    Parameters
    ----------
    centre : (slow, fast) or None
        Pixel coordinates; None: the middle of the detector.
    """
    middle = (shape[0] / 2, shape[1] / 2) if centre is None else centre
    high_slow = (np.arange(shape[0]) + 0.5 >= middle[0]).astype(np.int32)
    high_fast = (np.arange(shape[1]) + 0.5 >= middle[1]).astype(np.int32)
    labels = 1 + 2 * high_slow[:, None] + high_fast
    names = tuple(f"{s} slow {f} fast" for s in ("low", "high") for f in ("low", "high"))
    return _occupied(labels, names, {"by": "quadrant", "centre": [float(x) for x in middle]})


def by_sector(detector: Detector, sectors: int, first: float = 0.0) -> PixelGroups:
    """Return equal sectors in azimuth (pyFAI's chi) about the beam.

    Parameters
    ----------
    sectors : int
    first : float
        Azimuth of the first border, degrees. Sector k is from ``first + 360 k / sectors``,
        inclusive, to the next border.
    """
    if sectors < 2:
        raise HklflowError(f"{sectors} sectors are not a division of the azimuth; give 2 or more")
    turns = np.mod(np.degrees(azimuth(detector)) - first, 360.0) / 360.0
    labels = np.minimum((turns * sectors).astype(np.int32), sectors - 1) + 1
    step = 360.0 / sectors
    names = tuple(f"chi {first + k * step:g} to {first + (k + 1) * step:g}"
                  for k in range(sectors))  # fmt: skip
    return _occupied(labels, names, {"by": "sector", "sectors": sectors, "first_deg": first})


def by_band(detector: Detector, beam: Beam | None, edges: Sequence[float]) -> PixelGroups:
    """Return bands of rings in |Q| or in the scattering angle.

    Parameters
    ----------
    beam : Beam or None
        None: ``edges`` are scattering angles in degrees, otherwise |Q| in 1/Å.
    edges : (n + 1,) sequence of float
        Rising borders of the bands; a band contains its lower border. Pixels beyond the first and
        the last border are in no group.
    """
    borders = np.asarray(edges, np.float64)
    if len(borders) < 2 or not np.all(np.diff(borders) > 0) or not np.all(np.isfinite(borders)):
        raise HklflowError(
            f"the borders {', '.join(f'{x:g}' for x in borders)} of the bands do not rise; give 2 "
            "or more rising numbers"
        )
    angle, unit = two_theta(detector), "degrees"
    radius = np.degrees(angle)
    if beam is not None:
        radius, unit = 4 * np.pi / beam.wavelength * np.sin(angle / 2), "1/Å"
    labels = np.digitize(radius, borders)
    labels[labels == len(borders)] = 0
    what = "two-theta" if beam is None else "Q"
    names = tuple(f"{what} {a:g} to {b:g}" for a, b in pairwise(borders))
    rule = {"by": "band", "unit": unit, "edges": borders.tolist()}
    return _occupied(labels.astype(np.int32), names, rule)


def by_image(image: NDArray[Any]) -> PixelGroups:
    """Return the groups of a label image; 0 is no group.

    Raises
    ------
    HklflowError
        If the image has values that are not whole numbers from 0, or only 0.
    """
    if image.dtype.kind not in "buif" or not np.all(np.isfinite(image)):
        raise HklflowError("the label image has values that are not numbers; give whole numbers")
    if np.any(image != np.rint(image)) or image.min() < 0:
        wrong = image[(image != np.rint(image)) | (image < 0)][0]
        raise HklflowError(
            f"the label image has the value {wrong:g}; labels are whole numbers, 0 for pixels in "
            "no group"
        )
    numbers = np.unique(image[image > 0]).astype(np.int64)
    if not len(numbers):
        raise HklflowError("the label image has only 0, so it has no group; give labels from 1")
    labels = np.where(image > 0, np.searchsorted(numbers, image.astype(np.int64)) + 1, 0)
    return PixelGroups(labels.astype(np.int32), tuple(f"label {n}" for n in numbers),
                       {"by": "image"})  # fmt: skip


def stamped(
    groups: PixelGroups,
    detector: Detector | None = None,
    beam: Beam | None = None,
    **known: Any,
) -> PixelGroups:
    """Return the groups with the fingerprint of their detector; None values are left out."""
    fingerprint = {**groups.fingerprint, **{k: v for k, v in known.items() if v is not None}}
    if detector is not None:
        fingerprint["pixels"] = detector_to_dict(detector)
    if beam is not None:
        fingerprint["wavelength_A"] = beam.wavelength
    return replace(groups, fingerprint=fingerprint)


def _of_boxes(
    shape: tuple[int, int], boxes: Ints, names: str | Sequence[str], rule: dict[str, Any]
) -> PixelGroups:
    labels = np.zeros(shape, np.int32)
    for k, (s0, s1, f0, f1) in enumerate(boxes.tolist(), start=1):
        if s0 < 0 or f0 < 0 or s1 > shape[0] or f1 > shape[1]:
            raise HklflowError(
                f"the module {(s0, s1, f0, f1)} (slow start, stop, fast start, stop) is outside of "
                f"a detector of {shape} pixels; use the geometry of this detector"
            )
        labels[s0:s1, f0:f1] = k
    if isinstance(names, str):
        names = [names.format(k) for k in range(len(boxes))]
    return PixelGroups(labels, tuple(names), rule)


def _edges(start: int, stop: int, parts: int) -> list[int]:
    """Return the borders of equal parts; a half is rounded up."""
    return [start + int(np.floor((stop - start) * k / parts + 0.5)) for k in range(parts + 1)]


def _occupied(labels: Labels, names: tuple[str, ...], rule: dict[str, Any]) -> PixelGroups:
    """Return the groups that have pixels; a detector need not see all sectors or bands."""
    used = np.bincount(labels.ravel(), minlength=len(names) + 1)[1:] > 0
    if not used.any():
        raise HklflowError(f"no pixel is in a group by {rule['by']}; check the borders "
                           f"{rule.get('edges', '')}")  # fmt: skip
    numbers = np.concatenate([[0], np.where(used, np.cumsum(used), 0)]).astype(np.int32)
    kept = tuple(name for name, has in zip(names, used, strict=True) if has)
    return PixelGroups(numbers[labels], kept, rule)


def _moved(then: Detector, now: Detector) -> float:
    """Return the largest displacement of a corner of the detector, in pixels."""
    slow, fast = np.array([0.0, 0, 1, 1]) * now.shape[0], np.array([0.0, 1, 0, 1]) * now.shape[1]
    away = now.plane.lab(slow, fast) - then.plane.lab(slow, fast)
    return float(np.linalg.norm(away, axis=1).max()) / min(now.pixel_size)
