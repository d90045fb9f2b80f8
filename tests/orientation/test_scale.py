"""A distance or a wavelength that is wrong is told, in worlds that somebody else wrote."""

from pathlib import Path

import pytest
from tests.truth import worlds
from tests.truth.world_scans import answered


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wrong_header:distance", ["the detector seems to be", "of the table of samples"]),
        ("wrong_header:wavelength", ["1.00% "]),
        ("plain", []),
    ],
)
@pytest.mark.parametrize(("system", "seed"), [("monoclinic", 40), ("cubic", 42)])
def test_what_is_said_of_the_cells_size(
    kind: str, words: list[str], system: str, seed: int, tmp_path: Path
) -> None:
    answer = answered(worlds.world(kind, system, seed), tmp_path)
    assert not answer.refusal
    said = " ".join(answer.said)
    assert all(word in said for word in words)
    assert bool(said) == bool(words)


@pytest.mark.parametrize("seed", [41, pytest.param(43, marks=pytest.mark.slow)])
def test_the_distance_that_the_peaks_would_rather_have(seed: int, tmp_path: Path) -> None:
    """The header's distance is 3 % off, along a detector that may stand on an arm."""
    system = worlds.SYSTEMS[(seed + 5) % 7]
    world = worlds.world("wrong_header:distance", system, seed)
    (told,) = (s for s in answered(world, tmp_path).said if "the detector seems" in s)
    relative = float(told.split("calibration has it (")[1].split("%")[0]) / 100
    sign = float(world.effects[0]["sign"])  # type: ignore[arg-type]
    assert relative == pytest.approx(1 / (1 + 0.03 * sign) - 1, abs=0.005)


def test_a_small_error_of_the_distance_is_told_where_the_cell_is_known_better(
    tmp_path: Path,
) -> None:
    """1 part in 1000 is below `told_distance`, and many errors of this cell."""
    answer = answered(worlds.world("wrong_header:distance", "cubic", 42, 0.001), tmp_path)
    assert any("the detector seems to be +" in sentence for sentence in answer.said)
    assert answer.worst > 5
