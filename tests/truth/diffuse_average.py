"""The average over zones of a simulated volume, and how far a feature is from the true one."""

import numpy as np

from hklflow.geometry.grid import Grid
from hklflow.series.feature_search import Discovery
from hklflow.series.features import Lattice
from hklflow.series.resolution import Resolution
from hklflow.series.zone_average import ZoneAverage, zone_average
from tests.truth import diffuse_worlds as worlds
from tests.truth.feature_worlds import laue_ops, reciprocal


def averaged(world: worlds.DiffuseWorld) -> ZoneAverage:
    """Return the average over the zones of a world."""
    b = 2 * np.pi * reciprocal(world.cell)
    operations = np.array(laue_ops(world.group), float)
    lattice = Lattice(b.T @ b, operations, worlds.SYSTEMS[world.group], "P")
    step = np.array([x[1] - x[0] for x in world.axes])
    shape = (len(world.axes[0]), len(world.axes[1]), len(world.axes[2]))
    grid = Grid(np.array([x[0] for x in world.axes]), step, shape)
    data, sigma = (np.ascontiguousarray(x.transpose(2, 1, 0)) for x in (world.S, world.sigma))
    resolution = Resolution(np.diag(world.resolution**2), 0.0, 0.0, 0)
    return zone_average(lambda region: (data[region], sigma[region]), grid, lattice, resolution,
                        symmetrised=False)  # fmt: skip


def off(feature: dict, one: Discovery, group: str) -> np.ndarray | None:
    """Return how far a feature is from the nearest image of the true one; None if it is another."""
    if one.shape != feature["shape"]:
        return None
    best = None
    for w in laue_ops(group):
        c = feature["c"] @ w  # covectors of the image
        if np.linalg.matrix_rank(np.vstack([c, one.columns.T]), tol=1e-6) > len(c):
            continue
        away = c @ one.point - feature["u"]
        away -= np.rint(away)
        if best is None or np.abs(away).max() < np.abs(best).max():
            best = away
    return best
