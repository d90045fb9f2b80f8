"""What stages share: the contract of each, and products that several of them use."""

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

__all__ = [
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
    "read_json",
    "run",
    "write_json",
]
