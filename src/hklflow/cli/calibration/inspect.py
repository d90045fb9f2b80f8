"""Inspection of the store: `hklflow calibration list`, `show`, `apply`, `affected`, `states` ..."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow.base.errors import HklflowError
from hklflow.calibration.kinds import KINDS
from hklflow.cli.calibration.target import Entry, in_words
from hklflow.cli.options import AsJson, Directory

if TYPE_CHECKING:
    from hklflow.experiment.config import Experiment


def list_all(*, json_: AsJson = False, entry: Entry = Entry()) -> None:
    """List the versions and candidates of a state in a tab-separated table.

    Example: `hklflow calibration list`; `hklflow calibration list --json`

    """
    from hklflow.calibration.store import Candidate, Version

    to = entry.target()
    columns = ("name", "status", "applies_to", "author", "date", "failed_gates", "comments")
    rows = []
    items: list[Version | Candidate] = [*to.versions()]
    items += to.store.candidates(to.state.kind, to.state.id)
    for item in items:
        record = item.record
        failed = [gate["name"] for gate in record.get("gates", []) if not gate["passed"]]
        rows.append(
            (
                in_words(item),
                getattr(item, "status", "candidate"),
                record.get("appliesTo") or "",
                record.get("author") or "",
                record.get("timestamp") or "",
                ",".join(failed),
                record.get("comments") or "",
            )
        )
    _print(columns, rows, json_)


def show(name: str, /, *, json_: bool = False, entry: Entry = Entry()) -> None:
    """Show the record, the gates and the folder of a version or candidate.

    Example: `hklflow calibration show v_0003`; `hklflow calibration show morning/02 --json`

    Parameters
    ----------
    name
        `v_0003`, or the name of a candidate; `name` is its last iteration, `name/02` its second.
    json_
        Print the whole record as JSON.
    """
    to = entry.target()
    item = to.item(name)
    status = getattr(item, "status", "candidate")
    if json_:
        print(json.dumps({**item.record, "status": status, "path": str(item.path)}, indent=1))
        return
    print(f"{in_words(item)} of {to.name}, state {to.state.id}: {status}")
    for key, value in item.record.items():
        if isinstance(value, str | int | float) and value != "":
            print(f"  {key:20s} {' '.join(str(value).split())}")
    for gate in item.record.get("gates", []):
        print(f"  {'passed' if gate['passed'] else 'FAILED':20s} {gate['sentence']}")
    print(f"  {'folder':20s} {item.path}")


def apply(
    scan: str | None = None, /, *, json_: AsJson = False, directory: Directory = Path()
) -> None:
    """List the version that each rotation is reduced with, and the reason; nothing is changed.

    Example: `hklflow calibration apply quartz/100K`; `hklflow calibration apply --json`

    Parameters
    ----------
    scan
        `sample/scan`. Default: all scans.
    """
    from hklflow.cli.folder import experiment as folder_of
    from hklflow.experiment.config import load

    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    keys = [key for key in experiment.all_rotations() if scan in (None, f"{key[0]}/{key[1]}")]
    if not keys:
        raise HklflowError(f"there is no scan {scan!r}; scans are named `sample/scan`")
    rows = [
        (*key, experiment.stored_name(*key, kind), *_why(experiment, key, kind))
        for key in keys
        for kind in KINDS
        if kind == "geometry" or experiment.stored_name(*key, kind)
    ]
    _print(("sample", "scan", "rotation", "calibration", "version", "why"), rows, json_)


def _why(experiment: "Experiment", key: tuple[str, str, str], kind: str) -> tuple[str, str]:
    """Return the version of a rotation's calibration of a kind, and the reason."""
    from hklflow.experiment.normalization import newer_geometry

    name = experiment.stored_name(*key, kind)
    if not name:
        return "", "from the raw file"
    if experiment.stored_kinds.get(name) != kind:
        return "", f"calibration {name}" if kind == "geometry" else f"constants {name}"
    try:
        version = experiment.version(*key, kind)
    except HklflowError as error:
        return "", str(error)
    why = f"highest accepted that applies ({version.record.get('appliesTo')})"
    if experiment.stored(name).pin is not None:
        why = "pinned in the configuration"
    elif version.number == 0:
        why = "the set-points: no accepted version applies"
    newer = newer_geometry(experiment, key) if kind == "normalization" else None
    return version.path.name, why if newer is None else f"{why}; {newer}"


def affected(
    version: str,
    /,
    *,
    json_: AsJson = False,
    entry: Entry = Entry(),
) -> None:
    """List the products that were made with a version.

    Example: `hklflow calibration affected 3`

    Parameters
    ----------
    version
        Number of the version.
    """
    from hklflow import stage
    from hklflow.nexus import calibrations

    to = entry.target()
    used_version = to.version(version)
    results = to.experiment.base / to.experiment.paths.folder
    rows = []
    for path in sorted([*results.rglob("*.nxs"), *results.rglob("*.json")]):
        if path.name.startswith("."):
            continue
        try:
            history = stage.provenance(path)
        except HklflowError as error:
            print(f"warning: {error}", file=sys.stderr)
            continue
        for used in calibrations(history):
            if (used["kind"], used["state_id"], used["version"]) == (
                used_version.kind, used_version.state_id, used_version.number,
            ):  # fmt: skip
                rows.append((str(path.relative_to(to.experiment.base)), used["status"]))
    _print(("product", "status_at_use"), rows, json_)


def states(*, json_: AsJson = False, directory: Directory = Path()) -> None:
    """Show the state of every stored calibration, and the set-points that define a state.

    Example: `hklflow calibration states`

    """
    from hklflow.calibration.states import read_schema
    from hklflow.cli.folder import experiment as folder_of
    from hklflow.experiment.config import load

    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    rows: list[Sequence[Any]] = []
    for name in experiment.stored_kinds:
        state = experiment.state(name)
        rows.append((name, state.id, json.dumps(state.values)))
        for warning in state.warnings:
            print(f"warning: {name}: {warning}", file=sys.stderr)
    _print(("calibration", "state", "set-points"), rows, json_)
    if json_:
        return
    columns = ("set-point", "unit", "step", "needed", "meaning")
    # Entries may have different schemas.
    schemas = {
        (kind, experiment.stored(name).state_schema)
        for name, kind in experiment.stored_kinds.items()
    } or {("geometry", None)}
    for kind, schema in sorted(schemas, key=str, reverse=True):
        print()
        keys = read_schema(schema and experiment.base / schema).keys.items()
        _print(columns, [(name, key.unit or "", "exact" if key.step is None else key.step,
                          kind in key.required, key.description) for name, key in keys
                         if kind in key.kinds], json_)  # fmt: skip


def reindex(*, dry_run: bool = False, entry: Entry = Entry()) -> int:
    """Rebuild the indices of a store from its records; exit code 1 if there is a problem.

    Example: `hklflow calibration reindex --dry-run`

    Parameters
    ----------
    dry_run
        Print the changes, but change nothing.
    """
    to = entry.target()
    report = to.store.reindex(dry_run=dry_run)
    would = "would be " if dry_run else ""
    for path in report.rebuilt:
        print(f"{path} {would}made again")
    for path in report.removed:
        print(f"{path} {would}removed: a killed process had left it")
    for problem in report.problems:
        print(problem)
    return 1 if report.problems else 0


def verify(*, entry: Entry = Entry()) -> int:
    """Compare all records and files of a store with their checksums; exit code 1 if any differ.

    Example: `hklflow calibration verify`

    """
    to = entry.target()
    problems = to.store.verify()
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems in {to.store.root}")
    return 1 if problems else 0


def _print(columns: Sequence[str], rows: Iterable[Sequence[Any]], as_json: bool) -> None:
    """Print rows separated by tabs, or a JSON list of objects."""
    rows = list(rows)
    if as_json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
        return
    print("\t".join(columns))
    for row in rows:
        print("\t".join(" ".join(str(value).split()) for value in row))
