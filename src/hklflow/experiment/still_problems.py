"""Problems of the section `stills` of the configuration."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hklflow.base.errors import HklflowError
from hklflow.base.system import no_file
from hklflow.experiment.flags import files
from hklflow.experiment.stills import StillSample
from hklflow.experiment.tables import (
    brace_problem,
    cell_problems,
    is_series,
    series_ends,
    space_group_problems,
)

if TYPE_CHECKING:
    from hklflow.experiment.experiment import Experiment


def problems(experiment: "Experiment", simulated: bool) -> Iterator[str]:
    """Yield problems of the section `stills`."""
    config, base = experiment.config, experiment.base
    for name, entry in config.stills.items():
        where = f"config: stills.{name}"
        if (fault := brace_problem(entry.raw)) is not None:
            yield f"{where}: {fault}"
        elif not simulated:
            yield from _raw_problems(where, entry.raw, base)
        if entry.calibration is not None and entry.calibration not in config.calibrations:
            defined = ", ".join(config.calibrations) or "none"
            yield (
                f"{where}: there is no calibration {entry.calibration!r}: the configuration "
                f"defines {defined}"
            )
        cells, groups = (
            list(cell_problems(entry.cell)),
            list(space_group_problems(entry.space_group)),
        )
        yield from (f"{where}.cell: {problem}" for problem in cells)
        yield from (f"{where}.space_group: {problem}" for problem in groups)
        if not cells and not groups:
            yield from _metric_problems(where, entry)
        detector = entry.refine_stills_detector
        proposes = detector is not None and detector.author is not None
        if proposes and experiment.stored_kinds.get(entry.calibration or "") != "geometry":
            yield (
                f"{where}.refine_stills_detector.author: the detector is proposed to the store of "
                "`calibration`, which is not an entry with `store`; give one, or no author"
            )
        for file in files(entry.index_stills):
            if (reason := no_file(base / file)) is not None:
                yield f"{where}.index_stills: {file} {reason}"


def _raw_problems(where: str, raw: str, base: Path) -> Iterator[str]:
    if is_series(raw):
        try:
            series_ends(raw, base)
        except HklflowError as error:
            yield f"{where}: {error}"
    elif (reason := no_file(base / raw)) is not None:
        yield f"{where}: {raw} {reason}"


def _metric_problems(where: str, entry: StillSample) -> Iterator[str]:
    """Yield a problem if the cell does not have the symmetry of the space group."""
    import numpy as np

    from hklflow.geometry.symmetry import constrain_cell, space_group

    group = space_group(entry.space_group)
    exact = constrain_cell(entry.cell, group)
    if not np.allclose(exact, entry.cell, rtol=1e-3):
        shown = " ".join(f"{x:g}" for x in entry.cell)
        yield (
            f"{where}.cell: {shown} does not have the symmetry of {group.symbol}, which needs "
            f"{' '.join(f'{x:.4g}' for x in exact)}; correct the cell or the space group"
        )
