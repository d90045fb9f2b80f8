"""The store of calibrations: versions that never change, and the choice of one for a scan.

A version is built beside its place and gets its number by the rename that publishes it: no
lock is needed, readers see all of it or nothing. Everything is decided by the numbers and the
status of versions, nothing by a clock. See `layout.store_path` for the tree.
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

# Fields of a record that mean nothing in another state.
_OF_A_STATE = ("candidate", "parentVersion")


class Store(Reader):
    """A store of calibrations; what only reads it is in `reading.Reader`.

    Parameters
    ----------
    root : Path
        Its folder; it is made by `init`.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._held: set[tuple[Path, str, str, str]] = set()

    def init(
        self, state: State, files: Mapping[str, Path], *, author: str, comments: str = ""
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
                f"a version that is {status} must say which scans it applies to; `*` is all of them"
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
            # At once: what fails later must not leave two versions for a scan.
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
        """Stop the use of an accepted version; errors as in `set_status`."""
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
        """Publish a version of another state for this one, with ``copiedFrom`` in its record.

        Parameters
        ----------
        version : Version
            The donor.
        state : State
            The state that gets it.
        author, comments : str
        status : {"proposed", "accepted"}
        applies_to : str, optional
            None: as the donor.
        supersede, allow_overlap
            As for `publish`.

        Raises
        ------
        HklflowError
            If the donor is a copy itself, is neither accepted nor superseded, was changed, is of
            this state or of another kind; or as in `publish`.
        """
        if version.kind != state.kind or version.state_id == state.id:
            raise HklflowError(
                f"{version.path} cannot be copied to {state.kind}/{state.id}; "
                "copy to another state of the same kind"
            )
        if donor := version.record.get("copiedFrom"):
            raise HklflowError(
                f"{version.path} is itself a copy, of version {donor['version']} of state "
                f"{donor['stateId']}; copy that one"
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
        """Versions to be superseded, after the check that the new one may be accepted."""
        replaced = list(supersede)
        if status == "accepted":
            where = (self.root, kind, state_id)
            choice.check_accept(*where, applies_to or "", replaced, allow_overlap, own)
        elif replaced:
            raise HklflowError(f"a version that is {status} supersedes no other; leave it out")
        return replaced

    def _supersede(self, version: Version, replaced: Iterable[int], author: str) -> None:
        for number in replaced:
            old = self.version(version.kind, version.state_id, number)
            if old.status == "accepted":  # else somebody has withdrawn it meanwhile
                why = f"superseded by version {version.number}"
                try:
                    self.set_status(old, "superseded", author=author, comments=why)
                except HklflowError as error:
                    if statuses.current(old.path) != "accepted":
                        raise
                    raise HklflowError(
                        f"{version.path} is accepted, but {old.path} cannot be superseded "
                        f"({error.__cause__ or error}); mend this, then withdraw {old.name}"
                    ) from error

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
        """Every iteration of every candidate by name and number; `verify` names damaged ones."""
        return candidates.listed(self.root, kind, state_id)

    def candidate(
        self, text: str, kind: str | None = None, state_id: str | None = None
    ) -> Candidate:
        """Candidate by name (the last iteration) or name/iteration.

        It is searched over all states, or in those of a kind, or in the state of an id.

        Raises
        ------
        HklflowError
            If there is none, or in several states.
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
        """Remove a candidate with all its iterations; it is searched as by `candidate`.

        Raises
        ------
        HklflowError
            If one was published, there is none, or another process works on it.
        """
        if "/" in name:
            raise HklflowError(f"{name} is one iteration; cancel {name.split('/')[0]} as a whole")
        # Not read, so that a damaged one can go, too.
        where = candidates.place(self.root, name, kind, state_id)[:2]
        for version in self.versions(*where):
            if (version.record.get("candidate") or {}).get("name") == name:
                raise HklflowError(
                    f"candidate {name} was published as {version.path}; what was published stays"
                )
        publishing.check_audit(self.root, *where)
        with candidates.locked(self.root, *where, name):
            candidates.remove(self.root, *where, name)
        event = {"timestamp": statuses.now(), "author": author, "comments": comments}
        publishing.audit(self.root, *where, "cancelled", event, candidate=name)

    # --------------------------------------------------------------------- upkeep

    def index(self, kind: str, state_id: str) -> dict[str, Any]:
        """Content of the index of a state, made anew from the records and written."""
        self.state(kind, state_id)
        index.write(self.root, kind, state_id)
        return index.content(self.root, kind, state_id)

    def reindex(self, dry_run: bool = False) -> Report:
        """Make every index anew and remove what killed writers left; see `Report`."""
        return index.reindex(self.root, dry_run)
