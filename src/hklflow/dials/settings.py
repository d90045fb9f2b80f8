"""Settings of DIALS in the configuration."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hklflow import stage


class DialsPrograms(stage.Params):
    """Section `dials` of the configuration: the folder of DIALS."""

    prefix: Path | None = None
    """Folder of the programs `dials.*`. None: the programs are on PATH."""

    def paths(self, base: Path = Path()) -> dict[str, list[Path]]:
        """Return the paths of all parameters except `prefix`, because programs are not data."""
        paths = super().paths(base)
        del paths["prefix"]
        return paths


class OrientationEngine(stage.Params):
    """Section `orientation` of the configuration: the program that indexes and refines."""

    engine: Literal["builtin", "dials"] = "builtin"
    """Program that indexes and refines: hklflow itself, or DIALS."""
    spots: Literal["builtin", "dials"] = "builtin"
    """Source of the spots: hklflow's peak tables, or `dials.find_spots` on the frames."""
    fixed: bool = False
    """Use the orientation and the detector of `start` unchanged: neither the parent nor its
    children are indexed or refined. For scans with too few reflections."""
    max_two_theta: float | None = Field(None, gt=0, le=180)
    """Largest scattering angle 2θ of a peak for indexing and refinement, in degrees, in the
    imported geometry. None: all peaks. `converge` and the volumes do not use this limit."""


class EngineSettings(OrientationEngine, DialsPrograms):
    """Parameters of the stages that index and refine, from both sections."""


def frames_of(params: EngineSettings) -> str | None:
    """Return the name of the input with scan files if DIALS searches the frames, else None."""
    return "scans" if params.spots == "dials" else None
