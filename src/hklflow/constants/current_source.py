"""Current source: a current on the chip for a growing time, through all three stages.

A_g(t) = o_g + s_g t; r_MH = s_M / s_H, r_LM = s_L / s_M. The current is not known and differs
between pixels; it cancels.
"""

from hklflow.constants.ramp_process import RampProcess
from hklflow.constants.status import Bit


class CurrentSource(RampProcess):
    """Ratios of medium to high and of low to medium gain, with one current."""

    stages = 3
    failed = Bit.CI2_EVAL_ERROR
