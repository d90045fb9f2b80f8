"""Corrections of a detector that a header or a calibration states wrongly, as a user writes them.

``shift=12.3,-4.1`` moves the beam centre by pixels (slow, fast); ``distance=0.2104`` is the
distance from the sample to the detector's plane in m; ``mirrored=fast`` reverses the order of the
pixels along slow or fast; ``arm=0,30,0`` rotates the detector about the sample (rotation vector
along lab x, y, z in degrees). They are applied in the order mirrored, distance, shift, arm. An item
with a rotation's name in front (``r1:distance=0.2104``) applies to this rotation only, and goes
before an item for all rotations.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from hklflow.geometry.rotation import Detector, rotation_matrix

_ITEM = re.compile(
    r"(?:(?P<rotation>[A-Za-z0-9][A-Za-z0-9.+-]*):)?"
    r"(?P<what>shift|distance|mirrored|arm)=(?P<value>\S+)"
)
_NUMBERS = {"shift": 2, "distance": 1, "arm": 3}
_SIDES = ("slow", "fast")
_Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Correction:
    """Changes of a detector.

    Attributes
    ----------
    shift : (slow, fast)
        Pixels by which the beam centre moves.
    distance : float or None
        Distance along the detector's normal, in m; None: unchanged.
    mirrored : tuple of str
        ``slow``, ``fast``: directions in which the order of the pixels is reversed.
    arm : (x, y, z)
        Rotation vector about the sample, in degrees.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    distance: float | None = None
    mirrored: tuple[str, ...] = ()
    arm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def applied(self, detector: Detector) -> Detector:
        """Return the corrected detector; displaced modules are dropped if it is mirrored."""
        (step_slow, step_fast), (n_slow, n_fast) = detector.pixel_size, detector.shape
        origin, slow, fast = detector.origin, detector.slow, detector.fast
        modules = detector.modules
        if "slow" in self.mirrored:
            origin, slow, modules = origin + n_slow * step_slow * slow, -slow, None
        if "fast" in self.mirrored:
            origin, fast, modules = origin + n_fast * step_fast * fast, -fast, None
        if self.distance is not None:
            origin = origin + (self.distance - detector.distance) * detector.normal
        origin = origin - self.shift[0] * step_slow * slow - self.shift[1] * step_fast * fast
        angle = float(np.linalg.norm(self.arm))
        turn = rotation_matrix(self.arm, np.radians(angle)) if angle else np.eye(3)
        return replace(
            detector, origin=turn @ origin, slow=turn @ slow, fast=turn @ fast, modules=modules
        )

    def binned(self, factor: float) -> "Correction":
        """Return the correction in pixels that are ``factor`` times as large."""
        return replace(self, shift=(self.shift[0] / factor, self.shift[1] / factor))

    def after(self, first: "Correction") -> "Correction":
        """Return one correction with the effect of ``first`` and then this one.

        An arm rotates the whole detector, so it can be exchanged with the other changes; a
        mirrored direction reverses the shift that was made before it.
        """
        before = [
            -x if side in self.mirrored else x for side, x in zip(_SIDES, first.shift, strict=True)
        ]
        arm = first.arm
        if any(self.arm):
            arm = _rotated(first.arm, self.arm)
        return Correction(
            shift=(self.shift[0] + before[0], self.shift[1] + before[1]),
            distance=first.distance if self.distance is None else self.distance,
            mirrored=tuple(x for x in _SIDES if (x in self.mirrored) != (x in first.mirrored)),
            arm=arm,
        )

    def items(self) -> list[str]:
        """Return the corrections as a user writes them."""
        items = [f"mirrored={side}" for side in self.mirrored]
        if self.distance is not None:
            items.append(f"distance={self.distance:.6g}")
        if any(self.shift):
            items.append(f"shift={_text(self.shift)}")
        if any(self.arm):
            items.append(f"arm={_text(self.arm)}")
        return items


def _rotated(first: _Vector, then: _Vector) -> _Vector:
    """Return the rotation vector, in degrees, of two rotations."""
    from scipy.spatial.transform import Rotation as Turn

    both = Turn.from_rotvec(then, degrees=True) * Turn.from_rotvec(first, degrees=True)
    x, y, z = np.round(both.as_rotvec(degrees=True), 9).tolist()
    return (x, y, z)


def _text(values: Iterable[float]) -> str:
    return ",".join(f"{value:.6g}" for value in values)


def parse(item: str) -> tuple[str | None, str, str | tuple[float, ...]]:
    """Return rotation (None: all), name and value of an item.

    Raises
    ------
    ValueError
        If the item is malformed.
    """
    match = _ITEM.fullmatch(item)
    if match is not None:
        rotation, what, text = match.groups()
        if what == "mirrored":
            if text in _SIDES:
                return rotation, what, text
        else:
            try:
                values = tuple(float(x) for x in text.split(","))
            except ValueError:
                values = ()
            good = len(values) == _NUMBERS[what] and np.all(np.isfinite(values))
            if good and (what != "distance" or values[0] > 0):
                return rotation, what, values
    raise ValueError(
        f"{item!r} is no correction of a detector: write `shift=12.3,-4.1` (pixels along slow, "
        "fast), `distance=0.2104` (m), `mirrored=fast` or `mirrored=slow`, `arm=0,30,0` (degrees "
        "about lab x, y, z), or `r1:distance=0.2104` for one rotation"
    )


def of_rotation(items: Iterable[str], rotation: str) -> tuple[str, ...]:
    """Return the items that apply to a rotation, without the rotation's name."""
    parsed = [(*parse(item)[:2], item) for item in items]
    own = {what for name, what, _ in parsed if name == rotation}
    return tuple(
        item if name is None else item.partition(":")[2]
        for name, what, item in parsed
        if name == rotation or (name is None and what not in own)
    )


def of_items(items: Iterable[str]) -> Correction:
    """Return the correction of items that apply to one rotation.

    Raises
    ------
    ValueError
        If an item is malformed, names a rotation or is given twice.
    """
    values: dict[str, tuple[float, ...]] = {}
    mirrored: list[str] = []
    for item in items:
        rotation, what, value = parse(item)
        if rotation is not None:
            raise ValueError(f"{item!r}: give the corrections of this rotation only")
        if what in values or value in mirrored:
            raise ValueError(f"{item!r}: {what} is corrected twice; give one correction")
        if isinstance(value, str):
            mirrored.append(value)
        else:
            values[what] = value
    return Correction(
        shift=(values["shift"][0], values["shift"][1]) if "shift" in values else (0.0, 0.0),
        distance=values["distance"][0] if "distance" in values else None,
        mirrored=tuple(mirrored),
        arm=tuple(values.get("arm", (0.0, 0.0, 0.0))),  # type: ignore[arg-type]
    )
