"""Counts of satellites above flat, sloping and curved diffuse scattering.

The laws are written here: Poisson counts of M S, and satellites of known counts in one voxel.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hklflow.geometry.grid import Grid
from hklflow.volumes import star_boxes

GRID = Grid.symmetric([3.0] * 3, [0.05] * 3)
SCANS = 5
PLACES = star_boxes.places(GRID, [(0.5, 0.5, 0.0)], [0.12] * 3, 2, 60)
BACKGROUNDS: dict[str, Callable[..., Any]] = {
    "flat": lambda h, k, l: 1 + 0 * h,  # noqa: E741
    "slope": lambda h, k, l: 1 + 0.15 * h - 0.1 * l,  # noqa: E741
    "cosine": lambda h, k, l: 1 + 0.3 * np.cos(2 * np.pi * (h + l)),  # noqa: E741
    "cosines": lambda h, k, l: 1 + 0.3 * np.cos(2 * np.pi * h) * np.cos(2 * np.pi * k),  # noqa: E741
}


def counted(kind: str, level: float, seed: int, satellite: float = 0.0) -> star_boxes.Counted:
    """Return counts of all boxes in five scans; ``satellite``: counts per norm in one voxel."""
    rng = np.random.default_rng(seed)

    def read(region: tuple[slice, slice, slice]) -> tuple[Any, Any, Any]:
        l, k, h = (GRID.axis(axis)[part] for axis, part in zip((2, 1, 0), region, strict=True))  # noqa: E741
        l, k, h = np.meshgrid(l, k, h, indexing="ij")  # noqa: E741
        s = BACKGROUNDS[kind](h, k, l)
        s[tuple(n // 2 for n in s.shape)] += satellite
        norm = level * rng.uniform(0.7, 1.3, h.shape)
        counts = rng.poisson(norm * s).astype(np.float64)
        return counts, norm, counts

    of = [[box] * SCANS for _, box in PLACES]
    return star_boxes.table(of, [read] * SCANS, 0.9).settled()


def pulls(of: star_boxes.Counted, expected: float = 0.0) -> Any:
    """Return (found − true)/σ of the sum over all boxes in each scan."""
    error = of.counts + of.background_var
    return ((of.counts - of.background).sum(axis=0) - expected) / np.sqrt(error.sum(axis=0))


@pytest.mark.parametrize("kind", ["flat", "slope"])
@pytest.mark.parametrize("level", [0.3, 3.0, 100.0])
def test_even_backgrounds_have_pulls_of_width_one(kind: str, level: float) -> None:
    found = np.array([pulls(counted(kind, level, seed)) for seed in range(8)])
    assert abs(found.mean()) < 0.5
    assert 0.75 < found.std() < 1.25


@pytest.mark.parametrize("kind", ["cosine", "cosines"])
@pytest.mark.parametrize("level", [0.3, 3.0, 100.0])
def test_a_curved_background_is_no_intensity(kind: str, level: float) -> None:
    """The mean of the shell is wrong by up to 99 σ in these worlds."""
    found = np.array([pulls(counted(kind, level, seed)) for seed in range(4)])
    assert np.abs(found.mean()) < 2
    assert np.abs(found).max() < 4


def test_counts_of_satellites_above_a_curved_background_are_those_put_in() -> None:
    found = counted("cosine", 3.0, 1, satellite=40.0)
    assert np.abs(pulls(found, 40 * 3.0 * len(PLACES))).max() < 3


def test_a_shell_of_one_voxel_on_one_side_does_not_determine_a_curvature() -> None:
    """A box without voxels on its far side keeps the mean, and says so."""
    inside = np.zeros((3, 3, 4), dtype=np.bool_)
    inside[:, :, 1:] = True
    box = star_boxes.boxes.Box((slice(0, 3), slice(0, 3), slice(0, 4)), inside, 1.0)
    one = np.full(inside.shape, 5.0)
    values = dict(
        zip(star_boxes.Counted.__dataclass_fields__, star_boxes.counted(box, one, one, one, 0.9),
            strict=True)
    )  # fmt: skip
    assert np.isnan(values["curved"])
    assert values["background"] > 0
