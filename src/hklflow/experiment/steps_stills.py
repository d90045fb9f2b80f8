"""Third part of the table of steps: still frames to structure factors."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hklflow import stages
from hklflow.experiment.flags import files
from hklflow.experiment.step import (
    Jobs,
    Level,
    Output,
    Source,
    Step,
    Wildcards,
    figures,
    geometry_source,
    picture,
)
from hklflow.experiment.stills import StillSample, shared
from hklflow.experiment.tables import linked_files, raw_ends

if TYPE_CHECKING:
    from hklflow.experiment.experiment import Experiment

_STILLS = "7 Still frames"


def _entry(experiment: "Experiment", at: Wildcards) -> StillSample:
    return experiment.config.stills[at["stills"]]


def _every(experiment: "Experiment") -> Iterator[Wildcards]:
    return ({"stills": name} for name in experiment.config.stills)


def _batches(experiment: "Experiment") -> Iterator[Wildcards]:
    for name, entry in experiment.config.stills.items():
        yield from ({"stills": name, "batch": str(n)} for n in range(entry.batches))


_SAMPLE = Level(
    ("stills",),
    lambda paths, name: paths.stills(name),
    _every,
    unbinned=True,
    key=1,
    labels={"of": "{stills}"},
)
_BATCH = Level(
    ("stills", "batch"), lambda paths, name: paths.batch(name), _batches, unbinned=True, key=1
)

# ---------------------------------------------------------------------------- sources


def _raw(plan: Jobs, at: Wildcards) -> list[str]:
    raw, base = _entry(plan.experiment, at).raw, plan.experiment.base
    return raw_ends(raw, base)


def _other_files(plan: Jobs, at: Wildcards) -> list[str]:
    entry = _entry(plan.experiment, at)
    found = [*linked_files(entry.raw, plan.experiment.base), *files(entry.index_stills)]
    return [str(path).removeprefix(f"{plan.experiment.base}/") for path in found]


_GEOMETRY = geometry_source(lambda plan, at: _entry(plan.experiment, at).calibration)


def _indexed(plan: Jobs, at: Wildcards) -> list[str]:
    pattern = plan.paths.unbinned.batch("indexed.nxs")
    return [pattern.format(**at, batch=n) for n in range(_entry(plan.experiment, at).batches)]


# ------------------------------------------------------------------------- parameters


def _of_index(experiment: "Experiment", at: Wildcards) -> stages.index_stills.Params:
    entry = _entry(experiment, at)
    return stages.index_stills.Params(
        **entry.index_stills.model_dump(),
        **shared(entry, experiment.config.dials.prefix),
        batch=int(at["batch"]),
    )


def _of_merge(experiment: "Experiment", at: Wildcards) -> stages.merge_stills.Params:
    return stages.merge_stills.Params(
        **_entry(experiment, at).merge_stills.model_dump(), sample=at["stills"]
    )


def _of_detector(experiment: "Experiment", at: Wildcards) -> stages.refine_stills_detector.Params:
    entry = _entry(experiment, at)
    assert entry.refine_stills_detector is not None
    given = entry.refine_stills_detector.model_dump()
    if entry.refine_stills_detector.author is not None:
        assert entry.calibration is not None
        stored = experiment.stored(entry.calibration)
        names = ("store", "state", "state_schema", "aliases")
        given |= {name: getattr(stored, name) for name in names}
    return stages.refine_stills_detector.Params(
        **given, name=at["stills"], prefix=experiment.config.dials.prefix
    )


def _is_refined(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    if _entry(plan.experiment, at).refine_stills_detector is not None:
        yield {}


# ------------------------------------------------------------------------------ steps

STILLS_STEPS: tuple[Step, ...] = (
    Step(
        "index_stills",
        _BATCH,
        "stills",
        reads={
            "raw": Source(outside=_raw),
            "geometry": _GEOMETRY,
            "files": Source(outside=_other_files),
        },
        writes={"indexed": Output("indexed.nxs"), "metrics": Output("indexed.json")},
        params=_of_index,
    ),
    Step(
        "refine_stills_detector",
        _SAMPLE,
        "stills",
        reads={"batches": Source(_indexed)},
        writes={
            "geometry": Output("geometry.json"),
            "picture": picture("detector.png", _STILLS, "{stills}: detector", "stills_detector"),
            "metrics": figures("detector.json"),
        },
        params=_of_detector,
        runs=_is_refined,
    ),
    Step(
        "merge_stills",
        _SAMPLE,
        "stills",
        reads={"batches": Source(_indexed)},
        writes={
            "factors": Output("structure_factors.nxs"),
            "mtz": Output("structure_factors.mtz"),
            "hkl": Output("structure_factors.hkl"),
            "table": Output("structure_factors.tsv"),
            "frames": Output("frames.tsv"),
            "picture": picture(
                "structure_factors.png", _STILLS, "{stills}: structure factors", "stills_merged"
            ),
            "metrics": figures("structure_factors.json"),
            "page": Output("stills.html"),
        },
        params=_of_merge,
    ),
)
"""Steps of still frames: batches of frames, and samples."""
