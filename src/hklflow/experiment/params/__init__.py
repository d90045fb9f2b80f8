"""What each stage takes from the configuration and the tables: functions with the stages' names."""

from typing import Any

from hklflow.experiment.experiment import Experiment
from hklflow.experiment.step import Wildcards
from hklflow.stage import Params


def section(name: str) -> Any:
    """Parameters that are a section of the configuration, as the scan or sample at hand has it."""

    def params(experiment: Experiment, at: Wildcards) -> Params:
        own: Params = getattr(experiment.settings(at["sample"], at.get("scan")), name)
        return own

    return params


def titled(experiment: Experiment, subject: str, at: Wildcards) -> str:
    """Title of a volume of a scan."""
    temperature = experiment.scans[at["sample"], at["scan"]].temperature
    kelvin = "" if temperature is None else f" at {temperature:g} K"
    kind = MASKED[at["kind"]]
    return f"{subject}{at['sample']} {at['scan']}{kelvin}{kind}{quick_look(experiment)}"


def quick_look(experiment: Experiment) -> str:
    """End of the titles of a quick look."""
    b = experiment.config.binning
    return "" if b == 1 else f", binned {b} x {b}"


MASKED = {"transform": "", "masked_transform": ", 3-D masked"}
MASKED |= {f"symm_{kind}": f", symmetrised{masked}" for kind, masked in MASKED.items()}
"""Kind of volume -> how titles name it."""
