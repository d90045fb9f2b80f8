"""An arm that a header does not state is found with its angle, not with one that is rows off."""

from dataclasses import replace

import numpy as np
import pytest
from tests.truth.first_contacts import draw
from tests.truth.first_contacts_peaks import observed, stated_rotation

from hklflow.geometry import symmetry
from hklflow.orientation import arm_angles
from hklflow.orientation.expected import SearchedLattice
from hklflow.orientation.wrong_header import explained


def test_the_sharpest_angle_is_chosen_of_those_that_index_nearly_all_peaks() -> None:
    """8° about one axis: at angles that are 6° too small, a deformed lattice indexes 9 of 10."""
    contact = draw(5111, "tiff", "arm missing")
    _, peaks, _ = observed(contact)
    missing = 8.0
    (true,) = (sweep.arm for sweep in contact.sweeps)
    stated = replace(contact.stated[0], arm=true - missing)
    rotation = stated_rotation(stated, stated.wavelength)
    fits = arm_angles.found([rotation], peaks, [25.0, 50.0], 0.9)
    best = max(fits, key=lambda fit: fit.sharpness)
    assert best.count == best.of
    assert best.hypothesis.correction.arm == pytest.approx((0, -missing, 0), abs=0.02)
    assert best.hypothesis.correction.shift == pytest.approx((0, 0), abs=0.3)
    few = [fit for fit in fits if 0.9 * fit.of < fit.count and fit.rms > 4 * best.rms]
    assert few, "no wrong angle indexes nearly all peaks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "kind", "only"),
    [
        (5004, "tiff", None),  # without the arm one of two rotations has another lattice, by chance
        (5130, "cbf sparse", (0,)),  # one of two has an arm, with all peaks far from the origin
    ],
)
def test_the_angle_of_each_rotation_is_exact(
    seed: int, kind: str, only: tuple[int, ...] | None
) -> None:
    """Rounding it moves no spot by more than a quarter of a pixel."""
    contact = draw(seed, kind, "arm missing")
    rotations, peaks, strength = observed(contact, most=200)
    searched = SearchedLattice(None, symmetry.space_group("P 1"), 0.25, 0.03, 0.5)
    (one,) = explained(rotations, peaks, strength, searched)
    assert (one.kind, one.count, one.hypothesis.only) == ("arm", one.of, only)
    sweep = contact.sweeps[0]
    true = sweep.arm * contact.stated[0].arm_axis
    away = np.radians(np.linalg.norm(one.hypothesis.correction.arm - true))
    assert away * contact.stated[0].distance < 0.3 * sweep.detector.pixel
