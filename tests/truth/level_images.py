"""Powder images of displaced chips, whose pixels are placed by the definition of a rigid motion."""

from typing import NamedTuple

import numpy as np

from hklflow.calibration.level_rounds import Powder
from hklflow.geometry import Detector
from tests.truth import level_worlds as worlds

PIXEL, DISTANCE = 300e-6, 0.12
STARTS = ((0, 96), (104, 200))
MODULES = np.array([(*slow, *fast) for slow in STARTS for fast in STARTS])
SHAPE = (200, 200)
WORLD = worlds.plan(2, 2, (1, 2), MODULES)
RINGS = np.arctan(np.arange(18.0, 190.0, 14.0) * PIXEL / DISTANCE)
CENTRES = ((60.0, 65.0), (140.0, 70.0), (65.0, 138.0), (143.0, 135.0))
SLOW, FAST = np.array([0.0, -1.0, 0.0]), np.array([-1.0, 0.0, 0.0])


class Made(NamedTuple):
    shift: np.ndarray
    turn: np.ndarray
    images: list[Powder]


def place(world: worlds.Plan, shift: np.ndarray, turn: np.ndarray, z: np.ndarray) -> np.ndarray:
    """True places of points, complex, each moved with its chip; points in gaps stay."""
    found = z.copy()
    for box, by, w in zip(world.chips, shift, turn, strict=True):
        on = (z.real > box[0]) & (z.real < box[1]) & (z.imag > box[2]) & (z.imag < box[3])
        centre = (box[0] + box[1]) / 2 + 1j * (box[2] + box[3]) / 2
        found[on] = centre + by @ [1, 1j] + np.exp(1j * w) * (z[on] - centre)
    return found


def powder(
    centre: tuple[float, float], shift: np.ndarray, turn: np.ndarray, rng: np.random.Generator
) -> Powder:
    """Rings on a plane across the beam; each pixel counts what falls on its area."""
    slow, fast = np.indices(SHAPE) + 0.5
    counts = np.zeros(SHAPE)
    part = (np.arange(3) - 1) / 3
    for i in part:
        for j in part:
            z = place(WORLD, shift, turn, slow + i + 1j * (fast + j)) - (centre[0] + 1j * centre[1])
            angle = np.arctan(PIXEL * abs(z) / DISTANCE)
            near = np.abs(angle[..., None] - RINGS).min(axis=-1)
            counts += (20 + 4000 * np.exp(-0.5 * (near / 3.2e-3) ** 2)) * np.cos(angle) ** 3 / 9
    bad = np.ones(SHAPE, bool)
    for s0, s1, f0, f1 in MODULES:
        bad[s0:s1, f0:f1] = False
    # The start is off by half a pixel and 0.2 mm.
    off = np.array([*rng.choice([-0.5, 0.5], 2) * PIXEL, 2e-4])
    origin = np.array([0, 0, DISTANCE]) - PIXEL * (centre[0] * SLOW + centre[1] * FAST) + off
    detector = Detector(SHAPE, (PIXEL, PIXEL), origin, SLOW, FAST)
    # Unpolarised.
    whole = np.hypot(slow - centre[0], fast - centre[1]) * PIXEL
    counts *= (1 + np.cos(np.arctan(whole / DISTANCE)) ** 2) / 2
    return Powder(rng.poisson(counts).astype(float), bad, detector, RINGS, 0.5)


def world(seed: int) -> Made:
    rng = np.random.default_rng([seed, 21])
    shift, turn = worlds.displaced(WORLD, rng, {"module": (0.8, 2e-3), "chip": (0.3, 0.0)})
    return Made(shift, turn, [powder(centre, shift, turn, rng) for centre in CENTRES])
