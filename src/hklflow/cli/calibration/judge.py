"""Decisions, with a name and a reason: `hklflow calibration accept | reject | withdraw | copy`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow.cli.calibration.target import Target, in_words, target
from hklflow.errors import HklflowError

if TYPE_CHECKING:
    from hklflow.calibration.store import Candidate, Version

# A rejected candidate keeps what people read, not what programs would use.
_KEPT_OF_REJECTED = (".json", ".html")


def accept(
    name: str,
    /,
    *,
    applies_to: str | None = None,
    author: str,
    comments: str,
    override_gate: tuple[str, ...] = (),
    reason: str = "",
    supersede: tuple[int, ...] = (),
    allow_overlap: bool = False,
    calibration: str | None = None,
    directory: Path = Path(),
) -> None:
    """Publish a candidate as the next version, to be used for the runs that it applies to.

    Example: `hklflow calibration accept morning --applies-to ">=1040" --author "M. Curie"
    --comments "after the refill"`; `hklflow calibration accept morning/02 --applies-to
    "quartz/*; 20..40" ...`

    Parameters
    ----------
    name
        Candidate, its last iteration unless `name/02` says which; or a version that is proposed.
    applies_to
        Runs and scans: `1040`, `>=1040`, `20..40`, `quartz/*`, `kvs_*K`; a comma is "and", a
        semicolon "or".
    author
        Who decides.
    comments
        Why.
    override_gate
        Gates that may be missed.
    reason
        Why they may.
    supersede
        Accepted versions that this one takes the place of.
    allow_overlap
        Let it apply where another accepted version does; the higher number is used.
    calibration
        Entry of `calibrations` in config.yaml; not needed where only one has a store.
    directory
        Folder of the experiment.
    """
    to = target(directory, calibration)
    before = _used(to)
    item = to.item(name)
    if applies_to is None and in_words(item) != item.path.name:
        raise HklflowError(
            "say --applies-to: which runs or scans it is for, as '>=1040' or 'quartz/*'"
        )
    # What was overridden when it was published need not be said again.
    known = {gate["name"] for gate in item.record.get("overriddenGates", [])}
    gates = [gate for gate in item.record.get("gates", []) if gate["name"] not in known]
    overridden = _overridden(gates, override_gate, reason, in_words(item))
    version = _accepted(
        to, item, applies_to, overridden, author=author, comments=comments, supersede=supersede,
        allow_overlap=allow_overlap,
    )  # fmt: skip
    print(f"{in_words(item)} is accepted as {version.name} for {version.applies_to}")
    after = _used(target(directory, to.name))
    changed = [key for key in after if after[key] != before.get(key)]
    for key in changed:
        print(f"  {' '.join(key)}: {before.get(key, 'none')} -> {after[key]}")
    print(f"{len(changed)} rotations will be reduced anew")


def _accepted(
    to: Target,
    item: "Version | Candidate",
    applies_to: str | None,
    overridden: list[dict[str, Any]],
    **decision: Any,
) -> "Version":
    """Publish a candidate as accepted, or accept a version that was proposed."""
    from hklflow.calibration.store import Version

    if isinstance(item, Version):
        if applies_to is not None or overridden:
            raise HklflowError(
                f"{item.name} is published already, for {item.applies_to}; --applies-to and "
                "--override-gate are for candidates"
            )
        return to.store.set_status(item, "accepted", **decision)
    record = _record(item) | {"overriddenGates": overridden}
    return to.store.publish(
        to.state, item.files(), record, status="accepted", applies_to=applies_to, **decision
    )


def reject(
    name: str,
    /,
    *,
    author: str,
    comments: str,
    calibration: str | None = None,
    directory: Path = Path(),
) -> None:
    """Record that a candidate was refused: it gets a number, and keeps its figures and report.

    Example: `hklflow calibration reject morning --author "M. Curie" --comments "rings are spotty"`

    Parameters
    ----------
    name
        Candidate, its last iteration unless `name/02` says which.
    author
        Who decides.
    comments
        Why.
    calibration
        Entry of `calibrations` in config.yaml; not needed where only one has a store.
    directory
        Folder of the experiment.
    """
    to = target(directory, calibration)
    candidate = to.candidate(name)
    kept = {n: p for n, p in candidate.files().items() if p.suffix in _KEPT_OF_REJECTED}
    version = to.store.publish(
        to.state, kept, _record(candidate), status="rejected", author=author, comments=comments,
        applies_to=None,
    )  # fmt: skip
    print(f"{in_words(candidate)} is rejected, see {version.path}")


def withdraw(
    version: str,
    /,
    *,
    author: str,
    comments: str,
    calibration: str | None = None,
    directory: Path = Path(),
) -> None:
    """Stop the use of an accepted version; `affected` lists what was made with it.

    Example: `hklflow calibration withdraw 3 --author "M. Curie" --comments "the stage had moved"`

    Parameters
    ----------
    version
        Number of the version.
    author
        Who decides.
    comments
        Why.
    calibration
        Entry of `calibrations` in config.yaml; not needed where only one has a store.
    directory
        Folder of the experiment.
    """
    to = target(directory, calibration)
    found = to.version(version)
    to.store.withdraw(found, author=author, comments=comments)
    print(f"{found.path.name} is withdrawn; `hklflow calibration affected {found.number}` lists "
          "what was made with it")  # fmt: skip


def copy(
    version: str,
    /,
    *,
    to: str,
    applies_to: str,
    author: str,
    comments: str,
    calibration: str | None = None,
    directory: Path = Path(),
) -> None:
    """Copy a version into the state of another entry, as a proposal that is still to be accepted.

    Example: `hklflow calibration copy 3 --to beamline-66keV --applies-to "quartz/*" --author
    "M. Curie" --comments "the same stage"`

    Parameters
    ----------
    version
        Number of the version.
    to
        Entry of `calibrations` that gets it.
    applies_to
        Runs and scans that it is for there.
    author
        Who decides.
    comments
        Why.
    calibration
        Entry that has it; not needed where only one has a store.
    directory
        Folder of the experiment.
    """
    source, goal = target(directory, calibration), target(directory, to)
    found = source.version(version)
    copied = goal.store.copy(
        found, goal.state, author=author, comments=comments, applies_to=applies_to
    )
    print(
        f"{found.name} of {source.name} is proposed as {copied.name} of {goal.name}; accept it "
        f"with `hklflow calibration accept {copied.name} --calibration {goal.name} ...`"
    )


def _overridden(
    gates: "list[Mapping[str, Any]]", given: tuple[str, ...], reason: str, name: str
) -> list[dict[str, Any]]:
    """Gates that were missed and may be; raises if others were missed, too."""
    failed = {str(gate["name"]): gate for gate in gates if not gate["passed"]}
    if unknown := [gate for gate in given if gate not in failed]:
        raise HklflowError(
            f"{', '.join(unknown)} did not fail; of {name} failed {', '.join(failed) or 'none'}"
        )
    if given and not reason.strip():
        raise HklflowError("--override-gate needs its --reason")
    if missed := [gate for gate in failed if gate not in given]:
        told = "; ".join(str(failed[gate]["sentence"]) for gate in missed)
        raise HklflowError(
            f"{name} cannot be accepted: {told}; make another iteration, or say "
            f"--override-gate {' '.join(missed)} --reason ..."
        )
    return [{"name": gate, "value": failed[gate]["value"], "reason": reason} for gate in given]


def _record(candidate: "Candidate") -> dict[str, Any]:
    """Record of a candidate without what the store says itself."""
    from hklflow.calibration.records import OWNED

    kept = {key: value for key, value in candidate.record.items() if key not in OWNED}
    return kept | {"proposedBy": candidate.record["author"]}


def _used(to: Target) -> dict[tuple[str, str, str], str]:
    """Version of each rotation that uses the entry; none where there is none."""
    found = {}
    experiment = to.experiment
    for key in experiment.all_rotations():
        if experiment.rotation(*key).calibration == to.name:
            try:
                found[key] = experiment.version(*key).name
            except HklflowError:
                continue  # `apply` says why
    return found
