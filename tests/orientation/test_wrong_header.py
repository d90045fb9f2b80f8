"""What is said of a header that is wrong in one thing indexes the peaks when it is pasted."""

import numpy as np
import pytest
from tests.truth import worlds
from tests.truth.wrong_headers import CLASSES, applied, ask


def small(kind: str, system: str, seed: int, size: float | None) -> worlds.World:
    return worlds.world(kind, system, seed, size, n_frames=40, mosaic=0.1)


@pytest.mark.parametrize(
    ("name", "system", "seed"),
    [
        ("axis", "hexagonal", 3),
        ("mirrored", "orthorhombic", 2),
        ("beam", "triclinic", 6),
        ("nanometre", "tetragonal", 1),
        ("setting", "orthorhombic", 2),
        pytest.param("arm", "tetragonal", 1, marks=pytest.mark.slow),
        pytest.param("distance", "orthorhombic", 2, marks=pytest.mark.slow),
        pytest.param("keV", "cubic", 0, marks=pytest.mark.slow),
    ],
)
def test_the_wrong_thing_is_named_and_the_pasted_text_indexes(
    name: str, system: str, seed: int
) -> None:
    kind, size, _, kinds = CLASSES[name]
    world = small(kind, system, seed, size)
    as_stated, found, text = ask(world)
    assert not as_stated
    assert found[0].kind in kinds
    assert applied(world, text)


def test_the_beam_centre_is_given_to_a_pixel() -> None:
    world = small("wrong_header:beam", "hexagonal", 3, 25.0)
    (one,) = ask(world)[1]
    detector = world.instrument
    error = detector.origin - world.sample.instrument.origin
    moved = np.array([error @ detector.slow, error @ detector.fast]) / detector.pixel_size
    assert np.abs(np.array(one.hypothesis.correction.shift) - moved).max() < 0.5


def test_the_angle_of_a_dropped_arm_is_given() -> None:
    world = small("wrong_header:arm", "cubic", 0, 20.0)
    (one,) = ask(world)[1]
    assert one.hypothesis.correction.arm == pytest.approx(world.effects[0]["arm"], abs=0.5)


@pytest.mark.parametrize(("system", "seed"), [("cubic", 0), ("monoclinic", 5)])
def test_a_right_header_is_not_blamed(system: str, seed: int) -> None:
    """Six peaks of ten are noise: indexing fails."""
    as_stated, found, text = ask(small("noise", system, seed, 0.6))
    assert not as_stated
    assert found == []
    assert text == ""


def test_a_cell_of_another_crystal_is_told_from_a_wrong_geometry() -> None:
    as_stated, found, text = ask(small("wrong_cell", "tetragonal", 1, 0.08))
    assert not as_stated
    assert [one.kind for one in found] == ["cell"]
    assert "the geometry is right" in text
