"""Control holes: where they lie, how they are grouped, and what is said without them."""

import numpy as np
import pytest
from tests.truth import hole_judge, hole_targets, hole_worlds

from hklflow.stage import hole_checks
from hklflow.volumes import control, fill
from hklflow.volumes.spectrum import SpectrumFill


def target_of(world: hole_worlds.World) -> fill.Target:
    target = hole_targets.target_of(world, 100.0, 0)
    target.code[target.code == hole_worlds.UNMEASURED] = fill.LEFT
    return target


def images(world: hole_worlds.World, voxels: np.ndarray) -> set[tuple[int, ...]]:
    """Voxels (l, k, h) equivalent to voxels (n, 3), by their hkl."""
    half = (np.array(world.grid.shape[::-1]) - 1) // 2
    hkl = (voxels - half)[:, ::-1]
    moved = np.concatenate([hkl @ w.T for w in world.lattice.operations])
    return set(map(tuple, moved[:, ::-1] + half))


# The last one has room for one hole of a group only.
@pytest.mark.parametrize(
    ("cell", "size", "radius"),
    [("hexagonal", 31, 0.2), ("triclinic", 41, 0.2), ("monoclinic", 31, 0.35)],
)
def test_control_holes_lie_within_q_max_apart_from_each_other(
    cell: str, size: int, radius: float
) -> None:
    world = hole_worlds.make_world("size effect", cell, size, 0.1, False, radius)
    target, q_max = target_of(world), 0.95 * world.q_max
    holes = fill.find_holes(target, np.flatnonzero(target.code == fill.PUNCHED))
    chosen = control._chosen(target, holes, q_max, 0)
    assert chosen is not None
    groups, voxels, support = chosen
    assert 10 <= sum(map(len, groups)) <= 80
    places = np.concatenate(groups)[:, None] + voxels
    q = hole_worlds.hkl_of(world.grid)[tuple(np.moveaxis(places, -1, 0))]
    length = np.linalg.norm(q @ world.lattice.reciprocal.T, axis=-1)
    assert hole_judge.taper(length, q_max).min() >= 0.05
    every = hole_judge.taper(
        np.linalg.norm(hole_worlds.hkl_of(world.grid) @ world.lattice.reciprocal.T, axis=-1), q_max
    )
    measured = np.count_nonzero((every >= 0.05) & (target.code == fill.MEASURED))
    for group in groups:
        inner = [images(world, base + voxels) for base in group]
        whole = [images(world, base + np.concatenate([voxels, support])) for base in group]
        for i, own in enumerate(inner):
            assert not any(own & other for j, other in enumerate(whole) if j != i)
        assert len(group) == 1 or sum(map(len, inner)) < 0.055 * measured


def test_both_fills_are_judged_on_the_same_holes() -> None:
    world = hole_worlds.make_world("short-range order", "monoclinic", 31, 0.1, False)
    target = target_of(world)
    holes = fill.find_holes(target, np.flatnonzero(target.code == fill.PUNCHED))
    found = control.controls(target, holes, world.q_max)
    fill.fill(target)
    spectrum = SpectrumFill(target, world.q_max)
    spectrum.learn()
    judged = control.of_spectrum(target, holes, world.q_max, spectrum, fill.BEST)
    assert judged is not None
    assert judged.holes == found[fill.BEST].holes
    assert np.isfinite(judged.pulls).all()


def test_holes_without_room_between_them_are_not_judged_and_this_is_said() -> None:
    world = hole_worlds.make_world("size effect", "cubic", 21, 0.25, False, 0.5)
    target = target_of(world)
    holes = fill.find_holes(target, np.flatnonzero(target.code == fill.PUNCHED))
    assert control.controls(target, holes, world.q_max) == {}
    words = hole_checks.told({}, fill.UNJUDGED)["warnings"]
    assert len(words) == 1
    assert "kriging is used" in words[0]
    assert "smaller radius" in words[0]
