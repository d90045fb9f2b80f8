"""Corrections of a detector do to its pixels what they state."""

import numpy as np
import pytest

from hklflow.geometry import BEAM, Detector, correction, rotation_matrix
from hklflow.geometry.correction import Correction, of_items, of_rotation

DETECTOR = Detector((400, 300), (1e-4, 2e-4), np.array([0.03, 0.02, 0.2]), [0, -1, 0], [-1, 0, 0])


def test_a_shift_moves_the_beam_centre() -> None:
    before = np.array(DETECTOR.intersect(BEAM))
    after = np.array(of_items(["shift=12.5,-4"]).applied(DETECTOR).intersect(BEAM))
    assert after - before == pytest.approx([12.5, -4])
    binned = of_items(["shift=12.5,-4"]).binned(2).applied(DETECTOR)
    assert np.array(binned.intersect(BEAM)) - before == pytest.approx([6.25, -2])


def test_a_distance_keeps_the_point_of_normal_incidence() -> None:
    moved = of_items(["distance=0.25"]).applied(DETECTOR)
    assert moved.distance == pytest.approx(0.25)
    assert moved.intersect(BEAM) == pytest.approx(DETECTOR.intersect(BEAM))


@pytest.mark.parametrize("side", ["slow", "fast"])
def test_a_mirrored_image_has_its_pixels_in_reverse_order(side: str) -> None:
    mirrored = of_items([f"mirrored={side}"]).applied(DETECTOR)
    slow, fast = np.array([30.5, 7.0]), np.array([12.0, 250.5])
    opposite = (400 - slow, fast) if side == "slow" else (slow, 300 - fast)
    assert mirrored.lab(slow, fast) == pytest.approx(DETECTOR.lab(*opposite))


def test_an_arm_rotates_all_pixels_about_the_sample() -> None:
    on_arm = of_items(["arm=0,30,0"]).applied(DETECTOR)
    turn = rotation_matrix([0, 1, 0], np.radians(30))
    assert on_arm.lab(10.0, 20.0) == pytest.approx(turn @ DETECTOR.lab(10.0, 20.0))
    # A detector at +30 degrees about y (up) is on the side of +x.
    assert on_arm.lab(200, 150)[0] > DETECTOR.lab(200, 150)[0]


def test_what_is_written_is_read() -> None:
    stated = Correction((1.5, -2.0), 0.25, ("fast",), (0.0, 30.0, 0.0))
    assert of_items(stated.items()) == stated


def test_the_item_of_a_rotation_goes_before_the_item_for_all() -> None:
    items = ["arm=0,30,0", "r4:arm=0,0,0", "shift=1,2"]
    assert of_rotation(items, "r1") == ("arm=0,30,0", "shift=1,2")
    assert of_rotation(items, "r4") == ("arm=0,0,0", "shift=1,2")


@pytest.mark.parametrize(
    "item", ["shift=1", "distance=-0.2", "distance=x", "mirrored=both", "tilt=1,2,3", "arm=0,nan,0"]
)
def test_malformed_items_are_refused(item: str) -> None:
    with pytest.raises(ValueError, match="is no correction of a detector"):
        correction.parse(item)


def test_an_item_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="corrected twice"):
        of_items(["shift=1,2", "shift=3,4"])


CORRECTIONS = [
    Correction((3.0, -5.0), 0.25, ("fast",), (0.0, 30.0, 0.0)),
    Correction((-1.5, 2.0), None, ("slow", "fast"), (4.0, 0.0, -2.0)),
    Correction(arm=(0.0, -20.0, 5.0)),
    Correction((7.0, 1.0), 0.18),
]


@pytest.mark.parametrize("first", CORRECTIONS)
@pytest.mark.parametrize("then", CORRECTIONS)
def test_two_corrections_are_one(first: Correction, then: Correction) -> None:
    one, two = then.after(first).applied(DETECTOR), then.applied(first.applied(DETECTOR))
    for pixel in ((0.0, 0.0), (400.0, 10.0), (30.0, 300.0)):
        assert one.lab(*pixel) == pytest.approx(two.lab(*pixel), abs=1e-9)


def test_a_correction_that_is_taken_back_is_none() -> None:
    first = Correction((3.0, -5.0), None, ("fast",), (0.0, 30.0, 0.0))
    back = Correction((-3.0, -5.0), None, ("fast",), (0.0, -30.0, 0.0))
    assert back.after(first) == Correction()
