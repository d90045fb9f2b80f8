"""Stored calibration for a command: an entry of the configuration, its store and its state."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.calibration.kinds import KINDS
from hklflow.cli.folder import experiment as folder_of
from hklflow.cli.options import Directory

if TYPE_CHECKING:
    from hklflow.calibration.states import Schema, State
    from hklflow.calibration.store import Candidate, Store, Version
    from hklflow.experiment.config import Experiment, StoredGeometry
    from hklflow.experiment.constants import Stored


@dataclass(frozen=True)
class Target:
    """Stored calibration of an experiment."""

    experiment: "Experiment"
    name: str

    @property
    def entry(self) -> "Stored":
        """Entry of the configuration, with store and state."""
        return self.experiment.stored(self.name)

    @property
    def kind(self) -> str:
        """Kind of the calibration, see `calibration.kinds`."""
        return self.experiment.stored_kinds[self.name]

    def require(self, *kinds: str) -> None:
        """Raise an error if the entry has another kind."""
        if self.kind not in kinds:
            raise HklflowError(
                f"{self.name} has {self.kind}, and this command is for a {' or '.join(kinds)}; "
                f"{self.kind} is proposed with {KINDS[self.kind].proposed_with}, and `hklflow "
                "calibration show` shows the gates of a candidate"
            )

    @property
    def geometry(self) -> "StoredGeometry":
        """Entry of `calibrations`; raises for constants."""
        from hklflow.experiment.config import StoredGeometry

        self.require("geometry")
        geometry = self.experiment.config.calibrations[self.name]
        assert isinstance(geometry, StoredGeometry)
        return geometry

    @property
    def store(self) -> "Store":
        """Store of the entry."""
        return self.experiment.store(self.name)

    @property
    def state(self) -> "State":
        """State that the set-points of the entry define."""
        return self.experiment.state(self.name)

    @property
    def schema(self) -> "Schema":
        """Schema with the set-points that define a state."""
        return self.experiment.state_schema(self.name)

    def versions(self) -> "list[Version]":
        """Return the versions of the state, the lowest number first."""
        return self.store.versions(self.state.kind, self.state.id)

    def version(self, name: str) -> "Version":
        """Return the version of the state with a number such as `3` or `v_0003`.

        Raises
        ------
        HklflowError
            If the version does not exist.
        """
        match = re.fullmatch(r"(?:v_)?(\d+)", name)
        if match is None:
            raise HklflowError(f"{name!r} is not a version; write its number, such as 3 or v_0003")
        return self.store.version(self.state.kind, self.state.id, int(match[1]))

    def item(self, name: str) -> "Version | Candidate":
        """Return a version (`v_0003`) or a candidate (`name`, `name/02`)."""
        if re.fullmatch(r"v_\d+", name):
            return self.version(name)
        return self.candidate(name)

    def candidate(self, name: str) -> "Candidate":
        """Return a candidate of the state: `name` is its last iteration, `name/02` its second.

        Raises
        ------
        HklflowError
            If the state has no candidate with this name.
        """
        return self.store.candidate(name, kind=self.state.kind, state_id=self.state.id)

    def accepted(self) -> "Version | None":
        """Return the accepted version with the highest number; None without an accepted version.

        New candidates are compared with this version.
        """
        versions = [v for v in self.versions() if v.status == "accepted"]
        return versions[-1] if versions else None


@Parameter(name="*")
@dataclass(frozen=True)
class Entry:
    """Options that select a stored calibration."""

    calibration: str | None = None
    """Entry of `calibrations`, `constants` or `normalizations` in config.yaml; not needed if only
    one entry has a store."""
    directory: Directory = Path()

    def target(self) -> Target:
        """Return the selected calibration; raise the errors of the function `target`."""
        return target(self.directory, self.calibration)


def target(directory: Path, name: str | None) -> Target:
    """Return the stored calibration with a name, or (name None) the only entry with a store.

    Raises
    ------
    HklflowError
        If no entry has a store, or several have a store and ``name`` is None.
    """
    from hklflow.experiment.config import load

    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    if name is None:
        names = list(experiment.stored_kinds)
        if len(names) != 1:
            raise HklflowError(
                f"{folder.config} has {len(names)} calibrations, constants and normalisations "
                "with a store"
                f"{': ' + ', '.join(names) if names else ''}; "
                + (
                    "choose one with --calibration"
                    if names
                    else "see config/README.md, calibrations"
                )
            )
        name = names[0]
    experiment.stored(name)
    for warning in experiment.state(name).warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return Target(experiment, name)


def in_words(item: "Version | Candidate") -> str:
    """Return the short name of a version or candidate."""
    iteration = getattr(item, "iteration", None)
    return item.name if iteration is None else f"{item.name}/{iteration:02d}"
