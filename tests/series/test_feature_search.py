"""Average over zones, and features that are found in it, against volumes that are known."""

import numpy as np
import pytest

from hklflow.geometry.grid import Grid
from hklflow.series.feature_search import search
from hklflow.series.features import Lattice
from hklflow.series.resolution import Resolution
from hklflow.series.zone_average import cell_of, zone_average
from tests.truth import diffuse_worlds as worlds
from tests.truth.diffuse_average import averaged, off
from tests.truth.feature_worlds import laue_ops

GRID = Grid.symmetric([2.0, 2.0, 2.0], [0.1, 0.1, 0.1])
SHARP = Resolution(np.diag(np.full(3, 0.01**2)), 0.0, 0.0, 0)


def test_the_average_is_what_all_zones_have_in_common() -> None:
    """A periodic function plus a function of |Q|: only the first is left, without its mean."""
    lattice = Lattice(np.eye(3), np.array(laue_ops("P4/mmm"), float), "tetragonal", "P")
    h, k, m = np.meshgrid(*(GRID.axis(i) for i in range(3)), indexing="ij", sparse=True)
    periodic = np.cos(2 * np.pi * h) + np.cos(2 * np.pi * k) - 2 * np.cos(4 * np.pi * m)
    data = (periodic + 5 * np.exp(-(h**2 + k**2 + m**2) / 30)).transpose(2, 1, 0)
    sigma = np.full(data.shape, 0.1)
    found = zone_average(lambda part: (data[part], sigma[part]), GRID, lattice, SHARP, True)
    x = found.cell.points
    truth = np.cos(2 * np.pi * x[:, 0]) + np.cos(2 * np.pi * x[:, 1])
    truth -= 2 * np.cos(4 * np.pi * x[:, 2])
    known = np.isfinite(found.mean)
    assert known.sum() == known.size - 7  # not the reflections and the voxels that touch them
    # The profile in |Q| takes some percent of the range of 4.2 from so small a volume.
    off = found.mean[known] - truth[known]
    assert np.abs(off - off.mean()).max() < 0.2
    assert off.std() < 0.06
    assert abs(off.mean()) < 0.1


@pytest.mark.parametrize(("centring", "period", "nodes"), [("P", 1, 1), ("I", 2, 4), ("F", 2, 2)])
def test_the_cell_of_a_centred_lattice_has_its_translations(
    centring: str, period: int, nodes: int
) -> None:
    lattice = Lattice(np.eye(3), np.array(laue_ops("Pm-3m"), float), "cubic", centring)
    cell = cell_of(GRID, lattice)
    assert cell.period == period
    assert len(np.unique(cell.translations, axis=0)) == nodes
    assert np.sum(cell.distance < 1e-9) == nodes
    far = {"P": 0.75**0.5, "I": 1.0, "F": 1.25**0.5}[centring]
    assert np.isclose(cell.distance.max(), far, atol=0.08)


@pytest.mark.parametrize(
    ("seed", "shape", "counts"),
    [(14, "sheet", 10), (8, "rod", 10), (4, "point", 100), (8, "point", 10)],
)
def test_a_feature_is_found_with_its_vectors(seed: int, shape: str, counts: int) -> None:
    world = worlds.world(seed, (shape,), counts)
    first, *_ = search(averaged(world))
    away = off(world.truth[0], first, world.group)
    assert away is not None
    assert np.all(np.abs(away) <= 3 * np.max(first.place_sigma) + 1e-6)
    assert first.significance > 10


@pytest.mark.slow
def test_the_error_of_a_place_has_what_the_line_of_the_model_lacks() -> None:
    """Points of half a bin, 100 counts: the place is off by 0.08 bins, five times the noise."""
    world = worlds.world(17, ("point",), 100, 81)
    (one,) = search(averaged(world))
    away = off(world.truth[0], one, world.group)
    assert away is not None
    assert 0.004 < np.abs(away).max() < 2 * one.place_sigma.max()


@pytest.mark.parametrize("seed", [0, 6])
def test_nothing_is_found_where_there_is_none(seed: int) -> None:
    assert search(averaged(worlds.world(seed, (), 10.0))) == []
