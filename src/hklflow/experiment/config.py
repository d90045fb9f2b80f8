"""Names that users of an experiment need: configuration layers, tables and their functions."""

from hklflow.experiment.experiment import Experiment
from hklflow.experiment.flags import files, flags
from hklflow.experiment.layers import Layer, merged, read_yaml, setters, value_in
from hklflow.experiment.load import load, require_own_frames
from hklflow.experiment.models import (
    Calibration,
    Config,
    PoniFile,
    PowderImage,
    Simulation,
    StoredGeometry,
)
from hklflow.experiment.simulated import simulated_raws, simulation_description
from hklflow.experiment.tables import Rotation, Sample, Scan

__all__ = [
    "Calibration",
    "Config",
    "Experiment",
    "Layer",
    "PoniFile",
    "PowderImage",
    "Rotation",
    "Sample",
    "Scan",
    "Simulation",
    "StoredGeometry",
    "files",
    "flags",
    "load",
    "merged",
    "read_yaml",
    "require_own_frames",
    "setters",
    "simulated_raws",
    "simulation_description",
    "value_in",
]
