"""Functions that take the parameters of each stage from the configuration and the tables.

Each function has the name of its stage.
"""

from typing import Any

from hklflow.experiment.experiment import Experiment
from hklflow.experiment.step import Wildcards
from hklflow.stage import Params


def section(name: str) -> Any:
    """Return a function that returns a section of the configuration of a scan or sample."""

    def params(experiment: Experiment, at: Wildcards) -> Params:
        own: Params = getattr(experiment.settings(at["sample"], at.get("scan")), name)
        return own

    return params


def titled(experiment: Experiment, subject: str, at: Wildcards) -> str:
    """Return the title of a volume of a scan."""
    value, axis = experiment.scans[at["sample"], at["scan"]].value, experiment.axis(at["sample"])
    place = "" if value is None else f" at {axis.at(value)}"
    kind = MASKED[at["kind"]]
    return f"{subject}{at['sample']} {at['scan']}{place}{kind}{quick_look(experiment)}"


def quick_look(experiment: Experiment) -> str:
    """Return the end of all titles if frames are binned; else an empty text."""
    b = experiment.config.binning
    return "" if b == 1 else f", binned {b} x {b}"


MASKED = {"transform": "", "masked_transform": ", 3-D masked"}
MASKED |= {f"symm_{kind}": f", symmetrised{masked}" for kind, masked in MASKED.items()}
"""Map from the kind of volume to its name in titles."""
