"""Motions during a scan and peaks of other lattices, in worlds that somebody else wrote."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from tests.truth import worlds
from tests.truth.world_scans import answered, rotation_of, table_of

from hklflow.geometry import symmetry
from hklflow.orientation import leftover, refinement, score, steadiness
from hklflow.quality import gates
from hklflow.quality.doubts import Named, doubts
from hklflow.stage import orientation
from hklflow.stage.scan_limits import ScanLimits

FREE = ("cell", "orientation", "detector_x", "detector_y", "detector_rotation")
LIMITS = refinement.RefinementLimits(hkl=0.25, min_fraction=0.3)
COLUMNS = ("frame", "slow", "fast", "var_frame", "var_slow", "var_fast")


class Case:
    """A world, refined from its true orientation."""

    def __init__(self, kind: str, system: str, seed: int, size: float | None, **more: Any) -> None:
        self.world = worlds.world(kind, system, seed, size, **more)
        numbers = range(len(self.world.scans))
        tables = [table_of(self.world, i) for i in numbers]
        tables = [table.select(orientation.usable(table)) for table in tables]
        self.peaks = [refinement.Peaks.of(t) for t in tables]
        self.intensities = [table.intensity for table in tables]
        self.widths = [np.sqrt((t.width_slow**2 + t.width_fast**2) / 2) for t in tables]
        self.group = symmetry.space_group(self.world.space_group)
        self.free = FREE if len(tables) == 1 else (*FREE, "misorientation")
        self.refined = refinement.refine(
            [rotation_of(self.world, i) for i in numbers],
            self.peaks,
            self.world.UB,
            self.group,
            free=self.free,
            limits=LIMITS,
        )

    def motions(self) -> list[steadiness.Motion]:
        return steadiness.motions(self.refined, self.peaks, self.group, self.free)

    def doubts(self) -> dict[str, Any]:
        n = len(self.peaks)
        named = Named("s", "a", [f"r{i}" for i in range(n)], [100] * n)
        given = self.intensities, self.widths
        return doubts(self.refined, self.peaks, *given, self.group, self.free, named)


@cache
def case(
    kind: str, system: str, seed: int, size: float | None = None, rotations: int = 1, **more: Any
) -> Case:
    return Case(kind, system, seed, size, rotations=rotations, **more)


@pytest.mark.parametrize(("system", "seed"), [(s, 3 + i) for i, s in enumerate(worlds.SYSTEMS)])
def test_nothing_moves_in_a_world_at_rest(system: str, seed: int) -> None:
    found = case("plain", system, seed).doubts()
    (residuals,) = found.pop("unexplained")
    assert residuals["reduced chi2"] < 1.1
    (left,) = found.pop("unindexed")
    assert left["fraction"] < 0.01
    assert not left["named"]
    nothing = ("motions", "other crystals", "lost", "outward", "displaced modules", "alike", "rows")
    assert found == {name: [] for name in nothing}


@pytest.mark.parametrize(
    ("kind", "name", "size"),
    [
        ("slip", "slip", 0.1),
        ("drift", "drift", 0.1),
        ("wobble", "wobble", 0.05),
        ("off_centre", "off centre", 5e-5),
        ("beam_moves:position", "beam position", 5e-5),
        ("beam_moves:direction", "beam direction", 0.02),
        ("cell_changes", "cell", 1e-3),
    ],
)
@pytest.mark.parametrize(("system", "seed"), [("triclinic", 61), ("cubic", 63)])
def test_what_moved_is_called_by_its_name(
    kind: str, name: str, size: float, system: str, seed: int
) -> None:
    made = case(kind, system, seed, size)
    first = made.motions()[0]
    assert first.kind == name
    if name == "cell":
        # Of each component something between 0.3 and 1 is drawn.
        assert 0.2 * size < first.size < 1.1 * size
    elif name == "wobble":
        # About a direction that detector and orientation take up in part where it is once a turn.
        assert 0.3 * size < first.size < 1.1 * size
    else:
        assert abs(first.size - size) < max(5 * first.size_sigma, 0.05 * size)
    assert first.chi2 > 1000
    for other in made.motions()[1:]:
        assert other.chi2 < 0.05 * first.chi2


@pytest.mark.parametrize(
    ("kind", "name", "system", "seed", "size", "mosaic", "strong"),
    [
        ("cell_changes", "cell", "cubic", 42015, 1.97e-3, 0.256, 154),
        ("cell_changes", "cell", "triclinic", 42097, 2.305e-4, 1.455, 7703),
        ("wobble", "wobble", "tetragonal", 42019, 0.01103, 1.313, 2510),
    ],
)
def test_what_moved_by_five_or_six_sigma_is_told(
    kind: str, name: str, system: str, seed: int, size: float, mosaic: float, strong: float
) -> None:
    """Parameters counted by Schwarz's criterion hid what has six of them up to 7 σ."""
    record = case(kind, system, seed, size, mosaic=mosaic, strong=strong).doubts()
    (motion, *_) = record["motions"]
    assert name in (motion["kind"], *motion["others"])
    assert motion["sentence"] in gates.doubtful(record, ScanLimits().limits())


def displaced(
    made: Case, of: Callable[[refinement.Peaks], Any], *, shared: bool = True
) -> list[steadiness.Motion]:
    """Motions of a case of one rotation, its centroids (slow, fast, frame) displaced by σ."""
    (peaks,) = made.peaks
    slow, fast, frame = (of(peaks) * peaks.sigma).T
    moved = replace(
        peaks, slow=peaks.slow + slow, fast=peaks.fast + fast, frame=peaks.frame + frame
    )
    refined = refinement.refine(
        made.refined.rotations, [moved], made.world.UB, made.group, free=made.free, limits=LIMITS
    )
    assert refined.chi2 > 1.5
    return steadiness.motions(refined, [moved], made.group, made.free, shared=shared)


@pytest.mark.parametrize(("system", "seed"), [("tetragonal", 61), ("orthorhombic", 64)])
def test_errors_that_are_too_small_hide_no_motion(system: str, seed: int) -> None:
    """Taken to be common to nine regions, they made a hundredth of a wobble's fall of χ²."""
    made, rng = case("wobble", system, seed, 0.04), np.random.default_rng(seed)
    first = displaced(made, lambda peaks: rng.normal(size=(len(peaks.frame), 3)))[0]
    assert (first.kind, first.periods) == ("wobble", made.world.effects[0]["periods"])


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize(("system", "seed"), [("tetragonal", 61), ("triclinic", 62)])
def test_a_detector_whose_regions_are_displaced_is_no_motion(
    system: str, seed: int, parts: int
) -> None:
    made, rng = case("plain", system, seed), np.random.default_rng(seed)
    by = np.dstack([rng.normal(size=(parts, parts, 2)) * 2, np.zeros((parts, parts))])

    def of(peaks: refinement.Peaks) -> Any:
        slow, fast = np.stack([peaks.slow / 480, peaks.fast / 512]) * parts
        return by[np.clip(slow, 0, parts - 1).astype(int), np.clip(fast, 0, parts - 1).astype(int)]

    assert displaced(made, of) == []
    if (
        parts == 2
    ):  # quarters resemble a motion enough to bias the cell: `quality.doubts` reports it
        assert max(motion.bias for motion in displaced(made, of, shared=False)) > 3


def test_sums_over_blocks_measure_the_variance_of_a_fit() -> None:
    """Of residuals beside a fit, independent ones and such that have a part in common."""
    rng = np.random.default_rng(5)
    block = np.repeat(np.arange(9), 40)
    fitted, _ = np.linalg.qr(rng.normal(size=(len(block), 8)))
    unit = fitted[:, 5:]
    ratios = []
    for common in (0.0, 1.0):
        squares = 0.0
        for _ in range(300):
            x = rng.normal(size=len(block)) + common * rng.normal(size=9)[block]
            left = x - fitted @ (fitted.T @ x)
            square, expected, freedom = score.block_sums(unit * left[:, None], unit, fitted, block)
            squares += square / 300
        ratios.append(squares / expected)
    assert ratios[0] == pytest.approx(1.0, abs=0.1)
    assert ratios[1] > 1.5
    assert 7 < freedom < 9.5


@pytest.mark.parametrize("freedom", [1, 2, 3, 6])
def test_the_chance_of_a_motion_is_that_of_chi2(freedom: int) -> None:
    for gain in (0.5, 20.0, 500.0):
        assert score.log_chance(gain, freedom) == pytest.approx(
            scipy.stats.chi2.logsf(gain, freedom), rel=1e-6
        )
    ends = [score.log_chance(gain, freedom) for gain in (999.99, 1000.01)]
    assert ends[0] == pytest.approx(ends[1], abs=0.02)


def test_the_chance_of_a_slip_counts_its_frames() -> None:
    """The largest of 481 χ² of three parameters, of sums from each peak on less their part."""
    rng, n = np.random.default_rng(3), 500
    part = np.arange(1, n) / n
    sums = rng.normal(size=(3000, 3, n)).cumsum(axis=2)
    bridge = (sums[:, :, :-1] - part * sums[:, :, -1:]) / np.sqrt(n * part * (1 - part))
    largest = np.sum(bridge**2, axis=1)[:, 9:-9].max(axis=1)
    for gain in (14.0, 17.0, 20.0):
        expected = np.exp(steadiness.log_chance_of_slip(gain, 3, n))
        # Between peaks χ² goes on: of 500 of them the largest is a little smaller.
        assert 0.5 * expected < np.mean(largest > gain) < 1.2 * expected
    assert steadiness.log_chance_of_slip(1.0, 3, n) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300, 307))
def test_the_frame_of_a_slip_is_within_its_interval(seed: int) -> None:
    system = worlds.SYSTEMS[seed % len(worlds.SYSTEMS)]
    made = case("slip", system, seed, 0.05)
    frame = made.world.effects[0]["frame"]
    motion = made.motions()[0]
    assert motion.kind == "slip"
    assert motion.interval is not None
    # 95 % of the intervals hold it; one of many may well be beside by a frame or two.
    assert motion.interval[0] - 3 < frame < motion.interval[1] + 3
    assert motion.interval[1] - motion.interval[0] < 40
    assert motion.size == pytest.approx(0.05, abs=5 * motion.size_sigma)


@pytest.mark.parametrize("seed", [74, pytest.param(71, marks=pytest.mark.slow)])
def test_a_slip_in_one_of_two_rotations_is_told_of_that_one(seed: int) -> None:
    """Told apart or lost: before frame 67 of the first of these two a tenth of all peaks is odd."""
    made = case("slip", worlds.SYSTEMS[seed % len(worlds.SYSTEMS)], seed, 0.1, rotations=2)
    effect = made.world.effects[0]
    limits = ScanLimits().limits()
    said = [*gates.doubtful(made.doubts(), limits), *gates._moved(made.doubts(), limits)]
    assert len(said) == 1
    assert said[0].startswith(f"r{effect['rotation']}: the crystal slipped by 0.")
    (slip,) = (m for m in made.doubts()["motions"] if m["sentence"] in said[0])
    assert slip["size"] == pytest.approx(0.1, abs=0.01)
    assert slip["interval"][0] - 3 < effect["frame"] < slip["interval"][1] + 3


@pytest.mark.parametrize(("system", "seed"), [("tetragonal", 22), ("orthorhombic", 23)])
def test_a_slip_too_large_to_be_refined_over_is_found_by_its_lattice(
    system: str, seed: int
) -> None:
    made = case("slip", system, seed, 2.2)
    (slip,) = made.doubts()["motions"]
    assert slip["kind"] == "slip"
    assert slip["size"] == pytest.approx(2.2, abs=0.02)
    frame = made.world.effects[0]["frame"]
    assert slip["interval"][0] < frame < slip["interval"][1]


def test_the_remedy_of_a_slip_cures_it() -> None:
    """Two rotations of what the sentence says, frames between them left out."""
    made = case("slip", "monoclinic", 61, 0.1)
    (slip,) = made.doubts()["motions"]
    text = slip["sentence"].split("leave_out: [")[1].split("]")[0]
    spans = {}
    for item in text.split(", "):
        name, _, span = item.partition(":")
        spans[name] = [int(x) - 100 for x in span.split("-")]
    assert spans["r0"][1] == 364
    assert spans["r0b"][0] == 0
    assert spans["r0"][0] < made.world.effects[0]["frame"] < spans["r0b"][1] + 1
    (peaks,) = made.peaks
    before = peaks.frame < spans["r0"][0]
    after = peaks.frame > spans["r0b"][1] + 1
    parts = [peaks.select(rows) for rows in (before, after)]
    refined = refinement.refine(
        [rotation_of(made.world, 0)] * 2,
        parts,
        made.world.UB,
        made.group,
        free=(*FREE, "misorientation"),
        limits=LIMITS,
    )
    truth = made.world.sample.cell
    fitted = refined.cell_sigma > 0
    pulls = (refined.cell - truth)[fitted] / refined.cell_sigma[fitted]
    assert np.abs(pulls).max() < 4
    assert refined.chi2 < 1.1
    turn = [refined.values[refined.names.index(f"misorientation_1_{x}")] for x in "xyz"]
    assert np.degrees(np.linalg.norm(turn)) == pytest.approx(0.1, abs=0.005)
    assert steadiness.motions(refined, parts, made.group, (*FREE, "misorientation")) == []


@pytest.mark.parametrize(
    ("kind", "system", "seed"),
    [
        ("second_lattice", "tetragonal", 22),
        ("second_lattice", "cubic", 21),
        ("second_lattice", "triclinic", 41),
        ("twin_nonmerohedral", "triclinic", 20),
        ("twin_nonmerohedral", "orthorhombic", 23),
    ],
)
@pytest.mark.slow
def test_a_second_lattice_is_told_with_its_turn(kind: str, system: str, seed: int) -> None:
    made = case(kind, system, seed)
    (other,) = made.doubts()["other crystals"]
    effect = made.world.effects[0]
    if kind == "second_lattice":
        assert other["angle"] == pytest.approx(effect["angle"], abs=0.05)
    second = made.world.peaks["origin"] == worlds.SECOND
    alone = other["peaks"] / second.sum()
    assert 0.8 < alone < 1.2
    intensity = made.world.peaks["intensity"]
    share = intensity[second].sum() / intensity.sum()
    assert other["share"] == pytest.approx(share, rel=0.3)


@pytest.mark.parametrize("size", [0.5, 1.5, 3.0])
def test_what_a_slip_leaves_behind_is_no_second_crystal(size: float) -> None:
    found = case("slip", "monoclinic", 61, size).doubts()
    assert [motion["kind"] for motion in found["motions"]] == ["slip"]
    assert found["motions"][0]["size"] == pytest.approx(size, rel=0.01)
    assert found["other crystals"] == []
    assert found["lost"] == []


@pytest.mark.parametrize("kind", ["noise", "rings:ice", "rings:aluminium", "superlattice:1/2,0,0"])
@pytest.mark.parametrize(("system", "seed"), [("triclinic", 20), ("orthorhombic", 23)])
@pytest.mark.slow
def test_what_is_no_second_lattice_is_called_none(kind: str, system: str, seed: int) -> None:
    assert case(kind, system, seed).doubts()["other crystals"] == []


@pytest.mark.parametrize(("system", "seed"), [("hexagonal", 24), ("monoclinic", 26), ("cubic", 28)])
def test_diffuse_maxima_among_the_peaks_are_told(system: str, seed: int) -> None:
    """Nine of ten reflections show the maximum around them, which is beside them."""
    said = gates.doubtful(case("broad", system, seed, 0.9).doubts(), ScanLimits().limits())
    assert any("maxima of diffuse scattering" in sentence for sentence in said)


def test_frames_on_which_the_crystal_was_lost() -> None:
    """Noise in the place of the last eighty frames' spots."""
    made = Case("plain", "monoclinic", 61, None)
    (peaks,) = made.peaks
    rng = np.random.default_rng(1)
    gone = peaks.frame > 285
    slow = np.where(gone, rng.uniform(0, 480, len(gone)), peaks.slow)
    fast = np.where(gone, rng.uniform(0, 512, len(gone)), peaks.fast)
    moved = replace(peaks, slow=slow, fast=fast)
    refined = refinement.refine(
        made.refined.rotations,
        [moved],
        made.world.UB,
        made.group,
        free=FREE,
        limits=LIMITS,
    )
    (part,) = leftover.lost(refined, [moved])
    assert part.interval[0] <= 285.5
    assert part.interval[1] >= 284.5
    assert part.inside < 0.1
    assert part.last == 365


def test_what_the_peaks_do_not_tell_from_a_motion_is_named_too(tmp_path: Path) -> None:
    """Of 160 peaks a beam that turns and one that moves sideways explain as much."""
    made = worlds.world("beam_moves:direction", "tetragonal", 30012, 0.1, strong=230, mosaic=1.1)
    found = answered(made, tmp_path)
    kinds = {
        "beam position": "a beam or a sample that moved",
        "beam direction": "a beam that changed its direction",
    }
    motion = found.data["symmetry"]["motions"][0]
    (other,) = motion["others"]
    assert {motion["kind"], other} == set(kinds)
    assert f"agree with {kinds[other]}" in motion["sentence"]


def test_a_slip_among_few_peaks_may_have_been_where_none_was_looked_for(tmp_path: Path) -> None:
    """There are fewer than ten of the 27 peaks before it: 147 to 165 was given for frame 105."""
    options = {"strong": 50.435942381806534, "mosaic": 0.07988111216762253}
    made = worlds.world("slip", "hexagonal", 31033, 0.24637482983267606, **options)
    motion = answered(made, tmp_path).data["symmetry"]["motions"][0]
    assert motion["kind"] == "slip"
    assert motion["interval"][0] <= made.effects[0]["frame"] <= motion["interval"][1]
