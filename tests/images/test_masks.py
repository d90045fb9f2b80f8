import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.images import masks
from hklflow.images.masks import MaskBit


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.float32])
def test_gaps_are_the_pixels_that_are_always_flagged(dtype):
    rng = np.random.default_rng(1)
    frames = rng.poisson(3, (6, 20, 30)).astype(dtype)
    limit = masks.flag_value(np.dtype(dtype))
    flag = limit if limit is not None else (-1 if dtype is np.int32 else np.nan)
    frames[:, 8:10] = flag
    frames[3, 2, 2] = flag  # once only: flagged, but not a gap
    gaps = masks.find_gaps((frames[i : i + 2] for i in range(0, 6, 2)), limit)
    expected = np.zeros((20, 30), bool)
    expected[8:10] = True
    assert np.array_equal(gaps, expected)
    assert masks.flagged(frames, limit).sum() == 6 * 60 + 1
    with pytest.raises(HklflowError):
        masks.find_gaps([])


def test_bits_are_those_of_nxmx_and_add_up():
    gap = np.zeros((3, 4), bool)
    gap[0] = True
    user = np.zeros((3, 4), bool)
    user[:, 1] = True
    raw = np.zeros((3, 4), np.uint32)
    raw[2, 3] = 16
    bits = masks.combine((3, 4), [(MaskBit.GAP, gap), (MaskBit.USER, user)], raw)
    assert bits.dtype == np.uint32
    assert bits.tolist() == [[1, 257, 1, 1], [0, 256, 0, 0], [0, 256, 0, 16]]
    assert masks.bad_pixels(bits).sum() == 7
    assert masks.combine((3, 4), [(MaskBit.VIRTUAL, gap)])[0, 0] == 2**31
    with pytest.raises(HklflowError):
        masks.combine((3, 4), [(MaskBit.GAP, gap[:2])])
