"""Pulse capacitor: charge in equal steps through a capacitor in each pixel, up to medium gain.

A_g(n) = o_g + s_g n; r_MH = s_M / s_H. The capacitance and the voltage of a step cancel.
"""

from hklflow.constants.ramp_process import RampProcess
from hklflow.constants.status import Bit


class PulseCapacitor(RampProcess):
    """Ratio of medium to high gain, from the pulse capacitor."""

    stages = 2
    failed = Bit.CI_EVAL_ERROR
