"""Problems of runs without the crystal that the tables show."""

from collections.abc import Iterator
from pathlib import Path

from hklflow.base.errors import HklflowError
from hklflow.base.names import analysis
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.tables import raw_ends


def problems(experiment: Experiment) -> Iterator[str]:
    """Yield each background with frames of the crystal, and settings that have no effect."""
    yield from _crystal_problems(experiment)
    yield from _idle_problems(experiment)


def _idle_problems(experiment: Experiment) -> Iterator[str]:
    """Yield settings that no sample and no scan uses; one that uses them is enough."""
    every = [experiment.settings(*key) for key in experiment.scans]
    if any(s.background.rings == "subtract" for s in every) and not any(
        s.background.rings == s.background.unmeasured == "subtract" for s in every
    ):
        yield (
            "config: background.rings: `subtract` has no effect without `unmeasured: subtract`; "
            "add it, or leave `rings` out"
        )
    if any(s.absolute_scale.background_error is not None for s in every) and not any(
        s.absolute_scale.background_error is not None and s.absolute_scale.cif for s in every
    ):
        yield (
            "config: absolute_scale.background_error: it has no effect without a structure (the "
            "method of high angles uses both); give `absolute_scale: {cif: ...}`, or leave it out"
        )


def _crystal_problems(experiment: Experiment) -> Iterator[str]:
    """Yield each background with frames of a row of the table of scans, or of a product."""
    results = (experiment.base / experiment.config.results).resolve()
    rows = {
        path: f"{sample}/{scan}, rotation {rotation}"
        for sample, scan, rotation in experiment.all_rotations()
        if not analysis(scan)
        for raw in experiment.rotation(sample, scan, rotation).parts
        for path in _files(raw, experiment.base)
    }
    found: dict[str, None] = {}
    for key in experiment.scans:
        for name, run in experiment.settings(*key).background.runs.items():
            files = () if run is None else _files(run.raw, experiment.base)
            if any(path.is_relative_to(results) for path in files):
                assert run
                found[
                    f"config: background.runs.{name}.raw: {run.raw} is among the products of this "
                    "workflow, made of frames with the crystal; give a run without the crystal"
                ] = None
            for row in (rows[path] for path in files if path in rows):
                assert run
                found[
                    f"config: background.runs.{name}.raw: {run.raw} has the frames of {row}, with "
                    "the crystal; give a run without the crystal"
                ] = None
    yield from found


def _files(raw: str, base: Path) -> list[Path]:
    """Return the file, or first and last image, without links; empty if there is none."""
    try:
        return [(base / path).resolve() for path in raw_ends(raw, base)]
    except (HklflowError, OSError):
        return []  # reported where the frames are read
