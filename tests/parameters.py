"""Parameters of one job of an experiment, as its rule tells the stage."""

from typing import Any

from hklflow.experiment.config import Experiment
from hklflow.experiment.jobs import Plan


def params_of(experiment: Experiment, rule: str, *key: str, **more: str) -> Any:
    """Parameters of a job of a sample, a scan and a rotation, as far as its rule has them."""
    at = dict(zip(("sample", "scan", "rotation"), key, strict=False))
    return Plan(experiment).job(rule, **at, **more).params
