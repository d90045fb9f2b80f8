"""History of a product: one NXprocess for each stage that contributed, and the calibrations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from hklflow.formats.hdf5_output import hdf5_output
from hklflow.nexus.entry import add_group, open_entry, text

Record = dict[str, Any]


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
    entry.attrs["hklflow_quality"] = quality(used)
    if not used:
        return
    collection = add_group(entry, "calibration", "NXcollection")
    for item in used:
        name = f"{item['kind']}_{item['state_id']}_v_{item['version']:04d}"
        group = add_group(collection, name, "NXcollection")
        for key, value in item.items():
            group[key] = value if isinstance(value, int | float) else str(value)


def calibrations(history: Sequence[Record]) -> list[Record]:
    """Return the versions of the calibration store in a history, each version once.

    A version that was used with two statuses (because it was superseded between) gets both
    statuses, and the worse quality.
    """
    versions: dict[tuple[str, str, int], Record] = {}
    for record in history:
        for item in record.get("calibrations", []):
            key = (item["kind"], item["state_id"], item["version"])
            known = versions.setdefault(key, dict(item))
            if item["status"] not in known["status"].split(", "):
                known["status"] += f", {item['status']}"
            if item["quality"] == "diagnostic":
                known["quality"] = "diagnostic"
    return list(versions.values())


def quality(used: Sequence[Record]) -> str:
    """Return `diagnostic` if a used calibration was not accepted, else `reduced`."""
    diagnostic = any(item["quality"] == "diagnostic" for item in used)
    return "diagnostic" if diagnostic else "reduced"


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
