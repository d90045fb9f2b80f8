"""Settings of DIALS in the configuration."""

from pathlib import Path
from typing import Literal

from hklflow import stage
from hklflow.stage.peak_choice import PeakChoice


class DialsPrograms(stage.Params):
    """Section `dials` of the configuration: the folder of DIALS."""

    prefix: Path | None = None
    """Folder of the programs `dials.*`. None: the programs are on PATH."""

    def paths(self, base: Path = Path()) -> dict[str, list[Path]]:
        """Return the paths of all parameters except `prefix`, because programs are not data."""
        paths = super().paths(base)
        del paths["prefix"]
        return paths


class OrientationEngine(PeakChoice):
    """Section `orientation` of the configuration: the program that refines, and its peaks."""

    engine: Literal["builtin", "dials"] = "builtin"
    """Program that indexes and refines: hklflow itself, or DIALS."""
    spots: Literal["builtin", "dials"] = "builtin"
    """Source of the spots: hklflow's peak tables, or `dials.find_spots` on the frames."""
    fixed: bool = False
    """Use the orientation and the detector of `start` unchanged: neither the parent nor its
    children are indexed or refined. For scans with too few reflections."""


class EngineSettings(OrientationEngine, DialsPrograms):
    """Parameters of the stages that index and refine, from both sections."""


def frames_of(params: EngineSettings) -> str | None:
    """Return the name of the input with scan files if DIALS searches the frames, else None."""
    return "scans" if params.spots == "dials" else None
