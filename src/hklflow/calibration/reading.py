"""The calibration store as a reduction sees it: states, versions, and the choice for a scan."""

from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.calibration import choice, disk, index, layout
from hklflow.calibration import versions as stored
from hklflow.calibration.states import State
from hklflow.calibration.versions import Version


class Reader:
    """A store of calibrations, of which nothing is changed.

    Parameters
    ----------
    root : Path
        Its folder; `Store.init` makes it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def states(self) -> list[tuple[str, str]]:
        """(kind, state id) of every state."""
        return layout.state_folders(self.root)

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
                "calibration; run `hklflow calibration init`, or mend the set-points"
            )
        data = disk.read_object(path)
        try:
            given = {name: data[name] for name in ("values", "steps", "schema", "canonical")}
        except KeyError as error:
            raise HklflowError(f"{path} lacks {error}; restore it") from error
        return State(kind, state_id, warnings=(), **given)

    def version(self, kind: str, state_id: str, number: int) -> Version:
        """One version; HklflowError if there is none of this number or it is damaged."""
        return stored.numbered(self.root, kind, state_id, number)

    def versions(self, kind: str, state_id: str) -> list[Version]:
        """Every version that is not damaged, by number; `verify` names the others."""
        return stored.readable(self.root, kind, state_id)

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
            return choice.pinned(self.root, kind, state_id, pin, allow_default)
        return choice.choose(self.root, kind, state_id, scan, run, allow_default)

    def verify(self) -> list[str]:
        """One sentence for each thing in the store that is not as it was written."""
        return index.verify(self.root)

    def _path(self, kind: str, state_id: str, **what: Any) -> Path:
        return layout.store_path(self.root, kind, state_id, **what)
