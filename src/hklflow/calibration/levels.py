"""Levels of a detector's hierarchy: quadrants, modules, sensors, chips.

A sensor is a rectangle between gaps. A module is one sensor or several, a quadrant consists of
modules, a sensor of chips. Each level divides the smallest parts that move (the *leaves*) into
rigid parts; the displacements of the leaves therefore describe all levels.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hklflow.base.errors import HklflowError
from hklflow.calibration.module_parts import Parts, divided
from hklflow.geometry.modules import Modules
from hklflow.images.pixel_groups import PixelGroups, chip_boxes

Ints = NDArray[np.int64]

Level = Literal["detector", "quadrant", "module", "sensor", "chip"]
LEVELS: tuple[Level, ...] = ("detector", "quadrant", "module", "sensor", "chip")


class LevelSettings(BaseModel):
    """Settings of the levels of a calibration."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    levels: tuple[Level, ...] = ("module",)
    """Levels that are refined, each in its turn from the largest parts to the smallest."""
    groups: Path | None = None
    """Groups of pixels that move as the parts of the last level."""
    sensors: tuple[int, int] | None = None
    """Sensors of a module along slow and fast; None: each rectangle between gaps is a module."""
    chips: tuple[int, int] | None = None
    """Chips of a sensor along slow and fast; None: known for PILATUS and EIGER."""
    rounds: int | None = Field(None, ge=1, le=100)
    """Largest number of rounds over the levels. None: 10 for several levels or with a tolerance,
    else 1."""
    tolerance: float = Field(0.02, gt=0)
    """The rounds end when no pixel moves by more than this in a round, in pixels."""

    @model_validator(mode="after")
    def _of_parts(self) -> Self:
        if not self.moving:
            raise ValueError("levels need one of quadrant, module, sensor and chip")
        for name in ("sensors", "chips"):
            values = getattr(self, name)
            if values is not None and min(values) < 1:
                raise ValueError(f"{name} {values} must be 1 or more along slow and fast")
        if self.chips is not None and "chip" not in self.levels:
            raise ValueError("chips is for the level chip")
        if self.chips is not None and self.groups is not None:
            raise ValueError("chips and groups both define the chips; leave one out")
        return self

    @property
    def ordered(self) -> tuple[Level, ...]:
        """Levels from the largest parts to the smallest."""
        return tuple(level for level in LEVELS if level in self.levels)

    @property
    def moving(self) -> tuple[Level, ...]:
        """Levels below the detector, from the largest parts to the smallest."""
        return tuple(level for level in self.ordered if level != "detector")

    @property
    def most_rounds(self) -> int:
        """Largest number of rounds."""
        one = len(self.ordered) == 1 and "tolerance" not in self.model_fields_set
        return self.rounds or (1 if one else 10)


@dataclass(frozen=True)
class Hierarchy:
    """Smallest parts that move, and the parts of each level.

    Attributes
    ----------
    leaves : Modules
        With the displacements before the fit.
    parts : dict of Parts
        Parts of each level below the detector, from the largest to the smallest.
    """

    leaves: Modules
    parts: dict[str, Parts]


def hierarchy(
    settings: LevelSettings,
    shape: tuple[int, int],
    sensors: Modules,
    start: Modules | None = None,
    groups: PixelGroups | None = None,
) -> Hierarchy:
    """Divide a detector into the parts of its levels.

    Parameters
    ----------
    settings : LevelSettings
    shape : (slow, fast)
        Shape of the detector.
    sensors : Modules
        Rectangles between the gaps.
    start : Modules, optional
        Displacements before the fit; None: no part is displaced.
    groups : PixelGroups, optional
        Groups of `settings.groups`.

    Raises
    ------
    HklflowError
        If the parts of a level are not known, or parts of two levels are the same or cross.
    """
    last = settings.moving[-1]
    boxes, given = sensors.rectangles, groups is not None and last != "quadrant"
    if groups is not None and given:
        boxes = groups.rectangles()
    elif last == "chip":
        boxes, _ = chip_boxes(sensors.rectangles, settings.chips)
    smallest = Modules.ideal(boxes, sensors.aspect)
    leaves = smallest if start is None else _leaves(start, smallest, last)
    numbers: dict[str, Ints] = {}
    for level in settings.moving:
        if level == last and (given or last == "chip"):
            numbers[level] = _containing(leaves, smallest, level)
            continue
        numbers[level] = _containing(leaves, sensors, "sensor")
        if level != "sensor":
            numbers[level] = _modules(sensors.rectangles, settings.sensors)[numbers[level]]
        if level == "quadrant":
            numbers[level] = (
                _quadrants(leaves, numbers[level], shape)
                if groups is None or last != "quadrant"
                else _labels(leaves, groups)
            )
    parts = {
        level: Parts(np.unique(number, return_inverse=True)[1], level)
        for level, number in numbers.items()
    }
    _check_distinct(parts)
    return Hierarchy(leaves, parts)


def _leaves(start: Modules, boxes: Modules, level: str) -> Modules:
    """Return the rectangles of a level, or the parts of these rectangles that already moved."""
    leaves = divided(start, boxes.rectangles)
    if leaves is not None:
        return leaves
    # The geometry may have smaller parts, which then move together.
    if divided(boxes, start.rectangles) is not None:
        return start
    raise HklflowError(
        f"a {level} has pixels of two displaced parts of the geometry; start from a geometry "
        "without modules (`pin`), or use groups that do not cross its parts"
    )


def _containing(leaves: Modules, boxes: Modules, level: str) -> Ints:
    """Return the number of the box that contains each leaf."""
    number = boxes.module_at(*leaves.centres.T)
    box = boxes.rectangles[number]
    low, high = leaves.rectangles[:, ::2], leaves.rectangles[:, 1::2]
    outside = (number < 0) | np.any((low < box[:, ::2]) | (high > box[:, 1::2]), axis=1)
    if outside.any():
        raise HklflowError(
            f"the part {leaves.rectangles[outside][0].tolist()} (slow start, stop, fast start, "
            f"stop) is not within one {level}; use groups whose parts are within the {level}s"
        )
    return number


def _modules(sensors: Ints, each: tuple[int, int] | None) -> Ints:
    """Return the module of each sensor; a module has ``each`` (slow, fast) sensors of a grid."""
    if each is None:
        return np.arange(len(sensors))
    rows, row = np.unique(sensors[:, 0], return_inverse=True)
    columns, column = np.unique(sensors[:, 2], return_inverse=True)
    grid = len(rows), len(columns)
    if len(sensors) != grid[0] * grid[1] or grid[0] % each[0] or grid[1] % each[1]:
        raise HklflowError(
            f"modules of {each[0]} x {each[1]} sensors do not divide the {len(sensors)} rectangles "
            f"between gaps in {grid[0]} rows and {grid[1]} columns; correct --sensors, or give "
            "--groups by module"
        )
    return np.asarray(row // each[0] * (grid[1] // each[1]) + column // each[1])


def _quadrants(leaves: Modules, of_module: Ints, shape: tuple[int, int]) -> Ints:
    """Return the quadrant of each leaf: the quadrant that has the centre of its module."""
    centre = np.stack(
        [
            np.bincount(of_module, leaves.centres[:, i])[of_module]
            / np.bincount(of_module)[of_module]
            for i in (0, 1)
        ],
        axis=1,
    )
    beyond = centre >= np.array(shape) / 2
    return np.asarray(2 * beyond[:, 0] + beyond[:, 1], dtype=np.int64)


def _labels(leaves: Modules, groups: PixelGroups) -> Ints:
    """Return the group of each leaf, by all its pixels."""
    found = []
    for s0, s1, f0, f1 in leaves.rectangles.tolist():
        labels = np.unique(groups.labels[s0:s1, f0:f1])
        if len(labels) != 1 or labels[0] == 0:
            names = [groups.names[k - 1] if k else "no group" for k in labels]
            raise HklflowError(
                f"the part {[s0, s1, f0, f1]} (slow start, stop, fast start, stop) has pixels of "
                f"{' and '.join(names)}; a quadrant must contain whole modules"
            )
        found.append(int(labels[0]))
    return np.array(found)


def _check_distinct(parts: dict[str, Parts]) -> None:
    for large, small in pairwise(parts):
        a, b = parts[large], parts[small]
        both = len(np.unique(np.stack([a.number, b.number]), axis=1).T)
        if both != len(b):
            raise HklflowError(
                f"a {small} has pixels of two {large}s; use groups in which each {small} is within "
                f"one {large}"
            )
        if len(a) == len(b):
            raise HklflowError(
                f"the levels {large} and {small} have the same {len(a)} parts in this detector; "
                "leave one out (`--sensors` says how many sensors a module has)"
            )
