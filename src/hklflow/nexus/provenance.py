"""History of a product: one NXprocess for each stage that contributed, and the calibrations."""

import json
from collections.abc import Sequence
from pathlib import Path

import h5py

from hklflow.base.history import Record, calibrations, diagnoses
from hklflow.formats.hdf5_output import hdf5_output
from hklflow.nexus.entry import add_group, open_entry, text


def write_provenance(path: Path, history: Sequence[Record]) -> None:
    """Store the history of a file; an existing history is replaced."""
    with hdf5_output(path, "r+") as file:
        entry = file["entry"]
        if "workflow" in entry:
            del entry["workflow"]
        workflow = add_group(entry, "workflow", "NXcollection")
        for i, record in enumerate(history):
            process = add_group(workflow, f"process_{i:03d}_{record['stage']}", "NXprocess")
            process["program"] = f"hklflow.stages.{record['stage']}"
            process["version"] = f"{record['version']} (stage {record['stage_version']})"
            process["date"] = record["started"]
            process["sequence_index"] = i
            note = add_group(process, "record", "NXnote")
            note["type"] = "application/json"
            note["data"] = json.dumps(record)
        _write_calibrations(entry, history)


def _write_calibrations(entry: h5py.Group, history: Sequence[Record]) -> None:
    """Store the versions of the calibration store that a product uses."""
    used = calibrations(history)
    if "calibration" in entry:
        del entry["calibration"]
    reasons = diagnoses(history)
    entry.attrs["hklflow_quality"] = "diagnostic" if reasons else "reduced"
    if reasons:
        entry.attrs["hklflow_diagnostic"] = "; ".join(reasons)
    elif "hklflow_diagnostic" in entry.attrs:
        del entry.attrs["hklflow_diagnostic"]
    if not used:
        return
    collection = add_group(entry, "calibration", "NXcollection")
    for item in used:
        name = f"{item['kind']}_{item['state_id']}_v_{item['version']:04d}"
        group = add_group(collection, name, "NXcollection")
        for key, value in item.items():
            group[key] = value if isinstance(value, int | float) else str(value)


def read_provenance(path: Path) -> list[Record]:
    """Return the history of a file, oldest record first; empty if the file has none."""
    with open_entry(path) as entry:
        if "workflow" not in entry:
            return []
        processes = sorted(
            (p for p in entry["workflow"].values() if f"{p.name}/record/data" in p.file),
            key=lambda p: int(p["sequence_index"][()]),
        )
        return [json.loads(text(p["record/data"])) for p in processes]
