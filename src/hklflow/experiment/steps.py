"""The table of steps, with inputs, outputs, parameters and conditions of each step.

Rules, targets, planning (`hklflow check`), status and freshness follow from this table. A step has
the same names of inputs and outputs as its stage. The parts of the table are in modules
`hklflow.experiment.steps_*`; those of detector constants and of still frames have levels of their
own.
"""

from hklflow.experiment.step import Step
from hklflow.experiment.steps_frames import CALIBRATIONS, ORIENTATIONS, ROTATIONS
from hklflow.experiment.steps_reflections import REFLECTIONS
from hklflow.experiment.steps_series import TOGETHER
from hklflow.experiment.steps_volumes import VOLUMES

STEPS: tuple[Step, ...] = (
    *CALIBRATIONS,
    *ROTATIONS,
    *ORIENTATIONS,
    *VOLUMES,
    *REFLECTIONS,
    *TOGETHER,
)
"""All steps in the order of the workflow, except the steps of detector constants."""

STRUCTURE_FACTORS = frozenset(step.rule for step in REFLECTIONS)
"""Names of the rules of the average structure; the target `bragg` requests all of them."""
