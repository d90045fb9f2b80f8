"""The jobs of the constants of detectors, as `hklflow.experiment.jobs` has those of scans.

`gather` is not among them: its frames are removed when they were used. What it reads and is told
stands in the records of `constants_preprocess` too.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hklflow.constants.runs import raw_files
from hklflow.experiment import constants
from hklflow.experiment.constants import Branch, IntegratingDetector, PhotonCounter
from hklflow.experiment.jobs import Job, Recipe, calibration_jobs
from hklflow.experiment.tables import is_series, raw_ends
from hklflow.stage import Params

if TYPE_CHECKING:
    from hklflow.experiment.experiment import Experiment

_Files = list[str | None]


def constants_jobs(experiment: "Experiment") -> list[Job]:
    """Jobs of all constants of the configuration."""
    found: list[Job] = []
    for name, entry in experiment.config.constants.items():
        table = _Table(experiment, name)
        if isinstance(entry, IntegratingDetector):
            found += table.integrating(constants.branch(entry))
        else:
            found += table.counter(entry)
        found += table.judged()
    # Geometries that only a flood field needs; those of scans are among the others.
    of_scans = {experiment.rotation(*key).calibration for key in experiment.all_rotations()}
    entries = experiment.config.constants.values()
    geometries = {entry.geometry for entry in entries if isinstance(entry, PhotonCounter)}
    return found + calibration_jobs(experiment, geometries - of_scans - {None})


class _Table:
    def __init__(self, experiment: "Experiment", name: str) -> None:
        self._experiment, self._paths, self._name = experiment, experiment.paths, name

    def _job(
        self,
        rule: str,
        products: list[str],
        inputs: Callable[[], _Files],
        params: Callable[[], Params] | Mapping[str, Any],
        *settings: Params | None,
    ) -> Job:
        """Job with the parameters of its settings in the configuration and those that are given."""

        def recipes() -> list[Recipe]:
            if callable(params):
                made = params()
            else:
                given: dict[str, Any] = {}
                for own in settings:
                    given |= {} if own is None else own.model_dump()
                model = import_module(f"hklflow.stages.{rule}").Params
                made = model(**given | {k: v for k, v in params.items() if v})
            return [Recipe(rule, made, tuple(path for path in inputs() if path))]

        return Job(rule, "constants", (self._name,), tuple(products), (), (), recipes)

    # ------------------------------------------------------------------ integrating detectors

    def integrating(self, branch: Branch) -> Iterator[Job]:
        """Jobs from the runs to the joined constants."""
        entry, name, paths = branch.entry, self._name, self._paths
        sizes = {"module_size": entry.module_size, "asic_size": entry.asic_size}
        kind = {"detector": entry.detector}
        for run, raw in branch.runs.items():
            facts, sanity = (
                paths.run(product).format(constants=name, run=run)
                for product in ("facts.json", "sanity.json")
            )
            files = partial(self._raw_files, raw)
            told = {"run": run, "modules": branch.modules, "layout": entry.layout} | kind | sizes
            yield self._job("constants_preprocess", [facts], files, told)
            yield self._job(
                "constants_sanity",
                [sanity],
                lambda files=files, facts=facts: [*files(), facts],  # type: ignore[misc]
                {},
                entry.constants_sanity,
            )
        for module in branch.modules:
            for asic in branch.asics(module):
                yield from self._asic(branch, module, asic)
            at = {"constants": name, "module": module}
            yield self._job(
                "join_module",
                [paths.module("module.nxs").format(**at)],
                partial(self._masked, branch, module),
                lambda module=module: import_module(  # type: ignore[misc]
                    "hklflow.stages.join_module"
                ).Params(
                    detector=entry.detector,
                    module=module,
                    numbers=branch.asics(module),
                    **{name: size for name, size in sizes.items() if size},
                ),
            )
        yield self._job(
            "join_constants",
            [paths.constants("constants.nxs").format(constants=name)],
            lambda: [
                paths.module("module.nxs").format(constants=name, module=module)
                for module in branch.modules
            ],
            {
                "numbers": branch.modules,
                "absent": tuple(m for m in entry.modules if m not in branch.modules),
                "title": f"constants of {name}",
            },
        )

    def _masked(self, branch: Branch, module: int) -> _Files:
        return [
            self._paths.asic("masked.nxs").format(constants=self._name, module=module, asic=asic)
            for asic in branch.asics(module)
        ]

    def _asic(self, branch: Branch, module: int, asic: int) -> Iterator[Job]:
        entry, at = branch.entry, {"constants": self._name, "module": module, "asic": asic}

        def here(name: str) -> str:
            return self._paths.asic(name).format(**at)

        def frames(measure: str) -> str:
            folder = self._paths.gathered().format(**at, measure=measure)
            return f"{folder}/asic_{asic}.h5"

        def job(rule: str, product: str, files: _Files, own: Params | None, **told: object) -> Job:
            return self._job(rule, [here(product)], lambda: files, told, own)

        dark = here("dark.nxs")
        darks: _Files = [frames(f"dark_{stage}") for stage in ("high", "medium", "low")]
        yield job("process_dark", "dark.nxs", darks, entry.process_dark)
        xray = "xray" in branch.measures
        pulses = "pulse_capacitor" in branch.measures
        if xray:
            yield job("process_xray", "xray.nxs", [frames("xray"), dark], entry.process_xray)
        if pulses:
            yield job(
                "process_pulse_capacitor",
                "pulse_capacitor.nxs",
                [frames("pulse_capacitor"), dark],
                entry.process_pulse_capacitor,
            )
        currents = {name: f"current_source_{name}.nxs" for name in branch.currents}
        for name, product in currents.items():
            files: _Files = [frames(f"current_source_{name}"), dark]
            yield job("process_current_source", product, files, entry.process_current_source)
        if currents:
            yield job(
                "merge_current_source",
                "merged.nxs",
                [here(product) for product in currents.values()],
                entry.merge_current_source,
                names=tuple(currents),
            )
        yield job(
            "combine_constants",
            "combined.nxs",
            [
                dark,
                here("xray.nxs") if xray else None,
                here("pulse_capacitor.nxs") if pulses else None,
                here("merged.nxs") if currents else None,
                entry.gain_map,
            ],
            entry.combine_constants,
            module_size=entry.module_size,
        )
        yield job(
            "mask_constants",
            "masked.nxs",
            [here("combined.nxs"), entry.mask],
            entry.mask_constants,
            module_size=entry.module_size,
        )

    def _raw_files(self, run: str) -> _Files:
        base = self._experiment.base
        return [_below(path, base) for path in raw_files(run, base)]

    # ------------------------------------------------------------------ photon counters

    def counter(self, entry: PhotonCounter) -> Iterator[Job]:
        """Jobs from the measurements to mask and flat field."""
        runs = constants.counter_runs(entry)

        def here(name: str) -> str:
            return self._paths.constants(name).format(constants=self._name)

        def geometry() -> str | None:
            return self._experiment.calibration_file(entry.geometry) if entry.geometry else None

        for kind, measured in runs.items():
            own = getattr(entry, f"counter_{kind}")
            series = tuple(run for run in measured if is_series(run))
            told: dict[str, Any] = {}
            if kind == "rate":
                told = {"patterns": series, "transmission": entry.runs.transmission}
            elif series:
                told = {"pattern": series[0]}
            more = [here("dark.nxs")] if kind == "flood" and "dark" in runs else []

            def inputs(
                measured: tuple[str, ...] = measured, more: list[str] = more, kind: str = kind
            ) -> _Files:
                base = self._experiment.base
                raw = [end for run in measured for end in raw_ends(run, base)]
                return [*raw, *more, geometry() if kind == "flood" else None]

            yield self._job(f"counter_{kind}", [here(f"{kind}.nxs")], inputs, told, own)
        yield self._job(
            "counter_constants",
            [here(name) for name in ("constants.nxs", "mask.png", "counter.json")],
            lambda: [here(f"{kind}.nxs") for kind in runs],
            {},
            entry.counter_constants,
        )

    # ------------------------------------------------------------------ both

    def judged(self) -> Iterator[Job]:
        """Report and proposal."""
        entry = self._experiment.config.constants[self._name]
        made, *report = (
            self._paths.constants(name).format(constants=self._name)
            for name in ("constants.nxs", "histograms.png", "maps.png", "table.json")
        )
        size = getattr(entry, "asic_size", None)
        yield self._job("constants_report", report, lambda: [made], {"asic_size": size})
        if entry.stored is not None:
            yield self._job(
                "propose_constants",
                [self._paths.constants("proposed.json").format(constants=self._name)],
                lambda: [made, *report],
                lambda: self._experiment.proposal(self._name),
            )


def _below(path: str, base: Any) -> str:
    """Path from the experiment's folder, if it is in it."""
    return path.removeprefix(f"{base}/")
