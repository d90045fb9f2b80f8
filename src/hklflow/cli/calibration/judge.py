"""Decisions with author and reason: `hklflow calibration accept | reject | withdraw | copy`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.cli.calibration.target import Entry, Target, in_words, target

if TYPE_CHECKING:
    from hklflow.calibration.store import Candidate, Version


@Parameter(name="*")
@dataclass(frozen=True)
class Decision:
    """Options of every command that records a decision."""

    author: str
    """Name of the person who decides."""
    comments: str
    """Reason for the decision."""


# A rejected candidate keeps its metrics and report; its pictures are removed.
_KEPT_OF_REJECTED = (".json", ".html")


def accept(
    name: str,
    /,
    *,
    applies_to: str | None = None,
    decision: Decision,
    override_gate: tuple[str, ...] = (),
    reason: str = "",
    supersede: tuple[int, ...] = (),
    allow_overlap: bool = False,
    entry: Entry = Entry(),
) -> None:
    """Publish a candidate as the next version, and use the version for certain runs or scans.

    Example: `hklflow calibration accept morning --applies-to ">=1040" --author "M. Curie"
    --comments "after the refill"`; `hklflow calibration accept morning/02 --applies-to
    "quartz/*; 20..40" ...`

    Parameters
    ----------
    name
        Candidate (`name`: its last iteration, `name/02`: its second), or a proposed version.
    applies_to
        Runs and scans: `1040`, `>=1040`, `20..40`, `quartz/*`, `kvs_*K`; a comma means "and", a
        semicolon "or".
    override_gate
        Names of failed gates that are accepted.
    reason
        Reason to accept the failed gates.
    supersede
        Numbers of accepted versions that the new version replaces.
    allow_overlap
        Accept the version even if another accepted version applies to the same runs or scans; the
        version with the higher number is used.
    """
    from hklflow.calibration.store import Candidate

    to = entry.target()
    before = _used(to)
    item = to.item(name)
    if applies_to is None and isinstance(item, Candidate):
        raise HklflowError(
            "give the runs or scans with --applies-to, such as '>=1040' or 'quartz/*'"
        )
    overridden = _overridden(_gates_of(item), override_gate, reason, in_words(item))
    _check_none_is_lost(to, item, applies_to, supersede)
    version = _accepted(
        to, item, applies_to, overridden, **asdict(decision), supersede=supersede,
        allow_overlap=allow_overlap,
    )  # fmt: skip
    print(f"{in_words(item)} is accepted as {version.name} for {version.applies_to}")
    after = _used(target(entry.directory, to.name))
    changed = [key for key in {**before, **after} if after.get(key) != before.get(key)]
    for key in changed:
        print(f"  {' '.join(key)}: {before.get(key, 'none')} -> {after.get(key, 'none')}")
    print(
        f"{len(changed)} rotations will be reduced again; if one belongs to a parent, its children "
        "will be refined again, too"
    )
    stills = [k for k, e in to.experiment.config.stills.items() if e.calibration == to.name]
    if stills:
        print(f"still frames with this calibration: {', '.join(stills)}")


def _accepted(
    to: Target,
    item: "Version | Candidate",
    applies_to: str | None,
    overridden: list[dict[str, Any]],
    **decision: Any,
) -> "Version":
    """Publish a candidate as accepted, or accept a proposed version."""
    from hklflow.calibration.store import Version

    if isinstance(item, Version):
        if applies_to is not None:
            raise HklflowError(
                f"{item.name} is published already, for {item.applies_to}; --applies-to is for "
                "candidates"
            )
        # The record of a candidate cannot be changed; overridden gates are written into the
        # comments.
        note = "".join(f" ({gate['name']} overridden: {gate['reason']})" for gate in overridden)
        decision["comments"] += note
        return to.store.set_status(item, "accepted", **decision)
    record = _record(item) | {"overriddenGates": overridden}
    return to.store.publish(
        to.state, item.files(), record, status="accepted", applies_to=applies_to, **decision
    )


def reject(
    name: str,
    /,
    *,
    decision: Decision,
    entry: Entry = Entry(),
) -> None:
    """Reject a candidate: it becomes a numbered version that keeps its metrics and report.

    Example: `hklflow calibration reject morning --author "M. Curie" --comments "rings are spotty"`

    Parameters
    ----------
    name
        Candidate (`name`: its last iteration, `name/02`: its second), or a proposed version.
    """
    from hklflow.calibration.store import Version

    to = entry.target()
    candidate = to.item(name)
    if isinstance(candidate, Version):
        to.store.set_status(candidate, "rejected", **asdict(decision))
        print(f"{candidate.name} is rejected")
        return
    for version in to.versions():
        known = version.record.get("candidate") or {}
        same = (known.get("name"), known.get("iteration")) == (candidate.name, candidate.iteration)
        if same and version.status == "accepted":
            raise HklflowError(
                f"{in_words(candidate)} is accepted as {version.name}; stop its use with `hklflow "
                f"calibration withdraw {version.number}`"
            )
    kept = {n: p for n, p in candidate.files().items() if p.suffix in _KEPT_OF_REJECTED}
    version = to.store.publish(
        to.state, kept, _record(candidate), status="rejected", **asdict(decision),
        applies_to=None,
    )  # fmt: skip
    print(f"{in_words(candidate)} is rejected, see {version.path}")


def withdraw(
    version: str,
    /,
    *,
    decision: Decision,
    entry: Entry = Entry(),
) -> None:
    """Stop the use of an accepted version; `affected` lists the products made with the version.

    Example: `hklflow calibration withdraw 3 --author "M. Curie" --comments "the stage had moved"`

    Parameters
    ----------
    version
        Number of the version.
    """
    to = entry.target()
    item = to.version(version)
    to.store.withdraw(item, **asdict(decision))
    print(f"{item.path.name} is withdrawn; `hklflow calibration affected {item.number}` lists "
          "what was made with it")  # fmt: skip


def copy(
    version: str,
    /,
    *,
    to: str,
    applies_to: str,
    decision: Decision,
    entry: Entry = Entry(),
) -> None:
    """Copy a version to the state of another entry, as a proposed version.

    Example: `hklflow calibration copy 3 --to beamline-66keV --applies-to "quartz/*" --author
    "M. Curie" --comments "the same stage"`

    Parameters
    ----------
    version
        Number of the version.
    to
        Entry of `calibrations` that receives the copy.
    applies_to
        Runs and scans to which the copy applies.
    """
    from hklflow import stage
    from hklflow.cli.calibration.of_state import check_state

    source, goal = entry.target(), target(entry.directory, to)
    source.require("geometry")
    original = source.version(version)
    geometry = original.artefact("geometry.json")
    check_state(goal, stage.read_json(geometry), geometry)
    copied = goal.store.copy(original, goal.state, **asdict(decision), applies_to=applies_to)
    print(
        f"{original.name} of {source.name} is proposed as {copied.name} of {goal.name}; accept it "
        f"with `hklflow calibration accept {copied.name} --calibration {goal.name} ...`"
    )


def _gates_of(item: "Version | Candidate") -> list[Mapping[str, Any]]:
    """Return the gates of a candidate or proposed version.

    A copied version has a single failed gate, because its own gates were tested in another state.
    """
    gates: list[Mapping[str, Any]] = list(item.record.get("gates", []))
    if not gates:
        raise HklflowError(f"{in_words(item)} has no gates, so its quality is unknown; propose "
                           "it again")  # fmt: skip
    if item.record.get("copiedFrom"):
        donor = item.record["copiedFrom"]
        origin = f"it was measured in another state, {donor['stateId']}; its number there is"
        return [
            {"name": "copied", "value": None, "limit": None, "passed": False,
             "sentence": f"{origin} {donor['version']}"}
        ]  # fmt: skip
    return gates


def _check_none_is_lost(
    to: Target, item: "Version | Candidate", applies_to: str | None, supersede: tuple[int, ...]
) -> None:
    """Raise an error if a rotation would have no version after a version is superseded."""
    from hklflow.calibration import applies

    text = item.record.get("appliesTo") if applies_to is None else applies_to
    new = applies.parse(str(text))
    left = [
        applies.parse(version.applies_to or "")
        for version in to.versions()
        if version.status == "accepted" and version.number not in supersede
    ]
    lost = []
    for key, name in _used(to).items():
        scan, row = f"{key[0]}/{key[1]}", to.experiment.rotation(*key)
        gone = int(name.removeprefix("v_")) in supersede and to.entry.pin is None
        if gone and not any(
            expression.covers(scan, row.run, row.day) for expression in (new, *left)
        ):
            lost.append(" ".join(key))
    if lost:
        raise HklflowError(
            f"{', '.join(lost)} would be left without a version: the superseded version applies to "
            f"them, `{new.text}` does not; give --allow-overlap instead of --supersede, or apply "
            "it to more"
        )


def _overridden(
    gates: "list[Mapping[str, Any]]", given: tuple[str, ...], reason: str, name: str
) -> list[dict[str, Any]]:
    """Return the failed gates that the user accepts; raise an error if another gate failed."""
    failed = {str(gate["name"]): gate for gate in gates if not gate["passed"]}
    if unknown := [gate for gate in given if gate not in failed]:
        raise HklflowError(
            f"{', '.join(unknown)} did not fail; of {name} failed {', '.join(failed) or 'none'}"
        )
    if given and not reason.strip():
        raise HklflowError("--override-gate needs a --reason")
    if missed := [gate for gate in failed if gate not in given]:
        reasons = "; ".join(str(failed[gate]["sentence"]) for gate in missed)
        raise HklflowError(
            f"{name} cannot be accepted: {reasons}; make another iteration, or give "
            f"--override-gate {' '.join(missed)} --reason ..."
        )
    return [{"name": gate, "value": failed[gate]["value"], "reason": reason} for gate in given]


def _record(candidate: "Candidate") -> dict[str, Any]:
    """Return the record of a candidate without the keys that the store writes."""
    from hklflow.calibration.records import OWNED

    kept = {key: value for key, value in candidate.record.items() if key not in OWNED}
    return kept | {"proposedBy": candidate.record["author"]}


def _used(to: Target) -> dict[tuple[str, str, str], str]:
    """Return the version of each rotation that uses the entry; rotations without one are absent."""
    versions = {}
    experiment = to.experiment
    for key in experiment.all_rotations():
        if experiment.stored_name(*key, to.kind) == to.name:
            try:
                versions[key] = experiment.version(*key, to.kind).name
            except HklflowError:
                continue  # `hklflow calibration apply` reports the reason
    return versions
