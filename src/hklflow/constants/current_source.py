"""Current source: an on-chip current for increasing time, through all three gain stages.

A_g(t) = o_g + s_g t; r_MH = s_M / s_H, r_LM = s_L / s_M. The current is unknown and differs
between pixels; it cancels in the ratios.
"""

from hklflow.constants.ramp_process import RampProcess
from hklflow.constants.status import Bit


class CurrentSource(RampProcess):
    """Ratios of medium to high gain and of low to medium gain, from one current."""

    stages = 3
    failed = Bit.CI2_EVAL_ERROR
