"""Rigid parts of a detector: modules that move together, such as the modules of a quadrant.

A part has a shift and a rotation about the mean of the centres of its modules. The displacements of
its modules follow exactly, so that `Modules` can describe every level: quadrants, modules, chips.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hklflow.geometry.modules import Modules

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Parts:
    """Parts of a detector.

    Attributes
    ----------
    number : (n,) int array
        Number of the part that contains each module; all numbers from 0 are used.
    level : str
        Name of a part, such as "quadrant", for messages.
    turns : (parts,) int array, optional
        Part whose rotation each part has; None: each part has its own.
    """

    number: Ints
    level: str = "module"
    turns: Ints | None = None

    @classmethod
    def single(cls, modules: Modules) -> "Parts":
        """Return parts of one module each."""
        return cls(np.arange(len(modules)))

    def __len__(self) -> int:
        return int(self.number.max()) + 1

    def tied(self, larger: "Parts", tied: Mask) -> "Parts":
        """Return parts of which the tied (parts,) have one rotation within each larger part."""
        turns = np.arange(len(self))
        of_part = np.zeros(len(self), np.int64)
        of_part[self.number] = larger.number
        for number in np.unique(of_part[tied]):
            members = np.flatnonzero(tied & (of_part == number))
            turns[members] = members[0]
        return replace(self, turns=turns)

    @property
    def turn_number(self) -> Ints:
        """Number of the part whose rotation each module has, (n,)."""
        return self.number if self.turns is None else self.turns[self.number]

    def off_centre(self, modules: Modules) -> Floats:
        """Return the positions (n, 2) of the modules relative to the centre of their part."""
        at = modules.centres + modules.shift
        count = np.bincount(self.number)
        centre = np.stack([np.bincount(self.number, at[:, i]) / count for i in (0, 1)], axis=1)
        return np.asarray(at - centre[self.number])

    def by_part(self, modules: Modules) -> sparse.csr_matrix:
        """Return the derivatives (3 n, 3 parts) of the displacements of modules.

        Rows and columns: shift along slow, shift along fast, rotation, of each module and part.
        """
        n, off = len(modules), self.off_centre(modules)
        own, turn, rows = 3 * self.number, 3 * self.turn_number + 2, 3 * np.arange(n)
        ones = np.ones(n)
        entries = [
            (rows, own, ones),
            (rows + 1, own + 1, ones),
            (rows + 2, turn, ones),
            (rows, turn, -modules.aspect * off[:, 1]),
            (rows + 1, turn, off[:, 0] / modules.aspect),
        ]
        row, column, value = (np.concatenate(a) for a in zip(*entries, strict=True))
        return sparse.csr_matrix((value, (row, column)), shape=(3 * n, 3 * len(self)))

    def moved(self, modules: Modules, step: Floats) -> Modules:
        """Return the modules after shifts and rotations (parts, 3) of the parts."""
        by, turn = step[self.number, :2], step[self.turn_number, 2]
        off = self.off_centre(modules)
        cos1, sin = -2 * np.sin(0.5 * turn) ** 2, np.sin(turn)
        swing = [
            cos1 * off[:, 0] - sin * modules.aspect * off[:, 1],
            cos1 * off[:, 1] + sin / modules.aspect * off[:, 0],
        ]
        return replace(
            modules,
            shift=modules.shift + by + np.stack(swing, axis=1),
            rotation=modules.rotation + turn,
        )


def common_motions(modules: Modules, used: Mask, parts: Parts) -> Floats:
    """Return weights (4, 3 n) of the displacements in the common motions of the used modules.

    The motions are the mean shift along slow and along fast, the net rotation and the radial
    expansion; of quadrants, the first three. All used modules have equal weight.
    """
    n, aspect = len(modules), modules.aspect
    if not used.any():
        return np.zeros((0, 3 * n))
    size = np.array([1.0, aspect])  # lengths in pixels along slow
    centre = modules.centres[used].mean(axis=0)
    positions = np.where(used[:, None], modules.centres - centre, 0) * size
    sides = np.diff(modules.rectangles.reshape(n, 2, 2), axis=2)[..., 0] * size
    matrix = np.zeros((4, n, 3))
    matrix[0, used, 0] = matrix[1, used, 1] = 1.0
    matrix[2, :, 0], matrix[2, :, 1] = -positions[:, 1], positions[:, 0] * aspect
    matrix[2, used, 2] = (np.sum(sides**2, axis=1) / 12)[used]
    matrix[3, :, 0], matrix[3, :, 1] = positions[:, 0], positions[:, 1] * aspect
    # The points within a quadrant show the distance, and quadrants may have moved apart.
    motions = matrix[:3] if parts.level == "quadrant" else matrix
    return motions.reshape(-1, 3 * n)


def divided(modules: Modules, boxes: Ints) -> Modules | None:
    """Return the displacements of smaller rectangles, each within one module.

    Parameters
    ----------
    modules : Modules
    boxes : (m, 4) int array
        Rectangles such as chips.

    Returns
    -------
    Modules or None
        The boxes with the displacements of their modules, and the modules without a box. None if a
        box is not within a module.
    """
    ideal = Modules.ideal(boxes, modules.aspect)
    number = modules.module_at(*ideal.centres.T)
    outer = modules.rectangles[number]
    inside = (boxes[:, ::2] >= outer[:, ::2]) & (boxes[:, 1::2] <= outer[:, 1::2])
    if np.any(number < 0) or not inside.all():
        return None
    at = np.stack(modules.displaced(*ideal.centres.T), axis=1)
    rest = np.setdiff1d(np.arange(len(modules)), number)
    return Modules(
        np.concatenate([boxes, modules.rectangles[rest]]),
        np.concatenate([at - ideal.centres, modules.shift[rest]]),
        np.concatenate([modules.rotation[number], modules.rotation[rest]]),
        modules.aspect,
    )
