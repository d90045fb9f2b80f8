"""Engine for spot finding and orientation refinement: hklflow or DIALS, as set by the user."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.dials.programs import Dials, find, workspace
from hklflow.dials.settings import EngineSettings
from hklflow.geometry import Rotation, symmetry
from hklflow.images.scan import RotationScan
from hklflow.orientation import refinement
from hklflow.peaks.table import PeakTable

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Engine:
    """Engine of one stage; `opened` creates it.

    Attributes
    ----------
    dials : Dials or None
        DIALS for indexing and refinement; None: hklflow refines.
    searcher : Dials or None
        DIALS for spot finding; None: hklflow's peak tables are used.
    folder : Path
        Folder in which DIALS runs.
    threads : int
    """

    dials: Dials | None
    searcher: Dials | None
    folder: Path
    threads: int

    def described(self) -> dict[str, Any]:
        """Return the programs that determined an orientation, for the file of the orientation."""
        from hklflow import __version__

        hklflow = f"hklflow {__version__}"
        return {
            "program": hklflow if self.dials is None else self.dials.label,
            "spots": hklflow if self.searcher is None else self.searcher.label,
        }

    def tables(
        self, scans: Sequence[RotationScan], peaks: Sequence[Path], masks: Sequence[Path]
    ) -> list[PeakTable]:
        """Return the peaks of all rotations, read from tables or found by DIALS.

        Raises
        ------
        HklflowError
            If DIALS finds the spots and the number of masks is not the number of rotations.
        """
        from hklflow import nexus
        from hklflow.dials.frames import find_spots

        if self.searcher is None:
            return [nexus.read_peaks(path) for path in peaks]
        if len(masks) != len(scans):
            raise HklflowError(
                f"{len(scans)} rotations and {len(masks)} pixel masks; DIALS searches the frames: "
                "give one mask for each rotation (--masks)"
            )
        return [
            find_spots(self.searcher, scan, scan.rotation, mask, self.folder, self.threads)
            for scan, mask in zip(scans, masks, strict=True)
        ]

    def refine(
        self,
        rotations: Sequence[Rotation],
        tables: Sequence[PeakTable],
        ub: ArrayLike,
        group: symmetry.SpaceGroup,
        free: Sequence[str],
        limits: refinement.RefinementLimits,
        start: Sequence[Rotation] | None = None,
    ) -> refinement.Refined:
        """Refine one crystal; see `orientation.refinement.refine` and `dials.orient.refine`."""
        from hklflow.dials import orient

        if self.dials is None:
            peaks = [refinement.Peaks.of(table) for table in tables]
            return refinement.refine(rotations, peaks, ub, group, free=free, limits=limits)
        return orient.refine(
            self.dials, rotations, tables, ub, group, free, limits, self.folder, start
        )


@contextmanager
def opened(settings: EngineSettings, threads: int) -> Iterator[Engine]:
    """Open the engine of the settings.

    Raises
    ------
    HklflowError
        If the settings need DIALS, but DIALS is not available.
    """
    needed = "dials" in (settings.engine, settings.spots)
    dials = find(settings.prefix) if needed else None
    with workspace("orientation") if needed else nullcontext(Path()) as folder:
        yield Engine(
            dials if settings.engine == "dials" else None,
            dials if settings.spots == "dials" else None,
            folder,
            threads,
        )
