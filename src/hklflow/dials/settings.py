"""What the configuration says of DIALS."""

from pathlib import Path
from typing import Literal

from hklflow import stage


class DialsPrograms(stage.Params):
    """Section `dials` of the configuration: where DIALS is."""

    prefix: Path | None = None
    """Folder of the programs `dials.*`; None: they are on PATH."""

    def paths(self, base: Path = Path()) -> dict[str, list[Path]]:
        """As of all parameters, without `prefix`: programs are no data."""
        found = super().paths(base)
        del found["prefix"]
        return found


class OrientationEngine(stage.Params):
    """Section `orientation` of the configuration: what indexes and refines."""

    engine: Literal["builtin", "dials"] = "builtin"
    """What indexes and refines: hklflow itself, or DIALS."""
    spots: Literal["builtin", "dials"] = "builtin"
    """Whose peak search is used: hklflow's tables, or `dials.find_spots` on the frames."""
    fixed: bool = False
    """Take the orientation of `start` and its detector as they are: nothing is indexed or refined,
    neither of the parent nor of its children. For scans with too few reflections."""


class EngineSettings(OrientationEngine, DialsPrograms):
    """Both, as parameters of the stages that index and refine."""


def frames_of(params: EngineSettings) -> str | None:
    """Field of scan files whose frames are read: where DIALS searches the peaks."""
    return "scans" if params.spots == "dials" else None
