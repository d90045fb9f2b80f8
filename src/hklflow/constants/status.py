"""Reasons why a constant is not reliable: bits of ``constants_status``.

Names and values are the European XFEL's ``BadPixels``, so that its tools can read them.
"""

from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

Status = NDArray[np.uint32]


class Bit(IntFlag):
    """Bits of ``constants_status`` (stage, cell, ss, fs)."""

    OFFSET_OUT_OF_THRESHOLD = 1 << 0
    NOISE_OUT_OF_THRESHOLD = 1 << 1
    OFFSET_NOISE_EVAL_ERROR = 1 << 2
    NO_DARK_DATA = 1 << 3
    CI_GAIN_OUT_OF_THRESHOLD = 1 << 4
    CI_LINEAR_DEVIATION = 1 << 5
    CI_EVAL_ERROR = 1 << 6
    FF_GAIN_EVAL_ERROR = 1 << 7
    FF_GAIN_DEVIATION = 1 << 8
    FF_NO_ENTRIES = 1 << 9
    CI2_EVAL_ERROR = 1 << 10
    VALUE_IS_NAN = 1 << 11
    VALUE_OUT_OF_RANGE = 1 << 12
    GAIN_THRESHOLDING_ERROR = 1 << 13
    DATA_STD_IS_ZERO = 1 << 14
    ASIC_STD_BELOW_NOISE = 1 << 15
    INTERPOLATED = 1 << 16
    NOISY_ADC = 1 << 17
    OVERSCAN = 1 << 18
    NON_SENSITIVE = 1 << 19
    NON_LIN_RESPONSE_REGION = 1 << 20
    WRONG_GAIN_VALUE = 1 << 21
    NON_STANDARD_SIZE = 1 << 22


#: Bits that describe how a constant was determined; the constant is good.
HARMLESS = Bit.INTERPOLATED | Bit.NON_STANDARD_SIZE


def bad(status: Status) -> NDArray[np.bool_]:
    """Return True for each constant that has a bit other than the harmless bits."""
    return np.asarray((status & np.uint32(~HARMLESS & 0xFFFFFFFF)) != 0)
