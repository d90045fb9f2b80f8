"""Store of calibrations: versions that never change, and the choice of a version for a scan.

A version is built in a temporary folder, which is then renamed to the number of the version. No
lock is needed, and readers see a complete version or none. The choice depends on the numbers and
the status of versions, never on a clock. See `layout.store_path` for the tree of folders.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.calibration import (
    candidates,
    choice,
    disk,
    index,
    layout,
    publishing,
    records,
    statuses,
)
from hklflow.calibration.candidates import Candidate
from hklflow.calibration.index import Report
from hklflow.calibration.reading import Reader
from hklflow.calibration.states import State
from hklflow.calibration.versions import Version, calibration_of

__all__ = ["Candidate", "Report", "Store", "Version", "calibration_of"]

# Fields of a record that are not valid in another state.
_OF_A_STATE = ("candidate", "parentVersion")


class Store(Reader):
    """A store of calibrations; `reading.Reader` has the methods that only read.

    Parameters
    ----------
    root : Path
        Folder of the store; `init` creates it.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._held: set[tuple[Path, str, str, str]] = set()

    def init(
        self, state: State, files: Mapping[str, Path], *, author: str, comments: str = ""
    ) -> Version:
        """Create the folder of a state, with version 0: an unrefined geometry.

        Raises
        ------
        HklflowError
            If the state was already initialised, or its id is an alias.
        """
        folder = self._path(state.kind, state.id)
        if state.alias_of is not None:
            raise HklflowError(
                f"state {state.alias_of} is an alias of {state.id}; use {state.id}, or remove the "
                "alias"
            )
        if os.path.lexists(self._path(state.kind, state.id, version=0)):
            raise HklflowError(f"{folder} was already initialised; propose a calibration for it")
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
            disk.make_folder(folder)
            disk.claim_file(folder / layout.STATE, disk.json_bytes(described, layout.STATE))
        publishing.check_audit(self.root, state.kind, state.id)
        version = publishing.write_version(
            self.root, state, files, {}, event, applies_to=None, number=0
        )
        publishing.audit_published(self.root, version, event)
        index.write(self.root, state.kind, state.id)
        return version

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
        """Publish a version with the next free number.

        Parameters
        ----------
        state : State
            State that `init` has created in the store.
        files : mapping
            Maps each file name in the version's folder to the file that is copied there.
            ``parameters.json`` is required; the version number is added to it.
        record : mapping
            Data for the record, see `records.Record`; the store fills the fields in
            `records.OWNED`.
        status : {"proposed", "accepted", "rejected"}
        author, comments : str
            Author and reason; both are required.
        applies_to : str or None
            Scans that the version applies to, see `applies`. None only for a rejected version.
        supersede : iterable of int
            Accepted versions that this version replaces. They are superseded after this version is
            visible, so that every scan always has a version.
        allow_overlap : bool
            Allow another accepted version for the same scans; the higher number is then used. (If
            two versions are accepted at the same moment, the overlap may not be detected; see
            `resolve`.)

        Raises
        ------
        HklflowError
            If anything is missing, malformed, overlapping or not writable.
        """
        return self._publish(
            state, files, record, status, author, comments, applies_to, supersede, allow_overlap
        )

    def _publish(
        self,
        state: State,
        files: Mapping[str, Path],
        record: Mapping[str, Any],
        status: str,
        author: str,
        comments: str,
        applies_to: str | None,
        supersede: Iterable[int],
        allow_overlap: bool,
        donor: Mapping[str, Any] | None = None,
    ) -> Version:
        if status not in ("proposed", "accepted", "rejected"):
            raise HklflowError(
                f"a version cannot be published as {status!r}; use proposed, accepted or rejected"
            )
        if not applies_to and status != "rejected":
            raise HklflowError(
                f"a version that is {status} must state the scans it applies to; `*` is all scans"
            )
        self.state(state.kind, state.id)
        event = statuses.event(status, author, comments)
        replaced = self._replaced(
            state.kind, state.id, status, applies_to, supersede, allow_overlap
        )
        publishing.check_audit(self.root, state.kind, state.id)
        version = publishing.write_version(
            self.root, state, files, record, event, applies_to=applies_to or None, donor=donor
        )
        try:
            # This comes first: a later error must not leave two versions for a scan.
            self._supersede(version, replaced, author)
        finally:
            publishing.audit_published(self.root, version, event)
            index.write(self.root, state.kind, state.id)
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
        """Add an event to the status of a version; return the version with its new status.

        Parameters
        ----------
        version : Version
        status : {"accepted", "rejected", "superseded", "withdrawn"}
        author, comments : str
        supersede, allow_overlap
            Same meaning as in `publish`; allowed only with "accepted".

        Raises
        ------
        HklflowError
            If this status cannot follow the present status, or as in `publish`.
        """
        where = (version.kind, version.state_id)
        event = statuses.event(status, author, comments)
        statuses.check(str(version.path), statuses.current(version.path), status)
        replaced = self._replaced(
            *where, status, version.applies_to, supersede, allow_overlap, version.number
        )

        def following(old: str) -> Mapping[str, Any]:
            statuses.check(str(version.path), old, status)
            return event

        publishing.check_audit(self.root, *where)
        with disk.telling(f"the status of {version.path}"):
            statuses.append(version.path, following)
        try:
            self._supersede(version, replaced, author)
        finally:
            publishing.audit(self.root, *where, status, event, version=version.number)
            index.write(self.root, *where)
        return self.version(*where, version.number)

    def withdraw(self, version: Version, *, author: str, comments: str) -> Version:
        """End the use of an accepted version; errors as in `set_status`."""
        return self.set_status(version, "withdrawn", author=author, comments=comments)

    def copy(
        self,
        version: Version,
        state: State,
        *,
        author: str,
        comments: str,
        status: str = "proposed",
        applies_to: str | None = None,
        supersede: Iterable[int] = (),
        allow_overlap: bool = False,
    ) -> Version:
        """Copy a version of another state to this state; the record has ``copiedFrom``.

        Parameters
        ----------
        version : Version
            Version to be copied.
        state : State
            State of the new version.
        author, comments : str
        status : {"proposed", "accepted"}
        applies_to : str, optional
            Scans that the copy applies to. None: the scans of the copied version.
        supersede, allow_overlap
            As in `publish`.

        Raises
        ------
        HklflowError
            If the copied version is itself a copy, is neither accepted nor superseded, was changed,
            or belongs to this state or to another kind; and as in `publish`.
        """
        if version.kind != state.kind or version.state_id == state.id:
            raise HklflowError(
                f"{version.path} cannot be copied to {state.kind}/{state.id}; "
                "copy to another state of the same kind"
            )
        if donor := version.record.get("copiedFrom"):
            raise HklflowError(
                f"{version.path} is itself a copy, of version {donor['version']} of state "
                f"{donor['stateId']}; copy the original"
            )
        if (now := statuses.current(version.path)) not in ("accepted", "superseded"):
            raise HklflowError(f"{version.path} is {now}; copy an accepted version")
        names = [item["file"] for item in version.record["artefacts"]]
        for name in names:
            calibration_of(version.path / name)
        left_out = (*records.OWNED, *_OF_A_STATE)
        return self._publish(
            state,
            {name: version.path / name for name in names},
            {name: v for name, v in version.record.items() if name not in left_out},
            status,
            author,
            comments,
            applies_to or version.applies_to,
            supersede,
            allow_overlap,
            donor={"stateId": version.state_id, "version": version.number},
        )

    def _replaced(
        self,
        kind: str,
        state_id: str,
        status: str,
        applies_to: str | None,
        supersede: Iterable[int],
        allow_overlap: bool,
        own: int | None = None,
    ) -> list[int]:
        """Return the versions to be superseded, after checking that the new one is acceptable."""
        replaced = list(supersede)
        if status == "accepted":
            where = (self.root, kind, state_id)
            choice.check_accept(*where, applies_to or "", replaced, allow_overlap, own)
        elif replaced:
            raise HklflowError(
                f"a version that is {status} cannot supersede others; omit `supersede`"
            )
        return replaced

    def _supersede(self, version: Version, replaced: Iterable[int], author: str) -> None:
        for number in replaced:
            old = self.version(version.kind, version.state_id, number)
            if old.status == "accepted":  # else another process has withdrawn it
                why = f"superseded by version {version.number}"
                try:
                    self.set_status(old, "superseded", author=author, comments=why)
                except HklflowError as error:
                    if statuses.current(old.path) != "accepted":
                        raise
                    raise HklflowError(
                        f"{version.path} is accepted, but {old.path} cannot be superseded "
                        f"({error.__cause__ or error}); correct this, then withdraw {old.name}"
                    ) from error

    # ---------------------------------------------------------------- candidates

    def new_iteration(
        self, state: State, name: str, files: Mapping[str, Path], record: Mapping[str, Any]
    ) -> Candidate:
        """Add the next iteration of a candidate (01, 02 ...).

        Raises
        ------
        HklflowError
            If the state is not initialised, the name is not valid for a folder, or the candidate
            is locked by another process.
        """
        self.state(state.kind, state.id)
        where = (self.root, state.kind, state.id, name)
        with nullcontext() if where in self._held else self.lock(state, name):
            return candidates.add(*where, files, record)

    @contextmanager
    def lock(self, state: State, name: str) -> Iterator[None]:
        """Lock a candidate from reading its last iteration until writing the next one.

        Raises
        ------
        HklflowError
            If a running process holds the lock; the message names the process. A lock of a process
            that ended does not count.
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
        """List all undamaged iterations by name and number; `verify` names damaged ones."""
        return candidates.listed(self.root, kind, state_id)

    def candidate(
        self, text: str, kind: str | None = None, state_id: str | None = None
    ) -> Candidate:
        """Find a candidate by name (last iteration) or name/iteration.

        All states are searched, or only the states of a kind or with an id.

        Raises
        ------
        HklflowError
            If the candidate does not exist, or exists in several states.
        """
        return candidates.find(self.root, text, kind, state_id)

    def cancel(
        self,
        name: str,
        *,
        kind: str | None = None,
        state_id: str | None = None,
        author: str = "",
        comments: str = "",
    ) -> None:
        """Remove a candidate with all iterations; the candidate is searched as in `candidate`.

        Raises
        ------
        HklflowError
            If an iteration was published, or the candidate does not exist or is locked.
        """
        if "/" in name:
            raise HklflowError(f"{name} is one iteration; cancel {name.split('/')[0]} as a whole")
        # The candidate is not read, so that a damaged one can also be removed.
        where = candidates.place(self.root, name, kind, state_id)[:2]
        for version in self.versions(*where):
            if (version.record.get("candidate") or {}).get("name") == name:
                raise HklflowError(
                    f"candidate {name} was published as {version.path}; it cannot be removed"
                )
        publishing.check_audit(self.root, *where)
        with candidates.locked(self.root, *where, name):
            candidates.remove(self.root, *where, name)
        event = {"timestamp": statuses.now(), "author": author, "comments": comments}
        publishing.audit(self.root, *where, "cancelled", event, candidate=name)

    # --------------------------------------------------------------------- upkeep

    def index(self, kind: str, state_id: str) -> dict[str, Any]:
        """Compute the index of a state from the records, write it and return it."""
        self.state(kind, state_id)
        index.write(self.root, kind, state_id)
        return index.content(self.root, kind, state_id)

    def reindex(self, dry_run: bool = False) -> Report:
        """Write outdated indexes and remove files of writers that ended; see `Report`."""
        return index.reindex(self.root, dry_run)
