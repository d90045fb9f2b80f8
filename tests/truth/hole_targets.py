"""Measured worlds of `hole_worlds` as targets of a fill."""

import numpy as np

from hklflow.volumes import fill
from tests.truth.hole_worlds import World


def target_of(world: World, norm: float, seed: int) -> fill.Target:
    """Return S and σ of a measurement, with nothing filled."""
    values, sigma = world.measure(norm, seed)
    return fill.Target(
        values.astype(np.float32),
        sigma.astype(np.float32),
        world.punched.copy(),
        world.grid,
        np.array(world.lattice.cell),
        world.lattice.operations.astype(np.int64),
    )
