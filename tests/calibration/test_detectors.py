"""Named detectors against images: shape, pixel size, which way the image lies."""

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.calibration.detectors import TURNS, KnownDetector, known_detector


def test_pilatus():
    found = known_detector("Pilatus 1M")
    assert found.gaps.shape == (1043, 981)
    assert found.pixel_size == (172e-6, 172e-6)
    # 5 × 2 modules of 195 × 487 pixels, 17 and 7 pixels apart.
    assert found.modules == [
        (212 * i, 212 * i + 195, 494 * j, 494 * j + 487) for i in range(5) for j in range(2)
    ]
    assert found.gaps.sum() == 1043 * 981 - 10 * 195 * 487
    assert known_detector("pilatus1m").gaps.shape == found.gaps.shape


def test_unknown():
    with pytest.raises(
        HklflowError, match=r"not know the detector 'Pilatus 1N'; perhaps .*pilatus1m"
    ):
        known_detector("Pilatus 1N")


def lit(gaps):
    rng = np.random.default_rng(1)
    image = rng.poisson(3.0, gaps.shape)
    image[gaps] = 0
    return image


def test_an_image_of_the_detector():
    found = known_detector("Pilatus 300k")
    image = lit(found.gaps)
    found.check(image, image == 0, (172e-6, 172e-6))
    with pytest.raises(HklflowError, match=r"pixel_size .* differs from Pilatus 300k's"):
        found.check(image, image == 0, (172e-6, 75e-6))
    turned = image.T
    with pytest.raises(HklflowError, match=r"\(487, 619\) .* has \(619, 487\).*is transposed"):
        found.check(turned, turned == 0)
    other = lit(np.zeros((600, 480), bool))
    with pytest.raises(HklflowError, match="no orientation fits"):
        found.check(other, other == 0)


GAPS = np.zeros((60, 60), bool)
GAPS[10:13] = True
GAPS[:, 35:40] = True


@pytest.mark.parametrize("way", [way for way in TURNS if way != "as it is"])
def test_the_gaps_tell_how_an_image_was_turned(way):
    """Turned back by the way that is told, the gaps fit."""
    found = KnownDetector("square", (1e-4, 1e-4), GAPS)
    right = lit(GAPS)
    inverse = next(
        turn(right) for turn in TURNS.values() if np.array_equal(TURNS[way](turn(right)), right)
    )
    with pytest.raises(HklflowError, match=f"have counts; it fits if the image is {way}$"):
        found.check(inverse, inverse == 0)


def test_gaps_with_counts():
    found = KnownDetector("square", (1e-4, 1e-4), GAPS)
    filled = lit(np.zeros_like(GAPS))
    with pytest.raises(
        HklflowError, match=r"9\d % of the pixels in the gaps .*no orientation fits"
    ):
        found.check(filled, filled == 0)


def test_a_detector_without_gaps_says_nothing():
    found = KnownDetector("plain", (1e-4, 1e-4), np.zeros((60, 60), bool))
    image = lit(found.gaps)
    found.check(image[::-1], image == 0)
    assert found.modules == [(0, 60, 0, 60)]


@pytest.mark.real_data
def test_real_image(real_data):
    import fabio

    image = fabio.open(str(real_data / "powder_ceo2_pilatus1m" / "CeO2_Pilatus1M.tif")).data
    found = known_detector("Pilatus 1M")
    found.check(image, image <= 0, (172e-6, 172e-6))
    with pytest.raises(HklflowError, match="transposed"):
        found.check(image.T, image.T <= 0)
