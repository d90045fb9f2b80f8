"""What peaks are that the lattice does not index, in worlds that somebody else wrote."""

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.orientation.test_steadiness import Case
from tests.truth import worlds

from hklflow.geometry import symmetry
from hklflow.orientation.unindexed import telling, unindexed
from hklflow.quality import gates
from hklflow.stage.scan_limits import ScanLimits


@cache
def found(kind: str, seed: int) -> tuple[dict[str, Any], Counter[int]]:
    """What was said of a world, and how many peaks of each origin it has."""
    systems = worlds.systems_of(*kind.partition(":")[::2])
    case = Case(kind, systems[seed % len(systems)], seed, None)
    return case.doubts(), Counter(case.world.peaks["origin"].tolist())


def told(record: dict[str, Any]) -> list[str]:
    limits = ScanLimits(max_unindexed=1).limits()
    return [s for s in gates.doubtful(record, limits) if "not indexed" in s]


@pytest.mark.parametrize("seed", [20, 21, 25])
def test_half_the_wavelength(seed: int) -> None:
    record, there = found("half_wavelength", seed)
    (left,) = record["unindexed"]
    assert left["half the wavelength"] == pytest.approx(there[worlds.HALF], rel=0.1)
    assert left["satellites"] == []
    assert left["rings"] == {}
    (sentence,) = told(record)
    assert "half the wavelength" in sentence


@pytest.mark.parametrize(("what", "name"), [("ice", "ice"), ("aluminium", "aluminium")])
@pytest.mark.parametrize("seed", [21, 23, 26])
def test_rings_are_called_by_what_they_are_of(what: str, name: str, seed: int) -> None:
    record, there = found(f"rings:{what}", seed)
    (left,) = record["unindexed"]
    assert list(left["rings"]) == [name]
    assert 0.5 * there[worlds.RING] < left["rings"][name] <= there[worlds.RING]
    assert f"on rings of {name}" in told(record)[0]


@pytest.mark.parametrize(
    ("what", "vector"), [("1/2,1/2,1/2", (0.5, 0.5, 0.5)), ("1/2,0,0", (0.5, 0, 0))]
)
@pytest.mark.parametrize("seed", [20, 22])
def test_a_superlattice_is_not_half_the_wavelength(
    what: str, vector: tuple[float, ...], seed: int
) -> None:
    record, there = found(f"superlattice:{what}", seed)
    (left,) = record["unindexed"]
    assert left["half the wavelength"] == 0
    assert sum(n for _, n in left["satellites"]) > 0.8 * there[worlds.SUPER]
    assert sorted(np.abs(left["satellites"][0][0])) == sorted(vector)


@pytest.mark.parametrize("seed", [20, 21, 25])
def test_noise_is_at_no_place_in_particular(seed: int) -> None:
    record, there = found("noise", seed)
    (left,) = record["unindexed"]
    assert left["rest"] == pytest.approx(there[worlds.NOISE], rel=0.1)
    assert (left["half the wavelength"], left["rings"], left["satellites"]) == (0, {}, [])


@pytest.mark.parametrize("seed", range(30, 37))
def test_nothing_is_told_of_a_world_without(seed: int) -> None:
    record, _ = found("plain", seed)
    assert told(record) == []


@pytest.mark.parametrize(("system", "seed"), [("triclinic", 40013), ("cubic", 40013)])
def test_weak_spots_of_a_broad_mosaic_are_indexed_within_their_errors(
    system: str, seed: int
) -> None:
    """Of 1.4° and 20 counts: 5 and 10 % of the spots are off by more than 0.1 in h, k or l."""
    case = Case("plain", system, seed, None, mosaic=1.3952932140178393, strong=616.7846873290929)
    off, tell = telling(case.refined, case.peaks)
    assert np.mean(off) < 0.003
    assert np.mean(tell) > 0.9
    record = case.doubts()
    assert record["unindexed"][0]["fraction"] < 0.003
    assert told(record) == []


def test_of_few_peaks_three_odd_ones_are_not_told() -> None:
    """3 of 30 are 10 ± 5.5 %."""

    def said(odd: int, of: int) -> list[str]:
        share = odd / of
        left = {"named": False, "fraction": share, "error": np.sqrt(share * (1 - share) / of)}
        return gates.doubtful({"unindexed": [left | {"sentence": "odd"}]}, ScanLimits().limits())

    assert said(3, 30) == []
    assert said(30, 300) == ["odd"]


def test_a_single_ring_is_enough_where_it_holds_what_is_left() -> None:
    """The detector sees no further than one ring of diamond."""
    record, there = found("rings:diamond", 50001)
    (left,) = record["unindexed"]
    assert list(left["rings"]) == ["diamond"]
    assert left["rings"]["diamond"] > 0.9 * there[worlds.RING]


def test_satellites_that_fall_off_as_reflections_do_are_not_half_the_wavelength() -> None:
    case = Case("superlattice:1/2,0,0", "hexagonal", 50011, None)
    (left,) = case.doubts()["unindexed"]
    assert left["half the wavelength"] == 0
    assert left["satellites"]


def peaks(
    kind: str, seed: int, symbol: str = "P 1 2/m 1", noise: float = 0.3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reflections, and peaks at half of the indices of the strong ones; h, |Q|, intensity.

    ``half``: at half of all strong indices. ``one star``: at (1/2, 1/2, 0) from reflections alone,
    although the intensities are like those at 2h.
    """
    group, rng = symmetry.space_group(symbol), np.random.default_rng(seed)
    h = np.mgrid[-7:8, -7:8, 0:8].reshape(3, -1).T
    h = h[(np.abs(h).sum(axis=1) > 0) & ~group.is_absent(h)]
    length = np.linalg.norm(h, axis=1)
    strong = rng.exponential(size=len(h)) * 3e4 * np.exp(-0.01 * length**2)
    there = (h % 2).any(axis=1) & (strong > np.quantile(strong, 0.8))
    if kind == "one star":
        there &= np.all(h % 2 == (1, 1, 0), axis=1)
    weak = 0.01 * strong * np.exp(noise * rng.normal(size=len(h)))
    return (
        np.vstack([h, h[there] / 2]),
        np.append(length, length[there] / 2),
        np.append(strong, weak[there]),
    )


def judged(found: tuple[np.ndarray, np.ndarray, np.ndarray], symbol: str = "P 1 2/m 1") -> Any:
    group = symmetry.space_group(symbol)
    return unindexed(*found, np.zeros(len(found[0]), np.bool_), group)


@pytest.mark.parametrize("seed", range(5))
def test_peaks_of_one_star_are_a_superlattice_whatever_their_intensities(seed: int) -> None:
    left = judged(peaks("one star", seed))
    assert (left.half, left.either) == (0, 0)
    ((vector, number),) = left.satellites
    assert vector == [0.5, 0.5, 0]
    assert number > 10


@pytest.mark.parametrize("seed", range(5))
def test_half_the_wavelength_is_at_half_of_all_strong_reflections(seed: int) -> None:
    found = peaks("half", seed)
    left = judged(found)
    assert left.half == np.sum((found[0] % 1).any(axis=1))
    assert (left.either, left.satellites, left.rest) == (0, [], 0)


def test_one_star_without_another_is_judged_by_the_intensities() -> None:
    """A lattice F has half-integer positions of one star: (1/2, 1/2, 1/2)."""
    sure = judged(peaks("half", 1, "F m -3 m", 0.1), "F m -3 m")
    assert sure.half > 40
    unsure = judged(peaks("half", 1, "F m -3 m", 0.5), "F m -3 m")
    assert (unsure.half, unsure.either > 40, unsure.satellites) == (0, True, [])


def test_few_peaks_and_none() -> None:
    group = symmetry.space_group("P m -3 m")
    nothing = unindexed(np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros(0, np.bool_), group)
    assert (nothing.fraction, nothing.rest) == (0.0, 0)
    one = np.array([[0.5, 0.5, 0.5], [1.0, 0, 0]])
    left = unindexed(one, np.ones(2), np.ones(2), np.zeros(2, np.bool_), group)
    assert (left.half, left.satellites, left.rest) == (0, [], 1)


def test_residuals_within_the_errors_have_no_cause() -> None:
    """χ² = 0.86 had peaks that are no reflections and a distorted detector."""
    (residuals,) = found("plain", 31)[0]["unexplained"]
    assert residuals["reduced chi2"] < 1
    assert residuals["sentence"].endswith("(reduced chi² 0.86): within their errors")
