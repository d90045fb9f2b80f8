"""Second part of the table of steps: steps that make the constants of detectors."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hklflow import stages
from hklflow.base.errors import HklflowError
from hklflow.constants.runs import raw_files
from hklflow.experiment.constants import Branch, PhotonCounter, counter_runs
from hklflow.experiment.flags import files
from hklflow.experiment.step import (
    Jobs,
    Level,
    Output,
    Source,
    Step,
    Wildcards,
    geometry_source,
    picture,
)
from hklflow.experiment.tables import is_series, raw_ends
from hklflow.stage import Params

if TYPE_CHECKING:
    from hklflow.experiment.experiment import Experiment

_DETECTOR = "1 Detector"
_LABELS = {"of": "{constants}"}


# ------------------------------------------------------------------------------ levels


def _every(experiment: "Experiment") -> Iterator[Wildcards]:
    return ({"constants": name} for name in experiment.config.constants)


def _runs(experiment: "Experiment") -> Iterator[Wildcards]:
    for name, branch in experiment.branches.items():
        yield from ({"constants": name, "run": run} for run in branch.runs)


def _modules(experiment: "Experiment") -> Iterator[Wildcards]:
    for name, branch in experiment.branches.items():
        yield from ({"constants": name, "module": str(module)} for module in branch.modules)


def _measures(experiment: "Experiment") -> Iterator[Wildcards]:
    for at in _modules(experiment):
        measures = experiment.branches[at["constants"]].measures
        yield from ({**at, "measure": measure} for measure in measures)


def _asics(experiment: "Experiment") -> Iterator[Wildcards]:
    for at in _modules(experiment):
        asics = experiment.branches[at["constants"]].asics(int(at["module"]))
        yield from ({**at, "asic": str(asic)} for asic in asics)


_DETECTORS = Level(
    ("constants",),
    lambda paths, name: paths.constants(name),
    _every,
    unbinned=True,
    key=1,
    labels=_LABELS,
)
_RUN = Level(("constants", "run"), lambda paths, name: paths.run(name), _runs, unbinned=True, key=1)
_MEASURE = Level(
    ("constants", "measure", "module"),
    lambda paths, _: paths.gathered(),
    _measures,
    unbinned=True,
    key=1,
)
"""Measure of a module: one job reads the files of the module once for all ASICs of the module."""
_MODULE = Level(
    ("constants", "module"), lambda paths, name: paths.module(name), _modules, unbinned=True, key=1
)
_ASIC = Level(
    ("constants", "module", "asic"),
    lambda paths, name: paths.asic(name),
    _asics,
    unbinned=True,
    key=1,
)


# ---------------------------------------------------------------------------- sources


def _branch(plan: Jobs, at: Wildcards) -> Branch:
    return plan.experiment.branches[at["constants"]]


def _products(place: str, name: str) -> Source:
    """Return the input file: an earlier product of the same run, module, ASIC or detector."""
    return Source(lambda plan, at: [getattr(plan.paths, place)(name).format(**at)])


def _measured(name: str, measure: str) -> Source:
    """Return the input file: a product of the same ASIC, if the measure is in the configuration."""

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        made = _branch(plan, at).measures
        if not any(m == measure or m.startswith(f"{measure}_") for m in made):
            return []
        return [plan.paths.asic(name).format(**at)]

    return Source(products)


def _each(
    place: str, name: str, wildcard: str, of: "Callable[[Branch, Wildcards], Iterable[Any]]"
) -> Source:
    """Return the input files: a product of each run, current, ASIC or module."""

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        pattern = getattr(plan.paths, place)(name)
        return [pattern.format(**at, **{wildcard: n}) for n in of(_branch(plan, at), at)]

    return Source(products)


def _of_runs(name: str) -> Source:
    return _each("run", name, "run", lambda branch, at: branch.runs_of(at["measure"]))


def _gathered(measure: str) -> Source:
    """Return the input file: the gathered frames of a measure for the ASIC of the job."""
    return Source(
        lambda plan, at: [plan.paths.gathered().format(**at, measure=measure.format(**at))],
        inside="asic_{asic}.h5",
    )


def _raw_of_run(plan: Jobs, at: Wildcards) -> list[str]:
    base, name = plan.experiment.base, at["constants"]
    try:
        paths = raw_files(_branch(plan, at).runs[at["run"]], base)
    except HklflowError as error:
        raise HklflowError(f"constants {name}: {error}") from None
    return [path.removeprefix(f"{base}/") for path in paths]


_RAW = Source(outside=_raw_of_run)


def _named_file(key: str) -> Source:
    """Return the input file: the file that a key of the configuration entry names."""

    def outside(plan: Jobs, at: Wildcards) -> list[str]:
        path = getattr(plan.experiment.config.constants[at["constants"]], key)
        return [] if path is None else [path]

    return Source(outside=outside)


def _measurements(plan: Jobs, at: Wildcards) -> dict[str, tuple[str, ...]]:
    """Return the raw files or patterns of each measurement of a photon counter."""
    entry = plan.experiment.config.constants[at["constants"]]
    return counter_runs(entry) if isinstance(entry, PhotonCounter) else {}


def _counter_raw(kind: str) -> Source:
    """Return the input files: raw files of a measurement, or both ends of each image series."""
    return Source(
        outside=lambda plan, at: [
            end
            for run in _measurements(plan, at)[kind]
            for end in raw_ends(run, plan.experiment.base)
        ]
    )


def _of_counter(kind: str) -> Source:
    """Return the input file: the constants from a measurement, if the configuration has it."""
    return Source(
        lambda plan, at: (
            [plan.paths.constants(f"{kind}.nxs").format(**at)]
            if kind in _measurements(plan, at)
            else []
        )
    )


_FLOOD_GEOMETRY = geometry_source(
    lambda plan, at: getattr(plan.experiment.config.constants[at["constants"]], "geometry", None)
)
"""Geometry of the flood field, if the configuration names one."""


def _files_of_counter(plan: Jobs, at: Wildcards) -> list[str]:
    entry = plan.experiment.config.constants[at["constants"]]
    return files(entry.counter_constants) if isinstance(entry, PhotonCounter) else []


# ------------------------------------------------------------------------- conditions


def _is_integrating(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    if at["constants"] in plan.experiment.branches:
        yield {}


def _is_counter(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    if at["constants"] not in plan.experiment.branches:
        yield {}


def _is_stored(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    if plan.experiment.config.constants[at["constants"]].stored is not None:
        yield {}


def _if_measured(kind: str) -> "Callable[[Jobs, Wildcards], Iterator[Wildcards]]":
    def runs(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
        if kind in _measurements(plan, at) or (
            at["constants"] in plan.experiment.branches and kind in _branch(plan, at).measures
        ):
            yield {}

    return runs


def _currents(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    return ({"current": current} for current in _branch(plan, at).currents)


def _if_currents(plan: Jobs, at: Wildcards) -> Iterator[Wildcards]:
    if _branch(plan, at).currents:
        yield {}


# ------------------------------------------------------------------------- parameters


def _params(rule: str, **values: Any) -> "Callable[[Experiment, Wildcards], Params]":
    """Return a function that returns the settings of an entry, updated by ``values``.

    Each value is a function of (entry, branch, wildcards).
    """

    def params(experiment: "Experiment", at: Wildcards) -> Params:
        entry = experiment.config.constants[at["constants"]]
        own, branch = getattr(entry, rule, None), experiment.branches.get(at["constants"])
        given = {} if own is None else own.model_dump()
        for name, of in values.items():
            if (value := of(entry, branch, at)) not in (None, (), []):
                given[name] = value
        made: Params = import_module(f"hklflow.stages.{rule}").Params(**given)
        return made

    return params


_DIVISION = {
    "module_size": lambda entry, _, __: entry.module_size,
    "asic_size": lambda entry, _, __: entry.asic_size,
    "detector": lambda entry, _, __: entry.detector,
}
_MODULE_SIZE = {"module_size": _DIVISION["module_size"]}
_LAYOUT = {
    **_DIVISION,
    "layout": lambda entry, _, __: entry.layout,
    "memory_cells": lambda entry, _, at: entry.memory_cells_of(at.get("run") or at["measure"]),
}


def _series(kind: str) -> "Callable[[Any, Any, Wildcards], tuple[str, ...]]":
    return lambda entry, _, __: tuple(run for run in counter_runs(entry)[kind] if is_series(run))


def _pattern(kind: str) -> dict[str, Any]:
    return {"pattern": lambda *given: next(iter(_series(kind)(*given)), None)}


def _proposal(experiment: "Experiment", at: Wildcards) -> stages.propose_constants.Params:
    """Return the parameters that propose constants to the store."""
    entry = experiment.config.constants[at["constants"]].stored
    assert entry is not None
    given = {
        name: getattr(entry, name)
        for name in ("store", "state", "author", "state_schema", "aliases", "gates")
    }
    return stages.propose_constants.Params.model_validate({"name": at["constants"], **given})


# ------------------------------------------------------------------------------ steps


def _step(rule: str, level: Level, **rest: Any) -> Step:
    return Step(rule, level, "constants", **({"params": _params(rule)} | rest))


def _files_of_asics(plan: Jobs, at: Wildcards) -> Sequence[str]:
    return [f"asic_{asic}.h5" for asic in range(_branch(plan, at).detector.asics)]


def _process(rule: str, measure: str, name: str, **rest: Any) -> Step:
    """Return the step that makes constants of an ASIC from the frames of a measure."""
    return _step(
        rule,
        _ASIC,
        reads={"gathered": _gathered(measure), "dark": _products("asic", "dark.nxs")},
        writes={"constants": Output(name)},
        **rest,
    )


_INTEGRATING = (
    _step(
        "constants_preprocess",
        _RUN,
        reads={"raw": _RAW},
        writes={"facts": Output("facts.json")},
        params=_params(
            "constants_preprocess",
            run=lambda _, __, at: at["run"],
            modules=lambda _, branch, __: branch.modules,
            **_LAYOUT,
        ),
    ),
    _step(
        "constants_sanity",
        _RUN,
        reads={"raw": _RAW, "facts": _products("run", "facts.json")},
        writes={"report": Output("sanity.json")},
    ),
    _step(
        "gather",
        _MEASURE,
        reads={"facts": _of_runs("facts.json"), "sanity": _of_runs("sanity.json")},
        writes={"gathered": Output("")},
        params=_params(
            "gather",
            measure=lambda _, __, at: at["measure"],
            module=lambda _, __, at: int(at["module"]),
            **_LAYOUT,
        ),
        folder=_files_of_asics,
    ),
    _step(
        "process_dark",
        _ASIC,
        reads={gain: _gathered(f"dark_{gain}") for gain in ("high", "medium", "low")},
        writes={"constants": Output("dark.nxs")},
    ),
    _process("process_xray", "xray", "xray.nxs", runs=_if_measured("xray")),
    _process(
        "process_pulse_capacitor",
        "pulse_capacitor",
        "pulse_capacitor.nxs",
        runs=_if_measured("pulse_capacitor"),
    ),
    _process(
        "process_current_source",
        "current_source_{current}",
        "current_source_{current}.nxs",
        over=("current",),
        runs=_currents,
    ),
    _step(
        "merge_current_source",
        _ASIC,
        reads={
            "currents": _each(
                "asic", "current_source_{current}.nxs", "current", lambda b, _: b.currents
            )
        },
        writes={"constants": Output("merged.nxs")},
        params=_params("merge_current_source", names=lambda _, branch, __: branch.currents),
        runs=_if_currents,
    ),
    _step(
        "combine_constants",
        _ASIC,
        reads={
            "dark": _products("asic", "dark.nxs"),
            "xray": _measured("xray.nxs", "xray"),
            "pulse_capacitor": _measured("pulse_capacitor.nxs", "pulse_capacitor"),
            "current_source": _measured("merged.nxs", "current_source"),
            "gain_map": _named_file("gain_map"),
        },
        writes={"constants": Output("combined.nxs")},
        params=_params("combine_constants", **_MODULE_SIZE),
    ),
    _step(
        "mask_constants",
        _ASIC,
        reads={"combined": _products("asic", "combined.nxs"), "user": _named_file("mask")},
        writes={"constants": Output("masked.nxs")},
        params=_params("mask_constants", **_MODULE_SIZE),
    ),
    _step(
        "join_module",
        _MODULE,
        reads={
            "asics": _each("asic", "masked.nxs", "asic", lambda b, at: b.asics(int(at["module"])))
        },
        writes={"constants": Output("module.nxs")},
        params=_params(
            "join_module",
            module=lambda _, __, at: int(at["module"]),
            numbers=lambda _, branch, at: branch.asics(int(at["module"])),
            **_DIVISION,
        ),
    ),
    _step(
        "join_constants",
        _DETECTORS,
        reads={"modules": _each("module", "module.nxs", "module", lambda b, _: b.modules)},
        writes={"constants": Output("constants.nxs")},
        params=_params(
            "join_constants",
            numbers=lambda _, branch, __: branch.modules,
            absent=lambda e, branch, _: tuple(m for m in e.modules if m not in branch.modules),
            title=lambda _, __, at: f"constants of {at['constants']}",
        ),
        runs=_is_integrating,
    ),
)


def _counter(kind: str, reads: dict[str, Source] | None = None, **values: Any) -> Step:
    """Return the step that makes constants of a photon counter from one measurement."""
    rule = f"counter_{kind}"
    return _step(
        rule,
        _DETECTORS,
        reads={"raw": _counter_raw(kind), **(reads or {})},
        writes={"constants": Output(f"{kind}.nxs")},
        params=_params(rule, **(values or _pattern(kind))),
        runs=_if_measured(kind),
    )


_MEASUREMENTS = ("dark", "flood", "stability", "rate")

_COUNTERS = (
    _counter("dark"),
    _counter("flood", {"geometry": _FLOOD_GEOMETRY, "dark": _of_counter("dark")}),
    _counter("stability"),
    _counter(
        "rate", patterns=_series("rate"), transmission=lambda entry, _, __: entry.runs.transmission
    ),
    _step(
        "counter_constants",
        _DETECTORS,
        reads={kind: _of_counter(kind) for kind in _MEASUREMENTS}
        | {"files": Source(outside=_files_of_counter)},
        writes={
            "constants": Output("constants.nxs"),
            "picture": picture("mask.png", _DETECTOR, "constants: mask and flat field", "mask"),
            "metrics": Output("counter.json"),
        },
        runs=_is_counter,
    ),
)

_REPORT = {
    "histograms": picture(
        "histograms.png", _DETECTOR, "constants: histograms", "constants_histograms"
    ),
    "maps": picture("maps.png", _DETECTOR, "constants: maps", "constants_maps"),
    "table": Output("table.json"),
}

_BOTH = (
    _step(
        "constants_report",
        _DETECTORS,
        reads={"constants": _products("constants", "constants.nxs")},
        writes=_REPORT,
        params=_params(
            "constants_report", asic_size=lambda entry, _, __: getattr(entry, "asic_size", None)
        ),
    ),
    _step(
        "propose_constants",
        _DETECTORS,
        reads={
            "constants": _products("constants", "constants.nxs"),
            "report": Source(
                lambda plan, at: [
                    plan.paths.constants(output.name).format(**at) for output in _REPORT.values()
                ]
            ),
        },
        writes={"proposed": Output("proposed.json")},
        params=_proposal,
        runs=_is_stored,
    ),
)

CONSTANTS_STEPS: tuple[Step, ...] = (*_INTEGRATING, *_COUNTERS, *_BOTH)
"""All steps that make the constants of detectors.

Integrating detectors have steps for runs, measures of a module, ASICs, modules and detectors.
Photon counters have steps for measurements and detectors. Report and proposal are steps of both.
"""
