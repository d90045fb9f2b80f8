"""Several crystals merged to one set of intensities: against a world that hklflow did not make."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import least_squares

from hklflow.base.errors import HklflowError
from hklflow.bragg import crystals, observations
from hklflow.bragg.combination import Combination, Member, Rules
from hklflow.bragg.common_setting import Lattice
from hklflow.bragg.groups import Groups
from hklflow.bragg.leave_out import Normalized, influences
from hklflow.bragg.structure_factors import StructureFactors
from hklflow.geometry import symmetry
from hklflow.stages.merge_crystals import Settings
from tests.truth.defaults import gather, merge, scaling_settings
from tests.truth.several_crystals import BAD, GROUP, OTHER_WAY, World, representative

Floats = NDArray[np.float64]
SPACE_GROUP = symmetry.space_group(GROUP)


def members(world: World) -> list[Member]:
    found = []
    for one in world.crystals:
        observed, _ = gather([one.table], [one.rotation], SPACE_GROUP, "profile")
        span = observations.span(one.rotation)
        found.append(Member(one.name, Lattice(one.cell, SPACE_GROUP), observed, ["r1"], [span]))
    return found


def combined(scans: list[Member], *leave_out: str, automatic: bool = True) -> Combination:
    limits = Settings()
    rules = Rules(
        automatic,
        leave_out,
        limits.cell_tolerance,
        limits.least_gain,
        limits.significance,
    )
    return crystals.combine(scans, None, scaling_settings(), rules)


def left_out(found: Combination) -> list[str]:
    return [one.member.name for one in found.scans if not one.merged]


def factors(found: Combination) -> StructureFactors:
    table = found.scaled()
    allowed = table.select(~SPACE_GROUP.is_absent(table.hkl))
    return merge(allowed, found.cell, SPACE_GROUP).factors


def pulls(found: Combination, world: World) -> Floats:
    """(I - truth) / σ after a common scale and B, in the setting that fits."""
    merged = factors(found)
    s2 = 0.25 / merged.d**2
    value, sigma = merged.mean.intensity, merged.mean.sigma
    ways = []
    for way in (np.eye(3, dtype=int), OTHER_WAY):
        true = world.truth(representative(merged.hkl @ way.T))

        def away(p: Floats, true: Floats = true) -> Floats:
            return (value - p[0] * true * np.exp(-2 * p[1] * s2)) / sigma

        start = [value.sum() / true.sum(), 0.0]
        ways.append(away(least_squares(away, start, loss="soft_l1").x))
    return min(ways, key=lambda one: float(np.abs(one).sum()))


def consistent(found: Combination, world: World) -> bool:
    """Return True if the merged good crystals have one setting."""
    moved = {
        one.choice.indexing.is_identity ^ crystal.flipped
        for one, crystal in zip(found.scans, world.crystals, strict=True)
        if one.merged and one.choice is not None
    }
    return len(moved) == 1


def test_good_crystals_are_merged_to_the_truth() -> None:
    every = []
    for seed in range(3):
        world = World(seed)
        found = combined(members(world))
        assert left_out(found) == []
        assert consistent(found, world)
        every.append(pulls(found, world))
    every = np.concatenate(every)
    assert len(every) > 1000
    assert abs(every.mean()) < 0.1
    assert 0.9 < every.std() < 1.1


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.slow
def test_the_bad_crystal_is_left_out_with_its_reason(kind: str) -> None:
    world = World(0, kind)
    found = combined(members(world))
    assert left_out(found) == [world.bad]
    assert consistent(found, world)
    (reason,) = [one.reason for one in found.scans if not one.merged]
    assert str(world.bad) in reason
    assert "it is left out" in reason
    assert ("strained" if kind == "cell" else "contradicts the other scans") in reason
    assert 0.85 < pulls(found, world).std() < 1.15


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["good", *BAD])
def test_the_bad_one_and_no_other_on_seeds_that_nobody_looked_at(kind: str) -> None:
    """Worlds of which none served to choose a limit; `benchmarks.several_crystals` has more."""
    every = []
    for seed in range(2000, 2002):
        world = World(seed, kind)
        found = combined(members(world))
        assert left_out(found) == ([world.bad] if world.bad else [])
        assert consistent(found, world)
        every.append(pulls(found, world))
    every = np.concatenate(every)
    assert abs(every.mean()) < 0.05
    assert 0.9 < every.std() < 1.1


def test_without_a_majority_nothing_is_left_out() -> None:
    world = World(1, "structure", n=2)
    found = combined(members(world))
    assert left_out(found) == []
    (warning,) = [text for text in found.warnings if "contradicts" in text]
    assert "too few other scans agree" in warning
    assert "name the wrong ones in `leave_out`" in warning


def from_worlds(*seeds: int) -> list[Member]:
    """One scan of each world, which has its own structure; an equal seed is an equal structure."""
    found = [members(World(seed))[i] for i, seed in enumerate(seeds)]
    return [replace(one, name=f"c{i}") for i, one in enumerate(found)]


@pytest.mark.slow
def test_two_crystals_of_other_structures_are_left_out() -> None:
    """ΔCC1/2 alone blames a good one, because two wrong ones spoil the scales of all."""
    assert left_out(combined(from_worlds(1, 1, 1, 51, 81))) == ["c3", "c4"]


@pytest.mark.parametrize("seeds", [(1, 51), (1, 2, 3, 4, 5)])
@pytest.mark.slow
def test_scans_of_which_no_two_agree_are_reported(seeds: tuple[int, ...]) -> None:
    found = combined(from_worlds(*seeds))
    assert left_out(found) == []
    n = len(seeds)
    assert found.warnings[0].startswith(f"scans do not agree with the others ({n} of {n};")
    assert found.warnings[0].endswith("do not use the merged intensities")


@pytest.mark.parametrize("seed", [2, 4])
def test_the_bad_one_of_three_is_left_out(seed: int) -> None:
    """The structure of another spoils the scales of all, and one good crystal seems to be wrong."""
    world = World(seed, "structure", n=3)
    assert left_out(combined(members(world))) == [world.bad]


@pytest.mark.slow
def test_a_small_twin_is_reported() -> None:
    world = World(0, "twin", twinned=(0.15, 0.15))
    found = combined(members(world))
    if world.bad in left_out(found):
        return
    (warning,) = [text for text in found.warnings if "agrees less" in text]
    assert warning.startswith(f"{world.bad} is merged")
    assert "look for a small twin" in warning


def test_a_list_leaves_out_exactly_its_scans() -> None:
    world = World(1, "structure")
    good = next(one.name for one in world.crystals if one.name != world.bad)
    found = combined(members(world), good, automatic=False)
    assert left_out(found) == [good]
    (warning,) = [text for text in found.warnings if "contradicts" in text]
    assert warning.startswith(str(world.bad))
    assert "name it in `leave_out`" in warning


def test_fewer_than_two_scans_are_refused() -> None:
    scans = members(World(0, n=2))
    with pytest.raises(HklflowError, match="1 of 2 scans can be merged, and two are needed"):
        combined(scans, "c1", automatic=False)


def test_the_same_data_under_two_names_are_refused() -> None:
    scans = members(World(0, n=2))
    with pytest.raises(HklflowError, match="c0 and copy are the same data"):
        combined([*scans, replace(scans[0], name="copy")])


def test_a_scan_of_another_lattice_is_left_out() -> None:
    world = World(0)
    scans = members(world)
    cell = np.array([9.1, 9.1, 14.2, 90.0, 90.0, 90.0])
    scans[0] = Member("c0", Lattice(cell, SPACE_GROUP), scans[0].observed, ["r1"], scans[0].spans)
    found = combined(scans)
    assert left_out(found) == ["c0"]
    assert "a cell of another lattice" in found.scans[0].reason
    assert "index it with the cell of the other scans" in found.scans[0].reason


def test_the_significance_of_a_good_scan_is_normal_at_any_multiplicity() -> None:
    """Normal observations with right errors, 1 to 6 of the scan and 2 to 6 of the others."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(300):
        mine, others = rng.integers(1, 7, 300), rng.integers(2, 7, 300)
        group = np.repeat(np.arange(300), mine + others)
        first = np.concatenate([np.arange(a + b) < a for a, b in zip(mine, others, strict=True)])
        sigma = rng.uniform(0.5, 2.0, len(group))
        true = rng.exponential(10.0, 300)[group]
        value = true + sigma * rng.standard_normal(len(group))
        groups = Groups.of(np.stack([group, group, group], axis=1))
        scan = np.where(first, 0, 1)
        observed = Normalized(groups, value, sigma**-2.0, scan)
        found.append(influences(observed, 2)[0].significance)
    assert abs(np.mean(found)) < 0.2
    assert 0.85 < np.std(found) < 1.15
