"""History of a product: one NXprocess for each stage that led to it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from hklflow.nexus.entry import add_group, open_entry, text

Record = dict[str, Any]


def write_provenance(path: Path, history: Sequence[Record]) -> None:
    """Store the history of a file, replacing what it has."""
    with h5py.File(path, "r+") as file:
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


def read_provenance(path: Path) -> list[Record]:
    """History of a file, oldest first; empty if it has none."""
    with open_entry(path) as entry:
        if "workflow" not in entry:
            return []
        processes = sorted(
            (p for p in entry["workflow"].values() if f"{p.name}/record/data" in p.file),
            key=lambda p: int(p["sequence_index"][()]),
        )
        return [json.loads(text(p["record/data"])) for p in processes]
