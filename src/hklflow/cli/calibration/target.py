"""What the commands act on: an entry of the configuration with its store and its state."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.cli.folder import experiment as folder_of
from hklflow.cli.options import Directory

if TYPE_CHECKING:
    from hklflow.calibration.states import Schema, State
    from hklflow.calibration.store import Candidate, Store, Version
    from hklflow.experiment.config import Experiment, StoredGeometry
    from hklflow.experiment.constants import Stored


@dataclass(frozen=True)
class Target:
    """A stored calibration of an experiment."""

    experiment: "Experiment"
    name: str

    @property
    def entry(self) -> "Stored":
        """Place in the store, as the configuration has it."""
        return self.experiment.stored(self.name)

    @property
    def kind(self) -> str:
        """Kind of the calibration, `geometry` or `constants`."""
        return self.experiment.stored_kinds[self.name]

    def require(self, kind: str) -> None:
        """Raise if the entry is of another kind."""
        if self.kind != kind:
            raise HklflowError(
                f"{self.name} has {self.kind}, and this command is for a {kind}; constants are "
                "proposed by `snakemake constants` and judged by what `hklflow calibration show` "
                "says of the candidate"
            )

    @property
    def geometry(self) -> "StoredGeometry":
        """Entry of `calibrations`; errors as in `require`."""
        from hklflow.experiment.config import StoredGeometry

        self.require("geometry")
        found = self.experiment.config.calibrations[self.name]
        assert isinstance(found, StoredGeometry)
        return found

    @property
    def store(self) -> "Store":
        """Store of the entry."""
        return self.experiment.store(self.name)

    @property
    def state(self) -> "State":
        """State that the entry's set-points make."""
        return self.experiment.state(self.name)

    @property
    def schema(self) -> "Schema":
        """Set-points that make a state."""
        return self.experiment.state_schema(self.name)

    def versions(self) -> "list[Version]":
        """Versions of the state, the lowest number first."""
        return self.store.versions(self.state.kind, self.state.id)

    def version(self, given: str) -> "Version":
        """Version of the state by its number, `3` or `v_0003`.

        Raises
        ------
        HklflowError
            If there is no such version.
        """
        match = re.fullmatch(r"(?:v_)?(\d+)", given)
        if match is None:
            raise HklflowError(f"{given!r} is no version; write its number, as 3 or v_0003")
        return self.store.version(self.state.kind, self.state.id, int(match[1]))

    def item(self, given: str) -> "Version | Candidate":
        """Return a version (`v_0003`) or a candidate (`name`, `name/02`)."""
        if re.fullmatch(r"v_\d+", given):
            return self.version(given)
        return self.candidate(given)

    def candidate(self, given: str) -> "Candidate":
        """Candidate of the state by its name, its latest iteration unless `name/02` says which.

        Raises
        ------
        HklflowError
            If the state has none of this name.
        """
        return self.store.candidate(given, kind=self.state.kind, state_id=self.state.id)

    def accepted(self) -> "Version | None":
        """Accepted version with the highest number, with which new ones are compared."""
        found = [v for v in self.versions() if v.status == "accepted"]
        return found[-1] if found else None


@Parameter(name="*")
@dataclass(frozen=True)
class Entry:
    """Options that say which stored calibration a command is for."""

    calibration: str | None = None
    """Entry of `calibrations` in config.yaml; not needed where only one has a store."""
    directory: Directory = Path()

    def target(self) -> Target:
        """Return the stored calibration; errors as in `target`."""
        return target(self.directory, self.calibration)


def target(directory: Path, name: str | None) -> Target:
    """Entry of this name, or the only one that has a store.

    Raises
    ------
    HklflowError
        If there is none or it is not clear which.
    """
    from hklflow.experiment.config import load

    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    if name is None:
        names = list(experiment.stored_kinds)
        if len(names) != 1:
            raise HklflowError(
                f"{folder.config} has {len(names)} calibrations and constants with a store"
                f"{': ' + ', '.join(names) if names else ''}; "
                + ("name one with --calibration" if names else "see config/README.md, calibrations")
            )
        name = names[0]
    experiment.stored(name)
    for warning in experiment.state(name).warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return Target(experiment, name)


def in_words(item: "Version | Candidate") -> str:
    """Short name of a version or a candidate."""
    iteration = getattr(item, "iteration", None)
    return item.name if iteration is None else f"{item.name}/{iteration:02d}"
