"""Common code of the stages: their contract, and products that several stages use."""

from hklflow.stage.along import Along
from hklflow.stage.contract import (
    Inputs,
    Main,
    Outputs,
    Params,
    Record,
    Vectors,
    command,
    fingerprint,
    progress,
    provenance,
    read_json,
    run,
    write_json,
)
from hklflow.stage.products import read_accepted, read_orientation

__all__ = [
    "Along",
    "Inputs",
    "Main",
    "Outputs",
    "Params",
    "Record",
    "Vectors",
    "command",
    "fingerprint",
    "progress",
    "provenance",
    "read_accepted",
    "read_json",
    "read_orientation",
    "run",
    "write_json",
]
