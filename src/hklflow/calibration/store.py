"""The store of calibrations: versions that never change, and the choice of one for a scan.

A version is built beside its place and gets its number by the rename that publishes it: no
lock is needed, readers see all of it or nothing. Everything is decided by the numbers and the
status of versions, nothing by a clock. See `layout.store_path` for the tree.
"""

import os
import pwd
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hklflow.calibration import applies, candidates, disk, index, layout, records, statuses
from hklflow.calibration.candidates import Candidate
from hklflow.calibration.index import Report
from hklflow.calibration.records import Version, calibration_of
from hklflow.calibration.states import State
from hklflow.errors import HklflowError

__all__ = ["Candidate", "Report", "Store", "Version", "calibration_of"]

# What a version must have to be of use, by kind.
_NEEDED = {"geometry": ("geometry.json",)}


class Store:
    """A store of calibrations.

    Parameters
    ----------
    root : Path
        Its folder; it is made by `init`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: set[tuple[Path, str, str, str]] = set()

    # ------------------------------------------------------------------- reading

    def state(self, kind: str, state_id: str) -> State:
        """State that `init` stored.

        Raises
        ------
        HklflowError
            If it was never initialised, or its file is damaged.
        """
        path = self._path(kind, state_id, file=layout.STATE)
        if not path.is_file():
            raise HklflowError(
                f"the store {self.root} does not know the state {state_id} of the {kind} "
                "calibration; run `hklflow calibration init SCAN` with a scan of this state"
            )
        data = disk.read_object(path)
        try:
            return State(
                kind,
                state_id,
                data["values"],
                data["steps"],
                data["schema"],
                (),
                data["canonical"],
            )
        except KeyError as error:
            raise HklflowError(f"{path} lacks {error}; restore it") from error

    def version(self, kind: str, state_id: str, number: int) -> Version:
        """One version; HklflowError if there is none of this number or it is damaged."""
        path = self._path(kind, state_id, version=number)
        if not os.path.lexists(path):
            numbers = layout.version_numbers(path.parent)
            there = ", ".join(map(str, numbers)) or "none"
            raise HklflowError(
                f"there is no version {number} of {kind}/{state_id} in {self.root} (there are: "
                f"{there}); `hklflow calibration list` shows them"
            )
        return records.read_version(path)

    def versions(self, kind: str, state_id: str) -> list[Version]:
        """Every version that can be read, by number; `verify` names those that cannot."""
        found = []
        for number in layout.version_numbers(self._path(kind, state_id)):
            try:
                found.append(self.version(kind, state_id, number))
            except HklflowError:
                continue
        return found

    def states(self) -> list[tuple[str, str]]:
        """(kind, state id) of every state."""
        return layout.state_folders(self.root)

    def resolve(
        self,
        kind: str,
        state_id: str,
        *,
        scan: str,
        run: int | None,
        pin: int | None = None,
        allow_default: bool = False,
    ) -> Version:
        """Version for a scan: the pinned one, else the accepted one of the highest number.

        Two processes that accept at the same moment may both pass the check for overlaps. The
        choice is clear all the same: of two that cover a scan the higher number is taken.

        Parameters
        ----------
        kind, state_id : str
        scan : str
            Written as sample/scan.
        run : int or None
            Run number, where the table of scans has one.
        pin : int, optional
            Version that the configuration names; it need not apply to the scan, but must be
            accepted or superseded.
        allow_default : bool
            Whether version 0, which nobody has refined, may be taken.

        Raises
        ------
        HklflowError
            If there is none (with the commands to run), or if a damaged version may be the one.
        """
        self.state(kind, state_id)
        if pin is not None:
            return self._pinned(kind, state_id, pin, allow_default)
        told = []
        for number in reversed(layout.version_numbers(self._path(kind, state_id))):
            path = self._path(kind, state_id, version=number)
            try:
                status = statuses.current(path)
                if status == "default" and allow_default:
                    return self.version(kind, state_id, number)
                if status != "accepted":
                    told.append(f"{path.name} is {status}")
                    continue
                version = self.version(kind, state_id, number)
                expression = applies.parse(version.applies_to or "")
            except HklflowError as error:
                raise HklflowError(
                    f"{error}; {path.name} may be the one for {scan}: "
                    "run `hklflow calibration verify` and restore it"
                ) from error
            if expression.covers(scan, run):
                return version
            told.append(f"{path.name} applies to `{expression.text}`")
        raise HklflowError(
            f"no accepted {kind} calibration of state {state_id} in {self.root} covers {scan}"
            f"{'' if run is None else f' (run {run})'}: {', '.join(told) or 'there is none'}; "
            "make one with `hklflow calibration propose` and `hklflow calibration accept NAME "
            "--applies-to EXPR`, or set `allow_default: true` for a diagnostic reduction"
        )

    def _pinned(self, kind: str, state_id: str, pin: int, allow_default: bool) -> Version:
        version = self.version(kind, state_id, pin)
        if version.status in ("accepted", "superseded"):
            return version
        if version.status == "default":
            if allow_default:
                return version
            raise HklflowError(
                f"pin: {version.path} is the default, which nobody has refined; "
                "set `allow_default: true` for a diagnostic reduction, or pin an accepted version"
            )
        raise HklflowError(
            f"pin: {version.path} is {version.status}, so it cannot be used; pin an accepted "
            "version (`hklflow calibration list`) or none"
        )

    # ------------------------------------------------------------------- writing

    def init(
        self, state: State, files: Mapping[str, Path], *, author: str, comments: str
    ) -> Version:
        """Make the folder of a state, with version 0: a geometry that nobody has refined.

        Raises
        ------
        HklflowError
            If the state has been initialised, or its id is an alias.
        """
        folder = self._path(state.kind, state.id)
        if state.alias_of is not None:
            raise HklflowError(
                f"state {state.alias_of} is an alias of {state.id}; use that, or remove the alias"
            )
        if os.path.lexists(self._path(state.kind, state.id, version=0)):
            raise HklflowError(f"{folder} has been initialised; propose a calibration for it")
        event = statuses.event("default", author, comments)
        described = {
            "id": state.id,
            "kind": state.kind,
            "schema": state.schema,
            "values": state.values,
            "steps": state.steps,
            "canonical": state.canonical,
        }
        with disk.telling(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            disk.claim_file(folder / layout.STATE, disk.json_bytes(described, layout.STATE))
        return self._write(state, files, {}, event, applies_to=None, number=0)

    def publish(
        self,
        state: State,
        files: Mapping[str, Path],
        record: Mapping[str, Any],
        *,
        status: str,
        author: str,
        comments: str,
        applies_to: str | None,
        supersede: Iterable[int] = (),
        allow_overlap: bool = False,
    ) -> Version:
        """Publish a version; its number is the next one that is free.

        Parameters
        ----------
        state : State
            It must have been initialised.
        files : mapping
            Name in the version's folder -> file that is copied. ``parameters.json`` must be
            there; the number of the version is added to it.
        record : mapping
            What is known of it, see `records.Record`; the store fills `records.OWNED`.
        status : {"proposed", "accepted", "rejected"}
        author, comments : str
            Who, and why; neither may be empty.
        applies_to : str or None
            Scans that it is for, see `applies`; None only if it is rejected.
        supersede : iterable of int
            Accepted versions that this one replaces. They get their status after this one can
            be seen, so that no scan is ever without a version.
        allow_overlap : bool
            Whether an accepted version may be for the same scans as this one. The higher number
            is then taken. (Of two overlapping versions accepted at the same moment neither may
            see the other; see `resolve`.)

        Raises
        ------
        HklflowError
            If anything is missing or malformed, overlaps, or cannot be written.
        """
        if status not in ("proposed", "accepted", "rejected"):
            raise HklflowError(
                f"a version is published as proposed, accepted or rejected, not as {status!r}"
            )
        self.state(state.kind, state.id)
        if applies_to is None and status != "rejected":
            raise HklflowError(f"a version that is {status} must say which scans it applies to")
        replaced = list(supersede)
        if status == "accepted":
            self._check_accept(state.kind, state.id, applies_to or "", replaced, allow_overlap)
        elif replaced:
            raise HklflowError("only an accepted version can supersede others; leave it out")
        event = statuses.event(status, author, comments)
        version = self._write(state, files, record, event, applies_to=applies_to)
        self._supersede(version, replaced, author)
        return version

    def set_status(
        self,
        version: Version,
        status: str,
        *,
        author: str,
        comments: str,
        supersede: Iterable[int] = (),
        allow_overlap: bool = False,
    ) -> Version:
        """Add an event to the status of a version; returns the version as it is now.

        Parameters
        ----------
        version : Version
        status : {"accepted", "rejected", "superseded", "withdrawn"}
        author, comments : str
        supersede, allow_overlap
            As for `publish`; only with "accepted".

        Raises
        ------
        HklflowError
            If this status cannot follow the present one, or as in `publish`.
        """
        where = (version.kind, version.state_id)
        event = statuses.event(status, author, comments)
        statuses.check(str(version.path), statuses.current(version.path), status)
        replaced = list(supersede)
        if status == "accepted":
            self._check_accept(*where, version.applies_to or "", replaced, allow_overlap)
        elif replaced:
            raise HklflowError("only an accepted version can supersede others; leave it out")

        def following(old: str) -> Mapping[str, Any]:
            statuses.check(str(version.path), old, status)
            return event

        with disk.telling(f"the status of {version.path}"):
            statuses.append(version.path, following)
        self._audit(*where, status, event, version=version.number)
        self._supersede(version, replaced, author)
        index.write(self.root, *where)
        return self.version(*where, version.number)

    def withdraw(self, version: Version, *, author: str, comments: str) -> Version:
        """Stop the use of an accepted version; errors as in `set_status`."""
        return self.set_status(version, "withdrawn", author=author, comments=comments)

    def copy(
        self,
        version: Version,
        state: State,
        *,
        status: str = "proposed",
        author: str,
        comments: str,
        applies_to: str,
        supersede: Iterable[int] = (),
        allow_overlap: bool = False,
    ) -> Version:
        """Publish a version of another state for this one, with ``copiedFrom`` in its record.

        Raises
        ------
        HklflowError
            If the donor is a copy itself, was never accepted, was changed, is of this state or
            of another kind; or as in `publish`.
        """
        if version.kind != state.kind or version.state_id == state.id:
            raise HklflowError(
                f"{version.path} cannot be copied to {state.kind}/{state.id}; "
                "copy to another state of the same kind"
            )
        if version.record.get("copiedFrom"):
            donor = version.record["copiedFrom"]
            raise HklflowError(
                f"{version.path} is itself a copy, of version {donor['version']} of state "
                f"{donor['stateId']}; copy that one"
            )
        if statuses.current(version.path) not in ("accepted", "superseded"):
            raise HklflowError(f"{version.path} is {version.status}; copy an accepted version")
        if status not in ("proposed", "accepted"):
            raise HklflowError(f"a copy is proposed or accepted, not {status!r}")
        names = [item["file"] for item in version.record["artefacts"]]
        for name in names:
            calibration_of(version.path / name)
        record = {k: v for k, v in version.record.items() if k not in records.OWNED}
        self.state(state.kind, state.id)
        replaced = list(supersede)
        if status == "accepted":
            self._check_accept(state.kind, state.id, applies_to, replaced, allow_overlap)
        copied = self._write(
            state,
            {name: version.path / name for name in names},
            record,
            statuses.event(status, author, comments),
            applies_to=applies_to,
            donor={"stateId": version.state_id, "version": version.number},
        )
        self._supersede(copied, replaced, author)
        return copied

    def _check_accept(
        self, kind: str, state_id: str, applies_to: str, replaced: list[int], allow_overlap: bool
    ) -> None:
        expression = applies.parse(applies_to)
        accepted = [v for v in self.versions(kind, state_id) if v.status == "accepted"]
        for number in replaced:
            if number not in [v.number for v in accepted]:
                status = self.version(kind, state_id, number).status
                raise HklflowError(
                    f"version {number} of {kind}/{state_id} cannot be superseded: it is {status}"
                )
        over = [
            v
            for v in accepted
            if v.number not in replaced and expression.overlaps(applies.parse(v.applies_to or ""))
        ]
        if over and not allow_overlap:
            told = ", ".join(f"version {v.number} (`{v.applies_to}`)" for v in over)
            raise HklflowError(
                f"`{expression.text}` overlaps with {told} of {kind}/{state_id}; use "
                f"`--supersede {over[-1].number}`, or `--allow-overlap` so that the higher "
                "number is taken"
            )

    def _supersede(self, version: Version, replaced: Iterable[int], author: str) -> None:
        for number in replaced:
            old = self.version(version.kind, version.state_id, number)
            if old.status == "accepted":  # somebody may have withdrawn it meanwhile
                self.set_status(
                    old,
                    "superseded",
                    author=author,
                    comments=f"superseded by version {version.number}",
                )

    def _write(
        self,
        state: State,
        files: Mapping[str, Path],
        record: Mapping[str, Any],
        event: Mapping[str, Any],
        *,
        applies_to: str | None,
        number: int | None = None,
        donor: Mapping[str, Any] | None = None,
    ) -> Version:
        """Build a version's folder, give it its number, tell it."""
        kind, state_id, status = state.kind, state.id, event["status"]
        disk.check_sources(files)
        needed = _NEEDED.get(kind, ()) if status not in ("rejected", "default") else ()
        if status != "default":
            needed = (*needed, layout.PARAMETERS)
        if missing := [name for name in needed if name not in files]:
            raise HklflowError(f"a {kind} calibration needs {' and '.join(missing)}; give it")
        parameters = (
            disk.read_object(files[layout.PARAMETERS]) if layout.PARAMETERS in files else {}
        )
        for name in records.OWNED:
            if name in record and (name, record[name]) not in (
                ("kind", kind),
                ("stateId", state_id),
            ):
                raise HklflowError(f"record: {name} is filled by the store itself; leave it out")
        folder = self._path(kind, state_id)
        with disk.telling(str(folder)), disk.temporary(folder) as new:
            (new / "status").mkdir(parents=True)
            disk.write(statuses.path_of(new, 1), disk.json_bytes(event, "the status"))
            disk.sync(new / "status")
            artefacts = {
                name: disk.copy(source, new / name)
                for name, source in files.items()
                if name != layout.PARAMETERS
            }
            while True:
                taken = layout.version_numbers(folder)
                free = max(taken, default=0) + 1 if number is None else number
                # The number is part of these two, so they are written anew for each attempt.
                content = disk.json_bytes(
                    parameters | {"version": free}, str(files.get(layout.PARAMETERS))
                )
                disk.write(new / layout.PARAMETERS, content)
                artefacts[layout.PARAMETERS] = disk.sha256(new / layout.PARAMETERS)
                written = {
                    **record,
                    "schema": 1,
                    "kind": kind,
                    "stateId": state_id,
                    "version": free,
                    "appliesTo": None if applies_to is None else applies.parse(applies_to).text,
                    "author": event["author"],
                    "comments": event["comments"],
                    "timestamp": event["timestamp"],
                    "copiedFrom": donor,
                    "parametersSha256": artefacts[layout.PARAMETERS],
                    "software": {**records.software(), **record.get("software", {})},
                    "artefacts": [{"file": f, "sha256": artefacts[f]} for f in sorted(artefacts)],
                }
                records.validate(written, "record")
                disk.write(new / layout.RECORD, disk.json_bytes(written, "record"))
                disk.sync(new)
                target = self._path(kind, state_id, version=free)
                if disk.claim_folder(new, target):
                    break
                if number is not None:
                    raise HklflowError(f"{target} exists; it was initialised by somebody else")
        more = {"copiedFrom": donor} if donor else {}
        self._audit(kind, state_id, status, event, version=free, **more)
        index.write(self.root, kind, state_id)
        return self.version(kind, state_id, free)

    def _audit(
        self, kind: str, state_id: str, action: str, event: Mapping[str, Any], **more: Any
    ) -> None:
        path = self._path(kind, state_id, file=layout.AUDIT)
        line = {
            "timestamp": event["timestamp"],
            "action": action,
            "author": event["author"],
            "comments": event["comments"],
            "user": _user(),
            **more,
        }
        with disk.telling(f"{action} {more} is done, but {path}"):
            disk.append_line(path, line)

    # ---------------------------------------------------------------- candidates

    def new_iteration(
        self, state: State, name: str, files: Mapping[str, Path], record: Mapping[str, Any]
    ) -> Candidate:
        """Put the next iteration of a candidate (01, 02 ...) beside the others.

        Raises
        ------
        HklflowError
            If the state is not initialised, the name cannot be that of a folder or the candidate
            is locked by another process.
        """
        self.state(state.kind, state.id)
        where = (self.root, state.kind, state.id, name)
        with nullcontext() if where in self._held else self.lock(state, name):
            return candidates.add(*where, files, record)

    @contextmanager
    def lock(self, state: State, name: str) -> Iterator[None]:
        """Hold a candidate alone, from reading its last iteration to writing the next.

        Raises
        ------
        HklflowError
            If a living process holds it, which is named. A dead one holds nothing.
        """
        self.state(state.kind, state.id)
        where = (self.root, state.kind, state.id, name)
        with candidates.locked(*where):
            self._held.add(where)
            try:
                yield
            finally:
                self._held.remove(where)

    def candidates(self, kind: str, state_id: str) -> list[Candidate]:
        """Every iteration of every candidate, by name and number."""
        return candidates.listed(self.root, kind, state_id)

    def candidate(self, text: str) -> Candidate:
        """Candidate by name (the last iteration) or name/iteration, searched over all states.

        Raises
        ------
        HklflowError
            If there is none, or in several states.
        """
        return candidates.find(self.root, text)

    def cancel(self, name: str, *, author: str = "", comments: str = "") -> None:
        """Remove a candidate with all its iterations.

        Raises
        ------
        HklflowError
            If one was published, there is none, or another process works on it.
        """
        found = candidates.find(self.root, name)
        where = (found.kind, found.state_id)
        for version in self.versions(*where):
            if (version.record.get("candidate") or {}).get("name") == found.name:
                raise HklflowError(
                    f"candidate {found.name} was published as {version.path}; what was published "
                    "stays"
                )
        with candidates.locked(self.root, *where, found.name):
            candidates.remove(self.root, *where, found.name)
        event = {"timestamp": statuses.now(), "author": author, "comments": comments}
        self._audit(*where, "cancelled", event, candidate=found.name)

    # --------------------------------------------------------------------- upkeep

    def index(self, kind: str, state_id: str) -> dict[str, Any]:
        """Content of the index of a state, made anew from the records and written."""
        self.state(kind, state_id)
        return index.write(self.root, kind, state_id)

    def reindex(self, dry_run: bool = False) -> Report:
        """Make every index anew and remove what killed writers left; see `Report`."""
        return index.reindex(self.root, dry_run)

    def verify(self) -> list[str]:
        """One sentence for each thing in the store that is not as it was written."""
        return index.verify(self.root)

    def _path(self, kind: str, state_id: str, **what: Any) -> Path:
        return layout.store_path(self.root, kind, state_id, **what)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a user of a container, who has no name
        return str(os.getuid())
