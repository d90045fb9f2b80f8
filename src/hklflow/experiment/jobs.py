"""The jobs of an experiment: what each makes, of what, and with which parameters.

One table of what ``workflow/rules`` run: tests hold it to what snakemake itself lists. `hklflow
status` shows it, and `hklflow.experiment.freshness` compares it with what the products say of
themselves.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING

from hklflow import stages
from hklflow.experiment.models import PoniFile, PowderImage
from hklflow.experiment.simulated import simulation_description
from hklflow.stage import Params

if TYPE_CHECKING:
    from hklflow.experiment.experiment import Experiment
    from hklflow.experiment.paths import Paths

_NOT_SHOWN = ("/parent.json", "/converged.json", "/modules.json")
"""Figures that are on no page: others say the same of their scan."""
_KINDS = ("transform", "masked_transform")
_Wildcards = dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """How a run of a stage is to be made.

    Attributes
    ----------
    stage : str
    params : model
    inputs : tuple of str
        All files that its command line names, relative to the experiment; those that its
        parameters name apart.
    """

    stage: str
    params: Params
    inputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Job:
    """One job of a rule; each is equal to itself only.

    Attributes
    ----------
    rule : str
    column : str
        Group of steps.
    key : tuple of str
        Sample, scan and rotation, as far as it has them; or the name of a calibration.
    products : tuple of str
        All of its outputs, relative to the experiment.
    inputs : tuple of str
        Products of other jobs that it reads.
    logs : tuple of str
    recipes : callable
        Gives the runs of stages that make it, the last of them last. Not asked for nothing: a
        calibration store may have no version for it, which is a `HklflowError`.
    parts : tuple of str
        Outputs that are removed in the end, of blocks of frames.
    """

    rule: str
    column: str
    key: tuple[str, ...]
    products: tuple[str, ...]
    inputs: tuple[str, ...]
    logs: tuple[str, ...]
    recipes: Callable[[], list[Recipe]]
    parts: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """For messages."""
        return f"{' '.join(self.key)} {self.rule}".strip()

    @property
    def figures(self) -> tuple[str, ...]:
        """Products that hold figures and sentences for the page and the verdict."""
        return tuple(
            path
            for path in self.products
            if path.endswith(".json") and not path.endswith(_NOT_SHOWN)
        )


def jobs_of(experiment: "Experiment") -> list[Job]:
    """All jobs that `snakemake` has to do, in the order of the tables."""
    table = _Table(experiment)
    used = {experiment.rotation(*key).calibration for key in experiment.all_rotations()}
    found = [*table.calibrations(used)]
    for name in experiment.config.constants:
        product = experiment.paths.constants("constants.nxs").format(constants=name)
        # Its steps are in `hklflow.experiment.jobs_constants`.
        found.append(Job("constants", "constants", (name,), (product,), (), (), list))
    for sample, scan in experiment.scans:
        for rotation in experiment.rotations(sample, scan):
            found += table.rotation(sample, scan, rotation)
        found += table.scan(sample, scan)
    for sample in experiment.used_samples():
        found += table.sample(sample, [job for job in found if job.key[:1] == (sample,)])
    if experiment.scans:
        found.append(table.overview(found))
    return found


def calibration_jobs(experiment: "Experiment", names: Container[str | None]) -> list[Job]:
    """Jobs that make these geometries, as far as they are not of a store."""
    return list(_Table(experiment).calibrations(names))


def _with(names: str, *suffixes: str) -> list[str]:
    return [name + suffix for name in names.split() for suffix in suffixes]


_Made = tuple[Params, Sequence[str]]
"""Parameters, and the files that a command line names."""


def _recipe(stage: str, made: Callable[[], _Made]) -> Callable[[], list[Recipe]]:
    """Recipe of a job that is one run of a stage."""

    def recipes() -> list[Recipe]:
        params, inputs = made()
        return [Recipe(stage, params, tuple(inputs))]

    return recipes


def _calibration(entry: "PowderImage | PoniFile") -> _Made:
    """A calibration of the configuration: its file is an input, not a parameter."""
    given = entry.model_dump(exclude={"image", "poni"})
    if isinstance(entry, PowderImage):
        return stages.powder_calibration.Params(**given), (entry.image,)
    return stages.import_poni.Params(**given), (entry.poni,)


class _Patterns:
    """`Paths`, each pattern made once: there are thousands of jobs."""

    def __init__(self, paths: "Paths") -> None:
        self.calibration, self.constants = cache(paths.calibration), cache(paths.constants)
        self.rotation, self.part = cache(paths.rotation), cache(paths.part)
        self.scan, self.series = cache(paths.scan), cache(paths.series)
        self.stack, self.page = cache(paths.stack), cache(paths.page)
        self.overview, self.log = cache(paths.overview), cache(paths.log)


class _Table:
    def __init__(self, experiment: "Experiment") -> None:
        self._experiment, self._paths = experiment, _Patterns(experiment.paths)
        # Sums and corrected frames are the same whatever the binning.
        self._unbinned = _Patterns(experiment.paths.unbinned)
        self._pdfs = [kind for kind in _KINDS if kind in experiment.config.delta_pdf]
        # The total PDF takes its Bragg reflections from the volume of all pixels.
        self._symmetrised = _KINDS if "masked_transform" in self._pdfs else self._pdfs
        calibrations = experiment.config.calibrations.items()
        self._powders = {name for name, entry in calibrations if isinstance(entry, PowderImage)}

    def _log(self, rule: str, **wildcards: str) -> tuple[str, ...]:
        return (self._paths.log(rule, *wildcards).format(**wildcards),)

    def _of_frames(
        self,
        rule: str,
        names: Sequence[str],
        inputs: list[str],
        at: _Wildcards,
        made: "Callable[[], _Made]",
    ) -> Job:
        """Job that makes frames of raw ones, whatever the binning."""
        return Job(
            rule,
            "import",
            (at["sample"], at["scan"], at["rotation"]),
            tuple(self._unbinned.rotation(name).format(**at) for name in names),
            tuple(inputs),
            (self._unbinned.log(rule, *at).format(**at),),
            _recipe(rule, made),
        )

    # ------------------------------------------------------------------ before the scans

    def calibrations(self, names: Container[str | None]) -> Iterator[Job]:
        """Geometries that are made here."""
        experiment, paths = self._experiment, self._paths
        for name, entry in experiment.config.calibrations.items():
            at = {"calibration": name}
            if name not in names or not isinstance(entry, PowderImage | PoniFile):
                continue
            powder = isinstance(entry, PowderImage)
            rule = "powder_calibration" if powder else "import_poni"
            files = ["geometry.json", *(["geometry.poni", "rings.png"] if powder else [])]
            inputs: tuple[str, ...] = ()
            if isinstance(entry, PowderImage) and experiment.config.simulation is not None:
                inputs = (entry.image,)
                yield self._simulated(entry.image, (name,), "calibration")
            yield Job(
                rule,
                "calibration",
                (name,),
                tuple(paths.calibration(n).format(**at) for n in files),
                inputs,
                self._log(rule, **at),
                _recipe(rule, partial(_calibration, entry)),
            )

    def _simulated(self, raw: str, key: tuple[str, ...], column: str) -> Job:
        def made() -> _Made:
            description = simulation_description(self._experiment, raw)
            text = description.model_dump_json(exclude_defaults=True)
            return stages.simulate.Params(description=text), ()

        logs = self._log("simulate", raw=raw)
        return Job("simulate", column, key, (raw,), (), logs, _recipe("simulate", made))

    def _geometry(self, calibration: str | None) -> list[str]:
        entry = self._experiment.config.calibrations.get(calibration or "")
        if not isinstance(entry, PowderImage | PoniFile):
            return []
        return [self._paths.calibration("geometry.json").format(calibration=calibration)]

    # ------------------------------------------------------------------ rotations

    def rotation(self, sample: str, scan: str, rotation: str) -> Iterator[Job]:
        """Jobs of one rotation."""
        experiment, paths = self._experiment, self._paths
        own, row = experiment.settings(sample, scan), experiment.rotation(sample, scan, rotation)
        key = (sample, scan, rotation)
        at = {"sample": sample, "scan": scan, "rotation": rotation}

        def here(*names: str) -> list[str]:
            return [paths.rotation(name).format(**at) for name in names]

        def job(
            rule: str,
            column: str,
            names: Sequence[str],
            inputs: Sequence[str],
            params: Callable[..., Params],
            files: Callable[[], Sequence[str]] = tuple,
        ) -> Job:
            """``params`` are asked for the sample, the scan and the rotation."""
            products, logs = tuple(here(*names)), self._log(rule, **at)
            made = _recipe(rule, lambda: (params(*key), (*inputs, *files())))
            return Job(rule, column, key, products, tuple(inputs), logs, made)

        def raw_files() -> Sequence[str]:
            return () if raws else experiment.raw_inputs(row)

        def constants_file(counter: bool) -> list[str]:
            found = experiment.constants_file(*key, counter)
            return [] if found is None else [found]

        def flat_field() -> list[str]:
            return constants_file(counter=True) if own.correct_frames.flat_field else []

        def geometry() -> list[str]:
            found = experiment.geometry_file(*key)
            return [] if found is None else [found]

        of_scan = {
            name: paths.scan(f"{name}.json").format(**at)
            for name in ("orientation", "accepted", "converged")
        }
        raws: list[str] = []
        if experiment.config.simulation is not None:
            raws = list(row.parts)
            for raw in raws:
                yield self._simulated(raw, key, "import")
        if experiment.is_corrected(sample, scan):
            name = own.correct_frames.constants
            constants = experiment.config.constants.get(name or "")
            ours = constants is not None and constants.stored is None
            needed = [paths.constants("constants.nxs").format(constants=name)] if ours else []
            names = _with("corrected", ".nxs", ".png", ".json")
            made = self._of_frames(
                "correct_frames",
                names,
                [*raws, *needed],
                at,
                lambda: (
                    experiment.correct_params(*key),
                    (*experiment.raw_inputs(row), *constants_file(counter=False)),
                ),
            )
            yield made
            raws = [made.products[0]]
        elif row.is_sum:
            made = self._of_frames(
                "sum_scans",
                ["sum.nxs"],
                raws,
                at,
                lambda: (experiment.sum_params(*key), experiment.raw_inputs(row)),
            )
            yield made
            raws = list(made.products)
        if experiment.config.binning > 1:
            unbinned = tuple(raws) or None
            yield job(
                "bin_frames",
                "import",
                ["binned.nxs"],
                raws,
                experiment.bin_params,
                lambda: () if unbinned else experiment.raw_inputs(row),
            )
            raws = here("binned.nxs")
        made_here = self._geometry(row.calibration)
        yield job(
            "import_scan",
            "import",
            ["scan.nxs"],
            [*raws, *made_here],
            experiment.import_params,
            lambda: (*raw_files(), *(() if made_here else geometry())),
        )
        yield job(
            "pixel_mask",
            "mask",
            _with("mask", ".nxs", ".png", ".json"),
            here("scan.nxs"),
            lambda sample, scan, _: experiment.pixel_mask_params(sample, scan),
            lambda: constants_file(counter=True),
        )
        yield job(
            "find_peaks",
            "peaks",
            _with("peaks statistics", ".nxs", ".png", ".json"),
            here("scan.nxs", "mask.nxs"),
            lambda sample, scan, _: experiment.find_peaks_params(sample, scan),
        )
        names = experiment.rotations(sample, scan)
        first = {**at, "rotation": names[0]}
        yield job(
            "frame_scale",
            "peaks",
            _with("scale", ".nxs", ".png", ".json"),
            [
                *(
                    paths.rotation(name).format(**which)
                    for which in (at, first)
                    for name in ("scan.nxs", "statistics.nxs")
                ),
                *(
                    paths.rotation("statistics.nxs").format(**{**at, "rotation": earlier})
                    for earlier in names[: names.index(rotation)]
                ),
            ],
            lambda *_: own.frame_scale,
        )
        model = [of_scan["orientation"], *here("peaks.nxs")] if own.mask_3d.model else []
        yield job(
            "mask_3d",
            "mask",
            _with("frame_mask", ".nxs", ".png"),
            [*here("scan.nxs", "mask.nxs"), *model],
            experiment.mask_3d_params,
        )
        yield self._transform(key, at, of_scan, flat_field)
        if experiment.config.bragg:
            yield job(
                "integrate",
                "bragg",
                _with("reflections", ".nxs", ".png", ".json"),
                [
                    *here("scan.nxs", "mask.nxs", "scale.nxs", "peaks.nxs"),
                    of_scan["converged"],
                    of_scan["accepted"],
                ],
                experiment.integrate_params,
                flat_field,
            )

    def _transform(
        self,
        key: tuple[str, str, str],
        at: dict[str, str],
        of_scan: dict[str, str],
        flat_field: Callable[[], list[str]],
    ) -> Job:
        """Transform of a rotation, with all of its blocks of frames."""
        paths, blocks = self._paths, self._experiment.config.frame_blocks
        names = [f"{kind}.nxs" for kind in _KINDS]
        logs, parts = self._log("transform", **at), []
        if blocks > 1:
            each = [{**at, "part": str(part)} for part in range(blocks)]
            logs = sum((self._log("transform", **one) for one in each), ())
            logs += self._log("add_transforms", **at)
            parts = [paths.part(name).format(**one) for one in each for name in names]
        needed = (
            *(
                paths.rotation(name).format(**at)
                for name in ("scan.nxs", "mask.nxs", "scale.nxs", "frame_mask.nxs")
            ),
            of_scan["orientation"],
            of_scan["accepted"],
        )

        def recipes() -> list[Recipe]:
            found = [
                Recipe(
                    "transform",
                    self._experiment.transform_params(*key, part),
                    (*needed, *flat_field()),
                )
                for part in range(blocks)
            ]
            if blocks > 1:
                found.append(Recipe("add_transforms", stages.add_transforms.Params(), tuple(parts)))
            return found

        return Job(
            "transform",
            "transform",
            key,
            tuple(paths.rotation(name).format(**at) for name in names),
            needed,
            logs,
            recipes,
            tuple(parts),
        )

    # ------------------------------------------------------------------ scans

    def scan(self, sample: str, scan: str) -> Iterator[Job]:
        """Jobs of all rotations of a scan together."""
        experiment, paths = self._experiment, self._paths
        parent = experiment.scans[sample, scan].parent

        def at(name: str, of: str = scan) -> str:
            return paths.scan(name).format(sample=sample, scan=of)

        def each(*names: str) -> list[str]:
            return [
                paths.rotation(name).format(sample=sample, scan=scan, rotation=rotation)
                for name in names
                for rotation in experiment.rotations(sample, scan)
            ]

        own = experiment.settings(sample, scan)

        def job(
            rule: str,
            column: str,
            names: Sequence[str],
            inputs: Sequence[str],
            params: Callable[..., Params],
            files: Sequence[str] = (),
            **more: str,
        ) -> Job:
            """``params`` are asked for the sample, the scan and what is in ``more``."""
            logs = self._log(rule, sample=sample, scan=scan, **more)
            products = tuple(at(name) for name in names)
            made = _recipe(rule, lambda: (params(sample, scan, **more), (*inputs, *files)))
            return Job(rule, column, (sample, scan), products, tuple(inputs), logs, made)

        peaks = each("scan.nxs", "peaks.nxs", "mask.nxs")
        if parent == scan:
            yield job(
                "refine_parent",
                "refine",
                ["parent.json", "parent.png"],
                peaks,
                experiment.refine_parent_params,
                [str(own.orientation.start)] if own.orientation.start else [],
            )
        yield job(
            "refine",
            "refine",
            ["orientation.json", "residuals.png"],
            [at("parent.json", parent), *peaks],
            experiment.refine_params,
        )
        yield job(
            "accept",
            "accept",
            ["accepted.json"],
            [at("orientation.json"), at("parent.json", parent)],
            lambda *_: own.accept,
        )
        orientation = at("orientation.json")
        for kind in _KINDS:
            names = _with(kind, ".nxs", ".png", "_coverage.png", ".json")
            volumes = each(f"{kind}.nxs")
            yield job("merge", "merge", names, volumes, experiment.merge_params, kind=kind)
        for kind in self._symmetrised:
            names = _with(f"symm_{kind}", ".nxs", ".png", ".json")
            inputs = [*each(f"{kind}.nxs"), orientation]
            yield job("symmetrise", "symm", names, inputs, experiment.symmetrise_params, kind=kind)
        for kind in self._pdfs:
            whole = [at("symm_transform.nxs")]
            inputs = [at(f"symm_{kind}.nxs"), orientation, *(whole if kind != "transform" else [])]
            names = _with(f"filled_{kind}", ".nxs", ".png", ".json")
            yield job("fill", "fill", names, inputs, experiment.fill_params, kind=kind)
            for which in ("delta", "total"):
                names = _with(f"{which}_pdf_{kind}", ".nxs", ".png", ".json")
                inputs = [at(f"filled_{kind}.nxs"), *(whole if which == "total" else [])]
                made = experiment.pdf_params
                yield job("pdf", "pdf", names, inputs, made, which=which, kind=kind)
            for volume in ("symm", "delta_pdf"):
                names = [f"planes_{volume}_{kind}.png"]
                inputs = [at(f"{volume}_{kind}.nxs")]
                yield job(
                    "planes",
                    "pdf",
                    names,
                    inputs,
                    lambda sample, scan, **_: experiment.planes_params(sample, scan),
                    volume=volume,
                    kind=kind,
                )
            reference = experiment.reference(sample, scan)
            if reference is not None:
                names = _with(f"difference_{kind}", ".nxs", ".png", ".json")
                inputs = [
                    at(f"{volume}_{kind}.nxs", of)
                    for volume in ("symm", "delta_pdf")
                    for of in (scan, reference)
                ]
                names.append(f"pdf_difference_{kind}.nxs")
                yield job(
                    "difference", "pdf", names, inputs, experiment.difference_params, kind=kind
                )
        if experiment.config.bragg:
            yield from self._bragg(job, at, each)
        yield job(
            "scan_file",
            "file",
            [f"{sample}_{scan}.nxs"],
            [
                orientation,
                *(at(f"{kind}.nxs") for kind in _KINDS),
                *each("scan.nxs", "statistics.nxs", "scale.nxs", "peaks.nxs", "frame_mask.nxs"),
                *(at(f"symm_{kind}.nxs") for kind in self._symmetrised),
                *(
                    at(f"{name}_{kind}.nxs")
                    for name in ("filled", "total_pdf", "delta_pdf")
                    for kind in self._pdfs
                ),
            ],
            lambda *_: stages.scan_file.Params.model_validate(
                {
                    "title": experiment.scan_title(sample, scan),
                    "configuration": experiment.resolved_json(sample, scan),
                }
            ),
        )

    def _bragg(
        self, job: Callable[..., Job], at: Callable[..., str], each: Callable[..., list[str]]
    ) -> Iterator[Job]:
        yield job(
            "converge",
            "bragg",
            ["converged.json", "convergence.json", "convergence.png", "modules.json"],
            [
                at("orientation.json"),
                at("accepted.json"),
                *each("scan.nxs", "mask.nxs", "scale.nxs", "peaks.nxs"),
            ],
            self._experiment.converge_params,
        )
        yield job(
            "scale_reflections",
            "bragg",
            _with("scaled", ".nxs", ".png", ".json"),
            [*each("reflections.nxs"), at("converged.json")],
            self._experiment.scale_params,
        )
        yield job(
            "merge_reflections",
            "bragg",
            _with("structure_factors", ".nxs", ".mtz", ".hkl", ".tsv", ".png", ".json"),
            [at("scaled.nxs"), at("converged.json")],
            self._experiment.merge_reflections_params,
        )

    # ------------------------------------------------------------------ samples

    def sample(self, sample: str, before: Sequence[Job]) -> Iterator[Job]:
        """Jobs of all scans of a sample; ``before`` are the jobs of the scans."""
        experiment, paths = self._experiment, self._paths
        scans = experiment.scans_of(sample)

        def of(name: str, chosen: Sequence[str] = scans) -> list[str]:
            return [paths.scan(name).format(sample=sample, scan=scan) for scan in chosen]

        rotations = [
            paths.rotation(name).format(sample=sample, scan=scan, rotation=rotation)
            for name in ("peaks.nxs", "scale.nxs")
            for scan in scans
            for rotation in experiment.rotations(sample, scan)
        ]
        made = [
            Job(
                "temperature_series",
                "series",
                (sample,),
                tuple(
                    paths.series(name).format(sample=sample)
                    for name in ("series.tsv", "series.nxs", "series.png", "findings.json")
                ),
                (*of("orientation.json"), *rotations),
                self._log("temperature_series", sample=sample),
                _recipe(
                    "temperature_series",
                    lambda: (
                        experiment.settings(sample).temperature_series,
                        (*of("orientation.json"), *rotations),
                    ),
                ),
            )
        ]
        if experiment.config.bragg:
            made.append(
                Job(
                    "bragg_series",
                    "series",
                    (sample,),
                    tuple(
                        paths.series(name).format(sample=sample)
                        for name in _with("intensities", ".tsv", ".nxs", ".png")
                    ),
                    tuple(of("structure_factors.nxs")),
                    self._log("bragg_series", sample=sample),
                    _recipe(
                        "bragg_series",
                        lambda: (
                            experiment.settings(sample).bragg_series,
                            of("structure_factors.nxs"),
                        ),
                    ),
                )
            )
        for owner, parent in experiment.stacks():
            if owner != sample:
                continue
            stacked = experiment.stacked(sample, parent)
            kinds = [*_KINDS, *(f"symm_{kind}" for kind in self._pdfs)]
            rules = [("stack", kind, kind) for kind in kinds]
            rules += [("stack_pdf", kind, f"delta_pdf_{kind}") for kind in self._pdfs]
            for rule, kind, name in rules:
                volumes = tuple(of(f"{name}.nxs", stacked))
                made.append(self._stack(rule, sample, parent, kind, name, volumes))
        yield from made
        shown = [
            product
            for job in (*before, *made)
            for product in job.products
            if product.endswith(".png") or product in job.figures
        ]
        used = {
            experiment.rotation(sample, scan, rotation).calibration
            for scan in scans
            for rotation in experiment.rotations(sample, scan)
        }
        shown += [
            paths.calibration("rings.png").format(calibration=name)
            for name in sorted(self._powders.intersection(used))
        ]
        yield Job(
            "sample_page",
            "page",
            (sample,),
            tuple(paths.page(prefix).format(sample=sample) for prefix in ("", "in_report_")),
            tuple(shown),
            self._log("sample_page", sample=sample),
            _recipe("sample_page", lambda: (experiment.page_params(sample), shown)),
        )

    def _stack(
        self, rule: str, sample: str, parent: str, kind: str, name: str, volumes: tuple[str, ...]
    ) -> Job:
        experiment = self._experiment
        params = {"stack": experiment.stack_params, "stack_pdf": experiment.stack_pdf_params}[rule]
        return Job(
            rule,
            "stacks",
            (sample, parent),
            tuple(
                self._paths.stack(file).format(sample=sample, parent=parent)
                for file in _with(name, ".nxs", ".tsv", ".png")
            ),
            volumes,
            self._log(rule, sample=sample, parent=parent, kind=kind),
            _recipe(rule, lambda: (params(sample, parent, kind), volumes)),
        )

    def overview(self, before: Sequence[Job]) -> Job:
        """The job of the whole experiment; ``before`` are all others."""
        paths = self._paths
        inputs = [
            paths.scan(name).format(sample=sample, scan=scan)
            for sample, scan in self._experiment.scans
            for name in ("orientation.json", "transform.json", "accepted.json")
        ]
        inputs += [
            path
            for job in before
            if job.key[:2] in self._experiment.scans
            for path in job.figures
            if path not in inputs
        ]
        products = (paths.overview("summary.tsv"), paths.overview("series.png"))
        made = _recipe("overview", lambda: (stages.overview.Params(), inputs))
        return Job("overview", "overview", (), products, tuple(inputs), self._log("overview"), made)
