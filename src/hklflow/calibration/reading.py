"""Read access to the calibration store: states, versions, and the choice for a scan."""

from datetime import date
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.calibration import choice, disk, index, layout
from hklflow.calibration import versions as stored
from hklflow.calibration.kinds import OnMissing
from hklflow.calibration.states import State
from hklflow.calibration.versions import Version


class Reader:
    """A store of calibrations, opened only for reading.

    Parameters
    ----------
    root : Path
        Folder of the store; `Store.init` creates it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def states(self) -> list[tuple[str, str]]:
        """List (kind, state id) of every state."""
        return layout.state_folders(self.root)

    def state(self, kind: str, state_id: str) -> State:
        """Read a state that `init` stored.

        Raises
        ------
        HklflowError
            If the state was never initialised, or its file is damaged.
        """
        path = self._path(kind, state_id, file=layout.STATE)
        if not path.is_file():
            raise HklflowError(
                f"the store {self.root} does not know the state {state_id} of the {kind} "
                "calibration; run `hklflow calibration init`, or correct the set-points"
            )
        data = disk.read_object(path)
        try:
            fields = {name: data[name] for name in ("values", "steps", "schema", "canonical")}
        except KeyError as error:
            raise HklflowError(f"{path} lacks {error}; restore it") from error
        return State(kind, state_id, warnings=(), **fields)

    def version(self, kind: str, state_id: str, number: int) -> Version:
        """Read one version; raise HklflowError if it does not exist or is damaged."""
        return stored.numbered(self.root, kind, state_id, number)

    def versions(self, kind: str, state_id: str) -> list[Version]:
        """Read all undamaged versions, sorted by number; `verify` names the damaged versions."""
        return stored.readable(self.root, kind, state_id)

    def resolve(
        self,
        kind: str,
        state_id: str,
        *,
        scan: str,
        run: int | None,
        day: date | None = None,
        pin: int | None = None,
        on_missing: OnMissing = "error",
    ) -> Version:
        """Return the version for a scan: the pinned one, else the highest accepted number.

        If two processes accept versions at the same moment, both may pass the check for overlaps.
        The choice is still unique: if two versions cover a scan, the higher number is used.

        Parameters
        ----------
        kind, state_id : str
        scan : str
            Name as sample/scan.
        run : int or None
            Run number; None if the table of scans has no run number.
        day : date or None
            Date of the measurement; None if the table of scans has no date.
        pin : int, optional
            Version pinned in the configuration; it need not apply to the scan, but must be
            accepted or superseded.
        on_missing : {"error", "diagnostic"}
            Without an accepted version: raise an error, or use version 0, which is not refined.

        Raises
        ------
        HklflowError
            If no version covers the scan (the message gives the commands to run), or if a damaged
            version might cover it.
        """
        self.state(kind, state_id)
        if pin is not None:
            return choice.pinned(self.root, kind, state_id, pin, on_missing)
        return choice.choose(self.root, kind, state_id, scan, run, day, on_missing)

    def verify(self) -> list[str]:
        """Return a sentence for each change in the store."""
        return index.verify(self.root)

    def _path(self, kind: str, state_id: str, **what: Any) -> Path:
        return layout.store_path(self.root, kind, state_id, **what)
