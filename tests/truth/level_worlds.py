"""Displacements of chips on modules on quadrants, from the definition of a rigid motion.

A place on the detector is a complex number, slow + i fast (pixels). A rigid part with centre c,
shift t and rotation w (from slow towards fast) takes z to c + t + exp(i w) (z - c). A chip moves
with its module, the module with its quadrant.
"""

from typing import NamedTuple

import numpy as np

from hklflow.calibration.modules import BraggPeaks
from tests.truth.displaced_modules import FOUR, bragg, pilatus, settings


class Plan(NamedTuple):
    """Rectangles of chips, and the module and quadrant of each chip."""

    chips: np.ndarray
    modules: np.ndarray
    module: np.ndarray
    quadrant: np.ndarray


def plan(rows: int, columns: int, each: tuple[int, int], modules: np.ndarray | None = None) -> Plan:
    """Modules in rows and columns (even numbers), each of ``each`` equal chips."""
    modules = pilatus(rows, columns) if modules is None else modules
    chips, of_module, of_quadrant = [], [], []
    for m, (s0, s1, f0, f1) in enumerate(modules):
        down = [s0 + int((s1 - s0) * i / each[0] + 0.5) for i in range(each[0] + 1)]
        right = [f0 + int((f1 - f0) * j / each[1] + 0.5) for j in range(each[1] + 1)]
        for i in range(each[0]):
            for j in range(each[1]):
                chips.append((down[i], down[i + 1], right[j], right[j + 1]))
                of_module.append(m)
                low = m // columns >= rows // 2, m % columns >= columns // 2
                of_quadrant.append(2 * low[0] + low[1])
    return Plan(np.array(chips), modules, np.array(of_module), np.array(of_quadrant))


def centres(boxes: np.ndarray) -> np.ndarray:
    """Centres of rectangles, complex."""
    return (boxes[:, 0] + boxes[:, 1]) / 2 + 1j * (boxes[:, 2] + boxes[:, 3]) / 2


def move(z: np.ndarray, part: np.ndarray, t: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Places after the motions of their parts about the mean of the places of a part."""
    c = np.array([z[part == p].mean() for p in range(part.max() + 1)])[part]
    return c + t[part] + np.exp(1j * w[part]) * (z - c)


def displaced(
    world: Plan, rng: np.random.Generator, sizes: dict[str, tuple[float, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Shifts (n, 2) and rotations (n,) of the chips, for random motions of the named levels.

    ``sizes`` has the standard deviations of shifts (pixels) and rotations (radians) of a level.
    The mean shift and the net rotation are 0. The expansion is 0 if modules or chips move.
    """
    z, turn = centres(world.chips), np.zeros(len(world.chips))
    start = z
    parts = {"chip": np.arange(len(z)), "module": world.module, "quadrant": world.quadrant}
    for level, part in parts.items():
        if level in sizes:
            n, (shift, angle) = part.max() + 1, sizes[level]
            w = rng.normal(0, 1, n) * angle
            z = move(z, part, rng.normal(0, shift, (n, 2)) @ [1, 1j], w)
            turn = turn + w[part]
    rigid = world.module if {"module", "chip"} & sizes.keys() else None
    return free_of_common(world.chips, z - start, turn, rigid)


def free_of_common(
    boxes: np.ndarray, by: np.ndarray, turn: np.ndarray, rigid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Shifts (n, 2) and rotations without mean shift, net rotation and, of parts, expansion."""
    at = centres(boxes)
    at = at - at.mean()
    own = ((boxes[:, 1] - boxes[:, 0]) ** 2 + (boxes[:, 3] - boxes[:, 2]) ** 2) / 12
    for _ in range(3):  # rotations are not quite linear
        by = by - by.mean()
        whole = (np.sum((at.conj() * by).imag) + own @ turn) / (np.sum(abs(at) ** 2) + own.sum())
        by, turn = (at + by) * np.exp(-1j * whole) - at, turn - whole
        if rigid is not None:
            out = np.array([at[rigid == p].mean() for p in range(rigid.max() + 1)])[rigid]
            by = by - np.sum((at.conj() * by).real) / np.sum((at.conj() * out).real) * out
    return np.stack([by.real, by.imag], axis=1), turn


def spots(
    world: Plan, true: tuple[np.ndarray, np.ndarray], n: int, seed: int, place: int = 0
) -> BraggPeaks:
    """Residuals of ``n`` spots of a scan, with the detector at one of the places `FOUR`."""
    return bragg(settings(world.chips, FOUR)[place], *true, n, seed)


def apart(
    boxes: np.ndarray, shift: np.ndarray, turn: np.ndarray, true: tuple[np.ndarray, np.ndarray]
) -> float:
    """Largest distance (pixels) of a corner from its true place, relative to all other corners.

    The common shift and rotation of all corners, and their expansion, are fitted and taken away.
    """
    middle = centres(boxes)
    corners = np.concatenate([boxes[:, i] + 1j * boxes[:, j] for i in (0, 1) for j in (2, 3)])
    n = len(corners) // len(middle)
    off = corners - np.tile(middle, n)

    def places(by: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.tile(middle + by @ [1, 1j], n) + np.exp(1j * np.tile(w, n)) * off

    found, wanted = places(shift, turn), places(*true)
    design = np.stack([np.ones_like(found), found], axis=1)
    fitted = design @ np.linalg.lstsq(design, wanted, rcond=None)[0]
    return float(abs(fitted - wanted).max())
