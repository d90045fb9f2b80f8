"""The jobs of an experiment with their products, for `hklflow status`.

One table of what ``workflow/rules`` make: a test holds it to what snakemake itself lists. Products
of a step that other steps need are its inputs; raw files and calibrations of a store are not here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hklflow.config import Experiment
    from hklflow.paths import Paths

COLUMNS = (
    "import",
    "mask",
    "peaks",
    "refine",
    "accept",
    "transform",
    "merge",
    "symm",
    "fill",
    "pdf",
    "bragg",
    "file",
)
"""Groups of steps of a scan, in the order in which they happen."""
OF_ROTATION = frozenset({"import", "mask", "peaks", "transform"})
"""Groups of which a scan has one for each rotation."""
_KINDS = ("transform", "masked_transform")
_Wildcards = dict[str, str]


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
    parts : tuple of str
        Outputs that are removed in the end, of blocks of frames.
    """

    rule: str
    column: str
    key: tuple[str, ...]
    products: tuple[str, ...]
    inputs: tuple[str, ...]
    logs: tuple[str, ...]
    parts: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """For messages."""
        return f"{' '.join(self.key)} {self.rule}".strip()


def jobs_of(experiment: "Experiment") -> list[Job]:
    """All jobs that `snakemake` has to do, in the order of the tables."""
    table = _Table(experiment)
    found = [*table.calibrations()]
    for sample, scan in experiment.scans:
        for rotation in experiment.rotations(sample, scan):
            found += table.rotation(sample, scan, rotation)
        found += table.scan(sample, scan)
    for sample in experiment.used_samples():
        found += table.sample(sample, [job for job in found if job.key[:1] == (sample,)])
    if experiment.scans:
        found.append(table.overview())
    return found


def _with(names: str, *suffixes: str) -> list[str]:
    return [name + suffix for name in names.split() for suffix in suffixes]


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
        from hklflow.config import PowderImage

        calibrations = experiment.config.calibrations.items()
        self._powders = {name for name, entry in calibrations if isinstance(entry, PowderImage)}

    def _log(self, rule: str, **wildcards: str) -> tuple[str, ...]:
        return (self._paths.log(rule, *wildcards).format(**wildcards),)

    def _of_frames(self, rule: str, names: Sequence[str], inputs: list[str], at: _Wildcards) -> Job:
        """Job that makes frames of raw ones, whatever the binning."""
        return Job(
            rule,
            "import",
            (at["sample"], at["scan"], at["rotation"]),
            tuple(self._unbinned.rotation(name).format(**at) for name in names),
            tuple(inputs),
            (self._unbinned.log(rule, *at).format(**at),),
        )

    # ------------------------------------------------------------------ before the scans

    def calibrations(self) -> Iterator[Job]:
        """Geometries that are made here, and constants, of which only the end is looked at."""
        from hklflow.config import PoniFile, PowderImage

        experiment, paths = self._experiment, self._paths
        used = {experiment.rotation(*key).calibration for key in experiment.all_rotations()}
        for name, entry in experiment.config.calibrations.items():
            at = {"calibration": name}
            if name not in used or not isinstance(entry, PowderImage | PoniFile):
                continue
            powder = isinstance(entry, PowderImage)
            rule = "powder_calibration" if powder else "import_poni"
            names = ["geometry.json", *(["geometry.poni", "rings.png"] if powder else [])]
            inputs: tuple[str, ...] = ()
            if isinstance(entry, PowderImage) and experiment.config.simulation is not None:
                inputs = (entry.image,)
                yield self._simulated(entry.image, (name,), "calibration")
            yield Job(
                rule,
                "calibration",
                (name,),
                tuple(paths.calibration(n).format(**at) for n in names),
                inputs,
                self._log(rule, **at),
            )
        for name in experiment.config.constants:
            product = paths.constants("constants.nxs").format(constants=name)
            yield Job("constants", "constants", (name,), (product,), (), ())

    def _simulated(self, raw: str, key: tuple[str, ...], column: str) -> Job:
        return Job("simulate", column, key, (raw,), (), self._log("simulate", raw=raw))

    def _geometry(self, calibration: str | None) -> list[str]:
        from hklflow.config import PoniFile, PowderImage

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

        def job(rule: str, column: str, names: Sequence[str], inputs: Sequence[str]) -> Job:
            products, logs = tuple(here(*names)), self._log(rule, **at)
            return Job(rule, column, key, products, tuple(inputs), logs)

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
            made = self._of_frames("correct_frames", names, [*raws, *needed], at)
            yield made
            raws = [made.products[0]]
        elif row.is_sum:
            made = self._of_frames("sum_scans", ["sum.nxs"], raws, at)
            yield made
            raws = list(made.products)
        if experiment.config.binning > 1:
            yield job("bin_frames", "import", ["binned.nxs"], raws)
            raws = here("binned.nxs")
        yield job("import_scan", "import", ["scan.nxs"], [*raws, *self._geometry(row.calibration)])
        yield job("pixel_mask", "mask", _with("mask", ".nxs", ".png", ".json"), here("scan.nxs"))
        yield job(
            "find_peaks",
            "peaks",
            _with("peaks statistics", ".nxs", ".png", ".json"),
            here("scan.nxs", "mask.nxs"),
        )
        first = {**at, "rotation": experiment.rotations(sample, scan)[0]}
        yield job(
            "frame_scale",
            "peaks",
            _with("scale", ".nxs", ".png", ".json"),
            [
                paths.rotation(name).format(**which)
                for which in (at, first)
                for name in ("scan.nxs", "statistics.nxs")
            ],
        )
        model = [of_scan["orientation"], *here("peaks.nxs")] if own.mask_3d.model else []
        yield job(
            "mask_3d",
            "mask",
            _with("frame_mask", ".nxs", ".png"),
            [*here("scan.nxs", "mask.nxs"), *model],
        )
        yield self._transform(key, at, of_scan)
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
            )

    def _transform(self, key: tuple[str, ...], at: dict[str, str], of_scan: dict[str, str]) -> Job:
        """Transform of a rotation, with all of its blocks of frames."""
        paths, blocks = self._paths, self._experiment.config.frame_blocks
        names = [f"{kind}.nxs" for kind in _KINDS]
        logs, parts = self._log("transform", **at), []
        if blocks > 1:
            each = [{**at, "part": str(part)} for part in range(blocks)]
            logs = sum((self._log("transform", **one) for one in each), ())
            logs += self._log("add_transforms", **at)
            parts = [paths.part(name).format(**one) for one in each for name in names]
        needed = ("scan.nxs", "mask.nxs", "scale.nxs", "frame_mask.nxs")
        return Job(
            "transform",
            "transform",
            key,
            tuple(paths.rotation(name).format(**at) for name in names),
            (
                *(paths.rotation(name).format(**at) for name in needed),
                of_scan["orientation"],
                of_scan["accepted"],
            ),
            logs,
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

        def job(
            rule: str, column: str, names: Sequence[str], inputs: Sequence[str], **more: str
        ) -> Job:
            logs = self._log(rule, sample=sample, scan=scan, **more)
            products = tuple(at(name) for name in names)
            return Job(rule, column, (sample, scan), products, tuple(inputs), logs)

        peaks = each("scan.nxs", "peaks.nxs")
        if experiment.settings(sample, scan).orientation.spots == "dials":
            peaks += each("mask.nxs")
        if parent == scan:
            yield job("refine_parent", "refine", ["parent.json", "parent.png"], peaks)
        yield job(
            "refine",
            "refine",
            ["orientation.json", "residuals.png"],
            [at("parent.json", parent), *peaks],
        )
        yield job(
            "accept",
            "accept",
            ["accepted.json"],
            [at("orientation.json"), at("parent.json", parent)],
        )
        orientation = at("orientation.json")
        for kind in _KINDS:
            names = _with(kind, ".nxs", ".png", "_coverage.png", ".json")
            yield job("merge", "merge", names, each(f"{kind}.nxs"), kind=kind)
        for kind in self._symmetrised:
            names = _with(f"symm_{kind}", ".nxs", ".png", ".json")
            inputs = [*each(f"{kind}.nxs"), orientation]
            yield job("symmetrise", "symm", names, inputs, kind=kind)
        for kind in self._pdfs:
            whole = [at("symm_transform.nxs")]
            inputs = [at(f"symm_{kind}.nxs"), orientation, *(whole if kind != "transform" else [])]
            names = _with(f"filled_{kind}", ".nxs", ".png", ".json")
            yield job("fill", "fill", names, inputs, kind=kind)
            for which in ("delta", "total"):
                names = _with(f"{which}_pdf_{kind}", ".nxs", ".png", ".json")
                inputs = [at(f"filled_{kind}.nxs"), *(whole if which == "total" else [])]
                yield job("pdf", "pdf", names, inputs, which=which, kind=kind)
            for volume in ("symm", "delta_pdf"):
                names = [f"planes_{volume}_{kind}.png"]
                inputs = [at(f"{volume}_{kind}.nxs")]
                yield job("planes", "pdf", names, inputs, volume=volume, kind=kind)
            reference = experiment.reference(sample, scan)
            if reference is not None:
                names = _with(f"difference_{kind}", ".nxs", ".png", ".json")
                inputs = [
                    at(f"{volume}_{kind}.nxs", of)
                    for volume in ("symm", "delta_pdf")
                    for of in (scan, reference)
                ]
                names.append(f"pdf_difference_{kind}.nxs")
                yield job("difference", "pdf", names, inputs, kind=kind)
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
        )
        yield job(
            "scale_reflections",
            "bragg",
            _with("scaled", ".nxs", ".png", ".json"),
            [*each("reflections.nxs"), at("converged.json")],
        )
        yield job(
            "merge_reflections",
            "bragg",
            _with("structure_factors", ".nxs", ".mtz", ".hkl", ".tsv", ".png", ".json"),
            [at("scaled.nxs"), at("converged.json")],
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
                made.append(
                    Job(
                        rule,
                        "stacks",
                        (sample, parent),
                        tuple(
                            paths.stack(file).format(sample=sample, parent=parent)
                            for file in _with(name, ".nxs", ".tsv", ".png")
                        ),
                        tuple(of(f"{name}.nxs", stacked)),
                        self._log(rule, sample=sample, parent=parent, kind=kind),
                    )
                )
        yield from made
        shown = [
            product
            for job in (*before, *made)
            for product in job.products
            if product.endswith((".png", ".json")) and not product.endswith("/parent.json")
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
        )

    def overview(self) -> Job:
        """The job of the whole experiment."""
        paths = self._paths
        inputs = [
            paths.scan(name).format(sample=sample, scan=scan)
            for sample, scan in self._experiment.scans
            for name in ("orientation.json", "transform.json")
        ]
        products = (paths.overview("summary.tsv"), paths.overview("series.png"))
        return Job("overview", "overview", (), products, tuple(inputs), self._log("overview"))
