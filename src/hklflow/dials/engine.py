"""What finds spots and refines an orientation: hklflow itself or DIALS, as the settings say."""

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
    """The engine of one stage; made by `opened`.

    Attributes
    ----------
    dials : Dials or None
        None: hklflow refines.
    searcher : Dials or None
        None: hklflow's peak tables are used.
    folder : Path
        Where DIALS runs, if it does.
    threads : int
    """

    dials: Dials | None
    searcher: Dials | None
    folder: Path
    threads: int

    def described(self) -> dict[str, Any]:
        """Which programs made an orientation, for its file."""
        from hklflow import __version__

        own = f"hklflow {__version__}"
        return {
            "program": own if self.dials is None else self.dials.label,
            "spots": own if self.searcher is None else self.searcher.label,
        }

    def tables(
        self, scans: Sequence[RotationScan], peaks: Sequence[Path], masks: Sequence[Path]
    ) -> list[PeakTable]:
        """Peaks of all rotations: read, or searched by DIALS.

        Raises
        ------
        HklflowError
            If DIALS searches and there is not one mask for each rotation.
        """
        from hklflow import nexus
        from hklflow.dials.frames import find_spots

        if self.searcher is None:
            return [nexus.read_peaks(path) for path in peaks]
        if len(masks) != len(scans):
            raise HklflowError(
                f"{len(scans)} rotations and {len(masks)} pixel masks; DIALS searches the frames: "
                "give one mask for every rotation (--masks)"
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
        """Refine one crystal, see `orientation.refinement.refine` and `dials.orient.refine`."""
        from hklflow.dials import orient

        if self.dials is None:
            peaks = [refinement.Peaks.of(table) for table in tables]
            return refinement.refine(rotations, peaks, ub, group, free=free, limits=limits)
        return orient.refine(
            self.dials, rotations, tables, ub, group, free, limits, self.folder, start
        )


@contextmanager
def opened(settings: EngineSettings, threads: int) -> Iterator[Engine]:
    """Give the engine that the settings ask for.

    Raises
    ------
    HklflowError
        If that is DIALS and it is not to be had.
    """
    asked = "dials" in (settings.engine, settings.spots)
    found = find(settings.prefix) if asked else None
    with workspace("orientation") if asked else nullcontext(Path()) as folder:
        yield Engine(
            found if settings.engine == "dials" else None,
            found if settings.spots == "dials" else None,
            folder,
            threads,
        )
